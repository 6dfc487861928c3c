"""TLS of the sockets that a data plane could have: asyncio's, uvloop's and aiofastnet's transports, and ours."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from bench import compiled
from bench.choice import picked, require
from bench.machine import in_a_line, machine
from bench.run import SYSTEM_CPU, Running, end, pin, raise_limits, shown, start

KINDS = {
    "asyncio": "transports of asyncio on its own loop",
    "uvloop": "transports of uvloop",
    "aiofastnet": "transports of aiofastnet on uvloop",
    "sockets": "the data plane's own, on uvloop",
    "plain": "the same without TLS",
}
OURS, PLAIN = "sockets", "plain"
SIZE = 256
CIPHER = "TLS_AES_128_GCM_SHA256"
MIB = 1 << 20
RESUMED_ROW = "handshake resumed"
MEMORY_ROW = "idle"


@dataclass
class Server:
    """One that is up."""

    running: Running
    cipher: str | None  # None: without TLS
    echo: int
    sink: int
    source: int


Row = Callable[[Server, float], float]


def certificate(path: Path) -> None:
    """Write a certificate of ECDSA on P-256 that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    kept = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + kept)


@contextlib.contextmanager
def serving(kind: str, pem: Path, cipher: str) -> Iterator[Server]:
    process = start([sys.executable, "-m", "bench.tls_server", kind, str(pem)], SYSTEM_CPU, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ports = list(map(int, process.stdout.readline().split()))
        if not ports:
            raise RuntimeError("it did not come up")
        yield Server(Running(ports[0], [process]), None if kind == PLAIN else cipher, *ports)
    finally:
        end([process])


# -- rows: a figure of a server --------------------------------------------------------------------------------------


def _cpu(server: Server, load: Any, go: Callable[[float], None], seconds: float) -> float:
    """CPU microseconds of the server per unit that `go` does, after a third of that time to get warm."""
    go(seconds / 3)
    time.sleep(0.01)  # until the server has nothing left to do
    done, cpu = load.done, server.running.cpu_us()
    go(seconds)
    time.sleep(0.01)
    done, cpu = load.done - done, server.running.cpu_us() - cpu
    if not done:
        raise RuntimeError(f"nothing done in {seconds} s")
    return cpu / done


def handshake(resumed: bool) -> Row:
    def row(server: Server, seconds: float) -> float:
        load = compiled.TlsLoad(server.cipher)
        if resumed:
            load.resume(server.echo)
        return _cpu(server, load, lambda length: load.shake(server.echo, length), seconds)

    return row


def echo(connections: int) -> Row:
    def row(server: Server, seconds: float) -> float:
        load = compiled.TlsLoad(server.cipher)
        load.open(server.echo, connections, SIZE)
        figure = _cpu(server, load, load.echo, seconds)
        load.close()
        return figure

    return row


def bulk_down(server: Server, seconds: float) -> float:
    load = compiled.TlsLoad(server.cipher)
    load.begin(server.source)
    figure = _cpu(server, load, load.down, seconds)
    load.enough()
    return figure * MIB


def bulk_up(server: Server, seconds: float) -> float:
    load = compiled.TlsLoad(server.cipher)
    load.begin(server.sink)
    figure = _cpu(server, load, load.up, seconds)
    load.taken()
    return figure * MIB


def memory(connections: int) -> Row:
    """Of a server that is new: each connection has had one message, and waits for the next."""

    def row(server: Server, seconds: float) -> float:
        first = compiled.TlsLoad(server.cipher)  # what is made once is not a connection's
        first.open(server.echo, 1, SIZE)
        before = server.running.memory_kb()
        load = compiled.TlsLoad(server.cipher)
        load.open(server.echo, connections, SIZE)
        figure = (server.running.memory_kb() - before) / connections
        load.close()
        first.close()
        return figure

    return row


def rows(connections: int) -> dict[str, tuple[Row, str]]:
    return {
        "handshake": (handshake(False), "CPU us"),
        RESUMED_ROW: (handshake(True), "CPU us"),
        f"echo 1 x {SIZE} B": (echo(1), "CPU us"),
        f"echo 32 x {SIZE} B": (echo(32), "CPU us"),
        "bulk down 64 KiB": (bulk_down, "CPU us per MiB"),
        "bulk up 64 KiB": (bulk_up, "CPU us per MiB"),
        f"{MEMORY_ROW} {connections}": (memory(connections), "kB each"),
    }


# -- the command -----------------------------------------------------------------------------------------------------


def measure(
    kinds: list[str], chosen: dict[str, tuple[Row, str]], rounds: int, seconds: float, cipher: str
) -> list[dict[str, Any]]:
    """All raw runs: in each round all servers are up, and take turns in every row."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pem = Path(folder) / "pem"
        certificate(pem)
        for round_ in range(rounds):
            with contextlib.ExitStack() as stack:
                up = {kind: stack.enter_context(serving(kind, pem, cipher)) for kind in kinds}
                for name, (row, _) in chosen.items():
                    for kind in kinds:
                        if kind == PLAIN and name == RESUMED_ROW:
                            continue
                        found: dict[str, Any] = {"round": round_, "row": name, "kind": kind}
                        try:
                            if name.startswith(MEMORY_ROW):
                                with serving(kind, pem, cipher) as fresh:
                                    found["figure"] = row(fresh, seconds)
                            else:
                                found["figure"] = row(up[kind], seconds)
                        except (RuntimeError, OSError) as error:
                            found["error"] = str(error)
                            click.echo(f"failed: {kind}, {name} ({error})", err=True)
                        runs.append(found)
    return runs


def table(runs: list[dict[str, Any]], kinds: list[str], chosen: dict[str, tuple[Row, str]]) -> Iterator[str]:
    """Medians, and behind each its ratio to ours in the same rounds: median, least and greatest."""
    by = {(run["round"], run["row"], run["kind"]): run["figure"] for run in runs if "figure" in run}
    rounds = sorted({run["round"] for run in runs})
    width = {kind: 10 if kind == OURS else 25 for kind in kinds}
    yield f"{'':34}" + "".join(f"{kind:>{width[kind]}}" for kind in kinds)
    for name, (_, unit) in chosen.items():
        line = f"{f'{name}, {unit}':34}"
        for kind in kinds:
            figures = {round_: by[round_, name, kind] for round_ in rounds if (round_, name, kind) in by}
            ratios = [
                value / by[round_, name, OURS] for round_, value in figures.items() if by.get((round_, name, OURS))
            ]
            text = shown(statistics.median(figures.values())) if figures else "-"
            if ratios and kind != OURS:
                text += f" {statistics.median(ratios):5.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"
            line += f"{text:>{width[kind]}}"
        yield line


@click.command("tls")
@click.option(
    "--seconds", type=click.FloatRange(0.02), default=0.5, show_default=True, help="length of one measurement"
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="rounds; the servers take turns")
@click.option("--kinds", help="which sockets, by name or pattern, separated by commas  [all]")
@click.option("--rows", "row_names", help="which rows, by name or pattern, separated by commas  [all]")
@click.option("--connections", type=click.IntRange(1), default=500, show_default=True, help="of the row of memory")
@click.option("--cipher", default=CIPHER, show_default=True, help="of TLS 1.3, the only one that the load offers")
@click.option("--output", type=click.Path(path_type=Path), help="write all raw figures there, as JSON")
def command(
    seconds: float, rounds: int, kinds: str | None, row_names: str | None, connections: int, cipher: str,
    output: Path | None,
) -> None:  # fmt: skip
    """TLS 1.3 by transports of asyncio, uvloop and aiofastnet, and by the sockets of the data plane.

    Each server is a process on the second CPU, in turns under the same load from the first; counted is the CPU time of
    the server. The certificate is of ECDSA on P-256, all use the same libssl. A handshake is a connection: connect,
    handshake, close_notify both ways; with one ticket from all servers.
    """
    require()
    pin()
    raise_limits()
    chosen_kinds = picked(list(KINDS), kinds, list(KINDS), "kind")
    if "aiofastnet" in chosen_kinds and importlib.util.find_spec("aiofastnet") is None:
        click.echo("skipped: aiofastnet (pip install aiofastnet)")
        chosen_kinds.remove("aiofastnet")
    all_rows = rows(connections)
    chosen = {name: all_rows[name] for name in picked(list(all_rows), row_names, list(all_rows), "row")}
    facts = machine()
    click.echo(in_a_line(facts))
    versions = {name: version(name) for name in ("uvloop", "aiofastnet") if name in chosen_kinds}
    click.echo("; ".join([cipher, *(f"{name} {number}" for name, number in versions.items())]))
    runs = measure(chosen_kinds, chosen, rounds, seconds, cipher)
    for line in table(runs, chosen_kinds, chosen):
        click.echo(line)
    if output is not None:
        options = {"rounds": rounds, "seconds": seconds, "cipher": cipher}
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(
            json.dumps({"machine": facts, "versions": versions, "options": options, "runs": runs}, indent=1)
        )
    if any("error" in run for run in runs):
        sys.exit(1)
