"""The other end of the tunnel breaks the contract: one request ends, the others on the same tunnel live on.

That end is a plain grpc.aio program, so that it can send whatever a test wants.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest

import fasttunnel
from fasttunnel.wire import tunnel_pb2 as wire
from tests.support import http2
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    accept_upgrade,
    ask_upgrade,
    expect_upgrade,
    read_frame,
    read_frame_head,
    xor,
)
from tests.support.grpc_peers import Note, open_channel
from tests.support.raw import Peer, RawBackend, answer, connect, request, start_raw
from tests.support.stock import (
    StockClient,
    StockEnd,
    StockServer,
    dial_and_register,
    fields,
    start_stock_server,
)
from tests.support.tunnel import WAIT_S, Recorder, eventually, start_client, start_server

UP, DOWN = wire.CLIENT_TO_SERVER, wire.SERVER_TO_CLIENT
HOST = {"host": "public.example"}

pytestmark = pytest.mark.timeout(60)


# -- our server, and a client that sends wrong answers


class ServerScene:
    """A server of ours and a stock client, with the request of a neighbour under way between them."""

    def __init__(self, stack: AsyncExitStack, server: fasttunnel.Server, client: StockClient) -> None:
        self.stack = stack
        self.server = server
        self.client = client
        self._neighbour: Peer
        self._id = ""
        self._sequence = 1

    async def start(self) -> None:
        self._neighbour, self._id = await self.ask()
        self.answer(self._id, status_code=200, is_first_chunk=True)
        await self._neighbour.head()

    async def end(self) -> None:
        """The neighbour's answer ends."""
        self.answer(self._id, is_last_chunk=True, sequence_number=self._sequence)
        assert await self._neighbour.chunk() == b""

    async def public(self) -> Peer:
        return await connect(self.stack, *self.server.address)

    async def ask(self, public: Peer | None = None, **options: Any) -> tuple[Peer, str]:
        """A GET of the public, and its request_id."""
        public = public or await self.public()
        await public.send(request("GET", "/", **options))
        return public, (await self.client.next("http_request")).request_id

    def answer(self, request_id: str, **values: Any) -> None:
        self.client.send(request_id, direction=DOWN, http_response=wire.HttpResponse(**values))

    async def handshake(self) -> tuple[Peer, str]:
        """A WebSocket that the public asks for, and its request_id."""
        public = await self.public()
        await ask_upgrade(public)
        return public, (await self.client.next("ws_request")).request_id

    async def upgrade(self) -> tuple[Peer, str]:
        """An established WebSocket."""
        public, request_id = await self.handshake()
        self.client.send(request_id, ws_response=wire.WebSocketResponse(status_code=101, accepted=True))
        await expect_upgrade(public)
        return public, request_id

    def frame(self, request_id: str, opcode: int, payload: bytes, **values: Any) -> None:
        values = {"fin": True, "frame_direction": DOWN, **values}
        ws_frame = wire.WebSocketFrame(connection_id=request_id, opcode=opcode, payload=payload, **values)
        self.client.send(request_id, direction=DOWN, ws_frame=ws_frame)

    async def call(self) -> tuple[Any, str]:
        """A call of the public, begun, and its request_id."""
        stub = await open_channel(self.stack, self.server.public_url.removeprefix("http://"))
        call = stub.Down(Note(number=1))
        return call, (await self.client.next("grpc_request")).request_id

    def reply(self, request_id: str, **values: Any) -> None:
        self.client.send(request_id, direction=DOWN, grpc_response=wire.GrpcResponse(**values))

    async def expect_reset(self, request_id: str, code: int = wire.PROTOCOL_ERROR) -> None:
        message = await self.client.next("reset")
        assert (message.request_id, message.reset.code) == (request_id, code), message

    async def lives(self) -> None:
        """The neighbour's answer goes on, and a new request passes."""
        self.answer(self._id, body=b"alive", sequence_number=self._sequence)
        self._sequence += 1
        assert await self._neighbour.chunk() == b"alive"
        public, request_id = await self.ask()
        self.answer(request_id, status_code=200, body=b"new", is_first_chunk=True, is_last_chunk=True)
        assert (await public.answer()).body == b"new"
        await eventually(lambda: self.server.status()["active_requests"] == 1)


