import asyncio
from collections.abc import Callable

from fasttunnel.engine._exchange import Endpoint

class Reactor:
    """What the connections of one engine share: the loop, the read buffer, the flush and the clock."""

    on_empty: Callable[[], None] | None
    on_error: Callable[[str], None] | None
    conns: set[Conn]
    links: int
    timers: int
    buffered: int
    def __new__(cls, loop: asyncio.AbstractEventLoop) -> Reactor: ...
    def close(self) -> None: ...

class Conn(Endpoint, asyncio.BufferedProtocol):
    """Base of all connections."""

    transport: asyncio.Transport | None
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, n: int) -> None: ...
    def leave(self) -> None: ...
    def wind_down(self) -> None: ...
    def cut(self) -> None: ...

def alive() -> int: ...
