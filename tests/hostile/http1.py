"""HTTP/1.1 (RFC 9110, 9112): heads of requests, whole and slow."""

import asyncio

from tests.hostile.attack import Section
from tests.hostile.site import VICTIM, Attacker
from tests.support.raw import Head, Peer, answer, request

attack = Section("HTTP/1.1").attack
CHUNKED = "Transfer-Encoding: chunked"
HURRIED = {"server": ["--set", "head_timeout_s=0.5", "--set", "body_bytes=100_000"]}
NOBODY = "nobody.example"  # no client serves it


async def refused(attacker: Attacker, data: bytes, *statuses: int) -> Head:
    """`data` gets one answer of ours, the connection ends behind it, and no backend hears of it."""
    peer = await attacker.connect()
    await peer.send(data)
    answer = await peer.answer()
    assert answer.status in statuses, answer
    assert answer.head.get("connection") == "close"
    assert answer.body.startswith(b"%d: " % answer.status), "it is ours"
    assert await peer.ended()
    assert attacker.victim.connections == 0
    return answer.head


def head(*fields: str, body: bytes = b"", target: str = "/", host: str = VICTIM) -> bytes:
    return request("POST", target, *fields, host=host) + body


async def served(public: Peer, backend: Peer) -> None:
    """The backend answers; its connection is not used again, for the victim hands out what comes first on one."""
    await backend.send(answer("200 OK", "Connection: close"))
    assert (await public.answer()).status == 200


def lines(*lines: str) -> bytes:
    """A head, each byte of it."""
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


LENGTHS = {
    "with a coding": ["Content-Length: 3", CHUNKED],
    "behind a coding": [CHUNKED, "Content-Length: 3"],
    "0, behind a coding": [CHUNKED, "Content-Length: 0"],
    "two": ["Content-Length: 3", "Content-Length: 4"],
    "two, the same": ["Content-Length: 3", "Content-Length: 3"],
    "a list": ["Content-Length: 3, 4"],
    "a list of the same": ["Content-Length: 3, 3"],
    "minus": ["Content-Length: -3"],
    "plus": ["Content-Length: +3"],
    "space inside": ["Content-Length: 1 3"],
    "vertical tab": ["Content-Length: \v3"],
    "hexadecimal": ["Content-Length: 0x3"],
    "underscore": ["Content-Length: 1_0"],
    "a fraction": ["Content-Length: 3.0"],
    "an exponent": ["Content-Length: 3e0"],
    "a digit of another alphabet": ["Content-Length: \xb3"],
    "empty": ["Content-Length:"],
    "above 64 bits": ["Content-Length: 18446744073709551617"],
}


@attack(
    "Content-Length beside Transfer-Encoding, two lengths, sign, space or letters in a length, one above 2^64",
    "400, closed, never forwarded",
    attackers=len(LENGTHS),
)
async def lengths(attacker: Attacker) -> None:
    await refused(attacker, head(*attacker.one_of(list(LENGTHS.values())), body=b"abc"), 400)


CODINGS = {
    "identity behind": ["Transfer-Encoding: chunked, identity"],
    "identity": ["Transfer-Encoding: identity"],
    "twice": ["Transfer-Encoding: chunked, chunked"],
    "in two fields": [CHUNKED, CHUNKED],
    "in two fields, one of them none": [CHUNKED, "Transfer-Encoding: x"],
    "parameter": ["Transfer-Encoding: chunked;q=1"],
    "quoted": ['Transfer-Encoding: "chunked"'],
    "another word": ["Transfer-Encoding: xchunked"],
    "a word behind": ["Transfer-Encoding: chunked x"],
    "vertical tab": ["Transfer-Encoding: \vchunked"],
    "no-break space": ["Transfer-Encoding: \xa0chunked"],
    "NUL": ["Transfer-Encoding: chunked\0"],
    "empty": ["Transfer-Encoding:"],
    "a comma": ["Transfer-Encoding: ,"],
    "folded": ["Transfer-Encoding:\r\n chunked"],
    "space before the colon": ["Transfer-Encoding : chunked"],
    "hidden by a bare LF": ["X: y\nTransfer-Encoding: chunked"],
    "hidden by a bare CR": ["X: y\rTransfer-Encoding: chunked"],
    "gzip behind": ["Transfer-Encoding: chunked, gzip"],
}


