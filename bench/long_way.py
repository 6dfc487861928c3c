"""The speed of a lone download through a tunnel over a long way: windows have to grow until the link is full.

    python bench/long_way.py [--round-trip-ms 100] [--megabytes-per-second 25] [--seconds 10]

The link is a relay that delays and meters what it carries (netem needs rights and a kernel module). "link" is a plain
TCP connection over it, "fixed windows" a tunnel whose windows do not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import uvloop
from first_figures import free_port, until_up
from stalled import Site

HOLDS = 2**20  # bytes that wait in front of the link, as in a router


class Direction(asyncio.Protocol):
    """What comes from one side goes to the other, late and metered."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._free_at = 0.0  # when the link has sent what is queued
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self.other: Any = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.other is None:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        self.other = Direction(self._link)
        self.other.other = self
        await asyncio.get_running_loop().create_connection(lambda: self.other, "127.0.0.1", self._link.target)

    def data_received(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + len(data) / self._link.rate
        self._queue.append((self._free_at + self._link.delay_s, data))
        self._queued += len(data)
        if (self._free_at - now) * self._link.rate > HOLDS:
            self._paused = True
            self.transport.pause_reading()
        if self._timer is None:
            self._deliver()

    def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue and self._queue[0][0] <= loop.time() + 0.0005 and self.other.transport is not None:
            _, data = self._queue.popleft()
            self._queued -= len(data)
            if not self.other.transport.is_closing():
                self.other.transport.write(data)
        if self._paused and (self._free_at - loop.time()) * self._link.rate < HOLDS / 2:
            self._paused = False
            self.transport.resume_reading()
        soon = loop.time() + 0.002 if self._paused else float("inf")
        at = min(soon, max(self._queue[0][0], loop.time() + 0.0005) if self._queue else float("inf"))
        self._timer = loop.call_at(at, self._deliver) if at != float("inf") else None

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Link:
    def __init__(self, target: int, rate: float, delay_s: float) -> None:
        self.target = target
        self.rate = rate
        self.delay_s = delay_s

    def run(self, port: int) -> None:
        async def serve() -> None:
            server = await asyncio.get_running_loop().create_server(lambda: Direction(self), "127.0.0.1", port)
            await server.serve_forever()

        uvloop.run(serve())


@contextlib.contextmanager
def program(command: list[str]) -> Iterator[None]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


@contextlib.contextmanager
def process(run: Callable[..., None], *arguments: int) -> Iterator[None]:
    child = multiprocessing.get_context("fork").Process(target=run, args=arguments)
    child.start()
    try:
        yield
    finally:
        child.terminate()
        child.join()


def site(port: int) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Site(10**12), "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


async def download(port: int, seconds: float) -> list[float]:
    """MB in each second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
    loop = asyncio.get_running_loop()
    begun, counts = loop.time(), [0.0] * int(seconds)
    while (at := loop.time() - begun) < seconds - 0.01:
        data = await reader.read(2**18)
        assert data
        counts[min(int(at), len(counts) - 1)] += len(data) / 1e6
    writer.close()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round-trip-ms", type=float, default=100)
    parser.add_argument("--megabytes-per-second", type=float, default=25)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    backend = free_port()
    rate, delay_s = options.megabytes_per_second * 1e6, options.round_trip_ms / 2000
    ways = [("link", "", "")] + [
        (f"{engine}, {name}", engine, windows)
        for engine in ("cython", "asyncio")
        for name, windows in (("windows that grow", ""), ("fixed windows", "max_window=262144"))
    ]
    with process(site, backend):
        for name, engine, windows in ways:
            public, tunnel, far = free_port(), free_port(), free_port()
            with contextlib.ExitStack() as stack:
                link = Link(tunnel if engine else backend, rate, delay_s)
                stack.enter_context(process(link.run, far))
                if engine:
                    command = [sys.executable, "-m", "fasttunnel"]
                    given = ["--engine", engine, *(["--set", windows] if windows else [])]
                    listen = ["--listen", f"127.0.0.1:{public}", "--tunnel", f"127.0.0.1:{tunnel}"]
                    dial = ["--server", f"127.0.0.1:{far}", f"http://127.0.0.1:{backend}"]
                    stack.enter_context(program([*command, "server", *given, *listen]))
                    stack.enter_context(program([*command, "client", *given, *dial]))
                    asyncio.run(until_up(public))
                else:
                    asyncio.run(until_up(far))
                counts = uvloop.run(download(public if engine else far, options.seconds))
                steady = counts[len(counts) // 2 :]
                speed = f"{sum(steady) / len(steady):6.1f} MB/s in the second half"
                print(f"{name:28} {speed}; by second:", *(f"{count:.1f}" for count in counts), flush=True)


if __name__ == "__main__":
    main()
