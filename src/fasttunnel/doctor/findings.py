"""What the checks have found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from fasttunnel.errors import FasttunnelError

Level = Literal["ok", "note", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `subject` is what was looked at, `advice` what to do."""

    level: Level
    subject: str
    text: str
    advice: str = ""


class Findings:
    """They are told as they come: a check may take a while."""

    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self._tell = tell
        self.all: list[Finding] = []

    def ok(self, subject: str, text: str) -> None:
        self._add("ok", subject, text, "")

    def note(self, subject: str, text: str, advice: str = "") -> None:
        self._add("note", subject, text, advice)

    def problem(self, subject: str, text: str, advice: str = "") -> None:
        self._add("problem", subject, text, advice)

    @property
    def problems(self) -> int:
        return sum(one.level == "problem" for one in self.all)

    @contextlib.contextmanager
    def about(self, subject: str) -> Iterator[None]:
        """A check that ends with an error is a problem, and the next one goes on."""
        try:
            yield
        except FasttunnelError as error:
            text = f"{error.message}: {error.detail}" if error.detail else error.message
            self.problem(subject, text, error.hint or "")
        except Exception as error:
            self.problem(
                subject, f"the check failed: {type(error).__name__}: {error}", "this is a bug: please report it"
            )

    def _add(self, level: Level, subject: str, text: str, advice: str) -> None:
        # Much of it comes from the other end: a terminal gets no control characters of it.
        shown = "".join(character if character.isprintable() else "?" for character in text)
        finding = Finding(level, subject, shown, advice)
        self.all.append(finding)
        self._tell(finding)
