"""The backends of the suite in a process of their own: prints the ports (HTTP and WebSocket, gRPC) and serves.

python -m bench.backend
"""

from __future__ import annotations

import sys

from bench._native import GrpcListener, HttpListener, Loop


def main() -> None:
    loop = Loop()
    http, grpc = HttpListener(loop), GrpcListener(loop)
    print(http.port, grpc.port, flush=True)
    try:
        loop.run(24 * 3600)
    except RuntimeError as error:
        sys.exit(f"backend: {error}")


if __name__ == "__main__":
    main()
