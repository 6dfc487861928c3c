"""What is kept for the user who runs a command: where, and for nobody else to read."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from fasttunnel.errors import ConfigError

NAME = "fasttunnel"


def config_file(name: str) -> Path:
    """A file that a person may want to look at, or to copy. Raises ConfigError when there is no home for it."""
    return _inside(platformdirs.user_config_path, name)


def state_file(name: str) -> Path:
    """A file of what was so the last time. Raises ConfigError."""
    return _inside(platformdirs.user_state_path, name)


def _inside(directory_of: Callable[[str], Path], name: str) -> Path:
    with contextlib.suppress(RuntimeError):  # the system does not know the user, and there is no HOME
        directory = directory_of(NAME)
        if directory.is_absolute():
            return directory / name
    raise ConfigError("this user has no home directory to keep a file in", hint="set HOME")


def keep(path: Path, text: str) -> None:
    """Write the file, or put it in the place of one that is there. Raises ConfigError."""
    with _written(path, text) as written:
        written.replace(path)


def make(path: Path, text: str) -> bool:
    """The same, and False when the file is there already: another process may have been faster. Raises ConfigError."""
    with _written(path, text) as written:
        try:
            os.link(written, path)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def _written(path: Path, text: str) -> Iterator[Path]:
    """A file beside it, complete, for its owner alone: nobody finds half a file."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        written = Path(name)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            yield written
        finally:
            written.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}", detail=(error.strerror or str(error)).lower()) from None


def shown(path: Path) -> str:
    """As a person types it into a shell."""
    with contextlib.suppress(ValueError, RuntimeError):
        inside = str(path.relative_to(Path.home()))
        if shlex.quote(inside) == inside:
            return f"~/{inside}"
    return shlex.quote(str(path))
