"""Clients that name no host, at a server with a domain: each is NAME.DOMAIN, and stays it."""

import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web

import fasttunnel
from fasttunnel.control.names import check_name
from fasttunnel.errors import AuthError, RegisterError
from tests.support.certificates import authority
from tests.support.command import command
from tests.support.token_files import TokenFile
from tests.support.tunnel import Recorder, eventually, start_client, start_server
from tests.support.web import start_web

DOMAIN = "t.example"


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.app.get('name', '')} {request.host}")


async def ask(server: fasttunnel.Server, host: str) -> tuple[int, str]:
    async with ClientSession() as http, http.get(server.public_url, headers={"Host": host}) as answer:
        return answer.status, await answer.text()


async def domain_server(stack: AsyncExitStack, **options: Any) -> fasttunnel.Server:
    return await start_server(stack, domain=DOMAIN, **options)


async def test_each_client_gets_a_name_of_its_own(stack: AsyncExitStack) -> None:
    server = await domain_server(stack)
    backend = await start_web(stack, web.get("/", hello))
    clients = [await start_client(stack, server.tunnel, [backend, "grpc://127.0.0.1:1"]) for _ in range(3)]
    names = [client.name for client in clients]
    assert len(set(map(check_name, names))) == 3
    port = server.address[1]
    for client, name in zip(clients, names, strict=True):
        assert client.urls == [f"http://{name}.{DOMAIN}:{port}", f"grpc://{name}.{DOMAIN}:{port}"]
        status, text = await ask(server, f"{name}.{DOMAIN}:{port}")
        assert (status, text) == (200, f" {name}.{DOMAIN}:{port}")
    assert (await ask(server, f"nobody.{DOMAIN}"))[0] == 404
    assert (await ask(server, server.public_url.rpartition("/")[2]))[0] == 404


@pytest.mark.parametrize(
    ("public_url", "urls"),
    [
        ("https://Example.com", ["https://example.com", "https://shop.example.com/api", "grpcs://example.com:443"]),
        ("http://[::1]:80/", ["http://[::1]", "http://shop.example.com/api", "grpc://[::1]:80"]),
        (
            "https://example.com:8443",
            ["https://example.com:8443", "https://shop.example.com:8443/api", "grpcs://example.com:8443"],
        ),
    ],
)
async def test_urls_behind_a_proxy(stack: AsyncExitStack, public_url: str, urls: list[str]) -> None:
    server = await start_server(stack, public_url=public_url)
    routes = ["http://127.0.0.1:1", "shop.example.com/api=http://127.0.0.1:1", "grpc://127.0.0.1:1"]
    assert (await start_client(stack, server.tunnel, routes)).urls == urls
    assert server.public_url == f"http://127.0.0.1:{server.address[1]}", "from this machine"


@pytest.mark.parametrize("covered", [True, False])
async def test_a_certificate_for_the_names_of_a_domain(stack: AsyncExitStack, covered: bool) -> None:
    pair = authority().issue(f"names-{covered}", "*.t.example" if covered else "t.example")
    events = Recorder()
    await start_server(stack, events, domain=DOMAIN, cert=pair.cert, key=pair.key)
    assert [text for text in events.warnings if "no certificate is for *.t.example" in text] == events.warnings
    assert bool(events.warnings) == (not covered)


async def test_a_name_that_is_asked_for(stack: AsyncExitStack) -> None:
    server = await domain_server(stack)
    client = await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], name="Shop", connections=2)
    assert client.name == "shop"
    await eventually(lambda: client.status()["tunnels"] == 2)
    for options in ({"name": "shop"}, {"name": "shop", "client_id": "other"}):
        with pytest.raises(RegisterError, match="the name shop is taken by another client"):
            await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], **options)
    other = await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], name="shop", any_name=True)
    assert other.name not in ("", "shop")
    # Nor by naming it as a host, nor as a name what another client has named as a host.
    with pytest.raises(RegisterError, match=rf"host shop\.{DOMAIN} is taken by another client"):
        await start_client(stack, server.tunnel, [f"shop.{DOMAIN}/x=http://127.0.0.1:1"])
    await start_client(stack, server.tunnel, [f"own.{DOMAIN}/x=http://127.0.0.1:1"])
    with pytest.raises(RegisterError, match="the name own is taken"):
        await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], name="own")
    # The same client, come again.
    mine = client.status()["client_id"]
    again = await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], name="shop", client_id=mine)
    assert again.name == "shop"


