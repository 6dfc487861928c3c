"""The rate of a token on its tunnels: payload both ways is counted, and waits when there has been too much of it."""

from __future__ import annotations

import asyncio
from collections import deque

from fasttunnel import limits
from fasttunnel.control.rates import Bucket
from fasttunnel.control.taps import Taps
from fasttunnel.reference.carrier import Tunnel
from fasttunnel.reference.exchange import Exchange

PIECE = 4096  # bytes that a request is taken for, at least
SHORT_S, LONG_S = 0.005, 1.0  # of timers: the rate may be changed meanwhile


class MeteredTunnel(Tunnel):
    """A tunnel whose payload is taken from a bucket, that of its identity.

    While that is empty sources of payload wait, and the peer is granted no more credit and is not told of new requests:
    their answers have a window of their own before any grant.
    """

    def __init__(self, peer: str, taps: Taps, bucket: Bucket) -> None:
        super().__init__(peer, taps)
        self._bucket = bucket
        self._grants: deque[tuple[Exchange, int]] = deque()
        self._openings: deque[asyncio.Future[None]] = deque()
        self._usual = 0.0  # bytes of payload of a request, up to a window: what the next one is taken for
        self._timer: asyncio.TimerHandle | None = None  # runs while anything of this waits

    @property
    def has_to_wait(self) -> bool:
        return self._timer is not None or bool(self._openings)

    @property
    def swamped(self) -> bool:
        return len(self._openings) >= limits.QUEUED_REQUESTS

    async def admit(self) -> None:
        if self.has_to_wait:
            opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._openings.append(opening)
            try:
                await opening
            finally:
                if opening in self._openings:
                    self._openings.remove(opening)

    def passed(self, count: int) -> None:
        if not self._bucket.spend(count) and self.up:
            self.affordable.clear()
            self._look_again(self._bucket.wait_s())

    def on_end(self, exchange: Exchange) -> None:
        payload = min(exchange.bytes_sent + exchange.bytes_received, self.local_window)
        self._usual += (payload - self._usual) / 8

    def grant(self, exchange: Exchange, count: int) -> None:
        if self._timer is None and not self._grants:
            exchange.send_grant(count)
        else:
            self._grants.append((exchange, count))

    def _look_again(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(max(wait_s, SHORT_S), LONG_S), self._go_on)

    def _go_on(self) -> None:
        """Requests and credit that are due, as much as the bucket has; then whoever waits."""
        self._timer = None
        if not self._bucket.open:  # another tunnel of the identity was quicker
            return self._look_again(self._bucket.wait_s())
        left, due = self._bucket.level, 0.0
        while due < left and (self._grants or self._openings):
            if self._openings:
                opening = self._openings.popleft()
                if not opening.done():
                    # How much it will be is not known: as much as others were. What it really is counts in the end.
                    opening.set_result(None)
                    due += max(self._usual, PIECE)
            while self._grants:
                exchange, count = self._grants.popleft()
                if exchange.send_grant(count):
                    due += count
                    break  # otherwise it has ended meanwhile
        self.affordable.set()
        if self._grants or self._openings:  # what has been asked for is still to come, and to be counted
            self._look_again(max(self._bucket.wait_s(), due / self._bucket.rate if self._bucket.rate else 0.0))

    def stop_metering(self) -> None:
        """The tunnel has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._grants.clear()
        for opening in self._openings:
            if not opening.done():
                opening.set_result(None)
        self._openings.clear()