@pytest.fixture
async def scene(stack: AsyncExitStack) -> ServerScene:
    server = await start_server(stack)
    client, _ = await dial_and_register(stack, server.tunnel)
    scene = ServerScene(stack, server, client)
    await scene.start()
    stack.push_async_callback(scene.end)
    return scene


@pytest.mark.parametrize(
    "bad",
    [
        {"is_last_chunk": True},
        {"body": b"x"},
        {"body": b"x", "is_last_chunk": True},
        {"status_code": 101},
        {"status_code": 200},
        {"status_code": 99},
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 1])
async def test_an_interim_answer_is_nothing_else(scene: ServerScene, bad: dict[str, Any], before: int) -> None:
    """No end, no body: else the public would wait for ever, or credit would be lost. Also behind a good one."""
    public, request_id = await scene.ask()
    for number in range(before):
        scene.answer(request_id, status_code=103, informational=True, sequence_number=number)
        assert (await public.head()).status == 103
    scene.answer(request_id, informational=True, sequence_number=before, **{"status_code": 103, **bad})
    await scene.expect_reset(request_id)
    assert (await public.answer()).status == 502
    await scene.lives()


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE, BINARY, TEXT, CONTINUATION])
async def test_nothing_comes_between_the_fragments_of_a_frame(scene: ServerScene, opcode: int) -> None:
    """Its header would land in the midst of the payload. The public's frame is never completed."""
    public, request_id = await scene.upgrade()
    scene.frame(request_id, BINARY, b"a" * 10, payload_length=30, more=True)
    head, length, _ = await read_frame_head(public)
    assert (head, length) == (Frame(BINARY, b""), 30)
    assert await public.exactly(10) == b"a" * 10
    values = {"payload_length": 5, "more": True} if opcode < 8 else {}
    scene.frame(request_id, opcode, b"\x03\xe8", **values)
    await scene.expect_reset(request_id)
    with suppress(ConnectionResetError):
        assert await public.to_end() == b""
    await scene.lives()


BAD_FRAMES: list[dict[str, Any]] = [
    {"opcode": PING, "payload": b"x" * 126},
    {"opcode": PING, "payload": b"", "fin": False},
    {"opcode": PING, "payload": b"x", "more": True, "payload_length": 2},
    {"opcode": 3, "payload": b""},
    {"opcode": 11, "payload": b""},
    {"opcode": 16, "payload": b""},
    {"opcode": BINARY, "payload": b"", "rsv": 1},
    {"opcode": PING, "payload": b"", "rsv": 4},
    {"opcode": BINARY, "payload": b"", "rsv": 8},
    {"opcode": CONTINUATION, "payload": b"x"},
    {"opcode": CLOSE, "payload": b"x"},
    {"opcode": CLOSE, "payload": b"\x03\xed"},
    {"opcode": BINARY, "payload": b"xx", "more": True, "payload_length": 2},
    {"opcode": BINARY, "payload": b"xx", "more": True, "payload_length": 1},
    {"opcode": BINARY, "payload": b"xx", "more": True},
    {"opcode": BINARY, "payload": b"xx", "more": True, "payload_length": 2**63},
]


@pytest.mark.parametrize("bad", BAD_FRAMES, ids=range(len(BAD_FRAMES)))
async def test_a_frame_that_may_not_be_sent_ends_its_websocket(scene: ServerScene, bad: dict[str, Any]) -> None:
    public, request_id = await scene.upgrade()
    scene.frame(request_id, **bad)
    await scene.expect_reset(request_id)
    last = b""
    with suppress(ConnectionResetError):
        last = await public.to_end()
    if last:  # nothing of the frame itself
        assert (last[0], last[2:4]) == (0x80 | CLOSE, (1002).to_bytes(2, "big"))
    await scene.lives()


