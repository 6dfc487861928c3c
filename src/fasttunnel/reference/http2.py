"""HTTP/2 connections (RFC 9113) with h2, on both sides of the tunnel: each stream is an HttpStream.

A stream whose bytes are not sent on gets no WINDOW_UPDATE (5.2), so that its neighbours flow on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack
from h2.errors import ErrorCodes
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings

from fasttunnel.errors import ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.closing import LINGER_S
from fasttunnel.reference.messages import BODILESS, BadMessage, Head, HttpStream, Part, RequestReset, Unprocessed

READ_BYTES = 65_536
STREAM_WINDOW = 262_144
OUT_BYTES = 1024 * 1024  # of answers to pings and settings that a peer may leave unread
RESETS, RESETS_PER_S = 1000, 33  # as in libnghttp2
CONNECTION_WINDOW = 16_777_216
MAX_STREAMS = 1024
MAX_FRAME = 65_536
TABLE_BYTES = 4096  # of HPACK, for what we send

# What the error code of a backend means (grpc/doc/PROTOCOL-HTTP2.md, "Errors"); others are PROTOCOL_ERROR.
BACKEND_CODES: dict[int | None, ResetCode] = {
    None: ResetCode.BACKEND_UNREACHABLE,  # the connection was lost
    ErrorCodes.CANCEL: ResetCode.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: ResetCode.OVERLOADED,
}


class Http2Stream(HttpStream):
    """One request and its answer."""

    def __init__(self, connection: Http2Connection, stream_id: int = 0) -> None:
        super().__init__()
        self.id = stream_id  # of ours, only when the head is sent: identifiers have to grow (5.1.1)
        self.changed = asyncio.Event()  # something has come, or a window has opened
        self._connection = connection
        self._heads: deque[Head] = deque()
        self._failure: RequestReset | None = None
        self._bodiless = False  # what we send ends with its head
        self._said_all = False
        self._unread = -1  # bytes of the body that have not come, where its length was said

    # -- what the peer sends; called by the connection

    def came(self, head: Head | None = None, data: bytes = b"", *, ended: bool = False) -> bool:
        """What h2 has not found malformed may be so all the same, which ends the stream (8.1.1): then False."""
        try:
            if head is not None and not self._connection.public and head.status < 100:
                raise BadMessage("bad status")
            fields.check(head.fields if head is not None else self.trailers)
            if head is not None and head.status not in BODILESS:
                self._unread = fields.content_length(head.fields)
            self._unread -= len(data) if self._unread >= 0 else 0
            if ended and self._unread > 0:
                raise BadMessage("the body is shorter than its content-length")
        except BadMessage as error:
            self._reset(ErrorCodes.PROTOCOL_ERROR, error)
            self._connection.count_reset()
            return False
        if head is not None:
            self._heads.append(head)
        self._body += data
        self._complete = self._complete or ended
        self.changed.set()
        return True

    def fail(self, code: int | None, *, unprocessed: bool = False) -> None:
        """The stream was reset by the peer, or (None) its connection is lost. What has come before is still read."""
        if self._failure is None:
            if self._connection.public:
                self._failure = RequestReset(ResetCode.CANCELLED, "the public side cancelled the request")
            elif unprocessed:
                self._failure = Unprocessed(ResetCode.BACKEND_UNREACHABLE, "the backend refused the stream")
            else:
                why = "closed the connection" if code is None else f"reset the stream with HTTP/2 error {int(code)}"
                meaning = BACKEND_CODES.get(code, ResetCode.PROTOCOL_ERROR)
                self._failure = RequestReset(meaning, f"the backend {why}")
        self.changed.set()

    # -- reading

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self.changed.clear()
        await self.changed.wait()

    async def next_head(self) -> Head:
        """Of a backend: the next head of its answer, interim or final. Raises RequestReset."""
        while not self._heads:
            await self._wait()
        return self._heads.popleft()

    async def more(self) -> None:
        while not self._body and not self._complete:
            await self._wait()

    async def gone(self) -> None:
        while True:
            await self._wait()

    def acknowledge(self, count: int) -> None:
        self._connection.acknowledge(self.id, count)

    # -- writing

    async def send(self, part: Part) -> None:
        """HEADERS, DATA as the peer's windows allow, and trailers as HEADERS again; the last frame ends the stream."""
        if part.head is not None and not part.interim:
            self._bodiless = self._connection.public and not self.has_body(part.head)
        data, trailers = (b"", []) if self._bodiless else (part.data, part.trailers)
        if part.head is not None:
            self.id = self.id or self._connection.number(self)
            end = (part.last or self._bodiless) and not data and not trailers
            self._write("send_headers", fields.to_http2(part.head, self._connection.scheme), end)
            self.begun = not part.interim
            if end:
                return
        while data:
            room = self._connection.room(self.id)
            if room <= 0:
                await self._wait()
                continue
            piece, data = data[:room], data[room:]
            self._write("send_data", piece, part.last and not data and not trailers)
            await self._connection.drain()
        if trailers or (part.last and not part.data and not self._bodiless):
            self._write(*(("send_headers", trailers, True) if trailers else ("send_data", b"", True)))

    def _write(self, how: str, what: Any, end: bool) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            getattr(self._connection.h2, how)(self.id, what, end)
        except h2.exceptions.ProtocolError as error:
            raise BadMessage(f"cannot be written as HTTP/2: {error}") from None
        self._said_all = end
        self._connection.flush()

    # -- the end

    def abort(self, code: ResetCode) -> None:
        """RFC 9113 5.4.2."""
        self._reset(ErrorCodes.CANCEL if code == ResetCode.CANCELLED else ErrorCodes.INTERNAL_ERROR)

    def close(self) -> None:
        """Nobody reads this stream any more."""
        if not self._said_all or (not self._complete and self._unread != 0):
            self._reset(ErrorCodes.NO_ERROR)  # RFC 9113 8.1: after an early answer, the rest is not wanted
        self.acknowledge(len(self.take()))
        self._connection.forget(self)

    def _reset(self, code: ErrorCodes, why: RequestReset | None = None) -> None:
        if self._failure is None:
            self._failure = why or RequestReset(ResetCode.CANCELLED, "the stream was reset")
            self.changed.set()
            with contextlib.suppress(h2.exceptions.ProtocolError):  # it is closed already
                self._connection.h2.reset_stream(self.id, code)
            self._connection.flush()


