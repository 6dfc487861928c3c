"""gRPC calls on a tunnel: the state of each stream, and messages cut out of bytes and put together again.

A message on an HTTP/2 stream has a prefix: compressed flag (1 byte) and length (4 bytes, big-endian), see
grpc/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message". On the tunnel one chunk is one message, without the prefix; a
large message travels as several chunks (`more`), the first of which announces its length.
"""

import base64
import binascii
import re
import struct
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from fasttunnel.wire.tunnel_pb2 import GrpcRequest, GrpcResponse

PREFIX = struct.Struct("!BI")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class BadStream(Exception):
    """A side of a call that breaks gRPC's framing or order. `too_large`: only a limit was passed."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


# -- state ------------------------------------------------------------------------------------------------------------


class Flow:
    """One direction of a request: is_first_chunk opens it, is_last_chunk closes it, chunks are counted from 0."""

    def __init__(self) -> None:
        self.opened = False
        self.closed = False
        self.next_sequence = 0

    def take(self, sequence: int, *, first: bool, last: bool, informational: bool = False) -> None:
        """A chunk goes this way. Raises BadStream when it is not the next one."""
        if self.closed:
            raise BadStream("message after the last chunk")
        if sequence != self.next_sequence:
            raise BadStream("gap in the sequence numbers")
        if first == self.opened and not informational:
            raise BadStream("is_first_chunk in the wrong place")
        self.next_sequence += 1
        self.opened = self.opened or not informational
        self.closed = last


class GrpcStream:
    """A call, as one end of the tunnel sees it."""

    def __init__(self) -> None:
        self.sending = Flow()
        self.receiving = Flow()

    @property
    def state(self) -> str:
        """As in RFC 9113 5.1: idle, open, half-closed (local: we have said all), closed."""
        if self.sending.closed:
            return "closed" if self.receiving.closed else "half-closed (local)"
        if self.receiving.closed:
            return "half-closed (remote)"
        return "open" if self.sending.opened or self.receiving.opened else "idle"


class GrpcStreamManager:
    """The calls of one tunnel, by request_id."""

    def __init__(self) -> None:
        self.streams: dict[str, GrpcStream] = {}

    def open(self, request_id: str) -> GrpcStream:
        stream = self.streams[request_id] = GrpcStream()
        return stream

    def close(self, request_id: str) -> None:
        """The call is over, in order or not."""
        self.streams.pop(request_id, None)


# -- messages ---------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A message, or a part of one."""

    body: bytes
    compressed: bool
    message_length: int  # of the whole message
    first: bool
    more: bool
    consumed: int  # bytes of the stream that this piece accounts for


class GrpcStreamSplitter:
    """Cuts a stream of bytes into messages, and messages above the fragment limit or the credit into pieces."""

    def __init__(self, max_message_bytes: int = 0) -> None:
        self._buffer = bytearray()
        self._max_message_bytes = max_message_bytes
        self._message: tuple[bool, int] | None = None  # compressed, length
        self._sent = 0  # bytes of the message that have been given out

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here."""
        return self._message is None and not self._buffer

    @property
    def waits_for_credit(self) -> bool:
        """Whether next_piece() would give more if it was allowed more."""
        return self._message is not None and bool(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_piece(self, room: int) -> Piece | None:
        """At most `room` bytes of a message, once they are there; None: not yet. Raises BadStream."""
        head = 0
        if self._message is None:
            if self._buffer and self._buffer[0] > 1:
                raise BadStream("bad gRPC message flags")
            if len(self._buffer) < PREFIX.size:
                return None
            flag, length = PREFIX.unpack_from(self._buffer)
            if self._max_message_bytes and length > self._max_message_bytes:
                raise BadStream("message above the limit of the tunnel", too_large=True)
            del self._buffer[: PREFIX.size]
            self._message, self._sent = (flag == 1, length), 0
        compressed, length = self._message
        left = length - self._sent
        take = min(left, room)
        if len(self._buffer) < take or (left and not take):
            return None
        head = PREFIX.size if self._sent == 0 else 0
        piece = Piece(bytes(self._buffer[:take]), compressed, length, self._sent == 0, take < left, take + head)
        del self._buffer[:take]
        self._sent += take
        if not piece.more:
            self._message = None
        return piece


class GrpcStreamAssembler:
    """Makes the bytes of an HTTP/2 stream from chunks again."""

    def __init__(self) -> None:
        self._missing = 0  # bytes of the message that is being written

    @property
    def at_boundary(self) -> bool:
        return self._missing == 0

    def feed(self, chunk: GrpcRequest | GrpcResponse) -> bytes:
        """What to write for a chunk. Raises BadStream when the chunks of a message do not add up."""
        prefix = b""
        if chunk.HasField("body"):
            size = len(chunk.body)
            if self._missing == 0:
                self._missing = chunk.message_length if chunk.more else size
                if chunk.more and self._missing <= size:
                    raise BadStream("fragments of a message do not add up")
                prefix = PREFIX.pack(chunk.compressed, self._missing)
            if size > self._missing or (size == self._missing) == chunk.more:
                raise BadStream("fragments of a message do not add up")
            self._missing -= size
        if chunk.is_last_chunk and self._missing:
            raise BadStream("the stream ended inside a message")
        return prefix + chunk.body


# -- notations of PROTOCOL-HTTP2.md -----------------------------------------------------------------------------------


def decode_timeout(value: bytes) -> float | None:
    """grpc-timeout in seconds, at least a millisecond; None: malformed."""
    if not re.fullmatch(rb"[0-9]{1,8}[HMSmun]", value):
        return None
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


def encode_details(details: bytes) -> bytes:
    return base64.b64encode(details).rstrip(b"=")


def status_for_http(http_status: int) -> int:
    """For an answer without grpc-status (grpc/doc/http-grpc-status-mapping.md)."""
    known = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
    return known.get(http_status, 2)
