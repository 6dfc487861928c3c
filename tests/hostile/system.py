"""The process: what its system runs out of, signals at any time, peers that come and go, and read very little."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from fasttunnel.wire import tunnel_pb2 as wire
from tests.hostile.attack import Section
from tests.hostile.http2 import HEADERS, PREFACE, SETTINGS, frame
from tests.hostile.processes import START_S, Process
from tests.hostile.site import TOKEN, VICTIM, Attacker
from tests.hostile.tunnels import call, dial, message, registering
from tests.support.frames import MASK, TEXT, UPGRADE
from tests.support.frames import frame as ws_frame
from tests.support.raw import Peer, answer, connect, request
from tests.support.tunnel import eventually

attack = Section("The process").attack
TOKENS = Path(mkdtemp(), "tokens.toml")
SOUND = b'[[tokens]]\nname = "other"\nhash = "sha256:' + b"0" * 64 + b'"\n'
TOKENS.write_bytes(SOUND)
BROKEN = {
    "no TOML": b"[[tokens",
    "no UTF-8": b"\xff\xfe",
    "another type": b"tokens = 1\n",
    "hash cut": b'[[tokens]]\nname = "x"\nhash = "sha256:00"\n',
    "NUL": bytes(100_000),
}
LARGE = 2 * 1024 * 1024


# -- what runs out


@attack(
    "More connections than there are descriptors left",
    "those that wait are served when others have gone (asyncio engine: are closed); traffic goes on",
    together=False,
    attackers=1,
    memory_kib=8192,
    cpu_ms=500,
)
async def descriptors(attacker: Attacker) -> None:
    server = attacker.site.server
    hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.descriptors + 8, hard[1]))
    try:
        peers = [await attacker.connect() for _ in range(40)]
        await eventually(lambda: full(server))
        for peer in peers[:-1]:
            await peer.close()
        late = peers[-1]
        if attacker.site.engine == "asyncio":  # libuv takes those that wait, and closes them: uv__emfile_trick
            await eventually(lambda: not full(server))
            late = await attacker.connect()
        await late.send(request("GET", "/", host="nobody.example"))
        assert (await late.answer()).status == 404
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, hard)


def full(server: Process) -> bool:
    return server.descriptors >= resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0] - 1


# -- processes of an attack's own

ALONE = {"together": False, "attackers": 1, "memory_kib": 1024, "cpu_ms": 100}  # they load the machine
FREE = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0")


@contextmanager
def own_server(attacker: Attacker, *options: str) -> Iterator[Process]:
    process = Process("fasttunnel", "server", "--engine", attacker.site.engine, *FREE, *options, token=TOKEN)
    try:
        yield process
    finally:
        process.kill()


@attack("A log on a disk that is full, in a pipe that nobody reads any more", "lost; requests are served", **ALONE)
async def full_disk(attacker: Attacker) -> None:
    reader, closed = os.pipe()
    os.close(reader)
    for stdout in (os.open("/dev/full", os.O_WRONLY), closed):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ("--engine", attacker.site.engine, "--listen", f"127.0.0.1:{port}", "--tunnel", "127.0.0.1:0")
        command = (sys.executable, "-m", "fasttunnel", "server", "--no-token", *options)
        process = await asyncio.create_subprocess_exec(*command, stdout=stdout, stderr=stdout)
        os.close(stdout)
        peer = None
        async with asyncio.timeout(START_S):
            while peer is None:
                with suppress(ConnectionRefusedError):
                    peer = await connect(attacker.stack, "127.0.0.1", port)
                await asyncio.sleep(0.01)
        assert (await peer.ask(request("GET", "/"))).status == 404
        process.terminate()
        assert await process.wait() == 0


def quiet(lines: list[str], code: int) -> bool:
    """No traceback but Python's own, when the signal comes before any of our handlers stands."""
    output = "\n".join(lines)
    return "Traceback" not in output or ("KeyboardInterrupt" in output and code in (1, 130, -signal.SIGINT))


@attack(
    "SIGTERM, SIGINT, SIGHUP at any time of the start",
    "SIGHUP does nothing once the program runs; the others end it, without a traceback",
    **ALONE,
)
async def signals_at_start(attacker: Attacker) -> None:
    async def one(number: int, delay_s: float) -> None:
        with own_server(attacker) as process:
            await asyncio.sleep(delay_s)  # wherever it is by then: each run finds other places
            process.signal(number)
            if number == signal.SIGHUP:
                process.signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.ended)
            assert code in (0, 1, 130, -number, -signal.SIGTERM), (code, number, delay_s, process.lines)
            assert quiet(process.lines, code), process.lines

    async with asyncio.TaskGroup() as group:
        for number, delay_s in zip(SIGNALS, (0.1, 0.3, 0.3, 0.6), strict=True):
            group.create_task(one(number, delay_s))


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


