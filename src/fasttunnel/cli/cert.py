"""`fasttunnel cert`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasttunnel.cli import running
from fasttunnel.control.routes import format_address
from fasttunnel.errors import ConfigError, FasttunnelError

if TYPE_CHECKING:
    from fasttunnel.control.certificates import Made, Pair


@click.command()
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name or address that the server is found by, also *.example.com; may be given several times. "
    "Default: localhost, 127.0.0.1, ::1 and what this machine is called.",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="NAME",
    help="A client that gets a certificate as well, for a server with --client-ca; may be given several times.",
)
@click.option("--days", type=int, metavar="N", help="How long they are valid. Default: 30")
@click.option("--force", is_flag=True, help="Overwrite files of the server and of these clients.")
@click.option("--pin", metavar="F", help="Only say the pin of the key in this file (PEM), for --pin of a client.")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def cert(
    names: tuple[str, ...],
    clients: tuple[str, ...],
    days: int | None,
    force: bool,
    pin: str | None,
    directory: Path | None,
) -> None:
    """Make certificates for trying out TLS, and an authority that signs them.

    They are to be thrown away: the keys have no passphrases, and nothing revokes them. A server for others needs a
    certificate of an authority that they know, such as Let's Encrypt.

    \b
    For a server on this machine:
        fasttunnel cert certs
        fasttunnel server --cert certs/server.pem --key certs/server.key
        fasttunnel client --server localhost:7000 --ca certs/ca.pem http://127.0.0.1:3000
        curl --cacert certs/ca.pem https://localhost:8080/
    For one that is found by other names, and a client that has to show a certificate:
        fasttunnel cert certs --name t.example.com --name '*.t.example.com' --client alice
    One more client later; the authority in the directory signs again:
        fasttunnel cert certs --client bob
    The pin of the key in a certificate or key file:
        fasttunnel cert --pin certs/server.pem
    """
    from fasttunnel.control.certificates import DEFAULT_DAYS, make, pin_of

    try:
        if pin is not None:
            if directory is not None or names or clients or days is not None or force:
                raise ConfigError("--pin only reads, and goes with nothing else")
            click.echo(pin_of(pin))
            return
        made = make(directory or Path(), names, clients, DEFAULT_DAYS if days is None else days, force=force)
    except FasttunnelError as error:
        running.fail(error)
    _show(made)


def _show(made: "Made") -> None:
    """What was written, and commands that use it."""
    from fasttunnel.cli.screen import Screen  # it needs rich

    screen = Screen()

    def pair(label: str, files: "Pair", *notes: str) -> None:
        paths = f"{files.certificate} {files.key}"
        screen.line(label, (paths, "bold green"), "  " + ", ".join((f"until {files.until:%Y-%m-%d}", *notes)))

    screen.title("cert")
    pair("authority", made.authority, *() if made.is_new else ("used again",))
    if made.server is not None:
        pair("server", made.server, f"for {', '.join(made.names)}")
        screen.line("pin", made.pin, "  of the server's key; for a client that pins it --ca is not needed")
    for client in made.clients:
        pair("client", client)

    ca, own = str(made.authority.certificate), made.clients[:1]
    host = next((name for name in made.names if "*" not in name), "HOST")
    dial = ["fasttunnel", "client", "--server", format_address(host, 7000), "--ca", ca]
    dial += [option for files in own for option in _options(files)]
    commands = [[*dial, "http://127.0.0.1:3000"]]
    if made.server is not None:
        listen = ["fasttunnel", "server", *_options(made.server), *(["--client-ca", ca] if own else ["--no-token"])]
        commands = [listen, *commands, ["curl", "--cacert", ca, f"https://{format_address(host, 8080)}/"]]
    for index, command in enumerate(commands):
        screen.line("" if index else "use", shlex.join(command))
    screen.warning(f"for trying out only: who has {made.authority.key} can pass for any server, to whoever trusts {ca}")


def _options(files: "Pair") -> list[str]:
    return ["--cert", str(files.certificate), "--key", str(files.key)]
