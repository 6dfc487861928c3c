"""A plain grpc.aio program as client of our server: it registers, and answers what the public asks.

Each test sees the TunnelMessages themselves: the wire contract, from outside.
"""

import asyncio
import itertools
import random
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

import fasttunnel
from fasttunnel.errors import ANSWERS, ResetCode
from fasttunnel.wire import tunnel_pb2 as wire
from tests.support.frames import BINARY, CLOSE, MASK, PING, TEXT, Frame, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Note, open_channel
from tests.support.raw import Peer, connect, request
from tests.support.stock import FRAGMENT, StockClient, dial, dial_and_register, fields, pairs, payload_of, register
from tests.support.tunnel import WAIT_S, eventually, start_server

UP, DOWN = wire.CLIENT_TO_SERVER, wire.SERVER_TO_CLIENT


class Stock:
    """A server of ours and a stock client that has registered everything."""

    def __init__(self, stack: AsyncExitStack, server: fasttunnel.Server, client: StockClient, registered: Any) -> None:
        self.stack = stack
        self.server = server
        self.client = client
        self.registered = registered

    async def public(self) -> Peer:
        return await connect(self.stack, *self.server.address)

    async def ask(self, data: bytes) -> tuple[Peer, Any]:
        """Send a request of the public; its connection, and the first message of the request."""
        public = await self.public()
        await public.send(data)
        return public, await self.client.next("http_request")

    def answer(self, request_id: str, **values: Any) -> None:
        """One chunk of an HTTP answer."""
        self.client.send(request_id, direction=DOWN, http_response=wire.HttpResponse(**values))

    async def upgrade(self) -> tuple[Peer, str]:
        """An established WebSocket and its request_id."""
        public = await self.public()
        await ask_upgrade(public)
        request_id = (await self.client.next("ws_request")).request_id
        self.client.send(request_id, ws_response=wire.WebSocketResponse(status_code=101, accepted=True))
        await expect_upgrade(public)
        return public, request_id

    def send_frame(self, request_id: str, opcode: int, payload: bytes, **values: Any) -> None:
        values = {"fin": True, "frame_direction": DOWN, **values}
        ws_frame = wire.WebSocketFrame(connection_id=request_id, opcode=opcode, payload=payload, **values)
        self.client.send(request_id, direction=DOWN, ws_frame=ws_frame)

    def reset(self, request_id: str, code: int, message: str = "") -> None:
        self.client.send(request_id, reset=wire.Reset(code=code, message=message))


@pytest.fixture
async def stock(stack: AsyncExitStack) -> Stock:
    server = await start_server(stack)
    return Stock(stack, server, *await dial_and_register(stack, server.tunnel))


# -- registering


async def test_registered_says_what_was_agreed(stack: AsyncExitStack) -> None:
    server = await start_server(stack, initial_window=100_000, max_fragment=5000, heartbeat_interval_s=7)
    route = wire.Route(host="A.Example.", path_prefix="/x/", protocols=[wire.HTTP])
    _, registered = await dial_and_register(stack, server.tunnel, route, wire.Route(grpc_service="p.S"))
    assert registered.session_id
    assert registered.client_id
    assert [(route.host, route.path_prefix, route.grpc_service) for route in registered.routes] == [
        ("a.example", "/x", ""),
        ("", "", "p.S"),
    ]
    port = server.address[1]
    assert list(registered.urls) == [f"http://a.example:{port}/x", f"http://127.0.0.1:{port}/p.S"]
    assert (registered.initial_window, registered.max_fragment) == (100_000, 5000)
    assert registered.heartbeat_interval_ms == 7000
    assert registered.server_version == fasttunnel.__version__


async def refusal(client: StockClient) -> tuple[grpc.StatusCode, str]:
    """How the call has ended."""
    async with asyncio.timeout(WAIT_S):
        return await client.call.code(), await client.call.details()


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_a_bad_token_is_unauthenticated(stack: AsyncExitStack, token: str | None) -> None:
    server = await start_server(stack, token="right")
    client = await dial(stack, server.tunnel, token)
    code, details = await refusal(client)
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert "token" in details


async def test_the_right_token(stack: AsyncExitStack) -> None:
    server = await start_server(stack, token="right")
    client = await dial(stack, server.tunnel, "right")
    client.send(register=register())
    assert (await client.next("registered")).registered.session_id


