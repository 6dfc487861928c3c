"""The two engines side by side: gRPC calls over HTTP/2, message by message (PROTOCOL-HTTP2.md of gRPC)."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.differential.conftest import examples
from tests.support.cells import MIXED, Cells, Stage
from tests.support.conversation import Backend, Reply
from tests.support.grpc_strategies import BAD_BYTES, Send, conversations, heads, metadata, resets, trailers
from tests.support.http2 import Connection, Fields, Stream, connect_http2
from tests.support.http2_wires import Call, GrpcBackend, message, messages, normal, seen_by_public
from tests.support.raw import answer

mixed = st.lists(st.sampled_from(MIXED), max_size=1)
ANSWER: Fields = [(":status", "200"), ("content-type", "application/grpc")]
REFUSED = 7  # RFC 9113 7: the stream was not processed
GOOD: tuple[str, Fields] = ("/pkg.Service/Method", [("te", "trailers"), ("content-type", "application/grpc")])


class Talk:
    """One call: the stream of the public, and what the backend has of it."""

    def __init__(self, stage: Stage, stack: AsyncExitStack, connection: Connection) -> None:
        self.connection = connection
        self.backend = GrpcBackend(stage)
        self.stream: Stream
        self.call: Call
        self._stage = stage
        self._stack = stack
        self._sent = {True: 0, False: 0}

    async def open(self, head: tuple[str, Fields], *, end: bool = False) -> None:
        path, fields = head
        self.stream = await self.connection.open("POST", path, *fields, end=end)

    async def arrive(self) -> None:
        self.call = await self.backend.call()

    async def answer(self, fields: Fields) -> None:
        """The backend's initial metadata."""
        await self.call.send_headers([*ANSWER, *fields])
        await self.stream.answered()

    async def send(self, step: Send) -> None:
        self._sent[step.public] += len(step.messages)
        count = self._sent[step.public]
        if step.public:
            for number, part in enumerate(step.parts, 1):
                await self.stream.send(part, end=step.end and number == len(step.parts))
            await (self.call.done() if step.end else self.call.received(count))
        else:
            await self.call.send(*step.parts)
            stream = self.stream
            await stream.until(
                lambda: stream.ended or stream.reset is not None or len(messages(bytes(stream.body))[0]) >= count
            )

    async def serve(self) -> None:
        """Answer the call at once, if it comes."""
        await self.arrive()
        await self.call.send_headers([*ANSWER, ("grpc-status", "0")], end=True)

    async def outcome(self) -> dict[str, Any]:
        """What both sides have seen. The public's connection has outlived the call, whatever happened to it."""
        probe = await self.connection.ask("POST", "/probe", ("content-type", "application/grpc"), ("grpc-timeout", "x"))
        await self._stack.aclose()
        await self.backend.finish()
        public = _seen(self.stream)
        public["messages"], rest = messages(public.pop("body"))
        public["rest"] = bool(rest)
        return {"public": public, "backend": [call.seen() for call in self.backend.calls], "probe": probe.status}


def _worded(field: tuple[str, str]) -> tuple[str, str]:
    """What the tunnel itself says of a failure is for a person: engines may word it as they like."""
    name, value = field
    return (name, "...") if name == "grpc-message" and not value.startswith("by backend") else field


def _seen(stream: Stream) -> dict[str, Any]:
    public = seen_by_public(stream)
    return public | {part: [_worded(field) for field in public[part]] for part in ("fields", "trailers")}


async def start(stage: Stage, stack: AsyncExitStack) -> Talk:
    connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
    connection.protocol.config.header_encoding = "latin-1"
    return Talk(stage, stack, connection)


async def converse(talk: Talk, initial: Fields, steps: list[Send]) -> bool:
    """All steps in order; whether the backend has sent its head."""
    begun = False
    for step in steps:
        if not step.public and not begun:
            await talk.answer(initial)
            begun = True
        await talk.send(step)
    return begun


