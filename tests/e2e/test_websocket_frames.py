"""WebSocket frame by frame, with sockets at both far ends: what passes untouched, what the tunnel itself refuses."""

import asyncio
import random
import struct
from contextlib import AsyncExitStack

import pytest

from tests.e2e.conftest import Ends
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    MASK,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    Frame,
    accept_key,
    accept_upgrade,
    ask_upgrade,
    close_payload,
    expect_upgrade,
    frame,
    frame_head,
    read_frame,
    xor,
)
from tests.support.raw import Peer, answer, connect, request, start_raw
from tests.support.relay import start_relay
from tests.support.tunnel import eventually, start_client, start_server, start_tunnel

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


async def open_websocket(ends: Ends, *extensions: str) -> tuple[Peer, Peer]:
    """Both ends of an established connection."""
    public = await ends.public()
    await ask_upgrade(public, "/", *extensions)
    backend = await ends.backend.accept()
    await accept_upgrade(backend, *extensions)
    await expect_upgrade(public)
    return public, backend


async def test_the_handshake_at_the_backend_is_one_of_its_own(ends: Ends) -> None:
    public = await ends.public()
    await ask_upgrade(public, "/chat?x=1", "Sec-WebSocket-Protocol: a, b", "Origin: http://o", host="ws.example")
    backend = await ends.backend.accept()
    head = await accept_upgrade(backend, "Sec-WebSocket-Protocol: b", "X-Backend: 1")
    assert head.start == "GET /chat?x=1 HTTP/1.1"
    assert (head.get("host"), head.get("origin")) == ("ws.example", "http://o")
    assert (head.get("upgrade"), head.get("connection")) == ("websocket", "Upgrade")
    assert (head.get("sec-websocket-version"), head.get("sec-websocket-protocol")) == ("13", "a, b")
    assert head.get("sec-websocket-key") not in (None, KEY)
    reply = await expect_upgrade(public)
    assert (reply.get("sec-websocket-protocol"), reply.get("x-backend")) == ("b", "1")
    assert (reply.get("upgrade"), reply.get("connection")) == ("websocket", "Upgrade")


FRAMES = [
    Frame(TEXT, b"hello"),
    Frame(BINARY, b""),
    Frame(TEXT, b"", fin=False),
    Frame(PING, b"ping inside a message"),
    Frame(CONTINUATION, b"middle", fin=False),
    Frame(PONG, b""),
    Frame(CONTINUATION, b"end"),
    Frame(TEXT, b"\xff\xfe not UTF-8: for the endpoints to check"),
    Frame(PING, b"x" * 125),
    Frame(BINARY, b"y" * 125),
    Frame(BINARY, b"y" * 126),
    Frame(BINARY, b"z" * 65_535),
    Frame(BINARY, b"z" * 65_536),
    Frame(BINARY, b"w" * 300_001, fin=False),
    Frame(PING, b"behind a large fragment"),
    Frame(CONTINUATION, b"w" * 65_537),
]


async def test_frames_pass_one_to_one(ends: Ends) -> None:
    """Boundaries, fin, opcode and control frames are what the other side sent; masks are those of each hop."""
    public, backend = await open_websocket(ends)
    for sender, receiver, mask in ((public, backend, MASK), (backend, public, None)):
        sending = asyncio.ensure_future(
            sender.send(b"".join(frame(f.opcode, f.payload, fin=f.fin, mask=mask) for f in FRAMES))
        )
        for expected in FRAMES:
            assert await read_frame(receiver) == expected._replace(masked=mask is not None)
        await sending


async def test_masks_towards_the_backend_are_fresh(ends: Ends) -> None:
    """RFC 6455 5.3: not predictable; at least not the public's, and never twice the same."""
    public, backend = await open_websocket(ends)
    masks = set()
    for number in range(100):
        await public.send(frame(TEXT, b"%03d" % number, mask=MASK))
        head = await backend.exactly(6)
        assert xor(await backend.exactly(3), head[2:]) == b"%03d" % number
        masks.add(head[2:])
    assert len(masks) == 100
    assert MASK not in masks


async def test_rsv_bits_of_an_extension_pass(ends: Ends) -> None:
    public, backend = await open_websocket(ends, DEFLATE)
    for rsv in range(8):
        await public.send(frame(BINARY, b"payload", rsv=rsv, mask=MASK))
        assert await read_frame(backend) == Frame(BINARY, b"payload", rsv=rsv, masked=True)
        await backend.send(frame(BINARY, b"payload" * 20_000, rsv=rsv))
        assert await read_frame(public) == Frame(BINARY, b"payload" * 20_000, rsv=rsv)


