"""The tunnel itself: our server and a client that is hostile, our client and a server that is.

Either with bytes of HTTP/2 that are anything, or with sound HTTP/2 and TunnelMessages that are anything.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import h2.config
import h2.connection
import h2.settings
from google.protobuf.message import DecodeError, Message

from fasttunnel.errors import FasttunnelError
from fasttunnel.wire import tunnel_pb2 as wire
from tests.fuzz.kernels import bodies
from tests.fuzz.mutate import (
    INTERESTING,
    PREFACE,
    Mutator,
    cut,
    grpc_messages,
    http2_frames,
    mend_grpc_message,
    mend_http2_frame,
)
from tests.fuzz.stage import CANARY_HOST, Line, Stage, sound_answers, sound_http2
from tests.fuzz.streams import GRPC_FIELDS, H2_TOKENS, grpc_call, http2_client
from tests.fuzz.target import Finding, Target
from tests.support.frames import UPGRADE
from tests.support.http2_wires import message as prefixed
from tests.support.leaks import exchanges
from tests.support.raw import request
from tests.support.record import FOLDER

HOST = "public.example"
CONNECT = "/fasttunnel.v1.TunnelService/Connect"
NONCE = 0x6675_7A7A  # of the heartbeat behind an input: its answer says that all before it has been read
LATER_S = 0.5
FRAME_BYTES = 16_384


def opening(*messages: wire.TunnelMessage) -> bytes:
    """A client's side of the tunnel: the call, and messages on it."""
    protocol = http2_client()
    protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    protocol.increment_flow_control_window(2**20)
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", CONNECT), (":authority", "tunnel")]
    protocol.send_headers(1, [*pseudo, *GRPC_FIELDS[:2]])
    for each in messages:
        protocol.send_data(1, prefixed(each.SerializeToString()))
    return protocol.data_to_send()


def accepting(*messages: wire.TunnelMessage) -> bytes:
    """A server's side of it."""
    config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    protocol = h2.connection.H2Connection(config)
    protocol.initiate_connection()
    protocol.receive_data(opening())
    protocol.clear_outbound_data_buffer()  # it has acknowledged more SETTINGS than our client sends
    protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    protocol.increment_flow_control_window(2**20)
    protocol.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    for each in messages:
        protocol.send_data(1, prefixed(each.SerializeToString()))
    return protocol.data_to_send()


REGISTER = wire.TunnelMessage(register=wire.Register(version=1, routes=[wire.Route(host=HOST)], instance_id="hostile"))
REGISTERED = wire.TunnelMessage(
    registered=wire.Registered(session_id="s", client_id="c", routes=[wire.Route()], heartbeat_interval_ms=600_000)
)
OPENING, ACCEPTING = opening(REGISTER), accepting(REGISTERED)
HEARTBEAT = wire.TunnelMessage(heartbeat=wire.Heartbeat(nonce=NONCE)).SerializeToString()


def is_whole(message: bytes) -> bool:
    return len(message) >= 5 and len(message) == 5 + int.from_bytes(message[1:5], "big")


def data_frames(payload: bytes) -> bytes:
    """DATA of stream 1."""
    parts = [payload[at : at + FRAME_BYTES] for at in range(0, len(payload), FRAME_BYTES)]
    return b"".join(len(part).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + part for part in parts)


