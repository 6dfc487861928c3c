"""The tunnel port, a registered client: it has a token, and says whatever it likes of requests."""

from typing import Any

import grpc

from fasttunnel.wire import tunnel_pb2 as wire
from tests.hostile.attack import Section
from tests.hostile.site import VICTIM, Attacker
from tests.hostile.tunnels import DOWN, HostileClient, message, registered
from tests.support.frames import BINARY, CLOSE, Frame, ask_upgrade, expect_upgrade, read_frame, read_frame_head
from tests.support.grpc_peers import Note, open_channel
from tests.support.raw import Peer, answer, request
from tests.support.stock import fields

attack = Section("The tunnel port").attack
WINDOW = 262_144


def answering(request_id: str, **values: Any) -> bytes:
    return message(request_id, direction=DOWN, http_response=wire.HttpResponse(**values))


def whole(request_id: str, body: bytes = b"mine", status: int = 200) -> bytes:
    return answering(request_id, status_code=status, body=body, is_first_chunk=True, is_last_chunk=True)


async def expect_reset(client: HostileClient, request_id: str, code: int = wire.PROTOCOL_ERROR) -> None:
    found = await client.next("reset")
    assert (found.request_id, found.reset.code) == (request_id, code), found


async def lives(attacker: Attacker, client: HostileClient) -> None:
    """Another request on the same tunnel passes."""
    public, request_id = await client.public(attacker)
    await client.send(whole(request_id, b"lives"))
    assert (await public.answer()).body == b"lives"


# -- requests that are not there


@attack(
    "400 answers to requests that it was not given, the one of another client's among them",
    "Reset once each; who asked gets the answer of whom he asked",
    attackers=8,
    cpu_ms=30,
)
async def foreign_answers(attacker: Attacker) -> None:
    client = await registered(attacker)
    _, request_id = await client.public(attacker)
    public, backend, _ = await attacker.pass_on(request("GET", attacker.target, host=VICTIM))
    start, number = int(request_id.removeprefix("h-"), 16), 0
    for number in range(start + 1, start + 200):  # ids are counted: that of the victim is among them
        await client.send(*[whole(f"h-{number:x}", b"forged")] * 2)
    await client.caught_up()
    assert client.resets == {f"h-{number:x}": 1 for number in range(start + 1, start + 200)}
    await backend.send(answer("200 OK", "Connection: close", body=b"true"))
    assert (await public.answer()).body == b"true"
    await lives(attacker, client)


@attack("Two answers to one request", "the first; the second is no answer to the next one")
async def two_answers(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await client.public(attacker)
    await client.send(whole(request_id), whole(request_id, b"forged"))
    assert (await public.answer()).body == b"mine"
    _, next_id = await client.public(attacker)
    await public.send(request("GET", "/", host=client.host))
    second = (await client.next("http_request")).request_id
    await client.send(whole(request_id, b"forged"), whole(second, b"next"), whole(next_id))
    assert (await public.answer()).body == b"next"


@attack("A request that it opens itself, for a host of another client", "Reset; no backend hears of it")
async def own_requests(attacker: Attacker) -> None:
    client = await registered(attacker)
    first = {"url": "/", "host": VICTIM}
    asked: list[dict[str, Any]] = [
        {"http_request": wire.HttpRequest(method="GET", is_first_chunk=True, is_last_chunk=True, **first)},
        {"ws_request": wire.WebSocketRequest(**first)},
        {"grpc_request": wire.GrpcRequest(service="a.B", method="C", authority=VICTIM, is_first_chunk=True)},
    ]
    await client.send(message("h-own", **attacker.one_of(asked)))
    await expect_reset(client, "h-own")
    await lives(attacker, client)
    assert attacker.victim.connections == 0


@attack(
    "No answer, ever; 20 requests held, then the tunnel is cut", "they wait; 502 when it is", attackers=8, cpu_ms=40
)
async def no_answers(attacker: Attacker) -> None:
    client = await registered(attacker)
    publics = [(await client.public(attacker))[0] for _ in range(20)]
    await client.caught_up()
    await attacker.all_here()
    client.stream.connection.peer.drop()
    for public in publics:
        assert (await public.answer()).status == 502


# -- answers that break the contract

BAD_ANSWERS: dict[str, list[dict[str, Any]]] = {
    "of another kind": [{"grpc_response": wire.GrpcResponse(is_first_chunk=True, is_last_chunk=True)}],
    "as a request": [{"http_request": wire.HttpRequest(method="GET", url="/", is_first_chunk=True)}],
    "as a frame": [{"ws_frame": wire.WebSocketFrame(opcode=BINARY, fin=True, payload=b"x")}],
    "a gap": [{"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, sequence_number=1)}],
    "no first chunk": [{"http_response": wire.HttpResponse(status_code=200, is_last_chunk=True)}],
    "status 0": [{"http_response": wire.HttpResponse(is_first_chunk=True)}],
    "status 99": [{"http_response": wire.HttpResponse(status_code=99, is_first_chunk=True)}],
    "status 101": [{"http_response": wire.HttpResponse(status_code=101, is_first_chunk=True)}],
    "status 1000": [{"http_response": wire.HttpResponse(status_code=1000, is_first_chunk=True)}],
    "status -1": [{"http_response": wire.HttpResponse(status_code=-1, is_first_chunk=True)}],
    "a line in a value": [
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, headers=fields(("X", "a\r\nY: b")))}
    ],
    "a line in a name": [
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, headers=fields(("X\r\nY", "a")))}
    ],
    "NUL in a value": [
        {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True, headers=fields(("X", "a\0")))}
    ],
    "two lengths": [
        {
            "http_response": wire.HttpResponse(
                status_code=200, is_first_chunk=True, headers=fields(("Content-Length", "1"), ("Content-Length", "2"))
            )
        }
    ],
    "101 interim answers": [
        {"http_response": wire.HttpResponse(status_code=103, informational=True, sequence_number=number)}
        for number in range(101)
    ],
    "reset without an answer": [],
}


