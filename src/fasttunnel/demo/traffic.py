"""Requests of each kind, sent to the public side, and a check of every answer."""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import grpc
import websockets.asyncio.client

from fasttunnel.demo import demo_pb2, demo_pb2_grpc
from fasttunnel.demo.backends import BLOCK, PAGE, Site

TRANSFER_BYTES = 8_000_000
STEP_TIMEOUT_S = 30


class WrongAnswer(Exception):
    """An answer that is not what was asked for."""


def expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise WrongAnswer(f"{what}: expected {wanted!r:.200}, got {got!r:.200}")


def pattern(size: int) -> bytes:
    """What the site sends for a download of `size` bytes."""
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


class Traffic:
    """The requests. `address` is HOST:PORT of the public side."""

    def __init__(self, address: str, http: aiohttp.ClientSession, channel: grpc.aio.Channel, site: Site) -> None:
        self._http_url = f"http://{address}"
        self._ws_url = f"ws://{address}/ws"
        self._http = http
        self._demo = demo_pb2_grpc.DemoStub(channel)  # type: ignore[no-untyped-call]
        self._site = site

    def steps(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What is done, in words, in order; each step is one request."""
        megabytes = TRANSFER_BYTES // 1_000_000
        return [
            ("HTTP: get a page", self.page),
            (f"HTTP: upload {megabytes} MB in chunks", self.upload),
            (f"HTTP: download {megabytes} MB", self.download),
            ("HTTP: server-sent events, each seen before the next is sent", self.events),
            ("WebSocket: texts, binaries, a large message, ping and close", self.conversation),
            ("gRPC: unary call with metadata", self.unary),
            ("gRPC: a call that fails keeps its status", self.failing_call),
            ("gRPC: server streaming", self.server_streaming),
            ("gRPC: client streaming", self.client_streaming),
            ("gRPC: bidirectional streaming, one message at a time", self.bidirectional),
        ]

    async def page(self) -> None:
        async with self._http.get(self._http_url + "/") as answer:
            expect("status", answer.status, 200)
            expect("content type", answer.content_type, "text/html")
            expect("page", await answer.read(), PAGE)

    async def upload(self) -> None:
        data = pattern(TRANSFER_BYTES)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 100_000):
                yield data[start : start + 100_000]

        async with self._http.post(self._http_url + "/upload", data=pieces()) as answer:
            expect("status", answer.status, 200)
            arrived = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            expect("what arrived", json.loads(await answer.read()), arrived)

    async def download(self) -> None:
        digest = hashlib.sha256()
        async with self._http.get(f"{self._http_url}/download?bytes={TRANSFER_BYTES}") as answer:
            expect("status", answer.status, 200)
            async for piece in answer.content.iter_any():
                digest.update(piece)
        expect("sha256", digest.hexdigest(), hashlib.sha256(pattern(TRANSFER_BYTES)).hexdigest())

    async def events(self) -> None:
        async with self._http.get(f"{self._http_url}/events?steps=5") as answer:
            expect("content type", answer.content_type, "text/event-stream")
            for number in range(1, 6):
                expect("event", await answer.content.readline(), f"data: event {number}\n".encode())
                expect("end of event", await answer.content.readline(), b"\n")
                self._site.next_event.release()
            expect("end", await answer.content.read(), b"")

    async def conversation(self) -> None:
        messages: list[str | bytes] = [f"text {number} \N{BLACK HEART SUIT}" for number in range(20)]
        messages += ["", b"", bytes(range(256)), pattern(2_000_000)]
        protocols = [websockets.Subprotocol("other"), websockets.Subprotocol("echo")]
        # Compression would pass as well, but the table would show the bytes of what it makes of our patterns.
        async with websockets.asyncio.client.connect(
            self._ws_url, subprotocols=protocols, compression=None, max_size=None
        ) as connection:
            expect("subprotocol", connection.subprotocol, "echo")
            for message in messages:
                await connection.send(message)
                expect("echo", await connection.recv(), message)
            await (await connection.ping(b"are you there"))
            await connection.close(1000, "that was all")
        expect("close code and reason", (connection.close_code, connection.close_reason), (1000, "that was all"))

    async def unary(self) -> None:
        call = self._demo.Greet(demo_pb2.Text(text="tunnel"), metadata=(("x-caller", "demo"),))
        expect("answer", (await call).text, "Hello tunnel!")
        expect("trailing metadata", dict(await call.trailing_metadata()).get("x-greeted-for"), "demo")

    async def failing_call(self) -> None:
        try:
            await self._demo.Greet(demo_pb2.Text())
        except grpc.aio.AioRpcError as error:
            expect("status", (error.code(), error.details()), (grpc.StatusCode.INVALID_ARGUMENT, "nobody to greet"))
        else:
            raise WrongAnswer("the call should have failed")

    async def server_streaming(self) -> None:
        numbers = [answer.number async for answer in self._demo.Count(demo_pb2.Number(number=100))]
        expect("numbers", numbers, list(range(1, 101)))

    async def client_streaming(self) -> None:
        answer = await self._demo.Sum(demo_pb2.Number(number=number) for number in range(1, 101))
        expect("sum", answer.number, 5050)

    async def bidirectional(self) -> None:
        call: Any = self._demo.Echo()
        for number in range(50):
            await call.write(demo_pb2.Text(text=f"message {number}"))
            expect("echo", (await call.read()).text, f"message {number}")
        await call.done_writing()
        expect("end", await call.read(), grpc.aio.EOF)
        expect("status", await call.code(), grpc.StatusCode.OK)
