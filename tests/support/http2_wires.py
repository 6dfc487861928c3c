"""A gRPC backend made of the h2 library on wires, and what HTTP/2 peers have seen, as it is compared."""

import asyncio
import itertools
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.support.cells import Stage
from tests.support.http2 import Stream
from tests.support.wires import Wire

Fields = list[tuple[str, str]]
WINDOW = 2**20

# RFC 7540 7; gRPC knows some of these by name.
RESETS = [int(code) for code in h2.errors.ErrorCodes]


def messages(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The gRPC messages in a body, each with its flag, and what is left over."""
    found = []
    while len(data) >= 5:
        length = int.from_bytes(data[1:5], "big")
        if len(data) < 5 + length:
            break
        found.append((data[0], data[5 : 5 + length]))
        data = data[5 + length :]
    return found, data


def message(payload: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


class Call:
    """One call as the backend has it."""

    def __init__(self, connection: "Connection", number: int, fields: Fields) -> None:
        self.connection = connection
        self.number = number
        self.fields = fields
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None

    @property
    def over(self) -> bool:
        """Nothing more comes from the tunnel."""
        return self.ended or self.reset is not None or self.connection.wire.ended is not None

    async def send_headers(self, fields: Fields, *, end: bool = False) -> None:
        if self.reset is None:
            self.connection.protocol.send_headers(self.number, fields, end_stream=end)
            await self.connection.flush()

    async def send(self, *parts: bytes, end: bool = False) -> None:
        """Each part in a DATA frame of its own, or in several where it has to be."""
        protocol = self.connection.protocol
        for index, part in enumerate(parts):
            data = part
            while True:
                await self.connection.wire.until(lambda _: self.reset is not None or self._room())
                if self.reset is not None or self.connection.wire.ended:
                    return
                size = min(len(data), self._room(), protocol.max_outbound_frame_size)
                last = size == len(data)
                protocol.send_data(self.number, data[:size], end_stream=end and last and index == len(parts) - 1)
                await self.connection.flush()
                data = data[size:]
                if last:
                    break

    def _room(self) -> int:
        return self.connection.protocol.local_flow_control_window(self.number)

    async def send_goaway(self, last: int = 2**31 - 1) -> None:
        """Written by hand: h2 would say nothing more afterwards."""
        await self.connection.wire.send(bytes.fromhex("000008070000000000") + last.to_bytes(4, "big") + bytes(4))

    async def send_reset(self, code: int) -> None:
        self.connection.protocol.reset_stream(self.number, code)
        await self.connection.flush()

    async def received(self, count: int) -> None:
        """Wait for so many whole messages."""
        await self.connection.wire.until(lambda _: self.over or len(messages(bytes(self.body))[0]) >= count)

    async def done(self) -> None:
        await self.connection.wire.until(lambda _: self.over)

    def seen(self) -> dict[str, Any]:
        """RFC 9113 8.1: a stream whose answer is complete may be reset or not, and the code says nothing more."""
        found, rest = messages(bytes(self.body))
        return {"fields": normal(self.fields), "messages": found, "rest": bool(rest), "ended": self.ended}


class Connection:
    """One connection of the tunnel to the backend."""

    def __init__(self, wire: Wire, calls: list[Call]) -> None:
        self.wire = wire
        # What a backend says is not checked: it may be anything.
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.protocol = h2.connection.H2Connection(config)
        self.failure: Exception | None = None  # what the tunnel wrote was not HTTP/2
        self._calls = calls
        self._fed = 0

    async def run(self) -> None:
        self.protocol.initiate_connection()
        self.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self.protocol.increment_flow_control_window(2**30)
        await self.flush()
        while True:
            await self.wire.until(lambda wire: len(wire.received) > self._fed)
            data = bytes(self.wire.received[self._fed :])
            if not data:
                return
            self._fed += len(data)
            try:
                for event in self.protocol.receive_data(data):
                    self._take(event)
            except h2.exceptions.ProtocolError as error:
                self.failure = error
                return
            await self.flush()
            self.wire.news.tell()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._calls.append(Call(self, event.stream_id or 0, [(str(n), str(v)) for n, v in event.headers]))
            return
        calls = [c for c in self._calls if c.connection is self and c.number == getattr(event, "stream_id", None)]
        for call in calls:
            match event:
                case h2.events.DataReceived():
                    call.body += event.data
                    self.protocol.acknowledge_received_data(event.flow_controlled_length, call.number)
                case h2.events.StreamEnded():
                    call.ended = True
                case h2.events.StreamReset():
                    call.reset = int(event.error_code)

    async def flush(self) -> None:
        await self.wire.send(self.protocol.data_to_send())


class GrpcBackend:
    """Takes every call that comes, and does what the test says."""

    def __init__(self, stage: Stage) -> None:
        self.calls: list[Call] = []
        self._connections: list[tuple[Connection, asyncio.Task[None]]] = []
        self._stage = stage
        stage.grpc.serve = self._accept

    def _accept(self, wire: Wire) -> None:
        connection = Connection(wire, self.calls)
        self._connections.append((connection, asyncio.ensure_future(self._run(connection))))

    async def _run(self, connection: Connection) -> None:
        while not connection.wire.ended and connection.failure is None:
            try:
                await connection.run()
            except TimeoutError:  # quiet for long; whoever waits for something says so
                return

    async def call(self) -> Call:
        """The call of this conversation."""
        await self._stage.news.until(lambda: self.calls)
        return self.calls[0]

    async def refuse_all(self) -> None:
        """Refuse whatever comes behind the first call."""
        for number in itertools.count(1):
            await self._stage.news.until(lambda number=number: len(self.calls) > number)
            await self.calls[number].send_reset(int(h2.errors.ErrorCodes.REFUSED_STREAM))

    async def finish(self) -> None:
        """Everything is over."""
        await self._stage.tunnel.until_idle()
        for connection, task in self._connections:
            if not connection.wire.stopped:
                await connection.wire.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert connection.failure is None, connection.failure
        self._stage.grpc.serve = None


def normal(fields: Fields) -> Fields:
    """Only fields of the same name have an order (RFC 9110 5.3). In Forwarded quotes may stand or not (RFC 7239 4)."""
    unquoted = [(name, value.replace('"', "") if name == "forwarded" else value) for name, value in fields]
    return sorted(unquoted, key=lambda field: field[0])


def seen_by_public(stream: Stream) -> dict[str, Any]:
    """An answer as it is compared."""
    fields, body = normal(stream.fields), bytes(stream.body)
    if ("x-content-type-options", "nosniff") in fields:  # of the tunnel itself; its text is for a person
        fields, body = [field for field in fields if field[0] != "content-length"], b""
    return {
        "interim": [normal(informational) for informational in stream.informational],
        "fields": fields,
        "body": body,
        "trailers": normal(stream.trailers),
        "ended": stream.ended,
        # RFC 9113 8.1: what resets a stream whose answer is complete says nothing about the answer.
        "reset": None if stream.ended else stream.reset,
    }
