"""WebSocket: what a hostile backend answers to a handshake, and sends behind it."""

import contextlib
import struct

from tests.hostile.attack import Section
from tests.hostile.http1_answers import goes_on, is_over
from tests.hostile.http1_bodies import PLENTY, SEGMENT, SMALL, stands_still
from tests.hostile.site import VICTIM, Attacker
from tests.hostile.websocket import LIMITED, fails, opened
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    MASK,
    PING,
    TEXT,
    UPGRADE,
    Frame,
    accept_key,
    close_payload,
    frame,
    frame_head,
    parse_frames,
    read_frame,
    read_frame_head,
)
from tests.support.raw import Head, Peer, answer, request

attack = Section("WebSocket").attack

SWITCHING = "HTTP/1.1 101 Switching Protocols"
UPGRADED = ["Upgrade: websocket", "Connection: Upgrade"]


async def shaking(attacker: Attacker, *fields: str) -> tuple[Peer, Peer, Head]:
    """A handshake, at the backend."""
    return await attacker.pass_on(request("GET", attacker.target, *UPGRADE, *fields, host=VICTIM))


def right(head: Head) -> str:
    return f"Sec-WebSocket-Accept: {accept_key(head.get('sec-websocket-key') or '')}"


# Start line and fields; RIGHT is the field that would be right.
ANSWERS = {
    "no accept": [SWITCHING, *UPGRADED],
    "an empty accept": [SWITCHING, *UPGRADED, "Sec-WebSocket-Accept:"],
    "the accept of the visitor's key": [SWITCHING, *UPGRADED, f"Sec-WebSocket-Accept: {accept_key(KEY)}"],
    "the key itself": [SWITCHING, *UPGRADED, f"Sec-WebSocket-Accept: {KEY}"],
    "two accepts": [SWITCHING, *UPGRADED, "RIGHT", "RIGHT"],
    "two accepts, one wrong": [SWITCHING, *UPGRADED, "RIGHT", f"Sec-WebSocket-Accept: {KEY}"],
    "no Upgrade": [SWITCHING, UPGRADED[1], "RIGHT"],
    "no Connection": [SWITCHING, UPGRADED[0], "RIGHT"],
    "another protocol": [SWITCHING, "Upgrade: h2c", UPGRADED[1], "RIGHT"],
    "two protocols": [SWITCHING, "Upgrade: websocket, h2c", UPGRADED[1], "RIGHT"],
    "two Upgrades": [SWITCHING, *UPGRADED, "Upgrade: h2c", "RIGHT"],
    "HTTP/1.0": ["HTTP/1.0 101 Switching Protocols", *UPGRADED, "RIGHT"],
    "a subprotocol that is no text": [SWITCHING, *UPGRADED, "RIGHT", "Sec-WebSocket-Protocol: \xff"],
    "an injected field": [SWITCHING, *UPGRADED, "RIGHT", "X: y\rSet-Cookie: forged=1"],
    "a folded field": [SWITCHING, *UPGRADED, "RIGHT", "X: y", " z"],
    "a length and a coding": [SWITCHING, *UPGRADED, "RIGHT", "Content-Length: 1", "Transfer-Encoding: chunked"],
    "a head above the limit": [SWITCHING, *UPGRADED, "RIGHT", "X: " + "a" * 70_000],
    "no HTTP": ["RFB 003.008"],
}


@attack(
    "upgrade smuggling: 101 without the right Sec-WebSocket-Accept, Upgrade or Connection, or with two of them, and "
    "frames behind it",
    "502; not a byte of the frames passes, and what the visitor sends is parsed as HTTP",
    attackers=len(ANSWERS),
)
async def accepts(attacker: Attacker) -> None:
    public, backend, head = await shaking(attacker)
    lines = [line.replace("RIGHT", right(head)) for line in attacker.one_of(list(ANSWERS.values()))]
    await backend.send("\r\n".join([*lines, "\r\n"]).encode("latin-1") + frame(TEXT, b"smuggled") * 10)
    got = await public.answer()
    assert (got.status, b"smuggled" in got.body) == (502, False)
    await goes_on(public)
    await is_over(backend)