@attack(
    "Transfer-Encoding: chunked, identity, and its other spellings: twice, quoted, folded, with a parameter",
    "400, closed, never forwarded",
    attackers=len(CODINGS) + 1,
)
async def codings(attacker: Attacker) -> None:
    if attacker.number == len(CODINGS):
        data = lines("POST / HTTP/1.0", f"Host: {VICTIM}", CHUNKED) + b"0\r\n\r\n"
    else:
        data = head(*attacker.one_of(list(CODINGS.values())), body=b"0\r\n\r\n")
    await refused(attacker, data, 400)


@attack("Transfer-Encoding: gzip, chunked; methods that nobody knows", "501, closed, never forwarded", attackers=6)
async def not_implemented(attacker: Attacker) -> None:
    methods = [request(method, "/", host=VICTIM) for method in ("BREW", "get", "GETX", "G", "PRI")]
    await refused(attacker, attacker.one_of([head(f"Transfer-Encoding: gzip, {CHUNKED[19:]}"), *methods]), 501)


FIELDS = {
    "folded by a space": "X: y\r\n z",
    "folded by a tab": "X: y\r\n\tz",
    "folded, first of all": " X: y",
    "folded, empty": "X: y\r\n \r\nZ: z",
    "bare CR": "X: y\rz",
    "bare LF": "X: y\nZ: z",
    "CR CR LF": "X: y\r",
    "NUL in a value": "X: y\0z",
    "NUL in a name": "X\0: y",
    "BEL in a value": "X: \a",
    "DEL in a value": "X: \x7f",
    "control byte in a name": "X\x01: y",
    "space before the colon": "X : y",
    "tab before the colon": "X\t: y",
    "space in a name": "X Y: z",
    "byte above ASCII in a name": "X\xff: y",
    "slash in a name": "X/Y: z",
    "no name": ": y",
    "no colon": "X",
    "names in Connection without end": "Connection: " + "x," * 65,
}


@attack(
    "obs-fold, bare CR, bare LF, NUL or control bytes in names or values, space before the colon, no name, no colon",
    "400, closed, never forwarded",
    attackers=len(FIELDS),
)
async def fields(attacker: Attacker) -> None:
    await refused(attacker, request("GET", "/", attacker.one_of(list(FIELDS.values())), host=VICTIM), 400)


START_LINES = [
    "GET /",  # HTTP/0.9
    "GET  / HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET\t/ HTTP/1.1",
    " GET / HTTP/1.1",
    "GET / HTTP/1.1 ",
    "GET / x HTTP/1.1",
    "GET / http/1.1",
    "GET / HTTP/1",
    "GET / HTTP/1.1.1",
    "GET / HTTP/+1.1",
    "GET / HTTP/0.9",
    "GET a HTTP/1.1",
    "GET * HTTP/1.1",
    "GET /\x01 HTTP/1.1",
    "GET /\xff HTTP/1.1",
    "GET /#fragment HTTP/1.1",
    "GET / HTTP/1.1\nX: y",
    "GET ftp://victim.example/ HTTP/1.1",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a ClientHello
    "SSH-2.0-OpenSSH_9.6",
    "HTTP/1.1 200 OK",
]


@attack(
    "start lines that are none: HTTP/0.9, more spaces, another version's spelling, control bytes, a fragment, TLS, SSH",
    "400, closed, never forwarded",
    attackers=len(START_LINES),
)
async def start_lines(attacker: Attacker) -> None:
    await refused(attacker, lines(attacker.one_of(START_LINES), f"Host: {VICTIM}"), 400)


@attack("HTTP/2.0 and HTTP/1.2 in a start line", "505, closed", attackers=4)
async def versions(attacker: Attacker) -> None:
    version = attacker.one_of(["HTTP/2.0", "HTTP/1.2", "HTTP/3.0", "HTTP/9.9"])
    await refused(attacker, lines(f"GET / {version}", f"Host: {VICTIM}"), 505)


