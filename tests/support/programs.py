"""Programs of other people as peers. One that is not installed skips its tests by name."""

import asyncio
import os
import shutil
import subprocess
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from tests.support.child import start_child
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
    try:
        done = await asyncio.to_thread(
            subprocess.run, command, input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        out, err = (error.stdout or b"")[-2000:], (error.stderr or b"")[-2000:]
        raise AssertionError(f"{command[0]} did not end: {out!r} {err!r}") from None
    return Output(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


async def start(stack: AsyncExitStack, *command: str) -> Command:
    """Start a program whose lines a test waits for; it is killed when the stack is left."""
    process = await start_child(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    stack.push_async_callback(process.kill)
    return Command(process)
