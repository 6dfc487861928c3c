"""The matrix of engines, and a tunnel in front of a backend that is a plain socket: the tests play both far sides.

Every test runs in four cells, server engine x client engine, those of some modules in the two of one engine. One marked
`cython_only(reason)` runs in the first cell only, one marked `differs("asyncio server", reason)` not with that engine
at that end.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support import tunnel as support
from tests.support.raw import Head, Peer, RawBackend, connect, start_raw
from tests.support.tunnel import Tunnel, start_tunnel

ENGINES = ("cython", "asyncio")
CELLS = [(server, client) for server in ENGINES for client in ENGINES]
# Where one end alone is looked at, or processes are, which take long to start: two cells have each engine at each end.
ALIKE = (
    "test_command_line",
    "test_demo",
    "test_doctor",
    "test_large",
    "test_limits",
    "test_many",
    "test_rates",
    "test_reload_options",
    "test_secrets",
    "test_tokens",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cells = CELLS
    if metafunc.definition.get_closest_marker("cython_only") is not None:
        cells = CELLS[:1]
    elif metafunc.module.__name__.rpartition(".")[2] in ALIKE:
        cells = [(server, client) for server, client in CELLS if server == client]
    metafunc.parametrize("cell", cells, ids=["-".join(cell) for cell in cells], indirect=True)


@pytest.fixture(autouse=True)
def cell(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Engines of server and client."""
    server, client = request.param
    for mark in request.node.iter_markers("differs"):
        if mark.args[0] in (f"{server} server", f"{client} client"):
            pytest.skip(mark.args[1])
    support.engines.update(server=server, client=client)
    yield server, client
    support.engines.update(server=None, client=None)


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