@examples(150)
@given(heads(), metadata(), conversations(finished=True), st.booleans(), trailers(), mixed)
def test_calls(
    cells: Cells,
    head: tuple[str, Fields],
    initial: Fields,
    steps: list[Send],
    early: bool,
    end: Fields,
    mixed: Any,
) -> None:
    """Calls of every shape that end with a status of the backend, in trailers or as all of its answer."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            await talk.open(head)
            await talk.arrive()
            begun = await converse(talk, initial, steps)
            if early and not begun:
                await talk.answer(initial)
                begun = True
            await talk.call.send_headers(end if begun else [*ANSWER, *end], end=True)
            await talk.stream.done()
            return await talk.outcome()

    cells.compare(play, *mixed)


@examples(100)
@given(
    conversations(finished=False), st.booleans(), resets, trailers(), st.sampled_from(["reset", "end", "close"]), mixed
)
def test_ends_of_the_backend(
    cells: Cells, steps: list[Send], early: bool, code: int, end: Fields, how: str, mixed: Any
) -> None:
    """The backend ends a call to which the public has more to say: by a status, a reset, or with the connection."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            await talk.open(GOOD)
            await talk.arrive()
            begun = await converse(talk, [], steps)
            if early and not begun:
                await talk.answer([])
                begun = True
            refusing = asyncio.ensure_future(talk.backend.refuse_all()) if (how, code) == ("reset", REFUSED) else None
            if how == "reset":
                await talk.call.send_reset(code)
            elif how == "end":
                await talk.call.send_headers(end if begun else [*ANSWER, *end], end=True)
                await talk.call.done()
            else:
                talk.call.connection.wire.half_close()
            await talk.stream.done()
            if refusing is not None:
                refusing.cancel()
                del talk.backend.calls[1:]  # RFC 9113 8.7: a refused call may be sent again, so often as one likes
            return await talk.outcome()

    cells.compare(play, *mixed)


@examples(80)
@given(conversations(finished=False), st.booleans(), resets, st.booleans(), mixed)
def test_cancels(cells: Cells, steps: list[Send], early: bool, code: int, reset: bool, mixed: Any) -> None:
    """The public gives the call up, or its connection is lost."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            await talk.open(GOOD)
            await talk.arrive()
            begun = await converse(talk, [], steps)
            if early and not begun:
                await talk.answer([])
            if reset:
                await talk.stream.cancel(code)
            else:
                talk.connection.peer.drop()
                talk.connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
            await talk.call.done()
            return {**await talk.outcome(), "reset": talk.call.reset}

    cells.compare(play, *mixed)


@examples(80)
@given(conversations(finished=False), st.sampled_from(sorted(BAD_BYTES)), st.booleans(), st.booleans(), mixed)
def test_bad_messages(cells: Cells, steps: list[Send], name: str, public: bool, end: bool, mixed: Any) -> None:
    """What is no message, from either side; where it might become one the side ends there."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            await talk.open(GOOD)
            await talk.arrive()
            if not await converse(talk, [], steps) and not public:
                await talk.answer([])
            ends = end or not name.startswith("flag")
            if public:
                await talk.stream.send(BAD_BYTES[name], end=ends)
            else:
                await talk.call.send(BAD_BYTES[name])
                if ends:
                    await talk.call.send_headers([("grpc-status", "0")], end=True)
            await talk.stream.done()
            await talk.call.done()
            return await talk.outcome()

    cells.compare(play, *mixed)


@examples(80)
@given(
    st.sampled_from(["200", "200", "204", "302", "400", "401", "403", "404", "429", "500", "502", "503", "504", "999"]),
    st.sampled_from(["application/grpc", "application/grpc+json", "application/grpcx", "text/html", None]),
    metadata(),
    st.booleans(),
    st.sampled_from([None, b"", b"text", message(b"hello"), message(b"hello") * 3]),
    st.none() | trailers(),
    st.booleans(),
    mixed,
)
def test_odd_answers(
    cells: Cells,
    status: str,
    kind: str | None,
    initial: Fields,
    interim: bool,
    body: bytes | None,
    end: Fields | None,
    goaway: bool,
    mixed: Any,
) -> None:
    """Answers that are HTTP but perhaps not gRPC, with body and trailers or without, behind a GOAWAY or not."""
    head = [(":status", status), *([("content-type", kind)] if kind else []), *initial]

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            await talk.open(GOOD, end=True)
            await talk.arrive()
            if goaway:
                await talk.call.send_goaway()
            if interim:
                await talk.call.send_headers([(":status", "103"), ("link", "</a>")])
            await talk.call.send_headers(head, end=body is None and end is None)
            if body is not None:
                await talk.call.send(body, end=end is None)
            if end is not None:
                await talk.call.send_headers(end, end=True)
            await talk.stream.done()
            return await talk.outcome()

    cells.compare(play, *mixed)


