"""HTTP/1.1 heads (RFC 9112 2 to 6): what passes, what is refused and with which status."""

import re
from functools import partial
from typing import Any

import pytest

from fasttunnel._core import (
    Head,
    HeadParser,
    KernelError,
    header_same,
    host_ok,
    known_methods,
    parse_fields,
    parse_trailers,
)
from fasttunnel._core import head_status as status_of
from tests.support.feeding import feed_every_way

REQUEST = HeadParser
ANSWER = partial(HeadParser, False)
WS = "Upgrade: websocket", "Connection: Upgrade"

# HeadError
BYTES, LINE, TARGET, OLD, VERSION, METHOD, NAME, VALUE, FOLD, CONNECTION, LENGTH = range(-1, -12, -1)
LENGTHS, CODINGS, BOTH, CODING, CODING_UNKNOWN, PROTOCOL, HOSTS, HOST, AUTHORITY, CONNECT = range(-12, -22, -1)


def head(start: str, *lines: str) -> bytes:
    return "\r\n".join([start, *lines, "", ""]).encode("latin-1")


def one(make: Any, data: bytes) -> Head:
    """The one head that `data` is, however it comes."""
    outcome = feed_every_way(make, data, tail=b"G")
    assert (outcome.error, outcome.rest) == (0, b"")
    [found] = outcome.items
    assert isinstance(found, Head)
    return found


def get(*lines: str, start: str = "GET / HTTP/1.1", host: str | None = "Host: a") -> Head:
    return one(REQUEST, head(start, *([host] if host is not None else []), *lines))


def ok(*lines: str, start: str = "HTTP/1.1 200 OK") -> Head:
    return one(ANSWER, head(start, *lines))


def refused(make: Any, data: bytes) -> int:
    """The code of the refusal, which is the same however the head comes, and behind a good one."""
    outcome = feed_every_way(make, data)
    assert outcome.items == []
    assert outcome.error < 0
    good = head("GET / HTTP/1.1", "Host: a") if make is REQUEST else head("HTTP/1.1 200 OK")
    assert feed_every_way(make, good + data).error == outcome.error
    return outcome.error


def refused_get(*lines: str, start: str = "POST / HTTP/1.1", host: str | None = "Host: a") -> int:
    return refused(REQUEST, head(start, *([host] if host is not None else []), *lines))


# -- start lines


def test_a_request() -> None:
    found = get("X-A: 1", "x-b:2", start="PUT /a?b=c HTTP/1.1")
    assert (found.method, found.target, found.host, found.status) == (b"PUT", b"/a?b=c", b"a", 0)
    assert (found.http10, found.keep_alive, found.body, found.websocket) == (False, True, "none", False)
    assert found.fields == [(b"X-A", b"1"), (b"x-b", b"2")]
    assert (found.ws_key, found.traceparent, found.ws_protocols) == (None, None, 0)


def test_an_answer() -> None:
    found = ok("X-A: 1", "Host: a", "Content-Length: 5", start="HTTP/1.0 404 Not  Found\xff")
    assert (found.method, found.target, found.status) == (None, None, 404)
    assert (found.http10, found.keep_alive, found.body, found.content_length) == (True, False, "length", 5)
    assert found.fields == [(b"X-A", b"1"), (b"Content-Length", b"5")]


def test_heads_follow_one_another() -> None:
    data = head("GET /1 HTTP/1.1", "Host: a", "X: 1") + head("HEAD /2 HTTP/1.1", "Host: b") + head("POST /3 HTTP/1.0")
    outcome = feed_every_way(REQUEST, data, tail=b"GET / HTTP/1.1\r\nHost: a\r\n")
    assert [(found.target, found.host) for found in outcome.items] == [(b"/1", b"a"), (b"/2", b"b"), (b"/3", None)]


