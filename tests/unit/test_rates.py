"""Token buckets, on a clock that the test turns."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttunnel.control.rates import Bucket


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_of_one_second_and_then_the_rate(clock: Clock) -> None:
    bucket = Bucket(10, clock)
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    assert bucket.wait_s(1) == pytest.approx(0.1)
    clock.now_s += 0.1001
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now_s += 3600
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False], "no more than a second is saved up"


def test_less_than_one_a_second(clock: Clock) -> None:
    bucket = Bucket(0.01, clock)
    assert [bucket.take() for _ in range(2)] == [True, False]
    assert bucket.wait_s(1) == pytest.approx(100)
    clock.now_s += 101
    assert bucket.take()


def test_what_is_spent_beyond_is_owed(clock: Clock) -> None:
    bucket = Bucket(100, clock)
    assert bucket.spend(50)
    assert bucket.open
    assert not bucket.spend(1050)
    assert bucket.level == -1000
    assert not bucket.open
    wait_s = bucket.wait_s()
    assert wait_s >= 10
    clock.now_s += wait_s
    assert bucket.open


def test_no_limit(clock: Clock) -> None:
    bucket = Bucket(0, clock)
    assert bucket.take(1e18)
    assert bucket.spend(1e18)
    assert bucket.open
    assert bucket.level == math.inf
    assert bucket.wait_s() == bucket.wait_s(1) == 0


def test_another_rate(clock: Clock) -> None:
    bucket = Bucket(0, clock)
    bucket.change(10)
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    bucket.change(1000)
    assert not bucket.take(), "it does not begin full"
    bucket.spend(5)
    bucket.change(1)
    assert bucket.level == pytest.approx(-5), "nor is a debt forgotten"
    bucket.change(0)
    assert bucket.take()
    bucket.change(10)
    assert bucket.level == 10


@given(
    st.floats(0.1, 1e6),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e6), st.booleans()), max_size=50),
)
def test_never_more_than_the_rate_and_one_burst_and_the_last_piece(
    rate: float, steps: list[tuple[float, float, bool]]
) -> None:
    """However it is asked: what has passed before any moment is within the rate, but for what was spent on credit."""
    clock = Clock()
    bucket = Bucket(rate, clock)
    passed, last = 0.0, 0.0
    for pause_s, count, ask in steps:
        clock.now_s += pause_s
        if ask:
            before = bucket.level
            if bucket.take(count):
                assert count <= before
                passed, last = passed + count, 0.0
        elif bucket.open:
            bucket.spend(count)
            passed, last = passed + count, count
        allowed = max(rate, 1.0) + (clock.now_s - 1000.0) * rate
        assert passed - last <= allowed * (1 + 1e-9)


@given(st.floats(0.1, 1e6), st.floats(0, 1e7))
def test_after_the_wait_something_passes(rate: float, count: float) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    bucket.spend(count)
    clock.now_s += bucket.wait_s() * (1 + 1e-6) + 1e-6
    assert bucket.open
