"""The last step of a stop: what is written leaves, what is still open is cut."""

import asyncio
import contextlib

from fasttunnel.engine._io import Reactor

LAST_BYTES_S = 1.0  # for last bytes to leave once everything has been closed


async def settle(reactor: Reactor) -> None:
    """Returns when no connection of the reactor is open."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_emptied(reactor), LAST_BYTES_S)
        return
    for conn in list(reactor.conns):
        conn.cut()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_emptied(reactor), LAST_BYTES_S)


async def _emptied(reactor: Reactor) -> None:
    empty = asyncio.Event()
    reactor.on_empty = empty.set
    if reactor.conns:
        await empty.wait()
