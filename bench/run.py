"""Runs systems and cells, interleaved, round by round."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._native import GrpcLoad, HttpLoad
from bench.cells import Cell
from bench.systems import System, free_port

LOAD_CPU, SYSTEM_CPU = "0", "1"
BULK_BYTES = 4 << 20
OPEN_FILES = 65_536
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Running:
    """A system that is up."""

    port: int
    processes: list[subprocess.Popen[bytes]]

    def pids(self) -> list[int]:
        """Its processes and all below them."""
        found, fresh = [], [process.pid for process in self.processes]
        while fresh:
            pid = fresh.pop()
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    fresh += map(int, (task / "children").read_text().split())
                found.append(pid)
        return found

    def cpu_us(self) -> float:
        """CPU time of all threads so far."""
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
        return total / 1000

    def memory_kb(self) -> int:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return {**os.environ, "PYTHONPATH": path.strip(os.pathsep)}


def start(command: list[str], cpu: str, **streams: Any) -> subprocess.Popen[bytes]:
    """Start a program on one CPU."""
    pinned = ["taskset", "-c", cpu, *command]
    return subprocess.Popen(pinned, env=_environment(), start_new_session=True, **streams)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a polite end would wait for the connections of the load
        process.wait()


@contextlib.contextmanager
def backends(times: int, *options: str) -> Iterator[list[dict[str, int]]]:
    """So many times the ports of the backends, by kind. They are one process."""
    process = start([sys.executable, "-m", "bench.backend", *options, str(times)], LOAD_CPU, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ports = list(map(int, process.stdout.readline().split()))
        yield [{"http": http, "grpc": grpc} for http, grpc in zip(ports[::2], ports[1::2], strict=True)]
    finally:
        end([process])


@contextlib.contextmanager
def backend(*options: str) -> Iterator[dict[str, int]]:
    """Ports of the backends, by kind."""
    with backends(1, *options) as (ports,):
        yield ports


@contextlib.contextmanager
def running(system: System, kind: str, target: int) -> Iterator[Running]:
    """The system between a new public port and the backend, when it answers."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        commands = system.commands(Path(folder), port, target, kind)
        if not commands:
            yield Running(target, [])
            return
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes = [start(command, SYSTEM_CPU, **quiet) for command in commands]
        try:
            until_up(kind, port)
            yield Running(port, processes)
        finally:
            end(processes)


def until_up(kind: str, port: int) -> None:
    """Wait until the backend answers through a port. Raises RuntimeError when it does not."""
    deadline = time.monotonic() + 20
    while True:
        try:
            probe = GrpcLoad(port, 1, 1, 16) if kind == "grpc" else HttpLoad(port, 1, 0)
            probe.begin()
            probe.loop.run(1, answered=1)
            probe.close()
            if probe.loop.answered:
                return
            raise RuntimeError("no answer")
        except RuntimeError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"never came up: {error}") from None
            time.sleep(0.05)


