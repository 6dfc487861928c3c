"""What a person sees of a running server: a few lines of summary, then one per event."""

import contextlib
import socket
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from fasttunnel.api import Server
from fasttunnel.cli.live import LiveStatus, Row, round_trip
from fasttunnel.cli.screen import Screen
from fasttunnel.cli.traffic import Traffic
from fasttunnel.control.config import ServerConfig, is_loopback, parse_address
from fasttunnel.control.home import shown
from fasttunnel.control.own_token import OwnToken
from fasttunnel.control.routes import Route, format_address
from fasttunnel.control.tls import dialled_name
from fasttunnel.errors import ConfigError


class ServerScreen(Screen):
    """The server's. `public` is the address that URLs are made with, known once the server listens."""

    public: tuple[str, int] = ("", 0)
    secure = False  # TLS there

    def __init__(self, console: Console | None = None, *, live: bool = False, level: str = "info") -> None:
        super().__init__(console, timed=not live, live=live, level=level)

    def listening(self, kind: str, address: str) -> None:
        """Told by the summary."""

    def summary(
        self, public_url: str, tunnel: str, config: ServerConfig, own: OwnToken | None = None, admin: str = ""
    ) -> None:
        if config.domain or config.public_url:
            route = Route(host=f"*.{config.domain}" if config.domain else "")
            where = route.url(*self.public, secure=self.secure)
            self.line("public", (where, "bold green"), f"  HTTP, WebSocket and gRPC; here {public_url}")
        else:
            self.line("public", (public_url, "bold green"), "  HTTP, WebSocket and gRPC")
        needed = ["a token"] * bool(config.token or config.tokens_file) + ["a certificate"] * bool(config.client_ca)
        needs = f"  clients need {' and '.join(needed)}" if needed else "  no token: for this machine only"
        self.line("tunnel", tunnel, needs + ", and use TLS" * config.secures("tunnel"))
        if own is not None and own.new:
            self.line("token", (own.secret.reveal(), "bold"), f"  new, and shown this once; kept in {shown(own.path)}")
        elif own is not None:
            self.line("token", f"the one kept in {shown(own.path)}")
        if admin:
            self.admin(admin)
        self.line("routes", "none yet; to add some, run beside your app (here one on port 3000):")
        self._invite(tunnel, config, own)

    def _invite(self, tunnel: str, config: ServerConfig, own: OwnToken | None) -> None:
        """The commands of a client, to be copied."""
        server, secure = self._dialled(tunnel, config), config.secures("tunnel")
        tls = " --tls" * secure
        if own is not None and is_loopback(parse_address(config.tunnel)[0]):
            self._command(f"client --server {server}{tls} --token-file {shown(own.path)} http://127.0.0.1:3000")
        elif config.token or config.tokens_file:
            self._command(f"login {server}{tls}", "  once; it asks for the token")
            self._command("http 3000")
        else:
            self._command(f"client --server {server}{tls} http://127.0.0.1:3000")
        if secure:
            self.line("", "with --ca FILE in place of --tls if its authority is none that systems trust")

    def _command(self, arguments: str, remark: str = "") -> None:
        self.line("", f"fasttunnel {arguments}", (remark, "dim"))

    @staticmethod
    def _dialled(tunnel: str, config: ServerConfig) -> str:
        """HOST:PORT of the tunnel port, as far as a server can know how others reach it."""
        host, port = parse_address(tunnel)
        if config.secures("tunnel"):
            with contextlib.suppress(ConfigError):  # it may be out of reach for the user that we have become
                return format_address(dialled_name(config.certificates[0]) or host, port)
        if parse_address(config.tunnel)[0] in ("0.0.0.0", "::"):
            host = _own_address(host)
        return format_address(host, port)

    def link_up(self, client_id: str, session_id: str, peer: str, routes: Sequence[Route]) -> None:
        self.line("client", f"{client_id or session_id} from {peer}", style="bold green")
        for route in routes:
            self.line("", (route.url(*self.public, secure=self.secure), "green"), f"  {route.kinds}")

    def link_down(self, client_id: str, session_id: str, reason: str) -> None:
        self.line("gone", f"{client_id or session_id}: {reason}", style="bold red")

    def refused(self, peer: str, reason: str) -> None:
        self.line("refused", f"{peer}: {reason}", style="bold yellow")


def _own_address(loopback: str) -> str:
    """Of this machine, as its network knows it. Nothing is sent: a route is looked up."""
    six = ":" in loopback
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as one,
    ):
        one.connect(("2001:db8::1" if six else "192.0.2.1", 9))  # RFC 3849, RFC 5737: nobody's
        return str(one.getsockname()[0])
    return loopback


def live_status(screen: ServerScreen, end: Server) -> LiveStatus:
    def tunnel(status: dict[str, Any]) -> Row:
        links = status.get("links", [])
        if not links:
            return Row("clients", (("none", "bold yellow"),))
        slowest = max((link["round_trip_s"] or 0.0 for link in links), default=0.0)
        most = "the longest" * (len(links) > 1)
        return Row("clients", ((f"{len(links):,}", "bold green"), round_trip(slowest), f" {most}" * bool(slowest)))

    def routes(first: int) -> tuple[list[Row], int]:
        found = end.routes
        urls = [(route.url(*screen.public, secure=screen.secure), route.kinds) for route in found[:first]]
        return [Row("route", ((url, "green"), f"  {kinds}")) for url, kinds in urls], len(found)

    return LiveStatus(screen.console, Traffic(end.last_requests), end.status, tunnel, routes)
