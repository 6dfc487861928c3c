"""The public's side: connections of both versions of HTTP, and the requests on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from fasttunnel import limits
from fasttunnel.control.config import ServerConfig
from fasttunnel.control.forwarding import Networks
from fasttunnel.control.outage import Outages
from fasttunnel.control.routes import RouteTable
from fasttunnel.errors import ANSWERS, GrpcStatus, ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.closing import linger
from fasttunnel.reference.dispatch import Dispatcher, next_request_id
from fasttunnel.reference.exchange import Exchange
from fasttunnel.reference.http1 import READ_BYTES, Http1Stream
from fasttunnel.reference.http2 import Http2Connection, Http2Stream
from fasttunnel.reference.messages import (
    BODILESS,
    BadMessage,
    Field,
    Head,
    HttpStream,
    Part,
    RequestReset,
    TooMany,
    forever,
    while_running,
)
from fasttunnel.reference.relay import into_tunnel, out_of_tunnel
from fasttunnel.reference.tally import Tallies
from fasttunnel.reference.translation import (
    Chunk,
    GrpcTranslation,
    HttpTranslation,
    Translation,
    decode_timeout,
    is_grpc,
)
from fasttunnel.reference.websocket import WebSocketRelay
from fasttunnel.reference.websocket_frames import accept_key, valid_key
from fasttunnel.wire.tunnel_pb2 import GRPC, HTTP, WEBSOCKET, WebSocketRequest, WebSocketResponse

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 3.4
LAST_WORDS_S = 2.0  # for an answer of our own to be taken
SHARERS_ASKED = 64  # tunnels of one route that are asked whether they have room

_HINT = """

A client that serves everything is started with:
    fasttunnel client --server HOST:PORT http://127.0.0.1:3000"""


class Gate:
    """What the public's connections share: it finds the tunnel of a request."""

    def __init__(
        self,
        routes: RouteTable[Dispatcher],
        outages: Outages,
        config: ServerConfig,
        active: Callable[[], int],
        tallies: Tallies,
    ) -> None:
        self.tallies = tallies
        self.on_refusal: Callable[[str, int, tuple[str, str, str], int, str], None] | None = None  # for the record
        self.active = active  # requests under way
        self.routes = routes
        self.outages = outages
        self.configure(config)
        self.closing = False  # each connection ends with its next answer
        self.draining = False  # and nothing new is taken
        self.queued = 0  # requests that wait for a client to come back
        self._arrival = asyncio.Event()

    def configure(self, config: ServerConfig) -> None:
        """What connections and requests go by that begin from now on."""
        self.config = config
        self.trusted_proxies = Networks(config.trusted_proxies)
        self.tallies.lost_close = config.ws_lost_close

    def wake(self) -> None:
        """A client has come, or there is nothing to wait for any more: whoever waits looks again."""
        self._arrival.set()
        self._arrival = asyncio.Event()

    def refused(self, protocol: int, reset: RequestReset, head: Head | None, peer: str) -> None:
        """An answer of ours to a request that goes into no tunnel."""
        reset.request_id = next_request_id(protocol)
        self.tallies.refused(protocol, reset.status)
        if self.on_refusal is not None:
            status = ANSWERS[reset.code].grpc if protocol == GRPC else reset.status
            label = label_of(head) if head is not None else ("", "", "")
            self.on_refusal(reset.request_id, protocol, label, status, peer)

    def named(self, part: Part, request_id: str) -> Part:
        """The beginning of an answer with the field that names its request, unless the backend has set it."""
        name, head = self.config.request_id_header.lower().encode(), part.head
        interim = part.interim and head is not None and head.status != 101
        if not name or head is None or interim or fields.get_all(head.fields, name):
            return part
        return part._replace(head=head._replace(fields=[*head.fields, (name, request_id.encode())]))

    def drain(self) -> None:
        self.closing = self.draining = True
        self.wake()

    async def wait(self, protocol: int, head: Head, peer: str) -> Exchange:
        """For a request that open() has nothing for: wait for its client, if that is only away. Raises RequestReset."""
        host, until = head.authority.decode("latin-1"), asyncio.get_running_loop().time() + self.config.queue_timeout_s
        if not self.draining and not self.outages.covers(protocol, host, head.path):
            raise RequestReset(ResetCode.NO_ROUTE, f"no tunnel serves {host}{head.path}{_HINT}")
        if self.queued < self.config.queued_requests:
            self.queued += 1
            try:
                async with asyncio.timeout_at(until):
                    while not self.draining:
                        await self._arrival.wait()
                        if (exchange := self.open(protocol, head, peer)) is not None:
                            return exchange
            except TimeoutError:
                pass
            finally:
                self.queued -= 1
        away = "the server is shutting down" if self.draining else f"the client that serves {host}{head.path} is away"
        raise RequestReset(ResetCode.OVERLOADED, away)

    def open(self, protocol: int, head: Head, peer: str) -> Exchange | None:
        """A request on the tunnel that it goes to, or None when there is none. Raises RequestReset when it is full."""
        if 0 < self.config.max_requests <= self.active():
            raise RequestReset(ResetCode.OVERLOADED, "the server has as many requests under way as it may")
        limit = self.config.max_requests_per_tunnel
        full: RequestReset | None = None
        for _ in range(SHARERS_ASKED):  # where one has no room, the next one that shares the route may have
            found = self.routes.match(protocol, head.authority.decode("latin-1"), head.path)
            if found is None or not found[1].up or found[1].draining:
                return None
            if 0 < limit <= len(found[1].requests):
                full = RequestReset(ResetCode.OVERLOADED, "the tunnel has as many requests under way as it may")
            elif found[1].swamped or not found[1].pace.take():
                text = "the requests come faster than the token of this tunnel permits"
                full = TooMany(text, found[1].pace.wait_s(1))
            else:
                break
        else:
            assert full is not None
            raise full
        exchange = found[1].open(protocol)
        exchange.label = (*label_of(head), peer)
        exchange.trace_id = fields.trace_id(head.fields)
        exchange.parent_id = fields.parent_id(head.fields) if exchange.trace_id else ""
        exchange.method = head.target.decode("latin-1") if protocol == GRPC else ""
        self.tallies.began(exchange, found[0])
        return exchange


