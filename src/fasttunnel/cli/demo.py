"""`fasttunnel demo`."""

from typing import TYPE_CHECKING

import click

from fasttunnel.cli import options, running

if TYPE_CHECKING:
    from fasttunnel.api import EngineName


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, and say which URLs to open.")
@options.engine
def demo(keep: bool, engine: "EngineName | None") -> None:
    """Start a server, a client and three backends, send requests of each kind through the tunnel, check every answer.

    \b
    See it work:
        fasttunnel demo
    Then play with it in a browser, with curl or grpcurl:
        fasttunnel demo --keep

    Exits with 0 when every answer was right.
    """
    from fasttunnel.demo import main

    running.run(lambda: main(keep, engine))