@attack("101 to a request that asks for no upgrade, and frames behind it", "502; not a byte of the frames passes")
async def unasked(attacker: Attacker) -> None:
    fields = attacker.one_of([[], [f"Sec-WebSocket-Key: {KEY}"], [*UPGRADE[:1], "Upgrade: h2c"]])
    public, backend, _ = await attacker.pass_on(request("GET", attacker.target, *fields, host=VICTIM))
    lines = [SWITCHING, *UPGRADED, f"Sec-WebSocket-Accept: {accept_key(KEY)}", "\r\n"]
    await backend.send("\r\n".join(lines).encode() + frame(TEXT, b"smuggled"))
    got = await public.answer()
    assert (got.status, b"smuggled" in got.body) == (502, False)
    await goes_on(public)
    await is_over(backend)


@attack(
    "1,000 interim answers to a handshake",
    "none passes, 502 behind 100; the backend's connection is closed",
)
async def interims(attacker: Attacker) -> None:
    public, backend, _ = await shaking(attacker)
    await backend.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)
    assert (await public.answer()).status == 502
    await goes_on(public)
    await is_over(backend)


CHUNKED_REFUSAL = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSALS = {
    "above 64 KiB": answer("403 Forbidden", body=b"x" * 2**20),
    "without end": b"HTTP/1.1 403 Forbidden\r\n\r\n" + b"x" * 2**20,
    "without end, in chunks": CHUNKED_REFUSAL + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 1024,
}


@attack(
    "a refused handshake with a body of 1 MiB, or without end",
    "the refusal with 64 KiB of it",
    attackers=len(REFUSALS),
    memory_kib=400,
    cpu_ms=10,
)
async def refusals(attacker: Attacker) -> None:
    public, backend, _ = await shaking(attacker)
    backend.writer.write(attacker.one_of(list(REFUSALS.values())))
    got = await public.answer()
    assert (got.status, got.body) == (403, b"x" * 65_536)
    await goes_on(public)


HIDDEN = answer("200 OK", "X-Forged: 1", body=b"forged")
STATUSES = ["204 No Content", "304 Not Modified", "205 Reset Content", "200 OK", "426 Upgrade Required"]


@attack(
    "a refused handshake whose status has no body, and an answer behind it",
    "the refusal, or 502; nothing behind it passes",
    attackers=len(STATUSES),
)
async def bodiless(attacker: Attacker) -> None:
    public, backend, _ = await shaking(attacker)
    status = attacker.one_of(STATUSES)
    await backend.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode() + HIDDEN)
    got = await public.answer()
    assert got.status in (502, int(status[:3])), got
    assert (got.head.get("x-forged"), b"forged" in got.body) == (None, False)
    if got.head.get("connection") == "close":
        assert await public.ended()
    else:
        await goes_on(public)


@attack("bad chunks in the body of a refused handshake", "502, or the refusal with what came before them", attackers=4)
async def bad_refusals(attacker: Attacker) -> None:
    public, backend, _ = await shaking(attacker)
    chunk = attacker.one_of([b"-1\r\nx\r\n", b"10000000000000001\r\nx\r\n", b"1\nx\r\n", b"1;" + b"a" * 70_000])
    await backend.send(CHUNKED_REFUSAL + b"4\r\nhalf\r\n" + chunk)
    got = await public.answer()
    # The asyncio engine takes a refusal that breaks off for what has come of it.
    assert got.status == 502 or (got.status, got.body) == (403, b"half"), got
    await goes_on(public)


VIOLATIONS = {
    "masked": frame(TEXT, b"hi", mask=MASK),
    "masked, empty": frame(PING, b"", mask=MASK),
    "reserved data opcode": frame(3, b""),
    "reserved control opcode": frame(11, b""),
    "RSV1": frame(TEXT, b"", rsv=4),
    "RSV2": frame(TEXT, b"", rsv=2),
    "RSV3": frame(TEXT, b"", rsv=1),
    "fragmented Ping": frame(PING, b"", fin=False),
    "Ping of 126 bytes": frame(PING, b"x" * 126),
    "continuation of nothing": frame(CONTINUATION, b""),
    "message inside another": frame(TEXT, b"", fin=False) + frame(TEXT, b""),
    "all bits of the length": b"\x82\x7f" + b"\xff" * 8,
    "top bit of the length": b"\x82\x7f\x80" + bytes(7),
    "length 125 in 16 bits": b"\x82\x7e" + (125).to_bytes(2, "big") + bytes(125),
    "length 65,535 in 64 bits": b"\x82\x7f" + (65_535).to_bytes(8, "big") + bytes(65_535),
    "Close of one byte": frame(CLOSE, b"\x03"),
    **{f"Close {code}": frame(CLOSE, close_payload(code)) for code in (0, 999, 1005, 1006, 1015, 2999, 5000)},
    "HTTP": answer("200 OK"),
}


