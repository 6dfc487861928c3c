"""Streams that are slow on purpose: events, log tails, long polls. Each piece arrives when it is sent."""

import asyncio

from tests.e2e.conftest import Ends
from tests.support.raw import answer, connect, request
from tests.support.tunnel import Tunnel, eventually, start_tunnel


async def test_server_sent_events_arrive_one_by_one(ends: Ends) -> None:
    """Event n is seen by the public before event n+1 is sent by the backend."""
    public, backend, head = await ends.pass_on(request("GET", "/events", "Accept: text/event-stream"))
    assert head.get("accept") == "text/event-stream"
    await backend.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await public.head()).get("content-type") == "text/event-stream", "the head comes before any event"
    for number in range(100):
        event = b"id: %d\ndata: event %d\n\n" % (number, number)
        await backend.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert await public.chunks(len(event)) == event
    await backend.send(b"0\r\n\r\n")
    assert await public.chunk() == b""


async def test_a_stream_that_ends_with_the_connection(ends: Ends) -> None:
    """The way of HTTP/1.0 backends, and of many event streams: neither length nor chunks."""
    public, backend, _ = await ends.pass_on(request("GET", "/tail"))
    await backend.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    assert (await public.head()).status == 200
    for number in range(20):
        line = b"line %d\n" % number
        await backend.send(line)
        assert await public.chunks(len(line)) == line
    await backend.close()
    assert await public.chunk() == b""


async def test_a_stream_of_announced_length_is_not_gathered(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("GET", "/"))
    await backend.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
    assert (await public.head()).get("content-length") == "30"
    for number in range(30):
        await backend.send(b"%d" % (number % 10))
        assert await public.exactly(1) == b"%d" % (number % 10)


async def test_a_stream_ends_at_the_backend_when_the_public_breaks_off(ends: Ends) -> None:
    """Nobody is left to listen: the backend is told by the end of its connection, also between two events."""
    public, backend, _ = await ends.pass_on(request("GET", "/events"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n")
    assert await public.head()
    assert await public.chunk() == b"event"
    public.drop()
    assert await backend.ended()
    record = await ends.tunnel.events.record()
    assert (record.status, record.reset, record.bytes_out) == (200, 1, 5)


async def test_a_stream_ends_at_the_backend_when_the_public_goes(ends: Ends) -> None:
    """A FIN may only mean that the public has nothing more to ask; that it is gone shows when it is written to."""
    public, backend, _ = await ends.pass_on(request("GET", "/events"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n")
    assert await public.head()
    assert await public.chunk() == b"event"
    await public.close()
    ending = asyncio.ensure_future(backend.ended())
    for _ in range(100):
        backend.writer.write(b"5\r\nevent\r\n")
        done, _ = await asyncio.wait([ending], timeout=0.1)
        if done:
            break
    assert await ending


async def test_a_request_ends_at_the_backend_when_the_public_goes(ends: Ends) -> None:
    public, backend, _ = await ends.pass_on(request("POST", "/", "Content-Length: 100") + b"half")
    assert await backend.exactly(4) == b"half"
    public.drop()
    assert await backend.ended()


async def test_a_long_stream_neither_delays_nor_ends_with_other_requests(ends: Ends) -> None:
    """A silent stream stays open however much happens beside it."""
    public, backend, _ = await ends.pass_on(request("GET", "/events"))
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert await public.head()
    beside, other, _ = await ends.pass_on(request("GET", "/0"))
    for number in range(200):
        await other.send(answer("200 OK", body=b"%d" % number))
        assert (await beside.answer()).body == b"%d" % number
        await beside.send(request("GET", f"/{number + 1}"))
        await other.head()
    await other.send(answer("200 OK", body=b"last"))
    assert (await beside.answer()).body == b"last"
    await backend.send(b"4\r\nlate\r\n0\r\n\r\n")
    assert await public.chunk() == b"late"
    assert await public.chunk() == b""


async def test_no_time_out_cuts_a_stream_or_a_slow_answer(ends: Ends) -> None:
    """The limits in time are for heads: streams outlive all of them."""
    short = {"head_timeout_s": 0.05, "heartbeat_interval_s": 0.05}
    tunnel = await start_tunnel(ends.stack, ends.backend.url, server=short, client={"connect_timeout_s": 0.3})
    public = await connect(ends.stack, tunnel.host, tunnel.port)
    await public.send(request("POST", "/", "Transfer-Encoding: chunked"))
    backend = await ends.backend.accept()
    assert await backend.head()
    await _heartbeats(tunnel, 6)
    await public.send(b"4\r\nslow\r\n0\r\n\r\n")
    assert await backend.chunk() == b"slow"
    await _heartbeats(tunnel, 6)
    await backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert await public.head()
    await _heartbeats(tunnel, 6)
    await backend.send(b"4\r\nlate\r\n0\r\n\r\n")
    assert await public.chunk() == b"late"


async def _heartbeats(tunnel: Tunnel, count: int) -> None:
    """Wait until the link has carried so many messages more: a clock that needs no sleep."""

    def carried() -> int:
        return tunnel.server.status()["links"][0]["messages_sent"]

    target = carried() + count
    await eventually(lambda: carried() >= target)
