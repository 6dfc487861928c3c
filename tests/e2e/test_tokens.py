"""Tokens that each permit something else: what their holders can have, how they come and go while requests pass."""

import asyncio
import datetime
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

import fasttunnel
from fasttunnel import AuthError, RegisterError, limits
from fasttunnel.control import auth
from fasttunnel.wire import tunnel_pb2 as wire
from tests.support.frames import TEXT, accept_upgrade, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.raw import Answer, Peer, RawBackend, answer, connect, request, start_raw
from tests.support.stock import StockClient, dial, register
from tests.support.token_files import TokenFile
from tests.support.tunnel import WAIT_S, Recorder, eventually, route, start_client, start_server

SHOP, BLOG = "shop-1", "blog-1"


class House:
    """A server with a tokens file, and clients that come with tokens of it."""

    def __init__(self, stack: AsyncExitStack, server: fasttunnel.Server, events: Recorder, tokens: TokenFile) -> None:
        self.stack = stack
        self.server = server
        self.events = events
        self.tokens = tokens

    async def client(self, token: str, *routes: Any, client_id: str = "") -> fasttunnel.Client:
        return await start_client(self.stack, self.server.tunnel, routes, token=token, client_id=client_id)

    async def public(self) -> Peer:
        return await connect(self.stack, *self.server.address)

    async def ask(self, host: str, path: str = "/") -> Answer:
        """A request of which some backend is to know; one that answers of itself."""
        public = await self.public()
        got = await public.ask(request("GET", path, "Connection: close", host=host))
        await public.close()
        return got

    async def says(self, host: str, path: str = "/") -> str:
        got = await self.ask(host, path)
        return got.body.decode() if got.status == 200 else str(got.status)

    @property
    def identities(self) -> list[str]:
        return sorted(link["identity"] for link in self.server.status()["links"])


async def start_house(
    stack: AsyncExitStack, path: Path, seen: list[wire.TunnelMessage] | None = None, **options: Any
) -> House:
    """`seen` gets what passes on the tunnels."""
    tokens = TokenFile(path / "tokens.toml")
    tokens.put(SHOP, hosts=("shop.example", "*.shop.example"))
    tokens.put(BLOG, hosts=("blog.example",))
    events = Recorder()
    if seen is not None:
        events.tap = lambda tunnel, sent, message: seen.append(wire.TunnelMessage.FromString(message))
    server = await start_server(stack, events, tokens_file=str(tokens), **options)
    return House(stack, server, events, tokens)


async def start_site(stack: AsyncExitStack, name: str) -> RawBackend:
    """It answers each request with its name."""
    backend = await start_raw(stack)

    async def serve(peer: Peer) -> None:
        try:
            await peer.body(await peer.head())
            await peer.send(answer("200 OK", "Connection: close", body=name.encode()))
            await peer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def accept() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(serve(await backend.arrived.get()))

    task = asyncio.create_task(accept())
    stack.callback(task.cancel)
    return backend


async def status_of(client: StockClient) -> tuple[grpc.StatusCode, str]:
    await client.ended()
    async with asyncio.timeout(WAIT_S):
        return await client.call.code(), await client.call.details()


async def attempt(house: House, token: str, *routes: wire.Route, client_id: str = "") -> tuple[grpc.StatusCode, str]:
    """What the server says to a Register that it refuses."""
    thief = await dial(house.stack, house.server.tunnel, token)
    message = wire.TunnelMessage(client_id=client_id, protocol_type=wire.CONTROL, register=register(*routes))
    thief.send_message(message)
    return await status_of(thief)


async def knock(house: House, token: str) -> tuple[grpc.StatusCode, str]:
    """What it says to a token that it refuses. (With a message on its way grpc may lose the status.)"""
    return await status_of(await dial(house.stack, house.server.tunnel, token))


ROUTES_OF_OTHERS = {
    "its host": wire.Route(host="shop.example"),
    "in capitals": wire.Route(host="SHOP.example."),
    "a path of it": wire.Route(host="shop.example", path_prefix="/hidden/orders"),
    "a service of it": wire.Route(host="shop.example", grpc_service="shop.Cart"),
    "one protocol of it": wire.Route(host="shop.example", protocols=[wire.GRPC]),
    "for itself": wire.Route(host="shop.example", exclusive=True),
    "all hosts": wire.Route(),
    "a path of all hosts": wire.Route(path_prefix="/hidden"),
    "a service of all hosts": wire.Route(grpc_service="shop.Cart"),
    "names above it": wire.Route(host="*.example"),
    "names below it": wire.Route(host="a.shop.example"),
    "names below the own one": wire.Route(host="*.blog.example"),
    "a host that nobody has": wire.Route(host="free.example"),
}


