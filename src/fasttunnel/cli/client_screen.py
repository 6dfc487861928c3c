"""What a person sees of a running client."""

from collections.abc import Callable, Sequence

from rich.console import Console

from fasttunnel.cli.screen import Screen
from fasttunnel.control.config import ClientConfig, RouteSpec


class ClientScreen(Screen):
    """The client's."""

    def __init__(
        self, config: ClientConfig, console: Console | None = None, *, connected: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(console)
        self._is_connected = connected
        self._config = config
        self._reason = ""
        self._was_connected = False
        self._away = False

    def connected(self, server: str, urls: Sequence[str]) -> None:
        self._is_connected()
        self._reason = ""
        if self._was_connected:
            what = "again" if self._away else f"another time, of {self._config.connections}"
            self._away = False
            self.line("server", f"{server}  connected {what}", style="bold green")
            return
        self._was_connected, self._away = True, False
        self.line("server", f"{server}  connected", style="bold green")
        routes = self._config.routes
        for index, spec in enumerate(routes):
            # The server names a URL for each route; a server of another make may not.
            url = urls[index] if len(urls) == len(routes) else str(spec.route)
            self._route("routes" if index == 0 else "", url, spec)

    def _route(self, label: str, url: str, spec: RouteSpec) -> None:
        self.line(label, (url, "bold green"), f"  ->  {spec.backend}  ({spec.route.kinds})")

    def disconnected(self, server: str, reason: str, retry_in_s: float | None) -> None:
        self._away = True
        if retry_in_s is not None and reason != self._reason:  # the reason for giving up is the command's last line
            self._reason = reason
            self.line("away", f"{server}: {reason}; trying again until it answers", style="bold yellow")

    def backend_failed(self, backend: str, reason: str) -> None:
        self.line("backend", f"{backend} cannot be reached: {reason}", style="bold yellow")
