"""Backends: connections to them, and the requests that the tunnel brings for them."""

from __future__ import annotations

import asyncio
import base64
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fasttunnel import limits
from fasttunnel.control.config import ClientConfig
from fasttunnel.errors import ResetCode, describe
from fasttunnel.reference import fields
from fasttunnel.reference.exchange import Exchange
from fasttunnel.reference.http1 import Http1Stream
from fasttunnel.reference.http2 import Http2Connection, Http2Stream
from fasttunnel.reference.messages import (
    BadMessage,
    Field,
    Head,
    RequestReset,
    Unprocessed,
    end_tasks,
    while_running,
)
from fasttunnel.reference.relay import Replay, into_tunnel, out_of_tunnel
from fasttunnel.reference.translation import Chunk, GrpcTranslation, HttpTranslation, Translation
from fasttunnel.reference.websocket import WebSocketRelay
from fasttunnel.reference.websocket_frames import accept_key
from fasttunnel.wire.tunnel_pb2 import WebSocketRequest, WebSocketResponse

ATTEMPTS_MAX = 5  # for one request
IDLE_MAX = 64  # kept HTTP/1.1 connections to one backend
IDLE_S = 60.0  # a kept connection is closed after this
CONNECTIONS_MAX = 8  # of HTTP/2 to one backend
CALLS_PER_CONNECTION = 100  # before another connection is dialled, where the backend allows more
HANDSHAKE_S = 30.0
REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # safe methods, RFC 9110 9.2.1

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
S = TypeVar("S", Http1Stream, Http2Stream)


class Backend(ABC, Generic[S]):
    """A server that requests end at; what HTTP/1.1 and gRPC have in common."""

    def __init__(
        self, name: str, authority: bytes, connect: Callable[[], Awaitable[Streams]], config: ClientConfig
    ) -> None:
        self.name = name
        self.authority = authority
        self.config = config
        self._connect = connect

    async def dial(self) -> Streams:
        """A new connection. Raises RequestReset with what the public is to be answered."""
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                return await self._connect()
        except TimeoutError:
            text = f"backend {self.name} did not take the connection in time"
            raise RequestReset(ResetCode.BACKEND_TIMEOUT, text) from None
        except OSError as error:
            text = f"backend {self.name} cannot be reached: {describe(error)}"
            raise RequestReset(ResetCode.BACKEND_UNREACHABLE, text) from None

    @abstractmethod
    async def open(self, *, fresh: bool) -> S:
        """A stream for a request; `fresh`: not one that may be stale. Raises RequestReset."""

    @abstractmethod
    def release(self, stream: S, *, over: bool) -> None:
        """A stream is not used any more; `over`: request and answer are complete."""

    @abstractmethod
    def repeatable(self, first: Chunk) -> bool:
        """Whether a request may be sent once more if the backend has not processed it."""

    @abstractmethod
    def translation(self) -> Translation: ...

    async def serve_websocket(self, exchange: Exchange, target: str, authority: bytes) -> None:
        """The same for a WebSocket."""
        exchange.reset(ResetCode.NO_ROUTE, "this backend serves no WebSocket")

    @abstractmethod
    def close(self) -> None:
        """Close what is idle."""

    async def serve(self, exchange: Exchange, target: str, authority: bytes) -> None:
        """Carry one request to the backend and its answer back."""
        first, source = exchange.first, Replay(exchange)
        authority = authority or self.authority
        self.translation().request_part(first, target, authority)  # what cannot be sent is refused before anything else
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return await self._attempt(exchange, source, target, authority, fresh=attempt > 1)
            except Unprocessed as error:
                if attempt == ATTEMPTS_MAX or not self.repeatable(first) or not source.rewind():
                    return exchange.reset(error.code, error.text)
            except RequestReset as error:
                return exchange.reset(error.code, error.text)  # unless the public's side has ended it

    async def _attempt(self, exchange: Exchange, source: Replay, target: str, authority: bytes, *, fresh: bool) -> None:
        translation = self.translation()
        stream = await while_running(self.open(fresh=fresh), exchange.failed())

        async def request() -> None:
            """Out of the tunnel. What the backend makes of it is told by its answer, also when it reads no further."""
            try:
                await out_of_tunnel(source, lambda chunk: translation.request_part(chunk, target, authority), stream)
            except RequestReset as error:
                if isinstance(error, BadMessage) or exchange.failure is not None:
                    raise
            await exchange.failed()

        async def answer() -> None:
            """Into the tunnel."""
            head = await stream.next_head()
            while 100 <= head.status < 200:
                if head.status == 101:
                    raise BadMessage("101 without an upgrade")
                if isinstance(translation, HttpTranslation):
                    exchange.send(translation.answer_chunk(head, alone=False))
                head = await stream.next_head()
            if isinstance(stream, Http2Stream):
                exchange.grpc_stream_id = stream.id
                if head.size > self.config.header_list_bytes:
                    raise BadMessage("header list of the backend's answer above the limit")
            alone = stream.ended and not stream.trailers
            await into_tunnel(stream, exchange, translation, translation.answer_chunk(head, alone=alone))

        try:
            await while_running(answer(), request(), exchange.overdue())
            # The connection first: the next request may be here before anything else happens.
            self.release(stream, over=exchange.receiving.closed)
            if exchange.receiving.closed:
                exchange.finish()
            else:
                exchange.reset(ResetCode.NO_ERROR)  # the rest of the request is not wanted any more
        except BaseException:
            stream.abort(ResetCode.CANCELLED)
            self.release(stream, over=False)
            raise