@attack(
    "SIGTERM, then SIGHUP, then SIGTERM, while a request is under way",
    "the first lets it finish, the second does nothing, the third ends the process at once",
    **ALONE,
)
async def signals_at_stop(attacker: Attacker) -> None:
    with own_server(attacker, "--tokens", str(TOKENS)) as process:
        public = await asyncio.to_thread(process.line, r"public +http://[^ :]+:(\d+)")
        tunnel = await asyncio.to_thread(process.line, r"tunnel +[^ :]+:(\d+)")
        hostile = await call(await dial(attacker, port=int(tunnel[1])), registering(wire.Route(host="a.example")))
        await hostile.next("registered")
        held = await connect(attacker.stack, "127.0.0.1", int(public[1]))
        await held.send(request("GET", "/", host="a.example"))
        await hostile.next("http_request")
        process.signal(signal.SIGTERM)
        await hostile.next("go_away")
        process.signal(signal.SIGHUP)
        await hostile.caught_up()
        assert process.alive
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.ended) == 1


# -- files that break


def put(content: bytes) -> None:
    """What the file holds from now on."""
    TOKENS.write_bytes(content)


@attack(
    "SIGHUP with a file of tokens that is cut, no TOML, no text",
    "a warning; the tokens of before stay valid",
    options={"server": ["--tokens", str(TOKENS)]},
    together=False,
    attackers=len(BROKEN),
    cpu_ms=20,
)
async def broken_file(attacker: Attacker) -> None:
    content = attacker.one_of(list(BROKEN.values()))
    server = attacker.site.server
    before = len(server.lines)
    try:
        put(content)
        server.signal(signal.SIGHUP)
        await eventually(lambda: any("tokens of before stay valid" in line for line in server.lines[before:]))
    finally:
        put(SOUND)
    refused = await call(await dial(attacker), message(heartbeat=wire.Heartbeat()))
    assert await refused.status() == 3  # INVALID_ARGUMENT: the token is good, it is no Register


# -- peers that come and go, and read as little as they may

AUTHORITY = bytes([0x41, len(VICTIM)]) + VICTIM.encode()  # HPACK, as a literal
EXCHANGES = {
    "HTTP/1.1": request("POST", "/", host=VICTIM, body=bytes(100)) + request("GET", "/", host=VICTIM),
    "chunked": request("POST", "/", "Transfer-Encoding: chunked", host=VICTIM) + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "WebSocket": request("GET", "/", *UPGRADE, host=VICTIM) + ws_frame(TEXT, b"hello", mask=MASK),
    "HTTP/2": PREFACE + frame(SETTINGS) + frame(HEADERS, b"\x82\x86\x84" + AUTHORITY, flags=5, stream=1),
}
CUTS = [(name, at) for name, data in EXCHANGES.items() for at in range(0, len(data), 4)]


async def cut_at(attacker: Attacker, name: str, at: int, dial_tunnel: bool) -> None:
    peer = await (attacker.dial() if dial_tunnel else attacker.connect())
    await peer.send(EXCHANGES[name][:at])
    if at % 8:
        peer.drop()
    else:
        await peer.close()


@attack("Peers that close or break off at any byte of any exchange", "nothing stays behind", attackers=16, cpu_ms=100)
async def cuts(attacker: Attacker) -> None:
    for name, at in CUTS[attacker.number :: 16]:
        await cut_at(attacker, name, at, dial_tunnel=False)
        await cut_at(attacker, name, at, dial_tunnel=True)


ALONE_ANSWERED = {name: data.replace(VICTIM.encode(), b"nobody.example") for name, data in EXCHANGES.items()}


@attack("Requests byte by byte, each byte in a packet of its own", "answered", attackers=3, cpu_ms=60)
async def bytes_alone(attacker: Attacker) -> None:
    data = attacker.one_of(list(ALONE_ANSWERED.values())[:3])
    peer = await attacker.connect()
    peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await peer.send_bytewise(data)
    assert (await peer.answer()).status == 404


async def answered(attacker: Attacker, size: int) -> tuple[Peer, bytes]:
    """A peer with next to no buffer, to which an answer of so many bytes is on its way."""
    public = await attacker.connect(receive_buffer=2048, limit=256)
    _, backend, _ = await attacker.pass_on(request("GET", attacker.target, host=VICTIM), public)
    body = bytes(range(256)) * (size // 256)
    backend.writer.write(answer("200 OK", "Connection: close", body=body))
    assert (await public.head()).status == 200
    return public, body


@attack("A reader with 2 KiB of buffer, a byte at a time, of 16 KiB", "all of it, to the byte", attackers=4, cpu_ms=60)
async def small_reads(attacker: Attacker) -> None:
    public, body = await answered(attacker, 16_384)
    assert b"".join([await public.exactly(1) for _ in body]) == body


@attack(
    "A TCP window of zero: 2 MiB asked for and never read, held",
    "at most one window at each end, beside what the kernel holds",
    attackers=8,
    memory_kib=1536,
    cpu_ms=30,
)
async def zero_window(attacker: Attacker) -> None:
    await answered(attacker, 2 * 1024 * 1024)
    await attacker.all_here()
