"""The page of a run: one HTML file with everything in it."""

from __future__ import annotations

import html
import importlib.util
import io
import statistics
from pathlib import Path
from typing import Any

from bench.cells import CELLS, Cell
from bench.machine import warnings
from bench.run import figures, ratio, ratios, shown
from bench.table import notes

UNITS = {"cpu_us": "CPU us per message", "p50_us": "us, median", "p99_us": "us, 99th percentile", "idle_kb": "kB each"}
WIDEST = 5.0  # times the reference: longer bars are cut off
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.5rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #dde1e6; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } .best { font-weight: 700 } .reached { color: #0a7d38 }
.missed { color: #b3261e } .ours { background: #f0f6ff } small { color: #5b6470 } svg { max-width: 100%; height: auto }
"""


def _plot(runs: list[dict[str, Any]], cells: list[Cell], systems: list[str]) -> str:
    """Bars of each cell as an SVG, relative to its reference; nothing without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return "<p><small>no plots: matplotlib is not installed</small></p>"
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    drawn = [cell for cell in cells if ratio(runs, cell, "cython", cell.reference)]
    if not drawn:
        return ""
    columns = 2
    rows = -(-len(drawn) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(13, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(drawn) :]:
        axis.remove()
    for axis, cell in zip(axes.flat, drawn, strict=False):
        candidates = [(name, ratio(runs, cell, name, cell.reference)) for name in systems if name != "direct"]
        bars = [(name, found) for name, found in candidates if found]
        values = [found[0] for _, found in bars]
        errors = [[found[0] - found[1] for _, found in bars], [found[2] - found[0] for _, found in bars]]
        colours = ["#1f6feb" if name.startswith("cython") else "#a9b4c0" for name, _ in bars]
        axis.barh([name for name, _ in bars], values, xerr=errors, color=colours, ecolor="#5b6470", height=0.7)
        axis.axvline(1, color="#5b6470", linewidth=0.8)
        for name, target, colour in (("reach", cell.reach, "#b3261e"), ("aim", cell.aim, "#0a7d38")):
            if target:
                axis.axvline(target, color=colour, linewidth=1, linestyle="--")
                side = "left" if name == "reach" else "right"
                axis.text(target, -0.6, f" {name} ", color=colour, fontsize=7, ha=side, va="bottom")
        widest = max((value for value in values if value <= WIDEST), default=WIDEST)
        axis.set_xlim(0, max(2.0, 1.2 * widest))
        for row, value in enumerate(values):
            at = min(value + errors[1][row], axis.get_xlim()[1] * 0.9)
            axis.text(at, row, f" {value:.2f}", va="center", fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{cell.name} ({UNITS[cell.figure]}, {cell.reference} = 1)", fontsize=9, loc="left", pad=14)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    return text.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]


def markdown(result: dict[str, Any]) -> str:
    """The table of a run for a document."""
    runs, systems = result["runs"], list(result["systems"])
    lines = [
        "| load | " + " | ".join(systems) + " | cython : reference | reach, aim |",
        "|---" * (len(systems) + 3) + "|",
    ]
    for cell in CELLS:
        values = [figures(runs, cell, name).values() for name in systems]
        if not any(values):
            continue
        found = ratios(runs, cell, "cython", cell.reference)
        medians = [shown(statistics.median(one)) if one else "-" for one in values]
        compared = f"{cell.reference} is not in the run" if cell.reference not in systems else ""
        if found:
            bounds = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
            compared = f"{statistics.median(found):.2f}{bounds} of {cell.reference}"
        target = f"{cell.reach:g}, {cell.aim:g}" if cell.reach else ""
        lines.append(f"| {cell.name}, {UNITS[cell.figure]} | {' | '.join(medians)} | {compared} | {target} |")
    return "\n".join(lines)


def write(result: dict[str, Any], path: Path) -> Path:
    """Write the page; returns where."""
    runs = result["runs"]
    systems = list(result["systems"])
    cells = [cell for cell in CELLS if any(run["cell"] == cell.name for run in runs)]
    rows = []
    for cell in cells:
        medians = {
            name: statistics.median(values.values()) for name in systems if (values := figures(runs, cell, name))
        }
        best = min((value for name, value in medians.items() if name != "direct"), default=0)
        row = []
        for name in systems:
            classes = " ".join(
                word
                for word, true in (("best", medians.get(name) == best), ("ours", name.startswith("cython")))
                if true
            )
            error = next((run["error"] for run in runs if run["cell"] == cell.name and run["system"] == name
                          and "error" in run), "")  # fmt: skip
            text = shown(medians[name]) if name in medians else "failed" if error else ""
            row.append(f'<td class="{classes}" title="{html.escape(error)}">{text}</td>')
        found = ratios(runs, cell, "cython", cell.reference)
        if not found:
            absent = f"{cell.reference} is not in the run" if cell.reference not in systems else ""
            row.append(f"<td><small>{html.escape(absent)}</small></td>")
        else:
            middle, bounds = statistics.median(found), f" [{min(found):.2f}-{max(found):.2f}]" if len(found) > 1 else ""
            target = f"<br><small>reach {cell.reach:g}, aim {cell.aim:g}</small>" if cell.reach else ""
            state = "" if not cell.reach else "reached" if middle <= cell.reach else "missed"
            row.append(
                f'<td><span class="{state}">{middle:.2f}</span> <small>{bounds} of '
                f"{html.escape(cell.reference)}</small>{target}</td>"
            )
        name = f"<td>{html.escape(cell.name)}<br><small>{UNITS[cell.figure]}</small></td>"
        rows.append("<tr>" + name + row.pop() + "".join(row) + "</tr>")  # the ratio is what is looked for
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ["", "cython : reference", *systems])
    facts = ", ".join(f"{key} {html.escape(str(value))}" for key, value in result["machine"].items())
    versions = "".join(
        f"<li>{html.escape(name)}: {html.escape(version)}</li>"
        for name, version in result["systems"].items()
        if version
    )
    options = result["options"]
    remarks = "".join(f"<li>{html.escape(note)}</li>" for note in [*notes(result), *warnings(result["machine"])])
    page = (
        f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>fasttunnel: throughput</title><style>{STYLE}</style>"
        "<h1>What a message costs</h1><p>CPU time of all processes of the system under test, user and kernel, per "
        f"answered message; the lower the better. Median of {options['rounds']} rounds of {options['seconds']:g} s in "
        "which the systems took turns; ratios are of the same round, with the least and the greatest. Every byte of "
        "every answer was checked. <em>direct</em> is the load without any system.</p>"
        f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<ul>{remarks}</ul>"
        "<h2>Relative to the reference</h2><p>Medians, with the least and the greatest; the dashed lines are what we "
        f"mean to reach and then aim for.</p>{_plot(runs, cells, systems)}"
        f"<h2>Machine and versions</h2><p>{facts}</p><ul>{versions}</ul></html>"
    )
    path.write_text(page)
    return path
