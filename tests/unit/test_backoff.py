"""Pauses between attempts to dial."""

import random

from fasttunnel.control.backoff import Backoff


class Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def test_ceiling_doubles_up_to_the_cap_and_starts_again() -> None:
    backoff = Backoff(0.1, 1.0, Highest())
    assert [round(backoff.next(), 3) for _ in range(6)] == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    backoff.reset()
    assert backoff.next() == 0.2


def test_full_jitter_within_bounds() -> None:
    pauses = []
    for seed in range(200):
        backoff = Backoff(0.1, 30.0, random.Random(seed))
        pauses.append([backoff.next() for _ in range(12)])
    assert all(0.1 <= pause <= 30.0 for row in pauses for pause in row)
    last = [row[-1] for row in pauses]
    assert max(last) - min(last) > 20, "spread over the whole range, not around its middle"
