"""Server and Client: the two ends of a tunnel as asynchronous context managers.

    async with fasttunnel.Server(listen="127.0.0.1:8080", tunnel="127.0.0.1:7000") as server:
        async with fasttunnel.Client(server.tunnel, ["http://127.0.0.1:3000"]) as client:
            print(client.urls)

The command line does nothing that cannot be done with these.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypedDict, Unpack

import msgspec

from fasttunnel.control.access import AccessLog
from fasttunnel.control.auth import Authenticator
from fasttunnel.control.changes import Changes, compare
from fasttunnel.control.config import (
    DEFAULT_LISTEN,
    DEFAULT_TUNNEL,
    ClientConfig,
    RouteSpec,
    Secret,
    ServerConfig,
    parse_address,
)
from fasttunnel.control.counts import Counts
from fasttunnel.control.files import check_files
from fasttunnel.control.log import Ended, Events, guard
from fasttunnel.control.routes import Route, format_address
from fasttunnel.control.sources import client_config, server_config
from fasttunnel.control.spans import Spans
from fasttunnel.control.taps import Taps
from fasttunnel.control.tls import covers_domain
from fasttunnel.errors import BuildError, ConfigError, ConnectError, FasttunnelError, ListenError
from fasttunnel.limits import DRAIN_MAX_S
from fasttunnel.reach import urls
from fasttunnel.succession import Succession

if TYPE_CHECKING:
    from fasttunnel import abc
    from fasttunnel.admin.port import AdminPort


EngineName = Literal["cython", "asyncio"]
ENGINES: Final = ("cython", "asyncio")
_OF_NO_TUNNEL: Final = frozenset(("access_log", "log_level", "watch_config", "drain_timeout_s"))  # of a client


class ServerLimits(TypedDict, total=False):
    """Further options of a Server: see `fasttunnel.control.config.ServerConfig` and `fasttunnel.limits`."""

    cert: Sequence[str] | str
    key: Sequence[str] | str
    tls: Sequence[Literal["public", "tunnel"]]
    client_ca: str
    initial_window: int
    max_fragment: int
    max_window: int
    window_budget: int
    header_list_bytes: int
    target_bytes: int
    domain: str
    public_url: str
    reuse_port: bool
    ws_message_bytes: int
    grpc_message_bytes: int
    body_bytes: int
    tokens_file: str
    max_failed_logins: int
    max_connections_per_address: int
    trusted_proxies: Sequence[str] | str
    max_connections: int
    max_requests: int
    max_requests_per_tunnel: int
    head_timeout_s: float
    keep_alive_timeout_s: float
    idle_timeout_s: float
    ws_ping_interval_s: float
    ws_lost_close: Literal[1001, 1006, 1011, 1012, 1013]
    queue_timeout_s: float
    queued_requests: int
    heartbeat_interval_s: float
    request_id_header: str
    drain_timeout_s: float
    admin: str
    tap: Literal["none", "messages", "payloads"]
    access_log: str
    otlp: str
    log_format: Literal["human", "json"]
    log_level: Literal["info", "warning", "error"]
    watch_config: bool


class ClientLimits(TypedDict, total=False):
    """Further options of a Client: see `fasttunnel.control.config.ClientConfig` and `fasttunnel.limits`."""

    name: str
    any_name: bool
    tls: bool
    ca: str
    pins: Sequence[str] | str
    server_name: str
    cert: str
    key: str
    backend_ca: str
    backend_verify: bool
    initial_window: int
    max_fragment: int
    max_window: int
    window_budget: int
    header_list_bytes: int
    ws_message_bytes: int
    grpc_message_bytes: int
    connections: int
    connect_timeout_s: float
    keep_alive_timeout_s: float
    backoff_min_s: float
    backoff_max_s: float
    drain_timeout_s: float
    admin: str
    tap: Literal["none", "messages", "payloads"]
    access_log: str
    otlp: str
    log_format: Literal["human", "json"]
    log_level: Literal["info", "warning", "error"]
    watch_config: bool


class Server:
    """The public end of tunnels.

    `listen` is where the public sends HTTP/1.1, HTTP/2, WebSocket and gRPC requests, `tunnel` where clients dial in;
    port 0 takes a free one. Without a `token`, a `tokens_file` or a `client_ca` both must be loopback addresses. With
    `cert`, `key` both speak TLS. `events` is told what happens (by default the logger "fasttunnel"), `engine` is
    "cython", "asyncio" or a class of one's own; without it the compiled engine is taken if it can be loaded.

    Raises ConfigError when an option cannot be used.
    """

    def __init__(
        self,
        listen: str = DEFAULT_LISTEN,
        tunnel: str = DEFAULT_TUNNEL,
        token: str | Secret | None = None,
        *,
        events: Events | None = None,
        engine: EngineName | type[abc.ServerEngine] | None = None,
        **limits: Unpack[ServerLimits],
    ) -> None:
        self.config = server_config({"listen": listen, "tunnel": tunnel, "token": token, **limits})
        self._access = _access_log(self.config, events)
        self._spans = _spans(self.config, events, "server")
        self._events = guard(events or Events(), self._access, self._spans)
        self._authenticator = Authenticator(
            self.config.token,
            self.config.tokens_file,
            max_failed_logins=self.config.max_failed_logins,
            warn=self._events.warning,
        )
        _check_name(engine)
        self._engine_choice = engine
        self._engine: abc.ServerEngine | None = None
        self._admin: AdminPort | None = None
        self._leaving = False

    @classmethod
    def from_config(
        cls,
        config: ServerConfig,
        *,
        events: Events | None = None,
        engine: EngineName | type[abc.ServerEngine] | None = None,
    ) -> Self:
        """A server with all its options in one object."""
        return cls(**msgspec.structs.asdict(config), events=events, engine=engine)

    async def start(self) -> None:
        """Listen on both ports. Raises ListenError when that cannot be, BuildError when the engine cannot be loaded."""
        if self._engine is not None:
            raise FasttunnelError("the server has been started already")
        engine_class: type[abc.ServerEngine] = _load("ServerEngine", self._engine_choice, self._events)
        _warn(self.config, self._events)
        engine = engine_class(self.config, authenticator=self._authenticator, events=self._events)
        # First: whoever watches sees it start.
        self._admin = await _open_admin(self, "server", engine_class, reuse_port=self.config.reuse_port)
        try:
            await engine.start()
        except OSError as error:
            await self._close()
            raise ListenError(
                f"cannot listen on {self.config.listen} and {self.config.tunnel}", detail=error.strerror or str(error)
            ) from error
        except BaseException:
            await self._close()
            raise
        self._engine = engine
        if self._admin is not None:
            self._events.listening("admin", self._admin.address)

    async def stop(self, grace_s: float | None = None) -> None:
        """Accept nothing new, let requests under way finish, then close.

        After `grace_s` seconds (None: the option drain_timeout_s), half a day at most, those still under way are ended.
        """
        self._leaving = True
        if self._admin is not None and self.config.reuse_port:
            self._admin.hand_over()
        if self._engine is not None:
            await self._engine.stop(None if grace_s is None else min(grace_s, DRAIN_MAX_S))
        await self._close()

    async def _close(self) -> None:
        if self._admin is not None:
            await self._admin.stop()
        if self._access is not None:
            self._access.close()
        if self._spans is not None:
            self._spans.close()

    async def wait_closed(self) -> None:
        """Returns once the server has stopped."""
        await self._running.wait_closed()

    def reload(self, config: ServerConfig | None = None) -> Changes[ServerConfig]:
        """Read tokens and certificates now if they have changed; by itself that happens within a few seconds.

        The access log is opened anew. With a `config`, go on with that, as far as that can be without a restart
        (docs/configuration.md): what has changed, and what would need one, is returned. Raises ConfigError when it
        cannot be used; all is as before then.
        """
        changes = compare(self.config, self.config if config is None else config)
        if self._engine is None and config is not None:
            raise FasttunnelError("the server has not been started")
        if changes.changed:
            check_files(changes.config)
            # All that may fail comes first.
            take_tokens = self._authenticator.prepare(
                changes.config.token,
                changes.config.tokens_file,
                max_failed_logins=changes.config.max_failed_logins,
            )
            if self._access is not None:
                self._access.move(changes.config.access_log)
            try:
                self._running.reload(changes.config)
            except BaseException:
                if self._access is not None:
                    self._access.move(self.config.access_log)
                raise
            take_tokens()
            before, self.config = self.config, changes.config
            _warn(self.config, self._events, before)
        if config is not None:
            self._events.reloaded(changes)
        if self._access is not None:
            self._access.reopen()
        if self._engine is not None:  # else nothing was read yet
            self._engine.review()
        return changes

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
        return f"http{'s' * self.config.secures('public')}://{_reachable(self.address)}"

    @property
    def tunnel(self) -> str:
        """HOST:PORT for a Client on this machine."""
        return _reachable(self._running.tunnel_addresses[0])

    @property
    def admin(self) -> str:
        """Where the admin port is, as the option `admin` has it, but for a port 0; empty: nowhere."""
        return self._admin.address if self._admin is not None else ""

    @property
    def unready(self) -> str:
        """Why it should be sent nothing new; empty: it listens, and is not stopping."""
        if self._leaving:
            return "it is draining"
        return "" if self._engine is not None else "it is starting"

    @property
    def routes(self) -> list[Route]:
        """What clients serve at the moment."""
        return [route for route, _ in self._running.routes.routes()]

    def status(self) -> dict[str, Any]:
        """Counts and links."""
        return self._running.status()

    def last_requests(self, n: int) -> list[Ended]:
        """The last n that have finished, the newest last: when, and the record. `Events.keeps_last` bounds them."""
        return _last(self._engine, n)

    def counts(self) -> Counts | None:
        """What has been since the start, and is under way; None where an engine of one's own does not count."""
        counts = getattr(self._running, "counts", None)
        return counts() if counts is not None else None

    @property
    def taps(self) -> Taps | None:
        """Where to listen to the messages of its tunnels; None where an engine of one's own cannot be tapped."""
        return getattr(self._running, "taps", None)

    @property
    def started(self) -> bool:
        return self._engine is not None

    @property
    def _running(self) -> abc.ServerEngine:
        if self._engine is None:
            raise FasttunnelError("the server has not been started")
        return self._engine


