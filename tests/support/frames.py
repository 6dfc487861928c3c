"""WebSocket frames by hand (RFC 6455 5.2), for peers that see and send exactly what is on the wire."""

import base64
import hashlib
import struct
from typing import NamedTuple

from tests.support.raw import Head, Peer, request

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 5.7; any will do
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}"]


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


def xor(data: bytes, key: bytes) -> bytes:
    """Mask or unmask: the same thing. By big integers, for large payloads."""
    repeated = key * (len(data) // 4 + 1)
    number = int.from_bytes(data, "big") ^ int.from_bytes(repeated[: len(data)], "big")
    return number.to_bytes(len(data), "big")


def frame_head(opcode: int, length: int, *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    first, bit = fin << 7 | rsv << 4 | opcode, 0x80 if mask is not None else 0
    if length < 126:
        head = bytes([first, bit | length])
    elif length < 65_536:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    return head + (mask or b"")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    head = frame_head(opcode, len(payload), fin=fin, rsv=rsv, mask=mask)
    return head + (xor(payload, mask) if mask is not None else payload)


def close_payload(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


async def read_frame_head(peer: Peer) -> tuple[Frame, int, bytes]:
    """A frame without its payload, how long that is, and the mask."""
    first, second = await peer.exactly(2)
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(await peer.exactly(2 if length == 126 else 8), "big")
    mask = await peer.exactly(4) if second & 0x80 else b""
    return Frame(first & 15, b"", bool(first & 0x80), first >> 4 & 7, bool(mask)), length, mask


async def read_frame(peer: Peer) -> Frame:
    head, length, mask = await read_frame_head(peer)
    payload = await peer.exactly(length)
    return head._replace(payload=xor(payload, mask) if mask else payload)


def parse_frames(data: bytes) -> list[Frame]:
    """The whole frames in `data`; what may lie behind them is the beginning of one."""
    frames = []
    while len(data) >= 2:
        first, second = data[:2]
        extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
        start = 2 + extended + (4 if second & 0x80 else 0)
        if len(data) < start:
            break
        length = int.from_bytes(data[2 : 2 + extended], "big") if extended else second & 0x7F
        if len(data) < start + length:
            break
        payload = data[start : start + length]
        if second & 0x80:
            payload = xor(payload, data[start - 4 : start])
        frames.append(Frame(first & 15, payload, bool(first & 0x80), first >> 4 & 7, bool(second & 0x80)))
        data = data[start + length :]
    return frames


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept, RFC 6455 4.2.2."""
    return base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()


async def ask_upgrade(peer: Peer, target: str = "/", *fields: str, host: str = "public.example") -> None:
    """The public's handshake."""
    await peer.send(request("GET", target, *UPGRADE, *fields, host=host))


async def accept_upgrade(peer: Peer, *fields: str) -> Head:
    """The backend's side of the handshake; returns what it was asked."""
    head = await peer.head()
    await answer_upgrade(peer, head, *fields)
    return head


async def answer_upgrade(peer: Peer, head: Head, *fields: str) -> None:
    """The same, when the head has been read."""
    key = head.get("sec-websocket-key")
    assert key is not None
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    await peer.send("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept_key(key)}", *fields]) + "\r\n\r\n")


async def expect_upgrade(peer: Peer) -> Head:
    """The public's handshake has succeeded; returns the answer."""
    head = await peer.head()
    assert head.status == 101, head
    assert head.get("sec-websocket-accept") == accept_key(KEY)
    return head
