"""Two runs side by side."""

from __future__ import annotations

from typing import Any

from bench.cells import CELLS
from bench.run import ratio

LEAST = 0.10  # a change below this is never told


def compare(before: dict[str, Any], after: dict[str, Any], system: str) -> tuple[list[str], bool]:
    """A line a cell, and whether one became slower.

    A change counts when the medians differ by more than LEAST and the ranges of the rounds do not overlap.
    """
    lines, slower = [], False
    for cell in CELLS:
        old, new = (ratio(run["runs"], cell, system, cell.reference) for run in (before, after))
        if old is None or new is None:
            continue
        change = new[0] / old[0] - 1
        apart = new[1] > old[2] or new[2] < old[1]
        verdict = "same"
        if abs(change) > LEAST:
            verdict = ("SLOWER" if change > 0 else "faster") if apart else "within the noise"
        slower |= verdict == "SLOWER"
        lines.append(
            f"{cell.name:44} {old[0]:6.2f} [{old[1]:.2f}-{old[2]:.2f}] -> {new[0]:6.2f} [{new[1]:.2f}-{new[2]:.2f}]"
            f" {change:+6.0%}  {verdict}"
        )
    return lines or ["the runs have no cell in common"], slower
