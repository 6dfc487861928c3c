"""WebSocket (RFC 6455, 7692): frames of a hostile visitor."""

import contextlib
import struct
import zlib

from tests.hostile.attack import Section
from tests.hostile.http1_bodies import PLENTY, SMALL, deaf, stands_still
from tests.hostile.site import VICTIM, Attacker
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    Frame,
    answer_upgrade,
    close_payload,
    expect_upgrade,
    frame,
    frame_head,
    parse_frames,
    read_frame,
    read_frame_head,
)
from tests.support.raw import Peer, request

attack = Section("WebSocket").attack
LIMITED = {"server": ["--set", "ws_message_bytes=1000"], "client": ["--set", "ws_message_bytes=1000"]}
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


async def opened(
    attacker: Attacker, *offered: str, accepted: tuple[str, ...] = (), public: Peer | None = None
) -> tuple[Peer, Peer]:
    """Both ends of a WebSocket connection."""
    handshake = request("GET", attacker.target, *UPGRADE, *offered, host=VICTIM)
    public, backend, head = await attacker.pass_on(handshake, public)
    await answer_upgrade(backend, head, *accepted)
    await expect_upgrade(public)
    return public, backend


async def fails(peer: Peer, code: int) -> None:
    """The peer is told why, in a Close frame of ours, and the connection ends."""
    last = await read_frame(peer)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", code)), last
    assert last.payload[2:].decode(), "and the reason in words"
    assert await peer.ended()


async def ends_without_close(peer: Peer) -> None:
    """An abnormal end: no Close frame is made up for the side that has done nothing."""
    with contextlib.suppress(ConnectionError):
        assert CLOSE not in [each.opcode for each in parse_frames(await peer.to_end())]


VIOLATIONS = {
    "unmasked": frame(TEXT, b"hi"),
    "unmasked Close": frame(CLOSE, close_payload(1000)),
    "reserved data opcode": frame(3, b"", mask=MASK),
    "reserved data opcode, the last": frame(7, b"", mask=MASK),
    "reserved control opcode": frame(11, b"", mask=MASK),
    "reserved control opcode, the last": frame(15, b"", mask=MASK),
    "RSV1": frame(TEXT, b"", rsv=4, mask=MASK),
    "RSV2": frame(TEXT, b"", rsv=2, mask=MASK),
    "RSV3": frame(TEXT, b"", rsv=1, mask=MASK),
    "RSV1 of a Ping": frame(PING, b"", rsv=4, mask=MASK),
    "fragmented Ping": frame(PING, b"", fin=False, mask=MASK),
    "fragmented Close": frame(CLOSE, b"", fin=False, mask=MASK),
    "Ping of 126 bytes": frame(PING, b"x" * 126, mask=MASK),
    "Close of 126 bytes": frame(CLOSE, close_payload(1000, "x" * 124), mask=MASK),
    "Ping of 2^63-1 bytes": b"\x89\xff" + b"\x7f" + b"\xff" * 7 + MASK,
    "continuation of nothing": frame(CONTINUATION, b"", mask=MASK),
    "message inside another": frame(TEXT, b"", fin=False, mask=MASK) + frame(TEXT, b"", mask=MASK),
    "continuation of what has ended": frame(TEXT, b"", mask=MASK) + frame(CONTINUATION, b"", mask=MASK),
    "top bit of the length": b"\x82\xff" + b"\x80" + bytes(7) + MASK,
    "all bits of the length": b"\x82\xff" + b"\xff" * 8 + MASK,
    "length 125 in 16 bits": b"\x82\xfe" + (125).to_bytes(2, "big") + MASK + bytes(125),
    "length 0 in 64 bits": b"\x82\xff" + bytes(8) + MASK,
    "length 65,535 in 64 bits": b"\x82\xff" + (65_535).to_bytes(8, "big") + MASK + bytes(65_535),
    "Close of one byte": frame(CLOSE, b"\x03", mask=MASK),
    **{
        f"Close {code}": frame(CLOSE, close_payload(code), mask=MASK)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
    },
}


