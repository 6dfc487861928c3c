"""WebSocket conversations with real libraries at both far ends."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response

from tests.support.tunnel import WAIT_S, Tunnel, start_tunnel

Server = websockets.asyncio.server.ServerConnection
Client = websockets.asyncio.client.ClientConnection
Handler = Callable[[Server], Awaitable[None]]


async def echo(connection: Server) -> None:
    async for message in connection:
        await connection.send(message)


async def start_backend(stack: AsyncExitStack, handler: Handler, **options: object) -> str:
    """A backend of the websockets library; its URL."""
    server = await websockets.asyncio.server.serve(handler, "127.0.0.1", 0, max_size=None, **options)
    await stack.enter_async_context(server)
    return f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def start(stack: AsyncExitStack, handler: Handler = echo, **options: object) -> Tunnel:
    return await start_tunnel(stack, await start_backend(stack, handler, **options))


async def dial(stack: AsyncExitStack, tunnel: Tunnel, path: str = "/", **options: object) -> Client:
    options = {"max_size": None, "open_timeout": WAIT_S, "close_timeout": WAIT_S, "compression": None, **options}
    return await stack.enter_async_context(
        websockets.asyncio.client.connect(tunnel.ws_url + path, **options)  # type: ignore[arg-type]
    )


async def test_text_and_binary_of_every_size(stack: AsyncExitStack) -> None:
    """Sizes around each form of the length, the fragment limit and the window; text stays text."""
    connection = await dial(stack, await start(stack))
    for size in (0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 131_072, 262_144, 262_145, 3_000_001):
        message = random.Random(size).randbytes(size)
        await connection.send(message)
        assert await connection.recv() == message
    for text in ("", "hello", "grüße \U0001f600 " * 30_000):
        await connection.send(text)
        assert await connection.recv() == text


async def test_many_messages_in_flight(stack: AsyncExitStack) -> None:
    connection = await dial(stack, await start(stack))
    messages = [random.Random(number).randbytes(number % 2000) for number in range(3000)]

    async def send() -> None:
        for message in messages:
            await connection.send(message)

    sending = asyncio.ensure_future(send())
    async with asyncio.timeout(WAIT_S):
        for message in messages:
            assert await connection.recv() == message
    await sending


async def test_fragmented_messages(stack: AsyncExitStack) -> None:
    """The library's own fragments: each arrives as one, in both directions."""

    async def fragments(connection: Server) -> None:
        while True:
            parts = [part async for part in connection.recv_streaming()]
            await connection.send(iter([*parts, f"{len(parts)} parts"]))

    connection = await dial(stack, await start(stack, fragments))
    await connection.send(iter(["a", "bc", "", "def"]))
    # The library ends each such message with an empty frame.
    assert [part async for part in connection.recv_streaming()] == ["a", "bc", "", "def", "", "5 parts", ""]

    async def produce() -> AsyncIterator[str]:
        for number in range(50):
            yield f"part {number};"

    await connection.send(produce())
    got = [part async for part in connection.recv_streaming()]
    assert got == [*(f"part {number};" for number in range(50)), "", "51 parts", ""]


async def test_ping_and_pong_reach_the_far_end(stack: AsyncExitStack) -> None:
    latency: asyncio.Queue[float] = asyncio.Queue()

    async def ping(connection: Server) -> None:
        latency.put_nowait(await (await connection.ping(b"from the backend")))
        await connection.wait_closed()

    connection = await dial(stack, await start(stack, ping))
    async with asyncio.timeout(WAIT_S):
        assert await latency.get() >= 0
        assert await (await connection.ping(b"from the public")) >= 0


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "going"), (1011, "broken"), (3000, "a"), (4999, "ü" * 61)]
)
async def test_close_codes_of_the_backend(stack: AsyncExitStack, code: int, reason: str) -> None:
    async def close(connection: Server) -> None:
        await connection.close(code, reason)

    tunnel = await start(stack, close)
    connection = await dial(stack, tunnel)
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), WAIT_S)
    assert (connection.close_code, connection.close_reason) == (code, reason)
    record = await tunnel.events.record()
    assert (record.protocol, record.status, record.reset) == ("websocket", code, None)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1003, "not that"), (4000, "x" * 123)])
async def test_close_codes_of_the_public(stack: AsyncExitStack, code: int, reason: str) -> None:
    seen: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def watch(connection: Server) -> None:
        await connection.wait_closed()
        seen.put_nowait((connection.close_code, connection.close_reason))

    connection = await dial(stack, await start(stack, watch))
    await connection.close(code, reason)
    async with asyncio.timeout(WAIT_S):
        assert await seen.get() == (code, reason)
    assert connection.close_code == code, "the backend's answer to the Close frame came back"


