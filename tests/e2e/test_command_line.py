"""The commands as a person starts and stops them: what they say, how they drain, how they exit."""

import asyncio
import json
import os
import pwd
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientSession, web

from tests.support import programs
from tests.support import tunnel as support
from tests.support.child import start_child
from tests.support.command import Command, command
from tests.support.tunnel import engines, eventually
from tests.support.web import start_web


class Backend:
    """A web app with an answer that takes as long as the test wants."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.address = ""

    async def hello(self, request: web.Request) -> web.Response:
        return web.Response(text=f"hello {request.path}")

    async def slow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await self.go_on.wait()
        await response.write(b"last\n")
        return response


@pytest.fixture
async def backend(stack: AsyncExitStack) -> Backend:
    backend = Backend()
    stack.callback(backend.go_on.set)
    backend.address = await start_web(stack, web.get("/slow", backend.slow), web.get("/{path:.*}", backend.hello))
    return backend


@pytest.fixture
async def http(stack: AsyncExitStack) -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def start_server(
    stack: AsyncExitStack, listen: str = "127.0.0.1:0", tunnel: str = "127.0.0.1:0", token: str = ""
) -> tuple[Command, str, str]:
    """A server; its public URL and tunnel address as it says them."""
    server = await stack.enter_async_context(
        command("server", "--listen", listen, "--tunnel", tunnel, *([] if token else ["--no-token"]), token=token)
    )
    url = (await server.line(r"public +(http://[^ ]+)"))[1]
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    return server, url, tunnel


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_server_goes_on_as_somebody_else(stack: AsyncExitStack, backend: Backend, http: ClientSession) -> None:
    free = "127.0.0.1:0"
    server = await stack.enter_async_context(
        command("server", "--no-token", "--listen", free, "--tunnel", free, "--user", "nobody")
    )
    url = (await server.line(r"public +(http://[^ ]+)"))[1]
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines()  # noqa: ASYNC240
    )
    nobody = pwd.getpwnam("nobody")
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert "0" not in status["Groups"].split()
    assert int(status["CapEff"], 16) == 0
    await start_client(stack, tunnel, backend.address)
    async with http.get(f"{url}/x") as got:
        assert await got.text() == "hello /x"
    server.signal(signal.SIGTERM)
    assert await server.end() == 0


async def test_a_hangup_ends_neither_end(stack: AsyncExitStack, backend: Backend, http: ClientSession) -> None:
    """Whether or not there is something to read again."""
    server, url, tunnel = await start_server(stack)
    client = await start_client(stack, tunnel, backend.address)
    server.signal(signal.SIGHUP)
    client.signal(signal.SIGHUP)
    await client.line("reloaded +nothing has changed")
    async with http.get(f"{url}/x") as got:
        assert await got.text() == "hello /x"
    for end in (client, server):
        end.signal(signal.SIGTERM)
        assert await end.end() == 0


async def test_a_user_that_cannot_be_is_said(stack: AsyncExitStack) -> None:
    server = await stack.enter_async_context(command("server", "--no-token", "--user", "no-such-user"))
    assert await server.end() == 2
    assert server.lines == ["fasttunnel: there is no user 'no-such-user'"]


async def test_a_server_outlives_whoever_reads_its_lines(
    stack: AsyncExitStack, backend: Backend, http: ClientSession
) -> None:
    """Such as a program that it is piped into."""
    server, url, tunnel = await start_server(stack)
    await server.line("fasttunnel client")
    server.process.stop_reading()
    await start_client(stack, tunnel, backend.address)
    async with http.get(f"{url}/x") as got:
        assert await got.text() == "hello /x"
    server.signal(signal.SIGTERM)
    assert await server.process.wait() == 0


async def test_a_server_whose_lines_nobody_takes_serves_and_stops(
    stack: AsyncExitStack, backend: Backend, http: ClientSession
) -> None:
    """Such as a disk that is full."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports.append(f"127.0.0.1:{taken.getsockname()[1]}")
    engine = ["--engine", str(engines["server"])]
    with open("/dev/full", "w") as full:  # noqa: ASYNC230
        server = await start_child(
            [
                sys.executable,
                "-m",
                "fasttunnel",
                "server",
                "--no-token",
                "--listen",
                ports[0],
                "--tunnel",
                ports[1],
                *engine,
            ],
            stdout=full,
        )
    stack.push_async_callback(server.kill)
    await start_client(stack, ports[1], backend.address)
    async with http.get(f"http://{ports[0]}/x") as got:
        assert await got.text() == "hello /x"
    server.send_signal(signal.SIGTERM)
    assert await server.wait() in (0, 120)  # Python's own code for what it cannot flush at its end


