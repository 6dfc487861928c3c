"""Where a message is malformed, in words."""

import pytest
from google.protobuf.message import DecodeError

from fasttunnel.wire.locate import explain
from fasttunnel.wire.tunnel_pb2 import Header, HttpRequest, TunnelMessage

REQUEST = TunnelMessage(
    request_id="h-1",
    http_request=HttpRequest(method="GET", url="/", headers=[Header(name="x", value=b"\xff"), Header(name="y")]),
)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x12\x05ab", "truncated request_id at byte 2 of 4"),
        (b"\x12", "truncated request_id at byte 1 of 1"),
        (b"\x12\x02\xff\xfe", "invalid UTF-8 in request_id at byte 2 of 4"),
        (b"\x12\x01a\x2a\x03\x0a\x05G", "truncated http_request.method at byte 7 of 8"),
        (b"\x2a\x04\x22\x02\x0a\x05", "truncated http_request.headers.name at byte 6 of 6"),
        (b"\x00", "bad tag in TunnelMessage at byte 0 of 1"),
        (b"\x12\x01a\x17", "bad tag in TunnelMessage at byte 3 of 4"),
        (b"\x18" + b"\xff" * 11, "overlong direction at byte 1 of 12"),
        (b"\x80", "truncated tag at byte 0 of 1"),
        (b"\x2a\x02\x30\x80", "truncated http_request.is_first_chunk at byte 3 of 4"),
        (b"\xb5\x06ab", "truncated field 102 at byte 2 of 4"),
    ],
)
def test_the_first_fault(data: bytes, text: str) -> None:
    with pytest.raises(DecodeError):
        TunnelMessage.FromString(data)
    assert explain(data, TunnelMessage.DESCRIPTOR) == text


def test_whatever_protobuf_refuses_is_found() -> None:
    """A message cut off anywhere, or with any byte of it spoilt."""
    whole = REQUEST.SerializeToString()
    spoilt = [whole[:size] for size in range(len(whole))]
    spoilt += [
        whole[:at] + bytes([value]) + whole[at + 1 :] for at in range(len(whole)) for value in (0, 7, 0x80, 0xFF)
    ]
    refused = 0
    for data in spoilt:
        text = explain(data, TunnelMessage.DESCRIPTOR)
        try:
            TunnelMessage.FromString(data)
        except DecodeError:
            refused += 1
            assert " at byte " in text, (data, text)
        else:
            assert " at byte " not in text, (data, text)
    assert refused > 50
