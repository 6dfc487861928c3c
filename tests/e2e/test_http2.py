"""HTTP/2 with prior knowledge towards the public, HTTP/1.1 towards the backend: the same requests."""

import asyncio
import hashlib
import random
from contextlib import AsyncExitStack

import httpx
import pytest
from aiohttp import web

from tests.e2e.conftest import Ends
from tests.support.http2 import Connection, connect_http2
from tests.support.raw import answer
from tests.support.tunnel import Tunnel, start_tunnel
from tests.support.web import start_web


@pytest.fixture
async def public(ends: Ends) -> Connection:
    return await connect_http2(ends.stack, ends.tunnel.host, ends.tunnel.port)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_method_path_query_and_body(ends: Ends, public: Connection, method: str) -> None:
    target = "/a%20b//c?q=1&q=2"
    stream = await public.open(method, target, ("x-case", "KeePs"), ("content-length", "4"), end=False)
    await stream.send(b"body", end=True)
    backend = await ends.backend.accept()
    head = await backend.head()
    assert head.start == f"{method} {target} HTTP/1.1"
    assert (head.get("host"), head.get("x-case")) == ("public.example", "KeePs")
    assert (await backend.body(head))[0] == b"body"
    await backend.send(answer("201 Created", "X-Answer: Yes", body=b"answer"))
    await stream.done()
    assert (stream.status, stream.field("x-answer"), bytes(stream.body)) == (201, "Yes", b"answer")
    assert stream.field("content-length") == "6"


async def test_a_get_has_no_body_at_the_backend(ends: Ends, public: Connection) -> None:
    stream = await public.open("GET", "/")
    backend = await ends.backend.accept()
    head = await backend.head()
    assert head.get("content-length") is None
    assert head.get("transfer-encoding") is None
    await backend.send(answer("204 No Content"))
    await stream.done()
    assert (stream.status, bytes(stream.body)) == (204, b"")


async def test_a_body_of_unknown_length_is_chunked_for_the_backend(ends: Ends, public: Connection) -> None:
    """Each DATA frame arrives before the next one is sent, and the answer's chunks likewise."""
    stream = await public.open("POST", "/", end=False)
    backend = await ends.backend.accept()
    head = await backend.head()
    assert head.get("transfer-encoding") == "chunked"
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await stream.answered()).status == 200
    total = 0
    for number in range(20):
        await stream.send(b"question %02d" % number)
        assert await backend.chunks(11) == b"question %02d" % number
        await backend.send(b"8\r\nreply %02d\r\n" % number)
        total += 8
        assert (await stream.received(total))[-8:] == b"reply %02d" % number
    await stream.send(b"", end=True)
    assert await backend.chunk() == b""
    await backend.send(b"0\r\n\r\n")
    assert (await stream.done()).ended


async def test_fields_become_those_of_http_1(ends: Ends, public: Connection) -> None:
    """Cookie crumbs are joined (RFC 9113 8.2.3); fields about the way cannot be forged; duplicates stay."""
    stream = await public.open(
        "GET",
        "/",
        ("cookie", "a=1"),
        ("x-many", "1"),
        ("cookie", "b=2"),
        ("x-many", "2"),
        ("te", "trailers"),
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        authority="shop.example:81",
    )
    backend = await ends.backend.accept()
    head = await backend.head()
    assert head.get("cookie") == "a=1; b=2"
    assert head.all("x-many") == ["1", "2"]
    assert head.get("te") == "trailers"
    assert head.get("host") == "shop.example:81"
    assert (head.get("x-forwarded-for"), head.get("x-forwarded-proto")) == ("127.0.0.1", "http")
    assert head.get("forwarded") == 'for=127.0.0.1;proto=http;host="shop.example:81"'
    await backend.send(
        answer("200 OK", "Set-Cookie: a=1", "SET-COOKIE: b=2", "Connection: x-inner", "X-Inner: 1", "Keep-Alive: x=1")
    )
    await stream.done()
    assert [value for name, value in stream.fields if name == "set-cookie"] == ["a=1", "b=2"]
    assert not {name for name, _ in stream.fields} & {"connection", "x-inner", "keep-alive", "transfer-encoding"}


