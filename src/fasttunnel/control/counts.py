"""What an engine has counted since it began, as it tells it to whoever asks: metrics and status.

Engines count in what suits them, and make one of these on request; requests under way are in it with what they have so
far. Towards the backend is "to_backend", towards the public "to_public".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final

from fasttunnel.errors import ABNORMAL, ANSWERS, ResetCode

PROTOCOLS: Final = {1: "http", 2: "grpc", 3: "websocket"}
DIRECTIONS: Final = ("to_backend", "to_public")
OTHER: Final = "other"
OWN: Final = "own"  # requests that a client has sent to itself, to see whether its URLs lead to it
REACH: Final = "/fasttunnel.Reach/"  # calls by which clients try their URLs; their methods are made for once
NO_ROUTE: Final = "none"  # of requests that a client has no backend for

DURATIONS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
"""Upper bounds of the histogram of durations: a quick answer, a long poll, a WebSocket that is open for a day."""


@dataclass
class Flow:
    """Requests of one route and protocol."""

    requests: int = 0  # begun
    active: int = 0
    messages: list[int] = field(default_factory=lambda: [0, 0])  # by DIRECTIONS
    payload_bytes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass
class Method:
    """Calls of one gRPC method."""

    statuses: Counter[int] = field(default_factory=Counter)
    messages: list[int] = field(default_factory=lambda: [0, 0])


@dataclass
class Durations:
    """Of requests that have ended: how many within each of DURATIONS_S, and beyond."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATIONS_S) + 1))
    sum_s: float = 0.0


@dataclass
class Tunnels:
    registrations: int = 0
    losses: int = 0  # of tunnels that were registered
    refusals: int = 0
    reconnects: int = 0  # of the client: how often it has dialled again after a tunnel was lost, or told to go
    round_trips_s: dict[str, float] = field(default_factory=dict)  # by peer, the longest of its tunnels


@dataclass
class Counts:
    flows: dict[tuple[str, str], Flow] = field(default_factory=dict)  # by route and protocol
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)  # of HTTP, by protocol; 0: no answer
    refusals: Counter[tuple[str, int]] = field(default_factory=Counter)  # that never were in a tunnel, by HTTP status
    resets: Counter[tuple[str, int]] = field(default_factory=Counter)  # by protocol and ResetCode
    methods: dict[str, Method] = field(default_factory=dict)  # by path: /SERVICE/METHOD, or OTHER
    closes: Counter[int] = field(default_factory=Counter)  # of WebSockets by close code; 0: any other
    frames: Counter[tuple[int, int]] = field(default_factory=Counter)  # by direction (of DIRECTIONS) and opcode
    exhausted: list[int] = field(default_factory=lambda: [0, 0])  # windows that were used up, by DIRECTIONS
    durations: dict[str, Durations] = field(default_factory=dict)  # by protocol
    tunnels: Tunnels = field(default_factory=Tunnels)

    def unanswered(self, protocol: str, code: int, count: int) -> None:
        """Requests that were reset before the backend's answer: what the public was told instead."""
        self.statuses[protocol, answer_to(code)] += count


def together(all_of: Iterable[Counts]) -> Counts:
    """The sums of several; of round trips the longest."""
    told = Counts()
    for counts in all_of:
        for name, seconds in counts.tunnels.round_trips_s.items():
            told.tunnels.round_trips_s[name] = max(seconds, told.tunnels.round_trips_s.get(name, 0.0))
        _add(told, counts)
    return told


def _add(to: Any, other: Any) -> None:
    """To each field of one dataclass what the other has."""
    for part in fields(to):
        mine, others = getattr(to, part.name), getattr(other, part.name)
        if isinstance(mine, int | float):
            setattr(to, part.name, mine + others)
        elif isinstance(mine, list):
            mine[:] = map(sum, zip(mine, others, strict=True))
        elif isinstance(mine, Counter):
            mine.update(others)
        elif is_dataclass(mine):
            _add(mine, others)
        elif part.name != "round_trips_s":
            for key, value in others.items():
                _add(mine.setdefault(key, type(value)()), value)


def answer_to(code: int) -> int:
    """HTTP status that a reset becomes; 0: none, the connection is closed."""
    return ANSWERS[ResetCode(code)].http if code in ANSWERS else 502


def grpc_status_of(code: int) -> int:
    """The same for a call."""
    return int(ANSWERS[ResetCode(code)].grpc) if code in ANSWERS else 13


def close_code_of(code: int) -> int:
    """The same for an open WebSocket. Who was cancelled had gone: nobody was told."""
    if code == ResetCode.CANCELLED:
        return ABNORMAL
    return ANSWERS[ResetCode(code)].ws_close or ABNORMAL if code in ANSWERS else 1011