HOSTS = {
    "none": [],
    "two": [VICTIM, "other.example"],
    "two, the same": [VICTIM, VICTIM],
    "a list": [f"{VICTIM}, other.example"],
    "two words": [f"{VICTIM} other.example"],
    "user information": [f"u@{VICTIM}"],
    "a path": [f"{VICTIM}/x"],
    "a fragment": [f"{VICTIM}#x"],
    "a backslash": [f"{VICTIM}\\x"],
    "what ends a member of Forwarded": [f'{VICTIM}";for="127.0.0.1'],
    "a forged hop": [f"{VICTIM},for=127.0.0.1"],
    "two ports": [f"{VICTIM}:1:2"],
    "a port with a sign": [f"{VICTIM}:+80"],
    "an open bracket": ["[::1"],
    "a zone": ["[fe80::1%25eth0]"],
    "percent-encoded": ["victim%2eexample"],
    "bytes above ASCII": ["v\xefctim.example"],
    "NUL": [f"{VICTIM}\0"],
    "folded away": [f"{VICTIM}\r\n other.example"],
}


@attack(
    "Host missing, twice, a list, with user information, a path, quotes or two ports",
    "400, closed, never forwarded",
    attackers=len(HOSTS),
)
async def hosts(attacker: Attacker) -> None:
    found = attacker.one_of(list(HOSTS.values()))
    await refused(attacker, lines("GET / HTTP/1.1", *(f"Host: {host}" for host in found)), 400)


OTHER_HOSTS = [
    (f"http://{VICTIM}/", "other.example"),
    ("http://other.example/", VICTIM),
    (f"http://{VICTIM}:80/", VICTIM),
    (f"http://u@{VICTIM}/", VICTIM),
    (f"http://u@{VICTIM}/", f"u@{VICTIM}"),
    (f"http://{VICTIM}\\@other.example/", VICTIM),
    ("http:///", VICTIM),
    (f"//{VICTIM}", "other example"),
]


@attack(
    "an absolute-form target of another host than Host, with user information, without a host",
    "400, closed, never forwarded",
    attackers=len(OTHER_HOSTS),
)
async def other_hosts(attacker: Attacker) -> None:
    target, host = attacker.one_of(OTHER_HOSTS)
    await refused(attacker, request("GET", target, host=host), 400)


@attack("CONNECT to a host of the inside, in its form and in others", "405 with Allow, closed", attackers=4)
async def connects(attacker: Attacker) -> None:
    target = attacker.one_of(["127.0.0.1:22", f"{VICTIM}:80", "/", f"http://{VICTIM}/"])
    refusal = await refused(attacker, request("CONNECT", target, host=VICTIM), 405)
    assert refusal.get("allow")


@attack("a script in the path and a secret in the query of what a page of ours shows", "404 as plain text")
async def pages(attacker: Attacker) -> None:
    peer = await attacker.connect()
    got = await peer.ask(request("GET", "/<script>alert(1)</script>?secret=1", host=NOBODY))
    assert (got.status, got.head.get("content-type")) == (404, "text/plain; charset=utf-8")
    assert (got.head.get("x-content-type-options"), b"secret" in got.body) == ("nosniff", False)


# -- limits

ABOVE = {
    "one field": request("GET", "/", "X: " + "a" * 65_536, host=VICTIM),
    "one name": request("GET", "/", "a" * 65_536 + ": x", host=VICTIM),
    "many fields": request("GET", "/", *["X: " + "a" * 100] * 700, host=VICTIM),
    "no end": b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000,
    "no end of the start line": b"GET /" + b"a" * 70_000,
    "no end of the fields": b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 14_000,
}


@attack("a head above 64 KiB, complete or without end", "431, closed", attackers=len(ABOVE))
async def heads_above_the_limit(attacker: Attacker) -> None:
    await refused(attacker, attacker.one_of(list(ABOVE.values())), 431)


@attack("a target above 16 KiB", "414, closed", cpu_ms=8)
async def targets_above_the_limit(attacker: Attacker) -> None:
    target = attacker.one_of(["/" + "a" * 16_384, "/?" + "%41" * 6000, f"http://{VICTIM}/" + "a" * 16_384])
    await refused(attacker, request("GET", target, host=VICTIM), 414)


