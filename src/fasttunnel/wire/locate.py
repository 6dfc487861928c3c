"""Where a message breaks the wire format of protobuf: its decoder only says that it does."""

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_WIRE_TYPES = {0: "varint", 1: "64 bits", 2: "length", 5: "32 bits"}
_OF_TYPE = {FieldDescriptor.TYPE_FIXED64: 1, FieldDescriptor.TYPE_DOUBLE: 1, FieldDescriptor.TYPE_SFIXED64: 1} | {
    FieldDescriptor.TYPE_FIXED32: 5,
    FieldDescriptor.TYPE_FLOAT: 5,
    FieldDescriptor.TYPE_SFIXED32: 5,
    FieldDescriptor.TYPE_STRING: 2,
    FieldDescriptor.TYPE_BYTES: 2,
    FieldDescriptor.TYPE_MESSAGE: 2,
}


class _Malformed(Exception):
    """What is wrong, with the field and the byte."""


def explain(data: bytes, descriptor: Descriptor) -> str:
    """The first fault, such as "truncated http_request.headers at byte 17 of 40"."""
    try:
        _walk(data, 0, len(data), descriptor, "")
    except _Malformed as error:
        return f"{error} of {len(data)}"
    return f"no single fault in its {len(data)} bytes"


def _walk(data: bytes, at: int, end: int, descriptor: Descriptor, path: str) -> None:
    """Go through the fields of a message between two offsets."""
    while at < end:
        start = at
        tag, at = _varint(data, at, end, path + "tag")
        number, wire_type = tag >> 3, tag & 7
        field = descriptor.fields_by_number.get(number)
        name = path + (field.name if field is not None else f"field {number}")
        if number == 0 or wire_type not in _WIRE_TYPES:
            raise _Malformed(f"bad tag in {path.rstrip('.') or descriptor.name} at byte {start}")
        known = field is not None and wire_type == _OF_TYPE.get(field.type, 0)
        if wire_type == 0:
            _, at = _varint(data, at, end, name)
            continue
        size = {1: 8, 5: 4}.get(wire_type, 0)
        if wire_type == 2:
            size, at = _varint(data, at, end, name)
        if size > end - at:
            raise _Malformed(f"truncated {name} at byte {at}")
        if known and field is not None and field.type == FieldDescriptor.TYPE_STRING:
            try:
                data[at : at + size].decode()
            except UnicodeDecodeError as error:
                raise _Malformed(f"invalid UTF-8 in {name} at byte {at + error.start}") from None
        elif known and field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
            _walk(data, at, at + size, field.message_type, f"{name}.")
        at += size


def _varint(data: bytes, at: int, end: int, name: str) -> tuple[int, int]:
    """A varint of at most ten bytes, and the offset behind it."""
    value = 0
    for index, byte in enumerate(data[at : min(end, at + 10)]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise _Malformed(f"{'truncated' if end - at < 10 else 'overlong'} {name} at byte {at}")
