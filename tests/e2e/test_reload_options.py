"""Each option that is said to change without a restart does, at an end that runs (`control.config.applies`)."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import msgspec
import pytest
from aiohttp import web

import fasttunnel
from fasttunnel.control.certificates import pin_of
from fasttunnel.control.config import ClientConfig, Secret, ServerConfig, applies, parse_route
from fasttunnel.errors import GrpcStatus
from tests.support import certificates
from tests.support.frames import accept_upgrade, ask_upgrade, expect_upgrade, read_frame
from tests.support.grpc_peers import Note, open_channel, start_grpc
from tests.support.raw import Peer, connect, start_raw
from tests.support.relay import start_relay
from tests.support.stock import dial, dial_and_register
from tests.support.tunnel import Recorder, eventually, start_client, start_server
from tests.support.web import start_web


class House:
    """A server that runs, and a client with a backend."""

    def __init__(self, stack: AsyncExitStack, server: fasttunnel.Server, tmp_path: Path) -> None:
        self.stack, self.server, self.tmp_path = stack, server, tmp_path
        self.url = server.public_url
        self.go_on = asyncio.Event()

    async def session(self) -> aiohttp.ClientSession:
        return await self.stack.enter_async_context(aiohttp.ClientSession())

    async def status(self, path: str = "/", data: bytes | None = None, **fields: str) -> int:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, data=data, headers=fields) as got:
            await got.read()
            return got.status

    async def raw(self, sent: bytes = b"") -> Peer:
        peer = await connect(self.stack, *self.server.address)
        await peer.send(sent)
        return peer

    async def hold(self) -> asyncio.Task[int]:
        """A request that lasts until `go_on`."""
        active = self.server.status()["active_requests"]
        task = asyncio.ensure_future(self.status("/slow"))
        self.stack.callback(task.cancel)
        await eventually(lambda: self.server.status()["active_requests"] > active)
        return task

    async def registered(self) -> Any:
        return (await dial_and_register(self.stack, self.server.tunnel))[1]


async def start_house(stack: AsyncExitStack, tmp_path: Path, **options: Any) -> House:
    house = House(stack, await start_server(stack, **options), tmp_path)
    stack.callback(house.go_on.set)

    async def slow(request: web.Request) -> web.Response:
        await house.go_on.wait()
        return web.Response()

    async def fields(request: web.Request) -> web.Response:
        return web.json_response(dict(request.headers))

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        async for message in connection:
            await connection.send_str(message.data)
        return connection

    async def plain(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    routes = [web.post("/slow", slow), web.get("/fields", fields), web.get("/websocket", websocket)]
    site = await start_web(stack, *routes, web.route("*", "/{path:.*}", plain))
    house.client = await start_client(stack, house.server.tunnel, [site])  # type: ignore[attr-defined]
    return house


# -- the server: by option, its new value, and a look at whether it holds


async def failed_logins(house: House) -> bool:
    statuses = []
    for _ in range(2):
        call = (await dial(house.stack, house.server.tunnel, "wrong")).call
        statuses.append((await call.code()).value[0])
    return statuses == [GrpcStatus.UNAUTHENTICATED, GrpcStatus.RESOURCE_EXHAUSTED]


async def crowded(house: House) -> bool:
    await house.raw()
    await eventually(lambda: house.server.status()["connections"] > 1)
    return await house.status() == 503


async def full(house: House) -> bool:
    await house.hold()
    return await house.status() == 503


async def long_message(house: House) -> bool:
    async with (await house.session()).ws_connect(f"{house.url}/websocket") as socket:
        await socket.send_str("12345")
        return (await socket.receive()).data == 1009


async def long_note(house: House) -> bool:
    await start_client(house.stack, house.server.tunnel, [await start_grpc(house.stack)])
    stub = await open_channel(house.stack, house.url.removeprefix("http://"))
    with suppress(grpc.aio.AioRpcError):
        await stub.Unary(Note(data=b"x" * 100))
        return False
    return True


async def half_a_head(house: House) -> bool:
    return b" 408 " in await (await house.raw(b"GET / HTTP/1.1\r\n")).reader.readuntil(b"\r\n")


async def kept(house: House) -> bool:
    peer = await house.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return (await peer.reader.read()).startswith(b"HTTP/1.1 200")  # to its end


async def idle(house: House) -> bool:
    return await house.status("/slow") == 504


async def pinged(house: House) -> bool:
    async with (await house.session()).ws_connect(f"{house.url}/websocket", autoping=False) as socket:
        ping = await socket.receive()
        return ping.type is aiohttp.WSMsgType.PING


async def leave(house: House) -> None:
    await house.client.stop()  # type: ignore[attr-defined]


async def lost(house: House) -> bool:
    relay = await start_relay(house.stack, house.server.tunnel)
    await leave(house)
    echo = await start_raw(house.stack)
    await start_client(house.stack, relay.address, [echo.url])
    public = await house.raw()
    await ask_upgrade(public)
    await accept_upgrade(await echo.accept())
    await expect_upgrade(public)
    relay.cut()
    return (await read_frame(public)).payload[:2] == (1013).to_bytes(2, "big")


async def queued(house: House) -> bool:
    await leave(house)
    waiting = asyncio.ensure_future(house.status())
    await eventually(lambda: house.server.status()["queued_requests"] == 1)
    await start_client(house.stack, house.server.tunnel, [await start_web(house.stack, web.post("/", _ok))])
    return await waiting == 200


async def _ok(request: web.Request) -> web.Response:
    return web.Response()


async def not_queued(house: House) -> bool:
    await leave(house)
    return await house.status() == 503


async def named(house: House) -> bool:
    async with (await house.session()).get(house.url) as got:
        return "x-name" in got.headers


async def stopped(house: House) -> bool:
    holding = await house.hold()
    await house.server.stop()
    with suppress(aiohttp.ClientError):
        await holding
    return True


async def logged(house: House) -> bool:
    await house.status("/of-this-one")
    await eventually((house.tmp_path / "new.log").exists)
    await eventually(lambda: "/of-this-one" in (house.tmp_path / "new.log").read_text())
    return "/of-this-one" not in (house.tmp_path / "old.log").read_text()


async def forwarded(house: House) -> bool:
    headers = {"X-Forwarded-For": "192.0.2.7"}
    async with (await house.session()).get(f"{house.url}/fields", headers=headers) as got:
        return "192.0.2.7" in (await got.json())["X-Forwarded-For"]


async def shown(house: House) -> bool:
    """The certificate of a new connection."""
    context = certificates.authority().context()
    name = "other.test"
    _, writer = await asyncio.open_connection(*house.server.address, ssl=context, server_hostname=name)
    writer.close()
    return True


async def certified(house: House) -> bool:
    """Another authority: whoever has no certificate of it is not let in; the client has none."""
    client = fasttunnel.Client(house.server.tunnel, ["http://127.0.0.1:1"], ca=certificates.authority().ca)
    with pytest.raises(fasttunnel.FasttunnelError):
        await asyncio.wait_for(client.check_login(), 10)
    return True


def engine(house: House) -> Any:
    return house.server._engine


SMALL = {"initial_window": 4096, "max_fragment": 2048}
Look = Callable[[House], Awaitable[Any]]
SERVER: dict[str, tuple[Any, Look]] = {
    "max_failed_logins": (1, failed_logins),
    "max_connections_per_address": (1, crowded),
    "target_bytes": (4096, lambda house: equal(house.status("/" + "x" * 5000), 414)),
    "body_bytes": (3, lambda house: equal(house.status(data=b"1234"), 413)),
    "max_connections": (1, crowded),
    "max_requests": (1, full),
    "max_requests_per_tunnel": (1, full),
    "ws_message_bytes": (4, long_message),
    "grpc_message_bytes": (50, long_note),
    "head_timeout_s": (0.05, half_a_head),
    "keep_alive_timeout_s": (0.05, kept),
    "idle_timeout_s": (0.1, idle),
    "ws_ping_interval_s": (0.05, pinged),
    "ws_lost_close": (1013, lost),
    "queue_timeout_s": (20.0, queued),
    "queued_requests": (0, not_queued),
    "request_id_header": ("x-name", named),
    "drain_timeout_s": (0.05, stopped),
    "access_log": ("new.log", logged),
    "public_url": ("https://shop.test", lambda house: named_so(house)),
    "trusted_proxies": (("127.0.0.0/8",), forwarded),
    "initial_window": (4096, lambda house: registered_with(house, initial_window=4096)),
    "max_fragment": (2048, lambda house: registered_with(house, max_fragment=2048)),
    "heartbeat_interval_s": (3.5, lambda house: registered_with(house, heartbeat_interval_ms=3500)),
    "header_list_bytes": (4096, lambda house: equal(house.status(**{"X-Long": "x" * 5000}), 431)),
}
BEFORE: dict[str, dict[str, Any]] = {
    "max_failed_logins": {"token": "t" * 32},
    "queued_requests": {"queue_timeout_s": 20.0},
    "access_log": {"access_log": "old.log"},
}
# Those of TLS, and what other tests look at.
ELSEWHERE = {
    "token": "test_reload.test_tokens_of_another_file",
    "tokens_file": "test_reload.test_tokens_of_another_file",
    "cert": "test_certificates_of_other_files",
    "key": "test_certificates_of_other_files",
    "client_ca": "test_certificates_of_other_files",
    "max_window": "test_windows_of_new_tunnels",
    "window_budget": "test_windows_of_new_tunnels",
    "log_level": "test_cli.test_a_reload_changes_the_level",
    "watch_config": "test_reloading.test_a_file_that_is_not_watched",
}


async def equal(found: Awaitable[Any], wanted: Any) -> bool:
    return bool(await found == wanted)


async def named_so(house: House) -> bool:
    return bool((await house.registered()).urls == ["https://shop.test"])


async def registered_with(house: House, **wanted: int) -> bool:
    registered = await house.registered()
    return {name: getattr(registered, name) for name in wanted} == wanted


def test_every_option_is_classified_and_looked_at() -> None:
    for kind in (ServerConfig, ClientConfig):
        assert set(applies(kind)) == set(kind.__struct_fields__)
    changing = {name for name, how in applies(ServerConfig).items() if how != "restart"}
    assert changing == {*SERVER, *ELSEWHERE}
    changing = {name for name, how in applies(ClientConfig).items() if how != "restart"}
    assert changing == {*CLIENT, *ELSEWHERE_CLIENT}


@pytest.mark.parametrize("option", SERVER)
async def test_an_option_of_a_server(stack: AsyncExitStack, tmp_path: Path, option: str) -> None:
    value, holds = SERVER[option]
    options = dict(BEFORE.get(option, {}))
    token = options.pop("token", None)
    if option == "access_log":
        value, options = str(tmp_path / value), {"access_log": str(tmp_path / "old.log")}
    house = await start_house(stack, tmp_path, **options)
    if token is not None:
        house.server.reload(msgspec.structs.replace(house.server.config, token=Secret(token)))
    changes = house.server.reload(msgspec.structs.replace(house.server.config, **{option: value}))
    assert (changes.names, changes.needs_restart) == ({option}, ())
    async with asyncio.timeout(20):
        assert await holds(house), f"{option} = {value!r} does not hold"


async def test_certificates_of_other_files(stack: AsyncExitStack, tmp_path: Path) -> None:
    first = certificates.authority().issue("first", "first.test", "127.0.0.1")
    other = certificates.authority().issue("other", "other.test", "127.0.0.1")
    ca = tmp_path / "ca.pem"
    ca.write_text(Path(certificates.authority().ca).read_text())  # noqa: ASYNC240
    server = await start_server(stack, cert=first.cert, key=first.key, client_ca=certificates.authority().ca)
    wanted = {"cert": (other.cert,), "key": (other.key,), "client_ca": str(ca)}
    changes = server.reload(msgspec.structs.replace(server.config, **wanted))
    assert (changes.names, changes.needs_restart) == ({"cert", "key", "client_ca"}, ())
    house = House(stack, server, tmp_path)
    assert await shown(house)
    assert await certified(house)
    for gone, needed in (
        ({"client_ca": "", "token": Secret("t" * 32)}, ("client_ca",)),
        ({"cert": (), "key": (), "client_ca": ""}, ("cert", "key", "client_ca")),
    ):
        changes = server.reload(msgspec.structs.replace(server.config, **gone))
        assert changes.needs_restart == needed


async def test_windows_of_new_tunnels(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    before = getattr(server._engine, "_budget", None) or server._engine.budget  # type: ignore[union-attr]
    server.reload(msgspec.structs.replace(server.config, max_window=1_000_000, window_budget=5))
    after = getattr(server._engine, "_budget", None) or server._engine.budget  # type: ignore[union-attr]
    assert after is not before


# -- the client: a tunnel with the new options takes over


CLIENT: dict[str, Any] = {
    "client_id": "somebody",
    "token": Secret("t" * 32),
    "name": "shop",
    "any_name": True,
    "backend_verify": False,
    "initial_window": 4096,
    "max_fragment": 2048,
    "header_list_bytes": 5000,
    "ws_message_bytes": 4000,
    "grpc_message_bytes": 4000,
    "max_window": 1_000_000,
    "window_budget": 1_000_000,
    "connections": 2,
    "connect_timeout_s": 3.0,
    "keep_alive_timeout_s": 3.0,
    "backoff_min_s": 0.2,
    "backoff_max_s": 3.0,
}
ELSEWHERE_CLIENT = {
    "server": "test_another_server_by_tls",
    "tls": "test_another_server_by_tls",
    "ca": "test_another_server_by_tls",
    "server_name": "test_another_server_by_tls",
    "cert": "test_another_server_by_tls",
    "key": "test_another_server_by_tls",
    "backend_ca": "test_another_server_by_tls",
    "pins": "test_other_pins",
    "routes": "test_reload.test_other_routes_take_over_under_traffic",
    "drain_timeout_s": "test_drain_timeout_of_a_client",
    "access_log": "test_access_log_of_a_client",
    "log_level": "test_reload.test_what_a_client_cannot_change_is_said",
    "watch_config": "test_reloading.test_a_file_that_is_not_watched",
}


async def test_options_of_a_client(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Each by itself, on one client: the engine in charge has it, and serves."""
    house = await start_house(stack, tmp_path, domain="localhost")
    client: fasttunnel.Client = house.client  # type: ignore[attr-defined]
    for option, value in CLIENT.items():
        before = client._running
        await client.reload(msgspec.structs.replace(client.config, **{option: value}))
        engine: Any = client._running
        assert engine is not before
        assert getattr(getattr(engine, "_config", None) or engine.config, option) == value
        host = client.urls[0].partition("://")[2]
        assert await house.status(Host=host) == 200, option
    assert client.name == "shop"
    assert house.server.status()["links"][-1]["client_id"] == "somebody"
    await eventually(lambda: client.status()["tunnels"] == 2)


