"""Programs of other people as peers. One that is not installed skips its tests by name."""

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from tests.support.command import Command

TIMEOUT_S = 60.0


class Output(NamedTuple):
    code: int
    out: bytes
    err: str


def need(*names: str) -> str:
    """Where the first of these programs is that there is; otherwise the test is skipped."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"{' or '.join(names)} is not installed (tools/system-packages test)")


async def run(*command: str, stdin: bytes = b"", timeout_s: float = TIMEOUT_S) -> Output:
    """Run a program to its end; it is killed when that takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"{command[0]} did not end: {out[-2000:]!r} {err[-2000:]!r}") from None
    assert process.returncode is not None
    return Output(process.returncode, out, err.decode(errors="replace"))


async def start(stack: AsyncExitStack, *command: str) -> Command:
    """Start a program whose lines a test waits for; it is killed when the stack is left."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )

    async def stop() -> None:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    stack.push_async_callback(stop)
    return Command(process)
