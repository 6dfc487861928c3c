"""Latency of a small WebSocket message through a tunnel, alone and beside bulk transfers through the same tunnel.

    python bench/beside_bulk.py [--seconds 5] [--transfers 8] [--direction down]

Needs two CPUs: the system under test runs on the second, everything else on the first, the probe with a real-time
priority where that is permitted. The relay gives each connection a connection of its own: it is what no sharing costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import shutil
import socket
import statistics
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import uvloop
from first_figures import (
    HANDSHAKE,
    LOAD_CPU,
    EchoBackend,
    asyncio_engine,
    fasttunnel,
    head,
    nginx_stream,
    until_up,
)

SIZE = 64
BLOCK = bytes(262_144)


class Backend(EchoBackend):
    """Echoes WebSocket messages; a GET of /bulk gets a body without end, a POST of it is read without end."""

    children: ClassVar[list[Any]] = []

    def data_received(self, data: bytes) -> None:
        if b" /bulk " in data[:64] and not self._open:
            # A socket and a process of its own: a transfer is not to wait for the probe's loop, nor the probe for it.
            sock = self._transport.get_extra_info("socket").dup()
            download = data.startswith(b"GET")
            process = multiprocessing.get_context("fork").Process(target=pour if download else drain, args=(sock,))
            process.start()
            self.children.append(process)
            sock.close()
            self._transport.pause_reading()
        else:
            super().data_received(data)


def _ordinary() -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def pour(sock: socket.socket) -> None:
    _ordinary()
    sock = socket.socket(fileno=os.dup(sock.fileno()))
    sock.setblocking(True)
    with contextlib.suppress(OSError):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            sock.sendall(BLOCK)


def drain(sock: socket.socket) -> None:
    _ordinary()
    sock = socket.socket(fileno=os.dup(sock.fileno()))
    sock.setblocking(True)
    with contextlib.suppress(OSError):
        while sock.recv(len(BLOCK)):
            pass


def transfer(port: int, direction: str, counter: Any) -> None:
    """One bulk transfer; counts what it moves."""
    _ordinary()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
        if direction == "down":
            sock.sendall(b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n")
            room = bytearray(len(BLOCK))
            while count := sock.recv_into(room):
                counter.value += count
        else:
            sock.sendall(b"POST /bulk HTTP/1.1\r\nHost: bench\r\nContent-Length: 1000000000000\r\n\r\n")
            while True:
                sock.sendall(BLOCK)
                counter.value += len(BLOCK)


class Probe(asyncio.Protocol):
    """One message at a time; notes how long each took."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ready = asyncio.get_running_loop().create_future()
        self._reply = len(head(SIZE, False)) + SIZE
        self._got = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(HANDSHAKE)

    def ask(self) -> None:
        self._at = time.perf_counter()
        self.transport.write(head(SIZE, True) + b"a" * SIZE)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            return
        self._got += len(data)
        if self._got == self._reply:
            self._got = 0
            self.times.append(time.perf_counter() - self._at)
            # A pause, or the probe would be a load itself.
            asyncio.get_running_loop().call_later(0.002, self.ask)


@contextlib.contextmanager
def direct(port: int, backend: str) -> Iterator[None]:
    yield None


async def measure(
    system: Any, seconds: float, transfers: int, direction: str
) -> tuple[list[float], list[float], float]:
    """Times alone and beside the transfers, and the megabytes in a second that these moved."""
    loop = asyncio.get_running_loop()
    backend = await loop.create_server(lambda: Backend(SIZE), "127.0.0.1", 0)
    at = backend.sockets[0].getsockname()[1]
    port = at
    fork = multiprocessing.get_context("fork")
    counters = [fork.Value("q", lock=False) for _ in range(transfers)]
    loads = []
    with contextlib.ExitStack() as stack:
        if system is not direct:
            sock = socket.create_server(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            sock.close()
            stack.enter_context(system(port, f"http://127.0.0.1:{at}"))
            await until_up(port)
        _, probe = await loop.create_connection(Probe, "127.0.0.1", port)
        await probe.ready
        probe.ask()
        await asyncio.sleep(seconds)
        alone, probe.times = probe.times, []
        try:
            for counter in counters:
                loads.append(fork.Process(target=transfer, args=(port, direction, counter)))
                loads[-1].start()
            await asyncio.sleep(1)
            probe.times, moved = [], sum(counter.value for counter in counters)
            await asyncio.sleep(seconds)
            moved = sum(counter.value for counter in counters) - moved
            beside = probe.times
        finally:
            for process in loads + Backend.children:
                process.kill()
                process.join()
            Backend.children.clear()
        probe.transport.abort()
    backend.close()
    return alone, beside, moved / seconds / 1e6


def quantile(times: list[float], q: float) -> float:
    if not times:
        return float("inf")  # not one message has come back
    return sorted(times)[min(len(times) - 1, int(len(times) * q))] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=1, help="rounds; the systems take turns")
    parser.add_argument("--transfers", type=int, default=8, help="bulk transfers at once")
    parser.add_argument("--direction", choices=["down", "up"], default="down", help="which way the bulk goes")
    parser.add_argument("--systems", default="direct,cython,asyncio,nginx", help="which ones, by name")
    options = parser.parse_args()
    os.sched_setaffinity(0, {int(LOAD_CPU)})
    every = {"direct": direct, "cython": fasttunnel, "asyncio": asyncio_engine, "nginx": nginx_stream}
    if shutil.which("nginx") is None:
        print("skipped: nginx (not on PATH)")
        del every["nginx"]
    systems = {name: every[name] for name in options.systems.split(",") if name in every}
    figures: dict[str, list[list[float]]] = {name: [] for name in systems}
    for _ in range(options.rounds):
        for name, system in systems.items():
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            alone, beside, rate = uvloop.run(measure(system, options.seconds, options.transfers, options.direction))
            figures[name].append([quantile(times, q) for times in (alone, beside) for q in (0.5, 0.99)] + [rate])
    print(f"{SIZE} B echo in ms; bulk: {options.transfers} transfers {options.direction}")
    print(f"{'':10}{'alone p50':>12}{'alone p99':>12}{'beside p50':>12}{'beside p99':>12}{'bulk MB/s':>12}")
    for name, rows in figures.items():
        print(f"{name:10}" + "".join(f"{statistics.median(column):12.2f}" for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
