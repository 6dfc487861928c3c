"""The rule of support/feeding.py: tests of stream parsers never feed them by hand."""

import random
from pathlib import Path

import pytest

from tests.support.feeding import cuts

TESTS = Path(__file__).resolve().parents[1]
EXCEPTION = "# by hand:"  # on the line itself, with a reason


def test_no_test_feeds_a_kernel_by_hand() -> None:
    sources = [
        source
        for folder in ("unit", "differential")
        for source in sorted((TESTS / folder).glob("test_*.py"))
        if "fasttunnel._core" in source.read_text()
    ]
    assert {source.name for source in sources} >= {"test_websocket.py", "test_grpc.py", "test_http1_body.py"}
    by_hand = [
        f"{source.name}:{number}"
        for source in sources
        for number, line in enumerate(source.read_text().splitlines(), 1)
        if ".feed(" in line and EXCEPTION not in line and source.name != Path(__file__).name
    ]
    assert not by_hand


@pytest.mark.parametrize("length", [0, 1, 2, 17, 5000, 20_000])
def test_cuts_lose_nothing(length: int) -> None:
    data = random.Random(length).randbytes(length)
    ways = list(cuts(data))
    assert len(ways) > 2
    assert all(b"".join(parts) == data for parts in ways)
    assert any(len(parts) >= min(length, 100) for parts in ways)
