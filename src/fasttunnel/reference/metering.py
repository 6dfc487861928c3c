"""The rate of a token on its tunnels: payload both ways is counted, and waits when there has been too much of it."""

from __future__ import annotations

import asyncio
from collections import deque

from fasttunnel.control.log import Events
from fasttunnel.control.rates import Bucket
from fasttunnel.reference.carrier import Tunnel
from fasttunnel.reference.exchange import Exchange

SHORT_S, LONG_S = 0.005, 1.0  # of timers: the rate may be changed meanwhile


class MeteredTunnel(Tunnel):
    """A tunnel whose payload is taken from a bucket, that of its identity.

    While that is empty sources of payload wait, and the peer is granted no more credit.
    """

    def __init__(self, peer: str, events: Events, bucket: Bucket) -> None:
        super().__init__(peer, events)
        self._bucket = bucket
        self._grants: deque[tuple[Exchange, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None  # runs while the bucket is empty

    def passed(self, count: int) -> None:
        if not self._bucket.spend(count):
            self._stop(self._bucket.wait_s())

    def grant(self, exchange: Exchange, count: int) -> None:
        if self._timer is None and not self._grants:
            exchange.send_grant(count)
        else:
            self._grants.append((exchange, count))

    def _stop(self, wait_s: float) -> None:
        if self._timer is None and self.up:
            self.affordable.clear()
            self._timer = asyncio.get_running_loop().call_later(min(max(wait_s, SHORT_S), LONG_S), self._go_on)

    def _go_on(self) -> None:
        """Credit that is due, as much as the bucket has; then whoever waits."""
        self._timer = None
        if not self._bucket.open:  # another tunnel of the identity was quicker
            return self._stop(self._bucket.wait_s())
        left, granted = self._bucket.level, 0
        while self._grants and granted < left:
            exchange, count = self._grants.popleft()
            granted += count
            exchange.send_grant(count)
        self.affordable.set()
        if self._grants:  # what was granted is still to come, and to be counted
            self._stop(max(self._bucket.wait_s(), granted / self._bucket.rate if self._bucket.rate else 0.0))

    def stop_metering(self) -> None:
        """The tunnel has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._grants.clear()
