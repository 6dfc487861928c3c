"""What one address may do, and that remembering it takes a bounded amount of memory."""

import pytest

from fasttunnel import limits
from fasttunnel.control.addresses import Connections, Mistakes, Verdict, address_key, host_of


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
        ("a:b", "a:b"),
    ],
)
def test_key(address: str, key: str) -> None:
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("peer", "host"), [("10.0.0.1:80", "10.0.0.1"), ("[::1]:80", "::1"), ("unknown", "unknown"), ("", "")]
)
def test_host(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_connections() -> None:
    connections = Connections(2)
    verdicts = [connections.enter("10.0.0.1", "public") for _ in range(5)]
    assert verdicts == [Verdict.WELCOME] * 2 + [Verdict.REFUSE] * 2 + [Verdict.DROP]
    assert connections.enter("10.0.0.2", "public") == Verdict.WELCOME
    assert connections.enter("10.0.0.1", "tunnel") == Verdict.WELCOME
    for _ in range(4):
        connections.leave("10.0.0.1", "public")
    assert connections.enter("10.0.0.1", "public") == Verdict.WELCOME
    for _ in range(2):
        connections.leave("10.0.0.1", "public")
    connections.leave("10.0.0.1", "tunnel")
    connections.leave("10.0.0.2", "public")
    assert not connections._open
    connections.leave("10.0.0.2", "public")
    assert not connections._open


def test_no_limit_of_connections() -> None:
    connections = Connections(0)
    assert {connections.enter("10.0.0.1", "public") for _ in range(100)} == {Verdict.WELCOME}
    connections.limit = 50  # it may come later, and finds what is open
    assert connections.enter("10.0.0.1", "public") == Verdict.DROP
    for _ in range(101):
        connections.leave("10.0.0.1", "public")
    assert not connections._open


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def test_mistakes() -> None:
    clock = Clock()
    mistakes = Mistakes(3, 60, clock)
    assert [mistakes.add("10.0.0.1") for _ in range(2)] == [False, False]
    assert not mistakes.barred("10.0.0.1")
    clock.now_s += 59
    assert mistakes.add("10.0.0.1")
    assert mistakes.barred("10.0.0.1")
    assert not mistakes.barred("10.0.0.2")
    clock.now_s += 59
    assert mistakes.barred("10.0.0.1"), "a minute from the last one on"
    clock.now_s += 2
    assert not mistakes.barred("10.0.0.1")
    assert len(mistakes) == 0


def test_mistakes_that_are_far_apart_do_not_count() -> None:
    clock = Clock()
    mistakes = Mistakes(2, 60, clock)
    for _ in range(5):
        assert not mistakes.add("10.0.0.1")
        clock.now_s += 60


def test_the_neighbours_in_a_network_count_as_one() -> None:
    mistakes = Mistakes(2, 60)
    mistakes.add("2001:db8::1")
    assert mistakes.add("2001:db8::2")
    assert mistakes.barred("2001:db8::3")


def test_no_limit_of_mistakes() -> None:
    mistakes = Mistakes(0, 60)
    assert not any(mistakes.add("10.0.0.1") for _ in range(100))
    assert not mistakes.barred("10.0.0.1")
    assert len(mistakes) == 0


def test_the_memory_of_mistakes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADDRESSES", 100)
    mistakes = Mistakes(1, 60)
    for number in range(1000):
        mistakes.add(f"10.0.{number // 256}.{number % 256}")
    assert len(mistakes) == 100
    assert mistakes.barred("10.0.3.231"), "the last ones are known"
    assert not mistakes.barred("10.0.0.0")
