"""A public that means harm, or is broken: it harms itself, not the others on the same tunnel."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from fasttunnel.limits import HALF_CLOSED_S
from tests.e2e.conftest import Ends
from tests.support.frames import MASK, PING, TEXT, UPGRADE, accept_upgrade, ask_upgrade, expect_upgrade, frame
from tests.support.http2 import Connection, Stream, connect_http2
from tests.support.neighbour import Neighbour, start_beside
from tests.support.raw import Peer, RawBackend, answer, connect, request, start_raw
from tests.support.tunnel import WAIT_S, eventually
from tests.support.web import start_web

CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OVERLOADED = 8
CONNECTION = pytest.mark.differs("asyncio server", "h2 ends the whole connection of the visitor")

pytestmark = pytest.mark.timeout(60)


class Scene(Ends):
    """Both far sides of a tunnel on which a neighbour's request is under way."""

    neighbour: Neighbour

    async def refused(self, status: int, data: bytes) -> Peer:
        """`data` is answered with `status`, the backend is not asked, and the neighbour lives on."""
        public = await self.public()
        await public.send(data)
        assert (await public.answer()).status == status
        await self.neighbour.lives()
        assert self.backend.waiting == 0, "the request has reached the backend"
        return public


async def start_scene(stack: AsyncExitStack, backend: RawBackend | None = None, **options: Any) -> Scene:
    backend = backend or await start_raw(stack)
    tunnel, neighbour = await start_beside(stack, backend.url, **options)
    scene = Scene(stack, tunnel, backend)
    scene.neighbour = neighbour
    return scene


@pytest.fixture
async def scene(stack: AsyncExitStack) -> Scene:
    return await start_scene(stack)


async def open_loose(scene: Scene) -> Connection:
    """An HTTP/2 connection that sends whatever fields a test wants."""
    connection = await connect_http2(scene.stack, scene.tunnel.host, scene.tunnel.port)
    config = connection.protocol.config
    config.validate_outbound_headers = config.normalize_outbound_headers = False
    return connection


async def send_head(connection: Connection, *fields: tuple[bytes, bytes], **pseudo: bytes) -> Stream:
    """A request without a body, of exactly these fields."""
    usual = {"method": b"GET", "scheme": b"http", "path": b"/", "authority": b"public.example", **pseudo}
    stream = Stream(connection, connection.protocol.get_next_available_stream_id())
    connection.streams[stream.number] = stream
    head = [(b":" + name.encode(), value) for name, value in usual.items()]
    connection.protocol.send_headers(stream.number, [*head, *fields], end_stream=True)
    await connection.flush()
    return stream


def is_refused(stream: Stream) -> bool:
    """By us, in the way of its protocol, or by the HTTP/2 library itself."""
    return stream.reset is not None or stream.status == 400 or stream.field("grpc-status") not in (None, "0")


# -- bytes that the messages of the tunnel cannot carry


@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/", host="\xff"),
        request("GET", "/\xff"),
        request("GET", "/?\xc3"),
        b"GET http://\xff/ HTTP/1.1\r\nHost: \xff\r\n\r\n",
        request("GET", "/", *UPGRADE, "Sec-WebSocket-Protocol: \xff"),
        request("GET", "/", *UPGRADE, host="\xff"),
        request("GET", "/\xff", *UPGRADE),
    ],
)
async def test_bytes_that_are_no_utf8_are_400_and_cost_nobody_the_tunnel(scene: Scene, data: bytes) -> None:
    await scene.refused(400, data)


@pytest.mark.parametrize(
    "pseudo",
    [{"path": b"/\xff"}, {"path": b"/\xff/\xfe", "method": b"POST"}, {"authority": b"\xff"}, {"method": b"\xff"}],
)
@pytest.mark.parametrize("kind", [b"text/plain", b"application/grpc"])
async def test_bytes_that_are_no_utf8_over_http2(scene: Scene, pseudo: dict[str, bytes], kind: bytes) -> None:
    """The library refuses some of them itself, with a reset of the stream."""
    connection = await open_loose(scene)
    stream = await (await send_head(connection, (b"content-type", kind), **pseudo)).done()
    assert is_refused(stream)
    await scene.neighbour.lives()
    assert scene.backend.waiting == 0


