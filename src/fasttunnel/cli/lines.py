"""Events for a log instead of a screen: one line each with the time, for people or as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

import msgspec

from fasttunnel.control.changes import Changes
from fasttunnel.control.config import Backend, ClientConfig, ServerConfig
from fasttunnel.control.home import shown
from fasttunnel.control.log import Events, one_line, timestamp
from fasttunnel.control.own_token import OwnToken
from fasttunnel.control.routes import Route
from fasttunnel.reach.backends import BackendWatch

LEVELS: Final = {"info": 0, "warning": 1, "error": 2}


class LogLines(Events):
    """To standard output, or another file. What it does not take is lost; the program goes on."""

    def __init__(self, config: ServerConfig | ClientConfig, to: IO[str] | None = None) -> None:
        super().__init__()
        self._json = config.log_format == "json"
        self._level = LEVELS[config.log_level]
        self._to = to or sys.stdout
        self.public: tuple[str, int] = ("", 0)
        self.secure = False

    def _line(self, level: str, event: str, text: str, **fields: Any) -> None:
        if LEVELS[level] < self._level:
            return
        clock = timestamp(time.time())
        if self._json:
            line = msgspec.json.encode({"time": clock, "level": level, "event": event, "text": text, **fields}).decode()
        else:
            line = f"{clock} {level:<7} {event:<14} {one_line(text)}"
        with contextlib.suppress(OSError, ValueError):  # a full disk, a pipe that was closed
            self._to.write(line + "\n")
            self._to.flush()

    # -- what a screen has too

    def title(self, program: str) -> None:
        from fasttunnel.version import __version__

        self._line("info", "start", f"fasttunnel {program} {__version__}", program=program, version=__version__)

    def summary(
        self, public_url: str, tunnel: str, config: ServerConfig, own: OwnToken | None = None, admin: str = ""
    ) -> None:
        """The rest is told by listening()."""
        if own is not None:
            text = f"clients need the one that is kept in {shown(own.path)}"
            self._line("info", "token", text, path=str(own.path))  # not the token: logs are read by others

    def say(self, text: str) -> None:
        event, _, rest = text.partition(" ")
        self._line("info", event, rest.strip())

    # -- events

    def listening(self, kind: str, address: str) -> None:
        self._line("info", "listening", f"{kind} on {address}", kind=kind, address=address)

    def link_up(self, client_id: str, session_id: str, peer: str, routes: Sequence[Route]) -> None:
        served = [str(route) for route in routes]
        text = f"{client_id or session_id} from {peer} serves {', '.join(served)}"
        self._line("info", "link_up", text, client_id=client_id, session_id=session_id, peer=peer, routes=served)

    def link_down(self, client_id: str, session_id: str, reason: str) -> None:
        text = f"{client_id or session_id}: {reason}"
        self._line("warning", "link_down", text, client_id=client_id, session_id=session_id, reason=reason)

    def refused(self, peer: str, reason: str) -> None:
        self._line("warning", "refused", f"{peer}: {reason}", peer=peer, reason=reason)

    def connected(self, server: str, urls: Sequence[str]) -> None:
        self._line("info", "connected", f"to {server}, serving {', '.join(urls)}", server=server, urls=list(urls))

    def disconnected(self, server: str, reason: str, retry_in_s: float | None) -> None:
        again = "giving up" if retry_in_s is None else f"trying again in {retry_in_s:.1f} s"
        level = "error" if retry_in_s is None else "warning"
        fields = {"server": server, "reason": reason, "retry_in_s": retry_in_s}
        self._line(level, "disconnected", f"{server}: {reason}, {again}", **fields)

    def backend_failed(self, backend: str, reason: str) -> None:
        text = f"{backend} cannot be reached: {reason}"
        self._line("warning", "backend_failed", text, backend=backend, reason=reason)

    def reloaded(self, changes: Changes[Any]) -> None:
        self._level = LEVELS[changes.config.log_level]
        if not changes.changed:
            self._line("info", "reloaded", *changes.lines(), option=None)
        for change in changes.changed:
            self._line("info", "reloaded", f"{change.option} {change.text}", option=change.option)
        if changes.needs_restart:
            self._line("warning", "needs_restart", changes.rest, options=changes.needs_restart)

    def warning(self, text: str) -> None:
        self._line("warning", "warning", text)


class ClientLog(LogLines):
    """A client's, with what it finds out about its URLs and backends."""

    def __init__(
        self, config: ClientConfig, *, connected: Callable[[], None], first_url: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._config = config
        self._is_connected = connected
        self._first_url: Callable[[str], None] | None = first_url
        self.urls: list[str] = []
        self.has_urls = asyncio.Event()
        self.watch: BackendWatch | None = None

    def connected(self, server: str, urls: Sequence[str]) -> None:
        self._is_connected()
        super().connected(server, urls)
        if len(urls) == len(self._config.routes) and list(urls) != self.urls:
            self.urls = list(urls)
            if self.watch is not None:
                self.has_urls.set()

    def reloaded(self, changes: Changes[Any]) -> None:
        super().reloaded(changes)
        self._config = changes.config
        if self.watch is not None:
            self.watch.follow((spec.backend for spec in self._config.routes), self._config.connect_timeout_s)

    def route(self, index: int, problem: str | None) -> None:
        """Whether a URL leads here: None, or why it is not known to."""
        spec, url = self._config.routes[index], self.urls[index]
        fields = {"url": url, "backend": str(spec.backend), "problem": problem}
        if problem:
            self._line("warning", "unverified", f"{url} -> {spec.backend}: {problem}", **fields)
            return
        self._line("info", "online", f"{url} -> {spec.backend}", **fields)
        if self._first_url is not None:
            told, self._first_url = self._first_url, None
            told(url)

    def backend(self, backend: Backend, reason: str | None) -> None:
        """Whether it listens."""
        fields = {"backend": str(backend), "reason": reason}
        if reason is None:
            self._line("info", "backend", f"{backend} listens now", **fields)
        else:
            self._line("warning", "backend", f"{backend} does not listen: {reason}", **fields)

    def backend_failed(self, backend: str, reason: str) -> None:
        if self.watch is None or not self.watch.suspect(backend):
            super().backend_failed(backend, reason)
