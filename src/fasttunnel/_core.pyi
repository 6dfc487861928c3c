"""The kernels of the data plane, as tests see them.

The engine uses the C functions of `_core.pxd`. What is visible from Python copies its input and its results; stream
parsers keep what they could not consume yet in `rest` and take up there with the next `feed`.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, final

_Kind = Literal[
    "http_request",
    "http_response",
    "grpc_request",
    "grpc_response",
    "ws_request",
    "ws_response",
    "ws_frame",
    "register",
    "registered",
    "heartbeat",
    "reset",
    "window_update",
    "go_away",
    "tcp_data",
]

class KernelError(Exception):
    """A kernel refused its input.

    `code` is the kernel's negative result (an enum of `_core.pxd`), `text` says why, `before` holds what the same call
    gave out before the refusal, `close_code` the WebSocket close code that answers it (1002 or 1009) and `where` the
    offset of the offending byte; None where it does not apply.
    """

    code: int
    text: str
    before: list[Any]
    close_code: int | None
    where: int | None
    def __init__(
        self,
        code: int,
        text: str,
        *,
        before: Iterable[Any] = (),
        close_code: int | None = None,
        where: int | None = None,
    ) -> None: ...

class Frame(NamedTuple):
    """One WebSocket frame, or a fragment of one (`first`, `more`); `frame_bytes` counts the payload of the whole."""

    payload: bytes
    opcode: int
    fin: bool
    rsv: int
    masked: bool
    first: bool
    more: bool
    frame_bytes: int

class Piece(NamedTuple):
    """One gRPC message, or a fragment of one (`first`, `more`); `message_bytes` counts the whole."""

    body: bytes
    compressed: bool
    first: bool
    more: bool
    message_bytes: int

@final
class WebSocketParser:
    """Cuts a byte stream into frames (RFC 6455 5). `expect_masked`: the bytes come from a client.

    Frames above `max_fragment` bytes come in parts. `max_message_bytes` bounds a message, 0 does not. Payload of data
    frames costs credit, in bytes; without credit the parser is `blocked`.
    """

    credit: int
    @property
    def rest(self) -> bytes: ...
    @property
    def blocked(self) -> bool: ...
    def __init__(
        self,
        expect_masked: bool,
        *,
        rsv_allowed: bool = False,
        max_fragment: int = 65536,
        max_message_bytes: int = 0,
        credit: int = ...,
    ) -> None: ...
    def feed(self, data: bytes = b"", credit: int | None = None) -> list[Frame]:
        """Frames that `data` completes; `credit` replaces what was left of it. Raises KernelError (WsResult)."""

@final
class GrpcMessages:
    """Cuts the DATA of one stream into messages. Parameters as for WebSocketParser; max_fragment 0: whole messages."""

    credit: int
    @property
    def rest(self) -> bytes: ...
    @property
    def blocked(self) -> bool: ...
    @property
    def at_boundary(self) -> bool: ...
    def __init__(self, max_fragment: int = 65536, *, max_message_bytes: int = 0, credit: int = ...) -> None: ...
    def whole(self, data: bytes) -> bool:
        """Whether a message, or what is left of it, would be complete with these bytes."""
    def feed(self, data: bytes = b"", credit: int | None = None) -> list[Piece]:
        """Messages that `data` completes; `credit` replaces what was left of it. Raises KernelError (GrpcResult)."""

@final
class Body:
    """Reads an HTTP/1.1 body (RFC 9112 6, 7); `length` counts for mode "length" only."""

    @property
    def rest(self) -> bytes: ...
    @property
    def state(self) -> str: ...  # "more", "done" or "trailers"
    def __init__(self, mode: Literal["none", "length", "chunked", "until_close"], length: int = 0) -> None: ...
    def feed(self, data: bytes = b"", limit: int = ...) -> list[bytes]:
        """Pieces of at most `limit` bytes; 0 consumes framing only. Raises KernelError (BodyResult)."""

@final
class HeadEnd:
    """Finds the end of a head or trailer section; `scanned` bytes need not be looked at again."""

    @property
    def scanned(self) -> int: ...
    def feed(self, data: bytes) -> int | None:
        """Offset behind the empty line, from the first byte fed. Raises KernelError for a bare CR or LF, or NUL."""

class Head(NamedTuple):
    """One HTTP/1.1 head; `fields` are those that go on to the other side. See `HttpHead` in `_core.pxd`."""

    method: bytes | None
    target: bytes | None
    host: bytes | None
    status: int
    http10: bool
    keep_alive: bool
    body: Literal["none", "length", "chunked", "until_close"]
    content_length: int
    upgrade: bool
    websocket: bool
    ws_extensions: bool
    ws_protocols: int
    ws_protocol: bytes | None
    ws_key: bytes | None
    ws_version: bytes | None
    ws_accept: bytes | None
    traceparent: bytes | None
    fields: list[tuple[bytes, bytes]]

@final
class HeadParser:
    """Reads heads (RFC 9112 2 to 6) that follow one another."""

    @property
    def rest(self) -> bytes: ...
    def __init__(self, is_request: bool = True) -> None: ...
    def feed(self, data: bytes = b"") -> list[Head]:
        """Heads that `data` completes. Raises KernelError (HeadError)."""

@final
class RequestTable:
    """request_id (1 to 16 bytes) -> positive number. A `secret` of 16 bytes replaces the process's own."""

    @property
    def capacity(self) -> int: ...
    def __init__(self, secret: bytes | None = None) -> None: ...
    def __len__(self) -> int: ...
    def put(self, id: bytes, value: int) -> bool:
        """False: the id exists and keeps its value. Raises KernelError for a bad id or 0."""
    def find(self, id: bytes) -> int | None: ...
    def pop(self, id: bytes) -> int | None: ...
    def hash(self, id: bytes) -> int:
        """SipHash-1-3 of the id under the secret."""