@pytest.mark.parametrize(
    ("pseudo", "fields"),
    [
        ({"path": b"/\xc3\xa9"}, []),  # RFC 9113 8.3.1, RFC 3986 3.3: UTF-8 is no path either
        ({"path": b"/#fragment"}, []),
        ({"path": b"/a b"}, []),
        ({"method": b"b d"}, []),
        ({"method": b""}, []),
        ({"authority": b""}, []),
        ({"authority": b"["}, []),
        ({}, [(b"x-delete", b"\x7f")]),
        pytest.param({}, [(b"x name", b"1")], marks=CONNECTION),
        ({}, [(b"content-length", b"5")]),  # RFC 9113 8.1.1: and there is no body
        pytest.param({}, [(b"content-length", b"+0")], marks=CONNECTION),
        ({}, [(b"content-length", b"0"), (b"content-length", b"0")]),
    ],
)
@pytest.mark.parametrize("kind", [b"text/plain", b"application/grpc"])
async def test_malformed_heads_over_http2(
    scene: Scene, pseudo: dict[str, bytes], fields: list[tuple[bytes, bytes]], kind: bytes
) -> None:
    connection = await open_loose(scene)
    stream = await send_head(connection, (b"content-type", kind), *fields, **{"method": b"POST"} | pseudo)
    assert is_refused(await stream.done())
    await scene.neighbour.lives()
    assert scene.backend.waiting == 0


@CONNECTION
async def test_a_host_field_beside_the_authority(scene: Scene) -> None:
    """RFC 9113 8.3.1: it says where the request goes, and so does :authority."""
    connection = await open_loose(scene)
    assert (await (await send_head(connection, (b"host", b"other.example"))).done()).status == 400
    assert scene.backend.waiting == 0
    stream = await send_head(connection, (b"host", b"PUBLIC.example"))
    backend = await scene.backend.accept()
    assert (await backend.head()).all("host") == ["public.example"]
    await backend.send(answer("200 OK"))
    assert (await stream.done()).status == 200
    await scene.neighbour.lives()


async def test_a_host_field_without_authority_is_checked_too(scene: Scene) -> None:
    connection = await open_loose(scene)
    stream = Stream(connection, 1)
    connection.streams[1] = stream
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
    connection.protocol.send_headers(1, [*pseudo, (b"host", b"a,for=127.0.0.1")], end_stream=True)
    await connection.flush()
    await stream.done()
    assert is_refused(stream)
    await scene.neighbour.lives()
    assert scene.backend.waiting == 0


async def test_bytes_in_field_values_pass(scene: Scene) -> None:
    """Those are bytes in the tunnel as well; a traceparent of bytes is no trace."""
    fields = ["X-Raw: \xff\xfe", "Traceparent: 00-" + "\xff" * 32 + "-" + "\xff" * 16 + "-01", "Cookie: \x80=\xc3"]
    public, backend, head = await scene.pass_on(request("GET", "/", *fields))
    assert (head.get("x-raw"), head.get("cookie")) == ("\xff\xfe", "\x80=\xc3")
    await backend.send(answer("200 OK", "X-Raw: \xff"))
    assert (await public.answer()).head.get("x-raw") == "\xff"
    await scene.neighbour.lives()


# -- requests that say one thing to us and another to the backend


@pytest.mark.parametrize("scheme", [b"ftp", b"http", b"https", b""])
@pytest.mark.parametrize(
    "path",
    [
        b"http://internal.example/secret",
        b"nosl",
        pytest.param(b"", marks=CONNECTION),
        b"*",
    ],
)
async def test_a_path_without_a_slash_never_reaches_the_backend(scene: Scene, scheme: bytes, path: bytes) -> None:
    """A backend that is a proxy would take the absolute form for an order to ask somebody else."""
    connection = await open_loose(scene)
    stream = await (await send_head(connection, scheme=scheme, path=path)).done()
    assert is_refused(stream)
    await scene.neighbour.lives()
    assert scene.backend.waiting == 0


async def test_another_scheme_is_400(scene: Scene) -> None:
    connection = await open_loose(scene)
    assert (await (await send_head(connection, scheme=b"ftp")).done()).status == 400
    await scene.neighbour.lives()
    assert scene.backend.waiting == 0


@pytest.mark.parametrize(
    "host", ["a,for=127.0.0.1", "a;for=127.0.0.1", 'a";for="127.0.0.1', "a;proto=https", "a'b", "a=b", "u@a", "a:80:80"]
)
async def test_a_host_cannot_forge_a_hop(scene: Scene, host: str) -> None:
    await scene.refused(400, request("GET", "/", host=host))
    connection = await open_loose(scene)
    stream = await (await send_head(connection, authority=host.encode())).done()
    assert is_refused(stream)
    assert scene.backend.waiting == 0
    await scene.neighbour.lives()


