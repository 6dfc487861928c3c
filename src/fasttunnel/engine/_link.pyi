from collections.abc import Callable
from typing import Any, Protocol

from fasttunnel.engine._exchange import Carrier
from fasttunnel.engine._io import Conn, Reactor

class _Handler(Protocol):
    """What a link reports to: the engine."""

    def authorize(self, link: Link, authorization: bytes | None) -> tuple[int, str] | None: ...
    def opened(self, link: Link) -> None: ...
    def control(self, link: Link, kind: int, data: bytes) -> None: ...
    def idle(self, link: Link) -> None: ...
    def lost(self, link: Link, grpc_status: int, message: str) -> None: ...
    def warning(self, text: str) -> None: ...

class Acceptor: ...

class LinkConn(Conn):
    """The connection of a tunnel. `acceptor` is None at the server; at the client this opens the call itself."""

    authority: bytes
    reads: int
    def __init__(
        self,
        reactor: Reactor,
        handler: _Handler,
        acceptor: Acceptor | None = None,
        authority: bytes = b"",
        token: bytes | None = None,
    ) -> None: ...
    def keep_alive(self) -> None: ...
    def hang_up(self) -> None: ...

class Link(Carrier):
    """One tunnel: the gRPC stream and the requests in it."""

    active: int
    peer: str
    conn: LinkConn | None
    up: bool
    draining: bool
    info: Any
    on_record: Callable[..., None] | None
    messages_sent: int
    messages_received: int
    requests: int
    def send_control(self, message: bytes) -> None: ...
    def start(self, peer_window: int, local_window: int, max_fragment: int) -> None: ...
    def drain(self) -> None: ...
    def report_idle(self) -> None: ...
    def end(self, grpc_status: int, message: str) -> None: ...

def alive() -> int: ...
