"""Counts of an engine as Prometheus metrics, made when somebody asks; names and labels are in docs/observability.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fasttunnel.admin.lag import BOUNDS_S, LoopLag
from fasttunnel.admin.subject import Subject
from fasttunnel.control.counts import DIRECTIONS, DURATIONS_S, OTHER, Counts
from fasttunnel.control.terms import close_code, grpc_status, opcode, reset_code
from fasttunnel.version import __version__

# Of an engine's status(): name there, name here, whether it only grows, and what it is. An engine has not all of them.
GAUGES = (
    ("connections", "connections", "Connections that are open, tunnels among them."),
    ("buffered_bytes", "buffered_bytes", "Bytes that this end holds: read and not passed on yet."),
    ("queued_requests", "queued_requests", "Requests that wait for a client that is away."),
    ("timers", "timers", "Timers that run (compiled engine)."),
    ("tasks", "tasks", "Tasks of connections and requests (asyncio engine)."),
)
COUNTERS = (
    ("handshakes_failed", "tls_handshakes_failed", "TLS handshakes that came to nothing (compiled engine)."),
    ("reads", "socket_reads", "Reads of sockets (compiled engine)."),
    ("writes", "socket_writes", "Writes to sockets (compiled engine)."),
)


class Metrics:
    """A registry of our own, with the process beside the engine."""

    def __init__(self, subject: Subject, lag: LoopLag) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_Collector(subject, lag))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the format that the reader prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Collector(Collector):
    def __init__(self, subject: Subject, lag: LoopLag) -> None:
        self._subject = subject
        self._lag = lag

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would collect everything once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        subject = self._subject
        labels = {"version": __version__, "engine": subject.engine, "end": subject.kind}
        yield InfoMetricFamily("fasttunnel_build", "What runs here.", value=labels)
        yield _gauge("ready", "1: ready for new requests, see /readyz.", [((), float(not subject.unready))])
        yield _histogram(
            "event_loop_lag_seconds",
            "How late timers of the event loop are.",
            (),
            BOUNDS_S,
            [((), self._lag.counts, self._lag.sum_s)],
        )
        status, counts = subject.status(), subject.counts()
        if status is None or counts is None:
            return
        for key, name, text in GAUGES:
            if key in status:
                yield _gauge(name, text, [((), status[key])])
        for key, name, text in COUNTERS:
            if key in status:
                yield _counter(name, text, [((), status[key])])
        yield from _requests(counts)
        yield from _grpc(counts)
        yield from _websocket(counts)
        yield from _tunnels(counts, sum(1 for _ in status["links"]) if "links" in status else status["tunnels"])


def _requests(counts: Counts) -> Iterator[Metric]:
    flows = counts.flows.items()
    by = ("protocol", "route")
    yield _counter(
        "requests",
        "Requests that went into a tunnel: HTTP exchanges, calls, WebSocket connections.",
        [((protocol, route), flow.requests) for (route, protocol), flow in flows],
        by,
    )
    yield _gauge(
        "active_requests",
        "Those under way.",
        [((protocol, route), flow.active) for (route, protocol), flow in flows],
        by,
    )
    each = (*by, "direction")
    yield _counter(
        "messages",
        "Chunks of HTTP bodies, messages of gRPC, frames of WebSockets.",
        [
            ((protocol, route, direction), count)
            for (route, protocol), flow in flows
            for direction, count in zip(DIRECTIONS, flow.messages, strict=True)
        ],
        each,
    )
    yield _counter(
        "payload_bytes",
        "Payload of those, without any framing.",
        [
            ((protocol, route, direction), count)
            for (route, protocol), flow in flows
            for direction, count in zip(DIRECTIONS, flow.payload_bytes, strict=True)
        ],
        each,
    )
    by = ("protocol", "code")
    yield _counter(
        "responses",
        "HTTP statuses of requests that have ended, and of handshakes; none: no answer.",
        _summed(((protocol, _status(code)), count) for (protocol, code), count in counts.statuses.items()),
        by,
    )
    yield _counter(
        "refusals",
        "Requests that went into no tunnel, by the HTTP status of the server's answer (of a call: its equivalent).",
        [((protocol, _status(code)), count) for (protocol, code), count in counts.refusals.items()],
        by,
    )
    yield _counter(
        "resets",
        "Requests that ended abnormally, by the ResetCode of docs/wire.md.",
        _summed(((protocol, reset_code(code)), count) for (protocol, code), count in counts.resets.items()),
        by,
    )
    yield _counter(
        "windows_exhausted",
        "How often a request had used up the credit that its reader gave it.",
        [((direction,), count) for direction, count in zip(DIRECTIONS, counts.exhausted, strict=True)],
        ("direction",),
    )
    yield _histogram(
        "request_duration_seconds",
        "From the head of a request to its end.",
        ("protocol",),
        DURATIONS_S,
        [((protocol,), told.counts, told.sum_s) for protocol, told in counts.durations.items()],
    )


def _grpc(counts: Counts) -> Iterator[Metric]:
    methods = [(_method(path), told) for path, told in counts.methods.items()]
    yield _counter(
        "grpc_calls",
        "Calls that have ended, by status.",
        [
            ((*name, status), count)
            for name, told in methods
            for status, count in _summed((grpc_status(code), count) for code, count in told.statuses.items())
        ],
        ("service", "method", "status"),
    )
    yield _counter(
        "grpc_messages",
        "Messages of calls.",
        [
            ((*name, direction), count)
            for name, told in methods
            for direction, count in zip(DIRECTIONS, told.messages, strict=True)
        ],
        ("service", "method", "direction"),
    )


def _websocket(counts: Counts) -> Iterator[Metric]:
    yield _counter(
        "websocket_frames",
        "Frames of WebSockets, by opcode.",
        _summed(
            ((DIRECTIONS[direction], opcode(number)), count) for (direction, number), count in counts.frames.items()
        ),
        ("direction", "opcode"),
    )
    yield _counter(
        "websocket_closes",
        "WebSockets that have ended, by close code; 1006: without a Close frame.",
        [((close_code(code),), count) for code, count in counts.closes.items()],
        ("code",),
    )


def _tunnels(counts: Counts, up: int) -> Iterator[Metric]:
    told = counts.tunnels
    yield _gauge("tunnels", "Tunnels that are up.", [((), up)])
    yield _counter("tunnel_registrations", "Tunnels that have come up.", [((), told.registrations)])
    yield _counter("tunnel_losses", "Tunnels that were up and have ended.", [((), told.losses)])
    yield _counter("tunnel_refusals", "Tunnels that the server has refused.", [((), told.refusals)])
    yield _counter("tunnel_reconnects", "Tunnels that the client has dialled again.", [((), told.reconnects)])
    yield _gauge(
        "tunnel_round_trip_seconds",
        "To the other end and back; peer: at the server whose token it is, at the client the server.",
        [((peer,), seconds) for peer, seconds in told.round_trips_s.items()],
        ("peer",),
    )


# -- families ---------------------------------------------------------------------------------------------------------

K = TypeVar("K")
Samples = Iterable[tuple[Sequence[str], float]]


def _gauge(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    family = GaugeMetricFamily(f"fasttunnel_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _counter(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    family = CounterMetricFamily(f"fasttunnel_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _histogram(
    name: str,
    text: str,
    labels: Sequence[str],
    bounds: Sequence[float],
    samples: Iterable[tuple[Sequence[str], Sequence[int], float]],
) -> Metric:
    family = HistogramMetricFamily(f"fasttunnel_{name}", text, labels=labels)
    for values, counts, total in samples:
        buckets, below = [], 0
        for bound, count in zip([*bounds, math.inf], counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == math.inf else str(float(bound)), float(below)))
        family.add_metric(values, buckets, total)
    return family


def _summed(samples: Iterable[tuple[K, int]]) -> Iterable[tuple[K, int]]:
    """Those of one name together."""
    totals: Counter[K] = Counter()
    for key, count in samples:
        totals[key] += count
    return totals.items()


def _method(path: str) -> tuple[str, str]:
    if path == OTHER:
        return OTHER, OTHER
    service, _, method = path[1:].rpartition("/")
    return service, method


def _status(code: int) -> str:
    """HTTP statuses beyond 599 are no class that anybody knows (RFC 9110 15); a backend may send any."""
    return "none" if code == 0 else str(code) if code < 600 else OTHER
