"""Draws docs/images/server.svg and client.svg: what terminals show of a real server and client with traffic.

`python -m tools.terminals`. Needs pyte (extra dev), and the ports 7000, 8080 and those of the backends of the demo.
"""

import asyncio
import io
import tempfile
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
from tests.support.terminal import Terminal

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


class Drawn(Terminal):
    """A command on a terminal, as a picture."""

    def __init__(self, home: str, *arguments: str) -> None:
        super().__init__(*arguments, columns=COLUMNS, rows=ROWS, HOME=home, XDG_STATE_HOME="")

    def picture(self, command: str) -> str:
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text("$ ", "dim").append(command, "not dim"))
        screen = pyte.Screen(COLUMNS, ROWS)
        pyte.Stream(screen).feed(self.raw)
        lines = [_line(screen, row) for row in range(ROWS)]
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


def _line(screen: pyte.Screen, row: int) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
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
        server = await stack.enter_async_context(Drawn(home, "server", "--domain", "localhost"))
        await server.until("routes")
        given = ["--server", "127.0.0.1:7000", "--token-file", str(token), "--name", "shop"]
        client = await stack.enter_async_context(Drawn(home, "client", *given, *behind.routes))
        await client.until("online")
        channel = grpc.aio.insecure_channel("127.0.0.1:8080", options=[("grpc.default_authority", HOST)])
        http = await stack.enter_async_context(aiohttp.ClientSession())
        traffic = Traffic(HOST, http, await stack.enter_async_context(channel), behind.site)
        for _, step in traffic.steps():
            await step()
        async with http.get(f"http://{HOST}/events") as answer:  # one that goes on
            await answer.content.readline()
            for shown in (server, client):
                await shown.until("under way: 1 HTTP")
            commands = {
                "server": "fasttunnel server --domain localhost",
                "client": f"fasttunnel client --name shop {' '.join(behind.routes)}",
            }
            IMAGES.joinpath("server.svg").write_text(server.picture(commands["server"]))
            IMAGES.joinpath("client.svg").write_text(client.picture(commands["client"]))


asyncio.run(main())
