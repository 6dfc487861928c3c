"""What an attack is: one line of docs/hostile-input.md, its answer, and the bound on what it may cost."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SLOWER = 10  # what the asyncio engine may need, in memory and time of the processor, for 1 of the compiled one


@dataclass(frozen=True)
class Attack:
    """One line.

    `run` plays one attacking connection and checks its answer. Attackers come `together`, or one after the other where
    they share a connection of ours. The bounds are for each of them, on both ends of the tunnel taken together.
    """

    section: str
    line: str
    answer: str
    run: Callable[[Any], Awaitable[None]]
    attackers: int = 16
    together: bool = True
    memory_kib: int = 128
    cpu_ms: float = 5.0
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of the commands "server" and "client"

    @property
    def name(self) -> str:
        return f"{self.section}: {self.line}"


ATTACKS: list[Attack] = []


class Section:
    """The attacks of one heading; `options` are those of the two commands for all of them."""

    def __init__(self, name: str, **options: Sequence[str]) -> None:
        self._name = name
        self._options = options

    def attack(
        self, line: str, answer: str, *, options: Mapping[str, Sequence[str]] | None = None, **values: Any
    ) -> Callable[[Callable[[Any], Awaitable[None]]], Callable[[Any], Awaitable[None]]]:
        """Enter what is decorated as an attack; `values` are fields of Attack."""

        def enter(run: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
            both = {**self._options, **(options or {})}
            ATTACKS.append(Attack(self._name, line, answer, run, options=both, **values))
            return run

        return enter
