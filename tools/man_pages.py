"""Writes packaging/man/*.1 from the commands' own help; with --check it says which are not up to date."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fasttunnel.cli import main
from fasttunnel.version import __version__

MAN = Path(__file__).parents[1] / "packaging" / "man"
WIDTH = 100  # of a usage line; man breaks lines itself


def roff(text: str) -> str:
    """As text: roff has a meaning for backslashes, for hyphens, and for what a line begins with."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Context]]:
    """Of a group also those in it. The name of a page has hyphens, that of a command spaces."""
    context = click.Context(command, info_name=name)
    yield name, context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            member = command.get_command(context, each)
            if member is not None and not member.hidden:
                yield from commands(member, f"{name} {each}")


def prose(text: str) -> Iterator[str]:
    """Paragraphs; those that begin with a line of \\b keep their lines, as in click."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", roff(paragraph[2:]), ".fi")
        else:
            yield from (".PP", roff(" ".join(paragraph.split())))


def options(context: click.Context) -> Iterator[str]:
    for option in context.command.get_params(context):
        if not isinstance(option, click.Option) or option.hidden:
            continue
        record = option.get_help_record(context)
        if record is None:
            continue
        flags, text = record
        yield from (".TP", f"\\fB{roff(flags)}\\fR", roff(" ".join(text.split())))
        if isinstance(option.envvar, str):
            yield f"Also the variable {roff(option.envvar)}."


def page(name: str, context: click.Context, others: list[str]) -> str:
    command = context.command
    short = command.get_short_help_str(limit=WIDTH).rstrip(".")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH "{roff(name.replace(" ", "-")).upper()}" "1" "" "fasttunnel {__version__}" "fasttunnel"',
        ".SH NAME",
        f"{roff(name.replace(' ', '-'))} \\- {roff(short)}",
        ".SH SYNOPSIS",
        f"\\fB{roff(name)}\\fR {roff(usage)}",
        ".SH DESCRIPTION",
        *prose(inspect.cleandoc(command.help or "")),
        ".SH OPTIONS",
        *options(context),
    ]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for each in command.list_commands(context):
            member = command.get_command(context, each)
            if member is not None and not member.hidden:
                lines += [".TP", f"\\fB{roff(each)}\\fR", roff(member.get_short_help_str(limit=WIDTH))]
    related = [other for other in others if other != name]
    lines += [".SH SEE ALSO", ",\n".join(f"\\fB{roff(other.replace(' ', '-'))}\\fR(1)" for other in related)]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """By the name of the file."""
    found = dict(commands(main, "fasttunnel"))
    return {f"{name.replace(' ', '-')}.1": page(name, context, list(found)) for name, context in found.items()}


if __name__ == "__main__":
    wanted = pages()
    there = {path.name: path.read_text() for path in MAN.glob("*.1")}
    if "--check" in sys.argv:
        stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
        sys.exit(f"run python tools/man_pages.py for {', '.join(stale)}" if stale else 0)
    MAN.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (MAN / name).unlink()
    for name, text in wanted.items():
        (MAN / name).write_text(text)
