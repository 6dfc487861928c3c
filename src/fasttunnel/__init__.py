"""fasttunnel: a reverse tunnel for HTTP, WebSocket and gRPC. Importing it loads no engine."""

from fasttunnel.api import Client, Server
from fasttunnel.errors import (
    AuthError,
    BuildError,
    ConfigError,
    ConnectError,
    FasttunnelError,
    ListenError,
    RegisterError,
    ResetCode,
    RouteTaken,
)
from fasttunnel.version import __version__

__all__ = [
    "AuthError",
    "BuildError",
    "Client",
    "ConfigError",
    "ConnectError",
    "FasttunnelError",
    "ListenError",
    "RegisterError",
    "ResetCode",
    "RouteTaken",
    "Server",
    "__version__",
]
