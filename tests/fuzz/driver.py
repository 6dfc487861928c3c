"""Runs one target: mutations of its corpus, those that reach something new join it, findings are kept as files."""

import contextlib
import faulthandler
import hashlib
import mmap
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.coverage import Coverage
from tests.fuzz.mutate import DICE_BYTES
from tests.fuzz.target import Target

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
CORPUS = HERE.parent / "corpus" / "fuzz"
CURRENT_BYTES = 1 << 20
HISTORY = 8
GROWTH_KB = 60_000  # that a run may grow by, mostly what it has learned
MINIMISING_S = DISTILLING_S = 20.0
STUCK_S = 120.0  # beyond its time: a target that hangs, inside of a kernel or at its end


class Current:
    """The last inputs, in a file that outlives the process: a crash leaves them behind."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(CURRENT_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), CURRENT_BYTES)

    def put(self, data: bytes) -> None:
        self._map[4 : 4 + len(data)] = data
        self._map[:4] = len(data).to_bytes(4, "big")

    @staticmethod
    def read(path: Path) -> bytes:
        data = path.read_bytes()
        return data[4 : 4 + int.from_bytes(data[:4], "big")]


def corpus(target: Target, *, findings: bool = True) -> list[bytes]:
    """Seeds, each with dice of its own, what earlier runs have found worth keeping, and findings."""
    seeds = [hashlib.sha256(seed).digest()[:DICE_BYTES] + seed for seed in target.seeds()]
    return [*seeds, *kept(target.name), *(found(target.name).values() if findings else ())]


def kept(name: str) -> list[bytes]:
    path = CORPUS / f"{name}.txt"
    return [bytes.fromhex(line) for line in path.read_text().split()] if path.exists() else []


def keep(name: str, inputs: list[bytes]) -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(f"{each.hex()}\n" for each in inputs))


def found(name: str) -> dict[str, bytes]:
    """Inputs that were findings once, by the names of their files."""
    return {path.name: path.read_bytes() for path in sorted((FOUND / name).glob("*"))}


def save(name: str, data: bytes, why: str) -> Path:
    path = FOUND / name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"{name}: FOUND {path.relative_to(HERE.parents[1])}\n{why}", flush=True)
    return path


def failure(target: Target, data: bytes) -> str | None:
    """Why an input is a finding."""
    try:
        target.run(data)
    except Exception:
        return traceback.format_exc(limit=-4)
    return None


def kind(why: str) -> str:
    """What two findings have in common: the place, not the values."""
    lines = [line for line in why.splitlines() if line.startswith("  File ")]
    return lines[-1] if lines else why


def minimise(target: Target, data: bytes, why: str) -> bytes:
    """A shorter input of the same kind: parts are left out as long as it fails alike."""
    deadline = time.monotonic() + MINIMISING_S
    size = len(data) // 2
    while size >= 1:
        at = DICE_BYTES
        while at < len(data) and time.monotonic() < deadline:
            shorter = data[:at] + data[at + size :]
            again = failure(target, shorter)
            if again is not None and kind(again) == kind(why):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Run:
    """One target for some time, or for some executions."""

    def __init__(self, target: Target, seed: int, current: Current | None = None, *, findings: bool = True) -> None:
        self.target = target
        self.executions = 0
        self.findings = 0
        self.coverage = Coverage(orders=target.orders)
        self.corpus = corpus(target, findings=findings)
        self.fresh: list[bytes] = []
        self._chance = random.Random(f"{target.name} {seed}")
        self._mutator = target.mutator(self._chance)
        self._current = current
        self._kinds: set[str] = set()
        self._history: list[bytes] = []

    def inputs(self) -> Iterator[bytes]:
        """The corpus as it is, then mutations; newer inputs are taken more often."""
        yield from list(self.corpus)
        while True:
            some = self.fresh if self.fresh and self._chance.random() < 0.5 else self.corpus
            yield self._mutator.mutate(self._chance.choice(some), self.corpus)

    def go(self, seconds: float = 1e9, executions: int = 1 << 60) -> str | None:
        """Until the time or the executions are over. The first finding, if there was any."""
        begun, first = time.monotonic(), None
        warm = 0
        for data in self.inputs():
            if self.executions >= executions or time.monotonic() - begun > seconds:
                break
            if self._current is not None:
                self._current.put(data)
            self.coverage.begin()
            why = failure(self.target, data)
            self.executions += 1
            if self.coverage.new() and self.executions > len(self.corpus) - len(self.fresh):
                self.fresh.append(data)
                self.corpus.append(data)
            self._history = [*self._history[1 - HISTORY :], data]
            if why is not None:
                first = first or why
                self._take(data, why)
            if self.executions == 500:
                warm = memory_kb()
        # Under AddressSanitizer freed memory is kept for long, and what is lost is not told from that.
        sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")
        if warm and not sanitized and memory_kb() - warm > GROWTH_KB:
            first = first or f"it has grown by {memory_kb() - warm} KB"
            print(f"{self.target.name}: {first}", flush=True)
        return first

    def _take(self, data: bytes, why: str) -> None:
        if kind(why) in self._kinds:
            return
        self._kinds.add(kind(why))
        self.findings += 1
        if failure(self.target, data) is None:
            before = " ".join(each.hex() for each in self._history)
            why = f"not when it is fed again; behind these inputs: {before}\n{why}"
        else:
            data = minimise(self.target, data, why)
            why = failure(self.target, data) or why
        save(self.target.name, data, why)


def work(target: Target, seconds: float, seed: int, current: Path, *, saving: bool, again: bool) -> int:
    """What a child process does for one target; `again`: behind one that has crashed. Returns its exit code."""
    faulthandler.dump_traceback_later(seconds + STUCK_S - 10)  # so that who is killed has said where it hung
    target.open()
    try:
        run = Run(target, seed, Current(current), findings=not again)
        begun = time.monotonic()
        first = run.go(seconds)
        took = time.monotonic() - begun
        guided = f", {run.coverage.total()} places, {len(run.fresh)} new inputs" if run.coverage.guides else ""
        print(
            f"{target.name}: {run.executions} executions in {took:.0f} s ({run.executions / took:.0f}/s), "
            f"{run.findings} findings{guided}, {memory_kb() // 1024} MiB",
            flush=True,
        )
        if saving:
            keep(target.name, distilled(target, run))
    finally:
        with contextlib.suppress(Exception):
            target.close()
    sys.stdout.flush()
    return int(first is not None)


KEPT, KEPT_BYTES = 60, 1000  # a corpus stays small enough to read


def distilled(target: Target, run: Run) -> list[bytes]:
    """Of what was kept before and what is new, short ones first: those that reach something beyond the seeds."""
    if not run.coverage.guides:
        return kept(target.name)
    run.coverage.forget()
    seeds = len(target.seeds())
    known, rest = run.corpus[:seeds], run.corpus[seeds:]
    for data in known:
        run.coverage.begin()
        target.run(data)
        run.coverage.new()
    chosen: list[bytes] = []
    deadline = time.monotonic() + DISTILLING_S
    for data in sorted(rest, key=len):
        if len(data) > KEPT_BYTES or len(chosen) == KEPT or time.monotonic() > deadline:
            break
        run.coverage.begin()
        if failure(target, data) is None and run.coverage.new():
            chosen.append(data)
    return chosen
