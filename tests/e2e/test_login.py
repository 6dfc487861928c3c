"""A server that is remembered: tried first, kept for its owner alone, used by clients that name none."""

import asyncio
import stat
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

import fasttunnel
from fasttunnel.errors import AuthError, ConnectError
from tests.support import certificates
from tests.support.command import Command, command
from tests.support.terminal import Terminal
from tests.support.tunnel import Recorder, engines, start_client, start_server
from tests.support.web import start_web

TOKEN = "t0ken-of-a-test-that-is-long-enough"
COMMAND = "what the command does, whichever engine it asks"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of the file that is remembered."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "fasttunnel" / "login.toml"


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {request.host}")


def token_file(place: Path, text: str = TOKEN) -> str:
    path = place / "token"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def read(path: Path) -> str:
    """Nothing, if there is no file."""
    return path.read_text() if path.exists() else ""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def ended(stack: AsyncExitStack, *arguments: str, token: str = "") -> tuple[int, str]:
    running: Command = await stack.enter_async_context(command(*arguments, token=token))
    return await running.end(), "\n".join(running.lines)


# -- asking


async def test_asking_registers_nothing_and_disturbs_nobody(stack: AsyncExitStack) -> None:
    events = Recorder()
    server = await start_server(stack, events, token=TOKEN)
    await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], token=TOKEN, client_id="me")
    said = list(events.lines)
    for token in (TOKEN, "wr0ng"):
        asking = fasttunnel.Client(
            server.tunnel, "http://127.0.0.1:1", token, client_id="me", engine=engines["client"], events=Recorder()
        )
        if token == TOKEN:
            await asking.check_login()
            assert events.lines == said
        else:
            with pytest.raises(AuthError, match="the token is not valid"):
                await asking.check_login()
    assert len(server.routes) == 1
    assert [link["client_id"] for link in server.status()["links"]] == ["me"]


async def test_a_server_that_cannot_be_asked(stack: AsyncExitStack) -> None:
    server = await start_server(stack)
    tunnel, public = server.tunnel, server.public_url.rpartition("/")[2]
    with pytest.raises(ConnectError, match=r"--tunnel port|HTTP"):
        await fasttunnel.Client(public, "http://127.0.0.1:1", engine=engines["client"]).check_login()
    await server.stop(0)
    with pytest.raises(ConnectError, match=f"cannot reach {tunnel}"):
        await fasttunnel.Client(tunnel, "http://127.0.0.1:1", engine=engines["client"]).check_login()


# -- the commands


@pytest.mark.cython_only(COMMAND)
async def test_login_and_what_uses_it(stack: AsyncExitStack, home: Path, tmp_path: Path) -> None:
    backend = (await start_web(stack, web.get("/", hello))).removeprefix("http://")
    server = await start_server(stack, token=TOKEN)
    code, said = await ended(stack, "login", server.tunnel, "--token-file", token_file(tmp_path))
    assert (code, said) == (0, f"{server.tunnel} lets you in; remembered in {home}")
    assert mode(home) == 0o600
    assert TOKEN in read(home)

    async with ClientSession() as http:
        for arguments in (("client", f"http://{backend}"), ("http", backend.rpartition(":")[2]), ("http", backend)):
            async with command(*arguments) as client:
                await client.line("connected")
                async with http.get(server.public_url) as answer:
                    assert (await answer.text()).startswith("hello")
        async with command("http", f"http://{backend}", "shop.example") as client:
            await client.line(r"http://shop\.example:\d+")
        async with command("grpc", "50051") as client:
            await client.line(rf"grpc://{server.address[0]}:\d+ +-> +grpc://localhost:50051")

    # A server that is named gets none of it.
    code, said = await ended(stack, "client", "--server", server.tunnel, "http://127.0.0.1:1")
    assert code == 5
    assert "a token is required" in said

    assert await ended(stack, "logout") == (0, "forgotten")
    assert not read(home)
    assert await ended(stack, "logout") == (0, "there is nothing to forget")
    code, said = await ended(stack, "http", "3000")
    assert code == 2
    assert "fasttunnel login" in said


@pytest.mark.cython_only(COMMAND)
async def test_what_is_refused_is_not_remembered(stack: AsyncExitStack, home: Path, tmp_path: Path) -> None:
    server = await start_server(stack, token=TOKEN)
    code, said = await ended(stack, "login", server.tunnel, "--token-file", token_file(tmp_path, "wr0ng"))
    assert code == 5
    assert "the token is not valid" in said
    assert "wr0ng" not in said
    assert not read(home)


@pytest.mark.cython_only(COMMAND)
async def test_tls_is_remembered(stack: AsyncExitStack, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = certificates.here()
    server = await start_server(stack, token=TOKEN, cert=pair.cert, key=pair.key)
    ca = Path(certificates.authority().ca)
    monkeypatch.chdir(ca.parent)
    code, said = await ended(stack, "login", server.tunnel, "--ca", ca.name, token=TOKEN)
    assert code == 0, said
    assert f'ca = "{ca}"' in read(home), "from wherever it is used"
    monkeypatch.chdir("/")
    async with command("http", "1") as client:
        await client.line("connected")


@pytest.mark.cython_only(COMMAND)
async def test_a_token_on_standard_input(stack: AsyncExitStack, home: Path) -> None:
    server = await start_server(stack, token=TOKEN)
    program = [sys.executable, "-m", "fasttunnel", "login", server.tunnel]
    done = await asyncio.to_thread(
        subprocess.run, program, input=f"{TOKEN}\n", capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN in read(home)


@pytest.mark.cython_only(COMMAND)
async def test_a_token_that_is_asked_for_is_not_echoed(stack: AsyncExitStack, home: Path) -> None:
    server = await start_server(stack, token=TOKEN)
    async with Terminal("login", server.tunnel) as terminal:
        await terminal.until("token: ")
        terminal.enter(f"{TOKEN}\n")
        await terminal.until("lets you in")
        assert TOKEN not in terminal.text
        assert await terminal.end() == 0
    assert TOKEN in read(home)
