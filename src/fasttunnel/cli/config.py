"""`fasttunnel config`."""

import json
from pathlib import Path

import click
import msgspec

from fasttunnel.cli import options, running
from fasttunnel.control.files import check_files
from fasttunnel.control.schema import json_schema, toml
from fasttunnel.control.sources import configure
from fasttunnel.errors import FasttunnelError

_file = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
_of = click.option(
    "--for", "of", type=click.Choice(list(options.KINDS)), help="Whose file it is. Default: what its options say."
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
        kind, given = options.of_file(file, of, ())
        settings = configure(kind, given)
        check_files(settings)
    except FasttunnelError as error:
        running.fail(error)
    for text in settings.warnings():
        click.echo(f"warning: {text}", err=True)
    click.echo(f"right, for a {options.name_of(kind)}")


@config.command()
@_file
@_of
@_settings
def show(file: Path | None, of: str | None, assignments: tuple[str, ...]) -> None:
    """Print all options as TOML, and where each value comes from. Secrets are not shown."""
    try:
        kind, given = options.of_file(file, of, assignments)
        settings = configure(kind, given)
    except FasttunnelError as error:
        running.fail(error)
    for name, value in msgspec.structs.asdict(settings).items():
        source = given[name].source if name in given else "default"
        line = f"{name} = {toml(value)}" if value is not None else f"# {name} is not set"
        click.echo(f"{line}  # {source}" if value is not None else line)


@config.command()
@click.argument("of", metavar="server|client", type=click.Choice(list(options.KINDS)))
def schema(of: str) -> None:
    """Print the JSON Schema of a file for --config."""
    click.echo(json.dumps(json_schema(options.KINDS[of]), indent=2))
