"""Answers name their request as the logs of both ends do."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from fasttunnel.control.config import ServerConfig
from fasttunnel.errors import ConfigError
from tests.support.grpc_peers import Context, Note, open_channel, start_grpc
from tests.support.tunnel import Tunnel, eventually, start_tunnel

HEADER = "x-request-id"


async def start_web(stack: AsyncExitStack) -> str:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/own":
            return web.Response(headers={"X-Request-ID": "own"})
        if request.path == "/ws":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.close()
            return socket
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def start(stack: AsyncExitStack, logs: Path, **methods: Any) -> tuple[Tunnel, aiohttp.ClientSession]:
    log = {"log_format": "json"}
    tunnel = await start_tunnel(
        stack,
        f"h.example={await start_web(stack)}",
        "down.example=http://127.0.0.1:1",
        await start_grpc(stack, **methods),
        server={"request_id_header": HEADER, "access_log": str(logs / "server"), **log},
        client={"access_log": str(logs / "client"), **log},
    )
    return tunnel, await stack.enter_async_context(aiohttp.ClientSession())


def logged(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()] if path.exists() else []


async def test_http_and_websocket(stack: AsyncExitStack, tmp_path: Path) -> None:
    tunnel, session = await start(stack, tmp_path)
    ids = []
    for host, status, method in (
        ("h.example", 200, "GET"),
        ("h.example", 200, "HEAD"),
        ("down.example", 502, "GET"),
        ("nobody.example", 404, "GET"),
    ):
        async with session.request(method, tunnel.url, headers={"Host": host}) as answer:
            assert answer.status == status
            ids += answer.headers.getall(HEADER)
    upgrade = {"Host": "h.example", "Upgrade": "websocket", "Connection": "upgrade"}
    async with session.get(tunnel.url, headers=upgrade) as answer:
        assert answer.status == 426
        ids += answer.headers.getall(HEADER)
    async with session.get(tunnel.url + "/own", headers={"Host": "h.example"}) as answer:
        assert answer.headers.getall(HEADER) == ["own"]
    async with session.ws_connect(tunnel.url + "/ws", headers={"Host": "h.example"}) as socket:
        assert socket._response.headers.getall(HEADER)[0].startswith("ws-")
        ids.append(socket._response.headers[HEADER])
    await eventually(lambda: set(ids) <= set(logged(tmp_path / "server")))
    await eventually(lambda: {*ids[:3], ids[5]} <= set(logged(tmp_path / "client")))
    assert len(set(ids)) == len(ids) == 6


async def test_calls(stack: AsyncExitStack, tmp_path: Path) -> None:
    async def unary(request: Any, context: Context) -> Any:
        if request.number == 1:
            await context.send_initial_metadata([(HEADER, "own")])
        if request.number == 2:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        return request

    tunnel, _ = await start(stack, tmp_path, Unary=unary)
    stub = await open_channel(stack, tunnel.authority)
    call = stub.Unary(Note())
    await call
    first = dict(await call.initial_metadata())[HEADER]
    assert first.startswith("g-")
    call = stub.Unary(Note(number=1))
    await call
    assert [value for name, value in await call.initial_metadata() if name == HEADER] == ["own"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(Note(number=2))
    metadata = [*caught.value.initial_metadata(), *caught.value.trailing_metadata()]
    assert [value for name, value in metadata if name == HEADER and str(value).startswith("g-")]
    await eventually(lambda: f'"{first}"' in (tmp_path / "client").read_text())


@pytest.mark.cython_only("checked before an engine is there")
@pytest.mark.parametrize("name", ["a b", "content-length", "Connection", "grpc-status", "x:y", "sec-websocket-accept"])
def test_a_field_that_is_not_ours(name: str) -> None:
    with pytest.raises(ConfigError, match="request_id_header"):
        ServerConfig(request_id_header=name)


async def test_answers_of_the_tunnel_name_the_hop(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Whose fault it was: of the server, the tunnel, the client or the backend."""

    async def unary(request: Any, context: Context) -> Any:
        await asyncio.Event().wait()

    tunnel, session = await start(stack, tmp_path, Unary=unary)
    for host, hop in (("down.example", "the backend cannot be reached"), ("nobody.example", "no tunnel serves")):
        async with session.get(tunnel.url, headers={"Host": host}) as answer:
            assert hop in await answer.text()
    stub = await open_channel(stack, tunnel.authority)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(Note(), timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # the caller's own library may be first to say so
    await tunnel.client.stop(0)
    await eventually(lambda: not tunnel.server.status()["links"])
    with pytest.raises(grpc.aio.AioRpcError, match="the client that serves"):
        await stub.Unary(Note())
    async with session.get(tunnel.url, headers={"Host": "h.example"}) as answer:
        assert answer.status == 503
        assert "the client that serves h.example/ is away" in await answer.text()
