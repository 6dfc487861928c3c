"""What the public is told when a request cannot be served, and that the connection is left in a known state."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.e2e.conftest import Ends
from tests.support.raw import Peer, answer, connect, request, start_raw
from tests.support.tunnel import Tunnel, start_server, start_tunnel

BAD_REQUESTS = {
    "no version": b"GET /\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host of another target": b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "target without a host": b"GET http:///a HTTP/1.1\r\nHost:\r\n\r\n",
    "CR before the request": b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\x00z\r\n\r\n",
    "field name with a slash": b"GET / HTTP/1.1\r\nHost: a\r\nX/Y: z\r\n\r\n",
    "target without a slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "target with a control character": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "length and chunked": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a list as length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd",
    "negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc",
    "length with a plus": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "length above 64 bits": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\na",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "coding that is not chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
    "parameters of chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "control byte in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
    "host with an open bracket": b"GET / HTTP/1.1\r\nHost: [x\r\n\r\n",
    "names of fields without end": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b"x," * 65 + b"\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nHost: a\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
}


@pytest.fixture
async def tunnel(stack: AsyncExitStack) -> Tunnel:
    """One whose backend must never be asked."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url)
    stack.callback(lambda: check_never_asked(backend.waiting))
    return tunnel


def check_never_asked(connections: int) -> None:
    assert connections == 0, "the request has reached the backend"


async def public(stack: AsyncExitStack, tunnel: Tunnel) -> Peer:
    return await connect(stack, tunnel.host, tunnel.port)


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_malformed_request_is_400_and_the_connection_ends(
    stack: AsyncExitStack, tunnel: Tunnel, name: str
) -> None:
    peer = await public(stack, tunnel)
    got = await peer.ask(BAD_REQUESTS[name])
    assert got.status == 400
    assert got.head.get("connection") == "close"
    assert got.body.startswith(b"400: "), "it says why"
    assert await peer.ended()


