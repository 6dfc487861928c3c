"""`fasttunnel version`."""

import click

from fasttunnel.cli import running
from fasttunnel.errors import FasttunnelError
from fasttunnel.version import __version__


@click.command()
def version() -> None:
    """Say which version this is, which engine runs by default, and why."""
    from fasttunnel.api import choose_engine

    try:
        engine, reason = choose_engine()[:2]
    except FasttunnelError as error:
        running.fail(error)
    click.echo(f"fasttunnel {__version__}")
    click.echo(f"engine {engine}: {reason}")
