"""Heads against httptools, and against h11 where httptools is not the better opinion (RFC 9112 2 to 6)."""

import re
from functools import partial
from typing import Any

import h11
import httptools
from hypothesis import assume, given
from hypothesis import strategies as st

from fasttunnel._core import Head, HeadParser, KernelError, host_ok, known_methods, parse_fields, parse_trailers
from fasttunnel.reference import fields as reference
from tests.differential.conftest import examples
from tests.support.feeding import feed_every_way
from tests.support.http1_strategies import bad_requests, field_lines, replies, request_fields, requests, trailer_lines

Fields = list[tuple[bytes, bytes]]
REQUEST, ANSWER = HeadParser, partial(HeadParser, False)
SOCKET = b"sec-websocket-"


class Seen:
    """A head as httptools reads it; `error` when it does not."""

    def __init__(self, data: bytes, is_request: bool) -> None:
        self.fields: Fields = []
        self.url: bytes | None = None
        self.error: str | None = None
        self.complete = False
        parser: Any = httptools.HttpRequestParser(self) if is_request else httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self.error = str(error)
        if not self.complete:
            self.error = self.error or "incomplete"
            return
        self.error = None  # what follows the head is another matter
        self.version = parser.get_http_version()
        self.method = parser.get_method() if is_request else None
        self.status = 0 if is_request else parser.get_status_code()

    def on_url(self, url: bytes) -> None:
        self.url = (self.url or b"") + url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def ours(make: Any, data: bytes) -> Head | str:
    """The head, or the reason of its refusal, however it comes."""
    outcome = feed_every_way(make, data)
    if outcome.error:
        try:
            make().feed(data)  # by hand: for the text, which feed_every_way leaves out
        except KernelError as error:
            return error.text
    [head] = outcome.items
    assert isinstance(head, Head)
    return head


def expected_target(url: bytes) -> bytes:
    absolute = re.fullmatch(rb"(?i:https?)://[^/?]*(.*)", url)
    return url if absolute is None else b"/" + absolute[1].removeprefix(b"/")


def passing(fields: Fields, *, is_request: bool) -> Fields:
    """Which of them go on, by the rules of the asyncio engine."""
    handshake = b"upgrade" in reference.tokens(fields, b"connection")
    going = []
    for name, value in fields:
        key = name.lower()
        if key == b"host" or (is_request and reference.is_forwarding(name)):
            continue
        taken = handshake and key != b"sec-websocket-extensions"
        # Framing and the fields of a handshake are not for Connection to take away.
        if key == b"content-length" or (key[:14] == SOCKET and not taken):
            going.append((name, value))
        elif key[:14] != SOCKET:
            named = [field for field in fields if field[0].lower() == b"connection"]
            kept = reference.to_tunnel([*named, (name, value)])
            going += [(name, header.value) for header in kept]
    return going


def check_alike(head: Head, data: bytes, seen: Seen, *, is_request: bool) -> None:
    fields = parse_fields(lines_of(data))
    assert sorted(fields) == sorted(seen.fields)  # httptools gives out some values late
    assert head.fields == passing(fields, is_request=is_request)
    assert head.http10 == (seen.version == "1.0")
    assert (head.method, head.status) == (seen.method, seen.status)
    options = reference.tokens(fields, b"connection")
    assert head.keep_alive == (b"close" not in options and (not head.http10 or b"keep-alive" in options))
    lengths = reference.get_all(fields, b"content-length")
    assert head.content_length == (int(lengths[0]) if lengths else 0)
    assert (head.body == "length") == bool(head.content_length)
    assert (head.body == "chunked") == (reference.get(fields, b"transfer-encoding") is not None)
    if is_request:
        assert seen.url is not None
        assert head.target == expected_target(seen.url)


# -- valid heads


@examples(300)
@given(requests())
def test_requests(asked: Any) -> None:
    head = ours(REQUEST, asked.head)
    assert isinstance(head, Head), head
    seen = Seen(asked.head, True)
    assert seen.error is None
    check_alike(head, asked.head, seen, is_request=True)
    event = next_event(h11.SERVER, asked.head)
    assert (event.method, event.http_version) == (head.method, b"1.0" if head.http10 else b"1.1")
    assert [(bytes(n), bytes(v)) for n, v in event.headers.raw_items()] == lower_coding(
        parse_fields(lines_of(asked.head))
    )


@examples(300)
@given(st.sampled_from(["GET", "HEAD"]).flatmap(replies))
def test_answers(reply: Any) -> None:
    data = b"".join(reply.parts)
    while True:
        text, end, rest = data.partition(b"\r\n\r\n")
        answer = text + end
        head = ours(ANSWER, answer)
        assert isinstance(head, Head), head
        seen = Seen(answer, False)
        assert seen.error is None
        check_alike(head, answer, seen, is_request=False)
        if head.status >= 200:
            break
        data = rest


