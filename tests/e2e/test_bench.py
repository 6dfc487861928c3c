"""The throughput suite works: a short run of a few cells, its page, and a comparison with itself."""

import json
import os
import re
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import programs
from tests.support.http2 import connect_http2
from tests.support.raw import connect

ROOT = Path(__file__).parents[2]
CELLS = ["WebSocket 64 x 1 x 256 B", "WebSocket 8 x 2 x 64 KiB down", "HTTP POST 64 x 64 KiB", "gRPC * 8 x 8*"]

# The suite with systems that do not work. It is given to python -c, before the arguments of the suite.
BROKEN = """
import sys
sys.path[:0] = [".", "src"]
from bench import __main__, run, systems
from bench.build import build
build()
run.UP_WITHIN_S = 6
class Broken(systems.System):
    def __init__(self, name, *command, carries=("http", "grpc")):
        self.name, self.command, self.carries = name, command, carries
    def commands(self, folder, port, backend, kind):
        return [[part.format(port=port, backend=backend) for part in self.command]]
class HttpAlone(systems.Fasttunnel):
    def commands(self, folder, port, backend, kind):
        return super().commands(folder, port, backend, kind) if kind == "http" else [["sh", "-c", "kill -9 $$"]]
http_alone = HttpAlone("cython")
http_alone.name = "http alone"
for system in (
    Broken("mine", "sh", "-c", "echo bad option --foo >&2; exit 3"),
    Broken("mute", "sleep", "1000"),
    Broken("away", "true"),
    http_alone,
):
    systems.SYSTEMS[system.name] = system
__main__.main(prog_name="python -m bench")
"""

pytestmark = [
    pytest.mark.cython_only("it starts the ends itself"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the suite needs Linux"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the suite needs two CPUs"),
]


async def bench(*arguments: str) -> str:
    done = await programs.run("env", "-C", str(ROOT), sys.executable, "-m", "bench", *arguments)
    assert done.code == 0, done.out.decode() + done.err
    return done.out.decode()


async def test_a_short_run(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    options = ["--rounds", "1", "--seconds", "0.3", "--systems", "direct,cython", "--output", str(path)]
    await bench("run", *options, "--cells", ",".join(CELLS))
    result = json.loads(path.read_text())
    assert {"congestion control", "mitigations", "virtual", "load average"} < result["machine"].keys()
    runs = result["runs"]
    assert len(runs) == 6 * 2
    assert [run["error"] for run in runs if "error" in run] == []
    for run in runs:
        assert run["answered"] > 0
        assert (run["cpu_us"] > 0) == (run["system"] != "direct")
    page = path.with_suffix(".html").read_text()
    assert "gRPC bidi 8 x 8 x 16 x 256 B" in page


async def test_backends_outlive_a_client_that_does_what_it_may_not(stack: AsyncExitStack) -> None:
    await bench("list")  # which compiles them
    program = ["env", "-C", str(ROOT), sys.executable, "-m", "bench.backend"]
    backend = await programs.start(stack, *program)
    http, grpc = map(int, (await backend.line(r"^(\d+) (\d+)$")).groups())
    message = b"\0\0\0\0\1x"
    beside = await connect_http2(stack, "127.0.0.1", grpc)
    echo = await beside.open("POST", "/bench.Echo/Bidi", end=False)

    for _ in range(2):  # what a relay leaves of a call whose client has gone
        short = await beside.ask("POST", "/bench.Echo/Client", body=2 * message)
        assert dict(short.trailers) == {"grpc-status": "13", "grpc-message": "2 messages of 100"}
    for _ in range(1100):  # a relay resets the calls of each load that ends, and may keep its connection for the next
        await (await beside.open("POST", "/bench.Echo/Client", end=False)).cancel()
    broken = await connect_http2(stack, "127.0.0.1", grpc)
    for kind in ("Unary", "Server", "Client", "Bidi"):
        await (await broken.open("POST", f"/bench.Echo/{kind}", end=False)).send(message[:3])
    broken.peer.drop()
    handshake = "GET /ws/echo HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for port, nonsense in (
        (grpc, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"),
        (http, "nonsense\r\n\r\n"),
        (http, "POST /1 HTTP/1.1\r\n\r\n"),
        (http, "GET http://bench HTTP/1.1\r\n\r\n"),
        (http, "GET /ws/echo HTTP/1.1\r\n\r\n"),
        (http, "POST /bulk/9 HTTP/1.1\r\nContent-Length: 9\r\n\r\nnonsense!"),
        (http, f"{handshake}\2\1x"),
    ):
        peer = await connect(stack, "127.0.0.1", port)
        await peer.send(nonsense)
        await peer.to_end()
        await backend.line("^backend: ")

    await echo.send(message, end=True)
    await echo.done()
    assert (bytes(echo.body), dict(echo.trailers)) == (message, {"grpc-status": "0"})
    assert beside.go_away is None
    peer = await connect(stack, "127.0.0.1", http)
    assert (await peer.ask("GET /1/0 HTTP/1.1\r\n\r\n")).status == 200


async def test_a_run_beside_itself_is_not_slower(tmp_path: Path) -> None:
    runs = [
        {"round": round_, "cell": "WebSocket 64 x 1 x 256 B", "system": system, "cpu_us": cpu_us * (1 + round_ / 100)}
        for round_ in range(3)
        for system, cpu_us in (("cython", 20.0), ("nginx stream", 30.0))
    ]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps({"runs": runs}))
    assert "same" in await bench("compare", str(before), str(before))
    for run in runs:
        if run["system"] == "cython":
            run["cpu_us"] *= 1.5
    after.write_text(json.dumps({"runs": runs}))
    done = await programs.run("env", "-C", str(ROOT), sys.executable, "-m", "bench", "compare", str(before), str(after))
    assert done.code == 1
    assert b"SLOWER" in done.out