# -- HTTP/1.1 and WebSocket -------------------------------------------------------------------------------------------


class Http1Backend(Backend[Http1Stream]):
    """Connections are kept for the next request of the same backend."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._idle: dict[asyncio.Task[bytes], Http1Stream] = {}  # by who watches over each

    def translation(self) -> Translation:
        return HttpTranslation()

    async def open(self, *, fresh: bool) -> Http1Stream:
        """A kept connection on which nothing has happened since, or a new one."""
        while self._idle and not fresh:
            watch, stream = self._idle.popitem()
            if not watch.done():
                await end_tasks(watch)
                return stream
            stream.writer.close()
        reader, writer = await self.dial()
        return Http1Stream(reader, writer, self.config.header_list_bytes, public=False)

    def release(self, stream: Http1Stream, *, over: bool) -> None:
        """Whatever a backend does before the next request (it closes, it speaks unasked) is the end of a connection."""
        if not over or not stream.next_cycle() or len(self._idle) >= IDLE_MAX:
            return stream.writer.transport.abort()
        watch = asyncio.create_task(self._watch(stream.reader))
        self._idle[watch] = stream
        watch.add_done_callback(self._drop)

    async def _watch(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(IDLE_S):
            return await reader.read(1)

    def _drop(self, watch: asyncio.Task[bytes]) -> None:
        if not watch.cancelled():
            watch.exception()
        if (stream := self._idle.pop(watch, None)) is not None:
            stream.writer.close()

    def repeatable(self, first: Chunk) -> bool:
        """RFC 9110 9.2.2: safe methods, without a body."""
        return first.is_last_chunk and not first.body and first.method in REPEATABLE

    def close(self) -> None:
        for watch in list(self._idle):
            watch.cancel()

    async def serve_websocket(self, exchange: Exchange, target: str, authority: bytes) -> None:
        """Handshake (RFC 6455 4.1) with a key of our own, then frames."""
        request: WebSocketRequest = await exchange.receive()
        head, key = _upgrade(request, target, authority or self.authority)
        stream = await while_running(self.open(fresh=True), exchange.failed())
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await stream.upgrade(head)
                answer = await while_running(self._answer(stream, key), exchange.failed())
            exchange.send(answer)
            if not answer.accepted:
                return exchange.finish()
            await WebSocketRelay(exchange, stream, answer, self.config.ws_message_bytes).run()
        except TimeoutError:
            exchange.reset(ResetCode.BACKEND_TIMEOUT, "the backend did not answer the handshake in time")
        finally:
            if exchange.failure is not None and not stream.writer.is_closing():
                stream.writer.transport.abort()
            stream.writer.close()

    async def _answer(self, stream: Http1Stream, key: bytes) -> WebSocketResponse:
        head = await stream.next_head()
        while 100 <= head.status < 200 and head.status != 101:
            head = await stream.next_head()
        if head.status != 101:
            body = bytearray()
            while (data := stream.take()) or not stream.ended:
                body += data
                if len(body) >= limits.WS_REFUSAL_BODY_BYTES:
                    break
                if not data:
                    await stream.more()
            body_bytes = bytes(body[: limits.WS_REFUSAL_BODY_BYTES])
            return WebSocketResponse(status_code=head.status, headers=fields.to_tunnel(head.fields), body=body_bytes)
        upgraded = (fields.get(head.fields, b"upgrade") or b"").lower() == b"websocket"
        upgraded = upgraded and b"upgrade" in fields.tokens(head.fields, b"connection")
        chosen = fields.get(head.fields, b"sec-websocket-protocol") or b""
        if not upgraded or fields.get(head.fields, b"sec-websocket-accept") != accept_key(key) or not chosen.isascii():
            raise BadMessage("101 without the right Upgrade, Connection, Sec-WebSocket-Accept or -Protocol")
        passing = fields.to_tunnel(head.fields, without=(b"sec-websocket-accept", b"sec-websocket-protocol"))
        return WebSocketResponse(status_code=101, accepted=True, headers=passing, subprotocol=chosen.decode())


def _upgrade(request: WebSocketRequest, target: str, authority: bytes) -> tuple[Head, bytes]:
    """The head of a handshake, and its key."""
    key = base64.b64encode(os.urandom(16))
    fields.check_target(b"GET", target.encode(), authority)
    head: list[Field] = [
        (b"Host", authority),
        *fields.from_tunnel([*request.headers, *fields.subprotocol(request)], without=(b"host", b"content-length")),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    return Head(head, b"GET", target.encode(), authority), key


# -- gRPC -------------------------------------------------------------------------------------------------------------


class GrpcBackend(Backend[Http2Stream]):
    """HTTP/2 connections; another one is dialled when all are full."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._connections: list[GrpcConnection] = []

    def translation(self) -> Translation:
        return GrpcTranslation(self.config.grpc_message_bytes)

    async def open(self, *, fresh: bool) -> Http2Stream:
        """On the connection with the fewest calls, when it has a free stream."""
        usable = self._connections = [each for each in self._connections if each.usable]
        best = min(usable, key=lambda each: each.calls, default=None)
        if best is None or (best.calls >= best.capacity and len(usable) < CONNECTIONS_MAX):
            best = GrpcConnection(self)
            usable.append(best)
        best.waiting += 1
        try:
            return await (await asyncio.shield(best.ready)).open_stream()
        finally:
            best.waiting -= 1

    def release(self, stream: Http2Stream, *, over: bool) -> None:
        stream.close()

    def repeatable(self, first: Chunk) -> bool:
        return True  # what was not processed may be sent again, whatever it is (RFC 9113 8.7)

    def close(self) -> None:
        for connection in self._connections:
            connection.running.cancel()


