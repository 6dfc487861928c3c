"""TunnelMessages as records for people and programs: what passes one end of a tunnel, request by request.

Nothing here reads or writes: `Requests` makes a `Sight` of each encoded message, and a `View` says what of it one
reader wants, as a dictionary that becomes a line of JSON. docs/observability.md has the fields.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from fasttunnel.control import redaction
from fasttunnel.control.counts import DIRECTIONS, PROTOCOLS
from fasttunnel.control.log import timestamp
from fasttunnel.control.taps import CONTROL, Tapped, UnderWay
from fasttunnel.control.terms import grpc_status, opcode, reset_code
from fasttunnel.limits import REQUEST_ID_BYTES
from fasttunnel.wire.tunnel_pb2 import TunnelMessage

REQUESTS: Final = 4096  # that are remembered; of others that are under way the tunnel is asked again
SHOWN: Final = frozenset(PROTOCOLS.values())  # unless control is asked for
MOST_PAYLOAD_BYTES: Final = 65_536
CUT: Final = "\N{HORIZONTAL ELLIPSIS}"  # stands for what is left away
MOST_CHARACTERS: Final = 512  # that are kept of a path, a query, a host and the like: who sends them may be anybody
MOST_QUERY: Final = 2048  # characters in which secrets are sought; of what is behind them nothing is shown

_OF_TUNNEL: Final = frozenset(("register", "registered", "heartbeat", "go_away", "window_update", "tcp_data"))
_OPENING: Final = frozenset(("http_request", "grpc_request", "ws_request"))
_CONTROLS: Final = bytes([*range(32), 127])
_NOT_IN_TEXT: Final = bytes(set(_CONTROLS) - set(b"\t\n\r\x1b"))
_GRPC: Final = 2


class Request:
    """What is known of one request. Empty texts: not known."""

    __slots__ = ("begun_s", "closed", "counts", "epoch", "host", "method", "path", "protocol", "query", "route")

    def __init__(self, protocol: str | None, epoch: int = 0) -> None:
        self.protocol = protocol
        self.epoch = epoch  # see Requests.missed
        self.route = ""
        self.method = ""
        self.host = ""
        self.path = ""
        self.query = ""  # redacted, with its question mark
        self.begun_s: float | None = None
        self.counts = [0, 0]  # messages, by DIRECTIONS
        self.closed = 0  # bits: directions that have ended


class Sight:
    """One message, seen. `request` may come to know its route later."""

    __slots__ = ("age_s", "at_s", "body", "kind", "message", "number", "request", "sent", "size", "tunnel", "way")

    def __init__(self, tunnel: Tapped, sent: bool, message: TunnelMessage | None, request: Request, size: int) -> None:
        self.at_s = time.time()
        self.tunnel = tunnel
        self.sent = sent
        self.message = message  # None: malformed
        self.kind = (message.WhichOneof("payload") or "empty") if message is not None else "malformed"
        self.request = request
        self.way = message.direction - 1 if message is not None and message.direction in (1, 2) else None
        self.body = b""
        self.size = size
        self.number: int | None = None  # of the message in its direction, from 1
        self.age_s: float | None = None  # of the request

    @property
    def protocol(self) -> str | None:
        return CONTROL if self.kind in _OF_TUNNEL else self.request.protocol


class Requests:
    """The requests whose messages pass, bounded: an old one that is pushed out is asked for again."""

    def __init__(self, most: int = REQUESTS) -> None:
        self._most = most
        self._known: OrderedDict[tuple[int, str], Request] = OrderedDict()
        self._epoch = 0

    def missed(self) -> None:
        """Messages pass, or have passed, that are not shown to see(): what has been counted is to be asked for."""
        self._epoch += 1

    def __len__(self) -> int:
        return len(self._known)

    def see(self, tunnel: Tapped, sent: bool, encoded: bytes, only: frozenset[str] = frozenset()) -> Sight | None:
        """`only`: of these requests; of another one, and of none, None. Empty: all."""
        try:
            message = TunnelMessage.FromString(encoded)
        except DecodeError:
            return Sight(tunnel, sent, None, Request(None), len(encoded)) if not only else None
        if only and message.request_id not in only:
            return None
        if not message.request_id:
            return Sight(tunnel, sent, message, Request(None), len(encoded))
        kind = message.WhichOneof("payload") or ""
        payload: Any = getattr(message, kind) if kind else None
        whole, part, last = _facts(kind, payload)
        key = id(tunnel), message.request_id
        request = self._known.get(key)
        opens = kind == "ws_request" or (kind in _OPENING and payload.is_first_chunk)
        if request is None or opens:
            request = self._find(key, tunnel, sent and whole, message, opens)
        elif not request.route or request.epoch != self._epoch:
            known = tunnel.request(message.request_id)
            _complete(request, known)
            if request.epoch != self._epoch and known is not None:
                _recount(request, known, message, sent and whole)
                request.epoch = self._epoch
        if opens:
            _begin(request, kind, payload)
        sight = Sight(tunnel, sent, message, request, 0)
        if request.begun_s is not None:
            sight.age_s = time.monotonic() - request.begun_s
        if sight.kind == "ws_frame":
            sight.body = payload.payload
        elif sight.kind not in _OF_TUNNEL and sight.kind != "reset":
            sight.body = getattr(payload, "body", b"")
        sight.size = len(sight.body)
        way = sight.way
        if way is not None and (whole or part):
            sight.number = request.counts[way] + 1
            request.counts[way] += whole
        if last and way is not None:
            request.closed |= 1 << way
        if kind == "reset" or request.closed == 3:
            self._known.pop(key, None)
        return sight

    def _find(
        self, key: tuple[int, str], tunnel: Tapped, counted: bool, message: TunnelMessage, opens: bool
    ) -> Request:
        request = Request(PROTOCOLS.get(message.protocol_type), self._epoch)
        known = tunnel.request(message.request_id)
        if opens:
            request.begun_s = time.monotonic()
        elif known is not None:
            request.begun_s = time.monotonic() - known.age_s
            _recount(request, known, message, counted)
        _complete(request, known)
        if (opens or known is not None) and len(message.request_id) <= REQUEST_ID_BYTES:
            self._known[key] = request
            self._known.move_to_end(key)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return request


def _recount(request: Request, known: UnderWay, message: TunnelMessage, counted: bool) -> None:
    """`counted`: the message is in it already, as engines count what they send before they show it."""
    request.counts = [known.to_backend, known.to_public]
    if counted and message.direction in (1, 2):
        request.counts[message.direction - 1] -= 1


def _complete(request: Request, known: UnderWay | None) -> None:
    if known is not None:
        request.protocol = known.protocol
        request.route = request.route or known.route
        request.method = request.method or _short(known.method)
        request.host = request.host or _short(known.host)
        request.path = request.path or redaction.path(_short(known.path))


def late(request: Request, tunnel: Tapped, request_id: str | None) -> None:
    """Find out what a request's first message came too early for: at the client its route is looked for after it."""
    if request_id is not None and not request.route:
        _complete(request, tunnel.request(request_id))


