"""Which client and which backend get a request: hosts, prefixes, services, taking turns, and what is rewritten."""

from collections import Counter
from contextlib import AsyncExitStack

import grpc
import httpx
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from websockets.exceptions import InvalidStatus

from fasttunnel import RegisterError
from tests.support.grpc_peers import Note, open_channel, start_grpc
from tests.support.tunnel import Tunnel, route, start_client, start_tunnel
from tests.support.web import start_web


async def start_site(stack: AsyncExitStack, name: str) -> str:
    """A site that answers with its name, and with Host and target as it sees them."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=f"{name} {request.headers['Host']} {request.raw_path}")

    return await start_web(stack, web.route("*", "/{path:.*}", page))


async def get(tunnel: Tunnel, host: str, path: str = "/") -> str:
    """What the site behind `host` and `path` says, or the status of an error."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        got = await client.get(tunnel.url + path, headers={"Host": host})
    return got.text if got.status_code == 200 else str(got.status_code)


async def test_the_longest_match_wins(stack: AsyncExitStack) -> None:
    routes = {
        "any": "",
        "prefix": "/api=",
        "wildcard": "*.shop.example=",
        "host": "www.shop.example=",
        "hostapi": "www.shop.example/api=",
        "hostapiv1": "www.shop.example/api/v1=",
    }
    tunnel = await start_tunnel(stack, *[text + await start_site(stack, name) for name, text in routes.items()])
    for host, path, name in (
        ("other.example", "/", "any"),
        ("shop.example", "/", "any"),
        ("other.example", "/api", "prefix"),
        ("other.example", "/api/x?y", "prefix"),
        ("other.example", "/apix", "any"),
        ("other.example", "/x/api", "any"),
        ("a.shop.example", "/", "wildcard"),
        ("a.b.shop.example:8080", "/api", "wildcard"),
        ("www.shop.example", "/", "host"),
        ("WWW.Shop.Example:80", "/apis", "host"),
        ("www.shop.example.", "/api/v2", "hostapi"),
        ("www.shop.example", "/api/v1/x", "hostapiv1"),
        ("www.shop.example", "/api/v1?x=/", "hostapiv1"),
        ("www.shop.example", "/api/v11", "hostapi"),
    ):
        assert await get(tunnel, host, path) == f"{name} {host} {path}"


async def test_nothing_fits(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "shop.example/api=" + await start_site(stack, "api"))
    assert await get(tunnel, "shop.example", "/api") == "api shop.example /api"
    assert await get(tunnel, "shop.example", "/") == "404"
    assert await get(tunnel, "www.shop.example", "/api") == "404"


async def test_what_is_rewritten_for_the_backend(stack: AsyncExitStack) -> None:
    """strip_prefix and host_rewrite change what the backend sees, for HTTP and WebSocket alike."""
    site = await start_site(stack, "site")
    paths = []

    async def chat(connection: websockets.asyncio.server.ServerConnection) -> None:
        assert connection.request
        paths.append((connection.request.headers["Host"], connection.request.path))

    server = await stack.enter_async_context(websockets.asyncio.server.serve(chat, "127.0.0.1", 0))
    chat_url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
    tunnel = await start_tunnel(
        stack,
        route(site, path_prefix="/app", strip_prefix=True),
        route(site, host="old.example", host_rewrite="new.example:81"),
        route(site, host="both.example", path_prefix="/a/b", strip_prefix=True, host_rewrite="inner"),
        route(chat_url, host="chat.example", path_prefix="/ws", strip_prefix=True, host_rewrite="chat.inner"),
    )
    assert await get(tunnel, "x.example", "/app/page?q=/app") == "site x.example /page?q=/app"
    assert await get(tunnel, "x.example", "/app") == "site x.example /"
    assert await get(tunnel, "x.example", "/app?q") == "site x.example /?q"
    assert await get(tunnel, "x.example", "/app//x") == "site x.example //x"
    assert await get(tunnel, "old.example", "/app") == "site new.example:81 /app"
    assert await get(tunnel, "both.example", "/a/b/c") == "site inner /c"
    url = "ws://chat.example/ws/room?x"
    async with websockets.asyncio.client.connect(url, host=tunnel.host, port=tunnel.port):
        pass
    assert paths == [("chat.inner", "/room?x")]


