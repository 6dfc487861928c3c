from typing import Any, Protocol

from fasttunnel.control.rates import Bucket
from fasttunnel.control.taps import Listener, UnderWay
from fasttunnel.engine._exchange import Carrier, WindowBudget
from fasttunnel.engine._io import Conn, Reactor
from fasttunnel.engine._journal import Journal
from fasttunnel.engine._tally import RouteTally

class _Handler(Protocol):
    """What a link reports to: the engine."""

    def authorize(self, link: Link, authorization: bytes | None) -> tuple[int, str] | Link | None: ...
    def opened(self, link: Link) -> None: ...
    def control(self, link: Link, kind: int, data: bytes) -> None: ...
    def idle(self, link: Link) -> None: ...
    def lost(self, link: Link, grpc_status: int, message: str) -> None: ...
    def refused(self, conn: LinkConn, reason: str) -> None: ...
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
    active_by_protocol: tuple[int, int, int]
    peer: str
    certificate: str | None
    conn: LinkConn | None
    up: bool
    draining: bool
    info: Any
    pace: Bucket | None
    tallies: dict[int, RouteTally]  # by id of the route
    journal: Journal | None
    client_id: bytes
    tap: Listener | None
    tap_protocols: int
    far_end: str
    messages_sent: int
    messages_received: int
    requests: int
    def send_control(self, message: bytes) -> None: ...
    def request(self, request_id: str) -> UnderWay | None: ...
    def start(self, peer_window: int, local_window: int, max_fragment: int, budget: WindowBudget) -> None: ...
    def measured(self, round_trip_s: float) -> None: ...
    def under_way(self) -> list[Any]: ...
    def drain(self, unhurried: bool = False) -> None: ...
    def report_idle(self) -> None: ...
    def end_idle(self) -> None: ...
    def end(self, grpc_status: int, message: str) -> None: ...

def alive() -> int: ...