async def test_a_message_begins_in_no_other_and_rsv_bits_need_an_extension(scene: ServerScene) -> None:
    public, request_id = await scene.handshake()
    agreed = fields(("Sec-WebSocket-Extensions", "permessage-deflate"))
    accepted = wire.WebSocketResponse(status_code=101, accepted=True, headers=agreed)
    scene.client.send(request_id, ws_response=accepted)
    await expect_upgrade(public)
    scene.frame(request_id, BINARY, b"a", fin=False, rsv=4)
    scene.frame(request_id, PING, b"b")
    scene.frame(request_id, CONTINUATION, b"c", fin=False)
    scene.frame(request_id, TEXT, b"d")
    for expected in (
        Frame(BINARY, b"a", fin=False, rsv=4),
        Frame(PING, b"b"),
        Frame(CONTINUATION, b"c", fin=False),
    ):
        assert await read_frame(public) == expected
    await scene.expect_reset(request_id)
    assert (await read_frame(public)).payload[:2] == (1002).to_bytes(2, "big")
    await scene.lives()


@pytest.mark.parametrize("status", [0, 99, 100, 101, 103, 199, 204, 304, 600, 999, 1000, 2**31 - 1, -1])
async def test_a_refused_handshake_with_a_bad_status_leaves_no_byte_behind(scene: ServerScene, status: int) -> None:
    """A body behind a 304 would be the next answer on that connection."""
    public, request_id = await scene.handshake()
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    refusal = wire.WebSocketResponse(status_code=status, accepted=False, body=forged)
    scene.client.send(request_id, direction=DOWN, ws_response=refusal)
    await scene.expect_reset(request_id)
    got = await public.answer()
    assert got.status == 502
    if got.head.get("connection") == "close":
        assert await public.ended()
    else:
        _, request_id = await scene.ask(public)
        scene.answer(request_id, status_code=200, body=b"true", is_first_chunk=True, is_last_chunk=True)
        assert (await public.answer()).body == b"true"
    await scene.lives()


@pytest.mark.parametrize(
    "bad",
    [
        {"subprotocol": "a\r\nX: y"},
        {"headers": fields(("X", "a\r\nY: b"))},
        {"headers": fields(("X: y\r\nZ", "a"))},
        {"headers": fields(("X", "a\0"))},
    ],
    ids=["subprotocol", "value", "name", "NUL"],
)
async def test_an_accepted_handshake_cannot_add_lines(scene: ServerScene, bad: dict[str, Any]) -> None:
    public, request_id = await scene.handshake()
    scene.client.send(request_id, ws_response=wire.WebSocketResponse(status_code=101, accepted=True, **bad))
    await scene.expect_reset(request_id)
    assert (await public.answer()).status == 502
    await scene.lives()


@pytest.mark.parametrize(
    ("headers", "part", "trailers"),
    [
        (fields(("Content-Length", "3")), b"abcd", []),
        (fields(("Content-Length", "5")), b"abcd", []),
        ([], b"abcd", fields(("X", "a\r\nY: b"))),
    ],
    ids=["longer", "shorter", "trailer"],
)
async def test_an_answer_that_does_not_add_up_is_not_complete(
    scene: ServerScene, headers: Any, part: bytes, trailers: Any
) -> None:
    public, request_id = await scene.ask()
    scene.answer(request_id, status_code=200, is_first_chunk=True, headers=headers)
    assert (await public.head()).status == 200
    scene.answer(request_id, sequence_number=1, body=part, is_last_chunk=True, trailers=trailers)
    await scene.expect_reset(request_id)
    try:
        rest = await public.to_end()
    except ConnectionResetError:
        rest = b""
    assert len(rest) < 5 or not headers
    assert not rest.endswith(b"0\r\n\r\n")
    await scene.lives()


