"""A small HTTP/1.1 server for the admin port: h11 reads and writes, a page is a function of the request.

It answers GET and HEAD, one request after another on a connection. A body may be a stream, until it ends or its reader
goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol
from urllib.parse import unquote

import h11

HEAD_BYTES = 16_384
CONNECTIONS = 100  # at once; further ones are closed
IDLE_S = 60.0  # between two requests, and for a head
WRITE_S = 30.0  # for a reader to take some of an answer

TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    path: str
    query: str
    headers: dict[str, str]  # by name in lower case


class Stream(Protocol):
    """As an asynchronous generator is; it is closed in any case, also where nobody has asked it for anything."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Response(NamedTuple):
    body: bytes | Stream
    status: int = 200
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    patience_s: float = WRITE_S  # for a reader to take some of a stream


def words(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """An answer for people."""
    return Response(f"{text}\n".encode(), status, headers=headers)


class HttpServer:
    """Serves connections that `asyncio.start_server` and the like hand to it."""

    def __init__(self, answer: Callable[[Request], Response], warn: Callable[[str], None]) -> None:
        self._answer = answer
        self._warn = warn
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= CONNECTIONS:
            return writer.close()
        self._tasks.add(task)
        try:
            await self._serve(h11.Connection(h11.SERVER, HEAD_BYTES), reader, writer)
        except (TimeoutError, ConnectionError, asyncio.CancelledError):
            pass  # cancelled by close(); streams would report it as an error
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """End what is under way: streams do not end by themselves."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _serve(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    request = await self._next(connection, reader)
                if request is None:
                    return
                method, response = request.method, self._respond(request)
            except h11.RemoteProtocolError as error:
                if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                    return
                method, response = b"GET", words(error.error_status_hint, f"this is no request: {error}")
            try:
                await self._send(connection, writer, method, response, reader)
            finally:
                if not isinstance(response.body, bytes):
                    await response.body.aclose()
            if {connection.our_state, connection.their_state} != {h11.DONE}:
                return
            connection.start_next_cycle()

    async def _next(self, connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
        """None: the connection is at its end."""
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(HEAD_BYTES))
        if not isinstance(event, h11.Request):
            return None
        connection.next_event()  # its end; of a request with a body that does not come, which the answer then ends
        return event

    def _respond(self, request: h11.Request) -> Response:
        if request.method not in (b"GET", b"HEAD"):
            return words(405, "this port is only read from: GET or HEAD", ("Allow", "GET, HEAD"))
        if not request.target.startswith(b"/"):
            return words(400, "the target of the request is no path")
        path, _, query = request.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        try:
            return self._answer(Request(unquote(path), query, headers))
        except Exception as error:
            self._warn(f"admin: {path} failed: {error!r}")
            return words(500, "this page cannot be made; the log says why")

    async def _send(
        self,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        method: bytes,
        response: Response,
        reader: asyncio.StreamReader,
    ) -> None:
        headers = [
            ("Content-Type", response.content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        whole = response.body if isinstance(response.body, bytes) else None
        if whole is not None:
            headers.append(("Content-Length", str(len(whole))))
        if connection.their_state is not h11.DONE or whole is None:
            headers.append(("Connection", "close"))
        await self._write(writer, connection.send(h11.Response(status_code=response.status, headers=headers)))
        if whole is not None:
            if method != b"HEAD":
                await self._write(writer, connection.send(h11.Data(data=whole)))
            return await self._write(writer, connection.send(h11.EndOfMessage()))
        assert not isinstance(response.body, bytes)
        if method == b"HEAD":
            return
        # A stream is the last on its connection: whatever comes meanwhile is its reader's end.
        streaming = asyncio.create_task(self._stream(connection, writer, response.body, response.patience_s))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({streaming, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (streaming, gone):
                task.cancel()
            await asyncio.gather(streaming, gone, return_exceptions=True)
            writer.close()

    async def _stream(
        self,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        pieces: Stream,
        patience_s: float,
    ) -> None:
        async for piece in pieces:
            await self._write(writer, connection.send(h11.Data(data=piece)), patience_s)
        await self._write(writer, connection.send(h11.EndOfMessage()))

    @staticmethod
    async def _write(writer: asyncio.StreamWriter, data: bytes | None, patience_s: float = WRITE_S) -> None:
        writer.write(data or b"")
        async with asyncio.timeout(patience_s):
            await writer.drain()
