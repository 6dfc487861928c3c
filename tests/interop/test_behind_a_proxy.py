"""The configurations of docs/guides/behind-a-proxy.md, run by the programs that they are for, with other ports."""

import asyncio
import io
import os
import pwd
import re
import socket
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.abc
import grpc
import pytest
from aiohttp import web

from fasttunnel.control.tls import read_pem
from tests.support import programs
from tests.support.certificates import authority
from tests.support.child import start_child
from tests.support.command import Command
from tests.support.documents import blocks
from tests.support.grpc_peers import Note, services, start_grpc
from tests.support.site import fields, upload, websocket
from tests.support.tunnel import WAIT_S, start_client, start_server, start_tunnel
from tests.support.web import start_web
from tests.support.web_servers import bind

PAGE = "guides/behind-a-proxy.md"
HOST = "shop.t.example.com"
KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # of what nginx keeps in files
BEHIND = {"trusted_proxies": ["127.0.0.1"], "max_failed_logins": 0, "max_connections_per_address": 0}


class Events:
    """An event is sent when the one before has arrived."""

    def __init__(self) -> None:
        self.wanted = asyncio.Semaphore(0)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": request.query["type"]})
        await response.prepare(request)
        for number in range(5):
            await response.write(b"data: %d\n\n" % number)
            await self.wanted.acquire()
        return response


