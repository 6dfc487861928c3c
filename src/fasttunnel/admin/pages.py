"""What the admin port shows: one function a page."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from fasttunnel.admin.http import Request, Response, words
from fasttunnel.admin.lag import LoopLag
from fasttunnel.admin.metrics import Metrics
from fasttunnel.admin.subject import Subject
from fasttunnel.admin.tap import Tap
from fasttunnel.control.config import TapScope, is_loopback
from fasttunnel.control.counts import DIRECTIONS, Counts
from fasttunnel.control.terms import close_code, grpc_status, opcode, reset_code
from fasttunnel.version import __version__

Page = Callable[[Request], Response]


class Pages:
    """`loopback`: the port is one of this machine only, and no page of a browser is to read it (see _allowed)."""

    def __init__(self, subject: Subject, lag: LoopLag, tap: TapScope, *, loopback: bool) -> None:
        self._subject = subject
        self._loopback = loopback
        self._started_s = time.time()
        self._metrics = Metrics(subject, lag)
        self.pages: dict[str, Page] = {
            "/": self._index,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._status,
            "/metrics": self._show_metrics,
            "/tap": Tap(subject, tap).answer,
        }

    def answer(self, request: Request) -> Response:
        if not self._allowed(request.headers.get("host")):
            text = "this port answers to the names of loopback only, such as Host: 127.0.0.1"
            return words(403, f"{text}; a web page could read it by another")
        page = self.pages.get(request.path)
        if page is None:
            return words(404, f"there is no such page; there are {', '.join(self.pages)}")
        return page(request)

    def _allowed(self, host: str | None) -> bool:
        """DNS rebinding: a page of a name that points here since a moment ago would be of the same origin.

        Only HTTP/1.0 has no Host, and no browser speaks it.
        """
        if not self._loopback or host is None:
            return True
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        return is_loopback(name.strip("[]").lower())

    def _index(self, request: Request) -> Response:
        return words(200, "\n".join([f"fasttunnel {self._subject.kind} {__version__}", *list(self.pages)[1:]]))

    def _healthz(self, request: Request) -> Response:
        """The event loop turns: who can answer this is alive."""
        return words(200, "alive")

    def _readyz(self, request: Request) -> Response:
        if unready := self._subject.unready:
            return words(503, f"not ready: {unready}")
        return words(200, "ready")

    def _show_metrics(self, request: Request) -> Response:
        body, content_type = self._metrics.text(request.headers.get("accept", ""))
        return Response(body, content_type=content_type)

    def _status(self, request: Request) -> Response:
        subject = self._subject
        counts, told = subject.counts(), dict(subject.status() or {})
        if "links" in told:
            told["tunnels"] = told.pop("links")
        shown = {
            "end": subject.kind,
            "version": __version__,
            "engine": subject.engine,
            "started": datetime.fromtimestamp(self._started_s, UTC).isoformat(timespec="seconds"),
            "uptime_s": round(time.time() - self._started_s, 3),
            "ready": not subject.unready,
            "unready": subject.unready or None,
            "routes": subject.routes(),
            **told,
            "counters": counters(counts) if counts is not None else None,
        }
        return Response(msgspec.json.format(msgspec.json.encode(shown)) + b"\n", content_type="application/json")


def counters(counts: Counts) -> dict[str, Any]:
    """The same numbers as in /metrics, as a tree."""
    tree: dict[str, Any] = {
        "requests": {},
        "responses": {},
        "refusals": {},
        "resets": {},
        "grpc": {},
        "websocket": {"frames": {name: {} for name in DIRECTIONS}, "closes": {}},
        "windows_exhausted": dict(zip(DIRECTIONS, counts.exhausted, strict=True)),
        "tunnels": counts.tunnels,
    }
    for (route, protocol), flow in counts.flows.items():
        tree["requests"].setdefault(route, {})[protocol] = {
            "requests": flow.requests,
            "active": flow.active,
            "messages": dict(zip(DIRECTIONS, flow.messages, strict=True)),
            "payload_bytes": dict(zip(DIRECTIONS, flow.payload_bytes, strict=True)),
        }
    for name, by_code in (("responses", counts.statuses), ("refusals", counts.refusals)):
        for (protocol, code), count in by_code.items():
            tree[name].setdefault(protocol, {})[str(code) if code else "none"] = count
    for (protocol, code), count in counts.resets.items():
        _add(tree["resets"].setdefault(protocol, {}), reset_code(code), count)
    for path, method in counts.methods.items():
        statuses: dict[str, int] = {}
        for code, count in method.statuses.items():
            _add(statuses, grpc_status(code), count)
        messages = dict(zip(DIRECTIONS, method.messages, strict=True))
        tree["grpc"][path] = {"calls": statuses, "messages": messages}
    for (direction, number), count in counts.frames.items():
        _add(tree["websocket"]["frames"][DIRECTIONS[direction]], opcode(number), count)
    for code, count in counts.closes.items():
        tree["websocket"]["closes"][close_code(code)] = count
    return tree


def _add(to: dict[str, int], name: str, count: int) -> None:
    to[name] = to.get(name, 0) + count
