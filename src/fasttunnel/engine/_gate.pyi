from fasttunnel.control.config import ServerConfig
from fasttunnel.control.routes import RouteTable
from fasttunnel.engine._io import Reactor
from fasttunnel.engine._link import Link

class Gate:
    """What all public connections of a server share."""

    reactor: Reactor
    recording: bool
    draining: bool
    def __init__(self, reactor: Reactor, routes: RouteTable[Link], config: ServerConfig, recording: bool) -> None: ...
