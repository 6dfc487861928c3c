"""`fasttunnel token`."""

import datetime
import os
import sys
from pathlib import Path

import click

from fasttunnel import limits
from fasttunnel.cli import running
from fasttunnel.control.config import Secret
from fasttunnel.control.tokens import digest_of, new_token, parse_tokens, token_lines
from fasttunnel.errors import ConfigError, FasttunnelError


@click.command()
@click.argument("name")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host, or *.HOST for all names below it.")
@click.option("--path", "paths", multiple=True, metavar="PREFIX", help="A path prefix, such as /api.")
@click.option("--service", "services", multiple=True, metavar="S", help="A gRPC service, such as shop.Cart.")
@click.option("--client-id", "client_ids", multiple=True, metavar="ID", help="A name that its client may have.")
@click.option("--expires", metavar="WHEN", help="2027-01-31, or 2027-01-31T12:00:00Z; UTC without a time zone.")
@click.option("--requests-per-second", type=float, metavar="N", help="New requests of all its tunnels together.")
@click.option("--bytes-per-second", type=float, metavar="N", help="Payload of all its tunnels together, both ways.")
@click.option("--no-exclusive", is_flag=True, help="Its client may not refuse to share its routes.")
@click.option("--shared", is_flag=True, help="It shares its routes with tokens of other names that do so too.")
@click.option(
    "--append",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F",
    help="Append the lines to this file, made for its owner alone if there is none.",
)
@click.option("--hash", "from_stdin", is_flag=True, help="Make no token, hash the one on standard input.")
def token(
    name: str,
    hosts: tuple[str, ...],
    paths: tuple[str, ...],
    services: tuple[str, ...],
    client_ids: tuple[str, ...],
    expires: str | None,
    requests_per_second: float | None,
    bytes_per_second: float | None,
    no_exclusive: bool,
    shared: bool,
    file: Path | None,
    from_stdin: bool,
) -> None:
    """Make a token for the client NAME.

    Standard output gets the token, this one time. What belongs into the server's file of --tokens, where there is only
    a hash of it, goes to standard error, or with --append into the file. With --hash there is no token to be shown,
    and the lines go to standard output. Options that may be given several times each permit one more; without them
    everything is permitted.

    \b
    A token for the client of one host:
        fasttunnel token shop --host shop.example.com --append tokens.toml
    Into the file of a client, and to the server by hand:
        (umask 077; fasttunnel token shop --host '*.shop.example.com' --path /api > token)
    The next token of the same name; take the old one out of the file when all clients have the new one:
        fasttunnel token shop --host shop.example.com --append tokens.toml
    """
    try:
        text = _read_stdin() if from_stdin else new_token()
        lines = token_lines(
            name,
            digest_of(text.encode()),
            expires=_moment(expires),
            hosts=hosts or None,
            paths=paths or None,
            services=services or None,
            client_ids=client_ids or None,
            exclusive=False if no_exclusive else None,
            shared=True if shared else None,
            requests_per_second=requests_per_second,
            bytes_per_second=bytes_per_second,
        )
        if file is not None:
            _append(file, lines)
    except FasttunnelError as error:
        running.fail(error)
    if file is None:
        click.echo(lines, nl=False, err=not from_stdin)
    if not from_stdin:
        click.echo(text)


def _read_stdin() -> str:
    text = Secret(sys.stdin.read().strip()).reveal()
    if len(text) < limits.SHORT_TOKEN:
        click.echo(
            f"warning: a token of less than {limits.SHORT_TOKEN} characters may be guessed from its hash", err=True
        )
    return text


def _moment(text: str | None) -> datetime.date | None:
    """As TOML has it: no quotation marks."""
    if text is None:
        return None
    try:
        return datetime.date.fromisoformat(text) if len(text) == 10 else datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a date", hint="it looks like 2027-01-31 or 2027-01-31T12:00:00Z") from None


def _append(file: Path, lines: str) -> None:
    """A file that is there keeps its mode."""
    try:
        with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+", encoding="utf-8") as stream:
            kept = stream.read()
            gap = "" if not kept else "\n" if kept.endswith("\n") else "\n\n"
            parse_tokens(kept + gap + lines)
            stream.write(gap + lines)
    except ConfigError as error:
        hint = (
            "take `tokens = []` out of it first" if kept.strip() and "immutable" in (error.detail or "") else error.hint
        )
        raise ConfigError(f"nothing was appended to {file}: {error.message}", detail=error.detail, hint=hint) from None
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot append to {file}", detail=getattr(error, "strerror", None)) from None
