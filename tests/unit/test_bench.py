"""What the throughput suite makes of figures and names; nothing is measured, and nothing of it is compiled."""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

bench = pytest.importorskip("bench.__main__", reason="an archive of the sources has no bench/")

from bench import compare, flame, machine, report, run, stored, systems, table  # noqa: E402
from bench.cells import CELLS  # noqa: E402
from bench.choice import STANDARD  # noqa: E402
from bench.progress import Progress  # noqa: E402

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the suite needs Linux")

ROOT = Path(__file__).parents[2]
CELL = "WebSocket 64 x 1 x 256 B"
GET = "HTTP GET 64 x 1 KiB"


def a_run(figures: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Figures of each round, by cell and system."""
    runs = [
        {"round": round_, "cell": cell, "system": system, "cpu_us": figure}
        for cell, by_system in figures.items()
        for system, rounds in by_system.items()
        for round_, figure in enumerate(rounds)
    ]
    names = dict.fromkeys(one["system"] for one in runs)
    return {"machine": {}, "systems": dict.fromkeys(names, ""), "options": {"rounds": 3, "seconds": 1}, "runs": runs}


def beside(ours: list[float], cell: str = CELL, reference: str = "nginx stream") -> dict[str, Any]:
    return a_run({cell: {"cython": ours, reference: [10.0] * len(ours)}})


# -- comparing two runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([8.0, 8.1, 8.2], [8.3, 8.4, 8.5], "same"),  # apart, but hardly
        ([8.0, 8.1, 8.2], [9.5, 9.6, 9.7], "SLOWER"),
        ([9.5, 9.6, 9.7], [8.0, 8.1, 8.2], "faster"),
        ([8.0, 8.1, 9.6], [9.5, 9.6, 9.7], "within the noise"),
        ([8.0], [9.5, 9.6, 9.7], "one round only"),
        ([8.0, 8.1, 8.2], [16.0], "one round only"),
    ],
)
def test_a_verdict(before: list[float], after: list[float], verdict: str) -> None:
    lines, slower = compare.told(beside(before), beside(after), ["cython"], 120)
    assert lines[0] == "cython, as a multiple of the reference in the same round: median [least-greatest]"
    assert lines[1].split() == ["cell", "reference", "before", "after", "change"]
    assert lines[2].startswith(CELL)
    assert lines[2].endswith(verdict)
    assert slower == (verdict == "SLOWER")
    assert any("nothing is called slower" in line for line in lines) == (verdict == "one round only")


@pytest.mark.parametrize("room", [80, 200])
def test_a_comparison_fits_the_terminal(room: int) -> None:
    whole = a_run({cell.name: {name: [9.0, 9.1] for name in STANDARD} for cell in CELLS if cell.figure == "cpu_us"})
    lines, _ = compare.told(whole, whole, ["cython"], room)
    assert max(len(line) for text in lines[1:] for line in text.splitlines()) <= room


def test_what_cannot_be_compared_is_said() -> None:
    before, after = beside([8.0, 8.1]), beside([8.0, 8.1])
    before["runs"] += beside([1.0, 2.0], GET, "nginx http")["runs"]
    after["runs"] += [{"round": 0, "cell": "HTTP GET 64 x 0 B", "system": "cython", "cpu_us": 3.0}]
    after["runs"] += [{"round": 0, "cell": "of old", "system": "cython", "cpu_us": 3.0}]
    text = "\n".join(compare.told(before, after, ["cython"], 400)[0])
    assert f"not compared, not in the second run: {GET}" in text
    assert (
        "not compared, not in the first run, no nginx http, its reference, in the second run: HTTP GET 64 x 0 B" in text
    )
    assert "not a cell of this version of the suite: of old" in text


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(stored.Unusable, match="nothing in common") as caught:
        compare.told(beside([8.0, 8.1]), beside([1.0, 2.0], GET, "nginx http"), ["cython"], 80)
    assert caught.value.exit_code == 2
    free = a_run({CELL: {"direct": [0.0, 0.0], "nginx stream": [10.0, 10.0]}})
    with pytest.raises(stored.Unusable, match="it costs nothing"):
        compare.told(free, free, ["direct"], 80)


def test_the_systems_that_are_compared() -> None:
    before = a_run({CELL: {"cython": [1.0], "nginx stream": [1.0], "frp": [1.0]}})
    after = a_run({CELL: {"cython": [1.0], "nginx stream": [1.0], "nginx http": [1.0]}})
    assert compare.chosen(before, after, "cython,nginx*") == (
        ["cython", "nginx stream"],
        ["nginx http: only in the second run"],
    )
    with pytest.raises(stored.Unusable, match="frp: only in the first run"):
        compare.chosen(before, after, "frp")
    with pytest.raises(click.UsageError, match="no system is called 'nosuch'; there are: cython; nginx stream; frp"):
        compare.chosen(before, after, "nosuch")


@pytest.mark.parametrize("command", [["compare", "{0}", "{0}"], ["report", "{0}"]])
@pytest.mark.parametrize("text", ["{}", "[]", "<html>", "\xff", '{"runs": [1]}', '{"runs": [{"round": 0}]}'])
def test_a_file_that_is_no_run(tmp_path: Path, text: str, command: list[str]) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    done = CliRunner().invoke(bench.main, [part.format(path) for part in command])
    assert done.exit_code == 2
    assert re.fullmatch(rf"Error: {path} is no (JSON|run): .*\n", done.stderr)


def test_a_report_needs_a_whole_run(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"runs": beside([8.0])["runs"]}))
    done = CliRunner().invoke(bench.main, ["report", str(path)])
    assert done.exit_code == 2
    assert "it does not say 'machine'" in done.stderr


def test_where_a_run_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored.output(None, tmp_path / "new", "now.json") == tmp_path / "new/now.json"
    assert (tmp_path / "new").is_dir()
    assert stored.output(tmp_path, ROOT, "now.json") == tmp_path / "now.json"
    monkeypatch.chdir(tmp_path)
    assert stored.output(Path("a.json"), ROOT, "now.json") == tmp_path / "a.json"
    with pytest.raises(click.BadParameter, match="there is no directory"):
        stored.output(tmp_path / "nosuch/a.json", ROOT, "now.json")
    with pytest.raises(click.BadParameter, match="the page is written beside it"):
        stored.output(tmp_path / "a.html", ROOT, "now.json")


# -- the table ---------------------------------------------------------------------------------------------------------


def shown(result: dict[str, Any], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    table.put(result)
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("columns", [80, 100, 132, 240])
def test_the_table_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    result = a_run({cell.name: {name: [1234.5, 12345.6] for name in STANDARD} for cell in CELLS})
    for one in result["runs"]:
        one |= {"p50_us": 1234.5, "p99_us": 23456.7, "idle_kb": 51.8}
    out = shown(result, columns, monkeypatch, capsys)
    assert max(map(len, out.splitlines())) <= columns
    for name in STANDARD:
        assert re.search(rf"^cell .*  {re.escape(name)}\b", out, re.MULTILINE)
    assert out.count("cell ") == (1 if columns == 240 else out.count("──\n"))
    assert re.search(rf"^{CELL} .* 1\.00 \[1\.00-1\.00\]  nginx stream  0\.7, 0\.55", out, re.MULTILINE)
    assert "reach, aim: what that ratio is meant to be" in " ".join(out.split())


def test_the_table_says_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    result = beside([8.0])
    result["runs"] += a_run({GET: {"cython": [1.0]}})["runs"]
    result["systems"] |= {"mine": "", "other": ""}
    result["runs"] += [
        {
            "round": 0,
            "cell": CELL,
            "system": "mine",
            "error": "broken: sh ended with 3: bad",
            "broken": ["http", "grpc"],
        },
        {"round": 0, "cell": CELL, "system": "other", "error": "a wrong answer"},
    ]
    result["partial"] = "interrupted, 5 of 9 measured"
    out = shown(result, 200, monkeypatch, capsys)
    assert re.search(rf"^{CELL} .* broken  failed .* 0\.80  nginx stream", out, re.MULTILINE)
    assert re.search(rf"^{GET} .* not in the run  nginx http", out, re.MULTILINE)
    assert "Not in the run, but a reference: nginx http" in out
    assert "one round only" in out
    assert "\nmine: broken: sh ended with 3: bad\n" in out
    assert f"\nfailed: other, {CELL}: a wrong answer\n" in out
    assert "\nPARTIAL: interrupted, 5 of 9 measured.\n" in out
    assert "nginx http is not in the run" in report.markdown(result)
    del result["systems"]["cython"]
    assert "cython is not in the run: there are no ratios." in shown(result, 200, monkeypatch, capsys)


# -- progress ----------------------------------------------------------------------------------------------------------


def test_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress([(round_, what) for round_ in range(2) for what in ("short", "long", "other")]) as progress:
        assert str(progress) == "0 of 6 measured"
        for what, length in (("short", 1), ("long", 60), ("other", 5)):
            now += length
            progress.measured((0, what), f"it was {what}")
        assert progress.left_s() == 66
        now += 1
        progress.measured((1, "short"), "again")
        progress.drop(lambda item: item[1] == "other")
        assert str(progress) == "4 of 5 measured, 1:00 left"
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0] == "it was short  (1 of 6 measured, 0:05 left)"


# -- systems -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "version"),
    [
        (["echo", "mine 1.2"], "mine 1.2"),
        (["sh", "-c", "echo mine 1.2 >&2"], "mine 1.2"),
        (["sh", "-c", "echo unknown option --version >&2; exit 1"], ""),
        (["true"], ""),
        (["no such program"], ""),
    ],
)
def test_a_version(command: list[str], version: str) -> None:
    assert systems._output(*command) == version
    assert systems.System().version() == ""


def test_names_of_processes() -> None:
    assert run.process_names(systems.SYSTEMS["cython"], [["python"], ["python"]]) == ["server", "client"]
    assert run.process_names(systems.System(), [["/bin/nginx"], ["sh"], ["nginx"]]) == ["nginx 1", "sh", "nginx 2"]


def test_the_last_words_of_a_process() -> None:
    with tempfile.TemporaryFile() as said:
        assert run.last_words(said) == ""
        said.write(b"x" * 5000 + b"\nfirst\n\n\x1b[31msecond\x1b[0m\n third\n")
        said.flush()
        at = said.tell()
        assert run.last_words(said) == "first | second | third"
        assert said.tell() == at  # which is where the process writes on


def example(text: str, start: str, end: str) -> Any:
    """The system of an example, made of its source."""
    source = start + text.partition(start)[2].partition(end)[0]
    scope = {**vars(systems)}
    exec(source, scope)
    return scope[source.partition(" ")[2].partition("(")[0]]()


def test_the_examples_of_systems(tmp_path: Path) -> None:
    document = (ROOT / "docs/performance.md").read_text()
    mine = example(document, "class Mine", "```")
    [server, client] = mine.commands(tmp_path, 1, 2, "http")
    assert server == ["mine-server", "--config", f"{tmp_path}/server.toml"]
    assert client[2] == "127.0.0.1:2"
    assert mine.missing() == "mine-server, mine-client not on PATH"
    assert systems.__doc__ is not None
    lines = systems.__doc__.replace("\n    ", "\n")
    hops = example(lines, "class Socat", "\nAll processes").commands(tmp_path, 1, 2, "http")
    assert [hop[0] for hop in hops] == ["socat", "socat"]
    assert hops[0][1].startswith("TCP-LISTEN:1,")
    assert hops[1][2] == "TCP:127.0.0.1:2"


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bench.main.list_commands(click.Context(bench.main)))
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_compiles_nothing(name: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> None:
        raise AssertionError("it compiles")

    monkeypatch.setattr(bench, "build", build)
    for module in ("bench._native", "bench._kernels"):
        monkeypatch.setitem(sys.modules, module, None)  # cannot be imported
    monkeypatch.delitem(sys.modules, f"bench.{name.replace('-', '_')}", raising=False)
    done = CliRunner().invoke(bench.main, [name, option])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"Usage: main {name} ")


def test_processes_of_a_flame_graph_have_names() -> None:
    sample = "    55d0 work+0x1 (/usr/lib/python3)\n    55d1 main+0x2 (/usr/lib/python3)\n"
    stacks = flame.folded(
        "\n".join(f"{process} \n{sample}" for process in ("python 7", "python 8", "a b 9")), {7: "server"}
    )
    assert [stack[0] for stack in stacks] == [("server", ""), ("python 8", ""), ("a b 9", "")]
    assert next(iter(stacks))[1:] == (("main", "python3"), ("work", "python3"))


@pytest.mark.parametrize(("control", "told"), [("bbr", 1), ("cubic", 0), ("reno", 0), ("", 0)])
def test_a_congestion_control_that_moves_the_ratios(control: str, told: int) -> None:
    lines = machine.warnings({"congestion control": control})
    assert len(lines) == told
    assert all("bbr" in line and "sysctl -w net.ipv4.tcp_congestion_control=cubic" in line for line in lines)
