"""What a client says of its URLs and backends is true: a URL is online when a request through it has come back."""

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import ClientSession, web

from fasttunnel.control.config import parse_route
from fasttunnel.reach import http2
from fasttunnel.reach.backends import BackendWatch
from tests.support import certificates
from tests.support.command import command
from tests.support.raw import start_raw
from tests.support.tunnel import Recorder, route, start_client, start_server
from tests.support.web import start_web

COMMAND = "what the command says, whichever engine runs"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def start(stack: AsyncExitStack, *routes: Any, server: dict[str, Any] | None = None, **client: Any) -> Any:
    events = Recorder(records=True)
    server_end = await start_server(stack, events, **(server or {}))
    return await start_client(stack, server_end.tunnel, routes, **client), events


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_url_that_leads_here(stack: AsyncExitStack, secure: bool) -> None:
    """Nothing of it reaches the backends, and nothing stays."""
    backend = await start_raw(stack)
    address = backend.url.removeprefix("http://")
    pair = certificates.here()
    routes = [
        backend.url,
        f"localhost/api={backend.url}",
        f"*.localhost={backend.url}",
        f"grpc://{address}",
        f"localhost/shop.Cart=grpc://{address}",
        route(backend.url, host="x.localhost", path_prefix="/deep/down", strip_prefix=True, host_rewrite="y"),
    ]
    options = {"cert": pair.cert, "key": pair.key} if secure else {}
    trust = {"ca": certificates.authority().ca} if secure else {}
    client, events = await start(stack, *routes, server=options, **trust)
    problems = [await client.problem_of(index) for index in range(len(routes))]
    if secure:
        # The certificate is for localhost and 127.0.0.1.
        wildcards = [problems.pop(index) for index in (5, 2)]
        assert all("certificate is not accepted" in (problem or "") for problem in wildcards)
    assert problems == [None] * len(problems)
    assert backend.waiting == 0
    assert {record.status for record in events.records if record.protocol == "http"} == {200}
    assert {record.status for record in events.records if record.protocol == "grpc"} == {0}


@pytest.mark.cython_only("what is answered there is not this tunnel's")
async def test_a_url_that_leads_elsewhere(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    elsewhere = await start_web(stack, web.get("/{path:.*}", echo))
    client, _ = await start(stack, "http://127.0.0.1:1", "grpc://127.0.0.1:1")

    async def problem(url: str, index: int = 0) -> str:
        client._running.urls[index] = url
        return str(await client.problem_of(index))

    assert "answers 200, but not by this tunnel" in await problem(elsewhere)
    assert "connection refused" in await problem(f"http://127.0.0.1:{free_port()}")
    assert "connection refused" in await problem(f"grpc://127.0.0.1:{free_port()}", 1)
    assert "no such host" in await problem("http://nobody.invalid")
    assert "not" in await problem(elsewhere.replace("http", "grpc"), 1)
    other, _ = await start(stack, "http://127.0.0.1:1")
    assert "answers 502, but not by this tunnel" in await problem(other.urls[0])
    monkeypatch.setattr("fasttunnel.reach.urls.PATIENCE_S", 0.05)
    silent = await start_raw(stack)
    assert await problem(silent.url) == "it does not answer"
    assert await problem(silent.url.replace("http", "grpc"), 1) == "it does not answer"


@pytest.mark.cython_only("a small part of HTTP/2, against a peer that is not")
@pytest.mark.parametrize("length", [0, 126, 127, 254, 255, 300, 20_000])
def test_lengths_of_texts(length: int) -> None:
    """RFC 7541 5.1, as h2's own decoder reads them."""
    from hpack import Decoder

    head = [(":path", "/" + "x" * length), ("a" * max(1, length), "")]
    assert Decoder(max_header_list_size=100_000).decode(http2._fields(head)) == head


@pytest.mark.cython_only("no engine has a part in it")
async def test_a_backend_that_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttunnel.reach.backends.PAUSE_S", 0.01)
    told: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
    port = free_port()
    backend = parse_route(f"http://127.0.0.1:{port}").backend
    watch = BackendWatch([backend], 5, lambda one, reason: told.put_nowait((str(one), reason)))
    running = asyncio.ensure_future(watch.run())
    try:
        async with asyncio.timeout(10):
            for _ in range(2):
                assert await told.get() == (str(backend), "connection refused")
                assert watch.suspect(str(backend)), "it has been told"
                server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
                assert await told.get() == (str(backend), None)
                server.close()
                await server.wait_closed()
                assert not watch.suspect(str(backend))
    finally:
        running.cancel()


@pytest.mark.cython_only(COMMAND)
async def test_the_command_says_it(stack: AsyncExitStack) -> None:
    server = await start_server(stack, domain="localhost")
    port, web_port = server.address[1], free_port()
    routes = (f"http://127.0.0.1:{web_port}", "shop.invalid=http://127.0.0.1:1", "grpc://127.0.0.1:1")
    async with command("client", "--server", server.tunnel, "--name", "otter", *routes) as client:
        said = sorted([(await client.line(r"backend +(.*)"))[1] for _ in range(3)])
        refused = "does not listen: connection refused; answers"
        assert said[0] == f"grpc://127.0.0.1:1 {refused} UNAVAILABLE until it does"
        assert f"http://127.0.0.1:{web_port} {refused} 502 until it does" in said
        await client.line(
            rf"online +http://otter\.localhost:{port}  ->  http://127.0.0.1:{web_port}  \(HTTP, WebSocket\)"
        )
        await client.line(rf"unverified +http://shop\.invalid:{port}  ->  ")
        await client.line("not reached from here: there is no such host")
        await client.line(rf"online +grpc://otter\.localhost:{port}  ->  ")

        async def hello(request: web.Request) -> web.Response:
            return web.Response(text="hello")

        app = web.Application()
        app.add_routes([web.get("/", hello)])
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        async with ClientSession() as http:
            async with http.get(server.public_url, headers={"Host": "otter.localhost"}) as answer:
                assert answer.status == 502
            await web.TCPSite(runner, "127.0.0.1", web_port).start()
            await client.line(rf"backend +http://127.0.0.1:{web_port} listens now")
            async with http.get(server.public_url, headers={"Host": "otter.localhost"}) as answer:
                assert await answer.text() == "hello"
