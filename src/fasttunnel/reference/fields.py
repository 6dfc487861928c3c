"""Header fields: what passes from one protocol into another, and what belongs to one connection only."""

import re
from collections.abc import Iterable

from fasttunnel.wire.tunnel_pb2 import Header

Field = tuple[bytes, bytes]

# RFC 9110 7.6.1; `te` passes with its one end-to-end value (10.1.4).
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"))
# What a visitor says of itself proves nothing: replaced by what the server knows.
FORWARDING = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port")
)
# RFC 9110 6.5.1: fields of framing and routing have no meaning in trailers, and merging them would be dangerous.
NOT_IN_TRAILERS = frozenset((b"content-length", b"host", b"trailer"))
NOT_IN_HOSTS = frozenset(b' \t/\\?#@<>"{}|^`%')

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # token, RFC 9110 5.6.2
_VALUE = re.compile(rb"([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")  # RFC 9110 5.5
_TARGET = re.compile(rb"[^\x00-\x20\x7f]+")


class BadMessage(Exception):
    """A message that breaks HTTP. `status` is what a client is answered."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def valid_value(value: bytes) -> bool:
    return _VALUE.fullmatch(value) is not None


def valid_target(target: bytes) -> bool:
    return _TARGET.fullmatch(target) is not None


def valid_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None


def get(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The first field of this name (in lower case)."""
    return next((value for key, value in fields if key.lower() == name), None)


def tokens(fields: Iterable[Field], name: bytes) -> set[bytes]:
    """The members of a list field, in lower case."""
    lists = (value.lower().split(b",") for key, value in fields if key.lower() == name)
    return {token.strip() for values in lists for token in values}


def to_tunnel(fields: Iterable[Field], *, without: Iterable[bytes] = ()) -> list[Header]:
    """Fields of a socket for a TunnelMessage: those of the connection stay behind."""
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


def from_tunnel(headers: Iterable[Header], *, without: Iterable[bytes] = ()) -> list[Field]:
    """Fields of a TunnelMessage for a socket. Raises BadMessage: the other end is not believed to have checked them."""
    fields = []
    for header in headers:
        name, value = header.name.encode(), header.value
        if not valid_name(name) or not valid_value(value):
            raise BadMessage(502, "bad header field from the backend")
        key = name.lower()
        if (key in HOP_BY_HOP and (key, value) != (b"te", b"trailers")) or key in without:
            continue
        fields.append((name, value))
    return fields


def of_visitor(address: str, host: bytes) -> list[Header]:
    """X-Forwarded-For, -Proto, -Host and Forwarded (RFC 7239): an IPv6 address is bracketed and quoted there."""
    node = f'"[{address}]"' if ":" in address else address
    forwarded = f"for={node};proto=http".encode()
    if host:
        forwarded += b';host="' + host + b'"' if b":" in host else b";host=" + host
    return [
        Header(name="X-Forwarded-For", value=address.encode()),
        Header(name="X-Forwarded-Proto", value=b"http"),
        Header(name="X-Forwarded-Host", value=host),
        Header(name="Forwarded", value=forwarded),
    ]
