"""The tunnel port: whoever dials it without a token, or as a client that has been let in and breaks the contract."""

import itertools
import os
import struct

from fasttunnel.wire import tunnel_pb2 as wire
from tests.hostile.attack import Section
from tests.hostile.http2 import HEADERS, PREFACE, SETTINGS, frame
from tests.hostile.site import TOKEN, VICTIM, Attacker
from tests.hostile.tunnels import CONNECT, Call, call, dial, message, registering
from tests.support.raw import request

attack = Section("The tunnel port").attack
OK, INVALID_ARGUMENT, ALREADY_EXISTS, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAUTHENTICATED = (
    0,
    3,
    6,
    8,
    12,
    13,
    16,
)
_addresses = itertools.count(2)


def own_address() -> str:
    """Of this machine, and used by nobody before: failed logins are counted by address."""
    return f"127.1.{next(_addresses) >> 8}.{next(_addresses) & 255}"


# -- logins

SECRET = "a-token-that-is-wrong-but-secret-all-the-same"
LOGINS = {
    "none": None,
    "empty": "",
    "scheme alone": "Bearer",
    "another scheme": f"Basic {TOKEN}",
    "no scheme": TOKEN,
    "wrong": f"Bearer {SECRET}",
    "cut": f"Bearer {TOKEN[:-1]}",
    "longer": f"Bearer {TOKEN}x",
    "upper case": f"Bearer {TOKEN.upper()}",
    "two": f"Bearer {SECRET}, Bearer {TOKEN}",
    "40 KB": f"Bearer {'x' * 40_000}",
}


@attack(
    "No token, a wrong one, the right one cut, longer, in another case, of another scheme, one of 40 KB",
    "UNAUTHENTICATED (grpc.aio: RESOURCE_EXHAUSTED for 40 KB); no token stands in the log",
    attackers=len(LOGINS),
    memory_kib=512,  # grpc keeps 40 KB in several copies
)
async def wrong_tokens(attacker: Attacker) -> None:
    refused = await call(
        await dial(attacker, own_address()), registering(), authorization=attacker.one_of(list(LOGINS.values()))
    )
    lawful = (UNAUTHENTICATED, RESOURCE_EXHAUSTED) if attacker.number == len(LOGINS) - 1 else (UNAUTHENTICATED,)
    assert await refused.status() in lawful
    assert not [line for line in attacker.site.lines if SECRET in line or TOKEN in line]


@attack(
    "100 logins with wrong tokens on one connection, then the right one from the same address, and from another one",
    "10 times UNAUTHENTICATED, then RESOURCE_EXHAUSTED, also for the right one; the other address is served",
    attackers=4,
    cpu_ms=200,
)
async def guessing(attacker: Attacker) -> None:
    address = own_address()
    connection = await dial(attacker, address)
    statuses = []
    for number in range(100):
        guess = await call(connection, authorization=f"Bearer guess-{number}")
        statuses.append(await guess.status())
    assert statuses == [UNAUTHENTICATED] * 10 + [RESOURCE_EXHAUSTED] * 90
    assert await (await call(await dial(attacker, address))).status() == RESOURCE_EXHAUSTED
    other = await call(await dial(attacker, own_address()), message(heartbeat=wire.Heartbeat()))
    assert await other.status() == INVALID_ARGUMENT  # the token is good, it is no Register
    warnings = [line for line in attacker.site.lines if f"too many failed logins from {address}:" in line]
    assert len(warnings) == 1


# -- what is no tunnel

CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(500)
GARBAGE = {
    "HTTP/1.1": request("GET", "/"),
    "HTTP/1.1 POST": request("POST", CONNECT, "Content-Type: application/grpc", body=b"\0\0\0\0\0"),
    "upgrade to h2c": request(
        "GET", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"
    ),
    "TLS": CLIENT_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "NUL": bytes(4096),
    "noise": os.urandom(4096),
    "preface with a fault": PREFACE[:-2] + b"xx" + frame(SETTINGS),
    "no SETTINGS": PREFACE + frame(HEADERS, b"\x82", flags=5, stream=1),
    "SETTINGS too long": PREFACE + frame(SETTINGS, bytes(7)),
}


