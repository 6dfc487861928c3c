"""Limits of a token and of an address: what is beyond them is told so or waits, and nobody else notices."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from fasttunnel import limits
from fasttunnel.control.rates import Bucket
from tests.e2e.test_tokens import BLOG, SHOP, House, knock, start_house, start_site, websocket
from tests.support import http2
from tests.support.frames import BINARY, ask_upgrade, frame, read_frame
from tests.support.grpc_peers import Context, Note, open_channel, start_grpc
from tests.support.raw import Peer, RawBackend, answer, request, start_raw
from tests.support.stock import dial
from tests.support.tunnel import WAIT_S, eventually, start_client

SLOW = 0.01  # requests a second: one passes, the next one may in 100 s


async def limited(stack: AsyncExitStack, path: Path, **rates: Any) -> House:
    house = await start_house(stack, path)
    house.tokens.put(SHOP, hosts=("shop.example",), **rates)
    house.server.reload()
    return house


async def call(stack: AsyncExitStack, house: House) -> int:
    authority = "{}:{}".format(*house.server.address)
    stub = await open_channel(stack, authority, [("grpc.default_authority", "shop.example")])
    return int((await stub.Unary(Note(number=7), timeout=WAIT_S)).number)


async def test_requests_that_come_too_fast(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await limited(stack, tmp_path, requests_per_second=SLOW)
    shop, blog = await start_site(stack, "shop"), await start_site(stack, "blog")
    await house.client(SHOP, f"shop.example={shop.url}", f"shop.example={await start_grpc(stack)}")
    await house.client(BLOG, f"blog.example={blog.url}")
    assert await house.says("shop.example") == "shop"

    public = await house.public()
    for _ in range(2):  # the connection stays
        refused = await public.ask(request("GET", "/", host="shop.example"))
        assert refused.status == 429
        assert 1 < int(refused.head.get("retry-after") or 0) <= 100
        assert b"faster than the token" in refused.body
        assert b"shop" not in refused.body

    over_http2 = await http2.connect_http2(stack, *house.server.address)
    stream = await over_http2.open("GET", "/", authority="shop.example")
    await stream.answered()
    assert stream.status == 429
    assert 1 < int(dict(stream.fields)["retry-after"]) <= 100

    upgrading = await house.public()
    await ask_upgrade(upgrading, host="shop.example")
    head = await upgrading.head()
    assert (head.status, head.get("retry-after") is not None) == (429, True)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(stack, house)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "faster than the token" in failure.value.details()

    # A further tunnel of the identity has no further rate, and others are not held up.
    await house.client(SHOP, f"shop.example={shop.url}")
    assert await house.says("shop.example") == "429"
    assert {await house.says("blog.example") for _ in range(5)} == {"blog"}

    house.tokens.put(SHOP, hosts=("shop.example",))
    house.server.reload()
    assert {await house.says("shop.example") for _ in range(5)} == {"shop"}
    assert await call(stack, house) == 7


async def test_a_request_that_has_waited_for_its_client_can_be_too_fast(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path, queue_timeout_s=WAIT_S)
    house.tokens.put(SHOP, hosts=("shop.example",), requests_per_second=SLOW)
    house.server.reload()
    shop = await start_site(stack, "shop")
    waiting = [asyncio.create_task(house.says("shop.example")) for _ in range(3)]
    await eventually(lambda: house.server.status()["queued_requests"] == 3)
    await house.client(SHOP, f"shop.example={shop.url}")
    assert sorted(await asyncio.gather(*waiting)) == ["429", "429", "shop"]


RATE, SLOWER = 800_000, 400_000
SIZE = 1_000_000
WINDOW = 65_536


class Spending:
    """What is taken out of buckets, and the lowest that they have come to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total = 0.0
        self.lowest = 0.0
        spend = Bucket.spend

        def noted(bucket: Bucket, count: float) -> bool:
            more = spend(bucket, count)
            if bucket.rate:
                self.total += count
                self.lowest = min(self.lowest, bucket.level)
            return more

        monkeypatch.setattr(Bucket, "spend", noted)


