"""HTTP messages as the chunks of the tunnel, and back: once for HTTP, once for gRPC.

A translation serves one request at one end. It is all that differs between the two protocols; which version of HTTP
carries them makes no difference (gRPC needs trailers, which is why it is HTTP/2 on both sides in practice).
"""

from __future__ import annotations

import base64
import binascii
import re
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import unquote_to_bytes

from fasttunnel import limits
from fasttunnel.errors import ANSWERS, GrpcStatus, ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.fields import Visitor
from fasttunnel.reference.grpc_streams import GrpcStreamAssembler, GrpcStreamSplitter, Piece, Splitter
from fasttunnel.reference.messages import BadMessage, Field, Head, Part, RequestReset, TooMany
from fasttunnel.wire.tunnel_pb2 import GRPC, HTTP, GrpcRequest, GrpcResponse, Header, HttpRequest, HttpResponse

GRPC_TYPE = b"application/grpc"
STATUS_FIELDS = frozenset((b"grpc-status", b"grpc-message", b"grpc-status-details-bin"))
# For an answer without grpc-status (grpc/doc/http-grpc-status-mapping.md); others are UNKNOWN.
STATUS_OF_HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

Chunk = Any  # HttpRequest | HttpResponse | GrpcRequest | GrpcResponse


class Translation(ABC):
    """One request and its answer between HTTP messages and chunks. Raises BadMessage for what cannot be translated."""

    protocol: int
    splitter: Splitter  # of the body on its way into the tunnel

    @abstractmethod
    def request_chunk(self, head: Head, visitor: Visitor) -> Chunk:
        """The first chunk of a request."""

    @abstractmethod
    def answer_chunk(self, head: Head, *, alone: bool) -> Chunk:
        """The first chunk of an answer; `alone`: nothing follows its head. It may be the last chunk as well."""

    @abstractmethod
    def complete(self, chunk: Chunk, trailers: list[Field]) -> None:
        """Put the trailers into the last chunk."""

    @abstractmethod
    def request_part(self, chunk: Chunk, target: str, authority: bytes) -> Part:
        """What to write to a backend; target and authority are already those that it is to see."""

    @abstractmethod
    def answer_part(self, chunk: Chunk) -> Part:
        """What to write to the public."""

    @abstractmethod
    def error_part(self, reset: RequestReset) -> Part | None:
        """The whole rest of the answer when the request ends abnormally; None: it has to be broken off."""


# -- HTTP -------------------------------------------------------------------------------------------------------------


class ByteSplitter:
    """A Splitter for bodies that are just bytes."""

    def __init__(self, max_body_bytes: int = 0) -> None:
        self.max_body_bytes = max_body_bytes  # 0: no limit
        self._body_bytes = 0  # so far
        self._buffer = bytearray()

    @property
    def at_boundary(self) -> bool:
        return not self._buffer

    waits_for_credit = property(lambda self: not self.at_boundary)

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._body_bytes += len(data)

    def next_piece(self, room: int) -> Piece | None:
        self.check(self._body_bytes)
        body = bytes(self._buffer[:room])
        del self._buffer[:room]
        return Piece({"body": body}, len(body)) if body else None

    def check(self, size: int) -> None:
        """Raises BadMessage when a body of so many bytes is too large."""
        if 0 < self.max_body_bytes < size:
            text = f"request body above {self.max_body_bytes} bytes"
            raise BadMessage(text, status=413, code=ResetCode.TOO_LARGE)


