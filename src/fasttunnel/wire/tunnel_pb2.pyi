from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_UNSPECIFIED: _ClassVar[Direction]
    CLIENT_TO_SERVER: _ClassVar[Direction]
    SERVER_TO_CLIENT: _ClassVar[Direction]

class ProtocolType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROTOCOL_TYPE_UNSPECIFIED: _ClassVar[ProtocolType]
    HTTP: _ClassVar[ProtocolType]
    GRPC: _ClassVar[ProtocolType]
    WEBSOCKET: _ClassVar[ProtocolType]
    CONTROL: _ClassVar[ProtocolType]
    TCP: _ClassVar[ProtocolType]

class ResetCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NO_ERROR: _ClassVar[ResetCode]
    CANCELLED: _ClassVar[ResetCode]
    NO_ROUTE: _ClassVar[ResetCode]
    BACKEND_UNREACHABLE: _ClassVar[ResetCode]
    BACKEND_TIMEOUT: _ClassVar[ResetCode]
    PROTOCOL_ERROR: _ClassVar[ResetCode]
    FLOW_CONTROL_ERROR: _ClassVar[ResetCode]
    TOO_LARGE: _ClassVar[ResetCode]
    OVERLOADED: _ClassVar[ResetCode]
    TUNNEL_LOST: _ClassVar[ResetCode]
DIRECTION_UNSPECIFIED: Direction
CLIENT_TO_SERVER: Direction
SERVER_TO_CLIENT: Direction
PROTOCOL_TYPE_UNSPECIFIED: ProtocolType
HTTP: ProtocolType
GRPC: ProtocolType
WEBSOCKET: ProtocolType
CONTROL: ProtocolType
TCP: ProtocolType
NO_ERROR: ResetCode
CANCELLED: ResetCode
NO_ROUTE: ResetCode
BACKEND_UNREACHABLE: ResetCode
BACKEND_TIMEOUT: ResetCode
PROTOCOL_ERROR: ResetCode
FLOW_CONTROL_ERROR: ResetCode
TOO_LARGE: ResetCode
OVERLOADED: ResetCode
TUNNEL_LOST: ResetCode

