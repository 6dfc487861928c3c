"""The two engines side by side: WebSocket handshakes and frames (RFC 6455)."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.differential.conftest import examples
from tests.support.cells import MIXED, Cells, Stage
from tests.support.conversation import Conversation, Reply, start_conversation
from tests.support.frames import CLOSE, CONTINUATION, PONG, TEXT, UPGRADE, Frame
from tests.support.http1_strategies import cut, interims, places
from tests.support.raw import request
from tests.support.websocket_strategies import (
    ACCEPTED,
    CLOSES,
    INVALID,
    Step,
    answering_fields,
    handshakes,
    invalid,
    refusals,
    steps,
    wire,
)

mixed = st.lists(st.sampled_from(MIXED), max_size=1)
EXTENSIONS = "Sec-WebSocket-Extensions: x-anything"


def lines(*parts: str) -> bytes:
    return "\r\n".join(parts).encode() + b"\r\n\r\n"


async def open_websocket(stage: Stage, extensions: bool) -> Conversation:
    offered = [EXTENSIONS] if extensions else []
    conversation = await start_conversation(stage, [Reply([lines(*ACCEPTED, *offered)])])
    await conversation.public.send(request("GET", "/", *UPGRADE, *offered))
    await conversation.public.until(lambda wire: b"\r\n\r\n" in wire.received)
    return conversation


async def talk(conversation: Conversation, steps: list[Step], at: list[int]) -> None:
    """What a step sends has arrived before the next one begins."""
    for step in steps:
        sender, receiver, read = conversation.public, conversation.far, conversation.frames_at_backend
        if not step.public:
            sender, receiver, read = receiver, sender, conversation.frames_at_public
        count = len(read()) + len(step.frames)
        await sender.send(*cut(step.data, at))
        await receiver.until(lambda _, read=read, count=count: len(read()) >= count)


async def close(conversation: Conversation, public: bool, payload: bytes, answer: bytes) -> None:
    """A closing handshake; then the backend closes the TCP connection, being the server (RFC 6455 7.1.1)."""
    order = [Step(public, [Frame(CLOSE, payload)]), Step(not public, [Frame(CLOSE, answer)])]
    await talk(conversation, order, [])
    conversation.far.half_close()
    await conversation.public.until(lambda _: False)
    await conversation.far.until(lambda _: False)


async def outcome(conversation: Conversation) -> dict[str, Any]:
    public, backend = conversation.frames_at_public(), conversation.frames_at_backend()
    seen = await conversation.outcome()
    return {**seen, "at public": public, "at backend": backend}


def without_reasons(frames: list[Frame]) -> list[Frame]:
    """Close frames that the tunnel makes have a code, and a text for a person, which engines word as they like."""
    return [frame._replace(payload=frame.payload[:2]) if frame.opcode == CLOSE else frame for frame in frames]


@examples(120)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from(CLOSES), st.sampled_from(CLOSES), places, mixed)
def test_frames_and_close(
    cells: Cells,
    data: st.DataObject,
    extensions: bool,
    public: bool,
    payload: bytes,
    answer: bytes,
    at: list[int],
    mixed: Any,
) -> None:
    """Frames either way, then a closing handshake."""
    script = data.draw(steps(extensions))

    async def play(stage: Stage) -> Any:
        conversation = await open_websocket(stage, extensions)
        await talk(conversation, script, at)
        await close(conversation, public, payload, answer)
        return await outcome(conversation)

    seen = cells.compare(play, *mixed)
    for side, name in ((True, "at backend"), (False, "at public")):
        sent = [frame for step in script if step.public == side for frame in step.frames]
        assert [frame._replace(masked=False) for frame in seen[name][:-1]] == sent


@examples(120)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from(INVALID), places, mixed)
def test_invalid_frames(
    cells: Cells, data: st.DataObject, extensions: bool, public: bool, name: str, at: list[int], mixed: Any
) -> None:
    """What the tunnel must not pass on ends the connection for both."""
    if extensions and name.startswith("rsv"):
        return
    script = data.draw(steps(extensions))
    if name == "continuation without a start" and not all(frame.fin for step in script for frame in step.frames):
        script = []

    async def play(stage: Stage) -> Any:
        conversation = await open_websocket(stage, extensions)
        await talk(conversation, script, at)
        sender = conversation.public if public else conversation.far
        await sender.send(*cut(invalid(public)[name], at))
        if name == "half a frame":
            sender.half_close()
        await conversation.public.until(lambda _: False)
        await conversation.far.until(lambda _: False)
        seen = await outcome(conversation)
        at_public = seen["at public"]
        if name == "half a frame":
            # To a public that has gone nothing can be said; nor to one that has got a part of the frame, which it may
            # have or not: wire.md has no say in how early a frame is passed on.
            at_public = [frame for frame in at_public if frame.opcode != CLOSE]
        return {**seen, "at public": without_reasons(at_public), "at backend": without_reasons(seen["at backend"])}

    cells.compare(play, *mixed)


@examples(120)
@given(st.data(), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 1), places, mixed)
def test_cuts(
    cells: Cells,
    data: st.DataObject,
    extensions: bool,
    public: bool,
    reset: bool,
    share: float,
    at: list[int],
    mixed: Any,
) -> None:
    """Either side vanishes, at any byte of what it sends."""
    script = data.draw(steps(extensions))
    sent = [frame for step in script if step.public == public for frame in step.frames if frame.opcode < CLOSE]
    opcode = CONTINUATION if sent and not sent[-1].fin else TEXT
    last = data.draw(st.sampled_from([wire(Frame(opcode, b"x" * size), public=public) for size in (0, 5, 200, 70_000)]))

    async def play(stage: Stage) -> Any:
        conversation = await open_websocket(stage, extensions)
        await talk(conversation, script, at)
        whole = Step(public, [Frame(PONG, b"whole")])
        await talk(conversation, [whole], [])
        sender = conversation.public if public else conversation.far
        other = conversation.far if public else conversation.public
        size = int((len(last) - 1) * share)
        await sender.send(last[:size])
        if reset:
            await sender.cut()
        else:
            sender.half_close()
            await sender.until(lambda _: False)
        await other.until(lambda _: False)
        seen = await outcome(conversation)
        at_public = seen["at public"]
        if public or size:
            # To a public that has gone nothing can be said; nor to one that has got a part of the frame.
            at_public = [frame for frame in at_public if frame.opcode != CLOSE]
        return {**seen, "at public": without_reasons(at_public), "at backend": without_reasons(seen["at backend"])}

    cells.compare(play, *mixed)


@examples(120)
@given(
    handshakes(),
    st.lists(interims, max_size=1),
    st.sets(answering_fields, max_size=3),
    st.booleans(),
    st.booleans(),
    places,
    mixed,
)
def test_handshakes(
    cells: Cells,
    asked: bytes,
    before: list[bytes],
    fields: set[str],
    early: bool,
    behind: bool,
    at: list[int],
    mixed: Any,
) -> None:
    """Handshakes of the public that are right or wrong, and a backend that accepts; frames may follow at once."""
    ping = Frame(PONG, b"early")
    parts = b"".join(before) + lines(*ACCEPTED, *sorted(fields)) + (wire(ping, public=False) if behind else b"")

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [Reply(cut(parts, at))], [asked[:4].decode().strip()])
        # Where no WebSocket is asked for, early frames would be a request that is none.
        early_frame = wire(ping, public=True) if early and asked.startswith(b"GET") else b""
        await conversation.public.send(*cut(asked + early_frame, at))
        await conversation.public.until(lambda _: any(a.status >= 101 and a.complete for a in conversation.answers()))
        if any(answer.status == 101 for answer in conversation.answers()):
            if early_frame:
                await conversation.far.until(lambda _: conversation.frames_at_backend())
            await close(conversation, True, b"", b"")
        else:
            conversation.public.half_close()
            await conversation.public.until(lambda _: False)
        seen = await outcome(conversation)
        return {**seen, "answers": seen["answers"][:1]}

    cells.compare(play, *mixed)


@examples(100)
@given(
    refusals(),
    st.sampled_from(["length", "chunked", "the end"]),
    st.sampled_from([b"", b"no", b"n" * 65_536, b"n" * 70_000]),
    st.booleans(),
    places,
    mixed,
)
def test_refusals(
    cells: Cells, head: list[str], framing: str, body: bytes, whole: bool, at: list[int], mixed: Any
) -> None:
    """A backend that does not accept: the public gets its answer, or one of the tunnel's own."""
    raw = body
    if framing == "length":
        head = [*head, f"Content-Length: {len(body) + (0 if whole else 5)}"]
    elif framing == "chunked":
        head = [*head, "Transfer-Encoding: chunked"]
        raw = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if whole else b"5")
    if " 101 " in head[0]:
        raw = b""

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [Reply(cut(lines(*head) + raw, at), end="close")])
        await conversation.public.send(request("GET", "/", *UPGRADE))
        await conversation.answered(1)
        await conversation.probe()
        return await conversation.outcome()

    cells.compare(play, *mixed)
