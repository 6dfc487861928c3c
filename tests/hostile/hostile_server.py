"""A hostile server, which a client dials: it may say anything, and reach only what the client's configuration names."""

import os
from typing import Any

from fasttunnel.wire import tunnel_pb2 as wire
from tests.hostile.attack import Section
from tests.hostile.false_server import PLAYED, Line
from tests.hostile.http2 import GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame
from tests.hostile.site import VICTIM, Attacker
from tests.hostile.tunnel_client import BAD_FRAMES, FLOOD, WINDOW
from tests.hostile.tunnel_port import CLIENT_HELLO, MALFORMED
from tests.hostile.tunnels import message
from tests.support.frames import accept_key
from tests.support.raw import Head, Peer
from tests.support.stock import fields

SHARED: dict[str, Any] = {"together": False, "attackers": 8}  # the client dials one tunnel for them, again and again
attack = Section("A hostile server", server=PLAYED, client=()).attack


async def tunnel(attacker: Attacker, **registered: Any) -> Line:
    """A tunnel that is up; when the attacker goes, so does it."""
    line: Line = await attacker.site.played.dialled()
    attacker.stack.callback(line.peer.drop)
    line.accept(**registered)
    return line


async def comes_back(attacker: Attacker) -> None:
    """The client dials again, and serves."""
    await lives(await tunnel(attacker))


def get(**values: Any) -> wire.HttpRequest:
    usual = {"method": "GET", "url": "/", "host": VICTIM, "scheme": "http", "is_first_chunk": True}
    return wire.HttpRequest(**{**usual, **values})


async def lives(line: Line) -> None:
    """The same tunnel carries another request: to no backend, for that takes the least."""
    await line.ask("lives", http_request=get(host="nobody.example", is_last_chunk=True))
    assert (await line.next("reset", request_id="lives")).reset.code == wire.NO_ROUTE


async def expect_reset(line: Line, request_id: str, code: int = wire.PROTOCOL_ERROR) -> None:
    found = await line.next("reset", "http_response", "grpc_response", "ws_response", request_id=request_id)
    assert (found.WhichOneof("payload"), found.reset.code) == ("reset", code), found


async def asked(attacker: Attacker, line: Line, **values: Any) -> tuple[Peer, Head]:
    """A request that has come to the victim."""
    await line.ask("r", http_request=get(url=attacker.target, **values))
    return await attacker.victim.asked(attacker.target)


# -- whom it reaches

ELSEWHERE: dict[str, dict[str, Any]] = {
    "loopback": {"host": "127.0.0.1:22"},
    "metadata of a cloud": {"host": "169.254.169.254", "url": "/latest/meta-data/"},
    "IPv6": {"host": "[::1]:80"},
    "no host": {"host": ""},
    "a suffix": {"host": f"x.{VICTIM}"},
    "a user": {"host": f"{VICTIM}@internal.example"},
    "an absolute target": {"url": "http://169.254.169.254/"},
    "an authority": {"url": "169.254.169.254:80", "method": "CONNECT"},
    "two slashes, and a line": {"url": "//internal.example/ HTTP/1.1\r\nHost: internal.example\r\n\r\n"},
    "a socket": {"host": "unix:/run/docker.sock"},
}


