"""The generated wire code is what the .proto file says, and keeps the numbers that were given to us."""

import subprocess
import sys
from pathlib import Path

import pytest

from fasttunnel.wire import tunnel_pb2

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "fasttunnel"


def toolchain(text: str) -> str:
    """The line of generated code that names its protobuf version."""
    return next(line for line in text.splitlines() if line.startswith("# Protobuf Python Version"))


def serialized_descriptor(path: Path) -> bytes:
    """What a generated module hands to protobuf, read in a process of its own: one pool holds one version of a file."""
    program = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('generated', {str(path)!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "sys.stdout.buffer.write(module.DESCRIPTOR.serialized_pb)"
    )
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*_pb2*"))
    assert len(generated) == 6
    assert generated == sorted(path.relative_to(PACKAGE) for path in PACKAGE.glob("*/*_pb2*.py*"))
    for path in generated:
        if path.name.endswith("_pb2.py"):
            assert serialized_descriptor(tmp_path / path) == serialized_descriptor(PACKAGE / path)
    ours, theirs = (toolchain((package / "wire" / "tunnel_pb2.py").read_text()) for package in (PACKAGE, tmp_path))
    if ours == theirs:  # another protoc writes the same contract in other words
        for path in generated:
            assert (tmp_path / path).read_text() == (PACKAGE / path).read_text(), path


GIVEN = {
    "TunnelMessage": {"request_id": 2, "protocol_type": 4, "ws_request": 9, "ws_response": 10, "ws_frame": 11},
    "WebSocketRequest": {"url": 1, "host": 2, "headers": 3, "subprotocol": 4},
    "WebSocketResponse": {"status_code": 1, "headers": 2, "subprotocol": 3, "accepted": 4},
    "WebSocketFrame": {
        "connection_id": 1, "fin": 2, "opcode": 3, "masked": 4, "payload": 5, "frame_direction": 6,
    },
    "GrpcRequest": {
        "grpc_stream_id": 1, "service": 2, "method": 3, "body": 4, "is_first_chunk": 5, "is_last_chunk": 6,
        "sequence_number": 7,
    },
    "GrpcResponse": {
        "grpc_stream_id": 1, "status_code": 2, "body": 3, "is_first_chunk": 4, "is_last_chunk": 5, "sequence_number": 6,
    },
}  # fmt: skip


@pytest.mark.parametrize("message", GIVEN)
def test_given_numbers_never_change(message: str) -> None:
    fields = tunnel_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name
    assert {name: fields[name].number for name in GIVEN[message]} == GIVEN[message]


def test_service_path() -> None:
    service = tunnel_pb2.DESCRIPTOR.services_by_name["TunnelService"]
    assert f"/{service.full_name}/{service.methods[0].name}" == "/fasttunnel.v1.TunnelService/Connect"


def test_wire_package_does_not_import_grpc() -> None:
    program = "import sys, fasttunnel.wire.tunnel_pb2; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
