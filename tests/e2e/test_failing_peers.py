"""Backends and visitors that fail at every stage of a request. docs/failures.md has the table.

Afterwards the counters of both ends are what they were, and requests pass again.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import h2.errors
import pytest

from tests.support import http2
from tests.support.frames import (
    BINARY,
    CLOSE,
    MASK,
    TEXT,
    accept_upgrade,
    ask_upgrade,
    expect_upgrade,
    frame,
    frame_head,
    read_frame,
)
from tests.support.grpc_peers import Note, open_channel
from tests.support.http2_calls import Call
from tests.support.raw import Peer, RawBackend, connect, request, start_raw
from tests.support.tunnel import WAIT_S, Tunnel, start_tunnel
from tests.support.witnesses import Backends, Books, open_books, round_trips, start_backends

CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CALLS = "calls.example"  # a gRPC backend that the test plays

pytestmark = pytest.mark.timeout(60)


class Scene:
    def __init__(self, stack: AsyncExitStack, tunnel: Tunnel, backends: Backends, calls: RawBackend) -> None:
        self.stack = stack
        self.tunnel = tunnel
        self.backends = backends
        self.calls = calls

    async def public(self) -> Peer:
        return await connect(self.stack, self.tunnel.host, self.tunnel.port)

    async def http2(self) -> http2.Connection:
        return await http2.connect_http2(self.stack, self.tunnel.host, self.tunnel.port)

    async def arrived(self) -> Peer:
        """A request at the HTTP backend, its head read."""
        peer = await self.backends.http.accept()
        await peer.head()
        return peer

    async def websocket(self) -> tuple[Peer, Peer]:
        public = await self.public()
        await ask_upgrade(public)
        backend = await self.backends.http.accept()
        await accept_upgrade(backend)
        await expect_upgrade(public)
        return public, backend

    async def call(self, stack: AsyncExitStack, **options: Any) -> tuple[Any, Call]:
        """A call to the backend that the test plays."""
        authority = [("grpc.default_authority", CALLS)]
        stub = await open_channel(stack, self.tunnel.authority, authority)
        call = stub.Down(Note(number=1), **options)
        arrived = Call(await self.calls.accept())
        await arrived.arrive()
        return call, arrived


@pytest.fixture
async def scene(stack: AsyncExitStack) -> AsyncIterator[Scene]:
    """What a test does here leaves nothing behind, and requests pass then."""
    backends, calls = await start_backends(stack), await start_raw(stack)
    routes = [*backends.routes, f"{CALLS}=grpc://{calls.address}"]
    tunnel = await start_tunnel(stack, *routes)
    await round_trips(backends, tunnel.host, tunnel.port)
    books: Books = await open_books(tunnel.server, tunnel.client)
    async with AsyncExitStack() as inner:
        yield Scene(inner, tunnel, backends, calls)
        await round_trips(backends, tunnel.host, tunnel.port)
    while calls.waiting or backends.http.waiting:
        (await (calls if calls.waiting else backends.http).accept()).drop()
    await books.balance()


async def status_of(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(WAIT_S):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        code: grpc.StatusCode = await call.code()
        return code


# -- the backend


async def test_a_backend_that_does_not_take_the_connection(stack: AsyncExitStack) -> None:
    """Its queue is full, so its system does not answer."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        fillers = []
        for _ in range(3):
            fillers.append(stack.enter_context(socket.socket()))
            fillers[-1].setblocking(False)
            fillers[-1].connect_ex(full.getsockname())
        routes = [f"http://{address}", f"grpc://{address}"]
        tunnel = await start_tunnel(stack, *routes, client={"connect_timeout_s": 0.2})
        public = await connect(stack, tunnel.host, tunnel.port)
        assert (await public.ask(request("GET", "/"))).status == 504
        await ask_upgrade(public)
        assert (await public.answer()).status == 504
        stub = await open_channel(stack, tunnel.authority)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Unary(Note())
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await tunnel.until_idle()


def ends(peer: Peer, how: str) -> Awaitable[None]:
    """It closes its connection, or its process is killed with bytes unread."""
    if how == "closes":
        return peer.close()
    peer.drop()
    return asyncio.sleep(0)


HOW = pytest.mark.parametrize("how", ["closes", "breaks"])


@HOW
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-"], ids=["nothing", "half a head"])
async def test_a_backend_that_ends_before_its_answer_is_502(scene: Scene, how: str, said: bytes) -> None:
    public, connection = await scene.public(), await scene.http2()
    await public.send(request("POST", "/", "Content-Length: 100") + b"half")
    stream = await connection.open("POST", "/", end=False)
    for _ in range(2):
        peer = await scene.arrived()
        await peer.send(said)
        await ends(peer, how)
    assert (await public.answer()).status == 502
    assert (await stream.done()).status == 502


