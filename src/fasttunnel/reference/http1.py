"""HTTP/1.1 (RFC 9112) on both sides of the tunnel, with h11.

One request at a time on each connection: what is pipelined behind it waits in h11's buffer, so answers are in order by
construction. Bodies are sent on as they come, in both directions at once.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import h11

from fasttunnel import limits
from fasttunnel.errors import ANSWERS, ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.dispatch import Exchange, RequestReset, end_tasks
from fasttunnel.reference.fields import BadMessage, Field
from fasttunnel.reference.gate import Gate
from fasttunnel.reference.websocket_frames import WebSocketRelay, accept_key, valid_key
from fasttunnel.wire.tunnel_pb2 import HTTP, WEBSOCKET, HttpRequest, HttpResponse, WebSocketRequest, WebSocketResponse

READ_BYTES = 65_536
HALF_CLOSED_S = 30.0  # for an answer to begin when the peer has closed its side: it may have gone
LINGER_S = 2.0  # to read what a peer still sends before its connection is closed
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
# Methods of the IANA registry; others are 501 (RFC 9110 9.1).
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH ACL BIND CHECKOUT COPY LINK LOCK MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
# What h11 lets pass in a head: lines ended by a bare LF, a bare CR, NUL, folded lines (RFC 9112 2.2, 5.2).
_SLOPPY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00|\r\n[ \t]")


class Http1Connection:
    """h11 on a pair of streams."""

    def __init__(
        self,
        role: type[h11.CLIENT | h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head_bytes: int,
    ) -> None:
        self.protocol = h11.Connection(role, max_incomplete_event_size=head_bytes + READ_BYTES)
        self.reader = reader
        self.writer = writer
        self.head_bytes = head_bytes

    def receive(self, data: bytes) -> None:
        if self.protocol.their_state is h11.IDLE and not self.protocol.trailing_data[0]:
            data = data.lstrip(b"\r\n")  # RFC 9112 2.2: empty lines before a request
            if not data:
                return
        self.protocol.receive_data(data)

    def ready_event(self) -> Any:
        """What has come already, or None. Raises BadMessage."""
        if self.protocol.their_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._check_head(self.protocol.trailing_data[0])
        try:
            event = self.protocol.next_event()
        except h11.RemoteProtocolError as error:
            doubled = "multiple" in str(error)  # of a field that may stand once only
            raise BadMessage(400 if doubled else error.error_status_hint, str(error)) from None
        return None if event in (h11.NEED_DATA, h11.PAUSED) else event

    def _check_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if (len(data) if end < 0 else end + 4) > self.head_bytes:
            raise BadMessage(431, f"head above {self.head_bytes} bytes")
        if _SLOPPY.search(data[: end + 4] if end >= 0 else data):
            raise BadMessage(400, "bare CR or LF, NUL or a folded line in the head")

    async def next_event(self) -> Any:
        """The next event, whenever it comes. Raises BadMessage, or ConnectionError when the message is not complete."""
        while (event := self.ready_event()) is None:
            if data := await self.reader.read(READ_BYTES):
                self.receive(data)
                continue
            self.protocol.receive_data(b"")
            try:
                event = self.ready_event()  # only a body that ends with the connection goes on
            except BadMessage:
                event = None
            if not isinstance(event, h11.EndOfMessage):
                raise ConnectionResetError("closed in the middle of a message")
            return event
        return event

    async def chunks(self) -> AsyncIterator[tuple[bytes, h11.EndOfMessage | None]]:
        """The body of the message whose head has been read. The first piece may be empty: what came with the head."""
        event, first = self.ready_event(), True
        while True:
            if isinstance(event, h11.Data):
                data = bytes(event.data)
                event = self.ready_event()
                yield data, event if isinstance(event, h11.EndOfMessage) else None
                if isinstance(event, h11.EndOfMessage):
                    return
            elif isinstance(event, h11.EndOfMessage):
                yield b"", event
                return
            elif event is not None:
                raise BadMessage(400, "the message broke off")
            else:
                if first:
                    yield b"", None
                event = await self.next_event()
            first = False

    async def send_message(self, exchange: Exchange, message: HttpRequest | HttpResponse) -> None:
        """Send the message whose head is `message` into the tunnel, with its body, in pieces that the credit allows."""
        kind = type(message)
        message.is_first_chunk = True
        async for data, end in self.chunks():
            while True:
                room = await exchange.credit() if data else 0
                message.body, data = data[:room], data[room:]
                if end is not None and not data:
                    message.is_last_chunk = True
                    message.trailers.extend(fields.to_tunnel(end.headers, without=fields.NOT_IN_TRAILERS))
                exchange.send(message)
                message = kind()
                if not data:
                    break

    def write(self, *events: Any) -> None:
        """Raises h11.LocalProtocolError when the events do not make a message."""
        self.writer.write(b"".join(self.protocol.send(event) or b"" for event in events))

    async def write_chunk(
        self, exchange: Exchange, message: HttpRequest | HttpResponse, *head: Any, body: bool = True
    ) -> None:
        """Write one chunk from the tunnel, behind its head if it is the first; returns when the socket has taken it."""
        events = [*head]
        if message.body and body:
            events.append(h11.Data(data=message.body))
        if message.is_last_chunk:
            chunked = body and self.protocol.their_http_version != b"1.0"
            events.append(h11.EndOfMessage(headers=fields.from_tunnel(message.trailers) if chunked else []))
        self.write(*events)
        await self.writer.drain()
        exchange.consumed(len(message.body))


# -- the public's side ------------------------------------------------------------------------------------------------


class PublicHttp1:
    """A connection of the public."""

    def __init__(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gate = gate
        self.connection = Http1Connection(h11.SERVER, reader, writer, gate.config.header_list_bytes)
        self.reader, self.writer = reader, writer
        self.address = str((writer.get_extra_info("peername") or ("unknown",))[0])
        self.idle = True  # between requests
        self.kept = False  # it has served one
        self.is_head = False
        self.request_complete = self.answer_begun = False
        self.bad_request: BadMessage | None = None
        self.half_closed = False

    async def serve(self, received: bytes) -> None:
        """Serve request after request until either side closes."""
        self.connection.receive(received)
        try:
            while await self._serve_request() and not self.gate.draining:
                self.connection.protocol.start_next_cycle()
                self.kept = True
        except h11.LocalProtocolError:
            pass  # what has been said does not allow another request
        self.writer.close()

    async def _serve_request(self) -> bool:
        """Whether the connection may go on."""
        self.idle, self.is_head = True, False
        self.request_complete = self.answer_begun = False
        self.bad_request = None
        try:
            event = await self._read_head()
            if event is None:
                return False
            self.idle = False
            head = RequestHead(event, self.gate.config.target_bytes)
            self.is_head = head.method == b"HEAD"
            if head.websocket:
                return await self._serve_websocket(head)
            tunnel = self.gate.find(HTTP, head.host, head.target)
            if tunnel is None:
                self.request_complete = isinstance(self.connection.ready_event(), h11.EndOfMessage)
                return await self._answer_error(*self.gate.no_route(head.host, head.target))
        except BadMessage as error:
            return await self._answer_error(error.status, str(error), close=True)
        exchange = tunnel.open(HTTP)
        exchange.label = (head.method.decode(), head.host.decode("latin-1"), head.path)
        exchange.task = asyncio.current_task()
        upload = asyncio.create_task(self._upload(exchange, head))
        try:
            await self._download(exchange, event.http_version == b"1.0")
        except RequestReset as reset:
            return await self._break_off(reset)
        except (ConnectionError, asyncio.CancelledError):
            exchange.reset(ResetCode.CANCELLED, "the public side closed the connection")
            self.writer.transport.abort()
            return False
        finally:
            await end_tasks(upload)
        return await self._after_answer()

    async def _read_head(self) -> h11.Request | None:
        """The next head; None when the connection ends or stays silent for too long."""
        loop = asyncio.get_running_loop()
        waiting_s = limits.KEEP_ALIVE_TIMEOUT_S if self.kept else self.gate.config.head_timeout_s
        try:
            async with asyncio.timeout(waiting_s) as timeout:
                while (event := self.connection.ready_event()) is None:
                    begun = bool(self.connection.protocol.trailing_data[0])
                    if begun and self.idle:
                        self.idle = False
                        timeout.reschedule(loop.time() + self.gate.config.head_timeout_s)
                    data = await self.reader.read(READ_BYTES)
                    if not data:
                        return None
                    self.connection.receive(data)
                return event if isinstance(event, h11.Request) else None
        except TimeoutError:
            if not self.idle:
                await self._answer_error(408, "the request head took too long", close=True, linger=False)
            return None
        except ConnectionError:
            return None

    async def _upload(self, exchange: Exchange, head: RequestHead) -> None:
        """The request into the tunnel; then watch for the public's leaving while it waits for the answer."""
        message = head.to_tunnel(self.address)
        try:
            await self.connection.send_message(exchange, message)
            self.request_complete = True
            if data := await self.reader.read(READ_BYTES):
                self.connection.protocol.receive_data(data)  # pipelined: its turn comes after this answer
                return
            # It may have closed its side only, as HTTP allows, and still wait for the answer.
            self.half_closed = True
            await asyncio.sleep(HALF_CLOSED_S)
            if not self.answer_begun:
                exchange.reset(ResetCode.CANCELLED, "the public side closed the connection")
        except RequestReset:
            pass  # nobody wants the rest; _download() knows why
        except BadMessage as error:
            self.bad_request = error
            exchange.reset(ResetCode.CANCELLED, "the request was malformed")
        except ConnectionError:
            exchange.reset(ResetCode.CANCELLED, "the public side closed the connection")

    async def _download(self, exchange: Exchange, http10: bool) -> None:
        """The answer out of the tunnel."""
        no_body = False
        try:
            while True:
                message: HttpResponse = await exchange.receive()
                head: list[Any] = []
                if message.informational:
                    if not 100 <= message.status_code <= 199 or message.status_code == 101 or self.answer_begun:
                        raise BadMessage(502, "bad informational answer")
                    if not http10:  # RFC 9110 15.2
                        passing = fields.from_tunnel(message.headers)
                        self.connection.write(
                            h11.InformationalResponse(
                                status_code=message.status_code,
                                headers=passing,
                                reason=REASONS.get(message.status_code, b""),
                            )
                        )
                    continue
                if message.is_first_chunk:
                    exchange.status = message.status_code
                    head = [self._answer_head(message, http10)]
                    no_body = self.is_head or message.status_code in (204, 304)
                await self.connection.write_chunk(exchange, message, *head, body=not no_body)
                self.answer_begun = True
                if message.is_last_chunk:
                    return exchange.finish()
        except (BadMessage, h11.LocalProtocolError) as error:
            exchange.reset(ResetCode.PROTOCOL_ERROR, str(error))
            raise RequestReset(ResetCode.PROTOCOL_ERROR, str(error)) from None

    def _answer_head(self, message: HttpResponse, http10: bool) -> h11.Response:
        """Status, fields and the framing of the body (RFC 9112 6.3); h11 adds chunked where there is no length."""
        if not 200 <= message.status_code <= 999:
            raise BadMessage(502, "bad status from the backend")
        passing = fields.from_tunnel(
            message.headers, without=(b"content-length",) if message.status_code == 204 else ()
        )
        no_body = self.is_head or message.status_code in (204, 304)
        whole = message.is_last_chunk and (http10 or not message.trailers)
        if whole and not no_body and fields.get(passing, b"content-length") is None:
            passing.append((b"Content-Length", b"%d" % len(message.body)))
        return _response(message.status_code, passing + self._connection_fields())

    def _connection_fields(self) -> list[Field]:
        return (
            [(b"Connection", b"close")] if not self.request_complete or self.half_closed or self.gate.draining else []
        )

    async def _break_off(self, reset: RequestReset) -> bool:
        """The request ended abnormally. Once the status is out, only the missing end of the body can tell."""
        status = ANSWERS[reset.code].http
        if self.bad_request is not None and not self.answer_begun:
            return await self._answer_error(self.bad_request.status, str(self.bad_request), close=True)
        if status and not self.answer_begun:
            return await self._answer_error(status, reset.explanation)
        if self.answer_begun and self.connection.protocol.their_http_version == b"1.0":
            # Its body may end with the connection, so a clean end would say that it is complete.
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
        return False

    async def _answer_error(self, status: int, text: str, *, close: bool = False, linger: bool = True) -> bool:
        """An answer of our own, as plain text for a person."""
        body = f"{status}: {text}\n".encode()
        head: list[Field] = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"Content-Length", b"%d" % len(body)),
        ]
        if status == 503:
            head.append((b"Retry-After", b"%d" % limits.RETRY_AFTER_S))
        elif status == 426:
            head += [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"), (b"Connection", b"Upgrade")]
        elif status == 405:
            head.append((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
        head += [(b"Connection", b"close")] if close else self._connection_fields()
        events = [_response(status, head), h11.Data(data=b"" if self.is_head else body)]
        self.connection.write(*events, h11.EndOfMessage())
        await self.writer.drain()
        return await self._after_answer() if linger else False

    async def _after_answer(self) -> bool:
        """Whether another request may follow. A peer that still sends may finish: a reset would cost it the answer."""
        states = self.connection.protocol.states
        if states[h11.CLIENT] is h11.DONE and states[h11.SERVER] is h11.DONE:
            return not self.half_closed
        if not self.request_complete:
            self.writer.write_eof()
            try:
                async with asyncio.timeout(LINGER_S):
                    while await self.reader.read(READ_BYTES):
                        pass
            except (TimeoutError, ConnectionError):
                pass
        return False

    # -- WebSocket

    async def _serve_websocket(self, head: RequestHead) -> bool:
        """The handshake, RFC 6455 4.2.1. The key stays here: the backend is asked with a key of its own."""
        self.request_complete = True
        if fields.get(head.fields, b"sec-websocket-version") != b"13":
            return await self._answer_error(426, "only WebSocket version 13 is spoken here")
        keys = [value for name, value in head.fields if name.lower() == b"sec-websocket-key"]
        if len(keys) != 1 or not valid_key(key := keys[0]):
            return await self._answer_error(400, "Sec-WebSocket-Key is missing or not 16 bytes in base64")
        if not isinstance(self.connection.ready_event(), h11.EndOfMessage):
            raise BadMessage(400, "a WebSocket handshake has no body")
        tunnel = self.gate.find(WEBSOCKET, head.host, head.target)
        if tunnel is None:
            return await self._answer_error(*self.gate.no_route(head.host, head.target))
        exchange = tunnel.open(WEBSOCKET)
        exchange.label = (head.method.decode(), head.host.decode("latin-1"), head.path)
        exchange.task = asyncio.current_task()
        exchange.send(head.to_websocket(self.address))
        watch = asyncio.create_task(self._watch_handshake(exchange))
        try:
            answer: WebSocketResponse = await exchange.receive()
            if not isinstance(answer, WebSocketResponse):
                raise BadMessage(502, "frame before the handshake was answered")
            exchange.status = answer.status_code
            accepted = self._handshake_answer(answer, key)
            self.connection.write(*accepted)
        except RequestReset as reset:
            return await self._break_off(reset)
        except (BadMessage, h11.LocalProtocolError) as error:
            exchange.reset(ResetCode.PROTOCOL_ERROR, str(error))
            return await self._break_off(RequestReset(ResetCode.PROTOCOL_ERROR, str(error)))
        finally:
            await end_tasks(watch)
        if not answer.accepted:
            exchange.finish()
            await self.writer.drain()
            return await self._after_answer()
        exchange.status = 0
        extensions = (
            fields.get([(h.name.encode(), h.value) for h in answer.headers], b"sec-websocket-extensions") is not None
        )
        limit = self.gate.config.ws_message_bytes
        relay = WebSocketRelay(
            exchange, self.reader, self.writer, public=True, extensions=extensions, max_message_bytes=limit
        )
        await relay.run(self.connection.protocol.trailing_data[0])
        return False

    async def _watch_handshake(self, exchange: Exchange) -> None:
        """The public may leave before the backend has answered; what it sends early are its first frames."""
        try:
            data = await self.reader.read(READ_BYTES)
            if data:
                return self.connection.protocol.receive_data(data)
            await asyncio.sleep(HALF_CLOSED_S)
        except ConnectionError:
            pass
        exchange.reset(ResetCode.CANCELLED, "the public side closed the connection")

    def _handshake_answer(self, answer: WebSocketResponse, key: bytes) -> list[Any]:
        if answer.accepted:
            head: list[Field] = [
                (b"Upgrade", b"websocket"),
                (b"Connection", b"Upgrade"),
                (b"Sec-WebSocket-Accept", accept_key(key)),
            ]
            if answer.subprotocol:
                head.append((b"Sec-WebSocket-Protocol", answer.subprotocol.encode()))
            return [
                h11.InformationalResponse(
                    status_code=101, headers=head + fields.from_tunnel(answer.headers), reason=REASONS[101]
                )
            ]
        # Refused: the backend's status, fields and body, as an ordinary answer.
        if not 200 <= answer.status_code <= 599 or answer.status_code == 204:
            raise BadMessage(502, "bad status of a refused handshake")
        head = fields.from_tunnel(answer.headers, without=(b"content-length",))
        head.append((b"Content-Length", b"%d" % len(answer.body)))
        response = _response(answer.status_code, head)
        return [response, h11.Data(data=answer.body), h11.EndOfMessage()]


def _response(status: int, headers: list[Field]) -> h11.Response:
    return h11.Response(status_code=status, headers=headers, reason=REASONS.get(status, b""))


class RequestHead:
    """A request's head, checked where RFC 9112 leaves parsers room to differ. Raises BadMessage."""

    def __init__(self, event: h11.Request, target_bytes: int) -> None:
        self.method = bytes(event.method)
        self.fields: list[Field] = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
        http10 = event.http_version == b"1.0"
        length, coding = fields.get(self.fields, b"content-length"), fields.get(self.fields, b"transfer-encoding")
        if self.method not in METHODS:
            raise BadMessage(501, "unknown method")
        if self.method == b"CONNECT":
            raise BadMessage(405, "CONNECT is not served here")
        if coding is not None and (length is not None or http10):
            raise BadMessage(400, "Content-Length with Transfer-Encoding, or HTTP/1.0")
        if length is not None and len(length) > 19:
            raise BadMessage(400, "bad Content-Length")
        self._find_host(bytes(event.target))
        if len(self.target) > target_bytes:
            raise BadMessage(414, f"request target above {target_bytes} bytes")
        upgrade = (fields.get(self.fields, b"upgrade") or b"").lower() == b"websocket"
        upgrade = upgrade and b"upgrade" in fields.tokens(self.fields, b"connection") and not http10
        self.websocket = upgrade and self.method == b"GET"

    def _find_host(self, target: bytes) -> None:
        host = fields.get(self.fields, b"host")
        self.host, self.target = host or b"", target
        if target[:1] != b"/" and not (target == b"*" and self.method == b"OPTIONS"):
            absolute = re.fullmatch(rb"(?i:https?)://([^/?]*)(.*)", target)  # absolute-form, RFC 9112 3.2.2
            if absolute is None:
                raise BadMessage(400, "bad request target")
            if host is not None and absolute[1].lower() != host.lower():
                raise BadMessage(400, "Host differs from the request target")
            self.host = absolute[1]
            self.target = b"/" + absolute[2].removeprefix(b"/")
        if not fields.valid_target(self.target) or b"#" in self.target:
            raise BadMessage(400, "bad request target")
        if not fields.NOT_IN_HOSTS.isdisjoint(self.host):
            raise BadMessage(400, "bad Host")

    @property
    def path(self) -> str:
        """Without the query: it may hold secrets."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def to_tunnel(self, address: str) -> HttpRequest:
        return HttpRequest(
            method=self.method.decode(),
            url=self.target.decode("latin-1"),
            host=self.host.decode("latin-1"),
            scheme="http",
            headers=fields.to_tunnel(self.fields, without=fields.FORWARDING | {b"host"})
            + fields.of_visitor(address, self.host),
        )

    def to_websocket(self, address: str) -> WebSocketRequest:
        ours = {b"host", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"}
        offered = [value for name, value in self.fields if name.lower() == b"sec-websocket-protocol"]
        return WebSocketRequest(
            url=self.target.decode("latin-1"),
            host=self.host.decode("latin-1"),
            headers=fields.to_tunnel(self.fields, without=fields.FORWARDING | ours)
            + fields.of_visitor(address, self.host),
            subprotocol=b", ".join(offered).decode("latin-1"),
        )
