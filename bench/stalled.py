"""Memory of both ends with many downloads that nobody reads."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import click

from bench.choice import require
from bench.run import backend, pin, raise_limits, running
from bench.systems import Fasttunnel

SETTLED = 10  # samples without growth
EVERY_S = 0.5


def memory_mib(pid: int, name: str) -> float:
    """VmRSS is what is resident, VmHWM the most that ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


def measure(engine: str, downloads: int, size: int, settings: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(backend())
        system = stack.enter_context(running(Fasttunnel(engine, settings=settings), "http", ports["http"]))
        pids = {name: process.pid for name, process in zip(("server", "client"), system.processes, strict=True)}
        before = {name: memory_mib(pid, "VmRSS") for name, pid in pids.items()}
        for _ in range(downloads):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", system.port))
            sock.sendall(b"GET /bulk/%d HTTP/1.1\r\nHost: bench\r\n\r\n" % size)
        settled, last = 0, {}
        while settled < SETTLED:
            time.sleep(EVERY_S)
            now = {name: round(memory_mib(pid, "VmRSS")) for name, pid in pids.items()}
            settled = settled + 1 if now == last else 0
            last = now
        for name, pid in pids.items():
            peak, more = memory_mib(pid, "VmHWM"), memory_mib(pid, "VmRSS") - before[name]
            click.echo(
                f"{engine:8} {name}: {before[name]:6.0f} MiB before, {more:+5.0f} MiB with {downloads} stalled "
                f"downloads of {size >> 20} MiB ({more * 1024 / downloads:.0f} KiB each), peak {peak:.0f} MiB"
            )


@click.command("stalled")
@click.option("--downloads", type=click.IntRange(1), default=1000, show_default=True, help="how many at once")
@click.option("--megabytes", type=click.IntRange(1), default=100, show_default=True, help="length of each, in MiB")
@click.option("--engines", default="cython,asyncio", show_default=True, help="which ones, separated by commas")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="an option of both ends, as theirs")
def command(downloads: int, megabytes: int, engines: str, settings: tuple[str, ...]) -> None:
    """Memory of both ends with many downloads that nobody reads.

    The bound for the payload that each process holds is downloads x initial_window + window_budget (docs/design.md,
    "Back-pressure"); beside it each request has its connection and its state. For example --set initial_window=65536.
    """
    require()
    pin()
    raise_limits()
    for engine in engines.split(","):
        try:
            measure(engine.strip(), downloads, megabytes << 20, settings)
        except (RuntimeError, OSError) as error:
            raise click.ClickException(f"{engine}: {error}") from None
