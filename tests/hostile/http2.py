"""HTTP/2 (RFC 9113): frames that break its rules, and streams beyond its limits."""

import struct
from contextlib import suppress

from tests.hostile.attack import Section
from tests.hostile.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    METHOD_POST,
    PADDED,
    PATH,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Wire,
    frame,
    head,
    headers,
    literal,
    opened,
    reset,
    settings,
    settled,
    window,
)
from tests.hostile.site import VICTIM, Attacker
from tests.support.raw import answer, request

attack = Section("HTTP/2").attack

# Our library for it ends a stream in some cases in which h2 ends the connection, and says other codes (RFC 9113 5.4
# leaves both open): hence more than one outcome.
PROTOCOL, FLOW, CLOSED_STREAM, SIZE, IGNORED = "closed 1", "closed 3", "closed 5", "closed 6", "ignored"
MAX_FRAME = 65_536  # ours
MAX_STREAMS = 1024  # ours
STREAM_WINDOW = 262_144  # ours
IMPATIENT = {"server": ["--set", "head_timeout_s=0.3"]}
Variants = dict[str, tuple[bytes, tuple[str, ...]]]

# What goes unheard where the peer may not have seen our reset yet (RFC 9113 5.1): PING tells when it has been read.
ASK = frame(PING, bytes(8))
HALF = headers(head(method=METHOD_POST), flags=END_HEADERS)  # a request without its body

