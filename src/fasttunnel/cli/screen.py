"""What a person sees of a running server or client: a few lines of summary, then one per event."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from fasttunnel.control.config import ClientConfig, RouteSpec, ServerConfig, parse_address
from fasttunnel.control.log import Events
from fasttunnel.control.routes import Route, format_address
from fasttunnel.control.tls import dialled_name
from fasttunnel.errors import ConfigError
from fasttunnel.version import __version__


class LastingConsole(Console):
    """What nobody reads any more, or a full disk does not take, is lost; the program that says it goes on."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self._buffer.clear()

    def on_broken_pipe(self) -> None:
        """rich would end the process."""
        self.quiet = True
        with contextlib.suppress(OSError):  # what is flushed as the process ends goes nowhere, and is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


WARNINGS = ("bold yellow", "bold red")


class Screen(Events):
    """Events as lines of two columns, coloured on a terminal. Texts from peers are shown as text, never as markup."""

    def __init__(self, console: Console | None = None, *, level: str = "info") -> None:
        super().__init__()
        self._level = level
        self.console = console or LastingConsole(highlight=False)

    def line(self, label: str, *parts: str | tuple[str, str], style: str = "bold") -> None:
        """`parts` are texts, or (text, style). Yellow and red ones are warnings."""
        if self._level == "error" or (self._level == "warning" and style not in WARNINGS):
            return
        text = Text("  ").append(f"{label:<9} ", style)
        for part in parts:
            text.append(*((part,) if isinstance(part, str) else part))
        # A line is a line, also in a narrow window or a pipe: addresses can be copied and searched for.
        self.console.print(text, soft_wrap=True)

    def title(self, program: str) -> None:
        if self._level != "info":
            return
        self.console.print(f"[bold]fasttunnel {program}[/]  [dim]{__version__}[/]", soft_wrap=True)

    def say(self, text: str) -> None:
        """A line whose first word is its label."""
        label, _, rest = text.partition(" ")
        self.line(label, rest.strip())

    def admin(self, address: str) -> None:
        at = address if address.startswith("unix:") else f"http://{address}"
        self.line("admin", at, "  /metrics, /status, /healthz, /readyz")

    def warning(self, text: str) -> None:
        self.line("warning", text, style="bold yellow")


class ServerScreen(Screen):
    """The server's. `public` is the address that URLs are made with, known once the server listens."""

    public: tuple[str, int] = ("", 0)
    secure = False  # TLS there

    def listening(self, kind: str, address: str) -> None:
        """Told by the summary."""

    def summary(self, public_url: str, tunnel: str, config: ServerConfig, admin: str = "") -> None:
        self.line("public", (public_url, "bold green"), "  HTTP, WebSocket and gRPC")
        needed = ["a token"] * bool(config.token or config.tokens_file) + ["a certificate"] * bool(config.client_ca)
        needs = f"  clients need {' and '.join(needed)}" if needed else "  no token: for this machine only"
        self.line("tunnel", tunnel, needs + ", and use TLS" * config.secures("tunnel"))
        if admin:
            self.admin(admin)
        self.line("routes", "none yet; to add some, run beside your app (here one on port 3000):")
        if not config.secures("tunnel"):
            self.line("", f"fasttunnel client --server {tunnel} http://127.0.0.1:3000")
            return
        host, port = parse_address(tunnel)
        with contextlib.suppress(ConfigError):  # it may be out of reach for the user that we have become
            host = dialled_name(config.certificates[0]) or host
        server = format_address(host, port)
        self.line("", f"fasttunnel client --server {server} --tls http://127.0.0.1:3000")
        self.line("", "with --ca FILE in place of --tls if its authority is none that systems trust")

    def link_up(self, client_id: str, session_id: str, peer: str, routes: Sequence[Route]) -> None:
        self.line("client", f"{client_id or session_id} from {peer}", style="bold green")
        for route in routes:
            self.line("", (route.url(*self.public, secure=self.secure), "green"), f"  {route.kinds}")

    def link_down(self, client_id: str, session_id: str, reason: str) -> None:
        self.line("gone", f"{client_id or session_id}: {reason}", style="bold red")

    def refused(self, peer: str, reason: str) -> None:
        self.line("refused", f"{peer}: {reason}", style="bold yellow")


class ClientScreen(Screen):
    """The client's."""

    def __init__(self, config: ClientConfig, console: Console | None = None) -> None:
        super().__init__(console, level=config.log_level)
        self._config = config
        self._reason = ""
        self._was_connected = False
        self._away = False

    def listening(self, kind: str, address: str) -> None:
        self.admin(address)

    def connected(self, server: str, urls: Sequence[str]) -> None:
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
