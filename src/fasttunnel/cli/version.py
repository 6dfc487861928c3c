"""`fasttunnel version`."""

import json

import click

from fasttunnel.cli import running
from fasttunnel.errors import FasttunnelError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def version(as_json: bool) -> None:
    """Say which version this is, which engine runs by default, and why, and of what it is made."""
    from fasttunnel.api import choose_engine
    from fasttunnel.installation import versions

    try:
        choice = choose_engine()
        found = versions(choice)
    except FasttunnelError as error:
        running.fail(error)
    if as_json:
        click.echo(json.dumps({**found, "engine": choice.name, "reason": choice.reason}, indent=2))
        return
    click.echo(f"fasttunnel {found.pop('fasttunnel')}")
    click.echo(f"engine {choice.name}: {choice.reason}")
    for name, text in found.items():
        click.echo(f"{name} {text}")
