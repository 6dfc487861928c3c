"""The WebSocket parser and builder against wsproto and websockets."""

import random
from collections.abc import Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets import frames as websockets_frames
from websockets.exceptions import ProtocolError
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from fasttunnel._core import Frame, KernelError, WebSocketParser, build_head, mask
from tests.support.feeding import feed_every_way

DAMAGED = 6_000
CLOSE = 8
CODES_UNKNOWN_TO_WSPROTO = {1014}  # Bad Gateway: registered with IANA, RFC 6455 11.7
HEADER_BYTES = 14  # at most

# One step of a conversation: what is sent, its payload, whether it ends its message.
PAYLOADS = st.binary(max_size=200) | st.sampled_from([bytes(125), bytes(126), bytes(127), bytes(65535), bytes(65536)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("data"), PAYLOADS, st.booleans()),
        st.tuples(st.sampled_from(["ping", "pong"]), st.binary(max_size=125), st.just(True)),
    ),
    max_size=8,
)
CLOSES = st.none() | st.sampled_from([None, *(reason for reason in CloseReason if reason not in (1005, 1006, 1015))])


@given(STEPS, CLOSES, st.booleans(), st.sampled_from([1, 7, 64, 1000, 65536]))
@settings(max_examples=150, deadline=None)
def test_what_wsproto_sends(
    steps: list[tuple[str, bytes, bool]], close: CloseReason | None, from_client: bool, max_fragment: int
) -> None:
    if max_fragment < 64:
        steps = [(what, payload[:500], fin) for what, payload, fin in steps]
    sender = FrameProtocol(client=from_client, extensions=[])
    data = b""
    expected = []
    opcode = 2
    for what, payload, fin in steps:
        if what == "data":
            data += sender.send_data(payload, fin=fin)
            expected.append((opcode, fin, payload))
            opcode = 2 if fin else 0
        else:
            data += sender.ping(payload) if what == "ping" else sender.pong(payload)
            expected.append((9 if what == "ping" else 10, True, payload))
    data += sender.close(close, "why" if close else None)
    expected.append((CLOSE, True, close.to_bytes(2, "big") + b"why" if close else b""))

    outcome = feed_every_way(
        lambda: WebSocketParser(from_client, max_fragment=max_fragment),
        data,
        tail=b"\x82",
        view=lambda fragments: gathered(fragments, max_fragment),  # a large frame is passed on as it comes
    )
    assert (outcome.error, outcome.rest) == (0, b"")
    assert [(f.opcode, f.fin, f.payload) for f in outcome.items] == expected


def gathered(fragments: list[Frame], max_fragment: int) -> list[Frame]:
    """Frames of their fragments, which must fit together."""
    frames: list[Frame] = []
    for fragment in fragments:
        if fragment.opcode < CLOSE:
            assert len(fragment.payload) <= max_fragment
        if fragment.first:
            assert not frames or not frames[-1].more
            frames.append(fragment)
        else:
            before = frames[-1]
            assert before.more
            assert before[1:5] == fragment[1:5]
            frames[-1] = before._replace(payload=before.payload + fragment.payload, more=fragment.more)
    assert all(len(frame.payload) == frame.frame_bytes for frame in frames if not frame.more)
    return frames