TRAILERS = [("x-sum", "5"), ("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("x-forwarded-host", "evil")]


async def test_trailers_cannot_forge_a_hop(scene: Scene) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in TRAILERS)
    body = f"5\r\nhello\r\n0\r\n{lines}\r\n".encode()
    public, backend, head = await scene.pass_on(request("POST", "/", "Transfer-Encoding: chunked") + body)
    assert await backend.body(head) == (b"hello", [("x-sum", "5")])
    await backend.send(answer("200 OK"))
    assert (await public.answer()).status == 200
    await scene.neighbour.lives()


@pytest.mark.parametrize("size", [0, 5, 16_384, 60_000])
async def test_a_whole_request_with_trailers_in_one_read(scene: Scene, size: int) -> None:
    """Trailers stay trailers, the last of them too, however much of the request comes at once; no hop is forged."""
    connection = await connect_http2(scene.stack, scene.tunnel.host, scene.tunnel.port)
    stream = Stream(connection, 1)
    connection.streams[1] = stream
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "public.example")]
    connection.protocol.send_headers(1, [*pseudo, ("x-head", "h")])
    body = b"x" * size
    for start in range(0, size, 16_384):
        connection.protocol.send_data(1, body[start : start + 16_384])
    connection.protocol.send_headers(1, TRAILERS, end_stream=True)
    await connection.flush()
    backend = await scene.backend.accept()
    head = await backend.head()
    assert head.get("x-head") == "h"
    assert head.get("x-sum") is None
    assert await backend.body(head) == (body, [("x-sum", "5")])
    await backend.send(answer("200 OK"))
    assert (await stream.done()).status == 200
    await scene.neighbour.lives()


# -- a public that does not read


async def until_stuck(progress: Callable[[], int], limit: int, neighbour: Neighbour) -> None:
    """Wait until `progress` stands still for some requests of the neighbour; it may not pass `limit`."""
    still, last = 0, -1
    async with asyncio.timeout(WAIT_S):
        while still < 20:
            await neighbour.round_trip()
            now = progress()
            assert now < limit, f"{now}: it goes on and on"
            still = still + 1 if now == last else 0
            last = now


async def test_pipelined_requests_wait_while_their_answers_are_not_read(stack: AsyncExitStack) -> None:
    """What the server holds for one connection is bounded; once the public reads, every answer comes, in order."""
    asked = 0
    body = b"x" * 200_000

    async def get(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(body=body, headers={"X-Number": request.query_string})

    tunnel, neighbour = await start_beside(stack, await start_web(stack, web.get("/", get)))
    public = await connect(stack, tunnel.host, tunnel.port, receive_buffer=16_384)
    count = 300
    await public.send(b"".join(request("GET", f"/?{number}") for number in range(count)))
    await until_stuck(lambda: asked, 100, neighbour)  # kernel buffers included
    assert tunnel.server.status()["active_requests"] <= 2
    for number in range(count):
        got = await public.answer()
        assert got.head.get("x-number") == str(number)
        assert got.body == body
    assert asked == count
    await neighbour.lives()


@pytest.mark.parametrize("host", ["nobody.example", "a b"])
async def test_requests_that_are_refused_are_not_read_for_ever(stack: AsyncExitStack, host: str) -> None:
    """Answers that the server makes itself are bounded as well."""
    tunnel, neighbour = await start_beside(stack)
    public = await connect(stack, tunnel.host, tunnel.port, receive_buffer=16_384)
    block = request("GET", "/", host=host) * 2000
    taken = 0

    async def flood() -> None:
        nonlocal taken
        while True:
            public.writer.write(block)
            await public.writer.drain()
            taken += len(block)

    flooding = asyncio.ensure_future(flood())
    stack.callback(flooding.cancel)
    if host == "a b":  # the connection ends with the first
        assert (await public.answer()).status == 400
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                await flooding
    else:
        await until_stuck(lambda: taken, 2**25, neighbour)
    await neighbour.lives()


# -- floods of what costs no credit

# An empty frame has two bytes: to fill the kernel's buffers takes millions, which is minutes in plain Python.
PINGS = pytest.mark.differs(
    "asyncio client", "a compiled server is not slowed down by it, and it parses them for minutes"
)
EMPTY_FRAMES = [
    pytest.mark.differs(f"asyncio {end}", "too slow for a flood of empty frames") for end in ("server", "client")
]


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(PING, b"p" * 125, mask=MASK), marks=PINGS),
        pytest.param(frame(TEXT, b"", mask=MASK), marks=EMPTY_FRAMES),
    ],
)
async def test_a_flood_of_frames_without_credit_ends_the_websocket(stack: AsyncExitStack, flood: bytes) -> None:
    """Towards a backend that does not read; nothing bounds them but this."""
    scene = await start_scene(stack, await start_raw(stack, receive_buffer=16_384))
    public = await scene.public()
    await ask_upgrade(public)
    backend = await scene.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    backend.writer.transport.pause_reading()  # type: ignore[attr-defined]
    done = len(scene.tunnel.events.records)
    block = flood * (65_536 // len(flood))

    async def pour() -> None:
        for _ in range(2048):
            await public.send(block)

    with pytest.raises(ConnectionError):
        await pour()
    record = await scene.tunnel.events.record(done)
    assert record.reset == OVERLOADED
    await scene.neighbour.lives()


# -- a public that says nothing


@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b"\r\n\r\n\n", PREFACE[:10], PREFACE, PREFACE + b"\0\0\0\4\0\0\0\0\0"], ids=len
)
async def test_a_connection_without_a_request_is_closed(stack: AsyncExitStack, data: bytes) -> None:
    scene = await start_scene(stack, server={"head_timeout_s": 0.1})
    public = await scene.public()
    await public.send(data)
    await public.to_end()
    await scene.neighbour.lives()


