"""TLS that is anything: to both ports of our server, and to our client from its server and its backends.

An input is a row of records, which are sent as they are. Three types that TLS does not have are steps of a peer that
does it right, Python's ssl; what stands in place of their version says what becomes of its records on the way.
"""

import asyncio
import contextlib
import gc
import hashlib
import random
import ssl
import sys
from typing import Any

import fasttunnel
from fasttunnel.engine._tls import TlsContext
from fasttunnel.errors import FasttunnelError
from tests.fuzz.mutate import PREFACE, cut, mend_tls_record, tls_records
from tests.fuzz.stage import CANARY_HOST, GRPC_MESSAGES, PAUSES, Line, Stage, sound_answers, sound_http2
from tests.fuzz.streams import Backend, BackendHttp2, Hostile, grpc_answer, grpc_call, head_of
from tests.fuzz.target import Finding, Target
from tests.fuzz.tunnels import ACCEPTING, LATER_S, OPENING
from tests.support.certificates import HERE, authority, here
from tests.support.frames import UPGRADE
from tests.support.raw import answer, request
from tests.support.tunnel import start_server

CHANGE, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23  # types of records
SHAKE, SEAL, BYE = STEPS = (0xF0, 0xF1, 0xF2)
HELD = 15  # a change: sent behind what comes next
ANSWER_S = 0.02  # that a flight of the handshake is waited for
LONGEST = 2**14 + 256  # RFC 8446 5.2


def step(kind: int, body: bytes = b"", how: int = 0, where: int = 0) -> bytes:
    return bytes([kind, how, where]) + len(body).to_bytes(2, "big") + body


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


def sized(body: bytes, width: int = 2) -> bytes:
    return len(body).to_bytes(width, "big") + body


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + sized(body)


def said(kind: int, body: bytes) -> bytes:
    """A message of the handshake, in a record."""
    return record(HANDSHAKE, bytes([kind]) + sized(body, 3))


RANDOM = bytes(range(32))
SHARE = bytes.fromhex("001d") + sized(b"\x09" + bytes(31))  # of x25519
NAMED = extension(0, sized(b"\0" + sized(b"localhost")))
OFFERED = extension(16, sized(b"\2h2\x08http/1.1"))
USUAL = extension(10, sized(bytes.fromhex("001d0017"))) + extension(13, sized(bytes.fromhex("040308040401")))
NEWEST = extension(43, b"\4\3\4\3\3") + extension(51, sized(SHARE)) + extension(45, b"\1\1")
OLDER = extension(11, b"\1\0") + extension(23, b"") + extension(35, b"") + extension(0xFF01, b"\0")


def client_hello(extensions: bytes, ciphers: str = "13011303c02bc02f") -> bytes:
    hello = b"\3\3" + RANDOM + sized(RANDOM, 1) + sized(bytes.fromhex(ciphers)) + b"\1\0" + sized(extensions)
    return said(1, hello)


def server_hello(extensions: bytes, cipher: str, random_bytes: bytes = RANDOM) -> bytes:
    return said(2, b"\3\3" + random_bytes + b"\0" + bytes.fromhex(cipher) + b"\0" + sized(extensions))


