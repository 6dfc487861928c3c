"""gRPC calls on HTTP/2 connections to backends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from h2.errors import ErrorCodes

from fasttunnel.errors import GrpcStatus, ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.backend_http1 import Streams, dial
from fasttunnel.reference.dispatch import Exchange, RequestReset, end_tasks
from fasttunnel.reference.fields import BadMessage, Field
from fasttunnel.reference.grpc_streams import (
    BadStream,
    GrpcStreamAssembler,
    decode_details,
    decode_message,
    status_for_http,
)
from fasttunnel.reference.http2 import Http2Connection, Http2Stream, StreamEnded, send_messages
from fasttunnel.wire.tunnel_pb2 import GrpcRequest, GrpcResponse

CONNECTIONS_MAX = 8  # to one backend
CALLS_PER_CONNECTION = 100  # before another connection is dialled, where the backend allows more
ATTEMPTS_MAX = 5
REPLAY_BYTES = 65_536  # of a request that are kept in case its stream is refused
STATUS_FIELDS = frozenset((b"grpc-status", b"grpc-message", b"grpc-status-details-bin"))


class GrpcBackend:
    """A backend and the connections to it."""

    def __init__(self, name: str, authority: bytes, connect: Callable[[], Awaitable[Streams]], config: Any) -> None:
        self.name = name
        self.authority = authority
        self.config = config
        self._connect = connect
        self._connections: list[BackendConnection] = []

    async def connection(self) -> BackendConnection:
        """The one with the fewest calls, or a new one when all are full. Raises RequestReset."""
        usable = [c for c in self._connections if c.usable]
        best = min(usable, key=lambda c: c.calls, default=None)
        if best is None or (best.calls >= best.capacity and len(usable) < CONNECTIONS_MAX):
            best = BackendConnection(self)
            self._connections = [*usable, best]
        best.calls += 1
        try:
            await asyncio.shield(best.ready)
        except BaseException:
            best.calls -= 1
            raise
        return best

    def close(self) -> None:
        for connection in self._connections:
            connection.running.cancel()

    async def serve(self, exchange: Exchange, url: str, host: bytes) -> None:
        """Carry one call to the backend and its answer back."""
        call = GrpcCall(self, exchange, url, host)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if await call.run(final=attempt == ATTEMPTS_MAX):
                return


class BackendConnection:
    """A connection that is dialled as soon as it is made; `ready` is done when it takes calls."""

    def __init__(self, backend: GrpcBackend) -> None:
        self.backend = backend
        self.calls = 0
        self.protocol: Http2Connection | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            config = self.backend.config
            streams = await dial(self.backend._connect, self.backend.name, config.connect_timeout_s)
            protocol = Http2Connection(*streams, client=True, header_list_bytes=config.header_list_bytes)
            reading = asyncio.create_task(protocol.run())
        except BaseException as error:
            self.ready.set_exception(error if isinstance(error, RequestReset) else RequestReset(3, str(error)))
            self.ready.exception()  # there may be nobody left to hear it
            return
        self.protocol = protocol
        self.ready.set_result(None)
        try:
            await reading
        finally:
            streams[1].close()
            await end_tasks(reading)

    @property
    def usable(self) -> bool:
        return not self.running.done() and (
            self.protocol is None or not (self.protocol.going_away or self.protocol.lost)
        )

    @property
    def capacity(self) -> int:
        if self.protocol is None or not self.protocol.settled:
            return CALLS_PER_CONNECTION
        return min(self.protocol.protocol.remote_settings.max_concurrent_streams or 2**31, CALLS_PER_CONNECTION)

    async def open_stream(self, headers: list[Field]) -> Http2Stream:
        """Wait for the backend's SETTINGS and for a free stream (RFC 9113 5.1.2). Raises StreamEnded."""
        protocol = self.protocol
        assert protocol is not None
        while not protocol.lost and not protocol.going_away:
            allowed = protocol.protocol.remote_settings.max_concurrent_streams or 2**31
            if protocol.settled and len(protocol.streams) < allowed:
                return protocol.open_stream(headers)
            protocol.changed.clear()
            await protocol.changed.wait()
        raise StreamEnded(int(ErrorCodes.REFUSED_STREAM) if protocol.going_away else None)


