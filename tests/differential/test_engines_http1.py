"""The two engines side by side: whatever is said in HTTP/1.1, all four far sides see the same (RFC 9110, 9112)."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.differential.conftest import examples
from tests.support.cells import MIXED, Cells, Stage
from tests.support.conversation import Reply, start_conversation
from tests.support.http1_strategies import (
    BAD_CHUNKS,
    METHODS,
    Asked,
    bad_requests,
    bodies,
    cut,
    interims,
    places,
    replies,
    replies_with_bad_head,
    requests,
)
from tests.support.raw import answer, request
from tests.support.wires import parse_requests

mixed = st.lists(st.sampled_from(MIXED), max_size=1)


@st.composite
def turns(draw: st.DrawFn) -> list[tuple[Asked, Reply]]:
    asked = draw(st.lists(requests(), min_size=1, max_size=3))
    return [(request, draw(replies(request.method))) for request in asked]


@examples(150)
@given(turns(), st.booleans(), places, mixed)
def test_exchanges(cells: Cells, turns: list[tuple[Asked, Reply]], pipelined: bool, at: list[int], mixed: Any) -> None:
    """Valid requests and valid answers, one after the other or pipelined."""

    async def play(stage: Stage) -> Any:
        methods = [request.method for request, _ in turns]
        conversation = await start_conversation(stage, [reply for _, reply in turns], methods)
        if pipelined:
            await conversation.public.send(*cut(b"".join(request.data for request, _ in turns), at))
            await conversation.answered(len(turns))
        else:
            for number, (request, _) in enumerate(turns, 1):
                await conversation.public.send(*cut(request.data, at))
                if not await conversation.answered(number):
                    break
        await conversation.probe()
        return await conversation.outcome()

    cells.compare(play, *mixed)


@examples(200)
@given(bad_requests(), st.booleans(), places, mixed)
def test_bad_requests(cells: Cells, data: bytes, behind: bool, at: list[int], mixed: Any) -> None:
    """A request that is not one, alone or behind a good one; then the public sends nothing more."""

    async def play(stage: Stage) -> Any:
        replies = [Reply([answer("200 OK", body=b"fine")])] * 3
        conversation = await start_conversation(stage, replies)
        if behind:
            await conversation.public.send(request("GET", "/good"))
            await conversation.answered(1)
        await conversation.public.send(*cut(data, at))
        conversation.public.half_close()
        await conversation.public.until(lambda _: False)
        seen = await conversation.outcome()
        # How much of a request that is broken off the backend sees, if any, is a matter of time.
        seen["requests"] = [request for request in seen["requests"] if request[-1]]
        if b"\r\n\r\n" not in data.lstrip(b"\r\n"):
            seen["answers"] = seen["answers"][
                :behind
            ]  # the head has no end: what was wrong with it may be told, or not
        del seen["connections"]
        return seen

    cells.compare(play, *mixed)


@examples(80)
@given(bodies, st.sampled_from(BAD_CHUNKS), places, mixed)
def test_bad_request_bodies(cells: Cells, body: bytes, bad: bytes, at: list[int], mixed: Any) -> None:
    """What the backend has got of the body stays; the rest never comes, and no end."""

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [])
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        await conversation.public.send(request("POST", "/", "Transfer-Encoding: chunked") + chunk)
        await conversation.backend.requested(1, len(body))
        await conversation.public.send(*cut(bad, at))
        conversation.public.half_close()
        await conversation.public.until(lambda _: False)
        return await conversation.outcome(limit=len(body))

    cells.compare(play, *mixed)


@examples(80)
@given(requests(with_body=True), st.floats(0, 1), st.booleans(), places, mixed)
def test_cut_requests(cells: Cells, asked: Asked, share: float, reset: bool, at: list[int], mixed: Any) -> None:
    """The public's connection ends anywhere in a request."""
    size = int(len(asked.data) * share)
    part = asked.data[: min(size, len(asked.data) - 1)]

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [])
        await conversation.public.send(*cut(part, at))
        seen = parse_requests(part)
        if seen:
            await conversation.backend.requested(1, len(seen[0].body))
        if reset:
            await conversation.public.cut()
        else:
            await conversation.public.close()
        seen = await conversation.outcome()
        del seen["answers"]  # RFC 9112 8: an incomplete request may be answered with an error, or not
        return seen

    cells.compare(play, *mixed)


@examples(100)
@given(st.sampled_from(METHODS), replies_with_bad_head(), st.sampled_from(["close", "cut"]), places, mixed)
def test_bad_answers(cells: Cells, method: str, data: bytes, end: str, at: list[int], mixed: Any) -> None:
    """An answer that is none, or not whole: the public gets one of the tunnel's own."""

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [Reply(cut(data, at), end)] * 2, [method])
        await conversation.public.send(request(method, "/"))
        await conversation.answered(1)
        await conversation.probe()
        return await conversation.outcome()

    cells.compare(play, *mixed)


@examples(100)
@given(
    st.sampled_from(["HTTP/1.1", "HTTP/1.0"]),
    st.sampled_from(["length", "chunked", "the end"]),
    bodies,
    st.sampled_from(["", "", *BAD_CHUNKS]),
    st.sampled_from(["close", "cut"]),
    places,
    mixed,
)
def test_cut_answers(
    cells: Cells, version: str, framing: str, body: bytes, bad: bytes, end: str, at: list[int], mixed: Any
) -> None:
    """An answer ends in the midst of its body: the public has all that came before, and no end."""
    if framing == "length":
        head, raw, bad = b"Content-Length: %d\r\n\r\n" % (len(body) + 10), body, b""
    elif framing == "chunked":
        raw = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        head = b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        head, raw, bad, end = b"\r\n", body, b"", "cut"

    async def play(stage: Stage) -> Any:
        parts = cut(b"HTTP/1.1 200 OK\r\n" + head + raw, at)
        conversation = await start_conversation(stage, [Reply(parts, end, shown=len(body), behind=bad)])
        await conversation.public.send(f"GET / {version}\r\nHost: public.example\r\n\r\n".encode())
        await conversation.answered(1)
        await conversation.public.until(lambda _: False)
        # How much of a chunk passes that turns out to be bad is for each engine to say.
        return await conversation.outcome(limit=len(body))

    cells.compare(play, *mixed)


@examples(80)
@given(
    requests(with_body=True).filter(lambda asked: b" HTTP/1.1\r\n" in asked.head),
    st.lists(interims, max_size=3),
    st.booleans(),
    st.booleans(),
    st.data(),
    mixed,
)
def test_expect(
    cells: Cells, asked: Asked, before: list[bytes], early: bool, expect: bool, data: st.DataObject, mixed: Any
) -> None:
    """A body that is held back until the backend wants it (RFC 9110 10.1.1), or that is answered before it has come."""
    reply = data.draw(replies(asked.method))._replace(before=b"".join(before), early=early)
    head = asked.head.replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1) if expect else asked.head

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [reply], [asked.method])
        await conversation.public.send(head)
        await conversation.informed(len(before))
        if not early:
            await conversation.public.send(asked.raw)
        await conversation.answered(1)
        await conversation.probe()
        return await conversation.outcome()

    cells.compare(play, *mixed)
