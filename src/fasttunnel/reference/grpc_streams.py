"""gRPC calls on a tunnel: the state of each stream, and messages cut out of bytes and put together again.

A message on an HTTP/2 stream has a prefix: compressed flag (1 byte) and length (4 bytes, big-endian), see
grpc/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message". On the tunnel one chunk is one message, without the prefix; a
large message travels as several chunks (`more`), the first of which announces its length.
"""

import struct
from typing import Any, NamedTuple, Protocol

from fasttunnel.errors import ResetCode
from fasttunnel.reference.messages import BadMessage
from fasttunnel.wire.tunnel_pb2 import GrpcRequest, GrpcResponse

PREFIX = struct.Struct("!BI")


# -- state ------------------------------------------------------------------------------------------------------------


class Flow:
    """One direction of a request: its first message opens it, its last one closes it, chunks are counted from 0."""

    def __init__(self) -> None:
        self.opened = False
        self.closed = False
        self.next_sequence = 0

    def take(self, sequence: int | None = None, *, first: bool, last: bool, interim: bool = False) -> None:
        """A message goes this way; `sequence` is None where it is not counted. Raises BadMessage: not the next one."""
        if self.closed:
            raise BadMessage("message after the last chunk")
        if sequence is not None and sequence != self.next_sequence:
            raise BadMessage("gap in the sequence numbers")
        if first == self.opened and not interim:
            raise BadMessage("message before the first, or a second first one")
        self.next_sequence += 1
        self.opened = self.opened or not interim
        self.closed = last


class GrpcStream:
    """A call, as one end of the tunnel sees it; other requests are the same, without a manager."""

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
    """What is to be sent into the tunnel next."""

    values: dict[str, Any]  # fields of the chunk
    consumed: int  # bytes of the stream that it accounts for

    @property
    def body(self) -> bytes:
        return bytes(self.values["body"])


class Splitter(Protocol):
    """Cuts the bytes of a body into what the chunks of its protocol may carry."""

    def feed(self, data: bytes) -> None: ...

    def next_piece(self, room: int) -> Piece | None:
        """With at most `room` bytes of payload; None: not yet. Raises BadMessage."""

    @property
    def waits_for_credit(self) -> bool:
        """Whether next_piece() would give more if there was more room."""

    @property
    def at_boundary(self) -> bool:
        """Whether the body may end here, and nothing is left of it."""


class GrpcStreamSplitter:
    """A Splitter into messages, and messages above the fragment limit or the credit into pieces."""

    def __init__(self, max_message_bytes: int = 0) -> None:
        self._buffer = bytearray()
        self._max_message_bytes = max_message_bytes
        self._message: tuple[bool, int] | None = None  # compressed, length
        self._sent = 0  # bytes of the message that have been given out

    @property
    def at_boundary(self) -> bool:
        return self._message is None and not self._buffer

    @property
    def waits_for_credit(self) -> bool:
        return self._message is not None and bool(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_piece(self, room: int) -> Piece | None:
        """A piece is given out when it is complete: as long as the room allows, but never above the message."""
        if self._message is None and not self._begin():
            return None
        assert self._message is not None
        compressed, length = self._message
        left = length - self._sent
        size = min(left, room)
        if len(self._buffer) < size or (left and not size):
            return None
        first, more = self._sent == 0, size < left
        values = {"body": bytes(self._buffer[:size]), "compressed": compressed, "more": more}
        if first and more:
            values["message_length"] = length
        del self._buffer[:size]
        self._sent += size
        if not more:
            self._message = None
        return Piece(values, size + (PREFIX.size if first else 0))

    def _begin(self) -> bool:
        """Read the prefix of a message, if all of it is there."""
        if self._buffer and self._buffer[0] > 1:
            raise BadMessage("bad gRPC message flags")
        if len(self._buffer) < PREFIX.size:
            return False
        flag, length = PREFIX.unpack_from(self._buffer)
        if self._max_message_bytes and length > self._max_message_bytes:
            raise BadMessage("message above the limit of the tunnel", code=ResetCode.TOO_LARGE)
        del self._buffer[: PREFIX.size]
        self._message, self._sent = (flag == 1, length), 0
        return True


class GrpcStreamAssembler:
    """Makes the bytes of an HTTP/2 stream from chunks again."""

    def __init__(self) -> None:
        self._missing = 0  # bytes of the message that is being written

    @property
    def at_boundary(self) -> bool:
        return self._missing == 0

    def feed(self, chunk: GrpcRequest | GrpcResponse) -> bytes:
        """What to write for a chunk. Raises BadMessage when the chunks of a message do not add up."""
        prefix = b""
        if chunk.HasField("body"):
            size = len(chunk.body)
            if self._missing == 0:
                self._missing = chunk.message_length if chunk.more else size
                if chunk.more and self._missing <= size:
                    raise BadMessage("the tunnel brought fragments of a message that do not add up")
                prefix = PREFIX.pack(chunk.compressed, self._missing)
            if size > self._missing or (size == self._missing) == chunk.more:
                raise BadMessage("the tunnel brought fragments of a message that do not add up")
            self._missing -= size
        if chunk.is_last_chunk and self._missing:
            raise BadMessage("the stream ended inside a message")
        return prefix + chunk.body