def test_methods() -> None:
    methods = known_methods()
    assert len(methods) == len(set(methods)) == 35
    assert methods[0] == b"GET"
    for method in methods:
        if method != b"CONNECT":
            assert get(start=f"{method.decode()} / HTTP/1.1").method == method
            assert refused_get(start=f"{method.decode()}X / HTTP/1.1") == METHOD
            assert refused_get(start=f"{method.decode().lower()} / HTTP/1.1") == METHOD


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ("", LINE),
        ("GET", LINE),
        ("GET ", LINE),
        ("GET /", LINE),
        ("GET / ", LINE),
        ("GET  HTTP/1.1", LINE),
        ("GET  / HTTP/1.1", LINE),
        ("GET /  HTTP/1.1", LINE),
        (" GET / HTTP/1.1", LINE),
        ("GET / HTTP/1.1 ", LINE),
        ("GET /a b HTTP/1.1", LINE),
        ("GET\t/ HTTP/1.1", LINE),
        ("GET / HTTP/1.10", LINE),
        ("GET / HTTP/1.", LINE),
        ("GET / HTTP/1", LINE),
        ("GET / HTTP/x.1", LINE),
        ("GET / HTTP/1,1", LINE),
        ("GET / http/1.1", LINE),
        ("GET / HTTPS/1.1", LINE),
        ("GET / ICE/1.1", LINE),
        ("G\xe9T / HTTP/1.1", LINE),
        ("GE:T / HTTP/1.1", LINE),
        (": / HTTP/1.1", LINE),
        ("\x16\x03\x01\x02", LINE),
        ("GET /\x01 HTTP/1.1", TARGET),
        ("GET /\t HTTP/1.1", TARGET),
        ("GET /\x7f HTTP/1.1", TARGET),
        ("GET /\xff HTTP/1.1", TARGET),
        ("GET /# HTTP/1.1", TARGET),
        ("GET a HTTP/1.1", TARGET),
        ("GET * HTTP/1.1", TARGET),
        ("OPTIONS *x HTTP/1.1", TARGET),
        ("GET ftp://a/ HTTP/1.1", TARGET),
        ("GET http:/a HTTP/1.1", TARGET),
        ("GET https:/ HTTP/1.1", TARGET),
        ("GET http:a HTTP/1.1", TARGET),
        ("GET / HTTP/0.9", OLD),
        ("GET / HTTP/1.2", VERSION),
        ("GET / HTTP/2.0", VERSION),
        ("GET / HTTP/9.9", VERSION),
        ("PRI * HTTP/2.0", VERSION),
        ("PRI * HTTP/1.1", METHOD),
        ("BREW / HTTP/1.1", METHOD),
        ("get / HTTP/1.1", METHOD),
        ("ANNOUNCE / HTTP/1.1", METHOD),
        ("! / HTTP/1.1", METHOD),
        ("CONNECT a:443 HTTP/1.1", CONNECT),
        ("CONNECT / HTTP/1.1", CONNECT),
    ],
)
def test_request_lines_refused(start: str, code: int) -> None:
    assert refused_get(start=start) == code
    statuses = {METHOD: 501, VERSION: 505, CONNECT: 405}
    assert status_of(code) == statuses.get(code, 400)


@pytest.mark.parametrize(
    "start",
    [
        "",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 2",
        "HTTP/1.1 20",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 \xb200 OK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 099 OK",
        " HTTP/1.1 200 OK",
        "http/1.1 200 OK",
        "RTSP/1.0 200 OK",
        "ICY 200 OK",
        "HTTP/1.11 200 OK",
        "GET / HTTP/1.1",
    ],
)
def test_status_lines_refused(start: str) -> None:
    assert refused(ANSWER, head(start, "X: 1")) == LINE


@pytest.mark.parametrize(("version", "code"), [("0.9", OLD), ("1.2", VERSION), ("2.0", VERSION)])
def test_versions_of_answers_refused(version: str, code: int) -> None:
    assert refused(ANSWER, head(f"HTTP/{version} 200 OK")) == code


