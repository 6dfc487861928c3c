from collections.abc import Callable
from typing import Any

from fasttunnel.control.config import ClientConfig
from fasttunnel.engine._io import Reactor
from fasttunnel.engine._tls import TlsContext

class Target:
    """A backend, with the connections to it."""

    host: str
    port: int
    grpc: bool
    def __init__(
        self,
        reactor: Reactor,
        host: str,
        port: int,
        grpc: bool,
        tls_context: TlsContext | None,
        dialler: Callable[[Any, Target], None],
        on_failure: Callable[[Target, str], None],
        config: ClientConfig,
    ) -> None: ...
