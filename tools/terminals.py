"""Draws docs/images/server.svg and client.svg: what terminals show of a real server and client with traffic.

Needs pyte (extra dev), and the ports 7000, 8080 and those of the backends of `fasttunnel demo`.
"""

import asyncio
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from fasttunnel.demo import backends
from fasttunnel.demo.traffic import Traffic

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
COLUMNS, ROWS = 122, 34
HOST = "shop.localhost:8080"
THEME = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)


class Terminal:
    """A command on a pseudo terminal, and the screen that it draws."""

    def __init__(self, stack: AsyncExitStack, home: str, *arguments: str) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._news = asyncio.Event()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "HOME": home, "FASTTUNNEL_TOKEN": ""}
        environment.pop("XDG_STATE_HOME", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fasttunnel", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        stack.callback(self._process.kill)

    def _read(self) -> None:
        try:
            self._stream.feed(os.read(self._master, 65536))
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(20):
            while not any(text in line for line in self._screen.display):
                self._news.clear()
                await self._news.wait()

    def picture(self, command: str) -> str:
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text("$ ", "dim").append(command, "not dim"))
        lines = [self._line(row) for row in range(ROWS)]
        while lines and not lines[-1].plain.strip():
            lines.pop()
        for line in lines:
            console.print(line, no_wrap=True, crop=True)
        svg = console.export_svg(title="fasttunnel", theme=THEME)
        # A font of the system: rich would have it loaded from elsewhere.
        start, end = svg.index("@font-face"), svg.rindex("@font-face")
        end = svg.index("}", end) + 1
        svg = svg[:start] + svg[end:]
        return svg.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono")

    def _line(self, row: int) -> Text:
        text = Text()
        for column in range(COLUMNS):
            cell = self._screen.buffer[row][column]
            colour = {"default": None, "brown": "yellow"}.get(cell.fg, cell.fg)
            text.append(cell.data, Style(color=colour, bold=cell.bold or None))
        text.rstrip()
        return text


def made_before(home: str) -> Path:
    """A token, where an earlier start of the server has kept it: no picture shows one."""
    token = Path(home, ".local", "state", "fasttunnel", "token")
    token.parent.mkdir(parents=True)
    token.write_text("of-a-server-that-is-gone-when-this-is-read\n")
    token.chmod(0o600)
    return token


def resolve_localhost() -> None:
    """Names below localhost are this machine (RFC 6761 6.3), which not every resolver knows."""
    loop = asyncio.get_running_loop()
    ask = loop.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        return ask("127.0.0.1" if host.endswith(".localhost") else host, *rest, **options)

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign,assignment]


async def main() -> None:
    resolve_localhost()
    async with AsyncExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        token = made_before(home)
        behind = await backends.start(stack)
        server = Terminal(stack, home, "server", "--domain", "localhost")
        await server.until("routes")
        given = ["--server", "127.0.0.1:7000", "--token-file", str(token), "--name", "shop"]
        client = Terminal(stack, home, "client", *given, *behind.routes)
        await client.until("online")
        channel = grpc.aio.insecure_channel("127.0.0.1:8080", options=[("grpc.default_authority", HOST)])
        http = await stack.enter_async_context(aiohttp.ClientSession())
        traffic = Traffic(HOST, http, await stack.enter_async_context(channel), behind.site)
        for _, step in traffic.steps():
            await step()
            await asyncio.sleep(0.1)
        async with http.get(f"http://{HOST}/events") as answer:  # one that goes on
            await answer.content.readline()
            await asyncio.sleep(0.6)
            commands = {
                "server": "fasttunnel server --domain localhost",
                "client": f"fasttunnel client --name shop {' '.join(behind.routes)}",
            }
            IMAGES.joinpath("server.svg").write_text(server.picture(commands["server"]))
            IMAGES.joinpath("client.svg").write_text(client.picture(commands["client"]))


asyncio.run(main())
