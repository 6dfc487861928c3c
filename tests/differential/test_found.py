"""What the differential tests have found in the compiled engine, as it was minimised; asyncio has some of it still."""

from typing import Any

import pytest

from tests.support.cells import ALIKE, Cells, Stage
from tests.support.conversation import Reply, start_conversation
from tests.support.raw import answer, request

CYTHON = ALIKE[0]
FINE = Reply([answer("200 OK", body=b"fine")])


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /", 400),  # RFC 9112 3: it was served as if it had said HTTP/1.1
        (b"GET / HTTP/0.9", 400),
        (b"GET / HTTP/2.0", 505),  # RFC 9110 15.6.6
        (b"GET / HTTP/1.2", 505),
        (b"G\xe9T / HTTP/1.1", 400),  # RFC 9112 3, 9110 5.6.2: it was a method that is not known, 501
        (b" GET / HTTP/1.1", 400),
        (b"G-T / HTTP/1.1", 501),
    ],
)
def test_start_lines_that_are_refused(cells: Cells, start: bytes, status: int) -> None:
    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [FINE])
        await conversation.public.send(start + b"\r\nHost: public.example\r\n\r\n")
        await conversation.answered(1)
        return await conversation.outcome()

    seen = cells.play(CYTHON, play)
    assert [refusal[0] for refusal in seen["answers"]] == [status]
    assert seen["requests"] == []


def test_the_answer_to_a_malformed_request_is_not_lost(cells: Cells) -> None:
    """What follows the head is read, or a reset would overtake the answer (RFC 9112 9.6)."""

    async def play(stage: Stage) -> Any:
        public = (conversation := await start_conversation(stage, [])).public
        await public.send(b"POST / HTTP/1.1\r\nHost: public.example\r\nbad name: 1\r\n\r\n", *[b"x" * 1000] * 20)
        await public.until(lambda _: False)
        await public.send(b"x" * 1000)
        return public.ended, conversation.answers()[0].status, await conversation.outcome()

    ended, status, _ = cells.play(CYTHON, play)
    assert (ended, status) == ("closed", 400)


def test_a_pipelined_request_does_not_cost_the_answer_before_it(cells: Cells) -> None:
    """The body of an answer to HTTP/1.0 ends with the connection: a reset would say that it is not whole."""
    body = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"]

    async def play(stage: Stage) -> Any:
        conversation = await start_conversation(stage, [Reply(body)])
        head = b"GET / HTTP/1.0\r\nHost: public.example\r\n\r\n"
        await conversation.public.send(head, request("GET", "/behind"), request("GET", "/behind"))
        await conversation.public.until(lambda _: False)
        return await conversation.outcome()

    seen = cells.play(CYTHON, play)
    assert seen["ended"] == "closed"
    assert len(seen["requests"]) == 1
