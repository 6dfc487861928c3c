"""The TunnelMessage codec against protobuf: same bytes out, same meaning in, same refusals."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttunnel._core import Frame, KernelError, decode_message, encode_message, encode_ws_frame
from fasttunnel.wire import tunnel_pb2
from tests.support.messages import OPAQUE, normal, oracle_decode

MUTATIONS = 30_000
WIRE_FORMATS = 30_000
HOT = [
    field.name
    for field in tunnel_pb2.TunnelMessage.DESCRIPTOR.oneofs_by_name["payload"].fields
    if field.name not in OPAQUE
]
TEXT = st.text(max_size=20)
BYTES = st.binary(max_size=40) | st.sampled_from([bytes(127), bytes(128), b"\xff" * 300])
HEADERS = st.lists(st.tuples(TEXT, BYTES), max_size=4)
SCALARS = {
    "TYPE_BOOL": st.booleans(),
    "TYPE_UINT32": st.sampled_from([0, 1, 127, 128, 2**32 - 1]) | st.integers(0, 2**32 - 1),
    "TYPE_INT32": st.sampled_from([0, -1, 200, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1),
    "TYPE_UINT64": st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1),
    "TYPE_ENUM": st.sampled_from([0, 1, 2, 3, 9, 100, -1, 2**31 - 1]),
    "TYPE_STRING": TEXT,
    "TYPE_BYTES": BYTES,
}
TYPE_NAMES = {getattr(tunnel_pb2.DESCRIPTOR.message_types_by_name["Header"].fields[0], name): name for name in SCALARS}


def member_strategy(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a oneof member, each there or not; found in its descriptor, so that a new field is tested by itself."""
    descriptor = tunnel_pb2.TunnelMessage.DESCRIPTOR.fields_by_name[kind].message_type
    fields = {
        field.name: HEADERS if field.message_type is not None else SCALARS[TYPE_NAMES[field.type]]
        for field in descriptor.fields
    }
    assert fields
    return st.fixed_dictionaries({}, optional=fields)


ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        "client_id": TEXT,
        "request_id": st.text(max_size=16),
        "trace_id": TEXT,
        "direction": SCALARS["TYPE_ENUM"],
        "protocol_type": SCALARS["TYPE_ENUM"],
    },
)
MESSAGES = st.builds(
    lambda envelope, member: build(envelope, *member),
    ENVELOPE,
    st.sampled_from(HOT).flatmap(lambda kind: st.tuples(st.just(kind), member_strategy(kind))),
)


def build(envelope: dict[str, Any], kind: str, fields: dict[str, Any]) -> tunnel_pb2.TunnelMessage:
    message = tunnel_pb2.TunnelMessage(**envelope)
    member = getattr(message, kind)
    member.SetInParent()
    for name, value in fields.items():
        if isinstance(value, list):
            for header_name, header_value in value:
                getattr(member, name).add(name=header_name, value=header_value)
        else:
            setattr(member, name, value)
    return message


def ours(data: bytes) -> dict[str, Any] | None:
    try:
        return normal(decode_message(data))
    except KernelError as error:
        where = error.where
    assert where is not None
    assert 0 <= where <= len(data)
    return None


@given(MESSAGES)
@settings(max_examples=1500, deadline=None)
def test_same_bytes_and_same_meaning(message: tunnel_pb2.TunnelMessage) -> None:
    data = message.SerializeToString()
    flat = ours(data)
    assert flat is not None
    assert flat == oracle_decode(data)
    assert encode_message(**flat) == data
    assert encode_message(**flat, prefixed=True) == b"\x00" + len(data).to_bytes(4, "big") + data
    if flat.get("body"):
        assert encode_message(**flat, around=True) == encode_message(**flat, prefixed=True)


