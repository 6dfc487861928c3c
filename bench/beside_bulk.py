"""The time of a small WebSocket message through a system, alone and beside bulk transfers through the same one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from bench import compiled
from bench.backend import go_first
from bench.choice import at_hand, require
from bench.machine import in_a_line, machine, warnings
from bench.progress import Progress
from bench.run import BROKE, Broken, Running, backend, pin, running, shown

SIZE = 64
PAUSE_S = 0.002  # between two messages, or the probe would be a load itself
SETTLE_S = 1.0
QUANTILES = (0.5, 0.99)


class Probe:
    """A connection with one message at a time."""

    def __init__(self, port: int) -> None:
        self._load = compiled.WebSocketLoad(port, 1, SIZE)
        self._load.paused = True
        self._asked = 0

    def times_ms(self, seconds: float) -> list[float]:
        """Send messages for so long; the quantiles of their times, infinite when none has come back."""
        loop = self._load.loop
        loop.times.clear()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if loop.answered == self._asked:
                self._asked += 1
                self._load.begin()
            loop.run(left, answered=self._asked)
            time.sleep(PAUSE_S)
        return [loop.times.quantile(q) / 1000 if loop.times.total else float("inf") for q in QUANTILES]

    def close(self) -> None:
        self._load.close()


def _transfer(port: int, transfers: int, up: bool, moved: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started it ends it
    load = compiled.BulkLoad(port, transfers, up)
    while True:
        load.loop.run(0.05)
        moved.value = load.moved


@contextlib.contextmanager
def bulk(port: int, transfers: int, direction: str) -> Iterator[Any]:
    """Transfers by a process of their own: they are not to wait for the probe. Gives the bytes that they have moved."""
    fork = multiprocessing.get_context("fork")
    moved = fork.Value("q", lock=False)
    process = fork.Process(target=_transfer, args=(port, transfers, direction == "up", moved))
    process.start()
    try:
        yield moved
        if not process.is_alive():
            raise RuntimeError("the bulk transfers ended")
    finally:
        process.kill()
        process.join()


def measure(system: Running, seconds: float, transfers: int, direction: str) -> list[float]:
    """Quantiles alone and beside the transfers in milliseconds, and the megabytes in a second that these moved."""
    probe = Probe(system.port)
    alone = probe.times_ms(seconds)
    with bulk(system.port, transfers, direction) as moved:
        probe.times_ms(SETTLE_S)
        before, begun = moved.value, time.monotonic()
        beside = probe.times_ms(seconds)
        rate = (moved.value - before) / (time.monotonic() - begun) / 1e6
    probe.close()
    return [*alone, *beside, rate]


@click.command("beside-bulk")
@click.option("--seconds", type=click.FloatRange(0.1), default=5, show_default=True, help="length of one measurement")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="rounds; the systems take turns")
@click.option("--transfers", type=click.IntRange(1), default=8, show_default=True, help="bulk transfers at once")
@click.option("--direction", type=click.Choice(["down", "up"]), default="down", show_default=True,
              help="which way the bulk goes")  # fmt: skip
@click.option("--systems", default="direct,cython,asyncio,nginx stream", show_default=True,
              help="which ones, by name or pattern, separated by commas")  # fmt: skip
def command(seconds: float, rounds: int, transfers: int, direction: str, systems: str) -> None:
    """Time of a small message, alone and beside bulk transfers through the same system.

    The system under test runs on the second CPU, everything else on the first, probe and echo with a real-time priority
    where that is permitted, and the bulk by processes of its own. A relay gives each connection a connection of its
    own: it is what no sharing costs. Exit code 3 when a system did not come up.
    """
    require()
    pin()
    facts = machine()
    for line in (in_a_line(facts), *warnings(facts)):
        click.echo(line)
    chosen = at_hand(systems)
    broken: set[str] = set()
    figures: dict[str, list[list[float]]] = {system.name: [] for system in chosen}
    go_first()
    with Progress((round_, system.name) for round_ in range(rounds) for system in chosen) as progress:
        for round_ in range(rounds):
            for system in (system for system in chosen if system.name not in broken):
                try:
                    with backend("--first") as ports, running(system, "http", ports["http"]) as up:
                        found = measure(up, seconds, transfers, direction)
                    figures[system.name].append(found)
                    told = f"p50 {shown(found[0])} ms alone, {shown(found[2])} ms beside bulk"
                except Broken as error:
                    told = f"broken: {error}"
                    broken.add(system.name)
                except RuntimeError as error:
                    told = f"failed: {error}"
                progress.measured((round_, system.name), f"round {round_ + 1}  {system.name}: {told}")
                progress.drop(lambda item: item[1] in broken)
    click.echo(f"{SIZE} B echo in ms; bulk: {transfers} transfers {direction}")
    click.echo(f"{'':14}{'alone p50':>12}{'alone p99':>12}{'beside p50':>12}{'beside p99':>12}{'bulk MB/s':>12}")
    for name, rows in figures.items():
        if rows:
            medians = [statistics.median(column) for column in zip(*rows, strict=True)]
            click.echo(f"{name:14}" + "".join(f"{value:12.2f}" for value in medians))
    if broken:
        click.echo(f"broken: {', '.join(sorted(broken))}", err=True)
        sys.exit(BROKE)
