"""System calls per message: what the data plane costs, in a unit that does not depend on the machine.

The engine counts its reads and writes. One write per turn for all that is ready is what makes a tunnel that reads every
frame cheaper than a relay of bytes, which needs eight a message.
"""

import asyncio
import base64
import hashlib
import re
import socket
import ssl
from contextlib import AsyncExitStack

import pytest

from tests.support.certificates import authority, here
from tests.support.tunnel import WAIT_S, Tunnel, start_server, start_tunnel

SIZE = 256
REQUEST = b"\x82\xfe" + SIZE.to_bytes(2, "big") + bytes(4) + b"a" * SIZE  # a mask of zeros: the payload can be compared
ANSWER = b"\x82\x7e" + SIZE.to_bytes(2, "big") + b"a" * SIZE
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

pytestmark = pytest.mark.cython_only("it counts what the compiled engine is made for")


class Echo(asyncio.Protocol):
    """Answers all frames of one read by one write."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._rest = b""
        self._open = False

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._open:
            head, end, self._rest = self._rest.partition(b"\r\n\r\n")
            assert end, "a handshake comes in one read"
            key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
            assert key
            accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self._open = True
        whole = len(self._rest) // len(REQUEST)
        self._rest = self._rest[whole * len(REQUEST) :]
        if whole:
            self._transport.write(ANSWER * whole)


def reads_and_writes(tunnel: Tunnel) -> int:
    return sum(int(end.status()[kind]) for end in (tunnel.server, tunnel.client) for kind in ("reads", "writes"))


@pytest.mark.parametrize(
    ("connections", "depth", "bound"),
    [
        # 4 / 32 for the sockets at either end, and as many for the tunnel, which are shared.
        (16, 32, 0.2),
        # 4 for the sockets at either end; the tunnel's are shared by those that are ready together.
        (64, 1, 5.0),
    ],
    ids=["batches", "one-in-flight"],
)
async def test_reads_and_writes_per_message(stack: AsyncExitStack, connections: int, depth: int, bound: float) -> None:
    loop = asyncio.get_running_loop()
    backend = await loop.create_server(Echo, "127.0.0.1", 0, backlog=128)
    stack.callback(backend.close)
    tunnel = await start_tunnel(stack, f"http://127.0.0.1:{backend.sockets[0].getsockname()[1]}", records=False)

    sockets = []
    for _ in range(connections):
        sock = socket.create_connection((tunnel.host, tunnel.port))
        stack.callback(sock.close)
        sock.setblocking(False)
        sockets.append(sock)

    async def read(sock: socket.socket, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = await loop.sock_recv(sock, n - len(data))
            assert part, f"closed after {data!r}"
            data += part
        return data

    async def exchange(sock: socket.socket) -> None:
        await loop.sock_sendall(sock, REQUEST * depth)
        assert await read(sock, len(ANSWER) * depth) == ANSWER * depth

    async with asyncio.timeout(WAIT_S):
        for sock in sockets:
            await loop.sock_sendall(sock, HANDSHAKE)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await read(sock, 1)
            assert head.startswith(b"HTTP/1.1 101 ")
        rounds = 40
        for counted in (False, True):
            before = reads_and_writes(tunnel)
            for _ in range(rounds):
                await asyncio.gather(*map(exchange, sockets))
            if counted:
                calls = reads_and_writes(tunnel) - before
    each = calls / (rounds * connections * depth)
    assert bound / 3 < each <= bound, f"{each:.3f} reads and writes of both ends per message"


async def test_the_first_answer_over_tls(stack: AsyncExitStack) -> None:
    """It leaves with the last records of the handshake."""
    server = await start_server(stack, cert=here().cert, key=here().key)

    def ask() -> bytes:
        arrives, leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = authority().context().wrap_bio(arrives, leaves, server_hostname="localhost")
        with socket.create_connection(server.address, WAIT_S) as sock:
            asked = False
            while True:
                try:
                    if not asked:
                        tls.do_handshake()
                        tls.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                        asked = True
                    return tls.read()
                except ssl.SSLWantReadError:
                    sock.sendall(leaves.read())
                    arrives.write(sock.recv(65536))

    assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 404 ")
    assert server.status()["writes"] == 2