@given(
    st.text(st.characters(codec="ascii"), max_size=16).map(str.encode),
    st.sampled_from([1, 2]),
    st.binary(max_size=300),
    st.binary(min_size=4, max_size=4) | st.none(),
    st.tuples(st.integers(0, 15), st.booleans(), st.integers(0, 7), st.booleans(), st.booleans()),
    st.integers(1, 2**63 - 1),
)
@settings(max_examples=300, deadline=None)
def test_frames_straight_from_the_parser(
    request_id: bytes,
    direction: int,
    payload: bytes,
    key: bytes | None,
    bits: tuple[int, bool, int, bool, bool],
    frame_bytes: int,
) -> None:
    opcode, fin, rsv, first, more = bits
    masked = payload if key is None else bytes(byte ^ key[i & 3] for i, byte in enumerate(payload))
    frame = Frame(masked, opcode, fin, rsv, key is not None, first, more, frame_bytes)
    expected = tunnel_pb2.TunnelMessage(
        request_id=request_id.decode(),
        direction=direction,  # type: ignore[arg-type]
        protocol_type=tunnel_pb2.WEBSOCKET,
        ws_frame=tunnel_pb2.WebSocketFrame(
            connection_id=request_id.decode(),
            fin=fin,
            opcode=opcode,
            masked=key is not None,
            payload=payload,
            frame_direction=direction,  # type: ignore[arg-type]
            rsv=rsv,
            payload_length=frame_bytes if first and more else 0,
            more=more,
        ),
    ).SerializeToString()
    got = encode_ws_frame(request_id, direction, frame, key)
    assert got == b"\x00" + len(expected).to_bytes(4, "big") + expected
    assert ours(expected) == oracle_decode(expected)
    if payload:
        assert encode_ws_frame(request_id, direction, frame, key, around=True) == got


# -- hostile bytes ----------------------------------------------------------------------------------------------------


