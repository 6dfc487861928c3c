"""What is installed here: the engine, and the versions of what it is made of."""

from __future__ import annotations

import importlib
import platform
import ssl
import sys
from importlib import metadata

from fasttunnel.api import EngineChoice
from fasttunnel.version import __version__

# By engine: what it runs on. The compiled one has its own libnghttp2 and OpenSSL.
PARTS = {"cython": ("uvloop",), "asyncio": ("grpcio", "h11", "h2", "wsproto", "uvloop")}


def versions(choice: EngineChoice) -> dict[str, str]:
    """By name. What the engine needs and is not there is "missing"."""
    found = {"fasttunnel": __version__, "python": f"{platform.python_version()} ({sys.implementation.name})"}
    if choice.name == "cython":
        found["libnghttp2"] = importlib.import_module("fasttunnel.engine._http2").nghttp2_version_text()
        found["openssl"] = importlib.import_module("fasttunnel.engine._tls").openssl_version()
    else:
        found["openssl"] = ssl.OPENSSL_VERSION
    for part in PARTS[choice.name]:
        try:
            found[part] = metadata.version(part)
        except metadata.PackageNotFoundError:
            found[part] = "missing"
    found["platform"] = platform.platform()
    return found