async def test_a_stolen_token_of_one_client_cannot_take_or_see_the_routes_of_another(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    house = await start_house(stack, tmp_path, seen := [])
    site = await start_site(stack, "the shop")
    hidden = ["shop.example/hidden/orders", "shop.example", "*.shop.example"]
    await house.client(SHOP, *[f"{where}={site.url}" for where in hidden], client_id="laptop-of-alice")
    secrets = ("alice", "orders", "session", house.server.status()["links"][0]["session_id"])
    mine = wire.Route(host="blog.example")

    for what, wanted in ROUTES_OF_OTHERS.items():
        for routes in ((wanted,), (mine, wanted)):
            status, text = await attempt(house, BLOG, *routes)
            assert status is grpc.StatusCode.PERMISSION_DENIED, what
            assert "does not permit the route" in text
            shown = text.replace("shop.example/hidden/orders", "") if what == "a path of it" else text
            assert not [secret for secret in secrets if secret in shown], text
        assert await house.says("shop.example") == "the shop"
        assert await house.says("blog.example") == "404", "not even what it may have, with what it may not"

    # The name of the client is no way in either: the thief neither replaces it nor joins it.
    status, text = await attempt(house, BLOG, mine, client_id="laptop-of-alice")
    assert status is grpc.StatusCode.PERMISSION_DENIED
    assert await house.says("shop.example", "/hidden/orders/1") == "the shop"
    assert house.identities == ["shop"]

    # What it may have it gets, and is told of nothing else.
    thief = await dial(house.stack, house.server.tunnel, BLOG)
    thief.send(register=register(mine))
    registered = (await thief.next("registered")).registered
    assert [route.host for route in registered.routes] == ["blog.example"]
    assert len(registered.urls) == 1
    assert "shop" not in str(registered)
    assert "alice" not in str(registered)

    # Nor can it answer or reset a request on another's tunnel, even if it knows the id.
    backend = await start_raw(stack)
    await house.client(SHOP, f"slow.shop.example={backend.url}")
    public = await house.public()
    await public.send(request("GET", "/", host="slow.shop.example"))
    far = await backend.accept()
    await far.head()
    (request_id,) = {message.request_id for message in seen if message.http_request.host == "slow.shop.example"}
    thief.send(request_id, reset=wire.Reset(code=1))
    thief.send(request_id, window_update=wire.WindowUpdate(bytes=2**31))
    forged = wire.HttpResponse(status_code=200, body=b"forged", is_first_chunk=True, is_last_chunk=True)
    thief.send(request_id, http_response=forged)
    assert (await thief.next("reset")).request_id == request_id
    await far.send(answer("200 OK", body=b"genuine"))
    assert (await public.answer()).body == b"genuine"
    public = await house.public()
    await public.send(request("GET", "/", host="blog.example"))
    own = await thief.next("http_request")
    assert own.http_request.host == "blog.example"
    thief.send(own.request_id, http_response=forged)
    assert (await public.answer()).body == b"forged", "on its own it says what it likes"
    assert house.events.warnings == []


async def test_routes_are_not_shared_with_other_names(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Though both tokens permit it: half of the requests would go to the other one."""
    house = await start_house(stack, tmp_path)
    house.tokens.put("other-1", hosts=("shop.example",))
    house.tokens.put("shop-2", hosts=("shop.example",))
    house.server.reload()
    first, second = await start_site(stack, "first"), await start_site(stack, "second")
    await house.client(SHOP, f"shop.example={first.url}", client_id="alice")
    with pytest.raises(RegisterError) as refusal:
        await house.client("other-1", f"shop.example={second.url}")
    assert "is taken by another client" in str(refusal.value)
    assert "alice" not in str(refusal.value)
    assert {await house.says("shop.example") for _ in range(4)} == {"first"}
    await house.client("shop-2", f"shop.example={second.url}")
    assert {await house.says("shop.example") for _ in range(4)} == {"first", "second"}


async def test_names_that_share_their_routes(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path)
    for token in ("a-1", "b-1"):
        house.tokens.put(token, hosts=("both.example",), shared=True)
    house.tokens.put("c-1", hosts=("both.example",))
    house.server.reload()
    sites = {token: await start_site(stack, token) for token in ("a-1", "b-1", "c-1")}
    for token in ("a-1", "b-1"):
        await house.client(token, f"both.example={sites[token].url}")
    assert {await house.says("both.example") for _ in range(4)} == {"a-1", "b-1"}
    with pytest.raises(RegisterError):
        await house.client("c-1", f"both.example={sites['c-1'].url}")


async def test_an_exclusive_route_has_to_be_permitted(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path)
    house.tokens.put(BLOG, hosts=("blog.example",), exclusive=False)
    house.server.reload()
    site = await start_site(stack, "blog")
    with pytest.raises(AuthError, match="to be exclusive"):
        await house.client(BLOG, route(site.url, host="blog.example", exclusive=True))
    await house.client(BLOG, route(site.url, host="blog.example"))
    await house.client(SHOP, route(site.url, host="shop.example", exclusive=True))


async def test_paths_and_services(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path)
    house.tokens.put(BLOG, hosts=("blog.example",), paths=("/posts",), services=("blog.Posts",))
    house.server.reload()
    site = await start_site(stack, "blog")
    grpc_url = "grpc://127.0.0.1:1"
    for refused in (
        f"blog.example={site.url}",
        f"blog.example/post={site.url}",
        f"blog.example/postscript={site.url}",
        f"blog.example={grpc_url}",
        f"blog.example/blog.Users={grpc_url}",
    ):
        with pytest.raises(AuthError, match="does not permit the route"):
            await house.client(BLOG, refused)
    await house.client(BLOG, f"blog.example/posts/new={site.url}", f"blog.example/blog.Posts={grpc_url}")
    assert await house.says("blog.example", "/posts/new/1") == "blog"


async def test_who_is_refused_is_told_at_the_server(stack: AsyncExitStack, tmp_path: Path) -> None:
    """With the address and the reason, without the token, and not each time."""
    house = await start_house(stack, tmp_path)
    for _ in range(3):
        await knock(house, "s3cret-wrong")
        assert (await attempt(house, BLOG, wire.Route(host="shop.example")))[0] is grpc.StatusCode.PERMISSION_DENIED
    wrong = await house.events.until_line("refused    127.0.0.1:")
    narrow = await house.events.until_line("refused    127.0.0.1:", 2)
    assert wrong.endswith(": the token is not valid")
    assert ": blog: the token does not permit the route shop.example" in narrow
    assert len([line for line in house.events.lines if line.startswith("refused")]) == 2
    assert "s3cret" not in str(house.events.lines)
    assert house.events.warnings == []


@pytest.mark.parametrize("name", ["x" * 256, "a\nlink up    b", "\x1b[2J"])
async def test_a_client_id_that_cannot_be_shown(stack: AsyncExitStack, tmp_path: Path, name: str) -> None:
    house = await start_house(stack, tmp_path)
    status, text = await attempt(house, BLOG, wire.Route(host="blog.example"), client_id=name)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "client_id" in text
    assert not [line for line in house.events.lines if name in line]


async def test_a_review_that_fails_is_not_the_last_one(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it fails of: tokens still come and go."""
    monkeypatch.setattr(limits, "TOKENS_POLL_S", 0.05)
    house = await start_house(stack, tmp_path)
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
    read, reads = auth.read_tokens, 0

    def fail_once(path: Path) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise MemoryError
        return read(path)

    monkeypatch.setattr(auth, "read_tokens", fail_once)
    house.tokens.put("late-1", hosts=("late.example",))
    await eventually(lambda: bool(failed))
    house.tokens.put("later-1", hosts=("later.example",))
    await eventually(lambda: reads == 2)
    await house.client("later-1", "later.example=http://127.0.0.1:1")


async def test_a_client_id_that_the_token_does_not_name(stack: AsyncExitStack, tmp_path: Path) -> None:
    house = await start_house(stack, tmp_path)
    house.tokens.put(BLOG, hosts=("blog.example",), client_ids=("desk",))
    house.server.reload()
    with pytest.raises(AuthError, match="client_id laptop"):
        await house.client(BLOG, "blog.example=http://127.0.0.1:1", client_id="laptop")
    await house.client(BLOG, "blog.example=http://127.0.0.1:1", client_id="desk")


# -- tokens that come and go


async def test_rotation_under_traffic(stack: AsyncExitStack, tmp_path: Path) -> None:
    """The new token, a client with it, the old client leaves, the old token goes: no request sees it."""
    house = await start_house(stack, tmp_path)
    old, new = await start_site(stack, "old"), await start_site(stack, "new")
    first = await house.client(SHOP, f"shop.example={old.url}")
    got: list[str] = []

    async def load() -> None:
        while True:
            got.append(await house.says("shop.example"))

    async def some_more() -> None:
        target = len(got) + 20
        await eventually(lambda: len(got) >= target or loads[0].done())

    loads = [asyncio.create_task(load()) for _ in range(3)]
    try:
        await some_more()
        house.tokens.put("shop-2", hosts=("shop.example",))
        house.server.reload()
        await some_more()
        second = await house.client("shop-2", f"shop.example={new.url}")
        await some_more()
        # A request may cross the goodbye of a client: that is no matter of tokens.
        leaving = len(got)
        await first.stop()
        left = len(got) + len(loads)
        await some_more()
        house.tokens.drop(SHOP)
        house.server.reload()
        dropped = len(got) + len(loads)
        await some_more()
    finally:
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
    assert set(got[:leaving]) == {"old", "new"}
    assert set(got[left:]) == set(got[dropped:]) == {"new"}
    assert second.status()["connected"]
    assert (await knock(house, SHOP))[0] is grpc.StatusCode.UNAUTHENTICATED


async def websocket(house: House, backend: RawBackend, host: str) -> tuple[Peer, Peer]:
    public = await house.public()
    await ask_upgrade(public, host=host)
    far = await backend.accept()
    await accept_upgrade(far)
    await expect_upgrade(public)
    return public, far


@pytest.mark.parametrize("way", ["dropped", "expired", "narrowed"])
async def test_the_end_of_a_token_ends_its_tunnels_and_no_others(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Nobody calls anything: the server sees it by itself, soon."""
    monkeypatch.setattr(limits, "TOKENS_POLL_S", 0.05)
    house = await start_house(stack, tmp_path)
    house.tokens.put(SHOP, hosts=("shop.example",), expires=datetime.date(2099, 1, 1))
    house.server.reload()
    shop, blog = await start_raw(stack), await start_raw(stack)
    mine = await house.client(SHOP, f"shop.example={shop.url}")
    await house.client(BLOG, f"blog.example={blog.url}")
    public, far = await websocket(house, shop, "shop.example")
    other, far_other = await websocket(house, blog, "blog.example")
    if way == "dropped":
        house.tokens.drop(SHOP)
    elif way == "narrowed":
        house.tokens.put(SHOP, hosts=("www.shop.example",))
    else:
        monkeypatch.setattr(auth, "now", lambda: 4070908800.0)  # the first second of 2099-01-01
    says = {"dropped": "no longer valid", "expired": "has expired", "narrowed": "does not permit the route"}[way]
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AuthError, match=says):
            await mine.wait_closed()
    assert says in await house.events.until_line("link down")
    assert int.from_bytes((await read_frame(public)).payload[:2], "big") == 1001
    assert await far.ended()
    await other.send(frame(TEXT, b"lives", mask=b"mask"))
    assert (await read_frame(far_other)).payload == b"lives"
    assert house.identities == ["blog"]
    assert house.events.warnings == []
    other.drop()
    assert await far_other.ended()


async def test_a_broken_file_ends_nothing(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOKENS_POLL_S", 0.05)
    house = await start_house(stack, tmp_path)
    site = await start_site(stack, "shop")
    await house.client(SHOP, f"shop.example={site.url}")
    house.tokens.spoil()
    await house.events.until(lambda: bool(house.events.warnings))
    (warning,) = house.events.warnings
    assert str(house.tokens) in warning
    assert "tokens[2], oops" in warning
    assert "plain-text-s3cret" not in warning
    assert await house.says("shop.example") == "shop"
    await house.client(BLOG, f"blog.example={site.url}")
    assert house.identities == ["blog", "shop"]
    house.tokens.put("late-1", hosts=("late.example",))
    house.server.reload()
    await house.client("late-1", f"late.example={site.url}")
    assert len(house.events.warnings) == 1