async def test_trailers_both_ways(ends: Ends, public: Connection) -> None:
    stream = await public.open("POST", "/", ("te", "trailers"), end=False)
    await stream.send(b"abc")
    await stream.send_trailers([("x-sum", "3"), ("x-sum", "4")])
    backend = await ends.backend.accept()
    head = await backend.head()
    assert await backend.body(head) == (b"abc", [("x-sum", "3"), ("x-sum", "4")])
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Time: 5\r\n\r\n")
    await stream.done()
    assert (bytes(stream.body), stream.trailers) == (b"ok", [("x-time", "5")])


async def test_interim_answers(ends: Ends, public: Connection) -> None:
    stream = await public.open("POST", "/", ("expect", "100-continue"), ("content-length", "3"), end=False)
    backend = await ends.backend.accept()
    assert (await backend.head()).get("expect") == "100-continue"
    await backend.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    await stream.until(lambda: len(stream.informational) == 2)
    assert stream.informational == [[(":status", "100")], [(":status", "103"), ("link", "</a>")]]
    await stream.send(b"abc", end=True)
    assert await backend.exactly(3) == b"abc"
    await backend.send(answer("200 OK", body=b"fine"))
    assert bytes((await stream.done()).body) == b"fine"


async def test_head_keeps_the_length_and_has_no_body(ends: Ends, public: Connection) -> None:
    stream = await public.open("HEAD", "/")
    backend = await ends.backend.accept()
    assert (await backend.head()).start == "HEAD / HTTP/1.1"
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await stream.done()
    assert (stream.status, stream.field("content-length"), bytes(stream.body)) == (200, "1000", b"")


async def test_an_early_answer_ends_the_request_without_an_error(ends: Ends, public: Connection) -> None:
    """RFC 9113 8.1: the answer is complete, the stream is then reset with NO_ERROR, the connection goes on."""
    stream = await public.open("POST", "/", ("content-length", "10000000"), end=False)
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send(answer("403 Forbidden", body=b"no"))
    await stream.until(lambda: stream.reset is not None)
    assert (stream.status, bytes(stream.body), stream.ended, stream.reset) == (403, b"no", True, 0)
    stream = await public.open("GET", "/next")
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send(answer("200 OK", body=b"next"))
    assert bytes((await stream.done()).body) == b"next"


async def test_streams_are_answered_in_any_order(ends: Ends, public: Connection) -> None:
    streams = [await public.open("GET", f"/{number}") for number in range(100)]
    backends = {}
    for _ in streams:
        backend = await ends.backend.accept()
        backends[(await backend.head()).start.split(" ")[1]] = backend
    for number in reversed(range(100)):
        await backends[f"/{number}"].send(answer("200 OK", body=b"for %d" % number))
    for number, stream in enumerate(streams):
        assert bytes((await stream.done()).body) == b"for %d" % number


async def test_a_cancelled_stream_ends_at_the_backend(ends: Ends, public: Connection) -> None:
    stream = await public.open("GET", "/")
    other = await public.open("GET", "/other")
    first = await ends.backend.accept()
    second = await ends.backend.accept()
    by_path = {(await peer.head()).start.split(" ")[1]: peer for peer in (first, second)}
    await stream.cancel()
    assert await by_path["/"].ended()
    await by_path["/other"].send(answer("200 OK", body=b"alive"))
    assert bytes((await other.done()).body) == b"alive"


async def test_a_lost_connection_ends_all_its_streams(ends: Ends, public: Connection) -> None:
    for _ in range(10):
        await public.open("GET", "/")
    backends = [await ends.backend.accept() for _ in range(10)]
    for backend in backends:
        await backend.head()
    public.peer.drop()
    for backend in backends:
        assert await backend.ended()


