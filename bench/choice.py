"""Which systems and cells a command takes, by the names that were given."""

from __future__ import annotations

import fnmatch
import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bench.systems import System

STANDARD = [
    "direct",
    "cython",
    "asyncio",
    "nginx stream",
    "nginx http",
    "haproxy",
    "envoy",
    "ssh -R",
    "frp",
    "rathole",
    "chisel",
]


def require() -> None:
    """End with a clear line where the suite cannot measure."""
    if not sys.platform.startswith("linux") or (os.cpu_count() or 1) < 2:
        raise click.ClickException("the suite needs Linux (schedstat, taskset) and two CPUs")


def picked(names: list[str], patterns: str | None, standard: list[str], what: str) -> list[str]:
    """The names that patterns, separated by commas, stand for; the standard ones without any."""
    if patterns is None:
        return standard
    found = []
    for pattern in (part.strip() for part in patterns.split(",")):
        matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise click.UsageError(f"no {what} is called {pattern!r}; there are: {'; '.join(names)}")
        found += [name for name in matches if name not in found]
    return [name for name in names if name in found]


def at_hand(patterns: str | None, standard: list[str] = STANDARD) -> list[System]:
    """The chosen systems; those whose programs are not here are skipped by name."""
    from bench.systems import SYSTEMS

    found = []
    for name in picked(list(SYSTEMS), patterns, standard, "system"):
        if reason := SYSTEMS[name].missing():
            click.echo(f"skipped: {name} ({reason})")
        else:
            found.append(SYSTEMS[name])
    if not found:
        raise click.ClickException("none of these systems is here")
    return found