class Client:
    """The end of a tunnel beside the backends.

    `server` is the HOST:PORT of a server's tunnel port. Each of `routes` is "[ROUTE=]BACKEND" as on the command line,
    such as "http://127.0.0.1:3000" or "shop.example.com/api=http://127.0.0.1:3000", or a RouteSpec. `events` is told
    what happens (by default the logger "fasttunnel"), `engine` is as for the server; the two ends need not agree.

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
        engine: EngineName | type[abc.ClientEngine] | None = None,
        **limits: Unpack[ClientLimits],
    ) -> None:
        routes = [routes] if isinstance(routes, str) else list(routes)
        self.config = client_config(
            {"server": server, "routes": routes, "token": token, "client_id": client_id, **limits}
        )
        self._access = _access_log(self.config, events)
        self._spans = _spans(self.config, events, "client")
        self._events = guard(events or Events(), self._access, self._spans)
        _check_name(engine)
        self._engine_choice = engine
        self._engines = Succession()
        self._reloading = asyncio.Lock()
        self._admin: AdminPort | None = None
        self._leaving = False

    @classmethod
    def from_config(
        cls,
        config: ClientConfig,
        *,
        events: Events | None = None,
        engine: EngineName | type[abc.ClientEngine] | None = None,
    ) -> Self:
        """A client with all its options in one object."""
        return cls(**msgspec.structs.asdict(config), events=events, engine=engine)

    async def start(self) -> None:
        """Dial and register. While the server is merely away this keeps trying, and waits.

        Raises AuthError or RegisterError when the server refuses, ConnectError when there is no such host, BuildError
        when the engine cannot be loaded.
        """
        if self._engines.current is not None:
            raise FasttunnelError("the client has been started already")
        _warn(self.config, self._events)
        await self._check_host()
        engine_class: type[abc.ClientEngine] = _load("ClientEngine", self._engine_choice, self._events)
        self._admin = await _open_admin(self, "client", engine_class)  # first: whoever watches sees it start
        if self._admin is not None:
            self._events.listening("admin", self._admin.address)
        engine = self._engines.current = engine_class(self.config, events=self._events)
        try:
            await engine.start()
        except BaseException:
            if self._engines.current is engine or self._leaving:  # else a reload has brought another one meanwhile
                await self._close()
                raise

    async def check_login(self) -> None:
        """Ask the server whether it lets this client in. Nothing is registered, and no other client notices.

        Raises AuthError when it does not, ConnectError when it cannot be asked.
        """
        await self._check_host()
        engine_class: type[abc.ClientEngine] = _load("ClientEngine", self._engine_choice, self._events)
        await engine_class(self.config, events=self._events).check_login()

    async def stop(self, grace_s: float | None = None) -> None:
        """Take no new requests, let those under way finish, then close. `grace_s` is as for the server."""
        self._leaving = True
        grace_s = self.config.drain_timeout_s if grace_s is None else min(grace_s, DRAIN_MAX_S)
        await self._engines.stop(grace_s)
        await self._close()

    async def _close(self) -> None:
        if self._admin is not None:
            await self._admin.stop()
        if self._access is not None:
            self._access.close()
        if self._spans is not None:
            self._spans.close()

    async def wait_closed(self) -> None:
        """Returns once the client has stopped; raises AuthError or RegisterError when the server sent it away."""
        _ = self._running
        await self._engines.wait_closed()

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
    def admin(self) -> str:
        """As of the server."""
        return self._admin.address if self._admin is not None else ""

    @property
    def unready(self) -> str:
        """Why nothing reaches it; empty: it is registered with the server, and not stopping."""
        if self._leaving:
            return "it is draining"
        connected = self._engines.current is not None and self._engines.current.status()["connected"]
        return "" if connected else f"it is not registered with {self.config.server}"

    @property
    def routes(self) -> list[RouteSpec]:
        """What is served."""
        return list(self.config.routes)

    async def reload(self, config: ClientConfig | None = None) -> Changes[ClientConfig]:
        """Go on with `config`, as far as that can be without a restart (docs/configuration.md): what has changed, and
        what would need one, is returned.

        A new tunnel registers with the server, beside the old one, and takes over; requests under way finish on the old
        one. While the server is away this waits. Raises ConfigError for what cannot be used, AuthError or RegisterError
        when the server refuses; all is as before then. Calls wait for each other; to have one overtaken, cancel it.
        With or without a `config` the access log is opened anew.
        """
        if self._access is not None:
            self._access.reopen()
        if config is None:
            return compare(self.config, self.config)
        async with self._reloading:
            changes = compare(self.config, config)
            if self._leaving:
                raise FasttunnelError("the client is stopping")
            if changes.changed:
                check_files(changes.config)
            before = self.config.access_log
            if self._access is not None:
                self._access.move(changes.config.access_log)
            try:
                await self._go_on(changes)
            except BaseException:
                if self._access is not None and self.config is not changes.config:
                    self._access.move(before)
                raise
            return changes

    async def _go_on(self, changes: Changes[ClientConfig]) -> None:
        def in_force() -> None:
            before, self.config = self.config, changes.config
            self._events.reloaded(changes)
            _warn(self.config, self._events, before)

        if self._engines.current is None or changes.names <= _OF_NO_TUNNEL:
            return in_force()
        engine_class: type[abc.ClientEngine] = _load("ClientEngine", self._engine_choice, self._events)
        await self._engines.replace(
            lambda events, before: engine_class(changes.config, events=events, after=before),
            self._events,
            changes.config.connections,
            changes.config.drain_timeout_s,
            in_force,
        )

    @property
    def urls(self) -> list[str]:
        """How the public reaches the routes, as the server said when they were registered."""
        return list(self._running.urls)

    async def problem_of(self, index: int) -> str | None:
        """Whether the public reaches `urls[index]`: None, or why not, as far as can be seen from here.

        One request goes through the public URL, and has to come back to this client. No backend sees it.
        """
        return await urls.problem_of(self.urls[index], self.config.routes[index], self._running.add_route, self.config)

    @property
    def name(self) -> str:
        """What the server has put in front of its domain for routes without a host; empty: it has no domain."""
        return self._running.name

    def status(self) -> dict[str, Any]:
        """Counts and connections."""
        _ = self._running
        return self._engines.status()

    def counts(self) -> Counts | None:
        """What has been since the start, and is under way; None where an engine of one's own does not count."""
        _ = self._running
        return self._engines.counts()

    def last_requests(self, n: int) -> list[Ended]:
        """The last n that have finished, the newest last: when, and the record. `Events.keeps_last` bounds them."""
        return _last(self._engines.current, n)

    async def _check_host(self) -> None:
        """A name that does not exist is a mistake to be told at once; a network that is down for now is not."""
        host, port = parse_address(self.config.server)
        try:
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:
                raise ConnectError(f"cannot find the server {self.config.server}", detail=error.strerror) from None
        except UnicodeError:  # such as a..b, which IDNA does not take
            raise ConnectError(f"cannot find the server {self.config.server}", detail="that is not a name") from None

    @property
    def _running(self) -> abc.ClientEngine:
        if self._engines.current is None:
            raise FasttunnelError("the client has not been started")
        return self._engines.current

    @property
    def taps(self) -> Taps | None:
        """Where to listen to the messages of its tunnels; None where an engine of one's own cannot be tapped."""
        return getattr(self._running, "taps", None)

    @property
    def started(self) -> bool:
        return self._engines.current is not None


