"""Records of finished requests, made where somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable

from fasttunnel.control.counts import PROTOCOLS
from fasttunnel.control.log import RequestRecord
from fasttunnel.reference.exchange import Exchange
from fasttunnel.wire.tunnel_pb2 import CLIENT_TO_SERVER, GRPC


class Recorder:
    def __init__(self, tell: Callable[[RequestRecord], None]) -> None:
        self._tell = tell

    def ended(self, exchange: Exchange, client_id: str) -> None:
        """A request on a tunnel has."""
        method, host, path, peer = exchange.label
        messages = exchange.messages_sent, exchange.messages_received
        payload = exchange.bytes_sent, exchange.bytes_received
        if exchange.direction != CLIENT_TO_SERVER:
            messages, payload = messages[::-1], payload[::-1]
        self._tell(
            RequestRecord(
                request_id=exchange.request_id,
                protocol=PROTOCOLS[exchange.protocol],
                host=host,
                method=path.rpartition("/")[2] if exchange.protocol == GRPC else method,
                path=path,
                status=exchange.status,
                reset=exchange.reset_code,
                messages_in=messages[0],
                messages_out=messages[1],
                bytes_in=payload[0],
                bytes_out=payload[1],
                duration_s=exchange.duration_s,
                route=exchange.route,
                trace_id=exchange.trace_id,
                parent_id=exchange.parent_id,
                client_id=client_id,
                peer=peer,
            )
        )

    def refused(self, request_id: str, protocol: int, label: tuple[str, str, str], status: int, peer: str) -> None:
        """A request went into no tunnel."""
        method, host, path = label
        method = path.rpartition("/")[2] if protocol == GRPC else method
        record = RequestRecord(request_id, PROTOCOLS[protocol], host, method, path, int(status), None, 0, 0, 0, 0, 0.0)
        self._tell(record._replace(peer=peer))
