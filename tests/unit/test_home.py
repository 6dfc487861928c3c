"""Files that are kept for the user: complete, private, where the platform wants them."""

import stat
from pathlib import Path

import pytest

from fasttunnel.control import home
from fasttunnel.errors import ConfigError


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    assert home.state_file("x") == tmp_path / "s" / "fasttunnel" / "x"
    assert home.config_file("x") == tmp_path / "c" / "fasttunnel" / "x"


@pytest.mark.parametrize("found", [RuntimeError("no home"), Path("~/.local")], ids=["unknown", "as it stands"])
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, found: RuntimeError | Path) -> None:
    """As in a container that is run with --user 12345."""

    def place(name: str) -> Path:
        if isinstance(found, Path):
            return found
        raise found

    monkeypatch.setattr("platformdirs.user_state_path", place)
    with pytest.raises(ConfigError, match="no home directory .*set HOME"):
        home.state_file("token")


def test_a_file_is_replaced_whole_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file"
    assert home.make(path, "one")
    assert not home.make(path, "two")
    assert path.read_text() == "one"
    home.keep(path, "three")
    assert path.read_text() == "three"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_as_typed_into_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.shown(tmp_path / ".local" / "x") == "~/.local/x"
    assert home.shown(tmp_path / "a b") == f"'{tmp_path}/a b'"
    assert home.shown(Path("/etc/x y")) == "'/etc/x y'"