@attack("HTTP/1.1, TLS, SSH, NUL bytes, noise, a preface with a fault", "closed", attackers=2 * len(GARBAGE))
async def no_http2(attacker: Attacker) -> None:
    peer = await attacker.dial()
    await peer.send(attacker.one_of(list(GARBAGE.values())))
    try:
        answer = await peer.to_end()
    except ConnectionResetError:  # it was closed with some of ours unread
        return
    assert b":status" not in answer
    assert not answer.startswith(b"HTTP/1.1 2")


@attack("Nothing, half a preface, a preface alone, a call without a message; held", "waits", attackers=64)
async def halves(attacker: Attacker) -> None:
    kind = attacker.number % 4
    if kind < 3:
        peer = await attacker.dial()
        await peer.send((b"", PREFACE[:11], PREFACE + frame(SETTINGS))[kind])
    else:
        await call(await dial(attacker))
    await attacker.all_here()


CALLS = {
    "path": ("POST", "/fasttunnel.v1.TunnelService/Other", "application/grpc", "12"),
    "service": ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "application/grpc", "12"),
    "root": ("POST", "/", "application/grpc", "12"),
    "GET": ("GET", CONNECT, "application/grpc", "405"),
    "JSON": ("POST", CONNECT, "application/json", "415"),
}


@attack("A call of another path, with GET, of another content-type", "UNIMPLEMENTED, 405, 415")
async def other_calls(attacker: Attacker) -> None:
    method, path, kind, expected = attacker.one_of(list(CALLS.values()))
    connection = await dial(attacker)
    fields = [("te", "trailers"), ("content-type", kind), ("authorization", f"Bearer {TOKEN}")]
    stream = await (await connection.open(method, path, *fields)).done()
    said = dict([*stream.fields, *stream.trailers])
    # grpc resets some of them, has other words for others, and does not look at the content-type.
    lawful = (expected, "0") if kind == "application/json" and attacker.site.engine == "asyncio" else (expected,)
    assert stream.reset is not None or said.get("grpc-status") in lawful or said[":status"] in lawful, said


# -- registering

NO_REGISTER = {
    "nothing known": b"\xf2\x07\x01x",
    "heartbeat": message(heartbeat=wire.Heartbeat(nonce=1)),
    "go_away": message(go_away=wire.GoAway()),
    "registered": message(registered=wire.Registered(session_id="s")),
    "answer": message("h-1", http_response=wire.HttpResponse(status_code=200, is_first_chunk=True)),
    "request": message("h-1", http_request=wire.HttpRequest(method="GET", url="/", host=VICTIM, is_first_chunk=True)),
    "frame": message("ws-1", ws_frame=wire.WebSocketFrame(opcode=1)),
    "reset": message("h-1", reset=wire.Reset(code=1)),
    "window": message("h-1", window_update=wire.WindowUpdate(bytes=1)),
}


@attack("A first message that is no Register: each kind", "INVALID_ARGUMENT", attackers=2 * len(NO_REGISTER))
async def no_register(attacker: Attacker) -> None:
    first = attacker.one_of(list(NO_REGISTER.values())[1:])
    assert await (await call(await dial(attacker), first)).status() == INVALID_ARGUMENT


def route(**values: object) -> bytes:
    return registering(wire.Route(**values))  # type: ignore[arg-type]


