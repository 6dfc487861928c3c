"""WebSocket kernels (RFC 6455 5)."""

import random
from functools import partial

import pytest

from fasttunnel._core import Frame, KernelError, WebSocketParser, build_head, mask, rotate_key
from tests.support.feeding import feed_every_way

KEY = bytes.fromhex("37fa213d")
FROM_CLIENT = partial(WebSocketParser, True)
FROM_SERVER = partial(WebSocketParser, False)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

# WsResult of _core.pxd
E_UNMASKED, E_MASKED, E_OPCODE, E_RSV, E_CONTROL_FRAGMENTED, E_CONTROL_LENGTH = -1, -2, -3, -4, -5, -6
E_CONTINUATION, E_INTERRUPTED, E_LENGTH, E_TOO_LARGE, E_CLOSE = -7, -8, -9, -10, -11


def wire(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes | None = None) -> bytes:
    """A frame built without the kernels."""
    n = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    masked = 0x80 if key else 0
    if n < 126:
        head += bytes([masked | n])
    elif n < 65536:
        head += bytes([masked | 126]) + n.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + n.to_bytes(8, "big")
    if key:
        return head + key + bytes(byte ^ key[i & 3] for i, byte in enumerate(payload))
    return head + payload


def whole(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = False) -> Frame:
    return Frame(payload, opcode, fin, rsv, masked, True, False, len(payload))


@pytest.mark.parametrize(
    ("hexadecimal", "frame"),
    [
        ("810548656c6c6f", whole(TEXT, b"Hello")),
        ("818537fa213d7f9f4d5158", whole(TEXT, b"Hello", masked=True)),
        ("010348656c", whole(TEXT, b"Hel", fin=False)),
        ("890548656c6c6f", whole(PING, b"Hello")),
        ("8a8537fa213d7f9f4d5158", whole(PONG, b"Hello", masked=True)),
    ],
)
def test_examples_of_rfc_6455_section_5_7(hexadecimal: str, frame: Frame) -> None:
    make = FROM_CLIENT if frame.masked else FROM_SERVER
    outcome = feed_every_way(make, bytes.fromhex(hexadecimal), tail=b"\x89")
    assert outcome.items == [frame]
    assert (outcome.error, outcome.rest) == (0, b"")


