"""Files that are read again when they change, without a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from fasttunnel import limits
from fasttunnel.errors import FasttunnelError

Stamp = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Calls `changed()` when one of the files is another than before: its time, size or place on the disk.

    A FasttunnelError of `changed()` is a warning: what was read before stays in use.
    """

    def __init__(self, paths: Iterable[str], changed: Callable[[], None], warn: Callable[[str], None]) -> None:
        self._paths = list(paths)
        self._changed = changed
        self._warn = warn
        self._stamp = self._seen = self._look()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look every few seconds (limits.RELOAD_INTERVAL_S)."""
        if self._paths:
            self._timer = asyncio.get_running_loop().call_later(limits.RELOAD_INTERVAL_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self, *, at_once: bool = True) -> None:
        """Look now. Unless it is to count `at_once`, a change counts when it is seen twice: nobody writes any more."""
        stamp = self._look()
        settled, self._seen = stamp == self._seen, stamp
        if stamp == self._stamp or not (settled or at_once):
            return
        self._stamp = stamp
        try:
            self._changed()
        except FasttunnelError as error:
            self._warn(f"{error}; what was read before stays in use")

    def _tick(self) -> None:
        try:
            self.check()
        finally:
            self.start()

    def _look(self) -> Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
