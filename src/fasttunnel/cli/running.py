"""How a command runs: on uvloop, until a signal asks it to drain; a mistake of the user is one line, no traceback."""

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, Protocol

import click

from fasttunnel.control.notify import STOPPING, notify
from fasttunnel.errors import FasttunnelError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    async def start(self) -> None: ...
    async def stop(self, grace_s: float | None = None) -> None: ...
    async def wait_closed(self) -> None: ...


def keep_heap() -> None:
    """Have glibc keep what bulk transfers free, up to 16 MiB.

    It returns each large block to the system, and the next one costs a page fault for every 4 KiB of it.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_* of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(mmap_threshold, 8 << 20)
    mallopt(trim_threshold, 16 << 20)


def hold_signals() -> None:
    """Have signals wait for `stop_signal`: in the midst of an import, or of the loop's own start, they are
    lost, or end the process in ways of their own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGHUP))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run `work` and exit with the code that says how it ended."""
    import uvloop  # only commands that run something need it

    keep_heap()
    try:
        uvloop.run(work())
    except FasttunnelError as error:
        fail(error)
    sys.exit(0)


def fail(error: FasttunnelError) -> NoReturn:
    """Say what is wrong in one line, and exit."""
    click.echo(f"fasttunnel: {error}", err=True)
    sys.exit(error.exit_code)


class Reloadable(Protocol):
    def ready(self) -> None: ...

    def ask(self) -> None: ...

    async def stop(self) -> None: ...


async def serve(
    end: Stoppable, started: Callable[[], None], say: Callable[[str], None], configuration: Reloadable
) -> None:
    """Start one end of a tunnel, call `started`, and keep it running until it ends or a signal stops it.

    SIGHUP asks for the configuration to be read again.
    """

    async def live() -> None:
        await end.start()
        started()
        configuration.ready()
        await end.wait_closed()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, configuration.ask)
    asked = stop_signal(say)
    try:
        await _first(asked, live())
    finally:
        notify(STOPPING)
        await configuration.stop()
        await end.stop()
        ignore_hangup()


def ignore_hangup() -> None:
    """There is nothing left to read again; by itself one that comes late would end the process as a failure."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def with_beside(work: Awaitable[None], *others: Awaitable[None]) -> None:
    """Others run while `work` does, and not longer; what goes wrong in them is no reason to end it."""
    beside = [asyncio.ensure_future(other) for other in others]
    try:
        await work
    finally:
        for task in beside:
            task.cancel()
        for result in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(result, Exception):
                logging.getLogger("fasttunnel").error("it went on without a part of its screen", exc_info=result)


def stop_signal(say: Callable[[str], None]) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set. A second signal ends the process on the spot."""
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(1)
        say("stopping  requests under way may finish; once more to stop at once")
        asked.set()

    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGHUP))
    return asked


async def _first(asked: asyncio.Event, work: Awaitable[None]) -> None:
    """Returns when `work` has ended, and raises what it raised; or when the event is set, `work` is then cancelled."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(asked.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        await working
        return
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
