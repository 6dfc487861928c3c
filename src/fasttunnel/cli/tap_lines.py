"""Records of a tap as lines for people: columns that stay where they are, in colour on a terminal."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import click

from fasttunnel.errors import ANSWERS, ResetCode

ROUTE: Final = 16  # characters of its column
_PROTOCOLS: Final = {"http": "http", "grpc": "grpc", "websocket": "ws", "control": "ctl"}
_ARROWS: Final = {"to_backend": ("->", "cyan"), "to_public": ("<-", "magenta")}
_RESETS: Final = {code.name: answer.text for code, answer in ANSWERS.items()}
_INDENT: Final = " " * 4
NARROW: Final = 100  # columns of a terminal below which there is no room for routes


class TapLines:
    """`width` is where a terminal ends: what is beyond it is cut, but for payloads; None: nothing is."""

    def __init__(self, *, colour: bool, width: int | None = None) -> None:
        self._colour = colour
        self.width = width

    @property
    def head(self) -> str:
        route = f" {'route':<{ROUTE}}" * self._has_routes
        text = f"{'time':<12} {'request':<9} {'kind':<4}    {'bytes':>9} {'after':>8}{route} what"
        return self._paint(text[: self.width], dim=True)

    @property
    def _has_routes(self) -> bool:
        return self.width is None or self.width >= NARROW

    def lines(self, record: dict[str, Any]) -> Iterator[str]:
        """Of one record: itself, then its header fields and its payload."""
        arrow, colour = _ARROWS.get(record.get("direction") or "", ("  ", None))
        start = (
            f"{_clock(record['time'])} {escaped(record['request_id'] or '-'):<9} "
            f"{_PROTOCOLS.get(record['protocol'] or '', '?'):<4} "
        )
        route = f" {_fitted(escaped(record['route'] or '-'), ROUTE)}" * self._has_routes
        middle = f" {record['size']:>9,} {_age(record['age_s']):>8}{route} "
        what, style, where = described(record)
        room = self.width - len(start) - len(arrow) - len(middle) if self.width is not None else None
        what = _cut(escaped(what), room)
        where = _cut(escaped(f"  {where}"), room - len(what) if room is not None else None) if where else ""
        paint = self._paint
        yield (
            f"{paint(start, dim=True)}{paint(arrow, fg=colour)}{paint(middle, dim=True)}"
            f"{paint(what, fg=style)}{paint(where, dim=True)}"
        )
        for kind in ("headers", "trailer_fields"):
            for name, value in record.get(kind, ()):
                yield f"{_INDENT}{paint(escaped(name), dim=True)}: {escaped(value)}"
        for kind in ("payload", "payload_hex"):
            if kind in record:
                value = record[kind] if kind == "payload" else _hex(record[kind])
                more = _more(record)
                yield f"{_INDENT}{paint('|', dim=True)} {escaped(value)}{paint(more, dim=True)}"

    def lost(self, count: int) -> str:
        return self._paint(f"{_INDENT}... {count:,} lost here: they came faster than they were read", fg="yellow")

    def _paint(self, text: str, fg: str | None = None, *, dim: bool = False) -> str:
        return click.style(text, fg=fg, dim=dim or None) if self._colour and (fg or dim) and text else text


def described(record: dict[str, Any]) -> tuple[str, str | None, str]:
    """What a message is, the colour of that, and the request that it is of, unless that is what it is."""
    kind = record["kind"]
    known = " ".join(filter(None, (record.get("method"), record.get("path"))))
    if query := record.get("query"):
        known += f"?{query}"
    if kind == "http_request":
        return (*_http(record, known or "?", None), "" if record.get("first") else known)
    if kind == "http_response":
        status = record.get("status")
        colour = ("green" if status < 400 else "yellow" if status < 500 else "red") if status else None
        return (*_http(record, str(status or "?"), colour), known)
    if kind in ("grpc_request", "grpc_response"):
        return (*_grpc(record), known)
    if kind == "ws_request":
        return known or "?", None, ""
    if kind == "ws_response":
        accepted = record.get("accepted", False)
        return f"{record.get('status', '?')}{'' if accepted else ' refused'}", _good(accepted), known
    if kind == "ws_frame":
        return (*_frame(record), known)
    if kind == "reset":
        code = record.get("reset", "?")
        text = record.get("text") or _RESETS.get(code, "")
        good = code == ResetCode.NO_ERROR.name
        return f"reset {code}{': ' * bool(text)}{text}", None if good else "red", known
    return _control(record), None, known


def _http(record: dict[str, Any], head: str, colour: str | None) -> tuple[str, str | None]:
    headed = record.get("first") or "status" in record
    parts = [head if headed else f"body {_number(record)}" if record["size"] else "end"]
    if record.get("trailers"):
        parts.append(f"trailers={record['trailers']}")
    if record.get("last") and parts[0] != "end":
        parts.append("end")
    return " ".join(parts), colour


def _grpc(record: dict[str, Any]) -> tuple[str, str | None]:
    parts = []
    if "number" in record:
        parts.append(f"message {record['number']}")
        parts += [word for name, word in (("more", "part"), ("compressed", "compressed")) if record.get(name)]
    status = record.get("status_name")
    if status is not None:
        parts.append(status + (f" {record['status_message']!r}" if "status_message" in record else ""))
    elif record.get("last"):
        parts.append("half-close")
    if not parts:
        parts.append("metadata" if record["kind"] == "grpc_response" else "call")
    if record.get("trailers"):
        parts.append(f"trailers={record['trailers']}")
    return " ".join(parts), _good(status == "OK") if status is not None else None


def _frame(record: dict[str, Any]) -> tuple[str, str | None]:
    name = record.get("opcode", "?")
    parts = [name]
    if name == "close":
        parts.append(str(record.get("code", "without a code")))
    elif name not in ("ping", "pong"):
        parts.append(f"{_number(record)} {'fin' if record.get('fin') else 'not fin'}")
    if record.get("more"):
        parts.append("part")
    if record.get("rsv"):
        parts.append("compressed" if record["rsv"] == 4 else f"rsv={record['rsv']}")
    return " ".join(parts), "yellow" if name == "close" and record.get("code") not in (1000, 1001) else None


def _number(record: dict[str, Any]) -> str:
    """Messages without a direction have none, and are a mistake of whoever sends them."""
    return str(record.get("number", "?"))


def _control(record: dict[str, Any]) -> str:
    told = {name: record[name] for name in ("routes", "credit", "reply", "text", "grace_ms") if record.get(name)}
    return " ".join([record["kind"], *(f"{name}={value}" for name, value in told.items())])


def _good(good: bool) -> str:
    return "green" if good else "yellow"


def _more(record: dict[str, Any]) -> str:
    """What is left of a payload that was cut."""
    shown = len(record["payload"].encode()) if "payload" in record else len(record["payload_hex"]) // 2
    left = record["size"] - shown - (2 if "code" in record else 0)
    return f" ... {left:,} more" if left > 0 else ""


def _hex(digits: str) -> str:
    return " ".join(digits[at : at + 8] for at in range(0, len(digits), 8))


@functools.lru_cache(maxsize=4)
def _second(text: str) -> str:
    return datetime.fromisoformat(f"{text}+00:00").astimezone().strftime("%H:%M:%S")


def _clock(time: str) -> str:
    """Of a record, in local time."""
    return _second(time[:19]) + time[19:23]


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds * 1000:,.1f}ms"
    return f"{seconds:,.1f}s" if seconds < 10_000 else f"{seconds / 3600:,.1f}h"


def escaped(text: str) -> str:
    """What cannot be seen, or would move a cursor, as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escaped_json(line: str) -> str:
    """The same JSON; terminals act on C1 controls and on marks of direction as well."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _fitted(text: str, width: int) -> str:
    return f"{_cut(text, width):<{width}}"


def _cut(text: str, room: int | None) -> str:
    if room is None or len(text) <= room:
        return text
    return text[: room - 1] + "\N{HORIZONTAL ELLIPSIS}" if room > 0 else ""
