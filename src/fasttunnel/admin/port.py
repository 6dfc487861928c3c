"""The admin port itself: a TCP address or a Unix socket, what it serves, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from fasttunnel.admin.http import HttpServer
from fasttunnel.admin.lag import LoopLag
from fasttunnel.admin.pages import Pages
from fasttunnel.admin.subject import Subject
from fasttunnel.control.config import TapScope, is_loopback, parse_admin
from fasttunnel.control.listening import OLDEST, steer
from fasttunnel.control.routes import format_address
from fasttunnel.errors import ListenError, describe


class AdminPort:
    """`address` is as configured: HOST:PORT, or unix:PATH. With `reuse_port` the next process may take it over.

    `tap`: what /tap may show; None: all to this machine, no payloads to the network.
    """

    def __init__(
        self,
        address: str,
        subject: Subject,
        warn: Callable[[str], None],
        *,
        reuse_port: bool = False,
        tap: TapScope | None = None,
    ) -> None:
        self._configured = address
        self._where = parse_admin(address)
        self._reuse_port = reuse_port
        self._lag = LoopLag()
        loopback = not isinstance(self._where, Path) and is_loopback(self._where[0])
        scope: TapScope = tap or ("payloads" if loopback or isinstance(self._where, Path) else "messages")
        self._server = HttpServer(Pages(subject, self._lag, scope, loopback=loopback).answer, warn)
        self._listener: asyncio.Server | None = None
        self._inode = 0

    @property
    def address(self) -> str:
        """As configured, with the port that a 0 has become."""
        if isinstance(self._where, Path) or self._listener is None or not self._listener.sockets:
            return self._configured
        return format_address(*self._listener.sockets[0].getsockname()[:2])

    async def start(self) -> None:
        """Raises ListenError."""
        try:
            if isinstance(self._where, Path):
                sock = _unix_socket(self._where, replace=self._reuse_port)
                self._inode = self._where.stat().st_ino
                self._listener = await asyncio.start_unix_server(self._server.serve, sock=sock)
            else:
                host, port = self._where
                self._listener = await asyncio.start_server(
                    self._server.serve, host, port, reuse_port=self._reuse_port or None
                )
                if self._reuse_port:
                    for listening in self._listener.sockets:
                        steer(listening.fileno(), OLDEST)
        except OSError as error:
            raise ListenError(f"--admin cannot listen on {self._configured}", detail=describe(error)) from error
        self._lag.start()

    def hand_over(self) -> None:
        """With reuse_port: who asks from now on asks the next process."""
        if self._listener is not None:
            self._listener.close()

    async def stop(self) -> None:
        self._lag.stop()
        if self._listener is None:
            return
        self._listener.close()
        await self._server.close()
        if isinstance(self._where, Path):
            with contextlib.suppress(OSError):  # by the next process, or where we may not any more
                if self._where.stat().st_ino == self._inode:
                    self._where.unlink()


def _unix_socket(path: Path, *, replace: bool) -> socket.socket:
    """Only its owner may connect. What a process that was killed has left behind is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode) and (replace or not _answers(path)):
            path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        path.chmod(0o600)  # nobody can connect before it listens
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # it may be somebody else's, or busy
    return True
