"""HTTP/2 towards backends: those that break its rules, make calls wait, or turn them away."""

import asyncio
import struct
from contextlib import suppress

from tests.hostile.attack import Section
from tests.hostile.grpc_calls import DEADLINE, INTERNAL, OK, UNAVAILABLE, Backend, call, called, note, outcome, taken
from tests.hostile.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    PING,
    PREFACE,
    PUSH_PROMISE,
    Wire,
    frame,
    goaway,
    headers,
    literal,
    reset,
    settings,
    window,
)
from tests.hostile.site import VICTIM_CALLS, Attacker
from tests.support.http2_calls import Call

attack = Section("HTTP/2").attack

ATTEMPTS = 5
BROKEN = (INTERNAL, UNAVAILABLE)  # h2 ends the connection where libnghttp2 resets the stream
ANSWER = b"\x88" + literal(b"content-type", b"application/grpc")  # :status 200
INFLATING = literal(b"x", b"y" * 4000, indexed=True) + b"\xbe" * 10_000
ENDLESS = frame(HEADERS, b"x", stream=1, length=2**24 - 1)
NO_HTTP2 = {
    "HTTP/1.1": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "TLS": b"\x15\x03\x01\0\x02\x02\x46",
    "nothing": b"",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "16 MiB announced": ENDLESS,
}


async def say(backend: Call, data: bytes) -> None:
    await backend.write()
    await backend.peer.send(data)


@attack(
    "a gRPC backend that speaks something else, or closes",
    "UNAVAILABLE or INTERNAL",
    together=False,
    attackers=2 * len(NO_HTTP2),
)
async def no_http2(attacker: Attacker) -> None:
    """A call that was not sent yet is sent again on the next connection."""
    backend = Backend(attacker)
    await backend.start()

    data = attacker.one_of(list(NO_HTTP2.values()))

    async def speak() -> None:
        while True:
            peer = await backend.accept()
            with suppress(ConnectionError):
                await peer.send(data)
                if data != ENDLESS:
                    peer.half_close()

    speaking = asyncio.ensure_future(speak())
    attacker.stack.callback(speaking.cancel)
    assert await outcome(await call(attacker, host=VICTIM_CALLS)) in BROKEN


BAD = {
    "a pushed stream": frame(PUSH_PROMISE, struct.pack("!I", 2) + ANSWER, stream=1, flags=END_HEADERS),
    "a stream that was not asked for": headers(ANSWER, 2),
    "an answer to nothing": headers(ANSWER, 101),
    "SETTINGS out of range": settings((MAX_FRAME_SIZE, 1)),
    "an initial window above 2^31-1": settings((INITIAL_WINDOW_SIZE, 2**31)),
    "WINDOW_UPDATE of 0": window(0),
    "a window beyond 2^31-1": window(2**31 - 1, 1),
    "a frame above MAX_FRAME_SIZE": frame(DATA, bytes(70_000), stream=1),
    "bad padding": frame(DATA, b"\xff", stream=1, flags=8),
    "CONTINUATION of nothing": frame(CONTINUATION, ANSWER, stream=1),
    "HPACK out of range": headers(b"\xff\xff\xff\xff\x0f", 1, END_HEADERS),
    "a status that is none": headers(b"\x08\x03abc" + literal(b"content-type", b"application/grpc"), 1, END_HEADERS),
    "a status of 99": headers(b"\x08\x0299", 1, END_HEADERS),
    "a status of 101": headers(b"\x08\x03101", 1, END_HEADERS),
    "no status": headers(literal(b"content-type", b"application/grpc"), 1, END_HEADERS),
    "DATA before its head": frame(DATA, b"x", stream=1),
    "DATA beyond a length": headers(ANSWER + literal(b"content-length", b"1"), 1, END_HEADERS)
    + frame(DATA, b"xy", stream=1),
    "two heads": headers(ANSWER, 1, END_HEADERS) + headers(ANSWER, 1, END_HEADERS),
    "a pseudo-header field in trailers": headers(ANSWER, 1, END_HEADERS) + headers(b"\x88", 1),
    "an endless head": headers(ANSWER, 1, 0) + frame(CONTINUATION, b"", stream=1) * 1000,
    "a head that inflates": headers(
        ANSWER + literal(b"x", b"y" * 4000, indexed=True) + b"\xbe" * 10_000, 1, END_HEADERS
    ),
}