async def test_clients_of_one_route_take_turns(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, await start_site(stack, "first"))
    await start_client(stack, tunnel.server.tunnel, [await start_site(stack, "second")])
    third = await start_client(stack, tunnel.server.tunnel, [await start_site(stack, "third")])
    said = Counter([(await get(tunnel, "a")).split(" ")[0] for _ in range(30)])
    assert said == {"first": 10, "second": 10, "third": 10}
    await third.stop()
    said = Counter([(await get(tunnel, "a")).split(" ")[0] for _ in range(20)])
    assert said == {"first": 10, "second": 10}, "one that has gone gets nothing any more"


async def test_routes_of_several_clients(stack: AsyncExitStack) -> None:
    """Each client serves its own hosts, through one public port."""
    tunnel = await start_tunnel(stack, "a.example=" + await start_site(stack, "a"))
    other = await start_client(stack, tunnel.server.tunnel, ["b.example=" + await start_site(stack, "b")])
    assert (await get(tunnel, "a.example")).startswith("a ")
    assert (await get(tunnel, "b.example")).startswith("b ")
    assert [str(route) for route in tunnel.server.routes] == ["a.example", "b.example"]
    await other.stop()
    assert await get(tunnel, "b.example") == "503", "it may come back"
    assert (await get(tunnel, "a.example")).startswith("a ")


async def test_an_exclusive_route_is_not_shared(stack: AsyncExitStack) -> None:
    site = await start_site(stack, "site")
    tunnel = await start_tunnel(stack, route(site, host="mine.example", exclusive=True))
    with pytest.raises(RegisterError):
        await start_client(stack, tunnel.server.tunnel, ["mine.example=" + site])
    assert (await get(tunnel, "mine.example")).startswith("site ")
    await start_client(stack, tunnel.server.tunnel, ["other.example=" + site])


async def test_protocols_of_one_host_go_to_their_backends(stack: AsyncExitStack) -> None:
    """HTTP and WebSocket to one, gRPC to another, by what the request is."""
    site = await start_site(stack, "site")
    tunnel = await start_tunnel(stack, site, await start_grpc(stack))
    assert (await get(tunnel, "a", "/fasttunnel.test.Echo/Unary")).startswith("site ")
    stub = await open_channel(stack, tunnel.authority)
    assert (await stub.Unary(Note(number=1))).number == 1
    with pytest.raises(InvalidStatus) as refusal:
        async with websockets.asyncio.client.connect(tunnel.ws_url):
            pass
    assert refusal.value.response.status_code == 200, "the site answers, but not to the handshake"


async def test_grpc_services(stack: AsyncExitStack) -> None:
    """A service that is named goes to its backend, everything else to the one for all."""

    def naming(number: int) -> object:
        async def unary(request: object, context: object) -> object:
            return Note(number=number)

        return unary

    everything = await start_grpc(stack, Unary=naming(1))
    named = await start_grpc(stack, Unary=naming(2))
    on_host = await start_grpc(stack, Unary=naming(3))
    tunnel = await start_tunnel(
        stack,
        everything,
        f"/fasttunnel.test.Echo={named}",
        f"api.example={everything}",
        f"api.example/fasttunnel.test.Echo={on_host}",
        "/fasttunnel.test.Ech=grpc://127.0.0.1:1",
    )
    stub = await open_channel(stack, tunnel.authority)
    assert (await stub.Unary(Note())).number == 2
    stub = await open_channel(stack, tunnel.authority, [("grpc.default_authority", "api.example")])
    assert (await stub.Unary(Note())).number == 3

    other = await open_channel(stack, tunnel.authority, service="Other")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await other.Unary(Note())
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert failure.value.details() == "Method not found!", "said by the backend for everything, not by the tunnel"