async def test_a_name_outlives_a_connection_and_the_server(stack: AsyncExitStack) -> None:
    server = await domain_server(stack)
    events = Recorder()
    client = await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], events, backoff_max_s=0.1)
    name, tunnel = client.name, server.tunnel
    await server.stop(0)
    server = await domain_server(stack, tunnel=tunnel)
    await events.until_line("connected", 2)
    assert client.name == name
    assert client.urls == [f"http://{name}.{DOMAIN}:{server.address[1]}"]
    # The server has forgotten who had which name: who comes first has it, the other one another.
    await server.stop(0)
    await events.until_line("away", 2)
    server = await domain_server(stack, tunnel=tunnel.rpartition(":")[0] + ":0")
    await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], name=name)
    assert server.routes[0].host == f"{name}.{DOMAIN}"


@pytest.mark.parametrize(
    ("hosts", "wanted", "says"),
    [
        ((f"*.{DOMAIN}",), "", None),
        ((f"shop.{DOMAIN}", f"pub.{DOMAIN}"), "pub", None),
        ((f"shop.{DOMAIN}",), "pub", rf"does not permit the route pub\.{DOMAIN}"),
        (("other.example",), "", f"the token permits no name under {DOMAIN}"),
        ((f"*.shop.{DOMAIN}",), "", f"the token permits no name under {DOMAIN}"),
    ],
)
async def test_what_a_token_permits_holds_for_names(
    stack: AsyncExitStack, tmp_path: Path, hosts: tuple[str, ...], wanted: str, says: str | None
) -> None:
    tokens = TokenFile(tmp_path / "tokens.toml")
    tokens.put("t0ken", name="shop", hosts=hosts)
    server = await domain_server(stack, tokens_file=str(tokens))
    options = {"token": "t0ken", "name": wanted}
    if says is None:
        assert (await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], **options)).name
    else:
        with pytest.raises(AuthError, match=says):
            await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], **options)


async def test_a_token_for_hosts_gets_the_first_that_is_free(stack: AsyncExitStack, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.toml")
    tokens.put("t0ken", name="shop", hosts=(f"shop.{DOMAIN}", f"pub.{DOMAIN}"))
    server = await domain_server(stack, tokens_file=str(tokens))
    start = lambda: start_client(stack, server.tunnel, ["http://127.0.0.1:1"], token="t0ken")  # noqa: E731
    assert [(await start()).name for _ in range(2)] == ["shop", "pub"]
    with pytest.raises(RegisterError, match="the names that the token permits are taken"):
        await start()


async def test_a_server_without_a_domain_gives_no_names(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    events = Recorder()
    client = await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], events, name="shop")
    assert events.warnings == ["the server gives no names, so shop stands for nothing; it would need --domain"]
    assert server.routes[0].host == ""
    assert client.urls == [server.public_url]


# -- commands


@pytest.mark.cython_only("what the command remembers, whichever engine runs")
async def test_a_name_outlives_the_client_and_several_keep_theirs_apart(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = await domain_server(stack)
    seen = r"http://([a-z0-9-]+)\.t\.example:\d+ +-> "
    dial = ("--server", server.tunnel)
    async with command("http", "3000", *dial) as one, command("http", "3000", *dial) as two:
        async with command("http", "4000", *dial) as other:
            names = [(await client.line(seen))[1] for client in (one, two, other)]
        assert len(set(names)) == 3
        one.signal(signal.SIGKILL)  # what is left of it at the server does not matter
        await one.end()
        async with command("http", "3000", *dial) as again:
            assert (await again.line(seen))[1] == names[0]
    async with command("http", "4000", *dial) as other:
        assert (await other.line(seen))[1] == names[2]
    async with command("http", "4000", *dial, "--name", "my-own") as other:
        assert (await other.line(seen))[1] == "my-own"
        other.signal(signal.SIGKILL)
        await other.end()
    async with command("http", "4000", *dial, "--name", "my-own") as other:
        assert (await other.line(seen))[1] == "my-own"
    for file in (tmp_path / "fasttunnel" / "clients").glob("*.json"):
        assert set(msgspec.json.decode(file.read_bytes())) == {"server", "client_id", "name"}
        assert file.stat().st_mode & 0o077 == 0
        file.write_text("no longer JSON")
    async with command("http", "3000", *dial) as one:
        await one.line(seen)


@pytest.mark.cython_only("what the command says, whichever engine runs")
async def test_a_server_says_its_domain(stack: AsyncExitStack, tmp_path: Path) -> None:
    free = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0")
    async with command("server", "--no-token", "--domain", "T.Example", *free) as server:
        await server.line(r"public +http://\*\.t\.example:\d+  HTTP, WebSocket and gRPC; here http://127\.0\.0\.1:\d+")
    for domain in ("*.t.example", "t.example:80", "a..b"):
        async with command("server", "--no-token", "--domain", domain, *free) as server:
            assert await server.end() == 2
            assert re.search("cannot be used|is not a domain", server.lines[0])
    assert os.listdir(tmp_path) == []
