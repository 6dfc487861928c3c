"""HTTP/1.1: bodies of requests, pipelining, and what is smuggled past us towards the backend."""

import asyncio
import contextlib
import socket

from tests.hostile.attack import Section
from tests.hostile.http1 import CHUNKED, HURRIED, NOBODY, head, refused, served
from tests.hostile.site import VICTIM, Attacker
from tests.support.http2 import Stream
from tests.support.raw import Peer, answer, request
from tests.support.tunnel import WAIT_S

attack = Section("HTTP/1.1").attack
LAST = b"0\r\n\r\n"
SMALL, SEGMENT = 4096, 536  # what keeps the buffers of the kernel small
ATTACKERS = 8


async def begun(attacker: Attacker, *fields: str) -> tuple[Peer, Peer]:
    """A chunked request of which the backend has "ok"."""
    public, backend, _ = await attacker.pass_on(
        request("POST", attacker.target, CHUNKED, *fields, host=VICTIM) + b"2\r\nok\r\n"
    )
    assert await backend.chunk() == b"ok"
    return public, backend


async def broken_off(public: Peer, backend: Peer, status: int) -> None:
    """The public is told so, and the backend does not take the request for complete."""
    got = await public.answer()
    assert (got.status, got.head.get("connection")) == (status, "close")
    with contextlib.suppress(ConnectionError):
        assert LAST not in await backend.to_end()


CHUNKS = {
    "no size": b"\r\nab\r\n",
    "no digit": b"x\r\nab\r\n",
    "minus": b"-2\r\nab\r\n",
    "plus": b"+2\r\nab\r\n",
    "0x": b"0x2\r\nab\r\n",
    "underscore": b"0_2\r\nab\r\n",
    "space in front": b" 2\r\nab\r\n",
    "2^64 + 2": b"10000000000000002\r\nab\r\n",
    "17 zeros": b"00000000000000002\r\nab\r\n",
    "size ends in bare LF": b"2\nab\r\n",
    "size ends in bare CR": b"2\rab\r\n",
    "size ends in CR CR LF": b"2\r\r\nab\r\n",
    "data ends in nothing": b"2\r\nab2\r\nab\r\n",
    "data ends in two other bytes": b"2\r\nabXX0\r\n\r\n",
    "data ends in bare LF": b"2\r\nab\n0\r\n\r\n",
    "data ends in bare CR": b"2\r\nab\r0\r\n\r\n",
    "data longer than its size": b"2\r\nabz0\r\n\r\n",
    "NUL in an extension": b"2;\0\r\nab\r\n",
    "bare LF in an extension": b"2;\nab\r\n",  # TERM.EXT
    "bare CR in an extension": b"2;a\rb\r\nab\r\n",
    "the last chunk ends in bare LF": b"0\n\r\n",
    "trailers end in bare LF": b"0\r\n\n",
    "folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "bare LF between trailers": b"0\r\nX: y\nZ: z\r\n\r\n",
}