async def test_frames_cut_at_every_byte(ends: Ends) -> None:
    public = await ends.public()
    upgrade = asyncio.ensure_future(public.send_bytewise(request("GET", "/", *UPGRADE)))
    backend = await ends.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    await upgrade
    frames = [Frame(TEXT, b"hi"), Frame(PING, b"p"), Frame(BINARY, b"b" * 130, fin=False), Frame(CONTINUATION, b"")]
    for sender, receiver, mask in ((public, backend, MASK), (backend, public, None)):
        data = b"".join(frame(f.opcode, f.payload, fin=f.fin, mask=mask) for f in frames)
        sending = asyncio.ensure_future(sender.send_bytewise(data))
        for expected in frames:
            assert await read_frame(receiver) == expected._replace(masked=mask is not None)
        await sending


async def test_frames_right_behind_the_handshake(ends: Ends) -> None:
    """In one packet with it, from either side."""
    public = await ends.public()
    await public.send(request("GET", "/", *UPGRADE) + frame(TEXT, b"eager public", mask=MASK))
    backend = await ends.backend.accept()
    await accept_upgrade(backend, "X: y")
    assert await read_frame(backend) == Frame(TEXT, b"eager public", masked=True)
    await expect_upgrade(public)

    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    head = await backend.head()
    accept = accept_key(head.get("sec-websocket-key") or "")
    await backend.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        + frame(TEXT, b"eager backend")
    )
    await expect_upgrade(public)
    assert await read_frame(public) == Frame(TEXT, b"eager backend")


async def test_part_of_a_large_frame_arrives_before_the_rest_is_sent(ends: Ends) -> None:
    """It is not gathered: its header comes with the first fragment, and each fragment when it is complete."""
    public, backend = await open_websocket(ends)
    size, fragment = 1_000_000, 65_536
    for sender, receiver, mask in ((public, backend, MASK), (backend, public, None)):
        payload = random.Random(size).randbytes(size)
        wire = xor(payload, mask) if mask else payload
        await sender.send(frame_head(BINARY, size, mask=mask) + wire[:fragment])
        head = await receiver.exactly(14 if mask else 10)
        assert head[:10] == b"\x82" + (b"\xff" if mask else b"\x7f") + size.to_bytes(8, "big")
        received = await receiver.exactly(fragment)
        for start in range(fragment, size, fragment):
            await sender.send(wire[start : start + fragment])
            received += await receiver.exactly(min(fragment, size - start))
        assert (xor(received, head[10:]) if mask else received) == payload


# -- closing


async def test_the_closing_handshake_from_the_public(ends: Ends) -> None:
    public, backend = await open_websocket(ends)
    await public.send(frame(CLOSE, close_payload(4000, "bye"), mask=MASK))
    assert await read_frame(backend) == Frame(CLOSE, close_payload(4000, "bye"), masked=True)
    await backend.send(frame(CLOSE, close_payload(4001, "answer")))
    assert await read_frame(public) == Frame(CLOSE, close_payload(4001, "answer"))
    assert await public.ended(), "the server closes the TCP connection first (RFC 6455 7.1.1)"
    await backend.close()


async def test_the_closing_handshake_from_the_backend(ends: Ends) -> None:
    public, backend = await open_websocket(ends)
    await backend.send(frame(CLOSE, b""))
    assert await read_frame(public) == Frame(CLOSE, b"")
    await public.send(frame(TEXT, b"still on its way", mask=MASK) + frame(CLOSE, b"", mask=MASK))
    assert await read_frame(backend) == Frame(TEXT, b"still on its way", masked=True)
    assert await read_frame(backend) == Frame(CLOSE, b"", masked=True)
    assert await public.ended()
    await backend.close()


async def test_nothing_passes_behind_a_close_frame(ends: Ends) -> None:
    public, backend = await open_websocket(ends)
    await public.send(frame(CLOSE, b"", mask=MASK) + frame(TEXT, b"too late", mask=MASK))
    assert await read_frame(backend) == Frame(CLOSE, b"", masked=True)
    await backend.send(frame(CLOSE, b""))
    assert await read_frame(public) == Frame(CLOSE, b"")
    assert await public.ended()
    await backend.close()
    assert (await ends.tunnel.events.record()).messages_in == 1, "the Close frame"


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_public_that_goes_without_a_word(ends: Ends, how: str) -> None:
    public, backend = await open_websocket(ends)
    if how == "close":
        await public.close()
    else:
        public.drop()
    assert await backend.ended(), "no Close frame is made up"


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_backend_that_goes_without_a_word(ends: Ends, how: str) -> None:
    public, backend = await open_websocket(ends)
    if how == "close":
        await backend.close()
    else:
        backend.drop()
    last = await read_frame(public)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1011))
    assert await public.ended()