def _begin(request: Request, kind: str, payload: Any) -> None:
    if kind == "grpc_request":
        request.path, request.host = _short(f"/{payload.service}/{payload.method}"), _short(payload.authority)
        return
    path, mark, query = payload.url.partition("?")
    if len(query) > MOST_QUERY:
        query = query[:MOST_QUERY].rpartition("&")[0] + CUT  # whole parameters: of half of one nobody knows what it is
    request.path = redaction.path(_short(path))
    request.query = mark + _short(redaction.query(query))
    request.host = _short(payload.host)
    request.method = _short(payload.method) if kind == "http_request" else "GET"


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + CUT


def _facts(kind: str, payload: Any) -> tuple[bool, bool, bool]:
    """Whether a message completes what is counted, as engines count it; is a part of it; closes its direction."""
    if kind == "ws_frame":
        return not payload.more, payload.more, payload.opcode == 8
    if kind.startswith("http_"):
        return True, False, payload.is_last_chunk
    if kind.startswith("grpc_"):
        return payload.HasField("body") and not payload.more, payload.more, payload.is_last_chunk
    return False, False, kind == "ws_response" and not payload.accepted


_BITS: Final = {**{name: 1 << number for number, name in PROTOCOLS.items()}, CONTROL: 1 << 4}


