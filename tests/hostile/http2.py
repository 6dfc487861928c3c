"""HTTP/2 (RFC 9113), HPACK (RFC 7541)."""

import struct

from tests.hostile.attack import Section
from tests.hostile.site import Attacker
from tests.support.raw import Peer

attack = Section("HTTP/2").attack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """RFC 9113 4.1; `length` may be another one than that of the payload."""
    size = len(payload) if length is None else length
    return struct.pack("!I", size)[1:] + struct.pack("!BBI", kind, flags, stream) + payload


async def opened(attacker: Attacker) -> Peer:
    """A connection that has sent its preface."""
    peer = await attacker.connect(limit=2**20)
    await peer.send(PREFACE + frame(SETTINGS))
    return peer


@attack("10,000 PINGs, whose answers are read", "each is answered", cpu_ms=50)
async def pings(attacker: Attacker) -> None:
    peer = await opened(attacker)
    for number in range(100):
        await peer.send(frame(PING, struct.pack("!Q", number)) * 100)
        await peer.until(frame(PING, struct.pack("!Q", number), flags=ACK) * 100)
