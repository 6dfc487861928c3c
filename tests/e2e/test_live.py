"""The status on a terminal, and the lines where there is none."""

import asyncio
import os
import re
import shlex
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSMsgType, web

from tests.support.command import command
from tests.support.terminal import Terminal
from tests.support.tunnel import Recorder, eventually, start_client, start_server
from tests.support.web import start_web

FREE = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--no-token")
pytestmark = pytest.mark.cython_only("what the commands show, whichever engine runs")


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello", status=int(request.query.get("status", "200")))


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        assert message.type == WSMsgType.TEXT
        await socket.send_str(message.data)
    return socket


async def app(stack: AsyncExitStack) -> str:
    return await start_web(stack, web.get("/ws", echo), web.get("/{path:.*}", hello))


async def test_a_server_on_a_terminal(stack: AsyncExitStack) -> None:
    backend = await app(stack)
    terminal = await stack.enter_async_context(Terminal("server", *FREE))
    url = (await terminal.until(r"public +(http://\S+)"))[1]
    tunnel = (await terminal.until(r"tunnel +(\S+:\d+)"))[1]
    await terminal.until(r"clients +none")
    await start_client(stack, tunnel, [backend])
    await terminal.until(r"clients +1")
    await terminal.until(rf"route +{url}  HTTP, WebSocket")
    async with ClientSession() as http:
        async with http.get(f"{url}/some/where?s3cret=1&status=404"):
            pass
        await terminal.until(r"\d\d:\d\d:\d\d +GET +/some/where +404 +[\d.]+ ms")
        await terminal.until(r"traffic +0\.\d requests/s|traffic +[1-9][\d.]* requests/s")
        async with http.ws_connect(f"{url}/ws") as socket:
            await socket.send_str("x")
            await socket.receive_str()
            await terminal.until("under way: 1 WebSocket")
        await terminal.until(r"WS +/ws +1000")
        await terminal.until("under way: nothing", behind=terminal.text.rindex("1 WebSocket"))
        async with http.get(f"{url}/\x1b[31mred"):  # what a visitor sends moves no cursor
            pass
    assert "s3cret" not in terminal.raw
    terminal.signal(signal.SIGINT)
    await terminal.until("stopping")
    assert await terminal.end() == 0
    assert terminal.raw.count("\x1b[?25l") <= terminal.raw.count("\x1b[?25h"), "the cursor is there again"
    assert "Traceback" not in terminal.text


async def test_it_is_drawn_at_most_four_times_a_second_and_only_when_it_changes(stack: AsyncExitStack) -> None:
    backend = await app(stack)
    terminal = await stack.enter_async_context(Terminal("server", *FREE, "--heartbeat-interval-s", "1"))
    url = (await terminal.until(r"public +(http://\S+)"))[1]
    tunnel = (await terminal.until(r"tunnel +(\S+:\d+)"))[1]
    events, passed = Recorder(), []
    events.tap = lambda *message: passed.append(message)
    await start_client(stack, tunnel, [backend], events)
    await terminal.until(r"clients +1 +round trip")
    async with ClientSession() as http:
        drawn, loop = terminal.raw.count("traffic "), asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() < begun + 1:
            async with http.get(f"{url}/busy"):
                pass
        drawn = terminal.raw.count("traffic ") - drawn
        took_s = loop.time() - begun
    assert 2 <= drawn <= 4 * took_s + 2
    await terminal.until(r"traffic +0\.0 requests/s", behind=len(terminal.text))
    quiet = terminal.raw.count("traffic ")
    passed.clear()
    await eventually(lambda: len(passed) >= 2 * 4)  # two seconds: a heartbeat of either end each, and its answer
    assert terminal.raw.count("traffic ") - quiet <= 3, "each heartbeat has another round trip"


async def test_a_client_on_a_terminal(stack: AsyncExitStack) -> None:
    server = await start_server(stack, domain="localhost")
    tunnel, port = server.tunnel, server.address[1]
    terminal = await stack.enter_async_context(
        Terminal("client", "--server", tunnel, "--name", "otter", "http://127.0.0.1:1", columns=60)
    )
    await terminal.until(rf"tunnel +up  {tunnel}")
    await terminal.until(r"backend +http://127.0.0.1:1 does not listen")
    await terminal.until(rf"online +http://otter\.localhost:{port}")
    drawn = [line for line in terminal.lines if line.startswith(("  traffic", "  tunnel "))]
    assert drawn
    assert max(map(len, drawn)) <= 60
    await server.stop(0)
    await terminal.until(r"tunnel +away")
    terminal.signal(signal.SIGTERM)
    assert await terminal.end() == 0


@pytest.mark.parametrize(("options", "environment"), [(["--plain"], {}), ([], {"TERM": "dumb"})], ids=["asked", "dumb"])
async def test_lines_on_a_terminal(stack: AsyncExitStack, options: list[str], environment: dict[str, str]) -> None:
    terminal = await stack.enter_async_context(Terminal("server", *FREE, *options, **environment))
    await terminal.until(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z public +http")
    await terminal.until("fasttunnel client")
    assert "clients" not in terminal.text
    assert "\x1b[?25l" not in terminal.raw
    assert "\x1b[2K" not in terminal.raw


async def test_no_color(stack: AsyncExitStack) -> None:
    terminal = await stack.enter_async_context(Terminal("server", *FREE, NO_COLOR="1"))
    await terminal.until(r"clients +none")
    colours = re.findall(r"\x1b\[([\d;]*)m", terminal.raw)
    assert not [code for code in colours if any(30 <= int(part or 0) <= 107 for part in code.split(";"))]


async def test_lines_where_there_is_no_terminal(stack: AsyncExitStack) -> None:
    server = await stack.enter_async_context(command("server", *FREE))
    await server.line(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z fasttunnel server  ")
    await server.line(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z public +http")


async def test_a_qr_code_and_a_browser(stack: AsyncExitStack, tmp_path: Path) -> None:
    server = await start_server(stack)
    opened = tmp_path / "opened"
    browser = f"{shlex.quote(sys.executable)} -c \"import sys; open({str(opened)!r}, 'w').write(sys.argv[1])\" %s"
    terminal = await stack.enter_async_context(
        Terminal(
            *("client", "--server", server.tunnel, "--qr", "--open", "http://127.0.0.1:1"),
            **{"BROWSER": browser, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
    )
    await terminal.until("online")
    await terminal.until("[█▀▄]{10}")
    await eventually(lambda: bool(_content(opened)))
    assert _content(opened) == server.public_url


def _content(path: Path) -> str:
    return path.read_text() if path.exists() else ""