def varint(value: int, extra: int = 0) -> bytes:
    """A varint, `extra` bytes longer than it has to be."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    for _ in range(extra):
        out[-1] |= 128
        out.append(0)
    return bytes(out)


def wire_fields(chance: random.Random, depth: int = 0) -> bytes:
    """Fields that mostly exist, in any order, with any wire type, nested, with lengths that mostly fit."""
    out = b""
    for _ in range(chance.choice((0, 1, 1, 2, 3, 4))):
        number = chance.randint(1, 20) if chance.random() < 0.9 else chance.choice((0, 100, 2**29 - 1))
        wire = chance.choice((0, 2, 2) if chance.random() < 0.5 else (0, 0, 2, 2, 2, 1, 3, 4, 5, 6, 7))
        out += varint(number << 3 | wire, chance.choice((0,) * 30 + (1, 3, 4, 5, 9)))
        if wire == 0:
            value = chance.choice((0, 1, 3, chance.getrandbits(32), chance.getrandbits(64), chance.getrandbits(70)))
            out += varint(value, chance.choice((0, 0, 0, 0, 1, 6)))
        elif wire == 1:
            out += chance.randbytes(8)
        elif wire == 2:
            nested = depth < 3 and chance.random() < 0.7
            inner = wire_fields(chance, depth + 1) if nested else chance.choice(CONTENTS)
            wrong = chance.choice((1, -1, 2, 2**31, 2**32)) if chance.random() < 0.04 else 0
            extra = chance.randint(1, 5) if chance.random() < 0.05 else 0
            out += varint(max(0, len(inner) + wrong), extra) + inner
        elif wire == 3:
            out += wire_fields(chance, depth + 1) if depth < 3 else b""
            out += varint(number << 3 | 4) if chance.random() < 0.9 else b""
        elif wire == 5:
            out += chance.randbytes(4)
    return out[: chance.randint(0, len(out))] if chance.random() < 0.03 else out


CONTENTS = (b"", b"a", "é".encode(), b"\xff", b"abcdefgh\xc3", b"x" * 130)


def test_any_wire_format() -> None:
    refused = 0
    for seed in range(WIRE_FORMATS):
        data = wire_fields(random.Random(seed))
        mine, theirs = ours(data), oracle_decode(data)
        assert mine == theirs, data.hex()
        refused += mine is None
    assert 0.1 < refused / WIRE_FORMATS < 0.9


@given(
    st.binary(max_size=17) | st.just(b"ws-1f"),
    st.integers(0, 3),
    st.sampled_from([(2, 7, 4), (2, 8, 3), (3, 11, 5)]) | st.tuples(*[st.integers(0, 12)] * 3),
    st.lists(st.tuples(st.integers(0, 13), st.integers(0, 300)), max_size=10, unique_by=lambda field: field[0]),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=3),
)
@settings(max_examples=4000, deadline=None)
def test_messages_that_are_nearly_as_usual(
    request_id: bytes,
    direction: int,
    kind: tuple[int, int, int],
    fields: list[tuple[int, int]],
    named: bool,
    in_order: bool,
    tail: bytes,
) -> None:
    """The decoder has a way of its own for frames and chunks as they are nearly always written."""
    protocol, member_number, body_number = kind
    member = varint(1 << 3 | 2) + varint(len(request_id)) + request_id if named else b""
    for number, value in sorted(fields) if in_order else fields:
        bytes_like = number == body_number
        content = varint(value % 50) + bytes(value % 50) if bytes_like else varint(value)
        member += varint(number << 3 | (2 if bytes_like else 0)) + content
    data = varint(2 << 3 | 2) + varint(len(request_id)) + request_id + b"\x18" + varint(direction)
    data += b"\x20" + varint(protocol) + varint(member_number << 3 | 2) + varint(len(member)) + member + tail
    assert ours(data) == oracle_decode(data)


@given(st.lists(MESSAGES.map(lambda message: message.SerializeToString()), min_size=2, max_size=4))
@settings(max_examples=300, deadline=None)
def test_messages_on_end_merge(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert ours(data) == oracle_decode(data)


@given(st.binary(max_size=80))
@settings(max_examples=1000, deadline=None)
def test_any_bytes(data: bytes) -> None:
    assert ours(data) == oracle_decode(data)


def samples() -> list[bytes]:
    """One rich message of each kind."""
    headers = [(b"name", b"value"), (b"\xc3\xa9", b"\xff\x00" * 70)]
    fields: dict[str, Any] = {
        "request_id": b"ws-1",
        "direction": 1,
        "protocol_type": 3,
        "trace_id": b"0af7651916cd43dd",
        "body": b"payload",
        **dict.fromkeys(("method", "url", "host", "scheme", "service", "connection_id", "text"), "text é".encode()),
        **dict.fromkeys(("subprotocol", "status_message", "status_details"), b"s"),
        **dict.fromkeys(("first", "last", "more", "fin", "masked", "accepted", "compressed", "informational"), True),
        **dict.fromkeys(("sequence", "stream_id", "status", "message_bytes", "opcode", "rsv", "code"), 300),
        **dict.fromkeys(("frame_bytes", "credit"), 2**40),
    }
    found = []
    for kind in HOT:
        if kind.startswith(("http_", "grpc_", "ws_re")):
            fields["headers"] = headers
        if kind in ("http_request", "http_response", "grpc_response"):
            fields["trailers"] = headers[:1]
        found.append(encode_message(kind, **fields))
        fields["headers"] = fields["trailers"] = ()
    assert len(found) == 9
    return found


@pytest.mark.parametrize("seed", range(3))
def test_damaged_messages(seed: int) -> None:
    """Bytes changed, removed, put in, doubled or cut off: refused by both, or understood alike by both."""
    chance = random.Random(seed)
    originals = samples()
    refused = 0
    for _ in range(MUTATIONS // 3):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            at = chance.randrange(len(data))
            way = chance.randrange(6)
            if way == 0:
                data[at] = chance.randrange(256)
            elif way == 1:
                data[at] ^= 1 << chance.randrange(8)
            elif way == 2:
                del data[at : at + chance.randint(1, 4)]
            elif way == 3:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
            elif way == 4:
                data += chance.choice(originals)
            else:
                del data[max(1, at) :]
            if not data:
                data = bytearray(b"\x12")
        mine, theirs = ours(bytes(data)), oracle_decode(bytes(data))
        assert mine == theirs, data.hex()
        refused += mine is None
    assert 0.1 < refused / (MUTATIONS // 3) < 0.9
