from collections.abc import Callable
from typing import Any

from fasttunnel.control.config import ClientConfig
from fasttunnel.engine._io import Reactor

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
        dialler: Callable[[Any, Target], None],
        config: ClientConfig,
    ) -> None: ...
