"""A backend that means harm, or is broken: its own requests fail, the others on the same tunnel live on."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from tests.e2e.conftest import Ends
from tests.support.frames import (
    BINARY,
    PING,
    TEXT,
    Frame,
    accept_key,
    accept_upgrade,
    ask_upgrade,
    expect_upgrade,
    frame,
    read_frame,
)
from tests.support.grpc_peers import Note, open_channel
from tests.support.http2 import connect_http2
from tests.support.http2_calls import Call
from tests.support.neighbour import Neighbour, start_beside
from tests.support.raw import RawBackend, answer, connect, request, start_raw
from tests.support.tunnel import WAIT_S, Tunnel

CANCEL, INTERNAL_ERROR = 8, 2
OVERLOADED = 8
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

pytestmark = pytest.mark.timeout(60)


class Scene(Ends):
    """Both far sides of a tunnel on which a neighbour's request is under way."""

    neighbour: Neighbour


async def start_scene(stack: AsyncExitStack, backend: RawBackend | None = None) -> Scene:
    backend = backend or await start_raw(stack)
    tunnel, neighbour = await start_beside(stack, backend.url)
    scene = Scene(stack, tunnel, backend)
    scene.neighbour = neighbour
    return scene


@pytest.fixture
async def scene(stack: AsyncExitStack) -> Scene:
    return await start_scene(stack)


# -- gRPC: answers made of frames, sent in one write, so that they are read in one


class GrpcScene:
    def __init__(self, stack: AsyncExitStack, tunnel: Tunnel, neighbour: Neighbour, backend: RawBackend) -> None:
        self.stack = stack
        self.tunnel = tunnel
        self.neighbour = neighbour
        self.backend = backend

    async def call(self) -> tuple[Any, Call]:
        """A server-streaming call of the public, under way, and what the backend has got of it."""
        stub = await open_channel(self.stack, self.tunnel.authority)
        call = stub.Down(Note(number=1))
        arrived = Call(await self.backend.accept())
        await arrived.arrive()
        return call, arrived


@pytest.fixture
async def scene_of_grpc(stack: AsyncExitStack) -> GrpcScene:
    backend = await start_raw(stack)
    tunnel, neighbour = await start_beside(stack, f"grpc://{backend.address}")
    return GrpcScene(stack, tunnel, neighbour, backend)


def note(size: int) -> bytes:
    return bytes(Note(data=b"x" * size).SerializeToString()) if size else b""


async def outcome(call: Any) -> tuple[list[int], grpc.StatusCode]:
    """The sizes of what came, and the status."""
    sizes = []
    async with asyncio.timeout(WAIT_S):
        try:
            async for message in call:
                sizes.append(len(message.data))  # noqa: PERF401 - what came before an error counts
        except grpc.aio.AioRpcError as error:
            return sizes, error.code()
        return sizes, await call.code()


