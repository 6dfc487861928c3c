"""Token buckets: how much of something may pass in a second, with a burst of what one second allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

HOLD_S = 0.02  # of what a rate allows in it: less is not worth waking up for


class Bucket:
    """Fills at `rate` units a second, up to what one second gives and at least one unit; 0: there is no limit.

    Whoever cannot know beforehand how much it will be spends afterwards: the level falls below zero then, and the debt
    is paid before anything else passes, so the rate holds in the long run however large the pieces are.
    """

    def __init__(self, rate: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = rate
        self._level = self._burst
        self._at_s = clock()

    @property
    def _burst(self) -> float:
        return max(self._rate, 1.0)

    @property
    def rate(self) -> float:
        return self._rate

    def change(self, rate: float) -> None:
        """Another rate from now on. What has been spent beyond the old one is not forgotten."""
        if rate == self._rate:
            return
        level, self._rate = self.level, rate
        self._level = min(level, self._burst)

    @property
    def level(self) -> float:
        """Units that may pass now; below zero, what is owed."""
        now = self._clock()
        passed_s, self._at_s = now - self._at_s, now
        if self._rate == 0:
            return math.inf
        self._level = min(self._burst, self._level + passed_s * self._rate)
        return self._level

    def take(self, count: float = 1.0) -> bool:
        """Let `count` units pass, or none of them."""
        if self._rate == 0:
            return True
        if self.level < count:
            return False
        self._level -= count
        return True

    def spend(self, count: float) -> bool:
        """`count` units have passed. Whether more may: False until `wait_s()` is over."""
        if self._rate == 0:
            return True
        self._level = self.level - count
        return self._level > 0

    @property
    def open(self) -> bool:
        """Whether anything may pass now."""
        return self._rate == 0 or self.level > 0

    def wait_s(self, count: float | None = None) -> float:
        """Seconds until `count` units may pass; without it, until it is worth going on."""
        if self._rate == 0:
            return 0.0
        wanted = self._rate * HOLD_S if count is None else count
        return max(0.0, min(wanted, self._burst) - self.level) / self._rate
