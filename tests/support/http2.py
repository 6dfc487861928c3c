"""An HTTP/2 peer with prior knowledge, made of the h2 library: a second opinion on every frame of ours."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.support.raw import Peer, connect
from tests.support.tunnel import WAIT_S

Fields = list[tuple[str, str]]


class Stream:
    """One request of the public. Data is acknowledged as it is read, not before."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.number = number
        self.informational: list[Fields] = []
        self.fields: Fields = []
        self.body = bytearray()
        self.trailers: Fields = []
        self.ended = False
        self.reset: int | None = None
        self.acknowledge = True  # False: a reader that stalls
        self.unacknowledged = 0

    @property
    def status(self) -> int:
        return int(dict(self.fields)[":status"])

    def field(self, name: str) -> str | None:
        return dict(self.fields).get(name)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Body bytes, as the windows of the other side allow."""
        connection = self.connection
        while True:
            async with asyncio.timeout(WAIT_S):
                while data and not connection.protocol.local_flow_control_window(self.number):
                    if self.reset is not None:
                        return
                    await connection.changed()
            if self.reset is not None:
                return
            window = connection.protocol.local_flow_control_window(self.number)
            size = min(len(data), window, connection.protocol.max_outbound_frame_size)
            last = size == len(data)
            connection.protocol.send_data(self.number, data[:size], end_stream=end and last)
            await connection.flush()
            data = data[size:]
            if last:
                return

    async def send_trailers(self, fields: Fields) -> None:
        self.connection.protocol.send_headers(self.number, fields, end_stream=True)
        await self.connection.flush()

    async def cancel(self, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        self.connection.protocol.reset_stream(self.number, code)
        await self.connection.flush()

    async def answered(self) -> "Stream":
        """Wait for the head of the final answer."""
        await self.until(lambda: bool(self.fields) or self.reset is not None)
        return self

    async def done(self) -> "Stream":
        """Wait for the end of the answer, or for a reset."""
        await self.until(lambda: self.ended or self.reset is not None)
        return self

    async def received(self, count: int) -> bytes:
        """Wait for at least so many bytes of the body."""
        await self.until(lambda: len(self.body) >= count or self.ended or self.reset is not None)
        return bytes(self.body)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                assert self.connection.closed is None, self.connection.closed
                await self.connection.changed()

    def read_on(self) -> None:
        """Acknowledge what has come, and from now on all of it."""
        self.acknowledge = True
        if self.unacknowledged:
            self.connection.protocol.acknowledge_received_data(self.unacknowledged, self.number)
            self.unacknowledged = 0
        self.connection.write()


class GoingOn(h2.connection.H2ConnectionStateMachine):
    """That of h2 takes and sends no frame behind a GOAWAY, but the streams that are open go on (RFC 9113 6.8)."""

    def process_input(self, input_: h2.connection.ConnectionInputs) -> list[Any]:
        inputs = h2.connection.ConnectionInputs
        return [] if input_ in (inputs.RECV_GOAWAY, inputs.SEND_GOAWAY) else super().process_input(input_)


class Connection:
    """The public's connection: streams at will."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.protocol = h2.connection.H2Connection(config)
        self.protocol.state_machine = GoingOn()
        self.streams: dict[int, Stream] = {}
        self.closed: str | None = None  # why
        self.go_away: int | None = None
        self.settled = 0  # of our two SETTINGS; after both, nothing is written but what the test sends
        self._news = asyncio.Event()

    async def start(self, stack: AsyncExitStack, window: int = 2**20) -> None:
        self.protocol.initiate_connection()
        self.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.protocol.increment_flow_control_window(2**30)  # only the streams' windows hold anything up
        await self.flush()
        reader = asyncio.ensure_future(self._read())
        stack.callback(reader.cancel)
        async with asyncio.timeout(WAIT_S):
            while self.settled < 2:
                await self.changed()

    async def open(
        self, method: str, path: str, *fields: tuple[str, str], end: bool = True, authority: str = "public.example"
    ) -> Stream:
        """Send a request's head."""
        stream = Stream(self, self.protocol.get_next_available_stream_id())
        self.streams[stream.number] = stream
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
        self.protocol.send_headers(stream.number, [*pseudo, *fields], end_stream=end)
        await self.flush()
        return stream

    async def ask(self, method: str, path: str, *fields: tuple[str, str], body: bytes = b"", **options: Any) -> Stream:
        """A whole request and its whole answer."""
        stream = await self.open(method, path, *fields, end=not body, **options)
        if body:
            await stream.send(body, end=True)
        return await stream.done()

    async def changed(self) -> None:
        """Wait for something to come."""
        self._news.clear()
        await self._news.wait()

    def write(self) -> None:
        data = self.protocol.data_to_send()
        if data and not self.peer.writer.is_closing():
            self.peer.writer.write(data)

    async def flush(self) -> None:
        self.write()
        async with asyncio.timeout(WAIT_S):
            await self.peer.writer.drain()

    async def until_closed(self) -> str:
        async with asyncio.timeout(WAIT_S):
            while self.closed is None:
                await self.changed()
        return self.closed

    async def _read(self) -> None:
        try:
            while data := await self.peer.reader.read(2**18):
                for event in self.protocol.receive_data(data):
                    self._take(event)
                self.write()
                self._news.set()
            self.closed = "the other side closed the connection"
        except (OSError, h2.exceptions.ProtocolError) as error:
            self.closed = repr(error)
        self._news.set()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.go_away = int(event.error_code or 0)
            return
        if isinstance(event, h2.events.SettingsAcknowledged):
            self.settled += 1
            return
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        match event:
            case h2.events.InformationalResponseReceived():
                stream.informational.append(list(event.headers))
            case h2.events.ResponseReceived():
                stream.fields = list(event.headers)
            case h2.events.DataReceived():
                stream.body += event.data
                if stream.acknowledge:
                    if not stream.ended:
                        self.protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                else:
                    stream.unacknowledged += event.flow_controlled_length
            case h2.events.TrailersReceived():
                stream.trailers = list(event.headers)
            case h2.events.StreamEnded():
                stream.ended = True
            case h2.events.StreamReset():
                stream.reset = int(event.error_code)


async def connect_http2(stack: AsyncExitStack, host: str, port: int, window: int = 2**20) -> Connection:
    """A connection of the public; `window` is what each stream may receive before it is read."""
    connection = Connection(await connect(stack, host, port))
    await connection.start(stack, window)
    return connection
