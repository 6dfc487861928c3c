"""The end beside the backends: dialling the server and coming back, finding the backend of a request, draining."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from fasttunnel import limits
from fasttunnel.control import config as settings
from fasttunnel.control.backoff import Backoff
from fasttunnel.control.counts import OWN, Counts
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
from fasttunnel.control.routes import Route, RouteTable, at_host, by_protocol, format_address
from fasttunnel.control.taps import Taps
from fasttunnel.control.tls import H2, HTTP11, advise, client_context
from fasttunnel.errors import AuthError, ConnectError, FasttunnelError, GrpcStatus, RegisterError, ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.backend import Backend, Streams
from fasttunnel.reference.backend_grpc import GrpcBackend
from fasttunnel.reference.backend_http1 import Http1Backend
from fasttunnel.reference.carrier import Tunnel, channel_to, dial
from fasttunnel.reference.closing import settle
from fasttunnel.reference.exchange import Exchange, WindowBudget
from fasttunnel.reference.messages import RequestReset, end_tasks
from fasttunnel.reference.recording import Recorder, recorder_of
from fasttunnel.reference.tally import Tallies
from fasttunnel.wire.tunnel_pb2 import CONTROL, GRPC, WEBSOCKET, GoAway, Register, Registered, TunnelMessage

# Statuses that another attempt would only meet again.
REFUSALS: dict[int, type[FasttunnelError]] = {
    GrpcStatus.UNAUTHENTICATED: AuthError,
    GrpcStatus.PERMISSION_DENIED: AuthError,
    GrpcStatus.ALREADY_EXISTS: RegisterError,
    GrpcStatus.INVALID_ARGUMENT: RegisterError,
    GrpcStatus.UNIMPLEMENTED: ConnectError,
}
HEARD_S = 2.0  # for a server to answer that it knows that we leave
LAST_WORDS_S = 0.05  # for what has been said to leave, where a stop is to take no time
REGISTERED_TIMEOUT_S = 10.0


class ClientTunnel(Tunnel):
    """One life of the tunnel, seen from the client: the server opens requests on it."""

    accepts_requests = True

    def __init__(self, engine: ClientEngine, index: int) -> None:
        super().__init__(engine.config.server, engine.taps)
        self.engine = engine
        self.tallies = engine.tallies
        self.index = index  # which one of several at the same time
        self.registers = False  # the server knows of it, or will
        self.was_up = False
        self.up_since_s = 0.0
        self.told_to_go: asyncio.Future[GoAway] = asyncio.get_running_loop().create_future()

    def on_open(self) -> None:
        self.engine.register(self)

    def on_control(self, kind: str, message: TunnelMessage) -> None:
        if kind == "registered" and not self.was_up:
            self.was_up, self.up_since_s = True, asyncio.get_running_loop().time()
            self.engine.welcome(self, message.registered)
        elif kind == "heartbeat":
            self.heard(message.heartbeat)
        elif kind == "go_away" and not self.told_to_go.done():
            self.told_to_go.set_result(message.go_away)

    def on_request(self, exchange: Exchange) -> None:
        self.engine.serve(exchange)

    def on_end(self, exchange: Exchange) -> None:
        self.engine.record(exchange)
        if not self.requests:
            self.engine.idle.set()


class ClientEngine:
    """The end beside the backends, on asyncio. Satisfies `fasttunnel.abc.ClientEngine`."""

    def __init__(self, config: settings.ClientConfig, *, events: Events, after: ClientEngine | None = None) -> None:
        self.config = config
        self.budget = WindowBudget(config.max_window, config.window_budget)
        self.tallies = Tallies()
        self.events = events
        self.urls: Sequence[str] = []
        self._server_version = ""
        self._clock_ahead_s: float | None = None
        self.idle = asyncio.Event()
        # One that takes over is the same client, with other connections beside those that are up.
        self._numbers: Numbers = Numbers(self._is_known, after._numbers if after is not None else None)
        self._client_id: str = config.client_id
        self.name: str = config.name
        if after is not None and config.client_id == after.config.client_id:
            self._client_id = after._client_id
        if after is not None and config.name == after.config.name:
            self.name = after.name
        self._tapped = lambda: self._tunnels
        self._routes: RouteTable[Backend[Any]] = RouteTable()
        self._backends: dict[settings.Backend, Backend[Any]] = {}
        self._named: dict[Backend[Any], settings.Backend] = {}
        self._recorder: Recorder | None = after._recorder if after is not None else recorder_of(events)
        self._tunnels: dict[ClientTunnel, asyncio.Task[tuple[int, str]]] = {}  # the newest last
        self.taps: Taps = after.taps if after is not None else Taps(tuple, events.tap)
        self._connections: WeakSet[asyncio.StreamWriter] = WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._backend_contexts: dict[str, ssl.SSLContext] = {}
        self._registered = asyncio.Event()
        self._closed = asyncio.Event()
        self._failure: FasttunnelError | None = None
        self._knocks = False  # see check_login
        self._runner: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._draining = False
        self._grace_s = 0.0
        self._reconnects = self._requests = self._registrations = self._losses = 0
        self._sparing = Sparing()

    # -- starting and stopping

    async def start(self) -> None:
        await channel_to(self.config).close()  # raises what is wrong with its options
        for spec in self.config.routes:
            if spec.backend not in self._backends:
                backend = self._backends[spec.backend] = self._new_backend(spec.backend)
                self._named[backend] = spec.backend
            self._routes.add(self._backends[spec.backend], [spec.route])
        self.taps.follow(self._tapped)
        self._runner = asyncio.create_task(self._run_all())
        waiter = asyncio.create_task(self._registered.wait())
        try:
            await asyncio.wait([waiter, self._runner], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._failure is not None:
            raise self._failure

    async def check_login(self) -> None:
        self._knocks = True
        await channel_to(self.config).close()
        tunnel = ClientTunnel(self, 0)
        task = self._tunnels[tunnel] = asyncio.create_task(self._carry(tunnel))
        status, reason = await task
        await self._close()
        check_knock(self.config.server, reason, self._refusal(status, reason))

    def _backend_context(self, protocol: str) -> ssl.SSLContext:
        """One for all backends of a kind: to read the authorities of a system takes a while. Raises ConfigError."""
        if protocol not in self._backend_contexts:
            ca, verify = self.config.backend_ca, self.config.backend_verify
            self._backend_contexts[protocol] = client_context([protocol], ca, verify=verify)
        return self._backend_contexts[protocol]

    def _new_backend(self, backend: settings.Backend) -> Backend[Any]:
        protocol = H2 if backend.grpc else HTTP11
        context = self._backend_context(protocol) if backend.secure else None

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection(backend.host, backend.port, ssl=context)
            self._connections.add(writer)
            secure = writer.get_extra_info("ssl_object")
            if secure is not None and protocol == H2 and secure.selected_alpn_protocol() != H2:
                writer.transport.abort()
                raise ConnectionError("it does not speak HTTP/2 there (no h2 by ALPN)")
            return reader, writer

        def on_failure(reason: str) -> None:
            if self._sparing.permits(backend, reason):
                self.events.backend_failed(str(backend), reason)

        kind = GrpcBackend if backend.grpc else Http1Backend
        return kind(format_address(backend.host, backend.port).encode(), connect, on_failure, self.config)

    def add_route(self, spec: settings.RouteSpec) -> Callable[[], None]:
        backend = self._new_backend(spec.backend)
        self._routes.add(backend, [spec.route])

        def end() -> None:
            self._routes.remove(backend)
            backend.close()

        return end

    async def stop(self, grace_s: float | None = None) -> None:
        """A second call with a shorter grace overtakes the first."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.cancel()
        elif self._closed.is_set():
            return
        if self._runner is None:  # its start has not come far
            return self._closed.set()
        self._stopping = asyncio.create_task(self._stop(self.config.drain_timeout_s if grace_s is None else grace_s))
        await asyncio.wait([self._stopping])

    async def _stop(self, grace_s: float) -> None:
        assert self._runner is not None
        self._draining, self._grace_s = True, grace_s
        self._runner.cancel()  # a tunnel that is lost now is not dialled again
        for tunnel, task in self._tunnels.items():
            if not tunnel.registers:  # it is still dialled
                task.cancel()
        tunnels = [tunnel for tunnel in self._tunnels if tunnel.up]
        for tunnel in tunnels:
            tunnel.send_go_away("the client is shutting down", grace_s)
        if grace_s > 0:
            # What has sent its Register may be registered, and have requests, before we know.
            await self._answered(min(grace_s, HEARD_S))
            tunnels = [tunnel for tunnel in self._tunnels if tunnel.up]
        # Requests that were on their way when we said so are still taken: the server has not heard it yet.
        if grace_s > 0 and tunnels:
            hearing = [asyncio.create_task(tunnel.caught_up()) for tunnel in tunnels]
            await asyncio.wait(hearing, timeout=min(grace_s, HEARD_S))
            await end_tasks(*hearing)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while any(tunnel.requests for tunnel in self._tunnels):
                    self.idle.clear()
                    await self.idle.wait()
        tunnels = [tunnel for tunnel in self._tunnels if tunnel.up]
        for tunnel in tunnels:
            tunnel.end(0, "the client was stopped")
        if tunnels:
            await asyncio.wait([tunnel.over for tunnel in tunnels], timeout=2.0 if grace_s > 0 else LAST_WORDS_S)
        await end_tasks(self._runner, *self._tunnels.values())
        await self._close()

    async def _answered(self, patience_s: float) -> None:
        """Returns when no Register waits for its answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while any(
                    tunnel.registers and not tunnel.was_up and not tunnel.ended.done() for tunnel in self._tunnels
                ):
                    self.idle.clear()
                    await self.idle.wait()

    async def _close(self) -> None:
        await end_tasks(*self._tasks)
        for backend in self._backends.values():
            backend.close()
        writers = list(self._connections)
        for writer in writers:
            writer.close()
        await settle(writers)
        self.taps.leave(self._tapped)
        self._closed.set()

    async def wait_closed(self) -> None:
        if self._runner is not None:
            await asyncio.wait([self._runner])
        if self._failure is not None:
            raise self._failure
        await self._closed.wait()

    def status(self) -> dict[str, Any]:
        tunnels = list(self._tunnels)
        return {
            "connected": any(tunnel.up for tunnel in tunnels),
            "server": self.config.server,
            "server_version": self._server_version,
            "clock_ahead_s": self._clock_ahead_s,
            "client_id": self._client_id,
            "name": self.name,
            "urls": list(self.urls),
            "tunnels": sum(tunnel.up for tunnel in tunnels),
            "reconnects": self._reconnects,
            "connections": sum(not writer.is_closing() for writer in self._connections) + len(tunnels),
            "tasks": len(self._tasks),
            "buffered_bytes": sum(tunnel.buffered for tunnel in tunnels)
            + sum(writer.transport.get_write_buffer_size() for writer in self._connections if not writer.is_closing()),
            "active_requests": sum(len(tunnel.requests) for tunnel in tunnels),
            "active": by_protocol(tunnel.active_by_protocol for tunnel in tunnels),
            "requests": self._requests + sum(tunnel.opened for tunnel in tunnels),
            "round_trip_s": next((tunnel.round_trip_s or None for tunnel in reversed(tunnels) if tunnel.up), None),
        }

    def last_requests(self, n: int) -> list[Ended]:
        return self._recorder.last(n) if self._recorder is not None else []

    def counts(self) -> Counts:
        told = self.tallies.told([exchange for tunnel in self._tunnels for exchange in tunnel.requests.values()])
        told.tunnels.registrations = self._registrations
        told.tunnels.losses = self._losses
        told.tunnels.reconnects = self._reconnects
        if times := [tunnel.latest_s for tunnel in self._tunnels if tunnel.latest_s is not None]:
            told.tunnels.round_trips_s[self.config.server] = max(times)
        return told

    # -- the tunnel

    async def _run_all(self) -> None:
        """The first connection makes us known to the server; the others join it under the name that it got."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run(0))
            await self._registered.wait()
            for number in range(1, self.config.connections):
                group.create_task(self._run(number))
        await self._close()  # the server does not want us

    def _is_known(self) -> bool:
        """To the server, or will be: a Register has been sent."""
        return any(tunnel.registers and not tunnel.ended.done() for tunnel in self._tunnels)

    async def _run(self, index: int) -> None:
        """Be connected; when the tunnel is lost, or the server is about to leave, connect anew."""
        backoff = Backoff(self.config.backoff_min_s, self.config.backoff_max_s)
        while self._failure is None:
            tunnel = ClientTunnel(self, index)
            task = self._tunnels[tunnel] = asyncio.create_task(self._carry(tunnel))
            endings: list[asyncio.Future[Any]] = [task, tunnel.told_to_go]
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            status, reason = task.result() if task.done() else (0, "")
            if status in REFUSALS:
                return await self._give_up(status, reason)
            self._reconnects += tunnel.was_up
            delay = 0.0
            if tunnel.told_to_go.done():
                # In order, so at once. The old tunnel lives on beside the new one until the server ends it.
                go_away = tunnel.told_to_go.result()
                reason = one_line(go_away.reason) or "the server is leaving"
                delay = min(go_away.retry_ms / 1000, self.config.backoff_max_s)
            settled = asyncio.get_running_loop().time() - tunnel.up_since_s >= limits.SETTLED_S
            if tunnel.was_up and (settled or not tunnel.told_to_go.done()):
                backoff.reset()
            if not (settled and tunnel.told_to_go.done()):
                delay = max(delay, backoff.next())
            self.events.disconnected(self.config.server, advise(reason), delay)
            await asyncio.sleep(delay)

    async def _give_up(self, status: int, reason: str) -> None:
        """The server does not want us; what is under way on a tunnel of before may finish."""
        self._failure = self._refusal(status, reason)
        self._registered.set()
        self.events.disconnected(self.config.server, reason, None)
        if self._tunnels:
            await asyncio.wait(list(self._tunnels.values()))

    def _refusal(self, status: int, reason: str) -> FasttunnelError | None:
        """The error where coming back would not help."""
        if status not in REFUSALS:
            return None
        hint = "is it the server's --tunnel port?" if status == GrpcStatus.UNIMPLEMENTED else None
        return REFUSALS[status](f"{self.config.server} refused the tunnel", detail=reason, hint=hint)

    async def _carry(self, tunnel: ClientTunnel) -> tuple[int, str]:
        """One life of a tunnel: the status that it ended with."""
        waiting_s = max(REGISTERED_TIMEOUT_S, self.config.connect_timeout_s)
        timeout = asyncio.get_running_loop().call_later(waiting_s, self._give_up_silent, tunnel)
        dialling = asyncio.create_task(dial(self.config, tunnel))
        try:
            await asyncio.wait([dialling])
        finally:
            timeout.cancel()
            await end_tasks(dialling)
            self._requests += tunnel.opened
            self._losses += tunnel.was_up
            del self._tunnels[tunnel]
            self.idle.set()
        status, reason = tunnel.ended.result()
        return status, one_line(reason) or "the server closed the tunnel"

    def register(self, tunnel: ClientTunnel) -> None:
        if self._knocks:
            return tunnel.send(knock())
        register = Register(
            version=limits.WIRE_VERSION,
            routes=[spec.route.to_message() for spec in self.config.routes],
            initial_window=self.config.initial_window,
            max_fragment=self.config.max_fragment,
            weight=1,
            instance_id=self._numbers.instance_id,
            connection=self._numbers.of(tunnel.index),
            name=self.name,
            any_name=self.config.any_name or not self.config.name,
        )
        message = TunnelMessage(client_id=self._client_id, protocol_type=CONTROL, register=register)
        tunnel.send(message)
        tunnel.registers = True

    def _give_up_silent(self, tunnel: ClientTunnel) -> None:
        if not tunnel.was_up:
            tunnel.end(GrpcStatus.UNAVAILABLE, "it did not answer the registration")

    def welcome(self, tunnel: ClientTunnel, registered: Registered) -> None:
        """The server has taken the registration."""
        self._registrations += 1
        fragment = fragment_for(self.config.max_fragment, registered.max_fragment)
        tunnel.start(registered.initial_window, self.config.initial_window, fragment, self.budget)
        tunnel.start_heartbeat(heartbeat_of(registered))
        # The name that the server gave is kept: it makes us the same client when we come back.
        if is_name(registered.client_id):
            self._client_id = registered.client_id or self._client_id
        if not self.urls and (warning := unnamed(self.config, registered)):
            self.events.warning(warning)
        self.name = name_given(registered) or self.name
        self._server_version = registered.server_version
        self._clock_ahead_s = registered.time_ms / 1000 - time.time() if registered.time_ms else None
        host, _ = settings.parse_address(self.config.server)
        self.urls = [at_host(one_line(url), host) for url in registered.urls[: limits.ROUTES_PER_CLIENT]]
        for older in self._tunnels:
            if older is not tunnel and older.index == tunnel.index and older.up:
                older.send_go_away("connected anew", 0)  # so the server that leaves need not wait for us
        self._registered.set()
        self.idle.set()
        if self._draining:
            return tunnel.send_go_away("the client is shutting down", self._grace_s)
        self.events.connected(self.config.server, self.urls)

    # -- requests

    def record(self, exchange: Exchange) -> None:
        if self._recorder is not None:
            self._recorder.ended(exchange, self._client_id)

    def serve(self, exchange: Exchange) -> None:
        """A request has come."""
        task = asyncio.create_task(self._serve(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, exchange: Exchange) -> None:
        """Find the backend again, by the same rules as the server, and hand the request to it.

        Only what the client's own configuration names is ever connected to, whatever a message says.
        """
        request, is_grpc = exchange.first, exchange.protocol == GRPC
        url = f"/{request.service}/{request.method}" if is_grpc else request.url
        host = request.authority if is_grpc else request.host
        found = self._routes.match(exchange.protocol, host, url.partition("?")[0])
        exchange.method = url if is_grpc else ""
        named = self._named.get(found[1]) if found is not None else None
        counted = None if found is None else found[0] if named is not None else OWN
        self.tallies.began(exchange, counted)
        method = "" if is_grpc else getattr(request, "method", "GET")
        exchange.label = (method, host, url.partition("?")[0], str(named or ""))
        if exchange.trace_id:
            passed = request.metadata if is_grpc else request.headers
            exchange.parent_id = fields.parent_id((field.name.encode(), field.value) for field in passed)
        if found is None:
            return exchange.reset(ResetCode.NO_ROUTE, "this client has no backend for the request")
        route, backend = found
        target = url if is_grpc else _stripped(route, url)
        authority = (route.host_rewrite or host).encode()
        try:
            handshake = exchange.protocol == WEBSOCKET
            await (backend.serve_websocket if handshake else backend.serve)(exchange, target, authority)
        except RequestReset as reset:
            exchange.reset(reset.code, reset.text)
        finally:
            exchange.reset(ResetCode.BACKEND_UNREACHABLE, "the client is shutting down")  # unless it has ended


def _stripped(route: Route, url: str) -> str:
    if not (route.strip_prefix and route.path_prefix):
        return url
    url = url.removeprefix(route.path_prefix)
    return url if url.startswith("/") else f"/{url}"
