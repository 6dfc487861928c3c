"""The two engines side by side: plain HTTP/2 requests (RFC 9113) to a backend that speaks HTTP/1.1."""

from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tests.differential.conftest import examples
from tests.support.cells import MIXED, Cells, Stage
from tests.support.conversation import Backend, Reply
from tests.support.http1_strategies import METHODS, cut, places, replies, replies_with_bad_head
from tests.support.http2 import Connection, Fields, Stream, connect_http2
from tests.support.http2_wires import RESETS, seen_by_public

mixed = st.lists(st.sampled_from(MIXED), max_size=1)

# -- requests

TARGETS = ["/", "/a/b;c=1?q=1&q=2", "//", "/%2e%2e/%00?%ff", "/?a?b/c", "/" + "long" * 3000]
names = st.sampled_from(["x-a", "x-b", "accept", "via", "range", "x_c"]) | st.text(
    "!#$%&'*+-.^_`|~09az", min_size=1
).map(lambda name: "x" + name)
values = st.sampled_from(["", "1", "a, b", '"q"', "x" * 3000, "\u00e9"])
special = st.sampled_from(
    [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("cookie", "c=3; d=4"),
        ("te", "trailers"),
        ("host", "public.example"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("content-type", "text/plain"),
        ("content-type", "application/grpcx"),
        ("trailer", "x-t"),
        ("expect", "100-continue"),
        ("grpc-timeout", "1S"),
    ]
)
BODIES = [b"", b"x", b"0\r\n\r\n", b"y" * 16_384, b"y" * 70_000, b"z" * 300_000]


class Asked(NamedTuple):
    method: str
    target: str
    fields: Fields
    body: bytes | None  # None: the head ends the request
    trailers: Fields


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    method, target = draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS))
    fields = [*draw(st.lists(st.tuples(names, values), max_size=4)), *draw(st.sets(special, max_size=4))]
    fields = draw(st.permutations(fields))
    body = draw(st.none() | st.sampled_from(BODIES))
    trailers: Fields = []
    if body is not None:
        fields += [("content-length", str(len(body)))] * draw(st.integers(0, 1))
        trailers = draw(st.lists(st.sampled_from([("x-t", "1"), ("x-t", "2"), ("x-u", "")]), max_size=2))
    return Asked(method, target, fields, body, trailers)


async def open_stream(connection: Connection, asked: Asked) -> Stream:
    return await connection.open(asked.method, asked.target, *asked.fields, end=asked.body is None)


async def send_body(stream: Stream, asked: Asked, at: list[int]) -> None:
    """In DATA frames cut at odd places; the end of the stream is with the last one, or behind it."""
    parts = cut(asked.body or b"", at)
    for number, part in enumerate(parts, 1):
        await stream.send(part, end=number == len(parts) and not asked.trailers)
    if asked.trailers:
        await stream.send_trailers(asked.trailers)


class Talk:
    """A connection of the public and the backend behind it."""

    def __init__(self, stack: AsyncExitStack, stage: Stage, replies: list[Reply]) -> None:
        self.stack = stack
        self.stage = stage
        self.backend = Backend(stage, replies, self._shown)
        self.streams: list[Stream] = []
        self.connection: Connection

    async def start(self) -> "Talk":
        self.connection = await connect_http2(self.stack, self.stage.tunnel.host, self.stage.tunnel.port)
        self.connection.protocol.config.header_encoding = "latin-1"
        return self

    def _shown(self, number: int, size: int) -> bool:
        return len(self.streams[number - 1].body) >= size

    async def shown(self, size: int) -> None:
        """Wait until the public has so many bytes of the last answer, and tell the backend."""
        await self.streams[-1].received(size)
        self.stage.news.tell()

    async def open(self, asked: Asked) -> Stream:
        self.streams.append(await open_stream(self.connection, asked))
        return self.streams[-1]

    async def outcome(self, limit: int | None = None) -> dict[str, Any]:
        """The connection has to have outlived all that happened on it."""
        probe = await self.connection.ask("GET", "/probe")
        await self.stack.aclose()
        await self.backend.finish()
        answers = [seen_by_public(stream) for stream in [*self.streams, probe]]
        return {"answers": answers, **self.backend.seen(limit)}


@st.composite
def turns(draw: st.DrawFn) -> list[tuple[Asked, Reply]]:
    requests = draw(st.lists(asked(), min_size=1, max_size=3))
    # h2 joins Cookie fields of an answer, where they mean nothing, and calls the spaces between empty ones an error.
    answers = [
        draw(replies(request.method).filter(lambda reply: b"\nCookie:" not in b"".join(reply.parts)))
        for request in requests
    ]
    return list(zip(requests, answers, strict=True))


@examples(120)
@given(turns(), places, mixed)
def test_exchanges(cells: Cells, turns: list[tuple[Asked, Reply]], at: list[int], mixed: Any) -> None:
    """Valid requests and answers, one after the other on one connection."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await Talk(stack, stage, [reply for _, reply in turns]).start()
            for asked, _ in turns:
                stream = await talk.open(asked)
                if asked.body is not None:
                    await send_body(stream, asked, at)
                await stream.done()
            return await talk.outcome()

    cells.compare(play, *mixed)


@examples(60)
@given(st.sampled_from(METHODS), replies_with_bad_head(), st.sampled_from(["close", "cut"]), places, mixed)
def test_bad_answers(cells: Cells, method: str, data: bytes, end: str, at: list[int], mixed: Any) -> None:
    """An answer of the backend that is none."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await Talk(stack, stage, [Reply(cut(data, at), end)]).start()
            stream = await talk.open(Asked(method, "/", [], None, []))
            await stream.done()
            return await talk.outcome()

    cells.compare(play, *mixed)


@examples(60)
@given(
    st.sampled_from(["length", "chunked"]), st.sampled_from(BODIES), st.sampled_from(["close", "cut"]), places, mixed
)
def test_cut_answers(cells: Cells, framing: str, body: bytes, end: str, at: list[int], mixed: Any) -> None:
    """An answer ends in the midst of its body."""
    if framing == "length":
        data = b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body
    else:
        data = b"Transfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"")

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            parts = cut(b"HTTP/1.1 200 OK\r\n" + data, at)
            talk = await Talk(stack, stage, [Reply(parts, end, shown=len(body))]).start()
            stream = await talk.open(Asked("GET", "/", [], None, []))
            await stream.answered()
            await talk.shown(len(body))
            await stream.done()
            return await talk.outcome()

    cells.compare(play, *mixed)


@examples(60)
@given(asked(), st.sampled_from(RESETS), st.sampled_from(["head", "body", "answer", "connection"]), st.data(), mixed)
def test_cancels(cells: Cells, asked: Asked, code: int, when: str, data: st.DataObject, mixed: Any) -> None:
    """The public gives a stream up, or the whole connection."""
    reply = Reply([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
    asked = asked._replace(body=b"body" if asked.body is not None or when == "body" else None, trailers=[])
    asked = asked._replace(fields=[field for field in asked.fields if field[0] != "content-length"])

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await Talk(stack, stage, [reply]).start()
            stream = await talk.open(asked)
            if when == "answer" and asked.method != "HEAD":
                if asked.body is not None:
                    await stream.send(asked.body, end=True)
                await stream.received(3)
            elif when == "body":
                await stream.send(b"part")
                await talk.backend.requested(1, 4)
            else:
                await talk.backend.requested(1)
            if when == "connection":
                talk.connection.peer.drop()
                talk.connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
            else:
                await stream.cancel(code)
            await talk.backend.wires[0].until(lambda _: False)
            return await talk.outcome()

    cells.compare(play, *mixed)
