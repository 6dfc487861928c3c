"""Server and Client with an engine that only notes what is asked of it."""

import asyncio
import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fasttunnel
from fasttunnel import api
from fasttunnel.api import ClientLimits, ServerLimits
from fasttunnel.control.auth import Authenticator, Refused
from fasttunnel.control.config import ClientConfig, Secret, ServerConfig
from fasttunnel.control.kinds import of_fields
from fasttunnel.control.log import Events
from fasttunnel.control.routes import Route, RouteTable


class FakeServerEngine:
    """Satisfies abc.ServerEngine."""

    made: list["FakeServerEngine"] = []  # noqa: RUF012

    def __init__(self, config: ServerConfig, *, authenticator: Authenticator, events: Events) -> None:
        self.config = config
        self.authenticator = authenticator
        self.calls: list[object] = []
        self.public_addresses = [("0.0.0.0", 8080)]
        self.tunnel_addresses = [("::1", 7000)]
        self.routes: RouteTable[Any] = RouteTable()
        self.made.append(self)

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self, grace_s: float | None = None) -> None:
        self.calls.append(("stop", grace_s))

    async def wait_closed(self) -> None:
        self.calls.append("wait_closed")

    def review(self) -> None:
        self.calls.append("review")

    def status(self) -> dict[str, Any]:
        return {"links": 0}


class FakeClientEngine:
    """Satisfies abc.ClientEngine."""

    made: list["FakeClientEngine"] = []  # noqa: RUF012

    def __init__(self, config: ClientConfig, *, events: Events) -> None:
        self.config = config
        self.calls: list[object] = []
        self.urls = ["http://127.0.0.1:8080"]
        self.made.append(self)

    async def start(self) -> None:
        self.calls.append("start")
        if self.config.client_id == "refused":
            raise fasttunnel.AuthError("the server does not accept the token")

    async def stop(self, grace_s: float | None = None) -> None:
        self.calls.append(("stop", grace_s))

    async def wait_closed(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    FakeServerEngine.made.clear()
    FakeClientEngine.made.clear()


async def test_server_life() -> None:
    async with fasttunnel.Server(
        "0.0.0.0:0", "[::1]:0", "s3cret", engine=FakeServerEngine, max_fragment=4096
    ) as server:
        (engine,) = FakeServerEngine.made
        assert engine.authenticator.login(b"Bearer s3cret")
        with pytest.raises(Refused):
            engine.authenticator.login(b"Bearer other")
        assert engine.config.max_fragment == 4096
        assert server.address == ("0.0.0.0", 8080)
        assert server.public_url == "http://127.0.0.1:8080", "an address one can connect to"
        assert server.tunnel == "[::1]:7000"
        engine.routes.add("somebody", [Route(host="a")])
        assert server.routes == [Route(host="a")]
        assert server.status() == {"links": 0}
        server.reload()
        await server.wait_closed()
    assert engine.calls == ["start", "review", "wait_closed", ("stop", None)]


async def test_an_error_inside_does_not_wait_for_requests() -> None:
    with pytest.raises(KeyError):
        async with fasttunnel.Server(engine=FakeServerEngine):
            raise KeyError
    assert FakeServerEngine.made[0].calls == ["start", ("stop", 0)]


async def test_a_taken_port_is_a_listen_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: FakeServerEngine) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(FakeServerEngine, "start", start)
    with pytest.raises(fasttunnel.ListenError, match="cannot listen on 127.0.0.1:8080.*already in use"):
        await fasttunnel.Server(engine=FakeServerEngine).start()


async def test_not_started() -> None:
    server = fasttunnel.Server(engine=FakeServerEngine)
    await server.stop()
    with pytest.raises(fasttunnel.FasttunnelError, match="has not been started"):
        _ = server.public_url
    with pytest.raises(fasttunnel.FasttunnelError, match="has not been started"):
        _ = fasttunnel.Client("127.0.0.1:7000", "http://127.0.0.1:1").urls


async def test_started_twice() -> None:
    async with fasttunnel.Server(engine=FakeServerEngine) as server:
        with pytest.raises(fasttunnel.FasttunnelError, match="already"):
            await server.start()


