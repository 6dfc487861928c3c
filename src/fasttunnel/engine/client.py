"""The client's side of starting and stopping: dialling the server and coming back, connecting to backends, draining."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

from fasttunnel import limits
from fasttunnel.control.backoff import Backoff
from fasttunnel.control.config import Backend, ClientConfig, RouteSpec, parse_address
from fasttunnel.control.counts import Counts
from fasttunnel.control.log import Ended, Events, Sparing, one_line
from fasttunnel.control.registration import (
    Numbers,
    check_knock,
    fragment_for,
    heartbeat_of,
    is_name,
    knock,
    name_given,
    unnamed,
)
from fasttunnel.control.routes import RouteTable, at_host, by_protocol
from fasttunnel.control.taps import Taps
from fasttunnel.control.tls import H2, HTTP11, TUNNEL_PROTOCOLS, advise
from fasttunnel.control.watch import FileWatch
from fasttunnel.engine._backends import Backends
from fasttunnel.engine._exchange import WindowBudget
from fasttunnel.engine._io import Reactor
from fasttunnel.engine._journal import Journal, journal_of
from fasttunnel.engine._link import Link, LinkConn
from fasttunnel.engine._target import Target
from fasttunnel.engine._tls import TlsContext
from fasttunnel.engine.closing import settle
from fasttunnel.engine.heartbeat import HeartbeatTimer
from fasttunnel.engine.opening import connect
from fasttunnel.errors import AuthError, ConnectError, FasttunnelError, GrpcStatus, RegisterError, describe
from fasttunnel.wire.tunnel_pb2 import CONTROL, GoAway, Register, Registered, TunnelMessage

REGISTERED_TIMEOUT_S = 10.0
HEARD_S = 2.0  # for a server to answer that it knows that we leave

# Statuses that another attempt would only meet again.
REFUSALS: dict[int, type[FasttunnelError]] = {
    GrpcStatus.UNAUTHENTICATED: AuthError,
    GrpcStatus.PERMISSION_DENIED: AuthError,
    GrpcStatus.ALREADY_EXISTS: RegisterError,
    GrpcStatus.INVALID_ARGUMENT: RegisterError,
    GrpcStatus.UNIMPLEMENTED: ConnectError,
}


class Tunnel:
    """One life of the tunnel: a connection to the server, and how it ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, index: int) -> None:
        self.index = index  # which one of several at the same time
        self.link: Link | None = None
        self.conn: LinkConn | None = None
        self.lost: asyncio.Future[tuple[int, str]] = loop.create_future()
        self.told_to_go: asyncio.Future[GoAway] = loop.create_future()
        self.heartbeat: HeartbeatTimer | None = None
        self.was_up = False
        self.up_since_s = 0.0


