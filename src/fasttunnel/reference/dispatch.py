"""Requests on a tunnel: which message belongs to which.

A `Dispatcher` is one tunnel as either end sees it. Everything that comes goes through `handle_tunnel_message`; what
requests send goes out in the order in which it was sent.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict

from fasttunnel import limits
from fasttunnel.control.counts import PROTOCOLS
from fasttunnel.control.rates import Bucket
from fasttunnel.control.taps import Listener, UnderWay
from fasttunnel.errors import ResetCode
from fasttunnel.reference.exchange import Exchange, WindowBudget
from fasttunnel.reference.grpc_streams import GrpcStream, GrpcStreamManager
from fasttunnel.reference.tally import Tallies
from fasttunnel.wire import tunnel_pb2 as pb

OUTGOING_BYTES = 262_144  # beyond this, sources wait until the tunnel has taken some
REMEMBERED = 1024  # ended requests whose late messages are dropped without an answer

PREFIXES: dict[int, str] = {pb.HTTP: "h", pb.GRPC: "g", pb.WEBSOCKET: "ws"}
OPENING = {"http_request": pb.HTTP, "grpc_request": pb.GRPC, "ws_request": pb.WEBSOCKET}
CONTROL = ("register", "registered", "heartbeat", "go_away")

_numbers = itertools.count(1)  # request_ids are unique in the process


def next_request_id(protocol: int) -> str:
    return f"{PREFIXES[protocol]}-{next(_numbers):x}"


class Dispatcher:
    """One tunnel: the map request_id -> request, and the queue of what leaves. Ends of the tunnel derive from it."""

    accepts_requests = False  # whether the peer opens requests, as it does at the client

    def __init__(self, far_end: str = "") -> None:
        self.requests: dict[str, Exchange] = {}
        self.grpc_streams = GrpcStreamManager()
        self.outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()
        self.affordable = asyncio.Event()  # payload may pass: see metering.py
        self.affordable.set()
        self.pace = Bucket()  # of requests
        self.tallies = Tallies()  # of the engine
        self.up = False  # registered: requests may be carried
        self.draining = False
        self.peer_window = self.local_window = limits.INITIAL_WINDOW_BYTES
        self.max_fragment = limits.FRAGMENT_BYTES
        self.budget = WindowBudget(0, 0)
        self.round_trip_s = 0.0  # not known yet
        self.opened = self.messages_sent = self.messages_received = 0
        self.far_end = far_end  # its address
        self.tap: Listener | None = None  # is shown every message
        self.tap_protocols = 0  # that it wants; here it makes no difference
        self.queued_bytes = 0
        self._ended: OrderedDict[str, None] = OrderedDict()

    # -- what an end of the tunnel makes of it

    @property
    def active_by_protocol(self) -> tuple[int, int, int]:
        """Requests under way: HTTP, gRPC, WebSocket."""
        found = [exchange.protocol for exchange in self.requests.values()]
        return found.count(pb.HTTP), found.count(pb.GRPC), found.count(pb.WEBSOCKET)

    def on_control(self, kind: str, message: pb.TunnelMessage) -> None:
        """A message about the tunnel itself."""

    def on_request(self, exchange: Exchange) -> None:
        """The peer opens a request; its first message is in it."""

    def on_end(self, exchange: Exchange) -> None:
        """A request has ended."""

    def passed(self, count: int) -> None:
        """Bytes of payload go out, or have come."""

    def grant(self, exchange: Exchange, count: int) -> None:
        """The peer may send so much more."""
        exchange.send_grant(count)

    @property
    def has_to_wait(self) -> bool:
        """Whether admit() would not return at once."""
        return False

    @property
    def swamped(self) -> bool:
        """Whether too many wait in admit() already."""
        return False

    async def admit(self) -> None:
        """Wait until the peer may be told of another request."""

    # -- requests

    def request(self, request_id: str) -> UnderWay | None:
        """For a tap."""
        exchange = self.requests.get(request_id)
        if exchange is None:
            return None
        method, host, path, _ = exchange.label
        messages = exchange.messages_sent, exchange.messages_received
        if exchange.direction != pb.CLIENT_TO_SERVER:
            messages = messages[::-1]
        age_s = exchange.duration_s
        return UnderWay(PROTOCOLS[exchange.protocol], exchange.route, method, host, path, age_s, *messages)

    def start(self, peer_window: int, local_window: int, max_fragment: int, budget: WindowBudget | None = None) -> None:
        """The two ends have agreed (Register, Registered). All in bytes."""
        self.budget = budget or self.budget
        self.peer_window = min(peer_window or limits.INITIAL_WINDOW_BYTES, limits.MAX_WINDOW_BYTES)
        self.local_window = local_window
        self.max_fragment = min(max_fragment, limits.MAX_FRAGMENT_BYTES)
        self.up = True

    @property
    def buffered(self) -> int:
        """Bytes that wait: for the tunnel, and for whoever reads what its requests have received."""
        return self.queued_bytes + sum(exchange.buffered for exchange in self.requests.values())

    def open(self, protocol: int) -> Exchange:
        """A new request of this end; its id is made here."""
        return self._add(next_request_id(protocol), protocol, pb.CLIENT_TO_SERVER)

    def _add(self, request_id: str, protocol: int, direction: int) -> Exchange:
        stream = self.grpc_streams.open(request_id) if protocol == pb.GRPC else GrpcStream()
        exchange = self.requests[request_id] = Exchange(self, request_id, protocol, direction, stream)
        self.opened += 1
        return exchange

    def handle_tunnel_message(self, message: pb.TunnelMessage) -> None:
        """Whatever the tunnel brings: control messages go to the engine, all others to their request."""
        self.messages_received += 1
        kind = message.WhichOneof("payload")
        exchange = self.requests.get(message.request_id)
        if kind is None or kind == "tcp_data":
            return  # a message of a later version
        if kind in CONTROL:
            self.on_control(kind, message)
        elif exchange is None:
            self._handle_unknown(kind, message)
        elif kind == "reset":
            exchange.fail(message.reset.code, message.reset.message[: limits.RESET_TEXT_BYTES])
        elif kind == "window_update":
            exchange.granted(message.window_update.bytes)
        else:
            exchange.deliver(kind, getattr(message, kind))

    def _handle_unknown(self, kind: str, message: pb.TunnelMessage) -> None:
        """Not in the map: a request of the peer's begins here, or something comes late or out of the blue."""
        if not self.up and not self.accepts_requests:
            return self.on_control(kind, message)  # which has to be Register
        begins = kind == "ws_request" or (kind in OPENING and getattr(message, kind).is_first_chunk)
        if begins and self.accepts_requests and self.up and not self.draining and message.request_id:
            exchange = self._add(message.request_id, OPENING[kind], pb.SERVER_TO_CLIENT)
            exchange.trace_id = message.trace_id
            exchange.deliver(kind, getattr(message, kind))
            if exchange.failure is None:
                self.on_request(exchange)
        elif kind not in ("reset", "window_update") and message.request_id not in self._ended:
            self._remember(message.request_id)
            text = f"the {'client' if self.accepts_requests else 'server'} does not know this request"
            code = ResetCode.OVERLOADED if self.draining else ResetCode.PROTOCOL_ERROR
            self.send(
                pb.TunnelMessage(
                    request_id=message.request_id,
                    direction=pb.SERVER_TO_CLIENT if self.accepts_requests else pb.CLIENT_TO_SERVER,
                    protocol_type=message.protocol_type,
                    reset=pb.Reset(code=int(code), message=text),  # type: ignore[arg-type]
                )
            )

    def _remember(self, request_id: str) -> None:
        self._ended[request_id] = None
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def retire(self, exchange: Exchange) -> None:
        """Called by the exchange, once, when it ends."""
        del self.requests[exchange.request_id]
        self.grpc_streams.close(exchange.request_id)
        self._remember(exchange.request_id)
        if exchange.route:
            self.tallies.ended(exchange)
        self.on_end(exchange)

    def drain(self, *, unhurried: bool = False) -> None:
        """No new requests; those under way go on, but WebSockets, which might for ever, are closed in order.

        `unhurried`: they may as well.
        """
        self.draining = True
        if unhurried:
            return
        for exchange in self.requests.values():
            exchange.leaving.set()

    def fail_all(self, code: ResetCode, text: str) -> None:
        """The tunnel is gone: every request on it fails, once."""
        self.up = False
        for exchange in list(self.requests.values()):
            exchange.fail(code, text)
        self.writable.set()
        self.affordable.set()

    # -- what leaves

    def send(self, message: pb.TunnelMessage) -> None:
        encoded = message.SerializeToString()
        if self.tap is not None:
            self.tap(self, True, encoded)
        self.messages_sent += 1
        self.queued_bytes += len(encoded)
        if self.queued_bytes > OUTGOING_BYTES and self.up:
            self.writable.clear()
        self.outgoing.put_nowait(encoded)

    async def next_outgoing(self) -> bytes:
        """For the carrier: what is to be written next."""
        encoded = await self.outgoing.get()
        self.queued_bytes -= len(encoded)
        if self.queued_bytes <= OUTGOING_BYTES // 2:  # not at each message: thousands may be waiting
            self.writable.set()
        return encoded