def label_of(head: Head) -> tuple[str, str, str]:
    """Method, host and path of a request, for its record."""
    return head.method.decode("latin-1"), head.authority.decode("latin-1"), head.path


class PublicConnection:
    """A connection of the public. Its first bytes tell HTTP/2 with prior knowledge from HTTP/1.1."""

    def __init__(
        self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, refused: str = ""
    ) -> None:
        self.gate = gate
        self._refused = refused  # why what it asks for is answered 503: there are too many
        self._head_timeout_s = limits.REFUSED_S if refused else gate.config.head_timeout_s
        self.reader, self.writer = reader, writer
        self.busy = 0  # requests under way
        self._http2: Http2Connection | None = None
        secure = writer.get_extra_info("ssl_object") is not None
        peer = writer.get_extra_info("peername") or ("unknown",)
        address = str(peer[0])
        self._visitor = fields.Visitor(address, "https" if secure else "http", address in gate.trusted_proxies)

    @property
    def buffered(self) -> int:
        """Bytes that wait for the socket."""
        return self.writer.transport.get_write_buffer_size()

    async def serve(self) -> None:
        """Until either side closes."""
        try:
            async with asyncio.timeout(self._head_timeout_s):
                received = await self.reader.read(len(PREFACE))
                while received and received != PREFACE and PREFACE.startswith(received):
                    received += await self.reader.read(len(PREFACE) - len(received)) or b"\0"
            if received:
                await (self._serve_http2 if received == PREFACE else self._serve_http1)(received)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.writer.close()

    # -- HTTP/2: each stream is a request

    async def _serve_http2(self, received: bytes) -> None:
        config, loop = self.gate.config, asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._head_timeout_s) as idle, asyncio.TaskGroup() as group:

                async def serve(stream: Http2Stream, head: Head) -> None:
                    await self._serve_stream(stream, head)
                    if not self.busy:
                        idle.reschedule(loop.time() + config.keep_alive_timeout_s)

                def on_request(stream: Http2Stream, head: Head) -> None:
                    idle.reschedule(None)
                    self.busy += 1
                    group.create_task(serve(stream, head))

                self._http2 = Http2Connection(self.reader, self.writer, config.header_list_bytes, on_request=on_request)
                await self._http2.run(received)

    def wind_down(self) -> None:
        """The server will stop soon: have the peer use another connection where it can."""
        if self._http2 is not None:
            self._http2.announce_go_away()

    async def _serve_stream(self, stream: Http2Stream, head: Head) -> None:
        grpc = head.method == b"POST" and is_grpc(head)
        config = self.gate.config
        translation = GrpcTranslation(config.grpc_message_bytes) if grpc else HttpTranslation(config.body_bytes)
        try:
            await self._serve(stream, head, translation)
        finally:
            stream.close()
            self.busy -= 1
            if (self.gate.draining or self._refused) and not self.busy and self._http2 is not None:
                self._http2.finish()

    # -- HTTP/1.1: one request after another

    async def _serve_http1(self, received: bytes) -> None:
        stream = Http1Stream(
            self.reader,
            self.writer,
            self.gate.config.header_list_bytes,
            public=True,
            closing=lambda: self.gate.closing,
        )
        stream.feed(received)
        while True:
            self.busy = 0
            try:
                head = await self._next_head(stream)
            except BadMessage as error:
                self.gate.refused(HTTP, error, None, self._visitor.address)
                await self._answer_error(stream, HttpTranslation(), error)
                break
            if head is None:
                return
            self.busy = 1
            await self._serve(stream, head, HttpTranslation(self.gate.config.body_bytes))
            if self.gate.draining or not stream.next_cycle():  # while it is closing, each answer has said so
                break
        if stream.final or not stream.ended or stream.waiting_bytes:
            await linger(self.reader, self.writer)

    async def _next_head(self, stream: Http1Stream) -> Head | None:
        """None when the connection ends or stays silent for too long. Raises BadMessage."""
        loop, head_timeout_s = asyncio.get_running_loop(), self._head_timeout_s
        keep_alive_timeout_s = self.gate.config.keep_alive_timeout_s
        try:
            async with asyncio.timeout(keep_alive_timeout_s if stream.reused else head_timeout_s) as timeout:
                while (head := stream.ready_head()) is None:
                    if stream.waiting_bytes and not self.busy:  # it has begun
                        self.busy = 1
                        timeout.reschedule(loop.time() + head_timeout_s)
                    data = await self.reader.read(READ_BYTES)
                    if not data:
                        return None
                    stream.feed(data)
                return head
        except TimeoutError:
            if self.busy:
                raise BadMessage("the request head took too long", status=408) from None
            return None

    # -- one request

    async def _serve(self, stream: HttpStream, head: Head, translation: Translation) -> None:
        """The request into the tunnel and its answer out of it, or an answer of our own."""
        exchange: Exchange | None = None
        try:
            self._check(stream, head)
            if isinstance(translation, HttpTranslation):
                translation.check_length(head)
            timeout_s = _check_call(head) if isinstance(translation, GrpcTranslation) else None
            if isinstance(stream, Http1Stream) and _is_handshake(stream, head):
                return await self._serve_websocket(stream, head)
            begun_s = asyncio.get_running_loop().time()
            exchange = await self._open(translation.protocol, stream, head, timeout_s)
            if timeout_s is not None:
                timeout_s -= asyncio.get_running_loop().time() - begun_s
            exchange.grpc_stream_id = stream.id if isinstance(stream, Http2Stream) else 0
            await while_running(
                out_of_tunnel(exchange, self._recorded(exchange, translation), stream),
                self._upload(exchange, stream, head, translation),
                _deadline(exchange, timeout_s),
                exchange.overdue(),
                *([stream.gone()] if isinstance(stream, Http2Stream) else []),  # also while the tunnel takes no more
            )
            exchange.finish()
        except RequestReset as reset:
            if exchange is None and not reset.request_id:
                handshake = isinstance(stream, Http1Stream) and _is_handshake(stream, head)
                self.gate.refused(WEBSOCKET if handshake else translation.protocol, reset, head, self._visitor.address)
            elif exchange is not None:
                if isinstance(reset, BadMessage) and reset.of_public and not exchange.status:
                    exchange.status = reset.status
                exchange.reset(reset.code, reset.text)
                reset.request_id = exchange.request_id
            await self._answer_error(stream, translation, reset)
        except BaseException:
            stream.abort(ResetCode.CANCELLED)
            raise
        finally:
            if exchange is not None:
                exchange.reset(ResetCode.CANCELLED, "the public side closed the connection")  # unless it has ended

    async def _open(self, protocol: int, stream: HttpStream, head: Head, timeout_s: float | None = None) -> Exchange:
        """A request on a tunnel, perhaps after a while. Raises RequestReset."""
        if (exchange := self.gate.open(protocol, head, self._visitor.address)) is not None:
            return exchange
        watched = stream.ended or isinstance(stream, Http2Stream)  # otherwise what comes is the body, and has to wait
        try:
            async with asyncio.timeout(timeout_s):
                return await while_running(
                    self.gate.wait(protocol, head, self._visitor.address), *([stream.gone()] if watched else [])
                )
        except TimeoutError:
            raise RequestReset(ResetCode.BACKEND_TIMEOUT, "the deadline passed while no client serves this") from None

    def _check(self, stream: HttpStream, head: Head) -> None:
        config = self.gate.config
        if self._refused:
            raise BadMessage(self._refused, status=503, code=ResetCode.OVERLOADED)
        if isinstance(stream, Http2Stream) and head.size > config.header_list_bytes:
            raise BadMessage("header list above the limit", status=431, code=ResetCode.TOO_LARGE)
        if len(head.target) > config.target_bytes:
            text = f"request target above {config.target_bytes} bytes"
            raise BadMessage(text, status=414, code=ResetCode.TOO_LARGE)
        fields.check_target(head.method, head.target, head.authority)

    async def _upload(self, exchange: Exchange, stream: HttpStream, head: Head, translation: Translation) -> None:
        if exchange.has_to_wait:
            watched = stream.ended and isinstance(stream, Http1Stream)  # as in _open(); of HTTP/2 streams _serve() does
            await while_running(exchange.admitted(), *([stream.gone()] if watched else []))
        try:
            await into_tunnel(stream, exchange, translation, translation.request_chunk(head, self._visitor))
        except BadMessage as error:
            if error.of_public:
                exchange.reset(ResetCode.CANCELLED, "the request was malformed")
            raise
        await stream.gone()

    async def _answer_error(self, stream: HttpStream, translation: Translation, reset: RequestReset) -> None:
        """A status if it can still be given; else the missing end of the answer has to tell."""
        stream.final = isinstance(reset, BadMessage) and reset.final
        part = translation.error_part(reset)
        if part is not None:
            part = self.gate.named(part, reset.request_id)
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                if part is None:
                    raise reset
                await stream.send(part)
        except (RequestReset, TimeoutError):
            stream.abort(reset.code)

    def _recorded(self, exchange: Exchange, translation: Translation) -> Callable[[Chunk], Part]:
        """Translate answers, name their request, and note the status for its record."""

        def to_part(chunk: Chunk) -> Part:
            part = translation.answer_part(chunk)
            if not part.interim:
                exchange.status = chunk.status_code or exchange.status
            return self.gate.named(part, exchange.request_id)

        return to_part

    # -- WebSocket

    async def _serve_websocket(self, stream: Http1Stream, head: Head) -> None:
        """The handshake, RFC 6455 4.2.1. The key stays here: the backend is asked with a key of its own."""
        if fields.content_length(head.fields) > 0 or fields.get(head.fields, b"transfer-encoding") is not None:
            raise BadMessage("a WebSocket handshake has no body", status=400)
        if fields.get_all(head.fields, b"sec-websocket-version") != [b"13"]:
            raise BadMessage("only WebSocket version 13 is spoken here", status=426, final=False)
        keys = fields.get_all(head.fields, b"sec-websocket-key")
        offered = b", ".join(fields.get_all(head.fields, b"sec-websocket-protocol"))
        if not offered.isascii():
            raise BadMessage("bad Sec-WebSocket-Protocol", status=400)
        if len(keys) != 1 or not valid_key(keys[0]):
            raise BadMessage("Sec-WebSocket-Key is missing or not 16 bytes in base64", status=400, final=False)
        ours = (b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol")
        exchange = await self._open(WEBSOCKET, stream, head)
        opening = WebSocketRequest(
            url=head.target.decode(),
            host=head.authority.decode(),
            headers=fields.of_request(head, self._visitor, without=ours),
            subprotocol=offered.decode(),
        )
        try:
            if exchange.has_to_wait:
                await while_running(exchange.admitted(), stream.gone(), exchange.overdue())
            exchange.send(opening)
            answer = await while_running(exchange.receive(), stream.gone(), exchange.overdue())
            exchange.status = answer.status_code
            await self._answer_handshake(stream, answer, keys[0], exchange.request_id)
        except BaseException as error:
            reset = error if isinstance(error, RequestReset) else RequestReset(ResetCode.CANCELLED, "cancelled")
            exchange.reset(reset.code, reset.text)
            reset.request_id = exchange.request_id
            raise
        if not answer.accepted:
            return exchange.finish()
        exchange.status = 0
        config = self.gate.config
        await WebSocketRelay(
            exchange, stream, answer, config.ws_message_bytes, config.ws_ping_interval_s, config.ws_lost_close
        ).run()

    async def _answer_handshake(
        self, stream: Http1Stream, answer: WebSocketResponse, key: bytes, request_id: str
    ) -> None:
        if answer.accepted:
            upgrade: list[Field] = [
                (b"Upgrade", b"websocket"),
                (b"Connection", b"Upgrade"),
                (b"Sec-WebSocket-Accept", accept_key(key)),
            ]
            passing = fields.from_tunnel([*fields.subprotocol(answer), *answer.headers])
            head = Head(upgrade + passing, status=101)
            return await stream.upgrade(self.gate.named(Part(head), request_id).head or head)
        # Refused: the backend's status, fields and body, as an ordinary answer.
        if not 200 <= answer.status_code <= 599 or answer.status_code in BODILESS:
            raise BadMessage("bad status of the backend for a refused handshake")
        passing = fields.from_tunnel(answer.headers, without=(b"content-length",))
        part = Part(Head(passing, status=answer.status_code), answer.body, last=True)
        await stream.send(self.gate.named(part, request_id))


def _is_handshake(stream: Http1Stream, head: Head) -> bool:
    upgrade = [value.lower() for value in fields.get_all(head.fields, b"upgrade")] == [b"websocket"]
    nominated = b"upgrade" in fields.tokens(head.fields, b"connection")
    return upgrade and nominated and head.method == b"GET" and not stream.http10


def _check_call(head: Head) -> float | None:
    """The deadline of a call, in seconds. Raises RequestReset."""
    timeout = fields.get(head.fields, b"grpc-timeout")
    timeout_s = decode_timeout(timeout) if timeout is not None else None
    if head.target.rfind(b"/") == 0:
        raise RequestReset(ResetCode.NO_ROUTE, "a call has the path /SERVICE/METHOD")
    return timeout_s


async def _deadline(exchange: Exchange, timeout_s: float | None) -> None:
    """grpc-timeout: the public is told that it is over, the backend that nobody waits any more."""
    await (forever() if timeout_s is None else asyncio.sleep(timeout_s))
    exchange.status = GrpcStatus.DEADLINE_EXCEEDED
    exchange.reset(ResetCode.CANCELLED, "the deadline passed before the backend had answered")
    raise RequestReset(ResetCode.BACKEND_TIMEOUT, "the deadline passed before the backend had answered")
