"""Runs systems and cells, interleaved, round by round."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bench import compiled
from bench.cells import Cell
from bench.systems import System, free_port

LOAD_CPU, SYSTEM_CPU = "0", "1"
BULK_BYTES = 4 << 20
OPEN_FILES = 65_536
ROOT = Path(__file__).resolve().parents[1]
BROKE = 3  # exit code: a system did not come up
UP_WITHIN_S = 20  # from its start until a system answers
LAST_LINES, LAST_LETTERS = 3, 300  # of what a process said, that are shown


class Broken(RuntimeError):
    """A system does not come up. The next time it would not either."""


@dataclass
class Running:
    """A system that is up."""

    port: int
    processes: list[subprocess.Popen[bytes]]
    names: list[str] = field(default_factory=list)  # of the processes
    said: list[IO[bytes]] = field(default_factory=list)  # stderr of the processes

    def ended(self) -> str:
        """What the first process that has ended by itself left: "haproxy ended with 1: ..."; nothing while all run."""
        for name, process, said in zip(self.names, self.processes, self.said, strict=True):
            code = process.poll()
            if code is not None:
                how = f"{name} was ended by {signal.Signals(-code).name}" if code < 0 else f"{name} ended with {code}"
                return f"{how}: {last_words(said) or WORDLESS.get(code, 'nothing on stderr')}"
        return ""

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


WORDLESS = {0: "nothing on stderr; its processes have to stay in the foreground"}


def last_words(said: IO[bytes]) -> str:
    """The last lines of a file to which a process may still write."""
    size = os.fstat(said.fileno()).st_size
    # Its position is shared with the process and stays where it is.
    text = os.pread(said.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    return " | ".join([line for line in lines if line][-LAST_LINES:])[-LAST_LETTERS:]


def process_names(system: System, commands: list[list[str]]) -> list[str]:
    """How the processes of a system are called: as it says, or as their programs are, counted where these are alike."""
    programs = [Path(command[0]).name for command in commands]
    alike = Counter(programs)
    counted = [
        f"{name} {programs[: index + 1].count(name)}" if alike[name] > 1 else name
        for index, name in enumerate(programs)
    ]
    return [*system.ends[: len(commands)], *counted[len(system.ends) :]]


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
    """The system between a new public port and the backend, when it answers. Raises Broken when it does not."""
    with contextlib.ExitStack() as stack:
        try:
            up = _brought_up(stack, system, kind, target)
        except Broken as error:
            if "in use" not in str(error):
                raise
            stack.close()  # somebody took a port since it was found free: the next one is another
            up = _brought_up(stack, system, kind, target)
        yield up


def _brought_up(stack: contextlib.ExitStack, system: System, kind: str, target: int) -> Running:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    port = free_port()
    try:
        commands = system.commands(folder, port, target, kind)
    except (OSError, subprocess.SubprocessError) as error:
        raise Broken(str(error)) from None
    if not commands:
        return Running(target, [])
    up = Running(port, [], process_names(system, commands))
    stack.callback(end, up.processes)
    for command in commands:
        # A file and no pipe, for nobody reads while it is measured.
        said = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        up.processes.append(start(command, SYSTEM_CPU, stdout=subprocess.DEVNULL, stderr=said))
        up.said.append(said)
    until_up(kind, port, up)
    return up


def _silence(port: int, error: RuntimeError) -> str:
    """How a system that does not answer keeps silent."""
    with socket.socket() as sock:
        sock.settimeout(1)
        refused = sock.connect_ex(("127.0.0.1", port))
    return "nothing listens at its public port" if refused else f"no answer of the backend comes through it ({error})"


def until_up(kind: str, port: int, system: Running | None = None) -> None:
    """Wait until the backend answers through a port. Raises Broken when it does not, or the system has ended."""
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            probe = compiled.GrpcLoad(port, 1, 1, 16) if kind == "grpc" else compiled.HttpLoad(port, 1, 0)
            probe.begin()
            probe.loop.run(1, answered=1)
            probe.close()
            if not probe.loop.answered:
                raise RuntimeError("no answer")
            if system is None or not system.ended():  # what answers may be in the background
                return
            raise Broken(system.ended())
        except Broken:
            raise
        except RuntimeError as error:
            if system is not None and (why := system.ended()):
                raise Broken(why) from None
            if time.monotonic() > deadline:
                said = [f"; {name}: {words}" for name, file in zip(system.names, system.said, strict=True)
                        if (words := last_words(file))] if system is not None else []  # fmt: skip
                still = f"after {UP_WITHIN_S:g} s {_silence(port, error)}, though its processes run"
                raise Broken(still + "".join(said)) from None
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

    One that gives a wrong answer has `error` in that run, and is started afresh. One that does not come up has `broken`
    in it as well, and is asked no more: for nothing when it never was up, otherwise for nothing of this kind.
    """
    pin()
    runs = []
    seen: set[str] = set()  # that were up once
    broken: set[tuple[str, str]] = set()
    for round_ in range(rounds):
        for kind in ("http", "grpc"):
            with backends(len(systems)) as all_ports, contextlib.ExitStack() as stack:
                # Each has a port of its own behind it. Connections that were closed hold their local ports to that
                # destination for a second and more, and who comes next would pay for the search for others.
                ports = {system.name: own[kind] for system, own in zip(systems, all_ports, strict=True)}
                up: dict[str, tuple[Running, contextlib.ExitStack]] = {}
                for cell in (cell for cell in cells if cell.kind == kind):
                    for system in (system for system in systems if kind in system.carries):
                        if (system.name, kind) in broken:
                            continue
                        figures: dict[str, Any]
                        try:
                            if system.name not in up or cell.figure == "idle_kb":  # memory of a process that is new
                                if system.name in up:
                                    up.pop(system.name)[1].close()
                                own = stack.enter_context(contextlib.ExitStack())
                                up[system.name] = (own.enter_context(running(system, kind, ports[system.name])), own)
                                seen.add(system.name)
                            figures = measure(cell, up[system.name][0], seconds, warm)
                        except Broken as error:
                            kinds = [kind] if system.name in seen else ["http", "grpc"]
                            broken.update((system.name, one) for one in kinds)
                            figures = {"error": f"broken: {error}", "broken": kinds}
                        except (RuntimeError, OSError) as error:
                            figures = {"error": str(error)[:300]}
                            if system.name in up:
                                if why := up[system.name][0].ended():
                                    figures["error"] += f" ({why})"
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


