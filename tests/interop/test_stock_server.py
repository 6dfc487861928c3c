"""A plain grpc.aio program as server of our client: it sends requests by hand and reads what comes of them."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from fasttunnel import AuthError, Client, RegisterError
from fasttunnel.wire import tunnel_pb2 as wire
from tests.support.frames import BINARY, CLOSE, MASK, PING, TEXT, Frame, accept_upgrade, frame, read_frame
from tests.support.grpc_peers import Context, Note, Notes, start_grpc
from tests.support.raw import RawBackend, answer, start_raw
from tests.support.stock import FRAGMENT, StockEnd, StockServer, fields, pairs, start_stock_server
from tests.support.tunnel import WAIT_S, Recorder, eventually, route, start_client

UP, DOWN = wire.CLIENT_TO_SERVER, wire.SERVER_TO_CLIENT
QUICK = {"backoff_min_s": 0.01, "backoff_max_s": 0.05}


class Stock:
    """A stock server, a client of ours that has registered with it, and the backend behind that."""

    def __init__(self, stack: AsyncExitStack, server: StockServer, backend: RawBackend) -> None:
        self.stack = stack
        self.server = server
        self.backend = backend
        self.end: StockEnd
        self.first: Any  # the client's Register message
        self.client: Client

    async def start(self, *routes: Any, registered: dict[str, Any] | None = None, **options: Any) -> StockEnd:
        starting = asyncio.ensure_future(
            start_client(self.stack, self.server.address, routes or [self.backend.url], **{**QUICK, **options})
        )
        self.end, self.first = await self.server.accept_and_register(**(registered or {}))
        self.client = await starting
        return self.end

    def ask(self, request_id: str, **values: Any) -> None:
        """One chunk of an HTTP request."""
        self.end.send(request_id, direction=UP, http_request=wire.HttpRequest(**values))

    def get(self, request_id: str, url: str = "/", **values: Any) -> None:
        """A whole GET."""
        usual = {"method": "GET", "host": "public.example", "scheme": "http"}
        self.ask(request_id, url=url, is_first_chunk=True, is_last_chunk=True, **{**usual, **values})

    async def upgrade(self, request_id: str) -> Any:
        """An established WebSocket; the backend's side of it."""
        self.end.send(request_id, direction=UP, ws_request=wire.WebSocketRequest(url="/", host="public.example"))
        backend = await self.backend.accept()
        await accept_upgrade(backend)
        assert (await self.end.next("ws_response")).ws_response.accepted
        return backend

    def send_frame(self, request_id: str, opcode: int, payload: bytes, **values: Any) -> None:
        values = {"fin": True, "masked": True, "frame_direction": UP, **values}
        ws_frame = wire.WebSocketFrame(connection_id=request_id, opcode=opcode, payload=payload, **values)
        self.end.send(request_id, direction=UP, ws_frame=ws_frame)

    async def expect_reset(self, request_id: str, code: int) -> str:
        """The next message ends this request; its text."""
        message = await self.end.next("reset")
        assert (message.request_id, message.reset.code) == (request_id, code), message
        return str(message.reset.message)


@pytest.fixture
async def stock(stack: AsyncExitStack) -> Stock:
    return Stock(stack, await start_stock_server(stack), await start_raw(stack))


# -- registering


async def test_what_the_client_registers(stock: Stock) -> None:
    routes = [
        "shop.example/api=http://127.0.0.1:1",
        route("http://127.0.0.1:1", host="*.b.example", strip_prefix=True, path_prefix="/x", host_rewrite="c"),
        "/pkg.Service=grpc://127.0.0.1:1",
    ]
    await stock.start(*routes, client_id="me", token="secret", initial_window=100_000, max_fragment=5000)
    assert stock.server.metadata[0]["authorization"] == "Bearer secret"
    assert stock.first.client_id == "me"
    assert stock.first.protocol_type == wire.CONTROL
    register = stock.first.register
    assert (register.version, register.initial_window, register.max_fragment) == (1, 100_000, 5000)
    assert register.instance_id
    web = [wire.HTTP, wire.WEBSOCKET]
    assert list(register.routes) == [
        wire.Route(host="shop.example", path_prefix="/api", protocols=web),
        wire.Route(host="*.b.example", path_prefix="/x", strip_prefix=True, host_rewrite="c", protocols=web),
        wire.Route(grpc_service="pkg.Service", protocols=[wire.GRPC]),
    ]


