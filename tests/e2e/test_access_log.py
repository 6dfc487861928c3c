"""The access log of both ends: a line for each request, and traffic that goes on whatever becomes of the file."""

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession, web

from tests.support.grpc_peers import Note, open_channel, start_grpc
from tests.support.raw import start_raw
from tests.support.tunnel import Recorder, Tunnel, eventually, start_client, start_server, start_tunnel
from tests.support.web import start_web

TRACE = "0af7651916cd43dd8448eb211c80319c"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def until_lines(path: Path, count: int) -> list[dict[str, Any]]:
    await eventually(lambda: len(lines_of(path)) >= count, lambda: f"{count} lines, there are {lines_of(path)}")
    return lines_of(path)


async def get(stack: AsyncExitStack, tunnel: Tunnel, path: str = "/", host: str = "h.example", **fields: str) -> bytes:
    """The answer to a request of which the connection is then closed."""
    reader, writer = await asyncio.open_connection(tunnel.host, tunnel.port)
    more = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n".encode())
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


async def start(stack: AsyncExitStack, logs: Path, **server: Any) -> Tunnel:
    """In front of a backend that answers everything with 5 bytes."""
    backend = await start_raw(stack)

    async def serve() -> None:
        while True:
            peer = await backend.accept()
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            peer.writer.close()

    serving = asyncio.create_task(serve())
    stack.callback(serving.cancel)
    ends = {"log_format": "json"}
    return await start_tunnel(
        stack,
        f"h.example={backend.url}",
        "down.example=http://127.0.0.1:1",
        await start_grpc(stack),
        server={"access_log": str(logs / "server"), **ends, **server},
        client={"access_log": str(logs / "client"), "client_id": "c-1", **ends},
    )


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_a_line_for_each_request(stack: AsyncExitStack, tmp_path: Path) -> None:
    tunnel = await start(stack, tmp_path)
    await get(stack, tunnel, "/a%20b?token=secret", traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    stub = await open_channel(stack, tunnel.authority)
    await stub.Unary(Note(data=b"abc"))
    await get(stack, tunnel, host="down.example")
    await get(stack, tunnel, "/x", host="nobody.example")
    await tunnel.until_idle()
    server, client = await until_lines(tmp_path / "server", 4), await until_lines(tmp_path / "client", 3)
    assert "secret" not in (tmp_path / "server").read_text() + (tmp_path / "client").read_text()
    first = server[0]
    assert first["request_id"].startswith("h-")
    assert {
        key: first[key] for key in ("trace_id", "protocol", "route", "method", "host", "path", "status", "reset")
    } == {
        "trace_id": TRACE,
        "protocol": "http",
        "route": "h.example",
        "method": "GET",
        "host": "h.example",
        "path": "/a%20b",
        "status": 200,
        "reset": None,
    }
    assert (first["messages_in"], first["messages_out"], first["bytes_in"], first["bytes_out"]) == (1, 1, 0, 5)
    assert 0 < first["duration_s"] < 20
    assert (first["client_id"], first["peer"]) == ("c-1", "127.0.0.1")
    call = server[1]
    assert (call["protocol"], call["method"], call["status"]) == ("grpc", "Unary", "OK")
    assert call["bytes_in"] == call["bytes_out"] > 0
    assert (server[2]["status"], server[2]["reset"]) == (502, "BACKEND_UNREACHABLE")
    assert (server[3]["status"], server[3]["route"], server[3]["path"]) == (404, "", "/x")  # it went into no tunnel
    # The same requests at the other end, where the peer is the backend.
    kept = (
        "request_id",
        "trace_id",
        "protocol",
        "method",
        "path",
        "status",
        "reset",
        "bytes_in",
        "bytes_out",
        "client_id",
    )
    for there, here in zip(server, client, strict=False):
        assert {key: here[key] for key in kept} == {key: there[key] for key in kept}
    assert client[0]["peer"].startswith("http://127.0.0.1:")
    assert client[1]["peer"].startswith("grpc://127.0.0.1:")


async def test_a_refused_call(stack: AsyncExitStack, tmp_path: Path) -> None:
    server = await start_server(stack, access_log=str(tmp_path / "log"), log_format="json")
    host, port = server.address
    stub = await open_channel(stack, f"{host}:{port}")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Unary(Note())
    (line,) = await until_lines(tmp_path / "log", 1)
    assert (line["protocol"], line["method"], line["status"]) == ("grpc", "Unary", "UNIMPLEMENTED")


async def test_a_stop_loses_no_line(stack: AsyncExitStack, tmp_path: Path) -> None:
    tunnel = await start(stack, tmp_path)
    for number in range(20):
        await get(stack, tunnel, f"/{number}")
    await tunnel.until_idle()
    await tunnel.client.stop(0)
    await tunnel.server.stop(0)
    for end in ("server", "client"):  # by now, and not a tenth of a second later
        assert [line["path"] for line in lines_of(tmp_path / end)] == [f"/{number}" for number in range(20)]


async def test_the_last_requests(stack: AsyncExitStack, tmp_path: Path) -> None:
    events, client_events = Recorder(), Recorder()
    events.keeps_last = client_events.keeps_last = 3
    begun_s = time.time()
    server = await start_server(stack, events)
    assert server.last_requests(3) == []
    backend = await start_web(stack, web.get("/{path:.*}", hello))
    client = await start_client(stack, server.tunnel, [f"h.example={backend}"], client_events)
    for host, path in [("h.example", "/1"), ("h.example", "/2?x=1"), ("nobody.example", "/3"), ("h.example", "/4")]:
        async with ClientSession() as http, http.get(f"{server.public_url}{path}", headers={"Host": host}):
            pass
    await eventually(lambda: len(client.last_requests(3)) == 3)
    await eventually(lambda: server.last_requests(1)[0][1].path == "/4")
    told = [(record.path, record.status, record.route) for _, record in server.last_requests(9)]
    assert told == [("/2", 200, "h.example"), ("/3", 404, ""), ("/4", 200, "h.example")]
    assert [record.path for _, record in client.last_requests(2)] == ["/2", "/4"]
    assert all(begun_s - 0.1 < ended_s < time.time() + 0.1 for ended_s, _ in server.last_requests(3))


@pytest.mark.cython_only("the format knows nothing of engines")
async def test_for_people(stack: AsyncExitStack, tmp_path: Path) -> None:
    tunnel = await start(stack, tmp_path, log_format="human")
    await get(stack, tunnel, "/a")
    await eventually(lambda: (tmp_path / "server").read_text().endswith("\n"))
    words = (tmp_path / "server").read_text().split()
    assert words[3:10] == ["http", "h.example", "GET", "h.example", "/a", "200", "-"]
    assert words[10:12] == ["messages=1/1", "bytes=0/5"]


@pytest.mark.cython_only("the file knows nothing of engines")
async def test_a_file_that_is_moved_away(stack: AsyncExitStack, tmp_path: Path) -> None:
    tunnel = await start(stack, tmp_path)
    await get(stack, tunnel, "/1")
    await until_lines(tmp_path / "server", 1)
    (tmp_path / "server").rename(tmp_path / "server.1")
    await get(stack, tunnel, "/2")
    await until_lines(tmp_path / "server.1", 2)
    tunnel.server.reload()
    await get(stack, tunnel, "/3")
    lines = await until_lines(tmp_path / "server", 1)
    assert [line["path"] for line in lines] == ["/3"]
    assert [line["path"] for line in lines_of(tmp_path / "server.1")] == ["/1", "/2"]


@pytest.mark.cython_only("the file knows nothing of engines")
async def test_a_disk_that_is_full(stack: AsyncExitStack, tmp_path: Path) -> None:
    tunnel = await start(stack, tmp_path, access_log="/dev/full")
    for _ in range(3):
        assert (await get(stack, tunnel)).endswith(b"hello")
    await eventually(lambda: len(tunnel.events.warnings) == 1)
    assert "/dev/full: no space left on device" in tunnel.events.warnings.pop()
    assert (await get(stack, tunnel)).endswith(b"hello")


@pytest.mark.cython_only("the file knows nothing of engines")
async def test_a_pipe_that_is_closed_or_not_read(stack: AsyncExitStack, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    tunnel = await start(stack, tmp_path, access_log=str(fifo))
    os.set_blocking(reader, True)
    await get(stack, tunnel)
    assert b'"path":"/"' in await asyncio.to_thread(os.read, reader, 4096)
    for _ in range(300):  # more than a pipe holds: its writer hangs, the traffic does not
        assert (await get(stack, tunnel, "/" + "x" * 500)).endswith(b"hello")
    os.close(reader)
    await eventually(lambda: len(tunnel.events.warnings) == 1)
    assert "broken pipe" in tunnel.events.warnings.pop()
    assert (await get(stack, tunnel)).endswith(b"hello")
