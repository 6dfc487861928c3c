"""A WebSocket server that echoes messages, by the websockets library: any size, any number of fragments, compression.

It takes one frame after the other, and has answered each before it looks at the next: what it does with frames that
came in one packet is what it does with frames that came one by one. A server that fails a connection for the second
frame of a packet may otherwise have no answer left for the first.
"""

import asyncio
import codecs
from contextlib import AsyncExitStack

from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

REFUSAL = "refused by the echo server"  # the reason of its Close frames, when it fails a connection
_MESSAGES = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class _Protocol(ServerProtocol):
    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        super().fail(code, REFUSAL)


class _Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self._protocol = _Protocol(extensions=enable_server_permessage_deflate(None), max_size=None)
        self._unread = bytearray()
        self._message: list[bytes] = []
        self._text = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while size := self._next_size():
            piece = bytes(self._unread[:size])
            del self._unread[:size]
            self._protocol.receive_data(piece)
            for event in self._protocol.events_received():
                if isinstance(event, Request):
                    self._protocol.send_response(self._protocol.accept(event))
                elif isinstance(event, Frame):
                    self._take(event)
            self._flush()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._flush()

    def _next_size(self) -> int:
        """Bytes of the handshake or of the frame at the front; 0 until all of them are there."""
        unread = self._unread
        if self._protocol.state is State.CONNECTING:
            return unread.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in unread else 0
        if self._protocol.state is not State.OPEN:
            return len(unread)
        if len(unread) < 2:
            return 0
        length, start = unread[1] & 0x7F, 2
        if length >= 126:
            start += 2 if length == 126 else 8
            if len(unread) < start:
                return 0
            length = int.from_bytes(unread[2:start], "big")
        size = start + (4 if unread[1] & 0x80 else 0) + length
        return size if len(unread) >= size else 0

    def _take(self, frame: Frame) -> None:
        if frame.opcode not in _MESSAGES or self._protocol.state is not State.OPEN:
            return  # control frames are answered by the library
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._message.append(frame.data)
        if self._text:
            try:
                self._decoder.decode(frame.data, frame.fin)
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA)
                return
        if frame.fin:
            message = b"".join(self._message)
            self._message.clear()
            (self._protocol.send_text if self._text else self._protocol.send_binary)(message)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()


async def start_echo(stack: AsyncExitStack) -> str:
    """HOST:PORT of a running one."""
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0, backlog=4096)
    stack.callback(server.close)
    host, port = server.sockets[0].getsockname()
    return f"{host}:{port}"
