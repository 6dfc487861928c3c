"""Requests and answers as HTTP messages (RFC 9110 6): what HTTP/1.1 and HTTP/2, public and backends have in common.

Everything that carries a request between a socket and the tunnel is written once, against `HttpStream`.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

from fasttunnel.errors import ANSWERS, ResetCode

Field = tuple[bytes, bytes]
T = TypeVar("T")

# Statuses whose answers have no body (RFC 9110 6.4.1), beside every answer to HEAD.
BODILESS = (204, 304)


class RequestReset(Exception):
    """A request ends abnormally: wire contract, Reset."""

    request_id = ""  # where it is known

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = ResetCode(code) if code in ANSWERS else ResetCode.PROTOCOL_ERROR
        self.text = text

    @property
    def explanation(self) -> str:
        """What happened, for a person: the sender's words, or those of the code."""
        return self.text or ANSWERS[self.code].text

    @property
    def status(self) -> int:
        """What the public is answered over HTTP; 0: nothing, the connection is closed."""
        return ANSWERS[self.code].http


class BadMessage(RequestReset):
    """A message that breaks its protocol, or cannot be written in that of the other side.

    `final`: nothing that comes behind it on its connection can be trusted.
    """

    def __init__(
        self, text: str, *, status: int = 0, code: ResetCode = ResetCode.PROTOCOL_ERROR, final: bool = True
    ) -> None:
        super().__init__(code, text)
        self._status = status
        self.of_public = status > 0  # it was the public's, which is told so
        self.final = final and self.of_public

    @property
    def status(self) -> int:
        return self._status or super().status


class TooMany(RequestReset):
    """Requests come faster than they may; the next one may in `retry_after_s` seconds (RFC 6585 4)."""

    status = 429

    def __init__(self, text: str, retry_after_s: float) -> None:
        super().__init__(ResetCode.TOO_LARGE, text)  # for a call: RESOURCE_EXHAUSTED
        self.retry_after_s = max(1, math.ceil(retry_after_s))


class Unprocessed(RequestReset):
    """The backend has not processed the request, so it may be sent again (RFC 9110 9.2.2, RFC 9113 8.7)."""


class Head(NamedTuple):
    """How a message begins. Fields are in order, with their duplicates."""

    fields: list[Field]
    method: bytes = b""
    target: bytes = b""  # path and query
    authority: bytes = b""
    status: int = 0  # of an answer

    @property
    def size(self) -> int:
        """As HTTP/2 counts header lists (RFC 9113 6.5.2)."""
        return len(self.target) + sum(len(name) + len(value) + 32 for name, value in self.fields)

    @property
    def path(self) -> str:
        """Without the query: it may hold secrets."""
        return self.target.partition(b"?")[0].decode("latin-1")


class Part(NamedTuple):
    """A part of a message: its head if it is the first, some of its body, its trailers if it is the last."""

    head: Head | None = None
    data: bytes = b""
    last: bool = False
    trailers: list[Field] = []  # noqa: RUF012 - never changed

    @property
    def interim(self) -> bool:
        """An informational answer (RFC 9110 15.2): a head only, and the message has not begun."""
        return self.head is not None and 100 <= self.head.status < 200


class HttpStream(ABC):
    """One request and its answer on a socket: read what the peer sends, write the other one.

    Bytes are read only while somebody waits in `more()` (HTTP/1.1), or acknowledged only when they have been sent on
    (HTTP/2): a reader that stalls slows its own writer, and nobody else.
    """

    def __init__(self) -> None:
        self.trailers: list[Field] = []  # of the peer
        self.begun = False  # our final head is out: the status cannot be changed any more
        self.answer_to = b""  # method of the request that the answer is for
        self.final = False  # the connection is to end with our answer, where it serves one request at a time
        self._body = bytearray()  # what has come of it and was not taken
        self._complete = False

    # -- what the peer sends

    def take(self) -> bytes:
        """What has come of the body; empty: nothing has."""
        taken, self._body = bytes(self._body), bytearray()
        return taken

    @property
    def ended(self) -> bool:
        """Whether everything has come and was taken."""
        return self._complete and not self._body

    @abstractmethod
    async def more(self) -> None:
        """Wait until more of the body has come, or its end. Raises RequestReset."""

    def acknowledge(self, count: int) -> None:  # noqa: B027 - nothing to do over HTTP/1.1
        """`count` bytes of the connection have been sent on."""

    @abstractmethod
    async def gone(self) -> None:
        """Behind the end of the peer's message: returns never, raises RequestReset when the peer gives up."""

    # -- what we send

    @abstractmethod
    async def send(self, part: Part) -> None:
        """Write a part; returns when the socket has taken it. Raises RequestReset."""

    @abstractmethod
    def abort(self, code: ResetCode) -> None:
        """Break off what we send, so that nobody takes it for complete."""

    def has_body(self, head: Head) -> bool:
        """Whether an answer with this head may have a body."""
        return not (self.answer_to == b"HEAD" or head.status in BODILESS)


async def while_running(main: Coroutine[Any, Any, T], *beside: Coroutine[Any, Any, None]) -> T:
    """Run `main`, and others beside it until it is done. Whatever raises first ends all of them, and is raised."""
    results: list[T] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in beside]
            results.append(await main)
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        if not results:
            raise errors.exceptions[0] from None
    return results[0]


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for it; what it raised has been dealt with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def forever() -> None:
    """Until cancelled."""
    await asyncio.get_running_loop().create_future()
