"""What a person sees of a running client."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from fasttunnel.api import Client
from fasttunnel.cli.live import LiveStatus, Row, round_trip
from fasttunnel.cli.screen import Screen
from fasttunnel.cli.traffic import Traffic
from fasttunnel.control.changes import Changes
from fasttunnel.control.config import Backend, ClientConfig
from fasttunnel.reach.backends import BackendWatch


class ClientScreen(Screen):
    """The client's."""

    def __init__(
        self,
        config: ClientConfig,
        console: Console | None = None,
        *,
        live: bool = False,
        connected: Callable[[], None] = lambda: None,
        first_url: Callable[[str], None] = lambda url: None,
    ) -> None:
        super().__init__(console, timed=not live, live=live, level=config.log_level)
        self._is_connected = connected
        self._first_url: Callable[[str], None] | None = first_url
        self._config = config
        self._reason = ""
        self._was_connected = False
        self._away = False
        self.urls: list[str] = []
        self.has_urls = asyncio.Event()
        self.watch: BackendWatch | None = None
        self._problems: dict[int, str | None] = {}

    def listening(self, kind: str, address: str) -> None:
        self.admin(address)

    def reloaded(self, changes: Changes[Any]) -> None:
        super().reloaded(changes)
        self._config, self._away = changes.config, True
        if self.watch is not None:
            self.watch.follow((spec.backend for spec in self._config.routes), self._config.connect_timeout_s)

    def connected(self, server: str, urls: Sequence[str]) -> None:
        self._is_connected()
        self._reason = ""
        if self._was_connected:
            what = "again" if self._away else f"another time, of {self._config.connections}"
            self.line("server", f"{server}  connected {what}", style="bold green")
        else:
            self.line("server", f"{server}  connected", style="bold green")
        self._was_connected, self._away = True, False
        # The server names a URL for each route; a server of another make may not.
        routes = self._config.routes
        known = len(urls) == len(routes)
        named = list(urls) if known else [str(spec.route) for spec in routes]
        if named == self.urls:
            return
        self.urls = named
        self._problems.clear()
        if known and self.watch is not None:
            self.has_urls.set()  # told when it has been looked at
            return
        for index in range(len(routes)):
            self.route(index, "" if known else "the server does not say where it is")

    def route(self, index: int, problem: str | None) -> None:
        """Where it is: None, the URL leads here; "": nobody has tried; or why it is not known to."""
        self._problems[index] = problem
        spec, url = self._config.routes[index], self.urls[index]
        label, style = ("online", "bold green") if problem is None else ("unverified", "bold yellow")
        label = "route" if problem == "" else label
        self.line(label, (url, style), f"  ->  {spec.backend}  ({spec.route.kinds})", style=style)
        if not problem and self._first_url is not None:
            told, self._first_url = self._first_url, None
            told(url)
        if problem:
            self.line("", f"not reached from here: {problem}")

    def backend(self, backend: Backend, reason: str | None) -> None:
        """Whether it listens."""
        if reason is None:
            self.line("backend", f"{backend} listens now", style="bold green")
            return
        answer = "UNAVAILABLE" if backend.grpc else "502"
        text = f"{backend} does not listen: {reason}; answers {answer} until it does"
        self.line("backend", text, style="bold yellow")

    def disconnected(self, server: str, reason: str, retry_in_s: float | None) -> None:
        self._away = True
        if retry_in_s is not None and reason != self._reason:  # the reason for giving up is the command's last line
            self._reason = reason
            self.line("away", f"{server}: {reason}; trying again until it answers", style="bold yellow")

    def backend_failed(self, backend: str, reason: str) -> None:
        if self.watch is None or not self.watch.suspect(backend):
            self.line("backend", f"{backend} cannot be reached: {reason}", style="bold yellow")

    # -- what is so now

    def tunnel_row(self, status: dict[str, Any]) -> Row:
        server = self._config.server
        if status.get("connected"):
            several = f", {status['tunnels']} connections" if self._config.connections > 1 else ""
            return Row("tunnel", (("up", "bold green"), f"  {server}{several}{round_trip(status['round_trip_s'])}"))
        return Row("tunnel", (("away", "bold yellow"), f"  {server}: {self._reason or 'connecting'}"))

    def route_rows(self, first: int) -> tuple[list[Row], int]:
        rows = []
        for index, url in enumerate(self.urls[:first]):
            spec = self._config.routes[index]
            problem = self._problems.get(index, "")
            label, style = ("online", "bold green") if problem is None else ("unverified", "yellow")
            if problem == "":
                label = "checking" if self.watch is not None else "route"
            down = self.watch is not None and str(spec.backend) in self.watch.down
            backend = (f"  ->  {spec.backend}", "yellow" if down else "")
            rows.append(Row(label, ((url, style), backend, "  does not listen" * down)))
        return rows, len(self.urls)


def live_status(screen: ClientScreen, end: Client) -> LiveStatus:
    return LiveStatus(screen.console, Traffic(end.last_requests), end.status, screen.tunnel_row, screen.route_rows)