async def test_last_words_of_the_public_arrive(stack: AsyncExitStack) -> None:
    """What was said before the connection broke off is not lost, though the client learns of both in one read."""
    backends = await start_raw(stack)
    server = await start_server(stack)
    relay = await start_relay(stack, server.tunnel)
    client = await start_client(stack, relay.address, [backends.url])
    public = await connect(stack, *server.address)
    await ask_upgrade(public)
    backend = await backends.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    relay.hold()
    await public.send(frame(TEXT, b"last words", mask=MASK) + frame(BINARY, b"x" * 100_000, mask=MASK))
    await public.close()
    await eventually(lambda: server.status()["active_requests"] == 0)
    assert client.status()["active_requests"] == 1
    relay.release()
    assert await read_frame(backend) == Frame(TEXT, b"last words", masked=True)
    assert await read_frame(backend) == Frame(BINARY, b"x" * 100_000, masked=True)
    assert await backend.ended()


async def test_a_frame_whose_source_dies_is_never_completed(ends: Ends) -> None:
    for sends in ("backend", "public"):
        public, backend = await open_websocket(ends)
        sender, receiver = (public, backend) if sends == "public" else (backend, public)
        mask = MASK if sends == "public" else None
        await sender.send(frame_head(BINARY, 1_000_000, mask=mask) + b"x" * 131_072)
        head = await receiver.exactly(14 if mask else 10)
        assert head[2:10] == (1_000_000).to_bytes(8, "big")
        await receiver.exactly(131_072)
        await sender.close()
        assert await receiver.ended(), "not a byte more: a Close frame would be taken for payload"


# -- violations (wire contract, "WebSocket"): 1002, and the far side sees an abnormal end

VIOLATIONS = {
    "unmasked": frame(TEXT, b"hi"),
    "reserved data opcode": frame(3, b"", mask=MASK),
    "reserved control opcode": frame(11, b"", mask=MASK),
    "RSV1 without an extension": frame(TEXT, b"", rsv=4, mask=MASK),
    "RSV2 without an extension": frame(TEXT, b"", rsv=2, mask=MASK),
    "fragmented ping": frame(PING, b"", fin=False, mask=MASK),
    "fragmented close": frame(CLOSE, b"", fin=False, mask=MASK),
    "ping of 126 bytes": frame(PING, b"x" * 126, mask=MASK),
    "continuation of nothing": frame(CONTINUATION, b"", mask=MASK),
    "new message inside another": frame(TEXT, b"", fin=False, mask=MASK) + frame(TEXT, b"", mask=MASK),
    "top bit of the length": b"\x82\xff" + b"\x80" + bytes(7) + MASK,
    "all bits of the length": b"\x82\xff" + b"\xff" * 8 + MASK,
    "length 125 in 16 bits": b"\x82\xfe" + (125).to_bytes(2, "big") + MASK + bytes(125),
    "length 65,535 in 64 bits": b"\x82\xff" + (65_535).to_bytes(8, "big") + MASK + bytes(65_535),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_of_the_public_is_1002(ends: Ends, name: str) -> None:
    public, backend = await open_websocket(ends)
    await public.send(VIOLATIONS[name])
    last = await read_frame(public)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1002))
    assert last.payload[2:].decode(), "and the reason in words"
    assert await public.ended()
    rest = await backend.reader.read()
    assert b"\x88" not in rest[:1], "no Close frame for the backend"
    record = await ends.tunnel.events.record()
    assert (record.status, record.reset) == (1002, 5)


@pytest.mark.parametrize("name", [name for name in VIOLATIONS if name != "unmasked"])
async def test_a_violation_of_the_backend_is_1002(ends: Ends, name: str) -> None:
    """The same without masks: the backend is told, and the public too."""
    public, backend = await open_websocket(ends)
    await backend.send(_unmasked(VIOLATIONS[name]))
    last = await read_frame(backend)
    assert (last.opcode, last.payload[:2], last.masked) == (CLOSE, struct.pack("!H", 1002), True)
    assert await backend.ended()
    last = await read_frame(public)
    while last.opcode in (TEXT, BINARY):  # what came before the violation
        last = await read_frame(public)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1002))
    assert await public.ended()


def _unmasked(data: bytes) -> bytes:
    """The same frames as a server sends them; payloads above are zeros or masked, which makes no difference here."""
    out = b""
    while data:
        short = data[1] & 0x7F
        size = {126: 2, 127: 8}.get(short, 0)
        length = int.from_bytes(data[2 : 2 + size], "big") if size else short
        out += bytes([data[0], data[1] & 0x7F]) + data[2 : 2 + size] + data[6 + size : 6 + size + length]
        data = data[6 + size + length :]
    return out


