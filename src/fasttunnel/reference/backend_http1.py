"""HTTP/1.1 and WebSocket towards backends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os

from fasttunnel import limits
from fasttunnel.errors import ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.backend import Backend
from fasttunnel.reference.exchange import Exchange
from fasttunnel.reference.http1 import Http1Stream
from fasttunnel.reference.messages import (
    BadMessage,
    Field,
    Head,
    RequestReset,
    end_tasks,
    while_running,
)
from fasttunnel.reference.translation import Chunk, HttpTranslation, Translation
from fasttunnel.reference.websocket import WebSocketRelay
from fasttunnel.reference.websocket_frames import accept_key
from fasttunnel.wire.tunnel_pb2 import WebSocketRequest, WebSocketResponse

IDLE_MAX = 64  # kept HTTP/1.1 connections to one backend
HANDSHAKE_S = 30.0
REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # safe methods, RFC 9110 9.2.1


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
                try:
                    await end_tasks(watch)
                except BaseException:
                    stream.writer.close()
                    raise
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
        async with asyncio.timeout(self.config.keep_alive_timeout_s):
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
                answer = await while_running(self._answer(exchange, stream, key), exchange.failed())
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

    async def _answer(self, exchange: Exchange, stream: Http1Stream, key: bytes) -> WebSocketResponse:
        head = await stream.next_head()
        while 100 <= head.status < 200 and head.status != 101:
            exchange.count_interim(sum(len(name) + len(value) for name, value in head.fields))
            head = await stream.next_head()
        if head.status != 101:
            body = bytearray()
            with contextlib.suppress(RequestReset):  # it broke off: what has come of it is passed on
                while (data := stream.take()) or not stream.ended:
                    body += data
                    if len(body) >= limits.WS_REFUSAL_BODY_BYTES:
                        break
                    if not data:
                        await stream.more()
            body_bytes = bytes(body[: limits.WS_REFUSAL_BODY_BYTES])
            return WebSocketResponse(status_code=head.status, headers=fields.to_tunnel(head.fields), body=body_bytes)
        upgraded = [value.lower() for value in fields.get_all(head.fields, b"upgrade")] == [b"websocket"]
        upgraded = upgraded and b"upgrade" in fields.tokens(head.fields, b"connection") and not stream.http10
        chosen = fields.get(head.fields, b"sec-websocket-protocol") or b""
        accepts = fields.get_all(head.fields, b"sec-websocket-accept")
        if not upgraded or accepts != [accept_key(key)] or not chosen.isascii():
            raise BadMessage("101 without the right Upgrade, Connection, Sec-WebSocket-Accept or -Protocol")
        passing = fields.to_tunnel(head.fields, without=(b"sec-websocket-accept", b"sec-websocket-protocol"))
        return WebSocketResponse(status_code=101, accepted=True, headers=passing, subprotocol=chosen.decode())


def _upgrade(request: WebSocketRequest, target: str, authority: bytes) -> tuple[Head, bytes]:
    """The head of a handshake, and its key."""
    key = base64.b64encode(os.urandom(16))
    fields.check_target(b"GET", target.encode(), authority)
    head: list[Field] = [
        (b"Host", authority),
        *fields.from_tunnel(request.headers, without=(b"host", b"content-length")),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
        *fields.from_tunnel(fields.subprotocol(request)),
    ]
    return Head(head, b"GET", target.encode(), authority), key