async def test_a_close_without_a_code(stack: AsyncExitStack) -> None:
    async def close(connection: Server) -> None:
        connection.protocol.send_close()
        connection.transport.write(b"".join(connection.protocol.data_to_send()))
        await connection.wait_closed()

    connection = await dial(stack, await start(stack, close))
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), WAIT_S)
    assert connection.close_code == 1005


async def test_a_backend_that_vanishes_is_1011(stack: AsyncExitStack) -> None:
    async def vanish(connection: Server) -> None:
        await connection.send("last words")
        connection.transport.abort()

    tunnel = await start(stack, vanish)
    connection = await dial(stack, tunnel)
    assert await connection.recv() == "last words"
    with pytest.raises(ConnectionClosedError):
        await asyncio.wait_for(connection.recv(), WAIT_S)
    assert connection.close_code == 1011
    assert (await tunnel.events.record()).reset == 3


async def test_a_public_that_vanishes_is_1006_at_the_backend(stack: AsyncExitStack) -> None:
    ended: asyncio.Queue[tuple[int | None, str | bytes]] = asyncio.Queue()

    async def watch(connection: Server) -> None:
        message = await connection.recv()
        await connection.wait_closed()
        ended.put_nowait((connection.close_code, message))

    tunnel = await start(stack, watch)
    connection = await dial(stack, tunnel)
    await connection.send("last words")
    connection.transport.close()  # TCP ends properly, WebSocket does not
    async with asyncio.timeout(WAIT_S):
        assert await ended.get() == (1006, "last words")
    assert (await tunnel.events.record()).reset == 1


async def test_subprotocols(stack: AsyncExitStack) -> None:
    tunnel = await start(stack, subprotocols=[Subprotocol("chat.v2"), Subprotocol("chat.v1")])
    old = await dial(stack, tunnel, subprotocols=[Subprotocol("chat.v0"), Subprotocol("chat.v1")])
    assert old.subprotocol == "chat.v1"
    new = await dial(stack, tunnel, subprotocols=[Subprotocol("chat.v1"), Subprotocol("chat.v2")])
    assert new.subprotocol == "chat.v2"


async def test_no_common_subprotocol_is_refused_by_the_backend(stack: AsyncExitStack) -> None:
    tunnel = await start(stack, subprotocols=[Subprotocol("chat")])
    with pytest.raises(InvalidStatus) as refusal:
        await dial(stack, tunnel, subprotocols=[Subprotocol("mail")])
    assert refusal.value.response.status_code == 400


async def test_compression_is_between_the_far_ends(stack: AsyncExitStack) -> None:
    """permessage-deflate is negotiated end to end; what travels in between is the compressed payload."""
    tunnel = await start(stack, compression="deflate")
    connection = await dial(stack, tunnel, compression="deflate")
    assert "permessage-deflate" in connection.response.headers["Sec-WebSocket-Extensions"]
    text = "the same words again and again; " * 20_000
    for _ in range(3):
        await connection.send(text)
        assert await connection.recv() == text
    await connection.send(iter(["compressed ", "in ", "fragments"]))
    assert await connection.recv() == "compressed in fragments"
    await connection.close()
    record = await tunnel.events.record()
    assert 0 < record.bytes_in < len(text), "it was compressed on the way"


async def test_compression_that_one_end_does_not_want(stack: AsyncExitStack) -> None:
    tunnel = await start(stack, compression=None)
    connection = await dial(stack, tunnel, compression="deflate")
    assert "Sec-WebSocket-Extensions" not in connection.response.headers
    await connection.send("plain")
    assert await connection.recv() == "plain"


async def test_headers_of_the_handshake_pass_both_ways(stack: AsyncExitStack) -> None:
    seen: asyncio.Queue[Request] = asyncio.Queue()

    def answer(connection: Server, request: Request, response: Response) -> None:
        seen.put_nowait(request)
        response.headers["Set-Cookie"] = "a=1"
        response.headers["Set-Cookie"] = "b=2"
        response.headers["X-Answer"] = "yes"

    tunnel = await start(stack, process_response=answer)
    headers = {"Cookie": "session=1", "Authorization": "Bearer t", "X-Forwarded-For": "6.6.6.6"}
    connection = await dial(
        stack,
        tunnel,
        "/room/1?key=%2F",
        additional_headers=headers,
        origin="https://page.example",
        user_agent_header="t",
    )
    request = seen.get_nowait()
    assert request.path == "/room/1?key=%2F"
    assert request.headers["Host"] == tunnel.authority
    assert request.headers["Origin"] == "https://page.example"
    assert (request.headers["Cookie"], request.headers["Authorization"]) == ("session=1", "Bearer t")
    assert request.headers.get_all("X-Forwarded-For") == ["127.0.0.1"]
    assert connection.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert connection.response.headers["X-Answer"] == "yes"


