"""gRPC backends and channels made of grpc.aio, with stubs generated from echo.proto when this is imported."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc

protos, services = grpc.protos_and_services("tests/support/echo.proto")  # type: ignore[no-untyped-call]
Note = protos.Note
Nothing = protos.Nothing

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Context = Any  # grpc.aio.ServicerContext
Notes = Any  # AsyncIterator[Note]


class Echo(services.EchoServicer):  # type: ignore[misc,name-defined]
    """What each method does unless a test has something else in mind: every message comes back as it was."""

    async def Unary(self, request: Any, context: Context) -> Any:
        return request

    async def Down(self, request: Any, context: Context) -> Notes:
        """So many notes as `number` says."""
        for number in range(request.number):
            yield Note(number=number, data=request.data)

    async def Up(self, requests: Notes, context: Context) -> Any:
        """The number of notes and all their data."""
        number, data = 0, bytearray()
        async for request in requests:
            number += 1
            data += request.data
        return Note(number=number, data=bytes(data))

    async def Talk(self, requests: Notes, context: Context) -> Notes:
        async for request in requests:
            yield request

    async def Empty(self, request: Any, context: Context) -> Any:
        return Nothing()


async def start_grpc(
    stack: AsyncExitStack, *, port: int = 0, options: list[tuple[str, int]] | None = None, **methods: Callable[..., Any]
) -> str:
    """An Echo service whose `methods` are replaced by those of the test; its URL."""
    servicer = Echo()
    for name, method in methods.items():
        assert hasattr(Echo, name)
        setattr(servicer, name, method)
    server = grpc.aio.server(options=[*(options or []), ("grpc.so_reuseport", 0)])
    services.add_EchoServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return f"grpc://127.0.0.1:{port}"


async def open_channel(
    stack: AsyncExitStack, authority: str, options: list[tuple[str, Any]] | None = None, service: str = "Echo"
) -> Any:
    """A stub of a service of echo.proto, on a connection of its own."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(authority, options=[*own, *(options or [])]))
    return getattr(services, f"{service}Stub")(channel)
