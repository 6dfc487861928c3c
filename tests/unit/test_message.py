"""TunnelMessage codec: the corners, by hand. Agreement with protobuf at large is in differential/test_message.py."""

from typing import Any

import pytest

from fasttunnel._core import Buffer, Frame, KernelError, decode_message, encode_message, encode_ws_frame, is_utf8
from tests.support.messages import normal, oracle_decode

E_TRUNCATED, E_VARINT, E_TAG, E_UTF8 = -1, -2, -3, -4

WS = b"\x12\x04ws-1"  # request_id
WS_FRAME, HTTP_REQUEST, RESET, REGISTER = 11, 5, 15, 12


def member(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def both(data: bytes) -> dict[str, Any]:
    """The decoded message, which must be what protobuf says."""
    message = decode_message(data)
    expected = oracle_decode(data)
    assert expected is not None
    assert normal(message) == expected
    return message


def refused(data: bytes) -> KernelError:
    assert oracle_decode(data) is None
    with pytest.raises(KernelError) as caught:
        decode_message(data)
    return caught.value


def test_empty() -> None:
    assert both(b"")["kind"] is None


def test_a_frame() -> None:
    frame = b"\x0a\x04ws-1\x10\x01\x18\x02\x20\x01\x2a\x03abc\x30\x01\x38\x04\x40\xac\x02\x48\x01"
    message = both(WS + b"\x18\x01\x20\x03" + member(WS_FRAME, frame) + b"\x8a\x01\x02tr")
    assert message["kind"] == "ws_frame"
    assert (message["request_id"], message["connection_id"], message["trace_id"]) == (b"ws-1", b"ws-1", b"tr")
    assert (message["direction"], message["protocol_type"], message["frame_direction"]) == (1, 3, 1)
    assert (message["fin"], message["opcode"], message["masked"], message["rsv"]) == (True, 2, True, 4)
    assert (message["body"], message["frame_bytes"], message["more"]) == (b"abc", 300, True)


def test_the_last_one_wins() -> None:
    data = b"\x12\x01a\x12\x01b" + member(WS_FRAME, b"\x2a\x01x\x18\x01\x2a\x02yz\x18\x02")
    message = both(data)
    assert (message["request_id"], message["body"], message["opcode"]) == (b"b", b"yz", 2)


def test_a_repeated_member_merges() -> None:
    data = member(HTTP_REQUEST, b"\x0a\x03GET\x22\x05\x0a\x01a\x12\x00") + WS
    data += member(HTTP_REQUEST, b"\x12\x01/\x22\x03\x0a\x01b")
    message = both(data)
    assert (message["method"], message["url"]) == (b"GET", b"/")
    assert message["headers"] == [(b"a", b""), (b"b", b"")]


def test_another_member_replaces() -> None:
    data = member(HTTP_REQUEST, b"\x0a\x03GET\x22\x03\x0a\x01a\x32\x00") + member(RESET, b"\x08\x05")
    assert both(data)["kind"] == "reset"
    data += member(HTTP_REQUEST, b"\x12\x01/\x22\x03\x0a\x01b")
    message = both(data)
    assert (message["kind"], message["method"], message["url"], message["code"]) == ("http_request", b"", b"/", 0)
    assert message["headers"] == [(b"b", b"")]
    assert both(data + member(REGISTER, b"\xff"))["kind"] == "register"  # control members are only skipped
    assert both(data + member(REGISTER, b"") + member(HTTP_REQUEST, b""))["headers"] == []


def test_headers_and_trailers_keep_order_and_duplicates() -> None:
    fields = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x", b"\x00\xff"), (b"", b""), (b"empty", b"")]
    data = encode_message("http_request", headers=fields, trailers=fields[:2], url=b"/")
    message = both(data)
    assert message["headers"] == fields
    assert message["trailers"] == fields[:2]


def test_headers_between_unknown_fields() -> None:
    header = b"\x22" + varint(21) + b"\x0a\x01x\x12\x01y\x12\x01z\x18\x07\x0a\x04name\x2b\x2c"
    message = both(b"\xa3\x06\x08\x01\xa4\x06" + member(HTTP_REQUEST, b"\x98\x06\x01" + header + b"\x20\x05"))
    assert message["headers"] == [(b"name", b"z")]


@pytest.mark.parametrize("kind", ["grpc_request", "grpc_response"])
def test_an_absent_body_is_not_an_empty_one(kind: str) -> None:
    assert decode_message(encode_message(kind))["body"] is None
    assert decode_message(encode_message(kind, body=b""))["body"] == b""
    assert encode_message(kind, body=b"") != encode_message(kind)
    assert encode_message("http_request", body=b"") == encode_message("http_request")


@pytest.mark.parametrize(
    "unknown",
    [
        b"\xa0\x06\x05",  # 100: varint
        b"\xa0\x06" + b"\xff" * 9 + b"\x7f",  # 10 bytes, bits above the 64th set
        b"\xa1\x0612345678",
        b"\xa2\x06\x03abc",
        b"\xa5\x061234",
        b"\xa3\x06\xa4\x06",  # group
        b"\xa3\x06\x08\x01\x12\x01x\xab\x06\xac\x06\xa4\x06",  # group in a group
        b"\xf8\xff\xff\xff\x0f\x01",  # largest field number
        b"\x10\x07",  # request_id as a varint: wrong wire type, so unknown
        b"\x5d1234",  # ws_frame as fixed32
        b"\x5b\x08\x01\x5c",  # ws_frame as a group
        b"\xa0\x86\x80\x80\x00\x05",  # tag not in its shortest form
    ],
)
def test_unknown_fields_are_skipped(unknown: bytes) -> None:
    message = both(unknown + WS + unknown + member(WS_FRAME, unknown + b"\x18\x02" + unknown) + unknown)
    assert (message["kind"], message["request_id"], message["opcode"]) == ("ws_frame", b"ws-1", 2)


def test_numbers_are_cut_to_their_type() -> None:
    data = member(WS_FRAME, b"\x10" + varint(2**40) + b"\x18" + varint(2**32 + 2) + b"\x30" + varint(2**64 - 1))
    message = both(data)
    assert (message["fin"], message["opcode"], message["frame_direction"]) == (True, 2, -1)


@pytest.mark.parametrize("value", [0, 1, -1, 2**31 - 1, -(2**31)])
def test_codes_and_statuses_may_be_negative(value: int) -> None:
    assert both(encode_message("reset", code=value))["code"] == value
    assert both(encode_message("grpc_response", status=value))["status"] == value


def groups(depth: int) -> bytes:
    return b"\xa3\x06" * depth + b"\xa4\x06" * depth


def test_depth() -> None:
    both(groups(100))
    assert refused(groups(101)).code == E_TAG
    both(member(WS_FRAME, groups(99)))
    assert refused(member(WS_FRAME, groups(100))).code == E_TAG
    both(member(HTTP_REQUEST, member(4, groups(98))))
    assert refused(member(HTTP_REQUEST, member(4, groups(99)))).code == E_TAG
    assert refused(b"\xa3\x06" * 1_000_000).code == E_TAG


@pytest.mark.parametrize(
    ("data", "code", "where"),
    [
        (b"\x12", E_TRUNCATED, 1),  # a length is missing
        (b"\x12\x05abcd", E_TRUNCATED, 2),
        (b"\x12\xff\xff\xff\xff\x07", E_TRUNCATED, 6),  # 2 GiB
        (b"\x12\xff\xff\xff\xff\x0f", E_TRUNCATED, 6),  # 4 GiB
        (b"\x12\x80\x80\x80\x80\x80\x00", E_VARINT, 1),  # a length of 6 bytes
        (b"\x18\x80", E_TRUNCATED, 1),
        (b"\x18" + b"\x80" * 10 + b"\x01", E_VARINT, 1),
        (b"\x80", E_TRUNCATED, 0),
        (b"\x80\x80\x80\x80\x80\x01", E_VARINT, 0),
        (b"\xff\xff\xff\xff\x1f\x00", E_TAG, 0),  # a tag above 32 bits
        (b"\x00\x01", E_TAG, 0),  # field number 0
        (b"\x02\x00", E_TAG, 0),
        (b"\x16", E_TAG, 0),  # wire type 6
        (b"\x17", E_TAG, 0),
        (b"\x14", E_TAG, None),  # end of a group that never began
        (b"\xa3\x06", E_TRUNCATED, None),  # a group that never ends
        (b"\xa3\x06\xac\x06", E_TAG, None),  # ended by another number
        (b"\xa1\x061234567", E_TRUNCATED, 2),
        (b"\xa5\x06123", E_TRUNCATED, 2),
        (b"\x12\x01\xff", E_UTF8, 2),
        (b"\x12\x03\xed\xa0\x80", E_UTF8, 2),  # a surrogate
        (b"\x12\x02\xc0\x80", E_UTF8, 2),  # overlong
        (b"\x12\x01\xc3\xa8\x06\x01", E_UTF8, 2),  # the next field's tag would complete the character
        (b"\x12\x02\xe2\x82\xa8\x06\x01", E_UTF8, 2),
        (WS + member(WS_FRAME, b"\x2a\x05abcd") + b"\x18\x01", E_TRUNCATED, None),
        (WS + member(WS_FRAME, b"\x18\x80") + b"\x01", E_TRUNCATED, None),  # a varint across the end of a member
        (member(HTTP_REQUEST, b"\x22\x03\x0a\x01\x80"), E_UTF8, None),  # Header.name
        (member(HTTP_REQUEST, b"\x22\x03\x0a\x02a"), E_TRUNCATED, None),
        (member(HTTP_REQUEST, b"\x4a\x02\x0a\x01a"), E_TRUNCATED, None),
        (member(REGISTER, b"")[:-1], E_TRUNCATED, 1),
    ],
)
def test_refusals(data: bytes, code: int, where: int | None) -> None:
    error = refused(data)
    assert error.code == code
    assert error.where is not None
    assert 0 <= error.where <= len(data)
    if where is not None:
        assert error.where == where


def test_every_cut_of_a_message_is_refused_or_shorter() -> None:
    data = encode_message(
        "http_request", request_id=b"h-1", url=b"/\xc3\xa9", headers=[(b"a", b"b" * 200)], body=b"x" * 300, last=True
    )
    for cut in range(len(data)):
        if oracle_decode(data[:cut]) is None:
            refused(data[:cut])
        else:
            both(data[:cut])


def test_value_bytes_need_not_be_text() -> None:
    assert both(member(HTTP_REQUEST, b"\x22\x06\x0a\x01a\x12\x01\xff"))["headers"] == [(b"a", b"\xff")]


# -- UTF-8 ------------------------------------------------------------------------------------------------------------


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_utf8_of_every_two_bytes() -> None:
    for first in range(256):
        for second in range(256):
            data = bytes([first, second])
            assert is_utf8(data) == is_text(data)


@pytest.mark.parametrize("lead", [0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5])
def test_utf8_of_long_sequences(lead: int) -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    for second in range(256):
        for third in edges:
            for rest in (b"", b"\x80", b"\xbf", b"\xc0", b"\x80 long enough for a word"):
                data = bytes([lead, second, third]) + rest
                assert is_utf8(data) == is_text(data)
                assert is_utf8(b"12345678" + data) == is_text(data)


# -- frames, straight from the parser ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, b"\x01\x02\x03\x04", b"\xff\x00\xff\x00"])
@pytest.mark.parametrize("length", [0, 1, 5, 127, 128, 16383, 16384, 65536])
def test_encode_ws_frame_is_encode_message(key: bytes | None, length: int) -> None:
    payload = bytes(i & 0xFF for i in range(length))
    for first, more in ((True, False), (True, True), (False, True), (False, False)):
        for fin, opcode, rsv, direction in ((True, 2, 0, 1), (False, 0, 7, 2), (True, 1, 4, 0)):
            masked = payload if key is None else bytes(byte ^ key[i & 3] for i, byte in enumerate(payload))
            size = length if first and not more else 2**63 - 1
            frame = Frame(masked, opcode, fin, rsv, key is not None, first, more, size)
            assert encode_ws_frame(b"ws-0123456789abc", direction, frame, key) == encode_message(
                "ws_frame",
                prefixed=True,
                request_id=b"ws-0123456789abc",
                connection_id=b"ws-0123456789abc",
                direction=direction,
                protocol_type=3,
                fin=fin,
                opcode=opcode,
                masked=key is not None,
                body=payload,
                frame_direction=direction,
                rsv=rsv,
                frame_bytes=size if first and more else 0,
                more=more,
            )


def test_prefix() -> None:
    data = encode_message("window_update", request_id=b"h-1", credit=2**63)
    assert encode_message("window_update", prefixed=True, request_id=b"h-1", credit=2**63) == (
        b"\x00" + len(data).to_bytes(4, "big") + data
    )


def test_control_members_are_left_to_protobuf() -> None:
    assert encode_message("register", request_id=b"r") == b"\x12\x01r"


def test_buffer() -> None:
    buffer = Buffer()
    assert (bytes(buffer), buffer.capacity) == (b"", 0)
    for i in range(1000):
        buffer.append(b"%03d" % i)
    assert len(buffer) == 3000
    assert buffer.capacity <= 8192
    buffer.consume(2997)
    assert bytes(buffer) == b"999"
    buffer.consume(0)
    buffer.append(b"")
    assert bytes(buffer) == b"999"
    buffer.consume(3)
    assert (bytes(buffer), buffer.capacity) == (b"", 0)  # an empty buffer holds no memory
    for extra in (2**63 - 1, 2**63, 2**64 - 1):
        with pytest.raises(MemoryError):
            buffer.reserve(extra)
    buffer.append(b"still usable")
    assert bytes(buffer) == b"still usable"
