"""TunnelMessages in words: one line each, for `--trace-messages` and for tests that fail."""

import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from fasttunnel.control.terms import OPCODES, as_word
from fasttunnel.errors import ResetCode
from fasttunnel.wire.tunnel_pb2 import Reset, TunnelMessage, WebSocketFrame

_CODES = frozenset(int(code) for code in ResetCode)
_TOWARDS = {0: "", 1: "to backend", 2: "to public"}
_SAID = frozenset(("opcode", "code", "connection_id", "frame_direction"))  # in words already, or by the envelope


class Trace:
    """A tap (`Events.tap`) that writes a line for each message: time, tunnel, `->` sent or `<-` come, what it is."""

    def __init__(self, to: IO[str] | None = None) -> None:
        self._to = to or sys.stderr

    def __call__(self, tunnel: str, sent: bool, message: bytes) -> None:
        now = time.time()
        clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03}"
        try:
            text = describe(TunnelMessage.FromString(message))
        except DecodeError:
            text = f"malformed, {len(message)} bytes"
        self._to.write(f"{clock} {tunnel} {'->' if sent else '<-'} {text}\n")


def describe(message: TunnelMessage) -> str:
    """What a message is, without what may be secret: of payloads and header fields only how much, no query of a URL.

    For example: "ws-1f3 to backend ws_frame text fin masked payload=5 bytes".
    """
    kind = message.WhichOneof("payload") or "empty"
    parts = [message.request_id, _TOWARDS.get(message.direction, "?"), kind]
    if kind != "empty":
        parts += _fields(getattr(message, kind))
    return " ".join(part for part in parts if part)


def _fields(payload: Message) -> Iterator[str]:
    if isinstance(payload, WebSocketFrame):
        yield OPCODES.get(payload.opcode, f"opcode={payload.opcode}")
    elif isinstance(payload, Reset):
        yield ResetCode(payload.code).name if payload.code in _CODES else f"code={payload.code}"
    for field, value in payload.ListFields():
        if field.name not in _SAID:
            yield _words(field, value)


def _words(field: FieldDescriptor, value: Any) -> str:
    if field.name == "url":
        path, query, _ = value.partition("?")
        value = f"{path}{'?...' if query else ''}"
    elif field.name == "routes":
        return f"routes={len(value)}"
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        value = ",".join(header.name for header in value)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        return f"{field.name}={len(value)} bytes"
    elif field.type == FieldDescriptor.TYPE_BOOL:
        return str(field.name)
    elif not isinstance(value, str | int):
        value = ",".join(value)
    return f"{field.name}={as_word(str(value))}"
