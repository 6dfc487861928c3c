"""Backends: connections to them, and the requests that the tunnel brings for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fasttunnel.control.config import ClientConfig
from fasttunnel.errors import ResetCode, describe
from fasttunnel.reference.exchange import Exchange
from fasttunnel.reference.http1 import Http1Stream
from fasttunnel.reference.http2 import Http2Stream
from fasttunnel.reference.messages import (
    BadMessage,
    RequestReset,
    Unprocessed,
    while_running,
)
from fasttunnel.reference.relay import Replay, into_tunnel, out_of_tunnel
from fasttunnel.reference.translation import Chunk, HttpTranslation, Translation

ATTEMPTS_MAX = 5  # for one request

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
S = TypeVar("S", Http1Stream, Http2Stream)


class Backend(ABC, Generic[S]):
    """A server that requests end at; what HTTP/1.1 and gRPC have in common."""

    def __init__(
        self,
        authority: bytes,
        connect: Callable[[], Awaitable[Streams]],
        on_failure: Callable[[str], None],
        config: ClientConfig,
    ) -> None:
        self.authority = authority
        self.config = config
        self._connect = connect
        self._on_failure = on_failure  # is told why no connection could be made

    async def dial(self) -> Streams:
        """A new connection. Raises RequestReset with what the public is to be answered."""
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                return await self._connect()
        except TimeoutError:
            self._on_failure("it did not take the connection in time")
            raise RequestReset(ResetCode.BACKEND_TIMEOUT, "the backend did not take the connection in time") from None
        except OSError as error:
            self._on_failure(describe(error))
            raise RequestReset(ResetCode.BACKEND_UNREACHABLE, "the backend cannot be reached") from None

    @abstractmethod
    async def open(self, *, fresh: bool) -> S:
        """A stream for a request; `fresh`: not one that may be stale. Raises RequestReset."""

    @abstractmethod
    def release(self, stream: S, *, over: bool) -> None:
        """A stream is not used any more; `over`: request and answer are complete."""

    @abstractmethod
    def repeatable(self, first: Chunk) -> bool:
        """Whether a request may be sent once more if the backend has not processed it."""

    @abstractmethod
    def translation(self) -> Translation: ...

    async def serve_websocket(self, exchange: Exchange, target: str, authority: bytes) -> None:
        """The same for a WebSocket."""
        exchange.reset(ResetCode.NO_ROUTE, "this backend serves no WebSocket")

    @abstractmethod
    def close(self) -> None:
        """Close what is idle."""

    async def serve(self, exchange: Exchange, target: str, authority: bytes) -> None:
        """Carry one request to the backend and its answer back."""
        first, source = exchange.first, Replay(exchange)
        authority = authority or self.authority
        self.translation().request_part(first, target, authority)  # what cannot be sent is refused before anything else
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return await self._attempt(exchange, source, target, authority, fresh=attempt > 1)
            except Unprocessed as error:
                if attempt == ATTEMPTS_MAX or not self.repeatable(first) or not source.rewind():
                    return exchange.reset(error.code, error.text)
            except RequestReset as error:
                return exchange.reset(error.code, error.text)  # unless the public's side has ended it

    async def _attempt(self, exchange: Exchange, source: Replay, target: str, authority: bytes, *, fresh: bool) -> None:
        translation = self.translation()
        stream = await while_running(self.open(fresh=fresh), exchange.failed())

        async def request() -> None:
            """Out of the tunnel. What the backend makes of it is told by its answer, also when it reads no further."""
            try:
                await out_of_tunnel(source, lambda chunk: translation.request_part(chunk, target, authority), stream)
            except RequestReset as error:
                if isinstance(error, BadMessage) or exchange.failure is not None:
                    raise
            await exchange.failed()

        async def answer() -> None:
            """Into the tunnel."""
            head = await stream.next_head()
            while 100 <= head.status < 200:
                if head.status == 101:
                    raise BadMessage("101 without an upgrade")
                if isinstance(translation, HttpTranslation):
                    exchange.send(translation.answer_chunk(head, alone=False))
                head = await stream.next_head()
            if isinstance(stream, Http2Stream):
                exchange.grpc_stream_id = stream.id
                if head.size > self.config.header_list_bytes:
                    raise BadMessage("header list of the backend's answer above the limit")
            alone = stream.ended and not stream.trailers
            await into_tunnel(stream, exchange, translation, translation.answer_chunk(head, alone=alone))

        try:
            await while_running(answer(), request(), exchange.overdue())
            # The connection first: the next request may be here before anything else happens.
            self.release(stream, over=exchange.receiving.closed)
            if exchange.receiving.closed:
                exchange.finish()
            else:
                exchange.reset(ResetCode.NO_ERROR)  # the rest of the request is not wanted any more
        except BaseException:
            stream.abort(ResetCode.CANCELLED)
            self.release(stream, over=False)
            raise
