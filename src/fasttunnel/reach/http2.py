"""As much of HTTP/2 (RFC 9113) as one gRPC call without messages takes: no data, no windows, nothing decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, GOAWAY = 1, 3, 4, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
_LONGEST: Final = 16_384  # what a peer may send that was told nothing else


def opening() -> bytes:
    """What a client begins with (3.4)."""
    return PREFACE + _frame(SETTINGS)


async def call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, path: str, secure: bool
) -> bool:
    """Whether the call at this path is answered to its end, with whatever status."""
    head = [(":method", "POST"), (":scheme", "https" if secure else "http"), (":path", path), (":authority", authority)]
    head += [("te", "trailers"), ("content-type", "application/grpc")]
    writer.write(opening() + _frame(HEADERS, END_HEADERS | END_STREAM, 1, _fields(head)))
    while True:
        kind, flags, stream = await _next(reader, writer)
        if stream == 1 and kind == HEADERS and flags & END_STREAM:
            return True
        if kind == GOAWAY or (stream == 1 and kind == RST_STREAM):
            return False


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the first call on a connection, whose preface has been read, with the status OK."""
    writer.write(_frame(SETTINGS))
    while True:
        kind, _, stream = await _next(reader, writer)
        if kind == HEADERS:
            head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]
            writer.write(_frame(HEADERS, END_HEADERS | END_STREAM, stream, _fields(head)))
            return await writer.drain()


async def _next(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, int, int]:
    """Kind, flags and stream of the next frame."""
    head = await reader.readexactly(9)
    length = int.from_bytes(head[:3])
    if length > _LONGEST:
        raise ConnectionError("it does not speak HTTP/2")
    await reader.readexactly(length)
    if head[3] == SETTINGS and not head[4] & ACK:
        writer.write(_frame(SETTINGS, ACK))
    return head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _fields(head: Sequence[tuple[str, str]]) -> bytes:
    """RFC 7541 6.2.2: literals that are not indexed, with new names, without Huffman's code."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in head)


def _text(text: str) -> bytes:
    """RFC 7541 5.2, with the length as of 5.1."""
    data = text.encode()
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, length = len(data) - 127, b"\x7f"
    while rest > 127:
        length += bytes((rest & 127 | 128,))
        rest >>= 7
    return length + bytes((rest,)) + data
