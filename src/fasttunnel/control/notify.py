"""What a service manager is told (sd_notify(3)), where there is one that listens: systemd with Type=notify."""

from __future__ import annotations

import contextlib
import os
import socket
import time

READY, STOPPING = "READY=1", "STOPPING=1"


def reloading() -> str:
    """Until READY; the time is what Type=notify-reload goes by."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def notify(state: str) -> None:
    """Nobody there, or nobody who takes it, is no reason to stop."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract name space of Linux
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), address)
