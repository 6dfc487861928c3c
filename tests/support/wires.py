"""Connections that keep every byte that came, also when they break off, and what HTTP/1.1 messages those bytes make.

For tests that compare whole conversations: nothing is interpreted while it comes, so nothing is lost or timed.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

WAIT_S = 5.0  # a conversation that stands still for longer hangs

Field = tuple[str, str]


class News:
    """Wakes who waits for something to change, on any of these connections."""

    def __init__(self) -> None:
        self.wires: set[Wire] = set()
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._event.clear()
                await self._event.wait()


class Wire:
    """One TCP connection, as the far side of it that a test plays."""

    def __init__(self, sock: socket.socket, news: News) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.ended: str | None = None  # "closed" or "reset" by the other side
        self.stopped = False  # by us: what comes now does not count
        self.news = news
        news.wires.add(self)
        self._sock = sock
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._sock, 2**18):
                if not self.stopped:
                    self.received += data
                    self.news.tell()
            self.ended = "closed"
        except OSError:
            self.ended = "reset"
        self.news.tell()

    async def send(self, *segments: bytes) -> None:
        """Each segment in a packet of its own, as far as the kernel lets one say so. Whoever has gone misses it."""
        with suppress(ConnectionError):
            for segment in segments:
                await asyncio.get_running_loop().sock_sendall(self._sock, segment)
                await asyncio.sleep(0)  # one iteration of the loop: the other end, in this process, reads it

    async def until(self, condition: Callable[["Wire"], object]) -> None:
        """Wait until the condition holds or the other side has ended the connection."""
        await self.news.until(lambda: self.ended or condition(self))

    def half_close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Take leave, and wait until the other side has done so as well."""
        self.half_close()
        try:
            await self.until(lambda _: False)
        finally:
            await self._release()

    async def cut(self) -> None:
        """End the connection at once with a RST, as a process that is killed with bytes unread does."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await self._release()

    async def _release(self) -> None:
        self.stopped = True
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._sock.close()
        self.news.wires.discard(self)


async def open_wire(host: str, port: int, news: News) -> Wire:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, port))
    return Wire(sock, news)


class Listener:
    """Listens on a free port; each connection is handed to whoever `serve` is at the time."""

    def __init__(self, news: News) -> None:
        self.serve: Callable[[Wire], None] | None = None
        self.news = news
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self._accepting = asyncio.ensure_future(self._accept())

    async def _accept(self) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
            if self.serve is None:  # nobody waits for it
                sock.close()
            else:
                self.serve(Wire(sock, self.news))

    async def stop(self) -> None:
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._sock.close()


# -- what the bytes say


class Message(NamedTuple):
    """An HTTP/1.1 message, as much of it as has come; field names as they were written."""

    start: str
    fields: list[Field]
    framing: str  # of the body: "none", "length N", "chunked", "until the end", or "would be N" bytes without HEAD
    body: bytes
    trailers: list[Field]
    complete: bool

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def framed(self) -> str:
        """How the body ends, without what each connection has for itself: once a length is known it may be announced,
        and chunked coding may come and go (RFC 9112 6.1, 6.2, 7)."""
        return "whole" if self.complete and not self.framing.startswith("would be") else self.framing

    def get(self, name: str) -> str | None:
        """The value of a field that may be there once."""
        values = [value for key, value in self.fields if key.lower() == name]
        assert len(values) <= 1, (name, self)
        return values[0] if values else None


def parse_requests(data: bytes) -> list[Message]:
    return _parse(data, None)


def parse_answers(data: bytes, methods: Sequence[str] = ()) -> list[Message]:
    """Answers to requests of these methods in order (then to GETs), interim ones included."""
    return _parse(data, methods)


def finals(answers: list[Message]) -> list[Message]:
    """Without the interim ones."""
    return [answer for answer in answers if answer.status >= 200]


def _parse(data: bytes, methods: Sequence[str] | None) -> list[Message]:
    """Strict: what an engine writes has to be right to the byte."""
    messages: list[Message] = []
    answered = 0
    while b"\r\n\r\n" in data:
        raw, _, data = data.partition(b"\r\n\r\n")
        start, *lines = raw.decode("latin-1").split("\r\n")
        fields = [_field(line) for line in lines]
        message = Message(start, fields, "none", b"", [], True)
        method = None
        if methods is not None:
            assert start.startswith("HTTP/1.1 "), start
            if message.status >= 200:
                method = methods[answered] if answered < len(methods) else "GET"
                answered += 1
        else:
            assert start.endswith((" HTTP/1.1", " HTTP/1.0")), start
        length, coding = message.get("content-length"), message.get("transfer-encoding")
        assert length is None or coding is None, message
        if length is not None:
            message = message._replace(framing=f"length {int(length)}")
        elif coding is not None:
            assert coding.lower() == "chunked", coding
            message = message._replace(framing="chunked")
        elif method is not None and message.status not in (204, 304) and method != "HEAD":
            message = message._replace(framing="until the end")
        if methods is not None and (message.status < 200 or message.status in (204, 304) or method == "HEAD"):
            if message.status < 200 or message.status == 204:
                assert message.framing == "none", message  # RFC 9110 8.6, RFC 9112 6.1
            elif coding is not None:
                message = message._replace(framing="none")  # RFC 9112 6.1: it may be said, or not
            elif length is not None:
                message = message._replace(framing=f"would be {int(length)}")
            if message.status == 101:
                return [*messages, message]  # frames follow
        elif methods is None and message.get("upgrade") == "websocket":
            return [*messages, message]  # frames follow
        elif length is not None:
            body, data = data[: int(length)], data[int(length) :]
            message = message._replace(body=body, complete=len(body) == int(length))
        elif coding is not None:
            body, trailers, rest = _dechunk(data)
            message = message._replace(body=body, trailers=trailers, complete=rest is not None)
            data = rest or b""
        elif message.framing == "until the end":
            message, data = message._replace(body=data, complete=False), b""
        messages.append(message)
    return messages


def _dechunk(data: bytes) -> tuple[bytes, list[Field], bytes | None]:
    """Body, trailers, and what is behind them; None for that as long as the end has not come."""
    body = bytearray()
    while b"\r\n" in data:
        line, _, rest = data.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            if rest.startswith(b"\r\n"):
                return bytes(body), [], rest[2:]
            section, end, rest = rest.partition(b"\r\n\r\n")
            if not end:
                break
            fields = [_field(line) for line in section.decode("latin-1").split("\r\n")]
            # Names are not case-sensitive (RFC 9110 5.1), and libraries write those of trailers in lower case.
            return bytes(body), [(name.lower(), value) for name, value in fields], rest
        body += rest[:size]
        if len(rest) < size + 2:
            break
        assert rest[size : size + 2] == b"\r\n", rest[size : size + 2]
        data = rest[size + 2 :]
    return bytes(body), [], None


def _field(line: str) -> Field:
    name, colon, value = line.partition(":")
    assert colon, line
    return name, value.strip(" \t")
