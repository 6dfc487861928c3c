"""What a message costs when there are many connections, and a look-up among many requests."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from bench.cells import ws
from bench.choice import at_hand, require
from bench.machine import in_a_line, machine, warnings
from bench.run import BROKE, Broken, backend, measure, pin, raise_limits, running
from bench.systems import System

SIZE = 256
CONNECTIONS = (1, 64, 512, 10_000)
REFERENCE = 64  # connections that the others are compared with
SPARE_FILES = 200  # descriptors of a process beside those of its connections
ENTRIES = (1, 1_000, 100_000)
LOOK_UPS = 200_000

Row = tuple[float, float]  # CPU microseconds of a message, kB of a connection


def most_connections() -> tuple[int, str]:
    """How many connections a relay may hold here, and what forbids more."""
    files = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES) // 2
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    # Those of the load, of both ends and of the backend are to different ports, which may share source ports.
    ports = last - first + 1
    if files <= ports:
        return files, f"a relay has two descriptors for each, and the limit is {2 * files + SPARE_FILES} (ulimit -Hn)"
    return ports, f"there are {ports} source ports (net.ipv4.ip_local_port_range)"


def within_limits(wanted: list[int]) -> list[int]:
    """The counts of connections, the impossible ones replaced by what is possible."""
    most, why = most_connections()
    found: list[int] = []
    for count in wanted:
        if count > most:
            click.echo(f"{most:,} instead of {count:,} connections: {why}")
        if min(count, most) not in found:
            found.append(min(count, most))
    return found


def one(system: System, connections: int, seconds: float) -> Row:
    """Of a system that has just been started, so that its memory is that of these connections."""
    with backend() as ports, running(system, "http", ports["http"]) as up:
        before = up.memory_kb()
        found = measure(ws(connections, 1, SIZE), up, seconds, seconds / 3)
        return found["cpu_us"], (found["memory_kb"] - before) / connections


def look_up_ns(entries: int) -> float:
    """The best of a few runs, which is the one that nobody disturbed."""
    from bench._kernels import LookUps

    table, times = LookUps(entries), []
    for _ in range(5):
        begun = time.perf_counter_ns()
        if table.run(LOOK_UPS) != LOOK_UPS:
            raise RuntimeError("a request was not found")
        times.append((time.perf_counter_ns() - begun) / LOOK_UPS)
    return min(times)


def medians(rows: list[Row]) -> Row:
    cpu, memory = zip(*rows, strict=True)
    return statistics.median(cpu), statistics.median(memory)


def lines(name: str, counts: list[int], rounds: list[dict[int, Row]]) -> list[str]:
    """The table of a system: of each round the ratio to the reference, of all the median."""
    found = []
    for count in counts:
        rows = [rows[count] for rows in rounds if count in rows]
        if not rows:
            continue
        cpu, memory = medians(rows)
        ratios = [rows[count][0] / rows[REFERENCE][0] for rows in rounds if count in rows and REFERENCE in rows]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]" if ratios else ""
        kb = f"{memory:.1f}" if count >= REFERENCE else "-"  # of fewer it is what the processes do by themselves
        found.append(f"{name:14}{count:>12}{cpu:>16.2f}{kb:>16}    {spread}")
    return found


def connections_of(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    try:
        found = [int(part.replace("_", "")) for part in value.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise click.BadParameter("numbers separated by commas, such as 64,10000")
    return found


def every(
    systems: list[System], counts: list[int], rounds: int, measured: Callable[[System, int], Row]
) -> tuple[dict[str, list[dict[int, Row]]], set[str]]:
    """All figures by system and round, and which systems did not come up. What fails is told and left out."""
    found: dict[str, list[dict[int, Row]]] = {system.name: [] for system in systems}
    broken: set[str] = set()
    for _ in range(rounds):
        for system in systems:
            found[system.name].append({})
        for count in counts:
            for system in (system for system in systems if system.name not in broken):
                try:
                    found[system.name][-1][count] = measured(system, count)
                except Broken as error:
                    click.echo(f"broken: {system.name}: {error}", err=True)
                    broken.add(system.name)
                except (RuntimeError, OSError) as error:
                    click.echo(f"failed: {system.name} with {count:,} connections ({error})", err=True)
    return found, broken


@click.command("growth")
@click.option("--systems", default="cython,nginx stream", show_default=True,
              help="which ones, by name or pattern, separated by commas")  # fmt: skip
@click.option("--connections", callback=connections_of, default=",".join(map(str, CONNECTIONS)), show_default=True,
              help="how many, separated by commas")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="rounds; the systems take turns")
@click.option("--seconds", type=click.FloatRange(0.05), default=1, show_default=True, help="length of one measurement")
def command(systems: str, connections: list[int], rounds: int, seconds: float) -> None:
    """CPU per message and memory with 1 to 10,000 connections; look-ups among 1 to 100,000 requests.

    Each WebSocket connection has one message of 256 B in flight. The ratio is to 64 connections in the same round, with
    the least and the greatest: a system that grows well stays near 1. Memory is of all processes of the system, beyond
    what they had without connections. Where the limit of open files forbids 10,000 connections, what it allows is
    measured. Exit code 3 when a system did not come up.
    """
    require()
    pin()
    raise_limits()
    facts = machine()
    for line in (in_a_line(facts), *warnings(facts)):
        click.echo(line)
    counts = within_limits(connections)
    chosen = [system for system in at_hand(systems) if system.name != "direct"]
    found, broken = every(chosen, counts, rounds, lambda system, count: one(system, count, seconds))
    click.echo(
        f"{'system':14}{'connections':>12}{'CPU us/message':>16}{'kB/connection':>16}    of {REFERENCE} connections"
    )
    for system in chosen:
        for line in lines(system.name, counts, found[system.name]):
            click.echo(line)
    click.echo("\na look-up in the request table (1,000 ids in turn)")
    times = {entries: look_up_ns(entries) for entries in ENTRIES}
    for entries, ns in times.items():
        click.echo(f"{entries:>10,} entries {ns:8.1f} ns  {ns / times[ENTRIES[0]]:6.2f} of {ENTRIES[0]}")
    if broken:
        sys.exit(BROKE)