async def test_systems_that_do_not_come_up(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    options = ["--rounds", "2", "--seconds", "0.3", "--output", str(path), "--cells", f"{CELLS[0]},gRPC server*"]
    command = ["env", "-C", str(ROOT), "COLUMNS=80", sys.executable, "-c", BROKEN, "run", *options, "--systems"]
    done = await programs.run(*command, "direct,mine,mute,away,http alone")
    out = done.out.decode()
    assert done.code == 3, out + done.err
    for told, name in (
        ("sh ended with 3: bad option --foo", "mine"),
        ("after 6 s nothing listens at its public port, though its processes run", "mute"),
        ("true ended with 0: nothing on stderr; its processes have to stay in the foreground", "away"),
        ("server was ended by SIGKILL: nothing on stderr", "http alone"),
    ):
        assert done.err.count(f"{name}: broken: {told}") == 1  # and nothing was tried again
        assert f"{name}: broken: {told}" in " ".join(out.split())
    assert done.err.splitlines()[-1] == "broken: mine, mute, away, http alone"
    assert "  (10 of 10 measured, 0:00 left)" in done.err
    assert "measured" not in out
    assert max(map(len, out.partition("\n\n")[2].splitlines()[:-2])) <= 80
    runs = json.loads(path.read_text())["runs"]
    assert [run["round"] for run in runs if run["system"] == "http alone" and "broken" not in run] == [0, 1]
    assert [run["broken"] for run in runs if "broken" in run] == [["http", "grpc"]] * 3 + [["grpc"]]


async def test_a_system_that_does_not_come_up_beside_bulk() -> None:
    command = ["env", "-C", str(ROOT), sys.executable, "-c", BROKEN, "beside-bulk", "--systems", "direct,mine"]
    done = await programs.run(*command, "--seconds", "0.1", "--rounds", "2")
    assert done.code == 3, done.err
    assert done.err.count("mine: broken: sh ended with 3: bad option --foo") == 1
    assert re.search(r"^round 2  direct: p50 [\d.]+ ms alone", done.err, re.MULTILINE)
    assert b"load average" in done.out.splitlines()[0]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_is_interrupted(stack: AsyncExitStack, tmp_path: Path, by: signal.Signals) -> None:
    path = tmp_path / "run.json"
    options = ["--rounds", "100", "--seconds", "0.3", "--systems", "direct", "--cells", CELLS[0]]
    command = [sys.executable, "-m", "bench", "run", *options, "--output", str(path)]
    run = await programs.start(stack, "env", "-C", str(ROOT), *command)
    await run.line(r"^round 2 .*measured")
    begun = time.monotonic()
    run.signal(by)
    assert await run.end() == 130
    assert time.monotonic() - begun < 10
    result = json.loads(path.read_text())
    measured = len(result["runs"])
    assert 2 <= measured < 100
    assert result["partial"] == f"interrupted, {measured} of 100 measured"
    assert "PARTIAL: interrupted" in path.with_suffix(".html").read_text()


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_a_small_message_beside_bulk(direction: str) -> None:
    options = ["--seconds", "0.2", "--transfers", "2", "--direction", direction, "--systems", "direct,cython"]
    out = await bench("beside-bulk", *options)
    rows = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in out.splitlines()[-2:]}
    assert set(rows) == {"direct", "cython"}
    assert all(value > 0 for row in rows.values() for value in row), out


