"""HTTP/1.1: what is smuggled towards the backend, which is told what was parsed, never the bytes that came."""

import asyncio

from tests.hostile.attack import Section
from tests.hostile.http1 import CHUNKED, NOBODY, served
from tests.hostile.http1_bodies import begun
from tests.hostile.site import VICTIM, Attacker
from tests.support.http2 import Stream
from tests.support.raw import answer, request
from tests.support.tunnel import WAIT_S

attack = Section("HTTP/1.1").attack

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
