"""HTTP/1.1 requests and answers pass through whole and unchanged, on connections that are kept."""

import asyncio
import hashlib
import random

import pytest

from tests.e2e.conftest import Ends
from tests.support.raw import Peer, answer, request

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "REPORT"]


@pytest.mark.parametrize("method", METHODS)
async def test_method_path_query_and_body(ends: Ends, method: str) -> None:
    body = f"body of {method}\x00\xff".encode("latin-1")
    target = "/a%20b/c;d=1/%2e%2E//?q=1&q=2&%00=%ff&u=http://x/"
    public, backend, head = await ends.pass_on(request(method, target, "X-Case: KeePs", body=body))
    assert head.start == f"{method} {target} HTTP/1.1"
    assert head.get("x-case") == "KeePs"
    assert head.get("content-length") == str(len(body))
    assert await backend.exactly(len(body)) == body
    await backend.send(answer("200 OK", "X-Method: " + method, body=body[::-1]))
    got = await public.answer()
    assert (got.status, got.head.get("x-method"), got.body) == (200, method, body[::-1])
    record = await ends.tunnel.events.record()
    assert (record.protocol, record.method, record.path, record.status) == ("http", method, target.split("?")[0], 200)
    assert (record.bytes_in, record.bytes_out, record.reset) == (len(body), len(body), None)


