"""TLS on both ports, to backends, and of peers that know none or do it wrong."""

import asyncio
import base64
import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import grpc
import pytest
from aiohttp import web
from websockets.asyncio.client import connect as ws_connect

import fasttunnel
from fasttunnel.errors import ConfigError
from tests.support.certificates import Issued, authority, here
from tests.support.grpc_peers import UNLIMITED, Echo, Note, services
from tests.support.raw import Peer, answer, connect, request, start_raw
from tests.support.records import DATA, HANDSHAKE, KEY_UPDATE, RawTls
from tests.support.site import content, start_site
from tests.support.tunnel import WAIT_S, Recorder, Tunnel, engines, eventually, start_client, start_server, start_tunnel

MIB = 2**20
SIZES = [0, 1, 16_383, 16_384, 70_000, 3 * MIB]


def of_server(*issued: Issued, **options: object) -> dict[str, object]:
    """Options of a server with these certificates."""
    issued = issued or (here(),)
    return {"cert": [one.cert for one in issued], "key": [one.key for one in issued], **options}


TRUSTING = {"ca": authority().ca}


@pytest.fixture
async def site(stack: AsyncExitStack) -> str:
    return await start_site(stack)


@pytest.fixture
async def tunnel(stack: AsyncExitStack, site: str) -> Tunnel:
    return await start_tunnel(stack, site, server=of_server(), client=TRUSTING)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority().context())) as session:
        yield session


async def secure_peer(stack: AsyncExitStack, tunnel: Tunnel, context: ssl.SSLContext | None = None) -> Peer:
    """A visitor that reads and writes its bytes itself, within TLS."""
    context = context or authority().context()
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(tunnel.host, tunnel.port, ssl=context)
    stack.callback(writer.close)
    return Peer(reader, writer)


# -- what passes


@pytest.mark.parametrize("size", SIZES)
async def test_bodies_both_ways(tunnel: Tunnel, http: aiohttp.ClientSession, size: int) -> None:
    body = content(size)
    for _ in range(2):  # the second time on connections that are kept
        async with http.post(f"{tunnel.server.public_url}/echo", data=io.BytesIO(body)) as got:
            assert await got.read() == body


async def test_urls_and_fields_say_so(tunnel: Tunnel, http: aiohttp.ClientSession) -> None:
    assert tunnel.client.urls == [tunnel.server.public_url]
    assert tunnel.server.public_url.startswith("https://")
    headers = {"X-Forwarded-Proto": "gopher"}
    async with http.get(f"{tunnel.server.public_url}/fields", headers=headers) as got:
        fields = json.loads(await got.text())
    assert fields["x-forwarded-proto"] == "https"
    assert ";proto=https;" in fields["forwarded"]


async def test_frames_of_all_lengths(tunnel: Tunnel) -> None:
    url = f"wss://{tunnel.authority}/websocket"
    async with ws_connect(url, max_size=None, ssl=authority().context()) as peer:
        for size in SIZES:
            await peer.send(content(size))
            assert await peer.recv() == content(size)[::-1]
        await peer.send("close")
        with pytest.raises(Exception, match="4001"):
            await peer.recv()


