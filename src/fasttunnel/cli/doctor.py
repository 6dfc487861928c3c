"""`fasttunnel doctor`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from fasttunnel.cli import options
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.sources import configure

if TYPE_CHECKING:
    from fasttunnel.doctor import Finding

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command()
@click.argument("of", required=False, metavar="[server|client]", type=click.Choice(list(options.KINDS)))
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@options.settings
@options.engine
@click.option("--json", "as_json", is_flag=True, help="The findings as a JSON list.")
def doctor(of: str | None, file: Path | None, assignments: tuple[str, ...], engine: str | None, as_json: bool) -> None:
    """Look for what is wrong, and say what to do about it.

    Without arguments it looks at the installation. With server or client it also looks at what a start with the
    configuration FILE and the environment would meet. Nobody else is disturbed: for a client a tunnel is opened under
    no name, for routes that nobody asks for, and closed at once; the server's log has a line of it.

    \b
    Why does the client not connect?
        fasttunnel doctor client client.toml
    The same without a file:
        fasttunnel doctor client --set server=t.example.com:7000 --set tls=true --set 'routes=["http://127.0.0.1:3000"]'
    Is the server set up well, and does what runs show the renewed certificate?
        fasttunnel doctor server server.toml

    Exits with 0 when there is no problem, and with 1 otherwise.
    """
    from fasttunnel.doctor import Findings, check_client, check_machine, check_server

    findings = Findings(lambda finding: None if as_json else _show(finding))
    settings: ServerConfig | ClientConfig | None = None
    if of is not None:
        with findings.about("configuration"):
            kind, given = options.of_file(file, of, assignments)
            settings = configure(kind, given)
            findings.ok("configuration", f"{file or 'the environment'} is right, for a {of}")
    elif assignments:
        findings.problem(
            "configuration", "--set is of a server or a client", "say which: fasttunnel doctor client --set ..."
        )
    check_machine(findings, settings, engine)
    with findings.about("check"):
        if isinstance(settings, ClientConfig):
            asyncio.run(check_client(findings, settings, engine))
        elif settings is not None:
            asyncio.run(check_server(findings, settings))
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(finding) for finding in findings.all], indent=2))
    elif findings.problems:
        click.echo(f"{findings.problems} problem{'s' * (findings.problems > 1)}")
    else:
        click.echo("no problem found")
    sys.exit(1 if findings.problems else 0)


def _show(finding: "Finding") -> None:
    label = click.style(f"{finding.level:<8}", fg=COLOURS[finding.level])
    click.echo(f"{label} {finding.subject:<13} {finding.text}")
    if finding.advice:
        click.echo(f"{'':<22} {finding.advice}")