@pytest.mark.parametrize("start", ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200  x", "HTTP/1.1 200 \x01\t\x7f\xff "])
def test_reasons_are_not_looked_at(start: str) -> None:
    assert ok(start=start).status == 200


def test_statuses() -> None:
    for status in (100, 101, 200, 304, 599, 600, 999):
        assert ok(start=f"HTTP/1.1 {status} x").status == status


# -- fields


def test_white_space_around_values_goes() -> None:
    found = get("A:", "B: ", "C:\t \t", "D:x", "E: \tx y\tz\t ", "F:  \xff\x80  ")
    values = [value for _, value in found.fields]
    assert values == [b"", b"", b"", b"x", b"x y\tz", b"\xff\x80"]


@pytest.mark.parametrize("length", [*range(40), 1000])
def test_values_of_any_length(length: int) -> None:
    """They are looked at eight bytes at a time."""
    value = "v" * length
    assert get(f"X:{value}").fields == [(b"X", value.encode())]
    for bad in "\x01\x1f\x7f\x0b":
        for place in {0, length // 2, length}:
            assert refused_get(f"X:{value[:place]}{bad}{value[place:]}") == VALUE


def test_every_byte_of_a_value() -> None:
    for byte in range(256):
        line = b"X: a" + bytes([byte]) + b"b"
        data = b"GET / HTTP/1.0\r\n" + line + b"\r\n\r\n"
        if byte in b"\0\r\n":
            assert refused(REQUEST, data) == BYTES
        elif (byte < 0x20 and byte != 9) or byte == 0x7F:
            assert refused(REQUEST, data) == VALUE
        else:
            assert one(REQUEST, data).fields == [(b"X", line[3:])]


@pytest.mark.parametrize(
    "line", ["X Y: 1", "X : 1", "X\t: 1", ": 1", "X", "X/Y: 1", "X(: 1", "X\xe9: 1", "X\x01: 1", '"X": 1', "X;y: 1"]
)
def test_names_refused(line: str) -> None:
    assert refused_get(line) == NAME
    assert refused(ANSWER, head("HTTP/1.1 200 OK", line)) == NAME
    assert refused_get(line, "Y: 1") == NAME


@pytest.mark.parametrize("line", [" folded", "\tfolded", " X: 1", " "])
def test_folded_lines_are_refused(line: str) -> None:
    assert refused_get("X: 1", line) == FOLD
    assert refused(ANSWER, head("HTTP/1.1 200 OK", line)) == FOLD


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", b"GET /\0"])
def test_what_ends_no_line(data: bytes) -> None:
    assert refused(REQUEST, data) == BYTES


def test_a_section_without_its_end() -> None:
    """Not what head_end gives out; still nothing is read beyond it."""
    whole = b"X: 12345678\r\n\r\n"
    for end in range(len(whole)):
        with pytest.raises(KernelError):
            parse_fields(whole[:end])
    assert parse_fields(b"\r\n") == []
    assert parse_fields(b"X: 1\r\nX:2\r\n\r\nY: 3") == [(b"X", b"1"), (b"X", b"2")]


# -- what belongs to one connection


@pytest.mark.parametrize(
    ("version", "lines", "kept"),
    [
        ("1.1", [], True),
        ("1.0", [], False),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: x, CLOSE\t,y"], False),
        ("1.1", ["Connection: x", "connection:close"], False),
        ("1.1", ["Connection: closed"], True),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["Connection: x,Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
        ("1.1", ["Proxy-Connection: close"], True),
    ],
)
def test_keep_alive(version: str, lines: list[str], kept: bool) -> None:
    assert get(*lines, start=f"GET / HTTP/{version}").keep_alive == kept
    assert ok(*lines, start=f"HTTP/{version} 200 OK").keep_alive == kept


def names(found: Head) -> list[bytes]:
    return [name for name, _ in found.fields]


def test_fields_of_the_connection_stay_here() -> None:
    lines = ["Keep-Alive: 5", "A: 1", "Proxy-Connection: x", "TE: gzip", "UPGRADE: h2c", "Connection: b, Close", "B: 2"]
    assert names(get(*lines, "close: 1")) == names(ok(*lines, "Close: 1")) == [b"A"]
    assert names(get("Closed: 1", *lines, "C: 1")) == [b"Closed", b"A", b"C"]


def test_what_connection_names_stays_here_wherever_it_stands() -> None:
    found = get("X-A: 1", "x-b: 2", "Connection: x-B,,close", "Connection:\tX-a\t", "X-B: 3", "Cookie: 4", "X-Ab: 5")
    assert names(found) == [b"Cookie", b"X-Ab"]
    assert names(get("Connection: cookie, traceparent", "Cookie: 1", "traceparent: 2")) == []
    assert get("Connection: traceparent", "traceparent: 2").traceparent == b"2"


def test_connection_does_not_unmake_framing_or_routing() -> None:
    found = get("Connection: host, content-length, transfer-encoding", "Content-Length: 5")
    assert (found.host, found.body, found.content_length, names(found)) == (b"a", "length", 5, [b"Content-Length"])


def test_connection_options_are_bounded() -> None:
    options = [f"x{number}" for number in range(64)]
    assert names(get("Connection: " + ", ".join(options), "x63: 1", "x64: 1")) == [b"x64"]
    assert get(*(f"Connection: {option}, close, keep-alive" for option in options)).keep_alive is False
    assert refused_get("Connection: " + ", ".join([*options, "y"])) == CONNECTION
    assert refused_get(*(f"Connection: {option}" for option in [*options, "y"])) == CONNECTION
    assert get("Connection: " + "close, upgrade, keep-alive,," * 100).keep_alive is False


def test_te_passes_with_its_one_use() -> None:
    assert get("TE: trailers").fields == [(b"TE", b"trailers")]
    assert get("te: gzip, TRAILERS;q=0.5").fields == [(b"te", b"trailers")]
    assert get("TE: trailers", "Connection: TE").fields == [(b"TE", b"trailers")]
    assert get("TE: trailer").fields == get("TE:").fields == []


def test_forwarding_fields_of_a_visitor_are_dropped() -> None:
    known = ("Forwarded", "X-Forwarded-For", "x-forwarded-proto", "X-FORWARDED-HOST", "X_Forwarded_For")
    lines = [f"{name}: 1" for name in known]
    assert get(*lines, "X-Forward: 1").fields == [(b"X-Forward", b"1")]
    assert len(ok(*lines).fields) == 5


# -- bodies


@pytest.mark.parametrize(
    ("lines", "request_body", "answer_body"),
    [
        ([], "none", "until_close"),
        (["Content-Length: 0"], "none", "none"),
        (["content-LENGTH:\t0005 \t"], "length", "length"),
        (["Content-Length: 9223372036854775807"], "length", "length"),
        (["Content-Length: 9999999999999999999"], "length", "length"),
        (["Transfer-Encoding: chunked"], "chunked", "chunked"),
        (["transfer-encoding:CHUNKED\t"], "chunked", "chunked"),
    ],
)
def test_framing(lines: list[str], request_body: str, answer_body: str) -> None:
    assert get(*lines).body == request_body
    found = ok(*lines)
    assert found.body == answer_body
    digits = re.search(r"\d+", "".join(lines))
    assert found.content_length == (int(digits[0]) if digits else 0)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        *(
            ([f"Content-Length: {value}"], LENGTH)
            for value in ("", "+5", "-5", "5 5", "5,5", "0x5", "5;", "\xb2", "5.0", "1" * 20, "0" * 19 + "1", "e")
        ),
        (["Content-Length: 5", "Content-Length: 5"], LENGTHS),
        (["Content-Length: 5", "content-length: 6"], LENGTHS),
        (["Content-Length: 0", "Content-Length: 0"], LENGTHS),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], BOTH),
        (["Transfer-Encoding: gzip", "Content-Length: 5"], BOTH),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], CODINGS),
        (["Transfer-Encoding:", "Transfer-Encoding: chunked"], CODINGS),
        *(
            ([f"Transfer-Encoding: {value}"], CODING)
            for value in ("", "identity", "gzip", "xchunked", "chunkedx", "chunked;q=1", '"chunked"', "chunked, x")
        ),
        (["Transfer-Encoding: chunked,"], CODING),
        (["Transfer-Encoding: chunked, chunked"], CODING),
        (["Transfer-Encoding: chunked,gzip,Chunked"], CODING),
        (["Transfer-Encoding: gzip, chunked"], CODING_UNKNOWN),
        (["Transfer-Encoding: gzip\t,\tCHUNKED"], CODING_UNKNOWN),
        (["Transfer-Encoding: ,chunked"], CODING_UNKNOWN),
    ],
)
def test_framing_refused(lines: list[str], code: int) -> None:
    assert refused_get(*lines) == code
    assert refused(ANSWER, head("HTTP/1.1 200 OK", *lines)) == code
    assert status_of(code) == (501 if code == CODING_UNKNOWN else 400)


