"""HTTP/1.1: bodies of requests, and pipelining."""

import contextlib
import socket
import zlib

from tests.hostile.attack import Section
from tests.hostile.http1 import CHUNKED, HURRIED, NOBODY, head, refused, served
from tests.hostile.site import VICTIM, Attacker
from tests.support.raw import Peer, answer, request

attack = Section("HTTP/1.1").attack
LAST = b"0\r\n\r\n"
SMALL, SEGMENT = 4096, 536  # what keeps the buffers of the kernel small
PLENTY = bytes(2**26)  # more than kernels hold on its way, which may be 32 MiB
ATTACKERS = 8


async def begun(attacker: Attacker, *fields: str) -> tuple[Peer, Peer]:
    """A chunked request of which the backend has "ok"."""
    public, backend, _ = await attacker.pass_on(
        request("POST", attacker.target, CHUNKED, *fields, host=VICTIM) + b"2\r\nok\r\n"
    )
    assert await backend.chunk() == b"ok"
    return public, backend


async def broken_off(public: Peer, backend: Peer, status: int) -> None:
    """The public is told so, and the backend does not take the request for complete."""
    got = await public.answer()
    assert (got.status, got.head.get("connection")) == (status, "close")
    with contextlib.suppress(ConnectionError):
        assert LAST not in await backend.to_end()


CHUNKS = {
    "no size": b"\r\nab\r\n",
    "no digit": b"x\r\nab\r\n",
    "minus": b"-2\r\nab\r\n",
    "plus": b"+2\r\nab\r\n",
    "0x": b"0x2\r\nab\r\n",
    "underscore": b"0_2\r\nab\r\n",
    "space in front": b" 2\r\nab\r\n",
    "2^64 + 2": b"10000000000000002\r\nab\r\n",
    "17 zeros": b"00000000000000002\r\nab\r\n",
    "size ends in bare LF": b"2\nab\r\n",
    "size ends in bare CR": b"2\rab\r\n",
    "size ends in CR CR LF": b"2\r\r\nab\r\n",
    "data ends in nothing": b"2\r\nab2\r\nab\r\n",
    "data ends in two other bytes": b"2\r\nabXX0\r\n\r\n",
    "data ends in bare LF": b"2\r\nab\n0\r\n\r\n",
    "data ends in bare CR": b"2\r\nab\r0\r\n\r\n",
    "data longer than its size": b"2\r\nabz0\r\n\r\n",
    "NUL in an extension": b"2;\0\r\nab\r\n",
    "bare LF in an extension": b"2;\nab\r\n",  # TERM.EXT
    "bare CR in an extension": b"2;a\rb\r\nab\r\n",
    "the last chunk ends in bare LF": b"0\n\r\n",
    "trailers end in bare LF": b"0\r\n\n",
    "folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "bare LF between trailers": b"0\r\nX: y\nZ: z\r\n\r\n",
}


