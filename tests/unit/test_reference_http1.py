"""What the asyncio engine refuses of HTTP/1.1 although h11 takes it, at both ends: bytes in, events out, no sockets."""

from typing import Any

import pytest

from fasttunnel.reference.http1 import Http1Stream
from fasttunnel.reference.messages import BadMessage, Head

LIMIT = 4096
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def stream(*, public: bool) -> Http1Stream:
    nobody: Any = None
    return Http1Stream(nobody, nobody, LIMIT, public=public)


def body_of(data: bytes, *, public: bool, size: int) -> tuple[bytes, bool, BadMessage | None]:
    """What is read of a body, in reads of `size` bytes: its bytes, whether it ended, and what is wrong with it."""
    message = stream(public=public)
    start = b"POST / HTTP/1.1\r\nHost: a\r\n" if public else b"HTTP/1.1 200 OK\r\n"
    message.feed(start + CHUNKED)
    assert isinstance(message.ready_head(), Head)
    for at in range(0, len(data), size):
        message.feed(data[at : at + size])
        message._read_body()
    body = b""
    while piece := message.take():
        body += piece
    return body, message.ended, message._bad


def message_of(error: BadMessage, *, public: bool) -> BadMessage:
    """What `more()` makes of it."""
    return stream(public=public)._blamed(error)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("public", [True, False])
def test_a_chunked_body(public: bool, size: int) -> None:
    data = b'5\r\nhello\r\n007;ext="v"\r\n\r\n0\r\n \r\r\nA \r\n0123456789\r\n00\r\nX-Sum: 22\r\n\r\n'
    assert body_of(data, public=public, size=size) == (b"hello\r\n0\r\n \r0123456789", True, None)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize(
    "bad",
    [
        b"x\r\n",
        b"1 1\r\n",
        b"\r\n",
        b"fffffffffffffffff\r\n",
        b"1;a\rb\r\nx\r\n",
        b"1;\x00\r\nx\r\n",
        b"1;a\nb\r\nx\r\n",
        b"1;" + b"a" * LIMIT,
        b"0\r\nX-T: 1\nX-U: 2\r\n\r\n",
        b"0\r\nX-T: 1\r\n folded\r\n\r\n",
        b"0\r\nX-T: \x01\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nX-T: " + b"a" * LIMIT,
    ],
    ids=lambda bad: repr(bad[:20]),
)
def test_a_bad_chunk_behind_a_good_one(bad: bytes, public: bool, size: int) -> None:
    body, ended, error = body_of(b"2\r\nok\r\n" + bad + b"\r\n\r\n", public=public, size=size)
    assert (body, ended) == (b"ok", False)
    assert error is not None
    assert message_of(error, public=public).status == (400 if public else 502)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:\r\n\r\n", 400),
    ],
)
def test_a_bad_request(head: bytes, status: int) -> None:
    message = stream(public=True)
    message.feed(head)
    with pytest.raises(BadMessage) as error:
        message.ready_head()
    assert error.value.status == status


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x7f\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
async def test_a_bad_answer(head: bytes) -> None:
    message = stream(public=False)
    message.feed(head)
    with pytest.raises(BadMessage) as error:
        await message.next_head()
    assert error.value.status == 502
