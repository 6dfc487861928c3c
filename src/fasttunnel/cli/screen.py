"""What a person sees of a running command: lines of two columns, coloured on a terminal."""

import contextlib
import os
import time
from typing import Any

from rich.console import Console
from rich.text import Text

from fasttunnel.cli.traffic import KEPT
from fasttunnel.control.changes import Changes
from fasttunnel.control.log import Events, timestamp
from fasttunnel.version import __version__


class LastingConsole(Console):
    """What nobody reads any more, or a full disk does not take, is lost; the program that says it goes on."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self._buffer.clear()

    def on_broken_pipe(self) -> None:
        """rich would end the process."""
        self.quiet = True
        with contextlib.suppress(OSError):  # what is flushed as the process ends goes nowhere, and is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


WARNINGS = ("bold yellow", "bold red")


class Screen(Events):
    """Events as lines of two columns, coloured on a terminal. Texts from peers are shown as text, never as markup."""

    def __init__(
        self, console: Console | None = None, *, timed: bool = False, live: bool = False, level: str = "info"
    ) -> None:
        super().__init__()
        self._level = level
        self.keeps_last = KEPT if live else 0
        self.console = console or LastingConsole(highlight=False)
        self._timed = timed  # each line begins with the time

    def line(self, label: str, *parts: str | tuple[str, str], style: str = "bold") -> None:
        """`parts` are texts, or (text, style). Yellow and red ones are warnings."""
        if self._level == "error" or (self._level == "warning" and style not in WARNINGS):
            return
        text = self._start().append(f"{label:<9} ", style)
        for part in parts:
            text.append(*((part,) if isinstance(part, str) else part))
        # A line is a line, also in a narrow window or a pipe: addresses can be copied and searched for.
        self.console.print(text, soft_wrap=True)

    def _start(self) -> Text:
        return Text(f"{timestamp(time.time())} " if self._timed else "  ")

    def title(self, program: str) -> None:
        if self._level != "info":
            return
        start = self._start() if self._timed else Text()
        self.console.print(
            start.append(f"fasttunnel {program}", "bold").append(f"  {__version__}", "dim"), soft_wrap=True
        )

    def say(self, text: str) -> None:
        """A line whose first word is its label."""
        label, _, rest = text.partition(" ")
        self.line(label, rest.strip())

    def admin(self, address: str) -> None:
        at = address if address.startswith("unix:") else f"http://{address}"
        self.line("admin", at, "  /metrics, /status, /healthz, /readyz, /tap")

    def reloaded(self, changes: Changes[Any]) -> None:
        self._level = changes.config.log_level
        for text in changes.lines():
            self.line("reloaded", text)
        if changes.needs_restart:
            self.warning(changes.rest)

    def warning(self, text: str) -> None:
        self.line("warning", text, style="bold yellow")


def is_live(plain: bool) -> bool:
    """Whether standard output is a terminal on which lines can be drawn anew."""
    console = Console()
    return not plain and console.is_terminal and not console.is_dumb_terminal
