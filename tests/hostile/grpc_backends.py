"""gRPC (grpc/doc/PROTOCOL-HTTP2.md, http-grpc-status-mapping.md): backends that answer with anything but an answer."""

from tests.hostile.attack import Section
from tests.hostile.grpc import LIMIT, SMALL
from tests.hostile.grpc_calls import EXHAUSTED, INTERNAL, OK, UNAVAILABLE, UNKNOWN, called, message, note, outcome
from tests.hostile.site import Attacker

attack = Section("gRPC").attack

USUAL = [(b":status", b"200"), (b"content-type", b"application/grpc")]

STATUSES = [b"17", b"99", b"-1", b"4294967296", b"18446744073709551616", b"0x0", b"x", b"", b"0 0", None]


@attack(
    "a backend whose grpc-status is outside 0..16, no number, or missing",
    "UNKNOWN",
    together=False,
    attackers=2 * len(STATUSES),
)
async def statuses(attacker: Attacker) -> None:
    """Behind a message, and alone."""
    stream, backend, _ = await called(attacker)
    status = attacker.one_of(STATUSES)
    if attacker.number < len(STATUSES):
        backend.head()
        backend.messages([b""])
        backend.end(status)
    else:
        number = [(b"grpc-status", status)] if status is not None else []
        backend.protocol.send_headers(backend.number, USUAL + number, end_stream=True)
    await backend.write()
    assert await outcome(stream) == UNKNOWN


@attack("a backend that ends its answer without trailers", "UNKNOWN", together=False, attackers=12)
async def no_trailers(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    backend.head()
    backend.protocol.send_data(backend.number, note(5), end_stream=True)
    await backend.write()
    assert await outcome(stream) == UNKNOWN
    assert stream.body == note(5)


HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14, 500: 2, 302: 2, 204: 2, 999: 2}


@attack(
    "a backend that answers with an error of HTTP and a page of 60 KB",
    "the status that gRPC maps it to",
    together=False,
    attackers=len(HTTP),
)
async def pages(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    status, wanted = attacker.one_of(list(HTTP.items()))
    backend.protocol.send_headers(backend.number, [(b":status", b"%d" % status), (b"content-type", b"text/html")])
    for _ in range(4):
        backend.protocol.send_data(backend.number, b"<p>" * 5000)
    await backend.write()
    assert await outcome(stream) == str(wanted)
    assert not stream.body


TYPES = [b"text/html", b"application/json", b"application/grpc-web", b"application/grpcx", b"", None]


@attack(
    "a backend that answers 200 and another content-type, or none", "UNKNOWN", together=False, attackers=2 * len(TYPES)
)
async def types(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    kind = attacker.one_of(TYPES)
    fields = [(b"content-type", kind)] if kind is not None else []
    backend.protocol.send_headers(backend.number, [(b":status", b"200"), *fields])
    backend.messages([b"not for you"])
    await backend.write()
    assert await outcome(stream) == UNKNOWN
    assert not stream.body


TWO = note(1) + note(2)


@attack(
    "a backend that ends its answer at each byte of two messages, with status OK",
    "INTERNAL inside of one",
    together=False,
    attackers=len(TWO) + 1,
)
async def cut(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    backend.head()
    backend.protocol.send_data(backend.number, TWO[: attacker.number])
    backend.end()
    await backend.write()
    got = await outcome(stream)
    assert got == (OK if attacker.number in (0, len(note(1)), len(TWO)) else INTERNAL), got


@attack(
    "a backend whose message has a flag byte above 1", "INTERNAL; its stream is reset", together=False, attackers=12
)
async def flags(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    backend.head()
    backend.protocol.send_data(backend.number, note(5) + message(flag=attacker.one_of([2, 255])))
    await backend.write()
    assert await outcome(stream) == INTERNAL
    assert stream.body in (b"", note(5))
    await backend.expect_reset()


@attack(
    "a backend whose message is above grpc_message_bytes, of which only the prefix has come",
    "RESOURCE_EXHAUSTED; its stream is reset",
    together=False,
    attackers=12,
    options=SMALL,
)
async def too_large(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    backend.head()
    backend.protocol.send_data(backend.number, message(length=attacker.one_of([LIMIT + 1, 2**32 - 1])))
    await backend.write()
    assert await outcome(stream) == EXHAUSTED
    await backend.expect_reset()


MESSAGES = {b"%0d%0aevil: 1": "%0D%0Aevil: 1", b"%": "%25", b"%zz": "%25zz", b"\xff%ff": "%EF%BF%BD%EF%BF%BD"}


@attack(
    "a backend whose grpc-message hides a line, is cut, or is no UTF-8",
    "encoded anew",
    together=False,
    attackers=2 * len(MESSAGES),
)
async def messages(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    said, wanted = attacker.one_of(list(MESSAGES.items()))
    backend.head()
    backend.end(b"5", (b"grpc-message", said))
    await backend.write()
    assert await outcome(stream) == "5"
    assert dict([*stream.fields, *stream.trailers])["grpc-message"] == wanted


DETAILS = [b"!!!", b"A", b"AAAA=A", b"\xff", b"===="]


@attack(
    "a backend whose grpc-status-details-bin is no base64",
    "its status, without them",
    together=False,
    attackers=2 * len(DETAILS),
)
async def details(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    backend.head()
    backend.end(b"5", (b"grpc-status-details-bin", attacker.one_of(DETAILS)))
    await backend.write()
    assert await outcome(stream) == "5"
    assert not dict([*stream.fields, *stream.trailers]).get("grpc-status-details-bin")


FIELDS = [
    (b"x", b"a\r\nb: c"),
    (b"x", b"a\nb"),
    (b"x", b"a\0b"),
    (b"x y", b"1"),
    (b"X", b"1"),
    (b"", b"1"),
    (b":x", b"1"),
    (b"connection", b"close"),
    (b"transfer-encoding", b"chunked"),
]


@attack(
    "a backend whose metadata HTTP does not allow, first or last",
    "INTERNAL or UNAVAILABLE, never passed",
    together=False,
    attackers=2 * len(FIELDS),
)
async def metadata(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    field = attacker.one_of(FIELDS)
    first = attacker.number < len(FIELDS)
    backend.head(*[field] * first)
    backend.end(b"0", *[field] * (not first))
    await backend.write()
    got = await outcome(stream)
    assert got in (INTERNAL, UNAVAILABLE), got


@attack(
    "1,000 interim answers before the answer",
    "dropped, or INTERNAL above the limit of a head",
    together=False,
    attackers=4,
    cpu_ms=20,
)
async def interim(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    for _ in range(1000):
        backend.protocol.send_headers(backend.number, [(b":status", b"103"), (b"link", b"</x>")])
    backend.head()
    backend.end()
    await backend.write()
    assert await outcome(stream) == (INTERNAL if attacker.site.engine == "cython" else OK)
