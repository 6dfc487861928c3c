"""Checks of header fields (RFC 9110 5, RFC 9113 8.2.1)."""

import pytest

from fasttunnel._core import (
    header_block,
    header_is,
    header_lower,
    header_name_ok,
    header_value_ok,
    is_forwarding,
    is_hop_by_hop,
    target_ok,
)

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110 5.6.2


def test_names_are_tokens() -> None:
    assert not header_name_ok(b"")
    assert header_name_ok(TOKEN)
    for byte in range(256):
        assert header_name_ok(bytes([byte])) == (byte in TOKEN)
        assert header_name_ok(b"ab" + bytes([byte])) == (byte in TOKEN)


@pytest.mark.parametrize("name", [b"a b", b"a:", b":path", b"a\r\nb", b"a\x00", b" a", b"a\t", b"\xc3\xa9"])
def test_names_refused(name: bytes) -> None:
    assert not header_name_ok(name)


def test_values() -> None:
    assert header_value_ok(b"")
    assert header_value_ok(b"a b\tc")
    assert header_value_ok(b"\x80\xff")
    for byte in range(256):
        inside = (byte >= 0x20 and byte != 0x7F) or byte == 0x09
        assert header_value_ok(b"a" + bytes([byte]) + b"b") == inside
        assert header_value_ok(bytes([byte])) == (inside and byte not in b" \t")


@pytest.mark.parametrize(
    "value", [b" a", b"a ", b"\ta", b"a\t", b" ", b"a\r\nb: c", b"a\nb", b"a\rb", b"a\x00b", b"a\x7f"]
)
def test_values_refused(value: bytes) -> None:
    assert not header_value_ok(value)


def test_targets() -> None:
    assert not target_ok(b"")
    assert target_ok(b"/a?b=%20&c")
    for byte in range(256):
        assert target_ok(b"/" + bytes([byte])) == (0x20 < byte < 0x7F and byte != ord("#"))


@pytest.mark.parametrize(
    ("name", "lower", "same"),
    [
        (b"Content-Length", b"content-length", True),
        (b"content-length", b"content-length", True),
        (b"content-lengt", b"content-length", False),
        (b"content-length2", b"content-length", False),
        (b"", b"", True),
        (b"", b"a", False),
        (b"a", b"", False),
        (b"a\x00b", b"a", False),
        (b"K\xc9", b"k\xe9", False),  # only ASCII has case
        (b"@", b"`", False),
        (b"[", b"{", False),
    ],
)
def test_is(name: bytes, lower: bytes, same: bool) -> None:
    assert header_is(name, lower) == same


def test_lower() -> None:
    everything = bytes(range(256))
    assert header_lower(everything) == everything.lower()
    assert header_lower(b"") == b""


def test_hop_by_hop() -> None:
    names = [b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"]
    for name in names:
        assert is_hop_by_hop(name)
        assert is_hop_by_hop(name.title())
        assert not is_hop_by_hop(name + b"x")
        assert not is_hop_by_hop(name[:-1])
    for name in (b"", b"host", b"trailer", b"proxy-authenticate", b"proxy-authorization", b"content-length", b"xx"):
        assert not is_hop_by_hop(name)


def test_forwarding() -> None:
    for name in (b"forwarded", b"x-forwarded-for", b"x-forwarded-prefix", b"x_forwarded_for", b"x-forwarded_x"):
        assert is_forwarding(name)
        assert is_forwarding(name.upper())
    for name in (
        b"",
        b"forwarder",
        b"forwarded-",
        b"x-forwarded",
        b"xx-forwarded-for",
        b"y-forwarded-for",
        b"x-real-ip",
    ):
        assert not is_forwarding(name)


def test_a_block_can_change_its_tag() -> None:
    fields = [(b"a", b"b"), (b"", b""), (b"long", b"x" * 127), (b"longer", b"\x22" * 20_000), (b"\x22", b"\x22\x01")]
    assert header_block([], 0x22, 0x4A) == b""
    assert header_block(fields, 0x22, 0x4A) == header_block(fields, 0x4A)
    assert header_block(fields, 0x22, 0x4A) != header_block(fields, 0x22)
