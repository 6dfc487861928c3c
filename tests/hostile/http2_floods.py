"""HTTP/2 (RFC 9113 10.5): frames without end, each of which is allowed."""

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress

from tests.hostile.attack import Section
from tests.hostile.grpc_calls import ECHO, Backend
from tests.hostile.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    METHOD_POST,
    PING,
    PRIORITY,
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
from tests.hostile.site import VICTIM_CALLS, Attacker
from tests.support.raw import answer

attack = Section("HTTP/2").attack

COUNT = 10_000
STEP = 100  # frames between two answers that are read
RESETS = 1000  # beyond which, and 33 a second, a peer is too costly (libnghttp2's defaults)


async def flood(wire: Wire, block: bytes) -> None:
    """`block` over and over, COUNT / STEP times; all of it is read."""
    for _ in range(COUNT // STEP):
        await wire.send(block)
        await wire.alive()


@attack("10,000 PINGs, whose answers are read", "each is answered", cpu_ms=50, attackers=2)
async def pings(attacker: Attacker) -> None:
    wire = await opened(attacker)
    for number in range(COUNT // STEP):
        await wire.send(frame(PING, struct.pack("!Q", number)) * STEP)
        await wire.peer.until(frame(PING, struct.pack("!Q", number), flags=ACK) * STEP)


@attack("10,000 PINGs at once (CVE-2019-9512)", "answered, or closed: 1,000 answers may wait", cpu_ms=50, attackers=2)
async def pings_at_once(attacker: Attacker) -> None:
    wire = await opened(attacker)
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await wire.send(frame(PING, bytes(8)) * COUNT + frame(PING, b"the last"))
        await wire.peer.until(frame(PING, b"the last", flags=ACK))


@attack("10,000 SETTINGS (CVE-2019-9515)", "each is acknowledged", cpu_ms=50, attackers=2)
async def settings_flood(attacker: Attacker) -> None:
    await flood(await settled(attacker), settings((INITIAL_WINDOW_SIZE, 1), (INITIAL_WINDOW_SIZE, 65_535)) * STEP)


@attack(
    "100 streams, and 2,000 SETTINGS that change all their windows",
    "each is acknowledged",
    memory_kib=512,
    cpu_ms=100,
    attackers=2,
)
async def settings_of_many_streams(attacker: Attacker) -> None:
    wire = await settled(attacker)
    for number in range(100):
        block = head(method=METHOD_POST)
        await wire.send(headers(block, 2 * number + 1, END_HEADERS))
    for _ in range(20):
        await wire.send((settings((INITIAL_WINDOW_SIZE, 0)) + settings((INITIAL_WINDOW_SIZE, 65_535))) * (STEP // 2))
        await wire.alive()


@attack(
    "10,000 changes of the size of the HPACK table, then a request",
    "answered, with two changes at most",
    cpu_ms=50,
    attackers=2,
)
async def table_sizes(attacker: Attacker) -> None:
    wire = await settled(attacker)
    await flood(wire, (settings((HEADER_TABLE_SIZE, 0)) + settings((HEADER_TABLE_SIZE, 2**32 - 1))) * (STEP // 2))
    await wire.send(headers(head(host="nobody.example")))
    got = await wire.until(HEADERS, stream=1)
    assert sum(byte & 0xE0 == 0x20 for byte in got.payload[:8]) <= 4, got.payload[:20]


@attack(
    "a HPACK table of 4 GiB for us to fill, and 100 answers with 16 KB of fields that are never the same",
    "the table keeps its 4 KiB",
    cpu_ms=50,
    memory_kib=32,
    together=False,
    attackers=2,
)
async def table_of_ours(attacker: Attacker) -> None:
    wire = await settled(attacker, (HEADER_TABLE_SIZE, 2**32 - 1))
    for number in range(100):
        target = f"{attacker.target}/{number}"
        await wire.send(headers(head(target=target), stream=2 * number + 1))
        backend, _ = await attacker.victim.asked(target)
        await backend.send(answer("200 OK", "Connection: close", f"X-Number: {number}" + "x" * 16_000))
        await wire.until(HEADERS, stream=2 * number + 1)


@attack("10,000 PRIORITY frames in a chain, turned over (CVE-2019-9513)", "ignored", cpu_ms=50, attackers=2)
async def priorities(attacker: Attacker) -> None:
    wire = await opened(attacker)
    streams = range(1, 2 * STEP, 2)
    down = b"".join(
        frame(PRIORITY, struct.pack("!IB", number - 2 if number > 1 else 0, 255), stream=number) for number in streams
    )
    up = b"".join(frame(PRIORITY, struct.pack("!IB", 2**31 | (number + 2), 0), stream=number) for number in streams)
    for _ in range(COUNT // STEP // 2):
        await wire.send(down + up)
        await wire.alive()


@attack("10,000 frames of unknown types, and 6 MiB of them", "ignored", cpu_ms=50, attackers=2)
async def unknown(attacker: Attacker) -> None:
    wire = await settled(attacker)
    await flood(wire, frame(99) * STEP + frame(98, bytes(65_536)))


@attack("10,000 WINDOW_UPDATEs of 1", "taken", cpu_ms=50, attackers=2)
async def window_updates(attacker: Attacker) -> None:
    await flood(await opened(attacker), window(1) * STEP)


@attack(
    "10,000 DATA frames without data, then the end of the body (CVE-2019-9518)",
    "the request is served",
    cpu_ms=50,
    attackers=2,
)
async def empty_data(attacker: Attacker) -> None:
    wire = await opened(attacker)
    await wire.send(headers(head(target=attacker.target, method=METHOD_POST), flags=END_HEADERS))
    backend, asked = await attacker.victim.asked(attacker.target)
    await flood(wire, frame(DATA, stream=1) * STEP)
    await wire.send(frame(DATA, b"body", stream=1, flags=END_STREAM))
    assert await backend.body(asked) == (b"body", [])
    await attacker.all_here()
    await backend.send(answer("200 OK"))
    assert await wire.outcome() == "200"


@attack("10,000 DATA frames of 1 byte, padded with 255", "the request is served", cpu_ms=100, attackers=2)
async def padded_data(attacker: Attacker) -> None:
    wire = await opened(attacker)
    await wire.send(headers(head(target=attacker.target, method=METHOD_POST), flags=END_HEADERS))
    backend, asked = await attacker.victim.asked(attacker.target)
    await flood(wire, frame(DATA, b"\xffx" + bytes(255), stream=1, flags=8) * STEP)
    await wire.send(frame(DATA, stream=1, flags=END_STREAM))
    assert await backend.body(asked) == (b"x" * COUNT, [])
    await attacker.all_here()
    await backend.send(answer("200 OK"))
    assert await wire.outcome() == "200"


@attack("an answer of 10,000 bytes, let through byte by byte (CVE-2019-9511)", "as asked", cpu_ms=100, attackers=2)
async def dribble(attacker: Attacker) -> None:
    wire = await opened(attacker, (INITIAL_WINDOW_SIZE, 0))
    await wire.send(headers(head(target=attacker.target)))
    backend, _ = await attacker.victim.asked(attacker.target)
    await attacker.all_here()  # the connections are their own until here
    await backend.send(answer("200 OK", body=bytes(COUNT)))
    assert await wire.outcome() == "200"
    for _ in range(COUNT // STEP):
        await wire.send(window(1, 1) * STEP)
        got = 0
        while got < STEP:
            got += len((await wire.until(DATA, stream=1)).payload)


@attack("1,000 CONTINUATION frames without contents (CVE-2024-27316)", "closed", attackers=16)
async def empty_continuations(attacker: Attacker) -> None:
    wire = await opened(attacker, first=headers(head(), flags=END_STREAM) + frame(CONTINUATION, stream=1) * 1000)
    assert (await wire.outcome()).startswith("closed")
    assert attacker.victim.connections == 0


@attack("6 MiB of CONTINUATION frames", "closed", memory_kib=512, cpu_ms=5, attackers=2)
async def large_continuations(attacker: Attacker) -> None:
    wire = await opened(attacker, first=headers(head(), flags=END_STREAM))
    try:
        for _ in range(100):
            await wire.send(frame(CONTINUATION, literal(b"x", bytes(60_000)), stream=1))
    except ConnectionError:
        pass
    assert (await wire.outcome()).startswith("closed")
    assert attacker.victim.connections == 0


async def resets(attacker: Attacker, then: Callable[[int], bytes], *fields: tuple[bytes, bytes], flags: int) -> None:
    """2 * RESETS calls and what comes `then`, unless we are stopped before; to a backend that takes no call."""
    backend = Backend(attacker)
    await backend.start()
    wire = await opened(attacker)
    block = head((b"content-type", b"application/grpc"), *fields, host=VICTIM_CALLS, target=ECHO, method=METHOD_POST)
    streams = range(1, 4 * RESETS, 2)
    with suppress(ConnectionError):
        for start in range(0, 2 * RESETS, STEP):
            data = b"".join(headers(block, number, flags) + then(number) for number in streams[start : start + STEP])
            await wire.send(data)
    got = await wire.outcome(0)
    # 1: what h2 ends the connection for at once; 2: libnghttp2's own limit. Where much of what we sent was not read,
    # the last GOAWAY may be lost on its way.
    assert got in ("closed", "closed 1", "closed 2", "closed 11"), got
    assert backend.connections <= 8


@attack(
    "2,000 requests reset at once (CVE-2023-44487)",
    "ENHANCE_YOUR_CALM after 1,000",
    cpu_ms=100,
    memory_kib=1024,
    attackers=1,
    together=False,
)
async def rapid_reset(attacker: Attacker) -> None:
    await resets(attacker, reset, flags=END_STREAM | END_HEADERS)


PROVOKED = {
    "a body above its length": lambda stream: frame(DATA, b"xy", stream=stream),
    "a window beyond 2^31-1": lambda stream: window(2**31 - 1, stream),
    "trailers that are none": lambda stream: headers(literal(b"x", b"a\0b"), stream),
}


@attack(
    "2,000 requests that we reset for a bad frame each (CVE-2025-8671)",
    "ENHANCE_YOUR_CALM after 1,000",
    cpu_ms=100,
    memory_kib=1024,
    attackers=len(PROVOKED),
    together=False,
)
async def made_you_reset(attacker: Attacker) -> None:
    provoke = attacker.one_of(list(PROVOKED.values()))
    await resets(attacker, provoke, (b"content-length", b"1"), flags=END_HEADERS)


@attack(
    "a head of 60 KiB on the wire that is 200 MB when it is decoded (CVE-2016-6581)",
    "431, or closed",
    cpu_ms=10,
    attackers=2,
)
async def bomb(attacker: Attacker) -> None:
    wire = await settled(attacker)
    await wire.send(headers(head(host="nobody.example") + literal(b"x", b"y" * 4000, indexed=True)))
    assert await wire.outcome() == "404"
    await wire.send(headers(head() + b"\xbe" * 60_000, stream=3))
    got = await wire.outcome(3)
    assert got in ("reset 11", "closed 11"), got
    assert attacker.victim.connections == 0


@attack("cookies in 7,000 crumbs", "431, or closed", attackers=16)
async def crumbs(attacker: Attacker) -> None:
    wire = await opened(attacker, first=headers(head() + literal(b"cookie", b"a=b", indexed=True) + b"\xbe" * 7000))
    got = await wire.outcome()
    assert got in ("431", "reset 11", "closed 11"), got
    assert attacker.victim.connections == 0
