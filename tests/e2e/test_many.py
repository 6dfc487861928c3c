"""Many conversations at once through one tunnel stream, each with payloads of its own: no byte may end up elsewhere."""

import asyncio
import hashlib
import random
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from tests.support.frames import BINARY, MASK, Frame, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.raw import connect, request, start_raw
from tests.support.tunnel import Tunnel, eventually, start_tunnel
from tests.support.web import start_web

WEBSOCKETS = 2000  # for the compiled engine; with an asyncio engine that would mostly measure patience
WEBSOCKETS_ASYNCIO = 200
CALLS = 200
MESSAGES = 5


def payload(conversation: int, turn: int) -> bytes:
    """What is said there and then; up to 2 KiB, now and then 100 KiB."""
    source = random.Random(conversation * 1000 + turn)
    return source.randbytes(100_000 if source.random() < 0.005 else source.randrange(2048))


def reply(data: bytes) -> bytes:
    """What the backend makes of it: anything else that arrives is from another conversation."""
    return hashlib.sha256(data).digest() + data[::-1]


@pytest.fixture
def descriptors() -> None:
    """Four sockets for each connection, all in this process."""
    needed = 4 * WEBSOCKETS + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        assert hard == resource.RLIM_INFINITY or hard >= needed, f"this needs {needed} file descriptors (ulimit -n)"
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@pytest.mark.timeout(180)
async def test_many_websockets(stack: AsyncExitStack, descriptors: None, cell: tuple[str, str]) -> None:
    count = WEBSOCKETS_ASYNCIO if "asyncio" in cell else WEBSOCKETS

    async def chat(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False, max_msg_size=0)
        await connection.prepare(request)
        async for message in connection:
            await connection.send_bytes(reply(message.data))
        return connection

    tunnel = await start_tunnel(stack, await start_web(stack, web.get("/chat", chat)))
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
    )
    gate = asyncio.Semaphore(200)  # handshakes at once

    async def dial() -> aiohttp.ClientWebSocketResponse:
        async with gate:
            return await session.ws_connect(tunnel.ws_url + "/chat", max_msg_size=0)

    async def converse(number: int, connection: aiohttp.ClientWebSocketResponse) -> None:
        for turn in range(MESSAGES):
            data = payload(number, turn)
            await connection.send_bytes(data)
            assert await connection.receive_bytes() == reply(data), f"conversation {number}, turn {turn}"

    async with asyncio.timeout(150):
        connections = await asyncio.gather(*(dial() for _ in range(count)))
        assert tunnel.server.status()["active_requests"] == count
        assert len(tunnel.server.status()["links"]) == 1
        await asyncio.gather(*(converse(number, connection) for number, connection in enumerate(connections)))
        assert tunnel.server.status()["active_requests"] == count, "all are still open"
        await asyncio.gather(*(connection.close() for connection in connections))
        assert {connection.close_code for connection in connections} == {1000}
        await tunnel.events.until(lambda: len(tunnel.events.records) == count)
    assert len({record.request_id for record in tunnel.events.records}) == count
    assert {record.reset for record in tunnel.events.records} == {None}
    assert {(record.messages_in, record.messages_out) for record in tunnel.events.records} == {(MESSAGES + 1,) * 2}
    await eventually(lambda: tunnel.server.status()["connections"] == 1, lambda: str(tunnel.server.status()))


async def test_200_bidirectional_calls(stack: AsyncExitStack) -> None:
    """On one channel; all are open before the first one ends."""
    opened = 0
    all_open = asyncio.Event()

    async def talk(requests: Notes, context: Context) -> Notes:
        nonlocal opened
        async for note in requests:
            yield Note(number=note.number, data=reply(note.data))

    tunnel = await start_tunnel(stack, await start_grpc(stack, Talk=talk))
    stub = await open_channel(stack, tunnel.authority)

    async def converse(number: int) -> None:
        nonlocal opened
        call = stub.Talk()
        for turn in range(4 * MESSAGES):
            data = payload(number, turn)
            await call.write(Note(number=number, data=data))
            assert await call.read() == Note(number=number, data=reply(data)), f"call {number}, turn {turn}"
            if turn == 0:
                opened += 1
                if opened == CALLS:
                    all_open.set()
                await all_open.wait()
        await call.done_writing()
        assert (await call.code()).value[0] == 0

    async with asyncio.timeout(100):
        await asyncio.gather(*(converse(number) for number in range(CALLS)))
        await tunnel.events.until(lambda: len(tunnel.events.records) == CALLS)
    assert {record.status for record in tunnel.events.records} == {0}