REGISTERS = {
    "version": registering(wire.Route(), version=2),
    "version 2^32-1": registering(wire.Route(), version=2**32 - 1),
    "no route": registering(),
    "1,001 routes": registering(*(wire.Route(host=f"h{number}.example") for number in range(1001))),
    "host with a line": route(host="a.example\r\nx"),
    "host with a space": route(host="a b"),
    "host of 256 bytes": route(host="a" * 256),
    "host with a port": route(host="a.example:80"),
    "two wildcards": route(host="*.*.example"),
    "idna": route(host="\u2024\u2024"),
    "path": route(host="a.example", path_prefix="api"),
    "path with a line": route(host="a.example", path_prefix="/a\nb"),
    "service": route(host="a.example", grpc_service="a b"),
    "protocol": route(host="a.example", protocols=[77]),
    "rewrite": route(host="a.example", host_rewrite="a\r\nb"),
    "client_id with a line": registering(wire.Route(host="a.example"), client_id="a\nb"),
    "client_id with an escape": registering(wire.Route(host="a.example"), client_id="\x1b[2J"),
    "client_id of 1 MB": registering(wire.Route(host="a.example"), client_id="x" * 2**20),
    "instance_id of 1 MB": registering(wire.Route(host="a.example"), instance_id="x" * 2**20),
}


@attack(
    "A Register of another version, without routes, with 1,001 of them, with hosts, paths, services, protocols and "
    "names that cannot be, a client_id of 1 MB",
    "INVALID_ARGUMENT",
    attackers=len(REGISTERS),
    memory_kib=2048,  # a message of 1 MB is gathered
    cpu_ms=25,
)
async def bad_registers(attacker: Attacker) -> None:
    refused = await call(await dial(attacker), attacker.one_of(list(REGISTERS.values())))
    assert await refused.status() == INVALID_ARGUMENT
    assert len(refused.text) < 1000


@attack("Two Registers", "INVALID_ARGUMENT")
async def two_registers(attacker: Attacker) -> None:
    first = registering(wire.Route(host=f"two-{attacker.number}.example"))
    assert await (await call(await dial(attacker), first, first)).status() == INVALID_ARGUMENT


@attack("A host that another client has, claimed for oneself alone", "ALREADY_EXISTS")
async def claims(attacker: Attacker) -> None:
    claim = registering(wire.Route(host=VICTIM, exclusive=True))
    assert await (await call(await dial(attacker), claim)).status() == ALREADY_EXISTS


# -- messages that are none


def field(number: int, kind: int, payload: bytes = b"") -> bytes:
    tag = number << 3 | kind
    head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    return head + payload


DEEP = 200
MALFORMED = {
    "truncated tag": b"\x80",
    "truncated number": field(3, 0, b"\xff"),
    "number of 11 bytes": field(3, 0, b"\xff" * 10 + b"\x01"),
    "number without end": field(3, 0, b"\xff" * 4000),
    "length beyond the end": field(2, 2, b"\x05h-1"),
    "length of 2 GiB": field(2, 2, b"\xff\xff\xff\xff\x07"),
    "length of 2^64-1": field(2, 2, b"\xff" * 9 + b"\x01"),
    "field 0": b"\x02\x00",
    "wire type 6": field(3, 6, b"\x01"),
    "wire type 7": field(3, 7, b"\x01"),
    "group without an end": field(30, 3),
    "end of no group": field(30, 4),
    "groups that cross": field(30, 3) + field(31, 3) + field(30, 4) + field(31, 4),
    "200 groups": field(30, 3) * DEEP + field(30, 4) * DEEP,
    "1,000,000 groups": field(30, 3) * 1_000_000,
    "text that is no UTF-8": field(2, 2, b"\x02\xff\xfe"),
    "surrogates": field(2, 2, b"\x03\xed\xa0\x80"),
    "name that is no UTF-8": field(2, 2, b"\x03h-1") + field(6, 2, b"\x05\x12\x03\x0a\x01\xff"),
    "header cut": field(2, 2, b"\x03h-1") + field(6, 2, b"\x04\x12\x02\x0a\x05"),
    "fixed cut": field(30, 5, b"\x01\x02"),
    "request_id of 17 bytes": message("x" * 17, reset=wire.Reset(code=1)),
    "request_id of 1 MB": message("x" * 2**20, reset=wire.Reset(code=1)),
}


