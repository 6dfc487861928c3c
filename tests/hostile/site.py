"""A server and a client under attack, as processes; the backend that an attack plays itself; one attacker."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from tests.hostile.others import CALLS, WEB, Others
from tests.hostile.processes import Process, Use
from tests.support.http2 import Connection, connect_http2
from tests.support.raw import Head, Peer, connect, parse_head
from tests.support.tunnel import WAIT_S, eventually

VICTIM = "victim.example"  # its backend is played by the attack
VICTIM_CALLS = "victim-calls.example"
TOKEN = "the-token-of-the-client-that-is-not-hostile"
BACKLOG = 512
LINE_BYTES = 2**20  # of a head that a backend of ours reads


class Port:
    """A port of this process that listens for as long as processes have routes to it, whatever loops come and go."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(BACKLOG)
        self._socket.setblocking(False)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def copy(self) -> socket.socket:
        return self._socket.dup()

    def turn_away(self) -> None:
        """Close what nobody has taken."""
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return

    def close(self) -> None:
        self._socket.close()


class Site:
    """Both ends, running, with routes to backends that are well and to those that the attack plays."""

    def __init__(self, engine: str, backends: Process, options: Mapping[str, Sequence[str]]) -> None:
        self.engine = engine
        self.web, self.calls = Port(), Port()  # of the victim
        http, grpc = backends.line(r"(http://\S+) (grpc://\S+)").groups()
        free = "127.0.0.1:0"
        common = ["--engine", engine]
        server = ["server", *common, "--listen", free, "--tunnel", free, *options.get("server", ())]
        self.server = Process("fasttunnel", *server, token=TOKEN)
        host, port = self.server.line(r"public +https?://([^ :]+):(\d+)").groups()
        self.host, self.port = host, int(port)
        self.tunnel = self.server.line(r"tunnel +([^ ]+:\d+)")[1]
        client = [
            "client",
            *common,
            "--no-check",
            "--server",
            self.tunnel,
            *options.get("client", ()),
            *self._routes(http, grpc),
        ]
        self.client = Process("fasttunnel", *client, token=TOKEN)
        self.client.line("connected")
        self.ends: tuple[Process, ...] = (self.server, self.client)

    def _routes(self, http: str, grpc: str) -> list[str]:
        """Of the client: to the backends at these URLs, and to those that the attack plays."""
        played = [f"{VICTIM}=http://{self.web.address}", f"{VICTIM_CALLS}=grpc://{self.calls.address}"]
        return [f"{WEB}={http}", f"{CALLS}={grpc}", *played]

    def others(self) -> Others:
        return Others(self.host, self.port)

    def close(self) -> None:
        for process in self.ends:
            process.kill()
        self.web.close()
        self.calls.close()

    # -- what both ends hold and use, together

    def count_peak(self) -> None:
        for process in self.ends:
            process.count_peak()

    @property
    def resident(self) -> Use:
        return _sum([process.resident for process in self.ends])

    @property
    def peak(self) -> Use:
        return _sum([process.peak for process in self.ends])

    @property
    def descriptors(self) -> list[int]:
        return [process.descriptors for process in self.ends]

    async def is_down_to(self, before: list[int]) -> None:
        """Neither end holds more descriptors than it did; those who dialled late find that the attack is over."""

        def down() -> bool:
            self.web.turn_away()
            self.calls.turn_away()
            return all(now <= then for now, then in zip(self.descriptors, before, strict=True))

        await eventually(down, lambda: f"{before} descriptors before, {self.descriptors} after")

    @property
    def lines(self) -> list[str]:
        return [line for process in self.ends for line in process.lines]


def _sum(uses: Sequence[Use]) -> Use:
    return Use(sum(use.cpu_s for use in uses), sum(use.memory_bytes for use in uses))


class Victim:
    """The backend that the attack plays: hands out connections by the target of the first request on them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.connections = 0
        self.heads = 0  # that have come on them, or parts of one
        self._stack = stack
        self._over = False
        self._arrived: dict[str, asyncio.Queue[tuple[Peer, Head]]] = {}

    async def start(self, port: Port) -> None:
        server = await asyncio.start_server(self._take, sock=port.copy(), limit=LINE_BYTES, backlog=BACKLOG)
        self._stack.callback(self._stop, server)

    def _stop(self, server: asyncio.Server) -> None:
        server.close()
        self._over = True

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._over:  # it has been accepted just before
            return writer.transport.abort()
        peer = Peer(reader, writer)
        if self._over:
            return peer.drop()
        self._stack.callback(peer.drop)
        self.connections += 1
        try:
            head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            self.heads += bool(error.partial)
            return
        except ConnectionError:
            return
        self.heads += 1
        self._queue(head.start.split(" ")[1]).put_nowait((peer, head))

    def _queue(self, target: str) -> "asyncio.Queue[tuple[Peer, Head]]":
        return self._arrived.setdefault(target, asyncio.Queue())

    async def asked(self, target: str) -> tuple[Peer, Head]:
        """The connection on which a request for `target` has come, and its head."""
        async with asyncio.timeout(WAIT_S):
            return await self._queue(target).get()


class Meeting:
    """Attackers wait here for each other, so that what each holds is held at one time."""

    def __init__(self, count: int) -> None:
        self._barrier = asyncio.Barrier(count)

    async def wait(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self._barrier.wait()


class Attacker:
    """One of them: `number` counts from 0. What it opens is closed when its attack is over."""

    def __init__(self, site: Site, victim: Victim, stack: AsyncExitStack, number: int, meeting: Meeting) -> None:
        self.site = site
        self.victim = victim
        self.stack = stack
        self.number = number
        self.all_here = meeting.wait

    def one_of(self, variants: Sequence[Any]) -> Any:
        """Attackers share the variants of an attack among them."""
        return variants[self.number % len(variants)]

    @property
    def target(self) -> str:
        """A request target that is this attacker's own."""
        return f"/attacker/{self.number}"

    async def connect(self, **options: Any) -> Peer:
        """A connection to the public port."""
        return await connect(self.stack, self.site.host, self.site.port, **options)

    async def http2(self) -> Connection:
        """One that speaks HTTP/2, and sends whatever fields the attack wants."""
        connection = await connect_http2(self.stack, self.site.host, self.site.port)
        connection.protocol.config.validate_outbound_headers = False
        connection.protocol.config.normalize_outbound_headers = False
        return connection

    async def dial(self, **options: Any) -> Peer:
        """A connection to the tunnel port."""
        host, _, port = self.site.tunnel.rpartition(":")
        return await connect(self.stack, host, int(port), **options)

    async def pass_on(self, data: bytes, public: Peer | None = None) -> tuple[Peer, Peer, Head]:
        """Send a request for `target`: the public's connection, the backend's, and the head there."""
        public = public or await self.connect()
        await public.send(data)
        return public, *await self.victim.asked(self.target)
