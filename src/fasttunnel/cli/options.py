"""Options that commands share, and how flags, environment and file go together (`control.sources`)."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from fasttunnel.control import descriptions
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.kinds import is_list, of_fields
from fasttunnel.control.sources import (
    COMMAND_LINE,
    PREFIX,
    Options,
    Text,
    from_environment,
    from_file,
    from_flags,
    from_settings,
    merged,
    misspelt,
)

Kind = type[ServerConfig] | type[ClientConfig]
KINDS: dict[str, Kind] = {"server": ServerConfig, "client": ClientConfig}

# Of a command, and not of its configuration.
OF_COMMANDS = ("config", "assignments", "engine", "trace_messages", "user", "help")

token_file = click.option(
    "--token-file",
    type=click.Path(),
    metavar="F",
    help=f"{descriptions.TOKEN_FILE[:-1]}. Default: the variable FASTTUNNEL_TOKEN.",
)
config_file = click.option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="F",
    envvar=f"{PREFIX}CONFIG",
    help="TOML file with these and further options.",
)
settings = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any option of docs/configuration.md, written as in a file; may be given several times. Each is also a flag "
    "(--head-timeout-s 10) and a variable (FASTTUNNEL_HEAD_TIMEOUT_S=10).",
)
engine = click.option(
    "--engine",
    type=click.Choice(["cython", "asyncio"]),
    envvar=f"{PREFIX}ENGINE",
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
    envvar=f"{PREFIX}USER",
    help="Go on as this user once the ports are open and the files are read; needs root. Files that may change have to "
    "be readable for it.",
)


def every(kind: Kind) -> Callable[[click.Command], click.Command]:
    """A flag for each option that has none yet, not shown in --help."""

    def add(command: click.Command) -> click.Command:
        there = {option.name for option in command.params}
        for name, wanted in of_fields(kind).items():
            if name not in there and name != "token":
                flag = "--" + name.replace("_", "-")
                command.params.append(click.Option([flag, name], hidden=True, multiple=is_list(wanted)))
        return command

    return add


def tap(trace_messages: bool) -> Callable[[str, bool, bytes], None] | None:
    """What --trace-messages asks for, see `Events.tap`."""
    if not trace_messages:
        return None
    from fasttunnel.control.trace import Trace  # it needs protobuf

    return Trace()


def gather(kind: Kind, given: dict[str, Any]) -> Options:
    """All options of a command, of which `given` are the parameters."""
    for text in misspelt(os.environ):
        click.echo(f"fasttunnel: {text}", err=True)
    flags = {
        option.name: option.opts[0] if isinstance(option, click.Option) else COMMAND_LINE
        for option in click.get_current_context().command.params
    }
    used = {name: value for name, value in given.items() if name not in OF_COMMANDS and value not in (None, ())}
    return merged(
        from_file(Path(given["config"])) if given["config"] is not None else {},
        from_environment(os.environ, kind),
        from_settings(given["assignments"]),
        from_flags(
            {name: (flags[name], Text(value) if isinstance(value, str) else value) for name, value in used.items()}
        ),
    )


def of_file(file: Path | None, of: str | None, assignments: Iterable[str]) -> tuple[Kind, Options]:
    """Of a file that is looked at, with the environment: whose it is, and what it says."""
    named = from_file(file) if file is not None else {}
    kind = KINDS[of or ("client" if {"server", "routes"} & set(named) else "server")]
    return kind, merged(named, from_environment(os.environ, kind), from_settings(assignments))


def name_of(kind: Kind) -> str:
    return next(name for name, each in KINDS.items() if each is kind)
