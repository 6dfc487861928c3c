"""The TunnelMessages of a tunnel as its two ends see them pass."""

from contextlib import AsyncExitStack
from typing import Any

from fasttunnel.control.config import RouteSpec
from fasttunnel.wire.tunnel_pb2 import TunnelMessage
from tests.support.tunnel import Recorder, Tunnel, eventually, start_client, start_server

FLOW = ("window_update", "heartbeat")  # when these are sent is an engine's own affair


class Tap:
    """What one end has sent and received, in order."""

    def __init__(self) -> None:
        self.passed: list[tuple[bool, TunnelMessage]] = []

    def __call__(self, tunnel: str, sent: bool, message: bytes) -> None:
        self.passed.append((sent, TunnelMessage.FromString(message)))

    @property
    def sent(self) -> list[TunnelMessage]:
        return [message for sent, message in self.passed if sent]

    @property
    def received(self) -> list[TunnelMessage]:
        return [message for sent, message in self.passed if not sent]

    def requests(self) -> dict[str, list[TunnelMessage]]:
        """The messages of each request, both ways, without those of flow control."""
        found: dict[str, list[TunnelMessage]] = {}
        for _, message in self.passed:
            if message.request_id and message.WhichOneof("payload") not in FLOW:
                found.setdefault(message.request_id, []).append(message)
        return found


class TappedTunnel(Tunnel):
    """A tunnel with a tap at each end."""

    server_tap: Tap
    client_tap: Tap

    async def both_agree(self) -> None:
        """What one end has sent, the other has received, in the same order."""
        for here, there in ((self.server_tap, self.client_tap), (self.client_tap, self.server_tap)):
            await eventually(lambda here=here, there=there: there.received == here.sent)  # type: ignore[misc]


async def start_tapped(stack: AsyncExitStack, *routes: str | RouteSpec, **options: Any) -> TappedTunnel:
    """Both ends, `options` for each of them, with a tap each."""
    events, client_events = Recorder(), Recorder()
    events.tap, client_events.tap = Tap(), Tap()
    server = await start_server(stack, events, **options)
    client = await start_client(stack, server.tunnel, routes, client_events, **options)
    tunnel = TappedTunnel(server, client, events, client_events)
    tunnel.server_tap, tunnel.client_tap = events.tap, client_events.tap
    stack.push_async_callback(tunnel.until_idle)
    return tunnel


def payload(message: TunnelMessage) -> Any:
    """The one of its payloads that a message has."""
    return getattr(message, message.WhichOneof("payload") or "")


def kinds(messages: list[TunnelMessage]) -> list[str]:
    return [message.WhichOneof("payload") or "empty" for message in messages]
