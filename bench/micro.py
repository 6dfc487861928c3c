"""The kernels alone, against the libraries that do the same, by pytest-benchmark.

    make bench-micro            (python -m pytest bench/micro.py --benchmark-group-by=group)

What is called from Python pays for making its results Python objects, ours as theirs. The engine itself calls the
kernels from C, without any: that is what the cases named from_c measure.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import secrets
import struct
from collections.abc import Callable, Iterator
from typing import Any

import h11
import httptools
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived
from websockets.frames import Frame as WebsocketsFrame
from websockets.frames import Opcode as WebsocketsOpcode
from websockets.speedups import apply_mask
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage

from bench.build import build
from fasttunnel import _core
from fasttunnel.wire import tunnel_pb2

build()
_kernels = importlib.import_module("bench._kernels")

BATCH = 64  # frames or messages of one call
SIZES = [16, 256, 4096, 65536]
MASK = b"\x9d\x3a\x71\xc5"


def frame(payload: bytes, masked: bool) -> bytes:
    bit, size = (0x80 if masked else 0), len(payload)
    head = struct.pack(">BB", 0x82, bit | size) if size < 126 else (
        struct.pack(">BBH", 0x82, bit | 126, size) if size < 65536 else struct.pack(">BBQ", 0x82, bit | 127, size)
    )  # fmt: skip
    return head + MASK + apply_mask(payload, MASK) if masked else head + payload


@pytest.fixture
def picows_feed() -> Iterator[Callable[[bytes], int]]:
    """Gives bytes to picows as its transport does, and tells how many frames its listener got.

    Its parser has no face of its own. But the protocol of a connection can be had, and takes input by asyncio's
    interface of buffered protocols: there is one connection, and no socket is read while the parser is measured.
    """
    picows = pytest.importorskip("picows", reason="picows is not installed (the extra bench)")
    transports: list[Any] = []
    seen: list[int] = []

    class Listener(picows.WSListener):  # type: ignore[misc, name-defined]
        def on_ws_connected(self, transport: Any) -> None:
            transports.append(transport)

        def on_ws_frame(self, _: Any, frame: Any) -> None:
            seen.append(len(frame.get_payload_as_bytes()))

    async def connected() -> tuple[Any, asyncio.StreamWriter]:
        server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        key = base64.b64encode(bytes(16)).decode()
        lines = ["GET / HTTP/1.1", "Host: bench", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", ""]
        writer.write("\r\n".join(lines).encode())
        await reader.readuntil(b"\r\n\r\n")
        return server, writer

    loop = asyncio.new_event_loop()
    server, writer = loop.run_until_complete(connected())
    protocol = transports[0].underlying_transport.get_protocol()

    def feed(data: bytes) -> int:
        seen.clear()
        at = 0
        while at < len(data):
            room = memoryview(protocol.get_buffer(-1))
            n = min(len(room), len(data) - at)
            room[:n] = data[at : at + n]
            protocol.buffer_updated(n)
            at += n
        return len(seen)

    yield feed
    writer.close()
    transports[0].disconnect()
    server.close()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


@pytest.mark.parametrize("size", SIZES)
class TestFrames:
    """64 masked frames, to their payloads."""

    def data(self, size: int) -> bytes:
        return frame(secrets.token_bytes(size), True) * BATCH

    def test_ours(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"parse {BATCH} frames of {size} B"
        data = self.data(size)

        def parse() -> int:
            return len(_core.WebSocketParser(True, max_fragment=1 << 20).feed(data))

        assert benchmark(parse) == BATCH

    def test_ours_from_c(self, benchmark: Any, size: int) -> None:
        """With the encoding of each as a TunnelMessage, which unmasks it."""
        benchmark.group = f"parse {BATCH} frames of {size} B"
        assert benchmark(_kernels.Frames(size).run, BATCH) == BATCH

    def test_picows(self, benchmark: Any, size: int, picows_feed: Callable[[bytes], int]) -> None:
        benchmark.group = f"parse {BATCH} frames of {size} B"
        assert benchmark(picows_feed, self.data(size)) == BATCH

    def test_wsproto(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"parse {BATCH} frames of {size} B"
        data = self.data(size)

        def parse() -> int:
            connection = Connection(ConnectionType.SERVER)
            connection.receive_data(data)
            return sum(isinstance(event, BytesMessage) for event in connection.events())

        assert benchmark(parse) == BATCH

    def test_websockets(self, benchmark: Any, size: int) -> None:
        """Its parser is a generator over a reader of bytes, with the mask in C."""
        benchmark.group = f"parse {BATCH} frames of {size} B"
        data = self.data(size)

        def parse() -> int:
            at = 0

            def read_exact(n: int) -> Any:
                nonlocal at
                at += n
                return data[at - n : at]
                yield

            count = 0
            while at < len(data):
                parser = WebsocketsFrame.parse(read_exact, mask=True)
                try:
                    next(parser)
                except StopIteration as stop:
                    count += stop.value.opcode is WebsocketsOpcode.BINARY
            return count

        assert benchmark(parse) == BATCH


@pytest.mark.parametrize("size", SIZES)
class TestMask:
    def test_ours(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"unmask {size} B"
        data = secrets.token_bytes(size)
        assert benchmark(_core.mask, data, MASK) == apply_mask(data, MASK)

    def test_websockets(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"unmask {size} B"
        data = secrets.token_bytes(size)
        benchmark(apply_mask, data, MASK)


@pytest.mark.parametrize("size", SIZES)
class TestBuilder:
    """A masked frame from its payload."""

    def test_ours(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"build a masked frame of {size} B"
        data = secrets.token_bytes(size)
        built = benchmark(lambda: _core.build_head(True, 0, 2, size, MASK) + _core.mask(data, MASK))
        assert built == frame(data, True)

    def test_ours_from_c(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"build a masked frame of {size} B"
        assert benchmark(_kernels.Builder(size).run, 1) == 1

    def test_wsproto(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"build a masked frame of {size} B"
        connection, message = Connection(ConnectionType.CLIENT), BytesMessage(data=secrets.token_bytes(size))
        assert len(benchmark(connection.send, message)) > size

    def test_websockets(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"build a masked frame of {size} B"
        built = WebsocketsFrame(WebsocketsOpcode.BINARY, secrets.token_bytes(size))
        assert len(benchmark(built.serialize, mask=True)) > size


@pytest.mark.parametrize("size", SIZES)
class TestGrpc:
    """64 messages of a DATA stream."""

    def test_ours(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"split {BATCH} gRPC messages of {size} B"
        data = (struct.pack(">BI", 0, size) + bytes(size)) * BATCH
        assert len(benchmark(lambda: _core.GrpcMessages(0).feed(data))) == BATCH

    def test_ours_from_c(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"split {BATCH} gRPC messages of {size} B"
        assert benchmark(_kernels.GrpcMessages(size).run, BATCH) == BATCH

    def test_struct(self, benchmark: Any, size: int) -> None:
        """As one writes it in Python."""
        benchmark.group = f"split {BATCH} gRPC messages of {size} B"
        data = (struct.pack(">BI", 0, size) + bytes(size)) * BATCH

        def split() -> list[bytes]:
            at, found = 0, []
            while at < len(data):
                (length,) = struct.unpack_from(">xI", data, at)
                found.append(data[at + 5 : at + 5 + length])
                at += 5 + length
            return found

        assert len(benchmark(split)) == BATCH

    def test_h2_data_frames(self, benchmark: Any, size: int) -> None:
        """What h2 takes to hand out as many DATA frames: the layer below."""
        benchmark.group = f"split {BATCH} gRPC messages of {size} B"
        if size > 4096:
            pytest.skip("more than its window")
        client, server = H2Connection(), H2Connection(H2Configuration(client_side=False))
        client.initiate_connection()
        server.initiate_connection()
        server.receive_data(client.data_to_send())
        client.receive_data(server.data_to_send())
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]

        def prepare() -> tuple[tuple[bytes], dict[str, Any]]:
            stream = client.get_next_available_stream_id()
            client.send_headers(stream, head)
            server.receive_data(client.data_to_send())
            for _ in range(8):
                client.send_data(stream, bytes(size))
            client.reset_stream(stream)
            return (client.data_to_send(),), {}

        def receive(data: bytes) -> int:
            events = server.receive_data(data)
            seen = sum(isinstance(event, DataReceived) for event in events)
            server.increment_flow_control_window(seen * size) if seen else None
            client.receive_data(server.data_to_send())
            return seen

        assert benchmark.pedantic(receive, setup=prepare, rounds=100) == 8


def fields(size: int) -> dict[str, Any]:
    """A WebSocket frame on its way, as decode_message gives it."""
    frame = _core.Frame(secrets.token_bytes(size), 2, True, 0, True, True, False, size)
    return _core.decode_message(_core.encode_ws_frame(b"0123456789abcdef", 1, frame)[5:])


def encoded(size: int) -> bytes:
    found = fields(size)
    return _core.encode_message(found.pop("kind"), **found)


@pytest.mark.parametrize("size", SIZES)
class TestCodec:
    def test_decode_ours(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"decode a TunnelMessage of {size} B"
        data = encoded(size)
        assert benchmark(_core.decode_message, data)

    def test_decode_protobuf(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"decode a TunnelMessage of {size} B"
        data = encoded(size)
        assert benchmark(tunnel_pb2.TunnelMessage.FromString, data)

    def test_encode_ours(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"encode a TunnelMessage of {size} B"
        found = fields(size)
        kind = found.pop("kind")
        assert len(benchmark(lambda: _core.encode_message(kind, **found))) > size

    def test_encode_protobuf(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"encode a TunnelMessage of {size} B"
        message = tunnel_pb2.TunnelMessage.FromString(encoded(size))
        assert benchmark(message.SerializeToString)

    def test_both_from_c(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"decode and encode a TunnelMessage of {size} B"
        assert benchmark(_kernels.TunnelMessages(size).run, 1) == 1

    def test_both_protobuf(self, benchmark: Any, size: int) -> None:
        benchmark.group = f"decode and encode a TunnelMessage of {size} B"
        data = encoded(size)
        assert benchmark(lambda: tunnel_pb2.TunnelMessage.FromString(data).SerializeToString()) == data


HEAD = (
    b"GET /index.html?x=1 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux; rv:120.0)\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nCookie: session=0123456789abcdef\r\nCache-Control: max-age=0\r\n\r\n"
)


class TestHead:
    """A request of 8 fields, to pairs of bytes. The engine has none of these objects."""

    def test_ours(self, benchmark: Any) -> None:
        benchmark.group = "the fields of a head"
        lines = HEAD.partition(b"\r\n")[2]
        assert len(benchmark(_core.parse_fields, lines)) == 8

    def test_httptools(self, benchmark: Any) -> None:
        benchmark.group = "the fields of a head"

        class Seen:
            def __init__(self) -> None:
                self.fields: list[tuple[bytes, bytes]] = []

            def on_header(self, name: bytes, value: bytes) -> None:
                self.fields.append((name, value))

        def parse() -> int:
            seen = Seen()
            httptools.HttpRequestParser(seen).feed_data(HEAD)
            return len(seen.fields)

        assert benchmark(parse) == 8

    def test_h11(self, benchmark: Any) -> None:
        benchmark.group = "the fields of a head"

        def parse() -> int:
            connection = h11.Connection(h11.SERVER)
            connection.receive_data(HEAD)
            return len(connection.next_event().headers)

        assert benchmark(parse) == 8


@pytest.mark.parametrize("entries", [1, 1_000, 100_000])
class TestTable:
    def test_find(self, benchmark: Any, entries: int) -> None:
        benchmark.group = "1,000 look-ups in the request table"
        table = _core.RequestTable()
        ids = [secrets.token_bytes(8) for _ in range(entries)]
        for number, id_ in enumerate(ids):
            table.put(id_, number + 1)
        asked = [ids[n * 7919 % entries] for n in range(1000)]

        def look() -> None:
            for id_ in asked:
                table.find(id_)

        benchmark(look)

    def test_find_from_c(self, benchmark: Any, entries: int) -> None:
        benchmark.group = "1,000 look-ups in the request table"
        assert benchmark(_kernels.LookUps(entries).run, 1000) == 1000

    def test_dict(self, benchmark: Any, entries: int) -> None:
        benchmark.group = "1,000 look-ups in the request table"
        table = {secrets.token_bytes(8): number for number in range(entries)}
        ids = list(table)
        asked = [ids[n * 7919 % entries] for n in range(1000)]

        def look() -> None:
            for id_ in asked:
                table.get(id_)

        benchmark(look)
