"""Server and Client: the two ends of a tunnel as asynchronous context managers.

    async with fasttunnel.Server(listen="127.0.0.1:8080", tunnel="127.0.0.1:7000") as server:
        async with fasttunnel.Client(server.tunnel, ["http://127.0.0.1:3000"]) as client:
            print(client.urls)

The command line does nothing that cannot be done with these.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import msgspec

from fasttunnel.control.auth import Authenticator
from fasttunnel.control.config import (
    DEFAULT_LISTEN,
    DEFAULT_TUNNEL,
    ClientConfig,
    RouteSpec,
    Secret,
    ServerConfig,
    client_config,
    parse_address,
    server_config,
)
from fasttunnel.control.log import Events
from fasttunnel.control.routes import Route, format_address
from fasttunnel.errors import BuildError, ConnectError, FasttunnelError, ListenError

if TYPE_CHECKING:
    from fasttunnel import abc


class ServerLimits(TypedDict, total=False):
    """Further options of a Server: see `fasttunnel.control.config.ServerConfig` and `fasttunnel.limits`."""

    initial_window: int
    max_fragment: int
    header_list_bytes: int
    target_bytes: int
    ws_message_bytes: int
    grpc_message_bytes: int
    head_timeout_s: float
    heartbeat_interval_s: float
    drain_timeout_s: float


class ClientLimits(TypedDict, total=False):
    """Further options of a Client: see `fasttunnel.control.config.ClientConfig` and `fasttunnel.limits`."""

    initial_window: int
    max_fragment: int
    header_list_bytes: int
    ws_message_bytes: int
    grpc_message_bytes: int
    connect_timeout_s: float
    backoff_min_s: float
    backoff_max_s: float
    drain_timeout_s: float


class Server:
    """The public end of tunnels.

    `listen` is where the public sends HTTP/1.1, HTTP/2 (h2c), WebSocket and gRPC requests, `tunnel` where clients dial
    in; port 0 takes a free one. Without a `token` both must be loopback addresses. `events` is told what happens (by
    default the logger "fasttunnel"), `engine` replaces the compiled engine.

    Raises ConfigError when an option cannot be used.
    """

    def __init__(
        self,
        listen: str = DEFAULT_LISTEN,
        tunnel: str = DEFAULT_TUNNEL,
        token: str | Secret | None = None,
        *,
        events: Events | None = None,
        engine: type[abc.ServerEngine] | None = None,
        **limits: Unpack[ServerLimits],
    ) -> None:
        self.config = server_config({"listen": listen, "tunnel": tunnel, "token": token, **limits})
        self._events = events or Events()
        self._engine_class = engine
        self._engine: abc.ServerEngine | None = None

    @classmethod
    def from_config(cls, config: ServerConfig, *, events: Events | None = None) -> Self:
        """A server with all its options in one object."""
        return cls(**msgspec.structs.asdict(config), events=events)

    async def start(self) -> None:
        """Listen on both ports. Raises ListenError when that cannot be, BuildError without a compiled engine."""
        if self._engine is not None:
            raise FasttunnelError("the server has been started already")
        engine_class = self._engine_class or _load_server_engine()
        engine = engine_class(self.config, authenticator=Authenticator(self.config.token), events=self._events)
        try:
            await engine.start()
        except OSError as error:
            raise ListenError(
                f"cannot listen on {self.config.listen} and {self.config.tunnel}", detail=error.strerror or str(error)
            ) from error
        self._engine = engine

    async def stop(self, grace_s: float | None = None) -> None:
        """Accept nothing new, let requests under way finish, then close.

        After `grace_s` seconds (None: the option drain_timeout_s) those still under way are ended.
        """
        if self._engine is not None:
            await self._engine.stop(grace_s)

    async def wait_closed(self) -> None:
        """Returns once the server has stopped."""
        await self._running.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(None if kind is None else 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the public side."""
        return self._running.public_addresses[0]

    @property
    def public_url(self) -> str:
        """Where to send requests, as seen from this machine."""
        return f"http://{_reachable(self.address)}"

    @property
    def tunnel(self) -> str:
        """HOST:PORT for a Client on this machine."""
        return _reachable(self._running.tunnel_addresses[0])

    @property
    def routes(self) -> list[Route]:
        """What clients serve at the moment."""
        return [route for route, _ in self._running.routes.routes()]

    def status(self) -> dict[str, Any]:
        """Counts and links."""
        return self._running.status()

    @property
    def _running(self) -> abc.ServerEngine:
        if self._engine is None:
            raise FasttunnelError("the server has not been started")
        return self._engine


