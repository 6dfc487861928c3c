"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from textwrap import wrap
from typing import Any

from bench.cells import CELLS, Cell
from bench.choice import picked
from bench.run import figures, ratios, spread
from bench.stored import Unusable

LEAST = 0.10  # a change below this is never told
SLOWER, ONE_ROUND = "SLOWER", "one round only"
WIDE = 118  # columns, that a row needs

Run = dict[str, Any]


@dataclass
class Row:
    """A cell that was measured in both."""

    cell: Cell
    before: list[float]  # ratios to the reference, of each round
    after: list[float]

    @property
    def change(self) -> float:
        return median(self.after) / median(self.before) - 1

    @property
    def verdict(self) -> str:
        """A change counts when the medians differ by more than LEAST and the ranges of the rounds do not overlap."""
        if min(len(self.before), len(self.after)) < 2:
            return ONE_ROUND  # whose noise nobody knows
        if abs(self.change) <= LEAST:
            return "same"
        if min(self.after) <= max(self.before) and max(self.after) >= min(self.before):
            return "within the noise"
        return SLOWER if self.change > 0 else "faster"


def lines(rows: list[Row], room: int) -> Iterator[str]:
    """A table; where there is little room, each row is two lines."""
    between = "  " if room >= WIDE else "\n    "

    def line(cell: str, reference: str, *figures: str) -> str:
        before, after, change, verdict = figures
        return f"{cell:40}  {reference:12}{between}{before:>16}  {after:>16}  {change:>6}  {verdict}".rstrip()

    yield line("cell", "reference", "before", "after", "change", "")
    for row in rows:
        values = spread(row.before), spread(row.after), f"{row.change:+.0%}", row.verdict
        yield line(row.cell.name, row.cell.reference, *values)


def names(run: Run) -> list[str]:
    """The systems of a run, in its order."""
    return list(dict.fromkeys(one["system"] for one in run["runs"]))


def chosen(before: Run, after: Run, patterns: str) -> tuple[list[str], list[str]]:
    """The systems of both runs that patterns stand for, and a line for each that only one has. Raises Unusable."""
    old, new = names(before), names(after)
    found = picked(list(dict.fromkeys([*old, *new])), patterns, [], "system")
    lines = [f"{name}: only in {'the first' if name in old else 'the second'} run" for name in found
             if name not in old or name not in new]  # fmt: skip
    both = [name for name in found if name in old and name in new]
    if not both:
        raise Unusable(f"nothing to compare: {'; '.join(lines)}")
    return both, lines


def _lacking(run: Run, which: str, cell: Cell, system: str) -> str:
    """Why a run has no ratio of a cell, nothing when it has."""
    if not any(one["cell"] == cell.name and one["system"] == system for one in run["runs"]):
        return f"not in the {which} run"
    if not figures(run["runs"], cell, system):
        return f"failed in the {which} run"
    if not figures(run["runs"], cell, cell.reference):
        return f"no {cell.reference}, its reference, in the {which} run"
    return "" if ratios(run["runs"], cell, system, cell.reference) else f"nothing to divide in the {which} run"


def compare(before: Run, after: Run, system: str) -> tuple[list[Row], dict[str, list[str]]]:
    """A row for each cell that both runs have, and why others cannot be compared: their names by the reason."""
    rows: list[Row] = []
    others: dict[str, list[str]] = {}
    for cell in CELLS:
        if not any((one["cell"], one["system"]) == (cell.name, system) for one in [*before["runs"], *after["runs"]]):
            continue
        old, new = (ratios(run["runs"], cell, system, cell.reference) for run in (before, after))
        if system == cell.reference:
            others.setdefault("it is the reference itself", []).append(cell.name)
        elif old and new and median(old) > 0:
            rows.append(Row(cell, old, new))
        else:
            lacking = _lacking(before, "first", cell, system), _lacking(after, "second", cell, system)
            why = ", ".join(part for part in lacking if part) or "it costs nothing"
            others.setdefault(why, []).append(cell.name)
    known = {cell.name for cell in CELLS}
    if strange := list(dict.fromkeys(one["cell"] for one in [*before["runs"], *after["runs"]]
                                     if one["cell"] not in known and one["system"] == system)):  # fmt: skip
        others["not a cell of this version of the suite"] = strange
    return rows, others


def told(before: Run, after: Run, systems: list[str], room: int) -> tuple[list[str], bool]:
    """Lines, and whether something became slower. Raises Unusable when nothing can be compared."""
    compared = {system: compare(before, after, system) for system in systems}
    found: list[str] = []
    for system, (rows, others) in compared.items():
        if rows:
            found.append(f"{system}, as a multiple of the reference in the same round: median [least-greatest]")
            found += [*lines(rows, room), ""]
        if any(row.verdict == ONE_ROUND for row in rows):
            found.append(f"{ONE_ROUND}: its noise is not known, so that nothing is called slower or faster")
        for why, cells in others.items():
            found += wrap(f"{system} not compared, {why}: {'; '.join(cells)}", room, subsequent_indent="    ")
    if not any(rows for rows, _ in compared.values()):
        raise Unusable("\n".join(["the runs have nothing in common that can be compared", *found]))
    return found, any(row.verdict == SLOWER for rows, _ in compared.values() for row in rows)
