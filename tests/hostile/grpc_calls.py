"""Calls whose caller, backend or both are played by an attack."""

import asyncio
from typing import Any

from tests.hostile.site import VICTIM_CALLS, Attacker
from tests.support.http2 import Connection, Stream
from tests.support.http2_calls import Call
from tests.support.raw import Peer
from tests.support.tunnel import WAIT_S

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
PATH = "/hostile.Service/Method"


def message(data: bytes = b"", *, flag: int = 0, length: int | None = None) -> bytes:
    """With its prefix; `length` may be another one than that of the data."""
    return bytes([flag]) + (len(data) if length is None else length).to_bytes(4, "big") + data


class Backend:
    """Takes the connections of the client to the gRPC backend that the attack plays."""

    def __init__(self, attacker: Attacker) -> None:
        self.connections = 0
        self._attacker = attacker
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()

    async def start(self) -> None:
        server = await asyncio.start_server(self._take, sock=self._attacker.site.calls.copy())
        self._attacker.stack.callback(server.close)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._attacker.stack.callback(peer.drop)
        self.connections += 1
        self._arrived.put_nowait(peer)

    async def accept(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(WAIT_S):
            return await self._arrived.get()

    async def call(self, *, whole: bool = True) -> Call:
        """The call that comes on the next connection."""
        call = Call(await self.accept())
        await call.arrive(whole=whole)
        return call


async def start_backend(attacker: Attacker) -> Backend:
    backend = Backend(attacker)
    await backend.start()
    return backend


async def call(
    attacker: Attacker,
    *fields: tuple[str, str],
    body: bytes = message(),
    end: bool = True,
    host: str = VICTIM_CALLS,
    path: str = PATH,
    on: Connection | None = None,
    **options: Any,
) -> Stream:
    """A call of the public, on a connection of its own unless it is to be `on` another one."""
    connection = on or await attacker.http2()
    stream = await connection.open("POST", path, *GRPC, *fields, end=False, authority=host, **options)
    if body or end:
        await stream.send(body, end=end)
    return stream


def status(stream: Stream) -> str:
    """How a call has ended: its grpc-status, or "reset CODE"."""
    if stream.reset is not None:
        return f"reset {stream.reset}"
    assert stream.status == 200, stream.fields
    ends = [value for name, value in [*stream.fields, *stream.trailers] if name == "grpc-status"]
    assert len(ends) == 1, (stream.fields, stream.trailers)
    return ends[0]


async def outcome(stream: Stream, *statuses: str) -> Stream:
    """The call ends with one of these."""
    await stream.done()
    assert status(stream) in statuses, (status(stream), stream.fields, stream.trailers)
    return stream