class TunnelLine(Line):
    """A connection of the tunnel, and the messages that have come on it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.messages: list[wire.TunnelMessage] = []
        self.ended = False  # the call, or the whole connection
        self.asked = False  # for something: there is a call
        self.up = False
        self._at = 0
        self._payload = b""

    def came(self) -> None:
        for each in http2_frames(bytes(self.data[self._at :])):
            if each != PREFACE and len(each) != 9 + int.from_bytes(each[:3], "big"):
                break
            self._at += len(each)
            if each != PREFACE:
                self._take(each)

    def _take(self, frame: bytes) -> None:
        kind, end = frame[3], frame[4] & 1
        self.asked = self.asked or kind == 1
        self.ended = self.ended or (kind == 1 and end == 1) or kind in (3, 7)
        if kind == 0:
            self._payload += frame[9:]
            for each in grpc_messages(self._payload):
                if not is_whole(each):
                    break
                self._payload = self._payload[len(each) :]
                self.messages.append(wire.TunnelMessage.FromString(each[5:]))
                self.up = self.up or self.messages[-1].WhichOneof("payload") in ("register", "registered")

    @property
    def over(self) -> bool:
        """The call has ended, or all that was sent has been read."""
        return self.ended or any(each.heartbeat.nonce == NONCE for each in self.messages)

    def send_messages(self, chance: random.Random, messages: Sequence[bytes]) -> list[bytes]:
        return cut(chance, b"".join(data_frames(each) for each in messages))


def recorded(direction: str, names: dict[str, list[str]]) -> list[bytes]:
    """The corpus of what one end has said, with placeholders instead of its ids: `names` by the beginning of an id."""
    found = []
    for path in sorted(FOLDER.glob(f"*-{direction}.bin")):
        known: dict[str, str] = {}
        stream = b""
        for body in bodies(path.read_bytes()):
            message = wire.TunnelMessage.FromString(body)
            if message.WhichOneof("payload") in ("register", "registered", "go_away"):
                continue
            old = message.request_id
            if old and old not in known:
                some = names[old.split("-")[0]]
                known[old] = some[len(known) % len(some)]
            rename(message, known)
            shorten(message)
            stream += prefixed(message.SerializeToString())
            if len(stream) > 3000:
                break
        found.append(stream)
    return found


def shorten(message: wire.TunnelMessage) -> None:
    """Large payloads prove nothing here."""
    member = getattr(message, message.WhichOneof("payload") or "reset")
    for field in ("body", "payload"):
        if len(getattr(member, field, b"")) > 1024:
            setattr(member, field, getattr(member, field)[:1024])


def rename(message: wire.TunnelMessage, names: dict[str, str]) -> None:
    message.request_id = names.get(message.request_id, message.request_id)
    if message.HasField("ws_frame"):
        old = message.ws_frame.connection_id
        message.ws_frame.connection_id = names.get(old, old)


TEXTS = [
    "",
    "a",
    "/",
    "/a?b",
    "*",
    "http://x/",
    "a\r\nb: c",
    " a",
    "a b",
    "é",
    "x" * 300,
    "GET",
    "HEAD",
    "CONNECT",
    "host",
]
TEXTS += [
    "connection",
    "content-length",
    "transfer-encoding",
    "Content-Length",
    "5",
    "chunked",
    "te",
    "trailers",
    ":status",
]
TEXTS += [
    "sec-websocket-accept",
    "upgrade",
    "grpc-status",
    "grpc-timeout",
    "1S",
    "public.example",
    "\x7f",
    "-bin",
    "\0",
]
NUMBERS = [*INTERESTING, 100, 101, 103, 199, 200, 204, 304, 404, 503, 599, 600, 999, 3, 8, 9, 10, 15, 16]


class MessageMutator(Mutator):
    """Changes fields of messages too, so that they stay messages."""

    ids: Sequence[str] = ()

    def _change_records(self, data: bytes, other: bytes) -> bytes:
        chance = self._chance
        records = grpc_messages(data)
        if not records or chance.random() < 0.4:
            return super()._change_records(data, other)
        at = chance.randrange(len(records))
        try:
            message = wire.TunnelMessage.FromString(records[at][5:])
        except DecodeError:
            return super()._change_records(data, other)
        way = chance.randrange(5)
        if way == 0:
            message.request_id = chance.choice([*self.ids, *self.ids, chance.choice(TEXTS)])
        elif way == 1:
            self._change_fields(message)
        else:
            kind = message.WhichOneof("payload")
            if kind is None or chance.random() < 0.1:
                kind = chance.choice([field.name for field in message.DESCRIPTOR.oneofs[0].fields])
                getattr(message, kind).SetInParent()
            self._change_fields(getattr(message, kind))
        with contextlib.suppress(ValueError):  # text that is none
            records[at] = prefixed(message.SerializeToString())
        return b"".join(records)

    def _change_fields(self, message: Message) -> None:
        chance = self._chance
        for _ in range(chance.choice((1, 1, 2, 4))):
            field = chance.choice(
                [each for each in message.DESCRIPTOR.fields if each.containing_oneof is None] or [None]
            )
            field = field or chance.choice(message.DESCRIPTOR.fields)
            if chance.random() < 0.15:
                message.ClearField(field.name)
            elif hasattr(getattr(message, field.name), "extend"):
                self._add(getattr(message, field.name), field)
            elif field.message_type is None:
                with contextlib.suppress(ValueError):  # out of its range
                    setattr(message, field.name, self._value(field))

    def _add(self, values: Any, field: Any) -> None:
        if values and self._chance.random() < 0.3:
            del values[self._chance.randrange(len(values))]
        elif field.message_type is None:
            values.append(self._value(field))
        else:
            self._change_fields(values.add())

    def _value(self, field: Any) -> Any:
        chance = self._chance
        match field.type:
            case field.TYPE_STRING:
                return chance.choice(TEXTS)
            case field.TYPE_BYTES:
                return chance.choice([text.encode() for text in TEXTS] + [bytes(5000), b"\xff"])
            case field.TYPE_BOOL:
                return chance.random() < 0.5
            case field.TYPE_ENUM:
                return chance.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100])
            case _:
                number = chance.choice(NUMBERS) if chance.random() < 0.7 else chance.randint(0, 12)
                return number & (2**64 - 1 if field.type == field.TYPE_UINT64 else 2**31 - 1)


class Messages(Stage):
    """Sound HTTP/2, and messages that are anything."""

    warns = True
    split, mend = grpc_messages, mend_grpc_message
    ids: ClassVar[list[str]]

    def mutator(self, chance: random.Random) -> Mutator:
        mutator = MessageMutator(chance, split=grpc_messages, mend=mend_grpc_message)
        mutator.ids = self.ids
        return mutator

    def named(self, data: bytes, names: dict[str, str]) -> list[bytes]:
        """The messages of an input, each behind its prefix, with ids for the placeholders in them."""
        found = []
        for each in grpc_messages(data):
            if each[:1] == b"\0" and is_whole(each):
                with contextlib.suppress(DecodeError):
                    message = wire.TunnelMessage.FromString(each[5:])
                    rename(message, names)
                    found.append(prefixed(message.SerializeToString()))
                    continue
            found.append(each)
        return found


# -- our server


class TunnelServer(Messages):
    """A client registers, gets requests of the public, and answers them with the input."""

    name = "tunnel-server"
    ids: ClassVar[list[str]] = ["@get", "@post", "@ws", "@grpc"]

    def seeds(self) -> list[bytes]:
        names = {"h": ["@get", "@post"], "ws": ["@ws"], "g": ["@grpc"]}
        return recorded("up", names)

    async def routes(self) -> list[str]:
        return []

    async def play(self, chance: random.Random, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        host, _, port = self.server.tunnel.rpartition(":")
        _, line = await loop.create_connection(lambda: TunnelLine(self), host, int(port))
        line.send(OPENING)
        if not await line.until(lambda: line.up) or line.closed:
            raise Finding(f"a client that is right was not registered: {bytes(line.data)!r}")
        asking = [("@get", request("GET", "/")), ("@ws", request("GET", "/", *UPGRADE)), ("@grpc", grpc_call())]
        asking.append(("@post", request("POST", "/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n"))
        chosen = chance.sample(asking, chance.choice((1, 1, 2, 4)))
        publics, names = dict[str, Line](), dict[str, str]()
        for name, question in chosen:
            publics[name] = await self.public()
            publics[name].send(question)
            await line.until(lambda: len(self.asked(line)) > len(names))
            names[name] = self.asked(line)[-1]
        messages = self.named(data, names)
        for part in line.send_messages(chance, [*messages, prefixed(HEARTBEAT)]):
            line.send(part)
            await asyncio.sleep(0)
        whole = all(is_whole(each) for each in messages)  # else it swallows what comes behind it
        await line.until(lambda: line.over, 0.05 if whole else 0.005)
        sound_http2(bytes(line.data))
        way = chance.choice((0, 1, 2))
        line.end(way)
        # A tunnel that has gone ends its requests, whatever was said on it.
        await self.eventually(
            lambda: exchanges() <= self.before,
            lambda: f"the public waits on: { {name: bytes(each.data) for name, each in publics.items()} }",
        )
        for name, public in publics.items():
            if name == "@grpc":
                sound_http2(bytes(public.data))
            else:
                sound_answers(bytes(public.data), ["POST" if name == "@post" else "GET"], lawful=False)

    @staticmethod
    def asked(line: TunnelLine) -> list[str]:
        """The ids of requests, in the order in which they came."""
        kinds = ("http_request", "ws_request", "grpc_request")
        ids = [each.request_id for each in line.messages if each.WhichOneof("payload") in kinds]
        return list(dict.fromkeys(ids))


class TunnelServerHttp2(Stage):
    """HTTP/2 on the tunnel's port that is anything, while the public may ask for what it registers."""

    name = "tunnel-server-http2"
    warns = True
    split, mend, tokens = http2_frames, mend_http2_frame, H2_TOKENS

    def seeds(self) -> list[bytes]:
        answers = [data_frames(stream) for stream in TunnelServer().seeds()]
        return [OPENING, opening(REGISTER, REGISTER), *(OPENING + each for each in answers)]

    async def routes(self) -> list[str]:
        return []

    async def play(self, chance: random.Random, data: bytes) -> None:
        host, _, port = self.server.tunnel.rpartition(":")
        line = await self.connect(host, int(port))
        if chance.random() < 0.3:
            public = await self.public()
            public.send(request("GET", "/"))
        await line.send_parts(chance, cut(chance, data))
        way = chance.choice((0, 1, 1, 1, 2, 3, 3, 3))
        line.end(way)
        if way in (1, 3):
            await line.until(lambda: False, chance.choice((0.001, 0.01)))
        sound_http2(bytes(line.data))


