"""Records of finished requests, made where somebody asks for them."""

from __future__ import annotations

import time
from collections import deque

from fasttunnel.control.access_lines import Lines
from fasttunnel.control.counts import PROTOCOLS
from fasttunnel.control.log import Ended, Events, RequestRecord
from fasttunnel.reference.exchange import Exchange
from fasttunnel.wire.tunnel_pb2 import CLIENT_TO_SERVER, GRPC


class Recorder:
    def __init__(self, events: Events) -> None:
        self._done = events.request_done
        self._access = events.access
        self._spans = events.spans
        self._waiting: list[Ended] = []  # for the access log
        self._last: deque[Ended] = deque(maxlen=events.keeps_last)

    def _tell(self, record: RequestRecord) -> None:
        ended = time.time(), record
        self._last.append(ended)
        if self._done is not None:
            self._done(record)
        if self._spans is not None and record.parent_id:
            self._spans(record)
        if self._access is not None:
            self._waiting.append(ended)
            if len(self._waiting) == 1:
                self._access.ready(self)

    def take(self) -> Lines:
        """For the access log (control.access.Journal)."""
        records, self._waiting = self._waiting, []
        return Lines(records)

    def last(self, n: int) -> list[Ended]:
        return list(self._last)[-n:]

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


def recorder_of(events: Events) -> Recorder | None:
    """None where nobody wants records."""
    wanted = events.request_done or events.access or events.spans or events.keeps_last
    return Recorder(events) if wanted else None