RETRY = hashlib.sha256(b"HelloRetryRequest").digest()
HELLOS = [client_hello(NAMED + USUAL + OFFERED + NEWEST), client_hello(NAMED + USUAL + OFFERED + OLDER)]
ANSWERS = [
    server_hello(extension(43, b"\3\4") + extension(51, SHARE), "1301"),
    server_hello(extension(43, b"\3\4") + extension(51, b"\0\x17"), "1301", RETRY),
    server_hello(extension(0xFF01, b"\0") + extension(16, sized(b"\2h2")), "c02b"),
]
TOKENS = [
    record(ALERT, b"\2\x28"),
    record(ALERT, b"\1\0"),
    record(ALERT, b"\1\x5a"),
    record(CHANGE, b"\1"),
    record(HANDSHAKE, b""),
    record(DATA, b""),
    said(0, b""),  # HelloRequest
    said(4, bytes(10)),  # NewSessionTicket
    said(24, b"\1"),  # KeyUpdate
    b"GET / HTTP/1.1\r\n\r\n",
    PREFACE,
    step(SHAKE),
    step(SEAL, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    step(SEAL, bytes(16_384)),
    step(BYE),
]


class Right:
    """One end of TLS by Python's ssl, on a connection whose bytes are seen."""

    def __init__(self, line: Line, context: ssl.SSLContext, name: str | None = None) -> None:
        self.line = line
        self.plain = bytearray()
        self._up = False
        self._fed = 0
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)

    def take(self, kind: int, body: bytes) -> bytes:
        """What it sends in this step."""
        self.read()
        with contextlib.suppress(ssl.SSLError):  # also when it has to wait
            if not self._up:
                self._tls.do_handshake()
                self._up = True
            if kind == SEAL:
                self._tls.write(body)
            elif kind == BYE:
                self._tls.unwrap()
        return self._out.read()

    def read(self) -> bytes:
        """All that it has got."""
        self._in.write(self.line.data[self._fed :])
        self._fed = len(self.line.data)
        with contextlib.suppress(ssl.SSLError):
            while self._up and (more := self._tls.read(65_536)):
                self.plain += more
        return bytes(self.plain)


def spoilt(chance: random.Random, sent: bytes, how: int, where: int, body: bytes) -> bytes:
    """Records with a change in one of them, or in their row."""
    records = tls_records(sent)
    if not records or not how:
        return sent
    at = where % len(records)
    one = bytearray(records[at])
    place = chance.randrange(len(one))
    match how:
        case 1:
            one[place] ^= 1 << where % 8
        case 2:
            del one[place:]
        case 3:
            one[place:place] = body
        case 4:
            one = bytearray(mend_tls_record(bytes(one[:place] + body + one[place:])))
        case 5:
            one[place : place + len(body)] = body
        case 6:
            one *= 2
        case 7:
            one.clear()
        case 8:  # in small ones: allowed within a handshake, never behind it
            size = where % 40 + 1
            parts = [one[start : start + size] for start in range(5, len(one), size)]
            one = bytearray(b"".join(bytes(one[:3]) + sized(bytes(part)) for part in parts))
        case 9:
            one[3:5] = (len(one) + where - 128 & 0xFFFF).to_bytes(2, "big")
        case 10:
            one[0] = where
        case 11:
            one[1:3] = chance.randbytes(2)
        case 12:
            records.reverse()
            return b"".join(records)
        case 13:  # as one
            return record(records[at][0], b"".join(each[5:] for each in records))
        case 14:
            one += chance.choice(TOKENS)
    records[at] = bytes(one)
    return b"".join(records)