class EngineChoice(NamedTuple):
    """Which engine runs, and why."""

    name: EngineName
    reason: str
    missing: bool = False  # the compiled one was wanted, and cannot be loaded


def choose_engine(engine: str | None = None) -> EngineChoice:
    """The engine for a name of ENGINES, or without one the compiled engine if it can be loaded.

    Raises ConfigError for another name, BuildError when the compiled engine was asked for and cannot be loaded.
    """
    _check_name(engine)
    if engine == "asyncio":
        return EngineChoice("asyncio", "it was asked for")
    try:
        importlib.import_module("fasttunnel.engine.server")
    except ImportError as error:
        why = _not_compiled() or str(error)
        if engine == "cython":
            raise BuildError(
                "the compiled engine cannot be loaded",
                detail=why,
                hint="build it with `make build` or pip install, or use the engine asyncio",
            ) from error
        return EngineChoice("asyncio", f"the compiled engine cannot be loaded: {why}", missing=True)
    return EngineChoice("cython", "it was asked for" if engine else "the compiled engine can be loaded")


def _not_compiled() -> str | None:
    """What setup.py wrote down when it could not compile the engine."""
    try:
        why = Path(__file__).with_name("not-compiled.txt").read_text().strip()
    except OSError:
        return None
    return f"it was not compiled when fasttunnel was installed: {why}"


