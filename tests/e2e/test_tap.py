"""A tap on either end: what it shows of real traffic, how it comes and goes, and that it holds nothing up."""

import asyncio
import functools
import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fasttunnel.admin import tap as tapping
from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.support.command import command
from tests.support.grpc_peers import Note, open_channel, start_grpc
from tests.support.terminal import Terminal
from tests.support.tunnel import Tunnel, eventually, start_tunnel
from tests.support.web import start_web

ADMIN = {"admin": "127.0.0.1:0"}
Record = dict[str, Any]


class Reader:
    """What one tap has shown so far."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.told: list[Record] = []  # of the tap itself
        self._news = asyncio.Event()

    def take(self, line: bytes) -> None:
        record = json.loads(line)
        (self.told if "tap" in record else self.records).append(record)
        self._news.set()

    async def until(self, count: int) -> list[Record]:
        """So many records, and no more of them."""
        async with asyncio.timeout(20):
            while len(self.records) < count:
                self._news.clear()
                await self._news.wait()
        assert len(self.records) == count, self.records[count:]
        return self.records


def taps_of(end: Any) -> Any:
    return end.taps


@asynccontextmanager
async def tapped(end: Any, query: str = "") -> AsyncIterator[Reader]:
    """A tap that is on; when it is left nobody listens any more, as far as it goes."""
    reader = Reader()
    before = len(taps_of(end))
    async with aiohttp.ClientSession() as session, session.get(f"http://{end.admin}/tap{query}") as answer:
        assert answer.status == 200, await answer.text()

        async def read() -> None:
            async for line in answer.content:
                reader.take(line)

        task = asyncio.create_task(read())
        await eventually(lambda: bool(reader.told))
        assert reader.told[0]["tap"] == "begin"
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            answer.close()
    await eventually(lambda: len(taps_of(end)) <= before)


async def start_backend(stack: AsyncExitStack) -> str:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket

    address = await start_web(stack, web.get("/ws", talk), web.post("/{path:.*}", echo))
    return f"http://{address.removeprefix('http://')}"


async def start(stack: AsyncExitStack) -> tuple[Tunnel, aiohttp.ClientSession]:
    routes = (f"shop.example={await start_backend(stack)}", await start_grpc(stack))
    tunnel = await start_tunnel(stack, *routes, server=ADMIN, client=ADMIN)
    headers = {"Host": "shop.example"}
    return tunnel, await stack.enter_async_context(aiohttp.ClientSession(headers=headers))


def gist(record: Record) -> tuple[Any, ...]:
    """What is the same at both ends."""
    names = ("request_id", "protocol", "route", "direction", "kind", "size", "host", "method", "path", "number")
    more = ("status", "opcode", "code", "first", "last", "more", "reset", "payload", "payload_hex", "headers")
    return tuple(str(record.get(name)) for name in names + more)


async def test_all_that_passes_at_both_ends(stack: AsyncExitStack) -> None:
    tunnel, session = await start(stack)
    query = "?payload=10&headers=1"
    async with tapped(tunnel.server, query) as at_server, tapped(tunnel.client, query) as at_client:
        secret = {"Authorization": "Bearer s3cret", "Cookie": "a=s3cret"}
        async with session.post(f"{tunnel.url}/cart?token=s3cret", data=b"hello", headers=secret) as answer:
            assert await answer.read() == b"hello"
        async with session.ws_connect(f"{tunnel.ws_url}/ws") as socket:
            await socket.send_str("text, and long")
            assert (await socket.receive()).data == "text, and long"
            await socket.close(code=4001)
        stub = await open_channel(stack, tunnel.authority)
        assert [note.number async for note in stub.Down(Note(number=3, data=b"abc"))] == [0, 1, 2]
        await tunnel.until_idle()
        await eventually(lambda: at_client.records[-1:] != [] and at_client.records[-1].get("status_name") == "OK")
        await eventually(lambda: at_server.records[-1:] != [] and at_server.records[-1].get("status_name") == "OK")
        server, client = (sorted(map(gist, reader.records)) for reader in (at_server, at_client))
        assert server == client, [one for one in server + client if (one in server) is not (one in client)]
        assert "s3cret" not in str((at_server.records, at_client.records))
        for reader, sends in ((at_server, "to_backend"), (at_client, "to_public")):
            assert all(record["sent"] is (record["direction"] == sends) for record in reader.records)
            http = [record for record in reader.records if record["protocol"] == "http"]
            head, answer_head = http[0], next(record for record in http if record["kind"] == "http_response")
            assert (head["method"], head["path"], head["route"]) == ("POST", "/cart", "shop.example")
            assert [name for name, value in head["headers"] if value == "****"] == ["Authorization", "Cookie"]
            assert "".join(record.get("payload", "") for record in http if record["kind"] == "http_request") == "hello"
            assert (answer_head["status"], answer_head["path"]) == (200, "/cart")
            frames = [record for record in reader.records if record["kind"] == "ws_frame"]
            shown = [(record["opcode"], record["number"], record["direction"], record["fin"]) for record in frames]
            assert shown[:2] == [("text", 1, "to_backend", True), ("text", 1, "to_public", True)]
            assert [record["payload"] for record in frames[:2]] == ["text, and "] * 2
            assert frames[2]["code"] == 4001
            handshake = [record for record in reader.records if record["kind"] == "ws_response"]
            assert [record["status"] for record in handshake] == [101]
            calls = [record for record in reader.records if record["protocol"] == "grpc"]
            assert {record["method"] for record in calls} == {"/fasttunnel.test.Echo/Down"}
            assert [r["number"] for r in calls if r["direction"] == "to_public" and "number" in r] == [1, 2, 3]
            ages = [record["age_s"] for record in calls]
            assert ages == sorted(ages)
            assert ages[0] >= 0


async def test_it_comes_and_goes_while_a_websocket_is_open(stack: AsyncExitStack) -> None:
    tunnel, session = await start(stack)
    async with session.ws_connect(f"{tunnel.ws_url}/ws") as socket:

        async def say(text: str) -> None:
            await socket.send_str(text)
            assert (await socket.receive()).data == text

        await say("before")
        for end, sends in ((tunnel.server, "to_backend"), (tunnel.client, "to_public")):
            assert len(taps_of(end)) == 0
            async with tapped(end) as first:
                await say("one")
                async with tapped(end, "?protocol=http") as other:
                    await say("two")
                async with tapped(end, "?payload=10") as second:
                    await say("three")
                    (record, back) = await second.until(2)
                assert other.records == []
                await say("four")
                records = await first.until(8)
            assert {record["direction"] for record in records if record["sent"]} == {sends}
            assert (record["payload"], record["protocol"], record["route"]) == ("three", "websocket", "shop.example")
            assert record["path"] in (None, "/ws")  # of what was under way it is known where there are records
            ways = {way: [r["number"] for r in records if r["direction"] == way] for way in ("to_backend", "to_public")}
            begun = 2 if end is tunnel.server else 6
            assert ways == {way: list(range(begun, begun + 4)) for way in ways}
            assert record["number"] == back["number"] == begun + 2
            assert len(taps_of(end)) == 0
        await say("after")


async def test_readers_have_filters_of_their_own(stack: AsyncExitStack) -> None:
    tunnel, session = await start(stack)
    for end in (tunnel.server, tunnel.client):
        async with (
            tapped(end, "?protocol=http&text=/needle") as by_path,
            tapped(end, "?route=everything") as by_route,
            tapped(end, "?text=in+the+body") as by_body,
            tapped(end, "?protocol=http&route=shop.example&protocol=control") as by_both,
        ):
            stub = await open_channel(stack, tunnel.authority)
            assert (await stub.Unary(Note(number=1))).number == 1
            for path, body in (("/hay", b"needle in the body"), ("/needle", b"")):
                async with session.post(tunnel.url + path, data=body) as answer:
                    assert await answer.read() == body
            for reader, count in ((by_path, 1), (by_body, 1), (by_both, 2)):
                await eventually(functools.partial(_has_answers, reader, count))
            await eventually(functools.partial(_has_answers, by_route, 1))
            assert {record["path"] for record in by_path.records} == {"/needle"}
            assert {record["protocol"] for record in by_route.records} == {"grpc"}
            assert [record["direction"] for record in by_body.records] == ["to_backend", "to_public"]
            wanted = [r for r in by_both.records if r["protocol"] == "http"]
            assert {record["path"] for record in wanted} == {"/hay", "/needle"}
            assert {record["protocol"] for record in by_both.records} <= {"http", "control"}
            request_id = wanted[-1]["request_id"]
        async with tapped(end, f"?request={request_id}") as by_id:
            async with session.post(tunnel.url, data=b"x") as answer:
                await answer.read()
            async with session.ws_connect(f"{tunnel.ws_url}/ws") as socket:
                await socket.send_str("x")
                await socket.receive()
            assert by_id.records == []


def _has_answers(reader: Reader, count: int) -> bool:
    """Whole ones."""
    ends = [r for r in reader.records if r["kind"] in ("http_response", "grpc_response") and r["last"]]
    return len(ends) == count


async def test_long_payloads_pass_whether_they_are_shown_or_not(stack: AsyncExitStack) -> None:
    """What is sent from where it lies is not shown: a tap on its protocol has it copied, another one does not."""
    tunnel, session = await start(stack)
    text, size = "x" * 300_000, 300_000
    async with tapped(tunnel.server, "?protocol=http") as other, session.ws_connect(f"{tunnel.ws_url}/ws") as socket:
        for _ in range(3):
            await socket.send_str(text)
            assert (await socket.receive()).data == text
        async with tapped(tunnel.server) as at_server, tapped(tunnel.client) as at_client:
            await socket.send_str(text)
            assert (await socket.receive()).data == text
            for reader in (at_server, at_client):
                for way in ("to_backend", "to_public"):
                    ours = [reader.records, way]
                    await eventually(lambda o=ours: sum(r["size"] for r in o[0] if r["direction"] == o[1]) == size)
                    parts = [record for record in reader.records if record["direction"] == way]
                    assert {record["number"] for record in parts} == {4}
                    assert [record["more"] for record in parts] == [True] * (len(parts) - 1) + [False]
        assert other.records == []


async def test_a_slow_reader_loses_lines_and_nobody_waits(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapping, "QUEUE_BYTES", 2_000_000)
    tunnel, session = await start(stack)
    host, _, port = tunnel.server.admin.rpartition(":")
    sock = socket.socket()
    stack.callback(sock.close)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    sock.sendall(b"GET /tap?protocol=websocket&payload=40000 HTTP/1.0\r\n\r\n")  # 1.0: no chunks
    taps, passed = taps_of(tunnel.server), 0
    await eventually(lambda: len(taps) == 1)
    reader = next(iter(taps._listeners)).__self__._readers[0]

    def count(_: Any, sent: bool, encoded: bytes) -> None:
        nonlocal passed
        passed += TunnelMessage.FromString(encoded).WhichOneof("payload") in ("ws_request", "ws_response", "ws_frame")

    taps.add(count)
    text = "x" * 40_000
    async with session.ws_connect(f"{tunnel.ws_url}/ws") as websocket:
        while not reader._lost:  # the buffers of two sockets fill first
            await websocket.send_str(text)
            assert (await websocket.receive()).data == text
            assert reader._waiting < 2_000_000 + 50_000
            assert passed < 10_000
        for _ in range(20):  # and now it is full
            await websocket.send_str(text)
            assert (await websocket.receive()).data == text
    await tunnel.until_idle()
    taps.remove(count)
    sock.setblocking(False)
    rest, records, lost = b"", 0, 0
    async with asyncio.timeout(20):
        while records + lost < passed:
            rest += await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.startswith(b'{"tap":"lost"'):
                    lost += json.loads(line)["lines"]
                elif line.startswith(b'{"time"'):
                    records += json.loads(line)["protocol"] == "websocket"
    assert (records + lost, lost > 0) == (passed, True)
    sock.close()
    await eventually(lambda: len(taps) == 0)


async def test_resets_are_told_in_words(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "http://127.0.0.1:1", server=ADMIN, client=ADMIN)
    async with (
        tapped(tunnel.server) as at_server,
        tapped(tunnel.client) as at_client,
        aiohttp.ClientSession() as session,
        session.get(tunnel.url) as answer,
    ):
        assert answer.status == 502
        for reader in (at_server, at_client):
            head, reset = await reader.until(2)
            assert (reset["kind"], reset["reset"]) == ("reset", "BACKEND_UNREACHABLE")
            assert reset["text"]
            assert head["route"] == reset["route"] == "everything"


async def test_who_may_see_what(stack: AsyncExitStack) -> None:
    async def ask(end: Any, query: str, **headers: str) -> tuple[int, str]:
        async with session.get(f"http://{end.admin}/tap{query}", headers=headers) as answer:
            return answer.status, "" if answer.status == 200 else await answer.text()

    session = await stack.enter_async_context(aiohttp.ClientSession())
    tunnel = await start_tunnel(
        stack, "http://127.0.0.1:1", server={**ADMIN, "tap": "messages"}, client={**ADMIN, "tap": "none"}
    )
    assert (await ask(tunnel.server, ""))[0] == 200
    for query in ("?payload=1", "?headers=1", "?query=1", "?text=a"):
        status, text = await ask(tunnel.server, query)
        assert (status, "--tap payloads" in text) == (403, True)
    assert (await ask(tunnel.server, "?colour=red"))[0] == 400
    assert (await ask(tunnel.server, "", Host="evil.example"))[0] == 403
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        assert (await ask(tunnel.server, "", **headers))[0] == 403
    assert (await ask(tunnel.client, ""))[0] == 403
    for _ in range(tapping.READERS + 1):
        async with session.head(f"http://{tunnel.server.admin}/tap") as answer:
            assert answer.status == 200
    readers = [await stack.enter_async_context(tapped(tunnel.server)) for _ in range(tapping.READERS)]
    status, text = await ask(tunnel.server, "")
    assert (status, f"{len(readers)} taps" in text) == (503, True)
    async with session.head(f"http://{tunnel.server.admin}/tap") as answer:
        assert answer.status == 503


@pytest.mark.cython_only("the command asks the admin port, which is the same")
async def test_the_command(stack: AsyncExitStack, tmp_path: Path) -> None:
    routes = (f"shop.example={await start_backend(stack)}",)
    at = f"unix:{tmp_path}/admin.sock"
    tunnel = await start_tunnel(stack, *routes, server=ADMIN, client={"admin": at})
    (tmp_path / "client.toml").write_text(f'server = "x:1"\nadmin = "{at}"\ntoken_file = "is not read"\n')
    session = await stack.enter_async_context(aiohttp.ClientSession(headers={"Host": "shop.example"}))
    ends = (tunnel.server, tunnel.client)
    async with (
        command("tap", "--json", "--limit", "2", FASTTUNNEL_ADMIN=tunnel.server.admin) as as_json,
        command("tap", "--config", f"{tmp_path}/client.toml", "--payload", "--headers", FASTTUNNEL_ADMIN=None) as plain,
    ):
        await eventually(lambda: all(len(taps_of(end)) == 1 for end in ends))
        async with session.post(f"{tunnel.url}/cart\x1b", data=b"h\xc3\xa9llo\x1b[2J") as answer:
            await answer.read()
        assert await as_json.end() == 0
        head, second = (json.loads(line) for line in as_json.lines[:2])
        assert (head["kind"], head["path"], second["path"]) == ("http_request", "/cart%1B", "/cart%1B")
        assert as_json.lines[2:] == ["seen 2 messages, lost 0"]
        # A body may come behind its head.
        await plain.line(r"^\d\d:\d\d:\d\d\.\d{3} h-\w+ +http -> +\d+ +[\d.]+ms shop.example +POST /cart%1B( end)?$")
        await plain.line("Content-Type: application/octet-stream")
        await plain.line(r"\| h\u00e9llo\\x1b\[2J$")
        await plain.line(r"^.{12} h-\w+ +http <- +\d+ +[\d.]+ms shop.example +200( end)?  POST /cart%1B$")
        await plain.line(r"\| h\u00e9llo")
        plain.signal(signal.SIGINT)
        assert await plain.end() == 0
        assert re.fullmatch("seen [2-4] messages, lost 0", plain.lines[-1])
    for colour in ("", "1"):
        async with Terminal("tap", tunnel.server.admin, "--limit", "1", columns=70, NO_COLOR=colour) as terminal:
            await terminal.until(r"time +request +kind")
            await eventually(lambda: len(taps_of(tunnel.server)) == 1)
            async with session.post(tunnel.url + "/" + "x" * 100) as answer:
                await answer.read()
            await terminal.until("seen 1 messages")
            assert ("\x1b[" in terminal.raw) is not bool(colour)
            line = next(line for line in terminal.lines if "POST" in line)
            assert (len(line), line[-1]) == (70, "\N{HORIZONTAL ELLIPSIS}")
    async with Terminal("tap", tunnel.server.admin, "--json", "--payload", "--limit", "2", columns=2000) as terminal:
        await eventually(lambda: len(taps_of(tunnel.server)) == 1)
        async with session.post(tunnel.url, data="\x9b2J\u202e".encode()) as answer:
            await answer.read()
        await terminal.until("seen 2 messages")  # a body may come behind its head
        assert "\\u009b2J\\u202e" in terminal.raw
        assert not {"\x9b", "\u202e"} & set(terminal.raw)
    await eventually(lambda: all(len(taps_of(end)) == 0 for end in ends))
    async with command("tap", "--route", "nobodys", f"http://{tunnel.server.admin}") as left:
        await left.line("nobody serves the route nobodys at the moment; there are shop.example")
        await tunnel.server._admin._server.close()  # type: ignore[union-attr]
        assert await left.end() == 1
        assert left.lines[-2:] == ["seen 0 messages, lost 0", f"fasttunnel: http://{tunnel.server.admin} went away"]
