"""A request under way on the tunnel to which a test does harm: it has to live on, and so have new ones."""

from contextlib import AsyncExitStack
from typing import Any

from tests.support.raw import Peer, RawBackend, answer, connect, request, start_raw
from tests.support.tunnel import Tunnel, start_tunnel

HOST = "neighbour.example"


class Neighbour:
    def __init__(self, stack: AsyncExitStack, tunnel: Tunnel, backend: RawBackend) -> None:
        self._stack = stack
        self._tunnel = tunnel
        self._backend = backend
        self._public: Peer
        self._peer: Peer
        self._session = self._sessions()

    async def start(self) -> None:
        """Begin an answer that does not end."""
        self._public, self._peer = await self._ask()
        await self._peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self._public.head()

    async def lives(self) -> None:
        """The answer goes on, a new request passes, and the tunnel is still the first one."""
        await self._peer.send(b"5\r\nalive\r\n")
        assert await self._public.chunk() == b"alive"
        await self.round_trip()
        assert self._sessions() == self._session
        assert self._tunnel.client.status()["reconnects"] == 0

    async def round_trip(self) -> None:
        """A new request, from a new connection."""
        public, peer = await self._ask()
        await peer.send(answer("200 OK", "Connection: close", body=b"new"))
        assert (await public.answer()).body == b"new"
        await public.close()

    async def end(self) -> None:
        await self._peer.send(b"0\r\n\r\n")
        assert await self._public.chunk() == b""

    async def _ask(self) -> tuple[Peer, Peer]:
        public = await connect(self._stack, self._tunnel.host, self._tunnel.port)
        await public.send(request("GET", "/", host=HOST))
        peer = await self._backend.accept()
        await peer.head()
        return public, peer

    def _sessions(self) -> list[str]:
        return [link["session_id"] for link in self._tunnel.server.status()["links"]]


async def start_beside(stack: AsyncExitStack, *routes: Any, **options: Any) -> tuple[Tunnel, Neighbour]:
    """A tunnel with `routes` and with a neighbour, whose answer ends when the stack is left."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, *routes, f"{HOST}={backend.url}", **options)
    neighbour = Neighbour(stack, tunnel, backend)
    await neighbour.start()
    stack.push_async_callback(neighbour.end)
    return tunnel, neighbour