async def test_two_large_frames_side_by_side(stack: AsyncExitStack) -> None:
    """Their fragments take turns on the tunnel; each frame arrives whole."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url)
    pairs = []
    for _ in range(2):
        public = await connect(stack, tunnel.host, tunnel.port)
        await ask_upgrade(public)
        peer = await backend.accept()
        await accept_upgrade(peer)
        await expect_upgrade(public)
        pairs.append((public, peer))
    frames = [Frame(BINARY, random.Random(number).randbytes(3_000_000)) for number in range(4)]

    async def send(number: int) -> None:
        """In pieces of uneven size, so that the two are really interleaved."""
        mask = MASK if number < 2 else None
        data = frame(BINARY, frames[number].payload, mask=mask)
        sender = pairs[number % 2][0 if mask else 1]
        for start in range(0, len(data), 30_011):
            await sender.send(data[start : start + 30_011])
            await asyncio.sleep(0)

    async def receive(number: int) -> None:
        receiver = pairs[number % 2][1 if number < 2 else 0]
        assert await read_frame(receiver) == frames[number]._replace(masked=number < 2)

    await asyncio.gather(*(send(number) for number in range(4)), *(receive(number) for number in range(4)))


async def upload(tunnel: Tunnel, stack: AsyncExitStack, number: int) -> None:
    """One HTTP exchange whose body comes back in a different form."""
    public = await connect(stack, tunnel.host, tunnel.port)
    for turn in range(4):
        data = random.Random(number * 100 + turn).randbytes(300_000)
        sending = asyncio.ensure_future(public.send(request("POST", f"/{number}", body=data)))
        got = await public.answer()
        await sending
        assert (got.status, got.body) == (200, reply(data)), f"upload {number}, turn {turn}"


async def test_all_protocols_at_once(stack: AsyncExitStack) -> None:
    """HTTP, WebSocket and gRPC on the same link, everything in motion."""

    async def post(request: web.Request) -> web.Response:
        return web.Response(body=reply(await request.read()))

    async def chat(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(max_msg_size=0)
        await connection.prepare(request)
        async for message in connection:
            await connection.send_bytes(reply(message.data))
        return connection

    async def talk(requests: Notes, context: Context) -> Notes:
        async for note in requests:
            yield Note(number=note.number, data=reply(note.data))

    site = await start_web(stack, web.get("/chat", chat), web.post("/{path:.*}", post))
    tunnel = await start_tunnel(stack, site, await start_grpc(stack, Talk=talk))
    stub = await open_channel(stack, tunnel.authority)
    session = await stack.enter_async_context(aiohttp.ClientSession())

    async def websocket(number: int) -> None:
        async with session.ws_connect(tunnel.ws_url + "/chat", max_msg_size=0, compress=15) as connection:
            for turn in range(20):
                data = random.Random(number * 100 + turn).randbytes(70_000)
                await connection.send_bytes(data)
                assert await connection.receive_bytes() == reply(data), f"connection {number}, turn {turn}"

    async def call(number: int) -> None:
        async def notes() -> AsyncIterator[Note]:
            for turn in range(20):
                yield Note(number=turn, data=random.Random(number * 100 + turn).randbytes(70_000))

        turn = 0
        async for note in stub.Talk(notes()):
            data = random.Random(number * 100 + turn).randbytes(70_000)
            assert note == Note(number=turn, data=reply(data)), f"call {number}, turn {turn}"
            turn += 1
        assert turn == 20

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(upload(tunnel, stack, number) for number in range(10)),
            *(websocket(number) for number in range(100, 110)),
            *(call(number) for number in range(200, 210)),
        )
