"""Another configuration while requests are under way: what can change does, what cannot is said, nothing is lost."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

import fasttunnel
from fasttunnel import limits, succession
from fasttunnel.control.config import ClientConfig, RouteSpec, Secret, parse_route
from fasttunnel.errors import RegisterError
from tests.support.command import Command, command
from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.relay import start_relay
from tests.support.site import start_site
from tests.support.token_files import TokenFile
from tests.support.tunnel import Recorder, eventually, start_client, start_server
from tests.support.web import start_web


async def start_named(stack: AsyncExitStack, name: str) -> str:
    """A backend that answers its name, and the target that it has seen."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{name} {request.path}")

    return await start_web(stack, web.route("*", "/{path:.*}", answer))


async def start_slow(stack: AsyncExitStack) -> tuple[str, asyncio.Event]:
    """A backend that answers "done" once the event is set."""
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response(text="done")

    site = await start_web(stack, web.get("/", slow))
    stack.callback(go_on.set)
    return site, go_on


async def get(url: str, path: str = "/", **fields: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}", headers=fields) as got:
        return got.status, await got.text()


class Steady:
    """Requests one after another, on new connections and kept ones. Each has to be answered 200."""

    def __init__(self, url: str) -> None:
        self.answers: list[str] = []
        self.failures: list[object] = []
        self._url = url
        self._over = False
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Steady":
        self._tasks = [asyncio.ensure_future(self._ask(kept)) for kept in (True, True, False)]
        await self.more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)
        assert self.failures == []

    async def more(self, count: int = 10) -> None:
        enough = len(self.answers) + count
        while len(self.answers) < enough and not self.failures:
            self._news.clear()
            await self._news.wait()
        assert self.failures == []

    async def _ask(self, kept: bool) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._over and not self.failures:
                try:
                    async with session.get(f"{self._url}/x", headers={} if kept else {"Connection": "close"}) as got:
                        text = await got.text()
                        (self.answers if got.status == 200 else self.failures).append(text)
                except (aiohttp.ClientError, OSError) as error:
                    self.failures.append(error)
                self._news.set()


def with_routes(client: fasttunnel.Client, *routes: str) -> ClientConfig:
    return msgspec.structs.replace(client.config, routes=tuple(map(parse_route, routes)))


# -- the client


async def test_other_routes_take_over_under_traffic(stack: AsyncExitStack) -> None:
    """No request fails; one under way, a WebSocket and a stream of gRPC go on as they began."""
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"old ")
        await go_on.wait()
        await answer.write(b"still")
        return answer

    async def talk(requests: Notes, context: Context) -> Notes:
        async for note in requests:
            yield Note(number=note.number + 1)

    one, two, site = await start_named(stack, "one"), await start_named(stack, "two"), await start_site(stack)
    slow_site = await start_web(stack, web.get("/slow", slow))
    calls = await start_grpc(stack, Talk=talk)
    events = Recorder()
    server = await start_server(stack)
    others = (f"/websocket={site}", f"/slow={slow_site}", calls)
    client = await start_client(stack, server.tunnel, [one, *others], events)
    url = server.public_url
    session = await stack.enter_async_context(aiohttp.ClientSession())
    socket = await session.ws_connect(f"{url}/websocket")
    got = await session.get(f"{url}/slow")
    assert await got.content.readany() == b"old "
    stub = await open_channel(stack, url.removeprefix("http://"))
    call = stub.Talk()
    await call.write(Note(number=1))
    assert (await call.read()).number == 2

    async with Steady(url) as steady:
        changes = await client.reload(with_routes(client, two, f"/more={one}", *others))
        assert {change.option for change in changes.changed} == {"routes"}
        await eventually(lambda: steady.answers[-1] == "two /x")
        await steady.more(20)
        assert set(steady.answers[-10:]) == {"two /x"}
        assert await get(url, "/more") == (200, "one /more")
        # A second time, while the first tunnel still has requests.
        await client.reload(with_routes(client, one, *others))
        await eventually(lambda: steady.answers[-1] == "one /x")
        await steady.more(20)

    assert await get(url, "/more") == (200, "one /more"), "it falls to the route of everything"
    await socket.send_str("hello")
    assert (await socket.receive()).data == "HELLO"
    await call.write(Note(number=5))
    assert (await call.read()).number == 6
    go_on.set()
    assert await got.content.read() == b"still"
    assert len(server.status()["links"]) == 2, "the one that is in charge, and the one that has these"
    status = client.status()
    assert (status["tunnels"], status["reconnects"], status["active_requests"]) == (2, 0, 2)
    await socket.close()
    await call.done_writing()
    await eventually(lambda: len(server.status()["links"]) == 1)
    assert client.status()["requests"] == server.status()["requests"]
    assert client.counts() is not None
    assert sum(flow.requests for flow in client.counts().flows.values()) == server.status()["requests"]  # type: ignore[union-attr]
    assert await events.until_line("reloaded") == f"reloaded   routes + /more = {one}"
    assert events.warnings == []


