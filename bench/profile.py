"""Where a system spends its time under one cell: perf's samples by library, symbol and stack, or its system calls."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from bench.build import ROOT
from bench.cells import CELLS, Cell
from bench.choice import picked, require
from bench.flame import Stack, folded, svg
from bench.run import Running, backend, bulk, pin, raise_limits, running
from bench.systems import SYSTEMS

FREQUENCY = 499
WARM_S = 0.5
ATTACH_S = 0.3  # until perf has attached
TOP = 25
LEAST = 0.005  # of all samples, that a library must have to be shown


@contextlib.contextmanager
def under(cell: Cell, system: Running) -> Iterator[Any]:
    """The load of a cell, warm."""
    with contextlib.ExitStack() as stack:
        if cell.bulk:
            stack.enter_context(bulk(system.port))
        load = cell.load(system.port)
        stack.callback(load.close)
        load.begin()
        load.loop.run(WARM_S)
        yield load


def _watched(
    command: list[str], attached: Callable[[subprocess.Popen[str]], None], system: Running, load: Any, seconds: float
) -> tuple[int, float]:
    """Run a program that attaches to the system while the load goes on: messages answered, and CPU of a message."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    attached(process)
    answered, cpu = load.loop.answered, system.cpu_us()
    load.loop.run(seconds)
    answered, cpu = load.loop.answered - answered, system.cpu_us() - cpu
    process.send_signal(signal.SIGINT)  # it writes down what it has
    last = "".join(process.communicate()[1].strip().splitlines()[-1:])
    if process.returncode not in (0, -signal.SIGINT, 128 + signal.SIGINT):
        raise click.ClickException(f"{command[0]}: {last or f'exit code {process.returncode}'}")
    if not answered:
        raise click.ClickException(f"no message was answered while {command[0]} watched")
    return answered, cpu / answered


def samples(system: Running, load: Any, seconds: float, data: Path) -> tuple[Counter[Stack], float]:
    """Stacks of all processes of the system, and CPU microseconds of a message."""
    pids = ",".join(map(str, system.pids()))
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "--call-graph", "dwarf,16384"]
    _, cpu = _watched([*record, "-p", pids, "-o", str(data)], lambda _: load.loop.run(ATTACH_S), system, load, seconds)
    script = ["perf", "script", "--no-inline", "-F", "comm,pid,ip,sym,dso", "-i", str(data)]
    done = subprocess.run(script, capture_output=True, text=True, errors="replace")
    stacks = folded(done.stdout, {one.pid: name for one, name in zip(system.processes, system.names, strict=True)})
    if not stacks:
        last = done.stderr.strip().splitlines()[-1:]
        raise click.ClickException(f"perf has no samples: {''.join(last) or 'the system did nothing'}")
    return stacks, cpu


def by_library(stacks: Counter[Stack]) -> list[str]:
    """The share of each process and of each DSO, and the symbols in which most samples were taken."""
    total = stacks.total()
    processes: Counter[str] = Counter()
    libraries: Counter[str] = Counter()
    symbols: Counter[tuple[str, str]] = Counter()
    for stack, count in stacks.items():
        processes[stack[0][0]] += count
        libraries[stack[-1][1]] += count
        symbols[stack[-1]] += count
    lines = [f"{count / total:7.1%}  {name}" for name, count in processes.most_common()]
    lines += ["", "libraries"]
    lines += [f"{count / total:7.1%}  {name}" for name, count in libraries.most_common() if count >= LEAST * total]
    lines += ["", "symbols"]
    return lines + [f"{count / total:7.1%}  {symbol}  ({dso})" for (symbol, dso), count in symbols.most_common(TOP)]


def system_calls(system: Running, load: Any, seconds: float, output: Path) -> list[str]:
    """Calls of all processes of the system per answered message, the most frequent first."""
    pids = system.pids()

    def attached(process: subprocess.Popen[str]) -> None:
        # The load rests meanwhile, or calls would be counted whose messages are not.
        assert process.stderr is not None
        for _ in pids:
            process.stderr.readline()

    summary = ["strace", "-c", "-f", "-U", "calls,name", "-o", str(output)]
    command = [*summary, *(part for pid in pids for part in ("-p", str(pid)))]
    answered, _ = _watched(command, attached, system, load, seconds)
    counts: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        if (found := re.match(r"\s*(\d+) +(\w+)$", line)) and found[2] != "total":
            counts[found[2]] += int(found[1])
    lines = [f"calls per message, of {answered:,} messages (strace makes all of it slow)"]
    lines += [f"{count / answered:10.3f}  {name}" for name, count in counts.most_common() if count / answered >= 0.001]
    return [*lines, f"{counts.total() / answered:10.3f}  in all"]


@click.command("profile")
@click.argument("cell")
@click.option("--system", "name", default="cython", show_default=True, help="which one")
@click.option("--seconds", type=click.FloatRange(0.1), default=3, show_default=True, help="how long it is watched")
@click.option("--syscalls", is_flag=True, help="system calls per message, by strace, instead of samples")
def command(cell: str, name: str, seconds: float, syscalls: bool) -> None:
    """Where a system spends its time under CELL (a name or pattern; "list" tells them).

    By perf: the share of each process, of each library and of the symbols in which most time is spent, and a flame
    graph below build/bench. With --syscalls, by strace: system calls per message. Both see all processes of the system.
    """
    require()
    program = "strace" if syscalls else "perf"
    if shutil.which(program) is None:
        click.echo(f"skipped: {program} is not on PATH (Debian: {'strace' if syscalls else 'linux-perf'})")
        return
    names = picked([one.name for one in CELLS], cell, [], "cell")
    if len(names) > 1:
        raise click.UsageError(f"{cell!r} stands for several cells: {'; '.join(names)}")
    [system_name] = picked(list(SYSTEMS), name, [], "system")[:1]
    if system_name == "direct":
        raise click.UsageError("direct is no system: there is nothing to watch")
    if reason := SYSTEMS[system_name].missing():
        click.echo(f"skipped: {system_name} ({reason})")
        return
    taken = next(one for one in CELLS if one.name == names[0])
    folder = ROOT / "build/bench"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / re.sub(r"\W+", "-", f"{taken.name} {system_name}").strip("-")
    pin()
    raise_limits()
    try:
        with (
            backend() as ports,
            running(SYSTEMS[system_name], taken.kind, ports[taken.kind]) as up,
            under(taken, up) as load,
        ):
            click.echo(f"{taken.name}, {system_name}")
            if syscalls:
                click.echo("\n".join(system_calls(up, load, seconds, place.with_suffix(".strace"))))
                return
            stacks, cpu = samples(up, load, seconds, place.with_suffix(".perf"))
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{cpu:.3g} us of CPU a message (perf included); {stacks.total()} samples")
    click.echo("\n".join(by_library(stacks)))
    picture = place.with_suffix(".svg")
    picture.write_text(svg(stacks, f"{taken.name}, {system_name}"))
    click.echo(f"flame graph: {picture}")
