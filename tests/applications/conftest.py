"""Applications of other people behind commands of ours, and the browser of a visitor."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.applications.browser import Browser, Page, start_browser
from tests.support import certificates
from tests.support import tunnel as support
from tests.support.child import start_child
from tests.support.command import Command, command
from tests.support.relay import Relay, start_relay
from tests.support.tunnel import eventually

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = "tunnel.test"  # a public name, to which no application makes an exception, as many do to localhost
PROGRAMS = Path(os.environ.get("FASTTUNNEL_APPLICATIONS", ROOT / ".venv-applications" / "bin"))
ENGINES = ("cython", "asyncio")
# Of a server, so that a short loss of the tunnel shows in no page (docs/applications.md).
FORGIVING = ("--queue-timeout", "20", "--ws-lost-close", "1006")


@pytest.fixture(autouse=True, params=ENGINES, ids=[f"{engine}-{engine}" for engine in ENGINES])
def cell(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine of both ends."""
    support.engines.update(server=request.param, client=request.param)
    yield
    support.engines.update(server=None, client=None)


@pytest.fixture
async def browser(stack: AsyncExitStack, tmp_path: Path) -> Browser:
    return await stack.enter_async_context(start_browser(tmp_path, DOMAIN))


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip the tests of a module where this part of `make test-applications` is missing."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return pytest.mark.skipif(not path.exists(), reason=f"{shown} is there only after make test-applications")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def start(stack: AsyncExitStack, port: int, log: Path, *arguments: str, **environment: str) -> None:
    """Start an application, and wait until it answers on its port."""
    with log.open("wb") as output:
        process = await start_child(
            arguments,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=True,
            env={**os.environ, "HOME": str(log.parent), **environment},
        )

    async def end() -> None:
        os.killpg(process.pid, 9)
        await process.wait()

    stack.push_async_callback(end)

    def listens() -> bool:
        assert process.returncode is None, log.read_text()
        try:
            socket.create_connection(("localhost", port)).close()  # ::1 or 127.0.0.1, as the application likes
        except OSError:
            return False
        return True

    await eventually(listens, log.read_text)


async def picture(page: Page, name: str) -> None:
    """Keep what is seen, where pictures are wanted (docs/images)."""
    if folder := os.environ.get("FASTTUNNEL_PICTURES"):
        await page.picture(Path(folder, f"{name}.png"))


class Steps:
    """A pipe, of which an application reads a line before each next step: what is seen has not waited for that."""

    def __init__(self, stack: AsyncExitStack, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, self._pipe)

    def go(self, steps: int = 1) -> None:
        os.write(self._pipe, b"\n" * steps)


class Reach:
    """A running tunnel; `url` is what its client calls public, `here` leads to the same place."""

    def __init__(self, url: str, here: str, relay: Relay, server: Command, client: Command) -> None:
        self.url = url
        self.host = url.partition("://")[2]
        self.here = here
        self.relay = relay
        self.server = server
        self.client = client

    async def cut(self) -> None:
        """Break the tunnel, and wait for the client to be back."""
        self.relay.cut()
        await self.client.line("away|lost")
        await self.client.line("connected")


async def start_reach(
    stack: AsyncExitStack, port: int, name: str, *options: str, tls: bool = False, server: tuple[str, ...] = ()
) -> Reach:
    """`fasttunnel server` and `fasttunnel http` in front of the application on `port`."""
    listen = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--domain", DOMAIN, "--no-token")
    if tls:
        issued = certificates.authority().issue("applications", f"*.{DOMAIN}")
        listen += ("--cert", issued.cert, "--key", issued.key, "--set", 'tls=["public"]')
    public = await stack.enter_async_context(command("server", *listen, *server))
    tunnel = (await public.line(r"tunnel +([^ ]+:\d+)"))[1]
    relay = await start_relay(stack, tunnel)
    client = await stack.enter_async_context(
        command("http", str(port), "--server", relay.address, "--name", name, "--no-check", *options)
    )
    url = (await client.line(rf"(https?://{re.escape(name)}[^ ]+)"))[1]
    here = url.replace(f"{name}.{DOMAIN}", "127.0.0.1")
    return Reach(url, here, relay, public, client)
