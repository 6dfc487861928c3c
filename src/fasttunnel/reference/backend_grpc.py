"""gRPC towards backends."""

from __future__ import annotations

import asyncio

from fasttunnel.reference.backend import Backend
from fasttunnel.reference.http2 import Http2Connection, Http2Stream
from fasttunnel.reference.messages import (
    RequestReset,
)
from fasttunnel.reference.translation import Chunk, GrpcTranslation, Translation

CONNECTIONS_MAX = 8  # of HTTP/2 to one backend
CALLS_PER_CONNECTION = 100  # before another connection is dialled, where the backend allows more


class GrpcBackend(Backend[Http2Stream]):
    """HTTP/2 connections; another one is dialled when all are full."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._connections: list[GrpcConnection] = []

    def translation(self) -> Translation:
        return GrpcTranslation(self.config.grpc_message_bytes)

    async def open(self, *, fresh: bool) -> Http2Stream:
        """On the connection with the fewest calls, when it has a free stream."""
        usable = self._connections = [each for each in self._connections if each.usable]
        best = min(usable, key=lambda each: each.calls, default=None)
        if best is None or (best.calls >= best.capacity and len(usable) < CONNECTIONS_MAX):
            best = GrpcConnection(self)
            usable.append(best)
        best.waiting += 1
        try:
            return await (await asyncio.shield(best.ready)).open_stream()
        finally:
            best.waiting -= 1

    def release(self, stream: Http2Stream, *, over: bool) -> None:
        stream.close()

    def repeatable(self, first: Chunk) -> bool:
        return True  # what was not processed may be sent again, whatever it is (RFC 9113 8.7)

    def close(self) -> None:
        for connection in self._connections:
            connection.running.cancel()


class GrpcConnection:
    """A connection that is dialled as soon as it is made; `ready` is done when it takes calls."""

    def __init__(self, backend: GrpcBackend) -> None:
        self.waiting = 0
        self.ready: asyncio.Future[Http2Connection] = asyncio.get_running_loop().create_future()
        self.running = asyncio.create_task(self._run(backend))

    async def _run(self, backend: GrpcBackend) -> None:
        try:
            protocol = Http2Connection(*await backend.dial(), backend.config.header_list_bytes)
        except BaseException as error:
            self.ready.set_exception(error if isinstance(error, RequestReset) else RequestReset(3, str(error)))
            self.ready.exception()  # there may be nobody left to hear it
            return
        self.ready.set_result(protocol)
        await protocol.run()

    @property
    def protocol(self) -> Http2Connection | None:
        return self.ready.result() if self.ready.done() and self.ready.exception() is None else None

    @property
    def usable(self) -> bool:
        return not self.running.done() and (self.protocol is None or self.protocol.usable)

    @property
    def calls(self) -> int:
        return self.waiting + (len(self.protocol.opened) if self.protocol is not None else 0)

    @property
    def capacity(self) -> int:
        return min(self.protocol.capacity, CALLS_PER_CONNECTION) if self.protocol is not None else CALLS_PER_CONNECTION
