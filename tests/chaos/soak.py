"""A steady mixed load for a long time: what both ends need must not grow.

    python -m tests.chaos.soak [--seconds S] [--server ENGINE] [--client ENGINE]

Prints resident memory, open descriptors and Python objects of server and client while it runs, and in the end the slope
of each over the last three quarters. Exits with 1 if one of them grows, or a request has failed.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from contextlib import AsyncExitStack
from random import Random

import uvloop

from tests.chaos.ends import End
from tests.chaos.load import Backends, Failed, Public

VISITORS = 8
SAMPLES = 60
# What may still be warming up, over the last three quarters: caches, and what allocators keep of a peak.
GROWTH = {"resident KiB": 4096.0, "descriptors": 8.0, "objects": 2000.0}


class Soak:
    def __init__(self, server: str, client: str) -> None:
        self._engines = {"server": server, "client": client}
        self.samples: dict[tuple[str, str], list[float]] = {}

    async def run(self, seconds: float) -> None:
        async with AsyncExitStack() as stack:
            random = Random(0)
            backends = Backends(random)
            await backends.start(stack)
            server = self._end("server", "--no-token", "--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0")
            stack.push_async_callback(server.kill)
            host, port = (await server.start()).groups()
            tunnel = (await server.until(r"tunnel +([^ ]+:\d+)"))[1]
            client = self._end("client", "--no-check", "--server", tunnel, backends.http, backends.grpc)
            stack.push_async_callback(client.kill)
            await client.start()
            public = Public(random, host, int(port))
            await public.start(stack)
            visitors = [asyncio.create_task(self._visit(public)) for _ in range(VISITORS)]
            try:
                for number in range(SAMPLES):
                    await asyncio.wait(visitors, timeout=seconds / SAMPLES, return_when=asyncio.FIRST_EXCEPTION)
                    for visitor in visitors:
                        if visitor.done():
                            visitor.result()
                    for end in (server, client):
                        await self._measure(end)
                    if number % 6 == 5:
                        latest = ", ".join(f"{name} {what} {of[-1]:,.0f}" for (name, what), of in self.samples.items())
                        print(f"{(number + 1) * seconds / SAMPLES:6.0f} s  {latest}", flush=True)
            except Failed:
                for end in (server, client):
                    print(f"{end.name} says:", *end.lines[-20:], sep="\n    ")
                raise
            finally:
                for visitor in visitors:
                    visitor.cancel()
                await asyncio.gather(*visitors, return_exceptions=True)
            print(f"requests: {sum(public.outcomes.values()):,}")

    def _end(self, name: str, *arguments: str) -> End:
        up = r"public +http://([^ :]+):(\d+)" if name == "server" else "connected"
        return End(name, [name, "--engine", self._engines[name], *arguments], up, "tests.chaos.counted")

    async def _visit(self, public: Public) -> None:
        while True:
            await public.each()

    async def _measure(self, end: End) -> None:
        said = len(end.lines)
        end.signal(signal.SIGUSR1)
        objects = await end.until(r"objects (\d+)", said)
        self._note(end.name, "resident KiB", end.resident_bytes / 1024)
        self._note(end.name, "descriptors", end.descriptors)
        self._note(end.name, "objects", float(objects[1]))
        end.check()

    def _note(self, name: str, what: str, value: float) -> None:
        self.samples.setdefault((name, what), []).append(value)

    def report(self, seconds: float) -> bool:
        """Whether nothing grows."""
        flat = True
        for (name, what), samples in self.samples.items():
            late = samples[len(samples) // 4 :]
            slope = statistics.linear_regression(range(len(late)), late).slope
            growth = slope * len(late)
            flat = flat and growth <= GROWTH[what]
            minute = slope * SAMPLES / seconds * 60
            print(f"{name:8} {what:14} {late[0]:10,.0f} -> {late[-1]:10,.0f}   slope {minute:+8.2f} a minute")
        return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--server", default="cython", help="engine")
    parser.add_argument("--client", default="cython", help="engine")
    options = parser.parse_args()
    print(f"{options.server} server, {options.client} client", flush=True)
    soak, begun = Soak(options.server, options.client), time.monotonic()
    try:
        uvloop.run(soak.run(options.seconds))
    except Failed as error:
        sys.exit(f"after {time.monotonic() - begun:.0f} s: {error}")
    sys.exit(0 if soak.report(options.seconds) else "it grows")


if __name__ == "__main__":
    main()
