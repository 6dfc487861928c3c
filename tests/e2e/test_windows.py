"""Windows that grow where the way is long, and requests that share one tunnel."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest

from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.support.frames import BINARY, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.raw import Peer, answer, connect, request, start_raw
from tests.support.relay import start_relay
from tests.support.tap import Tap
from tests.support.tunnel import Recorder, Tunnel, eventually, start_client, start_server, start_tunnel

DELAY_S = 0.01
WINDOW = 65_536
BODY = 8 * 2**20


class Credit(Tap):
    """At the end that receives: what it has allowed to come and has not come yet, at most, by request."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def __call__(self, tunnel: str, sent: bool, message: bytes) -> None:
        parsed = TunnelMessage.FromString(message)
        kind = parsed.WhichOneof("payload")
        request_id = parsed.request_id
        if sent and kind == "window_update":
            self._now[request_id] = self._now.get(request_id, WINDOW) + parsed.window_update.bytes
            self.most[request_id] = max(self.most.get(request_id, 0), self._now[request_id])
        elif not sent and kind in ("http_request", "http_response"):
            self._now[request_id] = self._now.get(request_id, WINDOW) - len(getattr(parsed, kind).body)


class LongWay:
    """A tunnel through a relay that takes its time. `credit` is of the end that receives in `direction`."""

    def __init__(self, stack: AsyncExitStack, direction: str) -> None:
        self._stack = stack
        self._direction = direction
        self._one_by_one = asyncio.Lock()  # or a backend would be taken for that of another request
        self.credit = Credit()

    async def start(self, **options: int) -> None:
        self._backend = await start_raw(self._stack)
        events = {"down": Recorder(), "up": Recorder()}
        events[self._direction].tap = self.credit
        options = {"initial_window": WINDOW, **options}
        server = await start_server(self._stack, events["down"], **options)
        relay = await start_relay(self._stack, server.tunnel, delay_s=DELAY_S)
        client = await start_client(self._stack, relay.address, [self._backend.url], events["up"], **options)
        self.tunnel = Tunnel(server, client, events["down"], events["up"])

    async def transfer(self, count: int = BODY) -> None:
        """One body, and that it has come."""
        public = await connect(self._stack, self.tunnel.host, self.tunnel.port)
        if self._direction == "down":
            async with self._one_by_one:
                await public.send(request("GET", "/"))
                backend = await self._backend.accept()
            await backend.head()
            sending = asyncio.ensure_future(backend.send(answer("200 OK", body=bytes(count))))
            assert len((await public.answer()).body) == count
        else:
            async with self._one_by_one:
                sending = asyncio.ensure_future(public.send(request("POST", "/", body=bytes(count))))
                backend = await self._backend.accept()
            assert len((await backend.body(await backend.head()))[0]) == count
            await backend.send(answer("200 OK"))
            await public.answer()
        await sending
        backend.drop()


@pytest.fixture(params=["down", "up"])
async def way(stack: AsyncExitStack, request: pytest.FixtureRequest) -> LongWay:
    return LongWay(stack, request.param)


async def test_the_window_of_a_lone_transfer_grows(way: LongWay) -> None:
    await way.start()
    await way.transfer()
    assert max(way.credit.most.values()) >= 8 * WINDOW


async def test_no_window_grows_beyond_its_maximum(way: LongWay) -> None:
    await way.start(max_window=4 * WINDOW)
    await way.transfer()
    assert 2 * WINDOW <= max(way.credit.most.values()) <= 4 * WINDOW


async def test_all_windows_share_one_budget(way: LongWay) -> None:
    """Also one after the other: what a request has had is given back when it ends."""
    await way.start(window_budget=3 * WINDOW)
    for _ in range(2):
        way.credit.most.clear()
        await asyncio.gather(*(way.transfer(BODY // 8) for _ in range(4)))
        most = way.credit.most.values()
        assert max(most) > WINDOW
        assert sum(count - WINDOW for count in most) <= 4 * 3 * WINDOW, "each may have had it for a while"
        assert max(most) <= 4 * WINDOW


async def test_without_a_budget_windows_stay_as_they_are(way: LongWay) -> None:
    await way.start(window_budget=0)
    await way.transfer(BODY // 8)
    assert max(way.credit.most.values()) <= WINDOW


@pytest.mark.differs("asyncio client", "gRPC for Python does not tell how much of what was written still waits")
async def test_a_small_message_does_not_wait_for_bulk(stack: AsyncExitStack) -> None:
    """What is ahead of it on the tunnel is less than what eight transfers together have under way."""
    backend = await start_raw(stack)
    server = await start_server(stack)
    relay = await start_relay(stack, server.tunnel, receive_buffer=65_536)
    client = await start_client(stack, relay.address, [backend.url])
    host, port = server.address
    small = await connect(stack, host, port)
    await ask_upgrade(small)
    small_backend = await backend.accept()
    await accept_upgrade(small_backend)
    await expect_upgrade(small)

    async def pour(peer: Peer) -> None:
        while True:
            peer.writer.write(bytes(65_536))
            await peer.writer.drain()

    async def swallow(peer: Peer) -> None:
        while await peer.reader.read(2**20):
            pass

    tasks = []
    for number in range(8):
        public = await connect(stack, host, port)
        await public.send(request("GET", f"/{number}"))
        bulk = await backend.accept()
        await bulk.head()
        await bulk.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        tasks += [asyncio.ensure_future(pour(bulk)), asyncio.ensure_future(swallow(public))]
    ahead = []
    for number in range(50):
        mark = relay.passed + 2**19
        await eventually(lambda mark=mark: relay.passed > mark)  # type: ignore[misc]  # the transfers go on
        before, relay.marked = relay.passed, 0
        relay.mark = b"small message %d" % number
        await small_backend.send(frame(BINARY, relay.mark))
        assert (await read_frame(small)).payload == relay.mark
        if relay.marked:  # it was not cut by two reads
            ahead.append(relay.marked - before)
    for task in tasks:
        task.cancel()
    ahead.sort()
    print(ahead)
    assert ahead[len(ahead) // 2] < 2**20, ahead
    await client.stop(0)


async def test_calls_may_fill_a_large_window(stack: AsyncExitStack) -> None:
    """What waits for a backend or a caller that does not read is as much as the window says, and no flood."""
    window, block = 8 * 2**20, bytes(65_536)
    blocks = 2 * window // len(block)
    go_on = asyncio.Event()

    async def up(requests: Notes, context: Context) -> Note:
        await go_on.wait()
        number = 0
        async for _ in requests:
            number += 1
        return Note(number=number)

    async def down(request: Note, context: Context) -> Notes:
        for number in range(blocks):
            yield Note(number=number, data=block)

    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    options = {"initial_window": window}
    url = await start_grpc(stack, options=small, Up=up, Down=down)
    tunnel = await start_tunnel(stack, url, server=options, client=options)
    stub = await open_channel(stack, tunnel.authority, small)

    async def upload() -> int:
        call = stub.Up()
        for _ in range(blocks):
            await call.write(Note(data=block))
        await call.done_writing()
        return int((await call).number)

    uploading = asyncio.create_task(upload())
    downloading = stub.Down(Note())
    assert (await downloading.read()).number == 0
    for end in (tunnel.server, tunnel.client):
        await eventually(lambda end=end: end.status()["buffered_bytes"] > window * 3 // 4)
    go_on.set()
    assert await uploading == blocks
    assert [(await downloading.read()).number for _ in range(1, blocks)] == list(range(1, blocks))
    assert await downloading.read() is grpc.aio.EOF
