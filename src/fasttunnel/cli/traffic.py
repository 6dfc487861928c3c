"""What passes, as a screen sums it up: the last requests, and how many there are in a second."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from rich.text import Text

from fasttunnel.control.log import RequestRecord, one_line
from fasttunnel.errors import GrpcStatus, ResetCode
from fasttunnel.reach.marker import MARKERS

SHOWN: Final = 10
RATE_S: Final = 2.0  # what "a second" is taken over
_GRPC: Final = {int(status): status.name.replace("_", " ") for status in GrpcStatus}


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

    def lines(self, width: int) -> list[Text]:
        """The last requests, the newest below. Laid out by hand: a table of rich costs ten times as much."""
        return [_line(finished_s, record, width) for finished_s, record in self.last]


def _line(finished_s: float, record: RequestRecord, width: int) -> Text:
    end, style = _end(record)
    seconds = record.duration_s
    took = f"{seconds * 1000:,.1f} ms" if seconds < 10 else f"{seconds:,.0f} s"
    tail = f"  {end:<10} {took:>10}"
    clock = time.strftime("  %H:%M:%S  ", time.localtime(finished_s))
    kind = f"{_kind(record):<6} "
    room = max(width - len(clock) - len(kind) - len(tail), 8)
    path = one_line(record.path)
    path = path if len(path) <= room else path[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return Text.assemble((clock, "dim"), kind, f"{path:<{room}}", (tail, style))


def _kind(record: RequestRecord) -> str:
    return {"grpc": "gRPC", "websocket": "WS"}.get(record.protocol) or one_line(record.method[:10])


def _end(record: RequestRecord) -> tuple[str, str]:
    """How it ended, in the words of its protocol, and the style of that."""
    if record.reset:
        return ResetCode(record.reset).name.replace("_", " "), "red"
    if record.protocol == "grpc":
        return _GRPC.get(record.status, str(record.status)), "green" if record.status == 0 else "yellow"
    failed = record.status >= 400 if record.protocol == "http" else record.status not in (1000, 1001, 1005)
    return str(record.status), "yellow" if failed else "green"
