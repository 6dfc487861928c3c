"""What the holder of a token may register."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from fasttunnel.control.routes import GRPC, Route, places

_GIVEN = re.compile(r"client-[0-9a-f]{12}")  # a name that a server gave, see ServerEngine._register


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """Of each None: anything. Hosts, prefixes and services are in the normal form of routes."""

    hosts: tuple[str, ...] | None = None  # exact, or "*.suffix" for all names below it and the pattern itself
    paths: tuple[str, ...] | None = None  # prefixes: these and what is below them; "" is all
    services: tuple[str, ...] | None = None  # of gRPC; where this is None, `paths` say which calls
    client_ids: tuple[str, ...] | None = None
    exclusive: bool = True  # may ask for routes that it shares with nobody
    shared: bool = False  # shares its routes with other names that do too

    def refusal(self, routes: Iterable[Route], client_id: str = "") -> str | None:
        """Why not, in words that say nothing of what others may; None: it may."""
        named = self.client_ids is not None and client_id and not _GIVEN.fullmatch(client_id)
        if named and client_id not in (self.client_ids or ()):
            return f"the token does not permit the client_id {client_id}"
        for route in routes:
            if not self._permits(route):
                return f"the token does not permit the route {route} ({route.kinds})"
            if route.exclusive and not self.exclusive:
                return f"the token does not permit the route {route} to be exclusive"
        return None

    def _permits(self, route: Route) -> bool:
        if self.hosts is not None and not any(_covers(pattern, route.host) for pattern in self.hosts):
            return False
        return all(self._permits_place(protocol, prefix) for protocol, (prefix, *_) in places(route))

    def _permits_place(self, protocol: int, prefix: str) -> bool:
        """A gRPC service is the path prefix of its calls."""
        allowed = self.paths
        if protocol == GRPC and self.services is not None:
            allowed = tuple(f"/{service}" for service in self.services)
        return allowed is None or any(f"{prefix}/".startswith(f"{outer}/") for outer in allowed)


def _covers(pattern: str, host: str) -> bool:
    """Whether every host that a route's `host` matches is one that `pattern` matches."""
    return host == pattern or (pattern.startswith("*.") and host.removeprefix("*").endswith(pattern[1:]) and host != "")
