"""The commands as processes of their own, whose lines a test waits for."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.child import Child, start_child
from tests.support.tunnel import engines

WAIT_S = 30.0  # start-up included, on a busy machine


class Command:
    """A running `fasttunnel ...`; stdout and stderr are one stream of lines."""

    def __init__(self, process: Child) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, pattern: str) -> re.Match[str]:
        """The next line in which `pattern` is found."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while raw := await self.process.stdout.readline():
                self.lines.append(raw.decode().rstrip("\n"))
                if match := re.search(pattern, self.lines[-1]):
                    return match
        raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self) -> int:
        """Read to the end; the exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while raw := await self.process.stdout.readline():
                self.lines.append(raw.decode().rstrip("\n"))
            code = await self.process.wait()
        assert not any("Traceback" in line for line in self.lines), "\n".join(self.lines)
        return code


def with_engine(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of a command, with the engine of the matrix's cell where it runs one."""
    engine = engines["server" if arguments[0] in ("server", "demo") else "client"]
    runs = arguments[0] in ("server", "client", "demo", "login", "http", "grpc") and "--help" not in arguments
    return (arguments[0], "--engine", engine, *arguments[1:]) if engine is not None and runs else arguments


@asynccontextmanager
async def command(*arguments: str, token: str = "", **environment: str | None) -> AsyncIterator[Command]:
    """Run `fasttunnel` with these arguments; it is killed at the end if it still runs.

    The commands that run an engine are given that of the matrix's cell. `environment` None stands for a variable that
    is not there.
    """
    arguments = with_engine(arguments)
    given = {**os.environ, "FASTTUNNEL_TOKEN": token, **environment}
    process = await start_child(
        [sys.executable, "-m", "fasttunnel", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in given.items() if value is not None},
    )
    try:
        yield Command(process)
    finally:
        await process.kill()
