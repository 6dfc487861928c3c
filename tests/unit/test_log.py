"""What is told now and then."""

import pytest

from fasttunnel import limits
from fasttunnel.control.log import Sparing


def test_the_same_is_told_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    sparing = Sparing(lambda: now)
    assert [sparing.permits("a", 1), sparing.permits("a", 1), sparing.permits("a", 2)] == [True, False, True]
    now += limits.SAME_LINE_S
    assert [sparing.permits("a", 1), sparing.permits("a", 1)] == [True, False]
    monkeypatch.setattr(limits, "ADDRESSES", 2)
    assert [sparing.permits(what) for what in "bcd"] == [True] * 3
    assert [sparing.permits(what) for what in "dcb"] == [False, False, True], "no more than two are remembered"
