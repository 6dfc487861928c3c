"""TunnelMessages as protobuf sees them: the oracle for the codec of `_core`.

The codec only checks that control members are there and skips them; so the oracle is tunnel.proto with those members
turned into `bytes`. Everything else is protobuf's own answer.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from fasttunnel.wire import tunnel_pb2

OPAQUE = ("register", "registered", "heartbeat", "go_away", "tcp_data")

# (message, field there) -> name in the flat dict of decode_message; fields not named here have the same name
_FLAT = {
    "is_first_chunk": "first",
    "is_last_chunk": "last",
    "sequence_number": "sequence",
    "grpc_stream_id": "stream_id",
    "status_code": "status",
    "message_length": "message_bytes",
    "payload_length": "frame_bytes",
    "payload": "body",
    "authority": "host",
    "metadata": "headers",
    "initial_metadata": "headers",
    "trailing_metadata": "trailers",
    "message": "text",
    "bytes": "credit",
}

_NOTHING: dict[str, Any] = {
    "kind": None,
    **dict.fromkeys(("client_id", "request_id", "trace_id", "method", "url", "host", "scheme", "service"), b""),
    **dict.fromkeys(("subprotocol", "status_message", "status_details", "connection_id", "text"), b""),
    **dict.fromkeys(("direction", "protocol_type", "sequence", "stream_id", "status", "message_bytes"), 0),
    **dict.fromkeys(("frame_bytes", "opcode", "rsv", "frame_direction", "code", "credit"), 0),
    **dict.fromkeys(("first", "last", "more", "compressed", "fin", "masked", "accepted", "informational"), False),
    "body": None,
    "headers": [],
    "trailers": [],
}


def _oracle_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto()
    tunnel_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "oracle.proto"
    file.package = "oracle"
    del file.service[:]
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".fasttunnel.v1.", ".oracle.")
            if message.name == "TunnelMessage" and field.name in OPAQUE:
                field.type = field.TYPE_BYTES
                field.ClearField("type_name")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oracle.TunnelMessage"))


OracleMessage = _oracle_class()


def oracle_decode(data: bytes) -> dict[str, Any] | None:
    """What protobuf makes of `data`, flattened as `decode_message` does it; None when it refuses."""
    message = OracleMessage()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return flatten(message)


def flatten(message: Any) -> dict[str, Any]:
    """A TunnelMessage of protobuf as the flat dict of `decode_message`, `body` normalised by `normal`."""
    flat = dict(_NOTHING)
    for name in ("client_id", "request_id", "trace_id", "direction", "protocol_type"):
        flat[name] = _plain(getattr(message, name))
    kind = message.WhichOneof("payload")
    flat["kind"] = kind
    if kind is None or kind in OPAQUE:
        return flat
    member = getattr(message, kind)
    for field in member.DESCRIPTOR.fields:
        name = _FLAT.get(field.name, field.name)
        value = getattr(member, field.name)
        if field.message_type is not None:
            flat[name] = [(header.name.encode(), header.value) for header in value]
        elif field.has_presence and not member.HasField(field.name):
            flat[name] = None
        else:
            flat[name] = _plain(value)
    return normal(flat)


def normal(flat: dict[str, Any]) -> dict[str, Any]:
    """Only gRPC tells an absent body from an empty one."""
    if flat["kind"] not in ("grpc_request", "grpc_response") and not flat["body"]:
        return {**flat, "body": None}
    return flat


def _plain(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
