"""A flame graph as an SVG: how the samples of a profile share out over the stacks."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

WIDTH, ROW, LEAST = 1200.0, 17, 0.3  # of the picture, of a frame, and the narrowest frame that is drawn, in pixels
LETTER = 6.6  # pixels
KERNEL, PYTHON, OURS, OTHER = "#e5a04b", "#d9d07a", "#5f9fe0", "#b9c1ca"
STYLE = "text{font:11px monospace;pointer-events:none}rect{stroke:#fff;stroke-width:.5}g:hover>rect{stroke:#000}"

Stack = tuple[tuple[str, str], ...]  # (symbol, DSO), the outermost first


@dataclass
class Frame:
    samples: int = 0
    below: dict[tuple[str, str], Frame] = field(default_factory=dict)


def folded(script: str, names: Mapping[int, str]) -> Counter[Stack]:
    """Stacks of the output of `perf script -F comm,pid,ip,sym,dso`, with how often each was seen.

    Each begins with the process, by its name where that is known.
    """
    stacks: Counter[Stack] = Counter()
    for sample in script.split("\n\n"):
        head, _, body = sample.strip("\n").partition("\n")
        lines = (re.match(r"\s*[0-9a-f]+ (.+?)(?:\+0x[0-9a-f]+)? \((.*)\)$", line) for line in body.splitlines())
        frames = [(found[1], found[2].rpartition("/")[2]) for found in lines if found]
        if frames:
            process = head.strip()
            pid = process.rpartition(" ")[2]
            stacks[((names.get(int(pid), process) if pid.isdecimal() else process, ""), *reversed(frames))] += 1
    return stacks


def _colour(symbol: str, dso: str) -> str:
    if dso.startswith("[kernel") or dso == "[vdso]":
        return KERNEL
    if "fasttunnel" in symbol:
        return OURS
    return PYTHON if "python" in dso else OTHER


def svg(stacks: Counter[Stack], title: str) -> str:
    """The picture; a frame tells its share when the mouse is over it."""
    root = Frame()
    depth = max((len(stack) for stack in stacks), default=0)
    for stack, count in stacks.items():
        frame = root
        frame.samples += count
        for key in stack:
            frame = frame.below.setdefault(key, Frame())
            frame.samples += count
    height = (depth + 1) * ROW + 40
    parts: list[str] = []
    scale = WIDTH / max(root.samples, 1)

    def draw(frame: Frame, left: float, level: int) -> None:
        for (symbol, dso), below in sorted(frame.below.items()):
            width = below.samples * scale
            if width >= LEAST:
                top = height - (level + 2) * ROW
                place = f" ({dso})" if dso else ""
                told = html.escape(f"{symbol}{place}: {below.samples / root.samples:.1%}, {below.samples} samples")
                room = int((width - 4) / LETTER)
                text = html.escape(symbol if len(symbol) <= room else symbol[: room - 1] + "…") if room > 2 else ""
                parts.append(
                    f'<g><title>{told}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW}" '
                    f'fill="{_colour(symbol, dso)}"/><text x="{left + 2:.1f}" y="{top + 12}">{text}</text></g>'
                )
                draw(below, left, level + 1)
            left += width

    draw(root, 0.0, 0)
    legend = "blue fasttunnel, yellow Python, orange kernel, grey the rest"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height}" width="{WIDTH:g}" height="{height}">'
        f"<style>{STYLE}</style>"
        f'<text x="4" y="16">{html.escape(title)}: {root.samples} samples; {legend}</text>{"".join(parts)}</svg>\n'
    )