@pytest.mark.parametrize("length", [0, 1, 2, 125, 126, 127, 255, 256, 65535, 65536, 65537, 100_000])
@pytest.mark.parametrize("key", [None, KEY])
def test_lengths_and_fragments(length: int, key: bytes | None) -> None:
    payload = random.Random(length).randbytes(length)
    make = partial(WebSocketParser, key is not None, max_fragment=65536)
    data = wire(BINARY, payload, key=key)
    outcome = feed_every_way(make, data, tail=b"\x81", view=whole_frames)
    assert outcome.items == [Frame(payload, BINARY, True, 0, key is not None, True, False, length)]
    assert not outcome.error
    frames = make().feed(data)  # by hand: how a frame is cut that lies there whole
    assert len(frames) == max(1, -(-length // 65536))
    for i, frame in enumerate(frames):
        assert frame.first == (i == 0)
        assert frame.more == (i < len(frames) - 1)
        assert (frame.opcode, frame.fin, frame.masked, frame.frame_bytes) == (BINARY, True, key is not None, length)


def whole_frames(fragments: list[Frame]) -> list[Frame]:
    """A large frame is passed on as it comes: how it is cut depends on the input, what it is does not."""
    frames: list[Frame] = []
    for fragment in fragments:
        if fragment.first:
            frames.append(fragment)
        else:
            assert frames[-1].more
            frames[-1] = frames[-1]._replace(payload=frames[-1].payload + fragment.payload, more=fragment.more)
    return frames


def test_a_large_frame_does_not_wait_until_it_is_whole() -> None:
    payload = random.Random(1).randbytes(60_000)
    parser = WebSocketParser(True, max_fragment=65536)
    data = wire(BINARY, payload, key=KEY)
    first = parser.feed(data[:30_000])  # by hand: when a part comes out is what is looked at
    assert [(frame.first, frame.more, frame.frame_bytes) for frame in first] == [(True, True, 60_000)]
    assert not parser.rest
    assert not parser.feed(data[30_000:30_100])  # by hand: too little to be worth a message
    assert whole_frames(first + parser.feed(data[30_100:])) == [  # by hand: the rest of it
        Frame(payload, BINARY, True, 0, True, True, False, 60_000)
    ]


@pytest.mark.parametrize("max_fragment", [1, 2, 3, 5, 7, 8, 64])
def test_mask_phase_goes_on_through_fragments(max_fragment: int) -> None:
    payload = random.Random(max_fragment).randbytes(100)
    outcome = feed_every_way(partial(FROM_CLIENT, max_fragment=max_fragment), wire(TEXT, payload, key=KEY))
    assert [len(frame.payload) for frame in outcome.items[:-1]] == [max_fragment] * (len(outcome.items) - 1)
    assert b"".join(frame.payload for frame in outcome.items) == payload


def test_a_conversation_keeps_frame_boundaries() -> None:
    data = (
        wire(TEXT, b"one", fin=False, key=KEY)
        + wire(PING, b"?", key=KEY)
        + wire(0, b"", fin=False, key=KEY)
        + wire(PONG, key=KEY)
        + wire(0, b"two", key=KEY)
        + wire(BINARY, b"", key=KEY)
        + wire(CLOSE, b"\x03\xe8bye", key=KEY)
    )
    outcome = feed_every_way(FROM_CLIENT, data, tail=b"\x82\x80\x00")
    assert outcome.items == [
        whole(TEXT, b"one", fin=False, masked=True),
        whole(PING, b"?", masked=True),
        whole(0, b"", fin=False, masked=True),
        whole(PONG, masked=True),
        whole(0, b"two", masked=True),
        whole(BINARY, masked=True),
        whole(CLOSE, b"\x03\xe8bye", masked=True),
    ]


@pytest.mark.parametrize(
    ("make", "data", "error"),
    [
        (FROM_CLIENT, wire(TEXT, b"x"), E_UNMASKED),
        (FROM_CLIENT, wire(PING), E_UNMASKED),
        (FROM_SERVER, wire(TEXT, b"x", key=KEY), E_MASKED),
        *[(FROM_SERVER, wire(opcode, b"x"), E_OPCODE) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
        *[(FROM_SERVER, wire(opcode, b"x", rsv=rsv), E_RSV) for rsv in (1, 2, 4, 7) for opcode in (TEXT, BINARY, PING)],
        *[(FROM_SERVER, wire(opcode, b"", fin=False), E_CONTROL_FRAGMENTED) for opcode in (CLOSE, PING, PONG)],
        *[(FROM_SERVER, wire(opcode, bytes(126)), E_CONTROL_LENGTH) for opcode in (CLOSE, PING, PONG)],
        (FROM_SERVER, wire(PING, bytes(70_000)), E_CONTROL_LENGTH),
        (FROM_SERVER, wire(0, b"x"), E_CONTINUATION),
        (FROM_SERVER, wire(TEXT, b"x") + wire(0, b"y"), E_CONTINUATION),
        (FROM_SERVER, wire(TEXT, b"x", fin=False) + wire(0, b"y") + wire(0, b"z"), E_CONTINUATION),
        (FROM_SERVER, wire(TEXT, b"x", fin=False) + wire(TEXT, b"y"), E_INTERRUPTED),
        (FROM_SERVER, wire(TEXT, b"", fin=False) + wire(PING) + wire(BINARY, b"y"), E_INTERRUPTED),
        (FROM_SERVER, b"\x82\x7f" + (1 << 63).to_bytes(8, "big"), E_LENGTH),
        (FROM_SERVER, b"\x82\x7f" + (2**64 - 1).to_bytes(8, "big"), E_LENGTH),
        (FROM_SERVER, b"\x82\x7f" + (65535).to_bytes(8, "big"), E_LENGTH),
        (FROM_SERVER, b"\x82\x7f" + bytes(8), E_LENGTH),
        (FROM_SERVER, b"\x82\x7e" + (125).to_bytes(2, "big"), E_LENGTH),
        (FROM_SERVER, b"\x82\x7e\x00\x00", E_LENGTH),
        (FROM_CLIENT, b"\x82\xff" + (2**63).to_bytes(8, "big") + KEY, E_LENGTH),
        (FROM_SERVER, wire(CLOSE, b"\x03"), E_CLOSE),
        (FROM_CLIENT, wire(CLOSE, b"\x03", key=KEY), E_CLOSE),
        (FROM_CLIENT, wire(CLOSE, (1005).to_bytes(2, "big"), key=KEY), E_CLOSE),
    ],
)
def test_refusals_with_close_code_1002(make: partial[WebSocketParser], data: bytes, error: int) -> None:
    good = wire(PING, b"before", key=KEY if make is FROM_CLIENT else None)
    outcome = feed_every_way(make, good + data, tail=b"xyz")
    assert outcome.error == error
    assert outcome.close_code == 1002
    assert outcome.items[0].payload == b"before"


def test_rsv_bits_pass_where_an_extension_was_negotiated() -> None:
    data = wire(TEXT, b"x", fin=False, rsv=4) + wire(0, b"y", rsv=3)
    outcome = feed_every_way(partial(FROM_SERVER, rsv_allowed=True), data)
    assert [frame.rsv for frame in outcome.items] == [4, 3]


@pytest.mark.parametrize("key", [None, KEY])
def test_close_codes(key: bytes | None) -> None:
    sendable = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    for code in [*range(6000), 65535]:
        parser = WebSocketParser(key is not None)
        data = wire(CLOSE, code.to_bytes(2, "big") + b"why", key=key)
        if code in sendable:
            assert len(parser.feed(data)) == 1  # by hand: thousands of inputs that are cut elsewhere
        else:
            with pytest.raises(KernelError) as refusal:
                parser.feed(data)  # by hand: same
            assert (refusal.value.code, refusal.value.close_code) == (E_CLOSE, 1002)


@pytest.mark.parametrize(
    "data",
    [
        wire(TEXT, bytes(11)),
        wire(TEXT, bytes(6), fin=False) + wire(0, bytes(5), fin=False),
        wire(TEXT, bytes(10), fin=False) + wire(PING, bytes(100)) + wire(0, bytes(1)),
        wire(TEXT, bytes(10)) + wire(BINARY, bytes(10)) + wire(TEXT, bytes(11)),
        b"\x82\x7f" + (2**63 - 1).to_bytes(8, "big"),
        wire(TEXT, b"x", fin=False) + b"\x80\x7f" + (2**63 - 1).to_bytes(8, "big"),
    ],
)
def test_message_limit_is_decided_at_the_header(data: bytes) -> None:
    outcome = feed_every_way(partial(FROM_SERVER, max_message_bytes=10), data)
    assert (outcome.error, outcome.close_code) == (E_TOO_LARGE, 1009)
    header = feed_every_way(partial(FROM_SERVER, max_message_bytes=10), data.rstrip(b"\x00"))
    assert header.error in (0, E_TOO_LARGE)


def test_message_limit_counts_one_message_at_a_time() -> None:
    data = (wire(TEXT, bytes(5), fin=False) + wire(PONG, bytes(125)) + wire(0, bytes(5))) * 3
    outcome = feed_every_way(partial(FROM_SERVER, max_message_bytes=10), data)
    assert not outcome.error
    assert len(outcome.items) == 9


def test_2_to_the_63_less_1_bytes_are_streamed_not_gathered() -> None:
    data = b"\x82\x7f" + (2**63 - 1).to_bytes(8, "big") + bytes(100)
    outcome = feed_every_way(partial(FROM_SERVER, max_fragment=30), data)
    assert [(frame.first, frame.more, frame.frame_bytes) for frame in outcome.items] == [
        (True, True, 2**63 - 1),
        (False, True, 2**63 - 1),
        (False, True, 2**63 - 1),
    ]
    assert outcome.rest == bytes(10)


def test_a_message_of_endless_empty_fragments_costs_nothing() -> None:
    data = wire(TEXT, b"", fin=False) + wire(0, b"", fin=False) * 1000
    assert len(feed_every_way(FROM_SERVER, data).items) == 1001


@pytest.mark.parametrize("credit", [1, 3, 10, 64])
def test_credit_bounds_fragments_and_blocks(credit: int) -> None:
    payload = random.Random(credit).randbytes(50)
    data = wire(BINARY, payload, key=KEY) + wire(PING, b"!", key=KEY) + wire(TEXT, b"", key=KEY)
    make = partial(FROM_CLIENT, credit=credit, max_fragment=20)
    outcome = feed_every_way(make, data, grant=credit)
    assert b"".join(frame.payload for frame in outcome.items[:-2]) == payload
    assert all(len(frame.payload) <= min(credit, 20) for frame in outcome.items[:-2])
    assert [frame.opcode for frame in outcome.items[-2:]] == [PING, TEXT]


def test_without_credit_control_and_empty_frames_pass() -> None:
    data = wire(PING, b"!") + wire(TEXT, b"", fin=False) + wire(0, b"") + wire(CLOSE)
    outcome = feed_every_way(partial(FROM_SERVER, credit=0), data)
    assert [frame.opcode for frame in outcome.items] == [PING, TEXT, 0, CLOSE]


def test_without_credit_a_payload_blocks_what_is_behind_it() -> None:
    data = wire(PING, b"!") + wire(TEXT, b"abc") + wire(PING, b"?")
    parser = FROM_SERVER(credit=0)
    assert [frame.opcode for frame in parser.feed(data)] == [PING]  # by hand: state between the calls
    assert parser.blocked
    assert parser.feed(b"", 2) == [Frame(b"ab", TEXT, True, 0, False, True, True, 3)]  # by hand: same
    assert parser.blocked
    after = parser.feed(b"", 2)  # by hand: same
    assert after == [Frame(b"c", TEXT, True, 0, False, False, False, 3), whole(PING, b"?")]
    assert (parser.blocked, parser.credit) == (False, 1)


# -- mask and builder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_mask_of_every_small_length(in_place: bool) -> None:
    for length in [*range(100), 255, 256, 257, 4096, 65536, 65537]:
        data = random.Random(length).randbytes(length)
        masked = mask(data, KEY, in_place=in_place)
        assert masked == bytes(byte ^ KEY[i & 3] for i, byte in enumerate(data))
        assert mask(masked, KEY, in_place=in_place) == data


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 2**32 + 1, 2**64 - 1])
def test_rotate_key(n: int) -> None:
    assert rotate_key(b"abcd", n) == (b"abcd" * 2)[n % 4 : n % 4 + 4]


def test_masking_in_parts_is_masking_at_once() -> None:
    data = random.Random(1).randbytes(97)
    for cut in range(98):
        assert mask(data[:cut], KEY) + mask(data[cut:], rotate_key(KEY, cut)) == mask(data, KEY)


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(("fin", "rsv", "opcode"), [(True, 0, TEXT), (False, 4, BINARY), (True, 7, 0)])
def test_build_head(length: int, key: bytes | None, fin: bool, rsv: int, opcode: int) -> None:
    expected = wire(opcode, bytes(length), fin=fin, rsv=rsv, key=key)
    assert build_head(fin, rsv, opcode, length, key) == expected[: len(expected) - length]


def test_build_head_of_the_largest_frame() -> None:
    assert build_head(True, 0, BINARY, 2**63 - 1) == b"\x82\x7f" + (2**63 - 1).to_bytes(8, "big")
