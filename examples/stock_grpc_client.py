"""A client of the tunnel in plain grpc.aio: it registers with a fasttunnel server and answers requests by itself.

    .venv/bin/fasttunnel server --no-token
    .venv/bin/python examples/stock_grpc_client.py 127.0.0.1:7000
    curl --data-binary @README.md http://127.0.0.1:8080/any/path

HTTP requests are told what they sent; a unary gRPC call of any method gets its message back. The rules are in
docs/wire.md; the same can be written in any language that has gRPC, from proto/fasttunnel/v1/tunnel.proto.
"""

import asyncio
import os
import sys
import uuid

import grpc

from fasttunnel.wire import tunnel_pb2 as wire
from fasttunnel.wire.tunnel_pb2_grpc import TunnelServiceStub


def register() -> wire.TunnelMessage:
    everything = wire.Route(protocols=[wire.HTTP, wire.GRPC])
    return wire.TunnelMessage(
        client_id="stock",
        protocol_type=wire.CONTROL,
        register=wire.Register(
            version=1, routes=[everything], initial_window=262_144, max_fragment=65_536, instance_id=uuid.uuid4().hex
        ),
    )


def answer(request: wire.TunnelMessage, body: bytes) -> wire.TunnelMessage:
    """The whole answer to a request whose body is complete, in one chunk."""
    message = wire.TunnelMessage(
        request_id=request.request_id, direction=wire.SERVER_TO_CLIENT, protocol_type=request.protocol_type
    )
    if request.HasField("grpc_request"):
        reply = wire.GrpcResponse(body=body, is_first_chunk=True, is_last_chunk=True, message_length=len(body))
        message.grpc_response.CopyFrom(reply)
    else:
        text = f"you sent {len(body)} bytes\n".encode()
        headers = [wire.Header(name="content-type", value=b"text/plain")]
        headers.append(wire.Header(name="content-length", value=str(len(text)).encode()))
        reply = wire.HttpResponse(status_code=200, headers=headers, body=text, is_first_chunk=True, is_last_chunk=True)
        message.http_response.CopyFrom(reply)
    return message


async def serve(address: str, token: str = "") -> None:
    outgoing: asyncio.Queue[wire.TunnelMessage] = asyncio.Queue()
    outgoing.put_nowait(register())
    bodies: dict[str, bytes] = {}  # of the requests under way

    async def messages():
        while True:
            yield await outgoing.get()

    async with grpc.aio.insecure_channel(address) as channel:
        metadata = [("authorization", f"Bearer {token}")] if token else None
        async for message in TunnelServiceStub(channel).Connect(messages(), metadata=metadata):
            kind = message.WhichOneof("payload")
            if kind == "registered":
                print("registered; the public reaches us at", *message.registered.urls, flush=True)
            elif kind == "heartbeat" and not message.heartbeat.reply:
                message.heartbeat.reply = True
                outgoing.put_nowait(message)
            elif kind == "reset":
                bodies.pop(message.request_id, None)
            elif kind in ("http_request", "grpc_request"):
                chunk = getattr(message, kind)
                if chunk.body:  # taken: grant credit for as much again
                    update = wire.WindowUpdate(bytes=len(chunk.body))
                    outgoing.put_nowait(wire.TunnelMessage(request_id=message.request_id, window_update=update))
                body = bodies.pop(message.request_id, b"") + chunk.body
                if chunk.is_last_chunk:
                    outgoing.put_nowait(answer(message, body))
                else:
                    bodies[message.request_id] = body


if __name__ == "__main__":
    try:
        asyncio.run(
            serve(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7000", os.environ.get("FASTTUNNEL_TOKEN", ""))
        )
    except grpc.aio.AioRpcError as error:
        sys.exit(f"the tunnel has ended: {error.code().name}: {error.details()}")
    except KeyboardInterrupt:
        pass
