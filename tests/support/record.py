"""Records the corpus of tunnel byte streams: python -m tests.support.record [ENGINE ...]

For each engine and conversation two files in tests/corpus/v1, what the client's end sent (`up`) and the server's
(`down`), as they stand in the DATA frames of the call: each TunnelMessage behind its gRPC prefix. Beside them the
meaning of each message in protobuf's text format. They are recorded once: a later version has to read what this one has
written.
"""

import asyncio
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf import text_format

from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.support.frames import (
    BINARY,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    accept_upgrade,
    ask_upgrade,
    close_payload,
    expect_upgrade,
    frame,
    read_frame,
)
from tests.support.grpc_peers import Context, Note, Notes, Nothing, open_channel, start_grpc
from tests.support.raw import Peer, connect, start_raw
from tests.support.tap import TappedTunnel, start_tapped
from tests.support.tunnel import engines

FOLDER = Path(__file__).resolve().parents[1] / "corpus" / "v1"
SMALL = {"max_fragment": 1024, "initial_window": 4096}  # so that little data makes fragments and window updates
EXTENSION = "Sec-WebSocket-Extensions: permessage-deflate"

Conversation = Callable[[AsyncExitStack], Awaitable[TappedTunnel]]


def listing(messages: list[TunnelMessage]) -> str:
    """The messages for a person, and for comparing."""
    return "\n".join(text_format.MessageToString(message, as_utf8=True) for message in messages)


# -- conversations


async def http(stack: AsyncExitStack) -> TappedTunnel:
    """A body each way in several pieces, trailers, an interim answer, HEAD, no content."""
    backend = await start_raw(stack)
    tunnel = await start_tapped(stack, backend.url, **SMALL)
    public = await connect(stack, tunnel.host, tunnel.port)
    server = await exchange(
        public,
        None,
        backend,
        b"POST /a?b=c HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n"
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
        b"bb8\r\n" + b"u" * 3000 + b"\r\n0\r\nX-Sum: 3000\r\n\r\n",
        b"X-Sum: 3000\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
        b"1770\r\n" + b"d" * 6000 + b"\r\n0\r\nX-Sum: 6000\r\n\r\n",
        b"X-Sum: 6000\r\n\r\n",
    )
    await exchange(
        public,
        server,
        backend,
        b"HEAD / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
        b"\r\n\r\n",
    )
    await exchange(
        public,
        server,
        backend,
        b"DELETE /x HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"\r\n\r\n",
    )
    return tunnel


async def exchange(
    public: Peer, server: Peer | None, backend: Any, request: bytes, request_end: bytes, answer: bytes, end: bytes
) -> Peer:
    """A request and its answer, each read up to its last bytes."""
    await public.send(request)
    server = server or await backend.accept()
    await server.reader.readuntil(request_end)
    await server.send(answer)
    await public.reader.readuntil(end)
    return server


async def resets(stack: AsyncExitStack) -> TappedTunnel:
    """An answer before the end of the request, a public that leaves, a backend that breaks off, and none there."""
    backend = await start_raw(stack)
    tunnel = await start_tapped(stack, backend.url, "nowhere.example=http://127.0.0.1:1", **SMALL)
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    for answer in (early, b"HTTP/1.1 200 OK\r\nContent-Le", None):
        public = await connect(stack, tunnel.host, tunnel.port)
        await public.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome")
        server = await backend.accept()
        await server.reader.readuntil(b"some")
        if answer is None:
            public.writer.transport.abort()
        else:
            await server.send(answer)
            server.writer.close()
            await public.reader.readuntil(b"\r\n\r\n")
        await tunnel.until_idle()
    public = await connect(stack, tunnel.host, tunnel.port)
    await public.send(b"GET / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n")
    await public.reader.readuntil(b"\r\n\r\n")
    return tunnel