@final
class Buffer:
    """Growable bytes; without memory while empty. Raises MemoryError above 1 GiB."""

    @property
    def capacity(self) -> int: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def reserve(self, extra: int) -> None: ...
    def append(self, data: bytes) -> None: ...
    def consume(self, n: int) -> None: ...

def mask(data: bytes, key: bytes, *, in_place: bool = False) -> bytes:
    """`data` masked or unmasked with a 4-byte key, from one block into another or within one."""

def rotate_key(key: bytes, n: int) -> bytes:
    """The key for the byte `n` further on."""

def build_head(fin: bool, rsv: int, opcode: int, payload_bytes: int, key: bytes | None = None) -> bytes:
    """The 2 to 14 bytes before a payload; masked when there is a key."""

def message_prefix(compressed: bool, message_bytes: int) -> bytes:
    """The 5 bytes before a gRPC message."""

def decode_message(data: bytes) -> dict[str, Any]:
    """A TunnelMessage, its oneof member flattened into one dict with the names of `Msg` in `_core.pxd`.

    `kind` is the name of the member or None. Text is bytes; `body` is None when absent, the rest has its default;
    `headers` and `trailers` are lists of (name, value). Raises KernelError (MsgError) with `where`.
    """

def encode_message(kind: _Kind | None = None, *, prefixed: bool = False, around: bool = False, **fields: Any) -> bytes:
    """The bytes protobuf would write; `fields` as in `decode_message`. `prefixed`: with the 5 bytes of gRPC before;
    `around`: the same, and the body is put in afterwards.
    """

def encode_ws_frame(
    request_id: bytes, direction: int, frame: Frame, key: bytes | None = None, *, around: bool = False
) -> bytes:
    """Prefix and TunnelMessage of a frame. With a key the payload is masked, and unmasked while it is copied."""

def is_utf8(data: bytes) -> bool:
    """RFC 3629, as protobuf checks its strings."""

def header_name_ok(name: bytes) -> bool:
    """A token (RFC 9110 5.6.2)."""

def header_value_ok(value: bytes) -> bool:
    """A field value (RFC 9110 5.5): no control but HTAB, no space at the ends; may be empty."""

def target_ok(target: bytes) -> bool:
    """No space, control or DEL; not empty."""

def host_ok(host: bytes) -> bool:
    """A name or address with or without a port; may be empty."""

def header_same(name: bytes, other: bytes) -> bool:
    """Equal without regard to case."""

def header_is(name: bytes, lower: bytes) -> bool:
    """Equal without regard to case."""

def is_hop_by_hop(name: bytes) -> bool:
    """RFC 9110 7.6.1."""

def is_forwarding(name: bytes) -> bool:
    """Forwarded, X-Forwarded-For, -Proto, -Host or -Port."""

def header_block(headers: Iterable[tuple[bytes, bytes]], tag: int, retag: int | None = None) -> bytes:
    """Encoded Header fields with `tag`, all given the tag `retag` afterwards unless it is None."""

def header_lower(name: bytes) -> bytes:
    """ASCII lower case."""

def head_status(code: int) -> int:
    """The status that answers a refusal of HeadParser (HeadError)."""

def parse_fields(section: bytes) -> list[tuple[bytes, bytes]]:
    """The field lines of a complete section. Raises KernelError (HeadError)."""

def parse_trailers(section: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a complete trailer section that go on. Raises KernelError (HeadError)."""

def known_methods() -> list[bytes]:
    """The methods that are served, and CONNECT, which is known and refused."""
