"""The kernels, by their Python face: it copies each input into a block of its size, and reads beyond that are seen."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import h11._readers

from fasttunnel._core import (
    Body,
    Frame,
    GrpcMessages,
    Head,
    HeadEnd,
    HeadParser,
    KernelError,
    Piece,
    RequestTable,
    WebSocketParser,
    build_head,
    decode_message,
    encode_message,
    encode_ws_frame,
    head_status,
    host_ok,
    is_utf8,
    mask,
    message_prefix,
    parse_fields,
    parse_trailers,
    target_ok,
)
from fasttunnel.reference import fields as reference
from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.differential import test_grpc, test_head, test_http1_body, test_message, test_websocket
from tests.fuzz.mutate import (
    cut,
    grpc_messages,
    lines,
    mend_grpc_message,
    mend_websocket_frame,
    websocket_frames,
)
from tests.fuzz.target import Target
from tests.support.feeding import feed_parts
from tests.support.frames import MASK, close_payload, frame
from tests.support.messages import OPAQUE, normal, oracle_decode
from tests.support.record import FOLDER

Outcome = tuple[Any, int, bytes]
BYTE_BY_BYTE = 300  # bytes; above it inputs are cut at random only


def ways(chance: random.Random, data: bytes) -> Iterator[list[bytes]]:
    """How an input may come, the whole of it first."""
    yield [data]
    yield cut(chance, data)
    if len(data) <= BYTE_BY_BYTE and chance.random() < 0.3:
        yield [data[at : at + 1] for at in range(len(data))]


def fed(parser: Any, parts: list[bytes], grant: int | None = None) -> Outcome:
    """Items, the code of the refusal or 0, and what is left over. A blocked parser gets `grant` bytes of credit."""
    items, error = feed_parts(parser, parts, grant=grant)
    return (items, 0, parser.rest) if error is None else (items, error.code, b"")


def fed_any_way(
    chance: random.Random, make: Callable[[], Any], data: bytes, view: Callable[[list[Any]], Any] = list
) -> Outcome:
    """The outcome, which must be the same however the input comes."""
    found: Outcome | None = None
    for parts in ways(chance, data):
        items, code, rest = fed(make(), parts)
        seen = view(items)
        found = found or (seen, code, rest)
        # With a part of an item given out, the other part may wait or not.
        assert (seen, code) == found[:2], f"cut as {[len(part) for part in parts]} it is {seen}, whole it is {found}"
        assert view in (whole, whole_messages) or rest == found[2]
    assert found is not None
    return found


class WebSocket(Target):
    """The frame parser: cuts make no difference, wsproto reads the same, what is built from it is the same again."""

    name = "websocket"
    split, mend = websocket_frames, mend_websocket_frame
    tokens: ClassVar[list[bytes]] = [
        b"\x81\x00",
        b"\x80\x00",
        b"\x01\x00",
        b"\x89\x00",
        b"\x88\x02\x03\xe8",
        b"\x7e\0\x7e",
        b"\xff",
    ]

    def seeds(self) -> list[bytes]:
        found = []
        for key in (None, MASK):
            some = partial(frame, mask=key)
            found += [
                some(1, b"text") + some(9, b"ping") + some(2, bytes(126)) + some(8, close_payload(1000, "why")),
                some(1, b"a", fin=False) + some(10, b"") + some(0, b"b", fin=False) + some(0, b"c") + some(8),
                some(2, bytes(1000)) + some(1, b"x", rsv=4),
                some(2, bytes(range(256)) * 3, fin=False) + some(0),
            ]
        return [*found, frame(2, bytes(65_536))[:200]]

    def check(self, chance: random.Random, data: bytes) -> None:
        masked = bool(data[1] & 128) if len(data) > 1 and chance.random() < 0.9 else chance.random() < 0.5
        rsv, limit = chance.random() < 0.3, chance.choice((0, 0, 0, 10, 300))
        largest = chance.choice((1, 8, 64) if len(data) < 500 else (1000, 65_536, 2**62, 2**62))
        make = partial(WebSocketParser, masked, rsv_allowed=rsv, max_fragment=largest, max_message_bytes=limit)
        # What a large frame is cut into depends on how it comes: its parts are passed on as they do.
        fragments, code, rest = fed_any_way(chance, make, data, whole)
        if largest < 2**62 or chance.random() < 0.3:
            # With little credit at a time: other fragments of the same frames.
            pieces, code_too, _ = fed(make(credit=0), [data], chance.choice((1, 3, 50)) if len(data) < 500 else 100)
            assert (code_too, whole(pieces)) == (code, fragments)
        built = b"".join(
            build_head(f.fin, f.rsv, f.opcode, len(f.payload), MASK if masked else None)
            + (mask(f.payload, MASK) if masked else f.payload)
            for f in fragments
        )
        if not masked:
            assert data.startswith(built)
        again, refused, _ = fed(WebSocketParser(masked, rsv_allowed=True), [built])
        assert (whole(again), refused) == (fragments, 0)
        for number, each in enumerate(fragments):
            message = encode_ws_frame(b"ws-%x" % number, 1, each._replace(masked=False))
            assert decode_message(message[5:])["body"] == (each.payload or None)
        if largest == 2**62 and not rsv and not limit:
            check_against_wsproto(data, masked, fragments, code, rest)


def whole(fragments: list[Frame]) -> list[Frame]:
    """Frames of fragments, the last of which may be incomplete."""
    joined: list[Frame] = []
    for fragment in fragments:
        if fragment.first:
            assert not joined or not joined[-1].more
            joined.append(fragment)
        else:
            before = joined[-1]
            assert before.more
            assert before[1:5] == fragment[1:5]
            joined[-1] = before._replace(payload=before.payload + fragment.payload, more=fragment.more)
    if joined and joined[-1].more:
        joined.pop()
    assert all(len(each.payload) == each.frame_bytes for each in joined)
    return joined


def check_against_wsproto(data: bytes, masked: bool, fragments: list[Frame], code: int, rest: bytes) -> None:
    """As the differential test does: alike up to the first Close."""
    mine = [(f.opcode, f.payload) for f in fragments]
    theirs, they_refused = test_websocket.wsproto_reads(data, masked)
    closed = next((i for i, (opcode, _) in enumerate(theirs) if opcode == 8), None)
    if closed is not None:
        assert mine[:closed] == theirs[:closed]
        assert mine[closed][0] == 8
        return
    assert mine == theirs
    assert bool(code) == they_refused or len(rest) < test_websocket.HEADER_BYTES


class Grpc(Target):
    """The splitter of length-prefixed messages, beside a reading by hand."""

    name = "grpc"
    split, mend = grpc_messages, mend_grpc_message

    def seeds(self) -> list[bytes]:
        some = [message_prefix(flag, size) + bytes(size) for flag in (False, True) for size in (0, 1, 30, 300, 5000)]
        return [*some, b"".join(some), bytes(25), message_prefix(False, 2**32 - 1) + bytes(100)]

    def check(self, chance: random.Random, data: bytes) -> None:
        largest = chance.choice((1, 7, 64) if len(data) < 500 else (64, 1000, 65_536))
        limit = chance.choice((0, 0, 50, 1000))
        make = partial(GrpcMessages, largest, max_message_bytes=limit)
        messages, code, _ = fed_any_way(chance, make, data, whole_messages)
        pieces, refused = test_grpc.expected(data, largest, limit)
        assert (messages, code) == (whole_messages(pieces), refused)
        grant = chance.choice((3, 100)) if len(data) < 500 else 500
        little, code_too, _ = fed(make(credit=0), [data], grant)
        assert (whole_messages(little), code_too) == (messages, code)
        built = b"".join(message_prefix(compressed, len(body)) + body for compressed, body in messages)
        assert data.startswith(built)
        if make().whole(data) and not code:
            assert not GrpcMessages(0).feed(data)[0].more


def whole_messages(pieces: list[Piece]) -> list[tuple[bool, bytes]]:
    """Messages of pieces, the last of which may be incomplete."""
    found: list[tuple[bool, bytes]] = []
    parts: list[bytes] = []
    for piece in pieces:
        assert piece.first == (not parts)
        parts.append(piece.body)
        if not piece.more:
            found.append((piece.compressed, b"".join(parts)))
            assert len(found[-1][1]) == piece.message_bytes
            parts = []
    return found


class Message(Target):
    """The codec of TunnelMessages, beside protobuf."""

    name = "message"
    tokens: ClassVar[list[bytes]] = [
        b"\x0a\x00",
        b"\x12\x02h1",
        b"\x2a\x00",
        b"\x5a\x02\x2a\x00",
        b"\xff" * 9 + b"\x01",
        b"\x80\x80\x00",
        b"\x33\x34",
    ]

    def seeds(self) -> list[bytes]:
        recorded = [body for path in sorted(FOLDER.glob("cython-*.bin")) for body in bodies(path.read_bytes())]
        short = {(len(body) // 8, body[-1:]): body for body in recorded if len(body) < 400}
        generated = [test_message.wire_fields(random.Random(seed)) for seed in range(60)]
        return [*test_message.samples(), *short.values(), *generated]

    def check(self, chance: random.Random, data: bytes) -> None:
        mine, theirs = test_message.ours(data), oracle_decode(data)
        assert mine == theirs
        if mine is None or mine["kind"] in OPAQUE:
            return
        written = encode_message(**mine)
        assert normal(decode_message(written)) == mine
        assert encode_message(**normal(decode_message(written))) == written
        assert encode_message(**mine, prefixed=True) == message_prefix(False, len(written)) + written
        if mine["body"]:
            assert encode_message(**mine, around=True) == message_prefix(False, len(written)) + written
        assert TunnelMessage.FromString(written).SerializeToString(deterministic=True) == written


def bodies(stream: bytes) -> list[bytes]:
    return [message[5:] for message in grpc_messages(stream)]


class Table(Target):
    """The request table, beside a dict: an input is a list of what is done to it."""

    name = "table"
    tokens: ClassVar[list[bytes]] = [b"\x02r1", b"\x42r1", b"\x82r1", b"\x50" + bytes(range(16))]

    def seeds(self) -> list[bytes]:
        ids = [b"%x" % number for number in range(200)]
        put, find, pop = (b"".join(bytes([way << 6 | len(id)]) + id for id in ids) for way in range(3))
        return [put + find + pop, put[:100] + pop[:50] + put[:300], put + pop + put]

    def check(self, chance: random.Random, data: bytes) -> None:
        secret = bytes(16) if chance.random() < 0.5 else chance.randbytes(16)
        table, model = RequestTable(secret), dict[bytes, int]()
        at = 0
        while at < len(data):
            way, size = data[at] >> 6, data[at] & 31
            id = data[at + 1 : at + 1 + size]
            at += 1 + size
            if way == 0:
                try:
                    assert table.put(id, at) == (id not in model)
                    model.setdefault(id, at)
                except KernelError:
                    assert not 1 <= len(id) <= 16
            elif way == 1:
                assert table.find(id) == model.get(id)
            else:
                assert table.pop(id) == model.pop(id, None)
            assert len(table) == len(model)
        assert all(table.find(id) == value for id, value in model.items())
        assert table.capacity <= 1024 or len(table) * 8 >= table.capacity


FIELDS = [
    b"Host: a\r\n",
    b"Host: public.example:80\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, x-a\r\n",
    b"Connection: keep-alive, Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Protocol: a, b\r\n",
    b"Sec-WebSocket-Extensions: x\r\n",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\n",
    b"X-A: \xe9 b\r\n",
    b"TE: trailers\r\n",
    b"Trailer: x\r\n",
]
LINE_TOKENS = [
    *FIELDS,
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b": ",
    b" ",
    b"\t",
    b",",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"chunked",
    b"\r\n\r\n",
]


class RequestHead(Target):
    """Heads, beside httptools: what ours takes it takes too and reads alike, and where ours is stricter is known."""

    name = "request-head"
    split, tokens = lines, LINE_TOKENS
    is_request: ClassVar[bool] = True
    starts: ClassVar[list[bytes]] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"POST /a?b HTTP/1.0\r\nHost: a\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
        b"GET http://a/b HTTP/1.1\r\nHost: a\r\n",
        b"GET HTTPS://a?b HTTP/1.1\r\nHost: a\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n",
    ]

    def seeds(self) -> list[bytes]:
        fields = [FIELDS[at : at + 4] for at in range(0, len(FIELDS), 2)]
        return [start + b"".join(some) + b"\r\n" for start in self.starts for some in [[], *fields]]

    def check(self, chance: random.Random, data: bytes) -> None:
        make = partial(HeadParser, self.is_request)
        heads, code, rest = fed_any_way(chance, make, data)
        assert 400 <= head_status(code) < 600 if code else data.endswith(rest)
        data = data[: data.find(b"\r\n\r\n") + 4]
        if len(data) <= 4 or (self.is_request and data[:1] in b"\r\n"):
            return
        head: Head | None = heads[0] if heads else None
        seen = test_head.Seen(data, self.is_request)
        if head is not None:
            assert seen.error is None, f"only the kernel takes it: {seen.error}"
            test_head.check_alike(head, data, seen, is_request=self.is_request)
        elif seen.error is None:
            text = refusal(make(), data)
            reasons = [pattern for known, pattern in test_head.STRICTER.values() if known == text]
            assert any(re.match(pattern, data) for pattern in reasons), f"only httptools takes it: {text}"
        ends = HeadEnd()
        try:
            ended = ends.feed(data)
        except KernelError:
            assert head is None
        else:
            assert head is None or ended == len(data)


def refusal(parser: Any, data: bytes) -> str:
    try:
        parser.feed(data)
    except KernelError as error:
        return error.text
    return ""


class AnswerHead(RequestHead):
    """The same of answers."""

    name = "answer-head"
    is_request = False
    starts: ClassVar[list[bytes]] = [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 404\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n",
        b"HTTP/1.1 204 \r\n",
        b"HTTP/1.1 999 \r\n",
    ]


@contextmanager
def _as_rfc9112() -> Iterator[None]:
    """h11 with the white space before extensions that RFC 9112 7.1.1 has a recipient take."""
    kept = h11._readers.chunk_header_re
    h11._readers.chunk_header_re = re.compile(rb"(?P<chunk_size>[0-9A-Fa-f]{1,20})(?P<chunk_ext>[ \t]*;.*)?[ \t]*\r\n")
    try:
        yield
    finally:
        h11._readers.chunk_header_re = kept


class Chunked(Target):
    """Chunked bodies, beside h11: ours is never laxer, and never reads another body."""

    name = "chunked"
    split = lines
    tokens: ClassVar[list[bytes]] = [
        b"\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b";a=b",
        b" ;",
        b"\n",
        b"ffffffffffffffff",
        b"A",
        b"X-T: 1\r\n",
    ]

    def seeds(self) -> list[bytes]:
        return [
            b"0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5;a=b\r\nhello\r\n00A ;x\r\n0123456789\r\n0\r\nX-T: 1\r\nx-u:2\r\n\r\n",
            b"ffffffffffffffff\r\nx",
            b"12c\r\n" + bytes(300) + b"\r\n0\r\n\r\nGET",
        ]

    def check(self, chance: random.Random, data: bytes) -> None:
        make = partial(Body, "chunked")
        body, code, rest = fed_any_way(chance, make, data, b"".join)
        with _as_rfc9112():
            theirs, end, _ = test_http1_body.theirs(data)
        if end == "refused":
            assert code
        if code:
            assert theirs.startswith(body)
        else:
            assert body == theirs
        self._check_limited(chance, data, body, code)
        if not code:
            check_section(rest)

    @staticmethod
    def _check_limited(chance: random.Random, data: bytes, body: bytes, code: int) -> None:
        """In pieces of at most `limit` bytes it is the same."""
        limit = chance.choice((1, 10, 1000))
        reader, pieces, refused = Body("chunked"), list[bytes](), 0
        try:
            for part in cut(chance, data):
                pieces += reader.feed(part, limit)
        except KernelError as error:
            pieces += error.before
            refused = error.code
        assert all(len(piece) <= limit for piece in pieces)
        assert (b"".join(pieces), refused) == (body, code)


def check_section(section: bytes) -> None:
    """Trailers: those that go on are some of those that stand there."""
    section = section[: section.find(b"\r\n\r\n") + 4]
    if not section:
        return
    try:
        fields = parse_fields(section)
        passed = parse_trailers(section)
    except KernelError as error:
        code = error.code
    else:
        code = 0
    if code:
        assert 400 <= head_status(code) < 600
        return
    assert passed == reference.in_trailers(f for f in fields if f[0].lower() not in reference.HOP_BY_HOP)


class Text(Target):
    """UTF-8, hosts and targets, beside Python's and the asyncio engine's opinions; sections of fields."""

    name = "text"
    tokens: ClassVar[list[bytes]] = [
        "é".encode(),
        "€".encode(),
        "😀".encode(),
        b"\xed\xa0\x80",
        b"\xf4\x90",
        b"[::1]",
        b":80",
        b"\r\n",
        b"X: y\r\n",
    ]

    def seeds(self) -> list[bytes]:
        return [
            "grüße €😀".encode(),
            b"public.example:8080",
            b"[::1]:80",
            b"/a?b",
            b"A: b\r\nC:\r\n\r\n",
            bytes(range(256)),
        ]

    def check(self, chance: random.Random, data: bytes) -> None:
        try:
            data.decode()
            sound = True
        except UnicodeDecodeError:
            sound = False
        assert is_utf8(data) == sound
        assert host_ok(data) == bool(reference._HOST.fullmatch(data))
        assert target_ok(data) == bool(re.fullmatch(rb"[!-\"$-~]+", data))
        check_section(data)
        key = chance.randbytes(4)
        assert mask(mask(data, key), key, in_place=True) == data


KERNELS: list[type[Target]] = [WebSocket, Grpc, Message, Table, RequestHead, AnswerHead, Chunked, Text]
