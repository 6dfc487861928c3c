"""What passes, as a screen sums it up: the last requests, and how many there are in a second."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from rich.text import Text

from fasttunnel.control.log import Ended, RequestRecord, one_line
from fasttunnel.errors import GrpcStatus, ResetCode
from fasttunnel.reach.marker import MARKERS

SHOWN: Final = 10
KEPT: Final = 4 * SHOWN  # some are our own, to see whether URLs lead here, and are not shown
RATE_S: Final = 2.0  # what "a second" is taken over
_GRPC: Final = {int(status): status.name.replace("_", " ") for status in GrpcStatus}


class Traffic:
    """`last` returns the last requests of an end, so many at most. Nothing happens but when somebody looks."""

    def __init__(self, last: Callable[[int], list[Ended]], clock: Callable[[], float] = time.monotonic) -> None:
        self._last = last
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def last(self) -> list[Ended]:
        """Those to be shown, the newest last."""
        return [ended for ended in self._last(KEPT) if MARKERS not in ended[1].path][-SHOWN:]

    def rate(self, begun: int) -> float:
        """Requests per second, over the last RATE_S, of which there have been so many by now."""
        now = self._clock()
        self._seen.append((now, begun))
        while len(self._seen) > 1 and self._seen[1][0] <= now - RATE_S:
            self._seen.popleft()
        since, count = self._seen[0]
        return (begun - count) / (now - since) if now > since else 0.0


def lines(last: Iterable[Ended], width: int) -> list[Text]:
    """Of requests. Laid out by hand: a table of rich costs ten times as much."""
    return [_line(finished_s, record, width) for finished_s, record in last]


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
