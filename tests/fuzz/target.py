"""What is fuzzed: an input, and what must hold of it."""

import random
from collections.abc import Callable
from typing import ClassVar

from tests.fuzz.mutate import DICE_BYTES, Mend, Mutator, Split


class Finding(AssertionError):
    """What must not happen has happened, and no assertion says it better."""


class Target:
    """An input is DICE_BYTES that decide how it is fed, and what is fed."""

    name: ClassVar[str]
    orders = True  # whether it counts how often a place is reached
    tokens: ClassVar[list[bytes]] = []
    split: ClassVar[Split | None] = None
    mend: ClassVar[Mend | None] = None

    def open(self) -> None:
        """Before the first input."""

    def close(self) -> None:
        """After the last one."""

    def seeds(self) -> list[bytes]:
        """Valid inputs, or nearly, without their dice."""
        raise NotImplementedError

    def check(self, chance: random.Random, data: bytes) -> None:
        """Feed it; an exception is a finding."""
        raise NotImplementedError

    def run(self, data: bytes) -> None:
        self.check(random.Random(data[:DICE_BYTES]), data[DICE_BYTES:])

    def mutator(self, chance: random.Random) -> Mutator:
        split: Callable[[bytes], list[bytes]] | None = type(self).split
        return Mutator(chance, tokens=self.tokens, split=split, mend=type(self).mend)
