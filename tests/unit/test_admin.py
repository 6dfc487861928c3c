"""The admin port without a tunnel: what it answers, to whom, where it listens."""

import asyncio
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fasttunnel.admin.http import HttpServer, Request, Response
from fasttunnel.admin.port import AdminPort
from fasttunnel.admin.subject import Subject
from fasttunnel.control.config import ClientConfig, ServerConfig, parse_route
from fasttunnel.errors import ConfigError, ListenError

SUBJECT = Subject("server", "cython", lambda: None, lambda: "it is starting", list)


async def ask(port: AdminPort, request: str) -> str:
    """What comes back for the bytes of a request, until the port closes the connection."""
    where = port.address
    if where.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(where[5:])
    else:
        host, _, number = where.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(number))
    writer.write(request.encode("latin-1"))
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer.decode()


def get(path: str, host: str = "127.0.0.1", method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def port() -> AsyncIterator[AdminPort]:
    port = AdminPort("127.0.0.1:0", SUBJECT, pytest.fail)
    await port.start()
    yield port
    await port.stop()


async def test_before_the_engine_runs(port: AdminPort) -> None:
    assert "200 \r\n" in await ask(port, get("/healthz"))
    answer = await ask(port, get("/readyz"))
    assert answer.startswith("HTTP/1.1 503")
    assert answer.endswith("not ready: it is starting\n")
    assert '"unready": "it is starting"' in await ask(port, get("/status"))
    assert "fasttunnel_ready 0.0\n" in await ask(port, get("/metrics"))


@pytest.mark.parametrize(
    ("request_text", "status", "says"),
    [
        (get("/nothing"), 404, "there are /, /healthz, /readyz, /status, /metrics"),
        (get("/status", method="POST"), 405, "only read from"),
        (get("/status", method="DELETE"), 405, "only read from"),
        ("GET http://127.0.0.1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 400, "no path"),
        ("what\r\n\r\n", 400, "no request"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: " + "y" * 20_000, 431, "no request"),
        ("POST /status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n", 405, "only read from"),
    ],
)
async def test_mistakes_are_told(port: AdminPort, request_text: str, status: int, says: str) -> None:
    answer = await ask(port, request_text)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert says in answer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9100", 200),
        ("localhost:9100", 200),
        ("LOCALHOST", 200),
        ("[::1]:9100", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:9100", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:9100", 403),
        ("", 403),
    ],
)
async def test_a_rebound_name_gets_nothing(port: AdminPort, host: str, status: int) -> None:
    for page in ("/status", "/metrics", "/healthz"):
        assert (await ask(port, get(page, host))).startswith(f"HTTP/1.1 {status} ")


async def test_head_and_keep_alive(port: AdminPort) -> None:
    first = "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await ask(port, first + get("/healthz"))
    assert answer.count("HTTP/1.1 200") == 2
    assert answer.count("alive") == 1  # HEAD has no body
    assert answer.count("content-length: 6") + answer.count("Content-Length: 6") == 2


async def test_a_stream_is_written_piece_by_piece_and_ends_with_its_reader() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            yield b"piece\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    server = HttpServer(lambda request: Response(endless()), pytest.fail)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(get("/").encode())
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"piece\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        await closed.wait()
    listener.close()
    await server.close()


async def test_a_page_that_fails_is_500_and_a_warning() -> None:
    warnings: list[str] = []

    def fail(request: Request) -> Response:
        raise ValueError("secret")

    server = HttpServer(fail, warnings.append)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(get("/x").encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    listener.close()
    await server.close()
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer
    assert len(warnings) == 1


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with AsyncExitStack() as stack:
        port = AdminPort(f"unix:{path}", SUBJECT, pytest.fail)
        await port.start()
        stack.push_async_callback(port.stop)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask(port, get("/healthz", "any.example"))).endswith("alive\n")
        other = AdminPort(f"unix:{path}", SUBJECT, pytest.fail)
        with pytest.raises(ListenError, match=r"--admin cannot listen on unix:"):
            await other.start()
    assert not path.exists()


async def test_a_unix_socket_that_was_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    port = AdminPort(f"unix:{path}", SUBJECT, pytest.fail)
    await port.start()
    await port.stop()
    path.write_text("mine")
    with pytest.raises(ListenError):
        await AdminPort(f"unix:{path}", SUBJECT, pytest.fail).start()
    assert path.read_text() == "mine"


async def test_the_next_process_takes_a_unix_socket_over(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    one, two = (AdminPort(f"unix:{path}", SUBJECT, pytest.fail, reuse_port=True) for _ in range(2))
    await one.start()
    await two.start()
    await one.stop()  # its socket is not there any more, and the other's stays
    assert (await ask(two, get("/healthz"))).endswith("alive\n")
    await two.stop()
    assert not path.exists()


async def test_the_next_process_takes_a_tcp_port_over() -> None:
    told: list[str] = []
    ready = [
        Subject("server", "cython", lambda: None, lambda number=number: f"it is {number}", list) for number in "12"
    ]  # type: ignore[misc]
    one = AdminPort("127.0.0.1:0", ready[0], told.append, reuse_port=True)
    await one.start()
    two = AdminPort(one.address, ready[1], told.append, reuse_port=True)
    await two.start()
    try:
        assert two.address == one.address
        assert {(await ask(one, get("/readyz")))[-8:] for _ in range(10)} == {"it is 1\n"}, "the older one has it"
        one.hand_over()
        assert {(await ask(two, get("/readyz")))[-8:] for _ in range(10)} == {"it is 2\n"}
    finally:
        await one.stop()
        await two.stop()
    assert told == []


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"--admin cannot listen on {address}"):
            await AdminPort(address, SUBJECT, pytest.fail).start()


@pytest.mark.parametrize("address", ["9100", "127.0.0.1", "127.0.0.1:99999", "unix:"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError):
        ServerConfig(admin=address)
    with pytest.raises(ConfigError):
        ClientConfig(server="127.0.0.1:7000", routes=(parse_route("http://127.0.0.1:1"),), admin=address)


def test_an_open_port_is_warned_of() -> None:
    assert any("admin port 0.0.0.0:9100" in text for text in ServerConfig(admin="0.0.0.0:9100").warnings())
    for quiet in ("127.0.0.1:9100", "[::1]:9100", "localhost:9100", "unix:/run/x.sock", ""):
        assert ServerConfig(admin=quiet).warnings() == []
