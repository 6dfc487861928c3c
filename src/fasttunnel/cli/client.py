"""`fasttunnel client`."""

from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from fasttunnel.cli import options, running
from fasttunnel.cli.reloading import Reloader
from fasttunnel.control.changes import compare
from fasttunnel.control.config import ClientConfig
from fasttunnel.control.last_time import LastTime
from fasttunnel.control.sources import PREFIX, configure
from fasttunnel.errors import FasttunnelError

if TYPE_CHECKING:
    from fasttunnel.api import EngineName


# Of every command that runs a client.
of_client = options.together(
    click.option(
        "--server",
        metavar="HOST:PORT",
        help="The tunnel port of the server. Default: the one of `fasttunnel login`.",
    ),
    options.tls_of_client,
    click.option(
        "--name",
        metavar="NAME",
        help="Under the server's domain, NAME.example.com, for routes that name no host. Default: the server gives "
        "one, which stays the same for the same backends.",
    ),
    click.option(
        "--connections",
        metavar="N",
        help="Tunnel connections side by side: requests spread over them, and one lost costs only its own. Default: 1",
    ),
    options.admin,
    options.access_log,
    options.log_format,
    options.log_level,
    options.token_file,
    options.config_file,
    options.settings,
    options.engine,
    click.option(
        "--no-check",
        is_flag=True,
        envvar=f"{PREFIX}NO_CHECK",
        help="Send no request through the public URLs to see whether they lead here, and do not look whether backends "
        "listen.",
    ),
    click.option("--qr", is_flag=True, help="Show the first URL as a QR code. Needs: pip install 'fasttunnel[qr]'"),
    click.option("--open", "open_browser", is_flag=True, help="Open the first URL in a browser."),
    options.plain,
    options.trace_messages,
)


@options.every(ClientConfig)
@click.command()
@of_client
@click.argument("routes", nargs=-1, metavar="[ROUTE=]BACKEND ...")
def client(**given: Any) -> None:
    """Dial a server and pass its requests to backends.

    \b
    BACKEND  http://HOST:PORT (HTTP and WebSocket) or grpc://HOST:PORT; with TLS https:// and grpcs://
    ROUTE    host, *.host, host/prefix or /prefix; for gRPC also host/pkg.Service or /pkg.Service;
             without a ROUTE it is everything of the backend's kind. The longest match wins.

    \b
    A web app on port 3000, and a gRPC service beside it:
        fasttunnel client --server 127.0.0.1:7000 http://127.0.0.1:3000 grpc://127.0.0.1:50051
    The same at the server of `fasttunnel login`:
        fasttunnel client http://127.0.0.1:3000 grpc://127.0.0.1:50051
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
    under way finish, a second one stops at once. When the file of --config changes, and on SIGHUP, it
    goes on with what that says now: a new tunnel takes over, and no request is lost.
    """
    run(given)


def run(given: dict[str, Any]) -> NoReturn:
    """Run a client with these parameters of its command."""
    engine: EngineName | None = given["engine"]
    running.hold_signals()
    try:
        gather = options.sources(ClientConfig, given)
        files = Reloader(given["config"], lambda: configure(ClientConfig, gather()))
        settings = files.read()
    except FasttunnelError as error:
        running.fail(error)

    from fasttunnel.api import Client
    from fasttunnel.cli.client_checks import check_urls
    from fasttunnel.cli.client_screen import ClientScreen, live_status
    from fasttunnel.cli.first_url import first_url
    from fasttunnel.cli.lines import ClientLog
    from fasttunnel.cli.screen import LastingConsole, is_live
    from fasttunnel.reach.backends import BackendWatch

    console = LastingConsole(highlight=False)
    try:
        told = first_url(console, given["qr"], given["open_browser"])
    except FasttunnelError as error:
        running.fail(error)
    last_time = LastTime(settings)
    asked, settings = settings, last_time.restored()
    live = is_live(given["plain"] or given["trace_messages"]) and settings.log_format is None

    def connected() -> None:
        last_time.keep(end.status()["client_id"], end.name)

    screen: ClientScreen | ClientLog
    if settings.log_format is not None:
        screen = ClientLog(settings, connected=connected, first_url=told)
    else:
        screen = ClientScreen(settings, console, live=live, connected=connected, first_url=told)
    screen.tap = options.tap(given["trace_messages"])
    screen.title("client")
    end = Client.from_config(settings, events=screen, engine=engine)

    async def reload(wanted: ClientConfig) -> None:
        nonlocal asked, last_time
        # Who it is to the server stays, unless another is asked for.
        kept = ["client_id"] * (wanted.client_id == asked.client_id)
        kept += ["name", "any_name"] * ((wanted.name, wanted.any_name) == (asked.name, asked.any_name))
        as_now = {name: getattr(end.config, name) for name in kept}
        before = end.config
        try:
            await end.reload(msgspec.structs.replace(wanted, **as_now))
        finally:
            if end.config is not before:  # it is in force, also if another one overtakes it now
                asked = wanted
                if compare(before, end.config).names & {"server", "routes", "client_id"} and end.started:
                    last_time = last_time.renewed(wanted)
                    connected()

    def work() -> Coroutine[Any, Any, None]:
        beside: list[Awaitable[None]] = [files.run(reload, screen.warning)]
        if isinstance(screen, ClientScreen) and live:
            beside.append(live_status(screen, end).run())
        if not given["no_check"]:
            screen.watch = BackendWatch(
                (spec.backend for spec in settings.routes), settings.connect_timeout_s, screen.backend
            )
            beside += [screen.watch.run(), check_urls(end, screen)]
        return running.with_beside(running.serve(end, lambda: None, screen.say, files), *beside)

    running.run(work)