@attack(
    "chunk sizes with sign, 0x, space, above 2^64; lines and data that end in CR, LF or nothing; bad trailers",
    "400, closed; the backend never sees the request complete",
    attackers=len(CHUNKS),
)
async def chunks(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(attacker.one_of(list(CHUNKS.values())))
    await broken_off(public, backend, 400)


EXTENSIONS = {
    "one of 70,000 bytes": b"1;" + b"a" * 70_000,
    "one that never ends": b"1" + b" " * 70_000,
    "one of 100 bytes on each byte": (b"1;" + b"a" * 100 + b"\r\nx\r\n") * 1000,
}


@attack(
    "chunk extensions: one of 70,000 bytes, and one of 100 bytes on each byte of the body (CVE-2023-39326)",
    "400 once they are above 16 KiB together; the backend never sees the request complete",
    attackers=3,
)
async def extensions(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(attacker.one_of(list(EXTENSIONS.values())) + LAST)
    await broken_off(public, backend, 400)


TRAILERS = {
    "one": b"X: " + b"a" * 70_000,
    "many": b"X: y\r\n" * 12_000 + b"\r\n",
    "no end": b"X: y\r\n" * 12_000,
}


@attack(
    "trailers above 64 KiB, complete or without end",
    "400, closed; the backend never sees the request complete",
    attackers=len(TRAILERS),
)
async def trailers(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(b"0\r\n" + attacker.one_of(list(TRAILERS.values())))
    await broken_off(public, backend, 400)


@attack("a body of 2,000 chunks of one byte each", "passes", attackers=4, cpu_ms=12)
async def tiny_chunks(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(b"1\r\nx\r\n" * 2000 + LAST)
    body = bytearray()
    while piece := await backend.chunk():
        body += piece
    assert body == b"x" * 2000
    await backend.trailers()
    await served(public, backend)


BOMB = zlib.compress(bytes(2**26))


@attack(f"a compression bomb: 64 MiB in {len(BOMB) // 1024} KiB, both ways", "passes unopened, byte for byte")
async def bombs(attacker: Attacker) -> None:
    coded = "Content-Encoding: deflate"
    public, backend, head = await attacker.pass_on(request("POST", attacker.target, coded, host=VICTIM, body=BOMB))
    assert (head.get("content-encoding"), (await backend.body(head))[0]) == ("deflate", BOMB)
    await backend.send(answer("200 OK", "Connection: close", coded, body=BOMB))
    assert (await public.answer()).body == BOMB


@attack("Content-Length above body_bytes", "413, closed, never forwarded", options=HURRIED)
async def announced(attacker: Attacker) -> None:
    data = attacker.one_of([head("Content-Length: 100001"), head(f"Content-Length: {2**63 - 1}", body=b"x" * 1000)])
    await refused(attacker, data, 413)


@attack(
    "a chunked body that grows above body_bytes",
    "413, closed, once it does; the backend never sees the request complete",
    options=HURRIED,
)
async def grown(attacker: Attacker) -> None:
    public, backend = await begun(attacker)
    await public.send(
        attacker.one_of([b"186a0\r\n" + b"x" * 100_000 + b"\r\n", (b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 11])
    )
    await broken_off(public, backend, 413)


@attack(
    "slow bodies: 64 that stop in the middle, all at once",
    "wait; the backend sees them end with their visitors",
    attackers=64,
)
async def slow_bodies(attacker: Attacker) -> None:
    if attacker.number % 2:
        public, backend = await begun(attacker)
    else:
        public, backend, _ = await attacker.pass_on(
            request("POST", attacker.target, "Content-Length: 1000000", host=VICTIM) + b"half"
        )
        assert await backend.exactly(4) == b"half"
    await attacker.all_here()
    public.drop()
    assert await backend.ended()


def deaf(peer: Peer) -> None:
    """It reads nothing more, and the kernel hardly anything for it."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]


async def stands_still(attacker: Attacker, peer: Peer) -> None:
    """Until nothing of what `peer` has to send is taken while ten requests of another connection are answered."""
    other = await attacker.connect()
    still, last = 0, -1
    while still < 10:
        assert (await other.ask(request("GET", "/", host=NOBODY))).status == 404
        now = peer.writer.transport.get_write_buffer_size()
        still, last = (still + 1 if now == last else 0), now
    assert last > 0, "all of it has been taken"


@attack(
    "bodies of 64 MiB to a backend that reads nothing, all at once",
    "wait: a window of each is held at either end, the rest is not read",
    attackers=8,
    memory_kib=900,
    cpu_ms=30,
)
async def unread_bodies(attacker: Attacker) -> None:
    data = request("POST", attacker.target, f"Content-Length: {len(PLENTY)}", host=VICTIM)
    public, backend, _ = await attacker.pass_on(data, await attacker.connect(receive_buffer=SMALL))
    deaf(backend)
    public.writer.write(PLENTY)
    await stands_still(attacker, public)
    await attacker.all_here()


# -- pipelining


@attack(
    "200,000 requests behind one that is not answered",
    "wait in the kernel: one read of them is taken, the backend hears of one request",
    attackers=ATTACKERS,
    cpu_ms=10,
)
async def pipelined(attacker: Attacker) -> None:
    target = f"{attacker.target}/{id(attacker.victim)}"  # one of the rehearsal may still come
    public = await attacker.connect(receive_buffer=SMALL)
    public.writer.write(request("GET", target, host=VICTIM) * 200_000)
    backend, _ = await attacker.victim.asked(target)
    await stands_still(attacker, public)
    await attacker.all_here()
    # One more: when a visitor of the attack's rehearsal has gone, the asyncio engine may learn it with the next answer.
    assert attacker.victim.connections <= ATTACKERS + 1
    await attacker.all_here()
    await served(public, backend)
    await attacker.victim.asked(target)


@attack(
    "200,000 requests without a route, whose answers are not read",
    "no more are answered than 64 KiB and the kernel take; the next ones as they are read",
    attackers=2,
    cpu_ms=40,
)
async def refused_and_unread(attacker: Attacker) -> None:
    public = await attacker.connect(receive_buffer=SMALL, max_segment=SEGMENT)
    public.writer.transport.pause_reading()  # type: ignore[attr-defined]
    public.writer.write(request("GET", "/", host=NOBODY) * 200_000)
    await stands_still(attacker, public)
    await attacker.all_here()
    public.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(1000):
        assert (await public.answer()).status == 404
