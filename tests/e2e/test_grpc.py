"""gRPC calls of every kind, with grpcio at both far ends."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from fasttunnel.limits import MAX_FRAGMENT_BYTES
from tests.support import http2
from tests.support.grpc_peers import UNLIMITED, Context, Note, Notes, Nothing, open_channel, start_grpc
from tests.support.tunnel import WAIT_S, Tunnel, start_tunnel


async def start(stack: AsyncExitStack, **backend: Any) -> tuple[Tunnel, Any]:
    """A tunnel in front of an Echo service, and a stub on a channel to it."""
    tunnel = await start_tunnel(stack, await start_grpc(stack, **backend))
    return tunnel, await open_channel(stack, tunnel.authority)


@pytest.fixture(autouse=True)
async def bounded() -> Any:
    """No call waits for ever."""
    async with asyncio.timeout(60):
        yield


# -- the four kinds


@pytest.mark.parametrize("size", [0, 1, 10, 65_520, 65_531, 65_536, 65_600, 262_144, 1_000_003, 4_000_000])
async def test_unary(stack: AsyncExitStack, size: int) -> None:
    tunnel, stub = await start(stack)
    note = Note(number=size, data=random.Random(size).randbytes(size))
    assert await stub.Unary(note) == note
    record = await tunnel.events.record()
    assert (record.protocol, record.method, record.path) == ("grpc", "Unary", "/fasttunnel.test.Echo/Unary")
    assert (record.status, record.reset) == (0, None)
    assert record.bytes_in == record.bytes_out == note.ByteSize()


async def test_an_empty_message_is_a_message(stack: AsyncExitStack) -> None:
    _, stub = await start(stack)
    assert await stub.Empty(Nothing()) == Nothing()
    assert await stub.Unary(Note()) == Note()
    assert [note async for note in stub.Talk(iter([Note(), Note(), Note()]))] == [Note(), Note(), Note()]


async def test_server_streaming(stack: AsyncExitStack) -> None:
    _, stub = await start(stack)
    data = random.Random(1).randbytes(3000)
    numbers = [note.number async for note in stub.Down(Note(number=1000, data=data)) if note.data == data]
    assert numbers == list(range(1000))
    assert [note async for note in stub.Down(Note(number=0))] == [], "a stream of nothing"


async def test_client_streaming(stack: AsyncExitStack) -> None:
    _, stub = await start(stack)
    pieces = [random.Random(number).randbytes(number * 3) for number in range(500)]
    assert await stub.Up(iter(Note(data=piece) for piece in pieces)) == Note(number=500, data=b"".join(pieces))
    assert await stub.Up(iter([])) == Note(), "a stream of nothing"


async def test_bidirectional_turn_by_turn(stack: AsyncExitStack) -> None:
    """Each message arrives before the next one is sent: nothing waits for the end of the stream."""
    _, stub = await start(stack)
    call = stub.Talk()
    for number in range(200):
        note = Note(number=number, data=random.Random(number).randbytes(number * 400))
        await call.write(note)
        assert await call.read() == note
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_bidirectional_both_at_once(stack: AsyncExitStack) -> None:
    """Neither side waits for the other."""
    count = 2000
    received: asyncio.Queue[int] = asyncio.Queue()

    async def talk(requests: Notes, context: Context) -> Notes:
        async def listen() -> None:
            expected = 0
            async for note in requests:
                assert note.number == expected
                expected += 1
            received.put_nowait(expected)

        listening = asyncio.ensure_future(listen())
        for number in range(count):
            yield Note(number=-number)
        await listening

    _, stub = await start(stack, Talk=talk)
    numbers = [note.number async for note in stub.Talk(iter(Note(number=number) for number in range(count)))]
    assert numbers == [-number for number in range(count)]
    assert await received.get() == count


async def test_a_half_closed_call_goes_on(stack: AsyncExitStack) -> None:
    """The backend sees the end of the requests and answers long after it."""

    async def talk(requests: Notes, context: Context) -> Notes:
        seen = [note.number async for note in requests]
        for number in reversed(seen):
            yield Note(number=number)

    _, stub = await start(stack, Talk=talk)
    call = stub.Talk()
    for number in range(10):
        await call.write(Note(number=number))
    await call.done_writing()
    assert [note.number async for note in call] == list(reversed(range(10)))


# -- metadata and status


async def test_metadata_both_ways(stack: AsyncExitStack) -> None:
    seen: dict[str, list[str | bytes]] = {}

    async def unary(request: Any, context: Context) -> Any:
        for key, value in context.invocation_metadata():
            seen.setdefault(key, []).append(value)
        await context.send_initial_metadata((("x-initial", "1"), ("x-initial", "2"), ("x-raw-bin", b"\x00\xff\n")))
        context.set_trailing_metadata((("x-trailing", "3"), ("x-trailing-bin", bytes(range(256)))))
        return request

    _, stub = await start(stack, Unary=unary)
    call = stub.Unary(
        Note(number=1),
        metadata=(
            ("x-text", "a b"),
            ("x-many", "1"),
            ("x-many", "2"),
            ("x-data-bin", b"\x00\x01\xfe\xff"),
            ("x-e-bin", b""),
        ),
    )
    assert await call == Note(number=1)
    assert (seen["x-text"], seen["x-many"]) == (["a b"], ["1", "2"])
    assert (seen["x-data-bin"], seen["x-e-bin"]) == ([b"\x00\x01\xfe\xff"], [b""])
    assert seen["user-agent"][0].startswith("grpc-python")  # type: ignore[union-attr]
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    initial = list(await call.initial_metadata())
    assert [(key, value) for key, value in initial if key.startswith("x-")] == [
        ("x-initial", "1"),
        ("x-initial", "2"),
        ("x-raw-bin", b"\x00\xff\n"),
    ]
    trailing = list(await call.trailing_metadata())
    assert trailing == [("x-trailing", "3"), ("x-trailing-bin", bytes(range(256)))]


async def test_initial_metadata_comes_before_any_message(stack: AsyncExitStack) -> None:
    go_on = asyncio.Event()

    async def talk(requests: Notes, context: Context) -> Notes:
        await context.send_initial_metadata((("x-ready", "yes"),))
        await go_on.wait()
        yield Note(number=1)

    _, stub = await start(stack, Talk=talk)
    call = stub.Talk()
    assert ("x-ready", "yes") in list(await call.initial_metadata())
    go_on.set()
    assert (await call.read()).number == 1
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


@pytest.mark.parametrize("code", list(grpc.StatusCode)[1:], ids=lambda code: code.name)
async def test_every_status(stack: AsyncExitStack, code: grpc.StatusCode) -> None:
    """Trailers-only answers: no message and no initial metadata, only a status with its text."""
    text = f"it is {code.name}: grüße, 100 % \U0001f600\nnext line"

    async def unary(request: Any, context: Context) -> Any:
        context.set_trailing_metadata((("x-why", "because"),))
        await context.abort(code, text)

    tunnel, stub = await start(stack, Unary=unary)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note())
    assert (failure.value.code(), failure.value.details()) == (code, text)
    assert ("x-why", "because") in list(failure.value.trailing_metadata())
    record = await tunnel.events.record()
    assert (record.status, record.reset) == (code.value[0], None)


async def test_a_status_behind_messages(stack: AsyncExitStack) -> None:
    async def down(request: Any, context: Context) -> Notes:
        for number in range(3):
            yield Note(number=number)
        await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")

    _, stub = await start(stack, Down=down)
    call = stub.Down(Note())
    assert [(await call.read()).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.DATA_LOSS, "the rest is lost")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("messages", [0, 2])
async def test_status_details(stack: AsyncExitStack, messages: int, size: int) -> None:
    """grpc-status-details-bin, in Trailers-Only answers and behind messages, with each kind of base64 padding."""
    details = random.Random(size).randbytes(size)

    async def down(request: Any, context: Context) -> Notes:
        for number in range(messages):
            yield Note(number=number)
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "see details")

    _, stub = await start(stack, Down=down)
    call = stub.Down(Note())
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in call:
            pass
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert dict(failure.value.trailing_metadata())["grpc-status-details-bin"] == details


# -- deadlines and cancelling


async def test_a_deadline_reaches_the_backend(stack: AsyncExitStack) -> None:
    left: asyncio.Queue[float | None] = asyncio.Queue()

    async def unary(request: Any, context: Context) -> Any:
        left.put_nowait(context.time_remaining())
        return request

    _, stub = await start(stack, Unary=unary)
    await stub.Unary(Note(), timeout=50)
    remaining = await left.get()
    assert remaining is not None
    assert 20 < remaining < 51, "grpc rounds up"
    await stub.Unary(Note())
    remaining = await left.get()
    assert remaining is None or remaining > 1e6


async def test_a_deadline_is_enforced_and_cancels_the_backend(stack: AsyncExitStack) -> None:
    cancelled: asyncio.Queue[bool] = asyncio.Queue()

    async def unary(request: Any, context: Context) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.put_nowait(True)
            raise

    _, stub = await start(stack, Unary=unary)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note(), timeout=0.2)
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await cancelled.get()


@pytest.mark.parametrize("kind", ["Unary", "Down", "Up", "Talk"])
async def test_cancelling_reaches_the_backend(stack: AsyncExitStack, kind: str) -> None:
    events: asyncio.Queue[str] = asyncio.Queue()

    async def wait() -> None:
        events.put_nowait("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.put_nowait("cancelled")
            raise

    async def unary(request: Any, context: Context) -> Any:
        await wait()

    async def stream(request: Any, context: Context) -> Notes:
        await wait()
        yield Note()

    tunnel, stub = await start(stack, **{kind: stream if kind in ("Down", "Talk") else unary})
    call = getattr(stub, kind)(*([Note()] if kind in ("Unary", "Down") else []))
    if kind in ("Up", "Talk"):
        await call.write(Note())
    assert await events.get() == "started"
    call.cancel()
    assert await events.get() == "cancelled"
    assert (await tunnel.events.record()).reset == 1
    assert await stub.Empty(Nothing()) == Nothing(), "the connection goes on"


async def test_a_lost_public_connection_cancels_its_calls(stack: AsyncExitStack) -> None:
    events: asyncio.Queue[str] = asyncio.Queue()

    async def talk(requests: Notes, context: Context) -> Notes:
        events.put_nowait("started")
        try:
            await asyncio.Event().wait()
            yield Note()
        finally:
            events.put_nowait("ended")

    tunnel = await start_tunnel(stack, await start_grpc(stack, Talk=talk))
    async with AsyncExitStack() as inner:
        stub = await open_channel(inner, tunnel.authority)
        calls = [stub.Talk() for _ in range(5)]
        for call in calls:
            await call.write(Note())
        for _ in calls:
            assert await events.get() == "started"
    for _ in range(5):
        assert await events.get() == "ended"


async def test_a_backend_that_answers_early(stack: AsyncExitStack) -> None:
    """It has heard enough: the answer is complete while the public still writes."""

    async def up(requests: Notes, context: Context) -> Any:
        async for note in requests:
            return Note(number=note.number + 1)

    tunnel, stub = await start(stack, Up=up)
    call = stub.Up()
    await call.write(Note(number=41))
    assert (await call).number == 42
    assert await call.code() == grpc.StatusCode.OK
    record = await tunnel.events.record()
    assert (record.status, record.reset) in ((0, None), (0, 0))


# -- compression and size


@pytest.mark.parametrize("method", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages(stack: AsyncExitStack, method: grpc.Compression) -> None:
    """Compressed by one end and read by the other: what passes in between is small."""

    async def talk(requests: Notes, context: Context) -> Notes:
        context.set_compression(method)
        async for request in requests:
            yield request

    tunnel, stub = await start(stack, Talk=talk)
    notes = [Note(number=number, data=b"again and " * 50_000) for number in range(5)]
    assert [note async for note in stub.Talk(iter(notes), compression=method)] == notes
    record = await tunnel.events.record()
    assert 0 < record.bytes_in < notes[0].ByteSize() / 10
    assert 0 < record.bytes_out < notes[0].ByteSize() / 10


async def test_the_largest_fragments(stack: AsyncExitStack) -> None:
    """Each is gathered in an HTTP/2 stream window before it is sent, so it must not be larger than that."""
    large: dict[str, Any] = {"max_fragment": MAX_FRAGMENT_BYTES, "initial_window": 4_194_304}
    tunnel = await start_tunnel(stack, await start_grpc(stack, options=UNLIMITED), server=large, client=large)
    stub = await open_channel(stack, tunnel.authority, UNLIMITED)
    note = Note(number=1, data=random.Random(5).randbytes(3_000_000))
    assert await stub.Unary(note) == note


async def test_large_messages(stack: AsyncExitStack) -> None:
    """Above the 4 MiB that stock peers take by default, with their limits raised."""
    tunnel = await start_tunnel(stack, await start_grpc(stack, options=UNLIMITED))
    stub = await open_channel(stack, tunnel.authority, UNLIMITED)
    note = Note(number=1, data=random.Random(5).randbytes(20_000_000))
    assert await stub.Unary(note) == note


async def test_the_limit_of_a_peer_is_its_own(stack: AsyncExitStack) -> None:
    _, stub = await start(stack)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note(data=bytes(5_000_000)))
    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await stub.Unary(Note(number=1)) == Note(number=1)


@pytest.mark.parametrize("side", ["server", "client"])
async def test_the_limit_of_the_tunnel(stack: AsyncExitStack, side: str) -> None:
    tunnel = await start_tunnel(stack, await start_grpc(stack), **{side: {"grpc_message_bytes": 1000}})
    stub = await open_channel(stack, tunnel.authority)
    if side == "server":
        request = Note(data=bytes(1000))
        assert (await stub.Up(iter([Note(data=bytes(900))]))).number == 1
        call = stub.Up(iter([request]))
    else:
        call = stub.Unary(Note(number=1, data=bytes(1000)))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limit" in failure.value.details()


# -- many


async def test_hundreds_of_unary_calls_on_one_channel(stack: AsyncExitStack) -> None:
    tunnel, stub = await start(stack)

    async def ask(number: int) -> None:
        note = Note(number=number, data=random.Random(number).randbytes(number * 11))
        assert await stub.Unary(note) == note

    for _ in range(3):
        await asyncio.gather(*(ask(number) for number in range(500)))
    await tunnel.events.until(lambda: len(tunnel.events.records) == 1500)
    assert {record.status for record in tunnel.events.records} == {0}


async def test_calls_beyond_the_backends_stream_limit_wait_their_turn(stack: AsyncExitStack) -> None:
    """MAX_CONCURRENT_STREAMS of the backend is respected: nothing is refused."""
    _, stub = await start(stack, options=[("grpc.max_concurrent_streams", 5)])

    async def ask(number: int) -> None:
        assert (await stub.Unary(Note(number=number))).number == number

    await asyncio.gather(*(ask(number) for number in range(200)))


# -- errors of the tunnel


async def test_no_backend_is_unavailable(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "grpc://127.0.0.1:1")
    stub = await open_channel(stack, tunnel.authority)
    for kind in (stub.Unary(Note()), stub.Up(iter([Note()]))):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await kind
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert failure.value.details() == "the backend cannot be reached"


async def test_no_route_is_unimplemented(stack: AsyncExitStack) -> None:
    tunnel = await start_tunnel(stack, "/fasttunnel.test.Other=grpc://127.0.0.1:1")
    stub = await open_channel(stack, tunnel.authority)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note())
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "/fasttunnel.test.Echo/Unary" in failure.value.details()


async def test_a_path_that_names_no_method_is_unimplemented(stack: AsyncExitStack) -> None:
    """PROTOCOL-HTTP2.md, Path: it would have reached the backend as //name."""
    tunnel = await start_tunnel(stack, "grpc://127.0.0.1:1")
    public = await http2.connect_http2(stack, tunnel.host, tunnel.port)
    call = await public.open("POST", "/name", ("content-type", "application/grpc"), ("te", "trailers"))
    await call.done()
    status = dict(call.trailers or call.fields)
    assert (status["grpc-status"], status["grpc-message"]) == ("12", "a call has the path /SERVICE/METHOD")


async def test_a_backend_that_goes_down_and_comes_back(stack: AsyncExitStack) -> None:
    async with AsyncExitStack() as inner:
        url = await start_grpc(inner)
        tunnel = await start_tunnel(stack, url)
        stub = await open_channel(stack, tunnel.authority)
        call = stub.Talk()
        await call.write(Note(number=1))
        assert (await call.read()).number == 1
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Unary(Note())
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE

    assert await start_grpc(stack, port=int(url.rpartition(":")[2])) == url
    assert (await stub.Unary(Note(number=2))).number == 2


async def test_a_client_that_is_killed_is_unavailable(stack: AsyncExitStack) -> None:
    async def talk(requests: Notes, context: Context) -> Notes:
        async for request in requests:
            yield request

    tunnel, stub = await start(stack, Talk=talk)
    call = stub.Talk()
    await call.write(Note(number=1))
    assert (await call.read()).number == 1
    await tunnel.client.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async with asyncio.timeout(WAIT_S):
            await call.read()
    assert failure.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