class ClientEngine:
    """The end beside the backends, on the Cython data plane. Satisfies `fasttunnel.abc.ClientEngine`."""

    def __init__(self, config: ClientConfig, *, events: Events, after: ClientEngine | None = None) -> None:
        self._config = config
        self._events = events
        self.taps: Taps = after.taps if after is not None else Taps(tuple, events.tap)
        self._journal: Journal | None = after._journal if after is not None else journal_of(events)
        # One that takes over is the same client, with other connections beside those that are up.
        self._numbers: Numbers = Numbers(self._is_known, after._numbers if after is not None else None)
        self._client_id: str = config.client_id
        self.name: str = config.name
        if after is not None and config.client_id == after._config.client_id:
            self._client_id = after._client_id
        if after is not None and config.name == after._config.name:
            self.name = after.name
        self._tapped = lambda: [tunnel.link for tunnel in self._tunnels if tunnel.link is not None]
        self.urls: list[str] = []
        self._server_version = ""
        self._clock_ahead_s: float | None = None
        self._routes: RouteTable[Target] = RouteTable()
        self._tunnels: dict[Tunnel, asyncio.Task[tuple[str, FasttunnelError | None]]] = {}  # the newest last
        self._registered = asyncio.Event()
        self._idle = asyncio.Event()
        self._closed = asyncio.Event()
        self._failure: FasttunnelError | None = None
        self._draining = False
        self._grace_s = 0.0
        self._knocks = False  # see check_login
        self._runner: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._dials: set[asyncio.Task[None]] = set()
        self._backend_contexts: dict[bool, TlsContext] = {}
        self._sparing = Sparing()
        self._reconnects = 0
        self._registrations = 0
        self._losses = 0
        self._requests = 0

    # -- starting and stopping

    async def start(self) -> None:
        self._open_reactor()
        try:
            self._serve_routes()
        except BaseException:
            self._reactor.close()
            self._closed.set()
            raise
        self._acceptor.count(spec.route for spec in self._config.routes)
        self._budget = WindowBudget(self._config.max_window, self._config.window_budget)
        self.taps.follow(self._tapped)
        self._runner = asyncio.ensure_future(self._run_all())
        waiter = asyncio.ensure_future(self._registered.wait())
        try:
            await asyncio.wait([waiter, self._runner], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._failure is not None:
            raise self._failure

    def _serve_routes(self) -> None:
        """Raises ConfigError."""
        targets: dict[object, Target] = {}
        for spec in self._config.routes:
            target = targets.get(spec.backend)
            if target is None:
                target = targets[spec.backend] = self._new_target(spec.backend)
            self._routes.add(target, [spec.route])

    def _new_target(self, backend: Backend) -> Target:
        context = self._backend_context(backend.grpc) if backend.secure else None
        return Target(
            self._reactor,
            backend.host,
            backend.port,
            backend.grpc,
            context,
            self._dial_backend,
            self._backend_failed,
            self._config,
        )

    def add_route(self, spec: RouteSpec) -> Callable[[], None]:
        target = self._new_target(spec.backend)
        self._routes.add(target, [spec.route])
        return functools.partial(self._routes.remove, target)

    def _open_reactor(self) -> None:
        """And what the connections to the server need. Raises ConfigError."""
        self._files = FileWatch(self._config.tls_files, self._renew, self.warning)  # from before they are read
        self._renew()
        self._reactor = Reactor(asyncio.get_running_loop())
        self._reactor.on_error = self.warning
        self._acceptor = Backends(
            self._routes,
            self._reactor.tallies,
            self._journal is not None,
            self._journal is not None and self._journal.traces,
        )

    async def check_login(self) -> None:
        self._knocks = True
        self._open_reactor()
        tunnel = Tunnel(asyncio.get_running_loop(), 0)
        task = self._tunnels[tunnel] = asyncio.ensure_future(self._carry(tunnel))
        try:
            reason, refusal = await task
        finally:
            await self._close()
        check_knock(self._config.server, reason, refusal)

    def _renew(self) -> None:
        """The next connection to the server gets what the files hold now. Raises ConfigError."""
        config = self._config
        if not config.secure:
            self._tls_context = None
            return
        shown = [(config.certificate.chain, config.certificate.key)] if config.certificate else []
        self._tls_context = TlsContext(False, shown, TUNNEL_PROTOCOLS, config.ca or None, config.pinned)

    def _backend_context(self, grpc: bool) -> TlsContext:
        """One for all backends of a kind: to read the authorities of a system takes a while. Raises ConfigError."""
        if grpc not in self._backend_contexts:
            ca, verify = self._config.backend_ca or None, self._config.backend_verify
            self._backend_contexts[grpc] = TlsContext(False, [], (H2,) if grpc else (HTTP11,), ca, verify=verify)
        return self._backend_contexts[grpc]

    async def stop(self, grace_s: float | None = None) -> None:
        if self._stopping is not None and not self._stopping.done():
            self._stopping.cancel()
        elif self._closed.is_set() or self._runner is None:
            return
        grace_s = self._config.drain_timeout_s if grace_s is None else grace_s
        self._stopping = asyncio.ensure_future(self._stop(grace_s))
        await asyncio.wait([self._stopping])

    async def _stop(self, grace_s: float) -> None:
        self._draining, self._grace_s = True, grace_s
        if self._runner is not None:
            self._runner.cancel()  # a tunnel that is lost now is not dialled again
        for tunnel, task in self._tunnels.items():
            if tunnel.link is None and not tunnel.lost.done():  # it is still dialled
                task.cancel()
                if tunnel.conn is not None:
                    tunnel.conn.cut()
                    tunnel.conn = None
        for link in self._links():
            _say_goodbye(link, grace_s)
        if grace_s > 0:
            # What has sent its Register may be registered, and have requests, before we know.
            await self._answered(min(grace_s, HEARD_S))
            # Requests that were on their way when we said so are still taken: the server has not heard it yet.
            heard = [tunnel.heartbeat.catch_up() for tunnel in self._tunnels if tunnel.heartbeat is not None]
            if heard:
                await asyncio.wait(heard, timeout=min(grace_s, HEARD_S))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    while any(link.active for link in self._links()):
                        self._idle.clear()
                        await self._idle.wait()
        for link in self._links():
            link.end(0, "the client was stopped")
        for task in self._tunnels.values():
            task.cancel()
        if grace_s <= 0:
            # Otherwise it is left to the server to end the connection: a gRPC server drops what its application has not
            # read yet when the connection goes.
            for tunnel in self._tunnels:
                if tunnel.conn is not None:
                    tunnel.conn.hang_up()
        await self._close()
        for tunnel in self._tunnels:
            tunnel.conn = None
        self._tunnels.clear()

    async def _answered(self, patience_s: float) -> None:
        """Returns when no Register waits for its answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while any(tunnel.link is not None and not tunnel.link.up for tunnel in self._tunnels):
                    self._idle.clear()
                    await self._idle.wait()

    async def _close(self) -> None:
        for task in list(self._dials):
            task.cancel()
        for opening in list(self._reactor.opening):
            opening.cut()
        for conn in list(self._reactor.conns):
            conn.leave()
        await settle(self._reactor)
        self._reactor.close()
        self.taps.leave(self._tapped)
        self._closed.set()

    def _links(self) -> list[Link]:
        """Those that carry requests: more than one while a server that is leaving is replaced by another."""
        return [tunnel.link for tunnel in self._tunnels if tunnel.link is not None and tunnel.link.up]

    async def wait_closed(self) -> None:
        if self._runner is not None:
            await asyncio.wait([self._runner])
        if self._failure is not None:
            raise self._failure
        await self._closed.wait()

    def status(self) -> dict[str, Any]:
        links = self._links()
        beat = next((tunnel.heartbeat for tunnel in reversed(self._tunnels) if tunnel.heartbeat), None)
        return {
            "connected": bool(links),
            "server": self._config.server,
            "server_version": self._server_version,
            "clock_ahead_s": self._clock_ahead_s,
            "client_id": self._client_id,
            "name": self.name,
            "urls": list(self.urls),
            "tunnels": len(links),
            "reconnects": self._reconnects,
            "connections": len(self._reactor.conns),
            "timers": self._reactor.timers,
            "reads": self._reactor.reads,
            "writes": self._reactor.writes,
            "buffered_bytes": self._reactor.buffered,
            "active_requests": sum(link.active for link in links),
            "active": by_protocol(link.active_by_protocol for link in links),
            "requests": self._requests + sum(link.requests for link in links),
            "round_trip_s": beat.round_trip_s if beat else None,
        }

    def last_requests(self, n: int) -> list[Ended]:
        return self._journal.last(n) if self._journal is not None else []

    def counts(self) -> Counts:
        links = [tunnel.link for tunnel in self._tunnels if tunnel.link is not None]
        told = self._reactor.tallies.told([exchange for link in links for exchange in link.under_way()])
        told.tunnels.registrations = self._registrations
        told.tunnels.losses = self._losses
        told.tunnels.reconnects = self._reconnects
        beats = [tunnel.heartbeat for tunnel in self._tunnels if tunnel.heartbeat is not None]
        if times := [beat.round_trip_s for beat in beats if beat.round_trip_s is not None]:
            told.tunnels.round_trips_s[self._config.server] = max(times)
        return told

    # -- the tunnel

    async def _run_all(self) -> None:
        """The first connection makes us known to the server; the others join it under the name that it got."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run(0))
            await self._registered.wait()
            for number in range(1, self._config.connections):
                group.create_task(self._run(number))
        await self._close()  # the server does not want us

    def _is_known(self) -> bool:
        """To the server, or will be: a Register has been sent."""
        return any(tunnel.link is not None for tunnel in self._tunnels)

    async def _run(self, index: int) -> None:
        """Be connected; when the tunnel is lost, or the server is about to leave, connect anew."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._config.backoff_min_s, self._config.backoff_max_s)
        while self._failure is None:
            tunnel = Tunnel(loop, index)
            task = self._tunnels[tunnel] = loop.create_task(self._carry(tunnel))
            task.add_done_callback(functools.partial(self._forget, tunnel))
            endings: list[asyncio.Future[Any]] = [task, tunnel.told_to_go]
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            if tunnel.told_to_go.done():
                # In order, so at once. The old tunnel lives on beside the new one until the server ends it.
                go_away = tunnel.told_to_go.result()
                reason = one_line(go_away.reason) or "the server is leaving"
                delay = min(go_away.retry_ms / 1000, self._config.backoff_max_s)
                if loop.time() - tunnel.up_since_s >= limits.SETTLED_S:
                    backoff.reset()
                else:
                    delay = max(delay, backoff.next())
                self._reconnects += 1
            else:
                reason, refusal = task.result()
                if refusal is not None:
                    return await self._give_up(reason, refusal)
                if tunnel.was_up:
                    backoff.reset()
                    self._reconnects += 1
                delay = backoff.next()
            del tunnel, task, endings
            self._events.disconnected(self._config.server, advise(reason), delay)
            await asyncio.sleep(delay)

    async def _give_up(self, reason: str, refusal: FasttunnelError) -> None:
        """The server does not want us; what is under way on a tunnel of before may finish."""
        self._failure = refusal
        self._registered.set()
        self._events.disconnected(self._config.server, reason, None)
        if self._tunnels:
            await asyncio.wait(list(self._tunnels.values()))

    def _forget(self, tunnel: Tunnel, task: asyncio.Task[tuple[str, FasttunnelError | None]]) -> None:
        if not self._draining:  # _stop() clears it: the connections are still closing
            del self._tunnels[tunnel]

    async def _carry(self, tunnel: Tunnel) -> tuple[str, FasttunnelError | None]:
        """One life of a tunnel. Returns why it ended, and the error where coming back would not help."""
        token = self._config.token
        conn = tunnel.conn = LinkConn(
            self._reactor,
            self,
            self._acceptor,
            self._config.server.encode(),
            token.reveal().encode() if token is not None else None,
        )
        try:
            if failure := await self._dial(conn):
                return failure, None
            done, _ = await asyncio.wait([tunnel.lost], timeout=REGISTERED_TIMEOUT_S)
            if not done and not tunnel.was_up:
                return "it did not answer the registration", None
            status, reason = await tunnel.lost
        finally:
            if tunnel.heartbeat is not None:
                tunnel.heartbeat.stop()
                tunnel.heartbeat = None
            if not self._draining:  # see _stop
                conn.hang_up() if tunnel.lost.done() and not tunnel.lost.cancelled() else conn.cut()
                tunnel.conn = None
            del conn  # a cancelled task keeps its frames, and so the connection, until the garbage collector comes
        if status in REFUSALS:
            hint = "is it the server's --tunnel port?" if status == GrpcStatus.UNIMPLEMENTED else None
            return reason, REFUSALS[status](f"{self._config.server} refused the tunnel", detail=reason, hint=hint)
        return reason, None

    async def _dial(self, conn: LinkConn) -> str | None:
        """Connect to the server. Returns what went wrong."""
        host, port = parse_address(self._config.server)
        self._files.check()
        if self._tls_context is not None:
            conn.secure(self._tls_context, self._config.server_name or host)
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await connect(conn, host, port)
        except TimeoutError:
            return "it does not answer"
        except OSError as error:
            return describe(error)
        return None

    # -- what links report (see Link.handler)

    def authorize(self, link: Link, authorization: bytes | None) -> tuple[int, str] | None:
        raise NotImplementedError("a client accepts no tunnels")

    def opened(self, link: Link) -> None:
        tunnel = link.info = next(tunnel for tunnel in self._tunnels if tunnel.conn is link.conn)
        tunnel.link = link
        link.far_end = self._config.server
        self.taps.attend(link)
        link.journal, link.client_id = self._journal, self._client_id.encode()
        if self._knocks:
            return link.send_control(knock().SerializeToString())
        register = Register(
            version=limits.WIRE_VERSION,
            routes=[spec.route.to_message() for spec in self._config.routes],
            initial_window=self._config.initial_window,
            max_fragment=self._config.max_fragment,
            weight=1,
            instance_id=self._numbers.instance_id,
            connection=self._numbers.of(tunnel.index),
            name=self.name,
            any_name=self._config.any_name or not self._config.name,
        )
        message = TunnelMessage(client_id=self._client_id, protocol_type=CONTROL, register=register)
        link.send_control(message.SerializeToString())

    def control(self, link: Link, kind: int, data: bytes) -> None:
        try:
            message = TunnelMessage.FromString(data)
        except Exception:
            link.end(GrpcStatus.INTERNAL, "malformed TunnelMessage")
            return
        tunnel: Tunnel = link.info
        payload = message.WhichOneof("payload")
        if payload == "registered" and not link.up:
            self._welcome(tunnel, link, message.registered)
        elif payload == "heartbeat" and tunnel.heartbeat is not None:
            tunnel.heartbeat.received(message.heartbeat)
        elif payload == "go_away" and link.up and not tunnel.told_to_go.done():
            tunnel.told_to_go.set_result(message.go_away)

    def _welcome(self, tunnel: Tunnel, link: Link, registered: Registered) -> None:
        fragment = fragment_for(self._config.max_fragment, registered.max_fragment)
        window = registered.initial_window or limits.INITIAL_WINDOW_BYTES
        link.start(window, self._config.initial_window, fragment, self._budget)
        tunnel.heartbeat = HeartbeatTimer(link, heartbeat_of(registered))
        # The name that the server gave is kept: it makes us the same client when we come back.
        if is_name(registered.client_id):
            self._client_id = registered.client_id or self._client_id
        link.client_id = self._client_id.encode()
        if not self.urls and (warning := unnamed(self._config, registered)):
            self._events.warning(warning)
        self.name = name_given(registered) or self.name
        self._server_version = registered.server_version
        self._clock_ahead_s = registered.time_ms / 1000 - time.time() if registered.time_ms else None
        host, _ = parse_address(self._config.server)
        self.urls = [at_host(one_line(url), host) for url in registered.urls[: limits.ROUTES_PER_CLIENT]]
        self._registrations += 1
        tunnel.was_up, tunnel.up_since_s = True, asyncio.get_running_loop().time()
        for older in self._links():
            if older is not link and older.info.index == tunnel.index:
                _send_go_away(older, "connected anew", 0)  # so the server that leaves need not wait for us
        self._registered.set()
        self._idle.set()
        if self._draining:
            return _say_goodbye(link, self._grace_s)
        self._events.connected(self._config.server, self.urls)

    def lost(self, link: Link, grpc_status: int, message: str) -> None:
        self._requests += link.requests
        tunnel: Tunnel = link.info
        self._losses += tunnel.was_up
        tunnel.link = None
        if not tunnel.lost.done():
            tunnel.lost.set_result((grpc_status, one_line(message) or "the server closed the tunnel"))
        self._idle.set()

    def refused(self, conn: LinkConn, reason: str) -> None:
        for tunnel in self._tunnels:  # none, if we have given it up ourselves
            if tunnel.conn is conn and not tunnel.lost.done():
                tunnel.lost.set_result((GrpcStatus.UNAVAILABLE, reason))

    def idle(self, link: Link) -> None:
        self._idle.set()

    def warning(self, text: str) -> None:
        self._events.warning(text)

    # -- backends

    def _dial_backend(self, conn: Any, target: Target) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_backend(conn, target))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect_backend(self, conn: Any, target: Target) -> None:
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await connect(conn, target.host, target.port)
        except TimeoutError:
            conn.connect_failed("", True)
        except OSError as error:
            conn.connect_failed(describe(error), False)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            conn.connect_failed("the client is shutting down" if cancelled else "an unexpected error", False)
            raise

    def _backend_failed(self, target: Target, reason: str) -> None:
        if self._sparing.permits(str(target), reason):
            self._events.backend_failed(str(target), reason)


def _say_goodbye(link: Link, grace_s: float) -> None:
    _send_go_away(link, "the client is shutting down", grace_s)
    link.report_idle()


def _send_go_away(link: Link, reason: str, grace_s: float) -> None:
    message = GoAway(reason=reason, grace_ms=int(grace_s * 1000))
    link.send_control(TunnelMessage(protocol_type=CONTROL, go_away=message).SerializeToString())
