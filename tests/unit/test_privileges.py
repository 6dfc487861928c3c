"""Becoming another user; as root it is tried in tests/e2e/test_command_line.py."""

import os
import pwd

import pytest

from fasttunnel.control.privileges import become, find_user
from fasttunnel.errors import ConfigError


def test_a_user_that_is_not() -> None:
    with pytest.raises(ConfigError, match="no user 'nobody-of-that-name'"):
        find_user("nobody-of-that-name")


def test_a_root_that_may_not_change_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "initgroups", refuse)
    with pytest.raises(ConfigError, match="CAP_SETUID"):
        become(pwd.getpwuid(os.getuid()))