# -- our client


class FalseServer(TunnelLine):
    """What our client has dialled: it is registered, or gets the input instead."""

    told = False

    @property
    def lives(self) -> bool:
        return self.up and not self.ended and not self.closed

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        assert isinstance(self._stage, TunnelClient)
        self._stage.tunnel = self

    def came(self) -> None:
        super().came()
        stage = self._stage
        assert isinstance(stage, TunnelClient)
        if self.asked and not self.told:
            self.told = True
            stage.greet(self)


class TunnelClient(Messages):
    """A server sends requests to our client, and whatever else the input says."""

    name = "tunnel-client"
    ids: ClassVar[list[str]] = ["@a", "@b", "@c", "@d"]
    tunnel: FalseServer | None = None

    def seeds(self) -> list[bytes]:
        return recorded("down", dict.fromkeys(("h", "ws", "g"), self.ids))

    async def start(self) -> None:
        self.numbers = itertools.count()
        self.address = await self.listen(FalseServer)
        self.targets = [*await self.routes(), f"{CANARY_HOST}=http://{self.canary_address}"]
        self.client = await self.dial(self.address, self.targets)

    def greet(self, line: FalseServer) -> None:
        line.send(ACCEPTING)

    def keeps(self, line: Line) -> bool:
        return super().keeps(line) or line is self.tunnel

    async def live(self) -> FalseServer:
        """A tunnel that is up. A client that was told to stay away for long, or for ever, is replaced."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            deadline = loop.time() + LATER_S
            while loop.time() < deadline:
                if self.tunnel is not None and self.tunnel.lives:
                    return self.tunnel
                await asyncio.sleep(0.001)
            with contextlib.suppress(FasttunnelError):
                async with asyncio.timeout(10):
                    await self.client.stop(0)
            self.client = await self.dial(self.address, self.targets)
        raise Finding("the client does not come back")

    async def play(self, chance: random.Random, data: bytes) -> None:
        line = await self.live()
        number = next(self.numbers)
        names = {name: f"{name[1:]}-{number:x}" for name in self.ids}
        line.messages.clear()
        messages = self.named(data, names)
        for part in line.send_messages(chance, [*messages, prefixed(HEARTBEAT)]):
            line.send(part)
            await asyncio.sleep(0)
        whole = all(is_whole(each) for each in messages)  # else it swallows what comes behind it
        await line.until(lambda: line.over, 0.1 if whole else 0.005)
        if chance.random() < 0.2 or not whole:
            line.end(chance.choice((0, 2)))
            self.tunnel = None
            return
        resets = [
            wire.TunnelMessage(request_id=id, reset=wire.Reset(code=wire.CANCELLED)).SerializeToString()
            for id in names.values()
        ]
        line.send(b"".join(data_frames(prefixed(each)) for each in resets))
        for _ in range(20):
            await asyncio.sleep(0.0005)
            if exchanges() <= self.before:
                return
        self.tunnel = None
        line.cut()  # ids that the input has made up; without their tunnel they have to go

    async def sing(self) -> None:
        """It serves a request of the canary, on this tunnel or the next one."""
        for _ in range(3):  # a tunnel that the input has spoilt may be about to end
            line = await self.live()
            if await self.sing_on(line):
                break
        else:
            raise Finding("tunnels end as soon as the canary is there")
        await self.eventually(
            lambda: self.client.status()["active_requests"] == 0, lambda: f"held: {self.client.status()}"
        )

    async def sing_on(self, line: FalseServer) -> bool:
        """Whether the tunnel has lived long enough."""
        id = f"c-{next(self.numbers):x}"
        asked = wire.HttpRequest(method="GET", url="/canary", host=CANARY_HOST, scheme="http")
        asked.is_first_chunk = asked.is_last_chunk = True
        message = wire.TunnelMessage(request_id=id, direction=1, protocol_type=1, http_request=asked)  # type: ignore[arg-type]
        line.messages.clear()
        line.send(data_frames(prefixed(message.SerializeToString())))

        def answered() -> bool:
            return any(each.request_id == id and each.http_response.is_last_chunk for each in line.messages)

        if not await line.until(lambda: answered() or line.ended):
            raise Finding(f"the canary got no answer, but {bytes(line.data)!r}")
        if not answered():
            return False
        mine = [each.http_response for each in line.messages if each.request_id == id]
        [status] = [each.status_code for each in mine if each.is_first_chunk]
        assert status == 200
        return True


class TunnelClientHttp2(TunnelClient):
    """A server whose HTTP/2 is anything."""

    name = "tunnel-client-http2"
    split, mend, tokens = http2_frames, mend_http2_frame, H2_TOKENS
    script: "list[bytes] | None" = None

    def seeds(self) -> list[bytes]:
        asking = [data_frames(stream) for stream in super().seeds()]
        return [ACCEPTING, accepting(REGISTERED, REGISTERED), *(ACCEPTING + each for each in asking)]

    def mutator(self, chance: random.Random) -> Mutator:
        return Target.mutator(self, chance)

    def greet(self, line: FalseServer) -> None:
        if self.script is None:
            super().greet(line)

    async def play(self, chance: random.Random, data: bytes) -> None:
        old = await self.live()
        self.script = cut(chance, data)
        self.tunnel = None
        old.end(chance.choice((0, 2)))
        await self.eventually(
            lambda: self.tunnel is not None and self.tunnel.told,
            lambda: "the client does not come back",
        )
        line = self.tunnel
        assert line is not None
        await line.send_parts(chance, self.script)
        way = chance.choice((0, 1, 1, 1, 2, 3, 3, 3))
        line.end(way)
        if way in (1, 3):
            await line.until(lambda: False, chance.choice((0.001, 0.01)))
        self.script = None
        if self.tunnel is line:
            self.tunnel = None
        sound_http2(bytes(line.data))
        line.cut()


TUNNELS: list[type[Target]] = [TunnelServer, TunnelServerHttp2, TunnelClient, TunnelClientHttp2]
