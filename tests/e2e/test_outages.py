"""Requests for a route whose client is away: told from one that never was, and made to wait where that is wanted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest

import fasttunnel
from tests.support import http2
from tests.support.frames import MASK, TEXT, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Note, open_channel, start_grpc
from tests.support.raw import Peer, RawBackend, answer, connect, request, start_raw
from tests.support.tunnel import WAIT_S, Recorder, eventually, start_client, start_server

HOST = "shop.example"


class Outage:
    """A server whose client for HOST has gone."""

    def __init__(self, stack: AsyncExitStack, server: fasttunnel.Server, events: Recorder, backend: RawBackend) -> None:
        self.stack = stack
        self.server = server
        self.events = events
        self.backend = backend
        self.echo = ""

    async def begin(self) -> None:
        client = await self.come_back()
        await client.stop(0)
        await self.events.until_line("link down")

    async def come_back(self) -> fasttunnel.Client:
        routes = [f"{HOST}={self.backend.url}"] + ([f"{HOST}={self.echo}"] if self.echo else [])
        return await start_client(self.stack, self.server.tunnel, routes, client_id="shop")

    async def public(self) -> Peer:
        return await connect(self.stack, *self.server.address)

    @property
    def queued(self) -> int:
        return int(self.server.status()["queued_requests"])

    async def until_queued(self, count: int) -> None:
        await eventually(lambda: self.queued == count, lambda: f"{self.queued} wait, not {count}")


async def start_outage(stack: AsyncExitStack, **options: float) -> Outage:
    events, backend = Recorder(), await start_raw(stack)
    outage = Outage(stack, await start_server(stack, events, **options), events, backend)
    outage.echo = await start_grpc(stack)
    await outage.begin()
    return outage


@pytest.fixture
async def short(stack: AsyncExitStack) -> Outage:
    """Nobody waits."""
    return await start_outage(stack)


@pytest.fixture
async def outage(stack: AsyncExitStack) -> AsyncIterator[Outage]:
    """Requests wait, longer than any test; none may be left."""
    outage = await start_outage(stack, queue_timeout_s=2 * WAIT_S)
    yield outage
    await outage.until_queued(0)


async def test_a_known_route_is_503_and_another_404(short: Outage) -> None:
    public = await short.public()
    got = await public.ask(request("GET", "/", host=HOST))
    assert (got.status, got.head.get("retry-after")) == (503, "1")
    got = await public.ask(request("GET", "/", host="other.example"))
    assert got.status == 404
    await ask_upgrade(public, host=HOST)
    assert (await public.answer()).status == 503
    connection = await http2.connect_http2(short.stack, *short.server.address)
    stream = await (await connection.open("GET", "/", authority=HOST)).done()
    assert (stream.status, stream.field("retry-after")) == (503, "1")
    stub = await open_channel(short.stack, _authority(short), [("grpc.default_authority", HOST)])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note(number=1))
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_routes_of_a_client_that_is_stopping_are_503(stack: AsyncExitStack) -> None:
    """It has said so, and finishes what it has."""
    backend = await start_raw(stack)
    server = await start_server(stack)
    client = await start_client(stack, server.tunnel, [backend.url])
    under_way = await connect(stack, *server.address)
    await under_way.send(request("GET", "/"))
    peer = await backend.accept()
    await peer.head()
    stopping = asyncio.ensure_future(client.stop(WAIT_S))
    await eventually(lambda: server.routes == [])
    got = await (await connect(stack, *server.address)).ask(request("GET", "/"))
    assert (got.status, got.head.get("retry-after")) == (503, "1")
    await peer.send(answer("200 OK", body=b"done"))
    assert (await under_way.answer()).body == b"done"
    await stopping


async def test_requests_wait_for_the_client(outage: Outage) -> None:
    """With and without a body, over HTTP/1.1 and HTTP/2, and calls."""
    plain, body = [await outage.public() for _ in range(2)]
    await plain.send(request("GET", "/plain", host=HOST))
    await body.send(request("POST", "/body", "Content-Length: 9", host=HOST) + b"half")
    connection = await http2.connect_http2(outage.stack, *outage.server.address)
    stream = await connection.open("POST", "/stream", end=False, authority=HOST)
    await stream.send(b"half")
    stub = await open_channel(outage.stack, _authority(outage), [("grpc.default_authority", HOST)])
    call = asyncio.ensure_future(_result(stub.Unary(Note(number=7), timeout=WAIT_S)))
    await outage.until_queued(4)
    await body.send(b" more")
    await outage.come_back()
    assert (await call).number == 7

    peers: dict[str, Peer] = {}
    for _ in range(3):
        peer = await outage.backend.accept()
        peers[(await peer.head()).start.split(" ")[1]] = peer
    assert await peers["/body"].exactly(9) == b"half more"
    await stream.send(b" more", end=True)
    assert await peers["/stream"].chunks(9) == b"half more"
    for path, peer in peers.items():
        await peer.send(answer("200 OK", body=path.encode()))
    assert (await plain.answer()).body == b"/plain"
    assert (await body.answer()).body == b"/body"
    assert (await stream.done()).body == b"/stream"


async def test_a_handshake_waits_for_the_client(outage: Outage) -> None:
    public = await outage.public()
    await ask_upgrade(public, host=HOST)
    await outage.until_queued(1)
    await outage.come_back()
    backend = await outage.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    await public.send(frame(TEXT, b"hello", mask=MASK))
    assert (await read_frame(backend)).payload == b"hello"


async def test_what_is_pipelined_behind_a_request_that_waits(outage: Outage) -> None:
    public = await outage.public()
    await public.send(request("GET", "/first", host=HOST) + request("GET", "/second", host=HOST))
    await outage.until_queued(1)
    await outage.come_back()
    peer = await outage.backend.accept()
    for path in ("/first", "/second"):
        assert (await peer.head()).start == f"GET {path} HTTP/1.1"
        await peer.send(answer("200 OK", body=path.encode()))
        assert (await public.answer()).body == path.encode()


async def _result(call: "grpc.aio.UnaryUnaryCall[Note, Note]") -> Note:
    return await call


def _authority(outage: Outage) -> str:
    return outage.server.public_url.removeprefix("http://")


async def test_who_has_waited_long_enough_gets_503(stack: AsyncExitStack) -> None:
    outage = await start_outage(stack, queue_timeout_s=0.05)
    public = await outage.public()
    got = await public.ask(request("POST", "/", host=HOST, body=b"unread"))
    assert (got.status, got.head.get("retry-after")) == (503, "1")
    public = await outage.public()
    await ask_upgrade(public, host=HOST)
    assert (await public.answer()).status == 503
    connection = await http2.connect_http2(stack, *outage.server.address)
    assert (await (await connection.open("GET", "/", authority=HOST)).done()).status == 503
    stub = await open_channel(stack, _authority(outage), [("grpc.default_authority", HOST)])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note(number=1))
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    await outage.until_queued(0)


async def test_a_deadline_ends_the_wait(outage: Outage) -> None:
    stub = await open_channel(outage.stack, _authority(outage), [("grpc.default_authority", HOST)])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note(number=1), timeout=0.1)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_who_leaves_does_not_wait(outage: Outage) -> None:
    plain = await outage.public()
    await plain.send(request("GET", "/", host=HOST))
    connection = await http2.connect_http2(outage.stack, *outage.server.address)
    stream = await connection.open("GET", "/", authority=HOST)
    lost = await http2.connect_http2(outage.stack, *outage.server.address)
    await lost.open("GET", "/", authority=HOST)
    await outage.until_queued(3)
    plain.drop()
    await stream.cancel()
    lost.peer.drop()
    await outage.until_queued(0)
    await outage.come_back()
    assert outage.backend.waiting == 0


async def test_a_server_that_stops_answers_who_waits(outage: Outage) -> None:
    public = await outage.public()
    await public.send(request("GET", "/", host=HOST))
    connection = await http2.connect_http2(outage.stack, *outage.server.address)
    stream = await connection.open("GET", "/", authority=HOST)
    await outage.until_queued(2)
    stopping = asyncio.ensure_future(outage.server.stop(WAIT_S))
    got = await public.answer()
    assert (got.status, got.head.get("connection")) == (503, "close")
    assert (await stream.done()).status == 503
    connection.peer.drop()
    await stopping


async def test_no_more_wait_than_there_is_room_for(stack: AsyncExitStack) -> None:
    outage = await start_outage(stack, queue_timeout_s=2 * WAIT_S, queued_requests=2)
    waiting = [await outage.public() for _ in range(2)]
    for public in waiting:
        await public.send(request("GET", "/", host=HOST))
    await outage.until_queued(2)
    got = await (await outage.public()).ask(request("GET", "/", host=HOST))
    assert got.status == 503
    for public in waiting:
        public.drop()
    await outage.until_queued(0)


async def test_a_server_that_has_just_started_waits_for_its_clients(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    server = await start_server(stack, queue_timeout_s=WAIT_S)
    public = await connect(stack, *server.address)
    await public.send(request("GET", "/"))
    await eventually(lambda: server.status()["queued_requests"] == 1)
    await start_client(stack, server.tunnel, [backend.url])
    peer = await backend.accept()
    await peer.head()
    await peer.send(answer("200 OK", body=b"up"))
    assert (await public.answer()).body == b"up"
