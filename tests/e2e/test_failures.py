"""The tunnel fails, in every way, with requests of every kind under way. docs/failures.md has the table.

Afterwards the counters of both ends are what they were, and requests pass again.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import fasttunnel
from tests.support.command import Command, command
from tests.support.frames import CLOSE, accept_upgrade, ask_upgrade, expect_upgrade, read_frame
from tests.support.raw import connect, start_raw
from tests.support.relay import Relay, start_relay
from tests.support.tunnel import Recorder, Tunnel, eventually, start_client, start_server
from tests.support.witnesses import Backends, Witnesses, open_books, round_trips, start_backends

QUICK = {"backoff_min_s": 0.01, "backoff_max_s": 0.05}
BEAT_S = 0.5  # twice this is what a busy machine may let a process wait without a tunnel being given up

pytestmark = pytest.mark.timeout(90)


class Link:
    """Both ends in this process, with a relay between them."""

    def __init__(self, backends: Backends, tunnel: Tunnel, relay: Relay) -> None:
        self.backends = backends
        self.tunnel = tunnel
        self.relay = relay

    async def back(self) -> None:
        """The client has come back, and requests pass."""
        await self.tunnel.client_events.until_line("connected", 2)
        await eventually(lambda: len(self.tunnel.server.status()["links"]) == 1)
        await round_trips(self.backends, self.tunnel.host, self.tunnel.port)


@pytest.fixture
async def link(stack: AsyncExitStack) -> Link:
    backends = await start_backends(stack)
    events, client_events = Recorder(), Recorder()
    server = await start_server(stack, events, heartbeat_interval_s=BEAT_S)
    relay = await start_relay(stack, server.tunnel)
    client = await start_client(stack, relay.address, backends.routes, client_events, **QUICK)
    link = Link(backends, Tunnel(server, client, events, client_events), relay)
    await round_trips(backends, *server.address)
    return link


async def start_witnesses(stack: AsyncExitStack, link: Link) -> Witnesses:
    witnesses = Witnesses(stack, link.backends, link.tunnel.host, link.tunnel.port)
    await witnesses.start()
    return witnesses


async def test_the_tunnel_is_cut(stack: AsyncExitStack, link: Link) -> None:
    books = await open_books(link.tunnel.server, link.tunnel.client)
    witnesses = await start_witnesses(stack, link)
    link.relay.cut()
    await witnesses.public_is_told()
    await witnesses.backends_are_cut()
    await link.back()
    await witnesses.leave()
    await books.balance()


@pytest.mark.parametrize("code", [1006, 1012])
async def test_how_websockets_of_a_lost_tunnel_are_closed(stack: AsyncExitStack, code: int) -> None:
    server = await start_server(stack, ws_lost_close=code)
    relay, backend = await start_relay(stack, server.tunnel), await start_raw(stack)
    await start_client(stack, relay.address, [backend.url], **QUICK)
    public = await connect(stack, *server.address)
    await ask_upgrade(public)
    await accept_upgrade(await backend.accept())
    await expect_upgrade(public)
    relay.cut()
    if code != 1006:
        last = await read_frame(public)
        assert (last.opcode, last.payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
    assert await public.to_end() == b""
    assert server._engine is not None
    assert server._engine.counts().closes == {code: 1}  # type: ignore[attr-defined]


async def test_the_tunnel_is_a_black_hole(stack: AsyncExitStack, link: Link) -> None:
    """Nothing is closed and nothing comes: found by the heartbeats, within two intervals of silence."""
    books = await open_books(link.tunnel.server, link.tunnel.client)
    witnesses = await start_witnesses(stack, link)
    loop = asyncio.get_running_loop()
    link.relay.black_hole()
    begun_s = loop.time()
    await witnesses.public_is_told()
    await witnesses.backends_are_cut()
    # One more interval may have begun just before, and the machine may be busy.
    assert loop.time() - begun_s < 3 * BEAT_S + 2
    await link.back()
    await witnesses.leave()
    await books.balance()


# -- processes that are killed, or stopped for a while


async def start_client_process(stack: AsyncExitStack, server: str, *routes: str) -> Command:
    client = await stack.enter_async_context(command("client", "--no-check", "--server", server, *routes))
    await client.line("connected")
    return client


@pytest.fixture
async def alone(stack: AsyncExitStack) -> AsyncIterator[tuple[fasttunnel.Server, Recorder, Backends]]:
    """A server whose clients are processes of their own, and the backends for them."""
    events = Recorder()
    server = await start_server(stack, events, heartbeat_interval_s=BEAT_S)
    yield server, events, await start_backends(stack)
    assert events.warnings == []


async def test_the_client_is_killed(stack: AsyncExitStack, alone: tuple[fasttunnel.Server, Recorder, Backends]) -> None:
    server, events, backends = alone
    client = await start_client_process(stack, server.tunnel, *backends.routes)
    await round_trips(backends, *server.address)
    books = await open_books(server)
    witnesses = Witnesses(stack, backends, *server.address)
    await witnesses.start()
    client.signal(signal.SIGKILL)
    await witnesses.public_is_told()
    await witnesses.backends_are_cut()
    await events.until_line("link down")
    await start_client_process(stack, server.tunnel, *backends.routes)
    await round_trips(backends, *server.address)
    await witnesses.leave()
    await books.balance()


async def test_the_client_is_suspended(
    stack: AsyncExitStack, alone: tuple[fasttunnel.Server, Recorder, Backends]
) -> None:
    """Its system keeps the connection open. When it wakes up, the tunnel has been given up, and it dials again."""
    server, events, backends = alone
    client = await start_client_process(stack, server.tunnel, *backends.routes)
    await round_trips(backends, *server.address)
    books = await open_books(server)
    witnesses = Witnesses(stack, backends, *server.address)
    await witnesses.start()
    client.signal(signal.SIGSTOP)
    try:
        await witnesses.public_is_told()
        await events.until_line("link down")
    finally:
        client.signal(signal.SIGCONT)
    await witnesses.backends_are_cut()
    await client.line("connected again")
    await round_trips(backends, *server.address)
    await witnesses.leave()
    await books.balance()


async def test_the_server_is_killed(stack: AsyncExitStack) -> None:
    backends = await start_backends(stack)
    server, public, tunnel = await start_server_process(stack)
    events = Recorder()
    client = await start_client(stack, tunnel, backends.routes, events, **QUICK)
    host, _, port = public.partition(":")
    await round_trips(backends, host, int(port))
    books = await open_books(client)
    witnesses = Witnesses(stack, backends, host, int(port))
    await witnesses.start()
    server.signal(signal.SIGKILL)
    await witnesses.public_is_cut()
    await witnesses.backends_are_cut()
    await events.until_line("away")
    await start_server_process(stack, public, tunnel)
    await events.until_line("connected", 2)
    await round_trips(backends, host, int(port))
    await witnesses.leave()
    await books.balance()


async def test_the_server_is_suspended(stack: AsyncExitStack, tmp_path: Path) -> None:
    """The client notices by its own heartbeats, and comes back when the server does."""
    backends = await start_backends(stack)
    config = tmp_path / "server.toml"
    config.write_text(f"heartbeat_interval_s = {BEAT_S}")
    server, public, tunnel = await start_server_process(stack, config=config)
    events = Recorder()
    client = await start_client(stack, tunnel, backends.routes, events, **QUICK)
    host, _, port = public.partition(":")
    await round_trips(backends, host, int(port))
    books = await open_books(client)
    witnesses = Witnesses(stack, backends, host, int(port))
    await witnesses.start()
    server.signal(signal.SIGSTOP)
    try:
        await witnesses.backends_are_cut()
        await events.until_line("away")
    finally:
        server.signal(signal.SIGCONT)
    await witnesses.public_is_told()
    await events.until_line("connected", 2)
    await round_trips(backends, host, int(port))
    await witnesses.leave()
    await books.balance()


async def start_server_process(
    stack: AsyncExitStack, public: str = "127.0.0.1:0", tunnel: str = "127.0.0.1:0", config: Path | None = None
) -> tuple[Command, str, str]:
    """A server, its public address and its tunnel address."""
    arguments = ["--listen", public, "--tunnel", tunnel, *(["--config", str(config)] if config else [])]
    server = await stack.enter_async_context(command("server", "--no-token", *arguments))
    public = (await server.line(r"public +http://([^ ]+)"))[1]
    return server, public, (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
