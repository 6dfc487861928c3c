"""What an engine tells about itself: events, one readable line each."""

import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

from fasttunnel import limits
from fasttunnel.control.changes import Changes
from fasttunnel.control.routes import Route

_logger = logging.getLogger("fasttunnel")
TEXT_CHARACTERS = 512  # of a text of a peer


class RequestRecord(NamedTuple):
    """A finished request, as one end saw it. "in" is towards the backend, "out" towards the public."""

    request_id: str
    protocol: str  # "http", "grpc" or "websocket"
    host: str
    method: str  # HTTP method; for gRPC the name of the method
    path: str  # without the query: it may hold secrets
    status: int  # HTTP status, gRPC status or WebSocket close code
    reset: int | None  # ResetCode of an abnormal end
    messages_in: int  # body chunks, gRPC messages or WebSocket frames
    messages_out: int
    bytes_in: int  # payload, without any framing
    bytes_out: int
    duration_s: float
    route: str = ""  # empty: it went into no tunnel
    trace_id: str = ""  # of its traceparent
    client_id: str = ""
    peer: str = ""  # at the server the address that asked, at the client the backend
    parent_id: str = ""  # span that asked, if its traceparent says that the trace is recorded


Ended = tuple[float, RequestRecord]  # when, as of time.time()


def timestamp(now_s: float) -> str:
    """Of time.time(), in UTC: 2026-11-25T12:00:00.123Z."""
    return f"{_second(int(now_s))}.{int(now_s % 1 * 1000):03}Z"


@functools.lru_cache(maxsize=1)  # a busy log has thousands of lines a second
def _second(now_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))


def one_line(text: str) -> str:
    """What a peer says, as it may stand in a line of a log or on a terminal: in bounds, what cannot be seen escaped."""
    text = text[:TEXT_CHARACTERS]
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class RecordLog(Protocol):
    """What takes the records of an engine in batches: control.access.AccessLog."""

    def ready(self, journal: Any) -> None:
        """`journal.take()` hands over what there is; called when the first record has come since the last time."""


class Events:
    """What engines report. Every line goes to `write`, by default to the logger "fasttunnel".

    `request_done` is None unless it is to be called with the record of each finished request. `keeps_last` is how many
    of the last ones are to be had from `Server.last_requests` and `Client.last_requests`, which costs far less. Where
    neither is wanted, nor an access log, engines make no records.
    `tap` is None unless the TunnelMessages themselves are wanted: `tap(tunnel, sent, message)` is then called for each
    one as it is sent or has come, with the address of the tunnel's far end ("10.0.0.7:50123", at the client the
    server's as configured) and the encoded message. It costs a copy of everything and is meant for tests and for
    looking. While engines run, `control.taps` lets others listen as well.
    """

    request_done: Callable[[RequestRecord], None] | None = None
    keeps_last: int = 0
    access: RecordLog | None = None  # set by Server and Client, for the engine
    spans: Callable[[RequestRecord], None] | None = None  # the same, for requests that have a parent_id
    tap: Callable[[str, bool, bytes], None] | None = None

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _logger.info

    def listening(self, kind: str, address: str) -> None:
        """`kind` is "public" or "tunnel", or "admin", of either end."""
        self._write(f"listening  {kind} on {address}")

    def link_up(self, client_id: str, session_id: str, peer: str, routes: Sequence[Route]) -> None:
        """Server: a client has registered."""
        served = ", ".join(str(route) for route in routes)
        self._write(f"link up    {client_id or session_id} from {peer} serves {served}")

    def link_down(self, client_id: str, session_id: str, reason: str) -> None:
        """Server: a client's tunnel has ended."""
        self._write(f"link down  {client_id or session_id}: {reason}")

    def refused(self, peer: str, reason: str) -> None:
        """Server: who came from `peer` may not open a tunnel."""
        self._write(f"refused    {peer}: {reason}")

    def connected(self, server: str, urls: Sequence[str]) -> None:
        """Client: registered; the public reaches the routes at `urls`."""
        self._write(f"connected  to {server}, serving {', '.join(urls)}")

    def disconnected(self, server: str, reason: str, retry_in_s: float | None) -> None:
        """Client: not connected. `retry_in_s` is None when there will be no further attempt."""
        again = "giving up" if retry_in_s is None else f"trying again in {retry_in_s:.1f} s"
        self._write(f"away       {server}: {reason}, {again}")

    def backend_failed(self, backend: str, reason: str) -> None:
        """Client: a connection to a backend could not be made. The public is told neither to where nor why."""
        self._write(f"backend    {backend} cannot be reached: {reason}")

    def reloaded(self, changes: Changes[Any]) -> None:
        """Another configuration is in force."""
        for line in changes.lines():
            self._write(f"reloaded   {line}")
        if changes.needs_restart:
            self.warning(changes.rest)

    def warning(self, text: str) -> None:
        """Something to know that is no reason to stop."""
        self._write(f"warning    {text}")


class Sparing:
    """What happens again and again, perhaps because a stranger wants it to, is told now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: OrderedDict[tuple[object, ...], float] = OrderedDict()  # when, the oldest first

    def permits(self, *what: object) -> bool:
        """Whether this may be told: it has not been for limits.SAME_LINE_S."""
        now = self._clock()
        if now < self._told.get(what, -limits.SAME_LINE_S) + limits.SAME_LINE_S:
            return False
        self._told[what] = now
        self._told.move_to_end(what)
        if len(self._told) > limits.ADDRESSES:
            self._told.popitem(last=False)
        return True


class _Guard:
    def __init__(self, events: Events, access: RecordLog | None, spans: Callable[[RequestRecord], None] | None) -> None:
        self._events = events
        done = events.request_done
        self.request_done = functools.partial(self._call, "request_done", done) if done is not None else None
        self.access = access
        self.spans = functools.partial(self._call, "spans", spans) if spans is not None else None

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._events, name)
        return functools.partial(self._call, name, member) if callable(member) else member

    @staticmethod
    def _call(name: str, member: Callable[..., None], *values: Any) -> None:
        try:
            member(*values)
        except Exception:
            _logger.exception("Events.%s failed", name)


def guard(
    events: Events, access: RecordLog | None = None, spans: Callable[[RequestRecord], None] | None = None
) -> Events:
    """The same events; what fails in them goes to the logger "fasttunnel" and never reaches the traffic.

    `access` gets the records of finished requests as well, `spans` those of requests that have a `parent_id`.
    """
    return cast(Events, _Guard(events, access, spans))
