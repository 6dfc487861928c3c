from fasttunnel.engine._gate import Gate
from fasttunnel.engine._io import Conn

class PublicConn(Conn):
    """A public connection whose protocol is not known yet."""

    def __init__(self, gate: Gate) -> None: ...
