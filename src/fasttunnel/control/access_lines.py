"""What the lines of the access log say: an object of JSON, or words for people.

The compiled engine makes the same lines without Python, in engine/_lines.pyx.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fasttunnel.control.counts import answer_to, grpc_status_of
from fasttunnel.control.log import Ended, RequestRecord, timestamp
from fasttunnel.control.terms import as_word, grpc_status, reset_code

RECORD_BYTES: Final = 500  # of one without its texts, about
_encode: Final = msgspec.json.Encoder().encode


class Line(msgspec.Struct):
    """A line of the JSON format. "in" is towards the backend, "out" towards the public."""

    time: str
    request_id: str
    trace_id: str
    protocol: str
    route: str
    method: str
    host: str
    path: str
    status: int | str  # of HTTP, or a close code; of gRPC its name
    reset: str | None
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    duration_s: float
    client_id: str
    peer: str


class Lines:
    """Records that are to become lines: a control.access.Batch of an engine in Python."""

    lost = 0

    def __init__(self, records: list[Ended]) -> None:
        self._records = records
        self.size = sum(len(record.host) + len(record.path) + RECORD_BYTES for _, record in records)

    def __len__(self) -> int:
        return len(self._records)

    def lines(self, json: bool) -> bytes:
        records, self._records = self._records, []
        write = json_line if json else human
        return b"".join(write(timestamp(ended_s), record) for ended_s, record in records)


def _status(record: RequestRecord) -> int | str:
    """What the requester was told, also where it was the tunnel that told it."""
    if record.protocol == "grpc":
        return grpc_status(record.status or (grpc_status_of(record.reset) if record.reset else 0))
    return record.status or (answer_to(record.reset) if record.reset else 0)


def _reset(record: RequestRecord) -> str | None:
    return reset_code(record.reset) if record.reset else None


def _line(clock: str, record: RequestRecord) -> Line:
    return Line(
        clock,
        record.request_id,
        record.trace_id,
        record.protocol,
        record.route,
        record.method,
        record.host,
        record.path,
        _status(record),
        _reset(record),
        record.messages_in,
        record.messages_out,
        record.bytes_in,
        record.bytes_out,
        round(record.duration_s, 6),
        record.client_id,
        record.peer,
    )


def json_line(clock: str, record: RequestRecord) -> bytes:
    return _encode(_line(clock, record)) + b"\n"


def human(clock: str, record: RequestRecord) -> bytes:
    """Words in a fixed order; what is not known is -, what may hold anything is escaped."""
    *texts, status, reset = msgspec.structs.astuple(_line(clock, record))[:10]
    words = [
        *texts,
        str(status),
        reset,
        f"messages={record.messages_in}/{record.messages_out}",
        f"bytes={record.bytes_in}/{record.bytes_out}",
        f"{record.duration_s:.6f}s",
        record.client_id,
        record.peer,
    ]
    return (" ".join(as_word(word) if word else "-" for word in words) + "\n").encode()
