"""Who may open a tunnel: one token or many, their end, and what happens to a file that changes."""

import os
import re
from pathlib import Path

import pytest

from fasttunnel.control import auth
from fasttunnel.control.auth import Authenticator, Login, Refused
from fasttunnel.control.config import Secret
from fasttunnel.control.routes import Route
from fasttunnel.control.tokens import digest_of, token_lines
from fasttunnel.errors import ConfigError, GrpcStatus


def test_right_token() -> None:
    authenticator = Authenticator(Secret("s3cret"))
    assert authenticator.login(b"Bearer s3cret").identity.name == "token"
    assert authenticator.login(b"bearer  s3cret ").identity.name == "token"
    assert not authenticator.changes


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"s3cret",
        b"Basic s3cret",
        b"Bearer s3cre",
        b"Bearer s3cret2",
        b"Bearer \xff\x00",
        b"Bearer " + digest_of(b"s3cret"),
        b"Bearer sha256:" + digest_of(b"s3cret").hex().encode(),
    ],
)
def test_refused(authorization: bytes | None) -> None:
    with pytest.raises(Refused) as refusal:
        Authenticator(Secret("s3cret")).login(authorization)
    assert refusal.value.status == GrpcStatus.UNAUTHENTICATED
    assert ("required" in refusal.value.text) == (authorization is None)


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer whatever"])
def test_without_a_token_everybody_is_let_in(authorization: bytes | None) -> None:
    authenticator = Authenticator(max_failed_logins=1)
    for _ in range(3):
        assert authenticator.login(authorization).identity.name == "anonymous"


class Desk:
    """An authenticator with a file, and what it warns of."""

    def __init__(self, path: Path, *, token: str | None = None, failures: int = 3) -> None:
        self.path = path
        self.write(("shop", "shop-1"), ("shop", "shop-2"), ("blog", "blog-1"))
        self.warnings: list[str] = []
        self.authenticator = Authenticator(
            Secret(token) if token else None, str(path), max_failed_logins=failures, warn=self.warnings.append
        )

    def write(self, *entries: tuple[str, str], mode: int = 0o600, **fields: object) -> None:
        """Each is (name, token)."""
        self.put("".join(token_lines(name, digest_of(token.encode()), **fields) for name, token in entries), mode)

    def put(self, text: str, mode: int = 0o600) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.replace(self.path)

    def login(self, token: str, peer: str = "10.0.0.1:5") -> Login:
        return self.authenticator.login(f"Bearer {token}".encode(), peer)

    def refusal(self, token: str, peer: str = "10.0.0.1:5") -> Refused:
        with pytest.raises(Refused) as refusal:
            self.login(token, peer)
        return refusal.value

    def renewal(self, login: Login, *routes: Route) -> Refused:
        with pytest.raises(Refused) as refusal:
            self.authenticator.renew(login, "", routes)
        return refusal.value


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "tokens.toml")


def test_several_tokens_of_one_name_are_one_identity(desk: Desk) -> None:
    first, second, other = (desk.login(token) for token in ("shop-1", "shop-2", "blog-1"))
    assert first.identity is second.identity is not other.identity
    assert first.party == second.party == "shop" != other.party
    assert first.owner("a") != other.owner("a")
    assert desk.refusal("shop-3").status == GrpcStatus.UNAUTHENTICATED
    assert desk.warnings == []


def test_the_token_beside_the_file(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "tokens.toml", token="one")
    login = desk.login("one")
    assert login.identity.name == "token"
    desk.write(("blog", "blog-2"))
    desk.authenticator.poll(at_once=True)
    assert desk.authenticator.renew(login, "", ()).identity.name == "token"
    assert desk.login("one").identity is login.identity


def test_a_change_counts_when_it_is_seen_twice(desk: Desk) -> None:
    login = desk.login("shop-1")
    desk.write(("shop", "shop-2"), ("shop", "shop-3"))
    desk.authenticator.poll()
    assert desk.authenticator.renew(login, "", ()) is login, "somebody may still be writing"
    desk.authenticator.poll()
    assert desk.login("shop-3").identity is login.identity
    gone = desk.renewal(login)
    assert (gone.status, gone.text) == (GrpcStatus.UNAUTHENTICATED, "the token is no longer valid")
    assert desk.refusal("shop-1").status == GrpcStatus.UNAUTHENTICATED
    assert desk.warnings == []