async def test_an_answer_that_breaks_off_resets_the_stream(ends: Ends, public: Connection) -> None:
    stream = await public.open("GET", "/")
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    assert await stream.received(4) == b"half"
    await backend.close()
    await stream.done()
    assert (stream.ended, stream.reset) == (False, 2)


async def test_errors(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "up.example=http://127.0.0.1:1")
    public = await connect_http2(stack, tunnel.host, tunnel.port)
    stream = await public.ask("GET", "/path?secret", authority="other.example")
    assert (stream.status, stream.field("content-type")) == (404, "text/plain; charset=utf-8")
    assert b"other.example/path" in stream.body
    assert b"secret" not in stream.body
    assert (await public.ask("GET", "/", authority="up.example")).status == 502
    assert (await public.ask("GET", "/" + "a" * 20_000, authority="up.example")).status == 414
    assert (await public.ask("GET", "/", ("x", "a" * 70_000), authority="up.example")).status == 431
    stream = await public.open("POST", "/", end=False, authority="other.example")
    await stream.done()
    assert stream.status == 404


async def test_input_cut_at_every_byte(ends: Ends, public: Connection) -> None:
    number = public.protocol.get_next_available_stream_id()
    stream = await public.open("POST", "/cut", ("x-field", "value"), end=False)
    second = public.protocol.get_next_available_stream_id()
    public.protocol.send_data(number, b"a body", end_stream=True)
    public.protocol.send_headers(
        second, [(":method", "GET"), (":scheme", "http"), (":path", "/2"), (":authority", "a")], end_stream=True
    )
    await public.peer.send_bytewise(public.protocol.data_to_send())
    first, other = await ends.backend.accept(), await ends.backend.accept()
    head = await first.head()
    assert (head.start, head.get("x-field")) == ("POST /cut HTTP/1.1", "value")
    assert (await first.body(head))[0] == b"a body"
    assert (await other.head()).start == "GET /2 HTTP/1.1"
    await first.send(answer("200 OK", body=b"x"))
    await other.send(answer("200 OK"))
    assert bytes((await stream.done()).body) == b"x"


# -- with httpx, and a backend that many can use


async def echo(request: web.Request) -> web.StreamResponse:
    """The body comes back as it comes in."""
    response = web.StreamResponse(headers={"X-Path": request.path_qs})
    await response.prepare(request)
    async for piece in request.content.iter_any():
        await response.write(piece)
    return response


@pytest.fixture
async def site(stack: AsyncExitStack) -> Tunnel:
    return await start_tunnel(stack, await start_web(stack, web.route("*", "/{path:.*}", echo)))


@pytest.fixture
async def client(stack: AsyncExitStack) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        http1=False, http2=True, timeout=20, limits=httpx.Limits(max_connections=1), trust_env=False
    )
    return await stack.enter_async_context(client)


async def test_httpx(site: Tunnel, client: httpx.AsyncClient) -> None:
    got = await client.post(site.url + "/path?q=1", content=b"hello")
    assert (got.http_version, got.status_code, got.content) == ("HTTP/2", 200, b"hello")
    assert got.headers["x-path"] == "/path?q=1"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_000_003, 20_000_000])
async def test_large_bodies_both_ways_at_once(site: Tunnel, client: httpx.AsyncClient, size: int) -> None:
    body = random.Random(size).randbytes(size)
    got = await client.put(site.url + "/", content=body)
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(body).digest()


async def test_many_requests_on_one_connection(site: Tunnel, client: httpx.AsyncClient) -> None:
    async def ask(number: int) -> None:
        body = random.Random(number).randbytes(number * 37 % 50_000)
        got = await client.post(f"{site.url}/{number}", content=body)
        assert (got.headers["x-path"], got.content == body) == (f"/{number}", True)

    await asyncio.gather(*(ask(number) for number in range(400)))
    assert site.server.status()["connections"] == 2, "one of the public, one of the client"
