"""Records of a tap as lines for people."""

import json
from typing import Any

import click
import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttunnel.cli.tap_lines import TapLines, described, escaped_json
from fasttunnel.control.view import Requests, View
from fasttunnel.wire.tunnel_pb2 import Header, TunnelMessage
from tests.unit.test_view import ALL_OF_IT, Tunnel

HTTP = {
    "time": "2026-11-29T12:00:00.123Z",
    "request_id": "h-1f",
    "protocol": "http",
    "route": "shop.example.com/api",
    "direction": "to_backend",
    "kind": "http_request",
    "size": 1234,
    "age_s": 0.00012,
    "method": "GET",
    "path": "/api/items",
    "first": True,
    "last": True,
    "number": 1,
}


def record(**fields: Any) -> dict[str, Any]:
    return {**HTTP, **fields}


def test_columns_stay_where_they_are() -> None:
    lines = TapLines(colour=False)
    others = [
        HTTP,
        record(request_id="ws-1", protocol="websocket", route=None, age_s=None, size=4_194_304),
        record(request_id=None, protocol=None, direction=None, age_s=100_000.0, route="\x1b[2J"),
        record(protocol="control", kind="heartbeat", reply=True),
    ]
    shown = [next(lines.lines(one)) for one in others]
    assert {line.index("GET") for line in shown[:3]} == {shown[3].index("heartbeat reply=True")}
    assert shown[0][12:] == " h-1f      http ->     1,234    0.1ms shop.example.co\u2026 GET /api/items end"
    assert "\x1b" not in shown[2]
    assert lines.head.index("what") == shown[0].index("GET")


def test_a_narrow_terminal_cuts_what_is_long_but_no_payload() -> None:
    lines = list(TapLines(colour=True, width=80).lines(record(path="/" + "x" * 200, payload="y" * 200, size=300)))
    first, payload = (click.unstyle(line) for line in lines)
    assert len(first) == 80
    assert first.endswith("\u2026")
    assert "shop" not in first, "no room for the route"
    assert payload == f"    | {'y' * 200} ... 100 more"
    assert lines[0] != first, "in colour"
    plain = next(TapLines(colour=False, width=80).lines(HTTP))
    assert click.unstyle(plain) == plain


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "http_request", "query": "a=1"}, "GET /api/items?a=1 end"),
        ({"kind": "http_request", "method": None, "path": None, "last": False}, "?"),
        ({"kind": "http_request", "first": False, "number": 3}, "body 3 end"),
        ({"kind": "http_request", "first": False, "number": 3, "size": 0, "trailers": 2}, "end trailers=2"),
        ({"kind": "http_response", "status": 200, "last": False}, "200"),
        (
            {"kind": "grpc_request", "number": 2, "more": True, "compressed": True, "last": False},
            "message 2 part compressed",
        ),
        ({"kind": "grpc_request", "number": 1, "more": False, "compressed": False}, "message 1 half-close"),
        ({"kind": "grpc_response", "status_name": "NOT_FOUND", "trailers": 1}, "NOT_FOUND trailers=1"),
        ({"kind": "ws_request"}, "GET /api/items"),
        ({"kind": "ws_response", "status": 101, "accepted": True}, "101"),
        ({"kind": "ws_response", "status": 403, "accepted": False}, "403 refused"),
        ({"kind": "ws_frame", "opcode": "text", "fin": True, "more": False}, "text 1 fin"),
        (
            {"kind": "ws_frame", "opcode": "continuation", "fin": False, "more": True, "rsv": 4},
            "continuation 1 not fin part compressed",
        ),
        ({"kind": "ws_frame", "opcode": "close", "code": 4001, "more": False}, "close 4001"),
        ({"kind": "ws_frame", "opcode": "ping", "more": False}, "ping"),
        (
            {"kind": "reset", "reset": "CANCELLED", "text": ""},
            "reset CANCELLED: the request was cancelled in the tunnel",
        ),
        ({"kind": "reset", "reset": "BACKEND_UNREACHABLE", "text": "refused"}, "reset BACKEND_UNREACHABLE: refused"),
        ({"kind": "window_update", "credit": 9}, "window_update credit=9"),
        ({"kind": "malformed"}, "malformed"),
    ],
)
def test_what_a_message_is(fields: dict[str, Any], words: str) -> None:
    made = {name: value for name, value in {**HTTP, **fields}.items() if value is not None}
    if "grpc" in fields["kind"]:
        made = {"more": False, "compressed": False, **made}
        made.pop("number") if "number" not in fields else None
    assert described(made)[0] == words