async def test_what_the_server_says_is_kept(stock: Stock) -> None:
    await stock.start(registered={"urls": ["http://public.example/"], "client_id": "named"})
    assert stock.client.urls == ["http://public.example/"]
    assert stock.client.status()["client_id"] == "named"
    stock.end.close()  # the call ends with OK: the client comes back, under its name and as the same process
    _, again = await stock.server.accept_and_register()
    assert again.client_id == "named"
    assert again.register.instance_id == stock.first.register.instance_id
    assert "authorization" not in stock.server.metadata[0]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, AuthError),
        (grpc.StatusCode.PERMISSION_DENIED, AuthError),
        (grpc.StatusCode.ALREADY_EXISTS, RegisterError),
        (grpc.StatusCode.INVALID_ARGUMENT, RegisterError),
    ],
)
async def test_a_refusal_is_an_error(stock: Stock, code: grpc.StatusCode, error: type[Exception]) -> None:
    stock.server.refusal = (code, "100 % no: grüße")
    with pytest.raises(error) as failure:
        await start_client(stock.stack, stock.server.address, [stock.backend.url])
    assert "100 % no: grüße" in str(failure.value)
    assert len(stock.server.metadata) == 1, "it does not try again"


async def test_a_server_that_is_unavailable_is_tried_again(stock: Stock) -> None:
    stock.server.refusal = (grpc.StatusCode.UNAVAILABLE, "draining")
    events = Recorder()
    starting = asyncio.ensure_future(
        start_client(stock.stack, stock.server.address, [stock.backend.url], events, **QUICK)
    )
    assert "draining" in await events.until_line("away", 2)
    stock.server.refusal = None
    await stock.server.accept_and_register()
    async with asyncio.timeout(WAIT_S):
        await starting


async def test_heartbeats(stock: Stock) -> None:
    """At the interval that the server names; the server's own are echoed."""
    end = await stock.start(registered={"heartbeat_interval_ms": 50})
    async with asyncio.timeout(WAIT_S):
        nonces = {(await end.heartbeats.get()).heartbeat.nonce for _ in range(3)}
        assert len(nonces) == 3
        end.send(heartbeat=wire.Heartbeat(nonce=99))
        while not (beat := await end.heartbeats.get()).heartbeat.reply:
            pass
    assert beat.heartbeat.nonce == 99
    await eventually(lambda: stock.client.status()["round_trip_s"] is not None)


async def test_a_client_that_stops_says_go_away(stock: Stock) -> None:
    end = await stock.start()
    stock.get("r-1")
    backend = await stock.backend.accept()
    await backend.head()
    stopping = asyncio.ensure_future(stock.client.stop(WAIT_S))
    assert (await end.next("go_away")).go_away.reason
    await backend.send(answer("200 OK", body=b"in time"))
    assert (await end.next("http_response")).http_response.body == b"in time"
    await end.ended()
    end.close()
    async with asyncio.timeout(WAIT_S):
        await stopping


# -- HTTP


async def test_a_get(stock: Stock) -> None:
    end = await stock.start()
    stock.get("r-1", "/a%20b?c=d", headers=fields(("X-Many", "1"), ("X-Many", "2"), ("Connection", "X-Many")))
    backend = await stock.backend.accept()
    head = await backend.head()
    assert head.start == "GET /a%20b?c=d HTTP/1.1"
    assert (head.get("host"), head.all("x-many"), head.get("connection")) == ("public.example", ["1", "2"], None)
    await backend.send(
        answer("200 OK", "Set-Cookie: a", "Set-Cookie: b", "Connection: x-inner", "X-Inner: 1", body=b"page")
    )
    message = await end.next("http_response")
    assert (message.request_id, message.direction, message.protocol_type) == ("r-1", DOWN, wire.HTTP)
    got = message.http_response
    assert (got.status_code, got.body, got.informational) == (200, b"page", False)
    assert (got.is_first_chunk, got.is_last_chunk, got.sequence_number) == (True, True, 0)
    headers = pairs(got.headers)
    assert [value for name, value in headers if name == "set-cookie"] == ["a", "b"]
    assert ("content-length", "4") in headers
    assert not dict(headers).keys() & {"connection", "x-inner"}
    await eventually(lambda: stock.client.status()["active_requests"] == 0)


