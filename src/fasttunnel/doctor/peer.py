"""Another end of a connection: whether it answers, by TLS, and in HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator

from fasttunnel.errors import describe
from fasttunnel.reach import http2

TIMEOUT_S = 5.0
FRAME_HEADER = 9

CLOSED = "it closed the connection"
SPEAKS_TLS = "it speaks TLS"


class Unreachable(Exception):
    """In words."""


class Streams:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, took_s: float) -> None:
        self.reader = reader
        self.writer = writer
        self.took_s = took_s

    @property
    def certificate(self) -> bytes | None:
        """What the peer has shown, in DER."""
        shown: bytes | None = self.writer.get_extra_info("ssl_object").getpeercert(True)
        return shown

    @property
    def protocol(self) -> str | None:
        """As ALPN has chosen it."""
        chosen: str | None = self.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        return chosen


async def addresses(host: str, port: int) -> list[str]:
    """Raises Unreachable."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(
            error.strerror or "there is no such host" if isinstance(error, OSError) else "that is no name"
        ) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@contextlib.asynccontextmanager
async def connected(
    host: str, port: int, context: ssl.SSLContext | None = None, name: str | None = None
) -> AsyncIterator[Streams]:
    """A connection, by TLS with a context; `name` is what its certificate is to be for. Raises Unreachable."""
    begun_s = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=(name or host) if context is not None else None
            )
    except TimeoutError:
        raise Unreachable(f"no answer within {TIMEOUT_S:g} s") from None
    except (OSError, UnicodeError, ValueError) as error:
        raise Unreachable(_words(error)) from None
    try:
        yield Streams(reader, writer, time.monotonic() - begun_s)
    finally:
        writer.transport.abort()


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        return CLOSED
    return describe(error) if isinstance(error, OSError) else str(error)


async def greet(streams: Streams) -> str | None:
    """Begin HTTP/2. None when the peer answers in it, otherwise what it does. Nothing is asked of it."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            streams.writer.write(http2.opening())
            head = await streams.reader.readexactly(FRAME_HEADER)
            if head[3] == http2.SETTINGS and head[:5] != b"HTTP/":
                return None
            rest = await streams.reader.read(4096)
    except TimeoutError:
        return "it says nothing"
    except asyncio.IncompleteReadError as error:
        if error.partial[:1] == b"\x15":
            return SPEAKS_TLS
        return CLOSED
    except OSError as error:
        return _words(error)
    said = head + rest
    if said.startswith(b"HTTP/1"):
        return SPEAKS_TLS if b"TLS" in said or b"HTTPS" in said else "it answers in HTTP/1.1"
    return SPEAKS_TLS if head[:1] == b"\x15" else "it answers in no protocol of a tunnel"


async def speaks_tls(host: str, port: int, context: ssl.SSLContext) -> bool:
    try:
        async with connected(host, port, context):
            return True
    except Unreachable as error:
        return "certificate required" in str(error)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"
