"""Every limit that can be set: what is beyond it gets its answer, what is below it passes, and nothing is left behind.

Those of heads and messages are in test_http_errors.py, test_websocket_frames.py and test_grpc.py; docs/failures.md has
the list.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from tests.e2e.conftest import Ends
from tests.support import http2
from tests.support.frames import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    accept_upgrade,
    ask_upgrade,
    expect_upgrade,
    frame,
    read_frame,
)
from tests.support.grpc_peers import Context, Note, open_channel, start_grpc
from tests.support.raw import Head, Peer, answer, request, start_raw
from tests.support.tunnel import WAIT_S, eventually, start_client, start_tunnel

SMALL_S = 0.15


class Scene(Ends):
    async def http2(self) -> http2.Connection:
        return await http2.connect_http2(self.stack, self.tunnel.host, self.tunnel.port)

    async def waiting(self) -> tuple[Peer, Peer]:
        """A request under way, and where it is."""
        public = await self.public()
        await public.send(request("GET", "/waiting"))
        far = await self.backend.accept()
        await far.head()
        return public, far

    async def finish(self, public: Peer, far: Peer) -> None:
        await far.send(answer("200 OK", "Connection: close", body=b"fine"))
        assert (await public.answer()).body == b"fine"

    async def websocket(self) -> tuple[Peer, Peer]:
        public = await self.public()
        await ask_upgrade(public)
        far = await self.backend.accept()
        await accept_upgrade(far)
        await expect_upgrade(public)
        return public, far


async def start(stack: AsyncExitStack, *routes: str, client: dict[str, Any] | None = None, **limits: Any) -> Scene:
    backend = await start_raw(stack)
    return Scene(stack, await start_tunnel(stack, backend.url, *routes, server=limits, client=client), backend)


async def expect_503(public: Peer, words: str) -> Head:
    await public.send(request("GET", "/one-too-many"))
    refused = await public.answer()
    assert (refused.status, refused.head.get("retry-after")) == (503, "1")
    assert words in refused.body.decode()
    return refused.head


async def test_requests_beyond_max_requests(stack: AsyncExitStack) -> None:
    scene = await start(stack, "grpc://127.0.0.1:1", max_requests=2)
    first, second = await scene.waiting(), await scene.waiting()
    public = await scene.public()
    assert (await expect_503(public, "the server has as many requests")).get("connection") is None
    assert (await (await scene.http2()).ask("GET", "/")).status == 503
    stub = await open_channel(stack, scene.tunnel.authority)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note())
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "as many requests" in failure.value.details()
    upgrading = await scene.public()
    await ask_upgrade(upgrading)
    assert (await upgrading.head()).status == 503
    await scene.finish(*first)
    await eventually(lambda: scene.tunnel.server.status()["active_requests"] == 1)
    await public.send(request("GET", "/room"))
    await scene.finish(public, await scene.backend.accept())
    await scene.finish(*second)


async def test_requests_beyond_max_requests_per_tunnel(stack: AsyncExitStack) -> None:
    """Who shares the route takes what has no room in the one."""
    scene = await start(stack, max_requests_per_tunnel=2)
    await start_client(stack, scene.tunnel.server.tunnel, [scene.backend.url])
    waiting = [await scene.waiting() for _ in range(4)]
    links = scene.tunnel.server.status()["links"]
    assert [link["active_requests"] for link in links] == [2, 2]
    await expect_503(await scene.public(), "the tunnel has as many requests")
    for pair in waiting:
        await scene.finish(*pair)


async def test_connections_beyond_max_connections(stack: AsyncExitStack) -> None:
    scene = await start(stack, max_connections=2)
    first, second = await scene.waiting(), await scene.waiting()
    public = await scene.public()
    assert (await expect_503(public, "as many connections")).get("connection") == "close"
    assert await public.to_end() == b""
    await public.close()
    over_http2 = await scene.http2()
    assert (await over_http2.ask("GET", "/")).status == 503
    await eventually(lambda: over_http2.closed is not None)
    await scene.finish(*first)
    await first[0].close()
    await eventually(lambda: scene.tunnel.server.status()["connections"] == 2)  # with that of the tunnel
    await scene.finish(*await scene.waiting())
    await scene.finish(*second)


async def test_a_connection_beyond_max_connections_that_says_nothing(stack: AsyncExitStack) -> None:
    scene = await start(stack, max_connections=1)
    first = await scene.waiting()
    silent = await scene.public()
    assert await silent.ended()  # after REFUSED_S, which is less than head_timeout_s
    await scene.finish(*first)


LIMIT = 1000


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_body_bytes(stack: AsyncExitStack, chunked: bool) -> None:
    scene = await start(stack, body_bytes=LIMIT)
    public = await scene.public()
    for size in (LIMIT, LIMIT + 1):
        body = b"x" * size
        if chunked:
            await public.send(request("POST", "/", "Transfer-Encoding: chunked"))
            far = await scene.backend.accept()
            head = await far.head()
            await public.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, body))
        else:
            await public.send(request("POST", "/", f"Content-Length: {size}") + body)
        if size > LIMIT:
            refused = await public.answer()
            assert (refused.status, refused.head.get("connection")) == (413, "close")
            assert f"above {LIMIT} bytes" in refused.body.decode()
            if chunked:
                assert b"0\r\n\r\n" not in await far.to_end()
        else:
            if not chunked:
                far = await scene.backend.accept()
                head = await far.head()
            assert (await far.body(head))[0] == body
            await far.send(answer("200 OK", "Connection: close", body=b"fine"))
            assert (await public.answer()).status == 200


@pytest.mark.parametrize("announced", [False, True])
async def test_a_body_beyond_body_bytes_over_http2(stack: AsyncExitStack, announced: bool) -> None:
    scene = await start(stack, body_bytes=LIMIT)
    public = await scene.http2()
    fields = [("content-length", str(LIMIT + 1))] if announced else []
    stream = await public.open("POST", "/", *fields, end=False)
    if not announced:
        await stream.send(b"x")
        far = await scene.backend.accept()
        await far.head()
    await stream.send(b"x" * LIMIT + b"x" * announced, end=True)
    await stream.answered()
    assert stream.status == 413
    assert announced or b"0\r\n\r\n" not in await far.to_end()
    stream = await public.open("POST", "/", end=False)
    await stream.send(b"x" * LIMIT, end=True)
    far = await scene.backend.accept()
    head = await far.head()
    assert (await far.body(head))[0] == b"x" * LIMIT
    await far.send(answer("200 OK", "Connection: close", body=b"fine"))
    assert (await stream.answered()).status == 200


async def test_idle_connections_of_the_public_are_closed(stack: AsyncExitStack) -> None:
    scene = await start(stack, keep_alive_timeout_s=SMALL_S)
    busy = await scene.waiting()
    public, over_http2 = await scene.public(), await scene.http2()
    for _ in range(2):
        await public.send(request("GET", "/"))
        far = await scene.backend.accept()
        await far.head()
        await far.send(answer("200 OK", "Connection: close", body=b"fine"))
        assert (await public.answer()).head.get("connection") is None
    stream = await over_http2.open("GET", "/")
    far = await scene.backend.accept()
    await far.head()
    assert await public.ended()
    assert over_http2.closed is None  # it is not idle
    await far.send(answer("200 OK", "Connection: close", body=b"fine"))
    assert (await stream.done()).status == 200
    await eventually(lambda: over_http2.closed is not None)
    await scene.finish(*busy)


async def test_idle_connections_to_backends_are_closed(stack: AsyncExitStack) -> None:
    scene = await start(stack, client={"keep_alive_timeout_s": SMALL_S})
    public, far = await scene.waiting()
    await far.send(answer("200 OK", body=b"fine"))
    assert (await public.answer()).body == b"fine"
    assert await far.ended()


async def test_requests_on_which_nothing_passes_are_ended(stack: AsyncExitStack) -> None:
    async def talk(requests: Any, context: Context) -> Any:
        async for note in requests:
            yield note

    url = await start_grpc(stack, Talk=talk)
    scene = await start(stack, url, idle_timeout_s=4 * SMALL_S)
    public, far = await scene.waiting()
    socket, far_socket = await scene.websocket()
    lively, far_lively = await scene.websocket()
    stub = await open_channel(stack, scene.tunnel.authority)
    call = stub.Talk(timeout=WAIT_S)
    await call.write(Note(number=1))
    assert (await call.read()).number == 1

    async def exchange() -> None:
        while True:
            await lively.send(frame(TEXT, b"lives", mask=b"mask"))
            assert (await read_frame(far_lively)).payload == b"lives"
            await asyncio.sleep(SMALL_S / 2)

    living = asyncio.create_task(exchange())
    try:
        late = await public.answer()
        assert (late.status, "nothing has passed" in late.body.decode()) == (504, True)
        assert await far.ended()
        assert int.from_bytes((await read_frame(socket)).payload[:2], "big") == 1011
        assert await far_socket.ended()
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "nothing has passed" in await call.details()
        assert not living.done()
        assert scene.tunnel.server.status()["active_requests"] == 1
    finally:
        living.cancel()
    lively.drop()


async def test_websockets_that_answer_no_ping_are_ended(stack: AsyncExitStack) -> None:
    scene = await start(stack, ws_ping_interval_s=SMALL_S)
    dead, far_dead = await scene.websocket()
    living, far_living = await scene.websocket()
    for _ in range(3):
        ping = await read_frame(living)
        assert (ping.opcode, ping.fin, ping.rsv) == (PING, True, 0)
        await living.send(frame(PONG, ping.payload, mask=b"mask"))
    assert (await read_frame(dead)).opcode == PING
    assert await far_dead.ended()
    # None of those Pongs reaches the backend; those of others do.
    await living.send(frame(PONG, b"unasked", mask=b"mask") + frame(TEXT, b"here", mask=b"mask"))
    assert [(await read_frame(far_living)).payload for _ in range(2)] == [b"unasked", b"here"]
    await living.send(frame(CLOSE, b"", mask=b"mask"))
    assert (await read_frame(far_living)).opcode == CLOSE
    await far_living.send(frame(CLOSE, b""))
    while (last := await read_frame(living)).opcode == PING:
        pass
    assert last.opcode == CLOSE