class HttpTranslation(Translation):
    """Method, target, fields, body and trailers as they are."""

    protocol = HTTP

    def __init__(self, max_body_bytes: int = 0) -> None:
        self.splitter: ByteSplitter = ByteSplitter(max_body_bytes)
        self._begun = False

    def check_length(self, head: Head) -> None:
        """Of a request whose body is still to come. Raises BadMessage."""
        self.splitter.check(fields.content_length(head.fields) if self.splitter.max_body_bytes else 0)

    def request_chunk(self, head: Head, visitor: Visitor) -> HttpRequest:
        return HttpRequest(
            method=head.method.decode(),
            url=head.target.decode(),
            host=head.authority.decode(),
            scheme=visitor.scheme,
            headers=fields.of_request(head, visitor),
        )

    def answer_chunk(self, head: Head, *, alone: bool) -> HttpResponse:
        interim = head.status < 200
        return HttpResponse(
            status_code=head.status, headers=fields.to_tunnel(head.fields, without=(b"host",)), informational=interim
        )

    def complete(self, chunk: HttpRequest | HttpResponse, trailers: list[Field]) -> None:
        chunk.trailers.extend(fields.to_tunnel(fields.in_trailers(trailers)))

    def request_part(self, chunk: HttpRequest, target: str, authority: bytes) -> Part:
        head = None
        if chunk.is_first_chunk:
            passing = fields.from_tunnel(chunk.headers, without=(b"host",))
            head = Head(passing, chunk.method.encode(), target.encode(), authority)
            fields.check_target(head.method, head.target, authority)
        return Part(head, chunk.body, chunk.is_last_chunk, fields.in_trailers(fields.from_tunnel(chunk.trailers)))

    def answer_part(self, chunk: HttpResponse) -> Part:
        head = None
        if chunk.informational or chunk.is_first_chunk:
            status = chunk.status_code
            interim = 100 <= status <= 199 and status != 101 and not self._begun
            if not (interim if chunk.informational else 200 <= status <= 999):
                raise BadMessage("bad status from the backend")
            head = Head(fields.from_tunnel(chunk.headers), status=status)
            fields.content_length(head.fields)
            self._begun = not chunk.informational
        return Part(head, chunk.body, chunk.is_last_chunk, fields.in_trailers(fields.from_tunnel(chunk.trailers)))

    def error_part(self, reset: RequestReset) -> Part | None:
        """An answer of our own, as plain text for a person."""
        status = reset.status
        if self._begun or not status:
            return None
        body = f"{status}: {reset.explanation}\n".encode()
        head: list[Field] = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"Content-Length", b"%d" % len(body)),
        ]
        if status == 503:
            head.append((b"Retry-After", b"%d" % limits.RETRY_AFTER_S))
        elif isinstance(reset, TooMany):
            head.append((b"Retry-After", b"%d" % reset.retry_after_s))
        elif status == 426:  # RFC 6455 4.4
            head += [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Version", b"13")]
        elif status == 405:
            head.append((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
        return Part(Head(head, status=status), body, last=True)


# -- gRPC (grpc/doc/PROTOCOL-HTTP2.md) --------------------------------------------------------------------------------


class GrpcTranslation(Translation):
    """A call: messages instead of bytes, metadata instead of fields, a status in the trailers."""

    protocol = GRPC

    def __init__(self, max_message_bytes: int) -> None:
        self.splitter = GrpcStreamSplitter(max_message_bytes)
        self._assembler = GrpcStreamAssembler()
        self._begun = False

    def request_chunk(self, head: Head, visitor: Visitor) -> GrpcRequest:
        service, _, method = head.target.decode().rpartition("/")
        metadata = fields.of_request(head, visitor)
        return GrpcRequest(service=service[1:], method=method, authority=head.authority.decode(), metadata=metadata)

    def answer_chunk(self, head: Head, *, alone: bool) -> GrpcResponse:
        typed = is_grpc(head)
        if head.status == 200 and typed and not alone:
            return GrpcResponse(initial_metadata=_metadata(head.fields))
        chunk = GrpcResponse(is_first_chunk=True, is_last_chunk=True)
        if (head.status == 200 and typed) or fields.get(head.fields, b"grpc-status") is not None:  # Trailers-Only
            self.complete(chunk, head.fields)
            return chunk
        # A proxy or a web server answers. Its body says nothing that a client of gRPC could read.
        chunk.status_code = STATUS_OF_HTTP.get(head.status, GrpcStatus.UNKNOWN)
        untyped = "" if typed else " and no gRPC content-type"
        chunk.status_message = f"the backend answered with HTTP status {head.status}{untyped}"
        return chunk

    def complete(self, chunk: GrpcRequest | GrpcResponse, trailers: list[Field]) -> None:
        if isinstance(chunk, GrpcRequest):
            return  # the half-close of a request carries nothing
        status = fields.get(trailers, b"grpc-status")
        if status is None:
            chunk.status_message = "the backend sent no grpc-status"
        else:
            chunk.status_message = decode_message(fields.get(trailers, b"grpc-message") or b"")
        chunk.status_code = _known_status(int(status) if status and re.fullmatch(rb"[0-9]{1,9}", status) else -1)
        chunk.status_details = decode_details(fields.get(trailers, b"grpc-status-details-bin") or b"")
        chunk.trailing_metadata.extend(_metadata(trailers))

    def request_part(self, chunk: GrpcRequest, target: str, authority: bytes) -> Part:
        head = None
        if chunk.is_first_chunk:
            # Calls need no length; one that is wrong would cost the other calls of the connection too.
            metadata = fields.from_tunnel(chunk.metadata, without=(b"host", b"te", b"content-length"))
            head = Head([(b"te", b"trailers"), *_typed(metadata)], b"POST", target.encode(), authority)
            fields.check_target(head.method, head.target, authority)
        return Part(head, self._assembler.feed(chunk), chunk.is_last_chunk)

    def answer_part(self, chunk: GrpcResponse) -> Part:
        data = self._assembler.feed(chunk)
        head = None
        if chunk.is_first_chunk and (data or not chunk.is_last_chunk):
            head = Head(_typed(fields.from_tunnel(chunk.initial_metadata, without=STATUS_FIELDS)), status=200)
            self._begun = True
        if not chunk.is_last_chunk:
            return Part(head, data)
        metadata = [*chunk.trailing_metadata] if self._begun else [*chunk.initial_metadata, *chunk.trailing_metadata]
        passing = fields.from_tunnel(metadata, without=STATUS_FIELDS)
        return self._end(head, data, passing, chunk.status_code, chunk.status_message, chunk.status_details)

    def error_part(self, reset: RequestReset) -> Part | None:
        if not self._assembler.at_boundary:
            return None  # inside a message no trailers can follow
        return self._end(None, b"", [], ANSWERS[reset.code].grpc, reset.explanation.partition("\n")[0], b"")

    def _end(
        self, head: Head | None, data: bytes, metadata: list[Field], status: int, text: str, details: bytes
    ) -> Part:
        """Status and metadata as trailers, or as the whole answer when nothing was sent before (Trailers-Only)."""
        end: list[Field] = [(b"grpc-status", b"%d" % _known_status(status))]
        if text:
            end.append((b"grpc-message", encode_message(text)))
        if details:
            end.append((b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
        if not self._begun:
            return Part(Head([*_typed(metadata), *end], status=200), last=True)
        return Part(head, data, True, end + [field for field in metadata if field[0].lower() != b"content-type"])


def is_grpc(head: Head) -> bool:
    """By the content type; application/grpc-web is another protocol, over any HTTP."""
    content_type = fields.get(head.fields, b"content-type") or b""
    return content_type.startswith(GRPC_TYPE) and content_type[len(GRPC_TYPE) :][:1] in (b"", b"+", b";")


def _metadata(of: list[Field]) -> list[Header]:
    return fields.to_tunnel(of, without=STATUS_FIELDS)


def _typed(metadata: list[Field]) -> list[Field]:
    """With a content-type, if the other side has not given one."""
    missing = fields.get(metadata, b"content-type") is None
    return [(b"content-type", GRPC_TYPE), *metadata] if missing else metadata


def _known_status(code: int) -> int:
    return code if 0 <= code <= GrpcStatus.UNAUTHENTICATED else GrpcStatus.UNKNOWN


def decode_timeout(value: bytes) -> float:
    """grpc-timeout in seconds, at least a millisecond. Raises BadMessage."""
    if not re.fullmatch(rb"[0-9]{1,8}[HMSmun]", value):
        raise BadMessage("bad grpc-timeout", status=400)
    return max(int(value[:-1]) * _SECONDS[value[-1:]], 0.001)


def encode_message(text: str) -> bytes:
    """grpc-message: percent-encoded UTF-8."""
    return b"".join(bytes((c,)) if 32 <= c < 127 and c != 37 else b"%%%02X" % c for c in text.encode())


def decode_message(value: bytes) -> str:
    return unquote_to_bytes(value).decode("utf-8", "replace")


def decode_details(value: bytes) -> bytes:
    """grpc-status-details-bin: base64, with or without padding; empty when it is neither."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return b""
