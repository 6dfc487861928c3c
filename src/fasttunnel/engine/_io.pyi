import asyncio
from collections.abc import Callable

from fasttunnel.control.addresses import Connections
from fasttunnel.engine._socket import Poller, Socket
from fasttunnel.engine._tally import Tallies

class Reactor(Poller):
    """What the connections of one engine share: the loop, the read buffer, the flush and the clock."""

    on_empty: Callable[[], None] | None
    on_error: Callable[[str], None] | None
    addresses: Connections | None
    conns: set[Conn]
    links: int
    tallies: Tallies
    timers: int
    buffered: int
    def __new__(cls, loop: asyncio.AbstractEventLoop) -> Reactor: ...

class Conn(Socket):
    """Base of all connections."""

    def leave(self) -> None: ...
    def wind_down(self) -> None: ...
    def cut(self) -> None: ...

def alive() -> int: ...
