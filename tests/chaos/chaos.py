"""Two clients, one server and a mixed load, while networks and processes fail around them.

    python -m tests.chaos [--seed N] [--seconds S] [--server ENGINE] [--client ENGINE]

No byte is wrong, every request ends in time with an answer or with an error that docs/failures.md has, nothing that is
not safe is executed twice, no end says anything about a fault of its own. When all is calm again everything works, and
nothing of what was is left.
"""

import asyncio
import signal
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.ends import End
from tests.chaos.load import Backends, Failed, Public, Wrong
from tests.chaos.mischief import Mischief, Odds

VISITORS = 24
CALM_S = 30.0  # for everything to work again
MEMORY_BYTES = 96 * 1024 * 1024  # what an end may have grown by: buffers and tables that have been larger once
IN_TUNNEL = Odds(cut=0.0001, stall=0.0003, delay=0.01)
AT_BACKENDS = Odds(cut=0.003, stall=0.002)


class Chaos:
    def __init__(self, seed: int, folder: Path, engines: tuple[str, str]) -> None:
        self.random = Random(seed)
        self.events: Counter[str] = Counter()
        self._folder = folder
        self._engines = engines

    async def run(self, seconds: float) -> None:
        """Raises Wrong."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            await self._works()
            for relay in self.sites:
                relay.cut()
            calm = {end.name: end.descriptors for end in self.ends}
            memory = {end.name: end.resident_bytes for end in self.ends}
            for relay in self.relays:
                relay.calm = False
            await self._storm(time.monotonic() + seconds)
            for relay in self.relays:
                relay.calm = True
            await self._works()
            twice = [name for name, count in self.backends.executed.items() if count > 1]
            if twice:
                raise Wrong(f"executed twice: {twice}")
            await self._nothing_is_left(calm, memory)
            for end in (*self.clients, self.server):
                await end.leave()

    def report(self) -> str:
        """What has happened, for a person."""
        events = ", ".join(f"{name} {count}" for name, count in sorted(self.events.items()))
        outcomes = ", ".join(f"{name} {count}" for name, count in sorted(self.public.outcomes.items()))
        starts = ", ".join(f"{end.name} {end.starts}" for end in self.ends)
        harm = sum(relay.harm for relay in self.relays)
        return f"  events: {events}; connections harmed: {harm}\n  starts: {starts}\n  requests: {outcomes}"

    # -- the scene

    async def _start(self, stack: AsyncExitStack) -> None:
        random = self.random
        self.backends = Backends(random)
        await self.backends.start(stack)
        ports = _free_ports(2)
        self.tunnel = await self._relay(stack, ports[1], IN_TUNNEL)
        sites = [
            await self._relay(stack, int(url.rpartition(":")[2]), AT_BACKENDS)
            for url in (self.backends.http, self.backends.grpc)
        ]
        self.sites = sites
        self.relays = [self.tunnel, *sites]
        windows = {
            "initial_window": random.choice((4096, 65_536, 262_144)),
            "max_fragment": random.choice((1024, 16_384, 65_536)),
            "drain_timeout_s": 2,
        }
        listen = {"listen": f"127.0.0.1:{ports[0]}", "tunnel": f"127.0.0.1:{ports[1]}"}
        # For so long, requests wait for a client that is away, and a server that has just started knows every route.
        options = {**listen, **windows, "heartbeat_interval_s": 0.5, "queue_timeout_s": 6}
        self.server = self._end("server", options, r"Listening|public +http", self._engines[0])
        routes = [f"http://{sites[0].address}", f"grpc://{sites[1].address}"]
        self.clients = [
            self._end(
                f"client {number}",
                {
                    "server": self.tunnel.address,
                    "connections": random.choice((1, 3)),
                    "backoff_max_s": 0.5,
                    "routes": routes,
                    **windows,
                },
                "connected",
                self._engines[1],
            )
            for number in (1, 2)
        ]
        self.ends = [self.server, *self.clients]
        for end in self.ends:
            stack.push_async_callback(end.kill)
            await end.start()
        self.public = Public(random, "127.0.0.1", ports[0])

    async def _relay(self, stack: AsyncExitStack, port: int, odds: Odds) -> Mischief:
        relay = Mischief(self.random, ("127.0.0.1", port), odds)
        await relay.start()
        stack.push_async_callback(relay.stop)
        return relay

    def _end(self, name: str, options: dict[str, Any], up: str, engine: str) -> End:
        routes = options.pop("routes", [])
        path = self._folder / f"{name}.toml"
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in options.items()))
        program = name.partition(" ")[0]
        alone = ["--no-token" if program == "server" else "--no-check"]
        return End(name, [program, *alone, "--engine", engine, "--config", str(path), *routes], up)

    # -- the storm

    async def _storm(self, until: float) -> None:
        async with AsyncExitStack() as stack:
            await self.public.start(stack)
            failing = asyncio.create_task(self._fail(until))
            visitors = [asyncio.create_task(self.public.visit()) for _ in range(VISITORS)]
            try:
                await asyncio.wait([failing, *visitors], return_when=asyncio.FIRST_COMPLETED)
                for task in (failing, *visitors):
                    if task.done():
                        task.result()
            finally:
                for task in (failing, *visitors):
                    task.cancel()
                await asyncio.gather(failing, *visitors, return_exceptions=True)

    async def _fail(self, until: float) -> None:
        """One failure after the other."""
        random = self.random
        failures = (
            self._cut_tunnels,
            self._lose_tunnels,
            self._cut_backends,
            self._kill,
            self._kill,
            self._leave,
            self._suspend,
        )
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.1, 2))
            failure = random.choice(failures)
            self.events[failure.__name__.strip("_")] += 1
            await failure()
            for end in self.ends:
                end.check()

    async def _cut_tunnels(self) -> None:
        self.tunnel.cut()

    async def _lose_tunnels(self) -> None:
        self.tunnel.lose()

    async def _cut_backends(self) -> None:
        self.random.choice(self.sites).cut()

    def _some_end(self) -> End:
        return self.random.choice((*self.clients, *self.clients, self.server))

    async def _kill(self) -> None:
        end = self._some_end()
        await end.kill()
        await end.start()

    async def _leave(self) -> None:
        end = self._some_end()
        await end.leave()
        await end.start()

    async def _suspend(self) -> None:
        end = self._some_end()
        end.signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(0, 3))
        end.signal(signal.SIGCONT)

    # -- afterwards

    async def _works(self) -> None:
        """Each kind of request succeeds, several times in a row and from several visitors."""
        async with AsyncExitStack() as stack:
            public = Public(self.random, *self.public.address)
            await public.start(stack)
            begun = time.monotonic()
            while True:
                try:
                    for _ in range(3):
                        async with asyncio.TaskGroup() as group:
                            for _ in range(4):
                                group.create_task(public.each())
                    return
                except* Failed as errors:
                    if time.monotonic() - begun > CALM_S:
                        raise Wrong(f"still fails: {errors.exceptions}") from None

    async def _nothing_is_left(self, calm: dict[str, int], memory: dict[str, int]) -> None:
        """Connections that backends have closed are not kept; the public has closed all of its own."""
        for relay in self.sites:
            relay.cut()
        begun = time.monotonic()
        while any(end.descriptors > calm[end.name] for end in self.ends):
            if time.monotonic() - begun > CALM_S:
                raise Wrong(f"descriptors: {calm}, now { ({end.name: end.descriptors for end in self.ends}) }")
            await asyncio.sleep(0.05)
        for end in self.ends:
            if (grown := end.resident_bytes - memory[end.name]) > MEMORY_BYTES:
                raise Wrong(f"{end.name} has grown by {grown >> 20} MiB")


def _free_ports(count: int) -> list[int]:
    """Ports that a process can listen on, and another one after it."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
