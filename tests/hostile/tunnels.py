"""A client of the tunnel that says whatever an attack wants: its HTTP/2 is sound, its messages may be any bytes."""

import asyncio
import itertools
from collections import Counter
from typing import Any

from fasttunnel.wire import tunnel_pb2 as wire
from tests.hostile.site import TOKEN, Attacker
from tests.support.http2 import Connection, Stream
from tests.support.http2_wires import message as prefixed
from tests.support.raw import Peer, connect, request
from tests.support.tunnel import WAIT_S

Message = Any  # wire.TunnelMessage

CONNECT = "/fasttunnel.v1.TunnelService/Connect"
FIELDS = (("te", "trailers"), ("content-type", "application/grpc"))
UP, DOWN = wire.CLIENT_TO_SERVER, wire.SERVER_TO_CLIENT
_numbers = itertools.count(1)


def message(request_id: str = "", **payload: Any) -> bytes:
    """A TunnelMessage."""
    return wire.TunnelMessage(request_id=request_id, **payload).SerializeToString()


def registering(*routes: Message, client_id: str = "", **fields: Any) -> bytes:
    register = wire.Register(routes=routes, **{"version": 1, "instance_id": "hostile", **fields})
    return message(client_id=client_id, register=register)


class Call:
    """One call of the tunnel port, and the messages that come on it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.resets: Counter[str] = Counter()  # that have come so far, by request
        self._read = 0

    async def send(self, *messages: bytes, end: bool = False) -> None:
        await self.stream.send(b"".join(prefixed(each) for each in messages), end=end)

    async def next(self, *kinds: str) -> Message:
        """The next message of one of these kinds; others are passed over."""
        while True:
            head = await self._bytes(5)
            found = wire.TunnelMessage.FromString(await self._bytes(int.from_bytes(head[1:], "big")))
            if found.HasField("reset"):
                self.resets[found.request_id] += 1
            if found.WhichOneof("payload") in kinds:
                return found

    async def _bytes(self, count: int) -> bytes:
        start, self._read = self._read, self._read + count
        await self.stream.received(self._read)
        assert len(self.stream.body) >= self._read, (self.stream.fields, self.stream.trailers)
        return bytes(self.stream.body[start : self._read])

    async def status(self) -> int:
        """That with which the server ends the call."""
        await self.stream.done()
        return int(dict([*self.stream.fields, *self.stream.trailers])["grpc-status"])

    @property
    def text(self) -> str:
        return dict([*self.stream.fields, *self.stream.trailers]).get("grpc-message", "")

    async def caught_up(self) -> None:
        """Returns when the server has read all that was sent."""
        nonce = next(_numbers)
        await self.send(message(heartbeat=wire.Heartbeat(nonce=nonce)))
        while (await self.next("heartbeat")).heartbeat != wire.Heartbeat(nonce=nonce, reply=True):
            pass


async def dial(attacker: Attacker, source: str | None = None, port: int | None = None) -> Connection:
    """A connection to the tunnel port, from an address of its own if one is given; or to that of another server."""
    if port is not None:
        peer = await connect(attacker.stack, "127.0.0.1", port)
    elif source is None:
        peer = await attacker.dial()
    else:
        host, _, port = attacker.site.tunnel.rpartition(":")
        peer = Peer(*await asyncio.open_connection(host, int(port), local_addr=(source, 0)))
        attacker.stack.callback(peer.drop)
    connection = Connection(peer)
    connection.protocol.config.validate_outbound_headers = False
    connection.protocol.config.normalize_outbound_headers = False
    await connection.start(attacker.stack)
    return connection


async def call(connection: Connection, *messages: bytes, authorization: str | None = f"Bearer {TOKEN}") -> Call:
    """Open the tunnel's call, and send messages on it."""
    fields = [*FIELDS] + [("authorization", authorization)] * (authorization is not None)
    found = Call(await connection.open("POST", CONNECT, *fields, end=False))
    await found.send(*messages)
    return found


class HostileClient(Call):
    """One that has registered a host of its own."""

    host = ""

    async def public(self, attacker: Attacker, data: bytes = b"") -> tuple[Peer, str]:
        """A request of the public for its host, and the id under which it comes."""
        peer = await connect(attacker.stack, attacker.site.host, attacker.site.port)
        await peer.send(data or request("GET", "/", host=self.host))
        return peer, (await self.next("http_request", "ws_request")).request_id


async def registered(attacker: Attacker, **fields: Any) -> HostileClient:
    client = HostileClient((await call(await dial(attacker))).stream)
    client.host = f"hostile-{next(_numbers)}.example"
    await client.send(registering(wire.Route(host=client.host), **fields))
    async with asyncio.timeout(WAIT_S):
        await client.next("registered")
    return client