@HOW
@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_a_backend_that_ends_inside_a_body(scene: Scene, how: str, framing: str) -> None:
    """What has come has come; the end is missing, and shows."""
    head = CHUNKED + "4\r\nhalf\r\n" if framing == "chunked" else "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    public, connection = await scene.public(), await scene.http2()
    await public.send(request("GET", "/"))
    stream = await connection.open("GET", "/")
    peers = [await scene.arrived() for _ in range(2)]
    for peer in peers:
        await peer.send(head)
    assert (await public.head()).status == 200
    assert await (public.chunk() if framing == "chunked" else public.exactly(4)) == b"half"
    assert await stream.received(4) == b"half"
    for peer in peers:
        await ends(peer, how)
    assert await public.ended()
    assert (await stream.done()).reset is not None
    connection.peer.drop()


@HOW
async def test_a_backend_that_ends_in_its_handshake_is_502(scene: Scene, how: str) -> None:
    public = await scene.public()
    await ask_upgrade(public)
    await ends(await scene.arrived(), how)
    assert (await public.answer()).status == 502


@HOW
@pytest.mark.parametrize("begun", [False, True], ids=["between frames", "inside a frame"])
async def test_a_backend_that_ends_its_websocket_without_a_word(scene: Scene, how: str, begun: bool) -> None:
    """Close 1011 where a Close frame can still be sent: never inside a frame, which stays without its end."""
    public, backend = await scene.websocket()
    if begun:
        await backend.send(frame_head(BINARY, 100_000) + b"x" * 70_000)
        assert await public.exactly(10) == frame_head(BINARY, 100_000)
    else:
        await backend.send(frame(TEXT, b"last"))
        assert (await read_frame(public)).payload == b"last"
    await ends(backend, how)
    if begun:
        assert len(await public.to_end()) < 100_000
    else:
        last = await read_frame(public)
        assert (last.opcode, last.payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        assert await public.ended()


CUTS: dict[str, tuple[Callable[[Call], None], grpc.StatusCode]] = {
    "before the head": (lambda call: None, grpc.StatusCode.UNAVAILABLE),
    "before a message": (lambda call: call.head(), grpc.StatusCode.UNAVAILABLE),
    "inside a message": (
        lambda call: (call.head(), call.protocol.send_data(call.number, b"\0\0\0\0\x10half"))[0],
        grpc.StatusCode.UNAVAILABLE,
    ),
    "before the trailers": (lambda call: (call.head(), call.messages([b""]))[0], grpc.StatusCode.UNAVAILABLE),
}


@HOW
@pytest.mark.parametrize("stage", CUTS)
async def test_a_backend_that_ends_a_call(scene: Scene, how: str, stage: str) -> None:
    async with AsyncExitStack() as stack:
        call, arrived = await scene.call(stack)
        say, status = CUTS[stage]
        say(arrived)
        await arrived.write()
        await ends(arrived.peer, how)
        assert await status_of(call) is status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (h2.errors.ErrorCodes.INTERNAL_ERROR, grpc.StatusCode.INTERNAL),
        (h2.errors.ErrorCodes.CANCEL, grpc.StatusCode.CANCELLED),
        (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_a_backend_that_resets_a_call(scene: Scene, code: h2.errors.ErrorCodes, status: grpc.StatusCode) -> None:
    async with AsyncExitStack() as stack:
        call, arrived = await scene.call(stack)
        arrived.head()
        arrived.reset(code)
        await arrived.write()
        assert await status_of(call) is status
        await arrived.peer.close()


async def test_a_backend_that_sends_goaway_finishes_what_it_has(scene: Scene) -> None:
    """The next call gets a connection of its own."""
    async with AsyncExitStack() as stack:
        call, arrived = await scene.call(stack)
        arrived.goaway(last=arrived.number)
        await arrived.write()
        other, arrived_later = await scene.call(stack)
        for each in (arrived, arrived_later):
            each.head()
            each.messages([b""])
            each.end()
            await each.write()
        assert await status_of(call) is grpc.StatusCode.OK
        assert await status_of(other) is grpc.StatusCode.OK
        await arrived.peer.close()
        await arrived_later.peer.close()


async def test_a_call_that_goaway_has_left_out_is_sent_again(scene: Scene) -> None:
    """RFC 9113 6.8: it was not processed."""
    async with AsyncExitStack() as stack:
        call, arrived = await scene.call(stack)
        arrived.goaway(last=0)
        await arrived.write()
        again = Call(await scene.calls.accept())
        await again.arrive()
        again.head()
        again.messages([b""])
        again.end()
        await again.write()
        assert await status_of(call) is grpc.StatusCode.OK
        await arrived.peer.close()
        await again.peer.close()


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "inside the answer"])
async def test_a_deadline_that_passes_in_the_middle(scene: Scene, begun: bool) -> None:
    """The public is told by us, the backend's stream is reset."""
    async with AsyncExitStack() as stack:
        call, arrived = await scene.call(stack, timeout=0.5)
        if begun:
            arrived.head()
            arrived.messages([b""])
            await arrived.write()
            assert await call.read() == Note()
        assert await status_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        await arrived.expect_reset()
        await arrived.peer.close()