async def test_a_malformed_request_behind_a_good_one(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK", body=b"good"))
    assert (await public.answer()).body == b"good"
    got = await public.ask(b"GET / HTTP/1.1\r\n\r\n")
    assert (got.status, got.head.get("connection")) == (400, "close")
    assert await public.ended()


async def test_a_coding_that_is_not_known_is_501(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    peer = await public(stack, tunnel)
    got = await peer.ask(request("POST", "/", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n")
    assert (got.status, got.head.get("connection")) == (501, "close")
    assert await peer.ended()


async def test_an_unknown_method_is_501(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    assert (await (await public(stack, tunnel)).ask(request("BREW", "/pot"))).status == 501


async def test_connect_is_405(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    got = await (await public(stack, tunnel)).ask(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
    assert got.status == 405
    assert got.head.get("allow")


async def test_a_target_above_the_limit_is_414(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    got = await (await public(stack, tunnel)).ask(request("GET", "/" + "a" * 16_384))
    assert (got.status, got.head.get("connection")) == (414, "close")


@pytest.mark.parametrize("fields", [["X: " + "a" * 65_536], ["X: " + "a" * 100] * 700])
async def test_a_head_above_the_limit_is_431(stack: AsyncExitStack, tunnel: Tunnel, fields: list[str]) -> None:
    got = await (await public(stack, tunnel)).ask(request("GET", "/", *fields))
    assert (got.status, got.head.get("connection")) == (431, "close")


async def test_a_head_that_never_ends_is_431(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    """Refused once it is too large, not when it is complete."""
    peer = await public(stack, tunnel)
    await peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000)
    assert (await peer.answer()).status == 431


async def test_a_head_at_the_limit_passes(ends: Ends) -> None:
    large = "a" * 60_000
    public, backend, head = await ends.pass_on(request("GET", "/" + "b" * 4000, f"X-Large: {large}"))
    assert head.get("x-large") == large
    await backend.send(answer("200 OK", f"X-Large: {large}"))
    assert (await public.answer()).head.get("x-large") == large


async def test_a_head_that_takes_too_long_is_408(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url, server={"head_timeout_s": 0.1})
    peer = await public(stack, tunnel)
    await peer.send(b"GET / HTTP/1.1\r\nHo")
    assert (await peer.answer()).status == 408
    assert await peer.ended()
    silent = await public(stack, tunnel)
    assert await silent.ended(), "a connection that says nothing at all is closed as well"


async def test_no_route_is_a_helpful_404(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, f"shop.example={backend.url}")
    peer = await public(stack, tunnel)
    for _ in range(2):  # the connection can go on
        got = await peer.ask(request("GET", "/cart?secret=1", host="blog.example"))
        assert got.status == 404
        assert (got.head.get("content-type") or "").startswith("text/plain")
        assert b"blog.example/cart" in got.body, "it says what was asked for"
        assert b"secret" not in got.body
        assert b"fasttunnel client --server" in got.body, "and what to do"
    got = await peer.ask(request("HEAD", "/", host="blog.example"), "HEAD")
    assert got.status == 404
    await peer.send(request("GET", "/", host="shop.example"))
    served = await backend.accept()
    assert (await served.head()).get("host") == "shop.example"
    await served.send(answer("200 OK", body=b"shop"))
    assert (await peer.answer()).body == b"shop"


async def test_no_route_with_a_body(stack: AsyncExitStack) -> None:
    """The body has been asked for by nobody: it is not taken for the next request."""
    server = await start_server(stack)
    peer = await connect(stack, *server.address)
    body = request("GET", "/smuggled")
    got = await peer.ask(request("POST", "/", body=body))
    assert got.status == 404
    rest = await peer.to_end()
    assert rest == b"", "no second answer"


async def test_a_page_of_ours_cannot_carry_a_script(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    peer = await connect(stack, *server.address)
    got = await peer.ask(request("GET", "/<script>alert(1)</script>", host="x.example"))
    assert got.status == 404
    assert (got.head.get("content-type") or "").startswith("text/plain")
    assert got.head.get("x-content-type-options") == "nosniff"


async def test_a_backend_that_is_down_is_502(ends: Ends) -> None:
    await ends.backend.stop()
    public = await ends.public()
    for _ in range(3):
        got = await public.ask(request("GET", "/"))
        assert got.status == 502
        assert b"the backend cannot be reached" in got.body
        assert b"127.0.0.1" not in got.body
    assert len([line for line in ends.tunnel.client_events.lines if line.startswith("backend")]) == 1, "not each time"
    got = await public.ask(request("POST", "/", body=b"x" * 1000))
    assert got.status == 502
    assert (await ends.tunnel.events.record()).reset == 3


async def test_a_backend_that_closes_without_an_answer_is_502(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.close()
    got = await public.answer()
    assert (got.status, got.head.get("connection")) == (502, None)
    _, backend, _ = await ends.pass_on(request("GET", "/"), public)  # and the connection can go on
    await backend.send(answer("200 OK", body=b"up"))
    assert (await public.answer()).body == b"up"


BAD_ANSWERS = {
    "not HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "bad field name": b"HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n",
    "length above 64 bits": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "101 out of the blue": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "head above the limit": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_malformed_answer_is_502(ends: Ends, name: str) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(BAD_ANSWERS[name])
    got = await public.answer()
    assert got.status == 502
    assert await backend.ended(), "nothing more is wanted from it"
    _, backend, _ = await ends.pass_on(request("GET", "/"), public)
    await backend.send(answer("200 OK", body=b"better"))
    assert (await public.answer()).body == b"better"


async def test_an_answer_to_nothing_closes_the_backends_connection(ends: Ends) -> None:
    """Bytes behind an answer must never become the answer to somebody else's request."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK", body=b"mine") + answer("200 OK", body=b"poison"))
    assert (await public.answer()).body == b"mine"
    assert await backend.ended()
    _, backend, _ = await ends.pass_on(request("GET", "/"), public)
    await backend.send(answer("200 OK", body=b"clean"))
    assert (await public.answer()).body == b"clean"


# -- once the status is out only the missing end can tell that something went wrong


async def test_a_chunked_answer_that_breaks_off_is_not_completed(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    assert (await public.head()).status == 200
    assert await public.chunk() == b"half"
    await backend.close()
    assert await public.ended(), "no last chunk"


async def test_an_answer_shorter_than_its_length_is_not_filled_up(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    assert (await public.head()).get("content-length") == "100"
    assert await public.exactly(4) == b"half"
    await backend.close()
    assert await public.ended()


async def test_a_bad_chunk_in_an_answer_breaks_it_off(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    assert (await public.head()).status == 200
    assert await public.chunk() == b"half"
    await backend.send(b"-1\r\nx\r\n")
    assert await public.ended()
    assert await backend.ended()


async def test_an_answer_to_http_1_0_that_breaks_off_ends_with_a_reset(ends: Ends) -> None:
    """Its body ends with the connection, so a clean end would say that it is complete."""
    public, backend, _ = await ends.pass_on(b"GET / HTTP/1.0\r\n\r\n")
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    assert await public.head()
    assert await public.exactly(4) == b"half"
    await backend.close()
    with pytest.raises(ConnectionResetError):
        await public.to_end()


@pytest.mark.parametrize(
    "bad",
    [
        b"x\r\n",
        b"5\r\nhelloX\r\n",
        b"-5\r\n",
        b"0x5\r\n",
        b"fffffffffffffffff\r\n",
        b"5;\x00\r\n",
        b"5;a\rb\r\n",
        b"0\r\nX-T: 1\nX-U: 2\r\n\r\n",
        b"0\r\nX-T: 1\r\n folded\r\n\r\n",
        b"0\r\n\n",
        pytest.param(b"0\r\nX-T: " + b"a" * 70_000, id="large trailers"),
        pytest.param(b"1;" + b"a" * 70_000, id="large chunk extension"),
    ],
)
async def test_a_bad_chunk_in_a_request_ends_it(ends: Ends, bad: bytes) -> None:
    public, backend, _ = await ends.pass_on(request("POST", "/", "Transfer-Encoding: chunked") + b"2\r\nok\r\n")
    assert await backend.chunk() == b"ok"
    await public.send(bad)
    got = await public.answer()
    assert (got.status, got.head.get("connection")) == (400, "close")
    rest = await backend.reader.read()
    assert not rest.endswith(b"0\r\n\r\n"), "the backend must not take the request for complete"


async def test_a_request_that_breaks_off_is_not_completed_at_the_backend(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("POST", "/", "Transfer-Encoding: chunked") + b"2\r\nok\r\n")
    assert await backend.chunk() == b"ok"
    public.half_close()
    assert await backend.ended()


async def test_a_smuggled_request_is_part_of_the_body(ends: Ends) -> None:
    """What lies inside a body stays there, whatever it looks like."""
    inner = request("GET", "/smuggled")
    public, backend, head = await ends.pass_on(request("POST", "/", body=inner))
    assert (await backend.body(head))[0] == inner
    await backend.send(answer("200 OK", body=answer("200 OK", body=b"inner")))
    assert (await public.answer()).body == answer("200 OK", body=b"inner")
    await public.send(request("GET", "/next"))
    assert (await backend.head()).start == "GET /next HTTP/1.1"
    await backend.send(answer("200 OK"))
    await public.answer()


async def test_errors_of_one_connection_leave_others_alone(ends: Ends) -> None:
    good, backend, _ = await ends.pass_on(request("GET", "/good"))
    bad = [await ends.public() for _ in range(20)]
    answers = await asyncio.gather(*(peer.ask(b"GET / nonsense\r\n\r\n") for peer in bad))
    assert [got.status for got in answers] == [400] * 20
    await backend.send(answer("200 OK", body=b"good"))
    assert (await good.answer()).body == b"good"
