"""What targets that play whole connections share: the engines, plain sockets on either side, and the end of each input.

After each input no request may be left at either end, nothing may have been complained of, and a canary, a request that
has nothing to do with it, is answered.
"""

import asyncio
import contextlib
import gc
import io
import logging
import random
import re
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
import uvloop

import fasttunnel
from fasttunnel._core import KernelError, WebSocketParser
from tests.fuzz.mutate import http2_frames
from tests.fuzz.target import Finding, Target
from tests.support.cells import Complaints
from tests.support.frames import accept_key, frame, parse_frames
from tests.support.http2_wires import message
from tests.support.leaks import exchanges
from tests.support.raw import answer, request
from tests.support.tunnel import Recorder, start_client, start_server
from tests.support.wires import finals, parse_answers, parse_requests

PATIENCE_S = 10.0  # what takes longer hangs
CANARY_HOST = "canary.example"
UNLAWFUL = (-3, -4, -7, -8, -11)  # WsResult: opcode, RSV, continuation, interrupted, close
CANARY = request("GET", "/canary", host=CANARY_HOST)
MARK_START = "MARK / HTTP/1.1"
MARK = MARK_START.encode() + b"\r\n\r\n"
# Which nobody notices: a tunnel that is lost is there again for the next input.
PAUSES = {"backoff_min_s": 0.001, "backoff_max_s": 0.002}
BUFFERED_BYTES = 8 << 20  # that an end may hold when nothing is under way


class Line(asyncio.Protocol):
    """One connection; everything that comes is kept."""

    transport: asyncio.Transport

    def __init__(self, stage: "Stage") -> None:
        self.data = bytearray()
        self.closed = False
        self._stage = stage
        self._news: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._stage.lines.add(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.came()
        self.wake()

    def eof_received(self) -> None:
        self.closed = True
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._stage.lines.discard(self)
        self.wake()

    def came(self) -> None:
        """Something has come."""

    def wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def until(self, condition: Callable[[], object], patience: float = PATIENCE_S) -> bool:
        """Wait for the condition, or the end of the connection; False when neither comes in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not (self.closed or condition()):
            left = deadline - loop.time()
            if left <= 0:
                return False
            self._news = loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news, left)
        return True

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    async def send_parts(self, chance: random.Random, parts: list[bytes]) -> None:
        """Each part by itself, and now and then a moment between them."""
        for part in parts:
            self.send(part)
            for _ in range(chance.choice((0, 1, 1, 3))):
                await asyncio.sleep(0)

    def half_close(self) -> None:
        if not self.transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()

    def cut(self) -> None:
        """With a RST."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.transport.abort()

    def end(self, way: int) -> None:
        """0: close, 1: half-close, 2: a RST, 3: nothing at all."""
        if way == 0:
            self.transport.close()
        elif way == 1:
            self.half_close()
        elif way == 2:
            self.cut()


class Web(Line):
    """A backend as it should be. It insists that what it is asked is sound to the byte."""

    def __init__(self, stage: "Stage") -> None:
        super().__init__(stage)
        self._answered = 0
        self._echoed = 0

    def came(self) -> None:
        if bytes(self.data[:4]) == b"PRI ":
            return
        messages = parse_requests(bytes(self.data))
        for each in messages[self._answered :]:
            if each.get("upgrade") == "websocket":
                self._talk(each.get("sec-websocket-key") or "")
                return
            if not each.complete:
                return
            self._answered += 1
            self.send(self._stage.reply)
        if messages and parse_requests(bytes(self.data) + MARK)[-1].start == MARK_START:
            self.data.clear()  # there is nothing behind them, and a connection is kept for thousands of requests
            self._answered = 0

    def _talk(self, key: str) -> None:
        if not self._echoed:
            self._echoed = 1
            upgrade = ["HTTP/1.1 101 x", "Upgrade: websocket", "Connection: Upgrade"]
            self.send("\r\n".join([*upgrade, f"Sec-WebSocket-Accept: {accept_key(key)}"]).encode() + b"\r\n\r\n")
        behind = bytes(self.data).partition(b"\r\n\r\n")[2]
        sound_frames(behind, masked=True, lawful=not self._stage.warns)
        frames = parse_frames(behind)
        for each in frames[self._echoed - 1 :]:
            self._echoed += 1
            self.send(frame(each.opcode, each.payload, fin=each.fin, rsv=each.rsv))
            if each.opcode == 8:
                self.half_close()


class Calls(Line):
    """A gRPC backend as it should be: it answers each message with the same, and ends with OK when the caller has."""

    def __init__(self, stage: "Stage") -> None:
        super().__init__(stage)
        config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=True)
        self._protocol = h2.connection.H2Connection(config)
        self._begun = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._protocol.initiate_connection()
        self.send(self._protocol.data_to_send())

    def came(self) -> None:
        data = bytes(self.data)
        self.data.clear()
        for event in self._protocol.receive_data(data):  # what it refuses is a finding
            self._take(event)
        self.send(self._protocol.data_to_send())

    def _take(self, event: Any) -> None:
        number = getattr(event, "stream_id", 0)
        # What its caller does may leave it no way to answer.
        with contextlib.suppress(h2.exceptions.ProtocolError):
            if isinstance(event, h2.events.RequestReceived):
                self._protocol.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
            elif isinstance(event, h2.events.DataReceived):
                self._protocol.acknowledge_received_data(event.flow_controlled_length, number)
                self._protocol.send_data(number, event.data[:16_384])
            elif isinstance(event, h2.events.StreamEnded):
                self._protocol.send_headers(number, [("grpc-status", "0")], end_stream=True)