@attack(
    "frames without mask, reserved opcodes, RSV bits without an extension, fragmented or long control frames, "
    "continuations of nothing, messages inside others, lengths of 2^63 and more or not in their shortest form, codes "
    "that no Close may have",
    "1002; the backend sees an abnormal end",
    attackers=len(VIOLATIONS),
)
async def violations(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await public.send(attacker.one_of(list(VIOLATIONS.values())))
    await fails(public, 1002)
    await ends_without_close(backend)


@attack("64 WebSockets that say nothing, all at once", "wait, and cost little", attackers=64, memory_kib=16)
async def idle(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await attacker.all_here()
    await public.send(frame(CLOSE, b"", mask=MASK))
    assert await read_frame(backend) == Frame(CLOSE, b"", True, 0, True)
    await backend.send(frame(CLOSE, b""))
    assert await read_frame(public) == Frame(CLOSE, b"")
    assert await public.ended()


@attack("RSV1 of an extension that was offered, and that the backend has not accepted", "1002")
async def not_accepted(attacker: Attacker) -> None:
    public, backend = await opened(attacker, DEFLATE)
    await public.send(frame(TEXT, b"", rsv=4, mask=MASK))
    await fails(public, 1002)
    await ends_without_close(backend)


@attack("a violation and a flood of 256 KiB behind it", "1002 arrives, although bytes behind it are never looked at")
async def still_sending(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await public.send(frame(TEXT, b"hi") + bytes(2**18))
    last = await read_frame(public)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1002))
    await ends_without_close(backend)


LARGE = {
    "one frame": frame_head(BINARY, 1001, mask=MASK),
    "2^63-1 bytes": frame_head(BINARY, 2**63 - 1, mask=MASK),
    "two fragments": frame(TEXT, b"x" * 600, fin=False, mask=MASK) + frame_head(CONTINUATION, 401, mask=MASK),
    "lengths whose sum is 2^64": frame(TEXT, b"x", fin=False, mask=MASK)
    + frame_head(CONTINUATION, 2**63 - 1, mask=MASK) * 2,
    "1,001 fragments": frame(TEXT, b"x", fin=False, mask=MASK) + frame(CONTINUATION, b"x", fin=False, mask=MASK) * 1000,
}


@attack(
    "a message above ws_message_bytes, in one frame, or in fragments of which each is below it",
    "1009 as soon as a header says so",
    attackers=len(LARGE),
    options=LIMITED,
    cpu_ms=10,
)
async def large_messages(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await public.send(attacker.one_of(list(LARGE.values())))
    await fails(public, 1009)
    await ends_without_close(backend)


@attack(
    "one frame that declares 2^63-1 bytes, and never ends",
    "its header is passed on and what comes of it; nothing is kept for it",
)
async def endless_frame(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await public.send(frame_head(BINARY, 2**63 - 1, mask=bytes(4)) + bytes(100_000))
    head, length, _ = await read_frame_head(backend)
    assert (head.opcode, length) == (BINARY, 2**63 - 1)
    await backend.exactly(65_536)
    await attacker.all_here()
    public.drop()
    with contextlib.suppress(ConnectionError):
        assert len(await backend.to_end()) <= 100_000 - 65_536


@attack(
    "a message of 600 continuation frames without end, half of them empty",
    "each is passed on",
    attackers=4,
    cpu_ms=40,
)
async def endless_message(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    both = [Frame(CONTINUATION, b"", False, 0, True), Frame(CONTINUATION, b"x", False, 0, True)]
    data = b"".join(frame(each.opcode, each.payload, fin=False, mask=MASK) for each in both)
    await public.send(frame(TEXT, b"", fin=False, mask=MASK) + data * 300)
    assert await read_frame(backend) == Frame(TEXT, b"", False, 0, True)
    for _ in range(300):
        for each in both:
            assert await read_frame(backend) == each
    public.drop()
    await ends_without_close(backend)


@attack(
    "500 Pings of 125 bytes to a backend that answers none",
    "each is passed on, none is answered by us",
    attackers=4,
    memory_kib=200,
    cpu_ms=40,
)
async def pings(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    await public.send(frame(PING, b"p" * 125, mask=MASK) * 500)
    for _ in range(500):
        assert await read_frame(backend) == Frame(PING, b"p" * 125, True, 0, True)
    await backend.send(frame(PONG, b"p" * 125))
    assert await read_frame(public) == Frame(PONG, b"p" * 125)


@attack(
    "frames of 64 MiB to a backend that reads nothing, all at once",
    "wait: a window of each is held at either end, the rest is not read",
    attackers=8,
    memory_kib=900,
    cpu_ms=30,
)
async def unread(attacker: Attacker) -> None:
    public, backend = await opened(attacker, public=await attacker.connect(receive_buffer=SMALL))
    deaf(backend)
    public.writer.write(frame_head(BINARY, len(PLENTY), mask=bytes(4)))
    public.writer.write(PLENTY)
    await stands_still(attacker, public)
    await attacker.all_here()


def deflated(size: int) -> bytes:
    """So many zeros, as a payload of permessage-deflate (RFC 7692 7.2.1)."""
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


BOMB = deflated(64 * 2**20)


@attack(
    f"a compression bomb: 64 MiB in {len(BOMB) // 1024} KiB, both ways",
    "passes unopened, byte for byte",
    memory_kib=256,
)
async def bombs(attacker: Attacker) -> None:
    public, backend = await opened(attacker, DEFLATE, accepted=(DEFLATE,))
    await public.send(frame(BINARY, BOMB, rsv=4, mask=MASK))
    assert await read_frame(backend) == Frame(BINARY, BOMB, True, 4, True)
    await backend.send(frame(BINARY, BOMB, rsv=4))
    assert await read_frame(public) == Frame(BINARY, BOMB, True, 4)


@attack("frames behind a Close frame, and a Close frame behind it", "are dropped: the first one counts")
async def behind_close(attacker: Attacker) -> None:
    public, backend = await opened(attacker)
    late = (
        frame(TEXT, b"late", mask=MASK) * 100 + frame(CLOSE, close_payload(4001), mask=MASK) + frame(TEXT, b"unmasked")
    )
    await public.send(frame(CLOSE, close_payload(4000), mask=MASK) + late)
    assert await read_frame(backend) == Frame(CLOSE, close_payload(4000), True, 0, True)
    await backend.send(frame(CLOSE, close_payload(4000)))
    assert await read_frame(public) == Frame(CLOSE, close_payload(4000))
    assert await public.ended()
    await backend.close()
