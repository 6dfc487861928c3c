"""`fasttunnel http` and `fasttunnel grpc`: a client of one backend, in few words."""

from typing import Any

import click

from fasttunnel.cli import options, running
from fasttunnel.cli.client import of_client, run
from fasttunnel.control.config import ClientConfig
from fasttunnel.errors import ConfigError

_target = click.argument("target", metavar="PORT|HOST:PORT|URL")
_host = click.argument("host", required=False)


@options.every(ClientConfig)
@click.command()
@of_client
@_target
@_host
def http(target: str, host: str | None, **given: Any) -> None:
    """Put a web app (HTTP and WebSocket) behind the server of `fasttunnel login`.

    HOST is the name under which the public asks for it, with a path prefix if you like. Without one the server decides.

    \b
    An app on port 3000 of this machine:
        fasttunnel http 3000
    On another machine, and by TLS:
        fasttunnel http 192.168.1.20:3000
        fasttunnel http https://localhost:8443 shop.example.com
    All options of `fasttunnel client` are options of this, too.
    """
    _run(target, "http", host, given)


@options.every(ClientConfig)
@click.command()
@of_client
@_target
@_host
def grpc(target: str, host: str | None, **given: Any) -> None:
    """Put a gRPC service behind the server of `fasttunnel login`.

    HOST is the name under which the public asks for it, with /pkg.Service if you like. Without one the server decides.

    \b
    A service on port 50051 of this machine:
        fasttunnel grpc 50051
    On another machine, and by TLS:
        fasttunnel grpc 192.168.1.20:50051
        fasttunnel grpc grpcs://localhost:50051 shop.example.com
    All options of `fasttunnel client` are options of this, too.
    """
    _run(target, "grpc", host, given)


def _run(target: str, scheme: str, host: str | None, given: dict[str, Any]) -> None:
    try:
        route = _route(target, scheme, host)
    except ConfigError as error:
        running.fail(error)
    run({**given, "routes": (route,)})


def _route(target: str, scheme: str, host: str | None) -> str:
    """As `fasttunnel client` takes it."""
    if target.isdigit():
        target = f"localhost:{target}"
    found, separator, rest = target.partition("://")
    if not separator:
        found, rest = scheme, target
    elif scheme == "grpc" and found.lower() in ("http", "https"):
        found = {"http": "grpc", "https": "grpcs"}[found.lower()]
    elif not found.lower().startswith(scheme):
        raise ConfigError(f"{target!r} is not for `fasttunnel {scheme}`", hint="there are `http`, `grpc` and `client`")
    backend = f"{found}://{rest}"
    return f"{host}={backend}" if host else backend