@attack(
    "64 KiB of head that comes in 1,000 pieces", "431, closed: what has come is looked at once", attackers=4, cpu_ms=12
)
async def head_in_pieces(attacker: Attacker) -> None:
    peer = await attacker.connect()
    answered = asyncio.create_task(peer.answer())
    await peer.send(f"GET / HTTP/1.1\r\nHost: {VICTIM}\r\n")
    for _ in range(1000):
        peer.writer.write(b"X: " + b"a" * 67 + b"\r\n")
        await asyncio.sleep(0)
        if answered.done():
            break
    assert (await answered).status == 431
    assert attacker.victim.connections == 0


@attack("a head of 15,000 fields, as it just may be", "passes", attackers=2, memory_kib=512, cpu_ms=30)
async def many_fields(attacker: Attacker) -> None:
    data = request("GET", attacker.target, host=VICTIM)[:-2] + b"a:\r\n" * 15_000 + b"\r\n"
    public, backend, head = await attacker.pass_on(data)
    assert len(head.all("a")) == 15_000
    await served(public, backend)


@attack(
    "Connection names 64 fields, beside 800 that differ from each of them in their last byte only",
    "passes without those that are named",
    attackers=4,
    cpu_ms=12,
)
async def many_named(attacker: Attacker) -> None:
    names = ["x" * 50 + chr(97 + number // 8) + chr(97 + number % 8) for number in range(64)]
    others = [name[:50] + "zz" for name in names for _ in range(12)]
    fields = [f"Connection: {', '.join(names)}", *(f"{name}: 1" for name in names), *(f"{name}: 1" for name in others)]
    public, backend, head = await attacker.pass_on(request("GET", attacker.target, *fields, host=VICTIM))
    assert len(head.all("x" * 50 + "zz")) == len(others)
    assert not [name for name, _ in head.fields if name in names]
    await served(public, backend)


# -- slow ones


@attack(
    "slowloris: 32 heads that grow by a line now and then, all at once",
    "408 after head_timeout_s from the first byte, closed",
    attackers=32,
    options=HURRIED,
)
async def slow_heads(attacker: Attacker) -> None:
    peer = await attacker.connect()
    await peer.send(request("GET", "/", host=VICTIM)[:-2])
    await attacker.all_here()
    answered = asyncio.create_task(peer.answer())
    while not answered.done():
        await asyncio.wait([answered], timeout=0.1)
        peer.writer.write(b"X: y\r\n")
    assert (await answered).status == 408
    assert attacker.victim.connections == 0


@attack(
    "32 heads of 60 KiB that never end, all at once",
    "408 after head_timeout_s, closed",
    attackers=32,
    options=HURRIED,
)
async def large_slow_heads(attacker: Attacker) -> None:
    peer = await attacker.connect()
    await peer.send(request("GET", "/", "X: " + "a" * 60_000, host=VICTIM)[:-2])
    await attacker.all_here()
    assert (await peer.answer()).status == 408
    assert await peer.ended()


@attack("32 connections that say nothing, or empty lines", "closed after head_timeout_s", attackers=32, options=HURRIED)
async def silent(attacker: Attacker) -> None:
    peer = await attacker.connect()
    ended = asyncio.create_task(peer.to_end())
    while not ended.done():
        if attacker.number % 2:
            peer.writer.write(b"\r\n" * 100)
        await asyncio.wait([ended], timeout=0.1)
    if not isinstance(ended.exception(), ConnectionResetError):  # lines were on their way
        assert b"200" not in ended.result()


CROWDED = {"server": ["--set", "max_connections_per_address=16"]}
OTHERS = 3  # connections of those who are not attacked


@attack(
    "40 connections of one address that may have 16",
    "503 to the first request on each beyond them, closed; cut beyond twice as many; those within go on",
    attackers=1,
    cpu_ms=15,
    options=CROWDED,
)
async def crowd(attacker: Attacker) -> None:
    peers = [await attacker.connect() for _ in range(40)]
    served, unwelcome, cut = peers[: 16 - OTHERS], peers[16 - OTHERS : 32 - OTHERS], peers[32 - OTHERS :]
    for peer in cut:
        assert await peer.ended()
    for peer in unwelcome:
        got = await peer.ask(request("GET", "/", host=NOBODY))
        assert (got.status, got.head.get("connection")) == (503, "close")
        assert await peer.ended()
    for peer in served:
        assert (await peer.ask(request("GET", "/", host=NOBODY))).status == 404
    for peer in served:  # none may be left when others come
        peer.half_close()
        assert await peer.ended()
