"""The server's side of starting and stopping: listeners, the registration of clients, draining. Nothing per message."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from fasttunnel import limits
from fasttunnel.control.addresses import Connections, host_of
from fasttunnel.control.auth import Authenticator, Identity, Login, Refused
from fasttunnel.control.config import ServerConfig, parse_address
from fasttunnel.control.counts import Counts
from fasttunnel.control.listening import NEXT, OLDEST, steer
from fasttunnel.control.log import Ended, Events, Sparing
from fasttunnel.control.outage import Outages
from fasttunnel.control.registration import Registrar, fragment_for, unhurried
from fasttunnel.control.routes import Route, RouteTable, by_protocol, format_address
from fasttunnel.control.taps import Taps
from fasttunnel.control.tls import PUBLIC_PROTOCOLS, TUNNEL_PROTOCOLS
from fasttunnel.control.watch import FileWatch
from fasttunnel.engine._exchange import WindowBudget
from fasttunnel.engine._gate import Gate
from fasttunnel.engine._io import Reactor
from fasttunnel.engine._journal import journal_of
from fasttunnel.engine._link import Link, LinkConn
from fasttunnel.engine._listener import Listener
from fasttunnel.engine._metered_link import metered
from fasttunnel.engine._public_http1 import PublicConn
from fasttunnel.engine._tls import TlsContext
from fasttunnel.engine.closing import settle
from fasttunnel.engine.heartbeat import HeartbeatTimer
from fasttunnel.engine.opening import listening_sockets
from fasttunnel.errors import GrpcStatus, ListenError, RouteTaken, describe
from fasttunnel.version import __version__
from fasttunnel.wire.tunnel_pb2 import CONTROL, GoAway, Registered, TunnelMessage

REGISTER_TIMEOUT_S = 10.0
BACKLOG = 4096

# For who forgot the "s": the browser shows it.
UNSECURED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 38\r\nConnection: close\r\n\r\n"
    b"400: this port speaks TLS, use https:\n"
)


class Session:
    """What the server knows of one tunnel."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.session_id = secrets.token_hex(6)
        self.client_id = ""
        self.name = ""  # under the server's domain
        self.instance_id = ""
        self.connection = 0
        self.peer = ""
        self.routes: list[Route] = []
        self.registered = False
        self.replaced = False  # the client has another tunnel, with what it serves now
        self.moved = False  # while the server hands over: the client is connected to the next process
        self.heartbeat: HeartbeatTimer | None = None
        self.timeout: asyncio.TimerHandle | None = None

    @property
    def owner(self) -> str:
        return self.login.owner(self.client_id)

    def replaces(self, older: Session) -> bool:
        """Of the same client: whether `older` is what is left of an earlier run, or of this very connection."""
        others = self.instance_id and self.instance_id == older.instance_id and self.connection != older.connection
        return not others


