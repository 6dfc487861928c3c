"""The gRPC stream that carries a tunnel: TunnelService.Connect, with grpc.aio at both ends.

grpc.aio hands out bytes; they are parsed here, so that the tap sees them and a malformed message can be explained.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from fasttunnel import limits
from fasttunnel.control.config import ClientConfig
from fasttunnel.control.taps import Taps
from fasttunnel.control.tls import read_pem, system_authorities
from fasttunnel.errors import ConfigError, GrpcStatus, ResetCode
from fasttunnel.reference.dispatch import Dispatcher
from fasttunnel.reference.messages import end_tasks
from fasttunnel.wire.locate import explain
from fasttunnel.wire.tunnel_pb2 import CONTROL, GoAway, Heartbeat, TunnelMessage

SERVICE, METHOD = "fasttunnel.v1.TunnelService", "Connect"
ANSWER_S = 0.5  # for a server to take the call or refuse it; some say nothing before the first message
LAST_BYTES_S = 1.0  # for last messages to leave once the tunnel has been ended
STATUS = {code.value[0]: code for code in grpc.StatusCode}

_COMMON: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", limits.TUNNEL_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.TUNNEL_MESSAGE_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16 * 1024 * 1024),  # bounds the link; the request windows bound the requests
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),  # the other engine pings once an interval
]
# A client whose tunnel has ended closes the connection; one that is a ghost never will.
SERVER_OPTIONS = [*_COMMON, ("grpc.max_connection_idle_ms", 10_000)]
# Each attempt to connect is a fresh one, with nobody's backoff but our own.
CLIENT_OPTIONS = [*_COMMON, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


class Tunnel(Dispatcher):
    """A dispatcher on a stream, and what is known of its peer."""

    def __init__(self, peer: str, taps: Taps) -> None:
        super().__init__(peer)
        self.peer = peer
        taps.attend(self)
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.over = asyncio.get_running_loop().create_future()  # nothing of it is left
        self._round_trips: deque[float] = deque(maxlen=6)
        self._written = asyncio.Event()
        self._nonce = 0
        self._answered = asyncio.Event()  # the latest heartbeat
        self._sent_at = 0.0
        self._heart: asyncio.Task[None] | None = None

    def on_open(self) -> None:
        """The call has been opened: what is to be said first can be."""

    def end(self, status: int, text: str) -> None:
        """End the tunnel: with a gRPC status at the server, by closing our side (0) at the client."""
        if not self.ended.done():
            self.ended.set_result((status, text))

    async def carry(
        self,
        messages: AsyncIterator[bytes],
        write: Callable[[bytes], Awaitable[None]],
        hang_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Read and write until either end ends the tunnel; `ended` says how. Requests on it are lost then.

        `hang_up` closes our side in order, at the client: the server is to read everything before it says goodbye.
        """
        reading = asyncio.create_task(self._read(messages))
        writing = asyncio.create_task(self._write(write))
        watched: list[asyncio.Future[Any]] = [reading, writing, self.ended]
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():  # it failed, and only the reader learns why
                await asyncio.wait([reading], timeout=LAST_BYTES_S)
            if self.ended.done() and not writing.done():
                async with asyncio.timeout(LAST_BYTES_S):
                    await self._written.wait()
                    if hang_up is not None and not reading.done():
                        self.fail_all(ResetCode.TUNNEL_LOST, "the tunnel was lost")
                        await hang_up()
                        await asyncio.wait([reading])
        except TimeoutError:
            pass
        finally:
            self.fail_all(ResetCode.TUNNEL_LOST, "the tunnel was lost")
            await end_tasks(reading, writing, *([self._heart] if self._heart is not None else []))
            self.end(GrpcStatus.UNAVAILABLE, "connection lost")
            if not self.over.done():
                self.over.set_result(None)

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        try:
            async for encoded in messages:
                if self.tap is not None:
                    self.tap(self, False, encoded)
                if self.queued_bytes > limits.BACKLOG_BYTES:
                    text = "it sends, and does not read what it is answered"
                    return self.end(GrpcStatus.RESOURCE_EXHAUSTED, text)
                message = TunnelMessage.FromString(encoded)
                if len(message.request_id.encode()) > limits.REQUEST_ID_BYTES:
                    text = f"request_id of {len(message.request_id)} bytes"
                    return self.end(GrpcStatus.INTERNAL, f"{text}, at most {limits.REQUEST_ID_BYTES} are allowed")
                self.handle_tunnel_message(message)
            self.end(0, "the client closed the tunnel")
        except DecodeError:
            self.end(GrpcStatus.INTERNAL, f"malformed TunnelMessage: {explain(encoded, TunnelMessage.DESCRIPTOR)}")
        except grpc.aio.AioRpcError as error:
            self.end(error.code().value[0], reason_of(error))
        except Exception as error:
            self.end(GrpcStatus.INTERNAL, f"the tunnel cannot be read: {error!r:.200}")

    async def _write(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            if self.outgoing.empty():
                self._written.set()
            encoded = await self.next_outgoing()
            self._written.clear()
            await write(encoded)

    # -- control messages

    def send_control(self, **payload: Any) -> None:
        self.send(TunnelMessage(protocol_type=CONTROL, **payload))

    def send_go_away(self, reason: str, grace_s: float) -> None:
        self.send_control(go_away=GoAway(reason=reason, grace_ms=int(grace_s * 1000)))

    def start_heartbeat(self, interval_s: float) -> None:
        """Notice a dead peer: one that is silent for two intervals although it was asked to answer."""
        self._heart = asyncio.create_task(self._beat(interval_s))

    async def _beat(self, interval_s: float) -> None:
        silent, seen = 0, -1
        while silent < 2:
            self._ask()
            await asyncio.sleep(interval_s)
            silent = silent + 1 if self.messages_received == seen else 0
            seen = self.messages_received
        self.end(GrpcStatus.UNAVAILABLE, "connection lost")

    def _ask(self) -> None:
        self._nonce += 1
        self._sent_at = time.monotonic()
        self.send_control(heartbeat=Heartbeat(nonce=self._nonce))

    @property
    def latest_s(self) -> float | None:
        """The latest round trip."""
        return self._round_trips[-1] if self._round_trips else None

    async def caught_up(self) -> None:
        """Returns when the peer has read all that was sent so far, and we all that it had sent until then."""
        self._answered.clear()
        self._ask()
        await self._answered.wait()

    def heard(self, heartbeat: Heartbeat) -> None:
        """Answer the peer's heartbeat, or note the answer to ours."""
        if not heartbeat.reply:
            self.send_control(heartbeat=Heartbeat(nonce=heartbeat.nonce, reply=True))
        elif heartbeat.nonce == self._nonce:
            # The shortest of a few: others have waited behind what was under way.
            self._round_trips.append(time.monotonic() - self._sent_at)
            self.round_trip_s = min(self._round_trips)
            self._answered.set()


def service(connect: Callable[[AsyncIterator[bytes], Any], Awaitable[None]]) -> grpc.GenericRpcHandler:
    """TunnelService for a grpc server: `connect(messages, context)` serves a call."""
    handler = grpc.stream_stream_rpc_method_handler(connect)
    return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})