def sound_frames(data: bytes, *, masked: bool, lawful: bool = True) -> None:
    """An engine passes on only frames that it would take itself; what is no frame at all it never writes.

    lawful: false behind a hostile end of the tunnel, of which nobody checks that frames make messages.
    """
    try:
        WebSocketParser(masked, rsv_allowed=True).feed(data)
    except KernelError as error:
        if not lawful and error.code in UNLAWFUL:
            return
        raise Finding(f"frames that are none were passed on: {error}: {data.hex()}") from error


def sound_answers(data: bytes, methods: Sequence[str] | None = None, *, lawful: bool = True) -> None:
    """What the public gets is HTTP/1.1 to the byte, one answer to a request; behind a 101 there are frames."""
    answers = parse_answers(data, methods or ())
    if methods is not None and len(finals(answers)) > len(methods):
        raise Finding(f"more answers than requests: {data!r}")
    if answers and answers[-1].status == 101:
        sound_frames(data.partition(b"HTTP/1.1 101")[2].partition(b"\r\n\r\n")[2], masked=False, lawful=lawful)


def sound_http2(data: bytes) -> None:
    """What an engine writes is HTTP/2: whole frames, with header blocks that can be decoded."""
    decoder, block = hpack.Decoder(), b""
    for each in http2_frames(data):
        length, kind, flags = int.from_bytes(each[:3], "big"), each[3] if len(each) > 3 else 0, each[4:5]
        if len(each) != 9 + length:
            return  # the end of what has come
        if length > 16_384 or kind > 9:
            raise Finding(f"a frame of {length} bytes, of type {kind}")
        if kind in (1, 9):
            block += each[9:]
            if flags[0] & 4:
                for name, value in decoder.decode(block, raw=True):
                    if not name or name != name.lower() or re.search(rb"[\r\n\0]", name + value):
                        raise Finding(f"a field {name!r}: {value!r}")
                block = b""