async def start_client(stack: AsyncExitStack, tunnel: str, *routes: str, token: str = "") -> Command:
    client = await stack.enter_async_context(command("client", "--server", tunnel, *routes, token=token))
    await client.line("connected")
    return client


async def test_one_screen_says_what_is_where(stack: AsyncExitStack, backend: Backend, http: ClientSession) -> None:
    server, url, tunnel = await start_server(stack)
    await server.line(rf"fasttunnel client --server {tunnel} http://127.0.0.1:3000")
    client = await stack.enter_async_context(
        command("client", "--server", tunnel, backend.address, f"shop.example.com/api={backend.address}")
    )
    await client.line(rf"server +{tunnel} +connected")
    await client.line(rf"{url} +-> +{backend.address} +\(HTTP, WebSocket\)")
    await client.line(r"http://shop\.example\.com:\d+/api +-> ")
    await server.line("client .* from 127.0.0.1:")
    await server.line(rf"{url} +HTTP, WebSocket")
    async with http.get(url + "/where/to") as answer:
        assert await answer.text() == "hello /where/to"
    async with http.get(url + "/api/x", headers={"Host": "shop.example.com"}) as answer:
        assert await answer.text() == "hello /api/x"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("end", ["server", "client"])
async def test_a_signal_lets_requests_finish(
    stack: AsyncExitStack, backend: Backend, http: ClientSession, end: str, number: signal.Signals
) -> None:
    server, url, tunnel = await start_server(stack)
    client = await start_client(stack, tunnel, backend.address)
    stopped = server if end == "server" else client
    async with http.get(url + "/slow") as answer:
        assert await answer.content.readline() == b"first\n"
        stopped.signal(number)
        await stopped.line("stopping")
        backend.go_on.set()
        assert await answer.content.read() == b"last\n"
    assert await stopped.end() == 0


async def test_a_client_that_came_back_drains_as_well(
    stack: AsyncExitStack, backend: Backend, http: ClientSession
) -> None:
    server, url, tunnel = await start_server(stack)
    client = await start_client(stack, tunnel, backend.address)
    server.signal(signal.SIGTERM)
    assert await server.end() == 0
    _, url, _ = await start_server(stack, tunnel=tunnel)
    await client.line("connected again")
    async with http.get(url + "/slow") as answer:
        assert await answer.content.readline() == b"first\n"
        client.signal(signal.SIGTERM)
        await client.line("stopping")
        backend.go_on.set()
        assert await answer.content.read() == b"last\n"
    assert await client.end() == 0


async def test_a_client_with_several_connections_says_so(stack: AsyncExitStack) -> None:
    server, _, tunnel = await start_server(stack)
    client = await stack.enter_async_context(
        command("client", "--server", tunnel, "--connections", "2", "http://127.0.0.1:1")
    )
    await client.line("connected$")
    await client.line("connected another time, of 2$")
    server.signal(signal.SIGTERM)
    assert await server.end() == 0
    await client.line("away")
    await start_server(stack, tunnel=tunnel)
    await client.line("connected again$")
    await client.line("connected")


