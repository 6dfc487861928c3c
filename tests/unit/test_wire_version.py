"""Peers of a version can rely on it: what it has stays, and what is added is noted in tests/corpus/wire-vN.txt."""

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from fasttunnel import limits
from tests.support.wire_listing import COMMAND, broken, complaint, contract, known, listing, path_of


def test_what_peers_of_this_version_rely_on_is_still_there() -> None:
    version = limits.WIRE_VERSION
    assert path_of(version).exists(), f"version {version} has no snapshot: run `{COMMAND}` and add it"
    lost = broken(known(version), listing(contract()))
    assert not lost, complaint(lost, version)


def test_what_was_added_is_noted() -> None:
    added = [line for line in listing(contract()) if line not in known(limits.WIRE_VERSION)]
    assert not added, f"note what was added, {added}: run `{COMMAND}`"
    assert listing(contract()) == known(limits.WIRE_VERSION), f"run `{COMMAND}`"


def test_every_version_so_far_has_a_snapshot() -> None:
    assert [version for version in range(1, limits.WIRE_VERSION + 1) if not path_of(version).exists()] == []


# -- the test itself


def message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def field(file: FileDescriptorProto, owner: str, name: str) -> FieldDescriptorProto:
    return next(field for field in message(file, owner).field if field.name == name)


def remove(file: FileDescriptorProto) -> None:
    fields = message(file, "WebSocketFrame").field
    del fields[[field.name for field in fields].index("rsv")]


def renumber(file: FileDescriptorProto) -> None:
    field(file, "Reset", "message").number = 3


def rename(file: FileDescriptorProto) -> None:
    field(file, "Reset", "message").name = "text"


def retype(file: FileDescriptorProto) -> None:
    field(file, "WindowUpdate", "bytes").type = FieldDescriptorProto.TYPE_UINT32


def repeat(file: FileDescriptorProto) -> None:
    field(file, "Register", "group").label = FieldDescriptorProto.LABEL_REPEATED


def lose_presence(file: FileDescriptorProto) -> None:
    body = field(file, "GrpcRequest", "body")
    body.proto3_optional = False
    body.ClearField("oneof_index")


def leave_the_oneof(file: FileDescriptorProto) -> None:
    field(file, "TunnelMessage", "go_away").ClearField("oneof_index")


def renumber_a_value(file: FileDescriptorProto) -> None:
    next(enum for enum in file.enum_type if enum.name == "ResetCode").value[9].number = 10


def make_unary(file: FileDescriptorProto) -> None:
    file.service[0].method[0].client_streaming = False


def move(file: FileDescriptorProto) -> None:
    file.package = "fasttunnel.v2"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (remove, "WebSocketFrame 7 uint32 rsv"),
        (renumber, "Reset 2 string message"),
        (rename, "Reset 2 string message"),
        (retype, "WindowUpdate 1 uint64 bytes"),
        (repeat, "Register 3 string group"),
        (lose_presence, "GrpcRequest 4 optional bytes body"),
        (leave_the_oneof, "TunnelMessage 18 GoAway go_away in payload"),
        (renumber_a_value, "ResetCode 9 TUNNEL_LOST"),
        (make_unary, "TunnelService.Connect(stream TunnelMessage) returns (stream TunnelMessage)"),
        (move, "package fasttunnel.v1"),
    ],
)
def test_a_change_is_told(change: Callable[[FileDescriptorProto], None], line: str) -> None:
    file = contract()
    change(file)
    lost = broken(listing(contract()), listing(file))
    assert lost == [line]
    assert "breaks peers of version 1" in complaint(lost, 1)
    assert "give limits.WIRE_VERSION a new number and add a snapshot" in complaint(lost, 1)


def test_an_addition_breaks_nobody_and_is_seen() -> None:
    file = contract()
    message(file, "Reset").field.add(name="another", number=99, type=FieldDescriptorProto.TYPE_STRING)
    del message(file, "TunnelMessage").reserved_range[:]
    message(file, "TunnelMessage").field.add(name="resume", number=20, type=FieldDescriptorProto.TYPE_BYTES)
    before, after = listing(contract()), listing(file)
    assert broken(before, after) == []
    assert set(after) - set(before) == {"Reset 99 string another", "TunnelMessage 20 bytes resume"}
