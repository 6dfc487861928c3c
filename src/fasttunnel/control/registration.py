"""What a Register asks for, and whether it may have that: the same for every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttunnel import limits
from fasttunnel.control.auth import Login, Refused
from fasttunnel.control.routes import Route
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


def knock() -> tunnel_pb2.TunnelMessage:
    """What a client says that only wants to know whether it would be let in: no Register, so nothing is registered."""
    from fasttunnel.wire.tunnel_pb2 import CONTROL, Heartbeat, TunnelMessage  # protobuf takes its time to import

    return TunnelMessage(protocol_type=CONTROL, heartbeat=Heartbeat(nonce=1))


def check_knock(server: str, reason: str, refusal: FasttunnelError | None) -> None:
    """What became of it. A server that misses the Register (INVALID_ARGUMENT) has taken the token before."""
    if isinstance(refusal, RegisterError):
        return
    raise refusal or ConnectError(f"cannot reach {server}", detail=advise(reason))


def check_register(login: Login, client_id: str, register: tunnel_pb2.Register) -> list[Route]:
    """The routes, checked. Raises Refused.

    This comes before anything is said of what others have: whoever may not have a route does not learn whether it is
    taken.
    """
    try:
        if register.version not in (0, limits.WIRE_VERSION):
            raise ConfigError(f"version {register.version} of the wire contract is not spoken here")
        for name, value in (("client_id", client_id), ("instance_id", register.instance_id)):
            if not is_name(value):  # they are remembered, and shown to people
                raise ConfigError(f"{name} is to have at most {limits.NAME_BYTES} bytes, all of them printable")
        if not register.routes or len(register.routes) > limits.ROUTES_PER_CLIENT:
            raise ConfigError(f"between 1 and {limits.ROUTES_PER_CLIENT} routes are to be registered")
        routes = [Route.from_message(route) for route in register.routes]
    except ConfigError as error:
        raise Refused(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
    if text := login.permission.refusal(routes, client_id):
        raise Refused(GrpcStatus.PERMISSION_DENIED, text)
    return routes