async def test_a_masked_frame_of_the_backend_is_1002(ends: Ends) -> None:
    public, backend = await open_websocket(ends)
    await backend.send(frame(TEXT, b"hi", mask=MASK))
    for peer in (backend, public):
        last = await read_frame(peer)
        assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1002))


async def test_the_close_code_reaches_a_peer_that_is_still_sending(ends: Ends) -> None:
    """It is not lost in a connection reset because bytes behind the violation were never read."""
    public, _ = await open_websocket(ends)
    await public.send(frame(TEXT, b"hi") + bytes(1_000_000))
    last = await read_frame(public)
    assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1002))


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_message_above_the_limit_is_1009(ends: Ends, side: str) -> None:
    """Refused by its header, before its payload has come; fragments are added up."""
    backend = await start_raw(ends.stack)
    tunnel = await start_tunnel(ends.stack, backend.url, **{side: {"ws_message_bytes": 1000}})
    for data in (frame_head(BINARY, 1001), frame(TEXT, b"x" * 600, fin=False) + frame_head(CONTINUATION, 401)):
        public = await connect(ends.stack, tunnel.host, tunnel.port)
        await ask_upgrade(public)
        peer = await backend.accept()
        await accept_upgrade(peer)
        await expect_upgrade(public)
        if side == "server":
            limited = public
            await public.send(b"".join(_mask(data)))
        else:
            limited = peer
            await peer.send(data)
        last = await read_frame(limited)
        assert (last.opcode, last.payload[:2]) == (CLOSE, struct.pack("!H", 1009))


def _mask(data: bytes) -> list[bytes]:
    """Frame heads and frames from above, as a browser sends them, with a mask of zeros."""
    out = []
    while data:
        short = data[1]
        size = {126: 2, 127: 8}.get(short, 0)
        length = int.from_bytes(data[2 : 2 + size], "big") if size else short
        out.append(
            bytes([data[0], data[1] | 0x80]) + data[2 : 2 + size] + bytes(4) + data[2 + size : 2 + size + length]
        )
        data = data[2 + size + length :]
    return out


# -- handshakes that are none


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3]], 426),
        ([*UPGRADE, "Sec-WebSocket-Version: 13"], 426),
        (UPGRADE[:3], 400),
        ([*UPGRADE[:3], "Sec-WebSocket-Key: short"], 400),
        ([*UPGRADE[:3], "Sec-WebSocket-Key: " + "?" * 24], 400),
        ([*UPGRADE, UPGRADE[3]], 400),
    ],
)
async def test_a_wrong_handshake_is_refused_by_the_server(ends: Ends, fields: list[str], status: int) -> None:
    public = await ends.public()
    got = await public.ask(request("GET", "/", *fields))
    assert got.status == status
    if status == 426:
        assert got.head.get("sec-websocket-version") == "13"
    assert ends.backend.waiting == 0


async def test_a_get_without_upgrade_is_plain_http(ends: Ends) -> None:
    """Sec-WebSocket fields alone make no handshake; neither does a POST."""
    for method, fields in (("GET", UPGRADE[2:]), ("POST", UPGRADE)):
        public, backend, head = await ends.pass_on(request(method, "/", *fields, "Connection: close"))
        assert head.get("upgrade") is None
        await backend.send(answer("200 OK", "Connection: close", body=b"plain"))
        await backend.close()
        assert (await public.answer()).body == b"plain"


async def test_a_refusal_keeps_the_publics_connection(ends: Ends) -> None:
    """The body of a refusal passes, up to 64 KiB, however it was framed; then the connection is free again."""
    body = random.Random(7).randbytes(50_000)
    public = await ends.public()
    framings = [
        answer("401 Unauthorized", "WWW-Authenticate: Basic", body=body),
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n" + body,
    ]
    for framing in framings:
        await ask_upgrade(public)
        backend = await ends.backend.accept()
        await backend.head()
        await backend.send(framing)
        await backend.close()
        got = await public.answer()
        assert (got.status, got.head.get("www-authenticate"), got.body) == (401, "Basic", body)
        assert got.head.get("upgrade") is None


async def test_a_large_refusal_is_cut_at_64_kib(ends: Ends) -> None:
    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send(answer("503 Service Unavailable", body=b"x" * 65_536 + b"y" * 1000))
    got = await public.answer()
    assert (got.status, got.body) == (503, b"x" * 65_536)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"hello\r\n\r\n",
        b"",
    ],
)
async def test_a_bad_answer_to_the_handshake_is_502(ends: Ends, reply: bytes) -> None:
    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send(reply)
    if not reply:
        await backend.close()
    assert (await public.answer()).status == 502
    assert await backend.ended()


async def test_a_public_that_leaves_during_the_handshake(ends: Ends) -> None:
    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    await backend.head()
    public.drop()
    assert await backend.ended()