class ServerEngine:
    """The public end, on the Cython data plane. Satisfies `fasttunnel.abc.ServerEngine`."""

    def __init__(self, config: ServerConfig, *, authenticator: Authenticator, events: Events) -> None:
        self._config = config
        self._authenticator = authenticator
        self._events = events
        self.routes: RouteTable[Link] = RouteTable()
        self._registrar = Registrar(self.routes, config.domain)
        self.public_addresses: list[tuple[str, int]] = []
        self.tunnel_addresses: list[tuple[str, int]] = []
        self._links: set[Link] = set()
        self.taps = Taps(lambda: self._links, events.tap)
        self._listeners: dict[str, list[Listener]] = {}  # "tunnel" and "public"
        self._sparing = Sparing()
        self._handing_over = False
        self._moved = asyncio.Event()
        self._draining = False
        self._stopping: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._closed = asyncio.Event()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._review_timer: asyncio.TimerHandle | None = None
        self._requests = 0  # of tunnels that are gone
        self._registrations = 0
        self._losses = 0
        self._refusals = 0

    # -- starting and stopping

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._reactor = Reactor(loop)
        self._reactor.on_error = self._reactor.on_trouble = self.warning
        if self._config.max_connections_per_address:
            self._reactor.addresses = Connections(self._config.max_connections_per_address)
        self._journal = journal_of(self._events)
        self._budget = WindowBudget(self._config.max_window, self._config.window_budget)
        self._outages = Outages(self._config.queue_timeout_s)
        self._gate = Gate(self._reactor, self.routes, self._outages, self._config, self._journal)
        self._files = FileWatch(
            self._config.tls_files, lambda: self._load(self._config), self.warning
        )  # from before they are read
        # The tunnel port first: whoever finds the public port open may expect that clients can come.
        try:
            self.tunnel_addresses = await self._listen("tunnel", lambda: LinkConn(self._reactor, self))
            self.public_addresses = await self._listen("public", lambda: PublicConn(self._gate))
        except BaseException:
            self._close_listeners("public", "tunnel")
            self._reactor.close()
            raise
        self._files.start()
        for kind, addresses in (("public", self.public_addresses), ("tunnel", self.tunnel_addresses)):
            for host, port in addresses:
                self._events.listening(kind, format_address(host, port))
        self._look_for_idle()
        if self._authenticator.changes:
            self._watch_tokens()

    def _watch_tokens(self) -> None:
        self._review_timer = asyncio.get_running_loop().call_later(limits.TOKENS_POLL_S, self._watch_tokens)
        self.review(at_once=False)

    def review(self, *, at_once: bool = True) -> None:
        """Tunnels whose token is gone, has expired, or permits less than they have, end."""
        if at_once:
            self._files.check()
            if self._authenticator.changes and self._review_timer is None:
                self._watch_tokens()
        self._authenticator.poll(at_once=at_once)
        for link in list(self._links):
            session: Session = link.info
            try:
                session.login = self._authenticator.renew(session.login, session.client_id, session.routes)
                self._set_pace(link)
            except Refused as refusal:
                link.end(refusal.status, refusal.text)

    def _set_pace(self, link: Link) -> None:
        identity: Identity = link.info.login.identity
        link.pace = identity.requests if identity.requests.rate or identity.bytes.rate else None

    def _look_for_idle(self) -> None:
        """Requests on which nothing passes: twice in the time that they have, each is looked at."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if pause_s := self._config.idle_timeout_s / 2:
            self._idle_timer = asyncio.get_running_loop().call_later(pause_s, self._end_idle)

    def _end_idle(self) -> None:
        for link in list(self._links):
            link.end_idle()
        self._look_for_idle()

    async def _listen(self, kind: str, factory: Callable[[], Any]) -> list[tuple[str, int]]:
        address = self._config.tunnel if kind == "tunnel" else self._config.listen
        host, port = parse_address(address)
        context = self._tls_context(kind, self._config)
        try:
            sockets = await listening_sockets(host, port, BACKLOG, self._config.reuse_port)
        except OSError as error:
            raise ListenError(f"cannot listen on {address}", detail=describe(error)) from error
        self._listeners[kind] = [Listener(self._reactor, sock, factory, context) for sock in sockets]
        self._steer(kind, OLDEST)
        return [listener.address for listener in self._listeners[kind]]

    def _tls_context(self, kind: str, config: ServerConfig) -> TlsContext | None:
        """Raises ConfigError."""
        if not config.secures(kind):
            return None
        certificates = [(one.chain, one.key) for one in config.certificates]
        if kind == "public":
            return TlsContext(True, certificates, PUBLIC_PROTOCOLS, unsecured=UNSECURED)
        return TlsContext(True, certificates, TUNNEL_PROTOCOLS, config.client_ca or None, unsecured=UNSECURED)

    def reload(self, config: ServerConfig) -> None:
        """What begins from now on goes by this configuration. Raises ConfigError, and nothing has changed then."""
        self._load(config)
        before, self._config = self._config, config
        self._gate.configure(config)
        self._outages.remember(config.queue_timeout_s)
        if self._reactor.addresses is not None:
            self._reactor.addresses.limit = config.max_connections_per_address
        elif config.max_connections_per_address:
            self._reactor.addresses = Connections(config.max_connections_per_address)
        if (config.max_window, config.window_budget) != (before.max_window, before.window_budget):
            self._budget = WindowBudget(config.max_window, config.window_budget)
        if config.tls_files != before.tls_files:
            self._files.follow(config.tls_files)
        if config.idle_timeout_s != before.idle_timeout_s:
            self._look_for_idle()

    def _load(self, config: ServerConfig) -> None:
        """New connections get what the files of TLS hold now. Raises ConfigError."""
        contexts = {kind: self._tls_context(kind, config) for kind in self._listeners}
        for kind, context in contexts.items():
            for listener in self._listeners[kind]:
                listener.tls_context = context

    def _close_listeners(self, *kinds: str) -> None:
        for kind in kinds:
            for listener in self._listeners.get(kind, ()):
                listener.close()

    def _steer(self, kind: str, to: int) -> None:
        """Which process gets new connections, when another one listens as well."""
        if self._config.reuse_port:
            for listener in self._listeners[kind]:
                steer(listener.fileno(), to)

    async def stop(self, grace_s: float | None = None) -> None:
        """A second call with a shorter grace overtakes the first."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.cancel()
        elif self._closed.is_set():
            return
        grace_s = self._config.drain_timeout_s if grace_s is None else grace_s
        self._stopping = asyncio.ensure_future(self._stop(grace_s))
        await asyncio.wait([self._stopping])

    async def _stop(self, grace_s: float) -> None:
        # Reverse order of the start: nothing new comes in, then what is under way ends, then the tunnels.
        message = GoAway(reason="the server is shutting down", grace_ms=int(grace_s * 1000))
        go_away = TunnelMessage(protocol_type=CONTROL, go_away=message).SerializeToString()
        for link in list(self._links):
            link.send_control(go_away)
        if self._config.reuse_port and grace_s > 0:
            begun_s = asyncio.get_running_loop().time()
            await self._hand_over(min(grace_s, limits.HANDOVER_S))
            grace_s -= asyncio.get_running_loop().time() - begun_s
        self._draining = True
        self._gate.drain()
        self._close_listeners("public", "tunnel")
        for link in list(self._links):
            link.drain()
        for conn in list(self._reactor.conns):
            conn.leave()
        self._check_idle()
        if grace_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        for link in list(self._links):
            link.end(GrpcStatus.UNAVAILABLE, "the server is shutting down")
        for opening in list(self._reactor.opening):
            opening.cut()
        for conn in list(self._reactor.conns):
            conn.leave()
        self._files.stop()
        await settle(self._reactor)
        for timer in (self._idle_timer, self._review_timer):
            if timer is not None:
                timer.cancel()
        self._reactor.close()
        self._closed.set()

    async def _hand_over(self, patience_s: float) -> None:
        """To another process on the same ports. The clients go first; until they are there, all is served here."""
        self._handing_over = True
        self._steer("tunnel", NEXT)
        self._close_listeners("tunnel")
        self._check_moved()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), patience_s)
        # Then the public: its next connections go there, and those that are open end with their next answer.
        self._steer("public", NEXT)
        self._gate.close()
        for conn in list(self._reactor.conns):
            conn.wind_down()
        await asyncio.sleep(min(limits.HANDOVER_SETTLE_S, patience_s))

    def _check_moved(self) -> None:
        if self._handing_over and all(link.info.moved for link in self._links):
            self._moved.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def status(self) -> dict[str, Any]:
        return {
            "draining": self._draining,
            "connections": len(self._reactor.conns),
            "timers": self._reactor.timers,
            "reads": self._reactor.reads,
            "writes": self._reactor.writes,
            "handshakes_failed": self._reactor.handshakes_failed,
            "buffered_bytes": self._reactor.buffered,
            "queued_requests": self._gate.queued,
            "active_requests": sum(link.active for link in self._links),
            "active": by_protocol(link.active_by_protocol for link in self._links),
            "requests": self._requests + sum(link.requests for link in self._links),
            "links": [
                {
                    "client_id": link.info.client_id,
                    "identity": link.info.login.name,
                    "session_id": link.info.session_id,
                    "peer": link.info.peer,
                    "routes": [str(route) for route in link.info.routes],
                    "active_requests": link.active,
                    "requests": link.requests,
                    "messages_sent": link.messages_sent,
                    "messages_received": link.messages_received,
                    "round_trip_s": link.info.heartbeat.round_trip_s if link.info.heartbeat else None,
                }
                for link in self._links
                if link.up
            ],
        }

    def last_requests(self, n: int) -> list[Ended]:
        return self._journal.last(n) if self._journal is not None else []

    def counts(self) -> Counts:
        told = self._reactor.tallies.told([exchange for link in self._links for exchange in link.under_way()])
        told.tunnels.registrations = self._registrations
        told.tunnels.losses = self._losses
        told.tunnels.refusals = self._refusals
        for link in self._links:
            session: Session = link.info
            round_trip_s = session.heartbeat.round_trip_s if session.heartbeat is not None else None
            if round_trip_s is not None:
                known = told.tunnels.round_trips_s
                known[session.login.name] = max(round_trip_s, known.get(session.login.name, 0.0))
        return told

    # -- what links report (see Link.handler)

    def authorize(self, link: Link, authorization: bytes | None) -> tuple[int, str] | Link | None:
        """None, or a link to take instead, to let the call in; or the status that refuses it."""
        if self._draining or self._handing_over:
            return GrpcStatus.UNAVAILABLE, "the server is shutting down"
        try:
            login = self._authenticator.login(authorization, link.peer, link.certificate)
        except Refused as refusal:
            self._tell_refusal(link.peer, refusal.status, refusal.text)
            return refusal.status, refusal.text
        link.info = Session(login)
        return metered(link, login.identity.bytes) if login.identity.bytes.rate else None

    def _tell_refusal(self, peer: str, status: GrpcStatus, text: str) -> None:
        self._refusals += 1
        if self._sparing.permits(host_of(peer), status):
            self._events.refused(peer, text)

    def opened(self, link: Link) -> None:
        session: Session = link.info
        session.peer = link.peer
        link.far_end = session.peer
        self.taps.attend(link)
        self._links.add(link)
        session.timeout = asyncio.get_running_loop().call_later(
            REGISTER_TIMEOUT_S, link.end, GrpcStatus.INVALID_ARGUMENT, "no Register came"
        )

    def control(self, link: Link, kind: int, data: bytes) -> None:
        session: Session = link.info
        try:
            message = TunnelMessage.FromString(data)
        except Exception:
            link.end(GrpcStatus.INTERNAL, "malformed TunnelMessage")
            return
        payload = message.WhichOneof("payload")
        if payload == "register":
            if session.registered:
                link.end(GrpcStatus.INVALID_ARGUMENT, "a second Register")
            else:
                self._register(link, session, message)
        elif not session.registered:
            link.end(GrpcStatus.INVALID_ARGUMENT, "the first message has to be Register")
        elif payload == "heartbeat" and session.heartbeat is not None:
            session.heartbeat.received(message.heartbeat)
        elif payload == "go_away" and self._handing_over:
            session.moved = True  # but it serves here as well, until we say goodbye
            self._check_moved()
        elif payload == "go_away":
            self.routes.remove(link)
            session.replaced |= unhurried(message.go_away)
            self._away(session)
            link.drain(unhurried(message.go_away))

    def _register(self, link: Link, session: Session, message: TunnelMessage) -> None:
        register = message.register
        given_id = message.client_id or f"client-{session.session_id}"
        try:
            routes, name = self._registrar.check(session.login, message.client_id, given_id, register)
        except Refused as refusal:
            return self._refuse(link, refusal.status, refusal.text)
        session.instance_id, session.connection = register.instance_id, register.connection
        if message.client_id:
            # The same client, come again, takes its routes over from its own ghost; nobody else can take its name.
            for other in [other for other in self._links if other.info.client_id == message.client_id and other.up]:
                if other.info.login.name != session.login.name:
                    text = f"client_id {message.client_id} belongs to somebody else"
                    return self._refuse(link, GrpcStatus.PERMISSION_DENIED, text)
                if session.replaces(other.info):
                    other.end(GrpcStatus.UNAVAILABLE, "replaced by a new connection of the same client")
        session.client_id = given_id
        try:
            self.routes.add(link, routes, session.owner, session.login.party)
        except RouteTaken as error:
            return self._refuse(link, GrpcStatus.ALREADY_EXISTS, str(error))
        session.registered = True
        self._registrations += 1
        session.routes, session.name = routes, name
        link.tallies = {id(route): self._reactor.tallies.route(str(route)) for route in routes}
        if name:
            self._registrar.names.enter(link, name, session.owner)
        self._set_pace(link)
        if session.timeout is not None:
            session.timeout.cancel()
        link.journal, link.client_id = self._journal, given_id.encode()
        fragment = fragment_for(self._config.max_fragment, register.max_fragment)
        window = register.initial_window or limits.INITIAL_WINDOW_BYTES
        link.start(window, self._config.initial_window, fragment, self._budget)
        link.send_control(self._registered(session).SerializeToString())
        session.heartbeat = HeartbeatTimer(link, self._config.heartbeat_interval_s)
        self._outages.end(session.owner)
        self._events.link_up(session.client_id, session.session_id, session.peer, routes)
        self._gate.wake()

    def _refuse(self, link: Link, status: GrpcStatus, text: str) -> None:
        """A Register."""
        session: Session = link.info
        self._tell_refusal(session.peer, status, f"{session.login.name}: {text}")
        link.end(status, text)

    def _registered(self, session: Session) -> TunnelMessage:
        host, port, secure = self._config.seen_at(*self.public_addresses[0])
        return TunnelMessage(
            client_id=session.client_id,
            protocol_type=CONTROL,
            registered=Registered(
                session_id=session.session_id,
                client_id=session.client_id,
                routes=[route.to_message() for route in session.routes],
                urls=[route.url(host, port, secure=secure) for route in session.routes],
                heartbeat_interval_ms=int(self._config.heartbeat_interval_s * 1000),
                initial_window=self._config.initial_window,
                max_fragment=self._config.max_fragment,
                server_version=__version__,
                name=session.name,
                time_ms=time.time_ns() // 1_000_000,
            ),
        )

    def lost(self, link: Link, grpc_status: int, message: str) -> None:
        session: Session = link.info
        self._links.discard(link)
        self._requests += link.requests
        self.routes.remove(link)
        self._registrar.names.leave(link)
        if session.heartbeat is not None:
            session.heartbeat.stop()
            session.heartbeat = None  # it refers to the link
        if session.timeout is not None:
            session.timeout.cancel()
        if session.registered:
            self._losses += 1
            self._away(session)
            self._events.link_down(session.client_id, session.session_id, message)
        self._check_idle()
        self._check_moved()

    def _away(self, session: Session) -> None:
        """Its client has gone, unless another tunnel has replaced this one."""
        if not session.replaced:
            self._outages.begin(session.owner, session.routes)

    def refused(self, conn: LinkConn, reason: str) -> None:
        """Only a client is refused."""

    def idle(self, link: Link) -> None:
        self._check_idle()

    def warning(self, text: str) -> None:
        self._events.warning(text)

    def _check_idle(self) -> None:
        if self._draining and not any(link.active for link in self._links):
            self._idle.set()
