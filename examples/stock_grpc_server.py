"""A server of the tunnel in plain grpc.aio: fasttunnel's client dials it, and gets one request for each route.

    .venv/bin/python -m http.server 3000
    .venv/bin/python examples/stock_grpc_server.py 127.0.0.1:7000
    .venv/bin/fasttunnel client --server 127.0.0.1:7000 http://127.0.0.1:3000

It has no public port: it sends GET / to whoever registers, prints the answer and ends the tunnel. The rules are in
docs/wire.md.
"""

import asyncio
import contextlib
import os
import sys

import grpc

from fasttunnel.wire import tunnel_pb2 as wire
from fasttunnel.wire.tunnel_pb2_grpc import TunnelServiceServicer, add_TunnelServiceServicer_to_server

WINDOW_BYTES = 262_144


def get(request_id: str, path: str) -> wire.TunnelMessage:
    """A whole request in one chunk."""
    return wire.TunnelMessage(
        request_id=request_id,
        direction=wire.CLIENT_TO_SERVER,
        protocol_type=wire.HTTP,
        http_request=wire.HttpRequest(
            method="GET", url=path, host="stock.example", scheme="http", is_first_chunk=True, is_last_chunk=True
        ),
    )


class Tunnels(TunnelServiceServicer):
    """Sends one GET of `path` through each tunnel."""

    def __init__(self, path: str = "/", token: str = "") -> None:
        self.path = path
        self.token = token
        self.answers: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()  # status and body

    async def Connect(self, request_iterator, context):
        if self.token and dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        first = await anext(aiter(request_iterator))
        if not first.HasField("register"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is to be a Register")
        registered = wire.Registered(
            session_id="s1",
            client_id=first.client_id,
            routes=first.register.routes,
            initial_window=WINDOW_BYTES,
            max_fragment=65_536,
            heartbeat_interval_ms=10_000,
        )
        yield wire.TunnelMessage(protocol_type=wire.CONTROL, registered=registered)
        yield get("http-1", self.path)

        status, body = 0, b""
        async for message in request_iterator:
            kind = message.WhichOneof("payload")
            if kind == "heartbeat" and not message.heartbeat.reply:
                message.heartbeat.reply = True
                yield message
            elif kind == "reset" and message.request_id == "http-1":
                await self.answers.put((0, message.reset.message.encode()))
                return
            elif kind == "http_response" and not message.http_response.informational:
                chunk = message.http_response
                status = chunk.status_code if chunk.is_first_chunk else status
                body += chunk.body
                if chunk.body:  # taken: grant credit for as much again
                    update = wire.WindowUpdate(bytes=len(chunk.body))
                    yield wire.TunnelMessage(request_id="http-1", window_update=update)
                if chunk.is_last_chunk:
                    await self.answers.put((status, body))
                    return


async def main(address: str) -> None:
    tunnels = Tunnels(token=os.environ.get("FASTTUNNEL_TOKEN", ""))
    server = grpc.aio.server()
    add_TunnelServiceServicer_to_server(tunnels, server)
    port = server.add_insecure_port(address)  # port 0 takes a free one
    await server.start()
    print(f"waiting for a client at {address.rpartition(':')[0]}:{port}", flush=True)
    status, body = await tunnels.answers.get()
    print(f"status {status}, {len(body)} bytes:\n{body[:1000].decode(errors='replace')}", flush=True)
    await server.stop(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7000"))
