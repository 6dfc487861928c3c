"""The access log: one line for each request, when it has ended.

Lines are gathered for a moment and written by a thread of their own, so a disk that hangs, is full or has gone, and a
pipe that nobody reads, cost lines and never hold up the traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from fasttunnel.control.counts import answer_to, grpc_status_of
from fasttunnel.control.log import RequestRecord, Sparing, timestamp
from fasttunnel.control.terms import as_word, grpc_status, reset_code
from fasttunnel.errors import ConfigError, describe

FLUSH_S: Final = 0.1
WAITING_BYTES: Final = 16 * 1024 * 1024  # for a disk that is slow; beyond it lines are lost
LAST_LINES_S: Final = 2.0
STDOUT: Final = "-"
NEWLINE: Final = ord("\n")


class Line(msgspec.Struct):
    """A line of the JSON format. "in" is towards the backend, "out" towards the public."""

    time: str
    request_id: str
    trace_id: str
    protocol: str
    route: str
    method: str
    host: str
    path: str
    status: int | str  # of HTTP, or a close code; of gRPC its name
    reset: str | None
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    duration_s: float
    client_id: str
    peer: str


class AccessLog:
    """`path` is a file, or "-" for standard output. Raises ConfigError when it cannot be opened."""

    def __init__(self, path: str, warn: Callable[[str], None], *, json: bool) -> None:
        self._path = path
        self._warn = warn
        self._format = _json() if json else human
        self._file = self._open()
        self._lines: list[bytes] = []
        self._handed = self._written = 0  # bytes: given to the thread, and done with there
        self._lost = 0  # lines
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sparing = Sparing()
        self._work: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._reopening = False
        self._broken = False  # the last line may be half written
        self._thread = threading.Thread(target=self._run, name="fasttunnel access log", daemon=True)

    def _open(self) -> int:
        if self._path == STDOUT:
            return sys.__stdout__.fileno() if sys.__stdout__ is not None else 1
        return _open(self._path)

    # -- on the event loop

    def __call__(self, record: RequestRecord) -> None:
        self._lines.append(self._format(timestamp(time.time()), record))
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        lines, self._lines = self._lines, []
        if self._handed - self._written > WAITING_BYTES:
            return self._lose(len(lines), "it is written too slowly")
        self._handed += sum(map(len, lines))
        self._give(lines)

    def _give(self, lines: list[bytes] | None) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._work.put(lines)

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
        self._give([])

    def close(self) -> None:
        """Write what there is."""
        if self._timer is not None:
            self._timer.cancel()
        if self._lines:
            self._flush()
        self._give(None)
        self._thread.join(LAST_LINES_S)

    # -- in the thread

    def _run(self) -> None:
        while (lines := self._work.get()) is not None:
            if self._reopening:
                self._reopening = False
                self._reopen()
            if lines:
                self._write(lines)
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

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        rest = memoryview(b"\n" + data if self._broken else data)
        try:
            while rest:
                written = os.write(self._file, rest)
                self._broken = rest[written - 1] != NEWLINE
                rest = rest[written:]
        except OSError as error:
            self._tell(len(lines), describe(error))
        self._written += len(data)

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


# -- formats ----------------------------------------------------------------------------------------------------------


def _status(record: RequestRecord) -> int | str:
    """What the requester was told, also where it was the tunnel that told it."""
    if record.protocol == "grpc":
        return grpc_status(record.status or (grpc_status_of(record.reset) if record.reset else 0))
    return record.status or (answer_to(record.reset) if record.reset else 0)


def _reset(record: RequestRecord) -> str | None:
    return reset_code(record.reset) if record.reset else None


def _json() -> Callable[[str, RequestRecord], bytes]:
    encode = msgspec.json.Encoder().encode

    def line(clock: str, record: RequestRecord) -> bytes:
        return (
            encode(
                Line(
                    clock,
                    record.request_id,
                    record.trace_id,
                    record.protocol,
                    record.route,
                    record.method,
                    record.host,
                    record.path,
                    _status(record),
                    _reset(record),
                    record.messages_in,
                    record.messages_out,
                    record.bytes_in,
                    record.bytes_out,
                    round(record.duration_s, 6),
                    record.client_id,
                    record.peer,
                )
            )
            + b"\n"
        )

    return line


def human(clock: str, record: RequestRecord) -> bytes:
    """Words in a fixed order; what is not known is -, what may hold anything is escaped."""
    words = [
        clock,
        record.request_id,
        record.trace_id,
        record.protocol,
        record.route,
        record.method,
        record.host,
        record.path,
        str(_status(record)),
        _reset(record),
        f"messages={record.messages_in}/{record.messages_out}",
        f"bytes={record.bytes_in}/{record.bytes_out}",
        f"{record.duration_s:.6f}s",
        record.client_id,
        record.peer,
    ]
    return (" ".join(as_word(word) if word else "-" for word in words) + "\n").encode()
