"""The command line of the throughput suite."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.build import ROOT, build
from bench.choice import at_hand, picked, require

sys.path.insert(0, str(ROOT / "src"))  # the program of this checkout is what is measured

UNIT = "CPU us of all processes of the system per message, but for cells that say otherwise"

# Commands in modules of their own. They are imported when they are asked for, and need what build() compiles.
LATER = {
    "growth": "CPU per message and memory with 1 to 10,000 connections; look-ups among 1 to 100,000 requests.",
    "beside-bulk": "Time of a small message, alone and beside bulk transfers through the same system.",
    "stalled": "Memory of both ends with many downloads that nobody reads.",
    "long-way": "Speed of a lone download through a tunnel over a long way.",
    "tls": "TLS by transports of asyncio, uvloop and aiofastnet, and by our own sockets.",
    "profile": "Where a system spends its time under a cell, by perf; system calls per message, by strace.",
    "instructions": "Instructions of the kernels per item, by valgrind, beside their bounds.",
}


class Commands(click.Group):
    """The commands of this file and of LATER."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *LATER]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in LATER:
            return super().get_command(ctx, name)
        build()
        found: click.Command = importlib.import_module(f"bench.{name.replace('-', '_')}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*rows, *LATER.items()])


@click.group(cls=Commands)
def main() -> None:
    """CPU, latency and memory of tunnels and proxies under the same loads, in one run.

    The load and the backends run on the first CPU, the system under test on the second; every byte of every answer is
    checked. Figures of different runs cannot be compared on a machine that others use: only ratios within one run are.
    """


@main.command("run")
@click.option("--quick", is_flag=True, help="the standard cells, two short rounds: less than ten minutes")
@click.option("--rounds", type=click.IntRange(1), help="rounds; the systems take turns in each  [3; --quick: 2]")
@click.option("--seconds", type=click.FloatRange(0.05), help="length of one measurement  [2; --quick: 0.5]")
@click.option("--systems", help="which ones, by name or pattern, separated by commas")
@click.option("--cells", help="which ones, by name or pattern, separated by commas")
@click.option("--output", type=click.Path(path_type=Path), help="the JSON of the run  [build/bench/DATE-TIME.json]")
def run_command(
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    systems: str | None,
    cells: str | None,
    output: Path | None,
) -> None:
    """Measure. Systems whose programs are not here are skipped by name."""
    require()
    build()
    from bench.cells import CELLS
    from bench.machine import in_a_line, machine
    from bench.report import write
    from bench.run import figures, raise_limits, ratio, run, shown

    raise_limits()
    rounds = rounds or (2 if quick else 3)
    seconds = seconds or (0.5 if quick else 2.0)
    cell_names = picked(
        [cell.name for cell in CELLS], cells, [cell.name for cell in CELLS if cell.quick or not quick], "cell"
    )
    console = Console(soft_wrap=True)
    facts = machine()
    click.echo(in_a_line(facts))
    chosen = at_hand(systems)
    taken = [cell for cell in CELLS if cell.name in cell_names]
    runs: list[dict[str, Any]] = []
    total, begun = rounds * len(taken) * len(chosen), time.monotonic()

    def table() -> Table:
        grid = Table(title="the lower the better", caption=f"{UNIT}; {progress()}", expand=False)
        grid.add_column("cell", no_wrap=True)
        for column in (system.name for system in chosen):
            grid.add_column(column, justify="right", no_wrap=True)
        grid.add_column("cython : reference", justify="right", no_wrap=True)
        for cell in taken:
            row = []
            for system in chosen:
                values = figures(runs, cell, system.name).values()
                failed = any(
                    one["cell"] == cell.name and one["system"] == system.name and "error" in one for one in runs
                )
                row.append(shown(statistics.median(values)) if values else "failed" if failed else "")
            found = ratio(runs, cell, "cython", cell.reference)
            target = f"  (reach {cell.reach:g}, aim {cell.aim:g})" if cell.reach else ""
            row.append(f"{found[0]:.2f} [{found[1]:.2f}-{found[2]:.2f}]{target}" if found else "")
            grid.add_row(cell.name, *row)
        return grid

    def progress() -> str:
        passed = time.monotonic() - begun
        left = passed / len(runs) * (total - len(runs)) if runs else 0
        return f"{len(runs)} of {total} measured, {left / 60:.1f} minutes left"

    live = Live(table(), console=console, refresh_per_second=2) if console.is_terminal else None

    def told(round_: int, cell: Any, system: Any, result: dict[str, Any]) -> None:
        runs.append({"round": round_, "cell": cell.name, "system": system.name, **result})
        if live is not None:
            live.update(table())
        else:
            value = f"{result[cell.figure]:.3g}" if cell.figure in result else result.get("error", "")
            click.echo(f"round {round_ + 1}  {cell.name}  {system.name}: {value}  ({progress()})")

    if live is not None:
        with live:
            run(chosen, taken, rounds, seconds, seconds / 3, told)
    else:
        run(chosen, taken, rounds, seconds, seconds / 3, told)
        Console(soft_wrap=True, width=400).print(table())
    result = {
        "machine": facts,
        "systems": {system.name: system.version() for system in chosen},
        "options": {"rounds": rounds, "seconds": seconds},
        "runs": runs,
    }
    output = output or ROOT / "build/bench" / time.strftime("%Y%m%d-%H%M%S.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1))
    page = write(result, output.with_suffix(".html"))
    click.echo(f"raw runs: {output}\n{page}")


@main.command("list")
def list_command() -> None:
    """Systems (and why one is skipped) and cells."""
    build()
    from bench.cells import CELLS
    from bench.systems import SYSTEMS

    for system in SYSTEMS.values():
        click.echo(f"{system.name:14}" + (f" skipped: {reason}" if (reason := system.missing()) else ""))
    click.echo()
    for cell in CELLS:
        click.echo(f"{cell.name:44} {cell.figure:8}" + (f" against {cell.reference}" if cell.reference else ""))


@main.command("report")
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="print the table for a document instead")
def report_command(run: Path, as_markdown: bool) -> None:
    """Write the HTML page of a run again."""
    build()
    from bench.report import markdown, write

    result = json.loads(run.read_text())
    click.echo(markdown(result) if as_markdown else write(result, run.with_suffix(".html")))


@main.command("compare")
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
@click.option("--system", default="cython", show_default=True, help="whose figures")
def compare_command(before: Path, after: Path, system: str) -> None:
    """What became slower or faster between two runs, beyond the noise. Exit code 1 when something became slower.

    Compared are ratios to the reference of each cell, which ran beside it: what the machine did to both falls out.
    """
    build()
    from bench.compare import compare

    lines, slower = compare(json.loads(before.read_text()), json.loads(after.read_text()), system)
    for line in lines:
        click.echo(line)
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main(prog_name="python -m bench")
