"""/tap: the messages that pass this end, as lines of JSON, for as many readers as there may be at once.

A reader that does not keep up loses lines, and is told how many; nothing waits for it. While there is none the engine
is not listened to.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import operator
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl

import msgspec

from fasttunnel.admin.http import Request, Response, words
from fasttunnel.admin.subject import Subject
from fasttunnel.control.config import TapScope
from fasttunnel.control.taps import CHOICES, Tapped, Taps
from fasttunnel.control.view import MOST_PAYLOAD_BYTES, Requests, Sight, View, late
from fasttunnel.control.view import Request as SeenRequest
from fasttunnel.version import __version__

READERS: Final = 8  # at once: each costs time for every message
QUEUE_BYTES: Final = 1024 * 1024  # of lines that wait for one reader
PIECE_BYTES: Final = 65_536
GATHER_S: Final = 0.01  # lines leave together; meanwhile the routes of new requests become known
PATIENCE_S: Final = 3600.0  # a reader may pause, as a pager does
MOST_NAMES: Final = 16  # of requests, and of routes, that one reader asks for

TYPE: Final = "application/x-ndjson"


class Tap:
    """`scope` says what may be shown to those who can ask."""

    def __init__(self, subject: Subject, scope: TapScope) -> None:
        self._subject = subject
        self._scope = scope
        self._readers: list[_Reader] = []
        self._taps: Taps | None = None
        self._requests = Requests()
        self._only: frozenset[str] = frozenset()  # where all readers name requests: of others nothing is looked at
        self._flushing: asyncio.TimerHandle | None = None

    def answer(self, request: Request) -> Response:
        if self._scope == "none":
            return words(403, "this end is not to be tapped: its option tap is none")
        if request.headers.get("sec-fetch-site", "none") != "none" or "origin" in request.headers:
            return words(403, "this page is for no browser that comes from another page")
        try:
            view = view_of(request.query)
        except ValueError as error:
            return words(400, str(error))
        if view.reveals and self._scope != "payloads":
            text = "this admin port shows no payloads, header fields and queries, and seeks no text in them"
            return words(403, f"{text}: it is open to the network or its option tap says so; --tap payloads permits it")
        end = self._subject.running()
        if end is None:
            return words(503, f"there is nothing to tap: {self._subject.unready}")
        taps = end.taps
        if taps is None:
            return words(501, f"the engine {self._subject.engine} cannot be tapped")
        if len(self._readers) >= READERS:
            return words(503, f"{READERS} taps are on already, as many as there may be")
        # There from now on, not from when it is first read: others ask meanwhile.
        reader = _Reader(view, self._leave)
        begin = {"tap": "begin", "end": self._subject.kind, "engine": self._subject.engine, "version": __version__}
        reader.tell({**begin, "routes": self._subject.routes()})
        self._join(reader, taps)
        return Response(reader, content_type=TYPE, patience_s=PATIENCE_S)

    def _join(self, reader: _Reader, taps: Taps) -> None:
        self._readers.append(reader)
        self._taps = taps
        self._listen(taps)

    def _leave(self, reader: _Reader) -> None:
        """One that is not there any more is no mistake."""
        if reader not in self._readers or self._taps is None:
            return
        self._readers.remove(reader)
        if self._readers:
            return self._listen(self._taps)
        self._taps.remove(self._see)
        self._taps = None
        self._requests = Requests()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None

    def _listen(self, taps: Taps) -> None:
        """To what the readers want, together."""
        views = [reader.view for reader in self._readers]
        named = all(view.requests for view in views)
        self._only = frozenset[str]().union(*(view.requests for view in views)) if named else frozenset()
        taps.add(self._see, functools.reduce(operator.or_, (view.bits for view in views)))
        self._requests.missed()

    def _see(self, tunnel: Tapped, sent: bool, message: bytes) -> None:
        try:
            sight = self._requests.see(tunnel, sent, message, self._only)
            if sight is None:
                return
            for reader in self._readers:
                if reader.view.wants(sight):
                    reader.take(sight)
                    if self._flushing is None:
                        self._flushing = asyncio.get_running_loop().call_later(GATHER_S, self._flush)
        except Exception:
            self._fail()

    def _flush(self) -> None:
        self._flushing = None
        try:
            waiting = [reader.settle() for reader in self._readers]
        except Exception:
            return self._fail()
        if any(waiting):
            self._flushing = asyncio.get_running_loop().call_later(GATHER_S, self._flush)

    def _fail(self) -> None:
        """It only looks on: what passes goes on, and who reads is told rather than left waiting."""
        logging.getLogger("fasttunnel").exception("a tap failed")
        for reader in list(self._readers):
            reader.end("a message could not be shown; the log of that end says why")
            self._leave(reader)


class _Seen(NamedTuple):
    record: dict[str, Any]
    request: SeenRequest
    tunnel: Tapped
    cost: int  # bytes, about
    lost: int  # messages before it


class _Reader:
    """What waits for one reader, in bounds; a stream of it. `leave` is called when that is closed."""

    def __init__(self, view: View, leave: Callable[[_Reader], None]) -> None:
        self.view = view
        self._leave = leave
        self._over = False
        self._seen: list[_Seen] = []
        self._lines: deque[bytes] = deque()
        self._patient = 0  # of what has been seen, the first so many have waited for a route
        self._waiting = 0  # bytes in both
        self._lost = 0
        self._news = asyncio.Event()

    def take(self, sight: Sight) -> None:
        if sight.request.route and not self.view.wants_route(sight.request):
            return
        cost = self.view.cost(sight)
        if self._waiting + cost > QUEUE_BYTES:
            self._lost += 1
            return
        # Not the message itself: many large ones pass before there is time for them.
        self._seen.append(_Seen(self.view.record(sight), sight.request, sight.tunnel, cost, self._lost))
        self._waiting += cost
        self._lost = 0

    def settle(self) -> bool:
        """Make lines of what has been seen. Whether some of it waits for a route that may be found yet."""
        seen, self._seen = self._seen, []
        patient, self._patient = self._patient, 0
        for at, one in enumerate(seen):
            late(one.request, one.tunnel, one.record["request_id"])
            if at >= patient and not one.request.route and one.record["request_id"]:
                self._seen, self._patient = seen[at:], len(seen) - at  # all of it, for the order
                break
            self._waiting -= one.cost
            if one.lost:
                self._put(_lost(one.lost))
            if self.view.wants_route(one.request):
                one.record["route"] = one.request.route or None
                self._put(_line(one.record))
        if self._lines:
            self._news.set()
        return bool(self._seen)

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting += len(line)

    def tell(self, record: dict[str, Any]) -> None:
        """Of the tap itself."""
        self._put(_line(record))
        self._news.set()

    def end(self, why: str) -> None:
        self._seen.clear()
        self._over = True
        self.tell({"tap": "end", "text": why})

    async def aclose(self) -> None:
        self._leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Some lines, once there are any."""
        while not self._lines:
            if self._over:
                raise StopAsyncIteration
            if self._lost and not self._seen:
                lost, self._lost = self._lost, 0
                return _lost(lost)
            self._news.clear()
            await self._news.wait()
        size, some = 0, []
        while self._lines and size < PIECE_BYTES:
            some.append(self._lines.popleft())
            size += len(some[-1])
        self._waiting -= size
        return b"".join(some)


