"""A mixed load through a tunnel, every byte of which is checked, and the backends that it ends at.

A request succeeds, or fails in one of the ways that docs/failures.md has for a tunnel or a backend that fails. Anything
else is a `Wrong`.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any

import aiohttp
import grpc
import websockets
from aiohttp import web
from websockets.asyncio.client import connect

from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.web import start_web

PATIENCE_S = 25.0  # whatever happens: a request that takes longer hangs
FAILED = (502, 503, 504)  # statuses of our own for what has failed
CLOSED = (1001, 1006, 1011, 1012)  # the same for WebSockets
ENDED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
DEADLINE_S = 15.0
PAUSE_S = 0.05  # after a failure: the server may be away
RECONNECT = [(f"grpc.{name}_reconnect_backoff_ms", 200) for name in ("min", "max", "initial")]


logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # backends say of each connection that it was cut


class Wrong(AssertionError):
    """Something that no failure of a network or a process explains."""


class Failed(Exception):
    """A request that has failed as it may."""


def content(name: str, size: int) -> bytes:
    """Bytes that belong to a request and to no other."""
    return hashlib.shake_128(name.encode()).digest(size)


# -- backends


class Backends:
    """Sites that tell what they were asked, and count it."""

    def __init__(self, random: Random) -> None:
        self.executed: Counter[str] = Counter()  # requests that are not safe to be sent again, by name
        self._random = random

    async def start(self, stack: AsyncExitStack) -> None:
        self.http = await start_web(
            stack,
            web.get("/bytes/{name}/{size}", self._bytes),
            web.post("/sum/{name}", self._sum),
            web.post("/echo/{name}", self._echo),
            web.get("/socket", self._socket),
        )
        self.grpc = await start_grpc(stack, Unary=self._unary, Down=self._down, Up=self._up, Talk=self._talk)

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        body = content(request.match_info["name"], int(request.match_info["size"]))
        answer = web.StreamResponse()
        if self._random.random() < 0.5:
            answer.content_length = len(body)
        await answer.prepare(request)
        while body:
            size = self._random.choice((100, 3_000, 100_000))
            await answer.write(body[:size])
            body = body[size:]
            await asyncio.sleep(0)
        return answer

    async def _sum(self, request: web.Request) -> web.Response:
        self.executed[request.match_info["name"]] += 1
        return web.Response(text=hashlib.sha256(await request.read()).hexdigest())

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        self.executed[request.match_info["name"]] += 1
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in request.content.iter_any():
            await answer.write(piece)
        return answer

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        with suppress(ConnectionError):
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type == aiohttp.WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        return socket

    def _count(self, note: Any) -> None:
        self.executed[note.data[:16].decode()] += 1

    async def _unary(self, note: Any, context: Context) -> Any:
        self._count(note)
        return note

    async def _down(self, note: Any, context: Context) -> Notes:
        self._count(note)
        for number in range(note.number):
            yield Note(number=number, data=note.data)

    async def _up(self, notes: Notes, context: Context) -> Any:
        number, data = 0, bytearray()
        async for note in notes:
            if not number:
                self._count(note)
            number += 1
            data += note.data
        return Note(number=number, data=bytes(data))

    async def _talk(self, notes: Notes, context: Context) -> Notes:
        first = True
        async for note in notes:
            if first:
                self._count(note)
            first = False
            yield note


# -- the public


class Public:
    """Visitors: each one asks for something, and then for something else."""

    def __init__(self, random: Random, host: str, port: int) -> None:
        self.outcomes: Counter[str] = Counter()  # "kind outcome"
        self.address = (host, port)
        self._random = random
        self._authority = f"{host}:{port}"
        self._numbers = 0
        self._kinds: list[Callable[[], Awaitable[None]]] = [
            self.get,
            self.get,
            self.post,
            self.echo,
            self.leave,
            self.socket,
            self.socket,
            self.unary,
            self.down,
            self.up,
            self.talk,
        ]

    async def start(self, stack: AsyncExitStack) -> None:
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0)
        self._session = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://{self._authority}", connector=connector)
        )
        self._stub = await open_channel(stack, self._authority, RECONNECT)

    async def visit(self) -> None:
        """Until cancelled."""
        while True:
            if not await self.ask(self._random.choice(self._kinds)):
                await asyncio.sleep(PAUSE_S)

    async def each(self) -> None:
        """One request of each kind. Raises Failed when one did not succeed."""
        for kind in dict.fromkeys(self._kinds):
            await self.ask(kind, failed=False)

    async def ask(self, kind: Callable[[], Awaitable[None]], *, failed: bool = True) -> bool:
        """Whether it succeeded."""
        name, outcome = kind.__name__, "done"
        try:
            async with asyncio.timeout(PATIENCE_S):
                await kind()
        except Failed as error:
            outcome = str(error)
            if not failed:
                raise Failed(f"{name}: {error} ({error.__cause__!r})") from None
        except TimeoutError:
            raise Wrong(f"{name} hangs") from None
        self.outcomes[f"{name} {outcome}"] += 1
        return outcome == "done"

    def _name(self) -> str:
        """Of a request: 16 letters."""
        self._numbers += 1
        return f"{self._random.getrandbits(32):08x}{self._numbers:08x}"

    def _size(self) -> int:
        return self._random.choice((0, 1, 100, 5_000, 70_000, 400_000))

    # -- HTTP

    async def _http(self, method: str, path: str, data: Any = None) -> bytes:
        try:
            async with self._session.request(method, path, data=data) as answer:
                if answer.status in FAILED and answer.headers.get("X-Content-Type-Options"):
                    raise Failed(str(answer.status))
                body = await answer.read()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise Failed("broken off" if isinstance(error, aiohttp.ClientPayloadError) else "disconnected") from error
        if answer.status != 200:
            raise Wrong(f"{method} {path}: {answer.status} {body[:200]!r}")
        return body

    async def get(self) -> None:
        name, size = self._name(), self._size()
        _same(content(name, size), await self._http("GET", f"/bytes/{name}/{size}"), "GET")

    async def post(self) -> None:
        name = self._name()
        body = content(name, self._size())
        _same(hashlib.sha256(body).hexdigest().encode(), await self._http("POST", f"/sum/{name}", body), "POST")

    async def echo(self) -> None:
        """A body of unknown length, which comes back while it is sent."""
        name = self._name()
        body = content(name, self._size())

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 10_000):
                yield body[at : at + 10_000]

        _same(body, await self._http("POST", f"/echo/{name}", pieces()), "echo")

    async def leave(self) -> None:
        """Go away in the midst of an answer, in one way or another."""
        name, size = self._name(), 400_000
        with suppress(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            async with self._session.get(f"/bytes/{name}/{size}") as answer:
                if answer.status == 200:
                    part = await answer.content.read(self._random.randrange(size))
                    _same(content(name, size)[: len(part)], part, "part of GET")
                answer.close()

    # -- WebSocket

    async def socket(self) -> None:
        opened = False
        try:
            async with connect(f"ws://{self._authority}/socket", max_size=None, open_timeout=None) as socket:
                opened = True
                for number in range(self._random.choice((0, 1, 5, 30))):
                    data = content(self._name(), self._size())
                    message = data if number % 2 else data.hex()
                    await socket.send(message)
                    _same(message, await socket.recv(), "WebSocket")
                if self._random.random() < 0.1:
                    socket.transport.abort()
                    return
            if socket.close_code not in (1000, *CLOSED):
                raise Wrong(f"WebSocket closed with {socket.close_code}")
        except websockets.ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd is not None else 1006
            if code not in CLOSED:
                raise Wrong(f"WebSocket closed with {code}: {error}") from None
            raise Failed(str(code)) from None
        except websockets.InvalidStatus as error:
            if error.response.status_code not in FAILED:
                raise Wrong(f"handshake: {error}") from None
            raise Failed(str(error.response.status_code)) from None
        except (websockets.InvalidMessage, OSError):
            if opened:
                raise
            raise Failed("disconnected") from None

    # -- gRPC

    async def _call(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            # Inside a message no status can follow, so the stream is reset, which gRPC calls INTERNAL. "Core" is
            # grpc.aio itself: a write was under way when the call ended.
            text = error.details() or ""
            reset = error.code() == grpc.StatusCode.INTERNAL and ("error code 2" in text or "Core" in text)
            if error.code() not in ENDED and not reset:
                raise Wrong(f"call: {error.code()} {error.details()}") from None
            raise Failed(error.code().name) from None

    async def unary(self) -> None:
        note = self._note()
        _same(note, await self._call(self._stub.Unary(note, timeout=DEADLINE_S)), "Unary")

    async def down(self) -> None:
        note = self._note(number=self._random.choice((0, 1, 20)))
        answers = await self._call(_all(self._stub.Down(note, timeout=DEADLINE_S)))
        _same([Note(number=number, data=note.data) for number in range(note.number)], answers, "Down")

    async def up(self) -> None:
        notes = [self._note() for _ in range(self._random.choice((1, 5)))]
        answer = await self._call(self._stub.Up(iter(notes), timeout=DEADLINE_S))
        _same(Note(number=len(notes), data=b"".join(note.data for note in notes)), answer, "Up")

    async def talk(self) -> None:
        call = self._stub.Talk(timeout=DEADLINE_S)

        async def talk() -> None:
            for _ in range(self._random.choice((1, 10))):
                note = self._note()
                await call.write(note)
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    await call.wait_for_connection()  # raises what the call has ended with
                    raise Wrong(f"Talk: ended in order, with {await call.code()}")
                _same(note, answer, "Talk")
            await call.done_writing()
            if await call.read() is not grpc.aio.EOF:
                raise Wrong("Talk: more than was asked for")

        try:
            await self._call(talk())
        except asyncio.InvalidStateError:  # it ended before it was written to
            await self._call(_status(call))
            raise Wrong("Talk: ended in order, too early") from None
        await self._call(_status(call))

    def _note(self, number: int = 0) -> Any:
        name = self._name()
        return Note(number=number, data=name.encode() + content(name, self._random.choice((0, 100, 90_000))))


async def _all(call: Any) -> list[Any]:
    return [note async for note in call]


async def _status(call: Any) -> None:
    """Raises what a call has ended with, if that is no OK."""
    code = await call.code()
    if code != grpc.StatusCode.OK:
        metadata = await call.initial_metadata(), await call.trailing_metadata()
        raise grpc.aio.AioRpcError(code, *metadata, await call.details())


def _same(expected: Any, got: Any, what: str) -> None:
    if expected != got:
        length = f"{len(got)} of {len(expected)} bytes" if isinstance(got, bytes | str) else f"{got!s:.100}"
        raise Wrong(f"{what}: not what was sent ({length})")
