"""What several peers do within one turn of the server: it reads all of it before anything is flushed.

The peers are sockets without a loop, so that nothing of ours runs between two things they do.
"""

import asyncio
import base64
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

import fasttunnel
from fasttunnel.wire import tunnel_pb2 as wire
from tests.support.frames import BINARY, frame
from tests.support.raw import connect, request
from tests.support.stock import fields, register
from tests.support.tunnel import WAIT_S, Recorder, eventually, start_client, start_server

pytestmark = pytest.mark.cython_only("the turns of the compiled engine")

UPGRADE = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # SO_LINGER: on, 0 s


class Plain:
    """A connected socket. What is sent or closed has happened when the call returns."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform.startswith("linux"):  # others may pace what is sent
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")

    def send(self, data: bytes) -> None:
        assert self.sock.send(data) == len(data)

    async def read(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.get_running_loop().sock_recv(self.sock, 2**18)

    async def until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            data += await self.read()
        return data

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


class PlainEnd(Plain):
    """An end of the tunnel. It gives no credit by itself."""

    def __init__(self, sock: socket.socket, client: bool) -> None:
        super().__init__(sock)
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client))
        self.protocol.initiate_connection()
        codes = h2.settings.SettingCodes
        self.protocol.update_settings({codes.MAX_FRAME_SIZE: 2**24 - 1, codes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        self.protocol.increment_flow_control_window(2**30)
        self._body = bytearray()

    async def register(self) -> None:
        """As a client."""
        head = {":method": "POST", ":scheme": "http", ":path": "/fasttunnel.v1.TunnelService/Connect"}
        head |= {":authority": "server.example", "te": "trailers", "content-type": "application/grpc"}
        self.protocol.send_headers(1, list(head.items()))
        self.put(protocol_type=wire.CONTROL, register=register(initial_window=2**20))
        await self.next("registered")

    async def accept(self) -> None:
        """As a server."""
        self.send(self.protocol.data_to_send())
        await self.next("register")
        self.protocol.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        told = wire.Registered(session_id="s1", client_id="c1", initial_window=2**20, heartbeat_interval_ms=10_000)
        self.put(protocol_type=wire.CONTROL, registered=told)

    def put(self, **fields: Any) -> None:
        """Send a TunnelMessage."""
        data = wire.TunnelMessage(**fields).SerializeToString()
        data = b"\0" + len(data).to_bytes(4, "big") + data
        size = self.protocol.max_outbound_frame_size
        for start in range(0, len(data), size):
            self.protocol.send_data(1, data[start : start + size])
        self.send(self.protocol.data_to_send())

    async def next(self, kind: str) -> Any:
        """The next message of this kind; others are dropped."""
        async with asyncio.timeout(WAIT_S):
            while True:
                while len(self._body) >= 5 and len(self._body) >= 5 + (size := int.from_bytes(self._body[1:5], "big")):
                    message = wire.TunnelMessage.FromString(bytes(self._body[5 : 5 + size]))
                    del self._body[: 5 + size]
                    if message.WhichOneof("payload") == kind:
                        return message
                data = await self.read()
                assert data, f"the tunnel has ended; {kind} was expected"
                for event in self.protocol.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        self._body += event.data
                self.send(self.protocol.data_to_send())


async def dial(server: str) -> PlainEnd:
    """A client that has registered."""
    host, _, port = server.rpartition(":")
    end = PlainEnd(socket.create_connection((host, int(port))), client=True)
    await end.register()
    return end


class Scene:
    """A server of ours and a plain client of it."""

    def __init__(self, server: fasttunnel.Server, client: PlainEnd, events: Recorder) -> None:
        self.server = server
        self.client = client
        self.events = events

    def visitor(self) -> Plain:
        return Plain(socket.create_connection(self.server.address))


@pytest.fixture
async def scene(stack: AsyncExitStack) -> AsyncIterator[Scene]:
    events = Recorder()
    server = await start_server(stack, events)
    scene = Scene(server, await dial(server.tunnel), events)
    yield scene
    scene.client.sock.close()


async def served(scene: Scene) -> None:
    """The server serves on: a request comes through, on another tunnel if the first one is gone."""
    visitor = scene.visitor()
    visitor.send(request("GET", "/after"))
    asked = (await scene.client.next("http_request")).request_id
    scene.client.put(
        request_id=asked,
        protocol_type=wire.HTTP,
        http_response=wire.HttpResponse(status_code=204, is_first_chunk=True, is_last_chunk=True),
    )
    assert (await visitor.read()).startswith(b"HTTP/1.1 204 ")
    visitor.sock.close()


async def test_an_upgrade_that_is_accepted_as_the_visitor_breaks_off(scene: Scene) -> None:
    """The connection is handed from HTTP/1.1 to WebSocket when its socket has been lost already."""
    visitor = scene.visitor()
    key = base64.b64encode(bytes(16)).decode()
    visitor.send(request("GET", "/", *UPGRADE, f"Sec-WebSocket-Key: {key}"))
    asked = await scene.client.next("ws_request")
    visitor.reset()
    scene.client.put(
        request_id=asked.request_id,
        protocol_type=wire.WEBSOCKET,
        ws_response=wire.WebSocketResponse(status_code=101, accepted=True),
    )
    await eventually(lambda: scene.server.status()["connections"] == 1)
    assert scene.server.status()["active_requests"] == 0
    await served(scene)
    assert scene.events.warnings == []


async def test_a_tunnel_that_breaks_off_while_a_long_body_is_written_to_it(scene: Scene) -> None:
    """The write of a payload that is not copied may be what loses the tunnel, with all that refers to it."""
    visitor = scene.visitor()
    visitor.send(b"POST / HTTP/1.1\r\nHost: public.example\r\nContent-Length: 10000000\r\n\r\nfirst")
    await scene.client.next("http_request")
    # More credit than HTTP/2 allows: libnghttp2 ends the connection with its next write.
    scene.client.send(b"\0\0\4\x08\0" + (1).to_bytes(4, "big") + (2**31 - 1).to_bytes(4, "big"))
    visitor.send(b"y" * 60_000)
    assert (await visitor.read()).startswith(b"HTTP/1.1 502 ")
    await eventually(lambda: scene.server.status()["links"] == [])
    visitor.sock.close()
    scene.client.sock.close()
    scene.client = await dial(scene.server.tunnel)
    await served(scene)


class ClientScene:
    """A client of ours, a plain server, and a backend that listens on a plain socket."""

    def __init__(self, client: fasttunnel.Client, end: PlainEnd, backend: socket.socket) -> None:
        self.client = client
        self.end = end
        self.backend = backend

    def ask(self, number: int, **message: Any) -> None:
        asked = wire.HttpRequest(is_first_chunk="method" in message, **message)
        self.end.put(request_id=f"h-{number}", protocol_type=wire.HTTP, http_request=asked)

    async def all_read(self) -> None:
        """Wait until the client has read what has been sent."""
        before = self.client.status()["reads"]
        self.end.put(protocol_type=wire.CONTROL, heartbeat=wire.Heartbeat(nonce=1, reply=True))
        await eventually(lambda: self.client.status()["reads"] > before)

    async def accept(self) -> Plain:
        async with asyncio.timeout(WAIT_S):
            return Plain((await asyncio.get_running_loop().sock_accept(self.backend))[0])


async def client_scenes(stack: AsyncExitStack, connections: int = 1) -> list[ClientScene]:
    """One for each tunnel of the client."""
    tunnels, backend = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    for listener in (tunnels, backend):
        stack.callback(listener.close)
        listener.setblocking(False)
    server, route = (f"127.0.0.1:{listener.getsockname()[1]}" for listener in (tunnels, backend))
    starting = asyncio.ensure_future(start_client(stack, server, [f"http://{route}"], connections=connections))
    ends = []
    for _ in range(connections):
        ends.append(PlainEnd((await asyncio.get_running_loop().sock_accept(tunnels))[0], client=False))
        stack.callback(ends[-1].sock.close)
        await ends[-1].accept()
    client = await starting
    await eventually(lambda: client.status()["tunnels"] == connections)
    return [ClientScene(client, end, backend) for end in ends]


@pytest.fixture
async def client_scene(stack: AsyncExitStack) -> ClientScene:
    return (await client_scenes(stack))[0]


async def test_an_answer_that_came_before_the_backend_broke_off(client_scene: ClientScene) -> None:
    """Writing the body fails, but the reason has come: a backend that refuses one answers and closes (RFC 9112 9.6)."""
    client_scene.ask(1, method="POST", url="/", body=b"begin", headers=fields(("content-length", "1000000")))
    backend = await client_scene.accept()
    assert (await backend.until(b"\r\n\r\nbegin")).startswith(b"POST / HTTP/1.1")
    client_scene.ask(1, body=bytes(20_000), sequence_number=1)
    backend.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much")
    backend.reset()
    answered = (await client_scene.end.next("http_response")).http_response
    assert (answered.status_code, answered.body, answered.is_last_chunk) == (413, b"too much", True)


async def test_a_visitor_that_breaks_off_behind_what_it_has_pipelined(scene: Scene) -> None:
    """Writing to it fails, and then it is not read, for the next request has to wait: it is gone all the same."""
    visitor = scene.visitor()
    visitor.send(request("GET", "/endless"))
    asked = (await scene.client.next("http_request")).request_id
    first = wire.HttpResponse(status_code=200, is_first_chunk=True, body=b"first")
    scene.client.put(request_id=asked, protocol_type=wire.HTTP, http_response=first)
    await visitor.until(b"first")
    more = wire.HttpResponse(body=bytes(20_000), sequence_number=1)
    scene.client.put(request_id=asked, protocol_type=wire.HTTP, http_response=more)
    visitor.send(request("GET", "/next"))
    visitor.reset()
    await eventually(lambda: scene.server.status()["active_requests"] == 0)
    await served(scene)


async def test_a_visitor_that_breaks_off_while_it_is_not_read(scene: Scene) -> None:
    visitor = scene.visitor()
    visitor.send(request("GET", "/long-poll"))
    await scene.client.next("http_request")
    before = scene.server.status()["reads"]
    visitor.send(request("GET", "/next"))
    await eventually(lambda: scene.server.status()["reads"] > before)
    visitor.reset()
    await eventually(lambda: scene.server.status()["active_requests"] == 0)
    await served(scene)


async def test_a_websocket_that_breaks_off_beyond_its_credit(scene: Scene) -> None:
    """Writing to it fails, and then it is not read, for the far side has given no credit: it is gone all the same."""
    visitor = scene.visitor()
    key = base64.b64encode(bytes(16)).decode()
    visitor.send(request("GET", "/", *UPGRADE, f"Sec-WebSocket-Key: {key}"))
    asked = (await scene.client.next("ws_request")).request_id
    accepted = wire.WebSocketResponse(status_code=101, accepted=True)
    scene.client.put(request_id=asked, protocol_type=wire.WEBSOCKET, ws_response=accepted)
    await visitor.until(b"\r\n\r\n")
    left = 2**20 - 1000  # of the credit that register() gives
    while left:
        size = min(left, 30_000)
        visitor.send(frame(BINARY, bytes(size), mask=bytes(4)))
        await scene.client.next("ws_frame")
        left -= size
    data = wire.WebSocketFrame(opcode=BINARY, fin=True, payload=bytes(20_000))
    scene.client.put(request_id=asked, protocol_type=wire.WEBSOCKET, ws_frame=data)
    visitor.send(frame(BINARY, bytes(5000), mask=bytes(4)))
    visitor.reset()
    await eventually(lambda: scene.server.status()["active_requests"] == 0)
    await served(scene)


async def test_a_connection_to_a_backend_that_broke_is_not_kept(stack: AsyncExitStack) -> None:
    """Its answer came before it broke off. The next request, of another tunnel, in the same turn gets a new one."""
    one, two = await client_scenes(stack, connections=2)
    one.ask(1, method="POST", url="/", body=b"begin", headers=fields(("content-length", "20005")))
    kept = await one.accept()
    await kept.until(b"\r\n\r\nbegin")
    one.ask(1, body=bytes(20_000), sequence_number=1, is_last_chunk=True)
    kept.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
    kept.reset()
    two.ask(2, method="POST", url="/second", is_last_chunk=True, body=b"hi")
    assert (await one.end.next("http_response")).http_response.status_code == 413
    again = await two.accept()
    assert (await again.until(b"\r\n\r\nhi")).startswith(b"POST /second ")
    again.sock.close()


async def test_dialling_ends_with_the_client(stack: AsyncExitStack) -> None:
    """A backend that does not take its connection holds nothing up when the client is stopped."""
    listener = socket.socket()
    stack.callback(listener.close)
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    full = [socket.socket() for _ in range(3)]
    for sock in full:
        stack.callback(sock.close)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(address)
    server = await start_server(stack)
    client = await start_client(stack, server.tunnel, [f"http://127.0.0.1:{address[1]}"])
    visitor = await connect(stack, *server.address)
    await visitor.send(request("GET", "/"))
    await eventually(lambda: client.status()["active_requests"] == 1)
    await client.stop(0)
    assert (await visitor.answer()).status == 502


async def test_urgent_data_does_not_end_what_is_read(scene: Scene) -> None:
    """A read stops where it lies (RFC 6093), though there is more; the urgent byte itself is not of the stream."""
    visitor = scene.visitor()
    visitor.send(b"GET /first HTTP/1.1\r\nHo")
    assert visitor.sock.send(b"!", socket.MSG_OOB) == 1
    visitor.send(b"st: public.example\r\n\r\n")
    assert (await scene.client.next("http_request")).http_request.url == "/first"
    visitor.reset()


async def test_a_kept_connection_that_broke_as_the_next_request_came(client_scene: ClientScene) -> None:
    """It is not taken for that request, though nobody has been told yet that it is gone."""
    client_scene.ask(1, method="GET", url="/first", is_last_chunk=True)
    kept = await client_scene.accept()
    await kept.until(b"\r\n\r\n")
    kept.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
    assert (await client_scene.end.next("http_response")).http_response.body == b"first"
    await client_scene.all_read()
    kept.reset()
    client_scene.ask(2, method="POST", url="/second", is_last_chunk=True, body=b"hi")
    again = await client_scene.accept()
    assert (await again.until(b"\r\n\r\nhi")).startswith(b"POST /second ")
    again.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await client_scene.end.next("http_response")).http_response.status_code == 204
    again.sock.close()
