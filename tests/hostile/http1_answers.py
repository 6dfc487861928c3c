"""HTTP/1.1: what a hostile backend answers."""

from tests.hostile.attack import Section
from tests.hostile.http1 import NOBODY
from tests.hostile.http1_bodies import LAST, PLENTY, SEGMENT, SMALL, stands_still
from tests.hostile.site import VICTIM, Attacker
from tests.support.raw import Peer, answer, request

attack = Section("HTTP/1.1").attack

OK = "HTTP/1.1 200 OK"
CHUNKED = f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
FORGED = answer("200 OK", "X-Forged: 1", body=b"forged")


async def asked(attacker: Attacker, method: str = "GET", *fields: str, public: Peer | None = None) -> tuple[Peer, Peer]:
    """A request, at the backend."""
    public, backend, _ = await attacker.pass_on(request(method, attacker.target, *fields, host=VICTIM), public)
    return public, backend


async def goes_on(public: Peer) -> None:
    """The public's connection is where it was: the next answer is that of the next request."""
    assert (await public.ask(request("GET", "/", host=NOBODY))).status == 404


async def is_over(backend: Peer) -> None:
    """Nothing more is wanted of it."""
    assert await backend.ended()


async def breaks_off(public: Peer) -> None:
    """What has begun never gets its end."""
    try:
        rest = await public.to_end()
    except ConnectionError:
        return
    assert LAST not in rest


def lines(*lines: str) -> bytes:
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


