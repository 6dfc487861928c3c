"""Exceptions, and what the public is told when a request ends abnormally.

An error says what happened (the message), with which particulars (`detail`) and what to do next (`hint`).
"""

import os
import socket
import ssl
from enum import IntEnum
from typing import ClassVar, Final, NamedTuple


class FasttunnelError(Exception):
    """Base of everything that fasttunnel raises on purpose."""

    exit_code: ClassVar[int] = 1  # of the command line

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """All on one line: `message: detail (hint)`."""
        text = self.message
        if self.detail:
            text += f": {self.detail}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class ConfigError(FasttunnelError, ValueError):
    """An option, a route or a line of a configuration file that cannot be used.

    `file` is the one that another file or option names, if that is what cannot be used.
    """

    exit_code = 2  # as click's for a wrong option

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None, file: str = "") -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.file = file


class ListenError(FasttunnelError):
    """An address that cannot be listened on."""

    exit_code = 3


class ConnectError(FasttunnelError):
    """The other end of the tunnel cannot be reached, or does not speak the protocol of the tunnel."""

    exit_code = 4


class AuthError(FasttunnelError):
    """The server does not accept the token (UNAUTHENTICATED, PERMISSION_DENIED)."""

    exit_code = 5


class RegisterError(FasttunnelError):
    """The server does not accept the registration (ALREADY_EXISTS, INVALID_ARGUMENT)."""

    exit_code = 6


class RouteTaken(RegisterError):
    """A route that another client holds, and one of the two wants for itself alone."""


class BuildError(FasttunnelError):
    """The compiled engine is missing or cannot be loaded."""

    exit_code = 7


class GrpcStatus(IntEnum):
    """Status codes of gRPC, in the order of its specification."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ResetCode(IntEnum):
    """Why a request ended abnormally: `fasttunnel.v1.ResetCode` of the wire contract."""

    NO_ERROR = 0
    CANCELLED = 1
    NO_ROUTE = 2
    BACKEND_UNREACHABLE = 3
    BACKEND_TIMEOUT = 4
    PROTOCOL_ERROR = 5
    FLOW_CONTROL_ERROR = 6
    TOO_LARGE = 7
    OVERLOADED = 8
    TUNNEL_LOST = 9


ABNORMAL: Final = 1006  # RFC 6455 7.1.5: the connection ends without a Close frame


class Answer(NamedTuple):
    """What the public sees of a reset, as long as its answer has not begun."""

    http: int  # status of an HTTP answer or of a refused WebSocket handshake; 0: none, the connection is closed
    grpc: GrpcStatus
    ws_close: int  # close code of an established WebSocket (RFC 6455 7.4.1); 0: none
    text: str


ANSWERS: dict[ResetCode, Answer] = {
    ResetCode.NO_ERROR: Answer(0, GrpcStatus.OK, 0, "the answer is complete"),
    ResetCode.CANCELLED: Answer(0, GrpcStatus.CANCELLED, 1001, "the request was cancelled in the tunnel"),
    ResetCode.NO_ROUTE: Answer(404, GrpcStatus.UNIMPLEMENTED, 1011, "the server has no tunnel for this host and path"),
    ResetCode.BACKEND_UNREACHABLE: Answer(502, GrpcStatus.UNAVAILABLE, 1011, "the backend cannot be reached"),
    ResetCode.BACKEND_TIMEOUT: Answer(504, GrpcStatus.DEADLINE_EXCEEDED, 1011, "the backend did not answer in time"),
    ResetCode.PROTOCOL_ERROR: Answer(502, GrpcStatus.INTERNAL, 1002, "the client or the backend broke its protocol"),
    ResetCode.FLOW_CONTROL_ERROR: Answer(502, GrpcStatus.INTERNAL, 1011, "the tunnel brought more than there was room"),
    ResetCode.TOO_LARGE: Answer(413, GrpcStatus.RESOURCE_EXHAUSTED, 1009, "the message is above a limit of the tunnel"),
    ResetCode.OVERLOADED: Answer(503, GrpcStatus.UNAVAILABLE, 1013, "the tunnel is overloaded, try again"),
    ResetCode.TUNNEL_LOST: Answer(502, GrpcStatus.UNAVAILABLE, 1001, "the tunnel to the backend was lost"),
}


def describe(error: OSError) -> str:
    """What the system said, without the address, which the reader knows."""
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return os.strerror(error.errno).lower() if error.errno else str(error)