async def test_an_upload_and_a_download_in_chunks(stock: Stock) -> None:
    end = await stock.start()
    body = random.Random(1).randbytes(300_000)
    stock.ask("r-1", method="POST", url="/", host="h", is_first_chunk=True)
    backend = await stock.backend.accept()
    assert (await backend.head()).get("transfer-encoding") == "chunked"
    for number, start in enumerate(range(0, len(body), 50_000), 1):
        stock.ask("r-1", body=body[start : start + 50_000], sequence_number=number)
        assert await backend.chunks(50_000) == body[start : start + 50_000]
    stock.ask("r-1", is_last_chunk=True, sequence_number=7, trailers=fields(("X-Sum", "1")))
    assert await backend.chunk() == b""
    assert await backend.trailers() == [("x-sum", "1")]
    await backend.send(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\nX-T: y\r\n\r\n" % (len(body), body)
    )
    hints = (await end.next("http_response")).http_response
    assert (hints.status_code, hints.informational, hints.is_first_chunk) == (103, True, False)
    assert pairs(hints.headers) == [("link", "x")]
    received, number = b"", hints.sequence_number + 1
    while True:
        message = await end.next("http_response")
        chunk = message.http_response
        assert message.request_id == "r-1"
        assert (chunk.sequence_number, chunk.is_first_chunk) == (number, number == 1)
        assert len(chunk.body) <= FRAGMENT
        received += chunk.body
        number += 1
        if chunk.is_last_chunk:
            break
    assert received == body
    assert pairs(chunk.trailers) == [("x-t", "y")]


async def test_a_whole_request_with_trailers_in_one_message(stock: Stock) -> None:
    await stock.start()
    whole = {"is_first_chunk": True, "is_last_chunk": True, "body": b"abc"}
    stock.ask("r-1", method="PUT", url="/", host="h", trailers=fields(("X-Sum", "3")), **whole)
    backend = await stock.backend.accept()
    assert await backend.body(await backend.head()) == (b"abc", [("x-sum", "3")])
    await backend.send(answer("200 OK"))


async def test_an_early_answer_is_followed_by_a_reset_without_error(stock: Stock) -> None:
    end = await stock.start()
    stock.ask("r-1", method="POST", url="/", host="h", headers=fields(("content-length", "1000")), is_first_chunk=True)
    backend = await stock.backend.accept()
    await backend.head()
    await backend.send(answer("403 Forbidden", body=b"no"))
    got = (await end.next("http_response")).http_response
    assert (got.status_code, got.body, got.is_last_chunk) == (403, b"no", True)
    await stock.expect_reset("r-1", wire.NO_ERROR)


async def test_what_the_client_resets(stock: Stock) -> None:
    end = await stock.start(f"a.example={stock.backend.url}", "down.example=http://127.0.0.1:1")
    stock.get("r-1", host="other.example")
    assert await stock.expect_reset("r-1", wire.NO_ROUTE)
    stock.get("r-2", host="down.example")
    assert "127.0.0.1" not in await stock.expect_reset("r-2", wire.BACKEND_UNREACHABLE), "the public gets this text"
    stock.get("r-3", host="a.example")
    backend = await stock.backend.accept()
    await backend.head()
    await backend.close()
    await stock.expect_reset("r-3", wire.BACKEND_UNREACHABLE)
    stock.get("r-4", host="a.example")
    backend = await stock.backend.accept()
    await backend.head()
    await backend.send(b"not HTTP\r\n\r\n")
    await stock.expect_reset("r-4", wire.PROTOCOL_ERROR)
    stock.get("r-5", host="a.example")
    backend = await stock.backend.accept()
    await backend.head()
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    assert (await end.next("http_response")).http_response.body == b"half"
    await backend.close()
    await stock.expect_reset("r-5", wire.BACKEND_UNREACHABLE)


