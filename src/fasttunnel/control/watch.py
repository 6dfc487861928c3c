"""Files that are read again when they change, without a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from fasttunnel import limits
from fasttunnel.errors import FasttunnelError

Stamp = tuple[int, int, int] | None


class FileWatch:
    """Calls `changed()` when one of the files is another than before: its time, size or place on the disk.

    Links are followed, so a link that leads elsewhere is a change. A FasttunnelError of `changed()` is a warning: what
    was read before stays in use. `at_once`: a change counts when it is seen, and not only when it is seen twice.
    """

    def __init__(
        self,
        paths: Iterable[str],
        changed: Callable[[], None],
        warn: Callable[[str], None],
        *,
        at_once: bool = True,
    ) -> None:
        self._changed = changed
        self._warn = warn
        self._at_once = at_once
        self._stamps = {path: _stamp(path) for path in paths}
        self._seen = self._stamps
        self._running = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def paths(self) -> list[str]:
        return list(self._stamps)

    def follow(self, paths: Iterable[str]) -> None:
        """Look at these from now on. What is known of one that was looked at before stays so."""
        self._stamps = self._seen = {
            path: self._stamps[path] if path in self._stamps else _stamp(path) for path in paths
        }
        if self._running:
            self.start()

    def start(self) -> None:
        """Look every few seconds (limits.RELOAD_INTERVAL_S)."""
        self.stop()
        self._running = True
        if self._stamps:
            unsettled = self._seen != self._stamps
            pause_s = limits.SETTLE_S if unsettled else limits.RELOAD_INTERVAL_S
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._tick)

    def stop(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self, *, at_once: bool = True) -> None:
        """Look now. Unless it is to count `at_once`, a change counts when it is seen twice: nobody writes any more."""
        stamps = self._look()
        settled, self._seen = stamps == self._seen, stamps
        if stamps == self._stamps or not (settled or at_once):
            return
        self._stamps = stamps
        try:
            self._changed()
        except FasttunnelError as error:
            self._warn(f"{error}; what was read before stays in use")

    def forget(self) -> None:
        """What the files are now is known."""
        self._stamps = self._seen = self._look()

    def _tick(self) -> None:
        try:
            self.check(at_once=self._at_once)
        finally:
            if self._running:
                self.start()

    def _look(self) -> dict[str, Stamp]:
        return {path: _stamp(path) for path in self._stamps}


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
