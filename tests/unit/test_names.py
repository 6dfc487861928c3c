"""Names under the server's domain: what may be one, and that no two clients have the same."""

import pytest

from fasttunnel import limits
from fasttunnel.control.names import Names, check_name
from fasttunnel.control.words import new_name
from fasttunnel.errors import ConfigError


@pytest.mark.parametrize("text", ["a", "brisk-otter", "7", "a" * 63, "Shop"])
def test_names(text: str) -> None:
    assert check_name(text) == text.lower()


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "a.b", "a_b", "a b", "a" * 64, "xn--80ak6aa92e", "é", "*", "a\n", "a/b"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        check_name(text)


def test_new_names_are_names_and_differ() -> None:
    made = {check_name(new_name()) for _ in range(1000)}
    assert len(made) > 900


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_name_belongs_to_its_owner_until_a_while_after_it_has_gone() -> None:
    clock = Clock()
    names = Names("example.com", clock)
    first, second = object(), object()
    names.enter(first, "otter", "t/a")
    names.enter(second, "otter", "t/a")
    assert names.is_free("otter", "t/a")
    assert not names.is_free("otter", "t/b")
    assert names.conflict(["x.org", "otter.example.com"], "t/b") == "otter.example.com"
    assert names.conflict(["otter.example.com"], "t/a") is None
    assert names.conflict(["a.otter.example.com", "example.com", ""], "t/b") is None
    names.leave(first)
    names.leave(first)
    clock.now = 10 * limits.OUTAGE_S
    assert not names.is_free("otter", "t/b"), "another tunnel of the client is up"
    names.leave(second)
    assert next(names.candidates("t/a")) == "otter", "the client that comes back is called as before"
    clock.now += limits.OUTAGE_S - 1
    assert not names.is_free("otter", "t/b")
    clock.now += 1
    assert names.is_free("otter", "t/b")
    names.enter(first, "otter", "t/b")
    names.leave(second)
    assert not names.is_free("otter", "t/a")
    assert next(names.candidates("t/a")) != "otter"


def test_what_is_remembered_of_clients_that_have_gone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED_ROUTES", 3)
    names = Names("example.com", Clock())
    members = [object() for _ in range(5)]
    for index, member in enumerate(members):
        names.enter(member, f"n{index}", f"t/{index}")
    for member in members:
        names.leave(member)
    assert [names.is_free(f"n{index}", "other") for index in range(5)] == [True, True, False, False, False]


def test_no_domain_has_no_names() -> None:
    names = Names("")
    assert names.name_in("a.b") == ""
    assert names.conflict(["a."], "x") is None
