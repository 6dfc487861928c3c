"""HTTP/2 connections (RFC 9113) with h2, on both sides of the tunnel: streams that coroutines read and write.

A stream whose bytes are not taken gets no WINDOW_UPDATE (5.2), so that its neighbours flow on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from fasttunnel.reference.dispatch import Exchange
from fasttunnel.reference.fields import Field
from fasttunnel.reference.grpc_streams import BadStream, GrpcStreamSplitter
from fasttunnel.wire.tunnel_pb2 import GrpcRequest, GrpcResponse

READ_BYTES = 65_536
STREAM_WINDOW = 262_144
CONNECTION_WINDOW = 16_777_216
MAX_STREAMS = 1024
MAX_FRAME = 65_536


class StreamEnded(Exception):
    """The stream cannot go on: it was reset (`code`), or its connection is lost (None)."""

    def __init__(self, code: int | None) -> None:
        super().__init__("the connection was lost" if code is None else f"reset with HTTP/2 error {int(code)}")
        self.code = code


class Http2Stream:
    """One request and its answer."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers: list[Field] | None = None  # of the peer
        self.trailers: list[Field] = []
        self.ended = False  # the peer has said all
        self.received_bytes = 0
        self.failure: StreamEnded | None = None
        self._buffer = bytearray()
        self._changed = asyncio.Event()
        self.window_changed = asyncio.Event()

    # -- what the peer sends

    def take(self) -> bytes:
        """What has come since; to be acknowledged once it has been sent on."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    @property
    def drained(self) -> bool:
        """Whether everything has come and was taken."""
        return self.ended and not self._buffer

    async def more(self) -> None:
        """Wait for news. Raises StreamEnded."""
        if not self._changed.is_set():
            self._check()
        await self._changed.wait()
        self._changed.clear()
        if not self._buffer and not self.ended:
            self._check()

    def acknowledge(self, count: int) -> None:
        """Open the peer's window again by as many bytes."""
        self.connection.acknowledge(self.id, count)

    def received(self, data: bytes = b"", *, ended: bool = False) -> None:
        self._buffer += data
        self.received_bytes += len(data)
        self.ended = self.ended or ended
        self._changed.set()

    def fail(self, code: int | None) -> None:
        self.failure = StreamEnded(code)
        self._changed.set()
        self.window_changed.set()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    # -- what we send

    def send_headers(self, headers: Iterable[Field], *, end: bool = False) -> None:
        self._check()
        try:
            self.connection.protocol.send_headers(self.id, [(n.lower(), v) for n, v in headers], end_stream=end)
        except h2.exceptions.StreamClosedError:
            raise StreamEnded(int(ErrorCodes.CANCEL)) from None
        self.connection.flush()

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """As the peer's windows allow; returns when the socket has taken it."""
        protocol = self.connection.protocol
        while data or end:
            self._check()
            try:
                room = min(protocol.local_flow_control_window(self.id), protocol.max_outbound_frame_size)
                if data and room <= 0:
                    self.window_changed.clear()
                    await self.window_changed.wait()
                    continue
                piece, data = data[:room] if data else b"", data[max(room, 0) :]
                protocol.send_data(self.id, piece, end_stream=end and not data)
            except h2.exceptions.StreamClosedError:
                raise StreamEnded(int(ErrorCodes.CANCEL)) from None
            end = end and bool(data)
            self.connection.flush()
            await self.connection.drain()

    def reset(self, code: ErrorCodes) -> None:
        """RFC 9113 5.4.2. After a complete answer, NO_ERROR says that the rest of the request is not wanted (8.1)."""
        if self.failure is None:
            with contextlib.suppress(h2.exceptions.ProtocolError):  # it is closed already
                self.connection.protocol.reset_stream(self.id, int(code))
            self.failure = StreamEnded(int(code))
            self.connection.flush()

    def close(self) -> None:
        """Nobody reads this stream any more."""
        self.acknowledge(len(self.take()))
        self.connection.forget(self)


