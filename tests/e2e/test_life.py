"""Starting, stopping, losing and finding each other again."""

import asyncio
import gc
import re
import socket
from contextlib import AsyncExitStack

import pytest

from fasttunnel import AuthError, Client, ListenError, RegisterError, Server
from fasttunnel.control.log import RequestRecord
from tests.e2e.conftest import Ends
from tests.support.frames import BINARY, CLOSE, MASK, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.leaks import connections, exchanges, links
from tests.support.raw import Answer, RawBackend, answer, connect, request, start_raw
from tests.support.relay import start_relay
from tests.support.tunnel import (
    WAIT_S,
    Recorder,
    engines,
    eventually,
    route,
    start_client,
    start_server,
    start_tunnel,
)

QUICK = {"backoff_min_s": 0.01, "backoff_max_s": 0.05}


async def ask(stack: AsyncExitStack, server: Server, backend: RawBackend, body: bytes = b"up") -> Answer:
    """One request and its answer, on new connections."""
    public = await connect(stack, *server.address)
    await public.send(request("GET", "/", "Connection: close"))
    peer = await backend.accept()
    await peer.head()
    await peer.send(answer("200 OK", "Connection: close", body=body))
    return await public.answer()


async def test_status_counts_and_returns_to_zero(ends: Ends) -> None:
    server, client = ends.tunnel.server, ends.tunnel.client
    assert (server.status()["active_requests"], client.status()["active_requests"]) == (0, 0)
    peers = [await ends.pass_on(request("GET", f"/{number}")) for number in range(5)]
    assert (server.status()["active_requests"], client.status()["active_requests"]) == (5, 5)
    assert server.status()["links"][0]["active_requests"] == 5
    for public, backend, _ in peers:
        await backend.send(answer("200 OK", body=b"x"))
        assert (await public.answer()).body == b"x"
    await ends.tunnel.until_idle()
    assert (server.status()["requests"], client.status()["requests"]) == (5, 5)
    assert client.status()["connected"] is True
    assert client.urls == [server.public_url]


async def test_a_client_that_starts_before_the_server(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    with socket.socket() as free:  # a port that nobody listens on
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    events = Recorder()
    client = Client(address, [backend.url], events=events, **QUICK)
    stack.push_async_callback(client.stop, 0)
    starting = asyncio.ensure_future(client.start())
    await events.until_line("away", 2)
    assert not starting.done()
    server = await start_server(stack, tunnel=address)
    async with asyncio.timeout(WAIT_S):
        await starting
    assert (await ask(stack, server, backend)).body == b"up"


async def test_a_server_that_is_restarted(stack: AsyncExitStack) -> None:
    """The client finds it again by itself, and is the same client."""
    backend = await start_raw(stack)
    first = await start_server(stack)
    address, public = first.tunnel, f"{first.address[0]}:{first.address[1]}"
    events = Recorder()
    client = await start_client(stack, address, [backend.url], events, **QUICK)
    client_id = client.status()["client_id"]
    assert (await ask(stack, first, backend)).body == b"up"
    await first.stop(0)
    await events.until_line("away")
    await eventually(lambda: client.status()["connected"] is False)
    second = await start_server(stack, tunnel=address, listen=public)
    await events.until_line("connected", 2)
    assert (await ask(stack, second, backend, b"again")).body == b"again"
    status = client.status()
    assert (status["connected"], status["reconnects"], status["client_id"]) == (True, 1, client_id)


async def test_requests_under_way_when_the_server_is_killed(ends: Ends) -> None:
    """Both far sides are told; none of them waits for ever."""
    _, backend, _ = await ends.pass_on(request("GET", "/"))
    public = await ends.public()
    await ask_upgrade(public)
    websocket = await ends.backend.accept()
    await accept_upgrade(websocket)
    await expect_upgrade(public)
    await ends.tunnel.server.stop(0)
    assert await backend.ended()
    assert await websocket.ended()
    assert await public.to_end() is not None


async def test_requests_under_way_when_the_client_is_killed(ends: Ends) -> None:
    """Wire contract, TUNNEL_LOST: 502 where no answer has begun, otherwise a broken answer; WebSockets get 1012."""
    waiting, _, _ = await ends.pass_on(request("GET", "/waiting"))
    begun, backend, _ = await ends.pass_on(request("GET", "/begun"))
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    assert (await begun.head()).status == 200
    assert await begun.exactly(4) == b"half"
    websocket = await ends.public()
    await ask_upgrade(websocket)
    backend = await ends.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(websocket)
    await websocket.send(frame(BINARY, b"hello", mask=MASK))
    assert (await read_frame(backend)).payload == b"hello"

    await ends.tunnel.client.stop(0)
    got = await waiting.answer()
    assert got.status == 502
    assert await begun.ended()
    last = await read_frame(websocket)
    assert (last.opcode, last.payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))
    await ends.tunnel.events.until_line("link down")
    got = await (await ends.public()).ask(request("GET", "/"))
    assert (got.status, got.head.get("retry-after")) == (503, "1"), "it may come back"


