"""Tunnel byte streams of version 1, recorded from both engines: whoever reads them must find what was meant then.

tests/support/record.py has made them. They are not to be made anew when a test fails: peers in the field still write
this. A stream that means something else today is a change of the wire, which needs a new version (docs/wire.md).
"""

import random
from pathlib import Path
from typing import Any

import pytest

from fasttunnel._core import GrpcMessages, decode_message
from fasttunnel.reference.grpc_streams import GrpcStreamSplitter
from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.support.messages import normal, oracle_decode
from tests.support.record import CONVERSATIONS, FOLDER, listing

RECORDED = sorted(FOLDER.glob("*.bin"))
NAMES = [path.stem for path in RECORDED]
LARGEST = 4 * 1024 * 1024


def split(path: Path) -> list[bytes]:
    """The messages in a stream, by the plainest reading of gRPC's prefix."""
    data, bodies = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[1:5], "big")
        assert data[0] == 0
        assert len(data) >= 5 + length
        bodies.append(data[5 : 5 + length])
        data = data[5 + length :]
    return bodies


def messages(path: Path) -> list[TunnelMessage]:
    return [TunnelMessage.FromString(body) for body in split(path)]


def test_all_is_there() -> None:
    assert {name.rpartition("-")[0] for name in NAMES} == {
        f"{engine}-{conversation}" for engine in ("asyncio", "cython") for conversation in CONVERSATIONS
    }


@pytest.mark.parametrize("path", RECORDED, ids=NAMES)
def test_protobuf_reads_what_was_meant(path: Path) -> None:
    assert listing(messages(path)) == path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("path", RECORDED, ids=NAMES)
def test_the_compiled_codec_reads_the_same(path: Path) -> None:
    for body in split(path):
        assert normal(decode_message(body)) == oracle_decode(body)


@pytest.mark.parametrize("path", RECORDED, ids=NAMES)
def test_both_engines_split_the_stream_alike(path: Path) -> None:
    """Whole, and cut at random places."""
    bodies, data = split(path), path.read_bytes()
    for seed in range(5):
        cuts = sorted(random.Random(seed).choices(range(len(data)), k=seed * 10))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        compiled, plain = GrpcMessages(LARGEST, credit=2**31 - 1), GrpcStreamSplitter()
        found: list[bytes] = []
        expected: list[bytes] = []
        for piece in pieces:
            found += [bytes(message.body) for message in compiled.feed(piece)]  # by hand: the reads of a stream
            plain.feed(piece)  # by hand: the reads of a stream
            while (message := plain.next_piece(LARGEST)) is not None:
                expected.append(message.body)
        assert found == expected == bodies


@pytest.mark.parametrize("engine", ["asyncio", "cython"])
def test_the_corpus_has_every_feature(engine: str) -> None:
    """Else it would prove less than it seems to."""
    found = [message for path in RECORDED if path.stem.startswith(engine) for message in messages(path)]
    assert {message.WhichOneof("payload") for message in found} >= {
        field.name for field in TunnelMessage.DESCRIPTOR.oneofs_by_name["payload"].fields
    } - {"tcp_data", "heartbeat"}
    seen: dict[str, set[Any]] = {}
    for message in found:
        kind = message.WhichOneof("payload") or ""
        for field, value in getattr(message, kind).ListFields():
            seen.setdefault(f"{kind}.{field.name}", set()).add(str(value))
    assert {0, 1, 3} <= {message.reset.code for message in found if message.HasField("reset")}
    assert {"1", "2", "8", "9", "10"} <= seen["ws_frame.opcode"]
    assert "4" in seen["ws_frame.rsv"]
    for name in (
        "http_request.trailers",
        "http_response.trailers",
        "http_response.informational",
        "ws_frame.more",
        "ws_frame.payload_length",
        "ws_response.body",
        "grpc_request.more",
        "grpc_request.metadata",
        "grpc_response.more",
        "grpc_response.message_length",
        "grpc_response.status_details",
        "grpc_response.status_message",
        "grpc_response.initial_metadata",
        "grpc_response.trailing_metadata",
    ):
        assert name in seen, name
    assert any(message.trace_id for message in found)
