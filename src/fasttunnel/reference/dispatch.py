"""Requests on a tunnel: which message belongs to which, in which order, and how much of it.

A `Dispatcher` is one tunnel as either end sees it. Everything that comes goes through `handle_tunnel_message`; what
requests send goes out in the order in which it was sent. An `Exchange` is one request: it checks order and credit of
what comes, counts what leaves, and hands both to the coroutines that serve the two sockets.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from fasttunnel import limits
from fasttunnel.errors import ANSWERS, ResetCode
from fasttunnel.reference.grpc_streams import BadStream, Flow, GrpcStreamManager
from fasttunnel.wire import tunnel_pb2 as pb

OUTGOING_BYTES = 262_144  # beyond this, sources wait until the tunnel has taken some
KILL_S = 2.0  # for what a reset request still has to write, before its socket is cut
REMEMBERED = 1024  # ended requests whose late messages are dropped without an answer

PAYLOADS: dict[type, str] = {
    pb.HttpRequest: "http_request",
    pb.HttpResponse: "http_response",
    pb.GrpcRequest: "grpc_request",
    pb.GrpcResponse: "grpc_response",
    pb.WebSocketRequest: "ws_request",
    pb.WebSocketResponse: "ws_response",
    pb.WebSocketFrame: "ws_frame",
}
OPENING = {"http_request": pb.HTTP, "grpc_request": pb.GRPC, "ws_request": pb.WEBSOCKET}
PREFIXES: dict[int, str] = {pb.HTTP: "h", pb.GRPC: "g", pb.WEBSOCKET: "ws"}

_numbers = itertools.count(1)  # request_ids are unique in the process


class RequestReset(Exception):
    """The request has ended abnormally, or (NO_ERROR) nothing more of it is wanted."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = ResetCode(code) if code in ANSWERS else ResetCode.PROTOCOL_ERROR
        self.text = text

    @property
    def explanation(self) -> str:
        """What happened, for a person: the sender's words, or those of the code."""
        return self.text or ANSWERS[self.code].text


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs, and wait for it; what they raised has been dealt with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Exchange:
    """One request at this end: an HTTP exchange, a call or a WebSocket connection."""

    def __init__(self, dispatcher: Dispatcher, request_id: str, protocol: int, direction: int) -> None:
        self.dispatcher = dispatcher
        self.request_id = request_id
        self.protocol = protocol
        self.direction = direction  # of what is sent
        if protocol == pb.GRPC:
            stream = dispatcher.grpc_streams.open(request_id)
            self.sending, self.receiving = stream.sending, stream.receiving
        else:
            self.sending, self.receiving = Flow(), Flow()
        self.max_fragment = dispatcher.max_fragment
        self.grpc_stream_id = 0
        self.failure: RequestReset | None = None
        self.task: asyncio.Task[Any] | None = None  # who serves it; cut off when it does not end after a reset
        self._inbox: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self._send_credit = dispatcher.peer_window
        self._receive_credit = dispatcher.local_window
        self._ungranted = 0
        self._credit_came = asyncio.Event()
        self._ended = asyncio.Event()
        self._inside = False  # a frame or message of which more fragments have to come
        # For the record of the request:
        self.label: tuple[str, str, str] = ("", "", "")
        self.status = 0
        self.reset_code: int | None = None
        self.messages_sent = self.messages_received = self.bytes_sent = self.bytes_received = 0
        self._started_s = time.monotonic()

    # -- towards the tunnel

    @property
    def room(self) -> int:
        """Payload bytes of one message that may be sent now."""
        return max(0, min(self._send_credit, self.max_fragment))

    async def credit(self) -> int:
        """Wait until payload may be sent: how many bytes of it. Raises RequestReset."""
        while True:
            self._check()
            if self._send_credit <= 0:
                self._credit_came.clear()
                await self._credit_came.wait()
            elif not self.dispatcher.writable.is_set():
                await self.dispatcher.writable.wait()
            else:
                return self.room

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def send(self, payload: Any) -> None:
        """Send one message; its body has been kept within credit(). Sequence numbers are filled in here."""
        if self.dispatcher.requests.get(self.request_id) is not self:
            return
        if isinstance(payload, pb.WebSocketFrame):
            size = len(payload.payload)
            payload.connection_id, payload.frame_direction = self.request_id, self.direction  # type: ignore[assignment]
            self._send_credit -= size if payload.opcode < 8 else 0
            self.messages_sent += not payload.more
            self.sending.closed = payload.opcode == 8
        elif isinstance(payload, pb.WebSocketRequest | pb.WebSocketResponse):
            size = 0
            self.sending.opened = True
        else:
            size = len(payload.body)
            payload.sequence_number = self.sending.next_sequence
            informational = isinstance(payload, pb.HttpResponse) and payload.informational
            self.sending.take(
                payload.sequence_number,
                first=payload.is_first_chunk,
                last=payload.is_last_chunk,
                informational=informational,
            )
            self._send_credit -= size
            if self.protocol == pb.GRPC:
                payload.grpc_stream_id = self.grpc_stream_id
                self.messages_sent += payload.HasField("body") and not payload.more
            else:
                self.messages_sent += 1
        self.bytes_sent += size
        self._send(**{PAYLOADS[type(payload)]: payload})

    def _send(self, **payload: Any) -> None:
        self.dispatcher.send(
            pb.TunnelMessage(
                request_id=self.request_id,
                direction=self.direction,  # type: ignore[arg-type]
                protocol_type=self.protocol,  # type: ignore[arg-type]
                **payload,
            )
        )

    # -- from the tunnel

    async def receive(self) -> Any:
        """The next message, in order. Raises RequestReset when the request has ended and nothing is left."""
        while not self._inbox:
            self._check()
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    async def failed(self) -> None:
        """Returns never: raises RequestReset when the request ends abnormally."""
        while True:
            self._check()
            self._ended.clear()
            await self._ended.wait()

    def deliver(self, kind: str, message: Any) -> None:
        """A message of this request has come."""
        is_frame = kind == "ws_frame"
        body = message.payload if is_frame else b"" if kind == "ws_request" else message.body
        cost = 0 if (is_frame and message.opcode >= 8) or kind == "ws_response" else len(body)
        try:
            if kind not in self._expected():
                raise BadStream("message of another kind than the request")
            if is_frame:
                if self.receiving.closed:
                    return  # RFC 6455 5.5.1: what follows a Close frame is not processed
                if not self.receiving.opened:
                    raise BadStream("WebSocket frame before the handshake")
                self.receiving.closed = message.opcode == 8
            elif kind.startswith("ws_"):
                if self.receiving.opened:
                    raise BadStream("a second handshake")
                self.receiving.opened = True
            else:
                self.receiving.take(
                    message.sequence_number,
                    first=message.is_first_chunk,
                    last=message.is_last_chunk,
                    informational=kind == "http_response" and message.informational,
                )
            if cost > self._receive_credit:
                return self.reset(ResetCode.FLOW_CONTROL_ERROR, "payload beyond the window")
            fragmented = (is_frame and message.opcode < 8) or self.protocol == pb.GRPC
            if fragmented:
                if self._inside and (message.payload_length if is_frame else message.message_length):
                    raise BadStream("new message inside an unfinished one")
                self._inside = message.more
        except BadStream as error:
            return self.reset(ResetCode.PROTOCOL_ERROR, str(error))
        self._receive_credit -= cost
        self.bytes_received += len(body)
        whole = is_frame or (self.protocol == pb.GRPC and message.HasField("body"))
        self.messages_received += self.protocol == pb.HTTP or (whole and not message.more)
        self._inbox.append(message)
        self._arrived.set()

    def _expected(self) -> tuple[str, ...]:
        requests = self.direction == pb.SERVER_TO_CLIENT  # what comes is requests: this is the backend's end
        if self.protocol == pb.HTTP:
            return ("http_request",) if requests else ("http_response",)
        if self.protocol == pb.GRPC:
            return ("grpc_request",) if requests else ("grpc_response",)
        return ("ws_frame", "ws_request" if requests else "ws_response")

    @property
    def first(self) -> Any:
        """The message that opens the request, while nobody has received it."""
        return self._inbox[0]

    @property
    def duration_s(self) -> float:
        return time.monotonic() - self._started_s

    def granted(self, count: int) -> None:
        """The peer grants `count` more payload bytes."""
        if self._send_credit + count > limits.MAX_WINDOW_BYTES:
            return self.reset(ResetCode.FLOW_CONTROL_ERROR, "window above 2^31-1")
        self._send_credit += count
        self._credit_came.set()

    def consumed(self, count: int) -> None:
        """`count` payload bytes have been handed to the socket: grant them again, half a window at a time."""
        self._ungranted += count
        if self.receiving.closed or self._ungranted * 2 < self.dispatcher.local_window:
            return
        self._receive_credit += self._ungranted
        self._send(window_update=pb.WindowUpdate(bytes=self._ungranted))
        self._ungranted = 0

    # -- the end

    def reset(self, code: ResetCode, text: str = "", *, seen_as: ResetCode | None = None) -> None:
        """This end gives up (or, with NO_ERROR, its answer is complete): tell the peer, and finish.

        Who serves the request here sees RequestReset, with the code `seen_as` where that is another one.
        """
        if self.dispatcher.requests.get(self.request_id) is not self:
            return
        self._send(reset=pb.Reset(code=int(code), message=text))  # type: ignore[arg-type]
        self._inbox.clear()
        self.fail(seen_as or code, text, reset_code=code)

    def fail(self, code: int, text: str, *, reset_code: int | None = None) -> None:
        """The peer, the loss of the tunnel, or reset() ends the request. What has come before is still served."""
        self.failure = RequestReset(code, text)
        self.reset_code = int(code if reset_code is None else reset_code)
        self.finish()
        for event in (self._arrived, self._credit_came, self._ended):
            event.set()
        if self.task is not None and code != ResetCode.NO_ERROR:
            asyncio.get_running_loop().call_later(KILL_S, self.task.cancel)

    def finish(self) -> None:
        """Nothing more will be sent or received. Calling it again does nothing."""
        self.dispatcher.retire(self)