async def test_a_client_whose_connection_breaks_comes_back(stack: AsyncExitStack) -> None:
    """Not closed but broken, somewhere between the two."""
    backend = await start_raw(stack)
    server = await start_server(stack)
    relay = await start_relay(stack, server.tunnel)
    events = Recorder()
    await start_client(stack, relay.address, [backend.url], events, **QUICK)
    assert (await ask(stack, server, backend)).body == b"up"
    relay.cut()
    await events.until_line("connected", 2)
    assert (await ask(stack, server, backend, b"back")).body == b"back"
    assert relay.connections == 2


async def test_a_link_that_is_silent_is_given_up(stack: AsyncExitStack) -> None:
    """Nothing is closed and nothing comes: the missing heartbeats tell. Both ends go on without it."""
    backend = await start_raw(stack)
    server_events = Recorder()
    server = await start_server(stack, server_events, heartbeat_interval_s=0.2)
    relay = await start_relay(stack, server.tunnel)
    events = Recorder()
    await start_client(stack, relay.address, [backend.url], events, **QUICK)
    relay.hold()
    await events.until_line("away")
    relay.release()
    await events.until_line("connected", 2)
    await server_events.until_line("link down")
    assert (await ask(stack, server, backend, b"back")).body == b"back"


# -- tokens and names