async def test_another_server_by_tls(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path)
    client: fasttunnel.Client = house.client  # type: ignore[attr-defined]
    pair, own = certificates.here(), certificates.authority().issue("client")
    ca = certificates.authority().ca
    other = await start_server(stack, cert=pair.cert, key=pair.key, tls=["tunnel"], client_ca=ca)
    wanted = {"server": other.tunnel, "tls": True, "ca": ca, "server_name": "localhost", "backend_ca": ca}
    await client.reload(msgspec.structs.replace(client.config, **wanted, cert=own.cert, key=own.key))
    await eventually(lambda: not house.server.status()["links"])
    assert await House(stack, other, tmp_path).status() == 200
    assert await house.status() == 404


@pytest.mark.differs("asyncio client", "grpc does not show certificates, so pins cannot be checked")
async def test_other_pins(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Those that the server does not have are waited for, and the old tunnel serves."""
    pair, events = certificates.here(), Recorder()
    site = await start_web(stack, web.post("/", _ok))
    server = await start_server(stack, cert=pair.cert, key=pair.key, tls=["tunnel"])
    client = await start_client(stack, server.tunnel, [site], events, ca=certificates.authority().ca)
    before = client._running
    wrong = certificates.authority().issue("wrong", "127.0.0.1")
    config = msgspec.structs.replace(client.config, ca="", pins=(pin_of(wrong.cert),))
    waiting = asyncio.ensure_future(client.reload(config))
    await events.until(lambda: bool(events.warnings))
    assert "what was before stays in use" in events.warnings[0]
    assert await House(stack, server, tmp_path).status() == 200
    waiting.cancel()  # as a newer one does
    await client.reload(msgspec.structs.replace(config, pins=(pin_of(pair.cert),)))
    assert client._running is not before
    assert await House(stack, server, tmp_path).status() == 200
    await eventually(lambda: client.status()["tunnels"] == 1)


async def test_drain_timeout_of_a_client(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path)
    client: fasttunnel.Client = house.client  # type: ignore[attr-defined]
    await house.hold()
    await client.reload(msgspec.structs.replace(client.config, drain_timeout_s=0.05))
    async with asyncio.timeout(10):
        await client.stop()


async def test_access_log_of_a_client(stack: AsyncExitStack, tmp_path: Path) -> None:
    site = await start_web(stack, web.get("/x", _ok))
    server = await start_server(stack)
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    client = await start_client(stack, server.tunnel, [site], access_log=str(old))
    await client.reload(msgspec.structs.replace(client.config, access_log=str(new)))
    async with aiohttp.ClientSession() as session, session.get(f"{server.public_url}/x") as got:
        assert got.status == 200
    await eventually(lambda: new.exists() and "/x" in new.read_text())
    assert old.read_text() == ""
    # One that is refused leaves it where it was.
    wanted = msgspec.structs.replace(
        client.config, access_log=str(old), routes=(parse_route("a.b.test=http://127.0.0.1:1"),)
    )
    server.reload(msgspec.structs.replace(server.config, token=Secret("t" * 32)))
    with pytest.raises(fasttunnel.AuthError):
        await client.reload(wanted)
    assert client.config.access_log == str(new)