async def test_a_reset_of_the_server_reaches_the_backend(stock: Stock) -> None:
    end = await stock.start()
    stock.get("r-1")
    backend = await stock.backend.accept()
    await backend.head()
    end.send("r-1", reset=wire.Reset(code=wire.CANCELLED))
    assert await backend.ended()
    assert stock.client.status()["active_requests"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "GET", "url": "/ HTTP/1.1\r\nX: y", "host": "h"},
        {"method": "GET /x HTTP/1.1\r\nX: y\r\n\r\n", "url": "/", "host": "h"},
        {"method": "GET", "url": "/", "host": "h\r\nX: y"},
        {"method": "GET", "url": "/", "host": "h", "headers": fields(("X", "a\r\nY: b"))},
        {"method": "GET", "url": "/", "host": "h", "headers": fields(("X: a\r\nY", "b"))},
        {"method": "CONNECT", "url": "/", "host": "h"},
        {"method": "GET", "url": "", "host": "h"},
    ],
    ids=["url", "method", "host", "value", "name", "connect", "empty url"],
)
async def test_a_request_that_would_be_another_one_at_the_backend(stock: Stock, bad: dict[str, Any]) -> None:
    """Nothing that a server sends can add lines to what the backend reads."""
    await stock.start()
    stock.ask("r-1", is_first_chunk=True, is_last_chunk=True, **bad)
    await stock.expect_reset("r-1", wire.PROTOCOL_ERROR)
    stock.get("r-2")
    while True:  # a connection may have been opened for the bad request: nothing is on it
        backend = await stock.backend.accept()
        data = await backend.reader.readline()
        if data:
            break
    assert data == b"GET / HTTP/1.1\r\n"
    await backend.until(b"\r\n\r\n")
    await backend.send(answer("200 OK"))
    assert (await stock.end.next("http_response")).http_response.status_code == 200


async def test_the_windows_of_the_server(stock: Stock) -> None:
    """The client sends as much of an answer as was granted, to the byte."""
    end = await stock.start(registered={"initial_window": 1000})
    end.grant = False
    stock.get("r-1")
    backend = await stock.backend.accept()
    await backend.head()
    body = random.Random(2).randbytes(5000)
    await backend.send(answer("200 OK", body=body))
    received = (await end.next("http_response")).http_response.body
    while len(received) < 1000:
        received += (await end.next("http_response")).http_response.body
    for grant in (1, 999, 3000):
        stock.get("r-beside", "/beside")  # is answered meanwhile: nothing else comes for r-1
        beside = await stock.backend.accept()
        await beside.head()
        await beside.send(answer("204 No Content", "Connection: close"))
        message = await end.next("http_response")
        assert (message.request_id, message.http_response.status_code) == ("r-beside", 204)
        end.send("r-1", window_update=wire.WindowUpdate(bytes=grant))
        expected = len(received) + grant
        while len(received) < expected:
            received += (await end.next("http_response")).http_response.body
        assert len(received) == expected
    assert received == body


async def test_a_server_beyond_the_window_is_reset(stock: Stock) -> None:
    await stock.start(initial_window=10_000)
    stock.ask("r-1", method="POST", url="/", host="h", is_first_chunk=True, body=b"x" * 10_001)
    await stock.expect_reset("r-1", wire.FLOW_CONTROL_ERROR)


