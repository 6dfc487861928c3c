"""WebSocket: handshakes of a hostile visitor."""

from tests.hostile.attack import Section
from tests.hostile.http1 import NOBODY
from tests.hostile.site import VICTIM, Attacker
from tests.support.frames import KEY, MASK, TEXT, UPGRADE, frame
from tests.support.raw import Peer, answer, request

attack = Section("WebSocket").attack

VERSIONS = [
    ["Sec-WebSocket-Version: 8"],
    ["Sec-WebSocket-Version: 1337"],
    ["Sec-WebSocket-Version: 013"],
    ["Sec-WebSocket-Version: 13, 8"],
    ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
    ["Sec-WebSocket-Version:"],
    [],
]


@attack(
    "handshakes of another version, of several, of none (smuggling by Sec-WebSocket-Version: 1337)",
    "426 with the version that is spoken; the backend never hears of them, what follows is parsed as HTTP",
    attackers=len(VERSIONS),
)
async def versions(attacker: Attacker) -> None:
    public = await attacker.connect()
    got = await public.ask(request("GET", "/", *UPGRADE[:2], *attacker.one_of(VERSIONS), UPGRADE[3], host=VICTIM))
    assert (got.status, got.head.get("sec-websocket-version")) == (426, "13")
    got = await public.ask(frame(TEXT, b"hi", mask=MASK) + b"\r\n\r\n")
    assert got.status == 400
    assert await public.ended()
    assert attacker.victim.connections == 0


KEYS = [
    [],
    ["Sec-WebSocket-Key:"],
    ["Sec-WebSocket-Key: short"],
    ["Sec-WebSocket-Key: " + "?" * 24],
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ="],
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=a"],
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWVl"],
    ["Sec-WebSocket-Key: " + "a" * 60_000],
    [f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"],
    [f"Sec-WebSocket-Key: {KEY}, {KEY}"],
]


@attack(
    "handshakes with a key that is missing, too short or long, no base64, twice",
    "400; the backend never hears of them",
    attackers=len(KEYS),
)
async def keys(attacker: Attacker) -> None:
    public = await attacker.connect()
    got = await public.ask(request("GET", "/", *UPGRADE[:3], *attacker.one_of(KEYS), host=VICTIM))
    assert got.status == 400
    assert attacker.victim.connections == 0


WITH_BODIES = [
    request("GET", "/", *UPGRADE, host=VICTIM, body=b"extra"),
    request("GET", "/", *UPGRADE, "Transfer-Encoding: chunked", host=VICTIM) + b"0\r\n\r\n",
    request("GET", "/", *UPGRADE, "Sec-WebSocket-Protocol: \xff", host=VICTIM),
    request("GET", "/", *UPGRADE, "Sec-WebSocket-Protocol: a\rb", host=VICTIM),
    request("GET", "/", *UPGRADE, host=f"{VICTIM}\0"),
]


@attack(
    "handshakes with a body, with bytes in Sec-WebSocket-Protocol that are no text",
    "400, closed; the backend never hears of them",
    attackers=len(WITH_BODIES),
)
async def bad_handshakes(attacker: Attacker) -> None:
    public = await attacker.connect()
    got = await public.ask(attacker.one_of(WITH_BODIES))
    assert (got.status, got.head.get("connection")) == (400, "close")
    assert await public.ended()
    assert attacker.victim.connections == 0


NO_HANDSHAKES = {
    "no Upgrade": ("GET", UPGRADE[0], *UPGRADE[2:]),
    "no Connection": ("GET", *UPGRADE[1:]),
    "another option": ("GET", "Connection: Upgrades", *UPGRADE[1:]),
    "another protocol": ("GET", UPGRADE[0], "Upgrade: websockets", *UPGRADE[2:]),
    "two protocols": ("GET", UPGRADE[0], "Upgrade: websocket, h2c", *UPGRADE[2:]),
    "POST": ("POST", *UPGRADE),
    "HEAD": ("HEAD", *UPGRADE),
    "OPTIONS": ("OPTIONS", *UPGRADE),
}


@attack(
    "handshakes without an Upgrade or Connection token, of another method, in HTTP/1.0",
    "plain HTTP at the backend, without Upgrade; what follows is parsed as HTTP",
    attackers=len(NO_HANDSHAKES) + 1,
)
async def no_handshakes(attacker: Attacker) -> None:
    if old := attacker.number == len(NO_HANDSHAKES):
        method, *fields = "GET", *UPGRADE
    else:
        method, *fields = attacker.one_of(list(NO_HANDSHAKES.values()))
    data = request(method, attacker.target, *fields, host=VICTIM)
    public, backend, head = await attacker.pass_on(data.replace(b"HTTP/1.1", b"HTTP/1.0" if old else b"HTTP/1.1"))
    assert head.start == f"{method} {attacker.target} HTTP/1.1"
    assert (head.get("upgrade"), head.get("connection")) == (None, None)
    await backend.send(answer("200 OK", "Connection: close"))
    assert (await public.answer(method)).status == 200
    if not old:
        assert (await public.ask(frame(TEXT, b"hi", mask=MASK) + b"\r\n\r\n")).status == 400
    assert await public.ended()


@attack(
    "a page of another site opens a WebSocket (CSWSH)", "Origin and cookies are passed on, for the backend to judge"
)
async def origins(attacker: Attacker) -> None:
    fields = ["Origin: https://evil.example", "Cookie: session=1"]
    public, backend, head = await attacker.pass_on(request("GET", attacker.target, *UPGRADE, *fields, host=VICTIM))
    assert (head.get("origin"), head.get("cookie")) == ("https://evil.example", "session=1")
    await served_refusal(public, backend)


async def served_refusal(public: Peer, backend: Peer) -> None:
    await backend.send(answer("403 Forbidden", "Connection: close"))
    assert (await public.answer()).status == 403


@attack(
    "requests and frames right behind a handshake that the backend refuses",
    "its refusal, whole; a request behind it is a request, a frame is 400",
)
async def eager(attacker: Attacker) -> None:
    handshake = request("GET", attacker.target, *UPGRADE, host=VICTIM)
    behind = [frame(TEXT, b"hi", mask=MASK) + b"\r\n\r\n", request("GET", "/", host=NOBODY)]
    public, backend, _ = await attacker.pass_on(handshake + attacker.one_of(behind))
    await served_refusal(public, backend)
    assert (await public.answer()).status == attacker.one_of([400, 404])


@attack(
    "64 handshakes that the backend does not answer, all at once, whose visitors go",
    "the backend sees each end",
    attackers=64,
)
async def abandoned(attacker: Attacker) -> None:
    handshake = request("GET", attacker.target, *UPGRADE, host=VICTIM)
    public, backend, _ = await attacker.pass_on(handshake)
    await attacker.all_here()
    public.drop()
    assert await backend.ended()