PREFACES: Variants = {
    "another one": (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", ("closed",)),
    "no SETTINGS behind it": (PREFACE + ASK, (PROTOCOL, IGNORED)),
    "an ACK of SETTINGS": (PREFACE + frame(SETTINGS, flags=ACK) + ASK, (PROTOCOL, IGNORED)),
    "HTTP/1.1 behind it": (PREFACE + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", (PROTOCOL, SIZE)),
}

STREAMS: Variants = {
    "even": (headers(head(), stream=2), (PROTOCOL,)),
    "backwards": (
        headers(head(host="nobody.example"), stream=5) + headers(head(), stream=3) + ASK,
        (PROTOCOL, IGNORED),
    ),
    "HEADERS on 0": (headers(head(), stream=0), (PROTOCOL,)),
    "DATA on 0": (frame(DATA, b"x"), (PROTOCOL,)),
    "DATA on an idle one": (frame(DATA, b"x", stream=1), (PROTOCOL,)),
    "RST_STREAM on an idle one": (reset(1), (PROTOCOL,)),
    "RST_STREAM on 0": (reset(0), (PROTOCOL,)),
    "WINDOW_UPDATE on an idle one": (window(1, 1), (PROTOCOL,)),
    "SETTINGS on 1": (frame(SETTINGS, stream=1), (PROTOCOL,)),
    "PING on 1": (frame(PING, bytes(8), stream=1), (PROTOCOL,)),
    "GOAWAY on 1": (frame(GOAWAY, bytes(8), stream=1), (PROTOCOL,)),
    "PRIORITY on 0": (frame(PRIORITY, bytes(5)), (PROTOCOL,)),
    "CONTINUATION on 0": (frame(CONTINUATION, b""), (PROTOCOL,)),
}

ENDED: Variants = {
    "DATA behind its end": (
        headers(head()) + frame(DATA, b"x", stream=1),
        (CLOSED_STREAM, "reset 5"),
    ),
    "HEADERS behind its end": (
        headers(head()) + headers(head()),
        (CLOSED_STREAM, "reset 5"),
    ),
    "DATA behind RST_STREAM": (HALF + reset(1) + frame(DATA, b"x", stream=1) + ASK, (IGNORED, "reset 5")),
}

SIZES: Variants = {
    "DATA": (HALF + frame(DATA, b"x", stream=1, length=MAX_FRAME + 1), (SIZE,)),
    "HEADERS": (frame(HEADERS, b"\x82", stream=1, length=MAX_FRAME + 1), (SIZE,)),
    "2^24-1 of an unknown type": (frame(99, b"x", stream=1, length=2**24 - 1), (SIZE,)),
    "SETTINGS of 5": (frame(SETTINGS, bytes(5)), (SIZE,)),
    "an ACK with contents": (frame(SETTINGS, bytes(6), flags=ACK), (SIZE, PROTOCOL)),
    "PING of 7": (frame(PING, bytes(7)), (SIZE,)),
    "RST_STREAM of 3": (HALF + frame(RST_STREAM, bytes(3), stream=1), (SIZE,)),
    "WINDOW_UPDATE of 3": (frame(WINDOW_UPDATE, bytes(3)), (SIZE,)),
    "GOAWAY of 7": (frame(GOAWAY, bytes(7)), (SIZE,)),
    "PRIORITY of 4": (frame(PRIORITY, bytes(4), stream=1), (SIZE,)),
    "HEADERS of 4 with a priority": (frame(HEADERS, bytes(4), stream=1, flags=PRIORITIZED | END_HEADERS), (SIZE,)),
}

PADDING: Variants = {
    "all of DATA": (HALF + frame(DATA, b"\x03xx", stream=1, flags=PADDED), (PROTOCOL,)),
    "more than DATA": (HALF + frame(DATA, b"\xff", stream=1, flags=PADDED), (PROTOCOL,)),
    "not even its length": (HALF + frame(DATA, b"", stream=1, flags=PADDED), (PROTOCOL, SIZE)),
    "more than HEADERS": (frame(HEADERS, b"\x09\x82", stream=1, flags=PADDED | END_HEADERS), (PROTOCOL,)),
}

WINDOWS: Variants = {
    "0": (window(0), (PROTOCOL,)),
    "0 of a stream": (HALF + window(0, 1), (PROTOCOL, "reset 1")),
    "above 2^31-1": (window(2**31 - 1), (FLOW,)),
    "above 2^31-1 of a stream": (HALF + window(2**31 - 1, 1), (FLOW, "reset 3")),
    "above 2^31-1 by SETTINGS": (
        HALF + window(2**30, 1) + settings((INITIAL_WINDOW_SIZE, 2**31 - 1)),
        (FLOW, "reset 3"),
    ),
    "initial above 2^31-1": (settings((INITIAL_WINDOW_SIZE, 2**31)), (FLOW,)),
}

OPTIONS: Variants = {
    "ENABLE_PUSH 2": (settings((ENABLE_PUSH, 2)), (PROTOCOL,)),
    "MAX_FRAME_SIZE 16,383": (settings((MAX_FRAME_SIZE, 16_383)), (PROTOCOL,)),
    "MAX_FRAME_SIZE 2^24": (settings((MAX_FRAME_SIZE, 2**24)), (PROTOCOL,)),
}

ORDER: Variants = {
    "CONTINUATION of nothing": (frame(CONTINUATION, head(), stream=1, flags=END_HEADERS), (PROTOCOL,)),
    "behind a whole head": (HALF + frame(CONTINUATION, b"", stream=1, flags=END_HEADERS), (PROTOCOL,)),
    "of another stream": (
        headers(head(), flags=END_STREAM) + frame(CONTINUATION, b"", stream=3, flags=END_HEADERS),
        (PROTOCOL,),
    ),
    "PING within a head": (headers(head(), flags=END_STREAM) + frame(PING, bytes(8)), (PROTOCOL,)),
    "an unknown frame within a head": (headers(head(), flags=END_STREAM) + frame(99, b"x"), (PROTOCOL,)),
    "another head within a head": (headers(head(), flags=END_STREAM) + headers(head(), stream=3), (PROTOCOL,)),
    "PUSH_PROMISE": (
        HALF + frame(PUSH_PROMISE, struct.pack("!I", 2) + head(), stream=1, flags=END_HEADERS),
        (PROTOCOL,),
    ),
}


async def each(attacker: Attacker, variants: Variants) -> None:
    """One of these, and no backend hears of it unless half a request was to be heard of."""
    data, outcomes = attacker.one_of(list(variants.values()))
    wire = await opened(attacker, first=data)
    got = await wire.outcome()
    assert got in outcomes, got
    assert any(HALF in data for data, _ in variants.values()) or attacker.victim.connections == 0


@attack("a preface cut, changed, without SETTINGS or with HTTP/1.1 behind it", "closed", attackers=3 * len(PREFACES))
async def prefaces(attacker: Attacker) -> None:
    data, outcomes = attacker.one_of(list(PREFACES.values()))
    wire = Wire(await attacker.connect())
    await wire.send(data)
    got = await wire.outcome()
    assert got in outcomes, got


@attack(
    "stream identifiers: even, backwards, 0, idle, or any for frames of the connection",
    "PROTOCOL_ERROR",
    attackers=len(STREAMS),
)
async def streams(attacker: Attacker) -> None:
    await each(attacker, STREAMS)


@attack(
    "DATA or HEADERS on a stream that has ended or was reset",
    "STREAM_CLOSED; behind a reset ignored",
    attackers=3 * len(ENDED),
)
async def ended(attacker: Attacker) -> None:
    data, outcomes = attacker.one_of(list(ENDED.values()))
    got = await (await opened(attacker, first=data)).outcome()
    assert got in outcomes, got


@attack(
    "frames above MAX_FRAME_SIZE, nothing of them sent, and of sizes that their type does not have",
    "FRAME_SIZE_ERROR",
    attackers=len(SIZES),
)
async def sizes(attacker: Attacker) -> None:
    await each(attacker, SIZES)


@attack("padding of all of a frame, or of more", "PROTOCOL_ERROR", attackers=3 * len(PADDING))
async def padding(attacker: Attacker) -> None:
    await each(attacker, PADDING)


@attack("WINDOW_UPDATE of 0, windows beyond 2^31-1", "PROTOCOL_ERROR, FLOW_CONTROL_ERROR", attackers=3 * len(WINDOWS))
async def windows(attacker: Attacker) -> None:
    await each(attacker, WINDOWS)


@attack("SETTINGS with values that they may not have", "PROTOCOL_ERROR", attackers=3 * len(OPTIONS))
async def options(attacker: Attacker) -> None:
    await each(attacker, OPTIONS)


@attack(
    "CONTINUATION of nothing or of another stream, frames within a head, PUSH_PROMISE",
    "PROTOCOL_ERROR",
    attackers=3 * len(ORDER),
)
async def order(attacker: Attacker) -> None:
    await each(attacker, ORDER)


@attack("frames of unknown types, flags and reserved bits that mean nothing, settings that are unknown", "ignored")
async def grease(attacker: Attacker) -> None:
    wire = await opened(attacker, (0x0A0A, 2**32 - 1), (99, 0))
    for kind in (0x0B, 0x10, 0x2A, 0xFF):
        await wire.send(frame(kind, bytes(100), flags=0xFF, stream=2**32 - 1))
    await wire.send(frame(PING, bytes(8), flags=0xFE, stream=2**31))
    await wire.send(headers(head(host="nobody.example")))
    assert await wire.outcome() in ("ignored", "404")
    await wire.alive()


@attack(
    "DATA beyond the window of a stream whose backend does not read",
    "FLOW_CONTROL_ERROR; the backend's request ends",
    memory_kib=1024,
    cpu_ms=20,
    attackers=4,
)
async def beyond_the_window(attacker: Attacker) -> None:
    wire = await opened(attacker)
    block = headers(head(target=attacker.target, method=METHOD_POST), flags=END_HEADERS)
    await wire.send(block)
    backend, _ = await attacker.victim.asked(attacker.target)
    backend.writer.transport.pause_reading()
    piece = frame(DATA, bytes(16_384), stream=1)
    with suppress(ConnectionError):  # closed while more was on its way: the kernel may drop what says why
        for _ in range(64):
            await wire.send(piece)
        assert await wire.outcome() in (FLOW, "reset 3")
    backend.writer.transport.resume_reading()
    await backend.to_end()


@attack(
    "more streams than MAX_CONCURRENT_STREAMS (1,024), held open by a window of 0",
    "REFUSED_STREAM before our SETTINGS are acknowledged, then PROTOCOL_ERROR",
    attackers=2,
    memory_kib=4096,
    cpu_ms=50,
)
async def too_many_streams(attacker: Attacker) -> None:
    """With a window of 0, no answer can end."""
    wire = await (settled if attacker.number else opened)(attacker, (INITIAL_WINDOW_SIZE, 0))
    block = head(host="nobody.example")
    await wire.send(b"".join(headers(block, 2 * number + 1) for number in range(MAX_STREAMS + 1)))
    got = await wire.outcome(2 * MAX_STREAMS + 1)
    assert got in ("reset 7", PROTOCOL), got
    assert attacker.victim.connections == 0


@attack(
    "h2c by Upgrade (RFC 7540 3.2), to be smuggled to the backend", "answered as HTTP/1.1; the backend is not asked"
)
async def upgrade(attacker: Attacker) -> None:
    fields = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
    public, backend, got = await attacker.pass_on(request("GET", attacker.target, *fields, host=VICTIM))
    assert got.get("upgrade") is None
    assert got.get("http2-settings") is None
    assert "pgrade" not in (got.get("connection") or "")
    await attacker.all_here()  # the connections are their own until here
    await backend.send(answer("200 OK", body=b"plain"))
    assert (await public.answer()).body == b"plain"


@attack("the last stream identifier first, so that no other is left", "answered; the next is refused")
async def last_stream(attacker: Attacker) -> None:
    wire = await opened(attacker, first=headers(head(host="nobody.example"), stream=2**31 - 1))
    assert await wire.outcome(2**31 - 1) == "404"
    await wire.send(headers(head(), stream=2**31 - 1) + ASK)
    assert await wire.outcome(2**31 - 1) in ("ignored", PROTOCOL, CLOSED_STREAM, "reset 5")
    assert attacker.victim.connections == 0


@attack(
    "half a head, and nothing more: HEADERS without END_HEADERS, at once or beside a request",
    "closed",
    options=IMPATIENT,
)
async def half_a_head(attacker: Attacker) -> None:
    wire = await opened(attacker)
    if attacker.number % 2 and attacker.site.engine == "cython":  # in the other one, its time begins with that answer
        await wire.send(headers(head(target=attacker.target)))
        backend, _ = await attacker.victim.asked(attacker.target)
        await wire.send(headers(head(), stream=3, flags=END_STREAM) + frame(CONTINUATION, b"", stream=3))
        await backend.send(answer("200 OK", "Connection: close"))
        assert await wire.outcome() == "200"
    else:
        await wire.send(headers(head(), flags=END_STREAM))
    await attacker.all_here()
    await wire.end()


SILENT = {"nothing": b"", "half a preface": PREFACE[:10], "a preface": PREFACE, "SETTINGS": PREFACE + settings()}


@attack("a preface, or half of it, and no request", "closed", options=IMPATIENT)
async def silent(attacker: Attacker) -> None:
    wire = Wire(await attacker.connect())
    await wire.send(attacker.one_of(list(SILENT.values())))
    await attacker.all_here()
    await wire.end()


TRAILERS = {
    "a pseudo-header field": headers(PATH, 1),
    "a bad value": headers(literal(b"x", b"a\r\nb: c"), 1),
    "without END_STREAM": headers(literal(b"x", b"y"), 1, END_HEADERS),
    "more body than its length": frame(DATA, bytes(11), stream=1),
    "less body than its length": frame(DATA, bytes(9), stream=1, flags=END_STREAM),
}


@attack(
    "bad trailers, or a body of another length than announced, of a request that the backend has begun to read",
    "PROTOCOL_ERROR; the backend never gets the end",
    attackers=3 * len(TRAILERS),
)
async def trailers(attacker: Attacker) -> None:
    block = head((b"content-length", b"10"), target=attacker.target, method=METHOD_POST)
    wire = await opened(attacker, first=headers(block, flags=END_HEADERS))
    backend, _ = await attacker.victim.asked(attacker.target)
    await wire.send(attacker.one_of(list(TRAILERS.values())))
    assert await wire.outcome() in (PROTOCOL, "reset 1")
    with suppress(ConnectionError):
        assert len(await backend.to_end()) < 10


@attack(
    "an answer of 8 MiB, for which the peer gives no window (CVE-2019-9517)",
    "the backend is not read any further",
    attackers=4,
    memory_kib=1024,
    cpu_ms=20,
)
async def no_window(attacker: Attacker) -> None:
    wire = await opened(attacker, (INITIAL_WINDOW_SIZE, 0), first=headers(head(target=attacker.target)))
    backend, _ = await attacker.victim.asked(attacker.target)
    backend.writer.write(answer("200 OK", body=bytes(2**23)))
    assert await wire.outcome() == "200"
    for _ in range(20):
        await wire.alive()
    await attacker.all_here()
    assert backend.writer.transport.get_write_buffer_size()