@pytest.mark.parametrize("status", [17, 99, 2**31 - 1, -1, -5])
@pytest.mark.parametrize("begun", [0, 1])
async def test_a_grpc_status_that_is_none_is_unknown(scene: ServerScene, status: int, begun: int) -> None:
    call, request_id = await scene.call()
    if begun:
        scene.reply(request_id, is_first_chunk=True, body=b"")
        async with asyncio.timeout(WAIT_S):
            assert await call.read() == Note()
    scene.reply(request_id, is_first_chunk=not begun, is_last_chunk=True, status_code=status, sequence_number=begun)
    async with asyncio.timeout(WAIT_S):
        assert await call.code() == grpc.StatusCode.UNKNOWN
    await scene.lives()


@pytest.mark.parametrize(
    "bad",
    [
        {"body": b"xx", "more": True, "message_length": 1},
        {"body": b"xx", "more": True, "message_length": 2},
        {"body": b"xx", "more": True, "message_length": 5, "is_last_chunk": True},
        {"initial_metadata": fields(("x", "a\r\nb"))},
        {"body": b"x", "sequence_number": 7},
    ],
    ids=["beyond", "no more", "cut off", "metadata", "gap"],
)
async def test_a_grpc_answer_that_does_not_add_up_is_internal(scene: ServerScene, bad: dict[str, Any]) -> None:
    call, request_id = await scene.call()
    scene.reply(request_id, is_first_chunk=True, **bad)
    await scene.expect_reset(request_id)
    async with asyncio.timeout(WAIT_S):
        assert await call.code() == grpc.StatusCode.INTERNAL
    await scene.lives()


async def test_a_malformed_message_ends_its_tunnel_and_no_other(scene: ServerScene) -> None:
    """Text that is no UTF-8 cannot be sent by protobuf; a request_id above 16 bytes can."""
    other, _ = await dial_and_register(scene.stack, scene.server.tunnel, wire.Route(host="other.example"))
    public = await scene.public()
    await public.send(request("GET", "/", host="other.example"))
    await other.next("http_request")
    other.send("x" * 17, http_response=wire.HttpResponse(status_code=200, is_first_chunk=True))
    assert (await public.answer()).status == 502
    async with asyncio.timeout(WAIT_S):
        assert await other.call.code() == grpc.StatusCode.INTERNAL
    await scene.lives()


async def _to_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_malformed_message_is_logged_with_its_place(stack: AsyncExitStack) -> None:
    """The tunnel ends with INTERNAL; who has to mend the other end finds out where to look."""
    events = Recorder()
    server = await start_server(stack, events)
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.tunnel))
    call = channel.stream_stream("/fasttunnel.v1.TunnelService/Connect")()
    register = wire.Register(version=1, routes=[wire.Route()])
    await call.write(wire.TunnelMessage(register=register).SerializeToString())
    async with asyncio.timeout(WAIT_S):
        assert wire.TunnelMessage.FromString(await call.read()).HasField("registered")
        await call.write(b"\x12\x01a\x32\x04\x12\x02\x0a\x05")  # a header's name of 5 bytes, of which there is none
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _to_end(call)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
    await events.until(lambda: len(events.warnings) == 1)
    assert "malformed TunnelMessage" in events.warnings[0]
    assert " at byte " in events.warnings[0]


# -- our client, and a server that sends wrong requests


