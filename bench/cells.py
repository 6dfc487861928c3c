"""The loads of the suite, each with what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import compiled

KIB = 1024


@dataclass(frozen=True)
class Cell:
    name: str
    load: Callable[[int], Any]  # of a port
    kind: str = "http"  # or "grpc"
    figure: str = "cpu_us"  # what is compared: cpu_us (of a message), p50_us, p99_us, idle_kb
    reference: str = ""  # the system whose figure the targets are ratios of
    reach: float = 0.0
    aim: float = 0.0
    quick: bool = True
    bulk: bool = False  # beside eight downloads


def size_name(size: int) -> str:
    return f"{size // KIB // KIB} MiB" if size >= KIB * KIB else f"{size // KIB} KiB" if size >= KIB else f"{size} B"


def ws(
    connections: int, depth: int, size: int, more: str = "", kind: str = "echo", batched: bool = True, **what: Any
) -> Cell:
    name = f"WebSocket {connections} x {depth} x {size_name(size)}{more}"
    what.setdefault("reference", "nginx stream")
    return Cell(name, lambda port: compiled.WebSocketLoad(port, connections, size, depth, kind, batched), **what)


def http(method: str, connections: int, size: int, **what: Any) -> Cell:
    what.setdefault("reference", "nginx http")
    name = f"HTTP {method} {connections} x {size_name(size)}"
    return Cell(name, lambda port: compiled.HttpLoad(port, connections, size, method == "POST"), **what)


def grpc(kind: str, connections: int, calls: int, size: int, depth: int = 1, **what: Any) -> Cell:
    what.setdefault("reference", "haproxy")
    name = f"gRPC {kind} {connections} x {calls}{f' x {depth}' if kind == 'bidi' else ''} x {size_name(size)}"
    return Cell(name, lambda port: compiled.GrpcLoad(port, connections, calls, size, kind, depth), kind="grpc", **what)


CELLS = [
    ws(1, 1, 256, " (p50)", figure="p50_us", reach=1.25, aim=1.0),
    ws(1, 1, 256, quick=False),
    ws(64, 1, 16, quick=False),
    ws(64, 1, 256, reach=0.70, aim=0.55),
    ws(512, 1, 256, reach=0.65, aim=0.50),
    ws(9_500, 1, 256, quick=False),  # a relay has two sockets for each, and 20,000 is a common limit
    ws(64, 32, 16, quick=False),
    ws(64, 32, 256, reach=1.5, aim=1.0),
    ws(64, 32, 256, " unbatched", batched=False, quick=False),
    ws(64, 32, 4 * KIB, reach=1.0, aim=0.65),
    ws(64, 32, 64 * KIB, reach=1.0, aim=0.6),
    ws(4, 4, 1024 * KIB, quick=False),
    ws(8, 2, 64 * KIB, " down", kind="down", reach=1.0, aim=0.6),
    ws(8, 2, 64 * KIB, " up", kind="up", reach=1.0, aim=0.6),
    ws(16, 1, 256, " set-up", kind="setup", reach=1.0, aim=0.8),
    http("GET", 64, 0, reach=1.0, aim=0.6),
    http("GET", 64, KIB, reach=1.0, aim=0.6),
    http("GET", 64, 64 * KIB, reach=1.0, aim=0.7),
    http("POST", 64, 64 * KIB, reach=1.0, aim=0.7),
    http("GET", 8, 1024 * KIB, quick=False),
    grpc("unary", 1, 1, 16, figure="p50_us", quick=False),
    grpc("unary", 8, 32, 16, reach=0.5, aim=0.25),
    grpc("unary", 8, 32, KIB, reach=0.5, aim=0.25),
    grpc("unary", 8, 4, 64 * KIB, reference="nginx http", reach=0.7, aim=0.4),
    grpc("server", 8, 8, 256),
    grpc("client", 8, 8, 256),
    grpc("bidi", 8, 8, 256, 16, reach=0.8, aim=0.5),
    ws(1, 1, 64, " beside bulk (p50)", figure="p50_us", bulk=True, reference="nginx stream"),
    ws(1, 1, 64, " beside bulk (p99)", figure="p99_us", bulk=True, reference="nginx stream"),
    ws(2_000, 1, 256, " idle", figure="idle_kb", reach=0.8, aim=0.5),
]