@pytest.mark.parametrize(
    "bad",
    [
        wire.Register(version=1),
        wire.Register(version=99, routes=[wire.Route()]),
        wire.Register(version=1, routes=[wire.Route(host="a b")]),
        wire.Register(version=1, routes=[wire.Route(path_prefix="no-slash")]),
        wire.Register(version=1, routes=[wire.Route()] * 1001),
    ],
)
async def test_a_malformed_register_is_an_invalid_argument(stack: AsyncExitStack, bad: Any) -> None:
    server = await start_server(stack)
    client = await dial(stack, server.tunnel)
    client.send(register=bad)
    assert (await refusal(client))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert server.routes == []


async def test_the_first_message_has_to_be_register(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    client = await dial(stack, server.tunnel)
    client.send(heartbeat=wire.Heartbeat(nonce=1))
    assert (await refusal(client))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_second_register_is_refused(stock: Stock) -> None:
    async with asyncio.timeout(WAIT_S):
        await stock.client.heartbeats.get()  # grpc.aio reports INTERNAL if the call ends while the answer is written
    stock.client.send(register=register())
    assert (await refusal(stock.client))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_exclusive_route_already_exists(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    await dial_and_register(stack, server.tunnel, wire.Route(host="a.example", exclusive=True))
    client = await dial(stack, server.tunnel)
    client.send(register=register(wire.Route(host="a.example")))
    assert (await refusal(client))[0] == grpc.StatusCode.ALREADY_EXISTS


async def test_another_method_is_unimplemented(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    stub = await open_channel(stack, server.tunnel)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note())
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_server_that_stops_says_go_away_and_unavailable(stock: Stock) -> None:
    # Its answer to the first heartbeat has gone: where a write meets the end of a call, grpc.aio calls that INTERNAL.
    await eventually(lambda: stock.server.status()["links"][0]["round_trip_s"] is not None)
    stopping = asyncio.ensure_future(stock.server.stop(5))
    go_away = (await stock.client.next("go_away")).go_away
    assert go_away.reason
    assert go_away.grace_ms == 5000
    assert (await refusal(stock.client))[0] == grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_heartbeats_are_echoed(stack: AsyncExitStack) -> None:
    server = await start_server(stack, heartbeat_interval_s=0.2)
    client, _ = await dial_and_register(stack, server.tunnel)
    async with asyncio.timeout(WAIT_S):
        nonces = [(await client.heartbeats.get()).heartbeat.nonce for _ in range(3)]
        assert len(set(nonces)) == 3
        client.send(heartbeat=wire.Heartbeat(nonce=77))
        while not (beat := await client.heartbeats.get()).heartbeat.reply:
            pass
    assert beat.heartbeat.nonce == 77
    await eventually(lambda: server.status()["links"][0]["round_trip_s"] is not None)


# -- HTTP


async def test_a_get_is_one_message(stock: Stock) -> None:
    public, message = await stock.ask(request("GET", "/a%20b?c=d", "X-One: 1", "X-One: 2", "Accept: */*"))
    assert 0 < len(message.request_id) <= 16
    assert (message.direction, message.protocol_type) == (UP, wire.HTTP)
    got = message.http_request
    assert (got.method, got.url, got.host, got.scheme) == ("GET", "/a%20b?c=d", "public.example", "http")
    assert (got.is_first_chunk, got.is_last_chunk, got.sequence_number, got.body) == (True, True, 0, b"")
    headers = pairs(got.headers)
    assert [value for name, value in headers if name == "x-one"] == ["1", "2"]
    assert ("accept", "*/*") in headers
    assert "host" not in dict(headers)
    assert dict(headers)["x-forwarded-for"] == "127.0.0.1"

    stock.answer(
        message.request_id,
        status_code=200,
        headers=fields(("Set-Cookie", "a"), ("Set-Cookie", "b")),
        body=b"whole",
        is_first_chunk=True,
        is_last_chunk=True,
    )
    answer = await public.answer()
    assert (answer.status, answer.head.all("set-cookie"), answer.body) == (200, ["a", "b"], b"whole")


async def test_an_upload_is_numbered_chunks(stock: Stock) -> None:
    body = random.Random(1).randbytes(500_000)
    public, message = await stock.ask(request("PUT", "/", body=body))
    request_id, received, number = message.request_id, bytearray(), 0
    while True:
        chunk = message.http_request
        assert message.request_id == request_id
        assert (chunk.sequence_number, chunk.is_first_chunk) == (number, number == 0)
        assert len(chunk.body) <= FRAGMENT
        received += chunk.body
        number += 1
        if chunk.is_last_chunk:
            break
        message = await stock.client.next("http_request")
    assert bytes(received) == body
    assert number > len(body) // FRAGMENT
    stock.answer(request_id, status_code=204, is_first_chunk=True, is_last_chunk=True)
    assert (await public.answer()).status == 204


async def test_chunks_and_trailers_of_a_request(stock: Stock) -> None:
    public, first = await stock.ask(request("POST", "/", "Transfer-Encoding: chunked"))
    assert (first.http_request.is_first_chunk, first.http_request.is_last_chunk) == (True, False)
    await public.send(b"5\r\nhello\r\n")
    assert (await stock.client.next("http_request")).http_request.body == b"hello"
    await public.send(b"0\r\nX-Sum: 5\r\n\r\n")
    last = (await stock.client.next("http_request")).http_request
    assert (last.is_last_chunk, last.sequence_number, last.body) == (True, 2, b"")
    assert pairs(last.trailers) == [("x-sum", "5")]
    stock.answer(first.request_id, status_code=200, body=b"ok", is_first_chunk=True, is_last_chunk=True)
    assert (await public.answer()).body == b"ok"


async def test_an_answer_in_parts(stock: Stock) -> None:
    """Interim answers are not the first chunk, but are counted."""
    public, message = await stock.ask(request("GET", "/"))
    request_id = message.request_id
    hints = fields(("Link", "</a>"))
    stock.answer(request_id, status_code=103, informational=True, headers=hints, sequence_number=0)
    head = await public.head()
    assert (head.status, head.get("link")) == (103, "</a>")
    stock.answer(request_id, status_code=200, is_first_chunk=True, sequence_number=1)
    head = await public.head()
    assert (head.status, head.get("transfer-encoding")) == (200, "chunked")
    for number in range(2, 10):
        stock.answer(request_id, body=b"part %d" % number, sequence_number=number)
        assert await public.chunk() == b"part %d" % number
    stock.answer(request_id, is_last_chunk=True, sequence_number=10, trailers=fields(("X-T", "1")))
    assert await public.chunk() == b""
    assert await public.trailers() == [("x-t", "1")]


async def test_a_whole_answer_with_trailers_in_one_message(stock: Stock) -> None:
    public, message = await stock.ask(request("GET", "/", "TE: trailers"))
    whole = {"status_code": 200, "body": b"body", "is_first_chunk": True, "is_last_chunk": True}
    stock.answer(message.request_id, trailers=fields(("X-T", "1")), **whole)
    answer = await public.answer()
    assert (answer.body, answer.trailers) == (b"body", [("x-t", "1")])


async def test_an_early_answer_ends_the_request_with_no_error(stock: Stock) -> None:
    """Life of a request: the end that has sent its last chunk resets what still comes."""
    public, message = await stock.ask(request("POST", "/", "Content-Length: 1000000"))
    stock.answer(message.request_id, status_code=403, body=b"no", is_first_chunk=True, is_last_chunk=True)
    stock.reset(message.request_id, 0)
    answer = await public.answer()
    assert (answer.status, answer.body) == (403, b"no")
    await eventually(lambda: stock.server.status()["active_requests"] == 0)


async def test_a_public_that_goes_is_a_reset(stock: Stock) -> None:
    public, message = await stock.ask(request("POST", "/", "Content-Length: 10"))
    public.drop()
    reset = await stock.client.next("reset")
    assert (reset.request_id, reset.reset.code) == (message.request_id, wire.CANCELLED)


async def test_the_trace_of_a_request(stock: Stock) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    public, message = await stock.ask(request("GET", "/", f"traceparent: 00-{trace}-00f067aa0ba902b7-01"))
    assert message.trace_id == trace
    stock.answer(message.request_id, status_code=200, is_first_chunk=True, is_last_chunk=True)
    assert (await public.answer()).status == 200


# -- WebSocket


async def test_a_websocket_conversation(stock: Stock) -> None:
    public = await stock.public()
    await ask_upgrade(public, "/chat?x", "Sec-WebSocket-Protocol: a, b", "Origin: http://o")
    message = await stock.client.next("ws_request")
    request_id = message.request_id
    asked = message.ws_request
    assert (message.direction, message.protocol_type) == (UP, wire.WEBSOCKET)
    assert (asked.url, asked.host, asked.subprotocol) == ("/chat?x", "public.example", "a, b")
    assert ("origin", "http://o") in pairs(asked.headers)
    assert not {name for name, _ in pairs(asked.headers)} & {"sec-websocket-key", "upgrade", "connection"}
    stock.client.send(
        request_id,
        direction=DOWN,
        ws_response=wire.WebSocketResponse(status_code=101, accepted=True, subprotocol="b", headers=fields(("X", "y"))),
    )
    head = await expect_upgrade(public)
    assert (head.get("sec-websocket-protocol"), head.get("x")) == ("b", "y")

    for opcode, payload, fin in ((TEXT, b"hel", False), (PING, b"p", True), (0, b"lo", True), (BINARY, b"", True)):
        await public.send(frame(opcode, payload, fin=fin, mask=MASK))
        message = await stock.client.next("ws_frame")
        got = message.ws_frame
        assert (message.request_id, got.connection_id) == (request_id, request_id)
        assert (got.opcode, got.payload, got.fin, got.masked, got.rsv) == (opcode, payload, fin, True, 0)
        assert (got.frame_direction, got.more) == (UP, False)
        stock.send_frame(request_id, opcode, payload, fin=fin)
        assert await read_frame(public) == Frame(opcode, payload, fin)

    stock.send_frame(request_id, CLOSE, b"\x03\xe8")
    assert (await read_frame(public)).payload == b"\x03\xe8"
    await public.send(frame(CLOSE, b"\x03\xe8", mask=MASK))
    assert (await stock.client.next("ws_frame")).ws_frame.opcode == CLOSE
    assert await public.ended()
    assert stock.server.status()["active_requests"] == 0


async def test_a_large_frame_is_fragments(stock: Stock) -> None:
    """payload_length on the first, `more` on all but the last, in both directions."""
    public, request_id = await stock.upgrade()
    payload = random.Random(2).randbytes(200_000)
    await public.send(frame(BINARY, payload, mask=MASK))
    received = b""
    while True:
        got = (await stock.client.next("ws_frame")).ws_frame
        assert got.payload_length == (0 if received else len(payload))
        assert 0 < len(got.payload) <= FRAGMENT
        received += got.payload
        assert got.more == (len(received) < len(payload))
        if not got.more:
            break
    assert received == payload

    stock.send_frame(request_id, BINARY, payload[:60_000], payload_length=len(payload), more=True)
    assert await public.exactly(10) == b"\x82\x7f" + len(payload).to_bytes(8, "big"), "the header comes at once"
    assert await public.exactly(60_000) == payload[:60_000]
    stock.send_frame(request_id, BINARY, payload[60_000:120_000], more=True)
    assert await public.exactly(60_000) == payload[60_000:120_000]
    stock.send_frame(request_id, BINARY, payload[120_000:])
    assert await public.exactly(80_000) == payload[120_000:]


async def test_a_frame_below_the_fragment_limit_is_one_message(stock: Stock) -> None:
    """In however many reads it comes; a larger one waits for whole fragments."""
    public, _ = await stock.upgrade()
    payload = random.Random(9).randbytes(100_000)
    for size in (1000, 60_000, 100_000):
        data = frame(BINARY, payload[:size], mask=MASK)
        for part in (data[:3], data[3:500], data[500:900], data[900:]):
            await public.send(part)
            await asyncio.sleep(0.01)  # no event tells that half a frame was read
        sizes = []
        while sum(sizes) < size:
            sizes.append(len((await stock.client.next("ws_frame")).ws_frame.payload))
        assert sizes == ([size] if size < FRAGMENT else [FRAGMENT, size - FRAGMENT])


async def test_a_refused_handshake(stock: Stock) -> None:
    public = await stock.public()
    await ask_upgrade(public)
    request_id = (await stock.client.next("ws_request")).request_id
    refusal = wire.WebSocketResponse(status_code=401, headers=fields(("WWW-Authenticate", "Basic")), body=b"who?")
    stock.client.send(request_id, ws_response=refusal)
    answer = await public.answer()
    assert (answer.status, answer.head.get("www-authenticate"), answer.body) == (401, "Basic", b"who?")
    assert stock.server.status()["active_requests"] == 0


# -- gRPC


def note(message: Any) -> Any:
    return Note.FromString(message.body)


async def test_a_unary_call_is_one_message_each_way(stock: Stock) -> None:
    stub = await open_channel(stock.stack, stock.server.public_url.removeprefix("http://"))
    call = stub.Unary(Note(number=7), metadata=(("x-text", "1"), ("x-data-bin", b"\x00\xff")))
    asking = asyncio.ensure_future(_result(call))
    message = await stock.client.next("grpc_request")
    got = message.grpc_request
    assert (message.direction, message.protocol_type) == (UP, wire.GRPC)
    assert (got.service, got.method) == ("fasttunnel.test.Echo", "Unary")
    assert (got.is_first_chunk, got.is_last_chunk, got.sequence_number, got.more) == (True, True, 0, False)
    assert got.grpc_stream_id % 2 == 1, "the public's HTTP/2 stream"
    assert note(got) == Note(number=7)
    metadata = dict(pairs(got.metadata))
    assert (metadata["x-text"], metadata["x-data-bin"].rstrip("=")) == ("1", "AP8")
    stock.client.send(
        message.request_id,
        grpc_response=wire.GrpcResponse(
            body=Note(number=8).SerializeToString(),
            is_first_chunk=True,
            is_last_chunk=True,
            initial_metadata=fields(("x-initial", "a")),
            trailing_metadata=fields(("x-trailing", "b")),
        ),
    )
    assert await asking == Note(number=8)
    assert ("x-initial", "a") in list(await call.initial_metadata())
    assert ("x-trailing", "b") in list(await call.trailing_metadata())


async def _result(call: Any) -> Any:
    return await call


async def test_a_bidirectional_call(stock: Stock) -> None:
    stub = await open_channel(stock.stack, stock.server.public_url.removeprefix("http://"))
    call = stub.Talk()
    for number in range(5):
        await call.write(Note(number=number))
        message = await stock.client.next("grpc_request")
        while not message.grpc_request.HasField("body"):  # the metadata may come first, by itself
            assert (number, message.grpc_request.sequence_number) == (0, 0)
            message = await stock.client.next("grpc_request")
        assert note(message.grpc_request) == Note(number=number)
        body = Note(number=-number).SerializeToString()
        answer = wire.GrpcResponse(body=body, is_first_chunk=number == 0, sequence_number=number)
        stock.client.send(message.request_id, grpc_response=answer)
        assert (await call.read()).number == -number
    await call.done_writing()
    last = (await stock.client.next("grpc_request")).grpc_request
    assert (last.is_last_chunk, last.HasField("body")) == (True, False), "a half-close is not an empty message"
    stock.client.send(
        message.request_id,
        grpc_response=wire.GrpcResponse(
            is_last_chunk=True, sequence_number=5, status_code=9, status_message="100 % ü", status_details=b"\x00\xfe"
        ),
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "100 % ü")
    assert dict(failure.value.trailing_metadata())["grpc-status-details-bin"] == b"\x00\xfe"


async def test_a_large_grpc_message_is_chunks(stock: Stock) -> None:
    stub = await open_channel(stock.stack, stock.server.public_url.removeprefix("http://"))
    sent = Note(number=1, data=random.Random(3).randbytes(300_000))
    asking = asyncio.ensure_future(_result(stub.Unary(sent)))
    received, number = b"", 0
    while True:
        message = await stock.client.next("grpc_request")
        chunk = message.grpc_request
        assert chunk.sequence_number == number
        number += 1
        if chunk.HasField("body"):
            assert chunk.message_length == (0 if received else sent.ByteSize())
            assert len(chunk.body) <= FRAGMENT
            received += chunk.body
            assert chunk.more == (len(received) < sent.ByteSize())
        if chunk.is_last_chunk:
            break
    assert Note.FromString(received) == sent
    for sequence, start in enumerate(range(0, len(received), 50_000)):
        part = received[start : start + 50_000]
        more = start + len(part) < len(received)
        answer = wire.GrpcResponse(
            body=part,
            more=more,
            message_length=len(received) if start == 0 else 0,
            is_first_chunk=start == 0,
            is_last_chunk=not more,
            sequence_number=sequence,
        )
        stock.client.send(message.request_id, grpc_response=answer)
    assert await asking == sent


async def test_a_cancelled_call_is_a_reset(stock: Stock) -> None:
    stub = await open_channel(stock.stack, stock.server.public_url.removeprefix("http://"))
    call = stub.Talk()
    await call.write(Note())
    message = await stock.client.next("grpc_request")
    if not message.grpc_request.HasField("body"):
        await stock.client.next("grpc_request")
    call.cancel()
    reset = await stock.client.next("reset")
    assert (reset.request_id, reset.reset.code) == (message.request_id, wire.CANCELLED)


# -- resets of the client, and what the public sees (wire contract, the table of codes)

CODES = [code for code in ResetCode if code not in (ResetCode.NO_ERROR, ResetCode.CANCELLED)]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_a_reset_of_an_http_request(stock: Stock, code: ResetCode) -> None:
    public, message = await stock.ask(request("GET", "/"))
    stock.reset(message.request_id, code, "in the words of the client")
    answer = await public.answer()
    assert answer.status == ANSWERS[code].http
    assert b"in the words of the client" in answer.body
    assert (answer.head.get("retry-after") is not None) == (code == ResetCode.OVERLOADED)


async def test_a_cancelled_http_request_closes_the_connection(stock: Stock) -> None:
    public, message = await stock.ask(request("GET", "/"))
    stock.reset(message.request_id, ResetCode.CANCELLED)
    assert await public.ended()


@pytest.mark.parametrize("code", [ResetCode.CANCELLED, *CODES], ids=lambda code: code.name)
async def test_a_reset_of_a_call(stock: Stock, code: ResetCode) -> None:
    stub = await open_channel(stock.stack, stock.server.public_url.removeprefix("http://"))
    asking = asyncio.ensure_future(_result(stub.Unary(Note())))
    message = await stock.client.next("grpc_request")
    stock.reset(message.request_id, code, "grüße")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await asking
    assert failure.value.code().value[0] == ANSWERS[code].grpc
    assert failure.value.details() == "grüße"


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_a_reset_of_a_handshake(stock: Stock, code: ResetCode) -> None:
    public = await stock.public()
    await ask_upgrade(public)
    stock.reset((await stock.client.next("ws_request")).request_id, code)
    assert (await public.answer()).status == ANSWERS[code].http


@pytest.mark.parametrize("code", [ResetCode.CANCELLED, *CODES], ids=lambda code: code.name)
async def test_a_reset_of_a_websocket(stock: Stock, code: ResetCode) -> None:
    public, request_id = await stock.upgrade()
    stock.reset(request_id, code, "why")
    last = await read_frame(public)
    assert (last.opcode, int.from_bytes(last.payload[:2], "big")) == (CLOSE, ANSWERS[code].ws_close)
    assert await public.ended()


# -- windows


async def test_the_server_keeps_to_the_windows_of_a_client(stack: AsyncExitStack) -> None:
    """It sends what was granted, to the byte, and no more until more is granted; chunks without payload are free."""
    server = await start_server(stack)
    client, registered = await dial_and_register(stack, server.tunnel, initial_window=1000)
    client.grant = False
    stock = Stock(stack, server, client, registered)
    body = random.Random(4).randbytes(10_000)
    public, message = await stock.ask(request("POST", "/", body=body))
    beside, other = await stock.ask(request("GET", "/beside"))  # another request is not held up, and shows the time
    received = message.http_request.body
    assert len(received) == 1000
    for grant in (1, 10, 500, 4000, 100_000):
        client.send(message.request_id, window_update=wire.WindowUpdate(bytes=grant))
        expected = min(len(received) + grant, len(body))
        while len(received) < expected:
            received += (await client.next("http_request")).http_request.body
        assert len(received) == expected
    assert received == body
    for request_id, peer in ((message.request_id, public), (other.request_id, beside)):
        stock.answer(request_id, status_code=200, is_first_chunk=True, is_last_chunk=True)
        assert (await peer.answer()).status == 200


async def test_the_server_grants_what_the_public_has_taken(stack: AsyncExitStack) -> None:
    window = 262_144
    server = await start_server(stack, initial_window=window, max_window=window)  # it does not grow on a slow machine
    stock = Stock(stack, server, *await dial_and_register(stack, server.tunnel))
    public, message = await stock.ask(request("GET", "/"))
    stock.answer(message.request_id, status_code=200, is_first_chunk=True)
    assert (await public.head()).status == 200
    sent = 0
    for number in range(1, 41):
        stock.answer(message.request_id, body=b"x" * 50_000, sequence_number=number)
        sent += 50_000
        assert await public.chunks(50_000) == b"x" * 50_000
        # At the latest when half a window has been taken.
        await eventually(
            lambda sent=sent: stock.client.granted.get(message.request_id, 0) >= sent - window // 2 - 50_000
        )
        assert stock.client.granted.get(message.request_id, 0) <= sent
    stock.answer(message.request_id, is_last_chunk=True, sequence_number=41)
    assert await public.chunk() == b""


async def test_a_client_beyond_the_window_is_reset(stack: AsyncExitStack) -> None:
    """For this request only."""
    server = await start_server(stack, initial_window=10_000)
    stock = Stock(stack, server, *await dial_and_register(stack, server.tunnel))
    public, message = await stock.ask(request("GET", "/"))
    beside, other = await stock.ask(request("GET", "/beside"))
    stock.answer(message.request_id, status_code=200, body=b"x" * 10_001, is_first_chunk=True)
    assert (await public.answer()).status == 502
    reset = await stock.client.next("reset")
    assert (reset.request_id, reset.reset.code) == (message.request_id, wire.FLOW_CONTROL_ERROR)
    stock.answer(other.request_id, status_code=200, body=b"x" * 10_000, is_first_chunk=True, is_last_chunk=True)
    assert len((await beside.answer()).body) == 10_000


@pytest.mark.parametrize("grant", [2**31, 2**63])
async def test_a_window_above_the_limit_is_reset(stock: Stock, grant: int) -> None:
    public, message = await stock.ask(request("GET", "/"))
    stock.client.send(message.request_id, window_update=wire.WindowUpdate(bytes=grant))
    reset = await stock.client.next("reset")
    assert (reset.request_id, reset.reset.code) == (message.request_id, wire.FLOW_CONTROL_ERROR)
    assert (await public.answer()).status == 502


# -- a client that breaks the contract: one request ends, or the tunnel, never the server


@pytest.mark.parametrize(
    "bad",
    [
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, sequence_number=1)},
        {"http_response": wire.HttpResponse(body=b"x")},
        {"http_response": wire.HttpResponse(status_code=20, is_first_chunk=True)},
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, headers=fields(("X", "a\r\nY: b")))},
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, headers=fields(("X:", "a")))},
        {"http_response": wire.HttpResponse(status_code=101, informational=True)},
        {"grpc_response": wire.GrpcResponse(is_first_chunk=True, is_last_chunk=True)},
        {"http_request": wire.HttpRequest(method="GET", is_first_chunk=True)},
        {"ws_response": wire.WebSocketResponse(status_code=101, accepted=True)},
        {"ws_frame": wire.WebSocketFrame(opcode=1, fin=True)},
    ],
    ids=lambda bad: next(iter(bad)),
)
async def test_a_wrong_message_ends_its_request(stock: Stock, bad: dict[str, Any]) -> None:
    public, message = await stock.ask(request("GET", "/"))
    stock.client.send(message.request_id, **bad)
    assert (await public.answer()).status == 502
    reset = await stock.client.next("reset")
    assert (reset.request_id, reset.reset.code) == (message.request_id, wire.PROTOCOL_ERROR)
    public, message = await stock.ask(request("GET", "/next"))
    stock.answer(message.request_id, status_code=200, body=b"fine", is_first_chunk=True, is_last_chunk=True)
    assert (await public.answer()).body == b"fine"