def next_event(role: Any, data: bytes) -> Any:
    connection = h11.Connection(role, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    return connection.next_event()


def lines_of(data: bytes) -> bytes:
    return data.partition(b"\r\n")[2]


def lower_coding(fields: Fields) -> Fields:
    """As h11 gives them."""
    return [(n, v.lower() if n.lower() == b"transfer-encoding" else v) for n, v in fields]


# -- heads that are none, or not whole

# Why the kernel refuses what httptools takes: what it says, and what the head looks like then. RFC 9112 lets a
# recipient refuse all of these.
STRICTER = {
    "lines end in CR LF, and nothing else is one": ("bare CR or LF, or NUL, in the head", b""),
    "one space between the parts of a start line": ("bad start line", rb"[^\r]*  "),
    "a request names a version": ("bad start line", rb"[^\r ]* [^\r ]*\r"),
    "HTTP, not RTSP or ICE": ("bad start line", rb"[^\r]*(RTSP|ICE)/"),
    "no status below 100": ("bad start line", rb"HTTP/1\.[01] 0"),
    "no empty lines before an answer": ("bad start line", rb"\r\n"),
    "HTTP/1.0 and 1.1": ("unsupported HTTP version", rb"[^\r]*HTTP/(0\.9|2\.0)"),
    "a target of the four forms, without a fragment": ("bad request target", b""),
    "a length has 19 digits at most, and at least one": (
        "bad Content-Length",
        rb"(?is).*\ncontent-length:[ \t]*(\d{20}|\r)",
    ),
    "no coding but chunked, and none in HTTP/1.0": ("unsupported Transfer-Encoding", b""),
    "one coding": ("two Transfer-Encodings", b""),
    "a request has one host": ("one Host field is required", b""),
    "which is that of its target": ("Host differs from the request target", b""),
    "and is a name or an address": ("bad Host", b""),
    "Connection names 64 fields at most": ("too many options in Connection", b""),
    "no CONNECT": ("CONNECT is not served here", b"CONNECT "),
    "protocols are ASCII": ("bad Sec-WebSocket-Protocol", b""),
}

GARBAGE = st.sampled_from(
    [
        b"",
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b":",
        b",",
        b"\0",
        b"\x01",
        b"\x7f",
        b"\x80",
        b"0",
        b"9",
        b"x",
        b"/",
        b"[",
        b"#",
    ]
) | st.binary(max_size=2)
HARD = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"content-length:5 \t",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding:\tChunked \t",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Connection: close, x-a",
        b"Connection: keep-alive\t,Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: a",
        b"Sec-WebSocket-Protocol: a, b",
        b"Host: a",
        b"Host: b",
        b"Host:",
    ]
)
STARTS = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a?b HTTP/1.0",
        b"OPTIONS * HTTP/1.1",
        b"GET http://a/b HTTP/1.1",
        b"GET HTTPS://a?b HTTP/1.1",
    ]
)
STATUS_LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.0 404", b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 999 "]
)


@st.composite
def mutated(draw: st.DrawFn, starts: Any) -> bytes:
    """A head with a byte or two of garbage in it, or with fields that do not go together, or both."""
    lines = [draw(starts), *draw(st.lists(HARD | request_fields | field_lines(), max_size=5))]
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n")
    assume(len(data) < 2000)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data) - 4))
        data[place : place + draw(st.integers(0, 2))] = draw(GARBAGE)
    return bytes(data)


def check_mutated(make: Any, data: bytes, *, is_request: bool) -> None:
    data = data[: data.find(b"\r\n\r\n") + 4]
    assume(len(data) > 4 and not (is_request and data[:1] in b"\r\n"))
    head, seen = ours(make, data), Seen(data, is_request)
    if isinstance(head, Head):
        assert seen.error is None, f"only the kernel takes {data!r}: {seen.error}"
        check_alike(head, data, seen, is_request=is_request)
    elif seen.error is None:
        reasons = [pattern for text, pattern in STRICTER.values() if text == head]
        assert any(re.match(pattern, data) for pattern in reasons), f"only httptools takes {data!r}: {head}"


@examples(1500)
@given(mutated(STARTS))
def test_mutated_requests(data: bytes) -> None:
    check_mutated(REQUEST, data, is_request=True)


@examples(300)
@given(bad_requests())
def test_bad_requests(data: bytes) -> None:
    check_mutated(REQUEST, data, is_request=True)


@examples(1500)
@given(mutated(STATUS_LINES))
def test_mutated_answers(data: bytes) -> None:
    check_mutated(ANSWER, data, is_request=False)


# -- parts of them


@examples(1000)
@given(st.text("aZ0.-_~:[]/@,; \xe9", max_size=8).map(lambda text: text.encode("latin-1")) | st.binary(max_size=6))
def test_hosts(host: bytes) -> None:
    assert host_ok(host) == bool(reference._HOST.fullmatch(host))


def test_methods_are_those_of_the_asyncio_engine_and_httptools() -> None:
    from fasttunnel.reference.http1 import METHODS

    assert set(known_methods()) == METHODS
    for method in METHODS:
        target = b"a:1" if method == b"CONNECT" else b"/"
        assert Seen(b"%s %s HTTP/1.1\r\nHost: a\r\n\r\n" % (method, target), True).error is None


@examples(200)
@given(st.lists(field_lines() | trailer_lines, max_size=5))
def test_trailers(lines: list[bytes]) -> None:
    section = b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    fields = parse_fields(section)
    going = [field for field in fields if field[0].lower() not in reference.HOP_BY_HOP]
    assert parse_trailers(section) == reference.in_trailers(going)
    split = [line.partition(b":") for line in lines]
    assert fields == [(name, value.strip(b" \t")) for name, _, value in split]
