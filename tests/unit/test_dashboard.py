"""What packaging/ has for Prometheus and Grafana: it parses, and speaks of metrics and labels that there are."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fasttunnel.admin.lag import LoopLag
from fasttunnel.admin.metrics import Metrics
from fasttunnel.admin.subject import Subject
from fasttunnel.control.counts import Counts, Durations, Flow, Method

promql = pytest.importorskip("promql_parser", reason="promql-parser has no wheel here")

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "packaging" / "prometheus"
OTHERS = {"up": {"job", "instance"}}  # of Prometheus itself
ADDED = {"job", "instance"}  # labels that Prometheus gives to whatever it reads
INTERVALS = {"$__rate_interval": "5m"}  # of Grafana


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "packaging" / "grafana" / "fasttunnel.json").read_text())
    return found


def expressions() -> Iterator[Any]:
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Names of all series with their labels, as admin ports of a server and of a client with traffic have them."""
    counts = Counts()
    for protocol in ("http", "grpc", "websocket"):
        counts.flows["shop.example", protocol] = Flow(requests=1)
        counts.durations[protocol] = Durations()
        counts.statuses[protocol, 200] = counts.refusals[protocol, 503] = counts.resets[protocol, 1] = 1
    counts.methods["/demo.Echo/Unary"] = Method(statuses={0: 1})
    counts.closes[1000] = counts.frames[0, 1] = 1
    counts.tunnels.round_trips_s["laptop"] = 0.01
    keys = ("connections", "buffered_bytes", "queued_requests", "timers", "tasks", "reads", "writes", "tunnels")
    status = dict.fromkeys((*keys, "handshakes_failed"), 0)

    class Engine:
        def status(self) -> dict[str, int]:
            return status

        def counts(self) -> Counts:
            return counts

    known = {name: set(labels) for name, labels in OTHERS.items()}
    for kind in ("server", "client"):
        subject = Subject(kind, "cython", Engine, str, list)  # type: ignore[arg-type]
        text = Metrics(subject, LoopLag()).text("")[0].decode()
        for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.MULTILINE):
            known.setdefault(name, set()).update(re.findall(r'([a-z_]+)="', labels))
    return known


def selectors(expression: Any) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        return True

    promql.walk(expression, visit)
    return found


@pytest.mark.parametrize("text", list(expressions()))
def test_expressions(text: str, metrics: dict[str, set[str]]) -> None:
    for name, value in INTERVALS.items():
        text = text.replace(name, value)
    expression = promql.parse(text)
    used = selectors(expression)
    assert used
    labels: set[str] = set()
    for each in used:
        assert each.name in metrics, f"there is no {each.name}"
        known = metrics[each.name] | ADDED
        labels |= known
        assert {matcher.name for matcher in each.matchers.matchers} <= known
    for grouped in re.findall(r"\bby \(([^)]*)\)|\bon \(([^)]*)\)", text):
        assert set(re.split(r", *", "".join(grouped))) <= labels, text


def test_alerts_are_told_apart_and_explained() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "$labels.instance" in rule["annotations"]["summary"]


def test_prometheus_reads_the_rules_that_there_are() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert all((PROMETHEUS / name).exists() for name in config["rule_files"])
    assert [each["job_name"] for each in config["scrape_configs"]] == ["fasttunnel"], "alerts and dashboard say so"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "tools" / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dashboard_is_what_the_tool_makes() -> None:
    assert (ROOT / "packaging" / "grafana" / "fasttunnel.json").read_text() == tool().text()


def test_panels_stand_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
