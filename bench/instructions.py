"""Instructions per frame, message and look-up: what the kernels cost, in a unit that is the same on a busy machine.

valgrind runs a driver that gives every kernel N items, then 2 N: the difference of both counts is N items and nothing
else. The bounds in instructions.json are of one compiler and one architecture each.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

from bench.build import ROOT

BOUNDS = ROOT / "bench/instructions.json"
SLACK = 0.15  # of the count; compilers of one major version differ by less
ITEMS = 1000
SHOWN = 0.02  # the least share of a function that is shown
MARK = "fasttunnel_bench_mark"

CASES = {
    "parse and encode a frame of 256 B": "Frames(256)",
    "build a masked frame of 256 B": "Builder(256)",
    "split a gRPC message of 256 B": "GrpcMessages(256)",
    "decode and encode a TunnelMessage of 256 B": "TunnelMessages(256)",
    "look up one of 100,000 requests": "LookUps(100_000)",
}
# Three marks a case: the counts between the first two are of N items, those between the last two of 2 N.
DRIVER = f"""
from bench._kernels import *
for case in ({", ".join(CASES.values())}):
    assert case.run({ITEMS}) == {ITEMS}
    {MARK}()
    assert case.run({ITEMS}) == {ITEMS}
    {MARK}()
    assert case.run({2 * ITEMS}) == {2 * ITEMS}
    {MARK}()
"""

Counts = dict[str, dict[str, float]]  # instructions of one item, by case and function


def read_dump(text: str) -> Counter[str]:
    """Instructions of each function itself, without those it calls, of a dump of callgrind."""
    counts: Counter[str] = Counter()
    function, of_call = "", False
    for line in text.splitlines():
        if line.startswith("fn="):
            function = line[3:]
        elif line.startswith("calls="):
            of_call = True  # the next line counts what was called
        elif line[:1].isdigit():
            if not of_call:
                counts[function] += int(line.split()[1])
            of_call = False
    return counts


def short(function: str) -> str:
    """The name as it is in the source: Cython puts the lengths and names of the packages before it."""
    return re.sub(r"^__pyx_\w*?(?:fasttunnel_\d+_core_|bench_\d+_kernels_)(?:\d+)?", "", function)


def count() -> Counts:
    """Instructions of one item. Raises click.ClickException when valgrind fails."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--compress-strings=no", "--compress-pos=no", f"--dump-before=*{MARK}*"]
        command = ["valgrind", "--tool=callgrind", *options, f"--callgrind-out-file={folder}/counts"]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path}
        done = subprocess.run([*command, sys.executable, "-c", DRIVER], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise click.ClickException(f"the driver failed under valgrind: {done.stderr.strip().splitlines()[-1]}")
        # One for each mark, with what came before it.
        dumps = [Path(folder, f"counts.{number + 1}") for number in range(3 * len(CASES))]
        if not dumps[-1].exists():
            raise click.ClickException(f"valgrind does not find the function {MARK}: are the modules stripped?")
        found = [read_dump(dump.read_text()) for dump in dumps]
    counts: Counts = {}
    for number, name in enumerate(CASES):
        once, twice = found[3 * number + 1], found[3 * number + 2]
        counts[name] = {short(function): (twice[function] - once[function]) / ITEMS for function in twice}
    return counts


def compiled_by() -> str:
    """Compiler and architecture of the kernels: "gcc-12 x86_64". Raises click.ClickException when nothing says so."""
    from fasttunnel import _core

    stamps = {"gcc": rb"GCC: \([^)]*\) (\d+)\.", "clang": rb"clang version (\d+)\."}
    binary = Path(_core.__file__).read_bytes()
    for name, stamp in reversed(stamps.items()):  # what clang compiles is linked with objects of gcc
        if found := re.search(stamp, binary):
            return f"{name}-{found[1].decode()} {platform.machine()}"
    raise click.ClickException("the kernels do not say what compiled them")


def optimised() -> bool:
    """Whether setup.py says that the kernels were compiled as they are shipped."""
    switches = ROOT / "build/switches"
    return not switches.exists() or not re.search("(debug|sanitize)=True", switches.read_text())


def compare(counts: Counts, bounds: dict[str, float]) -> tuple[list[str], bool]:
    """A line a case with its largest functions, and whether one is above its bound."""
    lines, above = [], False
    for name, each in counts.items():
        total, bound = sum(each.values()), bounds.get(name)
        verdict = "no bound"
        if bound:
            change = total / bound - 1
            above |= change > SLACK
            verdict = f"{change:+.1%} of {bound:.1f}"
            verdict += "  MORE" if change > SLACK else "  less: renew it" if change < -SLACK else ""
        lines.append(f"{name:46}{total:9.1f}  {verdict}")
        largest = sorted(each.items(), key=lambda one: -one[1])
        lines += [f"    {part:42}{n:9.1f}" for part, n in largest if n > SHOWN * total]
    return lines, above


@click.command("instructions")
@click.option("--write", is_flag=True, help="renew the bounds of this compiler and architecture")
def command(write: bool) -> None:
    """Instructions of the kernels per item, by valgrind, beside their bounds (bench/instructions.json).

    Exit code 1 when one needs 15 % more than its bound. Without bounds for the compiler and the architecture at hand
    nothing is compared: run it with --write where the kernels are known to be good.
    """
    if shutil.which("valgrind") is None:
        raise click.ClickException("valgrind is not on PATH")
    if not optimised():
        raise click.ClickException("the extension modules are built for debugging: make build")
    key = compiled_by()
    bounds = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    counts = count()
    lines, above = compare(counts, bounds.get(key, {}))
    click.echo(f"instructions per item, {key}")
    for line in lines:
        click.echo(line)
    if write:
        bounds[key] = {name: round(sum(each.values()), 1) for name, each in counts.items()}
        BOUNDS.write_text(json.dumps(bounds, indent=2, sort_keys=True) + "\n")
        click.echo(f"written: the bounds of {key}")
    elif key not in bounds:
        click.echo(f"skipped: there are no bounds for {key}; --write makes them")
    elif above:
        click.echo(f"more than {SLACK:.0%} above the bound; if that is meant, renew it with --write", err=True)
        sys.exit(1)
