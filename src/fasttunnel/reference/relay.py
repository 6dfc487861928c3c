"""The two directions of a request at one end: a body into the tunnel, and chunks out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fasttunnel.reference.exchange import Exchange
from fasttunnel.reference.messages import BadMessage, HttpStream, Part
from fasttunnel.reference.translation import Chunk, Translation

REPLAY_BYTES = 65_536  # of a request that are kept in case it has to be sent again


async def into_tunnel(stream: HttpStream, exchange: Exchange, translation: Translation, chunk: Chunk) -> None:
    """What the peer of a socket sends, each piece the moment it is complete and as the credit allows.

    `chunk` is the first one, with the head. What has come together (head, body, end) travels together.
    """
    splitter, kind = translation.splitter, type(chunk)
    chunk.is_first_chunk = True
    if chunk.is_last_chunk:
        return exchange.send(chunk)
    while True:
        piece = splitter.next_piece(exchange.room)
        blocked = piece is None and splitter.waits_for_credit and exchange.room == 0
        if piece is not None:
            chunk.MergeFrom(kind(**piece.values))
        elif not blocked and (data := stream.take()):
            splitter.feed(data)
            continue
        elif blocked or not stream.ended:
            if chunk.is_first_chunk:
                exchange.send(chunk)
                chunk = kind()
            await (exchange.ready() if blocked else stream.more())
            continue
        elif not splitter.at_boundary:
            raise BadMessage("the stream ended inside a message")
        if stream.ended and splitter.at_boundary:
            chunk.is_last_chunk = True
            translation.complete(chunk, stream.trailers)
        await exchange.ready(paid=False)
        exchange.send(chunk)
        stream.acknowledge(piece.consumed if piece is not None else 0)
        if chunk.is_last_chunk:
            return
        chunk = kind()


class Source(Protocol):
    """Where chunks come from: an Exchange, or a Replay of one."""

    async def receive(self) -> Any: ...
    def consumed(self, message: Any) -> None: ...


async def out_of_tunnel(source: Source, to_part: Callable[[Chunk], Part], stream: HttpStream) -> None:
    """Chunk by chunk to a socket; credit is granted again for what the socket has taken."""
    while True:
        chunk = await source.receive()
        await stream.send(to_part(chunk))
        source.consumed(chunk)
        if chunk.is_last_chunk:
            return


class Replay:
    """A Source that can be read again from the beginning, as long as little has been read."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._kept: list[Chunk] | None = []
        self._next = self._consumed = self._bytes = 0

    async def receive(self) -> Chunk:
        if self._kept is not None and self._next < len(self._kept):
            chunk = self._kept[self._next]
        else:
            chunk = await self._exchange.receive()
            self._bytes += len(chunk.body) + 512  # empty ones are kept too
            if self._kept is not None:
                self._kept.append(chunk)
            if self._bytes > REPLAY_BYTES:
                self._kept = None
        self._next += 1
        return chunk

    def consumed(self, message: Chunk) -> None:
        if message.sequence_number == self._consumed:  # not when it is read again
            self._consumed += 1
            self._exchange.consumed(message)

    def rewind(self) -> bool:
        """Whether it can be read again."""
        self._next = 0
        return self._kept is not None
