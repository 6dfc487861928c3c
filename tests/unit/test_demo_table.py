"""The table of `fasttunnel demo`: one line for each request, also in a window of 80 columns."""

import io

from rich.console import Console

from fasttunnel.control.log import RequestRecord
from fasttunnel.demo.show import _table


def record(request_id: str, protocol: str, method: str, path: str, status: int, seconds: float) -> RequestRecord:
    megabytes = 8_000_000
    return RequestRecord(request_id, protocol, "", method, path, status, None, 1234, 1, megabytes, 96, seconds)


def test_nothing_wraps_at_80_columns() -> None:
    records = [
        record("h-3", "http", "GET", "/download", 200, 12.3456),
        record("ws-5", "websocket", "GET", "/ws", 1000, 0.0126),
        record("g-7", "grpc", "Greet", "/fasttunnel.demo.v1.Demo/Greet", 3, 0.4321),
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(_table(records, gap=1))
    lines = console.file.getvalue().splitlines()
    rows = [line.split()[0] for line in lines[2:]]
    assert rows == ["h-3", "ws-5", "g-7"]
    assert "Demo/Greet    INVALID ARGUMENT" in lines[-1]
    assert [line.split()[-1] for line in lines[2:]] == ["12,346", "12.6", "432"]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
