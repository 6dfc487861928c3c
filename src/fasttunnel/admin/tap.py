"""/tap: the messages that pass this end, as lines of JSON, for as many readers as there may be at once.

A reader that does not keep up loses lines, and is told how many; nothing waits for it. While there is none the engine
is not listened to.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from fasttunnel.admin.http import Request, Response, words
from fasttunnel.admin.subject import Subject
from fasttunnel.control.config import TapScope
from fasttunnel.control.taps import Tapped, Taps
from fasttunnel.control.view import CHOICES, MOST_PAYLOAD_BYTES, Requests, Sight, View, late
from fasttunnel.control.view import Request as SeenRequest
from fasttunnel.version import __version__

READERS: Final = 8  # at once: each costs time for every message
QUEUE_BYTES: Final = 1024 * 1024  # of lines that wait for one reader
PIECE_BYTES: Final = 65_536
GATHER_S: Final = 0.01  # lines leave together; meanwhile the routes of new requests become known
PATIENCE_S: Final = 3600.0  # a reader may pause, as a pager does

TYPE: Final = "application/x-ndjson"


class Tap:
    """`scope` says what may be shown to those who can ask."""

    def __init__(self, subject: Subject, scope: TapScope) -> None:
        self._subject = subject
        self._scope = scope
        self._readers: list[_Reader] = []
        self._taps: Taps | None = None
        self._requests = Requests()
        self._only: tuple[bytes, ...] = ()  # where all readers name requests: what a message has to have in it
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
        return Response(self._stream(_Reader(view), taps), content_type=TYPE, patience_s=PATIENCE_S)

    async def _stream(self, reader: _Reader, taps: Taps) -> AsyncGenerator[bytes, None]:
        self._join(reader, taps)
        try:
            begin = {"tap": "begin", "end": self._subject.kind, "engine": self._subject.engine, "version": __version__}
            yield _line({**begin, "routes": self._subject.routes()})
            while True:
                yield await reader.next()
        finally:
            self._leave(reader)

    def _join(self, reader: _Reader, taps: Taps) -> None:
        self._readers.append(reader)
        self._taps = taps
        self._listen(taps)

    def _leave(self, reader: _Reader) -> None:
        self._readers.remove(reader)
        if self._taps is None:
            return
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
        only = frozenset[str]().union(*(view.requests for view in views)) if all(v.requests for v in views) else ()
        self._only = tuple(one.encode() for one in only)
        taps.add(self._see, functools.reduce(operator.or_, (view.bits for view in views)))
        self._requests.missed()

    def _see(self, tunnel: Tapped, sent: bool, message: bytes) -> None:
        if self._only and not any(name in message for name in self._only):
            return
        sight = self._requests.see(tunnel, sent, message)
        for reader in self._readers:
            if reader.view.wants(sight):
                reader.take(sight)
                if self._flushing is None:
                    self._flushing = asyncio.get_running_loop().call_later(GATHER_S, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        for reader in self._readers:
            reader.settle()


class _Seen(NamedTuple):
    record: dict[str, Any]
    request: SeenRequest
    tunnel: Tapped
    cost: int  # bytes, about
    lost: int  # messages before it


class _Reader:
    """What waits for one reader, in bounds."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._seen: list[_Seen] = []
        self._lines: deque[bytes] = deque()
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

    def settle(self) -> None:
        """Make lines of what has been seen."""
        seen, self._seen = self._seen, []
        for one in seen:
            self._waiting -= one.cost
            if one.lost:
                self._put(_lost(one.lost))
            late(one.request, one.tunnel, one.record["request_id"])
            if self.view.wants_route(one.request):
                one.record["route"] = one.request.route or None
                self._put(_line(one.record))
        if self._lines:
            self._news.set()

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting += len(line)

    async def next(self) -> bytes:
        """Some lines, once there are any."""
        while not self._lines:
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
