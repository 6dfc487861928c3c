import asyncio
from collections.abc import Callable

from fasttunnel.engine._exchange import Endpoint
from fasttunnel.engine._tls import TlsContext

use_epoll: bool

class Poller:
    """Watches all sockets of one engine, and calls them in turns."""

    loop: asyncio.AbstractEventLoop
    opening: set[Socket]
    handshakes_failed: int
    reads: int
    writes: int
    on_trouble: Callable[[str], None] | None
    def __new__(cls, loop: asyncio.AbstractEventLoop) -> Poller: ...
    def close(self) -> None: ...

class Socket(Endpoint):
    """A connected socket, or one that is being connected."""

    attached: bool
    def secure(self, context: TlsContext, name: str) -> None: ...
    def adopt_descriptor(self, fd: int) -> None: ...
    def cut(self) -> None: ...
    def connect_failed(self, text: str, timed_out: bool) -> None: ...
    def contain(self, error: BaseException) -> None: ...