SIZES = [[0], [5], [5, 5], [0, 5, 0], [200, 20_000, 200], [30_000, 30_000], [60_000]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
async def test_metadata_of_an_answer_that_comes_in_one_read(scene_of_grpc: GrpcScene, sizes: list[int]) -> None:
    """Initial metadata, messages and trailing metadata at once: each stays what it is."""
    call, backend = await scene_of_grpc.call()
    backend.head()
    backend.messages(note(size) for size in sizes)
    backend.end(b"0")
    await backend.write()
    assert await outcome(call) == (sizes, grpc.StatusCode.OK)
    assert ("x-initial", "i") in list(await call.initial_metadata())
    assert list(await call.trailing_metadata()) == [("x-trailing", "t")]
    await scene_of_grpc.neighbour.lives()


@pytest.mark.parametrize("code", [0, CANCEL, INTERNAL_ERROR])
@pytest.mark.parametrize("sizes", [[0], [5], [5, 5], [60_000]], ids=str)
async def test_a_complete_answer_is_complete_although_a_reset_follows(
    scene_of_grpc: GrpcScene, sizes: list[int], code: int
) -> None:
    call, backend = await scene_of_grpc.call()
    backend.head()
    backend.messages(note(size) for size in sizes)
    backend.end(b"0")
    backend.reset(code)
    assert await outcome(call) == (sizes, grpc.StatusCode.OK)
    assert list(await call.trailing_metadata()) == [("x-trailing", "t")]
    await scene_of_grpc.neighbour.lives()


@pytest.mark.parametrize("code", [0, CANCEL, INTERNAL_ERROR])
async def test_an_answer_that_is_reset_before_its_end_is_not_complete(scene_of_grpc: GrpcScene, code: int) -> None:
    call, backend = await scene_of_grpc.call()
    backend.head()
    backend.messages([note(5)])
    backend.reset(code)
    _, status = await outcome(call)
    assert status != grpc.StatusCode.OK
    await scene_of_grpc.neighbour.lives()


@pytest.mark.parametrize("status", [b"17", b"99", b"-1", b"4294967296", b"18446744073709551616", b"x", b"", None])
@pytest.mark.parametrize("headers_first", [True, False])
async def test_a_status_that_is_none_is_unknown(
    scene_of_grpc: GrpcScene, status: bytes | None, headers_first: bool
) -> None:
    call, backend = await scene_of_grpc.call()
    if headers_first:
        backend.head()
        backend.messages([note(5)])
        backend.end(status)
    else:
        number = [(b"grpc-status", status)] if status is not None else []
        usual = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        backend.protocol.send_headers(backend.number, [*usual, *number], end_stream=True)
    await backend.write()
    assert (await outcome(call))[1] == grpc.StatusCode.UNKNOWN
    await scene_of_grpc.neighbour.lives()


@pytest.mark.parametrize("message", [b"%FF%C3", b"%", b"%zz%0d%0a", b"\xff\xc3", b"gr\xc3\xbc\xc3\x9fe"])
async def test_a_status_message_of_any_bytes_ends_only_its_call(scene_of_grpc: GrpcScene, message: bytes) -> None:
    """status_message is a string of the tunnel; what is no UTF-8 must not get into it."""
    call, backend = await scene_of_grpc.call()
    backend.head()
    backend.end(b"5", (b"grpc-message", message))
    await backend.write()
    assert (await outcome(call))[1] == grpc.StatusCode.NOT_FOUND
    await scene_of_grpc.neighbour.lives()


@pytest.mark.parametrize("details", [b"\xff", b"!!!", b"A", b"AAAA=A", b""])
async def test_status_details_that_are_no_base64_end_only_their_call(scene_of_grpc: GrpcScene, details: bytes) -> None:
    call, backend = await scene_of_grpc.call()
    backend.head()
    backend.end(b"5", (b"grpc-status-details-bin", details))
    await backend.write()
    assert (await outcome(call))[1] != grpc.StatusCode.OK
    await scene_of_grpc.neighbour.lives()


@pytest.mark.cython_only("millions of messages, which a tunnel in plain Python needs minutes for")
async def test_empty_messages_to_a_backend_that_grants_nothing_are_bounded(scene_of_grpc: GrpcScene) -> None:
    """They cost no credit: the backend's window is the only one, and it is used up."""
    tunnel = scene_of_grpc.tunnel
    connection = await connect_http2(scene_of_grpc.stack, tunnel.host, tunnel.port)
    fields = [("content-type", "application/grpc"), ("te", "trailers")]
    stream = await connection.open("POST", "/fasttunnel.test.Echo/Talk", *fields, end=False)
    await Call(await scene_of_grpc.backend.accept()).arrive(whole=False)
    done = len(tunnel.events.records)
    for _ in range(256):
        await stream.send(b"\0\0\0\0\0" * 13_000)
        if stream.reset is not None or stream.ended:
            break
    await stream.done()
    assert (stream.field("grpc-status") or dict(stream.trailers)["grpc-status"]) == "14"
    assert (await tunnel.events.record(done)).reset == OVERLOADED
    await scene_of_grpc.neighbour.lives()


# -- WebSocket


@pytest.mark.parametrize("line", ["Sec-WebSocket-Protocol: \xff", "Sec-WebSocket-Accept: KEY"])
async def test_an_upgrade_with_a_subprotocol_that_is_no_utf8_or_two_accepts_is_502(scene: Scene, line: str) -> None:
    public = await scene.public()
    await ask_upgrade(public, "/", "Sec-WebSocket-Protocol: a")
    backend = await scene.backend.accept()
    head = await backend.head()
    assert head.get("sec-websocket-protocol") == "a"
    key = accept_key(head.get("sec-websocket-key") or "")
    lines = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {key}", line.replace("KEY", key)]
    await backend.send("\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "\r\n"]).encode("latin-1"))
    assert (await public.answer()).status == 502
    await scene.neighbour.lives()


@pytest.mark.parametrize("status", ["304 Not Modified", "204 No Content", "205 Reset Content"])
async def test_a_handshake_refused_without_a_body_leaves_the_connection_in_step(scene: Scene, status: str) -> None:
    """Whatever the public makes of the refusal, no byte behind it may pass for the next answer."""
    public = await scene.public()
    await ask_upgrade(public)
    backend = await scene.backend.accept()
    await backend.head()
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    await backend.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(forged)}\r\n\r\n".encode() + forged)
    got = await public.answer()
    assert got.status in (502, int(status[:3]))
    await public.send(request("GET", "/next"))
    if got.head.get("connection") == "close":
        assert await public.ended()
    else:
        backend = await scene.backend.accept()
        assert (await backend.head()).start == "GET /next HTTP/1.1"
        await backend.send(answer("200 OK", body=b"true"))
        assert (await public.answer()).body == b"true"
    await scene.neighbour.lives()


# An empty frame has two bytes: to fill the kernel's buffers takes millions, which is minutes in plain Python.
PINGS = pytest.mark.differs(
    "asyncio server", "a compiled client is not slowed down by it, and it parses them for minutes"
)
EMPTY_FRAMES = [
    pytest.mark.differs(f"asyncio {end}", "too slow for a flood of empty frames") for end in ("server", "client")
]


@pytest.mark.parametrize(
    "flood", [pytest.param(frame(PING, b"p" * 125), marks=PINGS), pytest.param(frame(TEXT, b""), marks=EMPTY_FRAMES)]
)
async def test_a_flood_of_frames_without_credit_ends_the_websocket(scene: Scene, flood: bytes) -> None:
    """Towards a public that does not read."""
    public = await connect(scene.stack, scene.tunnel.host, scene.tunnel.port, receive_buffer=16_384)
    await ask_upgrade(public)
    backend = await scene.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    done = len(scene.tunnel.events.records)
    block = flood * (65_536 // len(flood))

    async def pour() -> None:
        for _ in range(2048):
            await backend.send(block)

    with pytest.raises(ConnectionError):
        await pour()
    record = await scene.tunnel.events.record(done)
    assert record.reset == OVERLOADED
    await scene.neighbour.lives()


async def test_frames_before_the_end_reach_a_public_that_reads_late(scene: Scene) -> None:
    """The backend is gone while its frames still wait for credit: they come, and then the abnormal end."""
    public = await connect(scene.stack, scene.tunnel.host, scene.tunnel.port, receive_buffer=16_384)
    await ask_upgrade(public)
    backend = await scene.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    payload = b"x" * 1_000_000
    sending = asyncio.ensure_future(backend.send(frame(BINARY, payload) * 3))
    await scene.neighbour.lives()
    for _ in range(3):
        assert await read_frame(public) == Frame(BINARY, payload)
    await sending
    await backend.send(frame(BINARY, payload))
    backend.half_close()
    assert await read_frame(public) == Frame(BINARY, payload)
    await public.ended()
    await scene.neighbour.lives()


# -- HTTP/1.1


@pytest.mark.parametrize(
    "tail", [b"", b"0", b"0\r\n", b"0\r\nX-Sum: 5", b"0\r\nX-Sum: 5\r\n", b"3\r\nab", b"3\r\nabc", b"z\r\n"]
)
@pytest.mark.parametrize("size", [0, 2_000_000])
async def test_an_answer_that_breaks_off_is_never_complete(scene: Scene, tail: bytes, size: int) -> None:
    """Wherever it breaks off; also when more of it is there than the window of the public takes."""
    public, backend, _ = await scene.pass_on(request("GET", "/"))
    body = f"{size:x}\r\n".encode() + b"x" * size + b"\r\n" if size else b""

    async def send() -> None:
        await backend.send(CHUNKED + body)
        if not size:  # else it lies there, waiting for credit
            assert (await public.head()).status == 200
        await backend.send(tail)
        backend.half_close()

    sending = asyncio.ensure_future(send())
    if size:
        await scene.neighbour.lives()
        assert (await public.head()).status == 200
        count = 0
        while count < size:  # the last chunk may have bytes of the tail
            count += len(await public.chunk())
        assert count <= size + len(tail)
    await sending
    try:
        rest = await public.to_end()
    except ConnectionError:
        rest = b""
    assert b"0\r\n\r\n" not in rest
    assert not rest.startswith(b"0")
    await scene.neighbour.lives()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\xfd\r\n\r\n",
        b"HTTP/1.1 \xff\xff\xff OK\r\n\r\n",
        b"HTTP/1.1 000 No\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xff: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=range(10),
)
async def test_what_is_no_answer_is_502(scene: Scene, data: bytes) -> None:
    public, backend, _ = await scene.pass_on(request("GET", "/"))
    await backend.send(data)
    assert (await public.answer()).status == 502
    await scene.neighbour.lives()


async def test_bytes_in_the_reason_and_in_values_pass(scene: Scene) -> None:
    public, backend, _ = await scene.pass_on(request("GET", "/"))
    await backend.send(b"HTTP/1.1 200 \xffine\r\nX-Raw: \xff\xc3\r\nContent-Length: 2\r\n\r\nok")
    got = await public.answer()
    assert (got.status, got.head.get("x-raw"), got.body) == (200, "\xff\xc3", b"ok")
    await scene.neighbour.lives()