async def test_gaps_repeats_and_strangers(stock: Stock) -> None:
    end = await stock.start()
    stock.ask("r-1", method="POST", url="/", host="h", is_first_chunk=True)
    backend = await stock.backend.accept()
    await backend.head()
    stock.ask("r-1", body=b"x", sequence_number=2)
    await stock.expect_reset("r-1", wire.PROTOCOL_ERROR)
    assert await backend.ended()
    stock.ask("r-2", body=b"x", sequence_number=1)  # a request that never began
    assert (await end.next("reset")).request_id == "r-2"
    stock.ask("r-2", body=b"x", sequence_number=2)
    end.send("r-3", window_update=wire.WindowUpdate(bytes=1))
    stock.get("r-4")
    backend = await stock.backend.accept()
    await backend.head()
    await backend.send(answer("200 OK", body=b"alive"))
    assert (await end.next("http_response")).http_response.body == b"alive"


# -- WebSocket


async def test_a_websocket_conversation(stock: Stock) -> None:
    end = await stock.start()
    asked = {"url": "/chat?x", "host": "ws.example", "subprotocol": "a, b", "headers": fields(("Origin", "http://o"))}
    end.send("w-1", direction=UP, ws_request=wire.WebSocketRequest(**asked))
    backend = await stock.backend.accept()
    head = await accept_upgrade(backend, "Sec-WebSocket-Protocol: b", "X: y")
    assert (head.start, head.get("host"), head.get("origin")) == ("GET /chat?x HTTP/1.1", "ws.example", "http://o")
    assert head.get("sec-websocket-protocol") == "a, b"
    message = await end.next("ws_response")
    got = message.ws_response
    assert (message.request_id, message.protocol_type, message.direction) == ("w-1", wire.WEBSOCKET, DOWN)
    assert (got.status_code, got.accepted, got.subprotocol) == (101, True, "b")
    assert ("x", "y") in pairs(got.headers)

    for opcode, payload, fin in ((TEXT, b"hel", False), (PING, b"p", True), (0, b"lo", True), (BINARY, b"", True)):
        stock.send_frame("w-1", opcode, payload, fin=fin)
        assert await read_frame(backend) == Frame(opcode, payload, fin, masked=True)
        await backend.send(frame(opcode, payload, fin=fin))
        message = await end.next("ws_frame")
        answered = message.ws_frame
        assert (message.request_id, answered.connection_id, answered.frame_direction) == ("w-1", "w-1", DOWN)
        assert (answered.opcode, answered.payload, answered.fin, answered.masked) == (opcode, payload, fin, False)

    payload = random.Random(3).randbytes(150_000)
    stock.send_frame("w-1", BINARY, payload[:70_000], payload_length=len(payload), more=True)
    stock.send_frame("w-1", BINARY, payload[70_000:140_000], more=True)
    stock.send_frame("w-1", BINARY, payload[140_000:])
    assert await read_frame(backend) == Frame(BINARY, payload, masked=True)
    await backend.send(frame(BINARY, payload))
    received = b""
    while len(received) < len(payload):
        part = (await end.next("ws_frame")).ws_frame
        assert part.payload_length == (0 if received else len(payload))
        received += part.payload
        assert part.more == (len(received) < len(payload))
    assert received == payload

    stock.send_frame("w-1", CLOSE, b"\x03\xe8bye")
    assert await read_frame(backend) == Frame(CLOSE, b"\x03\xe8bye", masked=True)
    await backend.send(frame(CLOSE, b"\x03\xe8"))
    assert (await end.next("ws_frame")).ws_frame.payload == b"\x03\xe8"
    await eventually(lambda: stock.client.status()["active_requests"] == 0)
    await backend.close()


async def test_a_refused_handshake(stock: Stock) -> None:
    end = await stock.start()
    end.send("w-1", ws_request=wire.WebSocketRequest(url="/", host="h"))
    backend = await stock.backend.accept()
    await backend.head()
    await backend.send(answer("401 Unauthorized", "WWW-Authenticate: Basic", body=b"who?"))
    got = (await end.next("ws_response")).ws_response
    assert (got.status_code, got.accepted, got.body) == (401, False, b"who?")
    assert ("www-authenticate", "Basic") in pairs(got.headers)


