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

__version__ = "0.1.0"

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