class TunnelMessage(_message.Message):
    __slots__ = ("client_id", "request_id", "direction", "protocol_type", "http_request", "http_response", "grpc_request", "grpc_response", "ws_request", "ws_response", "ws_frame", "register", "registered", "heartbeat", "reset", "window_update", "go_away", "tcp_data", "trace_id")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_TYPE_FIELD_NUMBER: _ClassVar[int]
    HTTP_REQUEST_FIELD_NUMBER: _ClassVar[int]
    HTTP_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    GRPC_REQUEST_FIELD_NUMBER: _ClassVar[int]
    GRPC_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    WS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    WS_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    WS_FRAME_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    WINDOW_UPDATE_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    TCP_DATA_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    request_id: str
    direction: Direction
    protocol_type: ProtocolType
    http_request: HttpRequest
    http_response: HttpResponse
    grpc_request: GrpcRequest
    grpc_response: GrpcResponse
    ws_request: WebSocketRequest
    ws_response: WebSocketResponse
    ws_frame: WebSocketFrame
    register: Register
    registered: Registered
    heartbeat: Heartbeat
    reset: Reset
    window_update: WindowUpdate
    go_away: GoAway
    tcp_data: TcpData
    trace_id: str
    def __init__(self, client_id: _Optional[str] = ..., request_id: _Optional[str] = ..., direction: _Optional[_Union[Direction, str]] = ..., protocol_type: _Optional[_Union[ProtocolType, str]] = ..., http_request: _Optional[_Union[HttpRequest, _Mapping]] = ..., http_response: _Optional[_Union[HttpResponse, _Mapping]] = ..., grpc_request: _Optional[_Union[GrpcRequest, _Mapping]] = ..., grpc_response: _Optional[_Union[GrpcResponse, _Mapping]] = ..., ws_request: _Optional[_Union[WebSocketRequest, _Mapping]] = ..., ws_response: _Optional[_Union[WebSocketResponse, _Mapping]] = ..., ws_frame: _Optional[_Union[WebSocketFrame, _Mapping]] = ..., register: _Optional[_Union[Register, _Mapping]] = ..., registered: _Optional[_Union[Registered, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., window_update: _Optional[_Union[WindowUpdate, _Mapping]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ..., tcp_data: _Optional[_Union[TcpData, _Mapping]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: bytes
    def __init__(self, name: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class HttpRequest(_message.Message):
    __slots__ = ("method", "url", "host", "headers", "body", "is_first_chunk", "is_last_chunk", "sequence_number", "trailers", "scheme")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IS_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TRAILERS_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    method: str
    url: str
    host: str
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    body: bytes
    is_first_chunk: bool
    is_last_chunk: bool
    sequence_number: int
    trailers: _containers.RepeatedCompositeFieldContainer[Header]
    scheme: str
    def __init__(self, method: _Optional[str] = ..., url: _Optional[str] = ..., host: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., body: _Optional[bytes] = ..., is_first_chunk: bool = ..., is_last_chunk: bool = ..., sequence_number: _Optional[int] = ..., trailers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., scheme: _Optional[str] = ...) -> None: ...

class HttpResponse(_message.Message):
    __slots__ = ("status_code", "headers", "body", "is_first_chunk", "is_last_chunk", "sequence_number", "trailers", "informational")
    STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IS_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TRAILERS_FIELD_NUMBER: _ClassVar[int]
    INFORMATIONAL_FIELD_NUMBER: _ClassVar[int]
    status_code: int
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    body: bytes
    is_first_chunk: bool
    is_last_chunk: bool
    sequence_number: int
    trailers: _containers.RepeatedCompositeFieldContainer[Header]
    informational: bool
    def __init__(self, status_code: _Optional[int] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., body: _Optional[bytes] = ..., is_first_chunk: bool = ..., is_last_chunk: bool = ..., sequence_number: _Optional[int] = ..., trailers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., informational: bool = ...) -> None: ...

class GrpcRequest(_message.Message):
    __slots__ = ("grpc_stream_id", "service", "method", "body", "is_first_chunk", "is_last_chunk", "sequence_number", "authority", "metadata", "compressed", "message_length", "more")
    GRPC_STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IS_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    grpc_stream_id: int
    service: str
    method: str
    body: bytes
    is_first_chunk: bool
    is_last_chunk: bool
    sequence_number: int
    authority: str
    metadata: _containers.RepeatedCompositeFieldContainer[Header]
    compressed: bool
    message_length: int
    more: bool
    def __init__(self, grpc_stream_id: _Optional[int] = ..., service: _Optional[str] = ..., method: _Optional[str] = ..., body: _Optional[bytes] = ..., is_first_chunk: bool = ..., is_last_chunk: bool = ..., sequence_number: _Optional[int] = ..., authority: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., compressed: bool = ..., message_length: _Optional[int] = ..., more: bool = ...) -> None: ...

class GrpcResponse(_message.Message):
    __slots__ = ("grpc_stream_id", "status_code", "body", "is_first_chunk", "is_last_chunk", "sequence_number", "status_message", "initial_metadata", "trailing_metadata", "compressed", "message_length", "more", "status_details")
    GRPC_STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IS_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_METADATA_FIELD_NUMBER: _ClassVar[int]
    TRAILING_METADATA_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    STATUS_DETAILS_FIELD_NUMBER: _ClassVar[int]
    grpc_stream_id: int
    status_code: int
    body: bytes
    is_first_chunk: bool
    is_last_chunk: bool
    sequence_number: int
    status_message: str
    initial_metadata: _containers.RepeatedCompositeFieldContainer[Header]
    trailing_metadata: _containers.RepeatedCompositeFieldContainer[Header]
    compressed: bool
    message_length: int
    more: bool
    status_details: bytes
    def __init__(self, grpc_stream_id: _Optional[int] = ..., status_code: _Optional[int] = ..., body: _Optional[bytes] = ..., is_first_chunk: bool = ..., is_last_chunk: bool = ..., sequence_number: _Optional[int] = ..., status_message: _Optional[str] = ..., initial_metadata: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., trailing_metadata: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., compressed: bool = ..., message_length: _Optional[int] = ..., more: bool = ..., status_details: _Optional[bytes] = ...) -> None: ...

class WebSocketRequest(_message.Message):
    __slots__ = ("url", "host", "headers", "subprotocol")
    URL_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    SUBPROTOCOL_FIELD_NUMBER: _ClassVar[int]
    url: str
    host: str
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    subprotocol: str
    def __init__(self, url: _Optional[str] = ..., host: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., subprotocol: _Optional[str] = ...) -> None: ...

class WebSocketResponse(_message.Message):
    __slots__ = ("status_code", "headers", "subprotocol", "accepted", "body")
    STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    SUBPROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    status_code: int
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    subprotocol: str
    accepted: bool
    body: bytes
    def __init__(self, status_code: _Optional[int] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., subprotocol: _Optional[str] = ..., accepted: bool = ..., body: _Optional[bytes] = ...) -> None: ...

class WebSocketFrame(_message.Message):
    __slots__ = ("connection_id", "fin", "opcode", "masked", "payload", "frame_direction", "rsv", "payload_length", "more")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    FIN_FIELD_NUMBER: _ClassVar[int]
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FRAME_DIRECTION_FIELD_NUMBER: _ClassVar[int]
    RSV_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    fin: bool
    opcode: int
    masked: bool
    payload: bytes
    frame_direction: Direction
    rsv: int
    payload_length: int
    more: bool
    def __init__(self, connection_id: _Optional[str] = ..., fin: bool = ..., opcode: _Optional[int] = ..., masked: bool = ..., payload: _Optional[bytes] = ..., frame_direction: _Optional[_Union[Direction, str]] = ..., rsv: _Optional[int] = ..., payload_length: _Optional[int] = ..., more: bool = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("host", "path_prefix", "grpc_service", "strip_prefix", "host_rewrite", "protocols", "exclusive")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PATH_PREFIX_FIELD_NUMBER: _ClassVar[int]
    GRPC_SERVICE_FIELD_NUMBER: _ClassVar[int]
    STRIP_PREFIX_FIELD_NUMBER: _ClassVar[int]
    HOST_REWRITE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    host: str
    path_prefix: str
    grpc_service: str
    strip_prefix: bool
    host_rewrite: str
    protocols: _containers.RepeatedScalarFieldContainer[ProtocolType]
    exclusive: bool
    def __init__(self, host: _Optional[str] = ..., path_prefix: _Optional[str] = ..., grpc_service: _Optional[str] = ..., strip_prefix: bool = ..., host_rewrite: _Optional[str] = ..., protocols: _Optional[_Iterable[_Union[ProtocolType, str]]] = ..., exclusive: bool = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("version", "routes", "group", "initial_window", "max_fragment", "features", "weight", "instance_id", "connection", "name", "any_name")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ANY_NAME_FIELD_NUMBER: _ClassVar[int]
    version: int
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    group: str
    initial_window: int
    max_fragment: int
    features: _containers.RepeatedScalarFieldContainer[str]
    weight: int
    instance_id: str
    connection: int
    name: str
    any_name: bool
    def __init__(self, version: _Optional[int] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., group: _Optional[str] = ..., initial_window: _Optional[int] = ..., max_fragment: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., weight: _Optional[int] = ..., instance_id: _Optional[str] = ..., connection: _Optional[int] = ..., name: _Optional[str] = ..., any_name: bool = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("session_id", "client_id", "routes", "urls", "heartbeat_interval_ms", "initial_window", "max_fragment", "features", "server_version", "time_ms", "name")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    client_id: str
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    urls: _containers.RepeatedScalarFieldContainer[str]
    heartbeat_interval_ms: int
    initial_window: int
    max_fragment: int
    features: _containers.RepeatedScalarFieldContainer[str]
    server_version: str
    time_ms: int
    name: str
    def __init__(self, session_id: _Optional[str] = ..., client_id: _Optional[str] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., urls: _Optional[_Iterable[str]] = ..., heartbeat_interval_ms: _Optional[int] = ..., initial_window: _Optional[int] = ..., max_fragment: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., server_version: _Optional[str] = ..., time_ms: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("nonce", "reply")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    reply: bool
    def __init__(self, nonce: _Optional[int] = ..., reply: bool = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: ResetCode
    message: str
    def __init__(self, code: _Optional[_Union[ResetCode, str]] = ..., message: _Optional[str] = ...) -> None: ...

class WindowUpdate(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("reason", "grace_ms", "retry_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    RETRY_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    grace_ms: int
    retry_ms: int
    def __init__(self, reason: _Optional[str] = ..., grace_ms: _Optional[int] = ..., retry_ms: _Optional[int] = ...) -> None: ...

class TcpData(_message.Message):
    __slots__ = ("is_first_chunk", "is_last_chunk", "payload", "peer_address")
    IS_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    is_first_chunk: bool
    is_last_chunk: bool
    payload: bytes
    peer_address: str
    def __init__(self, is_first_chunk: bool = ..., is_last_chunk: bool = ..., payload: _Optional[bytes] = ..., peer_address: _Optional[str] = ...) -> None: ...
