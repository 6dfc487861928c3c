"""Either end goes in order: WebSockets are told, clients connect anew, another server takes over without a failure."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest

import fasttunnel
from fasttunnel.wire import tunnel_pb2 as wire
from tests.e2e.conftest import Ends
from tests.support import http2
from tests.support.command import Command, command
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    TEXT,
    accept_upgrade,
    ask_upgrade,
    close_payload,
    expect_upgrade,
    frame,
    frame_head,
    read_frame,
)
from tests.support.raw import Peer, answer, start_raw
from tests.support.site import start_site
from tests.support.stock import StockEnd, start_stock_server
from tests.support.tunnel import WAIT_S, Recorder, eventually, start_client, start_server

RESTART = (1012).to_bytes(2, "big")
PING = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + b"12345678"  # RFC 9113 6.7


@pytest.fixture(params=["server", "client"])
def leaving(request: pytest.FixtureRequest, ends: Ends) -> fasttunnel.Server | fasttunnel.Client:
    """The end that stops."""
    end: fasttunnel.Server | fasttunnel.Client = getattr(ends.tunnel, request.param)
    return end


async def open_websocket(ends: Ends) -> tuple[Peer, Peer]:
    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    return public, backend


async def expect_restart(peer: Peer) -> None:
    last = await read_frame(peer)
    assert (last.opcode, last.payload[:2]) == (CLOSE, RESTART)


# -- WebSockets


async def test_open_websockets_are_closed_in_order(ends: Ends, leaving: fasttunnel.Server | fasttunnel.Client) -> None:
    """At once, not when the grace period is over; the backend hears of it too."""
    public, backend = await open_websocket(ends)
    stopping = asyncio.ensure_future(leaving.stop(2 * WAIT_S))
    await expect_restart(public)
    await backend.send(frame(TEXT, b"too late"))
    await public.send(frame(TEXT, b"before", mask=MASK) + frame(CLOSE, close_payload(1012), mask=MASK))
    assert (await read_frame(backend)).payload == b"before"
    await expect_restart(backend)
    await backend.send(frame(CLOSE, close_payload(1012)))
    await backend.close()
    assert await public.ended()
    async with asyncio.timeout(WAIT_S):
        await stopping


async def test_a_frame_under_way_is_completed_first(ends: Ends, leaving: fasttunnel.Server | fasttunnel.Client) -> None:
    public, backend = await open_websocket(ends)
    await backend.send(frame_head(BINARY, 100_000, fin=False) + b"x" * 70_000)
    assert await public.exactly(10) == frame_head(BINARY, 100_000, fin=False)
    stopping = asyncio.ensure_future(leaving.stop(2 * WAIT_S))
    await eventually(lambda: ends.tunnel.server.routes == [] or ends.tunnel.server.status()["draining"])
    await backend.send(b"x" * 30_000)
    assert await public.exactly(100_000) == b"x" * 100_000
    await expect_restart(public)
    await backend.send(frame(CONTINUATION, b"too late"))
    await public.send(frame(CLOSE, close_payload(1012), mask=MASK))
    await expect_restart(backend)
    await backend.send(frame(CLOSE, close_payload(1012)))
    async with asyncio.timeout(WAIT_S):
        await stopping


async def test_a_websocket_that_is_closing_is_left_to_it(
    ends: Ends, leaving: fasttunnel.Server | fasttunnel.Client
) -> None:
    public, backend = await open_websocket(ends)
    await public.send(frame(CLOSE, close_payload(4000), mask=MASK))
    assert (await read_frame(backend)).opcode == CLOSE
    stopping = asyncio.ensure_future(leaving.stop(2 * WAIT_S))
    await backend.send(frame(CLOSE, close_payload(4001)))
    assert (await read_frame(public)).payload == close_payload(4001)
    async with asyncio.timeout(WAIT_S):
        await stopping


async def test_a_public_that_does_not_answer_the_close(
    ends: Ends, leaving: fasttunnel.Server | fasttunnel.Client
) -> None:
    public, backend = await open_websocket(ends)
    async with asyncio.timeout(WAIT_S):
        await leaving.stop(0.2)
    await expect_restart(public)
    assert await public.ended()
    assert await backend.ended()


async def test_a_handshake_under_way(ends: Ends, leaving: fasttunnel.Server | fasttunnel.Client) -> None:
    public = await ends.public()
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    stopping = asyncio.ensure_future(leaving.stop(2 * WAIT_S))
    await eventually(lambda: ends.tunnel.server.routes == [] or ends.tunnel.server.status()["draining"])
    await accept_upgrade(backend)
    await expect_upgrade(public)
    await expect_restart(public)
    await public.send(frame(CLOSE, close_payload(1012), mask=MASK))
    await expect_restart(backend)
    await backend.send(frame(CLOSE, close_payload(1012)))
    async with asyncio.timeout(WAIT_S):
        await stopping


# -- GoAway


async def ask_through(server: StockEnd, request_id: str, path: str) -> bytes:
    """A request by a stock server, answered by a site."""
    http = wire.HttpRequest(method="GET", url=path, host="a.example", is_first_chunk=True, is_last_chunk=True)
    server.send(request_id, direction=wire.CLIENT_TO_SERVER, http_request=http)
    body = b""
    while True:
        part = (await server.next("http_response", "go_away")).http_response
        body += part.body
        if part.is_last_chunk:
            return body


@pytest.mark.parametrize("retry_ms", [0, 300])
async def test_a_client_that_is_told_to_go_connects_anew(stack: AsyncExitStack, retry_ms: int) -> None:
    """After the pause that it was told. The old tunnel goes on until the server ends it."""
    site, events = await start_site(stack), Recorder()
    stock = await start_stock_server(stack)
    starting = asyncio.ensure_future(start_client(stack, stock.address, [site], events, backoff_min_s=0.01))
    old, _ = await stock.accept_and_register()
    client = await starting
    loop = asyncio.get_running_loop()
    told_s = loop.time()
    old.send(go_away=wire.GoAway(reason="maintenance", retry_ms=retry_ms))
    new, register = await stock.accept_and_register()
    assert loop.time() - told_s >= retry_ms / 1000
    assert register.client_id == "c1", "it is the same client"
    assert "maintenance" in await events.until_line("away")
    await events.until_line("connected", 2)
    assert (await old.next("go_away")).go_away.reason == "connected anew"
    assert await ask_through(old, "h-1", "/bytes/10")
    assert await ask_through(new, "h-2", "/bytes/10")
    old.close()
    await eventually(lambda: client.status()["requests"] == 2)
    assert await ask_through(new, "h-3", "/bytes/10")
    status = client.status()
    assert (status["connected"], status["reconnects"]) == (True, 1)


async def test_the_old_tunnel_serves_until_the_new_one_is_there(stack: AsyncExitStack) -> None:
    site, events = await start_site(stack), Recorder()
    stock = await start_stock_server(stack)
    starting = asyncio.ensure_future(start_client(stack, stock.address, [site], events, backoff_min_s=0.01))
    old, _ = await stock.accept_and_register()
    client = await starting
    old.send(go_away=wire.GoAway())
    new = await stock.accept()
    await new.next("register")
    for number in range(3):
        assert await ask_through(old, f"h-{number}", "/bytes/10")
    assert client.status()["connected"] is True


async def test_no_server_keeps_a_client_away_for_longer_than_it_wants(stack: AsyncExitStack) -> None:
    """What a hostile one says, or one whose clock is wrong: a month."""
    site, events = await start_site(stack), Recorder()
    stock = await start_stock_server(stack)
    options = {"backoff_min_s": 0.01, "backoff_max_s": 0.02}
    starting = asyncio.ensure_future(start_client(stack, stock.address, [site], events, **options))
    old, _ = await stock.accept_and_register()
    await starting
    old.send(go_away=wire.GoAway(retry_ms=2**32 - 1))
    new, _ = await stock.accept_and_register()
    assert await ask_through(new, "h-1", "/bytes/10")


async def test_a_client_that_is_told_to_go_can_be_stopped(stack: AsyncExitStack) -> None:
    site, events = await start_site(stack), Recorder()
    stock = await start_stock_server(stack)
    starting = asyncio.ensure_future(start_client(stack, stock.address, [site], events))
    old, _ = await stock.accept_and_register()
    client = await starting
    old.send(go_away=wire.GoAway(retry_ms=3_600_000))
    await events.until_line("away")
    async with asyncio.timeout(WAIT_S):
        await client.stop()
    assert client.status()["connected"] is False


async def test_who_writes_while_it_reads_the_last_answer_loses_nothing(ends: Ends) -> None:
    """A server that had closed the connection at once would answer with an RST, which costs what was not read yet."""
    connection = await http2.connect_http2(ends.stack, ends.tunnel.host, ends.tunnel.port)
    stream = await connection.open("GET", "/")
    backend = await ends.backend.accept()
    await backend.head()
    stopping = asyncio.ensure_future(ends.tunnel.server.stop(WAIT_S))
    await eventually(lambda: ends.tunnel.server.status()["draining"])
    await backend.send(answer("200 OK", body=b"the last one"))
    await stream.done()
    await eventually(lambda: connection.closed is not None)
    assert (stream.status, bytes(stream.body)) == (200, b"the last one")
    sock = connection.peer.writer.get_extra_info("socket")
    for _ in range(2):  # the second one would meet the RST for the first one
        assert os.write(sock.fileno(), PING) == len(PING)
    connection.peer.drop()
    async with asyncio.timeout(WAIT_S):
        await stopping


# -- one server after another on the same ports


class Load:
    """Requests without a pause, each kind in a task of its own; what goes wrong is raised at the end."""

    def __init__(self, stack: AsyncExitStack, url: str) -> None:
        self.url = url
        self.done: dict[str, int] = {}
        self._stack = stack
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False

    async def start(self) -> None:
        for kind in (self.new_connections, self.kept_connection, self.websockets, self.streams):
            self._tasks.append(asyncio.create_task(self._repeat(kind)))
        await self.progress(5)

    async def _repeat(self, kind: Callable[[], Awaitable[None]]) -> None:
        while not self._over:
            await kind()
            self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1

    async def progress(self, count: int) -> None:
        """Wait until so many more of each kind are done."""
        before = dict(self.done)
        async with asyncio.timeout(WAIT_S):
            while len(self.done) < 4 or any(done < before.get(kind, 0) + count for kind, done in self.done.items()):
                if any(task.done() for task in self._tasks):
                    break
                await asyncio.sleep(0.01)
        await self.check()

    async def check(self) -> None:
        for task in self._tasks:
            if task.done():
                await task

    async def end(self) -> None:
        self._over = True
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*self._tasks)

    async def new_connections(self) -> None:
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/echo", data=b"new") as got:
            assert (got.status, await got.read()) == (200, b"new")

    async def kept_connection(self) -> None:
        """As often as the server likes."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            for _ in range(20):
                async with session.post(f"{self.url}/echo", data=b"kept") as got:
                    assert (got.status, await got.read()) == (200, b"kept")

    async def websockets(self) -> None:
        """One that is asked to go connects again; nothing that it has sent before is lost."""
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/websocket") as socket:
            for _ in range(20):
                await socket.send_str("hello")
                got = await socket.receive()
                if got.type is aiohttp.WSMsgType.CLOSE:
                    assert got.data == 1012
                    return
                assert got.data == "HELLO"

    async def streams(self) -> None:
        """Of one HTTP/2 connection, until it is asked to go."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        async with AsyncExitStack() as stack:
            connection = await http2.connect_http2(stack, host, int(port))
            for _ in range(10):
                stream = await (await connection.ask("POST", "/echo", body=b"stream")).done()
                assert (stream.status, bytes(stream.body)) == (200, b"stream"), stream.reset
                if connection.go_away is not None:
                    return


async def test_another_server_takes_over_on_the_same_ports(stack: AsyncExitStack) -> None:
    """Twice, under load: no request fails."""
    site = await start_site(stack)
    server = await start_server(stack, reuse_port=True)
    ports = {"listen": server.public_url.removeprefix("http://"), "tunnel": server.tunnel, "reuse_port": True}
    clients = [await start_client(stack, server.tunnel, [site]) for _ in range(2)]
    load = Load(stack, server.public_url)
    await load.start()
    for _ in range(2):
        following = await start_server(stack, **ports)
        await load.progress(5)
        assert following.status()["links"] == [], "all goes to the older one"
        async with asyncio.timeout(2 * WAIT_S):
            await server.stop()
        await load.progress(5)
        assert len(following.status()["links"]) == 2
        assert following.status()["requests"] > 0
        server = following
    await load.end()
    assert [client.status()["reconnects"] for client in clients] == [2, 2]


async def test_a_server_process_takes_over_from_another(stack: AsyncExitStack) -> None:
    site = await start_site(stack)

    async def start(listen: str, tunnel: str) -> tuple[Command, str, str]:
        arguments = ("--listen", listen, "--tunnel", tunnel, "--reuse-port")
        server = await stack.enter_async_context(command("server", "--no-token", *arguments))
        public = (await server.line(r"public +http://([^ ]+)"))[1]
        return server, public, (await server.line(r"tunnel +([^ ]+:\d+)"))[1]

    first, public, tunnel = await start("127.0.0.1:0", "127.0.0.1:0")
    client = await stack.enter_async_context(command("client", "--server", tunnel, site))
    await client.line("connected")
    load = Load(stack, f"http://{public}")
    await load.start()
    await start(public, tunnel)
    first.signal(signal.SIGTERM)
    assert await first.end() == 0
    await client.line("connected again")
    await load.progress(5)
    await load.end()


async def test_a_handover_that_nobody_takes(stack: AsyncExitStack) -> None:
    """Without clients it takes no time; a request under way finishes."""
    server = await start_server(stack, reuse_port=True)
    backend = await start_raw(stack)
    client = await start_client(stack, server.tunnel, [backend.url])
    await client.stop()
    async with asyncio.timeout(WAIT_S):
        await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*server.address)


async def test_ports_are_not_shared_unless_both_want_it(stack: AsyncExitStack) -> None:
    server = await start_server(stack, reuse_port=True)
    with pytest.raises(fasttunnel.ListenError):
        await start_server(stack, tunnel=server.tunnel)
    other = await start_server(stack)
    with pytest.raises(fasttunnel.ListenError):
        await start_server(stack, tunnel=other.tunnel, reuse_port=True)


async def test_a_request_that_crosses_the_goodbye_of_a_client_is_served(stack: AsyncExitStack) -> None:
    """The server sent it before it knew, and learns of it by the answer to a heartbeat: then nothing comes any more."""
    server = await start_stock_server(stack)
    starting = asyncio.ensure_future(start_client(stack, server.address, [await start_site(stack)]))
    end, _ = await server.accept_and_register()
    client = await starting
    end.answer_heartbeats = False
    stopping = asyncio.ensure_future(client.stop(10))
    await end.next("go_away")
    end.send("r1", http_request=wire.HttpRequest(method="GET", url="/bytes/5", is_first_chunk=True, is_last_chunk=True))

    async def answer_heartbeats() -> None:
        while True:
            nonce = (await end.heartbeats.get()).heartbeat.nonce
            end.send(heartbeat=wire.Heartbeat(nonce=nonce, reply=True))

    answering = asyncio.ensure_future(answer_heartbeats())
    stack.callback(answering.cancel)
    answered = (await end.next("http_response")).http_response
    assert (answered.status_code, answered.is_last_chunk) == (200, True)
    async with asyncio.timeout(WAIT_S):
        await stopping
