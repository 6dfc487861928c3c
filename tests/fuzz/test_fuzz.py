"""Every target for a moment, always with the same inputs: its corpus, what was a finding once, and some mutations."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import driver
from tests.fuzz.mutate import (
    DICE_BYTES,
    Mutator,
    cut,
    grpc_messages,
    http2_frames,
    lines,
    tls_records,
    websocket_frames,
)
from tests.fuzz.stage import Stage
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

OF_A_KERNEL, OF_A_CONNECTION = 600, 150  # mutations


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    target = TARGETS[request.param]()
    target.open()
    yield target
    target.close()


def test_nothing_is_found(target: Target) -> None:
    """The corpus, findings of before among it, as it is; then mutations of it."""
    mutations = OF_A_CONNECTION if isinstance(target, Stage) else OF_A_KERNEL
    inputs = driver.corpus(target)
    chance = random.Random(target.name)
    mutator = target.mutator(chance)
    for data in [*inputs, *(mutator.mutate(chance.choice(inputs), inputs) for _ in range(mutations))]:
        why = driver.failure(target, data)
        assert why is None, f"{data.hex()}\n{why}"


def test_every_finding_and_corpus_belongs_to_a_target() -> None:
    assert {path.name for path in driver.FOUND.glob("*")} <= set(TARGETS)
    assert {path.stem for path in driver.CORPUS.glob("*")} <= set(TARGETS)


class Planted(Target):
    """Fails where two bytes stand behind each other, one of which is rare."""

    name = "planted"

    def seeds(self) -> list[bytes]:
        return [b"this is \xff not it"]

    def check(self, chance: random.Random, data: bytes) -> None:
        assert b"\xffn" not in data


def test_a_bug_is_found_minimised_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(driver, "FOUND", tmp_path)
    monkeypatch.setattr(driver, "HERE", tmp_path / "a" / "b")
    run = driver.Run(Planted(), seed=1)
    assert run.go(executions=3000) is not None
    [path] = (tmp_path / "planted").iterdir()
    assert path.read_bytes()[DICE_BYTES:] == b"\xffn"
    assert "FOUND" in capfd.readouterr().out
    assert path.read_bytes() in driver.corpus(Planted()), "it is fed again from now on"


def test_what_is_in_memory_outlives_the_process(tmp_path: Path) -> None:
    driver.Current(tmp_path / "current").put(b"the last input")
    assert driver.Current.read(tmp_path / "current") == b"the last input"


@pytest.mark.parametrize("split", [None, lines, websocket_frames, grpc_messages, http2_frames, tls_records])
def test_mutations_are_always_the_same(split: Any) -> None:
    """And records lose nothing when they are put together."""
    inputs = [bytes(DICE_BYTES) + random.Random(seed).randbytes(seed) for seed in range(0, 500, 50)]
    for data in inputs:
        assert split is None or b"".join(split(data)) == data
        assert b"".join(cut(random.Random(1), data)) == data
    ways = []
    for _ in range(2):
        chance = random.Random(5)
        mutator = Mutator(chance, split=split)
        ways.append([mutator.mutate(chance.choice(inputs), inputs) for _ in range(300)])
    assert ways[0] == ways[1]
    assert len(set(ways[0])) > 200