class Dispatcher:
    """One tunnel: the map request_id -> request, and the queue of what leaves.

    `on_request(exchange)` serves a request that the peer opens (only the client's end has one), `on_control(message)`
    takes the rest, `on_idle()` is called when a request ends and none is left.
    """

    def __init__(
        self,
        *,
        on_control: Callable[[pb.TunnelMessage], None],
        on_request: Callable[[Exchange], None] | None = None,
        on_idle: Callable[[], None] = lambda: None,
        on_record: Callable[[Exchange], None] | None = None,
    ) -> None:
        self.requests: dict[str, Exchange] = {}
        self.grpc_streams = GrpcStreamManager()
        self.outgoing: asyncio.Queue[pb.TunnelMessage] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()
        self.up = False  # registered: requests may be carried
        self.draining = False
        self.peer_window = self.local_window = limits.INITIAL_WINDOW_BYTES
        self.max_fragment = limits.FRAGMENT_BYTES
        self.opened = self.messages_sent = self.messages_received = 0
        self.on_record = on_record
        self._on_control = on_control
        self._on_request = on_request
        self._on_idle = on_idle
        self._queued_bytes = 0
        self._ended: OrderedDict[str, None] = OrderedDict()

    def start(self, peer_window: int, local_window: int, max_fragment: int) -> None:
        """The two ends have agreed (Register, Registered). All in bytes."""
        self.peer_window = min(peer_window or limits.INITIAL_WINDOW_BYTES, limits.MAX_WINDOW_BYTES)
        self.local_window = local_window
        self.max_fragment = min(max_fragment, limits.FRAGMENT_BYTES)
        self.up = True

    def open(self, protocol: int) -> Exchange:
        """Server: a new request begins; its id is made here."""
        return self._add(f"{PREFIXES[protocol]}-{next(_numbers):x}", protocol, pb.CLIENT_TO_SERVER)

    def _add(self, request_id: str, protocol: int, direction: int) -> Exchange:
        exchange = self.requests[request_id] = Exchange(self, request_id, protocol, direction)
        self.opened += 1
        return exchange

    def handle_tunnel_message(self, message: pb.TunnelMessage) -> None:
        """Whatever the tunnel brings: control messages go to the engine, all others to their request."""
        self.messages_received += 1
        kind = message.WhichOneof("payload")
        exchange = self.requests.get(message.request_id)
        if kind is None or kind == "tcp_data":
            return  # a message of a later version
        if kind in ("register", "registered", "heartbeat", "go_away"):
            self._on_control(message)
        elif kind == "reset":
            if exchange is not None:
                exchange.fail(message.reset.code, message.reset.message)
        elif kind == "window_update":
            if exchange is not None:
                exchange.granted(message.window_update.bytes)
        elif exchange is not None:
            exchange.deliver(kind, getattr(message, kind))
        else:
            self._unknown(kind, message)

    def _unknown(self, kind: str, message: pb.TunnelMessage) -> None:
        """Not in the map: the client's end opens a request that begins here; late messages are dropped."""
        payload = getattr(message, kind)
        begins = kind == "ws_request" or (kind in OPENING and payload.is_first_chunk)
        if self._on_request and begins and self.up and not self.draining and message.request_id:
            exchange = self._add(message.request_id, OPENING[kind], pb.SERVER_TO_CLIENT)
            exchange.deliver(kind, payload)
            self._on_request(exchange)
        elif message.request_id not in self._ended:
            self._remember(message.request_id)
            code = ResetCode.OVERLOADED if self.draining else ResetCode.PROTOCOL_ERROR
            self.send(
                pb.TunnelMessage(
                    request_id=message.request_id,
                    direction=pb.SERVER_TO_CLIENT if self._on_request else pb.CLIENT_TO_SERVER,
                    protocol_type=message.protocol_type,
                    reset=pb.Reset(code=int(code), message="unknown request_id"),  # type: ignore[arg-type]
                )
            )

    def _remember(self, request_id: str) -> None:
        self._ended[request_id] = None
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def retire(self, exchange: Exchange) -> None:
        """A request has ended."""
        if self.requests.get(exchange.request_id) is not exchange:
            return
        del self.requests[exchange.request_id]
        self.grpc_streams.close(exchange.request_id)
        self._remember(exchange.request_id)
        if self.on_record is not None:
            self.on_record(exchange)
        if not self.requests:
            self._on_idle()

    def fail_all(self, code: ResetCode, text: str) -> None:
        """The tunnel is gone: every request on it fails, once."""
        self.up = False
        for exchange in list(self.requests.values()):
            exchange.fail(code, text)
        self.writable.set()

    # -- what leaves

    def send(self, message: pb.TunnelMessage) -> None:
        self.messages_sent += 1
        self._queued_bytes += message.ByteSize()
        if self._queued_bytes > OUTGOING_BYTES and self.up:
            self.writable.clear()
        self.outgoing.put_nowait(message)

    async def next_outgoing(self) -> pb.TunnelMessage:
        """For the carrier: what is to be written next."""
        message = await self.outgoing.get()
        self._queued_bytes -= message.ByteSize()
        if self._queued_bytes <= OUTGOING_BYTES:
            self.writable.set()
        return message
