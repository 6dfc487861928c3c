"""HTTP/1.1 messages for hypothesis: odd ones, and broken ones."""

import re
from typing import NamedTuple

from hypothesis import assume
from hypothesis import strategies as st

from tests.support.conversation import Reply

HOST = b"Host: public.example"


class Asked(NamedTuple):
    """A request on the wire."""

    method: str
    head: bytes
    raw: bytes  # the body as it is framed
    body: bytes  # without the framing

    @property
    def data(self) -> bytes:
        return self.head + self.raw


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in segments, cut at these places (modulo its length)."""
    marks = sorted({place % (len(data) or 1) for place in places} - {0})
    return [data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True)]


places = st.lists(st.integers(0, 4000), max_size=6)

# -- fields

names = st.sampled_from(["X-A", "x-b", "X-a", "X_C", "Accept", "Cookie", "Via", "Date", "Cache-Control", "Warning"])
odd_names = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(lambda name: "X" + name)
inner = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f") | st.just("\t")
values = st.sampled_from(["", "1", "a, b", "a;q=0.5", '"quoted, \\" text"', "x" * 3000]) | st.text(
    inner, max_size=20
).map(lambda value: value.strip(" \t"))
space = st.sampled_from(["", " ", "\t", "  \t "])


@st.composite
def field_lines(draw: st.DrawFn) -> bytes:
    name = draw(names | odd_names)
    return f"{name}:{draw(space)}{draw(values)}{draw(space)}".encode("latin-1")


# Valid, with a meaning of their own for whoever passes a message on.
request_fields = st.sampled_from(
    [
        b"Connection: x-b",
        b"Connection: X-A, ,other",  # keep-alive of HTTP/1.0 is not everybody's (RFC 9112 9.3)
        b"Connection: close",
        b"Connection: Close, X-B",
        b"Connection: te",
        b"Connection: host",
        b"Connection: cookie",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"TE: gzip, trailers;q=0.5",
        b"TE: gzip",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"Forwarded: for=1.2.3.4",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-Forwarded-Host: evil.example",
        b"x-forwarded-proto: https",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"traceparent: nonsense",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Protocol: a",
        b"Authorization: Bearer x",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Max-Forwards: 3",
        b"Range: bytes=0-1",
    ]
)
answer_fields = st.sampled_from(
    [
        b"Connection: x-b",
        b"Connection: keep-alive, X-A",
        b"Connection: close",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"Set-Cookie: a=1; Path=/",
        b"set-cookie: b=2",
        b"Server: test",
        b"X-Forwarded-For: 1.2.3.4",
        b"Sec-WebSocket-Accept: x",
        b"Location: http://elsewhere.example/",
        b"WWW-Authenticate: Basic",
    ]
)

# -- bodies

bodies = st.sampled_from(
    [b"", b"x", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"y" * 70_000, b"z" * 300_000]
) | st.binary(max_size=300)
extensions = st.sampled_from([b"", b"", b";", b";a", b";a=b", b';a="b;c"', b"; a = b ;c"])
trailer_lines = st.sampled_from(
    [b"X-T: 1", b"x-t: 2", b"X-Empty:", b"Content-Length: 7", b"Host: evil", b"Trailer: x", b"TE: x", b"X-Latin: \xe9"]
)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """`body` in odd chunks, with extensions and trailers (RFC 9112 7.1)."""
    data = bytearray()
    for piece in cut(body, draw(places)) if body else []:
        size = f"{len(piece):x}".encode()
        size = b"0" * draw(st.integers(0, 3)) + (size.upper() if draw(st.booleans()) else size)
        data += size + draw(extensions) + b"\r\n" + piece + b"\r\n"
    data += draw(st.sampled_from([b"0", b"000", b"0;a=b"])) + b"\r\n"
    for line in draw(st.sets(trailer_lines, max_size=3)):
        data += line + b"\r\n"
    return bytes(data + b"\r\n")


@st.composite
def framed(draw: st.DrawFn, body: bytes) -> tuple[list[bytes], bytes]:
    """Fields that frame `body`, and the body as it is sent."""
    kind = draw(st.sampled_from(["none", "length", "length", "chunked", "chunked"]))
    if kind == "none":
        return [], b""
    if kind == "length":
        length = draw(st.sampled_from(["", "0"])) + str(len(body))
        return [b"Content-Length: " + length.encode()], body  # twice the same may be refused or not: RFC 9110 8.6
    name = draw(st.sampled_from([b"Transfer-Encoding: ", b"transfer-encoding:"]))
    return [name + draw(st.sampled_from([b"chunked", b"chunked", b"Chunked"]))], draw(chunked(body))


# -- requests

METHODS = ["GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "SEARCH"]
targets = st.sampled_from(
    [
        b"/",
        b"/a/b;c=1?q=1&q=2",
        b"//",
        b"/%2e%2e/%00?%ff",
        b"/../../x",
        b"/?",
        b"/?a?b/c",
        b"/'\"<>[]{}|\\^`",
        b"http://public.example/absolute?x=1",
        b"http://public.example",
        b"HTTP://PUBLIC.example/x",
        b"http://public.example?query",
        b"/" + b"long" * 3000,
    ]
)


@st.composite
def requests(draw: st.DrawFn, *, with_body: bool = False) -> Asked:
    """Valid requests."""
    method = draw(st.sampled_from(METHODS)) if not with_body else draw(st.sampled_from(["POST", "PUT", "DELETE"]))
    target = draw(targets)
    if method == "OPTIONS" and draw(st.booleans()):
        target = b"*"
    body = draw(bodies)
    framing, raw = draw(framed(body).filter(lambda made: bool(made[0]) or not with_body))
    lines = [*draw(st.lists(field_lines(), max_size=4)), *draw(st.sets(request_fields, max_size=3)), HOST, *framing]
    lines = draw(st.permutations(lines))
    version = draw(st.sampled_from([b"1.1"] * 6 + [b"1.0"])) if not framing or b"ength" in framing[0] else b"1.1"
    start = b"%s %s HTTP/%s" % (method.encode(), target, version)
    return Asked(method, b"\r\n".join([start, *lines]) + b"\r\n\r\n", raw, body if framing else b"")


# -- answers

STATUSES = [200, 200, 200, 201, 202, 203, 205, 206, 226, 299, 301, 304, 204, 400, 401, 404, 417, 421, 500, 503, 599]
interims = st.sampled_from(
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 x\r\nX-I: 1\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"]
)


@st.composite
def replies(draw: st.DrawFn, method: str) -> Reply:
    """Valid answers to a request of this method."""
    status = draw(st.sampled_from(STATUSES))
    body = draw(bodies)
    framing, raw = draw(framed(body))
    if status == 204:
        framing = []  # RFC 9110 8.6: no Content-Length there; RFC 9112 6.1: no Transfer-Encoding
    version = draw(st.sampled_from(["1.1"] * 6 + ["1.0"])) if not framing or b"ength" in framing[0] else "1.1"
    reason = draw(st.sampled_from([" OK", " Odd reason: \xe9", " "]))
    lines = draw(st.permutations([*draw(st.lists(field_lines() | answer_fields, max_size=5)), *framing]))
    head = b"\r\n".join([f"HTTP/{version} {status}{reason}".encode("latin-1"), *lines]) + b"\r\n\r\n"
    no_body = method == "HEAD" or status in (204, 304)
    if not framing and not no_body:
        raw = body  # it ends with the connection
    data = b"".join(draw(st.lists(interims, max_size=2))) + head + (b"" if no_body else raw)
    end = "keep" if framing or no_body else "close"
    if b"close" in head.lower() or version == "1.0":
        end = "close"  # as it has announced
    return Reply(cut(data, draw(places)), end)


# -- broken ones

# A preface is not a request.
_EITHER_WAY = re.compile(rb"^PRI |^[^\r]*[\t\x0b\x0c]")


def agreed(data: bytes) -> bool:
    """Whether both engines are expected to judge a message alike."""
    return _EITHER_WAY.match(data.partition(b"\r\n\r\n")[0] + b"\r\n") is None


bad_lines = st.sampled_from(
    [
        b"X A: 1",
        b"X-A : 1",
        b"X-A\t: 1",
        b": 1",
        b"X-A",
        b"X-A: a\x00b",
        b"X-A: a\rb",
        b"X-A: a\nX-B: c",
        b"X-A: \x01",
        b"X-A: \x7f",
        b" folded: 1",
        b"X-A: 1\r\n folded",
        b"X-\xe9: 1",
        b"X(A): 1",
        b"Host: public.example",
        b"Host: other.example",
        b"X-Long: " + b"x" * 70_000,
        b"Upgrade: websocket\r\nConnection: upgrade",
    ]
)
bad_framings = st.sampled_from(
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 6"],
        [b"Content-Length: +5"],
        [b"Content-Length: -5"],
        [b"Content-Length: 5 5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length:"],
        [b"Content-Length: 5;"],
        [b"Content-Length: 99999999999999999999"],
        [b"Content-Length: \xb2"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: chunked, chunked"],
        [b"Transfer-Encoding: chunked;q=1"],
        [b"Transfer-Encoding: xchunked"],
        [b'Transfer-Encoding: "chunked"'],
        [b"Transfer-Encoding:"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding\x0b: chunked"],
        [b"Transfer-Encoding: \x0bchunked"],
    ]
)
bad_starts = st.sampled_from(
    [
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /#fragment HTTP/1.1",
        b"GET a HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET ftp://public.example/ HTTP/1.1",
        b"GET http://other.example/ HTTP/1.1",
        b"GET http://user@public.example/ HTTP/1.1",
        b"GET http:///x HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/2.0",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.10",
        b"GET / http/1.1",
        b"GET / HTTPS/1.1",
        b"GET\t/ HTTP/1.1",
        b"G\xe9T / HTTP/1.1",
        b"get / HTTP/1.1",
        b"NONSENSE / HTTP/1.1",
        b"CONNECT public.example:443 HTTP/1.1",
        b"CONNECT / HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"GET /" + b"x" * 17_000 + b" HTTP/1.1",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
)
bad_hosts = st.sampled_from(
    [
        b"",
        b"Host:",
        b"Host: a b",
        b"Host: a/b",
        b"Host: a@b",
        b"Host: [::1]:80",
        b"Host: [x",
        b"Host: a:b",
        b"Host: \xe9",
    ]
)


@st.composite
def bad_requests(draw: st.DrawFn) -> bytes:
    """A request with one thing wrong, or with anything wrong."""
    start, host, lines, raw = b"POST /bad HTTP/1.1", HOST, draw(st.lists(field_lines(), max_size=2)), b"hello"
    framing = [b"Content-Length: 5"]
    match draw(st.sampled_from(["start", "line", "framing", "host", "bytes"])):
        case "start":
            start = draw(bad_starts)
        case "line":
            lines = [*lines, draw(bad_lines)]
        case "framing":
            framing = draw(bad_framings)
            raw = draw(st.sampled_from([b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b""]))
        case "host":
            host = draw(bad_hosts)
        case "bytes":
            valid = draw(requests())
            data = bytearray(valid.data)
            place = draw(st.integers(0, min(len(valid.head), 2000) - 1))
            garbage = draw(st.binary(max_size=2) | st.sampled_from([b"\r", b"\n", b" ", b":", b"\0", b"\r\n", b"0"]))
            data[place : place + draw(st.integers(0, 2))] = garbage
            assume(agreed(bytes(data)))
            return bytes(data)
    fields = draw(st.permutations([line for line in [*lines, host, *framing] if line]))
    data = b"\r\n".join([start, *fields]) + b"\r\n\r\n" + raw
    assume(agreed(data))
    return data


# RFC 9112 7.1 lets a recipient believe in chunks of 2^64 bytes and more, or refuse them: they are not here.
BAD_CHUNKS = [
    b"g\r\n",
    b"\r\n",
    b"-1\r\nx\r\n",
    b"+1\r\nx\r\n",
    b" 1\r\nx\r\n",
    b"1 \r\nx\r\n",
    b"0x1\r\nx\r\n",
    b"1\nx\r\n",
    b"1\r\nxy\r\n",
    b"1\r\nx\n",
    b"1\r\nx\rx",
    b"1;a\nb\r\nx\r\n",
    b"0\r\nX T: 1\r\n\r\n",
    b"0\r\n: 1\r\n\r\n",
    b"0\r\nX-T\r\n\r\n",
    b"0\r\nX-T: \x00\r\n\r\n",
    b"0\n\r\n",
    b"1;a\rb\r\nx\r\n",
    b"1;\x00\r\nx\r\n",
    b"1;" + b"x" * 70_000 + b"\r\nx\r\n",
    b"0\r\nX-T: 1\nX-U: 2\r\n\r\n",
    b"0\r\n\n",
    b"0\r\nX-T: 1\r\n folded\r\n\r\n",
    b"0\r\nX-T: " + b"x" * 70_000 + b"\r\n\r\n",
]

bad_answers = st.sampled_from(
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 x\r\nX A: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
)


@st.composite
def replies_with_bad_head(draw: st.DrawFn) -> bytes:
    """An answer that is none; the backend closes behind it."""
    match draw(st.sampled_from(["whole", "line", "framing", "cut"])):
        case "whole":
            return draw(bad_answers.filter(agreed))
        case "line":
            line = draw(bad_lines.filter(lambda line: not line.lower().startswith((b"host", b"upgrade"))))
            return b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n"
        case "framing":
            raw = draw(st.sampled_from([b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b""]))
            framing = draw(bad_framings.filter(lambda lines: agreed(b"\r\n".join(lines) + b"\r\n")))
            return b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(framing) + b"\r\n\r\n" + raw
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n"
    return head[: draw(st.integers(0, len(head) - 1))]