@attack(
    "Answers of another kind, out of order, with a status that is none, with lines in header fields, 101 interim ones",
    "Reset with PROTOCOL_ERROR, 502 for the public",
    attackers=2 * len(BAD_ANSWERS),
    cpu_ms=10,
)
async def bad_answers(attacker: Attacker) -> None:
    name, bad = attacker.one_of(list(BAD_ANSWERS.items()))
    client = await registered(attacker)
    public, request_id = await client.public(attacker)
    if bad:
        await client.send(*(message(request_id, direction=DOWN, **payload) for payload in bad))
        await expect_reset(client, request_id)
    else:  # NO_ERROR says that an answer stands: there is none
        await client.send(message(request_id, reset=wire.Reset(code=wire.NO_ERROR)))
    assert (await public.answer()).status == 502, name
    await lives(attacker, client)


@attack("A chunk beyond the window", "Reset with FLOW_CONTROL_ERROR; the answer breaks off", memory_kib=1024)
async def beyond_the_window(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await client.public(attacker)
    await client.send(answering(request_id, status_code=200, is_first_chunk=True))
    assert (await public.head()).status == 200
    await client.send(answering(request_id, body=bytes(WINDOW + 1), sequence_number=1))
    await expect_reset(client, request_id, wire.FLOW_CONTROL_ERROR)
    assert await public.ended()
    await lives(attacker, client)


GRANTS = {"once": [2**31], "2^64-1": [2**64 - 1], "twice": [2**30, 2**30], "many": [2**27] * 16}


@attack("Credit above 2^31-1, at once or in steps", "Reset with FLOW_CONTROL_ERROR, 502 for the public")
async def too_much_credit(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await client.public(attacker)
    for grant in attacker.one_of(list(GRANTS.values())):
        await client.send(message(request_id, window_update=wire.WindowUpdate(bytes=grant)))
    await expect_reset(client, request_id, wire.FLOW_CONTROL_ERROR)
    assert (await public.answer()).status == 502
    await lives(attacker, client)


TEXT = "\r\nSet-Cookie: a=b\r\n\r\n<script>\x1b[2J\0" + "x" * 2_000_000


@attack(
    "A Reset that explains itself with lines, markup, escapes and 2 MB",
    "502 as plain text, INTERNAL, 1011, each with a short text in which no line begins",
    memory_kib=12_288,
    cpu_ms=50,
    attackers=6,
)
async def long_explanations(attacker: Attacker) -> None:
    client = await registered(attacker)
    reset = wire.Reset(code=wire.FLOW_CONTROL_ERROR, message=TEXT)
    if attacker.number % 3 == 0:
        public, request_id = await client.public(attacker)
        await client.send(message(request_id, reset=reset))
        got = await public.answer()
        assert got.status == 502
        assert got.head.get("set-cookie") is None
        assert (got.head.get("content-type") or "").startswith("text/plain")
        assert len(got.body) < 2000
    elif attacker.number % 3 == 1:
        channel = [("grpc.default_authority", client.host)]
        stub = await open_channel(attacker.stack, f"{attacker.site.host}:{attacker.site.port}", channel)
        calling = stub.Unary(Note())
        await client.send(message((await client.next("grpc_request")).request_id, reset=reset))
        assert await calling.code() == grpc.StatusCode.INTERNAL
        assert len(await calling.details()) < 2000
    else:
        public, request_id = await upgraded(attacker, client)
        await client.send(message(request_id, reset=reset))
        closed = await read_frame(public)
        assert (closed.opcode, closed.payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))


# -- WebSocket


async def upgraded(attacker: Attacker, client: HostileClient) -> tuple[Peer, str]:
    public = await attacker.connect()
    await ask_upgrade(public, "/", host=client.host)
    request_id = (await client.next("ws_request")).request_id
    await client.send(message(request_id, ws_response=wire.WebSocketResponse(status_code=101, accepted=True)))
    await expect_upgrade(public)
    return public, request_id


BAD_FRAMES: dict[str, dict[str, Any]] = {
    "reserved": {"opcode": 3},
    "reserved control": {"opcode": 11},
    "opcode of 2^32-1": {"opcode": 2**32 - 1},
    "RSV": {"opcode": BINARY, "rsv": 4},
    "continuation of nothing": {"opcode": 0},
    "long ping": {"opcode": 9, "payload": bytes(126)},
    "ping in parts": {"opcode": 9, "fin": False},
    "close of a byte": {"opcode": CLOSE, "payload": b"x"},
    "close 1005": {"opcode": CLOSE, "payload": b"\x03\xed"},
    "lengths": {"opcode": BINARY, "payload": b"xx", "more": True, "payload_length": 1},
    "2^63": {"opcode": BINARY, "payload": b"xx", "more": True, "payload_length": 2**63},
}


@attack(
    "WebSocket frames with reserved opcodes or bits, out of order, with lengths that do not add up",
    "Reset with PROTOCOL_ERROR; the public gets 1002 and nothing of the frame",
    attackers=2 * len(BAD_FRAMES),
)
async def bad_frames(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await upgraded(attacker, client)
    bad = {"fin": True, **attacker.one_of(list(BAD_FRAMES.values()))}
    await client.send(message(request_id, ws_frame=wire.WebSocketFrame(**bad)))
    await expect_reset(client, request_id)
    closed = await read_frame(public)
    assert (closed.opcode, closed.payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))
    assert await public.ended()
    await lives(attacker, client)


@attack("A frame of 2^63-1 bytes that is never completed", "its beginning; cut with the tunnel")
async def endless_frame(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await upgraded(attacker, client)
    part = wire.WebSocketFrame(opcode=BINARY, fin=True, payload=b"part", more=True, payload_length=2**63 - 1)
    await client.send(message(request_id, ws_frame=part))
    head, length, _ = await read_frame_head(public)
    assert (head, length) == (Frame(BINARY, b""), 2**63 - 1)
    assert await public.exactly(4) == b"part"
    await attacker.all_here()
    client.stream.connection.peer.drop()
    assert await public.ended()


# -- floods

FLOOD = 2000


async def flood(client: HostileClient, each: bytes) -> None:
    for _ in range(10):
        await client.send(*[each] * (FLOOD // 10))
    await client.caught_up()


@attack("2,000 heartbeats, whose answers are read", "each is answered", attackers=2, cpu_ms=100)
async def heartbeats(attacker: Attacker) -> None:
    client = await registered(attacker)
    for number in range(10):
        await client.send(*(message(heartbeat=wire.Heartbeat(nonce=number * 200 + one)) for one in range(200)))
    for number in range(FLOOD):
        found = await client.next("heartbeat")
        while not found.heartbeat.reply:
            found = await client.next("heartbeat")
        assert found.heartbeat.nonce == number


@attack("2,000 grants of a byte, and of none, to one request", "taken", attackers=4, cpu_ms=50)
async def grants(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await client.public(attacker)
    await flood(client, message(request_id, window_update=wire.WindowUpdate(bytes=attacker.number % 2)))
    await client.send(whole(request_id))
    assert (await public.answer()).body == b"mine"


@attack("2,000 messages and 2,000 Resets for requests that never were", "Reset once each", attackers=2, cpu_ms=100)
async def strangers(attacker: Attacker) -> None:
    client = await registered(attacker)
    for number in range(FLOOD):
        await client.send(whole(f"no-{number}"), message(f"none-{number}", reset=wire.Reset(code=1)))
    for number in range(FLOOD):
        await expect_reset(client, f"no-{number}")
    await client.caught_up()


@attack("2,000 empty chunks in one answer", "passed on as nothing", attackers=4, cpu_ms=100)
async def empty_chunks(attacker: Attacker) -> None:
    client = await registered(attacker)
    public, request_id = await client.public(attacker)
    await client.send(answering(request_id, status_code=200, is_first_chunk=True))
    for number in range(1, FLOOD):
        await client.send(answering(request_id, sequence_number=number))
    await client.send(answering(request_id, sequence_number=FLOOD, body=b"end", is_last_chunk=True))
    assert (await public.answer()).body == b"end"


@attack("1,000 GoAways, then requests of the public", "503 for its routes", attackers=4, cpu_ms=50)
async def goodbyes(attacker: Attacker) -> None:
    client = await registered(attacker)
    await client.send(*[message(go_away=wire.GoAway())] * 1000)
    await client.caught_up()
    public = await attacker.connect()
    await public.send(request("GET", "/", host=client.host))
    assert (await public.answer()).status == 503


@attack(
    "Registered with a window of 2^32-1 and fragments of one byte, then an upload of 64 KiB",
    "fragments of 1 KiB at least",
    attackers=4,
    cpu_ms=20,
)
async def tiny_fragments(attacker: Attacker) -> None:
    client = await registered(attacker, initial_window=2**32 - 1, max_fragment=1)
    body = bytes(65_536)
    public = await attacker.connect()
    await public.send(request("POST", "/", host=client.host, body=body))
    came, count = 0, 0
    while came < len(body):
        chunk = await client.next("http_request")
        came, count = came + len(chunk.http_request.body), count + 1
    assert count <= 66
    await client.send(whole(chunk.request_id))
    assert (await public.answer()).body == b"mine"
