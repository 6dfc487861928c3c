"""One request on a tunnel: the order and the credit of its messages, and how it ends (wire contract, "Flow control").

Both ends and all protocols use the same class. What comes is read with `receive()`, what goes out is sent with `send()`
after `ready()`. However a request ends, `receive()` tells, and only after everything that came before.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, NamedTuple, Protocol

from fasttunnel import limits
from fasttunnel.errors import ResetCode
from fasttunnel.reference.grpc_streams import GrpcStream
from fasttunnel.reference.messages import BadMessage, RequestReset, forever
from fasttunnel.reference.tally import Tallies
from fasttunnel.wire import tunnel_pb2 as pb

KILL_S = 2.0  # for what came before a reset to be written, before its socket is cut
LONG_WAY_S = 0.002  # below this round trip the first window is enough for 1 Gbit/s, and bursts mislead the tuning
INTERIM_MAX = 100  # informational answers to one request: they cost no credit
INTERIM_BYTES = 1024 * 1024  # of all of them
UNPAID_BYTES = 1024 * 1024  # messages that cost no credit, waiting to be read

KINDS: dict[type, str] = {
    pb.HttpRequest: "http_request",
    pb.HttpResponse: "http_response",
    pb.GrpcRequest: "grpc_request",
    pb.GrpcResponse: "grpc_response",
    pb.WebSocketRequest: "ws_request",
    pb.WebSocketResponse: "ws_response",
    pb.WebSocketFrame: "ws_frame",
}
# What may come, by protocol: at the backend's end, and at the public's.
REQUESTS: dict[int, tuple[str, ...]] = {
    pb.HTTP: ("http_request",),
    pb.GRPC: ("grpc_request",),
    pb.WEBSOCKET: ("ws_request", "ws_frame"),
}
STATUSES = ("http_response", "grpc_response", "ws_response")  # they say what became of the request
ANSWERS: dict[int, tuple[str, ...]] = {
    pb.HTTP: ("http_response",),
    pb.GRPC: ("grpc_response",),
    pb.WEBSOCKET: ("ws_response", "ws_frame"),
}


class Facts(NamedTuple):
    """What order, credit and counts need to know of a payload, whatever its kind."""

    first: bool = False  # opens its direction
    last: bool = False  # closes it
    interim: bool = False  # neither: an informational answer
    body: bytes = b""
    cost: int = 0  # of credit
    whole: bool = False  # completes what is counted: a chunk of HTTP, a message of gRPC, a frame of WebSocket
    more: bool = False  # the message goes on in the next one
    starts: bool = False  # cannot stand inside a message that goes on


def facts_of(kind: str, payload: Any) -> Facts:
    """A handshake opens a WebSocket direction and a Close frame closes it; all others say so themselves."""
    if kind == "ws_frame":
        control = payload.opcode >= 8
        return Facts(
            last=payload.opcode == 8,
            body=payload.payload,
            cost=0 if control else len(payload.payload),
            whole=not payload.more,
            more=payload.more,
            starts=control or payload.payload_length > 0,
        )
    if kind.startswith("ws_"):
        return Facts(first=True)
    is_grpc = kind.startswith("grpc_")
    return Facts(
        first=payload.is_first_chunk,
        last=payload.is_last_chunk,
        interim=kind == "http_response" and payload.informational,
        body=payload.body,
        cost=len(payload.body),
        whole=not is_grpc or (payload.HasField("body") and not payload.more),
        more=is_grpc and payload.more,
        starts=is_grpc and payload.message_length > 0,
    )


class WindowBudget:
    """Payload bytes by which the windows of all requests may grow together, where the way is long."""

    def __init__(self, max_window: int, budget: int) -> None:
        self.max_window = max_window  # of one request
        self.left = budget

    def change(self, window: int, first: int, lasts_s: float, round_trip_s: float) -> int:
        """Bytes by which a window is to change that began as `first` and is used up within `lasts_s`.

        Within three round trips: it may have kept the sender waiting, whatever the tunnel could carry, and is doubled.
        (As credit comes back by halves, a sender that waits takes two for it.) One that lasts for many is given back,
        for others may need it.
        """
        change = 0
        if lasts_s < 3 * round_trip_s:
            change = max(0, min(window, self.max_window - window, self.left))
        elif lasts_s > 32 * round_trip_s:
            change = max(-(window // 2), first - window)
        self.left -= change
        return change


class Carrier(Protocol):
    """What an exchange needs of its tunnel; `dispatch.Dispatcher` is it."""

    peer_window: int
    local_window: int
    budget: WindowBudget
    round_trip_s: float
    max_fragment: int
    writable: asyncio.Event
    affordable: asyncio.Event
    tallies: Tallies

    def send(self, message: pb.TunnelMessage) -> None: ...
    def grant(self, exchange: Exchange, count: int) -> None: ...
    def passed(self, count: int) -> None: ...
    async def admit(self) -> None: ...
    @property
    def has_to_wait(self) -> bool: ...
    def retire(self, exchange: Exchange) -> None: ...


class Exchange:
    """One request at this end: an HTTP exchange, a call or a WebSocket connection."""

    def __init__(self, tunnel: Carrier, request_id: str, protocol: int, direction: int, stream: GrpcStream) -> None:
        self.request_id = request_id
        self.protocol = protocol
        self.direction = direction  # of what is sent
        self.sending, self.receiving = stream.sending, stream.receiving
        self.grpc_stream_id = 0
        self.leaving = asyncio.Event()  # the server or the client is going: what might last for ever is to end
        self.failure: RequestReset | None = None
        self._tunnel = tunnel
        self._open = True
        self._inbox: deque[tuple[Any, int]] = deque()  # messages, and the bytes of each that cost no credit
        self._changed = asyncio.Event()
        self._send_credit, self._receive_credit = tunnel.peer_window, tunnel.local_window
        self._window, self._granted_s = tunnel.local_window, 0.0
        self._ungranted = self._unpaid = self._interim = self._interim_bytes = 0
        self._passed = self._idle = 0  # messages and bytes, and looks of end_idle() since any have passed
        self._inside = False  # a frame or message of which more fragments have to come
        # For the record of the request:
        self.trace_id = self.parent_id = ""
        self.label = ("", "", "", "")  # method, host, path, peer
        self.route = ""  # what it is counted under, and for a call its path
        self.method = ""
        self.status = 0
        self.reset_code: int | None = None
        self.messages_sent = self.messages_received = self.bytes_sent = self.bytes_received = 0
        self._started_s = time.monotonic()

    @property
    def duration_s(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def buffered(self) -> int:
        """Payload bytes that have come and were not received yet."""
        return sum(facts_of(KINDS[type(message)], message).cost for message, _ in self._inbox)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # -- towards the tunnel

    @property
    def room(self) -> int:
        """Payload bytes of one message that may be sent now."""
        if not self._open or not self._tunnel.affordable.is_set():
            return 0
        return max(0, min(self._send_credit, self._tunnel.max_fragment))

    @property
    def has_to_wait(self) -> bool:
        """Whether admitted() would not return at once."""
        return self._tunnel.has_to_wait

    async def admitted(self) -> None:
        """Wait until the tunnel takes another request."""
        await self._tunnel.admit()

    async def ready(self, *, paid: bool = True) -> None:
        """Wait until the tunnel takes another message, one with payload if `paid`. After the end that is never."""
        gates = [self._tunnel.writable, self._tunnel.affordable] if paid else [self._tunnel.writable]
        while True:
            if not self._open:
                await forever()
            closed = next((gate for gate in gates if not gate.is_set()), None)
            if closed is None and (not paid or self._send_credit > 0):
                return
            await (closed.wait() if closed is not None else self._change())

    def send(self, payload: Any) -> None:
        """Send one message, its body within `room`; nothing after the end. The sequence number is filled in here."""
        if not self._open:
            return
        kind = KINDS[type(payload)]
        if kind == "ws_frame":
            payload.connection_id, payload.frame_direction = self.request_id, self.direction
        elif self.protocol != pb.WEBSOCKET:
            payload.sequence_number = self.sending.next_sequence
        if self.protocol == pb.GRPC:
            payload.grpc_stream_id = self.grpc_stream_id
        facts = facts_of(kind, payload)
        if facts.interim:
            self.count_interim(payload.ByteSize())
        self.sending.take(first=facts.first, last=facts.last, interim=facts.interim)
        if self.direction == pb.SERVER_TO_CLIENT and kind in STATUSES and not getattr(payload, "accepted", False):
            self.status = payload.status_code or self.status
        if facts.cost and self._send_credit <= facts.cost:
            self._tunnel.tallies.exhausted(self.direction)
        if kind == "ws_frame" and facts.whole:
            self._tunnel.tallies.frame(self.direction, payload.opcode)
        self._send_credit -= facts.cost
        self.bytes_sent += len(facts.body)
        self.messages_sent += facts.whole
        self._tunnel.passed(len(facts.body))
        self._send(trace_id=self.trace_id if facts.first else "", **{kind: payload})

    def _send(self, **fields: Any) -> None:
        self._tunnel.send(
            pb.TunnelMessage(
                request_id=self.request_id,
                direction=self.direction,  # type: ignore[arg-type]
                protocol_type=self.protocol,  # type: ignore[arg-type]
                **fields,
            )
        )

    # -- from the tunnel

    async def receive(self) -> Any:
        """The next message, in order. Raises RequestReset when the request has ended and nothing is left."""
        while not self._inbox:
            if self.failure is not None:
                raise self.failure
            await self._change()
        message, unpaid = self._inbox.popleft()
        self._unpaid -= unpaid
        return message

    def deliver(self, kind: str, message: Any) -> None:
        """A message of this request has come. One that breaks the contract ends the request."""
        try:
            self._accept(kind, message)
        except BadMessage as error:
            overloaded = error.code == ResetCode.OVERLOADED
            self.reset(error.code, error.text if overloaded else self._breach(error.text))

    def _breach(self, text: str) -> str:
        far_end = "client" if self.direction == pb.CLIENT_TO_SERVER else "server"
        return f"the {far_end} broke the contract of the tunnel: {text}"

    def _accept(self, kind: str, message: Any) -> None:
        if kind not in (REQUESTS if self.direction == pb.SERVER_TO_CLIENT else ANSWERS)[self.protocol]:
            raise BadMessage("message of another kind than the request")
        facts = facts_of(kind, message)
        if self.receiving.closed and kind == "ws_frame":
            return  # RFC 6455 5.5.1: what follows a Close frame is not processed
        sequence = None if self.protocol == pb.WEBSOCKET else message.sequence_number
        self.receiving.take(sequence, first=facts.first, last=facts.last, interim=facts.interim)
        if facts.cost > self._receive_credit:
            raise BadMessage("payload beyond the window", code=ResetCode.FLOW_CONTROL_ERROR)
        if facts.interim and (facts.body or facts.last):
            raise BadMessage("informational answer with a body or an end")
        if facts.interim:
            self.count_interim(message.ByteSize())
        if self._inside and facts.starts:
            raise BadMessage("another message inside an unfinished one")
        # Messages without credit are not bounded by a window (wire contract, "Flow control"), but by this.
        unpaid = max(0, message.ByteSize() - facts.cost - (512 if facts.cost else 0))
        self._unpaid += unpaid
        if self._unpaid > UNPAID_BYTES:
            raise BadMessage("messages come faster through the tunnel than they are read", code=ResetCode.OVERLOADED)
        self._inside = facts.more
        self._receive_credit -= facts.cost
        self.bytes_received += len(facts.body)
        self._tunnel.passed(len(facts.body))
        self.messages_received += facts.whole
        if kind == "ws_frame" and facts.whole:
            self._tunnel.tallies.frame(3 - self.direction, message.opcode)
        self._inbox.append((message, unpaid))
        self._changed.set()

    def count_interim(self, size: int) -> None:
        """An informational answer of so many bytes, from the tunnel or from a backend. Raises BadMessage."""
        self._interim += 1
        self._interim_bytes += size
        if self._interim > INTERIM_MAX or self._interim_bytes > INTERIM_BYTES:
            raise BadMessage("too many informational answers")

    @property
    def first(self) -> Any:
        """The message that opens the request, while nobody has received it."""
        return self._inbox[0][0]

    def granted(self, count: int) -> None:
        """The peer grants `count` more payload bytes."""
        if self._send_credit + count > limits.MAX_WINDOW_BYTES:
            return self.reset(ResetCode.FLOW_CONTROL_ERROR, self._breach("window above 2^31-1"))
        self._send_credit += count
        self._changed.set()

    def consumed(self, message: Any) -> None:
        """A message has been handed to the socket: grant its payload again, half a window at a time."""
        self._ungranted += facts_of(KINDS[type(message)], message).cost
        if self._open and not self.receiving.closed and self._ungranted * 2 >= self._window:
            if self._tunnel.round_trip_s > LONG_WAY_S:
                now = time.monotonic()
                lasts_s, self._granted_s = (now - self._granted_s) * self._window / self._ungranted, now
                change = self._tunnel.budget.change(
                    self._window, self._tunnel.local_window, lasts_s, self._tunnel.round_trip_s
                )
                self._window += change
                self._ungranted += change
            if self._ungranted:
                self._receive_credit += self._ungranted
                self._tunnel.grant(self, self._ungranted)
                self._ungranted = 0

    def send_grant(self, count: int) -> bool:
        """Let the peer send `count` more bytes of payload, unless the request has ended."""
        if self._open:
            self._send(window_update=pb.WindowUpdate(bytes=count))
        return self._open

    # -- the end

    def end_idle(self) -> None:
        """End the request if nothing has passed since the last call but one."""
        passed = self.messages_sent + self.messages_received + self.bytes_sent + self.bytes_received
        self._passed, self._idle = passed, self._idle + 1 if passed == self._passed else 0
        if self._idle == 2:
            self.reset(ResetCode.BACKEND_TIMEOUT, "nothing has passed through the tunnel for too long")

    def reset(self, code: ResetCode, text: str = "") -> None:
        """This end gives up (or, with NO_ERROR, its answer is complete): tell the peer, and finish."""
        if self._open:
            self._send(reset=pb.Reset(code=int(code), message=text))  # type: ignore[arg-type]
            self._inbox.clear()
            self.fail(code, text)

    def fail(self, code: int, text: str) -> None:
        """The peer, the loss of the tunnel, or reset() ends the request."""
        if (
            code == ResetCode.NO_ERROR
            and self._open
            and not self.receiving.closed
            and self.direction == pb.CLIENT_TO_SERVER
        ):
            code = ResetCode.PROTOCOL_ERROR  # there is no complete answer that could stand
        self.failure = RequestReset(code, text)
        self.reset_code = int(code)
        self.finish()

    def finish(self) -> None:
        """Nothing more is sent or received. Calling it again does nothing."""
        if self._open:
            self._open = False
            self._tunnel.budget.left += self._window - self._tunnel.local_window
            self._changed.set()
            self._tunnel.retire(self)

    async def failed(self) -> None:
        """Returns never: raises RequestReset when the request is ended abnormally, whatever waits to be received."""
        while self.failure is None:
            await self._change()
        raise self.failure

    async def overdue(self) -> None:
        """The same, for beside what serves the request: when that does not come to an end soon after a reset."""
        try:
            await self.failed()
        except RequestReset as reset:
            await (forever() if reset.code == ResetCode.NO_ERROR else asyncio.sleep(KILL_S))
            raise