async def test_an_answer_that_does_not_keep_to_its_length_is_broken_off(stock: Stock) -> None:
    for body in (b"short", b"much too long"):
        public, message = await stock.ask(request("GET", "/"))
        length = fields(("content-length", "10"))
        stock.answer(message.request_id, status_code=200, headers=length, is_first_chunk=True)
        assert (await public.head()).get("content-length") == "10"
        stock.answer(message.request_id, body=body, is_last_chunk=True, sequence_number=1)
        assert len(await public.to_end()) < 10
        assert (await stock.client.next("reset")).reset.code == wire.PROTOCOL_ERROR


async def test_a_gap_in_the_middle_of_an_answer_breaks_it_off(stock: Stock) -> None:
    public, message = await stock.ask(request("GET", "/"))
    stock.answer(message.request_id, status_code=200, is_first_chunk=True)
    assert (await public.head()).status == 200
    stock.answer(message.request_id, body=b"lost one", sequence_number=2)
    assert await public.ended()
    assert (await stock.client.next("reset")).reset.code == wire.PROTOCOL_ERROR


async def test_an_unknown_request_is_answered_once(stock: Stock) -> None:
    stock.answer("nobody-1", status_code=200, is_first_chunk=True)
    reset = await stock.client.next("reset")
    assert reset.request_id == "nobody-1"
    stock.answer("nobody-1", body=b"more", sequence_number=1)
    stock.client.send("nobody-2", window_update=wire.WindowUpdate(bytes=1))
    stock.reset("nobody-3", 1)
    # None of these has an answer: the next message is that of a new request.
    public, message = await stock.ask(request("GET", "/"))
    stock.answer(message.request_id, status_code=200, is_first_chunk=True, is_last_chunk=True)
    assert (await public.answer()).status == 200


