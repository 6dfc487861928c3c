"""The access log as a writer of what engines hand over, and the last requests as a screen shows them."""

import asyncio
import os
from pathlib import Path

from fasttunnel import limits
from fasttunnel.cli.traffic import KEPT, SHOWN, Traffic
from fasttunnel.control.access import AccessLog, Batch
from fasttunnel.control.log import RequestRecord
from fasttunnel.reach.marker import MARKERS
from tests.support.tunnel import eventually


class Records:
    """A journal that always has a batch of so many lines, and says that it takes so many bytes."""

    def __init__(self, lines: int, size: int, lost: int = 0) -> None:
        self.size = size
        self.lost = lost
        self._lines = lines

    def __len__(self) -> int:
        return self._lines

    def lines(self, json: bool) -> bytes:
        count, self._lines = self._lines, 0
        return b"line\n" * count

    def take(self) -> Batch:
        return Records(self._lines, self.size, self.lost)


async def test_what_a_slow_disk_does_not_take_is_lost_and_counted(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    warnings: list[str] = []
    log = AccessLog(str(fifo), warnings.append, json=True)
    log.ready(Records(20_000, limits.ACCESS_LOG_BYTES + 1))  # more lines than a pipe takes: the writer hangs
    await eventually(lambda: log._handed > 0)
    log.ready(Records(7, 1))
    await eventually(lambda: bool(warnings))
    assert warnings == [f"access log {fifo}: it is written too slowly; 7 lines are lost so far, requests go on"]
    os.set_blocking(reader, True)
    closing = asyncio.create_task(asyncio.to_thread(log.close))
    data = b""
    while part := await asyncio.to_thread(os.read, reader, 1 << 20):
        data += part
    await closing
    os.close(reader)
    assert data == b"line\n" * 20_000


async def test_what_an_engine_had_no_room_for_is_told(tmp_path: Path) -> None:
    warnings: list[str] = []
    log = AccessLog(str(tmp_path / "log"), warnings.append, json=True)
    log.ready(Records(2, 10, lost=5))
    log.close()
    assert (tmp_path / "log").read_bytes() == b"line\n" * 2
    assert "5 lines are lost" in warnings[0]


async def test_a_full_disk_loses_the_rest_of_a_batch_at_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    log = AccessLog("/dev/full", warnings.append, json=True)
    log.ready(Records(3, 10))
    await eventually(lambda: bool(warnings))
    log.close()
    assert "3 lines are lost" in warnings[0]


def test_a_screen_shows_no_requests_of_our_own() -> None:
    record = RequestRecord("h-1", "http", "h.example", "GET", "/", 200, None, 1, 1, 0, 5, 0.1)
    own = record._replace(path=f"/shop{MARKERS}secret")
    kept = [(float(number), own if number % 2 else record) for number in range(100)]
    traffic = Traffic(lambda n: kept[-n:])
    assert traffic.last() == [ended for ended in kept if ended[1] is record][-SHOWN:]
    assert len(traffic.last()) == SHOWN < KEPT