@pytest.fixture
def spending(monkeypatch: pytest.MonkeyPatch) -> Spending:
    return Spending(monkeypatch)


async def start_metered(stack: AsyncExitStack, path: Path, rate: float = RATE) -> House:
    house = await start_house(stack, path, initial_window=WINDOW, max_window=WINDOW)
    house.tokens.put(SHOP, hosts=("shop.example",), bytes_per_second=rate)
    house.server.reload()
    return house


def at_least_s(count: int, rate: float = RATE) -> float:
    """How long it takes when a burst, a window and a fragment may go before; with room for coarse clocks."""
    return (count - rate - 2 * WINDOW) / rate * 0.95


async def test_payload_waits_both_ways(stack: AsyncExitStack, tmp_path: Path, spending: Spending) -> None:
    house = await start_metered(stack, tmp_path)
    backend, blog = await start_raw(stack), await start_site(stack, "blog")
    await start_client(
        stack,
        house.server.tunnel,
        [f"shop.example={backend.url}"],
        token=SHOP,
        initial_window=WINDOW,
        max_window=WINDOW,
    )
    await house.client(BLOG, f"blog.example={blog.url}")
    body = bytes(range(256)) * (SIZE // 256)
    begun = asyncio.get_running_loop().time()
    public = await house.public()
    sending = asyncio.create_task(public.send(request("POST", "/", host="shop.example", body=body)))
    far = await backend.accept()
    assert (await far.body(await far.head()))[0] == body
    await sending
    assert asyncio.get_running_loop().time() - begun >= at_least_s(len(body))
    assert {await house.says("blog.example") for _ in range(5)} == {"blog"}, "others have rates of their own"
    begun = asyncio.get_running_loop().time()
    sending = asyncio.create_task(far.send(answer("200 OK", body=body)))
    assert (await public.answer()).body == body
    await sending
    assert asyncio.get_running_loop().time() - begun >= at_least_s(len(body))
    assert spending.total == 2 * len(body)
    assert spending.lowest >= -3 * WINDOW
    await eventually(lambda: house.server.status()["active_requests"] == 0)


async def test_frames_and_calls_wait_too(stack: AsyncExitStack, tmp_path: Path, spending: Spending) -> None:
    async def talk(requests: Any, context: Context) -> Any:
        async for note in requests:
            yield note

    house = await start_metered(stack, tmp_path)
    backend = await start_raw(stack)
    routes = [f"shop.example={backend.url}", f"shop.example={await start_grpc(stack, Talk=talk)}"]
    await start_client(stack, house.server.tunnel, routes, token=SHOP, initial_window=WINDOW, max_window=WINDOW)
    public, far = await websocket(house, backend, "shop.example")
    payload = bytes(range(256)) * 100
    begun = asyncio.get_running_loop().time()

    async def write(peer: Peer, mask: bytes | None) -> None:
        for _ in range(12):
            await peer.send(frame(BINARY, payload, mask=mask))

    async def read(peer: Peer) -> None:
        for _ in range(12):
            assert (await read_frame(peer)).payload == payload

    async def talk_along() -> None:
        authority = "{}:{}".format(*house.server.address)
        stub = await open_channel(stack, authority, [("grpc.default_authority", "shop.example")])
        talking = stub.Talk(timeout=WAIT_S)
        for number in range(12):
            await talking.write(Note(number=number, data=b"x" * 25_600))
            assert (await talking.read()).number == number
        await talking.done_writing()
        assert await talking.code() is grpc.StatusCode.OK

    await asyncio.gather(write(public, b"mask"), read(far), write(far, None), read(public), talk_along())
    assert asyncio.get_running_loop().time() - begun >= at_least_s(4 * 12 * len(payload))
    assert spending.total >= 4 * 12 * len(payload)
    public.drop()
    assert await far.ended()
    await eventually(lambda: house.server.status()["active_requests"] == 0)


LITTLE, A_LOT = 40_000, 60_000  # a rate, and what is above it by half a second, and within a window


async def spend_all(house: House, backend: RawBackend, size: int = A_LOT) -> None:
    """The rate is used up, for a while."""
    public = await house.public()
    await public.send(request("GET", "/large", "Connection: close", host="shop.example"))
    far = await backend.accept()
    await far.head()
    sending = asyncio.create_task(far.send(answer("200 OK", "Connection: close", body=bytes(size))))
    assert len((await public.answer()).body) == size
    await sending


async def test_many_small_answers_wait_too(stack: AsyncExitStack, tmp_path: Path, spending: Spending) -> None:
    """Each has a window of its own, which is not used up: so it is the requests that wait."""
    house = await start_metered(stack, tmp_path, SLOWER)
    backend = await start_raw(stack)
    await house.client(SHOP, f"shop.example={backend.url}")
    begun = asyncio.get_running_loop().time()
    await spend_all(house, backend, SIZE // 2)
    count, size = 40, 30_000
    asking = [asyncio.create_task(house.says("shop.example")) for _ in range(count)]
    for _ in range(count):
        far = await backend.accept()
        await far.head()
        await far.send(answer("200 OK", "Connection: close", body=b"x" * size))
    assert [len(text) for text in await asyncio.gather(*asking)] == [size] * count
    assert spending.total == SIZE // 2 + count * size
    assert asyncio.get_running_loop().time() - begun >= at_least_s(int(spending.total), SLOWER)
    assert spending.lowest > -count * size / 2


@pytest.mark.parametrize("kind", ["http", "http2", "websocket", "grpc"])
async def test_who_leaves_while_a_request_waits_has_never_been(
    stack: AsyncExitStack, tmp_path: Path, kind: str
) -> None:
    calls = 0

    async def unary(note: Any, context: Context) -> Any:
        nonlocal calls
        calls += 1
        return note

    house = await start_metered(stack, tmp_path, LITTLE)
    backend = await start_raw(stack)
    await house.client(SHOP, f"shop.example={backend.url}", f"shop.example={await start_grpc(stack, Unary=unary)}")
    await spend_all(house, backend)
    if kind == "grpc":
        authority = "{}:{}".format(*house.server.address)
        stub = await open_channel(stack, authority, [("grpc.default_authority", "shop.example")])
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Unary(Note(number=7), timeout=0.05)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    elif kind == "http2":
        connection = await http2.connect_http2(stack, *house.server.address)
        await connection.open("GET", "/", authority="shop.example")
        await eventually(lambda: house.server.status()["active_requests"] == 1)
        connection.peer.drop()
    else:
        public = await house.public()
        fields = (
            ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13") if kind == "websocket" else ()
        )
        key = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",) if kind == "websocket" else ()
        await public.send(request("GET", "/", *fields, *key, host="shop.example"))
        await eventually(lambda: house.server.status()["active_requests"] == 1)
        public.drop()
    await eventually(lambda: house.server.status()["active_requests"] == 0)
    # The next one comes through, and is the first that the backend sees.
    asking = asyncio.create_task(house.says("shop.example", "/next"))
    far = await backend.accept()
    assert "/next" in (await far.head()).start
    await far.send(answer("200 OK", "Connection: close", body=b"next"))
    assert await asking == "next"
    assert calls == 0


async def test_no_more_wait_than_there_is_room_for(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUED_REQUESTS", 2)
    house = await start_metered(stack, tmp_path, LITTLE)
    backend = await start_raw(stack)
    await house.client(SHOP, f"shop.example={backend.url}")
    await spend_all(house, backend)
    waiting = []
    for count in (1, 2):
        waiting.append(asyncio.create_task(house.says("shop.example")))
        await eventually(lambda count=count: house.server.status()["active_requests"] == count)  # type: ignore[misc]
    assert await house.says("shop.example") == "429"
    for _ in waiting:
        far = await backend.accept()
        await far.head()
        await far.send(answer("200 OK", "Connection: close", body=b"fine"))
    assert await asyncio.gather(*waiting) == ["fine", "fine"]


async def test_a_tunnel_that_ends_while_it_waits(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Nothing of it is left: neither a timer nor a request. (The stack checks the requests.)"""
    house = await start_metered(stack, tmp_path, rate=1000)
    backend = await start_raw(stack)
    client = await house.client(SHOP, f"shop.example={backend.url}")
    up, down, late = [await house.public() for _ in range(3)]
    await up.send(request("POST", "/", f"Content-Length: {SIZE}", host="shop.example"))
    await (await backend.accept()).head()
    await down.send(request("GET", "/", host="shop.example"))
    other = await backend.accept()
    await other.head()
    uploading = asyncio.create_task(up.send(bytes(SIZE)))
    downloading = asyncio.create_task(other.send(answer("200 OK", body=bytes(SIZE))))
    await down.head()
    await late.send(request("GET", "/", host="shop.example"))
    await eventually(lambda: house.server.status()["active_requests"] == 3)
    await client.stop(0)
    assert (await up.head()).status == (await late.head()).status == 502
    assert await down.to_end() != b""
    for task in (uploading, downloading):
        task.cancel()
    await asyncio.gather(uploading, downloading, return_exceptions=True)
    await eventually(lambda: house.server.status()["active_requests"] == 0)


# -- addresses


async def connect_from(stack: AsyncExitStack, address: str, house: House) -> Peer:
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(sock, house.server.address)
    peer = Peer(*await asyncio.open_connection(sock=sock))
    stack.callback(peer.drop)
    return peer


async def test_connections_of_one_address(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path, max_connections_per_address=2)
    site = await start_site(stack, "shop")
    await house.client(SHOP, f"shop.example={site.url}")
    await eventually(lambda: house.server.status()["connections"] == 1)
    first, second = await house.public(), await house.public()
    for peer in (first, second):
        assert (await peer.ask(request("GET", "/", host="shop.example"))).body == b"shop"
    third = await house.public()
    refused = await third.ask(request("GET", "/", host="shop.example"))
    assert (refused.status, refused.head.get("connection")) == (503, "close")
    assert b"as many connections from this address" in refused.body
    assert await third.ended()
    over_http2 = await http2.connect_http2(stack, *house.server.address)
    assert (await over_http2.ask("GET", "/")).status == 503
    neighbour = await connect_from(stack, "127.0.0.2", house)
    assert (await neighbour.ask(request("GET", "/", host="shop.example"))).body == b"shop"
    await first.close()
    await eventually(lambda: house.server.status()["connections"] == 3)
    again = await house.public()
    assert (await again.ask(request("GET", "/", host="shop.example"))).body == b"shop"


async def test_twice_as_many_are_cut_without_a_word(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path, max_connections_per_address=1)
    first, second = await house.public(), await house.public()
    await eventually(lambda: house.server.status()["connections"] == 2)
    third = await house.public()
    assert await third.ended()
    assert await second.ended(), "after REFUSED_S"
    first.drop()


async def test_tunnels_of_one_address(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path, max_connections_per_address=1)
    site = await start_site(stack, "shop")
    client = await house.client(SHOP, f"shop.example={site.url}")
    refused = await dial(stack, house.server.tunnel, BLOG)
    await refused.ended()
    assert await refused.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "connections from this address" in await refused.call.details()
    assert await house.says("shop.example") == "shop"
    await client.stop(0)
    await eventually(lambda: house.server.status()["connections"] == 0)

    await house.client(BLOG, f"blog.example={site.url}")  # it dials until there is room
    assert await house.says("blog.example") == "shop"


async def test_failed_logins(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path, max_failed_logins=3)
    site = await start_site(stack, "shop")
    client = await house.client(SHOP, f"shop.example={site.url}")
    for _ in range(3):
        assert (await knock(house, "ft_guessed"))[0] is grpc.StatusCode.UNAUTHENTICATED
    for token in ("ft_guessed", BLOG):
        status, text = await knock(house, token)
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too many failed logins" in text
    (warning,) = house.events.warnings
    assert "too many failed logins from 127.0.0.1" in warning
    assert await house.says("shop.example") == "shop", "what is up stays up"
    assert client.status()["connected"]
