"""The access log: one line for each request, when it has ended.

Records are left with the engine for a moment; a thread makes them lines and writes those. So a log costs the requests
nearly nothing, and a disk that hangs, is full or has gone, and a pipe that nobody reads, cost lines and never hold up
the traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol

from fasttunnel import limits
from fasttunnel.control.access_lines import Lines
from fasttunnel.control.log import Sparing
from fasttunnel.errors import ConfigError, describe

FLUSH_S: Final = 0.1
LAST_LINES_S: Final = 2.0
STDOUT: Final = "-"
NEWLINE: Final = ord("\n")
SLOW: Final = "it is written too slowly"


class Batch(Protocol):
    """Records that an engine has handed over."""

    @property
    def size(self) -> int:
        """Bytes of memory."""

    @property
    def lost(self) -> int:
        """Records before them that there was no room for."""

    def __len__(self) -> int:
        """Records that are no lines yet."""

    def lines(self, json: bool) -> bytes:
        """The next lines; empty: that was all. Called in the thread that writes."""


class Journal(Protocol):
    """Where an engine leaves its records."""

    def take(self) -> Batch:
        """Those that have come since the last time."""


class AccessLog:
    """`path` is a file, or "-" for standard output. Raises ConfigError when it cannot be opened."""

    def __init__(self, path: str, warn: Callable[[str], None], *, json: bool) -> None:
        self._path = path
        self._warn = warn
        self._json = json
        self._file = self._open()
        self._journals: list[Journal] = []  # that have something
        self._handed = self._written = 0  # bytes: given to the thread, and done with there
        self._lost = 0  # lines
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sparing = Sparing()
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._reopening = False
        self._broken = False  # the last line may be half written
        self._thread = threading.Thread(target=self._run, name="fasttunnel access log", daemon=True)

    def _open(self) -> int:
        if self._path == STDOUT:
            return sys.__stdout__.fileno() if sys.__stdout__ is not None else 1
        return _open(self._path)

    # -- on the event loop

    def ready(self, journal: Journal) -> None:
        """It has records, the first since they were taken."""
        self._journals.append(journal)
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        journals, self._journals = self._journals, []
        for journal in journals:
            self._hand(journal.take())

    def _hand(self, batch: Batch) -> None:
        if batch.lost:
            self._lose(batch.lost, SLOW)
        if self._handed - self._written > limits.ACCESS_LOG_BYTES:
            return self._lose(len(batch), SLOW)
        self._handed += batch.size
        self._give(batch)

    def _give(self, batch: Batch | None) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._work.put(batch)

    def _lose(self, count: int, reason: str) -> None:
        self._lost += count
        if self._sparing.permits(reason):
            self._warn(f"access log {self._path}: {reason}; {self._lost} lines are lost so far, requests go on")

    def move(self, path: str) -> None:
        """Go on in another file. Raises ConfigError when it cannot be opened."""
        if path != self._path:
            if path != STDOUT:
                os.close(_open(path))
            self._path = path
            self.reopen()

    def reopen(self) -> None:
        """The file has been moved away (logrotate): go on in a new one."""
        self._reopening = True
        self._give(Lines([]))

    def close(self) -> None:
        """Write what there is."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        self._give(None)
        self._thread.join(LAST_LINES_S)

    # -- in the thread

    def _run(self) -> None:
        while (batch := self._work.get()) is not None:
            if self._reopening:
                self._reopening = False
                self._reopen()
            size = batch.size
            self._write(batch)
            self._written += size
        self._close_file()

    def _close_file(self) -> None:
        if self._file > 2:  # standard output is not ours
            os.close(self._file)

    def _reopen(self) -> None:
        try:
            file = self._open()
        except ConfigError as error:
            return self._tell(0, f"it goes on in the old file, for it cannot be opened anew: {error.detail}")
        if file != self._file:
            self._close_file()
        self._file, self._broken = file, False

    def _write(self, batch: Batch) -> None:
        while data := batch.lines(self._json):
            rest = memoryview(b"\n" + data if self._broken else data)
            try:
                while rest:
                    written = os.write(self._file, rest)
                    self._broken = rest[written - 1] != NEWLINE
                    rest = rest[written:]
            except OSError as error:
                return self._tell(data.count(b"\n") + len(batch), describe(error))

    def _tell(self, lost: int, reason: str) -> None:
        assert self._loop is not None or not lost
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has been closed
                self._loop.call_soon_threadsafe(self._lose, lost, reason)


def _open(path: str) -> int:
    """Raises ConfigError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(f"the access log {path} cannot be opened", detail=describe(error)) from None