def test_a_signal_has_it_read_at_once(desk: Desk) -> None:
    desk.write(("shop", "shop-3"))
    desk.authenticator.poll(at_once=True)
    assert desk.login("shop-3")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[tokens]\n", "is not TOML"),
        ("", r"no \[\[tokens\]\]"),
        ('[[tokens]]\nname = "shop"\nhash = "shop-1"\n', r"tokens\[0\], shop: its hash"),
        ("number = " + "1" * 5_000, "is not TOML"),
        ("list = " + "[" * 5_000, "is not TOML"),
        (None, "cannot read the tokens file"),
    ],
)
def test_a_broken_file_keeps_the_tokens(desk: Desk, text: str | None, says: str) -> None:
    login = desk.login("shop-1")
    if text is None:
        desk.path.unlink()
    else:
        desk.put(text)
    for _ in range(4):
        desk.authenticator.poll()
    (warning,) = desk.warnings
    assert str(desk.path) in warning
    assert "the tokens of before stay valid" in warning
    assert re.search(says, warning)
    assert "shop-1" not in warning
    assert desk.authenticator.renew(login, "", ()) is login
    desk.write(("shop", "shop-2"))
    desk.authenticator.poll(at_once=True)
    assert desk.renewal(login).status == GrpcStatus.UNAUTHENTICATED


def test_an_empty_list_is_for_none(desk: Desk) -> None:
    desk.put("tokens = []\n")
    desk.authenticator.poll(at_once=True)
    assert desk.refusal("shop-1").status == GrpcStatus.UNAUTHENTICATED


def test_no_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the tokens file .*No such file"):
        Authenticator(None, str(tmp_path / "none"))


def test_expiry(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put(token_lines("shop", digest_of(b"shop-1")).replace("\n\n", "\n") + "expires = 2030-01-01T00:00:00Z\n")
    desk.authenticator.poll(at_once=True)
    monkeypatch.setattr(auth, "now", lambda: 1893455999.0)  # one second before
    login = desk.login("shop-1")
    assert desk.authenticator.renew(login, "", ()) is login
    monkeypatch.setattr(auth, "now", lambda: 1893456000.0)
    expired = GrpcStatus.UNAUTHENTICATED, "the token has expired"
    assert (desk.renewal(login).status, desk.renewal(login).text) == expired
    assert (desk.refusal("shop-1").status, desk.refusal("shop-1").text) == expired
    # It has got more time, in the same moment in which it would have been over.
    desk.write(("shop", "shop-1"))
    desk.authenticator.poll(at_once=True)
    assert desk.authenticator.renew(login, "", ()).expires_s is None


def test_a_token_that_permits_less_ends_what_it_does_not_permit(desk: Desk) -> None:
    login = desk.login("shop-1")
    desk.write(("shop", "shop-1"), hosts=("a.example",))
    desk.authenticator.poll(at_once=True)
    assert desk.authenticator.renew(login, "", [Route(host="a.example")]).permission.hosts == ("a.example",)
    refusal = desk.renewal(login, Route(host="a.example"), Route(host="b.example"))
    assert refusal.status == GrpcStatus.PERMISSION_DENIED
    assert "b.example" in refusal.text


def test_a_token_that_changes_its_name_registers_again(desk: Desk) -> None:
    login = desk.login("shop-1")
    desk.write(("other", "shop-1"))
    desk.authenticator.poll(at_once=True)
    assert desk.renewal(login).status == GrpcStatus.UNAVAILABLE


def test_rates_belong_to_the_identity_and_change_with_the_file(desk: Desk) -> None:
    identity = desk.login("shop-1").identity
    assert identity.requests.rate == identity.bytes.rate == 0
    desk.write(("shop", "shop-1"), requests_per_second=5, bytes_per_second=2.5e6)
    desk.authenticator.poll(at_once=True)
    assert desk.login("shop-1").identity is identity
    assert (identity.requests.rate, identity.bytes.rate) == (5, 2.5e6)


def test_failed_logins_bar_an_address(desk: Desk) -> None:
    for _ in range(3):
        assert desk.refusal("wrong").status == GrpcStatus.UNAUTHENTICATED
    for token in ("wrong", "shop-1"):
        refusal = desk.refusal(token, "10.0.0.1:99")
        assert refusal.status == GrpcStatus.RESOURCE_EXHAUSTED
        assert "too many failed logins" in refusal.text
    assert desk.login("shop-1", "10.0.0.2:5")
    (warning,) = desk.warnings
    assert "from 10.0.0.1:" in warning


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_file_that_others_can_read_gets_a_warning(desk: Desk) -> None:
    desk.write(("shop", "shop-1"), mode=0o644)
    desk.authenticator.poll(at_once=True)
    (warning,) = desk.warnings
    assert f"chmod 600 {desk.path}" in warning
    assert "0644" in warning


def test_nothing_shows_a_token(desk: Desk) -> None:
    login = desk.login("shop-1")
    shown = repr(login) + str(login) + repr(desk.authenticator) + repr(login.identity)
    assert "shop-1" not in shown
