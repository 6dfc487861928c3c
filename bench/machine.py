"""What of the machine moves the figures."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def mitigations(folder: Path = VULNERABILITIES) -> str:
    """Those that are on, which make each system call dearer: "retbleed, spectre_v2 (Retpolines); vulnerable: tsa"."""
    on, off = [], []
    for path in sorted(folder.glob("*")):
        state, _, how = _read(path).partition(": ")
        if state == "Mitigation":
            kind = how.split(";")[0]
            on.append(path.name + (f" ({kind})" if path.name in ("meltdown", "retbleed", "spectre_v2") else ""))
        elif state.startswith("Vulnerable"):
            off.append(path.name)
    return (", ".join(on) or "none") + (f"; vulnerable: {', '.join(off)}" if off else "")


def machine() -> dict[str, Any]:
    """Facts by name, as they are at this moment."""
    processor = _read("/proc/cpuinfo").splitlines()
    fields = dict(reversed([tuple(map(str.strip, line.split(":", 1))) for line in processor if ":" in line]))
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cpus": os.cpu_count(),
        "virtual": "yes" if "hypervisor" in fields.get("flags", "").split() else "no",
        "kernel": platform.release(),
        "mitigations": mitigations(),
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load average": " ".join(_read("/proc/loadavg").split()[:3]),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def warnings(facts: dict[str, Any]) -> list[str]:
    """What of it is not as in docs/performance.md, and moves the ratios too."""
    control = facts.get("congestion control")
    if control in ("cubic", "reno", "", None):
        return []
    paces = "with bbr all that shares one connection is paced, on loopback too, and costs more"
    return [
        f"congestion control {control}: {paces} (docs/performance.md)."
        " As root, for the time of a run: sysctl -w net.ipv4.tcp_congestion_control=cubic"
    ]


def in_a_line(facts: dict[str, Any]) -> str:
    """A line for the start of a run."""
    return "; ".join(f"{name} {value}" for name, value in facts.items() if value != "")
