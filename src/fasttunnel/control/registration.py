"""What a Register asks for, and whether it may have that: the same for every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttunnel import limits
from fasttunnel.control.auth import Login, Refused
from fasttunnel.control.routes import Route
from fasttunnel.errors import ConfigError, GrpcStatus

if TYPE_CHECKING:
    from fasttunnel.wire import tunnel_pb2


def check_register(login: Login, client_id: str, register: tunnel_pb2.Register) -> list[Route]:
    """The routes, checked. Raises Refused.

    This comes before anything is said of what others have: whoever may not have a route does not learn whether it is
    taken.
    """
    try:
        if register.version not in (0, limits.WIRE_VERSION):
            raise ConfigError(f"version {register.version} of the wire contract is not spoken here")
        if len(client_id) > limits.CLIENT_ID or not client_id.isprintable():  # it is remembered, and shown to people
            raise ConfigError(f"a client_id has at most {limits.CLIENT_ID} characters, which can be printed")
        if not register.routes or len(register.routes) > limits.ROUTES_PER_CLIENT:
            raise ConfigError(f"between 1 and {limits.ROUTES_PER_CLIENT} routes are to be registered")
        routes = [Route.from_message(route) for route in register.routes]
    except ConfigError as error:
        raise Refused(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
    if text := login.permission.refusal(routes, client_id):
        raise Refused(GrpcStatus.PERMISSION_DENIED, text)
    return routes