@pytest.mark.parametrize("alpn", [["h2", "http/1.1"], ["http/1.1"], []])
async def test_curl(tunnel: Tunnel, alpn: list[str]) -> None:
    """HTTP/2 where both know it, by ALPN, and HTTP/1.1 otherwise."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    kind = "--http2" if "h2" in alpn else "--http1.1"
    more = [] if alpn else ["--no-alpn"]
    body = content(100_000)
    command = ["curl", "-sS", kind, *more, "--cacert", authority().ca, "--data-binary", "@-", "-w", "\n%{http_version}"]
    command.append(f"{tunnel.server.public_url}/echo")
    env = {**os.environ, "LD_PRELOAD": ""}  # it does not start with the library of the sanitizers
    done = await asyncio.to_thread(subprocess.run, command, input=body, capture_output=True, timeout=WAIT_S, env=env)
    assert done.returncode == 0, done.stderr
    got, _, version = done.stdout.rpartition(b"\n")
    assert (got, version) == (body, b"2" if "h2" in alpn else b"1.1")


def read(path: str) -> bytes:
    return Path(path).read_bytes()


async def secure_grpc(stack: AsyncExitStack, issued: Issued) -> str:
    """A gRPC backend with this certificate."""
    server = grpc.aio.server(options=[*UNLIMITED, ("grpc.so_reuseport", 0)])
    services.add_EchoServicer_to_server(Echo(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(read(issued.key), read(issued.cert))]))
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return f"grpcs://127.0.0.1:{port}"


async def test_calls_through_tls_from_end_to_end(stack: AsyncExitStack) -> None:
    """The public's, the tunnel's and the backend's."""
    backend = await secure_grpc(stack, here())
    tunnel = await start_tunnel(stack, backend, server=of_server(), client={**TRUSTING, "backend_ca": authority().ca})
    assert tunnel.client.urls == [f"grpcs://{tunnel.authority}"]
    credentials = grpc.ssl_channel_credentials(read(authority().ca))
    channel = await stack.enter_async_context(grpc.aio.secure_channel(tunnel.authority, credentials, options=UNLIMITED))
    stub = services.EchoStub(channel)

    async def notes() -> AsyncIterator[Note]:
        for size in SIZES:
            yield Note(data=content(size))

    assert (await stub.Unary(Note(number=7))).number == 7
    assert [note.data async for note in stub.Talk(notes())] == [content(size) for size in SIZES]
    assert (await stub.Up(notes())).data == b"".join(content(size) for size in SIZES)