class GrpcConnection:
    """A connection that is dialled as soon as it is made; `ready` is done when it takes calls."""

    def __init__(self, backend: GrpcBackend) -> None:
        self.waiting = 0
        self.ready: asyncio.Future[Http2Connection] = asyncio.get_running_loop().create_future()
        self.running = asyncio.create_task(self._run(backend))

    async def _run(self, backend: GrpcBackend) -> None:
        try:
            protocol = Http2Connection(*await backend.dial(), backend.config.header_list_bytes)
        except BaseException as error:
            self.ready.set_exception(error if isinstance(error, RequestReset) else RequestReset(3, str(error)))
            self.ready.exception()  # there may be nobody left to hear it
            return
        self.ready.set_result(protocol)
        await protocol.run()

    @property
    def protocol(self) -> Http2Connection | None:
        return self.ready.result() if self.ready.done() and self.ready.exception() is None else None

    @property
    def usable(self) -> bool:
        return not self.running.done() and (self.protocol is None or self.protocol.usable)

    @property
    def calls(self) -> int:
        return self.waiting + (len(self.protocol.opened) if self.protocol is not None else 0)

    @property
    def capacity(self) -> int:
        return min(self.protocol.capacity, CALLS_PER_CONNECTION) if self.protocol is not None else CALLS_PER_CONNECTION
