"""Writes packaging/grafana/fasttunnel.json, a dashboard for Grafana. Only what differs from panel to panel is here."""

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "packaging" / "grafana" / "fasttunnel.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 24, 7
ENDS = 'job=~"$job",instance=~"$instance"'
ROUTES = f'{ENDS},route=~"$route"'

Query = tuple[str, str]  # PromQL, and what its series are called


def rate(metric: str, by: str = "", labels: str = ENDS) -> str:
    grouped = f"sum by ({by}) " if by else "sum "
    return f"{grouped}(rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels)})"


ROWS: dict[str, list[tuple[str, str, list[Query]]]] = {  # title, unit, queries
    "Traffic": [
        ("Requests by protocol", "reqps", [(rate("fasttunnel_requests_total", "protocol", ROUTES), "{{protocol}}")]),
        ("Requests by route", "reqps", [(rate("fasttunnel_requests_total", "route", ROUTES), "{{route}}")]),
        (
            "Requests under way",
            "short",
            [(f"sum by (protocol) (fasttunnel_active_requests{{{ROUTES}}})", "{{protocol}}")],
        ),
        (
            "Messages",
            "ops",
            [(rate("fasttunnel_messages_total", "protocol, direction", ROUTES), "{{protocol}} {{direction}}")],
        ),
        ("Payload", "Bps", [(rate("fasttunnel_payload_bytes_total", "direction", ROUTES), "{{direction}}")]),
        (
            "Duration",
            "s",
            [
                (
                    quantile(share, "fasttunnel_request_duration_seconds", "protocol"),
                    f"p{share * 100:g} {{{{protocol}}}}",
                )
                for share in (0.5, 0.95, 0.99)
            ],
        ),
    ],
    "Answers and errors": [
        ("HTTP statuses", "reqps", [(rate("fasttunnel_responses_total", "code"), "{{code}}")]),
        ("Refused by the server", "reqps", [(rate("fasttunnel_refusals_total", "code"), "{{code}}")]),
        ("Abnormal ends", "reqps", [(rate("fasttunnel_resets_total", "code"), "{{code}}")]),
        ("gRPC calls by status", "reqps", [(rate("fasttunnel_grpc_calls_total", "status"), "{{status}}")]),
        (
            "gRPC calls by method",
            "reqps",
            [(f"topk(10, {rate('fasttunnel_grpc_calls_total', 'service, method')})", "{{service}}/{{method}}")],
        ),
        ("WebSocket closes", "ops", [(rate("fasttunnel_websocket_closes_total", "code"), "{{code}}")]),
    ],
    "Tunnels": [
        ("Tunnels up", "short", [(f"sum by (instance) (fasttunnel_tunnels{{{ENDS}}})", "{{instance}}")]),
        (
            "Tunnels come and go",
            "ops",
            [
                (rate("fasttunnel_tunnel_registrations_total"), "registered"),
                (rate("fasttunnel_tunnel_losses_total"), "lost"),
                (rate("fasttunnel_tunnel_refusals_total"), "refused"),
                (rate("fasttunnel_tunnel_reconnects_total"), "dialled again"),
            ],
        ),
        (
            "Round trip",
            "s",
            [(f"max by (peer) (fasttunnel_tunnel_round_trip_seconds{{{ENDS}}})", "{{peer}}")],
        ),
        (
            "Windows exhausted",
            "ops",
            [(rate("fasttunnel_windows_exhausted_total", "direction"), "{{direction}}")],
        ),
        ("WebSocket frames", "ops", [(rate("fasttunnel_websocket_frames_total", "opcode"), "{{opcode}}")]),
        (
            "Requests that wait for a client",
            "short",
            [(f"sum by (instance) (fasttunnel_queued_requests{{{ENDS}}})", "{{instance}}")],
        ),
    ],
    "Process": [
        ("CPU", "percentunit", [(rate("process_cpu_seconds_total", "instance"), "{{instance}}")]),
        ("Memory", "bytes", [(f"process_resident_memory_bytes{{{ENDS}}}", "{{instance}}")]),
        ("Connections", "short", [(f"fasttunnel_connections{{{ENDS}}}", "{{instance}}")]),
        (
            "Event loop lag, p99",
            "s",
            [(quantile(0.99, "fasttunnel_event_loop_lag_seconds", "instance"), "{{instance}}")],
        ),
        ("Bytes held", "bytes", [(f"fasttunnel_buffered_bytes{{{ENDS}}}", "{{instance}}")]),
        (
            "Descriptors",
            "percentunit",
            [(f"process_open_fds{{{ENDS}}} / process_max_fds{{{ENDS}}}", "{{instance}}")],
        ),
    ],
}
VARIABLES = {
    "job": "fasttunnel_build_info",
    "instance": 'fasttunnel_build_info{job=~"$job"}',
    "route": f"fasttunnel_requests_total{{{ENDS}}}",
}


def panel(number: int, title: str, unit: str, queries: list[Query], x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH // 3, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(queries)
        ],
    }


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        grid = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        made.append(
            {"id": len(made) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": grid, "panels": []}
        )
        y += 1
        for index, (name, unit, queries) in enumerate(row):
            made.append(panel(len(made) + 1, name, unit, queries, index % 3 * WIDTH // 3, y + index // 3 * HEIGHT))
        y += (len(row) + 2) // 3 * HEIGHT
    return made


def variable(name: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "title": "fasttunnel",
        "uid": "fasttunnel",
        "description": "Servers and clients of fasttunnel, by what their admin ports tell at /metrics.",
        "tags": ["fasttunnel"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *(variable(name, metric) for name, metric in VARIABLES.items())]},
        "annotations": {"list": []},
        "panels": panels(),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
