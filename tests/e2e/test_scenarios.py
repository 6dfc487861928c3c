"""The worked scenarios of the design, one by one: what peers do, and the TunnelMessages that this makes."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from websockets import Subprotocol

from fasttunnel.wire import tunnel_pb2 as wire
from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.site import start_site
from tests.support.tap import TappedTunnel, kinds, payload, start_tapped
from tests.support.tunnel import WAIT_S

UP, DOWN = wire.CLIENT_TO_SERVER, wire.SERVER_TO_CLIENT
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Socket = websockets.asyncio.client.ClientConnection


@pytest.fixture(autouse=True)
async def bounded() -> Any:
    async with asyncio.timeout(60):
        yield


async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def start_echo(stack: AsyncExitStack) -> str:
    server = await websockets.asyncio.server.serve(echo, "127.0.0.1", 0, subprotocols=[Subprotocol("chat")])
    await stack.enter_async_context(server)
    return f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def open_socket(stack: AsyncExitStack, tunnel: TappedTunnel, path: str = "/") -> Socket:
    connecting = websockets.asyncio.client.connect(
        tunnel.ws_url + path,
        compression=None,
        open_timeout=WAIT_S,
        close_timeout=WAIT_S,
        subprotocols=[Subprotocol("chat")],
    )
    return await stack.enter_async_context(connecting)


def way(messages: list[TunnelMessage], direction: int) -> list[Any]:
    """The payloads that go one way."""
    return [payload(message) for message in messages if message.direction == direction]


def envelopes_agree(messages: list[TunnelMessage], request_id: str, protocol: int) -> None:
    """Each message says whose it is."""
    for message in messages:
        assert message.request_id == request_id
        assert message.protocol_type == protocol
        assert len(message.request_id) <= 16


def chunks_count(chunks: list[Any]) -> None:
    """first on the first, last on the last, numbered from 0 without a gap."""
    assert [chunk.is_first_chunk for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert [chunk.is_last_chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.sequence_number for chunk in chunks] == list(range(len(chunks)))


def notes(chunks: list[Any]) -> list[Any]:
    """The messages in chunks of a call: one each, without the prefix."""
    assert not any(chunk.more or chunk.compressed for chunk in chunks)
    return [Note.FromString(chunk.body) for chunk in chunks if chunk.HasField("body")]


def call_is_right(messages: list[TunnelMessage], method: str, asked: list[Any], answered: list[Any]) -> None:
    """The chunks of a whole call that ended with OK."""
    envelopes_agree(messages, messages[0].request_id, wire.GRPC)
    up, down = way(messages, UP), way(messages, DOWN)
    chunks_count(up)
    chunks_count(down)
    assert (up[0].service, up[0].method) == ("fasttunnel.test.Echo", method)
    assert not any(chunk.service or chunk.method or chunk.metadata for chunk in up[1:])
    assert (notes(up), notes(down)) == (asked, answered)
    assert not any(chunk.initial_metadata for chunk in down[1:])
    assert not any(chunk.status_code or chunk.trailing_metadata for chunk in down[:-1])
    assert down[-1].status_code == 0
    assert {chunk.grpc_stream_id for chunk in up} == {up[0].grpc_stream_id}
    assert up[0].grpc_stream_id % 2 == 1  # a client's stream, RFC 9113 5.1.1


# -- WebSocket


async def test_the_life_of_a_websocket(stack: AsyncExitStack) -> None:
    """Handshake, text, ping, binary, close: one request_id throughout, one message for each frame."""
    tunnel = await start_tapped(stack, await start_echo(stack))
    socket = await open_socket(stack, tunnel, "/room?name=x")
    await socket.send("hello")
    assert await socket.recv() == "hello"
    await (await socket.ping(b"there?"))
    await socket.send(b"\x00\xff")
    assert await socket.recv() == b"\x00\xff"
    await socket.close(4000, "enough")
    await tunnel.until_idle()
    await tunnel.both_agree()

    ((request_id, messages),) = tunnel.server_tap.requests().items()
    assert request_id.startswith("ws-")
    envelopes_agree(messages, request_id, wire.WEBSOCKET)
    assert kinds(messages) == ["ws_request", "ws_response"] + ["ws_frame"] * 8
    asked, answered = payload(messages[0]), payload(messages[1])
    assert messages[0].direction == UP
    assert (asked.url, asked.host, asked.subprotocol) == ("/room?name=x", tunnel.authority, "chat")
    assert messages[1].direction == DOWN
    assert (answered.accepted, answered.status_code, answered.subprotocol) == (True, 101, "chat")

    frames = [payload(message) for message in messages[2:]]
    assert [(frame.opcode, frame.payload) for frame in frames if frame.frame_direction == UP] == [
        (TEXT, b"hello"),
        (PING, b"there?"),
        (BINARY, b"\x00\xff"),
        (CLOSE, b"\x0f\xa0enough"),
    ]
    assert [(frame.opcode, frame.payload) for frame in frames if frame.frame_direction == DOWN] == [
        (TEXT, b"hello"),
        (PONG, b"there?"),
        (BINARY, b"\x00\xff"),
        (CLOSE, b"\x0f\xa0enough"),
    ]
    for message, frame in zip(messages[2:], frames, strict=True):
        assert frame.connection_id == request_id
        assert frame.frame_direction == message.direction
        assert (frame.fin, frame.more, frame.rsv) == (True, False, 0)
        assert frame.masked == (frame.frame_direction == UP)  # as it was on its socket; the payload is in clear


async def test_three_websockets_on_one_tunnel(stack: AsyncExitStack) -> None:
    """Their frames are interleaved as they were sent, and told apart by request_id alone."""
    tunnel = await start_tapped(stack, await start_echo(stack))
    sockets = [await open_socket(stack, tunnel) for _ in range(3)]
    sent = [(turn, number) for turn in range(4) for number in (0, 2, 1)]
    for turn, number in sent:
        await sockets[number].send(f"{turn} of {number}")
        assert await sockets[number].recv() == f"{turn} of {number}"
    for socket in sockets:
        await socket.close()
    await tunnel.until_idle()
    await tunnel.both_agree()

    requests = tunnel.server_tap.requests()
    ids = list(requests)  # in the order in which they were opened
    assert len(ids) == 3
    for number, request_id in enumerate(ids):
        envelopes_agree(requests[request_id], request_id, wire.WEBSOCKET)
        texts = [frame.payload.decode() for frame in way(requests[request_id], UP)[1:-1]]
        assert texts == [f"{turn} of {number}" for turn in range(4)]
    frames = [m.ws_frame for m in tunnel.client_tap.received if m.HasField("ws_frame") and m.ws_frame.opcode == TEXT]
    assert [ids.index(frame.connection_id) for frame in frames] == [number for _, number in sent]


async def test_a_large_frame_travels_in_fragments(stack: AsyncExitStack) -> None:
    """The first says how long the whole is, all but the last that there is more, and opcode and id stay the same."""
    tunnel = await start_tapped(stack, await start_echo(stack), max_fragment=16_384)
    socket = await open_socket(stack, tunnel)
    await socket.send(bytes(range(256)) * 200)  # 51,200 bytes
    assert len(await socket.recv()) == 51_200
    await socket.close()
    await tunnel.until_idle()
    await tunnel.both_agree()

    ((_, messages),) = tunnel.server_tap.requests().items()
    for direction in (UP, DOWN):
        fragments = [f for f in way(messages, direction) if isinstance(f, wire.WebSocketFrame) and f.opcode == BINARY]
        assert len(fragments) >= 4
        assert all(len(fragment.payload) <= 16_384 for fragment in fragments)
        assert [fragment.payload_length for fragment in fragments] == [51_200] + [0] * (len(fragments) - 1)
        assert [fragment.more for fragment in fragments] == [True] * (len(fragments) - 1) + [False]
        assert all(fragment.fin for fragment in fragments)
        assert b"".join(fragment.payload for fragment in fragments) == bytes(range(256)) * 200


# -- gRPC


async def test_a_unary_call(stack: AsyncExitStack) -> None:
    tunnel = await start_tapped(stack, await start_grpc(stack))
    stub = await open_channel(stack, tunnel.authority)
    note = Note(number=7, data=b"seven")
    assert await stub.Unary(note, metadata=[("x-mark", "here")]) == note
    await tunnel.until_idle()
    await tunnel.both_agree()
    ((_, messages),) = tunnel.server_tap.requests().items()
    call_is_right(messages, "Unary", [note], [note])
    first = payload(messages[0])
    assert first.authority == tunnel.authority
    assert ("x-mark", b"here") in [(header.name, header.value) for header in first.metadata]


async def test_server_streaming(stack: AsyncExitStack) -> None:
    tunnel = await start_tapped(stack, await start_grpc(stack))
    stub = await open_channel(stack, tunnel.authority)
    asked = Note(number=5, data=b"x")
    answered = [note async for note in stub.Down(asked)]
    assert [note.number for note in answered] == list(range(5))
    await tunnel.until_idle()
    await tunnel.both_agree()
    ((_, messages),) = tunnel.server_tap.requests().items()
    call_is_right(messages, "Down", [asked], answered)


async def test_client_streaming(stack: AsyncExitStack) -> None:
    tunnel = await start_tapped(stack, await start_grpc(stack))
    stub = await open_channel(stack, tunnel.authority)
    asked = [Note(number=number, data=b"ab") for number in range(6)]
    answer = await stub.Up(iter(asked))
    assert (answer.number, answer.data) == (6, b"ab" * 6)
    await tunnel.until_idle()
    await tunnel.both_agree()
    ((_, messages),) = tunnel.server_tap.requests().items()
    call_is_right(messages, "Up", asked, [answer])


async def test_bidirectional_streaming(stack: AsyncExitStack) -> None:
    """A conversation: each message passes before the next one is said, and nothing is held back until the end."""
    tunnel = await start_tapped(stack, await start_grpc(stack))
    stub = await open_channel(stack, tunnel.authority)
    call = stub.Talk()
    said = [Note(number=number) for number in range(4)]
    for note in said:
        await call.write(note)
        assert await call.read() == note
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await tunnel.until_idle()
    await tunnel.both_agree()
    ((_, messages),) = tunnel.server_tap.requests().items()
    call_is_right(messages, "Talk", said, said)
    spoken = [message.direction for message in messages if payload(message).HasField("body")]
    assert spoken == [UP, DOWN] * 4


async def test_several_calls_at_once(stack: AsyncExitStack) -> None:
    """Each keeps its own numbers, while all of them share the tunnel and the caller's connection."""
    meet = asyncio.Barrier(4)

    async def talk(requests: Notes, context: Context) -> Notes:
        async for request in requests:
            await meet.wait()  # none ends before all have begun
            yield request

    tunnel = await start_tapped(stack, await start_grpc(stack, Talk=talk))
    stub = await open_channel(stack, tunnel.authority)
    said = {number: [Note(number=number, data=bytes([turn])) for turn in range(3)] for number in range(4)}

    async def converse(number: int) -> None:
        call = stub.Talk()
        for note in said[number]:
            await call.write(note)
            assert await call.read() == note
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    await asyncio.gather(*(converse(number) for number in said))
    await tunnel.until_idle()
    await tunnel.both_agree()
    requests = tunnel.server_tap.requests()
    assert len(requests) == 4
    stream_ids = set()
    for messages in requests.values():
        up = way(messages, UP)
        number = notes(up)[0].number
        call_is_right(messages, "Talk", said[number], said[number])
        stream_ids.add(up[0].grpc_stream_id)
    assert len(stream_ids) == 4


