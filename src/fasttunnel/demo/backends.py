"""The three backends, made with the libraries that people use: a web site, a WebSocket echo and a gRPC service."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import resources
from typing import Any, NamedTuple

import grpc
import websockets.asyncio.server
from aiohttp import web

from fasttunnel.demo import demo_pb2, demo_pb2_grpc

PAGE = resources.files(__package__).joinpath("site.html").read_bytes()
BLOCK = bytes(range(251)) * 261  # 65,511 bytes: no power of two, so that a block out of place shows


class Site:
    """A page, an upload, a download and server-sent events."""

    def __init__(self) -> None:
        self.next_event = asyncio.Semaphore(0)  # each release lets one event of /events?steps=N go

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**40)
        app.add_routes(
            [
                web.get("/", self.page),
                web.post("/upload", self.upload),
                web.get("/download", self.download),
                web.get("/events", self.events),
            ]
        )
        return app

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(body=PAGE, content_type="text/html", charset="utf-8")

    async def upload(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            size += len(piece)
        return web.json_response({"bytes": size, "sha256": digest.hexdigest()})

    async def download(self, request: web.Request) -> web.StreamResponse:
        left = int(request.query.get("bytes", "0"))
        response = web.StreamResponse(headers={"Content-Length": str(left), "Content-Type": "application/octet-stream"})
        await response.prepare(request)
        while left > 0:
            await response.write(BLOCK[:left])
            left -= len(BLOCK)
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        stepped = "steps" in request.query
        with contextlib.suppress(ConnectionError):  # who has gone meanwhile is no mistake
            for number in range(1, int(request.query.get("steps", "60")) + 1):
                await response.write(f"data: event {number}\n\n".encode())
                await (self.next_event.acquire() if stepped else asyncio.sleep(1))
        return response


async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
    """Every message comes back as it was."""
    async for message in connection:
        await connection.send(message)


class Demo(demo_pb2_grpc.DemoServicer):
    """One method of each kind; demo.proto tells what they do."""

    async def Greet(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if not request.text:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nobody to greet")
        caller = dict(context.invocation_metadata()).get("x-caller", "nobody")
        context.set_trailing_metadata((("x-greeted-for", caller),))
        return demo_pb2.Text(text=f"Hello {request.text}!")

    async def Count(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        for number in range(1, request.number + 1):
            yield demo_pb2.Number(number=number)

    async def Sum(self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        total = 0
        async for request in request_iterator:
            total += request.number
        return demo_pb2.Number(number=total)

    async def Echo(self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for request in request_iterator:
            yield request


class Backends(NamedTuple):
    """Where the running backends listen, as routes for a Client; and the site, whose events can be let go."""

    site: Site
    routes: list[str]


async def start(stack: AsyncExitStack) -> Backends:
    """Start all three on free ports; leaving `stack` stops them."""
    site = Site()
    runner = web.AppRunner(site.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    echo_server = await websockets.asyncio.server.serve(
        echo, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("echo")], max_size=None
    )
    await stack.enter_async_context(echo_server)

    service = grpc.aio.server()
    demo_pb2_grpc.add_DemoServicer_to_server(Demo(), service)  # type: ignore[no-untyped-call]
    grpc_port = service.add_insecure_port("127.0.0.1:0")
    await service.start()
    stack.push_async_callback(service.stop, 0)

    site_port = runner.addresses[0][1]
    echo_port = next(iter(echo_server.sockets)).getsockname()[1]
    return Backends(
        site,
        [
            f"http://127.0.0.1:{site_port}",
            f"/ws=http://127.0.0.1:{echo_port}",
            f"grpc://127.0.0.1:{grpc_port}",
        ],
    )