class Stage(Target):
    """A loop of its own, on which the engines live from one input to the next."""

    orders = False
    engine: ClassVar[str] = "cython"
    warns = False  # whether what is sent may be worth a warning, but for a traceback

    server: fasttunnel.Server
    client: fasttunnel.Client
    reply = answer("200 OK", "X-A: b", body=b"hello")

    def open(self) -> None:
        self.lines: set[Line] = set()
        self._complaints = Complaints()
        logging.getLogger().addHandler(self._complaints)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._take_unraisable
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._complain(repr(context)))
        self._stack = AsyncExitStack()
        self.events, self.client_events = Recorder(), Recorder()
        self._canary: Line | None = None
        self._do(self._open())
        self.before = exchanges()

    async def _open(self) -> None:
        self.canary_address = await self.listen(Web)
        await self.start()

    async def start(self) -> None:
        """Server and client, whose backend is the target's."""
        self.server = await start_server(self._stack, self.events, engine=self.engine, heartbeat_interval_s=600)
        routes = [*await self.routes(), f"{CANARY_HOST}=http://{self.canary_address}"]
        self.client = await self.dial(self.server.tunnel, routes)

    async def dial(self, address: str, routes: list[str], **options: Any) -> fasttunnel.Client:
        options = {"engine": self.engine, **PAUSES, **options}
        return await start_client(self._stack, address, routes, self.client_events, **options)

    async def routes(self) -> list[str]:
        """Of the client, beside that of the canary."""
        return [f"http://{await self.listen(Web)}", f"grpc://{await self.listen(Calls)}"]

    async def listen(self, make: Callable[["Stage"], asyncio.Protocol]) -> str:
        listener = await asyncio.get_running_loop().create_server(lambda: make(self), "127.0.0.1", 0)
        self._stack.callback(listener.close)
        return f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    async def public(self) -> Line:
        return await self.connect(*self.server.address)

    async def connect(self, host: str, port: int, secure: ssl.SSLContext | None = None) -> Line:
        _, line = await asyncio.get_running_loop().create_connection(lambda: Line(self), host, port, ssl=secure)
        return line

    def close(self) -> None:
        for line in list(self.lines):
            line.cut()
        self._do(self._stack.aclose())
        logging.getLogger().removeHandler(self._complaints)
        sys.unraisablehook = self._unraisable
        self._loop.close()

    def _take_unraisable(self, unraisable: Any) -> None:
        self._complain(f"{unraisable.err_msg}: {unraisable.exc_value!r} in {unraisable.object!r}")

    def _complain(self, text: str) -> None:
        self._complaints.texts.append(text)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    # -- an input

    def check(self, chance: random.Random, data: bytes) -> None:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            self._do(self._check(chance, data))
        if errors.getvalue():
            raise Finding(errors.getvalue())

    async def _check(self, chance: random.Random, data: bytes) -> None:
        for recorder in (self.events, self.client_events):
            recorder.lines.clear()
            recorder.warnings.clear()
        self._complaints.texts.clear()
        try:
            async with asyncio.timeout(3 * PATIENCE_S):
                await self.play(chance, data)
        finally:
            for line in list(self.lines):
                if line is not self._canary and not self.keeps(line):
                    line.cut()
        await self.settle()
        await self.sing()
        warnings = self.events.warnings + self.client_events.warnings
        if self.warns:
            warnings = [text for text in warnings if "Traceback" in text]
        if warnings or self._complaints.texts:
            raise Finding("\n".join(warnings + self._complaints.texts))

    def keeps(self, line: Line) -> bool:
        """Whether a connection outlives the input."""
        return isinstance(line, Web | Calls)

    async def play(self, chance: random.Random, data: bytes) -> None:
        """Have the input sent by whoever is hostile."""
        raise NotImplementedError

    async def settle(self) -> None:
        """No request is left at either end."""
        await self.eventually(
            lambda: exchanges() <= self.before, lambda: f"{exchanges() - self.before} requests are left"
        )

    async def eventually(self, condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        turns = 0
        while not condition():
            turns += 1
            await asyncio.sleep(0 if turns < 20 else 0.001)
            if loop.time() > deadline:
                gc.collect()
                raise Finding(complaint())

    async def sing(self) -> None:
        """The canary lives, and nobody holds much."""
        if self._canary is None or self._canary.closed:
            self._canary = await self.public()
        self._canary.data.clear()
        self._canary.send(CANARY)
        if not await self._canary.until(lambda: self._canary and b"hello" in self._canary.data):
            raise Finding("the canary got no answer")
        if not self._canary.data.startswith(b"HTTP/1.1 200 "):
            raise Finding(f"the canary got {bytes(self._canary.data)!r}, closed: {self._canary.closed}")
        self._canary.data.clear()
        for end in (self.server, self.client):
            held = end.status()
            if held["buffered_bytes"] > BUFFERED_BYTES or held["active_requests"]:
                raise Finding(f"held when nothing is under way: {held}")


GRPC_MESSAGES = message(b"one") + message(b"") + message(b"x" * 300, 1)