@attack(
    "frames of a backend: masked, and all else that is refused from a visitor; HTTP instead of frames",
    "1002 to both",
    attackers=len(VIOLATIONS),
)
async def violations(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await backend.send(attacker.one_of(list(VIOLATIONS.values())))
    last = await read_frame(backend)
    assert (last.opcode, last.payload[:2], last.masked) == (CLOSE, struct.pack("!H", 1002), True)
    await is_over(backend)
    last = await read_frame(public)
    while last.opcode in (TEXT, BINARY):  # what came before the violation
        last = await read_frame(public)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1002))
    assert await public.ended()


@attack("a message of a backend above the client's ws_message_bytes", "1009 to both", options=LIMITED)
async def large_messages(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await backend.send(frame(TEXT, b"x" * 600, fin=False) + frame_head(CONTINUATION, 2**62))
    last = await read_frame(backend)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1009))
    assert (await read_frame(public)).payload == b"x" * 600
    await fails(public, 1009)


@attack(
    "a backend that ends inside a frame of 2^63-1 bytes, or between two",
    "inside: the end of the connection, no Close frame; between: 1011",
)
async def ends_inside(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    if attacker.number % 2:
        await backend.send(frame_head(BINARY, 2**63 - 1) + bytes(65_536))
        head, length, _ = await read_frame_head(public)
        assert (head.opcode, length) == (BINARY, 2**63 - 1)
        assert await public.exactly(65_536) == bytes(65_536)
        await backend.close()
        assert await public.ended()
    else:
        await backend.close()
        await fails(public, 1011)


@attack(
    "300 Pings of 125 bytes and 300 empty frames of a backend, by turns",
    "each is passed on, none is answered by us",
    attackers=4,
    memory_kib=400,
    cpu_ms=60,
)
async def floods(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await backend.send((frame(PING, b"p" * 125) + frame(BINARY, b"")) * 300)
    for _ in range(300):
        assert await read_frame(public) == Frame(PING, b"p" * 125)
        assert await read_frame(public) == Frame(BINARY, b"")


@attack(
    "Pings of 125 bytes without end to a visitor that reads nothing",
    "1 MiB of them waits at most, then the connection is ended on both sides",
    attackers=2,
    memory_kib=1200,
    cpu_ms=300,
)
async def unread_pings(attacker: Attacker) -> None:
    public, backend = await opened(attacker, public=await attacker.connect(receive_buffer=SMALL, max_segment=SEGMENT))
    if attacker.number == 0:
        return  # there are 7,000 of them before it ends, which takes the asyncio engine a second: once is enough
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    backend.writer.write(frame(PING, b"p" * 125) * 100_000)
    await is_over(backend)
    public.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(ConnectionError):
        *pings, last = parse_frames(await public.to_end())
        assert {each.opcode for each in pings} == {PING}
        assert len(pings) <= 2**20 // 125
        assert last.opcode == PING or last.payload[:2] == struct.pack("!H", 1013)


@attack(
    "frames of 64 MiB to a visitor that reads nothing, all at once",
    "wait: a window of each is held at either end, the rest is not read",
    attackers=8,
    memory_kib=900,
    cpu_ms=30,
)
async def unread(attacker: Attacker) -> None:
    public, backend = await opened(attacker, public=await attacker.connect(receive_buffer=SMALL, max_segment=SEGMENT))
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    backend.writer.write(frame_head(BINARY, len(PLENTY)))
    backend.writer.write(PLENTY)
    await stands_still(attacker, backend)
    await attacker.all_here()
