"""Peers made of plain sockets: a test reads and writes each byte itself, as the public or as the backend."""

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import NamedTuple

from tests.support.tunnel import WAIT_S


class Head(NamedTuple):
    """Start line and fields of an HTTP/1.1 message; names in lower case, in order, duplicates kept."""

    start: str
    fields: list[tuple[str, str]]

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        """The value of a field that is there once, or None."""
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None


class Answer(NamedTuple):
    """A whole answer."""

    head: Head
    body: bytes
    trailers: list[tuple[str, str]]

    @property
    def status(self) -> int:
        return self.head.status


class Peer:
    """One TCP connection. Everything that waits does so for a bounded time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)
        async with asyncio.timeout(WAIT_S):
            await self.writer.drain()

    async def send_bytewise(self, data: bytes) -> None:
        """Each byte in a packet of its own, as far as the kernel lets one say so."""
        for index in range(len(data)):
            self.writer.write(data[index : index + 1])
            await asyncio.sleep(0)  # one iteration of the loop: the other end, in this process, reads each byte

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readexactly(count)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readuntil(mark)

    async def head(self) -> Head:
        """A request's or an answer's head."""
        return parse_head(await self.until(b"\r\n\r\n"))

    async def chunk(self) -> bytes:
        """One chunk of a chunked body, b"" is the last one; its trailer section is left to `trailers`."""
        size = int((await self.until(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            return b""
        data = await self.exactly(size)
        assert await self.exactly(2) == b"\r\n"
        return data

    async def chunks(self, count: int) -> bytes:
        """At least so many bytes of a chunked body, however they were cut; they have to end with a chunk."""
        data = b""
        while len(data) < count:
            data += await self.chunk()
        assert len(data) == count, data
        return data

    async def trailers(self) -> list[tuple[str, str]]:
        fields = []
        while (line := await self.until(b"\r\n")) != b"\r\n":
            fields.append(_field(line.decode("latin-1").rstrip("\r\n")))
        return fields

    async def body(self, head: Head) -> tuple[bytes, list[tuple[str, str]]]:
        """The body that belongs to a head, and its trailers."""
        if head.get("transfer-encoding") == "chunked":
            data = bytearray()
            while piece := await self.chunk():
                data += piece
            return bytes(data), await self.trailers()
        length = head.get("content-length")
        if length is not None:
            return await self.exactly(int(length)), []
        return await self.to_end() if head.start.startswith("HTTP/") else b"", []

    async def answer(self, method: str = "GET") -> Answer:
        """The next final answer, whole."""
        head = await self.head()
        while head.status < 200:
            head = await self.head()
        if method == "HEAD" or head.status in (204, 304):
            return Answer(head, b"", [])
        return Answer(head, *await self.body(head))

    async def ask(self, request: bytes | str, method: str = "GET") -> Answer:
        await self.send(request)
        return await self.answer(method)

    async def to_end(self) -> bytes:
        """All that comes until the other side closes. Raises ConnectionResetError when it breaks off."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()

    async def ended(self) -> bool:
        """Wait for the other side to close or break off; whether nothing more came before."""
        try:
            return await self.to_end() == b""
        except ConnectionError:
            return True

    def half_close(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(WAIT_S):
                await self.writer.wait_closed()
        except OSError:  # it was broken already
            pass

    def drop(self) -> None:
        """End the connection at once with a RST, as a process that is killed with bytes unread does."""
        if self.writer.is_closing():
            return
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()


class RawBackend:
    """Listens on a free port; each connection that comes is handed to the test, and never answered by itself."""

    def __init__(self, server: asyncio.Server, arrived: "asyncio.Queue[Peer]") -> None:
        self._server = server
        self.arrived = arrived
        self.port: int = server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"

    async def accept(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(WAIT_S):
            return await self.arrived.get()

    @property
    def waiting(self) -> int:
        """Connections that the test has not accepted yet."""
        return self.arrived.qsize()

    async def stop(self) -> None:
        """Listen no more: connecting is refused from now on."""
        self._server.close()


async def start_raw(stack: AsyncExitStack, receive_buffer: int | None = None) -> RawBackend:
    """A RawBackend; `receive_buffer` is the size of its sockets' kernel buffers in bytes."""
    arrived: asyncio.Queue[Peer] = asyncio.Queue()
    peers: list[Peer] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(Peer(reader, writer))
        arrived.put_nowait(peers[-1])

    listener = socket.socket()
    if receive_buffer is not None:  # inherited by what is accepted
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, receive_buffer)
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(take, sock=listener)

    async def stop() -> None:
        server.close()
        for peer in peers:
            await peer.close()

    stack.push_async_callback(stop)
    return RawBackend(server, arrived)


async def connect(
    stack: AsyncExitStack,
    host: str,
    port: int,
    receive_buffer: int | None = None,
    limit: int = 2**16,
    max_segment: int | None = None,
) -> Peer:
    """A connection of the public, broken off when the stack is left.

    By small segments (RFC 9293 3.7.1) a peer keeps the buffers small that the other side's kernel has for it.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, receive_buffer)
    if max_segment is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, max_segment)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        peer = Peer(*await asyncio.open_connection(sock=sock, limit=limit))
    except BaseException:
        sock.close()
        raise
    stack.callback(peer.drop)
    return peer


def parse_head(data: bytes) -> Head:
    start, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return Head(start, [_field(line) for line in lines])


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    assert colon, line
    return name.lower(), value.strip()


def request(method: str, target: str, *fields: str, host: str = "public.example", body: bytes = b"") -> bytes:
    """A request; a body gets its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answer(status: str, *fields: str, body: bytes = b"") -> bytes:
    """An answer with a Content-Length; `status` is such as "200 OK"."""
    lines = [f"HTTP/1.1 {status}", *fields]
    if status[:3] not in ("204", "304"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
