"""`fasttunnel client`."""

from typing import TYPE_CHECKING, Any

import click

from fasttunnel.cli import options, running
from fasttunnel.control.config import ClientConfig
from fasttunnel.control.sources import configure
from fasttunnel.errors import FasttunnelError

if TYPE_CHECKING:
    from fasttunnel.api import EngineName


@options.every(ClientConfig)
@click.command()
@click.option("--server", metavar="HOST:PORT", help="The tunnel port of the server.")
@click.option(
    "--tls",
    is_flag=True,
    default=None,
    help="Dial the server by TLS, and check its certificate. The options from here to --key imply it.",
)
@click.option(
    "--ca",
    type=click.Path(),
    metavar="F",
    help="Who signs the server's certificate (PEM). Default: the authorities of the system.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="sha256//...",
    help="The key that the server has; without --ca that is enough. `fasttunnel cert --pin FILE` says it.",
)
@click.option("--server-name", metavar="NAME", help="Name in the server's certificate. Default: the host of --server.")
@click.option("--cert", type=click.Path(), metavar="F", help="Certificate (PEM) for a server that asks for one.")
@click.option("--key", type=click.Path(), metavar="F", help="Its key. Default: it is in the same file.")
@click.option(
    "--connections",
    metavar="N",
    help="Tunnel connections side by side: requests spread over them, and one lost costs only its own. Default: 1",
)
@options.token_file
@options.config_file
@options.settings
@options.engine
@options.trace_messages
@click.argument("routes", nargs=-1, metavar="[ROUTE=]BACKEND ...")
def client(engine: "EngineName | None", trace_messages: bool, **given: Any) -> None:
    """Dial a server and pass its requests to backends.

    \b
    BACKEND  http://HOST:PORT (HTTP and WebSocket) or grpc://HOST:PORT; with TLS https:// and grpcs://
    ROUTE    host, *.host, host/prefix or /prefix; for gRPC also host/pkg.Service or /pkg.Service;
             without a ROUTE it is everything of the backend's kind. The longest match wins.

    \b
    A web app on port 3000, and a gRPC service beside it:
        fasttunnel client --server 127.0.0.1:7000 http://127.0.0.1:3000 grpc://127.0.0.1:50051
    By host name and path:
        fasttunnel client --server t.example.com:7000 --token-file token \\
            shop.example.com=http://127.0.0.1:3000 shop.example.com/api=http://127.0.0.1:4000
    One gRPC service of several:
        fasttunnel client --server 127.0.0.1:7000 /shop.Cart=grpc://127.0.0.1:50051

    \b
    A file for --config holds the same and more, such as
        server = "t.example.com:7000"
        token_file = "token"
        [[routes]]
        route = "shop.example.com/api"
        backend = "http://127.0.0.1:4000"
        strip_prefix = true

    While the server is away the client keeps trying. A first Ctrl-C (SIGINT, SIGTERM) lets requests
    under way finish, a second one stops at once.
    """
    running.hold_signals()
    try:
        settings = configure(ClientConfig, options.gather(ClientConfig, given))
    except FasttunnelError as error:
        running.fail(error)

    from fasttunnel.api import Client
    from fasttunnel.cli.screen import ClientScreen

    screen = ClientScreen(settings)
    screen.tap = options.tap(trace_messages)
    screen.title("client")
    end = Client.from_config(settings, events=screen, engine=engine)

    def reload() -> None:
        screen.say("reload  a client reads nothing again; start it anew for other options")

    running.run(lambda: running.serve(end, lambda: None, screen.say, reload))
