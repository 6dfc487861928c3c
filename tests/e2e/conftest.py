"""A tunnel in front of a backend that is a plain socket: the tests play both far sides."""

from contextlib import AsyncExitStack

import pytest

from tests.support.raw import Head, Peer, RawBackend, connect, start_raw
from tests.support.tunnel import Tunnel, start_tunnel


class Ends:
    """The public side and the backend side of one tunnel."""

    def __init__(self, stack: AsyncExitStack, tunnel: Tunnel, backend: RawBackend) -> None:
        self.stack = stack
        self.tunnel = tunnel
        self.backend = backend

    async def public(self) -> Peer:
        """A new connection to the server's public port."""
        return await connect(self.stack, self.tunnel.host, self.tunnel.port)

    async def pass_on(self, request: bytes, public: Peer | None = None) -> tuple[Peer, Peer, Head]:
        """Send a request; the public side, the connection on which the backend got it, and its head there."""
        public = public or await self.public()
        await public.send(request)
        backend = await self.backend.accept()
        return public, backend, await backend.head()


@pytest.fixture
async def ends(stack: AsyncExitStack) -> Ends:
    backend = await start_raw(stack)
    return Ends(stack, await start_tunnel(stack, backend.url), backend)