class ClientScene:
    """A client of ours and a stock server, with the request of a neighbour under way between them."""

    def __init__(self, stack: AsyncExitStack, server: StockServer, backend: RawBackend, beside: RawBackend) -> None:
        self.stack = stack
        self.server = server
        self.backend = backend
        self.beside = beside
        self.end: StockEnd
        self.client: fasttunnel.Client
        self._neighbour: Peer
        self._count = 0

    async def start(self, scheme: str = "http") -> None:
        routes = [f"{scheme}://{self.backend.address}", f"neighbour.example={self.beside.url}"]
        starting = asyncio.ensure_future(start_client(self.stack, self.server.address, routes))
        self.end, _ = await self.server.accept_and_register()
        self.client = await starting
        self._neighbour = await self._ask("n")
        await self._neighbour.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await self.end.next("http_response")).http_response.is_first_chunk
        self.stack.push_async_callback(self.stop)

    async def stop(self) -> None:
        await self._neighbour.send(b"0\r\n\r\n")
        assert (await self.end.next("http_response")).http_response.is_last_chunk

    def ask(self, request_id: str, **values: Any) -> None:
        self.end.send(request_id, direction=UP, http_request=wire.HttpRequest(**values))

    async def upgrade(self, request_id: str) -> Peer:
        """An established WebSocket; the backend's side of it."""
        self.end.send(request_id, direction=UP, ws_request=wire.WebSocketRequest(url="/", **HOST))
        backend = await self.backend.accept()
        await accept_upgrade(backend)
        assert (await self.end.next("ws_response")).ws_response.accepted
        return backend

    def frame(self, request_id: str, opcode: int, payload: bytes, **values: Any) -> None:
        values = {"fin": True, "masked": True, "frame_direction": UP, **values}
        ws_frame = wire.WebSocketFrame(connection_id=request_id, opcode=opcode, payload=payload, **values)
        self.end.send(request_id, direction=UP, ws_frame=ws_frame)

    async def expect_reset(self, request_id: str, code: int = wire.PROTOCOL_ERROR) -> None:
        message = await self.end.next("reset")
        assert (message.request_id, message.reset.code) == (request_id, code), message

    async def lives(self) -> None:
        """The neighbour's answer goes on, and a new request passes."""
        await self._neighbour.send(b"5\r\nalive\r\n")
        message = await self.end.next("http_response")
        assert (message.request_id, message.http_response.body) == ("n", b"alive")
        self._count += 1
        backend = await self._ask(f"new-{self._count}")
        await backend.send(answer("200 OK", "Connection: close", body=b"new"))
        message = await self.end.next("http_response")
        assert (message.request_id, message.http_response.body) == (f"new-{self._count}", b"new")
        assert self.client.status()["reconnects"] == 0
        await eventually(lambda: self.client.status()["active_requests"] == 1)

    async def _ask(self, request_id: str) -> Peer:
        get = {"method": "GET", "url": "/", "host": "neighbour.example", "scheme": "http"}
        self.ask(request_id, is_first_chunk=True, is_last_chunk=True, **get)
        backend = await self.beside.accept()
        await backend.head()
        return backend


@pytest.fixture
async def client_scene(stack: AsyncExitStack) -> ClientScene:
    return ClientScene(stack, await start_stock_server(stack), await start_raw(stack), await start_raw(stack))


async def never_asked(backend: RawBackend) -> None:
    """A connection may have been opened for what was refused: nothing has come on it."""
    for _ in range(backend.waiting):
        assert await (await backend.accept()).ended()


@pytest.mark.parametrize(
    "url", ["http://internal.example/secret", "nosl", "//internal.example\r\n", "", "/a b", "/\x7f", "?x", "a:80"]
)
@pytest.mark.parametrize("kind", ["http_request", "ws_request"])
async def test_a_url_that_is_no_path_never_reaches_the_backend(client_scene: ClientScene, url: str, kind: str) -> None:
    """The client does not take the server's word for it."""
    await client_scene.start()
    if kind == "ws_request":
        client_scene.end.send("r-1", direction=UP, ws_request=wire.WebSocketRequest(url=url, **HOST))
    else:
        client_scene.ask("r-1", method="GET", url=url, is_first_chunk=True, is_last_chunk=True, **HOST)
    await client_scene.expect_reset("r-1")
    await client_scene.lives()
    await never_asked(client_scene.backend)


