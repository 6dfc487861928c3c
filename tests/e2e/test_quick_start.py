"""Pages whose commands are to work as they are pasted: each runs them in its order, with an empty home directory.

A block of `sh` is a terminal. The block of `text` behind it has what is to be seen there, in this order, and the next
terminal is opened when it has been seen. The stream of the quick start goes on for longer than a test waits for a line:
what it shows has come as it was sent.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.child import Child, start_child
from tests.support.command import Command
from tests.support.documents import Block, blocks
from tests.support.web_servers import bind

pytestmark = pytest.mark.cython_only("the commands name no engine")

INSTALL = "pip install .\n"  # see test_packaging.py
NAME = "brisk-otter"  # stands for any


@pytest.fixture
def ports() -> dict[str, str]:
    """Free ones for those that the pages name."""
    with bind() as app, bind() as public, bind() as tunnel:
        pairs = (("3000", app), ("8080", public), ("7000", tunnel))
        return {port: str(listener.getsockname()[1]) for port, listener in pairs}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With what a shell finds after the installation."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, command in (("fasttunnel", f"{sys.executable} -m fasttunnel"), ("python", sys.executable)):
        (commands / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (commands / name).chmod(0o755)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def steps(page: str) -> Iterator[tuple[Block, list[str]]]:
    """Each terminal, with what is to be seen in it."""
    found = blocks(page, "sh", "text")
    for index, block in enumerate(found):
        if block.language == "sh":
            seen = found[index + 1] if index + 1 < len(found) and found[index + 1].language == "text" else None
            yield block, seen.text.splitlines() if seen is not None else []


class Terminal:
    def __init__(self, stack: AsyncExitStack, home: Path, ports: dict[str, str]) -> None:
        self._stack, self._home, self._ports = stack, home, ports

    def _here(self, text: str) -> str:
        return re.sub("|".join(self._ports), lambda match: self._ports[match[0]], text)

    async def run(self, block: Block, seen: list[str]) -> None:
        environment = {
            "PATH": f"{self._home.parent}/bin:{os.environ['PATH']}",
            "HOME": str(self._home),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            "TERM": "dumb",
        }
        if "fasttunnel server" in block.text:
            environment |= {
                "FASTTUNNEL_LISTEN": f"127.0.0.1:{self._ports['8080']}",
                "FASTTUNNEL_TUNNEL": f"127.0.0.1:{self._ports['7000']}",
            }
        process = await start_child(
            ["bash", "-e", "-c", self._here(block.text)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._home,
            env=environment,
            start_new_session=True,
        )
        self._stack.push_async_callback(_end, process)
        command = Command(process)
        for line in seen or [""]:
            parts = map(re.escape, self._here(line).split())
            wanted = r"\s+".join(parts).replace(re.escape(NAME), r"[a-z]+-[a-z]+")
            try:
                await command.line(wanted)
            except (AssertionError, TimeoutError):
                said = "\n".join(command.lines)
                raise AssertionError(f"line {block.line}: no {line!r} after\n{block.text}\nbut\n{said}") from None


async def _end(process: Child) -> None:
    """What the shell has started, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.kill()


@pytest.mark.parametrize(("page", "terminals"), [("index.md", 3), ("quick-start.md", 8), ("guides/tls.md", 2)])
async def test_the_commands_of_a_page(
    stack: AsyncExitStack, home: Path, ports: dict[str, str], page: str, terminals: int
) -> None:
    found = [(block, seen) for block, seen in steps(page) if block.text != INSTALL]
    assert len(found) == terminals
    terminal = Terminal(stack, home, ports)
    for block, seen in found:
        await terminal.run(block, seen)
