"""The sockets of the compiled engine: with epoll and as on systems without it, and when descriptors run out."""

import asyncio
import contextlib
import io
import itertools
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from websockets.asyncio.client import connect as ws_connect

from fasttunnel.engine import _socket
from tests.support.certificates import authority, here
from tests.support.grpc_peers import UNLIMITED, Note, open_channel, start_grpc
from tests.support.raw import answer, connect, request, start_raw
from tests.support.records import DATA, RawTls
from tests.support.site import content, start_site
from tests.support.tunnel import Tunnel, eventually, start_server, start_tunnel

MIB = 2**20

pytestmark = pytest.mark.cython_only("the asyncio engine has the sockets of its libraries")


@pytest.fixture(
    params=[
        pytest.param(
            True, marks=pytest.mark.skipif(not sys.platform.startswith("linux"), reason="epoll is Linux's"), id="epoll"
        ),
        pytest.param(False, id="loop"),
    ]
)
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whom the sockets are watched."""
    monkeypatch.setattr(_socket, "use_epoll", request.param)


@pytest.fixture
async def tunnel(stack: AsyncExitStack, watched: None) -> Tunnel:
    return await start_tunnel(stack, await start_site(stack), await start_grpc(stack, options=UNLIMITED))


@pytest.mark.parametrize("size", [0, 1, 70_000, 5 * MIB])
async def test_bodies_both_ways(stack: AsyncExitStack, tunnel: Tunnel, size: int) -> None:
    body = content(size)
    async with aiohttp.ClientSession(tunnel.url) as session:
        for _ in range(2):  # the second time on connections that are kept
            async with session.post("/echo", data=io.BytesIO(body)) as got:
                assert await got.read() == body


async def test_what_tls_has_read_ahead_is_not_forgotten(stack: AsyncExitStack, watched: None) -> None:
    """A body that comes at once, for which there is little credit: no event tells of what has been read already."""
    backend = await start_raw(stack)
    secure = {"cert": here().cert, "key": here().key}
    slow = {"ca": authority().ca, "initial_window": 4096, "max_window": 4096}
    tunnel = await start_tunnel(stack, backend.url, server=secure, client=slow)
    address = (tunnel.host, tunnel.port)
    public = await asyncio.to_thread(RawTls, address, authority().context(), ssl.TLSVersion.TLSv1_3)
    stack.callback(public.sock.close)
    public.sock.sendall(public.seal(DATA, request("POST", "/", "Content-Length: 48000")))
    peer = await backend.accept()
    await peer.head()
    public.sock.sendall(b"".join(public.seal(DATA, bytes(16_000)) for _ in range(3)))
    assert await peer.exactly(48_000) == bytes(48_000)
    await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")


async def test_who_always_has_more_is_read_once_in_a_turn(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    public = socket.create_connection(server.address)
    stack.callback(public.close)
    public.setblocking(False)
    priority = b"\0\0\5\2\0\0\0\0\3" + b"\0\0\0\1\7"  # of a stream that is idle: nothing answers it
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    whole = public.send(preface + priority * 100_000) // 131_072
    reads = [0]
    while reads[-1] <= whole:
        await asyncio.sleep(0)
        reads.append(server.status()["reads"])
    assert (
        max(after - before for before, after in itertools.pairwise(reads)) <= 4
    )  # it may have been accepted then, too


async def test_frames_of_all_lengths(tunnel: Tunnel) -> None:
    """Short ones are copied into one write; long ones leave from where they were read."""
    async with ws_connect(f"{tunnel.ws_url}/websocket", max_size=None) as peer:
        sizes = [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 200_000, 3 * MIB]
        for size in sizes:
            await peer.send(content(size))
            assert await peer.recv() == content(size)[::-1]
        sending = asyncio.ensure_future(_send_all(peer, sizes))
        for size in sizes:
            assert await peer.recv() == content(size)[::-1]
        await sending


async def _send_all(peer: object, sizes: list[int]) -> None:
    for size in sizes:
        await peer.send(content(size))  # type: ignore[attr-defined]


async def test_calls_of_all_lengths(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    stub = await open_channel(stack, tunnel.authority, options=UNLIMITED)

    async def notes() -> AsyncIterator[Note]:
        for size in (0, 1, 16_384, 70_000, MIB):
            yield Note(data=content(size))

    got = [note.data async for note in stub.Talk(notes())]
    assert got == [content(size) for size in (0, 1, 16_384, 70_000, MIB)]


async def test_a_peer_that_reads_slowly(stack: AsyncExitStack, watched: None) -> None:
    """Writes come back short, at either end, and what is left follows when the socket takes more."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url)
    body = content(3 * MIB)
    public = await connect(stack, tunnel.host, tunnel.port, receive_buffer=4096)
    await public.send(request("GET", "/"))
    peer = await backend.accept()
    await peer.head()
    sending = asyncio.ensure_future(peer.send(answer("200 OK", body=body)))
    got = await public.exactly(len(answer("200 OK", body=body)) - len(body))
    assert b"200 OK" in got
    for start in range(0, len(body), 16_384):
        assert await public.exactly(min(16_384, len(body) - start)) == body[start : start + 16_384]
    await sending


