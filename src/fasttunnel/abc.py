"""What an engine has to offer. The Cython data plane satisfies this; so can anything that speaks the wire contract."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from fasttunnel.control.auth import Authenticator
from fasttunnel.control.config import ClientConfig, RouteSpec, ServerConfig
from fasttunnel.control.counts import Counts
from fasttunnel.control.log import Ended, Events
from fasttunnel.control.routes import RouteTable
from fasttunnel.control.taps import Taps


class ServerEngine(Protocol):
    """The public end: accepts requests and the tunnels that carry them."""

    def __init__(self, config: ServerConfig, *, authenticator: Authenticator, events: Events) -> None: ...

    @property
    def public_addresses(self) -> Sequence[tuple[str, int]]:
        """Host and port of each public socket, once started; a port 0 of the configuration has become a real one."""

    @property
    def tunnel_addresses(self) -> Sequence[tuple[str, int]]:
        """Host and port of each socket for tunnels, once started."""

    @property
    def routes(self) -> RouteTable[Any]:
        """What is up."""

    @property
    def taps(self) -> Taps:
        """Who looks on at the messages of its tunnels."""

    async def start(self) -> None:
        """Listen. Raises ListenError."""

    async def stop(self, grace_s: float | None = None) -> None:
        """Accept nothing new, let requests finish for `grace_s` seconds (None: as configured), then end the rest."""

    async def wait_closed(self) -> None:
        """Returns once stopped."""

    def reload(self, config: ServerConfig) -> None:
        """What begins from now on goes by this configuration. Raises ConfigError, and nothing has changed then."""

    def review(self) -> None:
        """Look at tokens and certificates now, and end the tunnels that may not be any more."""

    def status(self) -> dict[str, Any]:
        """Counts and links, for people and tests."""

    def last_requests(self, n: int) -> list[Ended]:
        """The last n that have finished, the newest last, if Events.keeps_last asks for so many."""

    def counts(self) -> Counts:
        """What has been since the start, and is under way, for metrics."""


class ClientEngine(Protocol):
    """The end beside the backends: dials the server, registers the routes, opens connections to backends."""

    def __init__(self, config: ClientConfig, *, events: Events, after: Self | None = None) -> None:
        """`after`: the engine whose tunnels this one is to take over. It is the same client to the server, which leaves
        the tunnels of that one alone until it stops."""

    @property
    def name(self) -> str:
        """The client's name under the server's domain, as far as it is known."""

    @property
    def urls(self) -> Sequence[str]:
        """How the public reaches the routes, as the server said."""

    @property
    def taps(self) -> Taps:
        """As for the server."""

    async def start(self) -> None:
        """Returns once registered, waits while the server is away. Raises AuthError, RegisterError, ConnectError."""

    async def check_login(self) -> None:
        """Instead of `start`: dial, see whether the server lets us in, and leave. Raises AuthError, ConnectError."""

    def add_route(self, spec: RouteSpec) -> Callable[[], None]:
        """Serve one more route, which is not registered, until what is returned is called."""

    async def stop(self, grace_s: float | None = None) -> None:
        """As for the server."""

    async def wait_closed(self) -> None:
        """Returns once stopped; raises what made it give up."""

    def status(self) -> dict[str, Any]:
        """Counts and connections, for people and tests."""

    def last_requests(self, n: int) -> list[Ended]:
        """As for the server."""

    def counts(self) -> Counts:
        """As for the server."""
