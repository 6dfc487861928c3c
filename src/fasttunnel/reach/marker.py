"""A backend of our own that answers one path, which nobody knows but who asks for it through the public URL."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from types import TracebackType
from typing import Self

from fasttunnel.control.config import Backend, RouteSpec
from fasttunnel.control.counts import REACH
from fasttunnel.control.routes import Route
from fasttunnel.reach import http2

MARKERS = "/.well-known/fasttunnel/"  # what their paths are below
_HEAD_BYTES = 65_536


class Marker:
    """Listens on loopback while it is entered. `answered` says that it has been asked."""

    def __init__(self, spec: RouteSpec) -> None:
        self._spec = spec
        self._connections: set[asyncio.StreamWriter] = set()
        self.secret = secrets.token_urlsafe(16)
        self.reply = secrets.token_urlsafe(16)
        self.answered = False

    @property
    def path(self) -> str:
        """Below the route's own, so that the server brings it to whoever has the route."""
        route = self._spec.route
        if self._spec.backend.grpc:
            return f"/{route.grpc_service or REACH.strip('/')}/{self.secret}"
        return f"{route.path_prefix}{MARKERS}{self.secret}"

    def spec(self) -> RouteSpec:
        """From the path to here."""
        scheme = "grpc" if self._spec.backend.grpc else "http"
        port = self._server.sockets[0].getsockname()[1]
        backend = Backend(scheme, "127.0.0.1", port)
        return RouteSpec(Route(self._spec.route.host, self.path, protocols=backend.protocols[:1]), backend)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_BYTES)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if self._spec.backend.grpc:
                await reader.readexactly(len(http2.PREFACE) - len(head))
                await http2.answer(reader, writer)
            else:
                fields = f"Content-Type: text/plain\r\nContent-Length: {len(self.reply)}\r\nConnection: close\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n{self.reply}".encode())
                await writer.drain()
            self.answered = True
            await reader.read()  # the client closes first, so that nothing of the answer is lost
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # whoever it was, it was not our request
        finally:
            self._connections.discard(writer)
            writer.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in list(self._connections):
            writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._server.wait_closed()
