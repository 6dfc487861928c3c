"""The speed of a lone download through a tunnel over a long way: windows have to grow until the link is full."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterator
from typing import Any

import click
import uvloop

from bench import compiled
from bench.choice import require
from bench.run import backend, pin, running, until_up
from bench.systems import Fasttunnel, free_port

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


class OverLink(Fasttunnel):
    """A tunnel whose client dials the server over a link."""

    def __init__(self, engine: str, settings: list[str], stack: contextlib.ExitStack, rate: float, delay_s: float):
        super().__init__(engine, settings=settings)
        self._stack, self._rate, self._delay_s = stack, rate, delay_s

    def dialled(self, tunnel: int) -> int:
        return self._stack.enter_context(link(tunnel, self._rate, self._delay_s))


@contextlib.contextmanager
def link(target: int, rate: float, delay_s: float) -> Iterator[int]:
    """The port at which a link to the target begins, by a process of its own."""
    port = free_port()
    child = multiprocessing.get_context("fork").Process(target=Link(target, rate, delay_s).run, args=(port,))
    child.start()
    try:
        yield port
    finally:
        child.terminate()
        child.join()


def download(port: int, seconds: int) -> list[float]:
    """MB in each second."""
    load = compiled.BulkLoad(port, 1)
    counts = []
    for _ in range(seconds):
        moved = load.moved
        passed = load.loop.run(1)
        counts.append((load.moved - moved) / passed / 1e6)
    load.close()
    return counts


@click.command("long-way")
@click.option("--round-trip-ms", type=click.FloatRange(0), default=100, show_default=True, help="of the link")
@click.option("--megabytes-per-second", type=click.FloatRange(0.1), default=25, show_default=True, help="of the link")
@click.option("--seconds", type=click.IntRange(2), default=10, show_default=True, help="length of each download")
def command(round_trip_ms: float, megabytes_per_second: float, seconds: int) -> None:
    """Speed of a lone download through a tunnel over a long way.

    The link is a relay that delays and meters what it carries (netem needs rights and a kernel module). "link" is a
    plain TCP connection over it, "fixed windows" a tunnel whose windows do not grow.
    """
    require()
    pin()
    way = megabytes_per_second * 1e6, round_trip_ms / 2000
    ways = [("link", "", [])] + [
        (f"{engine}, {name}", engine, settings)
        for engine in ("cython", "asyncio")
        for name, settings in (("windows that grow", []), ("fixed windows", ["max_window=262144"]))
    ]
    with backend() as ports:
        for name, engine, settings in ways:
            with contextlib.ExitStack() as stack:
                if engine:
                    system = OverLink(engine, settings, stack, *way)
                    port = stack.enter_context(running(system, "http", ports["http"])).port
                else:
                    port = stack.enter_context(link(ports["http"], *way))
                    until_up("http", port)
                counts = download(port, seconds)
            steady = counts[len(counts) // 2 :]
            speed = f"{sum(steady) / len(steady):6.1f} MB/s in the second half"
            click.echo(f"{name:28} {speed}; by second: " + " ".join(f"{count:.1f}" for count in counts))