class Bystander:
    """Somebody else's TLS in this thread, by Python's ssl: nothing of ours may be taken for an error of its."""

    def __init__(self) -> None:
        accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        accepting.load_cert_chain(here().cert, here().key)
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._one = authority().context().wrap_bio(down, up, server_hostname="localhost")
        other = accepting.wrap_bio(up, down, server_side=True)
        for end in (self._one, other, self._one, other):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
        self.check()

    def check(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._one.read()


async def perform(chance: random.Random, data: bytes, right: Right, bystander: Bystander) -> None:
    line, held = right.line, b""
    for each in tls_records(data):
        bystander.check()
        if line.closed:
            break
        sent, how = each, 0
        if each[0] in STEPS and len(each) >= 5:
            how = each[1] % 16
            sent = spoilt(chance, right.take(each[0], each[5:]), how, each[2], each[5:])
        if how == HELD:
            held += sent
            continue
        had = len(line.data)
        await line.send_parts(chance, cut(chance, sent))
        line.send(held)
        held = b""
        if sent and each[0] in STEPS:
            patience = ANSWER_S if each[0] == SHAKE else chance.choice((0, 0.002))
            await line.until(lambda had=had: len(line.data) > had, patience)
    line.send(held)


def sound_records(data: bytes) -> None:
    """What an engine writes is whole records, or one answer for who has not spoken TLS at all."""
    for each in tls_records(data):
        if each.startswith(b"HTTP/"):
            sound_answers(data[data.index(b"HTTP/1.1 400 ") :], ["GET"])
            return
        size = int.from_bytes(each[3:5], "big")
        if each[0] not in (CHANGE, ALERT, HANDSHAKE, DATA) or each[1] != 3 or size > LONGEST:
            raise Finding(f"a record {each[:5]!r}")


def usual(context: ssl.SSLContext, version: ssl.TLSVersion, protocols: list[str]) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
PROTOCOLS = (["h2"], ["h2", "http/1.1"], ["http/1.1"], [])


def visitors() -> list[ssl.SSLContext]:
    """Of peers that dial, half of them with a certificate, which the tunnel's port asks for."""
    found = []
    for version in VERSIONS:
        for protocols in PROTOCOLS:
            for issued in (None, authority("clients").issue("alice"), authority("strangers").issue("alice")):
                context = usual(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version, protocols)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                if issued is not None:
                    context.load_cert_chain(issued.cert, issued.key)
                found.append(context)
    return found


def hosts() -> list[ssl.SSLContext]:
    """Of peers that are dialled: most are who they should be, some ask for a certificate."""
    found = []
    for version in VERSIONS:
        for protocols in PROTOCOLS:
            for issued in (here(), here(), here(), authority("strangers").issue("here", *HERE)):
                context = usual(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version, protocols)
                context.load_cert_chain(issued.cert, issued.key)
                context.load_verify_locations(authority("clients").ca)
                context.verify_mode = (ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED)[len(found) % 3]
                found.append(context)
    return found


class Secured(Stage):
    """Sockets hold their context, and so does TLS of each: all have let it go when nothing is under way."""

    split, mend, tokens = tls_records, mend_tls_record, TOKENS

    async def _open(self) -> None:
        await super()._open()
        await self.sing()
        self.bystander = Bystander()
        gc.collect()  # of what other tests have left nothing counts
        self._contexts = [each for each in gc.get_objects() if type(each) is TlsContext]
        self._held = self.held()

    def held(self) -> int:
        return sum(sys.getrefcount(each) for each in self._contexts)

    async def settle(self) -> None:
        self.bystander.check()
        await super().settle()
        await self.eventually(self._let_go, lambda: f"{self.held() - self._held} sockets or their TLS are left")

    def _let_go(self) -> bool:
        if self.held() > self._held:
            gc.collect()  # what is in a cycle may wait long for its collection, among the objects of a whole suite
        return self.held() <= self._held


CERTIFIED = {"cert": here().cert, "key": here().key}
TRUSTING = {"ca": authority().ca}


class TlsServer(Secured):
    """Whoever connects to the public port or to that of the tunnel, by TLS or not."""

    name = "tls-server"

    def seeds(self) -> list[bytes]:
        get, post = request("GET", "/a"), request("POST", "/p", body=b"hello" * 500)
        upgrade = request("GET", "/chat", *UPGRADE)
        stands = step(SHAKE) * 2
        return [
            stands + step(SEAL, get) + step(BYE),
            stands + step(SEAL, post[:30]) + step(SEAL, post[30:]) + step(SEAL, get),
            step(SHAKE) * 3 + step(SEAL, grpc_call()) + step(BYE) + step(SEAL, get),
            stands + step(SEAL, upgrade),
            stands + step(SEAL, OPENING),
            stands + step(SEAL, OPENING) + step(BYE),
            stands + step(SEAL, get, how=1) + step(SEAL, get),
            stands + step(SEAL, get[:10], how=HELD) + step(SEAL, get[10:]),
            stands + step(SEAL, get) * 2 + record(ALERT, b"\1\0"),
            step(SHAKE, how=8, where=7) * 2 + step(SEAL, get, how=8, where=3),
            step(SHAKE) + step(BYE) + step(SHAKE),
            step(SHAKE) + step(SHAKE, how=1, where=3) + step(SEAL, get),
            step(SHAKE) + record(ALERT, b"\2\x30"),
            stands + step(SHAKE) + said(0, b"") + step(SEAL, get),
            *HELLOS,
            HELLOS[0] * 2,
            HELLOS[0][:60],
            HELLOS[1] + said(16, sized(bytes(32), 1)) + record(CHANGE, b"\1") + record(HANDSHAKE, bytes(40)),
            record(ALERT, b"\2\x46"),
            get,
            PREFACE,
            OPENING,
            bytes(300),
        ]

    async def start(self) -> None:
        other = authority().issue("second", "second.example", "*.second.example")
        options = {"cert": [here().cert, other.cert], "key": [here().key, other.key]}
        options |= {"client_ca": authority("clients").ca, "engine": self.engine, "heartbeat_interval_s": 600}
        self.server = await start_server(self._stack, self.events, **options)
        own = authority("clients").issue("client")
        routes = [*await self.routes(), f"{CANARY_HOST}=http://{self.canary_address}"]
        self.client = await self.dial(self.server.tunnel, routes, cert=own.cert, key=own.key, **TRUSTING)
        self._trusting = authority().context()
        self._visitors = visitors()

    async def public(self) -> Line:
        return await self.connect(*self.server.address, self._trusting)

    async def play(self, chance: random.Random, data: bytes) -> None:
        self.warns = chance.random() < 0.4  # it is the tunnel's port, whose peers are worth a warning
        host, _, port = self.server.tunnel.rpartition(":")
        line = await self.connect(*((host, int(port)) if self.warns else self.server.address))
        right = Right(line, chance.choice(self._visitors), chance.choice(("localhost", "a.second.example", None)))
        await perform(chance, data, right, self.bystander)
        way = chance.choice((0, 1, 1, 1, 2, 3, 3, 3))
        line.end(way)
        if way in (1, 3):
            await line.until(lambda: False, chance.choice((0.001, 0.01)))
        self.bystander.check()
        sound_records(bytes(line.data))
        plain = right.read()
        if plain[:4] != b"HTTP":
            sound_http2(plain)
        elif b"HEAD" not in data:
            sound_answers(plain)

    async def settle(self) -> None:
        await super().settle()
        await self.eventually(
            lambda: self.server.status()["connections"] <= 2, lambda: f"connections are left: {self.server.status()}"
        )


class Dialled(Line):
    """What our client has dialled as its server: it waits until an input has a use for it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        assert isinstance(self._stage, TlsClient)
        self._stage.dialled = self


class TlsClient(Secured, Backend):
    """Our client, and a backend or a server that it dials by TLS."""

    name = "tls-client"
    warns = True
    dialled: Dialled | None = None
    calls = grpc_call()

    def seeds(self) -> list[bytes]:
        stands = step(SHAKE) * 2
        called = grpc_answer([head_of(200), GRPC_MESSAGES, [("grpc-status", "0")]])
        answered = answer("200 OK", "X-A: b", body=b"hello")
        forever = b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
        return [
            stands + step(SEAL, answered) + step(BYE),
            stands + step(SEAL, answered[:20]) + step(SEAL, answered[20:]),
            stands + step(SEAL, forever) + step(BYE),
            stands + step(SEAL, forever) + record(ALERT, b"\1\0"),
            stands + step(SEAL, called),
            stands + step(SEAL, BackendHttp2().seeds()[1]) + step(BYE),
            stands + step(SEAL, ACCEPTING),
            stands + step(SEAL, ACCEPTING, how=HELD) + step(SEAL, ACCEPTING),
            stands + step(SEAL, answered, how=1),
            stands + step(SEAL, answered, how=2),
            step(SHAKE, how=8, where=30) + step(SHAKE) + step(SEAL, answered),
            step(SHAKE, how=12) + step(SHAKE),
            step(SHAKE, how=1, where=1) + step(SHAKE) + step(SEAL, called),
            step(SHAKE, how=13) + step(BYE),
            step(SHAKE, how=HELD) + step(SEAL, answered) + step(SHAKE),
            *ANSWERS,
            ANSWERS[1] * 2,
            ANSWERS[2] + said(11, sized(b"", 3)) + said(14, b""),
            record(ALERT, b"\2\x28"),
            said(0, b"") + step(SHAKE) * 2,
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            bytes(300),
        ]

    async def start(self) -> None:
        options = {**CERTIFIED, "tls": "tunnel", "engine": self.engine, "heartbeat_interval_s": 600}
        self.server = await start_server(self._stack, self.events, **options)
        routes = [*await self.routes(), f"{CANARY_HOST}=http://{self.canary_address}"]
        self.client = await self.dial(self.server.tunnel, routes, backend_ca=authority().ca, **TRUSTING)
        self._hosts = hosts()
        self._address = await self.listen(Dialled)
        self._begin()
        self._stack.push_async_callback(self._leave)

    async def routes(self) -> list[str]:
        return [f"https://{await self.listen(Hostile)}", f"grpcs://{await self.listen(Hostile)}"]

    def _begin(self) -> None:
        """Another client, which dials the input."""
        own = authority("clients").issue("client")
        options: dict[str, Any] = {"cert": own.cert, "key": own.key, "engine": self.engine, **TRUSTING, **PAUSES}
        routes = [f"http://{self.canary_address}"]
        self._dialler = fasttunnel.Client(self._address, routes, events=self.client_events, **options)
        self._starting = asyncio.ensure_future(self._dialler.start())

    async def _leave(self) -> None:
        self._starting.cancel()
        await asyncio.gather(self._starting, return_exceptions=True)
        with contextlib.suppress(FasttunnelError):
            async with asyncio.timeout(10):
                await self._dialler.stop(0)

    def keeps(self, line: Line) -> bool:
        return super().keeps(line) or line is self.dialled

    def asked(self, line: Line) -> bool:
        return bool(line.data)

    async def reply_to(self, line: Line) -> None:
        await perform(self.dice, self.data, Right(line, self.dice.choice(self._hosts)), self.bystander)
        line.end(self.way)
        sound_records(bytes(line.data))

    def question(self, chance: random.Random) -> tuple[bytes, list[str]]:
        return (self.calls, []) if chance.random() < 0.4 else super().question(chance)

    def look(self, got: bytes, methods: list[str]) -> None:
        if methods:
            sound_answers(got, methods)
        else:
            sound_http2(got)

    async def play(self, chance: random.Random, data: bytes) -> None:
        self.data = data
        if chance.random() < 0.6:
            await super().play(chance, data)
            return
        line = await self.waiting()
        right = Right(line, chance.choice(self._hosts))
        await perform(chance, data, right, self.bystander)
        way = chance.choice((0, 1, 1, 2, 3, 3))
        line.end(way)
        if way in (1, 3):
            await line.until(lambda: False, chance.choice((0.001, 0.01)))
        self.bystander.check()
        sound_records(bytes(line.data))
        sound_http2(right.read())
        line.cut()
        await self.waiting()

    async def waiting(self) -> Dialled:
        """The client has dialled and begun to shake hands. One that was told to stay away for ever is replaced."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            deadline = loop.time() + LATER_S
            while loop.time() < deadline:
                if self.dialled is not None and not self.dialled.closed and self.dialled.data:
                    return self.dialled
                await asyncio.sleep(0.001)
            await self._leave()
            self._begin()
        raise Finding("the client does not come back")


TLS: list[type[Target]] = [TlsServer, TlsClient]