class _StateMachine(h2.connection.H2ConnectionStateMachine):
    """That of h2 takes no frame behind a GOAWAY, but the streams that are open go on (6.8)."""

    winding_down = False

    def process_input(self, input_: h2.connection.ConnectionInputs) -> list[Any]:
        inputs = h2.connection.ConnectionInputs
        passed = input_ is inputs.RECV_GOAWAY or (input_ is inputs.SEND_GOAWAY and self.winding_down)
        return [] if passed else super().process_input(input_)


class _FrameBuffer(FrameBuffer):
    """That of h2 looks at the length of a frame when it has gathered all of it."""

    def __next__(self) -> Any:
        if len(self._data) >= 9:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()


class _Encoder(hpack.Encoder):
    """That of hpack has a table as large as the peer likes, and remembers each size until it sends a head.

    Its Huffman code takes time that grows with the square of a value's length: there is none.
    """

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        return super().encode(headers, huffman=False)

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, TABLE_BYTES)
        if size != self.header_table.maxsize:
            # RFC 7541 4.2: the smallest and the last tell all.
            self.table_size_changes = [min([*self.table_size_changes, size]), size]
        self.header_table.maxsize = size
        self.header_table.resized = bool(self.table_size_changes)


class Http2Connection:
    """One connection. `on_request(stream, head)` is called for each request of the public."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        header_list_bytes: int,
        *,
        on_request: Callable[[Http2Stream, Head], None] | None = None,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.public = on_request is not None
        self.scheme = b"http" if writer.get_extra_info("ssl_object") is None else b"https"
        self.streams: dict[int, Http2Stream] = {}
        self.opened: set[Http2Stream] = set()  # by us, numbered or not
        self.usable = True  # neither lost nor about to be closed
        self._on_request = on_request
        self._resets = self._reset_s = 0.0
        self._last_read: asyncio.TimerHandle | None = None  # finish(): what comes is dropped, until then at the longest
        self._settled = False  # the peer's SETTINGS have come
        self._changed = asyncio.Event()  # that, or a stream has gone, or the connection
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=not self.public, header_encoding=None)
        )
        self._machine = self.h2.state_machine = _StateMachine()
        self.h2.incoming_buffer = _FrameBuffer(server=self.public)
        self.h2.encoder = _Encoder()
        # Larger lists than allowed are still read, so that the stream can be answered 431 and its neighbours live on.
        self.h2.local_settings = Settings(
            client=not self.public,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                SettingCodes.MAX_HEADER_LIST_SIZE: 4 * header_list_bytes,
                SettingCodes.ENABLE_PUSH: 0,
            }
            | ({SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS} if self.public else {}),
        )
        self.h2.decoder.max_header_list_size = 4 * header_list_bytes
        self.h2.max_inbound_frame_size = MAX_FRAME
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)

    async def run(self, data: bytes = b"") -> None:
        """Read until the connection ends."""
        try:
            while not self.writer.is_closing():
                for event in self.h2.receive_data(data) if data and self._last_read is None else ():
                    self._handle(event)
                self.flush()
                if self.writer.transport.get_write_buffer_size() > OUT_BYTES:
                    await self.drain()
                data = await self.reader.read(READ_BYTES)
                if not data:
                    break
        except h2.exceptions.ProtocolError:
            self.flush()  # h2 has made a GOAWAY
        except ConnectionError:
            pass
        finally:
            self.usable = False
            self._changed.set()
            for stream in self.streams.values():
                stream.fail(None)
            if self._last_read is not None:
                self._last_read.cancel()
            self.writer.close()

    def finish(self) -> None:
        """Close behind the last answer: only writing at first, as an RST may cost the peer what it has not read."""
        self.flush()
        if self.writer.is_closing() or not self.writer.can_write_eof():  # TLS cannot
            return self.writer.close()
        if self._last_read is None:
            self._last_read = asyncio.get_running_loop().call_later(LINGER_S, self.writer.close)
            self.writer.write_eof()

    def _handle(self, event: Any) -> None:
        """What each event of h2 means."""
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        ended = getattr(event, "stream_ended", None) is not None
        match event:
            case h2.events.RequestReceived():
                stream = self.streams[event.stream_id] = Http2Stream(self, event.stream_id)
                head = fields.from_http2(event.headers)
                stream.answer_to = head.method
                assert self._on_request is not None
                (self._on_request(stream, head) if stream.came(head, ended=ended) else self.forget(stream))
            case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived() if stream is not None:
                stream.came(fields.from_http2(event.headers), ended=ended)
            case h2.events.TrailersReceived() if stream is not None:
                stream.trailers = list(event.headers)
                stream.came(ended=True)
            case h2.events.DataReceived():
                padding = event.flow_controlled_length - len(event.data)
                self.acknowledge(event.stream_id, padding if stream is not None else event.flow_controlled_length)
                if stream is not None:
                    stream.came(data=event.data, ended=ended)
            case h2.events.StreamReset() if stream is not None:
                self.count_reset()
                stream.fail(event.error_code, unprocessed=event.error_code == ErrorCodes.REFUSED_STREAM)
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._settled = self._settled or isinstance(event, h2.events.RemoteSettingsChanged)
                self._changed.set()
                for waiting in [stream] if stream is not None else self.streams.values():
                    waiting.changed.set()
            case h2.events.ConnectionTerminated():
                self.usable = False
                self._changed.set()
                for each in self.streams.values():
                    if not self.public and each.id > (event.last_stream_id or 0):
                        each.fail(event.error_code, unprocessed=True)  # RFC 9113 6.8
                self._close_unused()

    def count_reset(self) -> None:
        """Of a stream, by the peer or for what it sent: requests that are given up cost it nothing (CVE-2023-44487,
        -2025-8671), so their rate is bounded."""
        now = asyncio.get_running_loop().time()
        self._resets = max(0.0, self._resets - (now - self._reset_s) * RESETS_PER_S) + 1
        self._reset_s = now
        if self.public and self._resets > RESETS:
            self.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self.flush()
            self.writer.close()

    def announce_go_away(self) -> None:
        """A first GOAWAY, which turns no stream away (6.8)."""
        self._machine.winding_down = True
        self.h2.close_connection(last_stream_id=2**31 - 1)
        self._machine.winding_down = False
        self.flush()

    @property
    def capacity(self) -> int:
        """Streams that the peer allows (RFC 9113 5.1.2)."""
        return self.h2.remote_settings.max_concurrent_streams

    async def open_stream(self) -> Http2Stream:
        """To a backend, as soon as it allows another one. Raises RequestReset."""
        while self.usable:
            if self._settled and len(self.opened) < self.capacity:
                stream = Http2Stream(self)
                self.opened.add(stream)
                return stream
            self._changed.clear()
            await self._changed.wait()
        raise Unprocessed(ResetCode.BACKEND_UNREACHABLE, "the backend closed the connection")

    def number(self, stream: Http2Stream) -> int:
        """An identifier for a stream of ours."""
        if not self.usable:
            raise Unprocessed(ResetCode.BACKEND_UNREACHABLE, "the backend closed the connection")
        stream_id = self.h2.get_next_available_stream_id()
        self.streams[stream_id] = stream
        return stream_id

    def room(self, stream_id: int) -> int:
        """What may be sent on a stream now."""
        try:
            return min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
        except h2.exceptions.ProtocolError:
            return 1  # it is closed, and whoever writes is told

    def acknowledge(self, stream_id: int, count: int) -> None:
        """Open the peer's windows again by as many bytes."""
        if count and not self.writer.is_closing():
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.h2.acknowledge_received_data(count, stream_id)
            self.flush()

    def forget(self, stream: Http2Stream) -> None:
        self.streams.pop(stream.id, None)
        self.opened.discard(stream)
        self._changed.set()
        self._close_unused()

    def _close_unused(self) -> None:
        """Behind a GOAWAY, with the last stream."""
        if not self.usable and not self.streams:
            self.writer.close()

    def flush(self) -> None:
        if (data := self.h2.data_to_send()) and not self.writer.is_closing() and self._last_read is None:
            self.writer.write(data)

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):  # run() tells
            await self.writer.drain()
