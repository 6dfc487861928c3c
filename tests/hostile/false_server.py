"""A server of the tunnel that an attack plays: a client of ours dials it twice.

On its first connection others are served; its second one, which it dials again as often as it ends, is the attack's.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from fasttunnel.wire import tunnel_pb2 as wire
from tests.hostile.others import BODY, CALLS, WEB, Others
from tests.hostile.processes import Process
from tests.hostile.site import TOKEN, Port, Site
from tests.hostile.tunnels import UP, message
from tests.support.frames import BINARY
from tests.support.grpc_peers import Note
from tests.support.http2 import GoingOn
from tests.support.http2_wires import message as prefixed
from tests.support.http2_wires import messages as unprefixed
from tests.support.raw import Peer
from tests.support.tunnel import WAIT_S

Message = Any  # wire.TunnelMessage
PLAYED = ("played by the attack",)  # instead of the options of a server
ROOM = 2**20
NOTES = Note.DESCRIPTOR.file.services_by_name["Echo"].full_name
_numbers = itertools.count(1)


class Line:
    """A client's connection and its call."""

    def __init__(self, peer: Peer, stack: AsyncExitStack) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
        self.protocol = h2.connection.H2Connection(config)
        self.protocol.state_machine = GoingOn()
        self.messages: list[Message] = []
        self.closed = self.pinged = False
        self.stream = 0
        self._rest = b""
        self._news = asyncio.Event()
        self.protocol.initiate_connection()
        self.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: ROOM})
        self.protocol.increment_flow_control_window(2**30)
        self.write()
        reading = asyncio.ensure_future(self._read())
        stack.callback(reading.cancel)

    def write(self) -> None:
        if (data := self.protocol.data_to_send()) and not self.peer.writer.is_closing():
            self.peer.writer.write(data)

    async def _read(self) -> None:
        try:
            while data := await self.peer.reader.read(2**18):
                for event in self.protocol.receive_data(data):
                    self._take(event)
                self.write()
                self._news.set()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        self.closed = True
        self._news.set()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.stream = event.stream_id
            # At once: the asyncio engine waits for it, for a while, before it registers.
            self.protocol.send_headers(self.stream, [(":status", "200"), ("content-type", "application/grpc")])
        elif isinstance(event, h2.events.PingAckReceived):
            self.pinged = True
        elif isinstance(event, h2.events.StreamReset | h2.events.StreamEnded):
            self.closed = True
        elif isinstance(event, h2.events.DataReceived):
            self.protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            found, self._rest = unprefixed(self._rest + event.data)
            self.messages += [wire.TunnelMessage.FromString(each) for _, each in found]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def next(self, *kinds: str, request_id: str | None = None) -> Message:
        """The next message of one of these kinds, and of this request if one is named; others stay."""

        def wanted(each: Message) -> bool:
            return each.WhichOneof("payload") in kinds and request_id in (None, each.request_id)

        await self.until(lambda: self.closed or any(map(wanted, self.messages)))
        found = next(filter(wanted, self.messages), None)
        assert found is not None, f"the client has gone; {kinds} was expected"
        self.messages.remove(found)
        return found

    async def lives(self) -> bool:
        """Whether there is still somebody: the client gives up what has waited for too long to be accepted."""
        self.protocol.ping(bytes(8))
        self.write()
        await self.until(lambda: self.closed or self.pinged)
        return not self.closed

    async def ended(self) -> None:
        """The client has ended the tunnel."""
        await self.until(lambda: self.closed)

    def accept(self, **fields: Any) -> None:
        """Take the registration."""
        usual = {"session_id": "s", "client_id": "c", "heartbeat_interval_ms": 600_000}
        self._send(prefixed(message(registered=wire.Registered(**{**usual, **fields}))))

    async def send(self, *messages: bytes) -> None:
        """Messages, as the client's windows allow."""
        data = b"".join(map(prefixed, messages))
        while data:
            await self.until(lambda: self.closed or self.protocol.local_flow_control_window(self.stream))
            if self.closed:
                return
            room = self.protocol.local_flow_control_window(self.stream)
            self._send(data[:room])
            data = data[room:]

    def _send(self, data: bytes) -> None:
        size = self.protocol.max_outbound_frame_size
        for at in range(0, len(data), size):
            self.protocol.send_data(self.stream, data[at : at + size])
        self.write()

    async def ask(self, request_id: str, **payload: Any) -> None:
        """A message of a request, towards the backend."""
        await self.send(message(request_id, direction=UP, **payload))

    async def caught_up(self) -> None:
        """Returns when the client has read all that was sent."""
        nonce = next(_numbers)
        await self.send(message(heartbeat=wire.Heartbeat(nonce=nonce)))
        while (await self.next("heartbeat")).heartbeat != wire.Heartbeat(nonce=nonce, reply=True):
            pass