async def test_a_backend_that_reads_slowly(stack: AsyncExitStack, watched: None) -> None:
    backend = await start_raw(stack, receive_buffer=4096)
    tunnel = await start_tunnel(stack, backend.url)
    body = content(3 * MIB)
    public = await connect(stack, tunnel.host, tunnel.port)
    sending = asyncio.ensure_future(public.send(request("POST", "/", body=body)))
    peer = await backend.accept()
    head = await peer.head()
    assert head.get("content-length") == str(len(body))
    for start in range(0, len(body), 16_384):
        assert await peer.exactly(min(16_384, len(body) - start)) == body[start : start + 16_384]
    await sending
    await peer.send(answer("204 No Content"))
    assert (await public.answer()).head.status == 204


async def test_a_backend_that_nobody_listens_for(stack: AsyncExitStack, watched: None) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    tunnel = await start_tunnel(stack, f"http://127.0.0.1:{port}", f"x.example=http://localhost:{port}")
    lines = tunnel.client_events.lines
    async with aiohttp.ClientSession(tunnel.url) as session:
        for host in ("y.example", "x.example"):  # an address, and a name that is looked up
            async with session.get("/", headers={"Host": host}) as got:
                assert got.status == 502
                assert str(port) not in await got.text(), "that is nothing for strangers"
    assert [line.partition(": ")[0] for line in lines if line.startswith("backend")] == [
        f"backend    http://127.0.0.1:{port} cannot be reached",
        f"backend    http://localhost:{port} cannot be reached",
    ]


async def test_a_backend_whose_name_is_none(stack: AsyncExitStack, watched: None) -> None:
    """IDNA does not take it, which is no other error than that of a name that does not exist."""
    tunnel = await start_tunnel(stack, "http://a..b:80")
    async with aiohttp.ClientSession(tunnel.url) as session, session.get("/") as got:
        assert got.status == 502
        assert "a..b" not in await got.text()
    await tunnel.client_events.until_line("backend    http://a..b:80 cannot be reached: there is no such host")


@pytest.fixture
def limited() -> Iterator[None]:
    """The limit of open files, which the test lowers, is as before afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def take_all() -> list[socket.socket]:
    """All descriptors that the process may still open."""
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(socket.socket())
    return taken


async def test_descriptors_run_out_and_come_back(stack: AsyncExitStack, watched: None, limited: None) -> None:
    """Who is connected goes on, and those who wait are served when there are descriptors again."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url)
    public = await connect(stack, tunnel.host, tunnel.port)
    await public.send(request("GET", "/"))
    peer = await backend.accept()
    await peer.head()
    await peer.send(answer("200 OK", body=b"first"))
    assert (await public.answer()).body == b"first"

    waiting = [await connect(stack, tunnel.host, tunnel.port) for _ in range(10)]
    await eventually(lambda: tunnel.server.status()["connections"] == 12)
    late = socket.socket()
    stack.callback(late.close)
    late.setblocking(False)
    highest = socket.socket()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 1, hard))
    held = [highest, *take_all()]
    loop = asyncio.get_running_loop()
    await loop.sock_connect(late, (tunnel.host, tunnel.port))  # into the backlog
    await tunnel.events.until(lambda: len(tunnel.events.warnings) == 1)
    assert "no connection can be accepted for now: Too many open files" in tunnel.events.warnings[0]

    await public.send(request("GET", "/second"))
    await peer.head()
    await peer.send(answer("200 OK", body=b"second"))
    assert (await public.answer()).body == b"second"

    for sock in held:
        sock.close()
    await loop.sock_sendall(late, request("GET", "/late"))
    await peer.head()
    await peer.send(answer("200 OK", body=b"late"))
    got = b""
    while b"late" not in got:
        got += await loop.sock_recv(late, 4096)
    assert len(tunnel.events.warnings) == 1, "said once"
    tunnel.events.warnings.clear()
    for idle in waiting:
        await idle.close()


async def test_a_grpc_backend_that_waits_for_the_client_to_speak(stack: AsyncExitStack, watched: None) -> None:
    """The connection's preface is sent as soon as it stands, whoever is to speak first."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url.replace("http:", "grpc:"))
    stub = await open_channel(stack, tunnel.authority)
    calling = asyncio.ensure_future(stub.Unary(Note()))
    peer = await backend.accept()
    assert await peer.exactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    peer.drop()
    await asyncio.gather(calling, return_exceptions=True)