@contextlib.contextmanager
def bulk(port: int) -> Iterator[None]:
    """Eight downloads through the port, by a process that gives way to everybody else."""
    process = start(["nice", sys.executable, "-m", "bench.run", str(port)], LOAD_CPU, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        end([process])


def measure(cell: Cell, system: Running, seconds: float, warm: float) -> dict[str, float]:
    """Figures of one run. Raises RuntimeError when an answer was wrong, or none came."""
    with contextlib.ExitStack() as stack:
        if cell.bulk:
            stack.enter_context(bulk(system.port))
        before_kb = system.memory_kb() if cell.figure == "idle_kb" else 0
        load = cell.load(system.port)
        stack.callback(load.close)
        load.begin()
        if cell.figure == "idle_kb":
            load.paused = True
            load.loop.run(20, answered=2_000)
            load.loop.run(1)
            kb = (system.memory_kb() - before_kb) / load.loop.opened
            return {"idle_kb": kb, "answered": load.loop.answered}
        load.loop.run(warm)
        load.loop.times.clear()
        answered, cpu, own = load.loop.answered, system.cpu_us(), time.process_time()
        passed = load.loop.run(seconds)
        cpu, own = system.cpu_us() - cpu, time.process_time() - own
        answered = load.loop.answered - answered
        if not answered:
            raise RuntimeError(f"no message answered in {passed:.1f} s")
        return {
            "cpu_us": cpu / answered,
            "rate": answered / passed,
            "answered": answered,
            "p50_us": load.loop.times.quantile(0.5),
            "p99_us": load.loop.times.quantile(0.99),
            "p999_us": load.loop.times.quantile(0.999),
            "system_busy": cpu / passed / 1e6,
            "load_busy": own / passed,
            "memory_kb": system.memory_kb(),
        }


def pin() -> None:
    """Keep this process, and what it starts without a CPU of its own, on the CPU of the load."""
    os.sched_setaffinity(0, {int(LOAD_CPU)})


def raise_limits() -> None:
    """Open files for the load and all it starts: ten thousand connections are twenty thousand sockets of a relay."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, OPEN_FILES), max(hard, OPEN_FILES)))
    except ValueError:  # not root
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(
    systems: list[System],
    cells: list[Cell],
    rounds: int,
    seconds: float,
    warm: float,
    told: Callable[[int, Cell, System, dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """All raw runs. In each round all systems are up, and take turns in every cell.

    One that does not come up, or gives a wrong answer, has `error` in its runs, and is started afresh.
    """
    pin()
    runs = []
    for round_ in range(rounds):
        for kind in ("http", "grpc"):
            with backends(len(systems)) as all_ports, contextlib.ExitStack() as stack:
                # Each has a port of its own behind it. Connections that were closed hold their local ports to that
                # destination for a second and more, and who comes next would pay for the search for others.
                ports = {system.name: own[kind] for system, own in zip(systems, all_ports, strict=True)}
                up: dict[str, tuple[Running, contextlib.ExitStack]] = {}
                for cell in (cell for cell in cells if cell.kind == kind):
                    for system in (system for system in systems if kind in system.carries):
                        figures: dict[str, Any]
                        try:
                            if system.name not in up or cell.figure == "idle_kb":  # memory of a process that is new
                                if system.name in up:
                                    up.pop(system.name)[1].close()
                                own = stack.enter_context(contextlib.ExitStack())
                                up[system.name] = (own.enter_context(running(system, kind, ports[system.name])), own)
                            figures = measure(cell, up[system.name][0], seconds, warm)
                        except (RuntimeError, OSError) as error:
                            figures = {"error": str(error)[:300]}
                            if system.name in up:
                                up.pop(system.name)[1].close()
                        told(round_, cell, system, figures)
                        runs.append({"round": round_, "cell": cell.name, "system": system.name, **figures})
    return runs


def figures(runs: list[dict[str, Any]], cell: Cell, system: str) -> dict[int, float]:
    """The figure that the cell is compared by, of each round."""
    return {
        run["round"]: run[cell.figure]
        for run in runs
        if run["cell"] == cell.name and run["system"] == system and cell.figure in run
    }


def shown(value: float) -> str:
    """Three digits, and no exponents."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(runs: list[dict[str, Any]], cell: Cell, system: str, reference: str) -> tuple[float, float, float] | None:
    """Median, least and greatest of the ratios of the rounds."""
    ours, theirs = figures(runs, cell, system), figures(runs, cell, reference)
    ratios = [ours[round_] / theirs[round_] for round_ in ours if theirs.get(round_)]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


if __name__ == "__main__":  # the bulk process
    downloads = HttpLoad(int(sys.argv[1]), 8, BULK_BYTES)
    downloads.begin()
    downloads.loop.run(0.3)
    print("running", flush=True)
    downloads.loop.run(600)
