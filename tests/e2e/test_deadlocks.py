"""Where two ends could wait for each other for ever: tiny windows, both directions full, answers nobody waits for."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import pytest

import fasttunnel
from tests.e2e.conftest import Ends
from tests.support import http2
from tests.support.frames import BINARY, MASK, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Note, open_channel, start_grpc
from tests.support.raw import Peer, answer, request
from tests.support.site import content, start_site
from tests.support.tunnel import WAIT_S, Recorder, Tunnel, engines

pytestmark = pytest.mark.timeout(90)


async def start_with_window(stack: AsyncExitStack, window: int, *routes: str) -> Tunnel:
    """Both ends grant so little: less than can be configured, but other implementations may."""
    events, client_events = Recorder(), Recorder()
    free = "127.0.0.1:0"
    server = fasttunnel.Server(free, free, events=events, engine=engines["server"])
    msgspec.structs.force_setattr(server.config, "initial_window", window)
    await server.start()
    stack.push_async_callback(server.stop, 0)
    client = fasttunnel.Client(server.tunnel, list(routes), events=client_events, engine=engines["client"])
    msgspec.structs.force_setattr(client.config, "initial_window", window)
    await client.start()
    stack.push_async_callback(client.stop, 0)
    return Tunnel(server, client, events, client_events)


@pytest.mark.parametrize(("window", "size"), [(1, 300), (1024, 100_000)], ids=["1 byte", "1 KiB"])
@pytest.mark.parametrize("kind", ["http1", "http2", "websocket", "unary", "stream"])
async def test_echoes_through_small_windows(stack: AsyncExitStack, kind: str, window: int, size: int) -> None:
    """Those of the tunnel, and over HTTP/2 those of the public and of the backend too."""
    site = await start_site(stack)
    calls = await start_grpc(stack)
    tunnel = await start_with_window(stack, window, site, calls)
    data = content(size)
    async with asyncio.timeout(60):
        assert await ECHOES[kind](stack, tunnel, data, window) == data
    await tunnel.until_idle()
    assert tunnel.events.warnings == tunnel.client_events.warnings == []


async def over_http1(stack: AsyncExitStack, tunnel: Tunnel, data: bytes, window: int) -> bytes:
    async with aiohttp.ClientSession() as session, session.post(f"{tunnel.url}/echo", data=data) as got:
        return await got.read()


async def over_http2(stack: AsyncExitStack, tunnel: Tunnel, data: bytes, window: int) -> bytes:
    connection = await http2.connect_http2(stack, tunnel.host, tunnel.port, window=window)
    stream = await connection.open("POST", "/echo", end=False)
    await stream.send(data, end=True)
    return bytes((await stream.done()).body)


async def over_websocket(stack: AsyncExitStack, tunnel: Tunnel, data: bytes, window: int) -> bytes:
    """It comes back reversed."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{tunnel.url}/websocket", max_msg_size=0) as socket,
    ):
        await socket.send_bytes(data[::-1])
        return await socket.receive_bytes()


async def unary(stack: AsyncExitStack, tunnel: Tunnel, data: bytes, window: int) -> bytes:
    stub = await open_channel(stack, tunnel.authority)
    return bytes((await stub.Unary(Note(data=data), timeout=WAIT_S)).data)


async def stream(stack: AsyncExitStack, tunnel: Tunnel, data: bytes, window: int) -> bytes:
    stub = await open_channel(stack, tunnel.authority)
    half = len(data) // 2
    notes = [Note(data=data[:half]), Note(), Note(data=data[half:])]
    return b"".join([bytes(note.data) async for note in stub.Talk(iter(notes), timeout=2 * WAIT_S)])


ECHOES: dict[str, Callable[[AsyncExitStack, Tunnel, bytes, int], Coroutine[Any, Any, bytes]]] = {
    "http1": over_http1,
    "http2": over_http2,
    "websocket": over_websocket,
    "unary": unary,
    "stream": stream,
}


# -- both directions full


async def fill(peer: Peer, piece: bytes) -> int:
    """Write until nothing moves any more. Returns how many pieces it were."""
    transport = peer.writer.transport
    transport.set_write_buffer_limits(0)
    pieces = 0
    while True:
        peer.writer.write(piece)
        pieces += 1
        try:
            async with asyncio.timeout(0.3):
                await peer.writer.drain()
        except TimeoutError:
            return pieces


async def test_a_websocket_that_is_full_both_ways(ends: Ends) -> None:
    """Nobody reads, both write until it stands; then both read, and all of it comes."""
    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    payload = content(100_000)
    up, down = await asyncio.gather(
        fill(public, frame(BINARY, payload, mask=MASK)), fill(backend, frame(BINARY, payload))
    )
    assert up > 1
    assert down > 1

    async def read(peer: Peer, count: int) -> None:
        for _ in range(count):
            assert (await read_frame(peer)).payload == payload

    async with asyncio.timeout(60):
        await asyncio.gather(read(public, down), read(backend, up))


async def test_an_exchange_that_is_full_both_ways(ends: Ends) -> None:
    """The answer begins before the request ends; both stand, then both go on."""
    public, backend, _ = await ends.pass_on(request("POST", "/", "Transfer-Encoding: chunked"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await public.head()).status == 200
    piece = b"186a0\r\n" + content(100_000) + b"\r\n"
    up, down = await asyncio.gather(fill(public, piece), fill(backend, piece))
    assert up > 1
    assert down > 1
    async with asyncio.timeout(60):
        received = await asyncio.gather(public.chunks(100_000 * down), backend.chunks(100_000 * up))
    assert received == [content(100_000) * down, content(100_000) * up]
    public.writer.write(b"0\r\n\r\n")
    assert await backend.chunk() == b""
    assert await backend.trailers() == []
    await backend.send(b"0\r\n\r\n")
    assert await public.chunk() == b""


# -- what nobody reads


async def test_an_upload_that_is_answered_without_being_read(ends: Ends) -> None:
    """The answer reaches a public that is stuck in its upload; the next request passes."""
    public, backend, _ = await ends.pass_on(request("POST", "/", "Transfer-Encoding: chunked"))
    await fill(public, b"186a0\r\n" + content(100_000) + b"\r\n")
    await backend.send(answer("413 Content Too Large", "Connection: close", body=b"no"))
    got = await public.answer()
    assert (got.status, got.body, got.head.get("connection")) == (413, b"no", "close")
    await ends.tunnel.until_idle()


async def test_a_download_that_nobody_reads_ends_with_its_public(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await fill(backend, b"186a0\r\n" + content(100_000) + b"\r\n")
    public.drop()
    await backend.ended()
    await ends.tunnel.until_idle()


async def test_a_download_whose_backend_goes_while_nobody_reads(ends: Ends) -> None:
    """Nobody reads the backend's socket then either; once the public goes on, it gets what there was, and no end."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await fill(backend, b"186a0\r\n" + content(100_000) + b"\r\n")
    backend.drop()
    assert (await public.head()).status == 200
    assert not (await public.to_end()).endswith(b"0\r\n\r\n")
    await ends.tunnel.until_idle()
