"""A server that was given no token makes one, keeps it, and shows it once; nobody is let in without it."""

import re
import shlex
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from tests.support.command import Command, command
from tests.support.web import start_web

pytestmark = pytest.mark.cython_only("what the command does before an engine starts")

FREE = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0")


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def start(stack: AsyncExitStack, home: Path, *options: str) -> tuple[Command, str, str]:
    """A server whose files are below `home`; its public URL, and the arguments of a client that it says."""
    server = await stack.enter_async_context(command("server", *FREE, *options, XDG_STATE_HOME=None, HOME=str(home)))
    url = (await server.line(r"public +(http://[^ ]+)"))[1]
    return server, url, (await server.line(r"fasttunnel (client .*) http://127.0.0.1:3000$"))[1]


def kept(home: Path) -> Path:
    return home / ".local" / "state" / "fasttunnel" / "token"


async def test_a_token_is_made_once_and_shown_once(stack: AsyncExitStack, tmp_path: Path) -> None:
    backend = await start_web(stack, web.get("/", hello))
    home = tmp_path / "a home"
    home.mkdir()
    server, url, dial = await start(stack, home)
    shown = re.search(r"token +(ft_[\w-]{43})  new, and shown this once", "\n".join(server.lines))
    assert shown is not None, server.lines
    token = shown[1]
    assert kept(home).read_text() == token + "\n"
    assert stat.S_IMODE(kept(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept(home).parent.stat().st_mode) & 0o077 == 0
    assert [path.name for path in kept(home).parent.iterdir()] == ["token"], "nothing is left over"

    arguments = shlex.split(dial.replace("~", shlex.quote(str(home))))  # as a shell does
    stranger = await stack.enter_async_context(command(*arguments[: arguments.index("--token-file")], backend))
    assert await stranger.end() == 5
    assert "a token is required" in stranger.lines[-1]
    client = await stack.enter_async_context(command(*arguments, backend))
    await client.line("connected")
    async with ClientSession() as http, http.get(url) as answer:
        assert await answer.text() == "hello"

    again, *_ = await start(stack, home)
    assert any(re.search(r"token +the one kept in ~/.local/state/fasttunnel/token", line) for line in again.lines)
    assert token not in "\n".join(again.lines)
    assert kept(home).read_text() == token + "\n"


async def test_servers_that_start_together_have_one_token(stack: AsyncExitStack, tmp_path: Path) -> None:
    servers = [
        await stack.enter_async_context(command("server", *FREE, XDG_STATE_HOME=str(tmp_path))) for _ in range(3)
    ]
    shown = [(await server.line(r"token +(ft_\S+|the one kept)"))[1] for server in servers]
    assert sorted(shown)[1:] == ["the one kept"] * 2
    assert (tmp_path / "fasttunnel" / "token").read_text() == min(shown) + "\n"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"XDG_STATE_HOME": "/proc/self"}, "cannot write /proc/self/fasttunnel/token"),
        ({"XDG_STATE_HOME": "/dev/null"}, "/dev/null"),
    ],
    ids=["read-only", "no directory"],
)
async def test_a_home_that_cannot_be_written(stack: AsyncExitStack, environment: dict[str, str], says: str) -> None:
    server = await stack.enter_async_context(command("server", *FREE, **environment))
    assert await server.end() == 2
    (line,) = server.lines
    assert says in line
    for hint in ("FASTTUNNEL_TOKEN", "--token-file", "XDG_STATE_HOME", "--no-token"):
        assert hint in line


async def test_a_file_that_holds_no_token(stack: AsyncExitStack, tmp_path: Path) -> None:
    place = tmp_path / "fasttunnel"
    place.mkdir()
    (place / "token").write_text("two words\n")
    server = await stack.enter_async_context(command("server", *FREE, XDG_STATE_HOME=str(tmp_path)))
    assert await server.end() == 2
    assert f"{place}/token holds no token" in server.lines[0]
    assert "two words" not in server.lines[0]


async def test_no_token_is_for_this_machine_and_says_so(stack: AsyncExitStack, tmp_path: Path) -> None:
    server, _, dial = await start(stack, tmp_path, "--no-token")
    assert "--token-file" not in dial
    assert any("no token: for this machine only" in line for line in server.lines)
    assert not kept(tmp_path).exists()
    both = await stack.enter_async_context(command("server", "--no-token", *FREE, token="t0ken"))
    assert await both.end() == 2
    assert "--no-token together with a token" in both.lines[0]