class View(msgspec.Struct, frozen=True):
    """What one reader wants. Filters that are empty leave everything in; what stands in several has to be in all."""

    protocols: frozenset[str] = SHOWN
    routes: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()
    text: str = ""  # in the path, the method or the payload
    payload: int = 0  # bytes of it that are shown
    headers: bool = False
    query: bool = False

    @property
    def reveals(self) -> bool:
        """Whether it can tell what is said, and not only that something is: a text that is sought in payloads can."""
        return bool(self.payload or self.headers or self.query or self.text)

    @property
    def bits(self) -> int:
        """The protocols, for control.taps."""
        return sum(_BITS[name] for name in self.protocols)

    def wants(self, sight: Sight) -> bool:
        """All but the route, which may not be known yet."""
        message = sight.message
        if sight.protocol not in self.protocols and (sight.protocol is not None or self.protocols != SHOWN):
            return False
        if self.requests and (message is None or message.request_id not in self.requests):
            return False
        return not self.text or self._has_text(sight)

    def _has_text(self, sight: Sight) -> bool:
        request = sight.request
        path = request.path + request.query if self.query else request.path
        return self.text in path or self.text in request.method or self.text.encode() in sight.body

    def wants_route(self, request: Request) -> bool:
        return not self.routes or request.route in self.routes

    def record(self, sight: Sight) -> dict[str, Any]:
        """Of a message that is wanted. What is not known is None."""
        request, message = sight.request, sight.message
        record: dict[str, Any] = {
            "time": timestamp(sight.at_s),
            "tunnel": sight.tunnel.far_end,
            "sent": sight.sent,
            "request_id": (_short(message.request_id) if message is not None else "") or None,
            "protocol": sight.protocol,
            "route": request.route or None,
            "direction": DIRECTIONS[sight.way] if sight.way is not None else None,
            "kind": sight.kind,
            "size": sight.size,
            "age_s": round(sight.age_s, 6) if sight.age_s is not None else None,
        }
        if message is None:
            return record
        if not message.request_id:
            record |= _of_tunnel(sight)
        elif request.protocol != "grpc":
            record["host"] = request.host or None
            record["method"] = request.method or None
            record["path"] = request.path or None
            if self.query:
                record["query"] = request.query[1:] if request.path else None
        else:
            record["host"] = request.host or None
            record["method"] = request.path or None
        if sight.number is not None:
            record["number"] = sight.number
        describe = _DESCRIBED.get(sight.kind)
        if describe is not None:
            payload = getattr(message, sight.kind)
            record |= describe(payload, self)
            if self.headers:
                record |= _fields(payload)
        if self.payload and sight.body:
            record |= _payload(sight, self.payload)
        return record

    def cost(self, sight: Sight) -> int:
        """Bytes that its record takes, about."""
        request, message = sight.request, sight.message
        texts = (request.route, request.host, request.method, request.path, request.query, sight.tunnel.far_end)
        cost = 600 + sum(map(len, texts)) + 2 * min(self.payload, sight.size)
        if message is None:
            return cost
        rest: int = message.ByteSize() - len(sight.body)  # header fields for the most part, else words of an end
        return cost + (4 * rest if self.headers else min(rest, 2 * MOST_CHARACTERS + self.payload))


# -- what each kind of message says of itself -------------------------------------------------------------------------


def _http_request(payload: Any, view: View) -> dict[str, Any]:
    return _ends(payload) | _trailers(payload.trailers)


def _http_response(payload: Any, view: View) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if payload.is_first_chunk or payload.informational:
        told["status"] = payload.status_code
    return told | _ends(payload) | _trailers(payload.trailers)


def _grpc_request(payload: Any, view: View) -> dict[str, Any]:
    return _ends(payload) | _part(payload)


def _grpc_response(payload: Any, view: View) -> dict[str, Any]:
    told = _ends(payload) | _part(payload)
    if payload.is_last_chunk:
        told |= {"status": payload.status_code, "status_name": grpc_status(payload.status_code)}
        if payload.status_message and view.payload:
            told["status_message"] = payload.status_message[: view.payload]
    return told | _trailers(payload.trailing_metadata)