def _line(record: dict[str, Any]) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _lost(count: int) -> bytes:
    return _line({"tap": "lost", "lines": count})


def view_of(query: str) -> View:
    """Of the query of a request for /tap. Raises ValueError with what is wrong in words."""
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=1000):
        given.setdefault(name, []).append(value)
    if strangers := sorted(set(given) - {"protocol", "route", "request", "text", "payload", "headers", "query"}):
        known = "protocol, route, request, text, payload, headers, query"
        raise ValueError(f"there is no filter {', '.join(strangers)}; there are {known}")
    protocols = frozenset(given.get("protocol", ()))
    if wrong := sorted(protocols - set(CHOICES)):
        raise ValueError(f"there is no protocol {', '.join(wrong)}; there are {', '.join(CHOICES)}")
    for name in ("request", "route"):
        if len(given.get(name, ())) > MOST_NAMES:
            raise ValueError(f"{name} may be given {MOST_NAMES} times at most")
    text = given.get("text", [""])
    if len(text) > 1 or ("text" in given and not text[0]):
        raise ValueError("text is one text, and not empty")
    payload = given.get("payload", ["0"])[-1]
    if not (payload.isascii() and payload.isdigit() and len(payload) < 10 and int(payload) <= MOST_PAYLOAD_BYTES):
        raise ValueError(f"payload is a number of bytes, at most {MOST_PAYLOAD_BYTES}")
    options: dict[str, Any] = {"protocols": protocols} if protocols else {}
    return View(
        routes=frozenset(given.get("route", ())),
        requests=frozenset(given.get("request", ())),
        text=text[0],
        payload=int(payload),
        headers=_flag(given, "headers"),
        query=_flag(given, "query"),
        **options,
    )


def _flag(given: dict[str, list[str]], name: str) -> bool:
    value = given.get(name, ["0"])[-1]
    if value not in ("0", "1"):
        raise ValueError(f"{name} is 0 or 1")
    return value == "1"