# -- HTTP, and all together


async def test_an_http_exchange(stack: AsyncExitStack) -> None:
    tunnel = await start_tapped(stack, await start_site(stack))
    http = await stack.enter_async_context(aiohttp.ClientSession())
    body = b"x" * 200_000
    async with http.post(tunnel.url + "/echo?a=b", data=body) as answer:
        assert (answer.status, await answer.read()) == (200, body)
    await tunnel.until_idle()
    await tunnel.both_agree()
    ((request_id, messages),) = tunnel.server_tap.requests().items()
    envelopes_agree(messages, request_id, wire.HTTP)
    up, down = way(messages, UP), way(messages, DOWN)
    chunks_count(up)
    chunks_count(down)
    assert (up[0].method, up[0].url, up[0].host, up[0].scheme) == ("POST", "/echo?a=b", tunnel.authority, "http")
    assert down[0].status_code == 200
    assert not any(chunk.headers for chunk in up[1:] + down[1:])
    assert b"".join(chunk.body for chunk in up) == b"".join(chunk.body for chunk in down) == body
    assert max(len(chunk.body) for chunk in up + down) <= 65_536


async def test_http_grpc_and_websocket_together(stack: AsyncExitStack) -> None:
    """One tunnel carries all three at once; each message names its protocol and its request."""
    tunnel = await start_tapped(stack, await start_site(stack), await start_grpc(stack))
    http = await stack.enter_async_context(aiohttp.ClientSession())
    stub = await open_channel(stack, tunnel.authority)

    async def converse() -> None:
        socket = await http.ws_connect(tunnel.url + "/websocket", protocols=["echo"])
        for turn in range(5):
            await socket.send_str(f"turn {turn}")
            assert await socket.receive_str() == f"TURN {turn}"
        await socket.close()

    async def post() -> None:
        for turn in range(5):
            async with http.post(tunnel.url + "/echo", data=f"{turn}") as answer:
                assert await answer.text() == f"{turn}"

    async def count() -> None:
        assert len([note async for note in stub.Down(Note(number=5))]) == 5

    await asyncio.gather(converse(), post(), count(), converse(), count())
    await tunnel.until_idle()
    await tunnel.both_agree()
    requests = tunnel.server_tap.requests()
    protocols = [messages[0].protocol_type for messages in requests.values()]
    assert sorted(protocols) == [wire.HTTP] * 5 + [wire.GRPC] * 2 + [wire.WEBSOCKET] * 2
    for request_id, messages in requests.items():
        envelopes_agree(messages, request_id, messages[0].protocol_type)
        prefix = {wire.HTTP: "h-", wire.GRPC: "g-", wire.WEBSOCKET: "ws-"}[messages[0].protocol_type]
        assert request_id.startswith(prefix)
        if messages[0].protocol_type != wire.WEBSOCKET:
            chunks_count(way(messages, UP))
            chunks_count(way(messages, DOWN))


async def test_registration_and_goodbye(stack: AsyncExitStack) -> None:
    """What the two ends say to one another before the first request and after the last."""
    backend = await start_site(stack)
    tunnel = await start_tapped(stack, backend)
    http = await stack.enter_async_context(aiohttp.ClientSession())
    async with http.get(tunnel.url + "/fields") as answer:
        assert answer.status == 200
    await tunnel.client.stop()
    hello, welcome = tunnel.server_tap.passed[0], tunnel.server_tap.passed[1]
    assert (hello[0], welcome[0]) == (False, True)
    assert kinds([hello[1], welcome[1]]) == ["register", "registered"]
    assert hello[1].register.version == 1
    assert hello[1].register.routes[0].protocols == [wire.HTTP, wire.WEBSOCKET]
    assert welcome[1].registered.urls == [tunnel.url]
    assert welcome[1].registered.routes == hello[1].register.routes
    said = kinds(tunnel.client_tap.sent)
    last = said[said.index("go_away") :]
    assert last == ["go_away", "heartbeat"], "which the server answers once it knows"
    assert {message.protocol_type for message in tunnel.client_tap.sent[-2:]} == {wire.CONTROL}
