"""Requests of every kind under way on one tunnel, for a test that does it harm: what each far side gets to see."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc

from tests.support import http2
from tests.support.frames import CLOSE, TEXT, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.raw import Peer, RawBackend, answer, connect, request, start_raw
from tests.support.tunnel import WAIT_S, eventually

COUNTED = ("connections", "timers", "tasks", "buffered_bytes", "active_requests", "queued_requests")


async def open_books(*ends: Any) -> "Books":
    books = Books(*ends)
    await books.open()
    return books


class Backends:
    """Where the requests of a tunnel end: an HTTP backend that the test plays, and an echo of calls."""

    def __init__(self, http: RawBackend, grpc_url: str) -> None:
        self.http = http
        self.routes = [http.url, grpc_url]
        self.calls = 0  # under way


async def start_backends(stack: AsyncExitStack) -> Backends:
    backends: Backends

    async def talk(requests: Notes, context: Context) -> Notes:
        backends.calls += 1
        try:
            async for note in requests:
                yield note
        finally:
            backends.calls -= 1

    backends = Backends(await start_raw(stack), await start_grpc(stack, Talk=talk))
    return backends


async def round_trips(backends: Backends, host: str, port: int) -> None:
    """One request of each kind, on new connections of the public, of which nothing is left."""
    async with AsyncExitStack() as stack:
        public = await connect(stack, host, port)
        await public.send(request("GET", "/next", "Connection: close"))
        peer = await backends.http.accept()
        await peer.head()
        await peer.send(answer("200 OK", "Connection: close", body=b"next"))
        assert (await public.answer()).body == b"next"
        await public.close()
        stub = await open_channel(stack, f"{host}:{port}")
        assert (await stub.Unary(Note(number=3), timeout=WAIT_S)).number == 3
        socket = await connect(stack, host, port)
        await ask_upgrade(socket)
        peer = await backends.http.accept()
        await accept_upgrade(peer)
        await expect_upgrade(socket)
        await peer.send(frame(TEXT, b"next"))
        assert (await read_frame(socket)).payload == b"next"
        socket.drop()
        assert await peer.ended()
        await peer.close()


class Witnesses:
    """An HTTP request without an answer, one whose answer has begun, the same over HTTP/2, a call, a WebSocket."""

    waiting: Peer
    begun: Peer
    stream: http2.Stream
    call: Any
    socket: Peer

    def __init__(self, stack: AsyncExitStack, backends: Backends, host: str, port: int) -> None:
        self.backends = backends
        self.peers: list[Peer] = []  # the backend's side of them
        self._stack = stack
        self._host, self._port = host, port
        self._channel = AsyncExitStack()
        stack.push_async_callback(self._channel.aclose)

    async def start(self) -> None:
        self.waiting = await self._public()
        await self.waiting.send(request("GET", "/waiting"))
        await self._arrived()
        self.begun = await self._public()
        await self.begun.send(request("POST", "/begun", "Content-Length: 100") + b"half")
        await self._begin(await self._arrived())
        assert (await self.begun.head()).status == 200
        assert await self.begun.chunk() == b"half"
        connection = await http2.connect_http2(self._stack, self._host, self._port)
        self.stream = await connection.open("POST", "/stream", end=False)
        await self._begin(await self._arrived())
        assert await self.stream.received(4) == b"half"
        stub = await open_channel(self._channel, f"{self._host}:{self._port}")
        self.call = stub.Talk()
        await self.call.write(Note(number=1))
        assert (await self.call.read()).number == 1
        self.socket = await self._public()
        await ask_upgrade(self.socket)
        peer = await self.backends.http.accept()
        self.peers.append(peer)
        await accept_upgrade(peer)
        await expect_upgrade(self.socket)

    async def _public(self) -> Peer:
        return await connect(self._stack, self._host, self._port)

    async def _arrived(self) -> Peer:
        peer = await self.backends.http.accept()
        await peer.head()
        self.peers.append(peer)
        return peer

    async def _begin(self, peer: Peer) -> None:
        await peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")

    async def public_is_told(self) -> None:
        """That the tunnel was lost: wire contract, "Ends"."""
        assert (await self.waiting.answer()).status == 502
        assert await self.begun.ended(), "without the last chunk"
        assert (await self.stream.done()).reset is not None
        assert await self._status() is grpc.StatusCode.UNAVAILABLE
        last = await read_frame(self.socket)
        assert (last.opcode, last.payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))
        assert await self.socket.ended()

    async def public_is_cut(self) -> None:
        """Nobody is left to tell anything."""
        for peer in (self.waiting, self.begun, self.socket):
            assert await peer.ended()
        assert await self._status() is grpc.StatusCode.UNAVAILABLE

    async def backends_are_cut(self) -> None:
        """Each request ends there too."""
        for peer in self.peers:
            async with asyncio.timeout(WAIT_S):
                await peer.ended()
        await eventually(lambda: self.backends.calls == 0, lambda: f"{self.backends.calls} calls go on")

    async def _status(self) -> grpc.StatusCode:
        async with asyncio.timeout(WAIT_S):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            code: grpc.StatusCode = await self.call.code()
            return code

    async def leave(self) -> None:
        """The public closes what it still has open."""
        for peer in (self.waiting, self.begun, self.socket, self.stream.connection.peer):
            peer.drop()
        self.call.cancel()
        self.call = None  # its connection lives as long as the object
        await self._channel.aclose()
        for peer in self.peers:
            await peer.close()


def counts(end: Any) -> dict[str, Any]:
    """What an end of a tunnel holds: its requests, and what they need."""
    status = end.status()
    return {name: status[name] for name in COUNTED if name in status}


class Books:
    """The counters of ends of tunnels, before and after."""

    def __init__(self, *ends: Any) -> None:
        self._ends = ends
        self._before: list[dict[str, Any]] = []

    async def open(self) -> None:
        """When no public connection is left of what was before."""
        for status in (end.status for end in self._ends if "links" in end.status()):
            await eventually(lambda status=status: status()["connections"] == len(status()["links"]))  # type: ignore[misc]
        self._before = self._counts()

    def _counts(self) -> list[dict[str, Any]]:
        return [counts(end) for end in self._ends]

    async def balance(self) -> None:
        """Nothing of what has been is left."""
        await eventually(
            lambda: self._counts() == self._before, lambda: f"{self._before} before, {self._counts()} after"
        )