ODD_FIELDS = [
    ("content-type", "application/grpcx"),
    ("content-type", "application/json"),
    ("grpc-timeout", ""),
    ("grpc-timeout", "1"),
    ("grpc-timeout", "S"),
    ("grpc-timeout", "-1S"),
    ("grpc-timeout", "1s"),
    ("grpc-timeout", "123456789S"),
    ("grpc-timeout", "1.5S"),
    ("te", "gzip"),
    ("connection", "close"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("X-Upper", "1"),
    ("x space", "1"),
    ("", "1"),
    ("x-null", "a\0b"),
    ("x-line", "a\nb"),
    ("x-return", "a\rb"),
    ("x-padded", " a "),
    ("x-latin", "\u00e9"),
    ("x-long", "x" * 70_000),
    (":path", "/again"),
    (":odd", "1"),
    ("x-delete", "\x7f"),
    ("host", "other.example"),
    ("content-length", ""),
    ("content-length", "x"),
    ("content-length", "+0"),
    ("content-length", "5"),
    ("content-length", "0, 0"),
    ("content-length", "9" * 20),
    ("grpc-status", "5"),
    ("x-ok-bin", "not base64!"),
]
METHODS = ["POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "NONSENSE", "post"]
ODD_METHODS = ["CONNECT", "b d", "", "P\u00e9ST"]
ODD_PATHS = ["", "pkg.Service/Method", "*", "http://public.example/", "/a\0", "/a b", "/a\x7f", "/x", "/"]
ODD_PATHS += ["/\u00e9", "/\u00c3\u00a9", "/#x", "/" + "x" * 17_000]
ODD_HOSTS = ["", "a b", "a/b", "user@a", "a:b", "[x", "\u00e9", "a,b"]


@st.composite
def odd_heads(draw: st.DrawFn) -> tuple[str, str, str, Fields]:
    """Method, path, authority and fields; at most one of them is wrong, for of two faults either may be told."""
    method, path = draw(st.sampled_from(METHODS)), GOOD[0]
    authority, fields = draw(st.sampled_from(["public.example", "PUBLIC.example:80", "[::1]:80"])), GOOD[1]
    match draw(st.integers(0, 6)):
        case 0:
            method = draw(st.sampled_from(ODD_METHODS))
        case 1 | 2:
            path = draw(st.sampled_from(ODD_PATHS))
        case 3:
            authority = draw(st.sampled_from(ODD_HOSTS))
        case _:
            odd = draw(st.sampled_from(ODD_FIELDS))
            fields = [*(field for field in fields if field[0] != odd[0]), odd]
    return method, path, authority, fields


@examples(80)
@given(odd_heads(), mixed)
def test_odd_heads(cells: Cells, head: tuple[str, str, str, Fields], mixed: Any) -> None:
    """Heads of the public that are wrong, or no gRPC; a backend answers what comes through all the same."""
    method, path, authority, fields = head

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            config = talk.connection.protocol.config
            config.validate_outbound_headers = config.normalize_outbound_headers = False
            web = Backend(stage, [Reply([answer("200 OK", body=b"web")])], lambda *_: True)
            serving = asyncio.ensure_future(talk.serve())
            stream = await talk.connection.open(method, path, *fields, authority=authority)
            with suppress(AssertionError):  # the connection is closed
                await stream.done()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await stack.aclose()
            await talk.backend.finish()
            await web.finish()
            calls = [normal(call.fields) for call in talk.backend.calls]
            # RFC 9113 8.1.1, 5.4: a malformed request is a stream error, which may be answered first, or be treated as
            # an error of the connection.
            public = _seen(stream)
            head = dict(public["fields"])
            refused = not stream.ended or head[":status"] == "400" or head.get("grpc-status") == "13"
            return {"refused": refused, "public": None if refused else public, "calls": calls, **web.seen()}

    cells.compare(play, *mixed)


@examples(20)
@given(st.sampled_from(["0S", "5m", "20000000n", "10000u"]), mixed)
def test_deadlines(cells: Cells, timeout: str, mixed: Any) -> None:
    """A backend that does not answer in time. What it has seen is a matter of time."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            talk = await start(stage, stack)
            await talk.open((GOOD[0], [*GOOD[1], ("grpc-timeout", timeout)]))
            await talk.stream.done()
            return (await talk.outcome())["public"]

    assert dict(cells.compare(play, *mixed)["fields"])["grpc-status"] == "4"
