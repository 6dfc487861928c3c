"""Options that commands share, and how flags, environment and file go together (`control.sources`)."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from fasttunnel.control import descriptions
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.kinds import is_list, of_fields
from fasttunnel.control.login import completed
from fasttunnel.control.own_token import is_wanted, to_be_made
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
Function = Callable[..., None]
Decorator = Callable[[Any], Any]

token_file = click.option(
    "--token-file",
    type=click.Path(),
    metavar="F",
    help=f"{descriptions.TOKEN_FILE[:-1]}. Default: the variable FASTTUNNEL_TOKEN.",
)


def together(*decorators: Decorator) -> Decorator:
    """Several options as one, in this order."""

    def decorate(command: Function) -> Function:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


tls_of_client = together(
    click.option(
        "--tls",
        is_flag=True,
        default=None,
        help="Dial the server by TLS, and check its certificate. The options from here to --key imply it.",
    ),
    click.option(
        "--ca",
        type=click.Path(),
        metavar="F",
        help="Who signs the server's certificate (PEM). Default: the authorities of the system.",
    ),
    click.option(
        "--pin",
        "pins",
        multiple=True,
        metavar="sha256//...",
        help="The key that the server has; without --ca that is enough. `fasttunnel cert --pin FILE` says it.",
    ),
    click.option(
        "--server-name", metavar="NAME", help="Name in the server's certificate. Default: the host that is dialled."
    ),
    click.option("--cert", type=click.Path(), metavar="F", help="Certificate (PEM) for a server that asks for one."),
    click.option("--key", type=click.Path(), metavar="F", help="Its key. Default: it is in the same file."),
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
admin = click.option(
    "--admin",
    metavar="HOST:PORT",
    help="Show metrics (Prometheus), health and status there, or at unix:PATH. Default: nowhere.",
)
access_log = click.option(
    "--access-log",
    type=click.Path(),
    metavar="F",
    help="Write a line for each request to this file, - for standard output. SIGHUP opens it anew.",
)
log_format = click.option(
    "--log-format",
    type=click.Choice(["human", "json"]),
    help="Events as lines with the time, for people or as JSON; the access log too. Default: as on a terminal.",
)
log_level = click.option(
    "--log-level", type=click.Choice(["info", "warning", "error"]), help="Show no events below this one. Default: info"
)
trace_messages = click.option(
    "--trace-messages",
    is_flag=True,
    help="Write a line to standard error for every message of the tunnel. Costs speed; payloads are not shown.",
)
plain = click.option(
    "--plain",
    is_flag=True,
    envvar=f"{PREFIX}PLAIN",
    help="Lines with the time, as where standard output is no terminal, instead of a status that is drawn anew.",
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
            if name not in there and name not in ("token", "routes"):
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


def sources(kind: Kind, given: dict[str, Any]) -> Callable[[], Options]:
    """Reads all options of a command, of which `given` are the parameters. What it is called again for is the file:
    flags and environment stay as they are."""
    for text in misspelt(os.environ):
        click.echo(f"fasttunnel: {text}", err=True)
    flags = {
        option.name: option.opts[0] if isinstance(option, click.Option) else COMMAND_LINE
        for option in click.get_current_context().command.params
    }
    known = {*of_fields(kind), "token_file"}  # others are of the command, and not of its configuration
    used = {name: value for name, value in given.items() if name in known and value not in (None, ())}
    values = {
        name: (flags.get(name, COMMAND_LINE), Text(value) if isinstance(value, str) else value)
        for name, value in used.items()
    }

    def gather() -> Options:
        found = merged(
            from_file(Path(given["config"])) if given["config"] is not None else {},
            from_environment(os.environ, kind),
            from_settings(given["assignments"]),
            from_flags(values),
        )
        return completed(found) if kind is ClientConfig else found

    return gather


def of_file(file: Path | None, of: str | None, assignments: Iterable[str]) -> tuple[Kind, Options]:
    """Of a file that is looked at, with the environment: whose it is, and what it says."""
    named = from_file(file) if file is not None else {}
    kind = KINDS[of or ("client" if {"server", "routes"} & set(named) else "server")]
    given = merged(named, from_environment(os.environ, kind), from_settings(assignments))
    if kind is ClientConfig:
        return kind, completed(given)
    if is_wanted(given) and not os.environ.get(f"{PREFIX}NO_TOKEN"):
        given |= to_be_made()
    return kind, given


def name_of(kind: Kind) -> str:
    return next(name for name, each in KINDS.items() if each is kind)
