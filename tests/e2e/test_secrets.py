"""Tokens are shown nowhere: not by what the commands print, not by what a server says of itself, not to other users."""

import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from fasttunnel.control.tokens import digest_of, read_tokens
from tests.support.command import Command, command
from tests.support.token_files import TokenFile
from tests.support.tunnel import Recorder, start_client, start_server
from tests.support.web import start_web

RIGHT, WRONG, OWN = "shop-r1ght-s3cret", "shop-wr0ng-s3cret", "server-0wn-s3cret"


def secret_file(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text + "\n")
    path.chmod(mode)
    return str(path)


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


class Shown:
    """Everything that commands have printed, and their command lines."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._commands: list[Command] = []
        self._titles: list[str] = []

    async def run(self, *arguments: str, token: str = "") -> Command:
        running = await self._stack.enter_async_context(command(*arguments, token=token))
        self._commands.append(running)
        return running

    def look_at_titles(self) -> None:
        for running in self._commands:
            title = Path(f"/proc/{running.process.pid}/cmdline")
            if title.exists():
                self._titles.append(title.read_bytes().replace(b"\0", b" ").decode())

    @property
    def text(self) -> str:
        return "\n".join([*self._titles, *(line for running in self._commands for line in running.lines)])


async def test_no_secret_is_shown_anywhere(stack: AsyncExitStack, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.toml")
    tokens.put(RIGHT, name="shop", hosts=("shop.example",))
    backend = await start_web(stack, web.get("/{path:.*}", hello))
    shown = Shown(stack)
    server = await shown.run(
        *("server", "--trace-messages", "--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--tokens", str(tokens)),
        token=OWN,
    )
    url = (await server.line(r"public +(http://[^ ]+)"))[1]
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    dial = ("client", "--trace-messages", "--server", tunnel)
    served = f"shop.example={backend}"

    right = secret_file(tmp_path / "right", RIGHT)
    client = await shown.run(*dial, "--token-file", right, served)
    await client.line("connected")
    own = await shown.run(*dial, f"own.example={backend}", token=OWN)
    await own.line("connected")
    async with ClientSession() as http:
        headers = {"Host": "shop.example", "Authorization": f"Bearer {RIGHT}", "Cookie": RIGHT}
        async with http.get(f"{url}/x?token={RIGHT}", headers=headers) as answer:
            assert await answer.text() == "hello"
    await server.line("http_response")
    await client.line("http_response")
    shown.look_at_titles()

    # Whatever fails: a wrong token, one of the wrong host, a mistake in a file, a token that is taken back.
    for arguments, token in (((*dial, served), WRONG), ((*dial, "other.example=http://127.0.0.1:1"), RIGHT)):
        refused = await shown.run(*arguments, token=token)
        assert await refused.end() == 5
    tokens.spoil()
    server.signal(signal.SIGHUP)
    await server.line(r"warning .*tokens\[1\], oops")
    tokens.put("new-1", hosts=("new.example",))
    tokens.drop(RIGHT)
    server.signal(signal.SIGHUP)
    assert await client.end() == 5
    assert "no longer valid" in client.lines[-1]
    for running in (own, server):
        running.signal(signal.SIGTERM)
        assert await running.end() == 0
    assert "http_request" in shown.text
    assert "shop.example" in shown.text
    assert re.findall("s3cret", shown.text) == []
    for token in (RIGHT, OWN):
        assert digest_of(token.encode()).hex() not in shown.text


async def test_a_server_says_whose_tunnel_it_is_and_not_how_it_knows(stack: AsyncExitStack, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.toml")
    tokens.put(RIGHT, name="shop")
    events, client_events = Recorder(records=True), Recorder()
    server = await start_server(stack, events, tokens_file=str(tokens), token=OWN)
    client = await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], client_events, token=RIGHT)
    (link,) = server.status()["links"]
    assert link["identity"] == "shop"
    assert "s3cret" not in "".join(
        map(repr, (server.status(), client.status(), server.config, client.config, events.lines, client_events.lines))
    )


@pytest.mark.parametrize("end", ["server", "client"])
async def test_files_that_others_can_read_get_a_warning(stack: AsyncExitStack, tmp_path: Path, end: str) -> None:
    wide = secret_file(tmp_path / "wide", OWN, 0o644)
    narrow = secret_file(tmp_path / "narrow", OWN)
    tokens = TokenFile(tmp_path / "tokens.toml")
    tokens.put(RIGHT, name="shop")
    os.chmod(str(tokens), 0o640)
    shown = Shown(stack)
    free = ("--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0")
    if end == "server":
        server = await shown.run("server", *free, "--token-file", wide, "--tokens", str(tokens))
        first = await server.line("warning")
        second = await server.line("warning")
        said = {first.string, second.string}
        assert [line for line in said if f"chmod 600 {tokens}" in line and "mode 0640" in line]
        assert [line for line in said if f"chmod 600 {wide}" in line and "mode 0644" in line]
        await server.line("tunnel .*clients need a token")
        return
    server = await shown.run("server", *free, "--token-file", narrow)
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    assert not [line for line in server.lines if "warning" in line]
    client = await shown.run("client", "--server", tunnel, "--token-file", wide, "http://127.0.0.1:1")
    assert f"chmod 600 {wide}" in (await client.line("warning")).string
    await client.line("connected")


async def test_a_token_made_by_the_command_opens_a_tunnel(stack: AsyncExitStack, tmp_path: Path) -> None:
    """From `fasttunnel token` to an answer, and the next token of the same name without a restart."""
    shown = Shown(stack)
    file = str(tmp_path / "tokens.toml")
    make = ("token", "shop", "--host", "shop.example", "--append", file)
    made = await shown.run(*make)
    assert await made.end() == 0
    (token,) = made.lines
    assert list(read_tokens(tmp_path / "tokens.toml")) == [digest_of(token.encode())]
    assert os.stat(file).st_mode & 0o777 == 0o600
    server = await shown.run("server", "--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0", "--tokens", file)
    url = (await server.line(r"public +(http://[^ ]+)"))[1]
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    backend = await start_web(stack, web.get("/{path:.*}", hello))
    client = await shown.run("client", "--server", tunnel, f"shop.example={backend}", token=token)
    await client.line("connected")
    next_one = await shown.run(*make)
    assert await next_one.end() == 0
    server.signal(signal.SIGHUP)
    second = await shown.run("client", "--server", tunnel, f"shop.example={backend}", token=next_one.lines[0])
    await second.line("connected")
    async with ClientSession() as http, http.get(url, headers={"Host": "shop.example"}) as answer:
        assert await answer.text() == "hello"
