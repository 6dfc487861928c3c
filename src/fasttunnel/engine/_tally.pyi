from typing import Any

from fasttunnel.control.counts import Counts

class RouteTally:
    name: str

class Tallies:
    def route(self, name: str) -> RouteTally: ...
    def told(self, exchanges: list[Any]) -> Counts: ...