def _ends(payload: Any) -> dict[str, Any]:
    return {"first": payload.is_first_chunk, "last": payload.is_last_chunk}


def _part(payload: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"more": payload.more, "compressed": payload.compressed}
    if payload.message_length:
        told["message_bytes"] = payload.message_length
    return told


def _trailers(trailers: Any) -> dict[str, Any]:
    return {"trailers": len(trailers)} if trailers else {}


def _ws_request(payload: Any, view: View) -> dict[str, Any]:
    return {"first": True}


def _ws_response(payload: Any, view: View) -> dict[str, Any]:
    return {"first": True, "status": payload.status_code or 101, "accepted": payload.accepted}


def _ws_frame(payload: Any, view: View) -> dict[str, Any]:
    told: dict[str, Any] = {"opcode": opcode(payload.opcode), "fin": payload.fin, "more": payload.more}
    if payload.rsv:
        told["rsv"] = payload.rsv
    if payload.payload_length:
        told["message_bytes"] = payload.payload_length
    if payload.opcode == 8 and len(payload.payload) >= 2:
        told["code"] = int.from_bytes(payload.payload[:2])
    return told


def _reset(payload: Any, view: View) -> dict[str, Any]:
    return {"reset": reset_code(payload.code), "text": _short(payload.message)}


def _window_update(payload: Any, view: View) -> dict[str, Any]:
    return {"credit": payload.bytes}


_DESCRIBED: Final = {
    "http_request": _http_request,
    "http_response": _http_response,
    "grpc_request": _grpc_request,
    "grpc_response": _grpc_response,
    "ws_request": _ws_request,
    "ws_response": _ws_response,
    "ws_frame": _ws_frame,
    "reset": _reset,
    "window_update": _window_update,
}


def _of_tunnel(sight: Sight) -> dict[str, Any]:
    """Of control messages, only what holds no secret."""
    payload: Any = getattr(sight.message, sight.kind, None)
    if sight.kind == "heartbeat":
        return {"reply": payload.reply}
    if sight.kind == "go_away":
        return {"text": _short(payload.reason), "grace_ms": payload.grace_ms}
    if sight.kind in ("register", "registered"):
        return {"routes": len(payload.routes)}
    return {}


def _fields(payload: Any) -> dict[str, Any]:
    told = {}
    for name, of in (
        ("headers", "headers"),
        ("headers", "metadata"),
        ("headers", "initial_metadata"),
        ("trailer_fields", "trailers"),
        ("trailer_fields", "trailing_metadata"),
    ):
        if fields := getattr(payload, of, None):
            told[name] = [[one.name, redaction.field(one.name, _value(one))] for one in fields]
    return told


def _value(header: Any) -> str:
    if header.name.lower().endswith("-bin"):
        return f"0x{header.value.hex()}"
    return str(header.value.decode("utf-8", "backslashreplace"))


def _payload(sight: Sight, most: int) -> dict[str, Any]:
    """As text where it is one, else in hexadecimal."""
    start = sight.body[:most]
    message = sight.message
    assert message is not None
    strangers, packed = _NOT_IN_TEXT, False
    if sight.kind == "ws_frame":
        frame = message.ws_frame
        if frame.opcode == 8:
            start = sight.body[2 : most + 2]  # behind the code
        if frame.opcode == 1:
            strangers = b""
        packed = bool(frame.rsv & 4)  # permessage-deflate (RFC 7692)
    elif sight.request.protocol == "grpc":
        strangers = _CONTROLS  # protobuf has its lengths and tags there, and a line feed is a common one
    if not start:
        return {}
    text = _text(start, strangers, cut=len(start) < len(sight.body)) if not packed else None
    return {"payload": text} if text is not None else {"payload_hex": start.hex()}


def _text(data: bytes, strangers: bytes, *, cut: bool) -> str | None:
    """None: it is none. A character that the cut has halved is left away."""
    if data.translate(None, strangers) != data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if cut and error.reason == "unexpected end of data" and error.end == len(data):
            return data[: error.start].decode()
        return None
