"""What a Register asks for, and whether it may have that: the same for every engine."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakMethod, WeakSet

import msgspec

from fasttunnel import limits
from fasttunnel.control.auth import Login, Refused
from fasttunnel.control.config import ClientConfig
from fasttunnel.control.names import Names, check_name
from fasttunnel.control.routes import Route, RouteTable
from fasttunnel.control.tls import advise
from fasttunnel.errors import ConfigError, ConnectError, FasttunnelError, GrpcStatus, RegisterError

if TYPE_CHECKING:
    from fasttunnel.wire import tunnel_pb2


def is_name(text: str) -> bool:
    """Whether it may be a client_id or an instance_id."""
    return text.isprintable() and len(text.encode()) <= limits.NAME_BYTES


def heartbeat_of(registered: tunnel_pb2.Registered) -> float:
    """Seconds between heartbeats to a server that asks for so many."""
    asked_s = registered.heartbeat_interval_ms / 1000 or limits.HEARTBEAT_INTERVAL_S
    return min(max(asked_s, limits.HEARTBEAT_MIN_S), limits.HEARTBEAT_MAX_S)


def fragment_for(own: int, wanted: int) -> int:
    """Payload bytes of one message to a peer that wants so many; 0: it does not say."""
    return min(own, max(wanted or limits.FRAGMENT_BYTES, limits.MIN_FRAGMENT_BYTES))


def unhurried(go_away: tunnel_pb2.GoAway) -> bool:
    """Whether what is under way may take its time: the peer has been replaced, and does not leave."""
    return go_away.grace_ms >= limits.UNHURRIED_S * 1000


def knock() -> tunnel_pb2.TunnelMessage:
    """What a client says that only wants to know whether it would be let in: no Register, so nothing is registered."""
    from fasttunnel.wire.tunnel_pb2 import CONTROL, Heartbeat, TunnelMessage  # protobuf takes its time to import

    return TunnelMessage(protocol_type=CONTROL, heartbeat=Heartbeat(nonce=1))


def check_knock(server: str, reason: str, refusal: FasttunnelError | None) -> None:
    """What became of it. A server that misses the Register (INVALID_ARGUMENT) has taken the token before."""
    if isinstance(refusal, RegisterError):
        return
    raise refusal or ConnectError(f"cannot reach {server}", detail=advise(reason))


def name_given(registered: tunnel_pb2.Registered) -> str:
    """The client's name under the server's domain; empty: none."""
    try:
        return check_name(registered.name) if registered.name else ""
    except ConfigError:
        return ""


def unnamed(config: ClientConfig, registered: tunnel_pb2.Registered) -> str | None:
    """A warning where a name was asked for in vain."""
    wanted = config.name and not config.any_name and any(not spec.route.host for spec in config.routes)
    if not wanted or registered.name:
        return None
    return f"the server gives no names, so {config.name} stands for nothing; it would need --domain"


class Granted(NamedTuple):
    """What a client gets."""

    routes: list[Route]
    name: str  # under the server's domain; empty: none


class Registrar:
    """Looks at what clients want, beside what others have."""

    def __init__(self, routes: RouteTable[Any], domain: str) -> None:
        self._routes = routes
        self.names = Names(domain)

    def check(self, login: Login, client_id: str, given_id: str, register: tunnel_pb2.Register) -> Granted:
        """The routes, checked, with a host where they name none and the server has a domain. Raises Refused.

        `client_id` is what the client calls itself, `given_id` what it is called. Permissions come before anything is
        said of what others have: whoever may not have a route does not learn whether it is taken.
        """
        routes = _parsed(client_id, register)
        owner = login.owner(given_id)
        granted = Granted(routes, "")
        if self.names.domain and any(not route.host for route in routes):
            granted = self._named(login, client_id, owner, routes, register)
        elif text := login.permission.refusal(routes, client_id):
            raise Refused(GrpcStatus.PERMISSION_DENIED, text)
        if host := self.names.conflict((route.host for route in routes), owner):
            raise Refused(GrpcStatus.ALREADY_EXISTS, f"host {host} is taken by another client")
        return granted

    def _named(
        self, login: Login, client_id: str, owner: str, routes: list[Route], register: tunnel_pb2.Register
    ) -> Granted:
        permission, names = login.permission, self.names

        def assigned(name: str) -> list[Route]:
            host = names.host(name)
            return [route if route.host else msgspec.structs.replace(route, host=host) for route in routes]

        wanted = _name_of(register)
        if wanted and not register.any_name:
            granted = assigned(wanted)
            if text := permission.refusal(granted, client_id):
                raise Refused(GrpcStatus.PERMISSION_DENIED, text)
            if not self._is_free(wanted, owner):
                raise Refused(GrpcStatus.ALREADY_EXISTS, f"the name {wanted} is taken by another client")
            return Granted(granted, wanted)
        permitted = [name for host in permission.hosts or () if (name := names.name_in(host))]
        for name in filter(None, (wanted, *permitted, *names.candidates(owner))):
            if permission.refusal(granted := assigned(name), client_id) is None and self._is_free(name, owner):
                return Granted(granted, name)
        if any(permission.refusal(assigned(name), client_id) is None for name in permitted):
            raise Refused(GrpcStatus.ALREADY_EXISTS, "the names that the token permits are taken by other clients")
        text = f"the token permits no name under {names.domain}" if permission.hosts is not None else ""
        text = text or permission.refusal(routes, client_id) or f"no name under {names.domain} is free"
        raise Refused(GrpcStatus.PERMISSION_DENIED, text)

    def _is_free(self, name: str, owner: str) -> bool:
        """Nobody else has it as a name, or has named it as a host."""
        return self.names.is_free(name, owner) and not self._routes.serves(self.names.host(name), besides=owner)


def _parsed(client_id: str, register: tunnel_pb2.Register) -> list[Route]:
    try:
        if register.version not in (0, limits.WIRE_VERSION):
            raise ConfigError(f"version {register.version} of the wire contract is not spoken here")
        for name, value in (("client_id", client_id), ("instance_id", register.instance_id)):
            if not is_name(value):  # they are remembered, and shown to people
                raise ConfigError(f"{name} is to have at most {limits.NAME_BYTES} bytes, all of them printable")
        if not register.routes or len(register.routes) > limits.ROUTES_PER_CLIENT:
            raise ConfigError(f"between 1 and {limits.ROUTES_PER_CLIENT} routes are to be registered")
        return [Route.from_message(route) for route in register.routes]
    except ConfigError as error:
        raise Refused(GrpcStatus.INVALID_ARGUMENT, str(error)) from None


def _name_of(register: tunnel_pb2.Register) -> str:
    try:
        return check_name(register.name) if register.name else ""
    except ConfigError as error:
        raise Refused(GrpcStatus.INVALID_ARGUMENT, str(error)) from None


class Numbers:
    """Of the connections of one engine, for Register.

    Engines of one client, one `after` another, share its instance_id. Each takes a block of numbers: that of another
    one whose ghosts it takes over, or, if the server knows that one, a block of its own. `is_known` says of an engine
    whether it has sent a Register that still counts.
    """

    def __init__(self, is_known: Callable[[], bool], after: Numbers | None = None) -> None:
        self.instance_id: str = after.instance_id if after is not None else secrets.token_hex(8)
        self._first: int = after._first if after is not None else 0
        self._is_known = WeakMethod(is_known)  # engines come and go
        self._family: WeakSet[Numbers] = after._family if after is not None else WeakSet()
        self._family.add(self)

    def of(self, index: int) -> int:
        """Of a connection that registers now."""
        others = [other for other in self._family if other is not self]
        if any(other._first == self._first and other._counts() for other in others):
            self._first = max(other._first for other in self._family) + limits.CONNECTIONS
        return self._first + index

    def _counts(self) -> bool:
        is_known = self._is_known()
        return is_known is not None and is_known()
