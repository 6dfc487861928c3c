"""Routes that nobody serves at the moment: a request for one is told from a request for a route that never was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from fasttunnel import limits
from fasttunnel.control.routes import Route, RouteTable


class Outages:
    """The routes of clients that have gone, however they went, for a while: most come back.

    A server that has just been started does not know its clients yet: for as long as requests may wait, every route
    counts as one that will come.
    """

    def __init__(self, queue_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.remember(queue_timeout_s)
        self._fresh_until_s = clock() + queue_timeout_s
        self._table: RouteTable[_Outage] = RouteTable()
        self._outages: dict[str, _Outage] = {}  # by client, oldest first
        self._routes = 0

    def remember(self, queue_timeout_s: float) -> None:
        """Those that go from now on, for at least as long as requests wait for them."""
        self._remembered_s = max(limits.OUTAGE_S, queue_timeout_s)

    def begin(self, client_id: str, routes: Iterable[Route]) -> None:
        """A client has gone, or takes no new requests any more."""
        self.end(client_id)
        # Nothing is taken away from others by what is only remembered.
        kept = [msgspec.structs.replace(route, exclusive=False) for route in routes]
        outage = self._outages[client_id] = _Outage(self._clock() + self._remembered_s, len(kept))
        self._table.add(outage, kept)
        self._routes += outage.routes
        while self._routes > limits.REMEMBERED_ROUTES:
            self.end(next(iter(self._outages)))

    def end(self, client_id: str) -> None:
        """A client is there (again)."""
        outage = self._outages.pop(client_id, None)
        if outage is not None:
            self._table.remove(outage)
            self._routes -= outage.routes

    def covers(self, protocol: int, host: str, path: str) -> bool:
        """Whether a request that no client serves is one that a client served, or may be about to."""
        now = self._clock()
        for client_id in [name for name, outage in self._outages.items() if outage.until_s <= now]:
            self.end(client_id)
        return now < self._fresh_until_s or self._table.match(protocol, host, path) is not None


class _Outage:
    """Of one client. Compared by identity, as the targets of a RouteTable are."""

    def __init__(self, until_s: float, routes: int) -> None:
        self.until_s = until_s
        self.routes = routes