def _check_name(engine: object) -> None:
    if isinstance(engine, str) and engine not in ENGINES:
        raise ConfigError(f"there is no engine {engine!r}", hint=f"it is {' or '.join(ENGINES)}")


_said = False  # that the compiled engine is missing


def _load(end: str, engine: str | type[Any] | None, events: Events) -> type[Any]:
    """The class of an engine: "ServerEngine" or "ClientEngine"."""
    global _said
    if isinstance(engine, type):
        return engine
    choice = choose_engine(engine)
    if choice.missing and not _said:
        _said = True
        events.warning(f"{choice.reason}; running on the asyncio engine, which is slower")
    package = "engine" if choice.name == "cython" else "reference"
    try:
        module = importlib.import_module(f"fasttunnel.{package}.{end.removesuffix('Engine').lower()}")
    except ImportError as error:
        raise BuildError(
            f"the {choice.name} engine cannot be loaded",
            detail=str(error),
            hint="pip install fasttunnel[reference]" if choice.name == "asyncio" else None,
        ) from error
    loaded: type[Any] = getattr(module, end)
    return loaded


async def _open_admin(
    end: Server | Client, kind: str, engine: type[Any], *, reuse_port: bool = False
) -> AdminPort | None:
    """Raises ListenError."""
    if not end.config.admin:
        return None
    from fasttunnel.admin.port import AdminPort  # what it needs is an extra
    from fasttunnel.admin.subject import Subject

    package = engine.__module__.partition(".")[2].partition(".")[0]
    subject = Subject(
        kind,
        {"engine": "cython", "reference": "asyncio"}.get(package, engine.__qualname__),
        lambda: end if end.started else None,
        lambda: end.unready,
        lambda: [str(route) for route in end.routes] if end.started else [],
    )
    port = AdminPort(end.config.admin, subject, end._events.warning, reuse_port=reuse_port, tap=end.config.tap)
    await port.start()
    return port


