"""Either end of the tunnel in plain grpc.aio: tests read and write the TunnelMessages themselves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc

from fasttunnel.wire import tunnel_pb2 as wire
from fasttunnel.wire.tunnel_pb2_grpc import (
    TunnelServiceServicer,
    TunnelServiceStub,
    add_TunnelServiceServicer_to_server,
)
from tests.support.tunnel import WAIT_S

Message = Any  # wire.TunnelMessage

WINDOW = 262_144
FRAGMENT = 65_536


class StockEnd:
    """One end: what has come, in order, and what is to be sent. Heartbeats are answered and kept apart."""

    def __init__(self) -> None:
        self._outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
        self._incoming: asyncio.Queue[Message | None] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[Message] = asyncio.Queue()
        self.answer_heartbeats = True
        self.grant = True  # give credit back for all payload as it comes
        self.granted: dict[str, int] = {}  # by request_id: what the other end has granted

    def send(self, request_id: str = "", **fields: Any) -> None:
        """Send a TunnelMessage; the protocol type follows from the payload."""
        kind = next(iter(fields))
        protocol = {"http": wire.HTTP, "grpc": wire.GRPC, "ws": wire.WEBSOCKET}.get(kind.split("_")[0], wire.CONTROL)
        self.send_message(wire.TunnelMessage(request_id=request_id, protocol_type=protocol, **fields))

    def send_message(self, message: Message) -> None:
        self._outgoing.put_nowait(message)

    def close(self) -> None:
        """No more messages from this side."""
        self._outgoing.put_nowait(None)

    async def next(self, *kinds: str) -> Message:
        """The next message, which has to be of one of these kinds. Credit and heartbeats are no messages here."""
        async with asyncio.timeout(WAIT_S):
            message = await self._incoming.get()
        assert message is not None, f"the tunnel has ended; {kinds} was expected"
        assert message.WhichOneof("payload") in kinds, message
        return message

    async def ended(self) -> None:
        """Wait for the end of the stream; nothing else may come before."""
        async with asyncio.timeout(WAIT_S):
            message = await self._incoming.get()
        assert message is None, message

    async def outgoing(self) -> AsyncIterator[Message]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def take(self, messages: AsyncIterator[Message]) -> None:
        """Sort what comes."""
        try:
            async for message in messages:
                self._sort(message)
        finally:
            self._incoming.put_nowait(None)

    def _sort(self, message: Message) -> None:
        kind = message.WhichOneof("payload")
        if kind == "heartbeat":
            self.heartbeats.put_nowait(message)
            if self.answer_heartbeats and not message.heartbeat.reply:
                self.send(heartbeat=wire.Heartbeat(nonce=message.heartbeat.nonce, reply=True))
            return
        if kind == "window_update":
            self.granted[message.request_id] = self.granted.get(message.request_id, 0) + message.window_update.bytes
            return
        payload = payload_of(message)
        if payload and self.grant:
            self.send(message.request_id, window_update=wire.WindowUpdate(bytes=len(payload)))
        self._incoming.put_nowait(message)


def payload_of(message: Message) -> bytes:
    """What counts against the window."""
    kind = message.WhichOneof("payload")
    if kind in ("http_request", "http_response", "grpc_request", "grpc_response"):
        return bytes(getattr(message, kind).body)
    if kind == "ws_frame" and message.ws_frame.opcode < 8:
        return bytes(message.ws_frame.payload)
    return b""


# -- a client


class StockClient(StockEnd):
    """A client of the tunnel. `call` is the gRPC call, for its status."""

    call: Any


async def dial(stack: AsyncExitStack, server: str, token: str | None = None) -> StockClient:
    """Open the call, and send nothing yet."""
    client = StockClient()
    channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(server, options=[("grpc.use_local_subchannel_pool", 1)])
    )
    metadata = [("authorization", f"Bearer {token}")] if token else None
    client.call = TunnelServiceStub(channel).Connect(client.outgoing(), metadata=metadata)
    taking = asyncio.ensure_future(client.take(client.call))
    taking.add_done_callback(lambda task: task.cancelled() or task.exception())  # the status is in `call`
    stack.callback(taking.cancel)
    return client


def register(*routes: Message, **fields: Any) -> Message:
    """A Register with usual values; without routes it is everything."""
    usual = {"version": 1, "initial_window": WINDOW, "max_fragment": FRAGMENT, "instance_id": "stock-1", **fields}
    return wire.Register(routes=routes or [wire.Route()], **usual)


async def dial_and_register(
    stack: AsyncExitStack, server: str, *routes: Message, **fields: Any
) -> tuple[StockClient, Message]:
    """A client that has been accepted, and the Registered that it got."""
    client = await dial(stack, server)
    client.send(register=register(*routes, **fields))
    return client, (await client.next("registered")).registered


# -- a server


class StockServer(TunnelServiceServicer):  # type: ignore[misc]
    """Accepts clients; each becomes a StockEnd whose first message, Register, is still to be read."""

    def __init__(self) -> None:
        self.address = ""
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.metadata: list[dict[str, str]] = []  # of each call
        self._accepted: asyncio.Queue[StockEnd] = asyncio.Queue()

    async def Connect(self, request_iterator: Any, context: Any) -> AsyncIterator[Message]:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusal is not None:
            await context.abort(*self.refusal)
        end = StockEnd()
        self._accepted.put_nowait(end)
        taking = asyncio.ensure_future(end.take(request_iterator))
        try:
            async for message in end.outgoing():
                yield message
        finally:
            taking.cancel()

    async def accept(self) -> StockEnd:
        """The next client that dials."""
        async with asyncio.timeout(WAIT_S):
            return await self._accepted.get()

    async def accept_and_register(self, **fields: Any) -> tuple[StockEnd, Message]:
        """The next client, once it has registered and been told so; its Register message."""
        end = await self.accept()
        first = await end.next("register")
        usual = {"session_id": "s1", "client_id": first.client_id or "c1", "routes": first.register.routes}
        limits = {"initial_window": WINDOW, "max_fragment": FRAGMENT, "heartbeat_interval_ms": 10_000}
        end.send(registered=wire.Registered(**{**usual, **limits, **fields}))
        return end, first


async def start_stock_server(stack: AsyncExitStack) -> StockServer:
    stock = StockServer()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_TunnelServiceServicer_to_server(stock, server)  # type: ignore[no-untyped-call]
    stock.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return stock


def fields(*pairs: tuple[str, str]) -> list[Message]:
    """Headers of a message."""
    return [wire.Header(name=name, value=value.encode("latin-1")) for name, value in pairs]


def pairs(headers: Any) -> list[tuple[str, str]]:
    """The same the other way round, names in lower case."""
    return [(header.name.lower(), header.value.decode("latin-1")) for header in headers]