def channel_to(config: ClientConfig) -> grpc.aio.Channel:
    """Raises ConfigError."""
    if not config.secure:
        return grpc.aio.insecure_channel(config.server, options=CLIENT_OPTIONS)
    if config.pins:
        raise ConfigError("the asyncio engine cannot check pins: grpc does not show certificates", hint="use --ca")
    own = config.certificate
    credentials = grpc.ssl_channel_credentials(
        read_pem(config.ca or system_authorities()),
        read_pem(own.key) if own else None,
        read_pem(own.chain) if own else None,
    )
    named = [("grpc.ssl_target_name_override", config.server_name)] if config.server_name else []
    return grpc.aio.secure_channel(config.server, credentials, options=[*CLIENT_OPTIONS, *named])


async def dial(config: ClientConfig, tunnel: Tunnel) -> None:
    """The client's end: open the call and carry the tunnel until it ends; `tunnel.ended` says how."""
    metadata = [("authorization", f"Bearer {config.token.reveal()}")] if config.token is not None else []
    async with channel_to(config) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(metadata=metadata)
        # A message written to a call that is just being refused would hide the status behind an error of grpc's.
        answered = asyncio.create_task(call.initial_metadata())
        opening: list[asyncio.Future[Any]] = [answered, tunnel.ended]
        await asyncio.wait(opening, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        tunnel.on_open()
        try:
            await tunnel.carry(call, call.write, call.done_writing)
        finally:
            await end_tasks(answered)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """grpc's text for a connection that could not be made is long; the system's word is at its end."""
    text: str = error.details() or error.code().name
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not accepted: " + text.rpartition("CERTIFICATE_VERIFY_FAILED: ")[2].partition(";")[0]
    if "ailed to connect" not in text:
        return text
    return text.rpartition(": ")[2].partition(" (")[0].lower()
