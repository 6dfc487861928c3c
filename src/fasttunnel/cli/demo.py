"""`fasttunnel demo`."""

import click

from fasttunnel.cli import running


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, and say which URLs to open.")
def demo(keep: bool) -> None:
    """Start a server, a client and three backends, send requests of each kind through the tunnel, check every answer.

    \b
    See it work:
        fasttunnel demo
    Then play with it in a browser, with curl or grpcurl:
        fasttunnel demo --keep

    Exits with 0 when every answer was right.
    """
    from fasttunnel.demo import main

    running.run(lambda: main(keep))