@attack(
    "a backend that breaks the rules of HTTP/2",
    "INTERNAL or UNAVAILABLE; stream or connection end",
    together=False,
    attackers=len(BAD),
)
async def bad(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    await say(backend, attacker.one_of(list(BAD.values())))
    got = await outcome(stream)
    assert got in BROKEN, (attacker.number, got)
    with suppress(ConnectionError):
        await backend.expect_reset()


CODES = {code: "13" for code in (0, 1, 2, 3, 5, 6, 9, 10, 12, 13, 99)} | {8: "1", 11: "14"}


@attack(
    "a backend that resets a call, with every code",
    "the status that gRPC maps it to",
    together=False,
    attackers=len(CODES),
)
async def codes(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    code, wanted = attacker.one_of(list(CODES.items()))
    await say(backend, reset(backend.number, code))
    got = await outcome(stream)
    assert got == wanted, (code, got)


@attack(
    "a backend that refuses the call whenever it is sent (REFUSED_STREAM)",
    "UNAVAILABLE after 5 attempts",
    together=False,
    attackers=8,
)
async def refusing(attacker: Attacker) -> None:
    stream, peer, backend = await taken(attacker)
    wire = Wire(peer)
    await peer.until(PREFACE)
    await wire.send(settings())
    for number in range(1, 2 * ATTEMPTS, 2):
        await wire.until(HEADERS, stream=number)
        await wire.send(reset(number, 7))
    assert await outcome(stream) == UNAVAILABLE
    assert backend.connections == 1


@attack(
    "a backend that turns away each connection with the call on it (GOAWAY)",
    "UNAVAILABLE after 5 attempts",
    together=False,
    attackers=8,
)
async def turning_away(attacker: Attacker) -> None:
    stream, backend, others = await called(attacker)
    for _ in range(ATTEMPTS - 1):
        await say(backend, goaway(0))
        backend = await others.call()
    await say(backend, goaway(0))
    assert await outcome(stream) == UNAVAILABLE
    assert others.connections == ATTEMPTS


@attack(
    "a backend that resets a call behind GOAWAY that counts it as processed",
    "INTERNAL, never sent again",
    together=False,
    attackers=8,
)
async def processed(attacker: Attacker) -> None:
    stream, backend, others = await called(attacker)
    await say(backend, goaway(backend.number) + reset(backend.number, 2))
    assert await outcome(stream) == INTERNAL
    assert others.connections == 1


@attack(
    "a backend that allows no streams, or no bytes, for ever",
    "DEADLINE_EXCEEDED; the caller waits",
    together=False,
    attackers=8,
)
async def stingy(attacker: Attacker) -> None:
    stream, peer, _ = await taken(attacker, ("grpc-timeout", "100m"), body=note(200_000))
    allowed = MAX_CONCURRENT_STREAMS if attacker.number % 2 else INITIAL_WINDOW_SIZE
    await peer.send(settings((allowed, 0)))
    assert await outcome(stream) == DEADLINE


FLOODS = {
    "PING": frame(PING, bytes(8)),
    "SETTINGS": settings((HEADER_TABLE_SIZE, 2**32 - 1)),
    "WINDOW_UPDATE": window(1),
    "an unknown frame": frame(99),
    "empty DATA": frame(DATA, stream=1),
}


@attack(
    "1,000 frames of a backend in the middle of an answer: PING, SETTINGS, WINDOW_UPDATE, unknown, empty DATA",
    "the answer goes on",
    together=False,
    attackers=len(FLOODS),
    cpu_ms=50,
)
async def floods(attacker: Attacker) -> None:
    stream, backend, _ = await called(attacker)
    backend.head()
    block = attacker.one_of(list(FLOODS.values())) * 100
    for number in range(10):
        await say(backend, block + frame(PING, struct.pack("!Q", number + 1)))
        await backend.peer.until(frame(PING, struct.pack("!Q", number + 1), flags=ACK))
    backend.messages([b""])
    backend.end()
    await backend.write()
    assert await outcome(stream) == OK
