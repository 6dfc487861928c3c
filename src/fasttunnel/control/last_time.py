"""Which client this is to a server that gives names, so that it has its name again after a restart.

A client is known by its server and its backends. Several of the same at the same time are told apart by locks: the
first one that is started has what the first one had the last time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from fasttunnel.control.config import ClientConfig
from fasttunnel.control.home import keep, state_file
from fasttunnel.errors import ConfigError

_AT_ONCE = 64


class LastTime:
    """What is remembered of one client, and that nobody else is it for as long as this process lives."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._path: Path | None = None
        self._lock: int | None = None
        self._kept: dict[str, str] = {}
        if config.client_id or all(spec.route.host for spec in config.routes):
            return  # it says itself who it is, or has no name
        known = json.dumps([config.server, *sorted(str(spec) for spec in config.routes)])
        key = hashlib.sha256(known.encode()).hexdigest()[:16]
        with contextlib.suppress(ConfigError, OSError):  # no home, no memory: it gets another name the next time
            self._open(state_file("clients"), key)

    def _open(self, directory: Path, key: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_AT_ONCE):
            lock = os.open(directory / f"{key}-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system gives it back when the process ends
            except BlockingIOError:
                os.close(lock)
                continue
            self._lock, self._path = lock, directory / f"{key}-{number}.json"
            self._kept = _read(self._path)
            return

    def restored(self) -> ClientConfig:
        """The configuration with what is remembered."""
        if not self._kept:
            return self._config
        changed = {"client_id": self._kept["client_id"]}
        if self._config.name:
            return msgspec.structs.replace(self._config, **changed)
        return msgspec.structs.replace(self._config, **changed, name=self._kept["name"], any_name=True)

    def renewed(self, config: ClientConfig) -> LastTime:
        """The same of another configuration, which this client has now."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = self._path = None
        return LastTime(config)

    def keep(self, client_id: str, name: str) -> None:
        """As it is called now. A server without a domain gives no names, and nothing is kept."""
        kept = {"client_id": client_id, "name": name}
        if self._path is None or not name or kept == self._kept:
            return
        self._kept = kept
        with contextlib.suppress(ConfigError):
            keep(self._path, json.dumps({"server": self._config.server, **kept}) + "\n")


def _read(path: Path) -> dict[str, str]:
    """Nothing, where it is not what we have written."""
    try:
        kept: Any = json.loads(path.read_text("utf-8"))
        found = {name: kept[name] for name in ("client_id", "name")}
        msgspec.convert(found, dict[str, str])
    except (OSError, ValueError, KeyError, TypeError, msgspec.ValidationError):
        return {}
    return found
