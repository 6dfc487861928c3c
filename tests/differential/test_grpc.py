"""The gRPC splitter against a reading of the same bytes by hand, and fed with what h2 gives out as DATA."""

import struct

import h2.config
import h2.connection
import h2.events
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttunnel._core import GrpcMessages, KernelError, Piece
from tests.support.feeding import feed_every_way, feed_parts

MESSAGES = st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=8)


def wire(messages: list[tuple[bool, bytes]]) -> bytes:
    return b"".join(struct.pack("!?I", compressed, len(body)) + body for compressed, body in messages)


def expected(data: bytes, max_fragment: int, limit: int) -> tuple[list[Piece], int]:
    pieces: list[Piece] = []
    at = 0
    while at < len(data):
        if data[at] > 1:
            return pieces, -1
        if len(data) - at < 5:
            break
        compressed, size = struct.unpack_from("!?I", data, at)
        if limit and size > limit:
            return pieces, -2
        at += 5
        done = 0
        while True:
            take = min(size - done, max_fragment)
            if len(data) - at < take:
                return pieces, 0
            pieces.append(Piece(data[at : at + take], compressed, done == 0, done + take < size, size))
            at += take
            done += take
            if done == size:
                break
    return pieces, 0


@given(MESSAGES, st.binary(max_size=6), st.integers(1, 400), st.sampled_from([0, 50, 300]))
@settings(max_examples=200, deadline=None)
def test_pieces(messages: list[tuple[bool, bytes]], garbage: bytes, max_fragment: int, limit: int) -> None:
    data = wire(messages) + garbage
    outcome = feed_every_way(lambda: GrpcMessages(max_fragment=max_fragment, max_message_bytes=limit), data)
    assert (outcome.items, outcome.error) == expected(data, max_fragment, limit)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes(data: bytes) -> None:
    outcome = feed_every_way(lambda: GrpcMessages(max_fragment=16), data)
    assert (outcome.items, outcome.error) == expected(data, 16, 0)


@given(MESSAGES, st.lists(st.integers(0, 400), max_size=8), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_data_frames_of_h2(messages: list[tuple[bool, bytes]], cuts: list[int], read_size: int) -> None:
    data = wire(messages)
    sender = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    receiver = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    sender.initiate_connection()
    receiver.initiate_connection()
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/p.S/M")]
    sender.send_headers(1, fields)
    at = 0
    for cut in cuts:
        sender.send_data(1, data[at : at + cut])
        at += len(data[at : at + cut])
    sender.send_data(1, data[at:], end_stream=True)
    stream = sender.data_to_send()
    parts = [
        event.data
        for start in range(0, len(stream), read_size)
        for event in receiver.receive_data(stream[start : start + read_size])
        if isinstance(event, h2.events.DataReceived)
    ]
    pieces, error = feed_parts(GrpcMessages(), parts)
    assert error is None or not isinstance(error, KernelError)
    assert [(piece.compressed, piece.body) for piece in pieces] == messages