@given(
    st.sampled_from([0, 1, 2, 8, 9, 10]),
    st.booleans(),
    PAYLOADS,
    st.binary(min_size=4, max_size=4) | st.none(),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_websockets_reads_what_is_built(
    opcode: int, fin: bool, payload: bytes, key: bytes | None, data: st.DataObject
) -> None:
    if opcode >= CLOSE:
        payload, fin = payload[:125], True
    wire = build_head(fin, 0, opcode, len(payload), key) + (mask(payload, key) if key else payload)
    frame = read_frame(wire, mask=key is not None)
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (opcode, fin, payload)
    theirs = frame.serialize(mask=key is not None)
    assert len(theirs) == len(wire)
    if key is None:
        assert theirs == wire


def read_frame(wire: bytes, *, mask: bool) -> websockets_frames.Frame:
    at = 0

    def read_exact(n: int) -> Generator[None, None, bytes]:
        nonlocal at
        if len(wire) - at < n:
            raise EOFError
        at += n
        return wire[at - n : at]
        yield

    reading = websockets_frames.Frame.parse(read_exact, mask=mask)
    with pytest.raises(StopIteration) as done:
        next(reading)
    assert at == len(wire)
    return done.value.value


# -- damaged conversations --------------------------------------------------------------------------------------------


def wsproto_reads(data: bytes, from_client: bool) -> tuple[list[tuple[int, bytes]], bool]:
    """Frames (opcode, payload), fragments joined, and whether wsproto refused. Text is not checked: see below."""
    receiver = FrameProtocol(client=not from_client, extensions=[])
    frames: list[tuple[int, bytes]] = []
    inside = False  # a frame of which wsproto has given out a part

    try:
        receiver.receive_bytes(data)
        while (frame := receiver._frame_decoder.process_buffer()) is not None:
            if frame.opcode is Opcode.CLOSE:
                if int.from_bytes(frame.payload[:2], "big") not in CODES_UNKNOWN_TO_WSPROTO:
                    receiver._process_close(frame)
            elif not frame.opcode.iscontrol() and not inside:
                check_order(receiver, frame.opcode, bool(frame.message_finished))
            payload = bytes(frame.payload)
            if inside:
                frames[-1] = (frames[-1][0], frames[-1][1] + payload)
            else:
                frames.append((int(frame.opcode), payload))
            inside = not frame.frame_finished
    except ParseFailed as error:
        if error.code is CloseReason.INVALID_FRAME_PAYLOAD_DATA:
            frames.append((CLOSE, b""))  # the reason is not text: for the endpoints to check, so ours goes on
            return frames, False
        return frames, True
    if inside:
        frames.pop()
    return frames, False


def check_order(receiver: FrameProtocol, opcode: Opcode, fin: bool) -> None:
    """wsproto's MessageDecoder without its check of text, which tunnels leave to the endpoints."""
    decoder = receiver._message_decoder
    if decoder.opcode is None and opcode is Opcode.CONTINUATION:
        raise ParseFailed("unexpected CONTINUATION")
    if decoder.opcode is not None and opcode is not Opcode.CONTINUATION:
        raise ParseFailed("expected CONTINUATION")
    decoder.opcode = None if fin else decoder.opcode or opcode


def conversation(chance: random.Random, from_client: bool) -> bytes:
    sender = FrameProtocol(client=from_client, extensions=[])
    data = b""
    for _ in range(chance.randint(1, 4)):
        payload = chance.randbytes(chance.choice((0, 1, 5, 125, 126, 200)))
        way = chance.randrange(4)
        if way == 0:
            data += sender.ping(payload[:125])
        else:
            data += sender.send_data(payload, fin=way < 3)
    if chance.random() < 0.5:
        data += sender.close(CloseReason(chance.choice((1000, 1001, 1011))), "why")
    return data


@pytest.mark.parametrize("from_client", [False, True])
def test_damaged_conversations(from_client: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header byte or two changed: refused by both, or read alike by both, up to the first Close."""
    refused = 0
    for seed in range(DAMAGED // 2):
        chance = random.Random(seed)
        monkeypatch.setattr("wsproto.frame_protocol.os.urandom", chance.randbytes)  # masking keys of this seed
        data = bytearray(conversation(chance, from_client))
        for _ in range(chance.choice((1, 1, 2))):
            at = chance.randrange(min(len(data), 12)) if chance.random() < 0.7 else chance.randrange(len(data))
            data[at] = chance.choice((data[at] ^ 1 << chance.randrange(8), chance.randrange(256)))
        parser = WebSocketParser(from_client, max_fragment=2**62)
        error = 0
        try:
            fragments = parser.feed(bytes(data))  # by hand: thousands of inputs; test_arbitrary_bytes cuts them
        except KernelError as refusal:
            fragments, error = refusal.before, refusal.code
        mine = [(frame.opcode, frame.payload) for frame in fragments]
        theirs, they_refused = wsproto_reads(bytes(data), from_client)
        closed = next((i for i, (opcode, _) in enumerate(theirs) if opcode == CLOSE), None)
        if closed is not None:
            assert mine[:closed] == theirs[:closed]
            assert mine[closed][0] == CLOSE
            continue
        assert mine == theirs, bytes(data).hex()
        # Of a header cut off by the end of the input one may know more than the other: the order of checks differs.
        assert bool(error) == they_refused or len(parser.rest) < HEADER_BYTES, bytes(data).hex()
        refused += bool(error)
    assert 0.1 < refused / (DAMAGED // 2) < 0.9


@given(st.binary(max_size=40), st.booleans(), st.booleans(), st.sampled_from([0, 10]))
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes(data: bytes, from_client: bool, rsv_allowed: bool, limit: int) -> None:
    def make() -> WebSocketParser:
        return WebSocketParser(from_client, rsv_allowed=rsv_allowed, max_fragment=8, max_message_bytes=limit)

    outcome = feed_every_way(make, data)
    assert outcome.close_code in ((1002, 1009) if outcome.error else (None,))


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_mask_is_what_websockets_masks(data: bytes, key: bytes) -> None:
    assert mask(data, key) == websockets_frames.apply_mask(data, key) == mask(data, key, in_place=True)


def test_close_codes_are_those_of_websockets() -> None:
    for code in range(1 << 16):
        wire = build_head(True, 0, CLOSE, 2) + code.to_bytes(2, "big")
        try:
            websockets_frames.Close(code, "").check()
            sendable = True
        except ProtocolError:
            sendable = False
        try:
            WebSocketParser(False).feed(wire)  # by hand: 65,536 of them
            accepted = True
        except KernelError:
            accepted = False
        assert accepted == sendable, code