async def test_a_route_that_is_gone_is_404(stack: AsyncExitStack) -> None:
    site = await start_named(stack, "site")
    server = await start_server(stack, queue_timeout_s=0)
    client = await start_client(stack, server.tunnel, [f"a.test={site}", f"b.test={site}"])
    await client.reload(with_routes(client, f"a.test={site}"))
    await eventually(lambda: len(server.status()["links"]) == 1)
    assert (await get(server.public_url, Host="a.test"))[0] == 200
    assert (await get(server.public_url, Host="b.test"))[0] == 404


async def test_a_server_that_refuses_leaves_all_as_it_was(stack: AsyncExitStack, tmp_path: Path) -> None:
    one, two = await start_named(stack, "one"), await start_named(stack, "two")
    events = Recorder()
    server = await start_server(stack)
    taken = RouteSpec(
        msgspec.structs.replace(parse_route(f"a.test={one}").route, exclusive=True), parse_route(one).backend
    )
    await start_client(stack, server.tunnel, [taken])
    client = await start_client(stack, server.tunnel, [two], events)
    before = client.config
    async with Steady(server.public_url):
        with pytest.raises(RegisterError, match=r"a\.test .* is taken by another client"):
            await client.reload(with_routes(client, two, f"a.test={two}"))
    assert client.config is before
    assert len(server.status()["links"]) == 2
    assert events.warnings == []
    assert not [line for line in events.lines if line.startswith(("away", "reloaded"))]
    assert await get(server.public_url, Host="a.test") == (200, "one /")


async def test_another_token_takes_over(stack: AsyncExitStack) -> None:
    """Rotation: the server takes both for a while. A wrong one leaves all as it was."""
    site, events = await start_named(stack, "site"), Recorder()
    server = await start_server(stack, token="first-token-of-all")
    client = await start_client(stack, server.tunnel, [site], events, token="first-token-of-all")
    async with Steady(server.public_url) as steady:
        with pytest.raises(fasttunnel.AuthError):
            await client.reload(msgspec.structs.replace(client.config, token=Secret("wrong-token")))
        await steady.more()
        await client.reload(msgspec.structs.replace(client.config, connections=2))
        await eventually(lambda: len(server.status()["links"]) == 2)
    assert "wrong" not in "".join(events.lines)


