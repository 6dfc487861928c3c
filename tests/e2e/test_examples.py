"""Ordinary programs behind the tunnel, as the README and the examples show them."""

import re
import signal
import sys
import textwrap
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.support import programs
from tests.support.command import Command
from tests.support.site import start_site
from tests.support.tunnel import WAIT_S, start_client, start_server, start_tunnel

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
async def http(stack: AsyncExitStack) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=WAIT_S)
    return await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, auto_decompress=False))


async def start_python(stack: AsyncExitStack, *arguments: str) -> Command:
    return await programs.start(stack, sys.executable, *arguments)


async def test_http_server_of_python(stack: AsyncExitStack, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """An HTTP/1.0 server: its answers end with the connection."""
    page = bytes(range(256)) * 2000
    (tmp_path / "page.bin").write_bytes(page)
    (tmp_path / "folder").mkdir()
    server = await start_python(stack, "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path))
    port = (await server.line(r"port (\d+)"))[1]
    tunnel = await start_tunnel(stack, f"http://127.0.0.1:{port}")
    for _ in range(2):
        async with http.get(tunnel.url + "/") as answer:
            assert b'href="page.bin"' in await answer.read()
        async with http.get(tunnel.url + "/page.bin") as answer:
            assert await answer.read() == page
            modified = answer.headers["Last-Modified"]
    async with http.get(tunnel.url + "/page.bin", headers={"If-Modified-Since": modified}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with http.get(tunnel.url + "/folder", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, "/folder/")
    async with http.get(tunnel.url + "/nothing") as answer:
        assert answer.status == 404
        assert b"File not found" in await answer.read(), "said by the site"
    async with http.post(tunnel.url + "/", data=b"x") as answer:
        assert answer.status == 501


async def test_the_chat(stack: AsyncExitStack, http: aiohttp.ClientSession) -> None:
    """FastAPI on uvicorn; two people talk through the tunnel."""
    server = await start_python(
        stack, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "chat"), "chat:app", "--host", "127.0.0.1", "--port", "0"
    )
    port = (await server.line(r"running on http://127.0.0.1:(\d+)"))[1]
    tunnel = await start_tunnel(stack, f"http://127.0.0.1:{port}")
    async with http.get(tunnel.url + "/") as answer:
        assert answer.status == 200
        assert await answer.read() == (EXAMPLES / "chat" / "chat.html").read_bytes()

    async def hears(socket: aiohttp.ClientWebSocketResponse, text: str) -> None:
        assert await socket.receive_str(timeout=WAIT_S) == text

    ann = await stack.enter_async_context(http.ws_connect(tunnel.ws_url + "/chat/Ann"))
    await hears(ann, "Ann came")
    async with http.ws_connect(tunnel.ws_url + "/chat/J%C3%B6rg") as joerg:
        for socket in (ann, joerg):
            await hears(socket, "Jörg came")
        await joerg.send_str("grüße \U0001f600")
        for socket in (ann, joerg):
            await hears(socket, "Jörg: grüße \U0001f600")
        async with http.get(tunnel.url + "/present") as answer:
            assert await answer.json() == ["Ann", "Jörg"]
    await hears(ann, "Jörg left")


async def test_the_stock_client(stack: AsyncExitStack, http: aiohttp.ClientSession) -> None:
    server = await start_server(stack)
    client = await start_python(stack, str(EXAMPLES / "stock_grpc_client.py"), server.tunnel)
    await client.line("registered")
    async with http.post(server.public_url + "/any/path", data=bytes(1_000_000)) as answer:
        assert await answer.text() == "you sent 1000000 bytes\n"


async def test_the_stock_server(stack: AsyncExitStack) -> None:
    site = await start_site(stack)
    server = await start_python(stack, str(EXAMPLES / "stock_grpc_server.py"), "127.0.0.1:0")
    address = (await server.line(r"at (127.0.0.1:\d+)"))[1]
    await start_client(stack, address, [site])
    await server.line("status 404")


@pytest.mark.cython_only("it names no engine")
@pytest.mark.parametrize("page", ["README.md", "docs/guides/python.md"])
async def test_the_snippet_of_a_page(stack: AsyncExitStack, page: str) -> None:
    """As it is printed; Ctrl-C ends it without a traceback."""
    section = (ROOT / page).read_text().partition("# From Python\n")[2]
    snippet = re.match(r"\n((?: {4}.*\n|\n)+)", section)
    assert snippet
    program = await start_python(stack, "-c", textwrap.dedent(snippet[1]))
    await program.line(r"http://127.0.0.1:\d+")
    program.signal(signal.SIGINT)
    assert await program.end() == 0