def _last(engine: object, n: int) -> list[Ended]:
    """None before the start, or where an engine of one's own keeps none."""
    last = getattr(engine, "last_requests", None)
    return last(n) if last is not None else []


def _access_log(config: ServerConfig | ClientConfig, events: Events | None) -> AccessLog | None:
    """Raises ConfigError."""
    if not config.access_log:
        return None
    return AccessLog(config.access_log, (events or Events()).warning, json=config.log_format == "json")


def _spans(
    config: ServerConfig | ClientConfig, events: Events | None, end: Literal["server", "client"]
) -> Spans | None:
    return Spans(config.otlp, end, (events or Events()).warning) if config.otlp else None


def _warn(
    config: ServerConfig | ClientConfig, events: Events, before: ServerConfig | ClientConfig | None = None
) -> None:
    """Of what has been said of the configuration `before` it nothing is said again."""
    said = _warnings(before) if before is not None else []
    for text in _warnings(config):
        if text not in said:
            events.warning(text)


def _warnings(config: ServerConfig | ClientConfig) -> list[str]:
    texts = config.warnings()
    if isinstance(config, ServerConfig) and config.domain and config.secures("public"):
        with contextlib.suppress(ConfigError):  # the engine will say which file it is
            if not covers_domain(config.certificates, config.domain):
                texts.append(
                    f"no certificate is for *.{config.domain}: visitors of such URLs will be warned, or refuse"
                )
    return texts


def _reachable(address: tuple[str, int]) -> str:
    """An address to connect to: that of loopback for a socket that listens everywhere."""
    host, port = address
    return format_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
