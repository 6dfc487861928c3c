"""CPU per message of a tunnel (server and client together) with either engine, beside that of nginx relaying bytes
twice, in one run.

    python bench/first_figures.py [--seconds 3] [--rounds 3]

Needs two CPUs: the load and the backends run on the first, the system under test on the second. The relay is skipped
by name without nginx and its stream module, the gRPC rows without h2load and nghttpd (Debian: nginx-light,
libnginx-mod-stream, nghttp2-client, nghttp2-server). These are first figures, no full throughput suite.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

LOAD_CPU, TUNNEL_CPU = "0", "1"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def head(size: int, mask: bool) -> bytes:
    """Header of a binary frame; the mask is zero, so that a payload looks alike on both sides."""
    bit = 128 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65536:
        length = bytes([bit | 126]) + struct.pack(">H", size)
    else:
        length = bytes([bit | 127]) + struct.pack(">Q", size)
    return b"\x82" + length + (bytes(4) if mask else b"")


class EchoBackend(asyncio.Protocol):
    """Answers each frame of the known size with one of the same payload."""

    def __init__(self, size: int) -> None:
        self._frame_bytes = len(head(size, True)) + size
        self._head = head(size, False)
        self._size = size
        self._open = False
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self._open:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            key = re.search(rb"(?i)sec-websocket-key: (\S+)", data)
            if key is None:  # the probe whether the tunnel is up
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                self._rest = data[end + 4 :]
                return
            accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self._open = True
            data = data[end + 4 :]
        count = len(data) // self._frame_bytes
        self._rest = data[count * self._frame_bytes :]
        if count:
            # The tunnel masks afresh: only the length is looked at here, the load checks what comes back.
            self._transport.write((self._head + b"a" * self._size) * count)


class Load(asyncio.Protocol):
    """One connection: keeps `depth` messages in flight and checks every byte of the answers."""

    answered = 0

    def __init__(self, size: int, depth: int) -> None:
        self._request = head(size, True) + b"a" * size
        self._reply = head(size, False) + b"a" * size
        self._depth = depth
        self._rest = b""
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.write(HANDSHAKE)

    def begin(self) -> None:
        self._transport.write(self._request * self._depth)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            assert data.startswith(b"HTTP/1.1 101"), data[:100]
            self.ready.set_result(None)
            return
        data = self._rest + data
        count = len(data) // len(self._reply)
        whole = count * len(self._reply)
        assert data[:whole] == self._reply * count
        self._rest = data[whole:]
        if count:
            Load.answered += count
            self._transport.write(self._request * count)


def cpu_us(processes: list[subprocess.Popen]) -> float:
    """CPU time of all threads of the processes and their children, in microseconds."""
    total = 0
    for process in processes:
        pids = [process.pid]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pids += map(int, children)
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1000


@contextlib.contextmanager
def running(*commands: list[str], cpu: str) -> Iterator[list[subprocess.Popen]]:
    processes = [subprocess.Popen(["taskset", "-c", cpu, *command], stdout=subprocess.DEVNULL) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()  # a polite end would wait for the connections of the load
        for process in processes:
            process.wait()


@contextlib.contextmanager
def fasttunnel(port: int, backend: str, engine: str = "cython") -> Iterator[list[subprocess.Popen]]:
    tunnel = free_port()
    program = [sys.executable, "-m", "fasttunnel"]
    server = [
        *program,
        "server",
        "--engine",
        engine,
        "--listen",
        f"127.0.0.1:{port}",
        "--tunnel",
        f"127.0.0.1:{tunnel}",
    ]
    client = [*program, "client", "--engine", engine, "--server", f"127.0.0.1:{tunnel}", backend]
    with running(server, client, cpu=TUNNEL_CPU) as processes:
        yield processes


def asyncio_engine(port: int, backend: str) -> contextlib.AbstractContextManager[list[subprocess.Popen]]:
    return fasttunnel(port, backend, "asyncio")


@contextlib.contextmanager
def nginx_stream(port: int, backend: str) -> Iterator[list[subprocess.Popen]]:
    """Two nginx processes that relay bytes, as the two ends of a tunnel do at least."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {module};" if module.exists() else ""
    middle, target = free_port(), backend.rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for index, (listen, to) in enumerate([(port, f"127.0.0.1:{middle}"), (middle, target)]):
            path = Path(folder) / f"{index}.conf"
            path.write_text(
                f"{load} daemon off; master_process off; pid {folder}/{index}.pid; error_log stderr crit;\n"
                f"events {{ worker_connections 4096; }}\n"
                f"stream {{ server {{ listen 127.0.0.1:{listen}; proxy_pass {to}; tcp_nodelay on; }} }}\n"
            )
            commands.append([str(shutil.which("nginx")), "-e", "stderr", "-c", str(path)])
        with running(*commands, cpu=TUNNEL_CPU) as processes:
            yield processes


