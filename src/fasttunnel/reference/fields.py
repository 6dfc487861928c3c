"""Header fields: what passes from one protocol into another, and what belongs to one connection only."""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from fasttunnel.control.forwarding import forwarding_fields
from fasttunnel.reference.messages import BadMessage, Field, Head
from fasttunnel.wire.tunnel_pb2 import Header, WebSocketRequest, WebSocketResponse

# RFC 9110 7.6.1; `te` passes with its one end-to-end value (10.1.4).
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"))

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # token, RFC 9110 5.6.2
_VALUE = re.compile(rb"([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")  # RFC 9110 5.5
# Visible ASCII (RFC 3986 has no other characters), without a fragment.
_TARGET = re.compile(rb"[!\"$-~]+")
# A name or address with or without a port, and nothing that Forwarded could take for syntax.
_HOST = re.compile(rb"[A-Za-z0-9._~-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
# The span that asked, of a trace that is recorded (W3C Trace Context 3.2.2.4, 3.2.2.5.1).
_RECORDED = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})([0-9a-f]{16})-[0-9a-f][13579bdf](?:-.*)?")
_TRACE = re.compile(rb"[0-9A-Za-z]+-([0-9A-Za-z]{32})-[^-]+-.*")  # W3C Trace Context 3.2.2


class Visitor(NamedTuple):
    """Who is at the other end of a public connection."""

    address: str
    scheme: str  # http or https
    trusted: bool = False  # a proxy whose own X-Forwarded-* and Forwarded count


def is_forwarding(name: bytes) -> bool:
    """Forwarded, X-Forwarded-*: CGI and WSGI take one of - and _ for the other."""
    return name.lower() == b"forwarded" or name.lower().replace(b"_", b"-").startswith(b"x-forwarded-")


def in_trailers(fields: Iterable[Field]) -> list[Field]:
    """RFC 9110 6.5.1: fields of framing, routing and origin have no meaning there, and merging them is dangerous."""
    no_use = (b"content-length", b"host", b"trailer")
    return [(name, value) for name, value in fields if name.lower() not in no_use and not is_forwarding(name)]


def get(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The first field of this name (in lower case)."""
    return next((value for key, value in fields if key.lower() == name), None)


def get_all(fields: Iterable[Field], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def tokens(fields: Iterable[Field], name: bytes) -> set[bytes]:
    """The members of a list field, in lower case."""
    return {token.strip().lower() for value in get_all(fields, name) for token in value.split(b",")}


def nominated(fields: Iterable[Field]) -> list[bytes]:
    """What Connection names beside its own options (RFC 9110 7.6.1)."""
    values = get_all(fields, b"connection")
    options = [token.strip(b" \t").lower() for value in values for token in value.split(b",")]
    return [option for option in options if option not in (b"", b"close", b"keep-alive", b"upgrade")]


def check(fields: Iterable[Field], *, status: int = 0) -> None:
    """RFC 9110 5.1, 5.5. Raises BadMessage."""
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields):
        raise BadMessage("bad header field", status=status)


def content_length(fields: Iterable[Field]) -> int:
    """Of the body that follows; -1: not known before. Raises BadMessage."""
    lengths = get_all(fields, b"content-length")
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,19}", lengths[0])):
        raise BadMessage("bad content-length")
    return int(lengths[0]) if lengths else -1


def check_target(method: bytes, target: bytes, authority: bytes) -> None:
    """A request that every backend understands as we do (RFC 9110 7.1, 9.1). Raises BadMessage."""
    if method == b"CONNECT":
        raise BadMessage("CONNECT is not served here", status=405)
    path = target[:1] == b"/" or (target == b"*" and method == b"OPTIONS")
    if not path or not _TARGET.fullmatch(target):
        raise BadMessage("bad request target", status=400)
    if not _HOST.fullmatch(authority):
        raise BadMessage("bad Host", status=400)
    if not _NAME.fullmatch(method):
        raise BadMessage("bad method", status=400)


def from_http2(headers: Iterable[Field]) -> Head:
    """h2 has checked which pseudo-header fields there are, and how often, and has joined cookies (RFC 9113 8.2.3)."""
    pseudo = {name: value for name, value in headers if name[:1] == b":"}
    others = [(name, value) for name, value in headers if name[:1] != b":"]
    authority = pseudo.get(b":authority", get(others, b"host") or b"")
    ours = pseudo.get(b":scheme") in (b"http", b"https") and authority  # 8.3.1: both schemes have one
    target = pseudo.get(b":path", b"") if ours else b""
    status = int(pseudo[b":status"]) if pseudo.get(b":status", b"").isdigit() else 0
    return Head(others, pseudo.get(b":method", b""), target, authority, status)


def to_http2(head: Head, scheme: bytes) -> list[Field]:
    """h2 writes names in lower case."""
    if head.status:
        return [(b":status", b"%d" % head.status), *head.fields]
    first = [(b":method", head.method), (b":scheme", scheme), (b":path", head.target), (b":authority", head.authority)]
    return first + head.fields


def to_tunnel(fields: Iterable[Field], *, without: Iterable[bytes] = ()) -> list[Header]:
    """Fields of a socket for a TunnelMessage: those of the connection, and those that it names, stay behind."""
    fields = list(fields)
    dropped = HOP_BY_HOP | tokens(fields, b"connection") | frozenset(without)
    passing = []
    for name, value in fields:
        key = name.lower()
        if key == b"te" and b"trailers" in value.lower():
            passing.append(Header(name="te", value=b"trailers"))
        elif key not in dropped:
            passing.append(Header(name=name.decode("ascii"), value=value))
    return passing


def from_tunnel(headers: Iterable[Header], *, without: Collection[bytes] = ()) -> list[Field]:
    """Fields of a TunnelMessage for a socket. Raises BadMessage: the other end is not believed to have checked them."""
    fields = [(header.name.encode(), header.value) for header in headers]
    check(fields)
    passing = [field for field in fields if field[0].lower() not in without]
    return [(n, v) for n, v in passing if n.lower() not in HOP_BY_HOP or (n.lower(), v) == (b"te", b"trailers")]


def of_request(head: Head, visitor: Visitor, *, without: Iterable[bytes] = ()) -> list[Header]:
    """The fields of a visitor's request. What it says of itself proves nothing, unless it is a trusted proxy."""
    passing = [field for field in head.fields if not is_forwarding(field[0])]
    said = [field for field in head.fields if is_forwarding(field[0])] if visitor.trusted else []
    known = forwarding_fields(visitor.address.encode(), visitor.scheme.encode(), head.authority, said)
    return to_tunnel(passing, without={b"host"} | frozenset(without)) + to_tunnel(known)


def subprotocol(handshake: WebSocketRequest | WebSocketResponse) -> list[Header]:
    """The field that a handshake carries apart."""
    text = handshake.subprotocol
    return [Header(name="Sec-WebSocket-Protocol", value=text.encode())] if text else []


def trace_id(fields: Iterable[Field]) -> str:
    """Of the request's traceparent; empty when there is none, or none that can be used."""
    match = _TRACE.fullmatch(get(fields, b"traceparent") or b"")
    return match[1].decode() if match and match[1].strip(b"0") else ""


def parent_id(fields: Iterable[Field]) -> str:
    """The same of the span that asked; empty as well where the trace is not recorded."""
    match = _RECORDED.fullmatch(get(fields, b"traceparent") or b"")
    return match[1].decode() if match else ""
