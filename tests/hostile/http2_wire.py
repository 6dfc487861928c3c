"""HTTP/2 by hand, frame by frame (RFC 9113 4.1, 7541): whatever no library would send."""

import asyncio
import struct
from typing import NamedTuple

import hpack

from tests.hostile.site import VICTIM, Attacker
from tests.support.raw import Peer
from tests.support.tunnel import WAIT_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
METHOD_GET, METHOD_POST, SCHEME, PATH = b"\x82", b"\x83", b"\x86", b"\x84"  # indexed: http, /


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """`length` may be another one than that of the payload."""
    size = len(payload) if length is None else length
    return struct.pack("!I", size)[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def window(increment: int, stream: int = 0) -> bytes:
    return frame(WINDOW_UPDATE, struct.pack("!I", increment), stream=stream)


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, struct.pack("!I", code), stream=stream)


def goaway(last: int, code: int = 0) -> bytes:
    return frame(GOAWAY, struct.pack("!II", last, code))


def integer(number: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541 5.1, beside the bits of `first`."""
    most = 2**bits - 1
    if number < most:
        return bytes([first | number])
    out = [first | most]
    number -= most
    while number >= 128:
        out.append(128 | number % 128)
        number //= 128
    return bytes([*out, number])


def text(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def literal(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """A field; `indexed`: it goes into the table as well, where it is number 62."""
    return (b"\x40" if indexed else b"\0") + text(name) + text(value)


def head(*fields: tuple[bytes, bytes], host: str = VICTIM, target: str = "/", method: bytes = METHOD_GET) -> bytes:
    """A request's header block."""
    others = b"".join(literal(name, value) for name, value in fields)
    return method + SCHEME + b"\x04" + text(target.encode()) + b"\x01" + text(host.encode()) + others


def headers(block: bytes, stream: int = 1, flags: int = END_STREAM | END_HEADERS) -> bytes:
    return frame(HEADERS, block, flags=flags, stream=stream)


class Wire:
    """A connection whose frames the attack reads and writes."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.send = peer.send
        self.fields: dict[str, str] = {}  # of the last header block
        self._decoder = hpack.Decoder()

    async def read(self) -> Frame | None:
        """The next frame; None: the connection has ended."""
        try:
            length, kind, flags, stream = struct.unpack("!IBBI", b"\0" + await self.peer.exactly(9))
            return Frame(kind, flags, stream, await self.peer.exactly(length) if length else b"")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def until(self, kind: int, *, stream: int = 0, flags: int = 0) -> Frame:
        """The next frame of this kind on this stream, with at least these flags."""
        async with asyncio.timeout(WAIT_S):
            while (got := await self.read()) is not None:
                if (got.kind, got.stream, got.flags & flags) == (kind, stream, flags):
                    return got
        raise AssertionError(f"the connection has ended before frame {kind}")

    async def outcome(self, stream: int = 1) -> str:
        """How a stream ends: its status, "reset CODE", or "closed CODE" for the whole connection, which then ends.

        "ignored" when a PING is answered first.
        """
        async with asyncio.timeout(WAIT_S):
            while (got := await self.read()) is not None:
                if got.kind == HEADERS:
                    block = dict(self._decoder.decode(got.payload))
                    if got.stream == stream:
                        self.fields = block
                        if int(block.get(":status", 200)) >= 200:
                            return block.get(":status", "trailers")
                elif got.kind == PING and got.flags & ACK:
                    return "ignored"
                elif got.kind == RST_STREAM and got.stream == stream:
                    return f"reset {int.from_bytes(got.payload, 'big')}"
                elif got.kind == GOAWAY and (code := int.from_bytes(got.payload[4:8], "big")):
                    await self.end()
                    return f"closed {code}"
        return "closed"

    async def end(self) -> None:
        """Whatever comes, until the connection ends."""
        async with asyncio.timeout(WAIT_S):
            while await self.read() is not None:
                pass

    async def alive(self) -> None:
        """It answers a PING: all that was sent before has been read."""
        await self.send(frame(PING, b"are you?"))
        await self.until(PING, flags=ACK)


async def opened(attacker: Attacker, *pairs: tuple[int, int], first: bytes = b"", **options: int) -> Wire:
    """A connection of the public that has sent its preface, SETTINGS with `pairs`, and `first`."""
    wire = Wire(await attacker.connect(limit=2**20, **options))
    await wire.send(PREFACE + settings(*pairs) + first)
    return wire


async def settled(attacker: Attacker, *pairs: tuple[int, int]) -> Wire:
    """The same, after both have said and acknowledged their SETTINGS."""
    wire = await opened(attacker, *pairs)
    await wire.until(SETTINGS)
    await wire.until(SETTINGS, flags=ACK)
    await wire.send(frame(SETTINGS, flags=ACK))
    return wire


async def ends(attacker: Attacker, data: bytes, *outcomes: str, stream: int = 1) -> Wire:
    """What is sent has one of these outcomes, and no backend hears of it."""
    wire = await opened(attacker, first=data)
    got = await wire.outcome(stream)
    assert got in outcomes, got
    assert attacker.victim.connections == 0
    return wire