async def test_a_get_has_no_body_at_the_backend(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(request("GET", "/"))
    assert head.get("content-length") is None
    assert head.get("transfer-encoding") is None
    await backend.send(answer("200 OK", body=b"x"))
    assert (await public.answer()).body == b"x"


async def test_keep_alive_uses_one_connection_on_each_side(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(request("GET", "/0"))
    for number in range(50):
        assert head.start == f"GET /{number} HTTP/1.1"
        body = b"%d" % number * number  # the first one is empty
        await backend.send(answer("200 OK", body=body))
        got = await public.answer()
        assert got.body == body
        assert "close" not in (got.head.get("connection") or "")
        await public.send(request("GET", f"/{number + 1}"))
        head = await backend.head()
    await backend.send(answer("200 OK"))
    await public.answer()
    assert ends.backend.waiting == 0, "the backend's connection was kept"


async def test_connection_close_of_the_public_is_kept(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(request("GET", "/", "Connection: close"))
    assert head.get("connection") is None, "the connection to the backend is another one"
    await backend.send(answer("200 OK", body=b"bye"))
    got = await public.answer()
    assert (got.body, got.head.get("connection")) == (b"bye", "close")
    assert await public.ended()


async def test_a_backend_that_closes_does_not_close_the_public(ends: Ends) -> None:
    public = await ends.public()
    for number in range(5):
        await public.send(request("GET", f"/{number}"))
        backend = await ends.backend.accept()
        assert (await backend.head()).start == f"GET /{number} HTTP/1.1"
        await backend.send(answer("200 OK", "Connection: close", body=b"%d" % number))
        await backend.close()
        got = await public.answer()
        assert (got.status, got.body) == (200, b"%d" % number)
        assert got.head.get("connection") is None


async def test_a_kept_backend_connection_that_has_closed_is_not_used(ends: Ends) -> None:
    """A backend closes idle connections without a word; the next request finds another one, whatever its method."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK", body=b"first"))
    assert (await public.answer()).body == b"first"
    await backend.close()
    await public.send(request("GET", "/again"))
    backend = await ends.backend.accept()
    assert (await backend.head()).start == "GET /again HTTP/1.1"
    await backend.send(answer("200 OK", body=b"second"))
    assert (await public.answer()).body == b"second"


async def test_a_kept_connection_that_closes_under_a_safe_request_is_replaced(ends: Ends) -> None:
    """The race of every keep-alive pool: the backend closes just as the request is on its way. GET is sent again."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK", body=b"first"))
    assert (await public.answer()).body == b"first"
    await public.send(request("GET", "/race"))
    assert (await backend.head()).start == "GET /race HTTP/1.1"
    await backend.close()
    backend = await ends.backend.accept()
    assert (await backend.head()).start == "GET /race HTTP/1.1"
    await backend.send(answer("200 OK", body=b"again"))
    assert (await public.answer()).body == b"again"


async def test_a_kept_connection_that_closes_under_a_post_is_not_replaced(ends: Ends) -> None:
    """What may have had an effect is not sent twice."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK", body=b"first"))
    assert (await public.answer()).body == b"first"
    await public.send(request("POST", "/pay", body=b"100"))
    await backend.head()
    assert await backend.exactly(3) == b"100"
    await backend.close()
    assert (await public.answer()).status == 502
    assert ends.backend.waiting == 0


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
async def test_empty_lines_before_a_request_are_ignored(ends: Ends, lines: bytes, cut: int) -> None:
    """RFC 9112 2.2, wherever reads cut them."""
    whole = lines + request("GET", "/")
    public = await ends.public()
    await public.send_bytewise(whole[:cut])
    await public.send(whole[cut:])
    backend = await ends.backend.accept()
    assert (await backend.head()).start == "GET / HTTP/1.1"
    await backend.send(answer("204 No Content"))
    assert (await public.answer()).status == 204


async def test_pipelined_requests_are_answered_in_order(ends: Ends) -> None:
    public = await ends.public()
    bodies = [b"", b"one", b"", b"three" * 1000, b"four"]
    await public.send(b"".join(request("POST" if body else "GET", f"/{n}", body=body) for n, body in enumerate(bodies)))
    backend = await ends.backend.accept()
    for number, body in enumerate(bodies):
        head = await backend.head()
        assert head.start.split(" ")[1] == f"/{number}"
        assert (await backend.body(head))[0] == body
        await backend.send(answer("200 OK", body=b"answer %d" % number))
    for number in range(len(bodies)):
        assert (await public.answer()).body == b"answer %d" % number


async def test_requests_of_many_connections_run_at_once(ends: Ends) -> None:
    """Every answer reaches the connection that asked, also when they come in the opposite order."""
    publics = [await ends.public() for _ in range(40)]
    backends = {}
    for number, public in enumerate(publics):
        await public.send(request("GET", f"/{number}"))
    for _ in publics:
        backend = await ends.backend.accept()
        backends[(await backend.head()).start.split(" ")[1]] = backend
    for number in reversed(range(len(publics))):
        await backends[f"/{number}"].send(answer("200 OK", body=b"for %d" % number))
    for number, public in enumerate(publics):
        assert (await public.answer()).body == b"for %d" % number


# -- bodies


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 1_000_003])
async def test_bodies_both_ways(ends: Ends, framing: str, size: int) -> None:
    body = random.Random(size).randbytes(size)
    public, backend, head = await ends.pass_on(
        request("POST", "/", f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked")
    )
    sending = asyncio.ensure_future(send_body(public, body, framing))
    assert head.get("content-length") == (str(size) if framing == "length" else None)
    assert head.get("transfer-encoding") == (None if framing == "length" else "chunked")
    received, _ = await backend.body(head)
    await sending
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()

    fields = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    await backend.send(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")
    sending = asyncio.ensure_future(send_body(backend, body[::-1], framing))
    got = await public.answer()
    await sending
    assert got.head.get("content-length") == (str(size) if framing == "length" else None)
    assert hashlib.sha256(got.body).digest() == hashlib.sha256(body[::-1]).digest()


async def send_body(peer: Peer, body: bytes, framing: str) -> None:
    """Chunks of uneven size, with extensions, in upper and lower case (RFC 9112 7.1)."""
    if framing == "length":
        return await peer.send(body)
    sizes, position, turn = (1, 70_000, 13, 4096, 65_536), 0, 0
    while position < len(body):
        piece = body[position : position + sizes[turn % len(sizes)]]
        size = f"{len(piece):X}" if turn % 2 else f"00{len(piece):x};name=value"
        await peer.send(size.encode() + b"\r\n" + piece + b"\r\n")
        position += len(piece)
        turn += 1
    await peer.send(b"0\r\n\r\n")


async def test_a_body_that_ends_with_the_backends_connection(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    body = random.Random(1).randbytes(300_000)
    await backend.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    await backend.close()
    got = await public.answer()
    assert got.head.get("transfer-encoding") == "chunked"
    assert got.body == body
    await public.send(request("GET", "/next"))  # the public's connection lives on
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send(answer("200 OK", body=b"next"))
    assert (await public.answer()).body == b"next"


async def test_chunks_travel_one_by_one_both_ways(ends: Ends) -> None:
    """Neither direction waits for more than it has: each chunk arrives before the next one is sent."""
    public, backend, head = await ends.pass_on(request("POST", "/", "Transfer-Encoding: chunked"))
    assert head.get("transfer-encoding") == "chunked"
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await public.head()).status == 200
    for number in range(20):
        question, reply = b"question %d" % number, b"reply %d" % number
        await public.send(b"%x\r\n%b\r\n" % (len(question), question))
        assert await backend.chunks(len(question)) == question
        await backend.send(b"%x\r\n%b\r\n" % (len(reply), reply))
        assert await public.chunks(len(reply)) == reply
    await public.send(b"0\r\n\r\n")
    assert await backend.chunk() == b""
    assert await backend.trailers() == []
    await backend.send(b"0\r\n\r\n")
    assert await public.chunk() == b""
    assert await public.trailers() == []


async def test_trailers_both_ways(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(
        request("POST", "/", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: X-Sum") + b"3\r\nabc\r\n0\r\n"
        b"X-Sum: 1\r\nX-Sum: 2\r\nContent-Length: 5\r\n\r\n"
    )
    assert head.get("te") == "trailers"
    assert await backend.body(head) == (b"abc", [("x-sum", "1"), ("x-sum", "2")])
    await backend.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Time\r\n\r\n4\r\nabcd\r\n0\r\n"
        "X-Time: 5\r\nX-Empty:\r\nHost: evil\r\n\r\n"
    )
    got = await public.answer()
    assert (got.body, got.trailers) == (b"abcd", [("x-time", "5"), ("x-empty", "")])


# -- answers without a body, interim and early answers


async def test_head_keeps_the_length_and_has_no_body(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(request("HEAD", "/file"))
    assert head.start == "HEAD /file HTTP/1.1"
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: x\r\n\r\n")
    got = await public.answer("HEAD")
    assert (got.head.get("content-length"), got.head.get("etag")) == ("1000000", "x")
    await public.send(request("GET", "/file"))  # nothing of a body is in the way
    assert (await backend.head()).start == "GET /file HTTP/1.1"
    await backend.send(answer("200 OK", body=b"file"))
    assert (await public.answer()).body == b"file"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_that_never_have_a_body(ends: Ends, status: str) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    length = "Content-Length: 77\r\n" if status.startswith("304") else ""
    await backend.send(f"HTTP/1.1 {status}\r\nETag: x\r\n{length}\r\n")
    got = await public.answer()
    assert got.status == int(status[:3])
    assert got.head.get("etag") == "x"
    assert got.head.get("transfer-encoding") is None
    assert got.head.get("content-length") == ("77" if status.startswith("304") else None)
    await public.send(request("GET", "/next"))
    await backend.head()
    await backend.send(answer("200 OK", body=b"next"))
    assert (await public.answer()).body == b"next"


@pytest.mark.parametrize(
    "status", ["206 Partial Content", "301 Moved Permanently", "418 I'm a Teapot", "503 Busy", "599 X"]
)
async def test_status_codes_pass(ends: Ends, status: str) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer(status, "Location: /there", body=b"text"))
    got = await public.answer()
    assert (got.status, got.head.get("location"), got.body) == (int(status[:3]), "/there", b"text")


async def test_expect_continue_comes_from_the_backend(ends: Ends) -> None:
    body = b"the body" * 1000
    public, backend, head = await ends.pass_on(
        request("PUT", "/", "Expect: 100-continue", f"Content-Length: {len(body)}")
    )
    assert head.get("expect") == "100-continue"
    await backend.send("HTTP/1.1 100 Continue\r\n\r\n")
    assert (await public.head()).start == "HTTP/1.1 100 Continue"
    await public.send(body)
    assert await backend.exactly(len(body)) == body
    await backend.send(answer("201 Created", body=b"made"))
    got = await public.answer()
    assert (got.status, got.body) == (201, b"made")


async def test_expect_continue_may_be_refused(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(
        request("PUT", "/", "Expect: 100-continue", "Content-Length: 1000000000000")
    )
    await backend.send(answer("417 Expectation Failed", "Connection: close", body=b"no"))
    got = await public.answer()
    assert (got.status, got.body, got.head.get("connection")) == (417, b"no", "close")
    assert await public.ended()


async def test_interim_answers_pass_in_order(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n\r\n")
    head = await public.head()
    assert (head.status, head.all("link")) == (103, ["</a.css>; rel=preload", "</b.js>"])
    await backend.send("HTTP/1.1 102 Processing\r\n\r\n")
    assert (await public.head()).status == 102
    await backend.send(answer("200 OK", body=b"page"))
    got = await public.answer()
    assert (got.status, got.body) == (200, b"page")


async def test_an_answer_before_the_request_body_has_ended(ends: Ends) -> None:
    """The answer is complete at once; the rest of the request is no longer wanted, and the next connection is fine."""
    public, backend, head = await ends.pass_on(request("POST", "/", "Content-Length: 10000000") + b"beginning")
    assert head.get("content-length") == "10000000"
    assert await backend.exactly(9) == b"beginning"
    await backend.send(answer("403 Forbidden", body=b"stop"))
    got = await public.answer()
    assert (got.status, got.body, got.head.get("connection")) == (403, b"stop", "close")
    public.half_close()
    assert await public.ended()
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK", body=b"fine"))
    assert (await public.answer()).body == b"fine"


async def test_an_early_answer_reaches_a_peer_that_is_still_sending(ends: Ends) -> None:
    """A peer that sends first and reads later still finds the answer: the connection is not reset under it."""
    public, backend, _ = await ends.pass_on(request("POST", "/", "Content-Length: 10000000"))
    await backend.send(answer("413 Content Too Large", body=b"too much"))
    await ends.tunnel.events.record()  # the exchange is over; the peer has not noticed
    await public.send(b"x" * 3_000_000)
    got = await public.answer()
    assert (got.status, got.body) == (413, b"too much")


async def test_an_answer_that_begins_early_lets_the_request_go_on(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("POST", "/", "Content-Length: 6"))
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nearl")
    assert (await public.head()).status == 200
    assert await public.exactly(4) == b"earl"
    await public.send(b"abcdef")
    assert await backend.exactly(6) == b"abcdef"
    await backend.send(b"iest")
    assert await public.exactly(4) == b"iest"


# -- headers, HTTP/1.0, half-closed peers, cut input


async def test_fields_keep_order_duplicates_and_bytes(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(
        request("GET", "/", "Cookie: a=1; b=2", "X-Many: 1", "Accept: text/html, */*;q=0.1", "X-Many: 2", "X-Empty:")
    )
    assert head.all("x-many") == ["1", "2"]
    assert (head.get("cookie"), head.get("accept"), head.get("x-empty")) == ("a=1; b=2", "text/html, */*;q=0.1", "")
    await backend.send(
        answer("200 OK", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2, with comma", "X-Latin: caf\xe9", "Date: then")
    )
    got = await public.answer()
    assert got.head.all("set-cookie") == ["a=1; Path=/", "b=2, with comma"]
    assert (got.head.get("x-latin"), got.head.get("date")) == ("caf\xe9", "then")


async def test_http_1_0(ends: Ends) -> None:
    """Its answer is never chunked and ends with the connection, and it gets no interim answers."""
    public, backend, head = await ends.pass_on(b"GET /old HTTP/1.0\r\n\r\n")
    assert head.start == "GET /old HTTP/1.1"
    assert head.get("host")
    await backend.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await backend.send("3\r\nabc\r\n3\r\ndef\r\n0\r\nX-Trailer: lost\r\n\r\n")
    got = await public.answer()
    assert (got.status, got.head.get("transfer-encoding"), got.body) == (200, None, b"abcdef")


@pytest.mark.differs("asyncio server", "h11 closes after each HTTP/1.0 request, as RFC 9112 9.3 allows")
async def test_http_1_0_keep_alive(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(b"GET / HTTP/1.0\r\nHost: old.example\r\nConnection: keep-alive\r\n\r\n")
    await backend.send(answer("200 OK", body=b"one"))
    got = await public.answer()
    assert (got.body, got.head.get("connection")) == (b"one", "keep-alive")
    await public.send(b"GET / HTTP/1.0\r\nHost: old.example\r\n\r\n")
    assert (await backend.head()).get("host") == "old.example"
    await backend.send(answer("200 OK", body=b"two"))
    assert (await public.answer()).body == b"two"
    assert await public.ended()


async def test_an_http_1_0_backend(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold backend")
    await backend.close()
    assert (await public.answer()).body == b"old backend"


async def test_a_peer_that_closes_its_half_gets_its_answer(ends: Ends) -> None:
    public = await ends.public()
    await public.send(request("POST", "/", body=b"all I have to say"))
    public.half_close()
    backend = await ends.backend.accept()
    head = await backend.head()
    assert (await backend.body(head))[0] == b"all I have to say"
    await backend.send(answer("200 OK", body=b"understood"))
    assert (await public.answer()).body == b"understood"
    assert await public.ended()


async def test_input_cut_at_every_byte(ends: Ends) -> None:
    """Both far sides send byte by byte: heads, chunk sizes, trailers, two requests behind each other."""
    public = await ends.public()
    first = request("POST", "/first?x=1", "Transfer-Encoding: chunked", "X-A: b")
    first += b'5\r\nhello\r\n7;ext="v"\r\n, world\r\n0\r\nX-Sum: 12\r\n\r\n'
    second = request("PUT", "/second", body=b"second body")
    sending = asyncio.ensure_future(public.send_bytewise(first + second))
    backend = await ends.backend.accept()
    head = await backend.head()
    assert (head.start, head.get("x-a")) == ("POST /first?x=1 HTTP/1.1", "b")
    assert await backend.body(head) == (b"hello, world", [("x-sum", "12")])
    reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\n\r\n"
    await backend.send_bytewise(reply + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: u\r\n\r\n")
    got = await public.answer()
    assert (got.head.get("set-cookie"), got.body, got.trailers) == ("a", b"abc0123456789", [("x-t", "u")])
    await sending
    head = await backend.head()
    assert head.start == "PUT /second HTTP/1.1"
    assert (await backend.body(head))[0] == b"second body"
    await backend.send_bytewise(answer("200 OK", body=b"second answer"))
    assert (await public.answer()).body == b"second answer"


@pytest.mark.parametrize("cut", range(0, 120, 7))
async def test_requests_cut_in_two(ends: Ends, cut: int) -> None:
    whole = request("POST", "/cut", "X-Field: value", body=b"a body") + request("GET", "/after")
    public = await ends.public()
    await public.send(whole[:cut])
    await asyncio.sleep(0)
    await public.send(whole[cut:])
    backend = await ends.backend.accept()
    head = await backend.head()
    assert (await backend.body(head))[0] == b"a body"
    await backend.send(answer("200 OK", body=b"1"))
    assert (await public.answer()).body == b"1"
    assert (await backend.head()).start == "GET /after HTTP/1.1"
    await backend.send(answer("200 OK", body=b"2"))
    assert (await public.answer()).body == b"2"