async def test_a_backend_that_drops_its_websocket_is_a_reset(stock: Stock) -> None:
    await stock.start()
    backend = await stock.upgrade("w-1")
    backend.drop()
    await stock.expect_reset("w-1", wire.BACKEND_UNREACHABLE)
    backend = await stock.upgrade("w-2")
    await backend.send(frame(TEXT, b"masked", mask=MASK))
    await stock.expect_reset("w-2", wire.PROTOCOL_ERROR)
    backend = await stock.upgrade("w-3")
    stock.end.send("w-3", reset=wire.Reset(code=wire.CANCELLED))
    assert await backend.ended(), "an abnormal end, no Close frame"


async def test_fragments_that_do_not_add_up(stock: Stock) -> None:
    await stock.start()
    for number, parts in enumerate(
        (
            [{"payload_length": 10, "more": True}, {}],  # fewer bytes than announced
            [{"payload_length": 5, "more": True}, {}],  # more bytes
            [{"payload_length": 100, "more": True}, {"payload_length": 100, "more": True}],  # a frame inside another
        )
    ):
        request_id = f"w-{number}"
        backend = await stock.upgrade(request_id)
        for values in parts:
            stock.send_frame(request_id, BINARY, b"four", **values)
        await stock.expect_reset(request_id, wire.PROTOCOL_ERROR)
        await backend.close()


# -- gRPC


async def start_call(stock: Stock, **methods: Any) -> StockEnd:
    return await stock.start(await start_grpc(stock.stack, **methods))


def call(request_id: str, method: str, sequence_number: int = 0, **values: Any) -> dict[str, Any]:
    """Arguments of StockEnd.send for one chunk of a call."""
    if sequence_number == 0:
        values = {
            "service": "fasttunnel.test.Echo",
            "method": method,
            "authority": "h",
            "is_first_chunk": True,
            **values,
        }
    request = wire.GrpcRequest(sequence_number=sequence_number, **values)
    return {"request_id": request_id, "direction": UP, "grpc_request": request}


async def collect(end: StockEnd, request_id: str) -> tuple[list[Any], list[bytes]]:
    """All chunks of an answer, checked for order, and its messages."""
    chunks: list[Any] = []
    messages: list[bytes] = []
    unfinished = b""
    while not chunks or not chunks[-1].is_last_chunk:
        message = await end.next("grpc_response")
        assert (message.request_id, message.protocol_type, message.direction) == (request_id, wire.GRPC, DOWN)
        chunk = message.grpc_response
        assert (chunk.sequence_number, chunk.is_first_chunk) == (len(chunks), not chunks)
        chunks.append(chunk)
        if chunk.HasField("body"):
            unfinished += chunk.body
            if not chunk.more:
                messages.append(unfinished)
                unfinished = b""
    assert unfinished == b""
    return chunks, messages


async def test_a_unary_call(stock: Stock) -> None:
    async def unary(request: Any, context: Context) -> Any:
        metadata = dict(context.invocation_metadata())
        await context.send_initial_metadata((("x-initial", metadata["x-asked"]),))
        context.set_trailing_metadata((("x-trailing-bin", metadata["x-data-bin"]),))
        return Note(number=request.number + 1)

    end = await start_call(stock, Unary=unary)
    metadata = fields(("x-asked", "yes"), ("x-data-bin", "AP8="))
    body = Note(number=1).SerializeToString()
    end.send(**call("g-1", "Unary", body=body, metadata=metadata, is_last_chunk=True))
    chunks, messages = await collect(end, "g-1")
    assert messages == [Note(number=2).SerializeToString()]
    assert ("x-initial", "yes") in pairs(chunks[0].initial_metadata)
    assert (chunks[-1].status_code, chunks[-1].status_message) == (0, "")
    trailing = dict(pairs(chunks[-1].trailing_metadata))
    assert trailing["x-trailing-bin"].rstrip("=") == "AP8"
    assert "grpc-status" not in trailing
    assert chunks[0].grpc_stream_id % 2 == 1