async def test_a_second_signal_ends_at_once(stack: AsyncExitStack, backend: Backend, http: ClientSession) -> None:
    server, url, tunnel = await start_server(stack)
    await start_client(stack, tunnel, backend.address)
    async with http.get(url + "/slow") as answer:
        assert await answer.content.readline() == b"first\n"
        server.signal(signal.SIGINT)
        await server.line("stopping")
        server.signal(signal.SIGINT)
        assert await server.end() == 1
        with pytest.raises(ClientPayloadError):
            await answer.content.read()


@pytest.mark.parametrize("option", ["--listen", "--tunnel"])
async def test_a_port_in_use(option: str) -> None:
    other = {"--listen": "--tunnel", "--tunnel": "--listen"}[option]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with command("server", "--no-token", option, address, other, "127.0.0.1:0") as server:
            assert await server.end() == 3
    (line,) = server.lines
    assert f"cannot listen on {address}" in line
    assert "in use" in line


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_bad_token(stack: AsyncExitStack, backend: Backend, token: str) -> None:
    _, _, tunnel = await start_server(stack, token="s3cret")
    client = await stack.enter_async_context(command("client", "--server", tunnel, backend.address, token=token))
    assert await client.end() == 5
    assert [line for line in client.lines if line.startswith("fasttunnel:")] == client.lines[1:]
    assert "token" in client.lines[-1]
    assert "s3cret" not in "".join(client.lines)


async def test_the_right_token(stack: AsyncExitStack, backend: Backend, http: ClientSession) -> None:
    _, url, tunnel = await start_server(stack, token="s3cret")
    await start_client(stack, tunnel, backend.address, token="s3cret")
    async with http.get(url + "/x") as answer:
        assert await answer.text() == "hello /x"


async def test_a_client_that_came_back_with_a_token_that_is_no_longer_right(
    stack: AsyncExitStack, backend: Backend
) -> None:
    server, _, tunnel = await start_server(stack)
    client = await start_client(stack, tunnel, backend.address)
    server.signal(signal.SIGTERM)
    assert await server.end() == 0
    await start_server(stack, tunnel=tunnel, token="s3cret")
    assert await client.end() == 5
    assert "token" in client.lines[-1]


