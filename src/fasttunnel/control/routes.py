"""Routes: what a client serves, and which client gets a request.

The rules (wire contract, "Route"): the longest match wins, which is exact host before wildcard before none, then the
longest path prefix or a named gRPC service, then a route that names the protocol. Equal routes of several clients share
in turn.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import msgspec

from fasttunnel import limits
from fasttunnel.errors import ConfigError, RouteTaken

if TYPE_CHECKING:
    from fasttunnel.wire import tunnel_pb2

HTTP, GRPC, WEBSOCKET = 1, 2, 3  # fasttunnel.v1.ProtocolType
PROTOCOLS = {HTTP: "HTTP", GRPC: "gRPC", WEBSOCKET: "WebSocket"}

_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|\[[0-9a-f:.]+\]")
_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_EVERYWHERE = re.compile(r"(?<=://)(0\.0\.0\.0|\[::\])(?=:)")
_PREFIX = re.compile(r"/[!\"$->@-~]*")  # visible ASCII but '#' and '?'
_CACHED_HOSTS = 4096

T = TypeVar("T")


class Route(msgspec.Struct, frozen=True):
    """What is served: `fasttunnel.v1.Route`. Checked when made; hosts and prefixes are kept in their normal form.

    Raises ConfigError when a field cannot be used.
    """

    host: str = ""  # "example.com", "*.example.com" (names below it at any depth), "" for any
    path_prefix: str = ""  # "/api" matches /api and /api/x, not /apix; "" for any
    grpc_service: str = ""  # "pkg.Service", "" for any
    strip_prefix: bool = False
    host_rewrite: str = ""
    protocols: tuple[int, ...] = ()  # empty: all
    exclusive: bool = False

    def __post_init__(self) -> None:
        force = msgspec.structs.force_setattr
        force(self, "host", check_host(self.host))
        prefix = self.path_prefix.rstrip("/")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ConfigError(f"path prefix {self.path_prefix!r} cannot be used", hint="it looks like /api or /api/v1")
        force(self, "path_prefix", prefix)
        if self.grpc_service and not _SERVICE.fullmatch(self.grpc_service):
            raise ConfigError(f"gRPC service {self.grpc_service!r} cannot be used", hint="it looks like pkg.Service")
        inside = f"/{self.grpc_service}/".startswith(f"{prefix}/") or f"{prefix}/".startswith(f"/{self.grpc_service}/")
        if prefix and self.grpc_service and not inside:
            raise ConfigError(f"no call of {self.grpc_service} has a path below {prefix}", hint="make it two routes")
        unknown = [number for number in self.protocols if number not in PROTOCOLS]
        if unknown:
            raise ConfigError(f"protocol {unknown[0]} is not known")
        if self.host_rewrite and ("*" in self.host_rewrite or not _AUTHORITY.fullmatch(self.host_rewrite.lower())):
            raise ConfigError(f"host {self.host_rewrite!r} cannot be sent to a backend")

    def __str__(self) -> str:
        """As on the command line: `example.com/api`."""
        path = f"/{self.grpc_service}" if self.grpc_service else self.path_prefix
        return self.host + path or "everything"

    @property
    def kinds(self) -> str:
        """The protocols in words."""
        return ", ".join(PROTOCOLS[number] for number in self.protocols or PROTOCOLS)

    def url(self, host: str, port: int, *, secure: bool = False) -> str:
        """How the public reaches this route of a server at `host` and `port`, by TLS if it is `secure`."""
        scheme = ("grpc" if self.protocols == (GRPC,) else "http") + "s" * secure
        path = f"/{self.grpc_service}" if self.grpc_service else self.path_prefix
        where = format_address(self.host or host, port)
        usual = {"http": 80, "https": 443}.get(scheme) == port
        return f"{scheme}://{where.rpartition(':')[0] if usual else where}{path}"

    def to_message(self) -> tunnel_pb2.Route:
        """This route in a Register or Registered."""
        from fasttunnel.wire import tunnel_pb2  # protobuf takes its time to import

        return tunnel_pb2.Route(
            host=self.host,
            path_prefix=self.path_prefix,
            grpc_service=self.grpc_service,
            strip_prefix=self.strip_prefix,
            host_rewrite=self.host_rewrite,
            protocols=self.protocols,  # type: ignore[arg-type]  # numbers serve as enum values
            exclusive=self.exclusive,
        )

    @classmethod
    def from_message(cls, message: tunnel_pb2.Route) -> Route:
        """A route that a peer sent. Raises ConfigError when a field cannot be used."""
        return cls(
            host=message.host,
            path_prefix=message.path_prefix,
            grpc_service=message.grpc_service,
            strip_prefix=message.strip_prefix,
            host_rewrite=message.host_rewrite,
            protocols=tuple(message.protocols),
            exclusive=message.exclusive,
        )


_AUTHORITY = re.compile(rf"({_HOST.pattern})(:[0-9]{{1,5}})?")


def check_host(host: str) -> str:
    """The normal form of a host pattern: lower case, without a trailing dot, in ASCII."""
    name = host.lower().removesuffix(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError as error:
            raise ConfigError(f"host {host!r} is not a name", detail=str(error)) from None
    if name and (len(name) > limits.HOST_BYTES or not _HOST.fullmatch(name)):
        port = _AUTHORITY.fullmatch(name) is not None
        raise ConfigError(
            f"host {host!r} cannot be used",
            hint="leave the port away" if port else "it looks like example.com or *.example.com",
        )
    return name


def normal_host(host: str) -> str:
    """A host as a request names it, in the form of routes: lower case, without port and trailing dot."""
    if host.startswith("["):
        host = host[: host.find("]") + 1]
    else:
        host = host.partition(":")[0]
    return host.lower().removesuffix(".")


def by_protocol(counts: Iterable[tuple[int, int, int]]) -> dict[str, int]:
    """The sums of counts of HTTP, gRPC and WebSocket, by name."""
    sums = [sum(column) for column in zip((0, 0, 0), *counts, strict=True)]
    return dict(zip(("http", "grpc", "websocket"), sums, strict=True))


def format_address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def at_host(url: str, host: str) -> str:
    """A URL of a server that has been found at `host`: one that listens everywhere cannot say where that is."""
    known = f"[{host}]" if ":" in host else host
    return _EVERYWHERE.sub(lambda _: known, url, count=1)


class _Bucket(Generic[T]):
    """Routes that match the same requests, of one or several targets, which take turns."""

    __slots__ = ("inside", "members", "order", "prefix", "rank", "turn")

    def __init__(self, rank: tuple[str, bool, bool]) -> None:
        self.rank = rank  # path prefix, names a service, names the protocol
        self.prefix = rank[0]
        self.inside = rank[0] + "/"
        # Best first, those of one prefix side by side. Rows are long when routes have much in common.
        self.order = (-len(rank[0]), rank[0], not rank[1], not rank[2])
        self.members: list[tuple[Route, T]] = []
        self.turn = 0


_order_of = attrgetter("order")


class _Level(Generic[T]):
    """The routes of one protocol and one host pattern."""

    __slots__ = ("root", "segments")

    def __init__(self) -> None:
        self.segments: dict[str, list[_Bucket[T]]] = {}  # by first segment of the prefix, in their order
        self.root: list[_Bucket[T]] = []  # those without a prefix

    def row(self, prefix: str) -> list[_Bucket[T]]:
        """The buckets among which one with this prefix belongs."""
        return self.segments.setdefault(_first_segment(prefix), []) if prefix else self.root


class _Held(NamedTuple, Generic[T]):
    """A target, whose it is, and what it has."""

    target: T
    owner: str
    party: str
    routes: list[Route]


class RouteTable(Generic[T]):
    """Finds the target of a request. A target is whatever the user of the table wants back, compared by identity."""

    def __init__(self) -> None:
        self._levels: dict[tuple[int, str], _Level[T]] = {}  # by protocol and host pattern
        # Per protocol: host as sent -> the levels that may hold its route, best first. Hosts come from strangers, so it
        # is emptied when it is full, and whenever a route comes or goes.
        self._candidates: dict[int, dict[str, tuple[_Level[T], ...]]] = {number: {} for number in PROTOCOLS}
        self._everything: dict[int, _Bucket[T]] = {}  # per protocol: the only routes there are, if they take everything
        self._routes: dict[int, _Held[T]] = {}  # by id of the target

    def routes(self) -> list[tuple[Route, T]]:
        """What is up, in the order of arrival."""
        return [(route, held.target) for held in self._routes.values() for route in held.routes]

    def match(self, protocol: int, host: str, path: str) -> tuple[Route, T] | None:
        """The route and target of a request, or None when nothing fits.

        `host` is as sent, with its port; `path` is without the query, for gRPC `/pkg.Service/Method`.
        """
        known = self._candidates.get(protocol)
        if known is None:
            return None
        levels = known.get(host)
        if levels is None:
            levels = self._find_levels(protocol, host)
        end = path.find("/", 1)
        segment = path[1:end] if end > 0 else path[1:]
        for level in levels:
            for bucket in level.segments.get(segment, ()):
                if path.startswith(bucket.inside) or path == bucket.prefix:
                    return self._take(bucket)
            if level.root:
                return self._take(level.root[0])
        return None

    def match_any(self, protocol: int) -> tuple[Route, T] | None:
        """What `match` has for a request of this protocol, whatever its host and path; None when it depends on them."""
        bucket = self._everything.get(protocol)
        return None if bucket is None else self._take(bucket)

    @staticmethod
    def _take(bucket: _Bucket[T]) -> tuple[Route, T]:
        turn = bucket.turn
        members = bucket.members
        bucket.turn = turn + 1 if turn + 1 < len(members) else 0
        return members[turn]

    def _find_levels(self, protocol: int, host: str) -> tuple[_Level[T], ...]:
        name = normal_host(host)
        patterns = [name] if name else []
        if len(name) <= limits.HOST_BYTES:  # no pattern is longer
            labels = name.split(".")
            patterns += ["*." + ".".join(labels[start:]) for start in range(1, len(labels))]
        patterns.append("")
        levels = tuple(level for pattern in patterns if (level := self._levels.get((protocol, pattern))) is not None)
        if len(host) <= limits.HOST_BYTES:
            known = self._candidates[protocol]
            if len(known) >= _CACHED_HOSTS:
                known.clear()
            known[host] = levels
        return levels

    def add(self, target: T, routes: Iterable[Route], owner: str = "", party: str = "") -> None:
        """Route to `target` from now on: all of `routes`, or none of them.

        Raises RouteTaken when one of them is held exclusively, or wanted exclusively and held, by a target of another
        owner, or held by another party; targets without an owner are of different ones, those without a party of one.
        """
        wanted = list(dict.fromkeys(routes))
        for route in wanted:
            self._check_exclusive(target, route, owner, party)
        for route in wanted:
            for protocol, rank in places(route):
                level = self._levels.setdefault((protocol, route.host), _Level())
                row = level.row(rank[0])
                bucket = _Bucket[T](rank)
                at = bisect_left(row, bucket.order, key=_order_of)
                if at == len(row) or row[at].rank != rank:
                    row.insert(at, bucket)
                row[at].members.append((route, target))
        self._routes.setdefault(id(target), _Held(target, owner, party, [])).routes.extend(wanted)
        self._routes_have_changed()

    def serves(self, host: str, besides: str) -> bool:
        """Whether an owner other than this one has a route of exactly this host."""
        return any(
            route.host == host for held in self._routes.values() if held.owner != besides for route in held.routes
        )

    def remove(self, target: T) -> None:
        """Route nothing to `target` any more. No error when nothing was."""
        held = self._routes.pop(id(target), None)
        for route in held.routes if held is not None else ():
            for protocol, rank in places(route):
                level = self._levels.get((protocol, route.host))
                if level is None:
                    continue
                row = level.row(rank[0])
                at = bisect_left(row, _Bucket[T](rank).order, key=_order_of)
                if at < len(row) and row[at].rank == rank:
                    row[at].members = [member for member in row[at].members if member[1] is not target]
                    row[at].turn = 0
                    if not row[at].members:
                        del row[at]
                if not row and rank[0]:
                    del level.segments[_first_segment(rank[0])]
                if not level.segments and not level.root:
                    del self._levels[protocol, route.host]
        self._routes_have_changed()

    def _check_exclusive(self, target: T, route: Route, owner: str, party: str) -> None:
        for protocol, rank in places(route):
            level = self._levels.get((protocol, route.host))
            if level is None:
                continue
            row = level.segments.get(_first_segment(rank[0]), []) if rank[0] else level.root
            # Whether or not the protocol is named: an exclusive route is to get every such request.
            for at in range(bisect_left(row, (-len(rank[0]), rank[0]), key=_order_of), len(row)):
                bucket = row[at]
                if bucket.prefix != rank[0]:
                    break
                for other, holder in bucket.members:
                    held = self._routes[id(holder)]
                    same = holder is target or (owner and owner == held.owner)
                    if not same and (other.exclusive or route.exclusive or party != held.party):
                        # No word of who that is.
                        raise RouteTaken(f"route {route} ({PROTOCOLS[protocol]}) is taken by another client")

    def _routes_have_changed(self) -> None:
        for known in self._candidates.values():
            known.clear()
        self._everything.clear()
        for protocol in PROTOCOLS:
            level = self._levels.get((protocol, ""))
            if level is None or level.segments or any(number == protocol and host for number, host in self._levels):
                continue
            self._everything[protocol] = level.root[0]


def _first_segment(prefix: str) -> str:
    return prefix.split("/", 2)[1]


def places(route: Route) -> list[tuple[int, tuple[str, bool, bool]]]:
    """Where a route belongs: per protocol, the rank of its bucket. A service counts as the prefix of its calls."""
    service = f"/{route.grpc_service}" if route.grpc_service else ""
    prefix = max(route.path_prefix, service, key=len)
    protocols = route.protocols or tuple(PROTOCOLS)
    if service:  # only calls have a service
        protocols = tuple(number for number in protocols if number == GRPC)
    return [(number, (prefix, bool(service), bool(route.protocols))) for number in dict.fromkeys(protocols)]