async def test_a_bidirectional_call(stock: Stock) -> None:
    """Message by message; an empty message and a half-close are two things."""
    end = await start_call(stock)
    end.send(**call("g-1", "Talk"))
    expected = 0
    for number in range(1, 6):
        body = Note(number=number if number != 3 else 0).SerializeToString()
        end.send(**call("g-1", "", number, body=body))
        chunk = (await end.next("grpc_response")).grpc_response
        if not chunk.HasField("body"):  # initial metadata by themselves
            assert expected == 0
            expected += 1
            chunk = (await end.next("grpc_response")).grpc_response
        assert (chunk.sequence_number, chunk.body, chunk.is_last_chunk) == (expected, body, False)
        expected += 1
    end.send(**call("g-1", "", 6, is_last_chunk=True))
    last = (await end.next("grpc_response")).grpc_response
    assert (last.is_last_chunk, last.HasField("body"), last.status_code) == (True, False, 0)


async def test_large_messages_as_chunks(stock: Stock) -> None:
    end = await start_call(stock)
    body = Note(data=random.Random(4).randbytes(200_000)).SerializeToString()
    end.send(**call("g-1", "Unary", body=body[:60_000], message_length=len(body), more=True))
    end.send(**call("g-1", "", 1, body=body[60_000:120_000], more=True))
    end.send(**call("g-1", "", 2, body=body[120_000:], is_last_chunk=True))
    chunks, messages = await collect(end, "g-1")
    assert messages == [body]
    with_body = [chunk for chunk in chunks if chunk.HasField("body")]
    assert [chunk.message_length for chunk in with_body] == [len(body)] + [0] * (len(with_body) - 1)
    assert all(len(chunk.body) <= FRAGMENT for chunk in with_body)


async def test_a_failing_call(stock: Stock) -> None:
    async def unary(request: Any, context: Context) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x00\xfe"), ("x-why", "so")))
        await context.abort(grpc.StatusCode.NOT_FOUND, "100 % gone: grüße")

    end = await start_call(stock, Unary=unary)
    end.send(**call("g-1", "Unary", body=b"", is_last_chunk=True))
    chunks, messages = await collect(end, "g-1")
    assert messages == []
    assert (chunks[-1].status_code, chunks[-1].status_message) == (5, "100 % gone: grüße")
    assert chunks[-1].status_details == b"\x00\xfe"
    assert ("x-why", "so") in pairs(chunks[-1].trailing_metadata)


async def test_a_reset_cancels_the_call(stock: Stock) -> None:
    events: asyncio.Queue[str] = asyncio.Queue()

    async def talk(requests: Notes, context: Context) -> Notes:
        events.put_nowait("started")
        try:
            await asyncio.Event().wait()
            yield Note()
        finally:
            events.put_nowait("ended")

    end = await start_call(stock, Talk=talk)
    end.send(**call("g-1", "Talk", body=b""))
    async with asyncio.timeout(WAIT_S):
        assert await events.get() == "started"
        end.send("g-1", reset=wire.Reset(code=wire.CANCELLED))
        assert await events.get() == "ended"
    assert stock.client.status()["active_requests"] == 0


async def test_calls_that_go_nowhere(stock: Stock) -> None:
    end = await stock.start("/pkg.Named=grpc://127.0.0.1:1")
    end.send(**call("g-1", "Unary", is_last_chunk=True))
    await stock.expect_reset("g-1", wire.NO_ROUTE)
    end.send(**call("g-2", "Unary", service="pkg.Named", is_last_chunk=True))
    await stock.expect_reset("g-2", wire.BACKEND_UNREACHABLE)


async def test_chunks_of_a_call_out_of_order(stock: Stock) -> None:
    end = await start_call(stock)
    end.send(**call("g-1", "Talk", body=b""))
    end.send(**call("g-1", "", 2, body=b""))
    message = await end.next("grpc_response", "reset")
    while message.HasField("grpc_response"):  # the answer to the first one
        message = await end.next("grpc_response", "reset")
    assert (message.request_id, message.reset.code) == ("g-1", wire.PROTOCOL_ERROR)
