from collections.abc import Callable

from fasttunnel.control.log import Events, RequestRecord

class Batch:
    lost: int
    size: int
    def __len__(self) -> int: ...
    def lines(self, json: bool) -> bytes: ...
    def records(self) -> list[tuple[float, RequestRecord]]: ...

class Journal:
    """Records of finished requests: to be taken by an access log, the last ones, and one by one for a callback."""

    def __init__(
        self,
        ready: Callable[[Journal], None] | None,
        tell: Callable[[RequestRecord], None] | None,
        keeps: int,
        spans: Callable[[RequestRecord], None] | None = None,
    ) -> None: ...
    @property
    def traces(self) -> bool: ...
    def take(self) -> Batch: ...
    def enter(
        self,
        request_id: bytes,
        protocol: int,
        status: int,
        reset: int,
        texts: tuple[bytes | None, bytes | None, bytes | None, bytes | None, bytes | None],
        route: bytes,
        client_id: bytes,
        counts: tuple[int, int, int, int],
        duration_us: int,
    ) -> None: ...
    def last(self, n: int) -> list[tuple[float, RequestRecord]]: ...

def journal_of(events: Events) -> Journal | None: ...
