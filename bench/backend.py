"""The backends of the suite in a process of their own: prints the ports (HTTP and WebSocket, gRPC) and serves.

python -m bench.backend [--first] [TIMES]

With TIMES there are so many ports of each kind, in pairs.
With --first it goes before everybody else on its CPU, where that is permitted, and serves bulk by processes of their
own, which do not: small messages then never wait for bulk here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback

from bench._native import GrpcListener, HttpListener, Loop, serve_http


def go_first() -> None:
    """A real-time priority for this process, not for those that it starts."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _apart(sock: socket.socket, request: bytes) -> None:
    """Serve a connection by a process of its own."""
    if os.fork():
        sock.close()
        return
    try:
        loop = Loop()
        loop.serving = True
        serve_http(loop, sock, request)
        while not loop.ended:
            loop.run(0.2)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # whatever happens: above is the loop of the process that was forked


def main() -> None:
    loop = Loop()
    loop.serving = True
    if "--first" in sys.argv:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
        go_first()
        loop.hand_over = _apart
    times = int(sys.argv[-1]) if sys.argv[-1].isdecimal() else 1
    listeners = [listener(loop) for _ in range(times) for listener in (HttpListener, GrpcListener)]
    print(*(listener.port for listener in listeners), flush=True)
    try:
        loop.run(24 * 3600)
    except RuntimeError as error:
        sys.exit(f"backend: {error}")


if __name__ == "__main__":
    main()