class GrpcCall:
    """One call. Its request may be sent again on another stream while nothing has come back (RFC 9113 8.7)."""

    def __init__(self, backend: GrpcBackend, exchange: Exchange, url: str, host: bytes) -> None:
        self.backend = backend
        self.exchange = exchange
        self.url = url
        self.host = host
        self.request_complete = False
        self.granted = 0  # chunks whose window has been given back
        self.replay: list[GrpcRequest] | None = []  # what has been received so far; None: too much

    async def run(self, *, final: bool) -> bool:
        """False when the stream was refused and the call may be tried again."""
        try:
            connection = await self._connected()
        except RequestReset as reset:
            self.exchange.reset(reset.code, reset.text)
            return True
        stream: Http2Stream | None = None
        tasks: list[asyncio.Task[Any]] = []
        try:
            head = await self._head()
            stream = await connection.open_stream(head)
            self.exchange.grpc_stream_id = stream.id
            tasks = [asyncio.create_task(self._upload(stream)), asyncio.create_task(self._download(stream))]
            upload, download = tasks
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not download.done() and not isinstance(upload.exception(), StreamEnded):
                await upload  # it never returns, it raises
            await download
        except RequestReset as reset:
            if stream is not None:
                stream.reset(ErrorCodes.NO_ERROR if reset.code == ResetCode.NO_ERROR else ErrorCodes.CANCEL)
        except (BadMessage, BadStream) as error:
            too_large = isinstance(error, BadStream) and error.too_large
            self.exchange.reset(ResetCode.TOO_LARGE if too_large else ResetCode.PROTOCOL_ERROR, str(error))
        except StreamEnded as ended:
            answered = stream is not None and stream.headers is not None
            if ended.code == ErrorCodes.REFUSED_STREAM and not final and not answered and self.replay is not None:
                return False
            self._fail(ended)
        finally:
            connection.calls -= 1
            await end_tasks(*tasks)
            if stream is not None:
                if not stream.ended or not self.request_complete:
                    stream.reset(ErrorCodes.CANCEL)
                stream.close()
        return True

    async def _connected(self) -> BackendConnection:
        """A connection, unless the request ends while it is dialled."""
        dialling = asyncio.create_task(self.backend.connection())
        watch = asyncio.create_task(self.exchange.failed())
        try:
            await asyncio.wait([dialling, watch], return_when=asyncio.FIRST_COMPLETED)
            return await (dialling if dialling.done() else watch)  # type: ignore[return-value]
        finally:
            await end_tasks(watch, *([] if dialling.done() else [dialling]))

    def _fail(self, ended: StreamEnded) -> None:
        """How gRPC maps the error codes of HTTP/2 (PROTOCOL-HTTP2.md, "Errors")."""
        codes = {
            None: ResetCode.BACKEND_UNREACHABLE,
            int(ErrorCodes.CANCEL): ResetCode.CANCELLED,
            int(ErrorCodes.REFUSED_STREAM): ResetCode.BACKEND_UNREACHABLE,
            int(ErrorCodes.ENHANCE_YOUR_CALM): ResetCode.OVERLOADED,
        }
        text = "the backend closed the connection" if ended.code is None else f"the backend's stream was {ended}"
        self.exchange.reset(codes.get(ended.code, ResetCode.PROTOCOL_ERROR), text)

    # -- request

    async def _head(self) -> list[Field]:
        """The header list, from the first chunk."""
        if not self.replay:
            self.replay = [await self.exchange.receive()]
        first = self.replay[0]
        path, authority = self.url.encode("latin-1"), self.host or self.backend.authority
        if not fields.valid_target(path) or not fields.valid_value(authority):
            raise BadMessage(502, "the call cannot be sent as HTTP/2")
        metadata = fields.from_tunnel(first.metadata, without=(b"host", b"te"))
        if fields.get(metadata, b"content-type") is None:
            metadata.append((b"content-type", b"application/grpc"))
        pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", authority)]
        return [*pseudo, (b"te", b"trailers"), *metadata]

    async def _upload(self, stream: Http2Stream) -> None:
        """The request out of the tunnel, from its beginning; then wait for what may still end it."""
        assembler = GrpcStreamAssembler()
        replayed, chunk = list(self.replay or []), GrpcRequest()
        while not chunk.is_last_chunk:
            if replayed:
                chunk = replayed.pop(0)
            else:
                chunk = await self.exchange.receive()
                self._remember(chunk)
            await stream.send(assembler.feed(chunk), end=chunk.is_last_chunk)
            if chunk.sequence_number == self.granted:  # not when it is sent again
                self.granted += 1
                self.exchange.consumed(len(chunk.body))
        self.request_complete = True
        await self.exchange.failed()

    def _remember(self, chunk: GrpcRequest) -> None:
        if self.replay is not None:
            self.replay.append(chunk)
            if sum(len(kept.body) for kept in self.replay) > REPLAY_BYTES:
                self.replay = None

    # -- answer

    async def _download(self, stream: Http2Stream) -> None:
        """The answer into the tunnel."""
        while stream.headers is None:
            await stream.more()
        if sum(len(name) + len(value) + 32 for name, value in stream.headers) > self.backend.config.header_list_bytes:
            raise BadMessage(502, "header list of the backend's answer above the limit")
        status = int(fields.get(stream.headers, b":status") or 0)
        typed = (fields.get(stream.headers, b"content-type") or b"").startswith(b"application/grpc")
        if status != 200 or not typed:
            # Not gRPC: a proxy or a web server answers. Its body says nothing that a gRPC client could read.
            chunk = GrpcResponse(is_first_chunk=True, is_last_chunk=True)
            own = [] if fields.get(stream.headers, b"grpc-status") is None else stream.headers
            self._put_status(chunk, own)
            if not own:
                chunk.status_code = status_for_http(status) if status != 200 else GrpcStatus.UNKNOWN
                untyped = "" if typed else " and no gRPC content-type"
                chunk.status_message = f"the backend answered with HTTP status {status}{untyped}"
            self.exchange.send(chunk)
        elif stream.drained and not stream.trailers:  # Trailers-Only
            chunk = GrpcResponse(is_first_chunk=True, is_last_chunk=True)
            self._put_status(chunk, stream.headers)
            chunk.trailing_metadata.extend(_metadata(stream.headers))
            self.exchange.send(chunk)
        else:
            chunk = GrpcResponse(initial_metadata=_metadata(stream.headers))
            limit = self.backend.config.grpc_message_bytes
            await send_messages(stream, self.exchange, chunk, limit, lambda last: self._complete(last, stream))
        if self.request_complete:
            self.exchange.finish()
        else:
            self.exchange.reset(ResetCode.NO_ERROR)
            stream.reset(ErrorCodes.NO_ERROR)

    def _complete(self, chunk: GrpcResponse, stream: Http2Stream) -> None:
        self._put_status(chunk, stream.trailers)
        chunk.trailing_metadata.extend(_metadata(stream.trailers))

    def _put_status(self, chunk: GrpcResponse, headers: list[Field]) -> None:
        status = fields.get(headers, b"grpc-status")
        if status is None:
            chunk.status_code, chunk.status_message = GrpcStatus.UNKNOWN, "the backend sent no grpc-status"
            return
        chunk.status_code = int(status) if status.isdigit() and len(status) <= 9 else GrpcStatus.UNKNOWN
        chunk.status_message = decode_message(fields.get(headers, b"grpc-message") or b"")
        chunk.status_details = decode_details(fields.get(headers, b"grpc-status-details-bin") or b"")


def _metadata(headers: list[Field]) -> list[Any]:
    return fields.to_tunnel([f for f in headers if f[0][:1] != b":"], without=STATUS_FIELDS)
