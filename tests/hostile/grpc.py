"""gRPC (grpc/doc/PROTOCOL-HTTP2.md): callers that do harm, beside others on the same connection to the same backend."""

from tests.hostile.attack import Section
from tests.hostile.grpc_calls import (
    DEADLINE,
    ECHO,
    EXHAUSTED,
    INTERNAL,
    OK,
    UNIMPLEMENTED,
    call,
    called,
    message,
    note,
    outcome,
)
from tests.hostile.http2_wire import METHOD_POST, head, headers, settled
from tests.hostile.others import CALLS
from tests.hostile.site import Attacker

attack = Section("gRPC").attack

LIMIT = 100_000
SMALL = {end: ["--set", f"grpc_message_bytes={LIMIT}"] for end in ("server", "client")}


@attack("a message that declares 4 GiB, with nothing behind it", "waited for, without memory for it")
async def declared(attacker: Attacker) -> None:
    stream = await call(attacker, body=note(5) + message(length=2**32 - 1), end=False)
    assert await stream.received(len(note(5))) == note(5)
    await attacker.all_here()


@attack("a message above grpc_message_bytes, of which only the prefix has come", "RESOURCE_EXHAUSTED", options=SMALL)
async def too_large(attacker: Attacker) -> None:
    stream = await call(attacker, body=message(length=attacker.one_of([LIMIT + 1, 2**31, 2**32 - 1])), end=False)
    assert await outcome(stream) == EXHAUSTED


@attack("a flag byte above 1, at once or behind a good message", "INTERNAL", attackers=18)
async def flags(attacker: Attacker) -> None:
    body = (note(5) if attacker.number % 6 > 2 else b"") + message(flag=attacker.one_of([2, 128, 255]))
    assert await outcome(await call(attacker, body=body, end=False)) == INTERNAL


TWO = note(1) + note(2)


@attack("a request that ends at each byte of two messages", "INTERNAL inside of one", attackers=len(TWO) + 1)
async def cut(attacker: Attacker) -> None:
    got = await outcome(await call(attacker, body=TWO[: attacker.number]))
    assert got == (OK if attacker.number in (0, len(note(1)), len(TWO)) else INTERNAL), got


@attack("the same, when the backend has heard of the call", "INTERNAL; the backend's stream is reset", together=False)
async def cut_late(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker, body=message(b"x" * 10)[:8], end=False)
    await stream.send(b"", end=True)
    assert await outcome(stream) == INTERNAL
    await backend.expect_reset()


@attack("a caller that is gone inside a message", "the backend's stream is reset", together=False, attackers=16)
async def gone(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker, body=message(length=1000), end=False)
    if attacker.number % 2:
        await stream.cancel()
    else:
        stream.connection.peer.drop()
    await backend.expect_reset()


@attack("a message byte by byte, each in a frame of its own (1,000)", "served when it is whole", cpu_ms=50, attackers=2)
async def bytewise(attacker: Attacker) -> None:
    stream = await call(attacker, body=b"", end=False)
    for byte in note(1000):
        await stream.send(bytes([byte]))
    assert await stream.received(len(note(1000))) == note(1000)


@attack("500 empty messages", "served", cpu_ms=150, memory_kib=512, attackers=2)
async def empty_messages(attacker: Attacker) -> None:
    stream = await call(attacker, body=message() * 500)
    assert await outcome(stream) == OK
    assert stream.body == message() * 500


TIMEOUTS = ["", "1", "S", "-1S", "+1S", "1.5S", "123456789S", "1s", "1 S", " 1S", "0x1S", "1S1S", "1S,1S", "\u0661S"]


@attack("grpc-timeout that is none", "INTERNAL", attackers=len(TIMEOUTS))
async def timeouts(attacker: Attacker) -> None:
    stream = await call(attacker, ("grpc-timeout", attacker.one_of(TIMEOUTS)))
    assert await outcome(stream) in (INTERNAL, "reset 1", "closed")  # a space before a value is malformed HTTP/2


SHORT = ["0S", "0n", "1n", "00000000H", "99999999n"]


@attack("grpc-timeout of nothing, or of a tenth of a second", "DEADLINE_EXCEEDED", attackers=3 * len(SHORT))
async def no_time(attacker: Attacker) -> None:
    assert await outcome(await call(attacker, ("grpc-timeout", attacker.one_of(SHORT)), end=False)) == DEADLINE


@attack("grpc-timeout of 11,000 years", "served", attackers=16)
async def all_time(attacker: Attacker) -> None:
    assert await outcome(await call(attacker, ("grpc-timeout", "99999999H"))) == OK


