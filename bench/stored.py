"""Runs that were written to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

KEYS = {"round": int, "cell": str, "system": str}  # of a measurement
PARTS = {"machine": dict, "systems": dict, "options": dict}


class Unusable(click.ClickException):
    """What was given cannot be worked with; the exit code 1 means that something became slower."""

    exit_code = 2


def read(path: Path, whole: bool = False) -> dict[str, Any]:
    """A run of `bench run`; a whole one has what the page tells of machine and versions. Raises Unusable."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    except ValueError:  # of JSON, or of UTF-8
        raise Unusable(f"{path} is no JSON: what is wanted is the file that `bench run` wrote") from None
    runs = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(runs, list) or not all(
        isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in KEYS.items()) for run in runs
    ):
        raise Unusable(f"{path} is no run: what is wanted is the JSON that `bench run` wrote")
    for part, kind in PARTS.items():
        if whole and not isinstance(found.get(part), kind):
            raise Unusable(f"{path} is no whole run: it does not say {part!r}")
    return dict(found)


def output(path: Path | None, folder: Path, name: str) -> Path:
    """Where a run is to be written: a folder gets a file of this name. Raises click.BadParameter before it is run."""
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name
    path = path.absolute()  # the suite changes the working directory
    if path.is_dir():
        return path / name
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}", param_hint="--output")
    if path.suffix == ".html":
        raise click.BadParameter("it is the JSON; the page is written beside it", param_hint="--output")
    return path
