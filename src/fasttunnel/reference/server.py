"""The public end: listeners, the registration of clients, draining."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from weakref import WeakSet

import grpc

from fasttunnel import limits
from fasttunnel.control.addresses import Connections, Verdict, host_of
from fasttunnel.control.auth import Authenticator, Login, Refused
from fasttunnel.control.config import ServerConfig, parse_address
from fasttunnel.control.counts import Counts
from fasttunnel.control.listening import NEXT, OLDEST, steer
from fasttunnel.control.log import Ended, Events, Sparing
from fasttunnel.control.outage import Outages
from fasttunnel.control.registration import Registrar, fragment_for, unhurried
from fasttunnel.control.routes import Route, RouteTable, by_protocol, format_address
from fasttunnel.control.taps import Taps
from fasttunnel.control.tls import PUBLIC_PROTOCOLS, ServerContext, check, read_pem
from fasttunnel.control.watch import FileWatch
from fasttunnel.errors import GrpcStatus, ListenError, ResetCode, RouteTaken, describe
from fasttunnel.reference.carrier import SERVER_OPTIONS, STATUS, service
from fasttunnel.reference.closing import settle
from fasttunnel.reference.dispatch import Dispatcher
from fasttunnel.reference.exchange import Exchange, WindowBudget
from fasttunnel.reference.metering import MeteredTunnel
from fasttunnel.reference.public import Gate, PublicConnection
from fasttunnel.reference.recording import recorder_of
from fasttunnel.reference.tally import Tallies
from fasttunnel.version import __version__
from fasttunnel.wire.tunnel_pb2 import CONTROL, Register, Registered, TunnelMessage

REGISTER_TIMEOUT_S = 10.0
BACKLOG = 4096
CROWDED = "there are as many connections from this address as there may be"


class Session(MeteredTunnel):
    """One client's tunnel."""

    def __init__(self, engine: ServerEngine, login: Login, peer: str) -> None:
        super().__init__(peer, engine.taps, login.identity.bytes)
        self.engine = engine
        self.tallies = engine.tallies
        self.login = login
        self.pace = login.identity.requests
        self.session_id = secrets.token_hex(6)
        self.client_id = self.instance_id = ""
        self.name = ""  # under the server's domain
        self.connection = 0  # which one of several of the instance
        self.routes: list[Route] = []
        self.registered = False
        self.replaced = False  # the client has another tunnel, with what it serves now
        self.moved = False  # while the server hands over: the client is connected to the next process

    def on_control(self, kind: str, message: TunnelMessage) -> None:
        if kind == "register" and not self.registered:
            self.engine.register(self, message.client_id, message.register)
        elif kind == "register" or not self.registered:
            text = "a second Register" if self.registered else "the first message has to be Register"
            self.end(GrpcStatus.INVALID_ARGUMENT, text)
        elif kind == "heartbeat":
            self.heard(message.heartbeat)
        elif kind == "go_away":
            self.engine.client_leaves(self, unhurried(message.go_away))

    def fail_all(self, code: ResetCode, text: str) -> None:
        super().fail_all(code, text)
        self.stop_metering()
        self.engine.lost(self)

    def on_end(self, exchange: Exchange) -> None:
        super().on_end(exchange)
        if self.engine.recorder is not None:
            self.engine.recorder.ended(exchange, self.client_id)
        self.engine.check_idle()

    def give_up_silent(self) -> None:
        """A call without a Register is nothing that we can use."""
        if not self.registered:
            self.end(GrpcStatus.INVALID_ARGUMENT, "no Register came")

    @property
    def owner(self) -> str:
        return self.login.owner(self.client_id)

    def replaces(self, older: Session) -> bool:
        """Of the same client: whether `older` is what is left of an earlier run, or of this very connection."""
        others = self.instance_id and self.instance_id == older.instance_id and self.connection != older.connection
        return not others

    def status(self) -> dict[str, Any]:
        return {
            "client_id": self.client_id,
            "identity": self.login.name,
            "session_id": self.session_id,
            "peer": self.peer,
            "routes": [str(route) for route in self.routes],
            "active_requests": len(self.requests),
            "requests": self.opened,
            "messages_sent": self.messages_sent,
            "messages_received": self.messages_received,
            "round_trip_s": self.round_trip_s or None,
        }