PATHS = ["/", "//", "/x", "/?x", "/x?/y"]


@attack("paths that name no service or no method", "UNIMPLEMENTED", attackers=3 * len(PATHS))
async def paths(attacker: Attacker) -> None:
    assert await outcome(await call(attacker, path=attacker.one_of(PATHS))) == UNIMPLEMENTED


METADATA = [("x", "a\nb"), ("x", "a\0b"), ("x", "\x7f"), ("x y", "1"), ("x:y", "1"), ("X-Upper", "1"), ("", "1")]


@attack(
    "metadata with names and values that HTTP does not allow", "PROTOCOL_ERROR or INTERNAL", attackers=3 * len(METADATA)
)
async def metadata(attacker: Attacker) -> None:
    got = await outcome(await call(attacker, attacker.one_of(METADATA)))
    assert got in ("reset 1", "closed", INTERNAL), got


BINARY = ["!!!", "====", "A", "\xff", "AAAA,!!!", "A" * 30_000]


@attack(
    "metadata in -bin that is no base64",
    "passed as it is: the backend is to judge it",
    together=False,
    attackers=3 * len(BINARY),
)
async def binary(attacker: Attacker) -> None:
    value = attacker.one_of(BINARY)
    stream, backend, _ = await called(attacker, ("x-evil-bin", value))
    backend.head()
    backend.end()
    await backend.write()
    assert await outcome(stream) == OK


RESERVED = [("grpc-status", "0"), ("grpc-message", "x"), ("grpc-encoding", "bomb"), ("grpc-accept-encoding", "x")]


@attack(
    "metadata with the names that gRPC uses itself", "served, the answer has one status", attackers=3 * len(RESERVED)
)
async def reserved(attacker: Attacker) -> None:
    field = attacker.one_of(RESERVED)
    got = await outcome(await call(attacker, field, body=note(1)))
    assert got == (INTERNAL if field[0] == "grpc-encoding" else OK), got  # of the backend, that knows no such encoding


@attack("1,000 fields of metadata, above the limit of a head together", "RESOURCE_EXHAUSTED", attackers=16)
async def much_metadata(attacker: Attacker) -> None:
    stream = await call(attacker, *[(f"x-{number}", "y" * 60) for number in range(1000)], end=False)
    assert await outcome(stream) == EXHAUSTED


@attack("60 KB of metadata in one field", "passed: the backend is to judge it", attackers=16)
async def long_metadata(attacker: Attacker) -> None:
    """By hand: the library of the test needs longer for it than both engines."""
    wire = await settled(attacker)
    fields = ((b"content-type", b"application/grpc"), (b"x", b"y" * 60_000))
    await wire.send(headers(head(*fields, host=CALLS, target=ECHO, method=METHOD_POST)))
    assert await wire.outcome() == "200"
    assert wire.fields["grpc-status"] == EXHAUSTED  # of the backend, which takes 16 KB


TYPES = ["application/grpc-web", "application/grpc-web+proto", "application/grpcx", "application/json", "text/grpc"]


@attack(
    "a content-type that is another one, to a route of gRPC", "404: no call, and not passed", attackers=3 * len(TYPES)
)
async def types(attacker: Attacker) -> None:
    stream = await call(attacker, kind=("content-type", attacker.one_of(TYPES)))
    assert await outcome(stream) == "HTTP 404"


@attack("trailers of a request with fields, and with a grpc-status", "not passed; served", attackers=16)
async def trailers(attacker: Attacker) -> None:
    stream = await call(attacker, body=note(1), end=False)
    await stream.send_trailers([("grpc-status", "16"), ("x-evil", "1")])
    assert await outcome(stream) == OK


@attack("gRPC over HTTP/1.1", "404, or 502", attackers=16)
async def over_http1(attacker: Attacker) -> None:
    peer = await attacker.connect()
    await peer.send(
        f"POST /a/b HTTP/1.1\r\nHost: {CALLS}\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"
        "Content-Length: 5\r\n\r\n\0\0\0\0\0"
    )
    assert (await peer.answer()).status == 404


@attack(
    "90 calls on one connection, given up at once, with their messages",
    "the others on the connection are served",
    cpu_ms=50,
    memory_kib=512,
    attackers=4,
    together=False,
)
async def given_up(attacker: Attacker) -> None:
    connection = await attacker.http2()
    for _ in range(90):
        stream = await call(attacker, body=message(b""), end=False, on=connection)
        await stream.cancel()
    assert await outcome(await call(attacker, body=note(3), on=connection)) == OK
