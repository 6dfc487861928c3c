"""A server and a client as processes of their own, and what they need of memory."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.command import Command, command


class TunnelProcesses:
    """Both ends, running. `host` and `port` are where the public sends requests."""

    def __init__(self, server: Command, client: Command, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._processes = {"server": server.process.pid, "client": client.process.pid}
        self._before: dict[str, int] = {}

    def start_measuring(self) -> None:
        """Note the resident sizes of now; the kernel counts peaks anew from here."""
        for name, process in self._processes.items():
            try:
                Path(f"/proc/{process}/clear_refs").write_text("5")
            except FileNotFoundError:
                pytest.skip("/proc/PID/clear_refs is missing: the peak of a process cannot be measured")
            self._before[name] = _memory(process, "VmRSS")

    def growth(self) -> dict[str, int]:
        """By how many bytes each process has been larger than at the start."""
        return {name: _memory(self._processes[name], "VmHWM") - before for name, before in self._before.items()}


def _memory(process: int, name: str) -> int:
    """A figure of /proc/PID/status in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} of process {process}")


async def start_processes(stack: AsyncExitStack, *routes: str) -> TunnelProcesses:
    """Start both through the command line, with `routes`; they are killed when the stack is left."""
    free = "127.0.0.1:0"
    server = await stack.enter_async_context(command("server", "--no-token", "--listen", free, "--tunnel", free))
    host, port = (await server.line(r"public +http://([^ :]+):(\d+)")).groups()
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    client = await stack.enter_async_context(command("client", "--no-check", "--server", tunnel, *routes))
    await client.line("connected")
    return TunnelProcesses(server, client, host, int(port))