async def secure_site(stack: AsyncExitStack, issued: Issued) -> str:
    """A web backend with this certificate: it says what Host it was asked for, and echoes a WebSocket message."""

    async def hello(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade"):
            connection = web.WebSocketResponse()
            await connection.prepare(request)
            await connection.send_str(await connection.receive_str())
            return connection
        return web.Response(text=f"{request.method} {request.path}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.cert, issued.key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    return f"https://127.0.0.1:{runner.addresses[0][1]}"


async def test_a_backend_by_tls(stack: AsyncExitStack) -> None:
    backend = await secure_site(stack, here())
    tunnel = await start_tunnel(stack, backend, client={"backend_ca": authority().ca})
    async with aiohttp.ClientSession(tunnel.url) as session:
        for _ in range(2):
            async with session.get("/a") as got:
                assert await got.text() == "GET /a"
        async with session.ws_connect("/") as peer:
            await peer.send_str("hi")
            assert await peer.receive_str() == "hi"


@pytest.mark.parametrize("kind", ["stranger", "name"])
async def test_a_backend_that_cannot_prove_itself_is_502(stack: AsyncExitStack, kind: str) -> None:
    issued = (
        authority("strangers").issue("b", "127.0.0.1")
        if kind == "stranger"
        else authority().issue("b", "other.example")
    )
    backend = await secure_site(stack, issued)
    tunnel = await start_tunnel(stack, backend, client={"backend_ca": authority().ca})
    async with aiohttp.ClientSession(tunnel.url) as session, session.get("/") as got:
        assert got.status == 502
    assert "certificate" in await tunnel.client_events.until_line("backend")
    client = {"backend_ca": authority().ca, "backend_verify": False}
    tunnel = await start_tunnel(stack, backend, client=client)
    async with aiohttp.ClientSession(tunnel.url) as session, session.get("/") as got:
        assert got.status == 200, "unless it need not"


async def test_a_backend_that_speaks_no_tls_is_502(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url.replace("http:", "https:"))
    async with aiohttp.ClientSession(tunnel.url) as session:
        asking = asyncio.ensure_future(session.get("/"))
        peer = await backend.accept()
        assert (await peer.exactly(1)) == b"\x16"
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        async with await asking as got:
            assert got.status == 502


# -- certificates


def shown(tunnel: Tunnel, name: str | None, context: ssl.SSLContext | None = None) -> tuple[int, str | None]:
    """The serial number of the certificate that the public port shows who asks for `name`; and what ALPN chose."""
    context = context or authority().context()
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((tunnel.host, tunnel.port), WAIT_S) as sock:
        sock.settimeout(WAIT_S)
        with context.wrap_socket(sock, server_hostname=name) as secure:
            found = secure.getpeercert()
            assert found is not None
            return int(str(found["serialNumber"]), 16), secure.selected_alpn_protocol()


async def test_the_name_that_is_asked_for_chooses_the_certificate(stack: AsyncExitStack, site: str) -> None:
    first = authority().issue("first", "localhost", "127.0.0.1")
    second = authority().issue("second", "second.example", "*.second.example")
    tunnel = await start_tunnel(stack, site, server=of_server(first, second), client=TRUSTING)
    expected = {
        "localhost": first,
        "second.example": second,
        "SECOND.example": second,
        "a.second.example": second,
        "b.a.second.example": first,
        "nobody.example": first,
        None: first,
    }
    for name, issued in expected.items():
        assert await asyncio.to_thread(shown, tunnel, name) == (issued.serial, "h2"), name


async def test_certificates_are_read_again_when_they_change(
    stack: AsyncExitStack, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttunnel.limits.RELOAD_INTERVAL_S", 0.02)
    issued = [authority().issue(f"n{number}", "localhost", "127.0.0.1") for number in range(2)]
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(number: int) -> None:
        for source, target in ((issued[number].cert, cert), (issued[number].key, key)):
            shutil.copy(source, target.with_suffix(".new"))
            target.with_suffix(".new").rename(target)

    put(0)
    tunnel = await start_tunnel(stack, site, server={"cert": str(cert), "key": str(key)}, client=TRUSTING)
    assert (await asyncio.to_thread(shown, tunnel, "localhost"))[0] == issued[0].serial
    kept = await secure_peer(stack, tunnel)
    assert (await kept.ask(request("GET", "/bytes/3"))).body == content(3)

    cert.write_text("no certificate")
    await tunnel.events.until(lambda: bool(tunnel.events.warnings))
    assert str(cert) in tunnel.events.warnings[0]
    assert (await asyncio.to_thread(shown, tunnel, "localhost"))[0] == issued[0].serial
    put(1)

    async with asyncio.timeout(WAIT_S):
        while (await asyncio.to_thread(shown, tunnel, "localhost"))[0] != issued[1].serial:
            pass
    assert (await kept.ask(request("GET", "/bytes/3"))).body == content(3), "open connections go on"
    async with asyncio.timeout(WAIT_S):  # the tunnel port too
        await start_client(stack, tunnel.server.tunnel, ["x.example=http://127.0.0.1:1"], ca=authority().ca)
    tunnel.events.warnings.clear()


async def test_certificates_are_read_again_when_that_is_asked_for(stack: AsyncExitStack, tmp_path: Path) -> None:
    issued = [authority().issue(f"n{number}", "localhost") for number in range(2)]
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(read(issued[0].key) + read(issued[0].cert))
    tunnel = await start_tunnel(
        stack, "http://127.0.0.1:1", server={"cert": str(both)}, client={**TRUSTING, "server_name": "localhost"}
    )
    both.write_bytes(read(issued[1].key) + read(issued[1].cert))
    tunnel.server.reload()
    assert (await asyncio.to_thread(shown, tunnel, "localhost"))[0] == issued[1].serial


@pytest.mark.parametrize("what", ["cert", "key", "client_ca"])
async def test_a_file_that_cannot_be_used_is_said(stack: AsyncExitStack, tmp_path: Path, what: str) -> None:
    (tmp_path / "wrong.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    for wrong in (tmp_path / "wrong.pem", tmp_path / "missing.pem"):
        options = {"cert": here().cert, "key": here().key, what: str(wrong)}
        with pytest.raises(ConfigError, match=wrong.name):
            await start_server(stack, **options)


@pytest.mark.parametrize(
    ("version", "passes"), [("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)]
)
async def test_versions(tunnel: Tunnel, version: str, passes: bool) -> None:
    context = authority().context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if passes:
        assert (await asyncio.to_thread(shown, tunnel, "localhost", context))[0] == here().serial
    else:
        with pytest.raises(ssl.SSLError, match="(?i)alert|EOF"):  # by the server, not by us
            await asyncio.to_thread(shown, tunnel, "localhost", context)


@pytest.mark.parametrize("cipher", ["AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
async def test_ciphers_without_aead_or_forward_secrecy_are_refused(tunnel: Tunnel, cipher: str) -> None:
    context = authority().context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="(?i)alert|EOF"):  # by the server, not by us
        await asyncio.to_thread(shown, tunnel, "localhost", context)


# -- the client and its server


async def why_not(stack: AsyncExitStack, server: fasttunnel.Server, **options: object) -> str:
    """What a client says that does not get through."""
    events = Recorder()
    client = fasttunnel.Client(
        server.tunnel,
        ["http://127.0.0.1:1"],
        events=events,
        engine=engines["client"],
        **options,  # type: ignore[arg-type]
    )
    starting = asyncio.ensure_future(client.start())
    try:
        return (await events.until_line("away")).lower()
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.stop(0)


async def test_a_server_that_cannot_prove_itself(stack: AsyncExitStack) -> None:
    server = await start_server(stack, **of_server())
    assert "certificate" in await why_not(stack, server, ca=authority("strangers").ca)
    assert "certificate" in await why_not(stack, server, tls=True)
    assert await why_not(stack, server, ca=authority().ca, server_name="other.example")
    assert server.status()["links"] == []


async def test_a_name_of_its_own_for_the_server(stack: AsyncExitStack) -> None:
    server = await start_server(stack, **of_server(authority().issue("t", "t.example")))
    await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], ca=authority().ca, server_name="t.example")


async def test_names_that_certificates_write_otherwise(stack: AsyncExitStack) -> None:
    server = await start_server(stack, **of_server(authority().issue("wild", "localhost", "::1", "w*.example")))
    routes = ["http://127.0.0.1:1"]
    await start_client(stack, server.tunnel, routes, ca=authority().ca, server_name="localhost.")
    if engines["client"] == "cython":  # grpc takes it for a name
        await start_client(stack, server.tunnel, routes, ca=authority().ca, server_name="::1%lo")
    # A wildcard is a whole label (RFC 9525 6.3).
    assert await why_not(stack, server, ca=authority().ca, server_name="wild.example")


@pytest.mark.differs("asyncio client", "grpc does not show certificates, so pins cannot be checked")
async def test_a_pinned_key(stack: AsyncExitStack) -> None:
    """Which needs nobody's signature."""
    own = authority("unknown").issue("pinned", "whatever.example")
    server = await start_server(stack, **of_server(own))
    pin, other = (f"sha256//{base64.b64encode(one.digest).decode()}" for one in (own, here()))
    assert "pinned" in await why_not(stack, server, pins=[other])
    await start_client(stack, server.tunnel, ["http://127.0.0.1:1"], pins=[other, pin])
    assert "certificate" in await why_not(stack, server, pins=[pin], ca=authority().ca), (
        "with `ca` both have to be right"
    )
    picky = await start_server(stack, **of_server(own, client_ca=authority("clients").ca))
    assert "accepted" not in await why_not(stack, picky, pins=[pin]), "it is ours that is missing"


@pytest.mark.differs("cython client", "it can check pins")
async def test_the_asyncio_engine_cannot_pin(stack: AsyncExitStack) -> None:
    with pytest.raises(ConfigError, match="pins"):
        await start_client(stack, "127.0.0.1:1", ["http://127.0.0.1:1"], pins=["sha256//" + "A" * 43 + "="])


async def test_one_end_speaks_tls_and_the_other_does_not(stack: AsyncExitStack) -> None:
    secure = await start_server(stack, **of_server())
    assert await why_not(stack, secure)
    plain = await start_server(stack)
    assert await why_not(stack, plain, ca=authority().ca)


async def test_a_client_shows_a_certificate(stack: AsyncExitStack, site: str) -> None:
    server = await start_server(stack, **of_server(client_ca=authority("clients").ca))
    alice, bob = (authority("clients").issue(name) for name in ("alice", "bob"))
    stranger = authority("strangers").issue("alice")
    assert await why_not(stack, server, ca=authority().ca)
    assert await why_not(stack, server, ca=authority().ca, cert=stranger.cert, key=stranger.key)
    first = {"ca": authority().ca, "cert": alice.cert, "key": alice.key, "client_id": "one"}
    await start_client(stack, server.tunnel, [site], **first)
    url = f"{server.public_url}/bytes/5"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=authority().context()) as got:
        assert await got.read() == content(5)
    nameless = authority("clients").issue("nameless", common_name=False)
    with pytest.raises(fasttunnel.errors.AuthError, match="no common name"):  # all such would be one
        await start_client(stack, server.tunnel, [site], **{**first, "cert": nameless.cert, "key": nameless.key})
    # The name of a client belongs to whoever has shown the certificate.
    with pytest.raises(fasttunnel.errors.AuthError, match="somebody else"):
        await start_client(stack, server.tunnel, [site], **{**first, "cert": bob.cert, "key": bob.key})


# -- peers that do it wrong


async def test_http_to_the_port_of_https(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    public = await connect(stack, tunnel.host, tunnel.port)
    await public.send(request("GET", "/"))
    with_answer = await public.to_end()
    if engines["server"] == "cython":
        assert b"this port speaks TLS" in with_answer
    await lives(tunnel)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\xff\xff" + b"x" * 400, b"\0" * 300],
)
async def test_half_a_handshake_and_garbage(stack: AsyncExitStack, tunnel: Tunnel, data: bytes) -> None:
    for port in (tunnel.port, int(tunnel.server.tunnel.rpartition(":")[2])):
        public = await connect(stack, tunnel.host, port)
        if data:
            await public.send(data)
        public.half_close()
        with suppress(ConnectionError):
            await public.to_end()  # perhaps an alert
        dropped = await connect(stack, tunnel.host, port)
        await dropped.send(data)
        dropped.drop()
    await lives(tunnel)
    await eventually(lambda: tunnel.server.status()["connections"] <= 2)


async def test_a_record_that_is_none_behind_a_request(stack: AsyncExitStack) -> None:
    """What is being written to that visitor fails then; nobody has to hear of it."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url, server=of_server(), client=TRUSTING)

    def visit() -> RawTls:
        return RawTls((tunnel.host, tunnel.port), authority().context(), ssl.TLSVersion.TLSv1_3)

    for _ in range(5):
        public = await asyncio.to_thread(visit)
        public.sock.sendall(public.seal(DATA, request("GET", "/")))
        peer = await backend.accept()
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        sending = asyncio.ensure_future(peer.send(bytes(50_000_000)))
        await asyncio.to_thread(public.sock.recv, 2 * MIB, socket.MSG_WAITALL)
        public.sock.sendall(public.seal(DATA, request("GET", "/")) + b"\x17\3\3\0\x40" + bytes(64))
        with suppress(ConnectionError):
            while await asyncio.to_thread(public.sock.recv, MIB):
                pass
        public.sock.close()
        with suppress(ConnectionError):
            await sending
    assert tunnel.events.warnings == []


@pytest.mark.differs(
    "asyncio server",
    "a visitor may change its keys of TLS, or ask for another handshake, over and over, of which Python does not tell",
)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_keys_that_change_over_and_over(stack: AsyncExitStack, version: str, site: str) -> None:
    """Each of these short messages costs much, and some an answer that nobody may ever read."""
    tunnel = await start_tunnel(stack, site, server=of_server(), client=TRUSTING)

    def visit() -> None:
        public = RawTls((tunnel.host, tunnel.port), authority().context(), ssl.TLSVersion[version])
        # For a new handshake, of which only the kind is looked at, or new keys.
        message = b"\1\0\0\0" if version == "TLSv1_2" else KEY_UPDATE
        for _ in range(30):
            public.sock.sendall(public.seal(HANDSHAKE, message))
        public.sock.sendall(public.seal(DATA, request("GET", "/bytes/3")))
        while len(public.sock.recv(65536)) < 100:  # alerts and keys, then the answer
            pass
        with suppress(ConnectionError):
            public.sock.sendall(b"".join(public.seal(HANDSHAKE, message) for _ in range(3000)))
            while public.sock.recv(65536):
                pass
        public.sock.close()

    await asyncio.to_thread(visit)
    await lives(tunnel)


async def test_a_stop_ends_handshakes(stack: AsyncExitStack, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the asyncio server it is their time-out that does: asyncio tells of a connection when that is over."""
    monkeypatch.setattr("fasttunnel.limits.HANDSHAKE_TIMEOUT_S", 1.0)
    tunnel = await start_tunnel(stack, site, server=of_server(), client=TRUSTING)
    public = await connect(stack, tunnel.host, tunnel.port)
    await lives(tunnel)  # connections are taken in their order: it has been as well
    await tunnel.server.stop(0)
    assert await public.ended()


async def test_a_handshake_takes_no_longer_than_it_may(
    stack: AsyncExitStack, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttunnel.limits.HANDSHAKE_TIMEOUT_S", 0.1)
    tunnel = await start_tunnel(stack, site, server=of_server(), client=TRUSTING)
    public = await connect(stack, tunnel.host, tunnel.port)
    await public.send(b"\x16\x03\x01\x02")
    assert await public.ended()
    await lives(tunnel)


async def test_bytes_that_come_one_by_one(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    """Records in pieces, through a relay that passes single bytes on."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            for index in range(len(data)):
                writer.write(data[index : index + 1])
                await asyncio.sleep(0)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(tunnel.host, tunnel.port)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    listener = await asyncio.start_server(relay, "127.0.0.1", 0)
    stack.callback(listener.close)
    port = listener.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority().context())
    peer = Peer(reader, writer)
    got = await peer.ask(request("POST", "/echo", body=b"x" * 2000))
    assert (got.status, got.body) == (200, b"x" * 2000)
    await peer.close()


async def test_the_end_is_told(stack: AsyncExitStack) -> None:
    """A body that ends with the connection is complete only when the peer has said so (RFC 8446 6.1)."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url, server=of_server(), client=TRUSTING)
    whole = await secure_peer(stack, tunnel)
    await whole.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    peer = await backend.accept()
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\nthe whole body")
    await peer.close()
    assert (await whole.to_end()).endswith(b"the whole body")

    cut = await secure_peer(stack, tunnel)
    await cut.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    peer = await backend.accept()
    await peer.head()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n")
    assert b"half " in await cut.until(b"half ")
    peer.drop()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await cut.to_end()


async def lives(tunnel: Tunnel) -> None:
    """Others are served."""
    url = f"{tunnel.server.public_url}/bytes/100"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=authority().context()) as got:
        assert await got.read() == content(100)


async def test_a_handshake_that_fails_is_nobody_elses(stack: AsyncExitStack, tunnel: Tunnel) -> None:
    """OpenSSL's queue of errors is that of the thread, which may have other TLS by Python's ssl."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(here().cert, here().key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = authority().context().wrap_bio(down, up, server_hostname="localhost")
    other = accepting.wrap_bio(up, down, server_side=True)
    for end in (one, other, one, other):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    for data in (b"\x16\x03\x01\x00\x05hello" * 9, request("GET", "/"), b"\x15\x03\x03\x00\x02\x02\x28"):
        public = await connect(stack, tunnel.host, tunnel.port)
        await public.send(data)
        with suppress(ConnectionError):
            await public.to_end()
        with pytest.raises(ssl.SSLWantReadError):
            one.read()


@pytest.mark.parametrize(
    "bad", [b"\x17\x03\x03\x00\x20" + bytes(32), b"\x16\x03\x03\x00\x04" + bytes(4), b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_a_record_that_is_none_in_one_read_with_a_request(
    stack: AsyncExitStack, tunnel: Tunnel, bad: bytes
) -> None:
    """In one read: the answer cannot be sent any more, which is nothing to complain of."""
    public = await connect(stack, tunnel.host, tunnel.port)
    came, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = authority().context().wrap_bio(came, going, server_hostname="localhost")
    while True:
        with suppress(ssl.SSLWantReadError):
            secure.do_handshake()
            break
        await public.send(going.read())
        came.write(await public.reader.read(65_536))
    secure.write(request("GET", "/bytes/3"))
    await public.send(going.read() + bad)
    with suppress(ConnectionError):
        await public.to_end()
    await lives(tunnel)


async def test_a_server_that_never_ends_the_handshake(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttunnel.engine.client.REGISTERED_TIMEOUT_S", 0.1)
    monkeypatch.setattr("fasttunnel.reference.client.REGISTERED_TIMEOUT_S", 0.1)
    server = await start_raw(stack)
    events = Recorder()
    options = {"engine": engines["client"], "connect_timeout_s": 0.5, "ca": authority().ca}
    client = fasttunnel.Client(server.url.removeprefix("http://"), ["http://127.0.0.1:1"], events=events, **options)
    starting = asyncio.ensure_future(client.start())
    for _ in range(2):  # the first one was given up, and told so
        await server.accept()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await client.stop(0)
    assert events.warnings == []


# -- ends of connections whose other end says nothing more


def to_its_end(sock: ssl.SSLSocket) -> None:
    """Reads what comes on the TCP connection, and answers nothing, not even the end of TLS."""
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        raw.settimeout(WAIT_S)
        try:
            while raw.recv(65_536):
                pass
        except ConnectionResetError:
            pass


async def test_a_stop_waits_for_no_visitor_to_end_tls(stack: AsyncExitStack) -> None:
    server = await start_server(stack, **of_server())
    sock = await asyncio.to_thread(
        lambda: authority().context().wrap_socket(socket.create_connection(server.address), server_hostname="localhost")
    )
    stack.callback(sock.close)
    await asyncio.to_thread(sock.sendall, request("GET", "/"))
    assert (await asyncio.to_thread(sock.recv, 65_536)).startswith(b"HTTP/1.1 404")
    ended = asyncio.create_task(asyncio.to_thread(to_its_end, sock))
    await server.stop(0)
    await ended


async def test_a_stop_waits_for_no_backend_to_end_tls(stack: AsyncExitStack) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stack.callback(listener.close)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(here().cert, here().key)

    def serve() -> ssl.SSLSocket:
        sock = context.wrap_socket(listener.accept()[0], server_side=True)
        assert sock.recv(65_536).startswith(b"GET /")
        sock.sendall(answer("200 OK", body=b"kept"))
        return sock

    serving = asyncio.create_task(asyncio.to_thread(serve))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    tunnel = await start_tunnel(stack, url, client={"backend_ca": authority().ca})
    public = await connect(stack, tunnel.host, tunnel.port)
    assert (await public.ask(request("GET", "/"))).body == b"kept"
    sock = await serving
    stack.callback(sock.close)
    ended = asyncio.create_task(asyncio.to_thread(to_its_end, sock))
    await tunnel.client.stop(0)
    await ended
