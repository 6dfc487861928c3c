"""The server that `fasttunnel login` remembers: a file of options, for clients that name no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from fasttunnel.control.config import ClientConfig, Secret
from fasttunnel.control.home import config_file, keep
from fasttunnel.control.schema import toml
from fasttunnel.control.sources import Options, from_file, merged
from fasttunnel.errors import ConfigError

REMEMBERED: Final = ("server", "token", "tls", "ca", "pins", "server_name", "cert", "key")
_FILES: Final = ("ca", "cert", "key")


def remember(config: ClientConfig) -> Path:
    """From now on, in the place of what was remembered before. Raises ConfigError."""
    path = config_file("login.toml")
    lines = ["# Made by `fasttunnel login`, removed by `fasttunnel logout`.\n"]
    for name, value in msgspec.structs.asdict(config).items():
        if name in REMEMBERED and value:
            value = str(Path(value).absolute()) if name in _FILES else value
            text = json.dumps(value.reveal()) if isinstance(value, Secret) else toml(value)
            lines.append(f"{name} = {text}\n")
    keep(path, "".join(lines))
    return path


def forget() -> bool:
    """Whether there was something to forget. Raises ConfigError."""
    path = config_file("login.toml")
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot remove {path}", detail=error.strerror) from None
    return True


def completed(options: Options) -> Options:
    """A client's, with the remembered server and what belongs to it where they name none. Raises ConfigError."""
    if "server" in options:
        return options
    try:
        path = config_file("login.toml")
    except ConfigError:
        return options  # no home, no memory
    return merged(from_file(path), options) if path.exists() else options