async def test_growth() -> None:
    out = await bench("growth", "--systems", "cython", "--connections", "1,64", "--rounds", "1", "--seconds", "0.1")
    rows = [line.split() for line in out.splitlines() if line.startswith("cython ")]
    assert [row[1] for row in rows] == ["1", "64"]
    assert all(float(row[2]) > 0 for row in rows)
    assert "100,000 entries" in out


@pytest.mark.parametrize(("program", "option"), [("perf", ""), ("strace", "--syscalls")])
async def test_a_profile(program: str, option: str) -> None:
    programs.need(program)
    options = ["--seconds", "0.5", *([option] if option else [])]
    command = [sys.executable, "-m", "bench", "profile", "WebSocket 64 x 1 x 256 B", *options]
    done = await programs.run("env", "-C", str(ROOT), *command)
    if done.code and f"{program}: " in done.err:
        pytest.skip(f"{program} may not watch processes here: {done.err.strip()}")
    assert done.code == 0, done.err
    out = done.out.decode()
    if option:
        assert 0 < float(out.splitlines()[-1].split()[0]) < 20
        assert "epoll_pwait" in out
    else:
        picture = Path(out.partition("flame graph: ")[2].strip())
        frames = ElementTree.parse(picture).getroot().findall("{*}g/{*}title")
        assert any("fasttunnel" in (frame.text or "") for frame in frames)
        assert {(frame.text or "").partition(":")[0] for frame in frames} >= {"server", "client"}


async def test_downloads_that_nobody_reads() -> None:
    out = await bench("stalled", "--downloads", "5", "--megabytes", "1", "--engines", "cython")
    assert "5 stalled downloads of 1 MiB" in out


async def test_a_download_over_a_long_way() -> None:
    out = await bench("long-way", "--seconds", "2", "--round-trip-ms", "10")
    assert out.count("MB/s in the second half") == 5
    assert " 0.0 MB/s" not in out


async def test_tls(tmp_path: Path) -> None:
    path = tmp_path / "tls.json"
    out = await bench("tls", "--rounds", "1", "--seconds", "0.05", "--connections", "5", "--output", str(path))
    result = json.loads(path.read_text())
    assert [run["error"] for run in result["runs"] if "error" in run] == []
    figures = {(run["row"], run["kind"]): run["figure"] for run in result["runs"]}
    for kind in ("asyncio", "uvloop", "sockets"):
        assert all(figures[row, kind] > 0 for row, _ in figures if not row.startswith("idle")), out
    kinds = {kind for _, kind in figures}
    assert ("aiofastnet" in kinds) == ("skipped: aiofastnet" not in out)
    rows = list(dict.fromkeys(row for row, _ in figures))
    assert len(rows) == 7
    assert all(any(line.startswith(row[:9]) for line in out.splitlines()) for row in rows), out


async def test_a_name_that_is_not_known() -> None:
    done = await programs.run("env", "-C", str(ROOT), sys.executable, "-m", "bench", "run", "--systems", "ngin")
    assert done.code == 2
    assert "no system is called 'ngin'" in done.err
