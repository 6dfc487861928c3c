"""Counts of an engine: what the requests that have ended were, and, when somebody asks, those under way as well."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from copy import deepcopy
from typing import Protocol

from fasttunnel import limits
from fasttunnel.control.counts import (
    DURATIONS_S,
    NO_ROUTE,
    OTHER,
    PROTOCOLS,
    REACH,
    Counts,
    Durations,
    Flow,
    Method,
    close_code_of,
    grpc_status_of,
)
from fasttunnel.errors import ABNORMAL, GrpcStatus, ResetCode
from fasttunnel.wire.tunnel_pb2 import GRPC, WEBSOCKET

SWITCHING = 101


class Direction(Protocol):
    opened: bool


class Exchange(Protocol):
    """What is looked at of `exchange.Exchange`."""

    protocol: int
    direction: int
    route: str
    method: str
    status: int
    reset_code: int | None
    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int

    @property
    def duration_s(self) -> float: ...
    @property
    def sending(self) -> Direction: ...
    @property
    def receiving(self) -> Direction: ...


class Tallies:
    """Counts.flows has requests when they begin, and the rest when they end, like everything else."""

    def __init__(self) -> None:
        self._counts = Counts(durations={name: Durations() for name in PROTOCOLS.values()})
        self._routes: set[str] = set()
        self.lost_close: int | None = None  # code by which WebSockets of a lost tunnel are closed; None: the usual one

    def began(self, exchange: Exchange, route: object | None) -> None:
        """Names of routes come from clients: there is a bound, beyond it all are one."""
        name = NO_ROUTE if route is None else str(route)
        if name not in self._routes and len(self._routes) >= limits.COUNTED_ROUTES:
            name = OTHER
        self._routes.add(name)
        exchange.route = name
        self._flow(self._counts, exchange).requests += 1

    def refused(self, protocol: int, status: int) -> None:
        """An answer of ours to a request that was never in a tunnel."""
        self._counts.refusals[PROTOCOLS[protocol], status] += 1

    def frame(self, direction: int, opcode: int) -> None:
        self._counts.frames[direction - 1, opcode] += 1

    def exhausted(self, direction: int) -> None:
        """A window has been used up."""
        self._counts.exhausted[direction - 1] += 1

    def ended(self, exchange: Exchange) -> None:
        counts, protocol, reset = self._counts, PROTOCOLS[exchange.protocol], exchange.reset_code or 0
        durations = counts.durations[protocol]
        durations.counts[bisect_left(DURATIONS_S, exchange.duration_s)] += 1
        durations.sum_s += exchange.duration_s
        _add(self._flow(counts, exchange), exchange)
        if reset:
            counts.resets[protocol, reset] += 1
        if exchange.protocol == GRPC:
            # Names come from strangers. One that a backend has served is a name; there is a bound on those as well.
            path, served = exchange.method, not reset and exchange.status != GrpcStatus.UNIMPLEMENTED
            served = served and not path.startswith(REACH)
            if path not in counts.methods and not (served and len(counts.methods) < limits.COUNTED_METHODS):
                path = OTHER
            method = counts.methods.setdefault(path, Method())
            _add(method, exchange)
            method.statuses[exchange.status if exchange.status or not reset else grpc_status_of(reset)] += 1
        elif exchange.protocol == WEBSOCKET and _established(exchange):
            counts.statuses[protocol, SWITCHING] += 1
            if exchange.status or not reset:
                self._count_close(exchange.status or ABNORMAL)
            else:
                lost = self.lost_close if reset == ResetCode.TUNNEL_LOST else None
                counts.closes[lost or close_code_of(reset)] += 1
        elif exchange.status >= 200:
            counts.statuses[protocol, exchange.status] += 1
        else:
            counts.unanswered(protocol, reset, 1)

    def _count_close(self, code: int) -> None:
        """Close codes come from strangers as well."""
        closes = self._counts.closes
        closes[code if code in closes or len(closes) < limits.COUNTED_CLOSE_CODES else 0] += 1

    @staticmethod
    def _flow(counts: Counts, exchange: Exchange) -> Flow:
        return counts.flows.setdefault((exchange.route, PROTOCOLS[exchange.protocol]), Flow())

    def told(self, under_way: Iterable[Exchange]) -> Counts:
        """Everything."""
        told = deepcopy(self._counts)
        for exchange in under_way:
            if not exchange.route:
                continue
            flow = self._flow(told, exchange)
            flow.active += 1
            _add(flow, exchange)
            if exchange.protocol == GRPC:
                path = exchange.method if exchange.method in self._counts.methods else OTHER
                _add(told.methods.setdefault(path, Method()), exchange)
            elif exchange.protocol == WEBSOCKET and _established(exchange):
                told.statuses[PROTOCOLS[WEBSOCKET], SWITCHING] += 1
        return told


def _established(exchange: Exchange) -> bool:
    """A WebSocket whose handshake was answered by a 101."""
    opened = exchange.sending.opened and exchange.receiving.opened
    return opened and not 100 <= exchange.status < 1000


def _add(to: Flow | Method, exchange: Exchange) -> None:
    sent, received = exchange.direction - 1, 2 - exchange.direction
    to.messages[sent] += exchange.messages_sent
    to.messages[received] += exchange.messages_received
    if isinstance(to, Flow):
        to.payload_bytes[sent] += exchange.bytes_sent
        to.payload_bytes[received] += exchange.bytes_received
