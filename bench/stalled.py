"""Memory of both processes with many downloads that nobody reads.

    python bench/stalled.py [--downloads 1000] [--megabytes 100] [--set initial_window=65536]

The bound for the payload that each process holds is `downloads x initial_window + window_budget` (docs/design.md,
"Back-pressure"); beside it each request has its connection and its state.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from first_figures import free_port, until_up

WINDOW = 262_144
SETTLED = 10  # samples without growth


class Site(asyncio.Protocol):
    """Answers every request with so many bytes, as far as they are taken."""

    def __init__(self, size: int) -> None:
        self._left = self._size = size
        self._writing = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(65_536)

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._size)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writing.clear()

    def resume_writing(self) -> None:
        self._writing.set()
        while self._left and self._writing.is_set():
            block = bytes(min(self._left, 65_536))
            self._left -= len(block)
            self._transport.write(block)


def memory(process: subprocess.Popen[bytes], name: str) -> float:
    """MiB: VmRSS is what is resident, VmHWM the most that ever was."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


async def measure(engine: str, downloads: int, size: int, settings: list[str]) -> None:
    loop = asyncio.get_running_loop()
    site = await loop.create_server(lambda: Site(size), "127.0.0.1", 0, backlog=4096)
    backend = f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}"
    public, tunnel = free_port(), free_port()
    program = [sys.executable, "-m", "fasttunnel"]
    options = ["--engine", engine, *(f"--set={setting}" for setting in settings)]
    ends = {
        "server": [*program, "server", *options, "--listen", f"127.0.0.1:{public}", "--tunnel", f"127.0.0.1:{tunnel}"],
        "client": [*program, "client", *options, "--server", f"127.0.0.1:{tunnel}", backend],
    }
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, command in ends.items():
            process = processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
            stack.callback(process.wait)
            stack.callback(process.terminate)
        await until_up(public)
        before = {name: memory(process, "VmRSS") for name, process in processes.items()}
        for _ in range(downloads):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", public))
            await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        settled, last = 0, {}
        while settled < SETTLED:
            await asyncio.sleep(0.5)
            now = {name: round(memory(process, "VmRSS")) for name, process in processes.items()}
            settled = settled + 1 if now == last else 0
            last = now
        for name, process in processes.items():
            peak, more = memory(process, "VmHWM"), memory(process, "VmRSS") - before[name]
            print(
                f"{engine:8} {name}: {before[name]:6.0f} MiB before, {more:+5.0f} MiB with {downloads} stalled "
                f"downloads of {size >> 20} MiB ({more * 1024 / downloads:.0f} KiB each), peak {peak:.0f} MiB",
                flush=True,
            )
    site.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--downloads", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--engines", nargs="*", default=["cython", "asyncio"])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the processes inherit it
    for engine in options.engines:
        asyncio.run(measure(engine, options.downloads, options.megabytes << 20, options.settings))


if __name__ == "__main__":
    main()
