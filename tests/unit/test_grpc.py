"""Splitter of gRPC's length-prefixed messages."""

import random
from functools import partial

import pytest

from fasttunnel._core import GrpcMessages, Piece, message_prefix
from tests.support.feeding import feed_every_way

E_FLAG, E_TOO_LARGE = -1, -2


def wire(body: bytes, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x00\x00", b"\x01\x00\x00\x00"])
def test_messages(tail: bytes) -> None:
    data = wire(b"one") + wire(b"") + wire(b"three", True) + wire(bytes(1000))
    outcome = feed_every_way(GrpcMessages, data, tail=tail)
    assert outcome.items == [
        Piece(b"one", False, True, False, 3),
        Piece(b"", False, True, False, 0),
        Piece(b"three", True, True, False, 5),
        Piece(bytes(1000), False, True, False, 1000),
    ]
    assert (outcome.error, outcome.rest) == (0, b"")


@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 14, 15, 100])
def test_fragments(length: int) -> None:
    body = random.Random(length).randbytes(length)
    outcome = feed_every_way(partial(GrpcMessages, max_fragment=7), wire(body, True) + wire(b"end"))
    *pieces, end = outcome.items
    assert end == Piece(b"end", False, True, False, 3)
    assert b"".join(piece.body for piece in pieces) == body
    assert len(pieces) == max(1, -(-length // 7))
    for i, piece in enumerate(pieces):
        assert piece[1:] == (True, i == 0, i < len(pieces) - 1, length)


@pytest.mark.parametrize("length", [0, 1, 5, 300])
def test_whether_a_message_is_whole(length: int) -> None:
    data = wire(bytes(length))
    for cut in range(len(data)):
        assert not GrpcMessages().whole(data[:cut])
    assert GrpcMessages().whole(data)
    assert GrpcMessages().whole(data + b"\x00\x00")


def test_whole_messages_only() -> None:
    body = bytes(200_000)
    outcome = feed_every_way(partial(GrpcMessages, max_fragment=0), wire(body))
    assert outcome.items == [Piece(body, False, True, False, len(body))]


@pytest.mark.parametrize("flag", [2, 3, 0x7F, 0x80, 0xFF])
def test_flag_above_1_is_refused(flag: int) -> None:
    outcome = feed_every_way(GrpcMessages, wire(b"good") + bytes([flag]), tail=b"\x00\x00\x00\x01x")
    assert outcome.error == E_FLAG
    assert [piece.body for piece in outcome.items] == [b"good"]


@pytest.mark.parametrize(("length", "error"), [(9, 0), (10, 0), (11, E_TOO_LARGE), (2**32 - 1, E_TOO_LARGE)])
def test_message_limit_is_decided_at_the_prefix(length: int, error: int) -> None:
    data = b"\x00" + length.to_bytes(4, "big")
    assert feed_every_way(partial(GrpcMessages, max_message_bytes=10), data).error == error


def test_4_gib_less_1_are_streamed_not_gathered() -> None:
    data = b"\x00" + b"\xff" * 4 + bytes(20)
    outcome = feed_every_way(partial(GrpcMessages, max_fragment=8), data)
    assert [piece[2:] for piece in outcome.items] == [(True, True, 2**32 - 1), (False, True, 2**32 - 1)]
    assert outcome.rest == bytes(4)


@pytest.mark.parametrize("credit", [1, 4, 30])
def test_credit_bounds_pieces_and_blocks(credit: int) -> None:
    body = random.Random(credit).randbytes(25)
    make = partial(GrpcMessages, credit=credit, max_fragment=10)
    outcome = feed_every_way(make, wire(body) + wire(b""), grant=credit)
    *pieces, empty = outcome.items
    assert b"".join(piece.body for piece in pieces) == body
    assert all(len(piece.body) <= min(10, credit) for piece in pieces)
    assert empty == Piece(b"", False, True, False, 0)


def test_without_credit_empty_messages_pass() -> None:
    assert len(feed_every_way(partial(GrpcMessages, credit=0), wire(b"") * 3).items) == 3


def test_boundary() -> None:
    data = wire(b"ab")
    for cut in range(len(data) + 1):
        messages = GrpcMessages(max_fragment=1)
        messages.feed(data[:cut])  # by hand: the state after each byte is what is tested
        assert messages.at_boundary == (cut in (0, len(data)))


@pytest.mark.parametrize("length", [0, 1, 255, 65536, 2**32 - 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_prefix(length: int, compressed: bool) -> None:
    assert message_prefix(compressed, length) == bytes([compressed]) + length.to_bytes(4, "big")
