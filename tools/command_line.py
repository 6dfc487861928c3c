"""Writes docs/command-line.md from the commands' own help; with --check it says whether it is up to date."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from man_pages import commands

from fasttunnel.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"

_HEAD = """\
# Command line

Every command, with its options, as `fasttunnel COMMAND --help` shows them; `man fasttunnel-server` and the like say the
same. Options of files that have no flag of their own are given by `--set NAME=VALUE`
([Configuration](configuration.md)). This page is made from the code: `python tools/command_line.py`.

## Signals and exit codes

A first Ctrl-C (SIGINT, or SIGTERM) lets requests under way finish, 30 seconds at most, and asks WebSockets to close; a
second one stops at once. SIGHUP has both ends read their configuration again ([Changing it while it
runs](configuration.md#changing-it-while-it-runs)), with certificates and tokens, and open their access log anew.

| exit code | |
|---|---|
| 0 | stopped as asked |
| 2 | a wrong option, route or file |
| 3 | cannot listen, the port is in use |
| 4 | there is no such server |
| 5 | the server does not accept the token, or it does not permit the routes |
| 6 | the server does not accept the routes |
| 7 | the engine cannot be loaded |
| 1 | stopped by a second signal; anything else |

What each message means: [Troubleshooting](troubleshooting.md).

## What a terminal shows

A client calls a URL `online` when a request through it has come back to the client itself: it goes to the public URL,
through server and tunnel, and no backend sees it. A URL that cannot be reached from there, for want of a DNS record for
example, is `unverified`, with the reason, and is tried again. A backend that does not listen is said at once, the
tunnel stays, and it is said when it begins to. With `--no-check` none of this is looked at.

On a terminal, below what has happened, both ends keep up a status: tunnels with their round trip, routes, requests per
second and under way, and at the server the last requests. It is drawn anew at most four times a second, and only when
something has changed. Elsewhere, with `--plain` or `--trace-messages`, there are lines with the time. `NO_COLOR` is
respected. With `--trace-messages` an end writes a line to standard error for every message of the tunnel, without
payloads, queries and the values of header fields:

    23:36:06.121 127.0.0.1:50482 -> h-1 to backend http_request method=GET url=/ host=127.0.0.1:8080 ...
"""


def prose(text: str) -> Iterator[str]:
    """Paragraphs; those that begin with a line of \\b, and lines that are indented, keep their lines."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.removeprefix("\b\n").split("\n")
        if paragraph.startswith("\b\n"):
            yield "```text\n" + "\n".join(lines) + "\n```\n"
        else:
            yield escaped(" ".join(" ".join(lines).split())) + "\n"


def escaped(text: str) -> str:
    """No HTML, no emphasis, no end of a cell."""
    for character in "\\|*_<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def section(name: str, context: click.Context) -> Iterator[str]:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\n## {name}\n\n```text\n{name} {usage}\n```\n\n"
    yield "\n".join(prose(inspect.cleandoc(command.help or "")))
    options = [one for one in command.get_params(context) if isinstance(one, click.Option) and not one.hidden]
    records = [(one, one.get_help_record(context)) for one in options]
    yield "\n| option | |\n|---|---|\n"
    for option, record in records:
        if record is not None:
            variable = f" Also the variable `{option.envvar}`." if isinstance(option.envvar, str) else ""
            yield f"| `{record[0].replace('|', chr(92) + '|')}` | {escaped(' '.join(record[1].split()))}{variable} |\n"
    if isinstance(command, click.Group):
        yield "\n| command | |\n|---|---|\n"
        for each in command.list_commands(context):
            member = command.get_command(context, each)
            if member is not None and not member.hidden:
                anchor = f"{name} {each}".replace(" ", "-")
                yield f"| [{each}](#{anchor}) | {escaped(member.get_short_help_str(limit=100))} |\n"


def page() -> str:
    found = commands(main, "fasttunnel")
    return _HEAD + "".join(part for name, context in found for part in section(name, context))


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("run python tools/command_line.py" if PAGE.read_text() != page() else 0)
    PAGE.write_text(page())
