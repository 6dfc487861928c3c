"""How far a command is, on stderr: what it found out goes to stdout."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

Item = tuple[Any, ...]  # a measurement: the round, and what is measured in it


class Progress:
    """A line for each measurement. On a terminal the last one says how much is left, elsewhere each does."""

    def __init__(self, plan: Iterable[Item]) -> None:
        self._left = list(plan)
        self._done = 0
        self._took: dict[Item, float] = {}  # seconds, of what without its round
        self._since = time.monotonic()
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        # It draws when something was measured, and not meanwhile: the load has the same CPU.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Progress:
        self._since = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __str__(self) -> str:
        if not self._took:
            return self.count()
        left = round(self.left_s())
        return f"{self.count()}, {left // 60}:{left % 60:02} left"

    def count(self) -> str:
        return f"{self._done} of {self._done + len(self._left)} measured"

    def left_s(self) -> float:
        """As long as each took the last time, and what is new as long as the others did."""
        mean = statistics.fmean(self._took.values())
        return sum(self._took.get(item[1:], mean) for item in self._left)

    def measured(self, item: Item, line: str) -> None:
        now = time.monotonic()
        self._took[item[1:]] = now - self._since
        self._since = now
        self._left.remove(item)
        self._done += 1
        if self._console.is_terminal:
            self._console.print(line)
            self._draw()
        else:
            self._console.print(f"{line}  ({self})")

    def drop(self, needless: Callable[[Item], bool]) -> None:
        """What will not be measured after all."""
        self._left = [item for item in self._left if not needless(item)]

    def _draw(self) -> None:
        self._live.update(Text(str(self)), refresh=True)
