"""Who may open a tunnel."""

import pytest

from fasttunnel.control.auth import Authenticator
from fasttunnel.control.config import Secret


def test_right_token() -> None:
    authenticator = Authenticator(Secret("s3cret"))
    assert authenticator.check(b"Bearer s3cret") == "token"
    assert authenticator.check(b"bearer  s3cret ") == "token"


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
    ],
)
def test_refused(authorization: bytes | None) -> None:
    assert Authenticator(Secret("s3cret")).check(authorization) is None


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer whatever"])
def test_without_a_token_everybody_is_let_in(authorization: bytes | None) -> None:
    assert Authenticator().check(authorization) == "anonymous"
