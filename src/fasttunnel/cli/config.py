"""`fasttunnel config`."""

import json
import os
from pathlib import Path

import click
import msgspec

from fasttunnel.cli import options, running
from fasttunnel.control import tls
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.login import completed
from fasttunnel.control.own_token import is_wanted, to_be_made
from fasttunnel.control.schema import json_schema, toml
from fasttunnel.control.sources import PREFIX, Options, configure, from_environment, from_file, from_settings, merged
from fasttunnel.control.tokens import read_tokens
from fasttunnel.errors import ConfigError, FasttunnelError

KINDS: dict[str, options.Kind] = {"server": ServerConfig, "client": ClientConfig}

_file = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
_of = click.option(
    "--for", "of", type=click.Choice(list(KINDS)), help="Whose file it is. Default: what its options say."
)
_settings = click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="As of the command itself.")


@click.group()
def config() -> None:
    """Look at configurations, and start nothing.

    \b
    Is this file right?
        fasttunnel config check server.toml
    What would a client do with this file, and the environment of now?
        fasttunnel config show client.toml
    For an editor:
        fasttunnel config schema server > server.schema.json

    All options are in docs/configuration.md.
    """


@config.command()
@_file
@_of
def check(file: Path | None, of: str | None) -> None:
    """Check FILE with the environment, and the files that it names."""
    try:
        kind, given = _gather(file, of, ())
        settings = configure(kind, given)
        _check_files(settings)
    except FasttunnelError as error:
        running.fail(error)
    for text in settings.warnings():
        click.echo(f"warning: {text}", err=True)
    click.echo(f"right, for a {_name(kind)}")


@config.command()
@_file
@_of
@_settings
def show(file: Path | None, of: str | None, assignments: tuple[str, ...]) -> None:
    """Print all options as TOML, and where each value comes from. Secrets are not shown."""
    try:
        kind, given = _gather(file, of, assignments)
        settings = configure(kind, given)
    except FasttunnelError as error:
        running.fail(error)
    for name, value in msgspec.structs.asdict(settings).items():
        source = given[name].source if name in given else "default"
        line = f"{name} = {toml(value)}" if value is not None else f"# {name} is not set"
        click.echo(f"{line}  # {source}" if value is not None else line)


@config.command()
@click.argument("of", metavar="server|client", type=click.Choice(list(KINDS)))
def schema(of: str) -> None:
    """Print the JSON Schema of a file for --config."""
    click.echo(json.dumps(json_schema(KINDS[of]), indent=2))


def _gather(file: Path | None, of: str | None, assignments: tuple[str, ...]) -> tuple[options.Kind, Options]:
    named = from_file(file) if file is not None else {}
    kind = KINDS[of or ("client" if {"server", "routes"} & set(named) else "server")]
    given = merged(named, from_environment(os.environ, kind), from_settings(assignments))
    if kind is ClientConfig:
        return kind, completed(given)
    if is_wanted(given) and not os.environ.get(f"{PREFIX}NO_TOKEN"):
        given |= to_be_made()
    return kind, given


def _name(kind: options.Kind) -> str:
    return next(name for name, each in KINDS.items() if each is kind)


def _check_files(settings: ServerConfig | ClientConfig) -> None:
    """What a start would read. Raises ConfigError."""
    if isinstance(settings, ServerConfig):
        tls.check(settings.certificates, settings.client_ca)
        if settings.tokens_file:
            read_tokens(Path(settings.tokens_file))
        return
    if settings.certificate is not None:
        tls.check_pem(settings.certificate)
    for authorities in (settings.ca, settings.backend_ca):
        if authorities and b"-----BEGIN CERTIFICATE-----" not in tls.read_pem(authorities):
            raise ConfigError(f"{authorities} holds no certificate")
