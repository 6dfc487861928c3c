"""HTTP/1.1 bodies and the end of a head (RFC 9112 6, 7)."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fasttunnel._core import Body, HeadEnd, KernelError
from tests.support.feeding import Outcome, cuts, feed_every_way

CHUNKED = partial(Body, "chunked")
E_CHUNK = -1


def read(make: Callable[[], Any], data: bytes, tail: bytes = b"") -> Outcome:
    return feed_every_way(make, data, tail=tail, view=b"".join)


def state_after(make: Callable[[], Any], data: bytes) -> str:
    body = make()
    body.feed(data)  # by hand: only the state is of interest, `read` cuts the same input
    return body.state


def test_length() -> None:
    for length in (0, 1, 10, 100_000):
        data = random.Random(length).randbytes(length)
        outcome = read(partial(Body, "length", length), data, b"GET / HTTP/1.1")
        assert (outcome.items, outcome.rest) == (data, b"")
        assert state_after(partial(Body, "length", length), data) == "done"
        if length:
            assert state_after(partial(Body, "length", length), data[:-1]) == "more"


def test_length_beyond_what_fits() -> None:
    assert read(partial(Body, "length", 2**64 - 1), b"abc").items == b"abc"


def test_none_and_until_close() -> None:
    assert read(partial(Body, "none"), b"", b"next").rest == b""
    assert state_after(partial(Body, "none"), b"") == "done"
    assert read(partial(Body, "until_close"), b"anything").items == b"anything"
    assert state_after(partial(Body, "until_close"), b"anything") == "more"


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n", b""),
        (b"5\r\nhello\r\n0\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n00\r\n", b"hello world"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n", b"01234567890123456789"),
        (b"0000000000000003\r\nabc\r\n0000000000000000\r\n", b"abc"),
        (b'3;name\r\nabc\r\n3 ;a=b;c="d e\t"\r\ndef\r\n0;last\r\n', b"abcdef"),
        (b"3  \r\nabc\r\n0\t\r\n", b"abc"),
        (b"3;\xe4\xff\r\nabc\r\n0\r\n", b"abc"),
        (b"2\r\n\r\n\r\n0\r\n", b"\r\n"),
    ],
)
@pytest.mark.parametrize("tail", [b"", b"\r\n", b"name: value\r\n\r\n", b"GET / HTTP/1.1\r\n"])
def test_chunked(data: bytes, body: bytes, tail: bytes) -> None:
    outcome = read(CHUNKED, data, tail)
    assert (outcome.items, outcome.error, outcome.rest) == (body, 0, b"")
    assert state_after(CHUNKED, data) == "trailers"
    assert state_after(CHUNKED, data[:-1]) == "more"


@pytest.mark.parametrize(
    "line",
    [
        b"\r\n",
        b";ext\r\n",
        b" 3\r\n",
        b"+3\r\n",
        b"-3\r\n",
        b"0x3\r\n",
        b"3 4\r\n",
        b"3,\r\n",
        b"3\n",
        b"3\r\r\n",
        b"3\rabc",
        b"3;a\n",
        b"3;a\rb\r\n",
        b"3;a\x00\r\n",
        b"3;a\x7f\r\n",
        b"3 a\r\n",
        b"g\r\n",
        b"3_0\r\n",
        b"\xb3\r\n",
        b"00000000000000003\r\n",  # 17 digits
        b"10000000000000000\r\n",  # 2^64
        b"3;" + b"x" * 16384 + b"\r\n",
    ],
)
def test_bad_size_lines(line: bytes) -> None:
    outcome = read(CHUNKED, b"2\r\nok\r\n" + line + b"abc\r\n0\r\n")
    assert (outcome.items, outcome.error) == (b"ok", E_CHUNK)


@pytest.mark.parametrize("end", [b"x\r\n", b"\n", b"\rx", b"\r\r\n", b"0\r\n"])
def test_data_must_end_with_its_line(end: bytes) -> None:
    outcome = read(CHUNKED, b"3\r\nabc" + end)
    assert (outcome.items, outcome.error) == (b"abc", E_CHUNK)


def test_extensions_are_bounded_over_the_whole_body() -> None:
    chunk = b"1;" + b"x" * 1023 + b"\r\na\r\n"  # 1,024 bytes with the semicolon
    assert read(CHUNKED, chunk * 16).items == b"a" * 16
    outcome = read(CHUNKED, chunk * 17)
    assert (outcome.items, outcome.error) == (b"a" * 16, E_CHUNK)


def test_largest_chunk_size() -> None:
    outcome = read(CHUNKED, b"ffffffffffffffff\r\nabc")
    assert (outcome.items, outcome.error) == (b"abc", 0)


@pytest.mark.parametrize("make", [CHUNKED, partial(Body, "length", 10), partial(Body, "until_close")])
def test_limit_bounds_pieces(make: Callable[[], Any]) -> None:
    data = b"a\r\n0123456789\r\n0\r\n" if make is CHUNKED else b"0123456789"
    body = make()
    assert body.feed(data, 0) == []  # by hand: the limit is what is tested
    assert body.state == "more"
    pieces = body.feed(b"", 4)  # by hand: same
    assert pieces == [b"0123", b"4567", b"89"]


def test_limit_0_still_consumes_framing() -> None:
    body = Body("chunked")
    assert body.feed(b"a;ext\r\n01234", 0) == []  # by hand: the limit is what is tested
    assert body.rest == b"01234"
    ended = Body("chunked")
    assert ended.feed(b"0\r\n", 0) == []  # by hand: same
    assert ended.state == "trailers"


# -- end of a head ----------------------------------------------------------------------------------------------------


def ends(data: bytes) -> set[int | None]:
    """What HeadEnd says of `data` however it is cut: an offset, None (not yet) or -1 (refused)."""
    said: set[int | None] = set()
    for parts in cuts(data):
        head = HeadEnd()
        end: int | None = None
        try:
            for part in parts:
                end = head.feed(part)  # by hand: HeadEnd gives one offset, not items; all cuts are here
                if end is not None:
                    break
        except KernelError:
            end = -1
        said.add(end)
    return said


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \tb c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"Name: " + b"v" * 3000 + b"\r\n\r\n",
        b"x: \xff\x80\r\n\r\n",
    ],
)
def test_head_end(head: bytes) -> None:
    for tail in (b"", b"\r\n", b"\n", b"\x00\x00body"):
        assert ends(head + tail) == {len(head)}
    for cut in range(min(len(head), 300)):
        assert ends(head[:cut]) == {None}


@pytest.mark.parametrize("bad", [b"\n", b"\r", b"\x00", b"\r\r\n", b"\n\r\n", b"\r\x00"])
@pytest.mark.parametrize("before", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: abcdefgh"])
def test_bare_line_ends_and_nul_are_refused(before: bytes, bad: bytes) -> None:
    assert ends(before + bad + b"name: value\r\n\r\n") == {-1}


def test_head_byte_by_byte_is_linear() -> None:
    """`scanned` is kept: 64 KiB a byte at a time must not look at 2^31 bytes."""
    head = HeadEnd()
    data = b"a" * 2000
    for i in range(len(data)):
        assert head.feed(data[i : i + 1]) is None  # by hand: the offsets are what is tested
    assert head.scanned == len(data)
    assert head.feed(b"\r") is None  # by hand: same
    assert head.scanned == len(data)  # a CR at the end is looked at again with what follows it
    assert head.feed(b"\n\r\n") == len(data) + 4  # by hand: same
