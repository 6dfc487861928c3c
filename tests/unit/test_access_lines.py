"""Lines of the access log in C: the same as those in Python, whatever is in a request; and what a journal keeps."""

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasttunnel import limits
from fasttunnel.control.access_lines import human, json_line
from fasttunnel.control.log import RequestRecord, timestamp
from fasttunnel.engine._journal import Journal

BIG = 2**64 - 1
# What needs an escape is rare among any bytes, and ends what is taken eight bytes at a time.
latin1 = st.binary(max_size=40) | st.text("abc/\"'\\ \t\n\x7f\x85\xa0\xad\xb5\xff", max_size=40).map(
    lambda text: text.encode("latin-1")
)
utf8 = st.text(max_size=20) | st.text("a\"'\\ \n\xa0\u0378\u2028\u20ac\ue000\U0001f600\U000e0001", max_size=20)
requests = st.fixed_dictionaries(
    {
        "request_id": st.binary(min_size=1, max_size=16),
        "protocol": st.integers(1, 3),
        "status": st.integers(-1, 20) | st.integers(-(2**31), 2**31 - 1),
        "reset": st.integers(-1, 12) | st.integers(-1, 2**31 - 1),
        "texts": st.tuples(latin1, latin1, latin1, latin1, utf8.map(str.encode)),
        "route": utf8.map(str.encode),
        "client_id": utf8.map(str.encode),
        "counts": st.tuples(*[st.integers(0, 200) | st.integers(0, BIG)] * 4),
        "duration_us": st.integers(0, 2**40),
    }
)
PLAIN: dict[str, Any] = {
    "request_id": b"h-1",
    "protocol": 1,
    "status": 200,
    "reset": -1,
    "texts": (b"GET", b"h.example", b"/a/b?token=secret", b"0af7651916cd43dd8448eb211c80319c", b"203.0.113.7"),
    "route": b"h.example",
    "client_id": b"laptop",
    "counts": (1, 3, 0, 48213),
    "duration_us": 4211,
}


def record_of(request: dict[str, Any]) -> RequestRecord:
    """What it is to be, in Python."""
    method, host, path, trace_id = (text.decode("latin-1") for text in request["texts"][:4])
    path = path.partition("?")[0]
    return RequestRecord(
        request["request_id"].decode("latin-1"),
        {1: "http", 2: "grpc", 3: "websocket"}[request["protocol"]],
        host,
        path.rpartition("/")[2] if request["protocol"] == 2 else method,
        path,
        request["status"],
        request["reset"] if request["reset"] >= 0 else None,
        *request["counts"],
        duration_s=request["duration_us"] / 1e6,
        route=request["route"].decode(),
        trace_id=trace_id,
        client_id=request["client_id"].decode(),
        peer=request["texts"][4].decode(),
    )


def kept(*entered: dict[str, Any]) -> Journal:
    journal = Journal(lambda journal: None, None, 0)
    for request in entered:
        journal.enter(**request)
    return journal


def all_lines(journal: Journal, *, as_json: bool) -> list[bytes]:
    batch = journal.take()
    data = b"".join(iter(lambda: batch.lines(as_json), b""))
    assert not data or data.endswith(b"\n")
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


@settings(max_examples=200)
@given(st.lists(requests, min_size=1, max_size=3))
@example([PLAIN, {**PLAIN, "protocol": 2, "texts": (None, None, b"/a.B/Say", None, None)}])
@example([{**PLAIN, "texts": (b"GET", b"it's", b'/it\'s "so"', b"\\", b"\xc3\xa9\xc2\xa0")}])
def test_the_same_as_in_python(entered: list[dict[str, Any]]) -> None:
    entered = [{**one, "texts": tuple(text or b"" for text in one["texts"])} for one in entered]
    records = [record_of(one) for one in entered]
    assert [record for _, record in kept(*entered).take().records()] == records
    for line, record in zip(all_lines(kept(*entered), as_json=False), records, strict=True):
        clock, _, _ = line.partition(b" ")
        assert line == human(clock.decode(), record)
    for line, record in zip(all_lines(kept(*entered), as_json=True), records, strict=True):
        found = json.loads(line)
        assert found == json.loads(json_line(found["time"], record))
        assert list(found) == list(json.loads(json_line("", record)))


def test_the_time_of_a_line_is_when_it_ended() -> None:
    before = time.time()
    journal = kept(PLAIN)
    after = time.time()
    (line,) = all_lines(journal, as_json=False)
    assert timestamp(before) <= line.split(b" ")[0].decode() <= timestamp(after + 0.001)
    ((ended_s, _),) = kept(PLAIN).take().records()
    assert before - 0.001 <= ended_s <= time.time() + 0.001


def test_many_lines_come_in_parts_and_in_order() -> None:
    journal = kept(*({**PLAIN, "counts": (number, 0, 0, 0)} for number in range(5000)))
    batch, parts = journal.take(), []
    while part := batch.lines(True):
        parts.append(part)
    assert len(parts) > 1
    assert len(batch) == 0
    numbers = [json.loads(line)["messages_in"] for part in parts for line in part.splitlines()]
    assert numbers == [*range(5000)]


def test_a_text_that_is_longer_than_a_part() -> None:
    long = b"/" + b"\x01" * 2_000_000
    (line,) = all_lines(kept({**PLAIN, "texts": (b"GET", b"", long, b"", b"")}), as_json=True)
    assert json.loads(line)["path"] == long.decode()


def test_ready_is_called_for_the_first_record_since_it_was_taken() -> None:
    called: list[Journal] = []
    journal = Journal(called.append, None, 0)
    for _ in range(3):
        journal.enter(**PLAIN)
    assert called == [journal]
    assert len(journal.take()) == 3
    assert len(journal.take()) == 0
    journal.enter(**PLAIN)
    assert called == [journal, journal]


def test_what_nobody_takes_is_bounded_and_counted() -> None:
    long = {**PLAIN, "texts": (b"GET", b"", b"/" + b"x" * 1_000_000, b"", b"")}
    batch = kept(*[long] * 20).take()
    assert batch.size <= limits.ACCESS_LOG_BYTES
    assert (len(batch), batch.lost) == (16, 4)


@pytest.mark.parametrize("path", [b"/", b"/" + b"x" * 20_000])
def test_the_last_ones(path: bytes) -> None:
    journal = Journal(None, None, 10)
    assert journal.last(10) == []
    for number in range(2000):
        journal.enter(**{**PLAIN, "texts": (b"GET", b"", path, b"", b""), "status": number})
        for n in (1, 10):
            found = [record.status for _, record in journal.last(n)] if number % 50 < 12 else None
            assert found in (None, [*range(max(number + 1 - n, 0), number + 1)])
    assert len(journal.take()) == 0  # no access log, nothing is kept for it


def test_a_callback_gets_each() -> None:
    records: list[RequestRecord] = []
    journal = Journal(None, records.append, 0)
    journal.enter(**PLAIN)
    journal.enter(**{**PLAIN, "protocol": 3, "status": 1000})
    assert records == [record_of(PLAIN), record_of({**PLAIN, "protocol": 3, "status": 1000})]