class Here(aiohttp.abc.AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[Any]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


def nginx(folder: Path, ports: dict[str, int], *, tunnel: bool = False) -> list[str]:
    found = blocks(PAGE, "nginx")
    (block,) = [block.text for block in found if "fasttunnel.conf" in block.info]
    (location,) = [block.text for block in found if block.text.startswith("location /fasttunnel")]
    if tunnel:
        block = block.replace("    location / {", location + "    location / {")
        block = block.replace("127.0.0.1:7000", f"127.0.0.1:{ports['tunnel']}")
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(
        f"{user}\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr warn;\n"
        f"events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + filled(block, ports)
        + "}\n"
    )
    return [
        programs.need("nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"),
        "-p",
        str(folder),
        "-c",
        f"{folder}/conf",
    ]


def caddy(folder: Path, ports: dict[str, int]) -> list[str]:
    (block,) = blocks(PAGE, "caddy")
    pair = authority().issue("proxy", "t.example.com", "*.t.example.com")
    text = block.text.replace("t.example.com, *.t.example.com {", f"https://*.t.example.com:{ports['https']} {{")
    text = text.replace("    @grpc", f"    tls {pair.cert} {pair.key}\n    @grpc", 1)
    (folder / "Caddyfile").write_text(f"{{\nadmin off\nauto_https disable_redirects\n}}\n{filled(text, ports)}")
    return [programs.need("caddy"), "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


def haproxy(folder: Path, ports: dict[str, int]) -> list[str]:
    (block,) = blocks(PAGE, "haproxy")
    pair = authority().issue("proxy", "t.example.com", "*.t.example.com")
    (folder / "both.pem").write_text(Path(pair.cert).read_text() + Path(pair.key).read_text())
    text = block.text.replace("/etc/haproxy/t.example.com.pem", f"{folder}/both.pem")
    (folder / "cfg").write_text(filled(text.replace("bind :443", f"bind 127.0.0.1:{ports['https']}"), ports))
    return [programs.need("haproxy", "/usr/sbin/haproxy"), "-db", "-f", f"{folder}/cfg"]


def filled(text: str, ports: dict[str, int]) -> str:
    """With ports and certificates of now; whatever the page names has to be found."""
    pair = authority().issue("proxy", "t.example.com", "*.t.example.com")
    changes = {
        r"(?<=listen )443": f"127.0.0.1:{ports['https']}",
        r"(?<=listen )80(?=;)": f"127.0.0.1:{ports['http']}",
        r"127\.0\.0\.1:8080": f"127.0.0.1:{ports['public']}",
        r"/etc/letsencrypt/\S+fullchain\.pem": pair.cert,
        r"/etc/letsencrypt/\S+privkey\.pem": pair.key,
    }
    for pattern, replacement in changes.items():
        text = re.sub(pattern, replacement, text)
    assert str(ports["public"]) in text
    return text


async def start_proxy(
    stack: AsyncExitStack, folder: Path, public: int, command: Callable[..., list[str]], **options: Any
) -> int:
    """The proxy in front of the server's public port; its own port of HTTPS."""
    with bind() as one, bind() as other:  # both at once, so that they differ
        https, http = (listener.getsockname()[1] for listener in (one, other))
    given = command(folder, {"https": https, "http": http, "public": public, **options.pop("ports", {})}, **options)
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    process = await start_child(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    stack.push_async_callback(process.kill)
    await until_listens(https, Command(process))
    return https


async def until_listens(port: int, program: Command) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if program.process.returncode is not None:
                    await program.end()
                    raise AssertionError("\n".join(program.lines)) from None
                await asyncio.sleep(0.01)
            else:
                return writer.close()


@pytest.mark.parametrize("proxy", [nginx, caddy, haproxy])
async def test_everything_passes(stack: AsyncExitStack, tmp_path: Path, proxy: Callable[..., list[str]]) -> None:
    events = Events()
    site = await start_web(
        stack,
        web.get("/fields", fields),
        web.get("/events", events.serve),
        web.get("/websocket", websocket),
        web.post("/upload", upload),
    )
    tunnel = await start_tunnel(stack, site, await start_grpc(stack), server=BEHIND)
    port = await start_proxy(stack, tmp_path, tunnel.port, proxy)
    connector = aiohttp.TCPConnector(resolver=Here(), ssl=authority().context())
    http = await stack.enter_async_context(aiohttp.ClientSession(f"https://{HOST}:{port}", connector=connector))
    await of_http(http, events)
    await of_websocket(http)
    await of_grpc(stack, port)


async def of_http(http: aiohttp.ClientSession, events: Events) -> None:
    async with http.get("/fields") as answer:
        seen = await answer.json()
    assert seen["host"].partition(":")[0] == HOST
    assert seen["x-forwarded-for"] == "127.0.0.1, 127.0.0.1", "the visitor's address, then the proxy's"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-host"].partition(":")[0] == HOST
    for kind in ("text/event-stream", "application/x-ndjson"):
        async with http.get("/events", params={"type": kind}) as answer:
            for number in range(5):
                async with asyncio.timeout(WAIT_S):
                    assert await answer.content.readuntil(b"\n\n") == b"data: %d\n\n" % number, kind
                events.wanted.release()
            assert await answer.content.read() == b""
    async with http.post("/upload", data=io.BytesIO(bytes(3_000_000))) as answer:
        assert (await answer.json())["bytes"] == 3_000_000


async def of_websocket(http: aiohttp.ClientSession) -> None:
    async with http.ws_connect("/websocket", protocols=["echo"]) as connection:
        for text in ("one", "two"):
            await connection.send_str(text)
            assert await connection.receive_str() == text.upper()
        await connection.send_str("close")
        assert (await connection.receive()).data == 4001


async def of_grpc(stack: AsyncExitStack, port: int) -> None:
    options = [("grpc.ssl_target_name_override", HOST), ("grpc.use_local_subchannel_pool", 1)]
    trusted = grpc.ssl_channel_credentials(read_pem(authority().ca))
    channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=options)
    echo = services.EchoStub(await stack.enter_async_context(channel))
    assert (await echo.Unary(Note(number=7))).number == 7
    call = echo.Talk()
    for number in range(3):
        await call.write(Note(number=number))
        assert (await call.read()).number == number
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def test_a_tunnel_through_nginx(stack: AsyncExitStack, tmp_path: Path) -> None:
    """For clients that reach nothing but its port."""
    server = await start_server(stack, **BEHIND)
    ports = {"tunnel": int(server.tunnel.rpartition(":")[2])}
    port = await start_proxy(stack, tmp_path, server.address[1], nginx, ports=ports, tunnel=True)
    site = await start_web(stack, web.get("/fields", fields), web.post("/upload", upload))
    given = {"ca": authority().ca, "server_name": HOST}
    await start_client(stack, f"127.0.0.1:{port}", [site], **given)
    host, public = server.address
    async with aiohttp.ClientSession(f"http://{host}:{public}") as http:
        async with http.post("/upload", data=io.BytesIO(bytes(3_000_000))) as answer:
            assert (await answer.json())["bytes"] == 3_000_000
        async with http.get("/fields") as answer:
            assert answer.status == 200
