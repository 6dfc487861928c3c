"""The commands as processes that are killed, suspended and started again, and what they leave behind."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.chaos.load import Wrong
from tests.support.child import Child, start_child

START_S = 30.0  # on a busy machine
LEAVE_S = 20.0  # drain_timeout_s and what comes behind it


class End:
    """`fasttunnel server` or `fasttunnel client`, again and again with the same options."""

    def __init__(self, name: str, arguments: list[str], up: str, module: str = "fasttunnel") -> None:
        self.name = name
        self.lines: list[str] = []  # of the process that runs
        self.starts = 0
        self._command = [sys.executable, "-m", module, *arguments]
        self._up = up
        self._process: Child | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def start(self) -> re.Match[str]:
        """Returns when it says that it is up."""
        self.lines.clear()
        self.starts += 1
        self._process = await start_child(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reading = asyncio.create_task(self._read())
        return await self.until(self._up)

    async def until(self, pattern: str, behind: int = 0) -> re.Match[str]:
        """Wait for a line in which `pattern` is found, not one of the first `behind`."""
        assert self._process is not None
        try:
            async with asyncio.timeout(START_S):
                while True:
                    if found := [match for line in self.lines[behind:] if (match := re.search(pattern, line))]:
                        return found[0]
                    if self._process.returncode is not None:
                        raise Wrong(f"{self.name} has ended by itself:\n" + "\n".join(self.lines))
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Wrong(f"{self.name} does not say {pattern!r}:\n" + "\n".join(self.lines)) from None

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.lines.append(line.decode().rstrip())
            self._news.set()
        self._news.set()

    def check(self) -> None:
        """It has said nothing that tells of a fault of its own."""
        if any("Traceback" in line or " warning " in line for line in self.lines):
            raise Wrong(f"{self.name} says:\n" + "\n".join(self.lines))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self._end()

    async def leave(self) -> None:
        """SIGTERM: it goes in order."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(LEAVE_S):
                code = await self._end()
        except TimeoutError:
            raise Wrong(f"{self.name} does not leave:\n" + "\n".join(self.lines[-20:])) from None
        if code != 0:
            raise Wrong(f"{self.name} left with {code}:\n" + "\n".join(self.lines[-20:]))

    async def _end(self) -> int:
        assert self._process is not None
        assert self._reading is not None
        code = await self._process.wait()
        await self._reading
        await self._process.kill()
        self._process = None
        self.check()
        return code

    # -- what it holds

    @property
    def descriptors(self) -> int:
        assert self._process is not None
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    @property
    def resident_bytes(self) -> int:
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * 4096