class ServerEngine:
    """The public end, on asyncio. Satisfies `fasttunnel.abc.ServerEngine`."""

    def __init__(self, config: ServerConfig, *, authenticator: Authenticator, events: Events) -> None:
        self.config = config
        self.budget = WindowBudget(config.max_window, config.window_budget)
        self.tallies = Tallies()
        self.events = events
        self.routes: RouteTable[Dispatcher] = RouteTable()
        self._registrar = Registrar(self.routes, config.domain)
        self.public_addresses: Sequence[tuple[str, int]] = []
        self.tunnel_addresses: Sequence[tuple[str, int]] = []
        self._authenticator = authenticator
        self._outages = Outages(config.queue_timeout_s)
        self._gate = Gate(self.routes, self._outages, config, self._active, self.tallies)
        self.recorder = recorder_of(events)
        if self.recorder is not None:
            self._gate.on_refusal = self.recorder.refused
        self._addresses = Connections(config.max_connections_per_address)
        self._idle_timer: asyncio.TimerHandle | None = None
        self._review_timer: asyncio.TimerHandle | None = None
        self._sessions: set[Session] = set()
        self.taps = Taps(lambda: self._sessions, events.tap)
        self._connections: dict[asyncio.Task[None], PublicConnection] = {}
        self._writers: WeakSet[asyncio.StreamWriter] = WeakSet()  # of the public, those that are being closed included
        self._listener: asyncio.Server | None = None
        self._grpc: grpc.aio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._sparing = Sparing()
        self._handing_over = False
        self._moved = asyncio.Event()
        self._idle = asyncio.Event()
        self._closed = asyncio.Event()
        self._requests = 0  # of tunnels that are gone
        self._registrations = self._losses = self._refusals = 0
        self._context: ServerContext | None = None  # TLS of the public port
        self._fresh: Any = None  # certificates of the tunnel port that grpc does not have yet

    # -- starting and stopping

    async def start(self) -> None:
        try:
            await self._start()
        except BaseException:  # a signal may come at any time
            if self._grpc is not None:
                await self._grpc.stop(0)
            raise

    async def _start(self) -> None:
        # From before they are read.
        self._files = FileWatch(self.config.tls_files, lambda: self._load(self.config), self.events.warning)
        # The tunnel port first: whoever finds the public port open may expect that clients can come.
        reuse_port = self.config.reuse_port
        if self.config.secures("public"):
            self._context = ServerContext(self.config.certificates, PUBLIC_PROTOCOLS)
        self._grpc = grpc.aio.server(options=[*SERVER_OPTIONS, ("grpc.so_reuseport", int(reuse_port))])
        self._grpc.add_generic_rpc_handlers((service(self._connect),))
        host, port = parse_address(self.config.tunnel)
        try:
            _check_free(host, port, reuse_port)
            self.tunnel_addresses = [(host, self._add_port(format_address(host, port)))]
        except (OSError, RuntimeError) as error:
            detail = describe(error) if isinstance(error, OSError) else str(error)
            raise ListenError(f"cannot listen on {self.config.tunnel}", detail=detail) from error
        await self._grpc.start()
        host, port = parse_address(self.config.listen)
        secure: dict[str, Any] = {}
        if self._context is not None:
            secure = {"ssl": self._context.context, "ssl_handshake_timeout": limits.HANDSHAKE_TIMEOUT_S}
        try:
            self._listener = await asyncio.start_server(
                self._accept, host, port, backlog=BACKLOG, reuse_port=reuse_port, **secure
            )
        except OSError as error:
            raise ListenError(f"cannot listen on {self.config.listen}", detail=describe(error)) from error
        self._files.start()
        self._steer(OLDEST)
        self.public_addresses = [sock.getsockname()[:2] for sock in self._listener.sockets]
        for kind, addresses in (("public", self.public_addresses), ("tunnel", self.tunnel_addresses)):
            for host, port in addresses:
                self.events.listening(kind, format_address(host, port))
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
        for session in list(self._sessions):
            try:
                session.login = self._authenticator.renew(session.login, session.client_id, session.routes)
            except Refused as refusal:
                session.end(refusal.status, refusal.text)

    def _add_port(self, address: str) -> int:
        """Of tunnels. Returns its number."""
        assert self._grpc is not None
        port: int
        if not self.config.secures("tunnel"):
            port = self._grpc.add_insecure_port(address)
            return port
        asks = bool(self.config.client_ca)
        credentials = grpc.dynamic_ssl_server_credentials(self._credentials(self.config), self._fresh_credentials, asks)
        port = self._grpc.add_secure_port(address, credentials)
        return port

    def _credentials(self, config: ServerConfig) -> Any:
        """Raises ConfigError."""
        check(config.certificates, config.client_ca)  # grpc would not say what is wrong
        pairs = [(read_pem(one.key), read_pem(one.chain)) for one in config.certificates]
        ca = read_pem(config.client_ca) if config.client_ca else None
        return grpc.ssl_server_certificate_configuration(pairs, ca)

    def _fresh_credentials(self) -> Any:
        """Called for each handshake, by a thread of grpc: None for what it has."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def reload(self, config: ServerConfig) -> None:
        """What begins from now on goes by this configuration. Raises ConfigError, and nothing has changed then."""
        self._load(config)
        before, self.config = self.config, config
        self._gate.configure(config)
        self._outages.remember(config.queue_timeout_s)
        self._addresses.limit = config.max_connections_per_address
        if (config.max_window, config.window_budget) != (before.max_window, before.window_budget):
            self.budget = WindowBudget(config.max_window, config.window_budget)
        if config.tls_files != before.tls_files:
            self._files.follow(config.tls_files)
        if config.idle_timeout_s != before.idle_timeout_s:
            self._look_for_idle()

    def _load(self, config: ServerConfig) -> None:
        """New connections get what the files of TLS hold now. Raises ConfigError."""
        fresh = self._credentials(config) if config.secures("tunnel") else None
        if self._context is not None:
            self._context.load(config.certificates)
        self._fresh = fresh

    def _active(self) -> int:
        return sum(len(session.requests) for session in self._sessions)

    def _look_for_idle(self) -> None:
        """Requests on which nothing passes: twice in the time that they have, each is looked at."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if pause_s := self.config.idle_timeout_s / 2:
            self._idle_timer = asyncio.get_running_loop().call_later(pause_s, self._end_idle)

    def _end_idle(self) -> None:
        for session in self._sessions:
            for exchange in list(session.requests.values()):
                exchange.end_idle()
        self._look_for_idle()

    def _steer(self, to: int) -> None:
        """Which process gets new connections, when another one listens as well."""
        assert self._listener is not None
        if self.config.reuse_port:
            for sock in self._listener.sockets:
                steer(sock.fileno(), to)

    async def stop(self, grace_s: float | None = None) -> None:
        """A second call with a shorter grace overtakes the first."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.cancel()
        elif self._closed.is_set():
            return
        self._stopping = asyncio.create_task(self._stop(self.config.drain_timeout_s if grace_s is None else grace_s))
        await asyncio.wait([self._stopping])

    async def _stop(self, grace_s: float) -> None:
        # Reverse order of the start: nothing new comes in, then what is under way ends, then the tunnels.
        assert self._listener is not None
        assert self._grpc is not None
        for session in list(self._sessions):
            session.send_go_away("the server is shutting down", grace_s)
        if self.config.reuse_port and grace_s > 0:
            begun_s = asyncio.get_running_loop().time()
            await self._hand_over(min(grace_s, limits.HANDOVER_S), grace_s)
            grace_s -= asyncio.get_running_loop().time() - begun_s
        self._gate.drain()
        self._listener.close()
        for session in list(self._sessions):
            session.drain()
        for task, connection in list(self._connections.items()):
            if not connection.busy:
                task.cancel()
        self.check_idle()
        if grace_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        for session in list(self._sessions):
            session.end(GrpcStatus.UNAVAILABLE, "the server is shutting down")
        self._files.stop()
        await self._grpc.stop(1.0)
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=1.0)
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections))
        await settle(list(self._writers))
        for timer in (self._idle_timer, self._review_timer):
            if timer is not None:
                timer.cancel()
        self._closed.set()

    async def _hand_over(self, patience_s: float, grace_s: float) -> None:
        """To another process on the same ports. The clients go first; until they are there, all is served here."""
        assert self._grpc is not None
        self._handing_over = True
        self._no_new_tunnels = asyncio.create_task(self._grpc.stop(grace_s + 1.0))  # _stop() calls it again
        self._check_moved()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), patience_s)
        # Then the public: its next connections go there, and those that are open end with their next answer.
        self._steer(NEXT)
        self._gate.closing = True
        for connection in list(self._connections.values()):
            connection.wind_down()
        await asyncio.sleep(min(limits.HANDOVER_SETTLE_S, patience_s))

    def _check_moved(self) -> None:
        if self._handing_over and all(session.moved for session in self._sessions):
            self._moved.set()

    def client_leaves(self, session: Session, unhurried: bool) -> None:
        """It has said so. While this server hands over it serves here as well, until we say goodbye."""
        if self._handing_over:
            session.moved = True
            return self._check_moved()
        self.routes.remove(session)
        session.replaced |= unhurried
        self._away(session)
        session.drain(unhurried=unhurried)

    def _away(self, session: Session) -> None:
        """Its client has gone, unless another tunnel has replaced this one."""
        if not session.replaced:
            self._outages.begin(session.owner, session.routes)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def check_idle(self) -> None:
        if self._gate.draining and not any(session.requests for session in self._sessions):
            self._idle.set()

    def status(self) -> dict[str, Any]:
        return {
            "draining": self._gate.draining,
            "connections": len(self._connections) + len(self._sessions),
            "tasks": len(self._connections) + len(self._sessions),
            "buffered_bytes": sum(session.buffered for session in self._sessions)
            + sum(connection.buffered for connection in self._connections.values()),
            "queued_requests": self._gate.queued,
            "active_requests": self._active(),
            "active": by_protocol(session.active_by_protocol for session in self._sessions),
            "requests": self._requests + sum(session.opened for session in self._sessions),
            "links": [session.status() for session in self._sessions if session.up],
        }

    def last_requests(self, n: int) -> list[Ended]:
        return self.recorder.last(n) if self.recorder is not None else []

    def counts(self) -> Counts:
        told = self.tallies.told([exchange for session in self._sessions for exchange in session.requests.values()])
        told.tunnels.registrations = self._registrations
        told.tunnels.losses = self._losses
        told.tunnels.refusals = self._refusals
        for session in self._sessions:
            if session.latest_s is not None:
                known = told.tunnels.round_trips_s
                known[session.login.name] = max(session.latest_s, known.get(session.login.name, 0.0))
        return told

    # -- the public

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._writers.add(writer)
        address = str((writer.get_extra_info("peername") or ("unknown",))[0])
        verdict = self._addresses.enter(address, "public")
        refused = CROWDED if verdict else ""
        if 0 < self.config.max_connections <= len(self._connections):
            refused = refused or "the server has as many connections as it may"
        connection = self._connections[task] = PublicConnection(self._gate, reader, writer, refused=refused)
        try:
            if verdict is Verdict.DROP:
                return writer.transport.abort()
            await connection.serve()
        except asyncio.CancelledError:
            pass  # by _stop(); streams would report it as an error
        finally:
            self._addresses.leave(address, "public")
            del self._connections[task]

    # -- tunnels

    async def _connect(self, messages: AsyncIterator[bytes], context: Any) -> Any:
        """A call of TunnelService.Connect: one life of a tunnel."""
        authorization = dict(context.invocation_metadata() or ()).get("authorization")
        token = authorization.encode() if isinstance(authorization, str) else authorization
        peer = context.peer().partition(":")[2].replace("%5B", "[").replace("%5D", "]")
        address = host_of(peer)
        # Of connections grpc says nothing, so it is calls that are counted.
        verdict = self._addresses.enter(address, "tunnel")
        try:
            if self._gate.draining or self._handing_over:
                raise Refused(GrpcStatus.UNAVAILABLE, "the server is shutting down")
            if verdict:
                raise Refused(GrpcStatus.RESOURCE_EXHAUSTED, CROWDED)
            shown = context.auth_context().get("x509_common_name")
            nobody = "" if self.config.client_ca else None
            certificate = shown[0].decode("utf-8", "replace") if shown else nobody
            try:
                login = self._authenticator.login(token, peer, certificate)
            except Refused as refusal:
                self._tell_refusal(peer, refusal.status, refusal.text)
                raise
            session = Session(self, login, peer)
            status, text = await self._carry(session, messages, context)
        except Refused as refusal:
            status, text = refusal.status, refusal.text
        finally:
            self._addresses.leave(address, "tunnel")
        if status:
            await context.abort(STATUS[status], text)

    def _tell_refusal(self, peer: str, status: GrpcStatus, text: str) -> None:
        self._refusals += 1
        if self._sparing.permits(host_of(peer), status):
            self.events.refused(peer, text)

    async def _carry(self, session: Session, messages: AsyncIterator[bytes], context: Any) -> tuple[int, str]:
        """The status that the tunnel ends with."""
        self._sessions.add(session)
        timeout = asyncio.get_running_loop().call_later(REGISTER_TIMEOUT_S, session.give_up_silent)
        try:
            await context.send_initial_metadata(())
            await session.carry(messages, context.write)
        finally:
            timeout.cancel()
            session.end(GrpcStatus.UNAVAILABLE, "connection lost")
            status, text = session.ended.result()
            self._sessions.discard(session)
            self._requests += session.opened
            if session.registered:
                self._losses += 1
                self.events.link_down(session.client_id, session.session_id, text)
            if status in (GrpcStatus.INTERNAL, GrpcStatus.RESOURCE_EXHAUSTED):
                self.events.warning(f"tunnel with {session.peer} ended: {text}")
            self.check_idle()
            self._check_moved()
        return status, text

    def lost(self, session: Session) -> None:
        """Its requests have failed: from now on others may have its routes."""
        self.routes.remove(session)
        self._registrar.names.leave(session)
        if session.registered:
            self._away(session)

    def register(self, session: Session, client_id: str, register: Register) -> None:
        given_id = client_id or f"client-{session.session_id}"
        try:
            routes, name = self._registrar.check(session.login, client_id, given_id, register)
        except Refused as refusal:
            return self._refuse(session, refusal.status, refusal.text)
        session.instance_id, session.connection = register.instance_id, register.connection
        # The same client, come again, takes its routes over from its own ghost; nobody else can take its name.
        for other in [other for other in self._sessions if client_id and other.client_id == client_id]:
            if other.login.name != session.login.name:
                text = f"client_id {client_id} belongs to somebody else"
                return self._refuse(session, GrpcStatus.PERMISSION_DENIED, text)
            if session.replaces(other):
                self.routes.remove(other)
                other.end(GrpcStatus.UNAVAILABLE, "replaced by a new connection of the same client")
        session.client_id = given_id
        try:
            self.routes.add(session, routes, session.owner, session.login.party)
        except RouteTaken as error:
            return self._refuse(session, GrpcStatus.ALREADY_EXISTS, str(error))
        session.registered = True
        self._registrations += 1
        session.routes, session.name = routes, name
        if name:
            self._registrar.names.enter(session, name, session.owner)
        fragment = fragment_for(self.config.max_fragment, register.max_fragment)
        session.start(register.initial_window, self.config.initial_window, fragment, self.budget)
        session.send(self._registered(session))
        session.start_heartbeat(self.config.heartbeat_interval_s)
        self._outages.end(session.owner)
        self.events.link_up(session.client_id, session.session_id, session.peer, routes)
        self._gate.wake()

    def _refuse(self, session: Session, status: GrpcStatus, text: str) -> None:
        """A Register."""
        self._tell_refusal(session.peer, status, f"{session.login.name}: {text}")
        session.end(status, text)

    def _registered(self, session: Session) -> TunnelMessage:
        host, port, secure = self.config.seen_at(*self.public_addresses[0])
        registered = Registered(
            session_id=session.session_id,
            client_id=session.client_id,
            routes=[route.to_message() for route in session.routes],
            urls=[route.url(host, port, secure=secure) for route in session.routes],
            heartbeat_interval_ms=int(self.config.heartbeat_interval_s * 1000),
            initial_window=self.config.initial_window,
            max_fragment=self.config.max_fragment,
            server_version=__version__,
            name=session.name,
            time_ms=time.time_ns() // 1_000_000,
        )
        return TunnelMessage(client_id=session.client_id, protocol_type=CONTROL, registered=registered)


def _check_free(host: str, port: int, reuse_port: bool) -> None:
    """Ask the system whether the port can be listened on: grpc does not pass on what it says. Raises OSError."""
    if port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            if not reuse_port:  # with it, connections that come meanwhile would be lost
                sock.listen()