@attack(
    "Requests for hosts that the configuration does not name: loopback, link-local, by absolute target, CONNECT",
    "Reset; no backend gets a byte",
    **{**SHARED, "attackers": len(ELSEWHERE)},
)
async def elsewhere(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    await line.ask("r", http_request=get(is_last_chunk=True, **attacker.one_of(list(ELSEWHERE.values()))))
    found = await line.next("reset", "http_response", request_id="r")
    assert found.reset.code in (wire.NO_ROUTE, wire.PROTOCOL_ERROR), found
    await lives(line)
    assert not attacker.victim.heads  # one may have been connected to, in vain


@attack(
    "A Registered that grants routes and names URLs of other machines, then requests for these",
    "Reset with NO_ROUTE",
    **SHARED,
)
async def granted(attacker: Attacker) -> None:
    routes = [wire.Route(host="internal.example", host_rewrite="169.254.169.254")]
    line = await tunnel(attacker, routes=routes, urls=["http://169.254.169.254/"])
    await line.ask("r", http_request=get(host="internal.example", is_last_chunk=True))
    await expect_reset(line, "r", wire.NO_ROUTE)
    await lives(line)


SMUGGLED: dict[str, dict[str, Any]] = {
    "method": {"method": "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"},
    "method with a space": {"method": "GET /secret"},
    "target": {"url": "/ HTTP/1.1\r\nX: y"},
    "target with a space": {"url": "/a b"},
    "host": {"host": f"{VICTIM}\r\nX: y"},
    "value": {"headers": fields(("X", "a\r\nY: b"))},
    "name": {"headers": fields(("X: y\r\nZ", "a"))},
    "NUL": {"headers": fields(("X", "a\0b"))},
    "two lengths": {"headers": fields(("Content-Length", "1"), ("Content-Length", "2")), "method": "POST"},
    "a length of +1": {"headers": fields(("Content-Length", "+1")), "method": "POST"},
}


@attack(
    "Requests that would write lines of their own to the backend: in method, target, host, names and values, lengths",
    "Reset; the backend gets no byte",
    **{**SHARED, "attackers": len(SMUGGLED)},
)
async def smuggled(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    await line.ask("r", http_request=get(is_last_chunk=True, **attacker.one_of(list(SMUGGLED.values()))))
    found = await line.next("reset", "http_response", request_id="r")
    assert found.reset.code in (wire.NO_ROUTE, wire.PROTOCOL_ERROR), found
    await lives(line)
    assert not attacker.victim.heads


@attack(
    "A transfer coding, a hop-by-hop field, an upgrade in the fields of a request",
    "taken away: the backend gets one request, framed by us",
    **SHARED,
)
async def hops(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    hop = fields(("Transfer-Encoding", "chunked, identity"), ("Connection", "X-Inner, close"), ("X-Inner", "a"))
    hop += fields(("Keep-Alive", "1"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA"), ("Proxy-Connection", "x"))
    await line.ask("r", http_request=get(url=attacker.target, headers=hop, is_last_chunk=True))
    _, head = await attacker.victim.asked(attacker.target)
    for name in ("transfer-encoding", "connection", "keep-alive", "upgrade", "proxy-connection"):
        assert head.get(name) is None, head


# -- requests that break the contract

BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "the same id again": {"http_request": get(sequence_number=1)},
    "a gap": {"http_request": wire.HttpRequest(body=b"x", sequence_number=2)},
    "a repeat": {"http_request": wire.HttpRequest(body=b"x")},
    "an answer": {"http_response": wire.HttpResponse(status_code=200, is_first_chunk=True)},
    "a call": {"grpc_request": wire.GrpcRequest(sequence_number=1, body=b"x")},
    "a frame": {"ws_frame": wire.WebSocketFrame(fin=True, opcode=2)},
    "a handshake": {"ws_request": wire.WebSocketRequest(url="/", host=VICTIM)},
}


@attack(
    "The id of a request that is under way used again, gaps, repeats, messages of other kinds",
    "Reset with PROTOCOL_ERROR; the backend's connection ends",
    **SHARED,
)
async def bad_requests(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    backend, _ = await asked(attacker, line, method="POST")
    await line.ask("r", **attacker.one_of(list(BAD_REQUESTS.values())))
    await expect_reset(line, "r")
    assert await backend.ended()
    await lives(line)


@attack(
    "A body beyond the window",
    "Reset with FLOW_CONTROL_ERROR; the backend's connection ends",
    memory_kib=1024,
    **SHARED,
)
async def beyond_the_window(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    backend, _ = await asked(attacker, line, method="POST")
    await line.ask("r", http_request=wire.HttpRequest(body=bytes(WINDOW + 1), sequence_number=1))
    await expect_reset(line, "r", wire.FLOW_CONTROL_ERROR)
    await backend.ended()
    await lives(line)


@attack(
    "WebSocket frames with reserved opcodes or bits, out of order, with lengths that do not add up",
    "Reset with PROTOCOL_ERROR; the backend gets nothing of them",
    **{**SHARED, "attackers": len(BAD_FRAMES)},
)
async def bad_frames(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    await line.ask("w", ws_request=wire.WebSocketRequest(url=attacker.target, host=VICTIM))
    backend, head = await attacker.victim.asked(attacker.target)
    accept = accept_key(head.get("sec-websocket-key") or "")
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    await backend.send("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}"]) + "\r\n\r\n")
    assert (await line.next("ws_response")).ws_response.accepted
    bad = {"fin": True, "masked": True, **attacker.one_of(list(BAD_FRAMES.values()))}
    await line.ask("w", ws_frame=wire.WebSocketFrame(**bad))
    await expect_reset(line, "w")
    assert await backend.ended()
    await lives(line)


@attack(
    "100 requests held on one tunnel, which is then cut",
    "their backend connections end",
    cpu_ms=150,
    memory_kib=512,
    **{**SHARED, "attackers": 2},
)
async def many_requests(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    for number in range(100):
        await line.ask(f"r-{number}", http_request=get(url=f"/{attacker.number}/{number}", is_last_chunk=True))
    backends = [(await attacker.victim.asked(f"/{attacker.number}/{number}"))[0] for number in range(100)]
    line.peer.drop()
    for backend in backends:
        assert await backend.ended()


# -- the tunnel itself


@attack(
    "A TunnelMessage that is none: all those of the tunnel port",
    "the tunnel ends, and is dialled again",
    memory_kib=4096,
    cpu_ms=25,
    **{**SHARED, "attackers": len(MALFORMED)},
)
async def malformed(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    await line.send(attacker.one_of(list(MALFORMED.values())))
    await line.ended()
    await attacker.site.played.dialled_again()


GARBAGE = {
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "TLS": CLIENT_HELLO,
    "noise": os.urandom(4096),
    "HEADERS first": frame(HEADERS, b"\x88", flags=4, stream=1),
    "SETTINGS too long": frame(SETTINGS, bytes(7)),
    "GOAWAY": frame(SETTINGS) + frame(GOAWAY, bytes(8)),
    "reset": frame(SETTINGS) + frame(RST_STREAM, bytes(4), stream=1) * 2,
    "a frame of 16 MiB": frame(SETTINGS, length=2**24 - 1),
}


@attack(
    "No HTTP/2, frames that are none, GOAWAY, resets, an end at once",
    "the client dials again",
    **{**SHARED, "attackers": len(GARBAGE) + 1},
)
async def garbage(attacker: Attacker) -> None:
    peer = await attacker.site.played.raw()
    await peer.send([*GARBAGE.values(), b""][attacker.number % (len(GARBAGE) + 1)])
    peer.writer.close()
    await comes_back(attacker)


REGISTERED: dict[str, dict[str, Any]] = {
    "window of 1": {"initial_window": 1},
    "window of 2^32-1": {"initial_window": 2**32 - 1},
    "a heartbeat a millisecond": {"heartbeat_interval_ms": 1},
    "a heartbeat in 49 days": {"heartbeat_interval_ms": 2**32 - 1},
    "client_id of 1 MB": {"client_id": "x" * 2**20},
    "client_id with a line": {"client_id": "a\nb"},
    "URLs with escapes": {"urls": ["\x1b[2Jhttp://a\r\n  public  http://forged.example"] * 4},
    "1,000,000 URLs": {"urls": [""] * 1_000_000},
}


@attack(
    "A Registered with a window of 1 or 2^32-1, a heartbeat a millisecond, a name of 1 MB, a million URLs, escapes",
    "taken within bounds; the name is not, and no line of the log is forged",
    memory_kib=24_576,
    cpu_ms=200,
    **SHARED,
)
async def registered(attacker: Attacker) -> None:
    line = await tunnel(attacker, **attacker.one_of(list(REGISTERED.values())))
    await lives(line)
    line.peer.drop()
    again = await attacker.site.played.dialled()
    attacker.stack.callback(again.peer.drop)
    assert not [text for text in attacker.site.lines if "\x1b" in text or text.startswith("  public")]


@attack("A second Registered, and a Register", "passed over", **SHARED)
async def registered_twice(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    await line.send(message(registered=wire.Registered(session_id="t", client_id="other")))
    await line.send(message(register=wire.Register(version=1, routes=[wire.Route()])))
    await lives(line)


@attack("Fragments of one byte wanted, then an answer of 64 KiB", "fragments of 1 KiB at least", cpu_ms=20, **SHARED)
async def tiny_fragments(attacker: Attacker) -> None:
    line = await tunnel(attacker, max_fragment=1)
    backend, _ = await asked(attacker, line, is_last_chunk=True)
    await backend.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 65536\r\n\r\n" + bytes(65_536))
    came, count = 0, 0
    while came < 65_536:
        came += len((await line.next("http_response", request_id="r")).http_response.body)
        count += 1
    assert count <= 140  # the backend's bytes come in reads of any length
    await lives(line)


@attack(
    "A GoAway that asks for 49 days of pause, with escapes and lines in its reason",
    "the client is back after its own longest pause; no line of the log is forged",
    cpu_ms=20,
    **SHARED,
)
async def stay_away(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    await line.send(message(go_away=wire.GoAway(reason="\x1b[2J\n  public  forged" * 1000, retry_ms=2**32 - 1)))
    await comes_back(attacker)
    assert not [
        text for text in attacker.site.lines if "\x1b" in text or text.startswith("  public") or len(text) > 4000
    ]


@attack("Trailers with lines and escapes in the status text, a status that is none", "the client dials again", **SHARED)
async def bad_trailers(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    status = attacker.one_of(["14", "99", "-1", "x", "", "1" * 1000])
    text = "%1B[2J%0A%0A  public  forged" + "%"
    line.protocol.send_headers(line.stream, [("grpc-status", status), ("grpc-message", text)], end_stream=True)
    line.write()
    await attacker.site.played.dialled_again()
    assert not [text for text in attacker.site.lines if "\x1b" in text or text.startswith("  public")]


@attack(
    "2,000 heartbeats, 2,000 Resets and 2,000 grants for nobody",
    "answered; passed over",
    cpu_ms=100,
    **{**SHARED, "attackers": 2},
)
async def floods(attacker: Attacker) -> None:
    line = await tunnel(attacker)
    reset = message("nobody", reset=wire.Reset(code=1)), message("nobody", window_update=wire.WindowUpdate(bytes=1))
    for _ in range(10):
        await line.send(*[message(heartbeat=wire.Heartbeat(nonce=1)), *reset] * (FLOOD // 10))
    await line.caught_up()
    await lives(line)
