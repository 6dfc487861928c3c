from fasttunnel.control.config import ServerConfig
from fasttunnel.control.outage import Outages
from fasttunnel.control.routes import RouteTable
from fasttunnel.engine._io import Reactor
from fasttunnel.engine._journal import Journal
from fasttunnel.engine._link import Link

class Gate:
    """What all public connections of a server share."""

    reactor: Reactor
    closing: bool
    draining: bool
    queued: int
    def __init__(
        self,
        reactor: Reactor,
        routes: RouteTable[Link],
        outages: Outages,
        config: ServerConfig,
        journal: Journal | None,
    ) -> None: ...
    def configure(self, config: ServerConfig) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...
    def drain(self) -> None: ...