def test_http_1_0_has_no_codings() -> None:
    assert refused_get("Transfer-Encoding: chunked", start="POST / HTTP/1.0") == CODING
    assert refused(ANSWER, head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")) == CODING


# -- where a request goes


@pytest.mark.parametrize(
    ("target", "host", "seen"),
    [
        ("/", "a", (b"/", b"a")),
        ("//b/", "a", (b"//b/", b"a")),
        ("/'\"<>[]{}|\\^`~!", "a:80", (b"/'\"<>[]{}|\\^`~!", b"a:80")),
        ("/?http://b/", "", (b"/?http://b/", b"")),
        ("http://a", "a", (b"/", b"a")),
        ("http://A:80?q", "a:80", (b"/?q", b"A:80")),
        ("HTTPS://a/b?c", "A", (b"/b?c", b"a")),
        ("http://a//", "a", (b"//", b"a")),
        ("http://[::1]:8/x", "[::1]:8", (b"/x", b"[::1]:8")),
    ],
)
def test_targets(target: str, host: str, seen: tuple[bytes, bytes]) -> None:
    found = get(start=f"GET {target} HTTP/1.1", host=f"Host: {host}")
    assert (found.target, found.host) == seen


def test_asterisk_form() -> None:
    assert get(start="OPTIONS * HTTP/1.1").target == b"*"


def test_http_1_0_may_have_no_host() -> None:
    assert get(start="GET / HTTP/1.0", host=None).host is None
    assert get(start="GET http://b HTTP/1.0", host=None).host == b"b"
    assert refused_get(start="GET http:///x HTTP/1.0", host=None) == TARGET, "an http URI has a host (RFC 9110 4.2.1)"


@pytest.mark.parametrize(
    ("host", "start", "code"),
    [
        (None, "GET / HTTP/1.1", HOSTS),
        (None, "GET http://a/ HTTP/1.1", HOSTS),
        ("Host: a\r\nHost: a", "GET / HTTP/1.1", HOSTS),
        ("Host: a\r\nHost: b", "GET / HTTP/1.0", HOSTS),
        ("Host: b", "GET http://a/ HTTP/1.1", AUTHORITY),
        ("Host: a:80", "GET http://a/ HTTP/1.1", AUTHORITY),
        ("Host:", "GET http://a/ HTTP/1.1", AUTHORITY),
        ("Host: a", "GET http:///x HTTP/1.1", TARGET),
        ("Host: u@a", "GET http://u@a/ HTTP/1.1", HOST),
        ("Host: a/b", "GET / HTTP/1.1", HOST),
    ],
)
def test_hosts_refused(host: str | None, start: str, code: int) -> None:
    assert refused_get(host=host, start=start) == code


HOST_PATTERN = re.compile(rb"[A-Za-z0-9._~-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")


HOST_NAMES = """
    a a.b-c_d~e : :80 a: a:80 a:80:80 a:x [::1] [::1]: [::1]:80 [::1]x [::1 [] [ ] [g] [1.2.3.4] [v1.x] [::1]:8x
    a,b a;b a=b a'b a"b a@b a/b a?b a#b a%20 a[ a] * \xe9
"""


@pytest.mark.parametrize("host", ["", *HOST_NAMES.split()])
def test_host_names(host: str) -> None:
    assert host_ok(host.encode("latin-1")) == bool(HOST_PATTERN.fullmatch(host.encode("latin-1")))


def test_every_byte_of_a_host() -> None:
    for byte in range(256):
        for host in (b"a%cb", b"[1%c]", b"a:1%c", b"%c", b"[%c", b"[::1]%c"):
            assert host_ok(host % byte) == bool(HOST_PATTERN.fullmatch(host % byte)), host % byte


def test_same_names() -> None:
    assert header_same(b"", b"")
    assert header_same(b"X-Ab", b"x-aB")
    assert not header_same(b"ab", b"abc")
    assert not header_same(b"ab", b"ac")
    assert not header_same(b"@", b"`")


# -- WebSocket


def test_a_handshake() -> None:
    lines = ["Sec-WebSocket-Key: k", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Other: x"]
    found = get(*lines, "sec-websocket-protocol: b, c", "Sec-WebSocket-Extensions: e", "Origin: o", *WS)
    assert (found.upgrade, found.websocket, found.ws_extensions) == (True, True, True)
    assert (found.ws_key, found.ws_version, found.ws_protocol, found.ws_protocols) == (b"k", b"13", b"a", 2)
    assert found.fields == [(b"Sec-WebSocket-Extensions", b"e"), (b"Origin", b"o")]


def test_its_answer() -> None:
    found = ok(*WS, "Sec-WebSocket-Accept: x", "Sec-WebSocket-Protocol: b", start="HTTP/1.1 101 Switching Protocols")
    assert (found.upgrade, found.websocket, found.ws_accept, found.ws_protocol) == (True, False, b"x", b"b")
    assert found.fields == []


@pytest.mark.parametrize(
    ("start", "lines"),
    [
        ("POST / HTTP/1.1", WS),
        ("GET / HTTP/1.0", WS),
        ("GET / HTTP/1.1", WS[:1]),
        ("GET / HTTP/1.1", WS[1:]),
        ("GET / HTTP/1.1", ("Upgrade: websocket, h2c", WS[1])),
        ("GET / HTTP/1.1", ("Upgrade: websocket", "Upgrade: h2c", WS[1])),
    ],
)
def test_no_handshake(start: str, lines: tuple[str, ...]) -> None:
    assert get(*lines, start=start).websocket is False


def test_without_an_upgrade_the_fields_of_a_handshake_are_fields() -> None:
    found = get("Sec-WebSocket-Key: k", "Sec-WebSocket-Protocol: a", "Sec-WebSocket-X: x")
    assert len(found.fields) == 3
    assert found.ws_key == b"k"


def test_two_keys_are_none() -> None:
    assert get("Sec-WebSocket-Key: k", "Sec-WebSocket-Key: k").ws_key == b""


def test_handshakes_refused() -> None:
    assert refused_get("Sec-WebSocket-Protocol: \xff") == PROTOCOL
    assert refused_get("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: \x80", *WS) == PROTOCOL


# -- trailers


def test_trailers() -> None:
    assert parse_trailers(b"\r\n") == []
    dropped = b"TE: trailers\r\nHost: a\r\nContent-Length: x\r\nTrailer: x\r\nForwarded: y\r\nConnection: X-Sum\r\n"
    assert parse_trailers(b"X-Sum: 5\r\n" + dropped + b"E:\t\r\n\r\n") == [(b"X-Sum", b"5"), (b"E", b"")]


@pytest.mark.parametrize(("line", "code"), [(b"X Y: 1", NAME), (b"X", NAME), (b" X: 1", FOLD), (b"X: \x01", VALUE)])
def test_trailers_refused(line: bytes, code: int) -> None:
    with pytest.raises(KernelError) as error:
        parse_trailers(b"A: 1\r\n" + line + b"\r\n\r\n")
    assert error.value.code == code
