from collections.abc import Iterable

from fasttunnel.control.routes import Route, RouteTable
from fasttunnel.engine._link import Acceptor
from fasttunnel.engine._tally import Tallies
from fasttunnel.engine._target import Target

class Backends(Acceptor):
    """Opens the backend's end of each request that the server sends."""

    def __init__(self, routes: RouteTable[Target], tallies: Tallies, recording: bool, tracing: bool) -> None: ...
    def count(self, routes: Iterable[Route]) -> None: ...