async def test_keys_that_others_may_read(tmp_path: Path) -> None:
    lines: list[str] = []
    keys = [tmp_path / "open.key", tmp_path / "own.key"]
    for key, mode in zip(keys, (0o644, 0o600), strict=True):
        key.touch()
        key.chmod(mode)
    events = Events(lines.append)
    paths = [str(key) for key in keys]
    async with fasttunnel.Server(cert=["a", "b"], key=paths, events=events, engine=FakeServerEngine):
        (line,) = lines
        assert f"{keys[0]} is open to other users" in line
    async with fasttunnel.Client(
        "127.0.0.1:7000", "http://127.0.0.1:1", cert="a", key=paths[0], events=events, engine=FakeClientEngine
    ):
        assert lines == [line, line]


async def test_client_life() -> None:
    routes = ["a.b=http://127.0.0.1:3000", "grpc://127.0.0.1:4000"]
    async with fasttunnel.Client(
        "127.0.0.1:7000", routes, "s3cret", client_id="laptop", engine=FakeClientEngine
    ) as client:
        (engine,) = FakeClientEngine.made
        assert [str(spec) for spec in engine.config.routes] == [
            "a.b = http://127.0.0.1:3000",
            "everything = grpc://127.0.0.1:4000",
        ]
        assert isinstance(engine.config.token, Secret)
        assert client.urls == ["http://127.0.0.1:8080"]
    assert engine.calls == ["start", ("stop", 30.0)]


async def test_a_refused_client_leaves_nothing_behind() -> None:
    with pytest.raises(fasttunnel.AuthError):
        async with fasttunnel.Client("127.0.0.1:7000", "http://a:1", client_id="refused", engine=FakeClientEngine):
            pass
    assert FakeClientEngine.made[0].calls == ["start", ("stop", 0)]


async def test_a_server_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    async def getaddrinfo(*arguments: object, **options: object) -> None:
        raise socket.gaierror(error, "as the resolver says")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    client = fasttunnel.Client("t.example.com:7000", "http://a:1", engine=FakeClientEngine)
    error = socket.EAI_NONAME
    with pytest.raises(fasttunnel.ConnectError, match="cannot find the server t.example.com:7000"):
        await client.start()
    error = socket.EAI_AGAIN  # the network is down: that may change
    await client.start()


def test_from_config_is_the_same() -> None:
    server = fasttunnel.Server("127.0.0.1:1", "127.0.0.1:2", "t", max_fragment=4096)
    assert fasttunnel.Server.from_config(server.config).config == server.config
    client = fasttunnel.Client("127.0.0.1:7000", "http://127.0.0.1:1", "t", client_id="x")
    assert fasttunnel.Client.from_config(client.config).config == client.config


def test_options_are_checked_at_once() -> None:
    with pytest.raises(fasttunnel.ConfigError, match="max_fragment"):
        fasttunnel.Server(max_fragment=1)
    with pytest.raises(fasttunnel.ConfigError, match="there is no option 'lisen'"):
        fasttunnel.Server(lisen="")  # type: ignore[call-arg]
    with pytest.raises(fasttunnel.ConfigError):
        fasttunnel.Client("127.0.0.1:7000", [])


def test_import_loads_no_engine() -> None:
    program = (
        "import sys, fasttunnel; sys.exit(any(name in sys.modules for name in ('fasttunnel._core', 'grpc', 'uvloop')))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# -- which engine


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(fasttunnel.ConfigError, match="there is no engine 'rust'"):
        fasttunnel.Server(engine="rust")  # type: ignore[arg-type]


def test_without_the_extension_the_asyncio_engine_is_taken_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttunnel.engine.server", None)
    monkeypatch.setattr(api, "_said", False)
    choice = api.choose_engine()
    assert (choice.name, choice.missing) == ("asyncio", True)
    said: list[str] = []
    for _ in range(2):
        assert api._load("ServerEngine", None, Events(said.append)).__module__ == "fasttunnel.reference.server"
    assert len(said) == 1
    assert "running on the asyncio engine" in said[0]
    with pytest.raises(fasttunnel.BuildError, match="cannot be loaded"):
        api.choose_engine("cython")


def test_without_its_packages_the_asyncio_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttunnel.reference.client", None)
    with pytest.raises(fasttunnel.BuildError, match=r"pip install fasttunnel\[reference\]"):
        api._load("ClientEngine", "asyncio", Events())


@pytest.mark.parametrize(
    ("config", "arguments", "limits"),
    [
        (ServerConfig, {"listen", "tunnel", "token"}, ServerLimits),
        (ClientConfig, {"server", "routes", "token", "client_id"}, ClientLimits),
    ],
)
def test_every_option_is_typed_for_programs(config: type, arguments: set[str], limits: Any) -> None:
    assert set(of_fields(config)) - arguments == set(limits.__annotations__)
