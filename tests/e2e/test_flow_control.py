"""A reader that stalls slows its own writer, end to end, and nobody else; what it costs in memory is bounded.

Writers offer OFFERED bytes and must be stopped before BOUND: two windows of 256 KiB, and whatever the kernel buffers of
two hops take, some MiB each. How long to wait before one says that a writer is stopped? As long as a neighbour needs
for a lot of traffic.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from tests.e2e.conftest import Ends
from tests.support.frames import (
    BINARY,
    CLOSE,
    MASK,
    Frame,
    accept_upgrade,
    ask_upgrade,
    close_payload,
    expect_upgrade,
    frame,
    read_frame,
)
from tests.support.grpc_peers import Context, Note, Notes, open_channel, start_grpc
from tests.support.http2 import connect_http2
from tests.support.raw import Peer, answer, connect, request, start_raw
from tests.support.tunnel import WAIT_S, Tunnel, eventually, start_tunnel

OFFERED = 48 * 2**20
BOUND = 14 * 2**20
SMALL = 262_144  # kernel buffers of the tests' own sockets
BLOCK = random.Random(0).randbytes(65_521)  # a prime: a block out of place shows


@pytest.fixture
async def ends(stack: AsyncExitStack) -> Ends:
    """As elsewhere, with small buffers at the backend."""
    backend = await start_raw(stack, receive_buffer=SMALL)
    return Ends(stack, await start_tunnel(stack, backend.url), backend)


class Writer:
    """Offers OFFERED bytes, as BLOCKs in a wrapping of their own, and counts how far it has come."""

    def __init__(self, peer: Peer, wrap: Callable[[bytes], bytes] = bytes) -> None:
        self.count = 0
        self.digest = hashlib.sha256()
        self._peer = peer
        self._wrap = wrap
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        block = self._wrap(BLOCK)
        while self.count < OFFERED:
            self._peer.writer.write(block)
            await self._peer.writer.drain()
            self.count += len(BLOCK)
            self.digest.update(BLOCK)

    def check_stopped(self) -> None:
        assert self.count > 0
        assert self.count < BOUND, f"{self.count} bytes have been taken, and nobody reads them"
        assert not self.task.done()

    async def check_all(self, received: int, digest: bytes) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.task
        assert received == self.count
        assert digest == self.digest.digest()


async def read_chunked(peer: Peer) -> tuple[int, bytes]:
    """Length and digest of a chunked body."""
    count, digest = 0, hashlib.sha256()
    while data := await peer.chunk():
        count += len(data)
        digest.update(data)
    return count, digest.digest()


async def read_length(peer: Peer, length: int) -> tuple[int, bytes]:
    """The same for a body of known length."""
    digest, left = hashlib.sha256(), length
    async with asyncio.timeout(WAIT_S):
        while left:
            data = await peer.reader.read(min(left, 2**18))
            assert data, f"{left} bytes are missing"
            digest.update(data)
            left -= len(data)
    return length, digest.digest()


async def neighbour(ends: Ends) -> None:
    """Traffic through the same tunnel: it has to flow, whoever stalls. As many bytes as the writers offer."""
    public, backend, _ = await ends.pass_on(request("GET", "/neighbour"))
    for number in range(40):
        body = random.Random(number).randbytes(500_000)
        sending = asyncio.ensure_future(backend.send(answer("200 OK", body=body)))
        got = await public.answer()
        assert got.body == body
        await sending
        await public.send(request("GET", f"/{number}"))
        await backend.head()
    await backend.send(answer("200 OK"))
    await public.answer()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def stalled_public(ends: Ends) -> Peer:
    """A connection whose kernel buffers are small."""
    tunnel = ends.tunnel
    return await connect(ends.stack, tunnel.host, tunnel.port, receive_buffer=SMALL)


async def test_a_stalled_download(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"), await stalled_public(ends))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer = Writer(backend, chunked)
    await neighbour(ends)
    writer.check_stopped()
    assert (await public.head()).status == 200
    reading = asyncio.ensure_future(read_chunked(public))
    async with asyncio.timeout(WAIT_S):
        await writer.task
    await backend.send(b"0\r\n\r\n")
    await writer.check_all(*await reading)


async def test_a_stalled_upload(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(
        request("POST", "/", "Transfer-Encoding: chunked"), await stalled_public(ends)
    )
    backend.writer.transport.pause_reading()
    writer = Writer(public, chunked)
    await neighbour(ends)
    writer.check_stopped()
    backend.writer.transport.resume_reading()
    reading = asyncio.ensure_future(read_chunked(backend))
    async with asyncio.timeout(WAIT_S):
        await writer.task
    await public.send(b"0\r\n\r\n")
    await writer.check_all(*await reading)
    await backend.send(answer("200 OK", body=b"thanks"))
    assert (await public.answer()).body == b"thanks"


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_a_stalled_websocket(ends: Ends, direction: str) -> None:
    public, backend = await open_websocket(ends)
    sender, receiver = (public, backend) if direction == "up" else (backend, public)
    receiver.writer.transport.pause_reading()
    mask = MASK if direction == "up" else None
    writer = Writer(sender, lambda data: frame(BINARY, data, mask=mask))
    await neighbour(ends)
    writer.check_stopped()
    # The other direction of the same connection is free.
    for number in range(10):
        await receiver.send(frame(BINARY, b"%d" % number, mask=None if mask else MASK))
        assert (await read_frame(sender)).payload == b"%d" % number
    receiver.writer.transport.resume_reading()
    count, digest = 0, hashlib.sha256()
    while count < OFFERED:
        got = await read_frame(receiver)
        count += len(got.payload)
        digest.update(got.payload)
    await writer.check_all(count, digest.digest())


async def open_websocket(ends: Ends) -> tuple[Peer, Peer]:
    public = await stalled_public(ends)
    await ask_upgrade(public)
    backend = await ends.backend.accept()
    await accept_upgrade(backend)
    await expect_upgrade(public)
    return public, backend


async def test_a_stalled_stream_of_an_http2_connection(ends: Ends) -> None:
    """Its neighbours on the same connection flow on."""
    public = await connect_http2(ends.stack, ends.tunnel.host, ends.tunnel.port, window=65_536)
    stalled = await public.open("GET", "/stalled")
    stalled.acknowledge = False
    backend = await ends.backend.accept()
    await backend.head()
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer = Writer(backend, chunked)
    other = None
    for number in range(100):
        stream = await public.open("GET", f"/{number}")
        other = other or await ends.backend.accept()
        await other.head()
        body = random.Random(number).randbytes(300_000)
        sending = asyncio.ensure_future(other.send(answer("200 OK", body=body)))
        assert bytes((await stream.done()).body) == body
        await sending
    writer.check_stopped()
    assert len(stalled.body) == 65_536, "as much as its window allows"
    stalled.read_on()
    async with asyncio.timeout(WAIT_S):
        await writer.task
    await backend.send(b"0\r\n\r\n")
    await stalled.done()
    await writer.check_all(len(stalled.body), hashlib.sha256(stalled.body).digest())


async def test_a_stalled_upload_of_an_http2_stream(ends: Ends) -> None:
    """Its window is not opened while the backend does not read; other streams may still upload."""
    public = await connect_http2(ends.stack, ends.tunnel.host, ends.tunnel.port)
    stalled = await public.open("POST", "/stalled", end=False)
    backend = await ends.backend.accept()
    await backend.head()
    backend.writer.transport.pause_reading()
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while sent < OFFERED:
            await stalled.send(BLOCK)
            sent += len(BLOCK)
        await stalled.send(b"", end=True)

    uploading = asyncio.ensure_future(upload())
    other = None
    for number in range(60):
        body = random.Random(number).randbytes(500_000)
        stream = await public.open("POST", f"/{number}", ("content-length", str(len(body))), end=False)
        sending = asyncio.ensure_future(stream.send(body, end=True))
        other = other or await ends.backend.accept()
        await other.head()
        assert await other.exactly(len(body)) == body
        await sending
        await other.send(answer("200 OK"))
        await stream.done()
    assert 0 < sent < BOUND
    backend.writer.transport.resume_reading()
    count, digest = await read_chunked(backend)
    await uploading
    assert (count, digest) == (sent, hashlib.sha256(BLOCK * (sent // len(BLOCK))).digest())
    await backend.send(answer("200 OK"))
    await stalled.done()


@pytest.mark.parametrize("end", ["stream", "connection"])
async def test_a_stalled_upload_that_is_given_up(ends: Ends, end: str) -> None:
    """Nobody waits until the backend reads on."""
    public = await connect_http2(ends.stack, ends.tunnel.host, ends.tunnel.port)
    stalled = await public.open("POST", "/stalled", end=False)
    backend = await ends.backend.accept()
    await backend.head()
    backend.writer.transport.pause_reading()

    async def upload() -> None:
        while True:
            await stalled.send(BLOCK)

    uploading = asyncio.ensure_future(upload())
    await neighbour(ends)
    uploading.cancel()
    if end == "stream":
        await stalled.cancel()
    else:
        public.peer.drop()
    await ends.tunnel.until_idle()


async def test_a_stalled_grpc_stream(stack: AsyncExitStack) -> None:
    """In both directions, with a lively call on the same channel."""
    sent = {"down": 0, "up": 0}
    go_on = asyncio.Event()
    blocks = OFFERED // len(BLOCK)

    async def down(request: Note, context: Context) -> Notes:
        for number in range(blocks):
            yield Note(number=number, data=BLOCK)
            sent["down"] += len(BLOCK)

    async def up(requests: Notes, context: Context) -> Note:
        await go_on.wait()
        number = 0
        async for note in requests:
            assert (note.number, note.data) == (number, BLOCK)
            number += 1
        return Note(number=number)

    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    tunnel = await start_tunnel(stack, await start_grpc(stack, options=small, Down=down, Up=up))
    stub = await open_channel(stack, tunnel.authority, small)

    async def upload() -> int:
        call = stub.Up()
        for number in range(blocks):
            await call.write(Note(number=number, data=BLOCK))
            sent["up"] += len(BLOCK)
        await call.done_writing()
        return int((await call).number)

    downloading = stub.Down(Note())
    uploading = asyncio.ensure_future(upload())
    async with asyncio.timeout(2 * WAIT_S):
        call = stub.Talk()
        for number in range(500):
            note = Note(number=number, data=BLOCK)
            await call.write(note)
            assert await call.read() == note
        await call.done_writing()
        for direction, count in sent.items():
            assert 0 < count < BOUND, f"{direction}: {count} bytes have been taken, and nobody reads them"
        go_on.set()
        number = 0
        async for note in downloading:
            assert (note.number, note.data) == (number, BLOCK)
            number += 1
        assert number == blocks
        assert await uploading == blocks


async def test_many_stalled_downloads(ends: Ends) -> None:
    """Fifty at once cost fifty times a bounded amount, and a neighbour still flows."""
    writers = []
    for number in range(50):
        _, backend, _ = await ends.pass_on(request("GET", f"/{number}"), await stalled_public(ends))
        await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writers.append(Writer(backend, chunked))
    await neighbour(ends)
    for writer in writers:
        writer.check_stopped()
        writer.task.cancel()


async def test_a_stalled_download_that_is_given_up(ends: Ends) -> None:
    """The backend is told, though its bytes were never read."""
    public, backend, _ = await ends.pass_on(request("GET", "/"), await stalled_public(ends))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer = Writer(backend, chunked)
    await neighbour(ends)
    writer.check_stopped()
    public.drop()
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(WAIT_S):
            await writer.task


# -- a source that ends while what it sent still waits for credit: all of it arrives, then its end


async def test_an_answer_that_ends_with_the_connection_while_the_public_stalls(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"), await stalled_public(ends))
    body = random.Random(3).randbytes(8_000_000)
    backend.writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    backend.writer.close()
    await neighbour(ends)
    assert (await public.head()).get("transfer-encoding") == "chunked"
    assert await read_chunked(public) == (len(body), hashlib.sha256(body).digest())


async def test_an_answer_of_known_length_while_the_public_stalls(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"), await stalled_public(ends))
    body = random.Random(4).randbytes(8_000_000)
    backend.writer.write(answer("200 OK", "Connection: close", body=body))
    backend.writer.close()
    await neighbour(ends)
    assert (await public.head()).get("content-length") == str(len(body))
    assert await read_length(public, len(body)) == (len(body), hashlib.sha256(body).digest())


async def test_an_upload_of_a_half_closed_public_while_the_backend_stalls(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("POST", "/", "Content-Length: 8000000"), await stalled_public(ends))
    backend.writer.transport.pause_reading()
    body = random.Random(5).randbytes(8_000_000)
    public.writer.write(body)
    public.half_close()
    await neighbour(ends)
    backend.writer.transport.resume_reading()
    assert await read_length(backend, len(body)) == (len(body), hashlib.sha256(body).digest())
    await backend.send(answer("200 OK", body=b"got it"))
    assert (await public.answer()).body == b"got it"


@pytest.mark.parametrize("last", ["close frame", "nothing"])
@pytest.mark.parametrize("direction", ["down", "up"])
async def test_a_websocket_that_ends_while_its_reader_stalls(ends: Ends, direction: str, last: str) -> None:
    public, backend = await open_websocket(ends)
    sender, receiver = (public, backend) if direction == "up" else (backend, public)
    receiver.writer.transport.pause_reading()
    mask = MASK if direction == "up" else None
    payload = random.Random(6).randbytes(8_000_000)
    data = frame(BINARY, payload, mask=mask)
    if last == "close frame":
        data += frame(CLOSE, close_payload(4321, "done"), mask=mask)
    sender.writer.write(data)
    sender.writer.close()
    await neighbour(ends)
    receiver.writer.transport.resume_reading()
    assert await read_frame(receiver) == Frame(BINARY, payload, masked=mask is not None)
    if last == "close frame":
        assert await read_frame(receiver) == Frame(CLOSE, close_payload(4321, "done"), masked=mask is not None)
        await receiver.send(frame(CLOSE, close_payload(4321), mask=None if mask else MASK))
        await receiver.close()
        return
    if direction == "down":
        assert (await read_frame(receiver)).payload[:2] == (1011).to_bytes(2, "big")
    assert await receiver.ended()


async def test_a_small_window_still_carries_everything(stack: AsyncExitStack) -> None:
    """Both ends with windows and fragments far below the usual ones."""
    backend = await start_raw(stack)
    small = {"initial_window": 1024, "max_fragment": 1024}
    tunnel: Tunnel = await start_tunnel(stack, backend.url, server=small, client=small)
    ends = Ends(stack, tunnel, backend)
    body = random.Random(8).randbytes(300_000)
    public, peer, head = await ends.pass_on(request("POST", "/", body=body))
    assert (await peer.body(head))[0] == body
    sending = asyncio.ensure_future(peer.send(answer("200 OK", body=body[::-1])))
    assert (await public.answer()).body == body[::-1]
    await sending
    public, peer = await open_websocket(ends)
    for sender, receiver, mask in ((public, peer, MASK), (peer, public, None)):
        sending = asyncio.ensure_future(sender.send(frame(BINARY, body, mask=mask)))
        assert await read_frame(receiver) == Frame(BINARY, body, masked=mask is not None)
        await sending
    public.drop()
    await eventually(lambda: tunnel.active == 0)