HEADS = {
    "two lengths": lines(OK, "Content-Length: 3", "Content-Length: 4") + b"abcd",
    "a list of lengths": lines(OK, "Content-Length: 3, 4") + b"abcd",
    "a length with a sign": lines(OK, "Content-Length: +3") + b"abc",
    "a length below 0": lines(OK, "Content-Length: -1"),
    "a length above 2^64": lines(OK, "Content-Length: 18446744073709551617") + b"x",
    "a length and a coding": lines(OK, "Content-Length: 3", "Transfer-Encoding: chunked") + LAST,
    "chunked twice": lines(OK, "Transfer-Encoding: chunked, chunked") + LAST,
    "identity behind chunked": lines(OK, "Transfer-Encoding: chunked, identity") + LAST,
    "two codings": lines(OK, "Transfer-Encoding: gzip, chunked") + LAST,
    "chunked in HTTP/1.0": lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked") + LAST,
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "HTTP/2": b"\0\0\x12\x04\0\0\0\0\0" + b"\r\n\r\n",
    "HTTP/2 in words": lines("HTTP/2 200 OK"),
    "a request": request("GET", "/"),
    "no status": lines("HTTP/1.1 OK"),
    "status 99": lines("HTTP/1.1 99 No"),
    "status 000": lines("HTTP/1.1 000 No"),
    "status of four digits": lines("HTTP/1.1 2000 OK"),
    "status with a sign": lines("HTTP/1.1 +20 OK"),
    "101 that nobody wanted": lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"),
    "101 of h2c": lines("HTTP/1.1 101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),
    "obs-fold": lines(OK, "X: y", " z"),
    "bare CR in a value": lines(OK, "X: y\rSet-Cookie: forged=1"),
    "bare LF in a value": lines(OK, "X: y\nSet-Cookie: forged=1"),
    "bare CR in the reason": lines("HTTP/1.1 200 OK\rSet-Cookie: forged=1"),
    "NUL in a value": lines(OK, "X: y\0z"),
    "control byte in a value": lines(OK, "X: \x01"),
    "space before the colon": lines(OK, "Content-Length : 3"),
    "space in a name": lines(OK, "X Y: z"),
    "byte above ASCII in a name": lines(OK, "X\xff: z"),
    "no colon": lines(OK, "X"),
    "a head above the limit": lines(OK, "X: " + "a" * 70_000),
    "a head without end": lines(OK)[:-2] + b"a:b\r\n" * 14_000,
    "a line without end": b"HTTP/1.1 200 " + b"O" * 70_000,
}


@attack(
    "answers that are none: two lengths, a length and a coding, HTTP/0.9, HTTP/2, statuses of other digits, 101, "
    "obs-fold, control bytes, injected fields, a head above 64 KiB",
    "502, the backend's connection is closed, the visitor's goes on",
    attackers=len(HEADS),
)
async def heads(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    await backend.send(attacker.one_of(list(HEADS.values())))
    got = await public.answer()
    assert (got.status, got.head.get("x-content-type-options")) == (502, "nosniff"), got
    await goes_on(public)
    await is_over(backend)


NOTHING = {"closed": b"", "half a head": b"HTTP/1.1 200 OK\r\nX:", "half an interim answer": b"HTTP/1.1 103 Early\r\n"}


@attack("no answer: the connection is closed, or reset, before it or inside its head", "502", attackers=6)
async def nothing(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    await backend.send(attacker.one_of(list(NOTHING.values())))
    if attacker.number < len(NOTHING):
        await backend.close()
    else:
        backend.drop()
    assert (await public.answer()).status == 502
    await goes_on(public)


BODIES = {
    "shorter than its length": lines(OK, "Content-Length: 100") + b"half",
    "without a last chunk": CHUNKED + b"4\r\nhalf\r\n",
    "chunk without its end": CHUNKED + b"4\r\nhalf",
    "last chunk without its end": CHUNKED + b"4\r\nhalf\r\n0\r\n",
    "chunk size with a sign": CHUNKED + b"4\r\nhalf\r\n-1\r\nx\r\n",
    "chunk size above 2^64": CHUNKED + b"4\r\nhalf\r\n10000000000000001\r\nx\r\n",
    "chunk data that is too long": CHUNKED + b"4\r\nhalfz0\r\n\r\n",
    "chunk line in bare LF": CHUNKED + b"4\r\nhalf\r\n0\n\r\n",
    "chunk extensions": CHUNKED + b"4\r\nhalf\r\n" + (b"1;" + b"a" * 100 + b"\r\nx\r\n") * 1000,
    "a chunk extension without end": CHUNKED + b"4\r\nhalf\r\n1;" + b"a" * 70_000,
    "trailers above the limit": CHUNKED + b"4\r\nhalf\r\n0\r\n" + b"X: y\r\n" * 12_000 + b"\r\n",
    "bare LF between trailers": CHUNKED + b"4\r\nhalf\r\n0\r\nX: y\nSet-Cookie: forged=1\r\n\r\n",
    "a folded trailer": CHUNKED + b"4\r\nhalf\r\n0\r\nX: y\r\n z\r\n\r\n",
}


@attack(
    "bodies of answers that end early, in bad chunks, in extensions without end, in trailers above the limit",
    "broken off: nobody takes them for complete; the backend's connection is closed",
    attackers=len(BODIES),
)
async def bodies(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    await backend.send(attacker.one_of(list(BODIES.values())))
    if attacker.number < 4:
        backend.half_close()
    assert (await public.head()).status == 200
    await breaks_off(public)
    await is_over(backend)


@attack(
    "an answer to HTTP/1.0, whose end is that of the connection, breaks off", "reset, for a clean end would complete it"
)
async def old_visitors(attacker: Attacker) -> None:
    data = f"GET {attacker.target} HTTP/1.0\r\nHost: {VICTIM}\r\n\r\n".encode()
    public, backend, _ = await attacker.pass_on(data)
    await backend.send(CHUNKED + b"4\r\nhalf\r\n")
    assert (await public.head()).status == 200
    assert await public.exactly(4) == b"half"
    await backend.close()
    try:
        rest = await public.to_end()
    except ConnectionResetError:
        return
    raise AssertionError(f"a clean end behind {rest!r}")


SPLIT = {
    "behind a body": answer("200 OK", body=b"mine") + FORGED,
    "behind chunks": CHUNKED + b"4\r\nmine\r\n" + LAST + FORGED,
    "behind 204": answer("204 No Content") + FORGED,
    "behind 304": answer("304 Not Modified", f"Content-Length: {len(FORGED)}") + FORGED,
    "behind an empty body": answer("200 OK") + FORGED,
}


@attack(
    "response splitting: two answers to one request, also behind 204, 304, and as the body of an answer to HEAD",
    "the first one only; the backend's connection is closed, and the next request gets its own answer",
    attackers=len(SPLIT) + 1,
)
async def split(attacker: Attacker) -> None:
    head = attacker.number == len(SPLIT)
    public, backend = await asked(attacker, "HEAD" if head else "GET")
    await backend.send(
        lines(OK, f"Content-Length: {len(FORGED)}") + FORGED if head else attacker.one_of(list(SPLIT.values()))
    )
    got = await public.answer("HEAD" if head else "GET")
    assert (got.head.get("x-forged"), got.body in (b"", b"mine")) == (None, True)
    await is_over(backend)
    public, backend = await asked(attacker, public=public)
    await backend.send(answer("200 OK", "Connection: close", body=b"own"))
    got = await public.answer()
    assert (got.head.get("x-forged"), got.body) == (None, b"own")


@attack(
    "an answer that nobody has asked for, on a connection that is kept", "closed; the next request gets its own answer"
)
async def unasked(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    await attacker.all_here()  # so that no other one uses it
    await backend.send(answer("200 OK", body=b"mine"))
    assert (await public.answer()).body == b"mine"
    await backend.send(FORGED)
    await is_over(backend)
    await attacker.all_here()
    public, backend = await asked(attacker, public=public)
    await backend.send(answer("200 OK", "Connection: close", body=b"own"))
    assert (await public.answer()).body == b"own"


@attack(
    "an answer before the body of the request has come, and the rest of it", "the answer; both connections are closed"
)
async def early(attacker: Attacker) -> None:
    public, backend, _ = await attacker.pass_on(
        request("POST", attacker.target, "Content-Length: 1000", host=VICTIM) + b"half"
    )
    assert await backend.exactly(4) == b"half"
    await backend.send(answer("200 OK", body=b"early"))
    got = await public.answer()
    assert (got.body, got.head.get("connection")) == (b"early", "close")
    await is_over(backend)
    await public.send(request("GET", "/admin", host=VICTIM))
    assert await public.ended()


OF_ONE_HOP = [
    "Connection: X-Named, close",
    "X-Named: 1",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: close",
    "Upgrade: h2c",
    "TE: x",
]


@attack("fields of one hop in an answer: Connection and what it names, Keep-Alive, Upgrade", "stay behind")
async def of_one_hop(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    await backend.send(answer("200 OK", *OF_ONE_HOP, "X-Stays: 1", body=b"x"))
    got = await public.answer()
    assert sorted(name for name, _ in got.head.fields) == ["content-length", "x-request-id", "x-stays"]
    await goes_on(public)


def interim(status: int, size: int = 0) -> bytes:
    return lines(f"HTTP/1.1 {status} Interim", "X: " + "a" * size)


@attack("101 interim answers, 102 and 103 by turns, and endless ones", "100 pass at most, then 502", cpu_ms=10)
async def interims(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    await backend.send(b"".join(interim(102 + number % 2) for number in range(101 if attacker.number % 2 else 1000)))
    for _ in range(100):
        head = await public.head()
        if head.status == 502:
            break
        assert head.status in (102, 103)
    else:
        head = await public.head()
    assert head.status == 502
    await public.body(head)
    await goes_on(public)
    await is_over(backend)


@attack(
    "100 interim answers of 60 KiB each, to a visitor that reads nothing",
    "502 behind 1 MiB of them; the backend's connection is closed",
    attackers=4,
    memory_kib=1800,
    cpu_ms=15,
)
async def large_interims(attacker: Attacker) -> None:
    public, backend = await asked(attacker, public=await attacker.connect(receive_buffer=SMALL, max_segment=SEGMENT))
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    backend.writer.write(interim(103, 60_000) * 100)
    await is_over(backend)
    await attacker.all_here()
    public.writer.transport.resume_reading()  # type: ignore[attr-defined]
    count = 0
    while (head := await public.head()).status == 103:
        count += 1
    assert (head.status, count) == (502, 17)


@attack(
    "answers of 64 MiB that nobody reads, all at once",
    "wait: a window of each is held at either end, the rest is not read",
    attackers=8,
    memory_kib=900,
    cpu_ms=30,
)
async def unread(attacker: Attacker) -> None:
    public, backend = await asked(attacker, public=await attacker.connect(receive_buffer=SMALL, max_segment=SEGMENT))
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    backend.writer.write(lines(OK, f"Content-Length: {len(PLENTY)}"))
    backend.writer.write(PLENTY)
    await stands_still(attacker, backend)
    await attacker.all_here()


@attack("an answer of 2,000 chunks of one byte each", "passes", attackers=4, cpu_ms=12)
async def tiny_chunks(attacker: Attacker) -> None:
    public, backend = await asked(attacker)
    closing = CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    await backend.send(closing + b"1\r\nx\r\n" * 2000 + LAST)
    assert (await public.answer()).body == b"x" * 2000
    await goes_on(public)