@pytest.mark.parametrize(
    "bad",
    [
        {"host": "a\r\nX: y"},
        {"subprotocol": "a\r\nX: y"},
        {"headers": fields(("X", "a\r\nY: b"))},
        {"headers": fields(("X: y\r\nZ", "a"))},
    ],
    ids=["host", "subprotocol", "value", "name"],
)
async def test_a_handshake_cannot_add_lines(client_scene: ClientScene, bad: dict[str, Any]) -> None:
    await client_scene.start()
    client_scene.end.send("w-1", direction=UP, ws_request=wire.WebSocketRequest(**{"url": "/", **HOST, **bad}))
    await client_scene.expect_reset("w-1")
    await client_scene.lives()
    await never_asked(client_scene.backend)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE, BINARY, TEXT, CONTINUATION])
async def test_nothing_comes_between_the_fragments_of_a_frame_to_the_backend(
    client_scene: ClientScene, opcode: int
) -> None:
    await client_scene.start()
    backend = await client_scene.upgrade("w-1")
    client_scene.frame("w-1", BINARY, b"a" * 10, payload_length=30, more=True)
    head, length, mask = await read_frame_head(backend)
    assert (head.opcode, length) == (BINARY, 30)
    assert xor(await backend.exactly(10), mask) == b"a" * 10
    values = {"payload_length": 5, "more": True} if opcode < 8 else {}
    client_scene.frame("w-1", opcode, b"\x03\xe8", **values)
    await client_scene.expect_reset("w-1")
    assert await backend.ended()
    await client_scene.lives()


@pytest.mark.parametrize("bad", BAD_FRAMES, ids=range(len(BAD_FRAMES)))
async def test_a_frame_that_may_not_be_sent_does_not_reach_the_backend(
    client_scene: ClientScene, bad: dict[str, Any]
) -> None:
    await client_scene.start()
    backend = await client_scene.upgrade("w-1")
    client_scene.frame("w-1", **bad)
    await client_scene.expect_reset("w-1")
    assert await backend.ended()
    await client_scene.lives()


async def test_messages_behind_a_reset_are_dropped(client_scene: ClientScene) -> None:
    """What was on its way when the request ended."""
    await client_scene.start()
    backend = await client_scene.upgrade("w-1")
    client_scene.frame("w-1", PING, b"x" * 126)
    for _ in range(100):
        client_scene.frame("w-1", PING, b"late")
        client_scene.frame("w-1", TEXT, b"late")
    await client_scene.expect_reset("w-1")
    assert b"late" not in await backend.to_end()
    await client_scene.lives()


@pytest.mark.parametrize(
    "bad",
    [
        {"ws_frame": wire.WebSocketFrame(connection_id="r-1", opcode=TEXT, fin=True)},
        {"grpc_request": wire.GrpcRequest(sequence_number=1, body=b"x")},
        {"ws_request": wire.WebSocketRequest(url="/", **HOST)},
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True)},
        {"http_request": wire.HttpRequest(method="GET", url="/", is_first_chunk=True, sequence_number=1)},
        {"http_request": wire.HttpRequest(body=b"x", sequence_number=2)},
        {"window_update": wire.WindowUpdate(bytes=2**31)},
    ],
    ids=range(7),
)
async def test_a_message_that_does_not_belong_there_ends_its_request(
    client_scene: ClientScene, bad: dict[str, Any]
) -> None:
    await client_scene.start()
    client_scene.ask("r-1", method="POST", url="/", is_first_chunk=True, **HOST)
    backend = await client_scene.backend.accept()
    await backend.head()
    client_scene.end.send("r-1", **bad)
    await client_scene.expect_reset("r-1", wire.FLOW_CONTROL_ERROR if "window_update" in bad else wire.PROTOCOL_ERROR)
    assert await backend.ended()
    await client_scene.lives()