async def websocket(stack: AsyncExitStack) -> TappedTunnel:
    """Frames of every kind, a fragmented message with a ping inside, a compressed one, one in pieces, and the close."""
    backend = await start_raw(stack)
    tunnel = await start_tapped(stack, backend.url, **SMALL)
    public = await connect(stack, tunnel.host, tunnel.port)
    await ask_upgrade(public, "/room?x=y", EXTENSION, "Sec-WebSocket-Protocol: chat, echo")
    server = await backend.accept()
    await accept_upgrade(server, EXTENSION, "Sec-WebSocket-Protocol: echo")
    await expect_upgrade(public)
    frames: list[tuple[int, bytes, bool, int]] = [
        (TEXT, "grüße".encode(), True, 0),
        (BINARY, b"", True, 0),
        (TEXT, b"one ", False, 0),
        (PING, b"there?", True, 0),
        (CONTINUATION, b"message", True, 0),
        (TEXT, b"\xf2H\xcd\xc9\xc9\x07\x00", True, 4),  # RFC 7692 7.2.3.1
        (BINARY, bytes(range(256)) * 12, True, 0),
        (PONG, b"", True, 0),
        (8, close_payload(4001, "as you wish"), True, 0),
    ]
    for sender, receiver, mask in ((public, server, MASK), (server, public, None)):
        for opcode, data, fin, rsv in frames:
            if opcode == 8 and sender is server:
                await sender.send(frame(8, close_payload(4001, "as you wish")))
            else:
                await sender.send(frame(opcode, data, fin=fin, rsv=rsv, mask=mask))
            if opcode != 8:
                await read_frame(receiver)
        if sender is public:
            await read_frame(server)
    await read_frame(public)
    server.writer.close()
    return tunnel


async def refused(stack: AsyncExitStack) -> TappedTunnel:
    """A handshake that the backend refuses, with a body."""
    backend = await start_raw(stack)
    tunnel = await start_tapped(stack, backend.url, **SMALL)
    public = await connect(stack, tunnel.host, tunnel.port)
    await ask_upgrade(public)
    server = await backend.accept()
    await server.reader.readuntil(b"\r\n\r\n")
    await server.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\nX-Why: because\r\n\r\nnot today\n")
    await public.reader.readuntil(b"not today\n")
    return tunnel


async def calls(stack: AsyncExitStack) -> TappedTunnel:
    """Calls of each kind, an empty message, one in pieces, metadata, an error with details, a deadline."""

    async def down(request: Any, context: Context) -> Notes:
        await context.send_initial_metadata((("x-here", "yes"), ("x-raw-bin", b"\x00\xff")))
        yield Note(number=1)
        yield Note(data=b"d" * 3000)
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x07\x12\x02no"), ("x-last", "words")))
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you: 100 % grün")

    async def up(requests: Notes, context: Context) -> Any:
        async for _ in requests:
            pass
        await asyncio.Event().wait()

    tunnel = await start_tapped(stack, await start_grpc(stack, Down=down, Up=up), **SMALL)
    stub = await open_channel(stack, tunnel.authority)
    await stub.Empty(Nothing())
    await stub.Unary(Note(number=3, data=b"u" * 5000), compression=grpc.Compression.NoCompression)
    call = stub.Talk(metadata=[("x-key", "value"), ("x-key", "again"), ("x-raw-bin", b"\x01")])
    for number in range(3):
        await call.write(Note(number=number))
        await call.read()
    await call.done_writing()
    await call.read()
    with suppress(grpc.aio.AioRpcError):
        _ = [note async for note in stub.Down(Note())]
    with suppress(grpc.aio.AioRpcError):
        await stub.Up(iter([Note(number=1)]), timeout=0.2)
    await tunnel.until_idle()
    await tunnel.client.stop()  # says goodbye
    return tunnel


CONVERSATIONS: dict[str, Conversation] = {
    "http": http,
    "resets": resets,
    "websocket": websocket,
    "refused": refused,
    "calls": calls,
}


async def record(engine: str) -> None:
    engines.update(server=engine, client=engine)
    for name, converse in CONVERSATIONS.items():
        async with AsyncExitStack() as stack, asyncio.timeout(30):
            tunnel = await converse(stack)
            await tunnel.until_idle()
            await tunnel.both_agree()
            for direction, tap in (("up", tunnel.client_tap), ("down", tunnel.server_tap)):
                bodies = [message.SerializeToString() for message in tap.sent]
                stream = b"".join(struct.pack("!BI", 0, len(body)) + body for body in bodies)
                path = FOLDER / f"{engine}-{name}-{direction}"
                path.with_suffix(".bin").write_bytes(stream)
                path.with_suffix(".txt").write_text(listing(tap.sent))
                print(f"{path.name}: {len(bodies)} messages, {len(stream)} bytes")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[1:] or ("cython", "asyncio"):
        uvloop.run(record(chosen))
