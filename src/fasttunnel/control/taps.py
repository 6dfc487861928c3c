"""Who looks on at the TunnelMessages of an engine: listeners come and go while tunnels are up.

An engine has one `Taps`. While nobody listens its tunnels have None to call, and nothing is copied or made.
"""

import functools
import logging
import operator
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from fasttunnel.control.counts import PROTOCOLS

ALL: Final = 0xFF  # of bits: 1 << ProtocolType
CONTROL: Final = "control"  # registration, heartbeats, credit: what belongs to the tunnel and not to what it carries
CHOICES: Final = (*PROTOCOLS.values(), CONTROL)


class UnderWay(NamedTuple):
    """What an end knows of a request that is under way."""

    protocol: str  # "http", "grpc" or "websocket"
    route: str  # as it is counted; empty: not known yet
    method: str  # of HTTP; empty: not known, as it is kept for records only
    host: str  # the same
    path: str  # the same, but known of every call: "/SERVICE/METHOD"; without a query
    age_s: float
    to_backend: int  # messages so far: chunks of HTTP, messages of gRPC, frames of WebSockets
    to_public: int


class Tapped(Protocol):
    """A tunnel, as its listeners see it."""

    @property
    def far_end(self) -> str:
        """Address of the other end; at the client as configured."""

    def request(self, request_id: str) -> UnderWay | None:
        """None: there is none of this name, or none yet, or it has ended."""


# Called with each message as it is sent (True) or has come, encoded.
Listener = Callable[[Tapped, bool, bytes], None]


class Tappable(Tapped, Protocol):
    tap: Listener | None
    tap_protocols: int  # a tunnel need not show others


class Taps:
    """`tunnels` returns those of the engine that are up. `first` is Events.tap, which listens from the start.

    A client that goes on with another engine has one for both: see `follow`.
    """

    def __init__(
        self,
        tunnels: Callable[[], Iterable[Tappable]],
        first: Callable[[str, bool, bytes], None] | None = None,
    ) -> None:
        self._tunnels = [tunnels]
        self._listeners: dict[Listener, int] = {}  # with the protocols that each wants; a new one at each change
        if first is not None:
            self._listeners = {lambda tunnel, sent, message: first(tunnel.far_end, sent, message): ALL}

    def follow(self, tunnels: Callable[[], Iterable[Tappable]]) -> None:
        """Listen to these as well."""
        self._tunnels.append(tunnels)

    def leave(self, tunnels: Callable[[], Iterable[Tappable]]) -> None:
        """There will be none of these any more. Those that were not followed are no mistake."""
        self._tunnels = [others for others in self._tunnels if others is not tunnels]

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: Listener, protocols: int = ALL) -> None:
        """One that is there already wants others from now on. It may be shown more than it wants."""
        self._set({**self._listeners, listener: protocols})

    def remove(self, listener: Listener) -> None:
        """One that is not there any more is no mistake."""
        self._set({other: protocols for other, protocols in self._listeners.items() if other != listener})

    def _set(self, listeners: dict[Listener, int]) -> None:
        self._listeners = listeners
        for tunnels in self._tunnels:
            for tunnel in tunnels():
                self.attend(tunnel)

    def attend(self, tunnel: Tappable) -> None:
        """Have a tunnel call those who listen now."""
        tunnel.tap = self._tell if self._listeners else None
        tunnel.tap_protocols = functools.reduce(operator.or_, self._listeners.values(), 0)

    def _tell(self, tunnel: Tapped, sent: bool, message: bytes) -> None:
        """A listener that fails is taken off: it only looks on."""
        for listener in self._listeners:
            try:
                listener(tunnel, sent, message)
            except Exception:
                logging.getLogger("fasttunnel").exception("a tap failed")
                self.remove(listener)
