"""The table of a run for a terminal, folded where it is too wide for one."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.cells import CELLS, Cell
from bench.run import broken, figures, ratios, shown, spread

OURS = "cython"
UNIT = "CPU us of all processes of the system per message, but (p50), (p99): us; idle: kB of a connection"
TARGETS = "reach, aim: what that ratio is meant to be at most, and what it is then to become"
NARROW, NARROW_CELL = 100, 36  # below this width, the names of the cells get so many columns and are wrapped
ELSEWHERE = 120  # columns, where there is no terminal


@dataclass
class Column:
    head: str
    values: list[str]
    justify: Any = "right"


def width() -> int:
    """Columns of the terminal, or as COLUMNS says."""
    return shutil.get_terminal_size((ELSEWHERE, 24)).columns


def _value(runs: list[dict[str, Any]], cell: Cell, system: str) -> str:
    if values := figures(runs, cell, system).values():
        return shown(statistics.median(values))
    if system in broken(runs) and cell.kind in broken(runs)[system].kinds:
        return "broken"
    return "failed" if any(run["cell"] == cell.name and run["system"] == system for run in runs) else ""


def compared(runs: list[dict[str, Any]], cell: Cell, systems: list[str]) -> str:
    """The ratio to the reference, or why there is none."""
    if found := ratios(runs, cell, OURS, cell.reference):
        return spread(found)
    return "not in the run" if cell.reference not in systems else "-"


def _groups(runs: list[dict[str, Any]], cells: list[Cell], systems: list[str]) -> Iterator[list[Column]]:
    """Columns, those that have to stay together in one list."""
    for name in systems:
        yield [Column(name, [_value(runs, cell, name) for cell in cells])]
    if OURS in systems:
        yield [
            Column(f"{OURS} : reference", [compared(runs, cell, systems) for cell in cells]),
            Column("reference", [cell.reference for cell in cells], "left"),
            Column("reach, aim", [f"{cell.reach:g}, {cell.aim:g}" if cell.reach else "" for cell in cells], "left"),
        ]


def _grid(cells: list[Cell], columns: list[Column], room: int) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    grid.add_column("cell", max_width=NARROW_CELL if room < NARROW else None)
    for column in columns:
        grid.add_column(column.head, justify=column.justify, no_wrap=True)
    for row, cell in enumerate(cells):
        grid.add_row(cell.name, *(column.values[row] for column in columns))
    return grid


def tables(result: dict[str, Any], room: int) -> Iterator[Table]:
    """As few as there is room for. A single column that is too wide gets a table of its own all the same."""
    runs, systems = result["runs"], list(result["systems"])
    cells = [cell for cell in CELLS if any(run["cell"] == cell.name for run in runs)]
    console = Console(width=10 * ELSEWHERE)
    taken: list[Column] = []
    for group in _groups(runs, cells, systems):
        if taken and console.measure(_grid(cells, [*taken, *group], room)).maximum > room:
            yield _grid(cells, taken, room)
            taken = []
        taken += group
    if taken:
        yield _grid(cells, taken, room)


def notes(result: dict[str, Any]) -> Iterator[str]:
    """What one has to know to read the table."""
    runs, systems = result["runs"], list(result["systems"])
    cells = [cell for cell in CELLS if any(run["cell"] == cell.name for run in runs)]
    yield f"{UNIT}; the lower the better. Medians of the rounds."
    if OURS not in systems:
        yield f"{OURS} is not in the run: there are no ratios."
    else:
        one = max((len(ratios(runs, cell, OURS, cell.reference)) for cell in cells), default=0) == 1
        bounds = "of one round only, so that its noise is not known" if one else "median of the rounds [least-greatest]"
        yield f"{OURS} : reference, {bounds}; {TARGETS}."
        if absent := sorted({cell.reference for cell in cells} - set(systems)):
            yield f"Not in the run, but a reference: {', '.join(absent)} (--systems)."
    failed: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if "error" in run and "broken" not in run:
            failed.setdefault(run["system"], []).append(run)
    for name, errors in failed.items():
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        yield f"failed: {name}, {errors[0]['cell']}: {errors[0]['error']}{more}"
    yield from (f"{name}: {one}" for name, one in broken(runs).items())
    if "partial" in result:
        yield f"PARTIAL: {result['partial']}."


def put(result: dict[str, Any]) -> None:
    """Print it."""
    room = width()
    console = Console(width=room, highlight=False, markup=False, soft_wrap=False)
    for grid in tables(result, room):
        console.print()
        # Rich would rather squeeze a table than let it be too wide.
        Console(width=max(room, console.measure(grid).maximum), highlight=False).print(grid)
    console.print()
    for note in notes(result):
        console.print(note)