def test_json_for_a_terminal_moves_no_cursor() -> None:
    told = {"path": "/\x9b2J\u202e\x7f\U000e0001h\u00e9", "payload": '"\\'}
    line = escaped_json(json.dumps(told, ensure_ascii=False))
    assert line.isprintable()
    assert "h\u00e9" in line
    assert json.loads(line) == told


# -- whatever a peer sends --------------------------------------------------------------------------------------------

VALUES: dict[int, st.SearchStrategy[Any]] = {
    Field.CPPTYPE_STRING: st.text(max_size=8),
    Field.CPPTYPE_BOOL: st.booleans(),
    Field.CPPTYPE_ENUM: st.integers(0, 12),
    Field.CPPTYPE_INT32: st.sampled_from((0, 101, 200, 1_000_000, -1)),
    Field.CPPTYPE_INT64: st.sampled_from((0, 1, -(2**63))),
    Field.CPPTYPE_UINT32: st.integers(0, 10),
    Field.CPPTYPE_UINT64: st.sampled_from((0, 1, 2**64 - 1)),
}
HEADERS = st.lists(
    st.builds(Header, name=st.sampled_from(("a", "A-Bin", "token", "\x1b")), value=st.binary(max_size=8)), max_size=2
)


def value_of(field: Field) -> st.SearchStrategy[Any]:
    if field.type == Field.TYPE_BYTES:
        return st.binary(max_size=8)
    return VALUES[field.cpp_type]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Of any kind, with any of its fields, also of no request and of no direction."""
    made = TunnelMessage(
        request_id=draw(st.sampled_from(("", "x-1"))),
        direction=draw(st.integers(0, 3)),  # type: ignore[arg-type]
        protocol_type=draw(st.integers(0, 6)),  # type: ignore[arg-type]
    )
    kind = draw(st.sampled_from([None, *made.DESCRIPTOR.oneofs_by_name["payload"].fields]))
    if kind is None:
        return made.SerializeToString()
    payload = getattr(made, kind.name)
    payload.SetInParent()
    for field in kind.message_type.fields:
        if field.message_type is Header.DESCRIPTOR:
            getattr(payload, field.name).extend(draw(HEADERS))
        elif field.message_type is None and not field.is_repeated and draw(st.booleans()):
            setattr(payload, field.name, draw(value_of(field)))
    return made.SerializeToString()


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(st.lists(st.tuples(messages(), st.booleans()), min_size=1, max_size=3))
def test_no_message_is_too_strange_to_be_shown(passed: list[tuple[bytes, bool]]) -> None:
    requests = Requests()
    for encoded, sent in passed:
        sight = requests.see(Tunnel(), sent, encoded)
        assert sight is not None
        for view in (View(), ALL_OF_IT):
            record = msgspec.json.decode(msgspec.json.encode(view.record(sight)))
            for line in TapLines(colour=False).lines(record):
                assert line.isprintable()


@pytest.mark.parametrize("kind", sorted(f.name for f in TunnelMessage.DESCRIPTOR.oneofs_by_name["payload"].fields))
def test_what_a_record_of_another_version_leaves_out(kind: str) -> None:
    few = {name: HTTP[name] for name in ("time", "request_id", "protocol", "route", "size", "age_s")}
    assert next(TapLines(colour=False).lines({**few, "kind": kind, "payload": "x"}))


def test_what_is_of_no_request_is_described_too() -> None:
    message = TunnelMessage(window_update={"bytes": 9})  # type: ignore[arg-type]
    sight = Requests().see(Tunnel(), True, message.SerializeToString())
    assert sight is not None
    assert View().record(sight)["credit"] == 9