@pytest.mark.parametrize("status", [401, 403, 404, 426, 429, 500, 503])
async def test_a_refused_handshake_keeps_status_headers_and_body(stack: AsyncExitStack, status: int) -> None:
    def refuse(connection: Server, request: Request) -> Response:
        response = connection.respond(status, f"refused with {status}\n")
        response.headers["WWW-Authenticate"] = 'Basic realm="x"'
        return response

    tunnel = await start(stack, process_request=refuse)
    with pytest.raises(InvalidStatus) as refusal:
        await dial(stack, tunnel)
    response = refusal.value.response
    assert (response.status_code, response.body) == (status, f"refused with {status}\n".encode())
    assert response.headers["WWW-Authenticate"] == 'Basic realm="x"'


async def test_the_body_of_a_refusal_costs_no_credit(stack: AsyncExitStack) -> None:
    """A handshake is no payload: a window smaller than what the backend says is enough."""

    def refuse(connection: Server, request: Request) -> Response:
        return connection.respond(403, "x" * 10_000)

    backend = await start_backend(stack, echo, process_request=refuse)
    small = {"initial_window": 1024}
    tunnel = await start_tunnel(stack, backend, server=small, client=small)
    with pytest.raises(InvalidStatus) as refusal:
        await dial(stack, tunnel)
    assert (refusal.value.response.status_code, refusal.value.response.body) == (403, b"x" * 10_000)


async def test_no_backend_is_502_at_the_handshake(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "http://127.0.0.1:1")
    with pytest.raises(InvalidStatus) as refusal:
        await dial(stack, tunnel)
    assert refusal.value.response.status_code == 502


async def test_no_route_is_404_at_the_handshake(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "/ws=http://127.0.0.1:1")
    with pytest.raises(InvalidStatus) as refusal:
        await dial(stack, tunnel, "/other")
    assert refusal.value.response.status_code == 404
    assert refusal.value.response.body
    assert b"/other" in refusal.value.response.body


async def test_a_message_limit_closes_with_1009_on_both_sides(stack: AsyncExitStack) -> None:
    ended: asyncio.Queue[int | None] = asyncio.Queue()

    async def watch(connection: Server) -> None:
        await connection.wait_closed()
        ended.put_nowait(connection.close_code)

    tunnel = await start_tunnel(stack, await start_backend(stack, watch), server={"ws_message_bytes": 1000})
    connection = await dial(stack, tunnel)
    await connection.send(b"x" * 1000)
    await connection.send(iter([b"x" * 500, b"y" * 501]))
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), WAIT_S)
    assert connection.close_code == 1009
    async with asyncio.timeout(WAIT_S):
        assert await ended.get() == 1006, "an abnormal end for the backend"


async def test_aiohttp_as_client(stack: AsyncExitStack) -> None:
    """A second make of client: its own masking, compression and closing."""
    tunnel = await start(stack, compression="deflate")
    session = await stack.enter_async_context(aiohttp.ClientSession())
    async with session.ws_connect(tunnel.ws_url, compress=15, max_msg_size=0) as connection:
        assert connection.compress
        for size in (0, 5, 70_000, 1_000_000):
            await connection.send_str("ä" * size)
            assert (await connection.receive_str(timeout=WAIT_S)) == "ä" * size
            await connection.send_bytes(bytes(size))
            assert (await connection.receive_bytes(timeout=WAIT_S)) == bytes(size)
        await connection.ping(b"p")
        await connection.close(code=4001, message=b"done")
        assert connection.close_code == 4001


async def test_a_conversation_in_each_direction_at_once(stack: AsyncExitStack) -> None:
    """Both sides talk without waiting for each other; each direction is in order and whole."""
    count = 2000

    async def talk(connection: Server | Client, mine: int, theirs: int) -> None:
        async def send() -> None:
            for number in range(count):
                await connection.send(random.Random(mine * count + number).randbytes(number % 700))

        sending = asyncio.ensure_future(send())
        for number in range(count):
            assert await connection.recv() == random.Random(theirs * count + number).randbytes(number % 700)
        await sending

    done: asyncio.Queue[str] = asyncio.Queue()

    async def backend(connection: Server) -> None:
        await talk(connection, 1, 2)
        done.put_nowait("backend")

    connection = await dial(stack, await start(stack, backend))
    async with asyncio.timeout(WAIT_S):
        await talk(connection, 2, 1)
        assert await done.get() == "backend"