# -- the public


STAGES: dict[str, tuple[bytes, str]] = {
    "half a head": (b"GET / HTTP/1.1\r\nHos", ""),
    "half a body": (request("POST", "/", "Content-Length: 100") + b"half", ""),
    "half a chunk": (request("POST", "/", "Transfer-Encoding: chunked") + b"10\r\nhalf", ""),
    "a whole request": (request("GET", "/"), ""),
    "a whole request, half its answer": (request("GET", "/"), CHUNKED + "4\r\nhalf\r\n"),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_public_that_vanishes(scene: Scene, stage: str) -> None:
    said, answered = STAGES[stage]
    public = await scene.public()
    await public.send(said)
    if stage != "half a head":
        peer = await scene.arrived()
        if answered:
            await peer.send(answered)
            assert (await public.head()).status == 200
        public.drop()
        await peer.ended()
        await peer.close()
    else:
        public.drop()


@pytest.mark.parametrize("how", ["reset", "goaway", "lost"])
@pytest.mark.parametrize("stage", ["half a body", "a whole request", "half an answer"])
async def test_a_public_that_gives_a_stream_up(scene: Scene, stage: str, how: str) -> None:
    connection = await scene.http2()
    stream = await connection.open("POST", "/", end=False)
    await stream.send(b"half", end=stage != "half a body")
    peer = await scene.arrived()
    if stage == "half an answer":
        await peer.send(CHUNKED + "4\r\nhalf\r\n")
        assert await stream.received(4) == b"half"
    if how == "reset":
        await stream.cancel()
    elif how == "goaway":  # it opens no more streams, this one goes on
        connection.protocol.close_connection()
        await connection.flush()
        if stage == "half a body":
            await stream.send(b"more", end=True)
        await peer.send("0\r\n\r\n" if stage == "half an answer" else CHUNKED + "0\r\n\r\n")
        assert (await stream.done()).reset is None
        assert stream.status == 200
    else:
        connection.peer.drop()
    if how != "goaway":
        await peer.ended()
    connection.peer.drop()
    await peer.close()


@pytest.mark.parametrize("stage", ["handshake", "open", "inside a frame", "inside a frame of the backend"])
async def test_a_public_that_vanishes_from_a_websocket(scene: Scene, stage: str) -> None:
    if stage == "handshake":
        public = await scene.public()
        await ask_upgrade(public)
        backend = await scene.arrived()
    else:
        public, backend = await scene.websocket()
    if stage == "inside a frame":
        await public.send(frame_head(BINARY, 100_000, mask=MASK) + b"x" * 70_000)
        assert await backend.exactly(14)
    elif stage == "inside a frame of the backend":
        await backend.send(frame_head(BINARY, 100_000) + b"x" * 70_000)
        assert await public.exactly(10)
    public.drop()
    async with asyncio.timeout(WAIT_S):
        with suppress(ConnectionError):
            await backend.to_end()
    await backend.close()


@pytest.mark.parametrize("how", ["cancel", "lost"])
@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "inside the answer"])
async def test_a_public_that_gives_a_call_up(scene: Scene, begun: bool, how: str) -> None:
    connection = await scene.http2()
    fields = [("content-type", "application/grpc"), ("te", "trailers")]
    stream = await connection.open("POST", "/any.Service/Method", *fields, end=False, authority=CALLS)
    await stream.send(bytes(5), end=True)
    arrived = Call(await scene.calls.accept())
    await arrived.arrive()
    if begun:
        arrived.head()
        arrived.messages([b"first"])
        await arrived.write()
        assert await stream.received(10)
    if how == "cancel":
        await stream.cancel()
    else:
        connection.peer.drop()
    await arrived.expect_reset()
    connection.peer.drop()
    await arrived.peer.close()
