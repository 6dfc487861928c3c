"""How late the event loop is: what a timer waits beyond its time, everything else waits as well."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from typing import Final

INTERVAL_S: Final = 0.5
BOUNDS_S: Final = (
    0.002,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
)  # timers are late by up to 1 ms by themselves


class LoopLag:
    """Looks twice a second, from start() to stop()."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)  # of looks by how late they were, within each bound and beyond
        self.sum_s = 0.0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due_s = time.monotonic() + INTERVAL_S
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        late_s = max(0.0, time.monotonic() - self._due_s)
        self.counts[bisect_left(BOUNDS_S, late_s)] += 1
        self.sum_s += late_s
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