@attack(
    "chunk sizes with sign, 0x, space, above 2^64; lines and data that end in CR, LF or nothing; bad trailers",
    "400, closed; the backend never sees the request complete",
    attackers=len(CHUNKS),
)
async def chunks(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(attacker.one_of(list(CHUNKS.values())))
    await broken_off(public, backend, 400)


EXTENSIONS = {
    "one of 70,000 bytes": b"1;" + b"a" * 70_000,
    "one that never ends": b"1" + b" " * 70_000,
    "one of 100 bytes on each byte": (b"1;" + b"a" * 100 + b"\r\nx\r\n") * 1000,
}


@attack(
    "chunk extensions: one of 70,000 bytes, and one of 100 bytes on each byte of the body (CVE-2023-39326)",
    "400 once they are above 16 KiB together; the backend never sees the request complete",
    attackers=3,
)
async def extensions(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(attacker.one_of(list(EXTENSIONS.values())) + LAST)
    await broken_off(public, backend, 400)


TRAILERS = {
    "one": b"X: " + b"a" * 70_000,
    "many": b"X: y\r\n" * 12_000 + b"\r\n",
    "no end": b"X: y\r\n" * 12_000,
}


@attack(
    "trailers above 64 KiB, complete or without end",
    "400, closed; the backend never sees the request complete",
    attackers=len(TRAILERS),
)
async def trailers(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(b"0\r\n" + attacker.one_of(list(TRAILERS.values())))
    await broken_off(public, backend, 400)


@attack("a body of 10,000 chunks of one byte each", "passes, in larger chunks", attackers=4, cpu_ms=40)
async def tiny_chunks(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(b"1\r\nx\r\n" * 10_000 + LAST)
    body = bytearray()
    while piece := await backend.chunk():
        body += piece
    assert body == b"x" * 10_000
    await backend.trailers()
    await served(public, backend)


@attack("Content-Length above body_bytes", "413, closed, never forwarded", options=HURRIED)
async def announced(attacker: Attacker) -> None:
    data = attacker.one_of([head("Content-Length: 100001"), head(f"Content-Length: {2**63 - 1}", body=b"x" * 1000)])
    await refused(attacker, data, 413)


@attack(
    "a chunked body that grows above body_bytes",
    "413, closed, once it does; the backend never sees the request complete",
    options=HURRIED,
)
async def grown(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(
        attacker.one_of([b"186a0\r\n" + b"x" * 100_000 + b"\r\n", (b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 11])
    )
    await broken_off(public, backend, 413)


@attack(
    "slow bodies: 64 that stop in the middle, all at once",
    "wait; the backend sees them end with their visitors",
    attackers=64,
)
async def slow_bodies(attacker: Attacker) -> None:
    if attacker.number % 2:
        public, backend = await begun(attacker)
    else:
        public, backend, _ = await attacker.pass_on(
            request("POST", attacker.target, "Content-Length: 1000000", host=VICTIM) + b"half"
        )
        assert await backend.exactly(4) == b"half"
    await attacker.all_here()
    public.drop()
    assert await backend.ended()


def deaf(peer: Peer) -> None:
    """It reads nothing more, and the kernel hardly anything for it."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]


async def stands_still(attacker: Attacker, peer: Peer) -> None:
    """Until nothing of what `peer` has to send is taken while ten requests of another connection are answered."""
    other = await attacker.connect()
    still, last = 0, -1
    while still < 10:
        assert (await other.ask(request("GET", "/", host=NOBODY))).status == 404
        now = peer.writer.transport.get_write_buffer_size()
        still, last = (still + 1 if now == last else 0), now
    assert last > 0, "all of it has been taken"


@attack(
    "bodies of 8 MiB to a backend that reads nothing, all at once",
    "wait: a window of each is held at either end, the rest is not read",
    attackers=8,
    memory_kib=900,
    cpu_ms=30,
)
async def unread_bodies(attacker: Attacker) -> None:
    data = request("POST", attacker.target, f"Content-Length: {2**23}", host=VICTIM)
    public, backend, _ = await attacker.pass_on(data, await attacker.connect(receive_buffer=SMALL))
    deaf(backend)
    public.writer.write(bytes(2**23))
    await stands_still(attacker, public)
    await attacker.all_here()


# -- pipelining


@attack(
    "60,000 requests behind one that is not answered",
    "wait in the kernel: one read of them is taken, the backend hears of one request",
    attackers=ATTACKERS,
    cpu_ms=10,
)
async def pipelined(attacker: Attacker) -> None:
    data = request("GET", attacker.target, host=VICTIM)
    public, backend, _ = await attacker.pass_on(data, await attacker.connect(receive_buffer=SMALL))
    public.writer.write(data * 60_000)
    await stands_still(attacker, public)
    await attacker.all_here()
    # One more: when a visitor of the attack's rehearsal has gone, the asyncio engine may learn it with the next answer.
    assert attacker.victim.connections <= ATTACKERS + 1
    await attacker.all_here()
    await served(public, backend)
    await attacker.victim.asked(attacker.target)


@attack(
    "60,000 requests without a route, whose answers are not read",
    "no more are answered than 64 KiB and the kernel take; the next ones as they are read",
    attackers=2,
    cpu_ms=40,
)
async def refused_and_unread(attacker: Attacker) -> None:
    public = await attacker.connect(receive_buffer=SMALL, max_segment=SEGMENT)
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    public.writer.write(request("GET", "/", host=NOBODY) * 60_000)
    await stands_still(attacker, public)
    await attacker.all_here()
    public.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(1000):
        assert (await public.answer()).status == 404


# -- what the backend is told: written from what was parsed, never the bytes that came

INSIDE = request("GET", "/admin", host=VICTIM)
BODIES = {
    "of a GET": request("GET", "TARGET", host=VICTIM, body=INSIDE),
    "of a HEAD": request("HEAD", "TARGET", host=VICTIM, body=INSIDE),
    "of a POST": request("POST", "TARGET", host=VICTIM, body=INSIDE),
    "in a chunk": request("POST", "TARGET", CHUNKED, host=VICTIM) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(INSIDE), INSIDE),
    "behind an Expect": request("POST", "TARGET", "Expect: 100-continue", host=VICTIM, body=INSIDE),
    "of zeros in the length": request("POST", "TARGET", f"Content-Length: 0000000{len(INSIDE)}", host=VICTIM) + INSIDE,
    "that Connection calls its own": request("POST", "TARGET", "Connection: content-length", host=VICTIM, body=INSIDE),
    "of a coding that Connection calls its own": request(
        "POST", "TARGET", CHUNKED, "Connection: transfer-encoding", host=VICTIM
    )
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(INSIDE), INSIDE),
}


@attack(
    "CL.0, 0.CL and their kind: a request in the body of another",
    "is the body at the backend, which says so once",
    attackers=len(BODIES),
)
async def inside(attacker: Attacker) -> None:
    data = attacker.one_of(list(BODIES.values())).replace(b"TARGET", attacker.target.encode())
    public, backend, seen = await attacker.pass_on(data)
    assert (await backend.body(seen))[0] == INSIDE
    assert len(seen.all("content-length") + seen.all("transfer-encoding")) == 1
    await backend.send(answer("200 OK", "Connection: close"))
    assert (await public.answer(data.split(b" ")[0].decode())).status == 200
    got = await public.ask(request("GET", "/", host=NOBODY))
    assert got.status == 404, "the next answer is that of the next request"
    assert await backend.ended()


OF_ONE_HOP = ["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: chunked", "Upgrade: x", "X-Named: 1"]
UPGRADES = {
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"],
    "h2c, without the option": [
        "Upgrade: h2c",
        "Connection: HTTP2-Settings",
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    ],
    "TLS": ["Connection: Upgrade", "Upgrade: TLS/1.0"],
    "two protocols": ["Connection: Upgrade", "Upgrade: websocket, h2c"],
    "in two fields": ["Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"],
    "what belongs to one hop": ["Connection: X-Named", *OF_ONE_HOP],
}


@attack(
    "h2c smuggling: Upgrade to h2c, TLS or several protocols, and other fields of one hop",
    "plain HTTP; the backend sees none of them, and what follows is parsed by us",
    attackers=len(UPGRADES),
)
async def upgrades(attacker: Attacker) -> None:
    fields = attacker.one_of(list(UPGRADES.values()))
    public, backend, seen = await attacker.pass_on(request("GET", attacker.target, *fields, host=VICTIM))
    names = ("connection", "upgrade", "http2-settings", "keep-alive", "proxy-connection", "te", "x-named")
    assert not [name for name, _ in seen.fields if name in names]
    await served(public, backend)
    assert (await public.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).status in (501, 505)
    assert await public.ended()


FORGED = ["For: 192.0.2.1", "Proto: https", "Host: admin.example", "Port: 1"]
HOPS = {
    "as they are": ["Forwarded: for=192.0.2.1", *(f"X-Forwarded-{field}" for field in FORGED)],
    "in other cases": ["FORWARDED: for=192.0.2.1", *(f"x-forwarded-{field}".swapcase() for field in FORGED)],
    "with underscores, as CGI reads them": [f"X_Forwarded_{field}" for field in FORGED],
    "with some underscores": [f"X-Forwarded_{field}" for field in FORGED],
    "what is ours, named by Connection": [
        "Connection: X-Forwarded-For, Forwarded, X-Forwarded-Proto, X-Forwarded-Host"
    ],
}


@attack(
    "forged hops: Forwarded and X-Forwarded-*, also as X_Forwarded_*, and ours named in Connection (CVE-2022-31813)",
    "the backend sees what the server knows, and nothing else",
    attackers=len(HOPS),
)
async def hops(attacker: Attacker) -> None:
    fields = attacker.one_of(list(HOPS.values()))
    public, backend, seen = await attacker.pass_on(request("GET", attacker.target, *fields, host=VICTIM))
    known = [(name.replace("_", "-"), value) for name, value in seen.fields if "forwarded" in name]
    assert known == [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", VICTIM),
        ("forwarded", f'for=127.0.0.1;proto=http;host="{VICTIM}"'),
    ]
    await served(public, backend)


@attack(
    "trailers that would be fields: Content-Length, Transfer-Encoding, Host, Connection, X-Forwarded-For, Upgrade",
    "the backend sees the others only",
)
async def forged_trailers(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    names = ("Content-Length: 5", CHUNKED, "Host: admin", "Connection: X", "X-Forwarded-For: 192.0.2.1", "Upgrade: h2c")
    await public.send("0\r\n" + "".join(f"{field}\r\n" for field in (*names, "X-Sum: 5")) + "\r\n")
    assert await backend.chunk() == b""
    assert await backend.trailers() == [("x-sum", "5")]
    await served(public, backend)


# -- from HTTP/2 to HTTP/1.1

SMUGGLED = b"x\r\nHost: admin\r\n\r\nGET /admin HTTP/1.1\r\nX: y"
FIELDS = {
    "CR LF in a value": (b"x", SMUGGLED),
    "LF in a value": (b"x", b"y\nz: 1"),
    "CR in a value": (b"x", b"y\rz: 1"),
    "NUL in a value": (b"x", b"y\0"),
    "space in front of a value": (b"x", b" y"),
    "CR LF in a name": (b"x: y\r\nz", b"1"),
    "a colon in a name": (b"x: y", b"1"),
    "space in a name": (b"x y", b"1"),
    "space at the end of a name": (b"x ", b"1"),
    "upper case in a name": (b"X", b"1"),
    "an empty name": (b"", b"1"),
    "NUL in a name": (b"x\0", b"1"),
    "byte above ASCII in a name": (b"x\xff", b"1"),
    "chunked": (b"transfer-encoding", b"chunked"),
    "connection": (b"connection", b"close"),
    "upgrade": (b"upgrade", b"h2c"),
    "another host": (b"host", b"admin.example"),
    "two lengths": (b"content-length", b"1, 2"),
    "a length with a sign": (b"content-length", b"+1"),
    "h2.CL": (b"content-length", b"48"),
}
PSEUDO = {
    "space in the path": (b":path", b"/ HTTP/1.1"),
    "CR LF in the path": (b":path", b"/" + SMUGGLED),
    "LF in the path": (b":path", b"/\nx: y"),
    "tab in the path": (b":path", b"/\t"),
    "NUL in the path": (b":path", b"/\0"),
    "DEL in the path": (b":path", b"/\x7f"),
    "bytes above ASCII in the path": (b":path", b"/\xff"),
    "no slash": (b":path", b"@admin.example/"),
    "a URL": (b":path", b"http://admin.example/"),
    "space in the method": (b":method", b"GET /admin HTTP/1.1\r\nX: y"),
    "CONNECT": (b":method", b"CONNECT"),
    "CR LF in the host": (b":authority", b"victim.example\r\nX: y"),
    "user information": (b":authority", b"admin@victim.example"),
    "a forged hop": (b":authority", b"victim.example;for=1"),
    "space in the scheme": (b":scheme", b"http x"),
    "another scheme": (b":scheme", b"ftp"),
}


@attack(
    "HTTP/2 to HTTP/1.1: CR, LF, NUL, space or colon in names and values, in :path, :method and :authority; a length "
    "or coding of its own, another Host",
    "400 or a reset of the stream, never forwarded",
    attackers=len(FIELDS) + len(PSEUDO),
)
async def downgraded(attacker: Attacker) -> None:
    wrong = attacker.one_of([*FIELDS.values(), *PSEUDO.values()])
    usual = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", VICTIM.encode())]
    fields = [wrong if name == wrong[0] else (name, value) for name, value in usual]
    if wrong not in fields:
        fields.append(wrong)
    connection = await attacker.http2()
    stream = Stream(connection, 1)
    connection.streams[1] = stream
    connection.protocol.send_headers(1, fields, end_stream=True)
    await connection.flush()
    async with asyncio.timeout(WAIT_S):
        while not (stream.ended or stream.reset is not None or connection.closed):
            await connection.changed()
    # h2 ends the whole connection for what nghttp2 resets the stream for.
    assert stream.reset is not None or connection.closed or stream.status in (400, 405), stream.fields
    assert attacker.victim.connections == 0
