"""The command line as processes: what a person starts, with what it prints and what it needs of memory."""

import asyncio
import os
import re
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import fasttunnel
from tests.support.tunnel import WAIT_S

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("FASTTUNNEL_")},
    "PYTHONPATH": str(Path(fasttunnel.__file__).parent.parent),
}


class Process:
    """A running `python -m fasttunnel ...`; standard error goes the same way as standard output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().rstrip())
            self._news.set()
        self._news.set()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until something in what it has printed matches."""
        async with asyncio.timeout(WAIT_S):
            while not (match := re.search(pattern, self.text)):
                assert not self._reading.done(), f"it has ended, without {pattern!r}:\n{self.text}"
                self._news.clear()
                await self._news.wait()
        return match

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    async def exited(self) -> int:
        """Wait for its end, and return the exit code."""
        async with asyncio.timeout(WAIT_S):
            await self._reading
            return await self._process.wait()

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self.exited()

    # -- memory, as the kernel counts it

    def _memory(self, name: str) -> int:
        """A figure of /proc/PID/status in bytes."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(name)

    def start_measuring(self) -> int:
        """The resident size now; the peak is counted anew from here."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        return self._memory("VmRSS")

    def peak(self) -> int:
        return self._memory("VmHWM")


async def run(stack: AsyncExitStack, *arguments: str, **environment: str) -> Process:
    """Start `python -m fasttunnel` with these arguments; it is killed when the stack is left, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fasttunnel",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**ENVIRONMENT, **environment},
    )
    running = Process(process)
    stack.push_async_callback(running.stop)
    return running


class TunnelProcesses:
    """A server and a client as processes."""

    def __init__(self, server: Process, client: Process, host: str, port: int) -> None:
        self.server = server
        self.client = client
        self.host = host
        self.port = port
        self._before: dict[Process, int] = {}

    def start_measuring(self) -> None:
        if not Path("/proc/self/clear_refs").exists():
            pytest.skip("/proc/PID/clear_refs is missing: peaks of memory cannot be measured")
        self._before = {process: process.start_measuring() for process in (self.server, self.client)}

    def growth(self) -> dict[str, int]:
        """By how many bytes each process has been larger than at the start."""
        names = {self.server: "server", self.client: "client"}
        return {names[process]: process.peak() - before for process, before in self._before.items()}


async def start_processes(stack: AsyncExitStack, *routes: str) -> TunnelProcesses:
    server = await run(stack, "server", "--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0")
    public = await server.says(r"public +http://([^ \n]+)")
    tunnel = await server.says(r"tunnel +(127\S+)")
    client = await run(stack, "client", "--server", tunnel[1], *routes)
    await client.says(r"connected")
    host, _, port = public[1].partition(":")
    return TunnelProcesses(server, client, host, int(port))
