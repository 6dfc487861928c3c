"""HTTP/2 of the public: each stream is one exchange, gRPC by its content-type and plain HTTP otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from fasttunnel.errors import ANSWERS, GrpcStatus, ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.dispatch import Exchange, RequestReset, end_tasks
from fasttunnel.reference.fields import BadMessage, Field
from fasttunnel.reference.gate import Gate
from fasttunnel.reference.grpc_streams import (
    BadStream,
    GrpcStreamAssembler,
    decode_timeout,
    encode_details,
    encode_message,
)
from fasttunnel.reference.http2 import Http2Connection, Http2Stream, StreamEnded, send_messages
from fasttunnel.wire.tunnel_pb2 import GRPC, HTTP, GrpcRequest, GrpcResponse, HttpRequest, HttpResponse

GRPC_TYPE = b"application/grpc"
STATUS_FIELDS = frozenset((b"grpc-status", b"grpc-message", b"grpc-status-details-bin"))
OWN_GRPC_STATUS = {404: 12, 503: 14, 431: 8, 414: 8}


class PublicHttp2:
    """A connection of the public."""

    def __init__(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gate = gate
        self.address = str((writer.get_extra_info("peername") or ("unknown",))[0])
        self.tasks: set[asyncio.Task[None]] = set()
        self.connection = Http2Connection(
            reader, writer, client=False, header_list_bytes=gate.config.header_list_bytes, on_stream=self._open
        )

    @property
    def idle(self) -> bool:
        return not self.tasks

    async def serve(self, received: bytes) -> None:
        await self.connection.run(received)
        if self.tasks:
            await asyncio.wait(self.tasks)

    def _open(self, stream: Http2Stream) -> None:
        task = asyncio.create_task(PublicStream(self, stream).serve())
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if self.gate.draining and self.idle:
            self.connection.writer.close()


class PublicStream:
    """One request of the public and its answer."""

    def __init__(self, connection: PublicHttp2, stream: Http2Stream) -> None:
        self.gate = connection.gate
        self.address = connection.address
        self.stream = stream
        headers = stream.headers or []
        pseudo = {name: value for name, value in headers if name[:1] == b":"}
        self.fields = [(name, value) for name, value in headers if name[:1] != b":"]
        self.size = sum(len(name) + len(value) + 32 for name, value in headers)  # RFC 9113 6.5.2
        self.method = pseudo.get(b":method", b"")
        self.path = pseudo.get(b":path", b"")
        self.authority = pseudo.get(b":authority") or fields.get(self.fields, b"host") or b""
        content_type = fields.get(self.fields, b"content-type") or b""
        suffix = content_type[len(GRPC_TYPE) :][:1]
        self.is_grpc = self.method == b"POST" and content_type.startswith(GRPC_TYPE) and suffix in (b"", b"+", b";")
        self.answer_begun = self.answer_complete = False
        self.assembler = GrpcStreamAssembler()

    async def serve(self) -> None:
        try:
            await self._serve()
        except (StreamEnded, ProtocolError, asyncio.CancelledError):
            pass
        finally:
            if not self.answer_complete:
                self.stream.reset(ErrorCodes.CANCEL)
            elif (
                not self.stream.ended
                and fields.get(self.fields, b"content-length") != b"%d" % self.stream.received_bytes
            ):
                self.stream.reset(ErrorCodes.NO_ERROR)  # RFC 9113 8.1: an early answer, the rest is not wanted
            self.stream.close()

    async def _serve(self) -> None:
        refusal = self._refusal()
        timeout = fields.get(self.fields, b"grpc-timeout")
        timeout_s = decode_timeout(timeout) if timeout is not None and self.is_grpc else 0.0
        if timeout_s is None:
            refusal = 400, "bad grpc-timeout"
        if refusal is not None:
            return await self._answer_error(*refusal)
        tunnel = self.gate.find(GRPC if self.is_grpc else HTTP, self.authority, self.path)
        if tunnel is None:
            return await self._answer_error(*self.gate.no_route(self.authority, self.path))
        exchange = tunnel.open(GRPC if self.is_grpc else HTTP)
        exchange.grpc_stream_id = self.stream.id
        path = self.path.partition(b"?")[0].decode("latin-1")
        exchange.label = (self.method.decode("latin-1"), self.authority.decode("latin-1"), path)
        exchange.task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(timeout_s, self._expire, exchange) if timeout_s else None
        upload = asyncio.create_task(self._upload(exchange))
        try:
            await (self._download_grpc(exchange) if self.is_grpc else self._download_http(exchange))
        except RequestReset as reset:
            await self._break_off(reset)
        finally:
            exchange.reset(ResetCode.CANCELLED, "the public side cancelled the request")  # unless it has ended
            if deadline is not None:
                deadline.cancel()
            await end_tasks(upload)

    def _refusal(self) -> tuple[int, str] | None:
        limits = self.gate.config
        if self.size > limits.header_list_bytes:
            return 431, "header list above the limit"
        if not self.path:
            return 405, "CONNECT is not served here"
        if len(self.path) > limits.target_bytes:
            return 414, "request target above the limit"
        return None

    def _expire(self, exchange: Exchange) -> None:
        exchange.status = GrpcStatus.DEADLINE_EXCEEDED
        exchange.reset(ResetCode.CANCELLED, "deadline exceeded", seen_as=ResetCode.BACKEND_TIMEOUT)

    # -- request

    async def _upload(self, exchange: Exchange) -> None:
        """The request into the tunnel; then watch for a cancel while the answer is awaited."""
        try:
            if self.is_grpc:
                await send_messages(self.stream, exchange, self._grpc_head(), self.gate.config.grpc_message_bytes)
            else:
                await self._send_body(exchange, self._http_head())
            while True:
                await self.stream.more()
        except RequestReset:
            pass  # nobody wants the rest; the other direction knows why
        except StreamEnded:
            exchange.reset(ResetCode.CANCELLED, "the public side cancelled the request")
        except BadStream as error:
            exchange.reset(ResetCode.TOO_LARGE if error.too_large else ResetCode.PROTOCOL_ERROR, str(error))

    def _passing(self) -> list[Any]:
        """The fields for the tunnel; cookie crumbs are joined (RFC 9113 8.2.3)."""
        crumbs = [value for name, value in self.fields if name == b"cookie"]
        joined: list[Field] = [(b"cookie", b"; ".join(crumbs))] if crumbs else []
        others = fields.to_tunnel(self.fields, without=fields.FORWARDING | {b"host", b"cookie"})
        return others + fields.to_tunnel(joined) + fields.of_visitor(self.address, self.authority)

    def _grpc_head(self) -> GrpcRequest:
        service, _, method = self.path.decode("latin-1").rpartition("/")
        return GrpcRequest(
            service=service[1:],
            method=method,
            authority=self.authority.decode("latin-1"),
            metadata=self._passing(),
        )

    def _http_head(self) -> HttpRequest:
        return HttpRequest(
            method=self.method.decode("latin-1"),
            url=self.path.decode("latin-1"),
            host=self.authority.decode("latin-1"),
            scheme="http",
            headers=self._passing(),
        )

    async def _send_body(self, exchange: Exchange, message: HttpRequest) -> None:
        message.is_first_chunk = True
        while True:
            data = self.stream.take()
            while True:
                room = await exchange.credit() if data else 0
                message.body, data = data[:room], data[room:]
                if not data and self.stream.drained:
                    message.is_last_chunk = True
                    message.trailers.extend(fields.to_tunnel(self.stream.trailers, without=fields.NOT_IN_TRAILERS))
                if message.body or message.is_first_chunk or message.is_last_chunk:
                    exchange.send(message)
                    self.stream.acknowledge(len(message.body))
                if message.is_last_chunk:
                    return
                message = HttpRequest()
                if not data:
                    break
            await self.stream.more()

    # -- answer

    async def _download_http(self, exchange: Exchange) -> None:
        no_body = False
        try:
            while True:
                message: HttpResponse = await exchange.receive()
                status = (b":status", b"%d" % message.status_code)
                if message.informational:
                    if not 100 <= message.status_code <= 199 or message.status_code == 101 or self.answer_begun:
                        raise BadMessage(502, "bad informational answer")
                    self.stream.send_headers([status, *fields.from_tunnel(message.headers)])
                    continue
                last = message.is_last_chunk
                if message.is_first_chunk:
                    exchange.status = message.status_code
                    if not 200 <= message.status_code <= 999:
                        raise BadMessage(502, "bad status from the backend")
                    no_body = self.method == b"HEAD" or message.status_code in (204, 304) or (last and not message.body)
                    self.stream.send_headers([status, *fields.from_tunnel(message.headers)], end=no_body)
                    self.answer_begun = True
                trailers = fields.from_tunnel(message.trailers, without=(b"content-type",)) if last else []
                if not no_body:
                    await self.stream.send(message.body, end=last and not trailers)
                    if trailers:
                        self.stream.send_headers(trailers, end=True)
                exchange.consumed(len(message.body))
                if last:
                    self.answer_complete = True
                    return exchange.finish()
        except BadMessage as error:
            exchange.reset(ResetCode.PROTOCOL_ERROR, str(error))
            raise RequestReset(ResetCode.PROTOCOL_ERROR, str(error)) from None

    async def _download_grpc(self, exchange: Exchange) -> None:
        try:
            while True:
                chunk: GrpcResponse = await exchange.receive()
                data = self.assembler.feed(chunk)
                if chunk.is_first_chunk and not (chunk.is_last_chunk and not data):
                    initial = fields.from_tunnel(chunk.initial_metadata, without=STATUS_FIELDS)
                    self.stream.send_headers([(b":status", b"200"), *_typed(initial)])
                    self.answer_begun = True
                await self.stream.send(data)
                exchange.consumed(len(chunk.body))
                if chunk.is_last_chunk:
                    metadata = [*chunk.initial_metadata] if not self.answer_begun else []
                    metadata += chunk.trailing_metadata
                    exchange.status = chunk.status_code
                    passing = fields.from_tunnel(metadata, without=STATUS_FIELDS)
                    exchange.finish()
                    return self._answer_status(chunk.status_code, chunk.status_message, chunk.status_details, passing)
        except (BadMessage, BadStream) as error:
            exchange.reset(ResetCode.PROTOCOL_ERROR, str(error))
            raise RequestReset(ResetCode.PROTOCOL_ERROR, str(error)) from None

    def _answer_status(self, status: int, text: str, details: bytes = b"", metadata: list[Field] | None = None) -> None:
        """The end of a call: trailers, or the whole answer when nothing was sent before (Trailers-Only)."""
        head: list[Field] = [(b"grpc-status", b"%d" % status)]
        if text:
            head.append((b"grpc-message", encode_message(text)))
        if details:
            head.append((b"grpc-status-details-bin", encode_details(details)))
        if self.answer_begun:
            head += [(name, value) for name, value in metadata or [] if name.lower() != b"content-type"]
        else:
            head = [(b":status", b"200"), *_typed(metadata or []), *head]
        self.stream.send_headers(head, end=True)
        self.answer_begun = self.answer_complete = True

    async def _answer_error(self, status: int, text: str) -> None:
        """An answer of our own to a request that goes nowhere."""
        if self.is_grpc:
            return self._answer_status(OWN_GRPC_STATUS.get(status, GrpcStatus.INTERNAL), text.partition("\n")[0])
        body = f"{status}: {text}\n".encode()
        head: list[Field] = [
            (b":status", b"%d" % status),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-length", b"%d" % len(body)),
        ]
        if status == 503:
            head.append((b"retry-after", b"1"))
        self.stream.send_headers(head, end=self.method == b"HEAD")
        self.answer_begun = True
        if self.method != b"HEAD":
            await self.stream.send(body, end=True)
        self.answer_complete = True

    async def _break_off(self, reset: RequestReset) -> None:
        """The request ended abnormally: a status if it can still be given, else the stream is reset."""
        answer = ANSWERS[reset.code]
        if self.is_grpc and self.assembler.at_boundary:
            self._answer_status(answer.grpc, reset.explanation)
        elif not self.answer_begun and answer.http:
            await self._answer_error(answer.http, reset.explanation)
        else:
            self.stream.reset(ErrorCodes.CANCEL if reset.code == ResetCode.CANCELLED else ErrorCodes.INTERNAL_ERROR)


def _typed(metadata: list[Field]) -> list[Field]:
    """With a content-type, if the backend has not given one."""
    if fields.get(metadata, b"content-type") is None:
        return [(b"content-type", GRPC_TYPE), *metadata]
    return metadata
