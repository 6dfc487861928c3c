"""What passes, as a screen sums it up: the last requests, and how many there are in a second."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from rich.table import Table
from rich.text import Text

from fasttunnel.control.log import RequestRecord, one_line
from fasttunnel.errors import GrpcStatus, ResetCode
from fasttunnel.reach.marker import MARKERS

SHOWN: Final = 10
RATE_S: Final = 2.0  # what "a second" is taken over


class Traffic:
    """Takes the record of each finished request; all else happens when somebody looks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self.count = 0
        self.last: deque[tuple[float, RequestRecord]] = deque(maxlen=SHOWN)

    def take(self, record: RequestRecord) -> None:
        if MARKERS in record.path:
            return  # our own
        self.count += 1
        self.last.append((time.time(), record))

    def rate(self, begun: int) -> float:
        """Requests per second, over the last RATE_S, of which there have been so many by now."""
        now = self._clock()
        self._seen.append((now, begun))
        while len(self._seen) > 1 and self._seen[1][0] <= now - RATE_S:
            self._seen.popleft()
        since, count = self._seen[0]
        return (begun - count) / (now - since) if now > since else 0.0

    def table(self) -> Table:
        """The last requests, the newest below."""
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        for finished_s, record in self.last:
            table.add_row(
                time.strftime("  %H:%M:%S", time.localtime(finished_s)),
                Text(_kind(record)),
                Text(one_line(record.path), overflow="ellipsis", no_wrap=True),
                _end(record),
                f"{record.duration_s * 1000:,.1f} ms" if record.duration_s < 10 else f"{record.duration_s:,.0f} s",
            )
        return table


def _kind(record: RequestRecord) -> str:
    return {"grpc": "gRPC", "websocket": "WS"}.get(record.protocol) or one_line(record.method[:10])


def _end(record: RequestRecord) -> Text:
    """How it ended, in the words of its protocol."""
    if record.reset:
        return Text(ResetCode(record.reset).name.replace("_", " "), "red")
    if record.protocol == "grpc":
        names = {int(status): status.name for status in GrpcStatus}
        return Text(names.get(record.status, str(record.status)), "green" if record.status == 0 else "yellow")
    failed = record.status >= 400 if record.protocol == "http" else record.status not in (1000, 1001, 1005)
    return Text(str(record.status), "yellow" if failed else "green")