async def test_empty_lines_do_not_put_off_the_timeout(stack: AsyncExitStack) -> None:
    scene = await start_scene(stack, server={"head_timeout_s": 0.1})
    public = await scene.public()
    ending = asyncio.ensure_future(public.ended())
    async with asyncio.timeout(WAIT_S):
        while not ending.done():
            public.writer.write(b"\r\n")
            await scene.neighbour.round_trip()
    await scene.neighbour.lives()


async def test_pings_do_not_put_off_the_timeout(stack: AsyncExitStack) -> None:
    scene = await start_scene(stack, server={"head_timeout_s": 0.1})
    connection = await connect_http2(stack, scene.tunnel.host, scene.tunnel.port)
    async with asyncio.timeout(WAIT_S):
        while connection.closed is None:
            connection.protocol.ping(b"12345678")
            connection.write()
            await scene.neighbour.round_trip()
    await scene.neighbour.lives()


# -- a public that has closed its side


TIMERS = ("_tick", "_on_timeout")  # the timer of the compiled engine, and that of asyncio.timeout()


class Clock:
    """Lets time pass for the engine, whose timers are a `call_at` of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._shift = 0.0
        self._time, self._call_at = loop.time, loop.call_at
        self._ticks: list[tuple[asyncio.TimerHandle, float, Callable[[], None]]] = []
        monkeypatch.setattr(loop, "time", self.time)
        monkeypatch.setattr(loop, "call_at", self.call_at)

    def time(self) -> float:
        return self._time() + self._shift

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = self._call_at(when, callback, *args, context=context)
        if getattr(callback, "__name__", "") in TIMERS:
            self._ticks.append((handle, when, callback))
        return handle

    def due_within(self, seconds: float) -> bool:
        return any(when <= self.time() + seconds for handle, when, _ in self._ticks if not handle.cancelled())

    def pass_by(self, seconds: float) -> None:
        self._shift += seconds
        ticks, self._ticks = self._ticks, []
        for handle, when, callback in ticks:
            if not handle.cancelled() and when <= self.time():
                handle.cancel()
                callback()
            else:
                self._ticks.append((handle, when, callback))


async def start_half_closed(stack: AsyncExitStack, clock: Clock, *, begun: bool) -> tuple[Scene, Peer, Peer]:
    """A public that has sent a request and closed its side, before its answer begins or after; the server knows."""
    scene = await start_scene(
        stack,
        server={"head_timeout_s": 3600.0, "heartbeat_interval_s": 3600.0},
        client={"connect_timeout_s": 3600.0},
    )
    public, backend, _ = await scene.pass_on(request("GET", "/"))
    if begun:
        await backend.send(CHUNKED)
        assert (await public.head()).status == 200
    assert not clock.due_within(HALF_CLOSED_S + 1)
    public.half_close()
    await eventually(lambda: clock.due_within(HALF_CLOSED_S + 1))
    return scene, public, backend


@pytest.mark.parametrize("begun", [False, True])
async def test_a_half_closed_public_is_given_up_when_its_answer_is_silent(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    clock = Clock(monkeypatch)
    scene, public, backend = await start_half_closed(stack, clock, begun=begun)
    clock.pass_by(HALF_CLOSED_S + 1)
    assert await public.ended()
    assert await backend.ended()
    await scene.neighbour.lives()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_half_closed_public_gets_its_long_answer(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """The timer is for silence: the whole answer may take longer."""
    clock = Clock(monkeypatch)
    scene, public, backend = await start_half_closed(stack, clock, begun=begun)
    if not begun:
        await backend.send(CHUNKED)
        assert (await public.head()).status == 200
    for _ in range(10):
        clock.pass_by(HALF_CLOSED_S - 1)
        await backend.send(b"4\r\npart\r\n")
        assert await public.chunk() == b"part"
    await backend.send(b"0\r\n\r\n")
    assert await public.to_end() == b"0\r\n\r\n"
    await scene.neighbour.lives()
