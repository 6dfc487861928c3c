"""The last step of a stop: what is written leaves, what is still open is cut."""

import asyncio
import contextlib
from collections.abc import Collection

LAST_BYTES_S = 1.0  # for last bytes to leave, and for TLS to hear that the other end has closed, which it may never say


async def settle(writers: Collection[asyncio.StreamWriter]) -> None:
    """Returns when none of these connections, which have been closed, is open."""
    closing = asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(closing, LAST_BYTES_S)
    for writer in writers:
        writer.transport.abort()