async def test_unknown_fields_are_skipped(stock: Stock) -> None:
    public, message = await stock.ask(request("GET", "/"))
    answer = wire.TunnelMessage(
        request_id=message.request_id,
        http_response=wire.HttpResponse(status_code=200, body=b"known", is_first_chunk=True, is_last_chunk=True),
    )
    unknown = b"\xa2\x06\x05hello" + b"\xa8\x06\x2a" + b"\xb5\x06abcd" + b"\xb9\x06abcdefgh"  # fields 100 to 103
    stock.client.send_message(wire.TunnelMessage.FromString(unknown + answer.SerializeToString() + unknown))
    assert (await public.answer()).body == b"known"


async def test_a_malformed_message_ends_the_tunnel_with_internal(stack: AsyncExitStack) -> None:
    """Only this one: requests on other tunnels live on."""
    server = await start_server(stack)
    good = Stock(stack, server, *await dial_and_register(stack, server.tunnel, wire.Route(host="good.example")))
    public, message = await good.ask(request("GET", "/", host="good.example"))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.tunnel))
    raw = channel.stream_stream("/fasttunnel.v1.TunnelService/Connect")

    async def messages() -> Any:
        yield wire.TunnelMessage(register=register(wire.Route(host="bad.example"))).SerializeToString()
        yield b"\x12\x05ab"  # a string of 5 bytes, of which there are 2

    async def read_all() -> None:
        async for _ in raw(messages()):
            pass

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await asyncio.wait_for(read_all(), WAIT_S)
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    good.answer(message.request_id, status_code=200, body=b"alive", is_first_chunk=True, is_last_chunk=True)
    assert (await public.answer()).body == b"alive"
    assert [route.host for route in server.routes] == ["good.example"]


async def test_two_requests_take_turns_on_the_stream(stock: Stock) -> None:
    """Large uploads of two requests are interleaved, each in order and whole."""
    bodies = {f"/{number}": random.Random(number).randbytes(2_000_000) for number in range(2)}
    publics = []
    for path, body in bodies.items():
        publics.append(await stock.public())
        publics[-1].writer.write(request("POST", path, body=body))
    paths: dict[str, str] = {}
    received: dict[str, bytes] = {}
    order: list[str] = []
    done = 0
    while done < 2:
        message = await stock.client.next("http_request")
        chunk = message.http_request
        path = paths.setdefault(message.request_id, chunk.url)
        received[path] = received.get(path, b"") + payload_of(message)
        order.append(path)
        done += chunk.is_last_chunk
    assert received == bodies
    switches = sum(a != b for a, b in itertools.pairwise(order))
    assert switches > 5, "neither waits for the end of the other"
    for request_id in paths:
        stock.answer(request_id, status_code=200, is_first_chunk=True, is_last_chunk=True)
    for public in publics:
        assert (await public.answer()).status == 200
