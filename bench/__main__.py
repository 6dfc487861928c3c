"""The command line of the throughput suite."""

from __future__ import annotations

import importlib
import itertools
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import stored
from bench.build import ROOT, build
from bench.choice import at_hand, picked, require
from bench.progress import Progress

if TYPE_CHECKING:
    from bench.systems import System

sys.path.insert(0, str(ROOT / "src"))  # the program of this checkout is what is measured

HELP = ["-h", "--help"]
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


RUN = click.Path(exists=True, dir_okay=False, path_type=Path)


class Commands(click.Group):
    """The commands of this file and of LATER."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *LATER]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in LATER and not set(HELP) & set(args):  # its options can be told without
            build()
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in LATER:
            return super().get_command(ctx, name)
        found: click.Command = importlib.import_module(f"bench.{name.replace('-', '_')}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*rows, *LATER.items()])


@click.group(cls=Commands, context_settings={"help_option_names": HELP})
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
@click.option("--output", type=click.Path(path_type=Path),
              help="the JSON of the run, or a directory for it; the page goes beside it  "
              "[build/bench/DATE-TIME.json]")  # fmt: skip
def run_command(
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    systems: str | None,
    cells: str | None,
    output: Path | None,
) -> None:
    """Measure. Systems whose programs are not here are skipped by name.

    The table goes to stdout, as wide as the terminal (or COLUMNS) is, progress to stderr. "cython : reference" is the
    ratio to the system that the load is compared with. "reach" is what that ratio is meant to be at most, "aim" what it
    is then to become.

    A system that does not come up is dropped and named at the end: exit code 3. Ctrl-C ends a run and keeps what was
    measured: exit code 130.
    """
    require()
    path = stored.output(output, ROOT / "build/bench", time.strftime("%Y%m%d-%H%M%S.json"))
    build()
    from bench.cells import CELLS, Cell
    from bench.machine import in_a_line, machine, warnings
    from bench.report import write
    from bench.run import BROKE, broken, raise_limits, run, shown
    from bench.table import put

    raise_limits()
    rounds = rounds or (2 if quick else 3)
    seconds = seconds or (0.5 if quick else 2.0)
    cell_names = picked(
        [cell.name for cell in CELLS], cells, [cell.name for cell in CELLS if cell.quick or not quick], "cell"
    )
    facts = machine()
    for line in (in_a_line(facts), *warnings(facts)):
        click.echo(line)
    chosen = at_hand(systems)
    taken = [cell for cell in CELLS if cell.name in cell_names]
    runs: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "machine": facts,
        "systems": {system.name: system.version() for system in chosen},
        "options": {"rounds": rounds, "seconds": seconds},
        "runs": runs,
    }

    def told(round_: int, cell: Cell, system: System, figures: dict[str, Any]) -> None:
        runs.append({"round": round_, "cell": cell.name, "system": system.name, **figures})
        value = shown(figures[cell.figure]) if cell.figure in figures else figures["error"]
        line = f"round {round_ + 1}  {cell.name}  {system.name}: {value}"
        progress.measured((round_, cell.name, system.name, cell.kind), line)
        progress.drop(lambda item: item[2] == system.name and item[3] in figures.get("broken", ()))

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = itertools.product(range(rounds), taken, chosen)
    items = [(round_, cell.name, one.name, cell.kind) for round_, cell, one in plan if cell.kind in one.carries]
    ended: BaseException | None = None
    try:
        with Progress(items) as progress:
            run(chosen, taken, rounds, seconds, seconds / 3, told)
    except BaseException as error:  # whatever ends it, what was measured is kept
        ended = error
        how = "interrupted" if isinstance(error, KeyboardInterrupt) else f"ended by {error!r}"
        result["partial"] = f"{how}, {progress.count()}"
    if runs:
        path.write_text(json.dumps(result, indent=1))
        put(result)
        click.echo(f"raw runs: {path}")
        click.echo(write(result, path.with_suffix(".html")))
    if isinstance(ended, KeyboardInterrupt):
        click.echo(result["partial"] if runs else "interrupted before anything was measured", err=True)
        sys.exit(128 + signal.SIGINT)
    if ended is not None:
        raise ended
    if lost := broken(runs):
        click.echo(f"broken: {', '.join(lost)}", err=True)
        sys.exit(BROKE)


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
@click.argument("run", type=RUN)
@click.option("--markdown", "as_markdown", is_flag=True, help="print the table for a document instead")
def report_command(run: Path, as_markdown: bool) -> None:
    """Print the table of a run, and write its HTML page again."""
    from bench.report import markdown, write
    from bench.table import put

    result = stored.read(run, whole=True)
    if as_markdown:
        click.echo(markdown(result))
        return
    put(result)
    click.echo(write(result, run.with_suffix(".html")))


@main.command("compare")
@click.argument("before", type=RUN)
@click.argument("after", type=RUN)
@click.option("--system", "systems", default="cython", show_default=True,
              help="whose figures, by name or pattern, separated by commas")  # fmt: skip
def compare_command(before: Path, after: Path, systems: str) -> None:
    """What became slower or faster between two runs, beyond the noise.

    Compared are ratios to the reference of each cell, which ran beside it: what the machine did to both falls out. Exit
    code 1 when something became slower, 2 when there is nothing to compare. Runs of one round have no noise to compare
    with: nothing of them is called slower.
    """
    from bench.compare import chosen, told
    from bench.table import width

    old, new = stored.read(before), stored.read(after)
    both, single = chosen(old, new, systems)
    lines, slower = told(old, new, both, width())
    for line in [*lines, *single]:
        click.echo(line)
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main(prog_name="python -m bench")