async def test_while_the_server_is_away_the_client_keeps_trying(
    stack: AsyncExitStack, backend: Backend, http: ClientSession
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        tunnel = f"127.0.0.1:{probe.getsockname()[1]}"
    client = await stack.enter_async_context(command("client", "--server", tunnel, backend.address))
    await client.line("away .*refused")
    _, url, _ = await start_server(stack, tunnel=tunnel)
    await client.line("connected")
    assert len([line for line in client.lines if "away" in line]) == 1, "one line for one reason, however many attempts"
    async with http.get(url + "/x") as answer:
        assert await answer.text() == "hello /x"


async def test_a_client_that_never_connected_stops_at_a_signal(stack: AsyncExitStack, backend: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        tunnel = f"127.0.0.1:{probe.getsockname()[1]}"
    client = await stack.enter_async_context(command("client", "--server", tunnel, backend.address))
    await client.line("away")
    client.signal(signal.SIGINT)
    assert await client.end() == 0


async def test_the_public_port_is_not_the_tunnel_port(stack: AsyncExitStack, backend: Backend) -> None:
    _, url, _ = await start_server(stack)
    address = url.removeprefix("http://")
    client = await stack.enter_async_context(command("client", "--server", address, backend.address))
    assert await client.end() == 4
    assert len(client.lines) == 2


@pytest.mark.parametrize("end", ["server", "client"])
async def test_trace_messages(stack: AsyncExitStack, backend: Backend, http: ClientSession, end: str) -> None:
    """A line for each message, at the end that was asked for it; nothing secret in it."""
    options: dict[str, list[str]] = {"server": [], "client": [], end: ["--trace-messages"]}
    free = ["--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0"]
    server = await stack.enter_async_context(command("server", "--no-token", *free, *options["server"]))
    url = (await server.line(r"public +(http://[^ ]+)"))[1]
    tunnel = (await server.line(r"tunnel +([^ ]+:\d+)"))[1]
    client = await stack.enter_async_context(
        command("client", "--no-check", "--server", tunnel, *options["client"], backend.address)
    )
    await client.line("connected")
    async with http.get(url + "/hi?secret=1", headers={"Authorization": "secret"}) as answer:
        assert await answer.text() == "hello /hi"
    traced, sent, received = (server, "->", "<-") if end == "server" else (client, "<-", "->")
    request = await traced.line(rf" {sent} h-\w+ to backend http_request ")
    assert "url=/hi?..." in request.string
    assert "authorization" in request.string.lower()
    assert "secret" not in request.string
    await traced.line(rf" {received} h-\w+ to public http_response .*status_code=200")


class Secured:
    """Files of `fasttunnel cert`, and the arguments that it says to use them with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def make(self, *options: str) -> None:
        async with command("cert", str(self.directory), *options) as cert:
            self.pin = (await cert.line(r"pin +(sha256//[^ ]+) "))[1]
            self.serve = shlex.split((await cert.line(r"fasttunnel (server --cert .*)$"))[1])
            self.dial = shlex.split((await cert.line(r"fasttunnel (client --server localhost:7000 --ca .*) http:"))[1])
            self.authority = shlex.split((await cert.line(r"curl (--cacert .*) https://localhost:8080/$"))[1])
            assert await cert.end() == 0

    async def start_server(self, stack: AsyncExitStack) -> str:
        """The port for the public."""
        free = ["--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0"]
        server = await stack.enter_async_context(command(*self.serve, *free))
        public = (await server.line(r"public +https://127\.0\.0\.1:(\d+)"))[1]
        tunnel = (await server.line(r"tunnel +127\.0\.0\.1:(\d+)"))[1]
        self.dial[self.dial.index("localhost:7000")] = f"localhost:{tunnel}"
        return public


async def refused(client: Command) -> None:
    """It says so, and does not connect."""
    await client.line(r" away |^fasttunnel: ")
    assert not any("connected" in line for line in client.lines)


async def curl(*arguments: str) -> bytes:
    done = await programs.run(programs.need("curl"), "-sS", "-q", "--max-time", "30", *arguments)
    assert done.code == 0, done.err
    return done.out


async def test_a_server_that_listens_everywhere_names_urls_that_can_be_opened(
    stack: AsyncExitStack, backend: Backend
) -> None:
    everywhere = ["--listen", "0.0.0.0:0", "--tunnel", "0.0.0.0:0"]
    server = await stack.enter_async_context(command("server", *everywhere, token="t"))
    tunnel = (await server.line(r"tunnel +127\.0\.0\.1:(\d+)"))[1]
    client = await start_client(stack, f"localhost:{tunnel}", backend.address, token="t")
    await client.line(r"online +http://localhost:\d+ ")  # where the server was found
    await server.line(r"client ")
    await server.line(r"Z? +http://127\.0\.0\.1:\d+ ")


@pytest.mark.parametrize("mutual", [False, True], ids=["server", "server and client"])
async def test_certificates_for_trying_out(
    stack: AsyncExitStack, backend: Backend, tmp_path: Path, mutual: bool
) -> None:
    secured = Secured(tmp_path / "certs")
    await secured.make(*["--client", "alice"] if mutual else [])
    public = await secured.start_server(stack)
    if mutual:
        without = secured.dial[: secured.dial.index("--cert")]
        await refused(await stack.enter_async_context(command(*without, backend.address)))
    else:
        trusting_others = secured.dial[: secured.dial.index("--ca")]
        await refused(await stack.enter_async_context(command(*trusting_others, "--tls", backend.address)))
    client = await stack.enter_async_context(command(*secured.dial, backend.address))
    await client.line("connected")

    for name in ("localhost", "127.0.0.1"):
        for version in ("--http1.1", "--http2"):
            url = f"https://{name}:{public}/{version}"
            assert await curl(version, *secured.authority, url) == f"hello /{version}".encode()
    assert await curl("-k", "--pinnedpubkey", secured.pin, f"https://127.0.0.1:{public}/pinned") == b"hello /pinned"
    with pytest.raises(AssertionError, match="certificate"):
        await curl(f"https://127.0.0.1:{public}/")


@pytest.mark.differs("asyncio client", "grpc does not show certificates, so pins cannot be checked")
async def test_the_pin_of_a_certificate_for_trying_out(stack: AsyncExitStack, backend: Backend, tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    await secured.make()
    await secured.start_server(stack)
    ca = secured.dial.index("--ca")
    dial = [*secured.dial[:ca], *secured.dial[ca + 2 :]]
    async with command("cert", "--pin", str(tmp_path / "ca.pem")) as cert:
        other = (await cert.line("^sha256//.*$"))[0]
    await refused(await stack.enter_async_context(command(*dial, "--pin", other, backend.address)))
    client = await stack.enter_async_context(command(*dial, "--pin", secured.pin, backend.address))
    await client.line("connected")


@pytest.mark.cython_only("what a command writes knows nothing of engines")
async def test_logs_for_machines(stack: AsyncExitStack, http: ClientSession, tmp_path: Path) -> None:
    """Every line is an object; a hangup opens the access log anew; --log-level leaves lines out."""
    access = tmp_path / "access"
    options = ["--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0"]
    logs = ["--log-format", "json", "--access-log", str(access)]
    server = await stack.enter_async_context(command("server", *options, *logs))
    public = (await server.line(r'"kind":"public","address":"([^"]*)"'))[1]
    for path in ("/before", "/after"):
        async with http.get(f"http://{public}{path}") as answer:
            assert answer.status == 404
        await eventually(lambda path=path: access.exists() and path in access.read_text())
        access.rename(tmp_path / path[1:])
        server.signal(signal.SIGHUP)
        await eventually(access.exists)
    server.signal(signal.SIGTERM)
    assert await server.end() == 0
    lines = [json.loads(line) for line in server.lines]
    assert {line["event"] for line in lines} >= {"listening", "stopping"}
    assert all(line["time"].endswith("Z") and line["level"] == "info" for line in lines)
    assert "/before" not in (tmp_path / "after").read_text()
    quiet = await stack.enter_async_context(
        command("server", *options, *logs, "--log-level", "warning", "--admin", f"unix:{tmp_path / 'admin'}")
    )
    await eventually((tmp_path / "admin").exists)
    quiet.signal(signal.SIGTERM)
    assert await quiet.end() == 0
    assert quiet.lines == []


@pytest.mark.cython_only("what a command writes knows nothing of engines")
async def test_what_a_client_logs(stack: AsyncExitStack) -> None:
    """Where its routes are, whether URLs lead to it, backends that come, a server that goes."""
    server = await support.start_server(stack)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    routes = [f"a.localhost=http://127.0.0.1:{port}", f"a.example.invalid=http://127.0.0.1:{port}"]
    client = await stack.enter_async_context(
        command("client", "--log-format", "json", "--server", server.tunnel, *routes)
    )
    url = f"http://a.localhost:{server.address[1]}"
    await client.line('"event":"unverified"')
    backend = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    stack.callback(backend.close)
    await client.line("listens now")
    events = [json.loads(line) for line in client.lines]
    told = {(event["event"], event["level"]): event for event in events}
    assert told["connected", "info"]["urls"][0] == told["online", "info"]["url"] == url
    assert "a.example.invalid" in told["unverified", "warning"]["url"]
    assert told["backend", "warning"]["reason"]
    assert told["backend", "info"]["reason"] is None
    await server.stop(0)
    assert json.loads((await client.line('"disconnected"'))[0] and client.lines[-1])["level"] == "warning"
    client.signal(signal.SIGTERM)
    assert await client.end() == 0
