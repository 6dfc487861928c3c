"""What the admin port has to know of the end that it speaks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fasttunnel import abc
from fasttunnel.control.counts import Counts


@dataclass(frozen=True)
class Subject:
    kind: str  # "server" or "client"
    engine: str  # "cython", "asyncio", or the name of a class
    running: Callable[[], abc.ServerEngine | abc.ClientEngine | None]  # None: it has not been started yet
    why_unready: Callable[[], str]  # why it should be sent nothing new at the moment; empty: it is ready
    routes: Callable[[], list[str]]  # what is served, in words

    @property
    def unready(self) -> str:
        return self.why_unready()

    def status(self) -> dict[str, Any] | None:
        engine = self.running()
        return engine.status() if engine is not None else None

    def counts(self) -> Counts | None:
        """None as well where an engine of one's own has none."""
        counts = getattr(self.running(), "counts", None)
        return counts() if counts is not None else None