async def until_up(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(12), 5)
            writer.close()
            if answer == b"HTTP/1.1 200":
                return
        await asyncio.sleep(0.05)
    raise SystemExit(f"nothing answers through port {port}")


async def websocket(system, connections: int, size: int, depth: int, seconds: float) -> float:
    """CPU microseconds per answered message."""
    loop = asyncio.get_running_loop()
    backend = await loop.create_server(lambda: EchoBackend(size), "127.0.0.1", 0, backlog=4096)
    port = free_port()
    with system(port, f"http://127.0.0.1:{backend.sockets[0].getsockname()[1]}") as processes:
        await until_up(port)
        loads = []
        for _ in range(connections):
            _, load = await loop.create_connection(lambda: Load(size, depth), "127.0.0.1", port)
            loads.append(load)
        await asyncio.gather(*(load.ready for load in loads))
        for load in loads:
            load.begin()
        await asyncio.sleep(0.5)
        answered, cpu = Load.answered, cpu_us(processes)
        await asyncio.sleep(seconds)
        result = (cpu_us(processes) - cpu) / (Load.answered - answered)
        for load in loads:
            load._transport.abort()
    backend.close()
    return result


def unary(system, connections: int, calls: int, size: int) -> float:
    """CPU microseconds per unary call of `size` bytes each way: h2load asks, nghttpd answers a file with trailers."""
    with tempfile.TemporaryDirectory() as folder:
        message = Path(folder) / "bench.Echo" / "Call.grpc"
        message.parent.mkdir()
        message.write_bytes(struct.pack(">BI", 0, size) + bytes(size))
        types = Path(folder) / "types"
        types.write_text("application/grpc grpc\n")
        port, backend = free_port(), free_port()
        service = ["nghttpd", "--no-tls", "-d", folder, "--trailer=grpc-status: 0", f"--mime-types-file={types}"]
        with (
            running([*service, "-a", "127.0.0.1", str(backend)], cpu=LOAD_CPU),
            system(port, f"grpc://127.0.0.1:{backend}") as processes,
        ):
            load = ["taskset", "-c", LOAD_CPU, "h2load", "-d", str(message), "-H", "content-type: application/grpc"]
            load += ["-H", "te: trailers", f"http://127.0.0.1:{port}/bench.Echo/Call.grpc"]
            deadline = time.monotonic() + 10
            while "1 2xx" not in subprocess.run([*load, "-n", "1"], capture_output=True, text=True).stdout:
                if time.monotonic() > deadline:
                    raise SystemExit("no call succeeds")
            cpu = cpu_us(processes)
            done = subprocess.run(
                [*load, "-n", str(calls), "-c", str(connections), "-m", "32"], capture_output=True, text=True
            )
            assert f"{calls} 2xx" in done.stdout, done.stdout
            return (cpu_us(processes) - cpu) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the systems take turns")
    options = parser.parse_args()
    os.sched_setaffinity(0, {int(LOAD_CPU)})
    systems = {"cython": fasttunnel, "asyncio": asyncio_engine, "nginx 2hop": nginx_stream}
    if shutil.which("nginx") is None:
        print("skipped: nginx (not on PATH)")
        del systems["nginx 2hop"]
    print(f"{'CPU microseconds per message':44}" + "".join(f"{name:>11}" for name in systems) + "   ratios to cython")

    def compare(name: str, measure: Callable[[Any], float]) -> None:
        figures = {system: [] for system in systems}
        for _ in range(options.rounds):
            for system, start in systems.items():
                figures[system].append(measure(start))
        ours = figures["cython"]
        ratios = [statistics.median(b / a for a, b in zip(ours, theirs, strict=True)) for theirs in figures.values()]
        line = "".join(f"{statistics.median(values):11.2f}" for values in figures.values())
        print(f"{name:44}{line}   " + " ".join(f"{ratio:.2f}" for ratio in ratios[1:]), flush=True)

    for connections, size, depth in ((64, 256, 1), (512, 256, 1), (64, 256, 32), (64, 4096, 32), (64, 65536, 32)):
        compare(
            f"WebSocket {connections} connections, {depth} in flight, {size} B",
            lambda system, c=connections, s=size, d=depth: uvloop.run(websocket(system, c, s, d, options.seconds)),
        )
    missing = [program for program in ("h2load", "nghttpd") if shutil.which(program) is None]
    if missing:
        print(f"skipped: gRPC ({', '.join(missing)} not on PATH)")
        return
    for size in (16, 1024):
        compare(
            f"gRPC unary, 8 connections x 32 calls, {size} B",
            lambda system, s=size: unary(system, 8, 5_000 if system is asyncio_engine else 50_000, s),
        )


if __name__ == "__main__":
    main()
