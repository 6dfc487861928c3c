"""An open WebSocket at one end of the tunnel: frames both ways, until a Close frame has passed both ways."""

from __future__ import annotations

import asyncio

from fasttunnel.errors import ABNORMAL, ANSWERS, ResetCode
from fasttunnel.reference.closing import linger, read_out
from fasttunnel.reference.exchange import Exchange
from fasttunnel.reference.http1 import READ_BYTES, Http1Stream
from fasttunnel.reference.messages import BadMessage, RequestReset, forever, while_running
from fasttunnel.reference.websocket_frames import CLOSE, WebSocketFrameDecoder, WebSocketFrameEncoder, close_code
from fasttunnel.wire.tunnel_pb2 import WebSocketFrame, WebSocketResponse

CLOSE_ANSWER_S = 30.0  # for a peer to answer a Close frame, before it is taken for dead
SERVICE_RESTART = 1012  # 1001 would tell many a page not to connect again
PING, PONG = 9, 10
OUR_PING = b"fasttunnel"  # payload of our Pings, by which their Pongs are known
CLOSE_WAIT_S = 5.0  # for the server of a connection to close the TCP connection (RFC 6455 7.1.1)


class WebSocketRelay:
    """Between a socket and the tunnel. The stream has made the handshake, and holds the first frames perhaps."""

    def __init__(
        self,
        exchange: Exchange,
        stream: Http1Stream,
        answer: WebSocketResponse,
        max_message_bytes: int,
        ping_interval_s: float = 0,
        lost_close: int = ABNORMAL,
    ) -> None:
        self._exchange = exchange
        self._stream = stream
        self._public = stream.public
        extensions = any(header.name.lower() == "sec-websocket-extensions" for header in answer.headers)
        self._decoder = WebSocketFrameDecoder(
            from_client=stream.public, extensions=extensions, max_message_bytes=max_message_bytes
        )
        self._encoder = WebSocketFrameEncoder(to_server=not stream.public, extensions=extensions)
        self._close_sent = self._violated = self._stuck = False
        self._dismissed = False  # our own Close frame has been sent: what the far side still says is dropped
        self._close_received = asyncio.Event()
        self._ping_interval_s = ping_interval_s  # 0: no pings of ours
        self._lost_close = lost_close  # code of the Close frame when the tunnel is lost; ABNORMAL: none is sent
        self._heard = self._pinged = False  # since the last tick; and not answered yet

    async def run(self) -> None:
        reader, writer = self._stream.reader, self._stream.writer
        try:
            directions = self._tunnel_to_socket(), self._socket_to_tunnel()
            await while_running(*directions, self._dismissal(), self._watch(), self._exchange.overdue())
            self._exchange.finish()
            if not self._public:
                await read_out(reader, CLOSE_WAIT_S)
            writer.close()
        except RequestReset as reset:
            self._exchange.reset(reset.code, reset.text)
            await self._break_off(reset)
        except BaseException:
            writer.transport.abort()
            raise

    async def _socket_to_tunnel(self) -> None:
        """Up to the Close frame: nothing is processed behind it (RFC 6455 5.5.1)."""
        try:
            self._decoder.feed(self._stream.waiting_bytes)
            while True:
                frame = self._decoder.next_frame(self._exchange.room)
                if frame is None and self._decoder.waits_for_credit and self._exchange.room == 0:
                    await self._exchange.ready()
                elif frame is None:
                    data = await self._stream.reader.read(READ_BYTES)
                    if not data:
                        raise self._vanished()
                    self._heard = True
                    self._decoder.feed(data)
                elif self._pinged and (frame.opcode, frame.payload) == (PONG, OUR_PING):
                    self._pinged = False  # the answer to a Ping of ours is nobody else's
                else:
                    await self._exchange.ready(paid=False)
                    self._exchange.status = self._exchange.status or close_code(frame)
                    self._exchange.send(frame)
                    if frame.opcode == CLOSE:
                        return self._close_received.set()
        except ConnectionError:
            raise self._vanished() from None
        except BadMessage as error:
            # The peer of this socket broke the protocol: it gets the close code, the far side a reset.
            self._violated, self._exchange.status = True, ANSWERS[error.code].ws_close
            raise

    async def _tunnel_to_socket(self) -> None:
        """Up to the Close frame, and then until one has come back."""
        far_closed = False
        while not far_closed:
            frame: WebSocketFrame = await self._exchange.receive()
            far_closed = frame.opcode == CLOSE
            if not self._dismissed:
                await self._write(frame)
                self._dismiss()
            self._exchange.consumed(frame)
            self._exchange.status = self._exchange.status or close_code(frame)
        try:
            async with asyncio.timeout(CLOSE_ANSWER_S):
                await self._close_received.wait()
        except TimeoutError:
            self._stuck = True
            raise self._vanished() from None

    async def _dismissal(self) -> None:
        """The server or the client is going: the public is asked to close. Its answer closes the backend's side."""
        await self._exchange.leaving.wait()
        self._dismiss()
        try:
            async with asyncio.timeout(CLOSE_ANSWER_S):
                await self._close_received.wait()
        except TimeoutError:
            raise self._vanished() from None

    async def _watch(self) -> None:
        """Ask the peer by a Ping whether it lives when it has been silent for a while (RFC 6455 5.5.2)."""
        while True:
            await (asyncio.sleep(self._ping_interval_s) if self._ping_interval_s else forever())
            if self._close_sent or self._close_received.is_set():
                return
            if self._heard:
                self._pinged = False
            elif self._pinged:
                self._stuck = True
                raise RequestReset(ResetCode.CANCELLED, "the public side does not answer pings")
            elif not self._encoder.inside_frame and not self._stuck and self._exchange.room:
                self._pinged = True
                ping = WebSocketFrame(fin=True, opcode=PING, payload=OUR_PING)
                self._stream.writer.write(self._encoder.encode(ping))
            self._heard = False

    def _dismiss(self) -> None:
        over = self._close_sent or self._close_received.is_set() or self._stream.writer.is_closing()
        if self._exchange.leaving.is_set() and not over and not self._encoder.inside_frame:
            self._dismissed = self._close_sent = True
            self._exchange.status = self._exchange.status or SERVICE_RESTART
            self._write_close(SERVICE_RESTART, b"the tunnel is shutting down")

    def _write_close(self, code: int, reason: bytes) -> None:
        payload = code.to_bytes(2, "big") + reason
        self._stream.writer.write(self._encoder.encode(WebSocketFrame(fin=True, opcode=CLOSE, payload=payload)))

    async def _write(self, frame: WebSocketFrame) -> None:
        if self._stream.writer.is_closing():
            raise self._vanished()
        self._stream.writer.write(self._encoder.encode(frame))
        self._close_sent = frame.opcode == CLOSE
        self._stuck = True
        try:
            await self._stream.writer.drain()
        except ConnectionError:
            raise self._vanished() from None
        self._stuck = False

    def _vanished(self) -> RequestReset:
        """No close handshake: the far side sees an abnormal end, not a polite one."""
        if self._public:
            return RequestReset(ResetCode.CANCELLED, "the public side vanished without a close handshake")
        return RequestReset(
            ResetCode.BACKEND_UNREACHABLE, "the backend closed the connection without a close handshake"
        )

    async def _break_off(self, reset: RequestReset) -> None:
        """An abnormal end: a Close frame for the public, and for who has broken the protocol, where one can be sent."""
        reader, writer = self._stream.reader, self._stream.writer
        code = self._lost_close if reset.code is ResetCode.TUNNEL_LOST else ANSWERS[reset.code].ws_close or 1011
        told = self._public and code != ABNORMAL
        polite = (told or self._violated) and not self._close_sent and not self._encoder.inside_frame
        if self._stuck or not (polite or self._public):
            return writer.transport.abort()
        if polite and not writer.is_closing():
            reason = reset.explanation.encode()[:123].decode("utf-8", "ignore").encode()
            self._write_close(code, reason)
            await linger(reader, writer)
        writer.close()
