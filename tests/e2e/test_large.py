"""Very large bodies and messages through a server and a client as processes, whose memory is measured.

The far ends are blocking sockets in threads, the cheapest there is. Payloads repeat a block and are compared with it,
byte by byte, as they arrive.
"""

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from fasttunnel import limits
from tests.support.frames import BINARY, MASK, UPGRADE, accept_key, frame_head, xor
from tests.support.grpc_peers import UNLIMITED, Note, open_channel, start_grpc
from tests.support.processes import TunnelProcesses, start_processes
from tests.support.raw import parse_head, request

GIB = 2**30
GROWTH = limits.WINDOW_BUDGET_BYTES + 16 * 2**20  # windows may grow by so much where the far end is slow to answer
BLOCK = random.Random(0).randbytes(1_048_572)  # of four-byte words, so that a mask has the same phase in each
TIMEOUT_S = 100

pytestmark = pytest.mark.timeout(240)


class Plain:
    """A blocking socket at a far end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        self.sock = sock

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_blocks(self, total: int, mask: bytes = bytes(4)) -> None:
        view = memoryview(xor(BLOCK, mask) if any(mask) else BLOCK)
        for start in range(0, total, len(BLOCK)):
            self.sock.sendall(view[: min(len(BLOCK), total - start)])

    def receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            assert piece, "the connection has ended too early"
            data += piece
        return bytes(data)

    def receive_head(self) -> bytes:
        data = bytearray()
        while not data.endswith(b"\r\n\r\n"):
            data += self.receive(1)  # nothing behind the head may be lost
        return bytes(data)

    def receive_blocks(self, total: int, mask: bytes = bytes(4)) -> None:
        """So many bytes of BLOCK after BLOCK; the first one that is wrong fails."""
        expected = memoryview(xor(BLOCK, mask) if any(mask) else BLOCK)
        buffer = memoryview(bytearray(len(BLOCK)))
        position = 0
        while position < total:
            place = position % len(BLOCK)
            count = self.sock.recv_into(buffer[: min(len(BLOCK) - place, total - position)])
            assert count, f"the connection has ended after {position} bytes"
            assert buffer[:count] == expected[place : place + count], f"wrong between {position} and {position + count}"
            position += count


async def pass_through(
    stack: AsyncExitStack, backend: Callable[[Plain], None], public: Callable[[Plain], None]
) -> None:
    """Let `backend` and `public` do their parts, each in a thread; no process of the tunnel may grow by GROWTH."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(TIMEOUT_S)
    tunnel = await start_processes(stack, f"http://127.0.0.1:{listener.getsockname()[1]}")

    def run_backend() -> None:
        with listener.accept()[0] as sock:
            backend(Plain(sock))

    def run_public() -> None:
        with socket.create_connection((tunnel.host, tunnel.port)) as sock:
            public(Plain(sock))

    tunnel.start_measuring()
    await asyncio.gather(asyncio.to_thread(run_backend), asyncio.to_thread(run_public))
    check_growth(tunnel)


def check_growth(tunnel: TunnelProcesses) -> None:
    growth = tunnel.growth()
    assert all(size < GROWTH for size in growth.values()), growth


@pytest.fixture
def size(cell: tuple[str, str]) -> int:
    """A GiB, or with the asyncio engine, which takes seconds for each, several times what it may grow by."""
    return GIB if cell == ("cython", "cython") else GIB // 4


async def test_a_download(stack: AsyncExitStack, size: int) -> None:
    def backend(peer: Plain) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        peer.send_blocks(size)

    def public(peer: Plain) -> None:
        peer.send(request("GET", "/"))
        assert parse_head(peer.receive_head()).get("content-length") == str(size)
        peer.receive_blocks(size)

    await pass_through(stack, backend, public)


async def test_an_upload(stack: AsyncExitStack, size: int) -> None:
    def backend(peer: Plain) -> None:
        assert parse_head(peer.receive_head()).get("content-length") == str(size)
        peer.receive_blocks(size)
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    def public(peer: Plain) -> None:
        peer.send(request("POST", "/", f"Content-Length: {size}"))
        peer.send_blocks(size)
        assert parse_head(peer.receive_head()).status == 204

    await pass_through(stack, backend, public)


async def test_a_websocket_message_of_200_mb_in_one_frame(stack: AsyncExitStack) -> None:
    """Up with a mask, then down without one."""
    size = 200_000_000

    def backend(peer: Plain) -> None:
        key = parse_head(peer.receive_head()).get("sec-websocket-key") or ""
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
        )
        head = peer.receive(14)
        assert head[:10] == frame_head(BINARY, size, mask=MASK)[:10]
        peer.receive_blocks(size, head[10:])
        peer.send(frame_head(BINARY, size))
        peer.send_blocks(size)
        peer.receive(1)  # the public's word that it has all

    def public(peer: Plain) -> None:
        peer.send(request("GET", "/", *UPGRADE))
        assert parse_head(peer.receive_head()).status == 101
        peer.send(frame_head(BINARY, size, mask=MASK))
        peer.send_blocks(size, MASK)
        assert peer.receive(10) == frame_head(BINARY, size)
        peer.receive_blocks(size)
        peer.send(frame_head(BINARY, 0, mask=MASK))

    await pass_through(stack, backend, public)


async def test_a_grpc_message_of_100_mb(stack: AsyncExitStack) -> None:
    """There and back."""
    tunnel = await start_processes(stack, await start_grpc(stack, options=UNLIMITED))
    stub = await open_channel(stack, f"{tunnel.host}:{tunnel.port}", UNLIMITED)
    data = random.Random(1).randbytes(100_000_000)
    tunnel.start_measuring()
    got = await stub.Unary(Note(number=1, data=data), timeout=TIMEOUT_S)
    check_growth(tunnel)
    assert got.number == 1
    assert hashlib.sha256(got.data).digest() == hashlib.sha256(data).digest()
