import socket
from collections.abc import Callable

from fasttunnel.engine._socket import Poller, Socket
from fasttunnel.engine._tls import TlsContext

class Listener:
    """A listening socket."""

    tls_context: TlsContext | None
    def __init__(
        self, poller: Poller, sock: socket.socket, factory: Callable[[], Socket], tls_context: TlsContext | None = None
    ) -> None: ...
    @property
    def address(self) -> tuple[str, int]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
