"""Calls whose caller, backend or both are played by an attack."""

import asyncio

from tests.hostile.others import CALLS
from tests.hostile.site import VICTIM_CALLS, Attacker
from tests.support.grpc_peers import Note
from tests.support.http2 import Connection, Stream
from tests.support.http2_calls import Call
from tests.support.raw import Peer
from tests.support.tunnel import WAIT_S

ECHO = "/fasttunnel.test.Echo/Talk"  # of CALLS: all messages come back
GRPC = ("content-type", "application/grpc")
OK, UNKNOWN, DEADLINE, EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = "0", "2", "4", "8", "12", "13", "14"


def message(data: bytes = b"", *, flag: int = 0, length: int | None = None) -> bytes:
    """With its prefix; `length` may be another one than that of the data."""
    return bytes([flag]) + (len(data) if length is None else length).to_bytes(4, "big") + data


def note(size: int) -> bytes:
    return message(bytes(Note(data=b"x" * size).SerializeToString()))


class Backend:
    """Takes the connections of the client to the gRPC backend that the attack plays."""

    def __init__(self, attacker: Attacker) -> None:
        self.connections = 0
        self._attacker = attacker
        self._over = False
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()

    async def start(self) -> None:
        server = await asyncio.start_server(self._take, sock=self._attacker.site.calls.copy())

        def end() -> None:
            self._over = True
            server.close()

        self._attacker.stack.callback(end)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        if self._over:
            return peer.drop()
        self._attacker.stack.callback(peer.drop)
        self.connections += 1
        self._arrived.put_nowait(peer)

    async def accept(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(WAIT_S):
            return await self._arrived.get()

    async def call(self, *, whole: bool = True) -> Call:
        """The call that comes on the next connection."""
        return await arrived(await self.accept(), whole=whole)


async def arrived(peer: Peer, *, whole: bool) -> Call:
    call = Call(peer)
    await call.arrive(whole=whole)
    return call


async def taken(
    attacker: Attacker, *fields: tuple[str, str], body: bytes = message(), end: bool = True
) -> tuple[Stream, Peer, Backend]:
    """A call of the public, and the connection on which it comes to a backend that the attack plays."""
    backend = Backend(attacker)
    await backend.start()
    while True:
        stream = await call(attacker, *fields, body=body, end=end, host=VICTIM_CALLS)
        accepting, ending = asyncio.ensure_future(backend.accept()), asyncio.ensure_future(outcome(stream))
        await asyncio.wait([accepting, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if accepting.done():
            return stream, accepting.result(), backend
        accepting.cancel()  # the client had not yet heard that the connection of the attacker before is gone


async def called(
    attacker: Attacker, *fields: tuple[str, str], body: bytes = message(), end: bool = True
) -> tuple[Stream, Call, Backend]:
    """A call of the public to a backend that the attack plays."""
    stream, peer, backend = await taken(attacker, *fields, body=body, end=end)
    return stream, await arrived(peer, whole=end), backend


async def call(
    attacker: Attacker,
    *fields: tuple[str, str],
    body: bytes = message(),
    end: bool = True,
    host: str = CALLS,
    path: str = ECHO,
    kind: tuple[str, str] = GRPC,
    on: Connection | None = None,
) -> Stream:
    """A call of the public, on a connection of its own unless it is to be `on` another one."""
    connection = on or await attacker.http2()
    stream = await connection.open("POST", path, kind, ("te", "trailers"), *fields, end=False, authority=host)
    if body or end:
        await stream.send(body, end=end)
    return stream


async def outcome(stream: Stream) -> str:
    """How a call ends: its grpc-status, "HTTP" with another status, "reset" with its code, or "closed"."""
    connection = stream.connection
    async with asyncio.timeout(WAIT_S):
        while not stream.ended and stream.reset is None and connection.closed is None:
            await connection.changed()
    if not stream.ended:
        return "closed" if stream.reset is None else f"reset {stream.reset}"
    if stream.status != 200:
        return f"HTTP {stream.status}"
    ends = [value for name, value in [*stream.fields, *stream.trailers] if name == "grpc-status"]
    assert len(ends) == 1, (stream.fields, stream.trailers)
    return ends[0]
