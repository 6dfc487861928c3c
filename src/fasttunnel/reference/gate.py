"""The server's front desk: finds the tunnel of a request, and words it when there is none."""

from fasttunnel.control.config import ServerConfig
from fasttunnel.control.routes import RouteTable
from fasttunnel.reference.dispatch import Dispatcher

_HINT = """

A client that serves everything is started with:
    fasttunnel client --server HOST:PORT http://127.0.0.1:3000"""


class Gate:
    """What the public's connections share."""

    def __init__(self, routes: RouteTable[Dispatcher], config: ServerConfig) -> None:
        self.routes = routes
        self.config = config
        self.draining = False

    def find(self, protocol: int, host: bytes, target: bytes) -> Dispatcher | None:
        """The tunnel for a request, asked once for each."""
        path = target.partition(b"?")[0].decode("latin-1")
        found = self.routes.match(protocol, host.decode("latin-1"), path)
        return found[1] if found is not None and found[1].up and not found[1].draining else None

    def no_route(self, host: bytes, target: bytes) -> tuple[int, str]:
        """Status and text of an answer; without the query, which may hold secrets."""
        if self.draining:
            return 503, "the server is shutting down"
        where = (host + target.partition(b"?")[0]).decode("latin-1")
        return 404, f"no tunnel serves {where}{_HINT}"