class Client:
    """The end of a tunnel beside the backends.

    `server` is the HOST:PORT of a server's tunnel port. Each of `routes` is "[ROUTE=]BACKEND" as on the command line,
    such as "http://127.0.0.1:3000" or "shop.example.com/api=http://127.0.0.1:3000", or a RouteSpec. `events` is told
    what happens (by default the logger "fasttunnel"), `engine` replaces the compiled engine.

    Raises ConfigError when an option cannot be used.
    """

    def __init__(
        self,
        server: str,
        routes: Sequence[str | RouteSpec] | str,
        token: str | Secret | None = None,
        *,
        client_id: str = "",
        events: Events | None = None,
        engine: type[abc.ClientEngine] | None = None,
        **limits: Unpack[ClientLimits],
    ) -> None:
        routes = [routes] if isinstance(routes, str) else list(routes)
        self.config = client_config(
            {"server": server, "routes": routes, "token": token, "client_id": client_id, **limits}
        )
        self._events = events or Events()
        self._engine_class = engine
        self._engine: abc.ClientEngine | None = None

    @classmethod
    def from_config(cls, config: ClientConfig, *, events: Events | None = None) -> Self:
        """A client with all its options in one object."""
        return cls(**msgspec.structs.asdict(config), events=events)

    async def start(self) -> None:
        """Dial and register. While the server is merely away this keeps trying, and waits.

        Raises AuthError or RegisterError when the server refuses, ConnectError when there is no such host, BuildError
        without a compiled engine.
        """
        if self._engine is not None:
            raise FasttunnelError("the client has been started already")
        await self._check_host()
        engine_class = self._engine_class or _load_client_engine()
        self._engine = engine_class(self.config, events=self._events)
        await self._engine.start()

    async def stop(self, grace_s: float | None = None) -> None:
        """Take no new requests, let those under way finish, then close. `grace_s` is as for the server."""
        if self._engine is not None:
            await self._engine.stop(grace_s)

    async def wait_closed(self) -> None:
        """Returns once the client has stopped; raises AuthError or RegisterError when the server sent it away."""
        await self._running.wait_closed()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop(0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(None if kind is None else 0)

    @property
    def urls(self) -> list[str]:
        """How the public reaches the routes, as the server said when they were registered."""
        return list(self._running.urls)

    def status(self) -> dict[str, Any]:
        """Counts and connections."""
        return self._running.status()

    async def _check_host(self) -> None:
        """A name that does not exist is a mistake to be told at once; a network that is down for now is not."""
        host, port = parse_address(self.config.server)
        try:
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:
                raise ConnectError(f"cannot find the server {self.config.server}", detail=error.strerror) from None

    @property
    def _running(self) -> abc.ClientEngine:
        if self._engine is None:
            raise FasttunnelError("the client has not been started")
        return self._engine


def _load_server_engine() -> type[abc.ServerEngine]:
    try:
        from fasttunnel.engine.server import ServerEngine
    except ImportError as error:
        raise _not_built(error) from error
    return ServerEngine


def _load_client_engine() -> type[abc.ClientEngine]:
    try:
        from fasttunnel.engine.client import ClientEngine
    except ImportError as error:
        raise _not_built(error) from error
    return ClientEngine


def _not_built(error: ImportError) -> BuildError:
    return BuildError(
        "the compiled engine cannot be loaded", detail=str(error), hint="build it with `make build` or pip install"
    )


def _reachable(address: tuple[str, int]) -> str:
    """An address to connect to: that of loopback for a socket that listens everywhere."""
    host, port = address
    return format_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
