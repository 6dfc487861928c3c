"""`fasttunnel tap`."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click

from fasttunnel.cli import options, running
from fasttunnel.cli.tap_lines import TapLines, escaped, escaped_json
from fasttunnel.control.sources import PREFIX, of_one
from fasttunnel.control.taps import CHOICES
from fasttunnel.errors import ConfigError, FasttunnelError, describe

PAYLOAD_BYTES: Final = 64


@click.command()
@click.argument("admin", required=False, metavar="[ADMIN]")
@options.config_file
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(CHOICES),
    help="Messages of this protocol. control is what the tunnel says of itself: registration, heartbeats, credit. "
    "Default: all but control",
)
@click.option("--route", "routes", multiple=True, metavar="R", help="Messages of this route, as it was registered.")
@click.option("--request", "requests", multiple=True, metavar="ID", help="Messages of this request, such as ws-1f3.")
@click.option("--text", metavar="S", help="Messages with this text in them: in the path, the method or the payload.")
@click.option(
    "--payload",
    is_flag=False,
    flag_value=str(PAYLOAD_BYTES),
    metavar="[N]",
    help=f"Show the first N bytes of payloads, as text or in hexadecimal. Without N: {PAYLOAD_BYTES}",
)
@click.option("--headers", is_flag=True, help="Show header fields, metadata and trailers, but no secrets.")
@click.option("--query", is_flag=True, help="Show queries of URLs, but no secrets.")
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after so many messages.")
@click.option("--for", "for_s", type=click.FloatRange(min=0, min_open=True), metavar="S", help="End after S seconds.")
def tap(
    admin: str | None,
    config: str | None,
    protocols: tuple[str, ...],
    routes: tuple[str, ...],
    requests: tuple[str, ...],
    text: str | None,
    payload: str | None,
    headers: bool,
    query: bool,
    as_json: bool,
    limit: int | None,
    for_s: float | None,
) -> None:
    """Show the messages that pass a running server or client, live.

    ADMIN is what --admin of that end is: 127.0.0.1:9100, or unix:/run/fasttunnel/admin.sock. Without it the variable
    FASTTUNNEL_ADMIN counts, then the option admin in the file of --config. Options that may be given several times each
    let more in; different ones narrow it down together. Nothing is copied or slowed down in that end but while a tap
    is on; one that reads too slowly loses messages, and says how many.

    \b
    Everything that passes:
        fasttunnel tap 127.0.0.1:9100
    What is said on WebSockets:
        fasttunnel tap 127.0.0.1:9100 --protocol websocket --payload
    One request, with its header fields:
        fasttunnel tap 127.0.0.1:9100 --request h-1f --headers --payload 1000
    The next 100 messages that have to do with a cart, for a program:
        fasttunnel tap unix:/run/fasttunnel/admin.sock --text cart --limit 100 --json

    Values of authorization, cookies, tokens and the like are never shown. Payloads are shown as they are. Ctrl-C ends
    it, and it says then how many it has seen.
    """
    from fasttunnel.reach.admin import AdminStream

    try:
        size, admin = _payload(payload, admin)
        filters: list[tuple[str, str | int]] = [("protocol", protocol) for protocol in protocols]
        filters += [("route", route) for route in routes]
        filters += [("request", request) for request in requests]
        filters += [("text", _text(text))] if text is not None else []
        filters += [("payload", size)] if size else []
        filters += [(name, 1) for name, wanted in (("headers", headers), ("query", query)) if wanted]
        stream = AdminStream(_where(admin, config))
        shown = _Shown(as_json, limit)
        with closing(stream):
            stream.open(f"/tap?{urlencode(filters)}")
            shown.begin()
            terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                for lines in stream.lines(for_s):
                    if shown.take(lines, routes):
                        break
            except KeyboardInterrupt:
                pass
            finally:
                signal.signal(signal.SIGTERM, terminated)
                shown.end()
    except FasttunnelError as error:
        running.fail(error)


def _text(given: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ConfigError("--text is not UTF-8") from None
    return given


def _payload(given: str | None, admin: str | None) -> tuple[int, str | None]:
    """How many bytes. `--payload ADMIN` is one without a number, in front of the argument."""
    if given is None:
        return 0, admin
    if given.isascii() and given.isdigit() and len(given) < 10:
        return int(given), admin
    if admin is None and (":" in given):
        return PAYLOAD_BYTES, given
    raise ConfigError(f"--payload {given!r} is not a number of bytes")


def _where(admin: str | None, config: str | None) -> str:
    """The admin port. Raises ConfigError."""
    found = admin or os.environ.get(f"{PREFIX}ADMIN") or (of_one(Path(config), "admin") if config else "")
    if found:
        return found
    if config:
        raise ConfigError(f"{config} has no admin", hint='add admin = "127.0.0.1:9100" to it, and start that end anew')
    raise ConfigError(
        "which end is to be tapped?",
        hint="start it with --admin 127.0.0.1:9100, then: fasttunnel tap 127.0.0.1:9100",
    )


class _Shown:
    """Standard output, and what has been said there."""

    def __init__(self, as_json: bool, limit: int | None) -> None:
        self._json = as_json
        self._limit = limit
        self._seen = self._lost = 0
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal of another encoding
        self._terminal = terminal = sys.stdout.isatty()
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._lines = TapLines(colour=colour)
        self._fit()

    def _fit(self) -> None:
        """The terminal may have become wider or narrower."""
        if self._terminal:
            self._lines.width = os.get_terminal_size(sys.stdout.fileno()).columns or None  # 0: it does not know

    def begin(self) -> None:
        if self._terminal and not self._json:
            click.echo(self._lines.head, color=True)

    def take(self, lines: list[bytes], routes: tuple[str, ...]) -> bool:
        """Whether that was the last of it."""
        from fasttunnel.reach.admin import decoded

        out: list[str] = []
        over = False
        self._fit()
        for line in lines:
            record = decoded(line)
            if record.get("tap") == "end":
                self._write(out)
                raise FasttunnelError("the tap has ended", detail=escaped(str(record.get("text", ""))))
            if "tap" in record:
                self._told(record, line, routes, out)
                continue
            self._seen += 1
            out += [self._as_json(line)] if self._json else self._lines.lines(record)
            if self._seen == self._limit:
                over = True
                break
        return not self._write(out) or over

    def _told(self, record: dict[str, Any], line: bytes, routes: tuple[str, ...], out: list[str]) -> None:
        """What the end says of the tap itself."""
        if record["tap"] == "lost":
            self._lost += record["lines"]
            out.append(self._as_json(line) if self._json else self._lines.lost(record["lines"]))
        elif record["tap"] == "begin":
            there = [route.partition(" = ")[0] for route in record["routes"]]
            for route in routes:
                if route not in there:
                    there_are = f"there are {', '.join(dict.fromkeys(there))}" if there else "there are none"
                    click.echo(f"fasttunnel: nobody serves the route {route} at the moment; {there_are}", err=True)

    def _as_json(self, line: bytes) -> str:
        """As it has come; on a terminal nothing in it moves the cursor."""
        return escaped_json(line.decode()) if self._terminal else line.decode()

    def _write(self, lines: list[str]) -> bool:
        """Whether somebody reads it."""
        if not lines:
            return True
        try:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the end goes nowhere
            if isinstance(error, BrokenPipeError):
                return False
            raise FasttunnelError("standard output takes no more", detail=describe(error)) from None
        return True

    def end(self) -> None:
        click.echo(f"seen {self._seen:,} messages, lost {self._lost:,}", err=True)
