"""The two engines side by side: gRPC calls over HTTP/2, message by message (PROTOCOL-HTTP2.md of gRPC)."""

from contextlib import AsyncExitStack
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.differential.conftest import examples, unsettled
from tests.support.cells import MIXED, Cells, Stage
from tests.support.grpc_strategies import BAD_BYTES, Send, conversations, heads, metadata, resets, trailers
from tests.support.http2 import Connection, Fields, Stream, connect_http2
from tests.support.http2_wires import Call, GrpcBackend, messages, seen_by_public

pytestmark = unsettled
mixed = st.lists(st.sampled_from(MIXED), max_size=1)
ANSWER: Fields = [(":status", "200"), ("content-type", "application/grpc")]
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

    async def outcome(self) -> dict[str, Any]:
        """What both sides have seen. The public's connection has outlived the call, whatever happened to it."""
        probe = await self.connection.ask("POST", "/probe", ("content-type", "application/grpc"), ("grpc-timeout", "x"))
        await self._stack.aclose()
        await self.backend.finish()
        public = seen_by_public(self.stream)
        public["messages"], rest = messages(public.pop("body"))
        public["rest"] = bool(rest)
        for part in ("fields", "trailers"):
            public[part] = [_worded(field) for field in public[part]]
        return {"public": public, "backend": [call.seen() for call in self.backend.calls], "probe": probe.status}


def _worded(field: tuple[str, str]) -> tuple[str, str]:
    """What the tunnel itself says of a failure is for a person: engines may word it as they like."""
    name, value = field
    return (name, "...") if name == "grpc-message" and not value.startswith("by backend") else field


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
            if how == "reset":
                await talk.call.send_reset(code)
            elif how == "end":
                await talk.call.send_headers(end if begun else [*ANSWER, *end], end=True)
                await talk.call.done()
            else:
                talk.call.connection.wire.half_close()
            await talk.stream.done()
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