@pytest.mark.parametrize(
    "bad",
    [
        {"service": "a b"},
        {"service": "p.S", "method": "a\r\nb"},
        {"authority": "a\r\nb"},
        {"metadata": fields(("x", "a\r\nb"))},
        {"metadata": fields(("x y", "a"))},
        {"body": b"xx", "more": True, "message_length": 1},
        {"body": b"xx", "more": True, "message_length": 5, "is_last_chunk": True},
    ],
    ids=range(7),
)
async def test_a_call_that_cannot_be_sent_ends_by_itself(client_scene: ClientScene, bad: dict[str, Any]) -> None:
    await client_scene.start("grpc")
    usual = {"service": "p.S", "method": "M", "authority": "public.example", "is_first_chunk": True}
    client_scene.end.send("g-1", direction=UP, grpc_request=wire.GrpcRequest(**{**usual, **bad}))
    await client_scene.expect_reset("g-1")
    await client_scene.lives()


async def dial_deaf(stack: AsyncExitStack, server: fasttunnel.Server) -> http2.Stream:
    """A client that registers and then reads nothing any more."""
    host, _, port = server.tunnel.rpartition(":")
    tunnel = http2.Connection(await connect(stack, host, int(port)))
    await tunnel.start(stack, window=65_535)
    call = await tunnel.open(
        "POST",
        "/fasttunnel.v1.TunnelService/Connect",
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        end=False,
    )
    register = wire.Register(version=1, routes=[wire.Route(protocols=[wire.GRPC])])
    await call.send(prefixed(wire.TunnelMessage(register=register)))
    await call.received(1)
    call.acknowledge = False
    return call


def prefixed(message: wire.TunnelMessage) -> bytes:
    return b"\0" + message.ByteSize().to_bytes(4, "big") + message.SerializeToString()


async def test_what_costs_no_credit_waits_for_a_slow_tunnel_too(stack: AsyncExitStack) -> None:
    """Empty messages are never blocked by a window; a tunnel that takes nothing stops their source all the same."""
    server = await start_server(stack)
    tunnel = await dial_deaf(stack, server)
    public = http2.Connection(await connect(stack, *server.address))
    await public.start(stack)
    fields = (("te", "trailers"), ("content-type", "application/grpc"))
    stream = await public.open("POST", "/pkg.Service/Method", *fields, end=False)
    flooding = asyncio.ensure_future(stream.send(bytes(5) * 400_000))
    stack.callback(flooding.cancel)
    await eventually(lambda: not public.protocol.local_flow_control_window(stream.number))
    for _ in range(20):  # round trips on the same connection: the window would have been opened again by now
        assert (await public.ask("GET", "/")).status == 404
    assert not public.protocol.local_flow_control_window(stream.number)
    (link,) = server.status()["links"]
    assert link["messages_sent"] < 200_000
    tunnel.connection.peer.drop()
    await eventually(lambda: server.status()["active_requests"] == 0)
    assert dict((await stream.done()).trailers or stream.fields)["grpc-status"] == "14"


async def test_a_flood_whose_answers_nobody_reads_ends_its_tunnel(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttunnel.limits.BACKLOG_BYTES", 100_000)
    events = Recorder()
    server = await start_server(stack, events)
    neighbour, _ = await dial_and_register(stack, server.tunnel)
    tunnel = await dial_deaf(stack, server)
    window = wire.WebSocketFrame(fin=True, opcode=BINARY, payload=b"x")
    flood = b"".join(
        prefixed(wire.TunnelMessage(request_id=f"out-of-blue-{number:04x}", ws_frame=window)) for number in range(9_000)
    )
    sending = asyncio.ensure_future(tunnel.send(flood))
    stack.callback(sending.cancel)
    await events.until(lambda: any("it sends, and does not read" in line for line in events.warnings))
    await events.until_line("link down")
    assert len(server.status()["links"]) == 1
    public = await connect(stack, *server.address)
    await public.send(request("GET", "/"))
    assert (await neighbour.next("http_request")).http_request.url == "/"