class Http2Connection:
    """One connection. `on_stream(stream)` is called for each request of a peer that is a client."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        client: bool,
        header_list_bytes: int,
        on_stream: Callable[[Http2Stream], None] = lambda stream: None,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.on_stream = on_stream
        self.streams: dict[int, Http2Stream] = {}
        self.changed = asyncio.Event()  # settings have come, a stream has gone, or the connection was lost
        self.settled = self.lost = self.going_away = False
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.protocol = h2.connection.H2Connection(config)
        # Larger lists than allowed are still read, so that the stream can be answered 431 and its neighbours live on.
        self.protocol.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                SettingCodes.MAX_HEADER_LIST_SIZE: 4 * header_list_bytes,
                SettingCodes.ENABLE_PUSH: 0,
            }
            | ({} if client else {SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS}),
        )
        self.protocol.decoder.max_header_list_size = 4 * header_list_bytes
        self.protocol.max_inbound_frame_size = MAX_FRAME
        self.protocol.initiate_connection()
        self.protocol.increment_flow_control_window(CONNECTION_WINDOW - 65_535)

    async def run(self, received: bytes = b"") -> None:
        """Read until the connection ends."""
        data = received
        try:
            while not self.lost:
                if data:
                    for event in self.protocol.receive_data(data):
                        self._handle(event)
                self.flush()
                data = await self.reader.read(READ_BYTES)
                if not data:
                    break
        except h2.exceptions.ProtocolError:
            self.flush()  # h2 has made a GOAWAY
        except ConnectionError:
            pass
        finally:
            self._lose()

    def _handle(self, event: Any) -> None:
        """Table of what each event of h2 means."""
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        match event:
            case h2.events.RequestReceived():
                stream = self.streams[event.stream_id] = Http2Stream(self, event.stream_id)
                stream.headers = list(event.headers)
                stream.received(ended=event.stream_ended is not None)
                self.on_stream(stream)
            case h2.events.ResponseReceived() if stream is not None:
                stream.headers = list(event.headers)
                stream.received(ended=event.stream_ended is not None)
            case h2.events.TrailersReceived() if stream is not None:
                stream.trailers = list(event.headers)
                stream.received(ended=True)
            case h2.events.DataReceived():
                padding = event.flow_controlled_length - len(event.data)
                self.acknowledge(event.stream_id, padding if stream is not None else event.flow_controlled_length)
                if stream is not None:
                    stream.received(event.data, ended=event.stream_ended is not None)
            case h2.events.StreamEnded() if stream is not None:
                stream.received(ended=True)
            case h2.events.StreamReset() if stream is not None:
                stream.fail(event.error_code)
            case h2.events.WindowUpdated():
                for waiting in [stream] if stream is not None else self.streams.values():
                    waiting.window_changed.set()
            case h2.events.RemoteSettingsChanged():
                self.settled = True
                self.changed.set()
                for waiting in self.streams.values():
                    waiting.window_changed.set()
            case h2.events.ConnectionTerminated():
                self._go_away(event)

    def _go_away(self, event: h2.events.ConnectionTerminated) -> None:
        """RFC 9113 6.8: streams above the last one were not processed and may be sent again."""
        self.going_away = True
        self.changed.set()
        for stream in list(self.streams.values()):
            if self.protocol.config.client_side and stream.id > (event.last_stream_id or 0):
                stream.fail(int(ErrorCodes.REFUSED_STREAM))

    def _lose(self) -> None:
        self.lost = True
        self.changed.set()
        for stream in self.streams.values():
            stream.fail(None)
        self.writer.close()

    def open_stream(self, headers: list[Field]) -> Http2Stream:
        """A request of ours."""
        try:
            stream_id = self.protocol.get_next_available_stream_id()
            self.protocol.send_headers(stream_id, [(name.lower(), value) for name, value in headers])
        except h2.exceptions.ProtocolError:
            raise StreamEnded(int(ErrorCodes.REFUSED_STREAM)) from None
        stream = Http2Stream(self, stream_id)
        self.streams[stream_id] = stream
        self.flush()
        return stream

    def acknowledge(self, stream_id: int, count: int) -> None:
        if count and not self.lost:
            try:
                self.protocol.acknowledge_received_data(count, stream_id)
            except h2.exceptions.ProtocolError:
                return
            self.flush()

    def forget(self, stream: Http2Stream) -> None:
        self.streams.pop(stream.id, None)
        self.changed.set()

    def flush(self) -> None:
        if (data := self.protocol.data_to_send()) and not self.writer.is_closing():
            self.writer.write(data)

    async def drain(self) -> None:
        try:
            await self.writer.drain()
        except ConnectionError:
            raise StreamEnded(None) from None


async def send_messages(
    stream: Http2Stream,
    exchange: Exchange,
    chunk: GrpcRequest | GrpcResponse,
    max_message_bytes: int,
    complete: Callable[[Any], None] = lambda chunk: None,
) -> None:
    """The messages of a stream into the tunnel, each the moment it is complete; used by both ends.

    `chunk` is the first one, with the metadata; `complete` fills the fields of the last one. What has come together
    (metadata, message, end) travels together. Raises BadStream, StreamEnded, RequestReset.
    """
    splitter = GrpcStreamSplitter(max_message_bytes)
    kind = type(chunk)
    chunk.is_first_chunk = True
    while True:
        splitter.feed(stream.take())
        piece = splitter.next_piece(exchange.room)
        if piece is not None:
            if piece.body:
                await exchange.credit()
            chunk.body, chunk.compressed, chunk.more = piece.body, piece.compressed, piece.more
            chunk.message_length = piece.message_length if piece.first and piece.more else 0
        elif splitter.waits_for_credit and exchange.room == 0:
            await exchange.credit()
            continue
        elif not stream.drained:
            if chunk.is_first_chunk:
                exchange.send(chunk)
                chunk = kind()
            await stream.more()
            continue
        elif not splitter.at_boundary:
            raise BadStream("the stream ended inside a message")
        if stream.drained and splitter.at_boundary:
            chunk.is_last_chunk = True
            complete(chunk)
        exchange.send(chunk)
        stream.acknowledge(piece.consumed if piece is not None else 0)
        if chunk.is_last_chunk:
            return
        chunk = kind()
