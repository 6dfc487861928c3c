"""How connections end: what is written leaves, what a peer still sends is read, what is still open then is cut."""

import asyncio
import contextlib
from collections.abc import Collection

READ_BYTES = 65_536
LINGER_S, LINGER_BYTES = 2.0, 16 * 1024 * 1024  # to read what a peer still sends before its connection is closed
LAST_BYTES_S = 1.0  # for last bytes to leave, and for TLS to hear that the other end has closed, which it may never say


async def settle(writers: Collection[asyncio.StreamWriter]) -> None:
    """Returns when none of these connections, which have been closed, is open."""
    closing = asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(closing, LAST_BYTES_S)
    for writer in writers:
        writer.transport.abort()


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let a peer that still sends finish: a reset of the connection would cost it our last words (RFC 9112 9.6)."""
    if writer.is_closing():  # it has gone
        return
    with contextlib.suppress(OSError):
        if writer.can_write_eof():  # TLS cannot
            writer.write_eof()
        await read_out(reader, LINGER_S)


async def read_out(reader: asyncio.StreamReader, timeout_s: float) -> None:
    """Read and drop, until the peer closes its side."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(timeout_s):
            taken = 0
            while taken < LINGER_BYTES and (data := await reader.read(READ_BYTES)):
                taken += len(data)
