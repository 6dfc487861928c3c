"""What the admin port has to know of the end that it speaks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fasttunnel.control.counts import Counts
from fasttunnel.control.taps import Taps


class Running(Protocol):
    """An end that has been started."""

    def status(self) -> dict[str, Any]: ...

    def counts(self) -> Counts | None:
        """None where an engine of one's own has none."""

    @property
    def taps(self) -> Taps | None:
        """The same."""


@dataclass(frozen=True)
class Subject:
    kind: str  # "server" or "client"
    engine: str  # "cython", "asyncio", or the name of a class
    running: Callable[[], Running | None]  # None: it has not been started yet
    why_unready: Callable[[], str]  # why it should be sent nothing new at the moment; empty: it is ready
    routes: Callable[[], list[str]]  # what is served, in words

    @property
    def unready(self) -> str:
        return self.why_unready()

    def status(self) -> dict[str, Any] | None:
        end = self.running()
        return end.status() if end is not None else None

    def counts(self) -> Counts | None:
        end = self.running()
        return end.counts() if end is not None else None
