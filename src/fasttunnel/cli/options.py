"""Options that commands share, and how options, environment and file go together: the more explicit one wins."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fasttunnel.control.config import read_file, read_setting, read_token

_FILE = click.Path(path_type=Path, dir_okay=False)

token_file = click.option(
    "--token-file", type=_FILE, metavar="F", help="File that holds the token. Default: the variable FASTTUNNEL_TOKEN."
)
config_file = click.option("--config", type=_FILE, metavar="F", help="TOML file with these and further options.")
settings = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any option that a file for --config may hold, written as there; may be given several times.",
)
engine = click.option(
    "--engine",
    type=click.Choice(["cython", "asyncio"]),
    help="The compiled data plane, or the one in plain Python. Default: cython if it can be loaded.",
)
trace_messages = click.option(
    "--trace-messages",
    is_flag=True,
    help="Write a line to standard error for every message of the tunnel. Costs speed; payloads are not shown.",
)
user = click.option(
    "--user",
    metavar="NAME",
    help="Go on as this user once the ports are open and the files are read; needs root. Files that may change have to "
    "be readable for it.",
)


def token_variable() -> str | None:
    """The token in the environment. There is no option for it: other users can see the command line."""
    return os.environ.get("FASTTUNNEL_TOKEN") or None


def tap(trace_messages: bool) -> Callable[[str, bool, bytes], None] | None:
    """What --trace-messages asks for, see `Events.tap`."""
    if not trace_messages:
        return None
    from fasttunnel.control.trace import Trace  # it needs protobuf

    return Trace()


def gather(config: Path | None, assignments: tuple[str, ...], token_file: Path | None, **given: Any) -> dict[str, Any]:
    """All options by name: the file's, over them --set, the environment's and those of the command line."""
    options = read_file(config) if config is not None else {}
    options |= dict(read_setting(text) for text in assignments)
    options |= {name: value for name, value in given.items() if value is not None and value != ()}
    if token_file is not None:
        options["token"] = read_token(token_file)
    return options
