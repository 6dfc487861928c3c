"""`fasttunnel login` and `fasttunnel logout`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fasttunnel.cli import options, running
from fasttunnel.control.config import ClientConfig, Secret
from fasttunnel.control.home import shown
from fasttunnel.control.login import forget, remember
from fasttunnel.control.sources import PREFIX, Given, configure, from_flags, read_token
from fasttunnel.errors import FasttunnelError

if TYPE_CHECKING:
    from fasttunnel.api import EngineName

# A configuration has routes. None is registered.
NO_ROUTES = {"routes": Given(["http://localhost:1"], "")}


@click.command()
@options.tls_of_client
@options.token_file
@options.engine
@click.argument("server", metavar="HOST:PORT")
def login(server: str, token_file: str | None, engine: "EngineName | None", **given: Any) -> None:
    """Remember a server, and the token that it asks for.

    HOST:PORT is the tunnel port. The token is asked for, or read from standard input, from --token-file or from
    FASTTUNNEL_TOKEN. It is tried before it is remembered, without a word to other clients. From then on clients that
    name no server dial this one.

    \b
    Once:
        fasttunnel login t.example.com:7000 --tls
    Then, for an app on port 3000:
        fasttunnel http 3000
    From a script:
        fasttunnel login t.example.com:7000 --tls < token
    """
    try:
        token = _token(token_file)
        flags = {name: ("--" + name.replace("_", "-"), value) for name, value in given.items() if value}
        named = from_flags({"server": ("HOST:PORT", server), **flags})
        settings = configure(ClientConfig, NO_ROUTES, named, {"token": Given(token, "")} if token else {})
    except FasttunnelError as error:
        running.fail(error)
    running.run(lambda: _login(settings, engine))


async def _login(settings: ClientConfig, engine: "EngineName | None") -> None:
    from fasttunnel.api import Client

    for text in settings.warnings():
        click.echo(f"warning: {text}", err=True)
    await Client.from_config(settings, engine=engine).check_login()
    path = remember(settings)
    click.echo(f"{settings.server} lets you in; remembered in {shown(path)}")


def _token(file: str | None) -> Secret | None:
    """None: the server needs none. Raises ConfigError."""
    if file is not None:
        return read_token(Path(file))
    text = os.environ.get(f"{PREFIX}TOKEN", "")
    if not text and sys.stdin.isatty():
        text = click.prompt("token", default="", show_default=False, hide_input=True)
    elif not text:
        text = sys.stdin.read()
    return Secret(text.strip()) if text.strip() else None


@click.command()
def logout() -> None:
    """Forget the server that `fasttunnel login` has remembered, and its token.

    \b
    Clients have to name a server again then:
        fasttunnel logout
    """
    try:
        known = forget()
    except FasttunnelError as error:
        running.fail(error)
    click.echo("forgotten" if known else "there is nothing to forget")
