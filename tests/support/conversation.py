"""A connection of the public, the backend's connections behind it, and what each of them has seen in the end."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from tests.support.cells import Stage
from tests.support.frames import Frame, accept_key, parse_frames
from tests.support.raw import answer, request
from tests.support.wires import Message, Wire, finals, open_wire, parse_answers, parse_requests

PROBE = request("GET", "/probe")
CONNECTION_FIELDS = ("connection", "content-length", "transfer-encoding")


class Reply(NamedTuple):
    """What the backend does when a request has come: it sends `parts`, and goes on as `end` says.

    `behind` is sent only when the public has got `shown` bytes of the body, and so is the end made.
    """

    parts: Sequence[bytes]
    end: str = "keep"  # "close" or "cut": the connection
    before: bytes = b""  # sent when the head of the request has come
    early: bool = False  # all is sent then
    shown: int | None = None
    behind: bytes = b""


LAST = Reply([answer("200 OK", "Connection: close", body=b"last")], "close")


class Backend:
    """The backend's side of a conversation. The n-th request that comes gets the n-th of `replies`.

    `shown(n, size)` tells whether the public has got so many bytes of the body of its n-th answer.
    """

    def __init__(self, stage: Stage, replies: Sequence[Reply], shown: Callable[[int, int], bool]) -> None:
        self.wires: list[Wire] = []
        self.order: list[tuple[int, int]] = []  # of requests: connection, place there
        self._stage = stage
        self._replies = replies
        self._shown = shown
        self._tasks: list[asyncio.Task[None]] = []
        stage.web.serve = self._accept

    def _accept(self, wire: Wire) -> None:
        self.wires.append(wire)
        self._tasks.append(asyncio.ensure_future(self._serve(len(self.wires) - 1, wire)))

    async def _serve(self, connection: int, wire: Wire) -> None:
        for place in range(1000):
            if not await self._come(wire, place, whole=False):
                return
            reply = self._replies[len(self.order)] if len(self.order) < len(self._replies) else LAST
            self.order.append((connection, place))
            number = len(self.order)
            await wire.send(reply.before)
            if not reply.early and not await self._come(wire, place, whole=True):
                return
            await wire.send(*(part.replace(b"<accept>", self._accept_key(wire, place)) for part in reply.parts))
            if reply.shown is not None:
                await wire.news.until(lambda n=number, size=reply.shown: self._shown(n, size))
                await wire.send(reply.behind)
            if reply.end == "cut":
                return await wire.cut()
            if reply.end == "close":
                wire.half_close()

    def _accept_key(self, wire: Wire, place: int) -> bytes:
        """What answers a WebSocket handshake."""
        key = parse_requests(bytes(wire.received))[place].get("sec-websocket-key")
        return accept_key(key).encode() if key is not None else b""

    async def _come(self, wire: Wire, place: int, *, whole: bool) -> bool:
        """Wait for a request on this connection; False when it ends first."""

        def come(_: Any) -> bool:
            requests = parse_requests(bytes(wire.received))
            return len(requests) > place and (requests[place].complete or not whole)

        with suppress(TimeoutError):  # a public that waits for nothing; whoever waits for this backend says so
            await wire.until(come)
        return come(None)

    def requests(self) -> list[Message]:
        """What has come, on connections in the order in which they came."""
        return [message for wire in self.wires for message in parse_requests(bytes(wire.received))]

    async def requested(self, count: int, size: int = 0) -> None:
        """Wait until the heads of so many requests have come, and so many bytes of the body of the last."""

        def come() -> bool:
            requests = self.requests()
            return len(requests) >= count and len(requests[count - 1].body) >= size

        await self._stage.news.until(come)

    async def finish(self) -> None:
        """The public has said all: nothing more comes."""
        await self._stage.tunnel.until_idle()
        for wire in self.wires:
            if not wire.stopped:
                await wire.close()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        self._stage.web.serve = None

    def seen(self, limit: int | None = None) -> dict[str, Any]:
        """What has come, as it is compared; of incomplete bodies only so much, if that is given."""
        address = self._stage.web.address
        requests = [normal_request(limited(message, limit), address) for message in self.requests()]
        return {"requests": requests, "connections": self.order}


class Conversation:
    """What happens on one HTTP/1.1 connection of the public."""

    def __init__(self, stage: Stage, public: Wire, replies: Sequence[Reply], methods: Sequence[str]) -> None:
        self.public = public
        self.methods = methods
        self.backend = Backend(stage, replies, self._shown)

    def answers(self) -> list[Message]:
        return parse_answers(bytes(self.public.received), self.methods)

    def _shown(self, number: int, size: int) -> bool:
        answers = finals(self.answers())
        return bool(self.public.ended) or (len(answers) >= number and len(answers[number - 1].body) >= size)

    async def answered(self, count: int) -> bool:
        """Wait for so many whole answers, or for the end of the connection; whether all have come."""

        def came(_: Any) -> bool:
            answers = finals(self.answers())
            return len(answers) >= count and answers[count - 1].complete

        await self.public.until(came)
        return came(None)

    async def informed(self, count: int) -> None:
        """Wait for so many interim answers."""
        await self.public.until(lambda _: len(self.answers()) - len(finals(self.answers())) >= count)

    async def probe(self) -> None:
        """Find out whether the public's connection serves another request."""
        answers = finals(self.answers())
        if answers and "close" in (answers[-1].get("connection") or ""):
            await self.public.until(lambda _: False)
        else:
            await self.public.send(PROBE)
            await self.answered(len(answers) + 1)

    # -- WebSocket: frames on either side, once there is a connection

    @property
    def far(self) -> Wire:
        """The backend's side of it: there is one handshake only, on the first connection."""
        return self.backend.wires[0]

    def frames_at_public(self) -> list[Frame]:
        _, mark, behind = bytes(self.public.received).partition(b"HTTP/1.1 101 ")
        return parse_frames(behind.partition(b"\r\n\r\n")[2]) if mark else []

    def frames_at_backend(self) -> list[Frame]:
        return parse_frames(bytes(self.far.received).partition(b"\r\n\r\n")[2]) if self.backend.wires else []

    # -- the end

    async def outcome(self, limit: int | None = None) -> dict[str, Any]:
        """What everybody has seen, when nothing more comes; of incomplete bodies only so much, if that is given."""
        ended = self.public.ended
        if not self.public.stopped:
            await self.public.close()
        await self.backend.finish()
        answers = self.answers()
        if answers and answers[-1].framing == "until the end":
            if ended == "closed":  # then it is whole, and a reset says that it is not
                answers[-1] = answers[-1]._replace(complete=True)
        elif ended:
            ended = "closed"  # with unread bytes left the kernel says so by a reset, without them it does not
        normal = [normal_answer(limited(answer, limit)) for answer in answers]
        return {"answers": normal, "ended": ended, **self.backend.seen(limit)}


