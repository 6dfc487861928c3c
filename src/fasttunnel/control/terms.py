"""Numbers of protocols by the names that people know them by, for metrics, logs and status."""

from fasttunnel.errors import GrpcStatus, ResetCode

_GRPC = {int(status): status.name for status in GrpcStatus}
_RESETS = {int(code): code.name for code in ResetCode}
OPCODES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}  # RFC 6455 11.8
OTHER = "other"


def as_word(text: str) -> str:
    """A text of a peer, as one word: nothing that would end the line or move a terminal's cursor."""
    return text if text.isprintable() and " " not in text and text else repr(text)


def grpc_status(code: int) -> str:
    return _GRPC.get(code, OTHER)


def reset_code(code: int) -> str:
    return _RESETS.get(code, OTHER)


def opcode(number: int) -> str:
    return OPCODES.get(number, OTHER)


def close_code(code: int) -> str:
    """Of a WebSocket; 0 stands for those that are not told apart."""
    return str(code) if code else OTHER