@dataclass
class Failure:
    """A system that did not come up."""

    error: str
    kinds: set[str]  # of load, that it is not asked for any more

    def __str__(self) -> str:
        return self.error + (f" (for {' and '.join(sorted(self.kinds))} only)" if len(self.kinds) == 1 else "")


def broken(runs: list[dict[str, Any]]) -> dict[str, Failure]:
    """Why systems did not come up, by name."""
    found: dict[str, Failure] = {}
    for run in runs:
        if "broken" in run:
            found.setdefault(run["system"], Failure(run["error"], set())).kinds.update(run["broken"])
    return found


def shown(value: float) -> str:
    """Three digits, and no exponents."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratios(runs: list[dict[str, Any]], cell: Cell, system: str, reference: str) -> list[float]:
    """Of each round in which both were measured."""
    ours, theirs = figures(runs, cell, system), figures(runs, cell, reference)
    return [ours[round_] / theirs[round_] for round_ in ours if theirs.get(round_)]


def ratio(runs: list[dict[str, Any]], cell: Cell, system: str, reference: str) -> tuple[float, float, float] | None:
    """Median, least and greatest of the ratios of the rounds."""
    found = ratios(runs, cell, system, reference)
    return (statistics.median(found), min(found), max(found)) if found else None


def spread(found: list[float]) -> str:
    """The median, with the least and the greatest: "0.72 [0.68-0.73]". One value has no spread."""
    return f"{statistics.median(found):.2f}" + (f" [{min(found):.2f}-{max(found):.2f}]" if len(found) > 1 else "")


if __name__ == "__main__":  # the bulk process
    downloads = compiled.HttpLoad(int(sys.argv[1]), 8, BULK_BYTES)
    downloads.begin()
    downloads.loop.run(0.3)
    print("running", flush=True)
    downloads.loop.run(600)