async def test_tunnels_of_before_are_bounded(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest with requests under way get no more time than a stop gives."""
    monkeypatch.setattr(limits, "REPLACED_TUNNELS", 1)
    site = await start_site(stack)
    server = await start_server(stack)
    client = await start_client(stack, server.tunnel, [site], drain_timeout_s=0.1)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    sockets = []
    for connections in (2, 3, 2):
        sockets.append(await session.ws_connect(f"{server.public_url}/websocket"))
        await client.reload(msgspec.structs.replace(client.config, connections=connections))
        await eventually(lambda wanted=connections: len(server.routes) == wanted)  # type: ignore[misc]
    for gone in sockets[:2]:
        assert (await gone.receive()).type is aiohttp.WSMsgType.CLOSE
    await sockets[2].send_str("hello")
    assert (await sockets[2].receive()).data == "HELLO"
    await eventually(lambda: len(server.status()["links"]) == 3 + 2)
    await sockets[2].close()
    await eventually(lambda: len(server.status()["links"]) == 2)


async def test_a_stop_lets_the_tunnels_of_before_finish(stack: AsyncExitStack) -> None:
    """And a stop without grace, or one that comes while another tunnel is still dialled, takes no time."""
    site, go_on = await start_slow(stack)
    server = await start_server(stack)
    for grace_s in (10, 0):
        client = await start_client(stack, server.tunnel, [site])
        asking = asyncio.ensure_future(get(server.public_url))
        await eventually(lambda: server.status()["active_requests"] == 1)
        await client.reload(msgspec.structs.replace(client.config, connections=2))
        pending = asyncio.ensure_future(client.reload(msgspec.structs.replace(client.config, server="127.0.0.1:1")))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(client.stop(grace_s))
        await eventually(lambda: server.routes == [])
        if grace_s:
            assert not stopping.done()
            go_on.set()
        async with asyncio.timeout(10):
            await stopping
            assert (await asking)[0] == (200 if grace_s else 502)
            with pytest.raises(fasttunnel.FasttunnelError, match="stop"):
                await pending
        await eventually(lambda: server.status()["links"] == [])
        go_on.clear()


class Held(Recorder):
    """Calls `hook` when a tunnel registers: before its client hears of it."""

    hook: Callable[[], None] | None = None

    def link_up(self, *given: Any) -> None:
        super().link_up(*given)
        if self.hook is not None:
            self.hook()


async def test_a_tunnel_that_is_not_wanted_any_more_finishes_what_it_has(stack: AsyncExitStack) -> None:
    """The server knows it, its client does not yet, when another reload or a stop overtakes it."""
    one, two = await start_named(stack, "one"), await start_named(stack, "two")
    events, client_events = Held(), Recorder()
    server = await start_server(stack, events)
    relay = await start_relay(stack, server.tunnel)
    client = await start_client(stack, server.tunnel, [one], client_events)
    for overtaken in (True, False):
        asked = server.status()["requests"]
        events.hook = relay.hold
        routes = with_routes(client, two)
        pending = asyncio.ensure_future(client.reload(msgspec.structs.replace(routes, server=relay.address)))
        await eventually(lambda: len(server.status()["links"]) == 2)
        asking = [asyncio.ensure_future(get(server.public_url)) for _ in range(6)]
        await eventually(lambda asked=asked: server.status()["requests"] == asked + 6)  # type: ignore[misc]
        events.hook = None
        if overtaken:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await client.reload(with_routes(client, one, f"/more={one}"))
            relay.release()
            assert {status for status, _ in await asyncio.gather(*asking)} == {200}
            await eventually(lambda: len(server.status()["links"]) == 1)
            assert await get(server.public_url) == (200, "one /")
            assert client.config.server == server.tunnel
        else:
            stopping = asyncio.ensure_future(client.stop(10))
            await asyncio.sleep(0)
            relay.release()
            assert {status for status, _ in await asyncio.gather(*asking)} == {200}
            await stopping
            with pytest.raises(fasttunnel.FasttunnelError, match="stop"):
                await pending
    assert client_events.warnings == []
    assert not [line for line in events.lines if "replaced" in line]


async def test_the_tunnel_of_before_is_known_while_the_next_ones_come(stack: AsyncExitStack) -> None:
    """The second connection is not let in: for a while both engines are there, with all counts. Then comes a stop."""
    site, go_on = await start_slow(stack)
    server = await start_server(stack, max_connections_per_address=2)
    client = await start_client(stack, server.tunnel, [site])
    asking = asyncio.ensure_future(get(server.public_url))
    await eventually(lambda: client.status()["requests"] == 1)
    pending = asyncio.ensure_future(client.reload(msgspec.structs.replace(client.config, connections=2)))
    await eventually(lambda: client.config.connections == 2)
    assert not pending.done()
    assert (client.status()["requests"], client.status()["active_requests"]) == (1, 1)
    stopping = asyncio.ensure_future(client.stop(10))
    await eventually(lambda: server.routes == [])
    assert not stopping.done()
    go_on.set()
    assert await asking == (200, "done")
    async with asyncio.timeout(succession.ALL_UP_S - 1):
        await asyncio.gather(stopping, pending)


async def test_a_connection_of_before_that_is_dialled_does_not_come(stack: AsyncExitStack) -> None:
    site = await start_site(stack)
    server = await start_server(stack, queue_timeout_s=0)
    relay = await start_relay(stack, server.tunnel)
    client = await start_client(stack, relay.address, [f"/websocket={site}", f"/a={site}"], connections=2)
    await eventually(lambda: len(server.status()["links"]) == 2)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    sockets = [await session.ws_connect(f"{server.public_url}/websocket") for _ in range(2)]
    assert [link["active_requests"] for link in server.status()["links"]] == [1, 1]
    relay.shut()
    relay.cut(1)
    await eventually(lambda: relay.waiting == 1)
    routes = with_routes(client, f"/b={site}")
    await client.reload(msgspec.structs.replace(routes, server=server.tunnel, connections=1))
    await eventually(lambda: (client.status()["tunnels"], len(server.routes)) == (2, 1))
    relay.open()
    await eventually(lambda: relay.connections == 3)
    for _ in range(20):  # more ways through both ends than a Register would need
        await get(server.public_url, "/b")
        assert [str(route) for route in server.routes] == ["/b"]
    assert (await get(server.public_url, "/a"))[0] == 404
    answers = []
    for each in sockets:
        with contextlib.suppress(ConnectionError):
            await each.send_str("hello")
            answers.append((await each.receive()).data)
    assert "HELLO" in answers, "the connection that was up has not gone"


async def test_both_come_back_after_an_outage(stack: AsyncExitStack) -> None:
    """Neither ends the other, whichever is first, and there is always one that serves."""
    one, two = await start_named(stack, "one"), await start_named(stack, "two")
    events = Recorder()
    server = await start_server(stack, events)
    relay = await start_relay(stack, server.tunnel)
    client = await start_client(stack, relay.address, [one], backoff_max_s=0.1)
    relay.shut()
    relay.cut()
    await eventually(lambda: relay.waiting == 1)
    pending = asyncio.ensure_future(client.reload(with_routes(client, two)))
    await eventually(lambda: relay.waiting >= 2)
    relay.open()
    statuses = set()
    while (got := await get(server.public_url)) != (200, "two /"):
        statuses.add(got[0])
    await pending
    await eventually(lambda: len(server.status()["links"]) == 1)
    assert await get(server.public_url) == (200, "two /")
    assert statuses <= {200, 503}
    assert not [line for line in events.lines if "replaced" in line]


async def test_a_reload_that_is_refused_leaves_nothing_open(stack: AsyncExitStack, tmp_path: Path) -> None:
    site = await start_named(stack, "site")
    server = await start_server(stack)
    client = await start_client(stack, server.tunnel, [site])
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    wanted = with_routes(client, "https://127.0.0.1:1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(fasttunnel.ConfigError):
            await client.reload(msgspec.structs.replace(wanted, backend_ca=str(tmp_path / "ca.pem")))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_stop_with_much_time_is_no_replacement(stack: AsyncExitStack) -> None:
    """The server knows that the client goes, and that nobody takes its place."""
    site = await start_site(stack)
    server = await start_server(stack, queue_timeout_s=0)
    client = await start_client(stack, server.tunnel, [site])
    session = await stack.enter_async_context(aiohttp.ClientSession())
    socket = await session.ws_connect(f"{server.public_url}/websocket")
    stopping = asyncio.ensure_future(client.stop(5e6))
    await eventually(lambda: server.routes == [])
    assert (await get(server.public_url))[0] == 503
    assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    await asyncio.wait_for(stopping, 10)


async def test_who_looks_on_sees_the_next_tunnel_too(stack: AsyncExitStack) -> None:
    site = await start_named(stack, "site")
    server = await start_server(stack)
    client = await start_client(stack, server.tunnel, [site])
    seen = 0

    def look(*_: object) -> None:
        nonlocal seen
        seen += 1

    assert client.taps is not None
    client.taps.add(look)
    await client.reload(msgspec.structs.replace(client.config, connections=2))
    await eventually(lambda: len(server.status()["links"]) == 2)
    seen = 0
    assert await get(server.public_url) == (200, "site /")
    assert seen >= 2
    client.taps.remove(look)
    seen = 0
    assert await get(server.public_url) == (200, "site /")
    assert seen == 0
    assert len(client.taps._tunnels) == 2, "of the engine in charge, and of none"


async def test_what_a_client_cannot_change_is_said(stack: AsyncExitStack, cell: tuple[str, str]) -> None:
    site, events = await start_named(stack, "site"), Recorder()
    server = await start_server(stack)
    client = await start_client(stack, server.tunnel, [site], events)
    engine = client._running
    wanted = msgspec.structs.replace(client.config, log_format="json", log_level="error", access_log="log")
    changes = await client.reload(wanted)
    assert (changes.names, changes.needs_restart) == ({"log_level"}, ("access_log", "log_format"))
    assert client.config == msgspec.structs.replace(wanted, log_format=None, access_log="")
    assert client._running is engine, "none of that needs another tunnel"
    assert events.warnings == ["needs a restart: access_log, log_format"]
    assert events.lines[-2] == 'reloaded   log_level "info" -> "error"'


# -- the server


async def test_a_server_goes_by_another_configuration(stack: AsyncExitStack, tmp_path: Path) -> None:
    """What runs stays: an open WebSocket, the tunnels; what comes goes by the new one."""
    site, events = await start_site(stack), Recorder()
    server = await start_server(stack, events)
    client = await start_client(stack, server.tunnel, [site])
    session = await stack.enter_async_context(aiohttp.ClientSession())
    socket = await session.ws_connect(f"{server.public_url}/websocket")
    assert (await session.post(f"{server.public_url}/echo", data=b"1234")).status == 200
    wanted = msgspec.structs.replace(server.config, body_bytes=3, request_id_header="x-id", listen="127.0.0.1:1")
    changes = server.reload(wanted)
    assert (changes.names, changes.needs_restart) == ({"body_bytes", "request_id_header"}, ("listen",))
    assert events.lines[-3:] == [
        "reloaded   body_bytes 0 -> 3",
        'reloaded   request_id_header none -> "x-id"',
        "warning    needs a restart: listen",
    ]
    async with session.post(f"{server.public_url}/echo", data=b"1234") as got:
        assert got.status == 413
    async with session.post(f"{server.public_url}/echo", data=b"123") as got:
        assert (got.status, "x-id" in got.headers) == (200, True)
    await socket.send_str("hello")
    assert (await socket.receive()).data == "HELLO"
    await socket.close()
    assert client.status()["reconnects"] == 0
    # What cannot be used changes nothing, not even what can.
    with pytest.raises(fasttunnel.ConfigError, match="none"):
        server.reload(msgspec.structs.replace(server.config, body_bytes=7, tokens_file=str(tmp_path / "none")))
    async with session.post(f"{server.public_url}/echo", data=b"1234") as got:
        assert got.status == 413
    assert server.config.body_bytes == 3


async def test_what_the_engine_refuses_changes_nothing(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, token, log = await start_named(stack, "site"), "a-token-of-some-length", tmp_path / "a.log"
    server = await start_server(stack, token=token, access_log=str(log))
    wanted = msgspec.structs.replace(server.config, token=Secret("another"), access_log=str(tmp_path / "b.log"))

    def refuse(config: object) -> None:
        raise fasttunnel.ConfigError("no")

    with monkeypatch.context() as patched:
        patched.setattr(server._running, "reload", refuse)
        with pytest.raises(fasttunnel.ConfigError, match="no"):
            server.reload(wanted)
    client = await start_client(stack, server.tunnel, [site], token=token)
    assert await get(server.public_url, "/x") == (200, "site /x")
    await eventually(lambda: "/x" in log.read_text())
    server.reload(wanted)
    with pytest.raises(fasttunnel.AuthError):
        await client.wait_closed()


async def test_tokens_of_another_file(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Tunnels whose token is not in it end; those that have one stay."""
    site = await start_named(stack, "site")
    both, one = TokenFile(tmp_path / "both.toml"), TokenFile(tmp_path / "one.toml")
    for token in ("alice-1", "bob-1"):
        both.put(token)
    one.put("bob-1")
    server = await start_server(stack, token="t" * 32)
    own = await start_client(stack, server.tunnel, [f"own.test={site}"], token="t" * 32)
    server.reload(msgspec.structs.replace(server.config, token=None, tokens_file=str(both)))
    with pytest.raises(fasttunnel.AuthError):
        await own.wait_closed()
    alice, bob = [
        await start_client(stack, server.tunnel, [f"{name}.test={site}"], token=f"{name}-1")
        for name in ("alice", "bob")
    ]
    server.reload(msgspec.structs.replace(server.config, tokens_file=str(one)))
    with pytest.raises(fasttunnel.AuthError):
        await alice.wait_closed()
    assert await get(server.public_url, Host="bob.test") == (200, "site /")
    assert bob.status()["reconnects"] == 0
    # And the file of before is not looked at any more, the new one is.
    one.drop("bob-1")
    server.reload()
    with pytest.raises(fasttunnel.AuthError):
        await bob.wait_closed()


# -- the commands


@pytest.mark.cython_only("the commands do the same with either engine; the engines are looked at above")
async def test_commands_read_their_files_again(stack: AsyncExitStack, tmp_path: Path) -> None:
    """SIGHUP under traffic, twice in a row, with a file that is wrong, and while they stop."""
    one, two = await start_named(stack, "one"), await start_named(stack, "two")
    files = {name: tmp_path / f"{name}.toml" for name in ("server", "client")}
    ends: dict[str, Command] = {}

    async def start(name: str, *lines: str) -> None:
        write(name, *lines)
        arguments = ("--config", str(files[name]), "--set", "max_window=300000", *["--no-check"] * (name == "client"))
        ends[name] = await stack.enter_async_context(command(name, *arguments, token="t" * 32))

    def write(name: str, *lines: str) -> None:
        files[name].write_text("\n".join(lines))
        if name in ends:
            ends[name].signal(signal.SIGHUP)

    ports = ('listen = "127.0.0.1:0"', 'tunnel = "127.0.0.1:0"', "watch_config = false")
    await start("server", *ports)
    url = (await ends["server"].line(r"public +(http://[^ ]+)"))[1]
    tunnel = (await ends["server"].line(r"tunnel +([^ ]+:\d+)"))[1]
    # A client that finds no server is told another one.
    await start("client", 'server = "127.0.0.1:1"', f'routes = ["{one}"]', "watch_config = false")
    await ends["client"].line("away")
    write("client", f'server = "{tunnel}"', f'routes = ["{one}"]', "watch_config = false")
    await ends["client"].line(f'reloaded +server "127.0.0.1:1" -> "{tunnel}"')
    await ends["client"].line("connected")
    kept = (f'server = "{tunnel}"', "watch_config = false")
    async with Steady(url) as steady:
        write("server", *ports, "max_requests = 100", 'token = "s3cret-of-all-servers-and-long-enough"')
        await ends["server"].line("reloaded +max_requests 0 -> 100")
        write("client", *kept, 'routes = ["nonsense"]')
        await ends["client"].line(r"warning +.*client.toml: routes\[0\]: 'nonsense' .*; what was before stays in use")
        write("client", *kept, f'routes = ["{two}" "x"]')
        await ends["client"].line(r"warning +.*client.toml is not TOML: .*line 3.*; what was before stays in use")
        await steady.more()
        assert steady.answers[-1] == "one /x"
        for _ in range(2):
            write("client", *kept, f'routes = ["{two}"]', "max_window = 400000")
        await ends["client"].line(f"reloaded +routes .*{one}.* -> .*{two}")
        await eventually(lambda: steady.answers[-1] == "two /x")
        ends["client"].signal(signal.SIGHUP)  # of the second of two in a row nothing may be left to say
        await ends["client"].line("reloaded +nothing has changed")
        write("server", *ports, 'engine = "asyncio"')
        await ends["server"].line("warning +.*server.toml: there is no option 'engine'")
        write("server", *ports, 'domain = "t.example.com"', "max_requests = 200")
        await ends["server"].line("reloaded +max_requests 100 -> 200")
        await ends["server"].line("warning +needs a restart: domain")
        await steady.more()
    # While it stops, what is under way has its time, and nothing is read any more.
    assert "s3cret" not in "".join([*ends["server"].lines, *ends["client"].lines])
    for name in ("client", "server"):
        ends[name].signal(signal.SIGTERM)
        ends[name].signal(signal.SIGHUP)
        assert await ends[name].end() == 0


@pytest.mark.cython_only("it is the command that knows what was asked for")
async def test_a_reload_that_is_overtaken_has_been_in_force(stack: AsyncExitStack, tmp_path: Path) -> None:
    """The second connection is not let in, so it is not done when its name is taken back."""
    server = await start_server(stack, domain="t.test", max_connections_per_address=2)
    file = tmp_path / "client.toml"

    def write(*lines: str) -> None:
        file.write_text("\n".join([f'server = "{server.tunnel}"', 'routes = ["http://127.0.0.1:9"]', *lines]))

    write('name = "first"', "watch_config = false")
    client = await stack.enter_async_context(command("client", "--config", str(file), "--no-check"))
    await client.line("connected")
    write('name = "second"', "connections = 2", "watch_config = false")
    client.signal(signal.SIGHUP)
    await client.line('reloaded +name "first" -> "second"')
    write('name = "first"', "connections = 2", "watch_config = false")
    client.signal(signal.SIGHUP)
    server.reload(msgspec.structs.replace(server.config, max_connections_per_address=9))
    await client.line('reloaded +name "second" -> "first"')
    client.signal(signal.SIGTERM)
    assert await client.end() == 0


@pytest.mark.cython_only("a service manager hears of the command")
async def test_a_client_that_never_connected_is_never_ready(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that stops while something waits says nothing more of that."""
    manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    file = tmp_path / "client.toml"
    file.write_text('server = "127.0.0.1:1"\nroutes = ["http://127.0.0.1:9"]\nwatch_config = false')
    client = await stack.enter_async_context(command("client", "--config", str(file), "--no-check", token="t" * 32))
    await client.line("away")
    file.write_text('server = "127.0.0.1:2"\nroutes = ["http://127.0.0.1:9"]')
    client.signal(signal.SIGHUP)
    await client.line("what has changed waits for 127.0.0.1:2")
    client.signal(signal.SIGTERM)
    assert await client.end() == 0
    assert not [line for line in client.lines if "has been stopped" in line]
    assert manager.recv(100) == b"STOPPING=1"
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.cython_only("the files are watched by the command")
async def test_a_server_notices_that_its_file_changes(stack: AsyncExitStack, tmp_path: Path) -> None:
    """As Kubernetes replaces a ConfigMap: by a link of links."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "server.toml").write_text(f"max_requests = {number}\n")
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "server.toml").symlink_to("..data/server.toml")
    options = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--log-format", "json")
    server = await stack.enter_async_context(
        command("server", "--config", str(tmp_path / "server.toml"), *options, token="t" * 32)
    )
    await server.line('"event":"listening","text":"tunnel')
    (tmp_path / "..next").symlink_to("2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    await server.line('"reloaded"')
    assert '"text":"max_requests 1 -> 2","option":"max_requests"' in server.lines[-1]
    server.signal(signal.SIGTERM)
    assert await server.end() == 0
