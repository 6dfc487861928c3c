"""`fasttunnel server`."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from fasttunnel.cli import options, running
from fasttunnel.cli.reloading import Reloader
from fasttunnel.control.config import DEFAULT_LISTEN, DEFAULT_TUNNEL, ServerConfig, parse_address
from fasttunnel.control.own_token import OwnToken, as_option, is_wanted, own_token
from fasttunnel.control.privileges import become, find_user
from fasttunnel.control.sources import PREFIX, Options, configure
from fasttunnel.errors import ConfigError, FasttunnelError

if TYPE_CHECKING:
    from fasttunnel.api import EngineName


@options.every(ServerConfig)
@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Where the public sends HTTP/1.1, HTTP/2, WebSocket and gRPC requests. Default: {DEFAULT_LISTEN}",
)
@click.option("--tunnel", metavar="HOST:PORT", help=f"Where clients dial in. Default: {DEFAULT_TUNNEL}")
@click.option(
    "--domain",
    metavar="NAME",
    help="Clients that name no host get NAME.DOMAIN, and *.DOMAIN has to lead here. NAME is what they ask for, or a "
    "readable one at random.",
)
@click.option(
    "--public-url",
    metavar="URL",
    help="Where the public finds this server, if a proxy stands in front of it, such as https://example.com: the URLs "
    "that clients print begin so.",
)
@click.option(
    "--cert",
    multiple=True,
    type=click.Path(),
    metavar="F",
    help="Certificate chain (PEM): both ports speak TLS. Several: which one goes by the name that is asked for (SNI). "
    "They are read again when they change.",
)
@click.option(
    "--key",
    multiple=True,
    type=click.Path(),
    metavar="F",
    help="Key of each certificate. Default: it is in the same file.",
)
@click.option(
    "--client-ca",
    type=click.Path(),
    metavar="F",
    help="Clients have to show a certificate that was signed by one of these (mutual TLS on the tunnel port).",
)
@click.option(
    "--reuse-port",
    is_flag=True,
    default=None,
    help="Share both ports with another server that has this option, to take over from it (docs/failures.md).",
)
@click.option(
    "--queue-timeout",
    "queue_timeout_s",
    metavar="S",
    help="How many seconds a request waits for a client that is away to come back. Default: 0, it gets 503 at once.",
)
@options.admin
@options.access_log
@options.log_format
@options.log_level
@options.user
@options.token_file
@click.option(
    "--no-token",
    is_flag=True,
    envvar=f"{PREFIX}NO_TOKEN",
    help="Let in every client of this machine, and listen nowhere else.",
)
@click.option(
    "--tokens",
    "tokens_file",
    type=click.Path(),
    metavar="F",
    help="TOML file of token hashes with their permissions, made by `fasttunnel token`; read again when it changes.",
)
@options.config_file
@options.settings
@options.engine
@options.plain
@options.trace_messages
def server(
    user: str | None, engine: "EngineName | None", trace_messages: bool, no_token: bool, plain: bool, **given: Any
) -> None:
    """Accept requests of the public and pass them to clients.

    Clients need a token. Without --token-file, FASTTUNNEL_TOKEN or --tokens one is made at the first start, shown this
    once, and used again by every later start.

    \b
    On this machine only:
        fasttunnel server
    For the network:
        fasttunnel server --listen 0.0.0.0:80 --tunnel 0.0.0.0:7000
    With a name for each client, such as brisk-otter.t.example.com:
        fasttunnel server --domain t.example.com --listen 0.0.0.0:80 --tunnel 0.0.0.0:7000
    With a token for each client, and what it permits (`fasttunnel token --help`):
        fasttunnel server --tokens tokens.toml --listen 0.0.0.0:80 --tunnel 0.0.0.0:7000
    With the token in a file, IPv6, a free port (the first lines say which):
        fasttunnel server --token-file token --listen [::]:80 --tunnel [::]:7000
        fasttunnel server --listen 127.0.0.1:0

    With TLS on both ports:
        fasttunnel server --listen 0.0.0.0:443 --tunnel 0.0.0.0:7000 --token-file token --cert chain.pem --key key.pem

    \b
    A file for --config holds the same and more, such as
        listen = "0.0.0.0:80"
        tunnel = "0.0.0.0:7000"
        token_file = "token"
        ws_message_bytes = 16_777_216

    A first Ctrl-C (SIGINT, SIGTERM) lets requests under way finish, a second one stops at once.
    The file of --config, certificates and the file of --tokens are read again when they change; SIGHUP
    has them read at once.
    """
    running.hold_signals()
    try:
        gather = options.sources(ServerConfig, given)
        own: OwnToken | None = None

        def read() -> ServerConfig:
            nonlocal own
            gathered = gather()
            own = _token(gathered, no_token, own)
            return configure(ServerConfig, gathered, as_option(own) if own is not None else {})

        files = Reloader(given["config"], read)
        settings = files.read()
        account = find_user(user) if user is not None else None
        from fasttunnel.api import Server
        from fasttunnel.cli.lines import LogLines
        from fasttunnel.cli.screen import is_live
        from fasttunnel.cli.server_screen import ServerScreen, live_status

        live = is_live(plain or trace_messages) and settings.log_format is None
        screen: ServerScreen | LogLines
        screen = (
            LogLines(settings) if settings.log_format is not None else ServerScreen(live=live, level=settings.log_level)
        )
        screen.tap = options.tap(trace_messages)
        end = Server.from_config(settings, events=screen, engine=engine)
    except FasttunnelError as error:
        running.fail(error)

    up = asyncio.Event()

    async def status() -> None:
        await up.wait()
        if isinstance(screen, ServerScreen):
            await live_status(screen, end).run()

    def look_for_public() -> None:
        host, port, screen.secure = end.config.seen_at(*parse_address(end.public_url.rpartition("/")[2]))
        screen.public = (host, port)

    async def reload() -> None:
        async def apply(settings: ServerConfig) -> None:
            end.reload(settings)
            look_for_public()

        await up.wait()
        await files.run(apply, screen.warning)

    def started() -> None:
        if account is not None:
            become(account)
        look_for_public()
        screen.title("server")
        screen.summary(end.public_url, end.tunnel, settings, own, end.admin)
        up.set()

    def work() -> Coroutine[Any, Any, None]:
        serving = running.serve(end, started, screen.say, files)
        return running.with_beside(serving, reload(), *([status()] if live else []))

    running.run(work)


def _token(gathered: Options, no_token: bool, known: OwnToken | None) -> OwnToken | None:
    """The server's own token where it is given none. Raises ConfigError."""
    wanted = is_wanted(gathered)
    if no_token and not wanted:
        raise ConfigError("--no-token together with a token", hint="leave one of them away")
    return known or own_token() if wanted and not no_token else None