class FalseServer:
    """Listens where the client dials."""

    def __init__(self, stack: AsyncExitStack, port: Port) -> None:
        self._stack = stack
        self._port = port
        self._lines: dict[int, asyncio.Queue[Line]] = {0: asyncio.Queue(), 1: asyncio.Queue()}
        self._raw: asyncio.Future[Peer] | None = None
        self._peers: list[Peer] = []
        self._over = False

    async def start(self) -> None:
        server = await asyncio.start_server(self._take, sock=self._port.copy())
        self._stack.push_async_callback(self._stop, server)

    async def _stop(self, server: asyncio.Server) -> None:
        """The client dials again at once: what it has just opened is closed as well, before the loop is."""
        server.close()
        self._over = True
        for peer in self._peers:
            peer.writer.transport.abort()
            await peer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        if self._over:
            return writer.transport.abort()
        self._peers.append(peer)
        if self._raw is not None and not self._raw.done():
            return self._raw.set_result(peer)
        line = Line(peer, self._stack)
        try:
            number = (await line.next("register")).register.connection
        except (AssertionError, TimeoutError, asyncio.CancelledError):
            return
        self._lines[number].put_nowait(line)

    async def first(self) -> Line:
        return await self._next(0)

    async def dialled(self) -> Line:
        """The client's second connection: it has sent its Register, and was not answered."""
        return await self._next(1)

    async def _next(self, number: int) -> Line:
        while True:
            async with asyncio.timeout(WAIT_S):
                line = await self._lines[number].get()
            if await line.lives():
                return line

    async def dialled_again(self) -> None:
        """The same, and it is left to the next who asks for it."""
        self._lines[1].put_nowait(await self.dialled())

    async def raw(self) -> Peer:
        """The same, nothing read and nothing said."""
        self._raw = asyncio.get_running_loop().create_future()
        waiting = self._lines[1]
        while not self._raw.done():
            if not waiting.empty():
                waiting.get_nowait().peer.drop()
            await asyncio.wait([self._raw], timeout=0.01)
        return await self._raw


class TunnelOthers(Others):
    """Requests that the hostile server passes on as they should be."""

    def __init__(self, port: Port) -> None:
        super().__init__("", 0)
        self.server = FalseServer(self._stack, port)

    async def start(self) -> None:
        await self.server.start()
        self._line = await self.server.first()
        self._line.accept()
        await self._line.ask("ws", ws_request=wire.WebSocketRequest(url="/websocket", host=WEB))
        assert (await self._line.next("ws_response", request_id="ws")).ws_response.accepted
        await self.round()

    async def round(self) -> None:
        line, number = self._line, next(_numbers)
        ends = {"is_first_chunk": True, "is_last_chunk": True}
        asked = wire.HttpRequest(method="POST", url="/echo", host=WEB, scheme="http", body=BODY, **ends)
        await line.ask(f"h{number}", http_request=asked)
        body, last = b"", False
        while not last:
            answer = (await line.next("http_response", request_id=f"h{number}")).http_response
            assert not answer.is_first_chunk or answer.status_code == 200
            body, last = body + answer.body, answer.is_last_chunk
        assert body == BODY
        frame = wire.WebSocketFrame(fin=True, opcode=BINARY, masked=True, payload=BODY)
        await line.ask("ws", ws_frame=frame)
        assert (await line.next("ws_frame", request_id="ws")).ws_frame.payload == BODY[::-1]
        for kind in ("ws", f"h{number}"):
            await line.send(message(kind, window_update=wire.WindowUpdate(bytes=len(BODY))))
        note = Note(number=7, data=BODY)
        called = wire.GrpcRequest(service=NOTES, method="Unary", authority=CALLS, body=note.SerializeToString(), **ends)
        await line.ask(f"g{number}", grpc_request=called)
        got, last = b"", False
        while not last:
            reply = (await line.next("grpc_response", request_id=f"g{number}")).grpc_response
            got, last = got + reply.body, reply.is_last_chunk
        assert (reply.status_code, Note.FromString(got)) == (0, note)
        self._line.messages.clear()
        self.rounds += 1


class ClientSite(Site):
    """A client alone: the attack plays its server."""

    def __init__(self, engine: str, backends: Process, options: Mapping[str, Sequence[str]]) -> None:
        self.engine = engine
        self.web, self.calls, self.dialled = Port(), Port(), Port()
        routes = self._routes(*backends.line(r"(http://\S+) (grpc://\S+)").groups())
        quick = ["--set", "backoff_min_s=0.01", "--set", "backoff_max_s=0.05", "--connections", "2"]
        client = [
            "client",
            "--no-check",
            "--engine",
            engine,
            "--server",
            self.dialled.address,
            *quick,
            *options["client"],
            *routes,
        ]
        self.client = Process("fasttunnel", *client, token=TOKEN)
        self.ends = (self.client,)

    def others(self) -> Others:
        others = TunnelOthers(self.dialled)
        self.played = others.server
        return others

    def close(self) -> None:
        super().close()
        self.dialled.close()
