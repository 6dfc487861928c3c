"""WebSocket frames (RFC 6455 5), one to one between the bytes of a socket and the messages of the tunnel.

Boundaries, opcodes, FIN and RSV bits and control frames are what the other side sent; only the mask is made anew. A
frame above the fragment limit travels as several WebSocketFrame messages, the first of which announces its length, so
that its header can be written at once and the rest as it comes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct

from wsproto.extensions import Extension
from wsproto.frame_protocol import FrameDecoder, FrameProtocol, Header, Opcode, ParseFailed, RsvBits, XorMaskerSimple

from fasttunnel.errors import ResetCode
from fasttunnel.reference.messages import BadMessage
from fasttunnel.wire.tunnel_pb2 import WebSocketFrame

CLOSE = 8
OPCODES = frozenset(int(opcode) for opcode in Opcode)


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a key, RFC 6455 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def valid_key(key: bytes) -> bool:
    """Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 4.2.1)."""
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def close_code(frame: WebSocketFrame) -> int:
    """Of a Close frame; 0 when it gives none, or is another frame."""
    return int.from_bytes(frame.payload[:2], "big") if frame.opcode == CLOSE and len(frame.payload) >= 2 else 0


class _AnyExtension(Extension):
    """Tells wsproto that RSV bits may be set: some extension was negotiated end to end, and the tunnel passes them."""

    name = "any"

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> RsvBits:
        return rsv


class WebSocketFrameDecoder:
    """Bytes of a socket into WebSocketFrames, and frames above the fragment limit or the credit into fragments."""

    def __init__(self, *, from_client: bool, extensions: bool, max_message_bytes: int) -> None:
        self._parser = FrameDecoder(client=not from_client, extensions=[_AnyExtension()] if extensions else [])
        self._from_client = from_client
        self._max_message_bytes = max_message_bytes
        self._header: Header | None = None  # of the frame that is being given out
        self._payload = bytearray()  # what has come of it and was not given out
        self._left = 0  # bytes of it that were not given out
        self._in_message = False
        self._message_bytes = 0  # of the message so far

    @property
    def waits_for_credit(self) -> bool:
        """Whether next_frame() would give more if there was more room."""
        return bool(self._payload)

    def feed(self, data: bytes) -> None:
        self._parser.receive_bytes(data)

    def next_frame(self, room: int) -> WebSocketFrame | None:
        """The next frame, or a fragment as long as the room allows, when it has come. Raises BadMessage."""
        try:
            if self._header is None and not self._begin():
                return None
            while self._parser.header is not None and (part := self._parser.process_buffer()) is not None:
                self._payload += bytes(part.payload)  # type: ignore[arg-type]
        except ParseFailed as error:
            raise BadMessage(str(error)) from None
        assert self._header is not None
        header, first = self._header, self._left == self._header.payload_len
        size = self._left if header.opcode.iscontrol() else min(self._left, room)
        if len(self._payload) < size or (self._left and not size):
            return None
        frame = WebSocketFrame(
            fin=header.fin,
            opcode=header.opcode,
            rsv=header.rsv.rsv1 << 2 | header.rsv.rsv2 << 1 | header.rsv.rsv3,
            masked=self._from_client,
            payload=bytes(self._payload[:size]),
            more=size < self._left,
        )
        if first and frame.more:
            frame.payload_length = header.payload_len
        if frame.opcode == CLOSE and frame.payload and not _valid_close(close_code(frame)):
            raise BadMessage("invalid close code or payload")
        del self._payload[:size]
        self._left -= size
        if not frame.more:
            self._header = None
        return frame

    def _begin(self) -> bool:
        """Read the header of a frame, if all of it is there; what is refused, is refused before the payload comes."""
        if not self._parser.parse_header():
            return False
        header = self._header = self._parser.header
        assert header is not None
        self._left = header.payload_len
        if not header.opcode.iscontrol():
            if (header.opcode == Opcode.CONTINUATION) != self._in_message:
                raise BadMessage("a continuation without a start, or a start inside a message")
            self._message_bytes = header.payload_len + (self._message_bytes if self._in_message else 0)
            self._in_message = not header.fin
            if self._max_message_bytes and self._message_bytes > self._max_message_bytes:
                raise BadMessage("message above the size limit", code=ResetCode.TOO_LARGE)
        return True


def _valid_close(code: int) -> bool:
    """RFC 6455 7.4.1, 7.4.2 and the IANA registry: codes that may stand in a Close frame."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


class WebSocketFrameEncoder:
    """WebSocketFrames of the tunnel into bytes for a socket. What RFC 6455 does not allow there raises BadMessage."""

    def __init__(self, *, to_server: bool, extensions: bool) -> None:
        self._extensions = extensions
        self._in_message = False
        self._to_server = to_server  # RFC 6455 5.3: with a fresh mask each
        self._masker: XorMaskerSimple | None = None
        self._missing = 0  # bytes of the frame that is being written

    @property
    def inside_frame(self) -> bool:
        return self._missing > 0

    def encode(self, frame: WebSocketFrame) -> bytes:
        size = len(frame.payload)
        head = b""
        if self._missing == 0:
            self._check(frame)
            self._missing = frame.payload_length if frame.more else size
            head = self._head(frame, self._missing)
        if size > self._missing or (size == self._missing) == frame.more:
            raise BadMessage("the tunnel brought fragments of a frame that do not add up")
        self._missing -= size
        return head + (bytes(self._masker.process(bytearray(frame.payload))) if self._masker else frame.payload)

    def _check(self, frame: WebSocketFrame) -> None:
        """RFC 6455 5.2, 5.4 and 5.5: whether such a frame may begin now."""
        if frame.opcode not in OPCODES or frame.rsv > (7 if self._extensions else 0):
            raise BadMessage("a frame that may not be sent")
        if frame.more and (frame.payload_length <= len(frame.payload) or frame.payload_length >> 63):
            raise BadMessage("the tunnel brought fragments of a frame that do not add up")
        if frame.opcode < CLOSE:
            if (frame.opcode == Opcode.CONTINUATION) != self._in_message:
                raise BadMessage("a continuation without a start, or a start inside a message")
            self._in_message = not frame.fin
        elif len(frame.payload) > 125 or frame.more or not frame.fin:
            raise BadMessage("a control frame that may not be sent")
        elif frame.opcode == CLOSE and frame.payload and not _valid_close(close_code(frame)):
            raise BadMessage("invalid close code or payload")

    def _head(self, frame: WebSocketFrame, length: int) -> bytes:
        """RFC 6455 5.2, the length in its shortest form; and the mask for the payload."""
        first, mask = frame.fin << 7 | frame.rsv << 4 | frame.opcode, 0x80 if self._to_server else 0
        if length < 126:
            head = struct.pack("!BB", first, mask | length)
        elif length < 65_536:
            head = struct.pack("!BBH", first, mask | 126, length)
        else:
            head = struct.pack("!BBQ", first, mask | 127, length)
        if not self._to_server:
            return head
        key = os.urandom(4)
        self._masker = XorMaskerSimple(key)
        return head + key
