"""The servers of `python -m bench tls`: the same three on each kind of sockets. Started as a process of its own.

    python -m bench.tls_server KIND CERTIFICATE

CERTIFICATE is a PEM file with its key. Prints the ports of echo, of what takes bulk, and of what sends it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from bench._native import pattern

BUFFER = 131_072  # of a connection that reads; the data plane has one for all
PIECE = 65_536  # of bulk, at once
TICKETS = 1  # that a handshake gives away, as the data plane does

PATTERN = pattern()


class Echo(asyncio.Protocol):
    """Answers what comes. Messages are small: a buffer of its own for each connection would not pay."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Sink(asyncio.BufferedProtocol):
    """Counts what comes, and at the end of it tells how much that was."""

    _buffer = memoryview(bytearray(BUFFER))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._taken = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._taken += nbytes

    def eof_received(self) -> None:
        self._transport.write(self._taken.to_bytes(8, sys.byteorder))


class Source(asyncio.Protocol):
    """Sends the pattern again and again, as fast as it is taken, until anything comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._pieces = [PATTERN[at : at + PIECE] for at in range(0, len(PATTERN), PIECE)]
        self._next = 0
        self._paused = self._over = self._pouring = False
        self._pour()

    def data_received(self, data: bytes) -> None:
        self._over = True
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._pouring:  # a write may pause and resume by itself
            self._pour()

    def _pour(self) -> None:
        self._pouring = True
        for _ in self._pieces:
            if self._paused or self._over:
                self._pouring = False
                return
            self._transport.write(self._pieces[self._next])
            self._next = (self._next + 1) % len(self._pieces)
        # They have all been taken at once: others have a turn.
        asyncio.get_running_loop().call_soon(self._pour)


def context(certificate: str) -> Any:
    """TLS as Python has it, set like that of the data plane."""
    import ssl

    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.num_tickets = TICKETS
    found.load_cert_chain(certificate)
    return found


async def transports(kind: str, certificate: str) -> list[int]:
    loop = asyncio.get_running_loop()
    ports = []
    for protocol in (Echo, Sink, Source):
        if kind == "aiofastnet":
            import aiofastnet

            server = await aiofastnet.create_server(loop, protocol, "127.0.0.1", 0, ssl=context(certificate))
        else:
            server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context(certificate))
        ports.append(server.sockets[0].getsockname()[1])
    return ports


def sockets(certificate: str | None) -> list[int]:
    """Ours."""
    import socket

    from bench import _tls_echo
    from fasttunnel.engine._io import Reactor
    from fasttunnel.engine._listener import Listener
    from fasttunnel.engine._tls import TlsContext

    reactor: Any = Reactor(asyncio.get_running_loop())
    tls = None if certificate is None else TlsContext(True, [(certificate, certificate)], ["h2"])
    factories: list[Callable[[], Any]] = [
        lambda: _tls_echo.Echo(reactor),
        lambda: _tls_echo.Sink(reactor),
        lambda: _tls_echo.Source(reactor, PATTERN),
    ]
    listeners = []
    for factory in factories:
        sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        sock.setblocking(False)
        listeners.append(Listener(reactor, sock, factory, tls))
    _alive.extend(listeners)
    return [listener.address[1] for listener in listeners]


_alive: list[Any] = []


async def serve(kind: str, certificate: str) -> None:
    if kind in ("sockets", "plain"):
        ports = sockets(certificate if kind == "sockets" else None)
    else:
        ports = await transports(kind, certificate)
    print(*ports, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    kind, certificate = sys.argv[1:]
    with asyncio.Runner(loop_factory=asyncio.new_event_loop if kind == "asyncio" else uvloop.new_event_loop) as runner:
        runner.run(serve(kind, certificate))


if __name__ == "__main__":
    main()