async def start_conversation(stage: Stage, replies: Sequence[Reply], methods: Sequence[str] = ()) -> Conversation:
    public = await open_wire(stage.tunnel.host, stage.tunnel.port, stage.news)
    return Conversation(stage, public, replies, methods)


def limited(message: Message, limit: int | None) -> Message:
    return message if message.complete or limit is None else message._replace(body=message.body[:limit])


def normal_request(message: Message, backend: str) -> Any:
    """A request as it is compared: fields in order, those of the framing apart from the others."""
    passing = [(name, value) for name, value in message.fields if name.lower() not in CONNECTION_FIELDS]
    # A handshake has a random key; and without an upgrade such fields have no meaning.
    unsure = "sec-websocket-key" if message.get("upgrade") else "sec-websocket-"
    fields = [
        # RFC 9110 5.1: names are not case-sensitive. RFC 7239 4: a value may be quoted that need not be.
        (name.replace("TE", "te"), value.replace('"', "") if name == "Forwarded" else value.replace(backend, "BACKEND"))
        for name, value in passing
        if not name.lower().startswith(unsure)
    ]
    return message.start, fields, message.framed, message.body, message.trailers, message.complete


def normal_answer(message: Message) -> Any:
    """An answer as it is compared."""
    fields = [(name, value) for name, value in message.fields if name.lower() not in CONNECTION_FIELDS]
    close = any(name.lower() == "connection" and "close" in value for name, value in message.fields)
    if ("X-Content-Type-Options", "nosniff") in fields:
        # Made by the tunnel itself, with a text for a person: engines may word it as they like.
        return message.status, fields, close
    return message.start, fields, message.framed, message.body, message.trailers, message.complete, close