async def test_the_token(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    events = Recorder()
    server = await start_server(stack, events, token="right")
    for token in (None, "wrong", "rightx"):
        with pytest.raises(AuthError) as failure:
            await start_client(stack, server.tunnel, [backend.url], token=token)
        assert "token" in str(failure.value)
        assert "right" not in str(failure.value)
    assert server.routes == []
    await start_client(stack, server.tunnel, [backend.url], token="right")
    assert (await ask(stack, server, backend)).body == b"up"
    assert not any("right" in line or "wrong" in line for line in events.lines)


async def test_a_token_that_is_no_longer_right_ends_the_client(stack: AsyncExitStack) -> None:
    """Coming back with it would never help: wait_closed() raises."""
    backend = await start_raw(stack)
    server = await start_server(stack, token="old")
    client = await start_client(stack, server.tunnel, [backend.url], token="old", **QUICK)
    address = server.tunnel
    public = await connect(stack, *server.address)
    await public.send(request("GET", "/"))
    kept = await backend.accept()
    await kept.head()
    await kept.send(answer("200 OK", body=b"x"))
    await public.answer()
    await server.stop(0)
    await start_server(stack, tunnel=address, token="new")
    with pytest.raises(AuthError):
        async with asyncio.timeout(WAIT_S):
            await client.wait_closed()
    assert client.status()["connections"] == 0
    await kept.ended()  # the connection to the backend that was kept for the next request


async def test_the_same_client_id_takes_over(stack: AsyncExitStack) -> None:
    """A client that comes again need not wait until its ghost is found dead."""
    first, second = await start_raw(stack), await start_raw(stack)
    events = Recorder()
    server = await start_server(stack, events)
    ghost = Recorder()
    old = await start_client(
        stack, server.tunnel, [first.url], ghost, client_id="me", backoff_min_s=30, backoff_max_s=60
    )
    assert (await ask(stack, server, first)).body == b"up"
    await start_client(stack, server.tunnel, [second.url], client_id="me")
    await events.until_line("link down")
    for number in range(4):
        assert (await ask(stack, server, second, b"%d" % number)).body == b"%d" % number
    await ghost.until_line("away")
    assert old.status()["connected"] is False
    assert [link["client_id"] for link in server.status()["links"]] == ["me"]


# -- stopping


async def test_stop_lets_requests_under_way_finish(ends: Ends) -> None:
    """Each kind; the listening socket is closed at once, and the last answer says that the connection ends."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    stopping = asyncio.ensure_future(ends.tunnel.server.stop(WAIT_S))
    await eventually(lambda: ends.tunnel.server.status()["draining"])
    with pytest.raises(ConnectionRefusedError):
        await ends.public()
    assert not stopping.done()
    await backend.send(answer("200 OK", body=b"in time"))
    got = await public.answer()
    assert (got.body, got.head.get("connection")) == (b"in time", "close")
    async with asyncio.timeout(WAIT_S):
        await stopping
        await ends.tunnel.server.wait_closed()


async def test_stop_ends_what_does_not_finish(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    async with asyncio.timeout(WAIT_S):
        await ends.tunnel.server.stop(0.05)
    assert await backend.ended()
    rest = await public.to_end()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 502")


async def test_stop_does_not_wait_for_idle_connections(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send(answer("200 OK"))
    await public.answer()
    idle = await ends.public()
    async with asyncio.timeout(WAIT_S):
        await ends.tunnel.server.stop()
    assert await public.ended()
    assert await idle.ended()


async def test_a_client_that_stops_lets_requests_finish(ends: Ends) -> None:
    """New requests go elsewhere meanwhile."""
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    other = await start_raw(ends.stack)
    await start_client(ends.stack, ends.tunnel.server.tunnel, [other.url])
    stopping = asyncio.ensure_future(ends.tunnel.client.stop(WAIT_S))
    await eventually(lambda: len(ends.tunnel.server.routes) == 1)
    for number in range(4):
        assert (await ask(ends.stack, ends.tunnel.server, other, b"%d" % number)).body == b"%d" % number
    assert not stopping.done()
    await backend.send(answer("200 OK", body=b"in time"))
    assert (await public.answer()).body == b"in time"
    async with asyncio.timeout(WAIT_S):
        await stopping
        await ends.tunnel.client.wait_closed()
    await ends.tunnel.events.until_line("link down")


async def test_stop_twice_and_before_start(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    client = Client(server.tunnel, ["http://127.0.0.1:1"])
    await client.stop()
    await server.stop()
    await server.stop()
    await server.wait_closed()


async def test_a_client_can_be_stopped_while_it_waits_for_a_server(stack: AsyncExitStack) -> None:
    events = Recorder()
    client = Client("127.0.0.1:1", ["http://127.0.0.1:2"], events=events)
    starting = asyncio.ensure_future(client.start())
    await events.until_line("away")
    async with asyncio.timeout(WAIT_S):
        await client.stop()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_an_address_in_use(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    with pytest.raises(ListenError) as failure:
        await start_server(stack, tunnel=server.tunnel)
    assert server.tunnel in str(failure.value)


async def test_two_tunnels_in_one_process(stack: AsyncExitStack) -> None:
    backends = [await start_raw(stack) for _ in range(2)]
    tunnels = [await start_tunnel(stack, backend.url) for backend in backends]
    for _ in range(3):
        for number in range(2):
            got = await ask(stack, tunnels[number].server, backends[number], b"%d" % number)
            assert got.body == b"%d" % number


async def test_routes_that_cannot_be_registered(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    await start_client(stack, server.tunnel, [route("http://127.0.0.1:1", host="a.example", exclusive=True)])
    with pytest.raises(RegisterError) as failure:
        await start_client(stack, server.tunnel, ["http://127.0.0.1:1", "a.example=http://127.0.0.1:1"])
    assert "a.example" in str(failure.value)
    assert len(server.routes) == 1, "all of its routes or none"


@pytest.mark.parametrize("first", ["client", "server"])
async def test_nothing_is_left_of_a_tunnel_that_has_ended(first: str) -> None:
    """No connection, link or exchange stays in memory, whoever ended first; the garbage collector is not needed."""

    async def live() -> None:
        async with AsyncExitStack() as stack:
            backend = await start_raw(stack)
            tunnel = await start_tunnel(stack, backend.url)
            assert (await ask(stack, tunnel.server, backend)).body == b"up"
            await connect(stack, tunnel.host, tunnel.port)  # one that never says anything
            waiting = await connect(stack, tunnel.host, tunnel.port)
            await waiting.send(request("POST", "/", "Content-Length: 100") + b"half")
            await (await backend.accept()).head()
            await getattr(tunnel, first).stop(0)

    def counts() -> tuple[int, int, int]:
        return connections(), links(), exchanges()

    gc.collect()
    before = counts()
    gc.disable()
    try:
        await live()
        await eventually(lambda: counts() == before, lambda: f"{before} before, {counts()} after")
    finally:
        gc.enable()


@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_client_takes_over_from_its_own_ghost(stack: AsyncExitStack, exclusive: bool) -> None:
    """Its connection breaks unseen by the server; it comes again, long before the server's heartbeat could tell."""
    backend = await start_raw(stack)
    events = Recorder()
    server = await start_server(stack, events)
    relay = await start_relay(stack, server.tunnel)
    routes = [route(backend.url, exclusive=exclusive)]
    client = await start_client(stack, relay.address, routes, **QUICK)
    relay.forget()
    await events.until_line("link up", 2)
    assert "replaced" in await events.until_line("link down")
    assert len(server.routes) == len(server.status()["links"]) == 1
    await eventually(lambda: client.status()["connected"])
    assert (await ask(stack, server, backend)).body == b"up"


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n"],
    ids=["http1", "ssh"],
)
async def test_a_port_that_is_none_of_ours(stack: AsyncExitStack, greeting: bytes) -> None:
    """The client keeps trying, for the right server may come, and says what is wrong."""
    port = await start_raw(stack)
    events = Recorder()
    client = Client(port.address, ["http://127.0.0.1:9"], events=events, engine=engines["client"], **QUICK)
    starting = asyncio.create_task(client.start())
    stack.push_async_callback(client.stop, 0)
    peer = await port.accept()
    await peer.exactly(24)  # the preface of HTTP/2
    await peer.send(greeting)
    assert re.search("(?i)http/2", await events.until_line("away"))
    await port.accept()
    starting.cancel()
    await asyncio.wait([starting])


class Faulty(Recorder):
    """What a user's own Events may be like."""

    def _take(self, line: str) -> None:
        super()._take(line)
        raise ValueError("a fault of the user's")

    def _request_done(self, record: RequestRecord) -> None:
        super()._request_done(record)
        raise ValueError("a fault of the user's")


async def test_faults_of_the_users_events_never_reach_the_traffic(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    backend = await start_raw(stack)
    events, client_events = Faulty(records=True), Faulty()
    server = await start_server(stack, events)
    client = await start_client(stack, server.tunnel, [backend.url], client_events)
    for number in range(3):
        assert (await ask(stack, server, backend)).body == b"up"
        assert (await events.record(number)).status == 200
    await client.stop()
    await events.until_line("link down")
    said = [record.getMessage() for record in caplog.records if record.name == "fasttunnel"]
    for name in ("listening", "link_up", "connected", "request_done", "link_down"):
        assert f"Events.{name} failed" in said
