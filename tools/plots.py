"""Draws docs/images/comparison.svg and performance.svg from the table of results in docs/performance.md.

With --check it says whether they are up to date.
"""

import sys
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"

LOADS = {
    "WebSocket 64 x 1 x 256 B": "WebSocket, 64 connections, 256 B each way",
    "WebSocket 64 x 32 x 4 KiB": "WebSocket, 64 connections, 32 in flight, 4 KiB",
    "HTTP GET 64 x 1 KiB": "HTTP GET of 1 KiB, 64 connections",
    "HTTP POST 64 x 64 KiB": "HTTP POST of 64 KiB, 64 connections",
    "gRPC unary 8 x 32 x 1 KiB": "gRPC unary calls of 1 KiB, 8 x 32",
    "WebSocket 2000 x 1 x 256 B idle": "Memory of an idle WebSocket, kB",
}
NAMES = {"cython": "fasttunnel", "asyncio": "fasttunnel, asyncio engine", "nginx http": "nginx, two hops of HTTP"}
NAMES |= {"nginx stream": "nginx, two hops of TCP", "haproxy": "haproxy, two hops", "envoy": "Envoy, two hops"}
PICTURES = {
    "comparison": ["cython", "frp", "rathole", "chisel", "ssh -R"],
    "performance": ["cython", "nginx stream", "nginx http", "haproxy", "envoy", "ssh -R", "frp", "rathole", "chisel"],
}

_STYLE = """
    text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
    .page { fill: #ffffff; stroke: #d0d7de } .title { font-weight: 600 }
    .other { fill: #b6bec8 } .ours { fill: #3f51b5 } .number { fill: #57606a }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .page { fill: #0d1117; stroke: #30363d }
      .other { fill: #6e7681 } .ours { fill: #8c9eff } .number { fill: #9198a1 }
    }
"""


def results() -> dict[str, dict[str, str]]:
    """Of each load, what each system needed, as docs/performance.md prints it."""
    table = (DOCS / "performance.md").read_text().partition("\n## Results\n")[2].partition("\n| load |")[2]
    lines = ("| load |" + table.partition("\n\n")[0]).splitlines()
    rows = [[cell.strip() for cell in line[1:].rstrip("|").split("|")] for line in lines]
    systems = rows[0][1:]
    return {row[0].partition(",")[0]: dict(zip(systems, row[1:], strict=True)) for row in rows[2:]}


def picture(systems: list[str]) -> str:
    found = results()
    column, bar, gap, names = 470, 16, 6, 150
    height = 34 + len(systems) * (bar + gap) + 14
    whole = height * ((len(LOADS) + 1) // 2) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * column + 20} {whole}" role="img">',
        "  <title>CPU per message in microseconds; lower is better</title>",
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="page" x="0.5" y="0.5" width="{2 * column + 19}" height="{whole - 1}" rx="8"/>',
    ]
    for index, (load, title) in enumerate(LOADS.items()):
        left, top = 16 + index % 2 * column, 28 + index // 2 * height
        values = {system: float(found[load][system].replace(",", "")) for system in systems}
        unit = "" if "kB" in title else ", µs"
        parts.append(f'  <text class="title" x="{left}" y="{top}">{escape(title)}{unit}</text>')
        for turn, (system, value) in enumerate(values.items()):
            y = top + 12 + turn * (bar + gap)
            width = max(1.0, (column - names - 90) * value / max(values.values()))
            kind = "ours" if system == "cython" else "other"
            parts += [
                f'  <text x="{left}" y="{y + 12}">{escape(NAMES.get(system, system))}</text>',
                f'  <rect class="{kind}" x="{left + names}" y="{y}" width="{width:.1f}" height="{bar}" rx="2"/>',
                f'  <text class="number" x="{left + names + width + 6:.1f}" y="{y + 12}">{found[load][system]}</text>',
            ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    wanted = {DOCS / "images" / f"{name}.svg": picture(systems) for name, systems in PICTURES.items()}
    if "--check" in sys.argv:
        sys.exit("run python tools/plots.py" if any(path.read_text() != text for path, text in wanted.items()) else 0)
    for path, text in wanted.items():
        path.write_text(text)
