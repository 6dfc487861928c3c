"""HTTP/2 (RFC 9113 8, 7541): heads that cannot be decoded, or say one thing here and another to the backend."""

from tests.hostile.attack import Section
from tests.hostile.http2_wire import METHOD_GET, METHOD_POST, PATH, SCHEME, ends, head, headers, integer, literal, text
from tests.hostile.site import VICTIM, Attacker

attack = Section("HTTP/2").attack

COMPRESSION = ("closed 9", "closed 1")  # h2 calls it PROTOCOL_ERROR
Variants = dict[str, tuple[bytes, tuple[str, ...]]]
MALFORMED = ("reset 1", "closed 1", "400")  # RFC 9113 8.1.1; h2 ends the connection for some

BLOCKS: Variants = {
    "index 0": (b"\x80", COMPRESSION),
    "index beyond both tables": (head() + integer(62, 7, 0x80), COMPRESSION),
    "a name's index beyond": (head() + integer(70, 4) + text(b"x"), COMPRESSION),
    "an index of 2^62": (head() + integer(2**62, 7, 0x80), COMPRESSION),
    "an index that never ends": (head() + b"\xff" + b"\x80" * 100 + b"\1", COMPRESSION),
    "a length beyond the block": (head() + b"\0" + integer(1000, 7) + b"short", COMPRESSION),
    "a length of 2^40": (head() + b"\0" + integer(2**40, 7) + b"short", COMPRESSION),
    "a length that is cut": (head() + b"\0\x7f\x80", COMPRESSION),
    "Huffman code padded with 0": (head() + b"\0\1a\x81\x00", COMPRESSION),
    "Huffman code padded with 8 bits": (head() + b"\0\1a\x82\x1f\xff", COMPRESSION),
    "Huffman code with EOS": (head() + b"\0\1a\x84\xff\xff\xff\xff", COMPRESSION),
    "a table above the limit": (integer(2**20, 5, 0x20) + head(), COMPRESSION),
    "a table of 2^40": (integer(2**40, 5, 0x20) + head(), COMPRESSION),
    "a table size behind a field": (head() + b"\x20", COMPRESSION),
}


HOST = b"\x01" + text(VICTIM.encode())

HEADS: Variants = {
    "no :path": (METHOD_GET + SCHEME + HOST, MALFORMED),
    "no :method": (SCHEME + PATH + HOST, MALFORMED),
    "no :scheme": (METHOD_GET + PATH + HOST, MALFORMED),
    "nothing": (b"", MALFORMED),
    "two :path": (head() + PATH, MALFORMED),
    "two :method": (METHOD_POST + head(), MALFORMED),
    "two :authority": (HOST + head(host="other.example"), MALFORMED),
    "unknown pseudo": (literal(b":evil", b"1") + head(), MALFORMED),
    ":status": (literal(b":status", b"200") + head(), MALFORMED),
    "pseudo behind a field": (METHOD_GET + SCHEME + HOST + literal(b"a", b"b") + PATH, MALFORMED),
    "empty :path": (METHOD_GET + SCHEME + HOST + b"\x04" + text(b""), MALFORMED),
    "empty name": (head((b"", b"x")), MALFORMED),
    "upper case": (head((b"X-Upper", b"x")), MALFORMED),
    "colon in a name": (head((b"x:y", b"z")), MALFORMED),
    "space in a name": (head((b"x y", b"z")), MALFORMED),
    "CRLF in a name": (head((b"x\r\nevil", b"z")), MALFORMED),
    "NUL in a name": (head((b"x\0", b"z")), MALFORMED),
    "CRLF in a value": (head((b"x", b"a\r\nevil: 1")), MALFORMED),
    "LF in a value": (head((b"x", b"a\nevil: 1")), MALFORMED),
    "NUL in a value": (head((b"x", b"a\0b")), MALFORMED),
    "space around a value": (head((b"x", b" a")), MALFORMED),
    "CRLF in :path": (head(target="/ HTTP/1.1\r\nHost: evil\r\n\r\n"), MALFORMED),
    "space in :path": (head(target="/a b"), MALFORMED),
    "absolute :path": (head(target="http://evil.example/"), MALFORMED),
    "CRLF in :method": (b"\x02" + text(b"GET / HTTP/1.1\r\nx: ") + SCHEME + PATH + HOST, MALFORMED),
    "CRLF in :authority": (head(host=VICTIM + "\r\nevil: 1"), MALFORMED),
    "user in :authority": (head(host=f"evil@{VICTIM}"), MALFORMED),
    "a :scheme with a host": (METHOD_GET + b"\x06" + text(b"http://evil.example/x?") + PATH + HOST, MALFORMED),
    "another Host": (head((b"host", b"evil.example")), MALFORMED),
    "connection": (head((b"connection", b"x-forwarded-for")), MALFORMED),
    "transfer-encoding": (head((b"transfer-encoding", b"chunked")), MALFORMED),
    "keep-alive": (head((b"keep-alive", b"1")), MALFORMED),
    "proxy-connection": (head((b"proxy-connection", b"close")), MALFORMED),
    "upgrade": (head((b"upgrade", b"websocket")), MALFORMED),
    "te": (head((b"te", b"trailers, chunked")), MALFORMED),
    "content-length without a body": (head((b"content-length", b"5")), MALFORMED),
    "two content-lengths": (head((b"content-length", b"0"), (b"content-length", b"5")), MALFORMED),
    "content-length +0": (head((b"content-length", b"+0")), MALFORMED),
    "content-length 2^64": (head((b"content-length", b"18446744073709551616")), MALFORMED),
    "content-length, a list": (head((b"content-length", b"0, 0")), MALFORMED),
}

CONNECT = b"\x02" + text(b"CONNECT")
EXTENDED: Variants = {
    "CONNECT": (CONNECT + HOST, ("405",)),
    "with a path": (b"\x02" + text(b"CONNECT") + SCHEME + PATH + HOST, MALFORMED),
    ":protocol": (
        b"\x02" + text(b"CONNECT") + SCHEME + PATH + HOST + literal(b":protocol", b"websocket"),
        ("reset 1", "405"),
    ),
    "GET with :protocol": (head() + literal(b":protocol", b"websocket"), MALFORMED),
}


async def each(attacker: Attacker, variants: Variants) -> None:
    block, outcomes = attacker.one_of(list(variants.values()))
    await ends(attacker, headers(block), *outcomes)


@attack(
    "HPACK: indices out of range, numbers and lengths without end, bad Huffman codes, tables above the limit",
    "COMPRESSION_ERROR",
    attackers=len(BLOCKS),
)
async def blocks(attacker: Attacker) -> None:
    await each(attacker, BLOCKS)


@attack(
    "malformed heads (8.1.1, 8.2, 8.3): pseudo-header fields, names, values, lengths, fields of the connection",
    "PROTOCOL_ERROR or 400; never forwarded",
    attackers=len(HEADS),
)
async def heads(attacker: Attacker) -> None:
    await each(attacker, HEADS)


@attack(
    "CONNECT, with and without :protocol (RFC 8441), which was not offered",
    "405, PROTOCOL_ERROR",
    attackers=4 * len(EXTENDED),
)
async def extended(attacker: Attacker) -> None:
    await each(attacker, EXTENDED)
