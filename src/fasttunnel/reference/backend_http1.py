"""HTTP/1.1 and WebSocket towards backends. Connections are kept for the next request of the same backend."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from typing import Any

import h11

from fasttunnel import limits
from fasttunnel.errors import ResetCode, describe
from fasttunnel.reference import fields
from fasttunnel.reference.dispatch import Exchange, RequestReset, end_tasks
from fasttunnel.reference.fields import BadMessage, Field
from fasttunnel.reference.http1 import Http1Connection
from fasttunnel.reference.websocket_frames import WebSocketRelay, accept_key
from fasttunnel.wire.tunnel_pb2 import HttpRequest, HttpResponse, WebSocketRequest, WebSocketResponse

IDLE_MAX = 64  # kept connections to one backend
IDLE_S = 60.0  # a kept connection is closed after this
HANDSHAKE_S = 30.0
REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # safe methods, RFC 9110 9.2.1
BODY_EXPECTED = frozenset(("POST", "PUT", "PATCH"))

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(connect: Callable[[], Awaitable[Streams]], name: str, timeout_s: float) -> Streams:
    """A new connection. Raises RequestReset with the code that the public is to be answered."""
    try:
        async with asyncio.timeout(timeout_s):
            return await connect()
    except TimeoutError:
        raise RequestReset(ResetCode.BACKEND_TIMEOUT, f"backend {name} did not take the connection in time") from None
    except OSError as error:
        raise RequestReset(
            ResetCode.BACKEND_UNREACHABLE, f"backend {name} cannot be reached: {describe(error)}"
        ) from None


class Http1Backend:
    """A backend and the connections to it."""

    def __init__(self, name: str, authority: bytes, connect: Callable[[], Awaitable[Streams]], config: Any) -> None:
        self.name = name
        self.authority = authority
        self.config = config
        self._connect = connect
        self._idle: dict[asyncio.Task[bytes], Streams] = {}  # by who watches over each

    async def dial(self) -> Streams:
        return await dial(self._connect, self.name, self.config.connect_timeout_s)

    async def take(self) -> Streams | None:
        """A kept connection on which nothing has happened since."""
        while self._idle:
            watch, streams = self._idle.popitem()
            if not watch.done():
                await end_tasks(watch)
                return streams
            streams[1].close()
        return None

    def keep(self, streams: Streams) -> None:
        """For the next request. Whatever a backend does before that (it closes, it speaks unasked) is its end."""
        if len(self._idle) >= IDLE_MAX:
            return streams[1].close()
        watch = asyncio.create_task(self._watch(streams[0]))
        self._idle[watch] = streams
        watch.add_done_callback(self._drop)

    async def _watch(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(IDLE_S):
            return await reader.read(1)

    def _drop(self, watch: asyncio.Task[bytes]) -> None:
        if not watch.cancelled():
            watch.exception()
        if (streams := self._idle.pop(watch, None)) is not None:
            streams[1].close()

    def close(self) -> None:
        """Close what is idle."""
        for watch in list(self._idle):
            watch.cancel()

    # -- HTTP

    async def serve_http(self, exchange: Exchange, url: str, host: bytes) -> None:
        """Carry one request to the backend and its answer back."""
        request: HttpRequest = await exchange.receive()
        kept = await self.take()
        streams = kept or await self.dial()
        repeatable = kept is not None and request.is_last_chunk and not request.body and request.method in REPEATABLE
        call = HttpCall(self, streams, exchange)
        if not await call.run(request, url, host, final=not repeatable):
            # The backend closed a kept connection just as it was used; nothing has come back, and a safe method may be
            # sent again (RFC 9110 9.2.2).
            await HttpCall(self, await self.dial(), exchange).run(request, url, host, final=True)

    # -- WebSocket

    async def serve_websocket(self, exchange: Exchange, url: str, host: bytes) -> None:
        """Handshake (RFC 6455 4.1) with a key of our own, then frames."""
        request: WebSocketRequest = await exchange.receive()
        reader, writer = await self.dial()
        connection = Http1Connection(h11.CLIENT, reader, writer, self.config.header_list_bytes)
        try:
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    answer = await self._handshake(exchange, connection, request, url, host)
            except TimeoutError:
                return exchange.reset(ResetCode.BACKEND_TIMEOUT, "the backend did not answer the handshake in time")
            except BadMessage as error:
                return exchange.reset(ResetCode.PROTOCOL_ERROR, f"bad answer to the handshake: {error}")
            except h11.LocalProtocolError:
                return exchange.reset(ResetCode.PROTOCOL_ERROR, "the handshake cannot be written as HTTP/1.1")
            except ConnectionError:
                return exchange.reset(
                    ResetCode.BACKEND_UNREACHABLE, "the backend closed the connection during the handshake"
                )
            exchange.send(answer)
            if not answer.accepted:
                return exchange.finish()
            extensions = any(header.name.lower() == "sec-websocket-extensions" for header in answer.headers)
            limit = self.config.ws_message_bytes
            relay = WebSocketRelay(
                exchange, reader, writer, public=False, extensions=extensions, max_message_bytes=limit
            )
            await relay.run(connection.protocol.trailing_data[0])
        finally:
            writer.close()

    async def _handshake(
        self, exchange: Exchange, connection: Http1Connection, request: WebSocketRequest, url: str, host: bytes
    ) -> WebSocketResponse:
        key = base64.b64encode(os.urandom(16))
        head: list[Field] = [
            (b"Host", host or self.authority),
            *fields.from_tunnel(request.headers, without=(b"host", b"content-length")),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", key),
        ]
        if request.subprotocol:
            head.append((b"Sec-WebSocket-Protocol", request.subprotocol.encode("latin-1")))
        connection.write(h11.Request(method=b"GET", target=url.encode("latin-1"), headers=head), h11.EndOfMessage())
        watch = asyncio.create_task(_until_reset(exchange, connection.writer))
        try:
            event = await connection.next_event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = await connection.next_event()
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionError
            head = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
            if event.status_code != 101:
                passing = fields.to_tunnel(head)
                body = await _refusal_body(connection)
                return WebSocketResponse(status_code=event.status_code, headers=passing, body=body)
            upgraded = (fields.get(head, b"upgrade") or b"").lower() == b"websocket"
            upgraded = upgraded and b"upgrade" in fields.tokens(head, b"connection")
            if not upgraded or fields.get(head, b"sec-websocket-accept") != accept_key(key):
                raise BadMessage(502, "101 without the right Upgrade, Connection or Sec-WebSocket-Accept")
            chosen = fields.get(head, b"sec-websocket-protocol") or b""
            passing = fields.to_tunnel(head, without=(b"sec-websocket-accept", b"sec-websocket-protocol"))
            return WebSocketResponse(
                status_code=101, accepted=True, headers=passing, subprotocol=chosen.decode("latin-1")
            )
        finally:
            await end_tasks(watch)


async def _until_reset(exchange: Exchange, writer: asyncio.StreamWriter) -> None:
    """The public may leave before the handshake is answered: the backend sees that."""
    try:
        await exchange.failed()
    except RequestReset:
        writer.transport.abort()


async def _refusal_body(connection: Http1Connection) -> bytes:
    """What the backend says when it refuses, as far as it is passed on."""
    body = b""
    try:
        async for data, _ in connection.chunks():
            body += data
            if len(body) >= limits.WS_REFUSAL_BODY_BYTES:
                break
    except (BadMessage, ConnectionError):
        pass
    return body[: limits.WS_REFUSAL_BODY_BYTES]


class HttpCall:
    """One request on one connection to a backend."""

    def __init__(self, backend: Http1Backend, streams: Streams, exchange: Exchange) -> None:
        self.backend = backend
        self.streams = streams
        self.exchange = exchange
        self.connection = Http1Connection(h11.CLIENT, *streams, backend.config.header_list_bytes)
        self.request_complete = False
        self.answer_begun = False

    async def run(self, request: HttpRequest, url: str, host: bytes, *, final: bool) -> bool:
        """False when nothing came back and the request may be tried once more (`final` forbids that)."""
        kept = False
        upload = asyncio.create_task(self._upload(request, url, host))
        download = asyncio.create_task(self._download())
        try:
            # The answer decides, unless the request ends first: _upload() never returns, it raises.
            await asyncio.wait([upload, download], return_when=asyncio.FIRST_COMPLETED)
            if not download.done() and not isinstance(upload.exception(), ConnectionError):
                await upload
            kept = await download
        except RequestReset:
            pass  # a request that is broken off leaves a connection in the middle of a message
        except BadMessage as error:
            self.exchange.reset(ResetCode.PROTOCOL_ERROR, f"bad answer from the backend: {error}")
        except h11.LocalProtocolError as error:
            self.exchange.reset(ResetCode.PROTOCOL_ERROR, f"the request cannot be written as HTTP/1.1: {error}")
        except ConnectionError:
            if not final and not self.answer_begun:
                return False
            where = "in the middle of its answer" if self.answer_begun else "without an answer"
            self.exchange.reset(ResetCode.BACKEND_UNREACHABLE, f"the backend closed the connection {where}")
        finally:
            await end_tasks(upload, download)
            if not kept:
                self.streams[1].transport.abort()
        return True

    async def _upload(self, message: HttpRequest, url: str, host: bytes) -> None:
        """The request out of the tunnel; then wait for what may still end it."""
        head = [(b"Host", host or self.backend.authority), *fields.from_tunnel(message.headers, without=(b"host",))]
        sized = fields.get(head, b"content-length") is not None
        if not sized and message.is_last_chunk and not message.trailers:
            if message.body or message.method in BODY_EXPECTED:
                head.append((b"Content-Length", b"%d" % len(message.body)))
        elif not sized:
            head.append((b"Transfer-Encoding", b"chunked"))
        if not fields.valid_target(url.encode("latin-1")):
            raise h11.LocalProtocolError("bad target")
        event = h11.Request(method=message.method.encode(), target=url.encode("latin-1"), headers=head)
        await self.connection.write_chunk(self.exchange, message, event)
        while not message.is_last_chunk:
            message = await self.exchange.receive()
            await self.connection.write_chunk(self.exchange, message)
        self.request_complete = True
        await self.exchange.failed()

    async def _download(self) -> bool:
        """The answer into the tunnel. Whether the connection is kept."""
        event = await self.connection.next_event()
        while isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                raise BadMessage(502, "101 without an upgrade")
            passing = fields.to_tunnel(event.headers.raw_items())
            self.exchange.send(HttpResponse(status_code=event.status_code, headers=passing, informational=True))
            event = await self.connection.next_event()
        self.answer_begun = True
        head = list(event.headers.raw_items())
        chunked = fields.get(head, b"transfer-encoding") is not None
        if chunked and (fields.get(head, b"content-length") is not None or event.http_version == b"1.0"):
            raise BadMessage(502, "Content-Length with Transfer-Encoding, or HTTP/1.0")
        answer = HttpResponse(status_code=event.status_code, headers=fields.to_tunnel(head))
        await self.connection.send_message(self.exchange, answer)
        if not self.request_complete:
            self.exchange.reset(ResetCode.NO_ERROR)  # it is not wanted any more
            return False
        self.exchange.finish()
        states, rest = self.connection.protocol.states, self.connection.protocol.trailing_data
        if states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE} or rest != (b"", False):
            return False
        self.backend.keep(self.streams)  # at once: the next request may be here before run() goes on
        return True
