"""The token of a server that was given none: made at its first start, and used again at every later one."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from fasttunnel import limits
from fasttunnel.control.config import Secret
from fasttunnel.control.home import make, state_file
from fasttunnel.control.sources import Given, Options, read_token
from fasttunnel.control.tokens import new_token
from fasttunnel.errors import ConfigError

_CREDENTIALS: Final = ("token", "tokens_file", "client_ca")
_HINT: Final = (
    "set FASTTUNNEL_TOKEN or --token-file, or XDG_STATE_HOME to a directory that can be written and outlives a "
    "container; --no-token goes without on this machine"
)


class OwnToken(NamedTuple):
    """Where it is, and whether this start has made it."""

    path: Path
    secret: Secret
    new: bool


def is_wanted(options: Options) -> bool:
    """Whether clients would need nothing to be let in."""
    return not any(name in options and options[name].value for name in _CREDENTIALS)


def own_token() -> OwnToken:
    """The one that is kept, or a new one. Raises ConfigError where it can be neither read nor kept."""
    try:
        path = state_file("token")
        new = not path.exists() and make(path, f"{new_token()}\n")
        return OwnToken(path, read_token(path), new)
    except (ConfigError, OSError) as error:
        detail = f"{error.message}: {error.detail}" if isinstance(error, ConfigError) else error.strerror
        raise ConfigError("the server has no token, and cannot keep one", detail=detail, hint=_HINT) from None


def as_option(token: OwnToken) -> Options:
    return {"token": Given(token.secret, str(token.path))}


def to_be_made() -> Options:
    """In its place, for whoever only looks."""
    return {"token": Given(Secret("*" * limits.SHORT_TOKEN), "made at the first start")}