async def tunnel(attacker: Attacker, name: str) -> Call:
    found = await call(await dial(attacker), registering(wire.Route(host=f"{name}-{attacker.number}.example")))
    await found.next("registered")
    return found


@attack(
    "A TunnelMessage that is none: numbers, lengths (2 GiB, 2^64-1), tags and groups cut, too long, nested or crossed, "
    "text that is no UTF-8, a request_id of 1 MB",
    "INTERNAL, and a line in the log that says where; what else the tunnel carries, and no other tunnel, ends",
    attackers=len(MALFORMED),
    memory_kib=4096,  # a message of 1 MB is gathered
    cpu_ms=25,
)
async def malformed(attacker: Attacker) -> None:
    name, broken = attacker.one_of(list(MALFORMED.items()))
    client = await tunnel(attacker, "malformed")
    await client.send(broken)
    assert await client.status() == INTERNAL, name
    assert len(client.text) < 1000


PREFIXES = {
    "4 GiB": b"\0\xff\xff\xff\xff",
    "4 MiB and a byte": b"\0" + struct.pack("!I", 2**22 + 1),
    "compressed": b"\x01\0\0\0\x02hi",
    "flag 2": b"\x02\0\0\0\x02hi",
}


@attack(
    "A gRPC prefix of 4 GiB, of one byte too many, with a flag that is none, for a compressed message",
    "INTERNAL, grpc.aio: RESOURCE_EXHAUSTED or UNIMPLEMENTED",
)
async def prefixes(attacker: Attacker) -> None:
    # grpc.aio reads nothing more behind a flag that is none, and says so to nobody: heartbeats end that tunnel.
    known = list(PREFIXES.items())[: -1 if attacker.site.engine == "asyncio" else None]
    name, prefix = attacker.one_of(known)
    client = await tunnel(attacker, "prefix")
    await client.stream.send(prefix)
    assert await client.status() in (INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED), name


SKIPPED = {
    "unknown field": field(30, 0, b"\x01") + field(31, 2, b"\x03abc") + field(29, 5, bytes(4)) + field(28, 1, bytes(8)),
    "group": field(30, 3) + field(1, 0, b"\x01") + field(30, 4),
    "wrong wire types": field(2, 0, b"\x01") + field(3, 2, b"\x01x") + field(6, 0, b"\x05") + field(14, 5, bytes(4)),
    "nothing": b"",
    "TCP": message("t-1", tcp_data=wire.TcpData(payload=b"x")),
    "two payloads": message("x", http_response=wire.HttpResponse()) + message(heartbeat=wire.Heartbeat(reply=True)),
    "number of 10 bytes": field(4, 0, b"\xff" * 9 + b"\x01"),
    "request_id twice": field(2, 2, b"\x03h-1") + field(2, 2, b"\x03h-2"),
}


@attack("Fields of other wire types, groups, unknown fields and payloads: what protobuf allows", "skipped")
async def skipped(attacker: Attacker) -> None:
    client = await tunnel(attacker, "skipped")
    await client.send(attacker.one_of(list(SKIPPED.values())))
    await client.caught_up()


LARGEST = 2**22


@attack("A message of 4 MiB, its first 500 bytes a frame each", "skipped", memory_kib=12_288, cpu_ms=50, attackers=4)
async def slow_message(attacker: Attacker) -> None:
    client = await tunnel(attacker, "slow")
    body = b"\0" + struct.pack("!I", LARGEST) + field(30, 2, b"\xfa\xff\xff\x01") + bytes(LARGEST - 6)
    for at in range(500):
        await client.stream.send(body[at : at + 1])
    await client.stream.send(body[500:])
    await client.caught_up()
