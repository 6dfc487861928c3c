"""Pauses between attempts to dial, spread at random so that a thousand clients do not come back in the same instant."""

import random

from fasttunnel import limits


class Backoff:
    """Exponential backoff with full jitter: attempt n waits between the least pause and the least pause times 2**n.

    The random source is an argument so that tests own it.
    """

    def __init__(
        self,
        min_s: float = limits.BACKOFF_MIN_S,
        max_s: float = limits.BACKOFF_MAX_S,
        rng: random.Random | None = None,
    ) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._rng = rng or random.Random()
        self._ceiling_s = min_s

    def next(self) -> float:
        """The pause before the next attempt, in seconds."""
        self._ceiling_s = min(self._ceiling_s * 2, self._max_s)
        return self._rng.uniform(self._min_s, self._ceiling_s)

    def reset(self) -> None:
        """An attempt succeeded: begin with short pauses again."""
        self._ceiling_s = self._min_s
