"""WebSocket frames (RFC 6455 5) between a socket and the tunnel, one to one.

Boundaries, opcodes, FIN and RSV bits and control frames are what the other side sent; only the mask is made anew. A
frame above the fragment limit travels as several WebSocketFrame messages, the first of which announces its length, so
that its header can be written at once and the rest as it comes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
from collections.abc import Iterator

from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    Frame,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
    XorMaskerSimple,
)

from fasttunnel.errors import ANSWERS, ResetCode
from fasttunnel.reference.dispatch import Exchange, RequestReset, end_tasks
from fasttunnel.reference.grpc_streams import BadStream
from fasttunnel.wire.tunnel_pb2 import WebSocketFrame

CLOSE = 8
CLOSE_ANSWER_S = 30.0  # for a peer to answer a Close frame, before it is taken for dead
CLOSE_WAIT_S = 5.0  # for the server of a connection to close the TCP connection (RFC 6455 7.1.1)
READ_BYTES = 65_536


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a key, RFC 6455 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def valid_key(key: bytes) -> bool:
    """Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 4.2.1)."""
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


class _Passing(Extension):
    """Tells the parser that RSV bits may be set, and keeps what it reads of each header: the tunnel passes both on."""

    name = "passing"

    def __init__(self, rsv_allowed: bool, max_message_bytes: int) -> None:
        self.rsv = self.length = 0
        self.in_message = False
        self.message_bytes = 0  # of the message so far, without the frame of this header
        self._rsv_allowed = rsv_allowed
        self._max_message_bytes = max_message_bytes

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self.length = payload_length
        self.rsv = rsv.rsv1 << 2 | rsv.rsv2 << 1 | rsv.rsv3
        if not opcode.iscontrol():
            if (opcode == Opcode.CONTINUATION) != self.in_message:
                return CloseReason.PROTOCOL_ERROR  # a continuation without a start, or a start inside a message
            before = self.message_bytes if self.in_message else 0
            if self._max_message_bytes and before + payload_length > self._max_message_bytes:
                return CloseReason.MESSAGE_TOO_BIG
        return rsv if self._rsv_allowed else RsvBits(False, False, False)


class WebSocketFrameDecoder:
    """Bytes of a socket into WebSocketFrames. What RFC 6455 forbids raises ParseFailed with a close code."""

    def __init__(self, *, from_client: bool, extensions: bool, max_message_bytes: int) -> None:
        self._header = _Passing(extensions, max_message_bytes)
        self._parser = FrameDecoder(client=not from_client, extensions=[self._header])
        self._from_client = from_client
        self._started = False  # a fragment of this frame has been given out

    def decode(self, data: bytes) -> Iterator[WebSocketFrame]:
        """The frames in `data`, and of one that is longer than `data` what has come of it."""
        self._parser.receive_bytes(data)
        while (frame := self._parser.process_buffer()) is not None:
            yield self._passed_on(frame)

    def _passed_on(self, frame: Frame) -> WebSocketFrame:
        header, first = self._header, not self._started
        payload = bytes(frame.payload)  # type: ignore[arg-type]
        if first:
            self._opcode = int(frame.opcode)
        if self._opcode == CLOSE and payload and not _valid_close(payload):
            raise ParseFailed("invalid close code or payload", CloseReason.PROTOCOL_ERROR)
        if first and self._opcode < 8:
            header.message_bytes = header.length + (header.message_bytes if header.in_message else 0)
            header.in_message = not frame.message_finished
        self._started = not frame.frame_finished
        return WebSocketFrame(
            fin=frame.message_finished,
            opcode=self._opcode,
            rsv=header.rsv,
            masked=self._from_client,
            payload=payload,
            payload_length=header.length if first else 0,
            more=not frame.frame_finished,
        )


def _valid_close(payload: bytes) -> bool:
    """RFC 6455 7.4.1, 7.4.2 and the IANA registry: codes that may stand in a Close frame."""
    if len(payload) < 2:
        return False
    code = int.from_bytes(payload[:2], "big")
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


class WebSocketFrameEncoder:
    """WebSocketFrames into bytes for a socket. Fragments that do not add up raise BadStream."""

    def __init__(self, *, to_server: bool) -> None:
        self._to_server = to_server  # RFC 6455 5.3: with a fresh mask each
        self._masker: XorMaskerSimple | None = None
        self._missing = 0  # bytes of the frame that is being written

    @property
    def inside_frame(self) -> bool:
        return self._missing > 0

    def encode(self, frame: WebSocketFrame) -> bytes:
        size = len(frame.payload)
        if frame.opcode >= 8:
            if frame.opcode > 15 or size > 125 or frame.more or not frame.fin:
                raise BadStream("bad control frame")
            head, masker = self._head(frame, size)
            return head + _masked(frame.payload, masker)
        head = b""
        if self._missing == 0:
            self._missing = frame.payload_length if frame.more else size
            if frame.rsv > 7 or (frame.more and self._missing <= size) or self._missing >> 63:
                raise BadStream("fragments of a frame do not add up")
            head, self._masker = self._head(frame, self._missing)
        if size > self._missing or (size == self._missing) == frame.more:
            raise BadStream("fragments of a frame do not add up")
        self._missing -= size
        return head + _masked(frame.payload, self._masker)

    def _head(self, frame: WebSocketFrame, length: int) -> tuple[bytes, XorMaskerSimple | None]:
        """RFC 6455 5.2, the length in its shortest form; and the mask for the payload."""
        first, mask = frame.fin << 7 | frame.rsv << 4 | frame.opcode, 0x80 if self._to_server else 0
        if length < 126:
            head = struct.pack("!BB", first, mask | length)
        elif length < 65_536:
            head = struct.pack("!BBH", first, mask | 126, length)
        else:
            head = struct.pack("!BBQ", first, mask | 127, length)
        if not self._to_server:
            return head, None
        key = os.urandom(4)
        return head + key, XorMaskerSimple(key)


def _masked(payload: bytes, masker: XorMaskerSimple | None) -> bytes:
    return bytes(masker.process(bytearray(payload))) if masker is not None else payload


class WebSocketRelay:
    """An open WebSocket at one end of the tunnel. `public` is the end that a browser is connected to."""

    def __init__(
        self,
        exchange: Exchange,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        public: bool,
        extensions: bool,
        max_message_bytes: int,
    ) -> None:
        self.exchange = exchange
        self.reader = reader
        self.writer = writer
        self.public = public
        self.decoder = WebSocketFrameDecoder(
            from_client=public, extensions=extensions, max_message_bytes=max_message_bytes
        )
        self.encoder = WebSocketFrameEncoder(to_server=not public)
        self.close_sent = False

    async def run(self, received: bytes) -> None:
        """Until a Close frame has passed both ways (RFC 6455 7.1.1), or either side ends abnormally."""
        up = asyncio.create_task(self._socket_to_tunnel(received))
        down = asyncio.create_task(self._tunnel_to_socket())
        try:
            await asyncio.gather(up, down)
            self.exchange.finish()
            if not self.public:
                async with asyncio.timeout(CLOSE_WAIT_S):
                    while await self.reader.read(READ_BYTES):
                        pass
            self.writer.close()
        except RequestReset as reset:
            await self._break_off(reset)
        except (TimeoutError, asyncio.CancelledError, ConnectionError):
            self.writer.transport.abort()
            self._vanished()
        finally:
            await end_tasks(up, down)

    async def _socket_to_tunnel(self, data: bytes) -> None:
        """Frames of the socket, up to its Close frame."""
        try:
            while True:
                for frame in self.decoder.decode(data):
                    await self._send(frame)
                    if frame.opcode == CLOSE:
                        return
                data = await self.reader.read(READ_BYTES)
                if not data:
                    return self._vanished()
        except RequestReset:
            pass  # what has come before it is still written: _tunnel_to_socket() ends the relay
        except ConnectionError:
            self._vanished()
        except ParseFailed as error:
            # The peer of this socket broke the protocol: it gets the close code, the far side a reset.
            too_large = error.code == CloseReason.MESSAGE_TOO_BIG
            text = "message above the size limit" if too_large else str(error)
            self.exchange.status = int(error.code)
            self.exchange.reset(ResetCode.TOO_LARGE if too_large else ResetCode.PROTOCOL_ERROR, text)

    async def _send(self, frame: WebSocketFrame) -> None:
        """In fragments that the credit allows; control frames cost none."""
        payload, ends = frame.payload, not frame.more
        while frame.opcode < 8 and payload and len(payload) > (room := await self.exchange.credit()):
            frame.payload, payload, frame.more = payload[:room], payload[room:], True
            self.exchange.send(frame)
            frame = WebSocketFrame(fin=frame.fin, opcode=frame.opcode, rsv=frame.rsv, masked=frame.masked)
        frame.payload, frame.more = payload, not ends
        if ends:
            frame.payload_length = 0  # only the first of several announces it
        self.exchange.send(frame)

    async def _tunnel_to_socket(self) -> None:
        """Frames of the tunnel, up to its Close frame."""
        try:
            while True:
                frame: WebSocketFrame = await self.exchange.receive()
                self.writer.write(self.encoder.encode(frame))
                self.close_sent = frame.opcode == CLOSE
                await self.writer.drain()
                if frame.opcode < 8:
                    self.exchange.consumed(len(frame.payload))
                elif self.close_sent:
                    if len(frame.payload) >= 2 and not self.exchange.status:
                        self.exchange.status = int.from_bytes(frame.payload[:2], "big")
                    asyncio.get_running_loop().call_later(CLOSE_ANSWER_S, self.writer.transport.abort)
                    return
        except BadStream as error:
            self.exchange.reset(ResetCode.PROTOCOL_ERROR, str(error))
            raise RequestReset(ResetCode.PROTOCOL_ERROR, str(error)) from None

    def _vanished(self) -> None:
        """The socket ended without a close handshake: the far side sees an abnormal end, not a polite one."""
        if self.public:
            self.exchange.reset(ResetCode.CANCELLED, "the public side vanished without a close handshake")
        else:
            self.exchange.reset(
                ResetCode.BACKEND_UNREACHABLE, "the backend closed the connection without a close handshake"
            )

    async def _break_off(self, reset: RequestReset) -> None:
        """An abnormal end: the public gets a Close frame (unless one was sent, or a frame is half written)."""
        violated = self.exchange.status in (CloseReason.PROTOCOL_ERROR, CloseReason.MESSAGE_TOO_BIG)
        if (self.public or violated) and not self.close_sent and not self.encoder.inside_frame:
            code = ANSWERS[reset.code].ws_close or 1011
            reason = reset.explanation.encode()[:123].decode("utf-8", "ignore").encode()
            self.writer.write(
                self.encoder.encode(WebSocketFrame(fin=True, opcode=CLOSE, payload=code.to_bytes(2, "big") + reason))
            )
            self.writer.close()
        elif self.public:
            self.writer.close()
        else:
            self.writer.transport.abort()
