"""A server and a client of the tunnel in this process, on free ports, and what they report."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import fasttunnel
from fasttunnel.control.config import Backend, RouteSpec
from fasttunnel.control.log import Events, RequestRecord
from fasttunnel.control.routes import Route

WAIT_S = 20.0  # a test that waits longer for anything has failed

# The engines of the two ends, unless a test names others: set for each cell of the matrix (tests/e2e/conftest.py).
engines: dict[str, Any] = {"server": None, "client": None}

# Options of the two ends of start_tunnel(), for a run of the whole suite over another kind of tunnel (--tls).
of_tunnels: dict[str, dict[str, Any]] = {"server": {}, "client": {}}


class Recorder(Events):
    """The events of one end, kept for tests, which can wait for them."""

    def __init__(self, *, records: bool = False) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.records: list[RequestRecord] = []
        self._news = asyncio.Event()
        super().__init__(self._take)
        if records:
            self.request_done = self._request_done

    def _take(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    def _request_done(self, record: RequestRecord) -> None:
        self.records.append(record)
        self._news.set()

    def warning(self, text: str) -> None:
        self.warnings.append(text)
        super().warning(text)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events until `condition` holds."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_line(self, start: str, count: int = 1) -> str:
        """Wait for the count-th line that begins with `start`, and return it."""
        await self.until(lambda: len([line for line in self.lines if line.startswith(start)]) >= count)
        return [line for line in self.lines if line.startswith(start)][count - 1]

    async def record(self, index: int = -1) -> RequestRecord:
        """A record of a finished request, once there is one."""
        await self.until(lambda: len(self.records) > (index if index >= 0 else 0))
        return self.records[index]


class Tunnel:
    """Both ends, running. `url` and `ws_url` are where the public sends requests, without a slash at the end."""

    def __init__(self, server: fasttunnel.Server, client: fasttunnel.Client, events: Recorder, client_events: Recorder):
        self.server = server
        self.client = client
        self.events = events
        self.client_events = client_events
        self.host, self.port = server.address
        self.authority = f"{self.host}:{self.port}"
        self.url = f"http://{self.authority}"
        self.ws_url = f"ws://{self.authority}"

    @property
    def active(self) -> int:
        """Requests under way, as both ends count them."""
        return int(self.server.status()["active_requests"] + self.client.status()["active_requests"])

    async def until_idle(self) -> None:
        """No request is left at either end: whatever a test did, nothing of it may stay."""
        await eventually(lambda: self.active == 0, lambda: f"{self.active} requests have been left behind")


async def eventually(condition: Callable[[], bool], complaint: Callable[[], str] = lambda: "did not happen") -> None:
    """For what no event tells: look again, often, until `condition` holds."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(complaint())
        await asyncio.sleep(0.002)


def route(backend: str, **fields: Any) -> RouteSpec:
    """A route with fields that the short form on the command line cannot say; `backend` is SCHEME://HOST:PORT."""
    scheme, _, address = backend.partition("://")
    host, _, port = address.rpartition(":")
    target = Backend(scheme, host, int(port))
    return RouteSpec(Route(protocols=target.protocols, **fields), target)


async def start_server(stack: AsyncExitStack, events: Recorder | None = None, **options: Any) -> fasttunnel.Server:
    """A server on free ports, stopped when the stack is left. Answers have no field of ours, unless a test wants it."""
    ports = {"listen": "127.0.0.1:0", "tunnel": "127.0.0.1:0"}
    options = {**ports, "request_id_header": "", "engine": engines["server"], **options}
    server = fasttunnel.Server(events=events or Recorder(), **options)
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return server


async def start_client(
    stack: AsyncExitStack,
    server: str,
    routes: Sequence[str | RouteSpec],
    events: Recorder | None = None,
    **options: Any,
) -> fasttunnel.Client:
    """A client that has registered with `server` (HOST:PORT), stopped when the stack is left."""
    options = {"engine": engines["client"], **options}
    client = fasttunnel.Client(server, list(routes), events=events or Recorder(), **options)
    stack.push_async_callback(client.stop, 0)
    async with asyncio.timeout(WAIT_S):
        await client.start()
    return client


async def start_tunnel(
    stack: AsyncExitStack,
    *routes: str | RouteSpec,
    server: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    records: bool = True,
) -> Tunnel:
    """Both ends, with `routes`. When the stack is left no request may remain, and no end may have warned."""
    events, client_events = Recorder(records=records), Recorder()
    server_end = await start_server(stack, events, **{**of_tunnels["server"], **(server or {})})
    options = {**of_tunnels["client"], **(client or {})}
    client_end = await start_client(stack, server_end.tunnel, routes, client_events, **options)
    tunnel = Tunnel(server_end, client_end, events, client_events)
    stack.push_async_callback(_check, tunnel)
    return tunnel


async def _check(tunnel: Tunnel) -> None:
    assert tunnel.events.warnings == []
    assert tunnel.client_events.warnings == []
    if tunnel.server.status()["draining"] or not tunnel.client.status()["connected"]:
        return  # the test has stopped it itself
    await tunnel.until_idle()
