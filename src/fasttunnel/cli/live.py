"""A status at the foot of a terminal that keeps up with what runs. What has happened stands above it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fasttunnel.cli import traffic
from fasttunnel.errors import FasttunnelError

PAUSE_S: Final = 0.25  # between two looks; what has not changed is not drawn again
ROUTES: Final = 8
ACTIVE: Final = {"http": "HTTP", "grpc": "gRPC", "websocket": "WebSocket"}


class Row(NamedTuple):
    """A line of two columns: parts are texts, or (text, style)."""

    label: str
    parts: tuple[str | tuple[str, str], ...]


class LiveStatus:
    """`status` is that of the end; `tunnel` and `routes` say in words what is so now.

    `routes` is asked for the first so many, and says how many there are.
    """

    def __init__(
        self,
        console: Console,
        requests: traffic.Traffic,
        status: Callable[[], dict[str, Any]],
        tunnel: Callable[[dict[str, Any]], Row],
        routes: Callable[[int], tuple[Sequence[Row], int]],
    ) -> None:
        self._console = console
        self._traffic = requests
        self._status = status
        self._tunnel = tunnel
        self._routes = routes
        self._drawn: object = None

    async def run(self) -> None:
        """Until it is cancelled; then nothing of it is left on the terminal."""
        live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        with contextlib.suppress(OSError), live:
            self._console.show_cursor(True)  # a second Ctrl-C ends the process before it could come back
            while True:
                rows, last = self._rows(), self._traffic.last()
                seen = (rows, last, self._console.size)
                if seen != self._drawn:
                    self._drawn = seen
                    lines = [*map(_line, rows), *traffic.lines(last, self._console.width)]
                    live.update(
                        Text("\n", no_wrap=True, overflow="ellipsis").append(Text("\n").join(lines)), refresh=True
                    )
                await asyncio.sleep(PAUSE_S)

    def _rows(self) -> list[Row]:
        try:
            status = self._status()
        except FasttunnelError:  # not started yet
            status = {"active": {}, "requests": 0}
        routes, count = self._routes(ROUTES)
        rows = [self._tunnel(status), *routes]
        if count > len(routes):
            rows.append(Row("", (f"and {count - len(routes):,} more",)))
        under_way = [f"{count:,} {ACTIVE[name]}" for name, count in status["active"].items() if count]
        rate = f"{self._traffic.rate(status['requests']):,.1f} requests/s"
        rows.append(Row("traffic", (rate, (f"   under way: {', '.join(under_way) or 'nothing'}", "dim"))))
        return rows


def _line(row: Row) -> Text:
    text = Text("  ", no_wrap=True, overflow="ellipsis").append(f"{row.label:<9} ", "bold")
    for part in row.parts:
        text.append(*((part,) if isinstance(part, str) else part))
    return text


def round_trip(seconds: float | None) -> str:
    return f"   round trip {seconds * 1000:.1f} ms" if seconds else ""
