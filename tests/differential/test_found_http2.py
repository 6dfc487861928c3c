"""What the differential tests have found over HTTP/2, as it was minimised: all engines pass it now."""

from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.cells import ALIKE, MIXED, Cell, Cells, Stage
from tests.support.conversation import Backend, Reply
from tests.support.http2 import Fields, Stream, connect_http2
from tests.support.http2_wires import Call, GrpcBackend, message
from tests.support.raw import answer

pytestmark = pytest.mark.parametrize("cell", [*ALIKE, *MIXED], ids="-".join)

FINE = Reply([answer("200 OK", body=b"fine")])
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GRPC = ("content-type", "application/grpc")


# -- HTTP


async def ask(stage: Stage, replies: list[Reply], method: str = "GET", *fields: tuple[str, str]) -> Any:
    """The same as often as there are replies, on one connection. The streams, and what the backend has seen."""
    async with AsyncExitStack() as stack:
        backend = Backend(stage, replies, lambda *_: True)
        connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
        connection.protocol.config.validate_outbound_headers = False
        streams = [await connection.ask(method, "/", *fields) for _ in replies]
    await backend.finish()
    return streams, backend


def test_trailers_of_an_answer_without_a_body(cells: Cells, cell: Cell) -> None:
    """They are lost neither when they come alone, nor with the head."""
    reply = Reply([CHUNKED + b"0\r\nX-T: 1\r\n\r\n"])
    [stream], _ = cells.play(cell, lambda stage: ask(stage, [reply]))
    assert (stream.status, stream.body, stream.trailers, stream.ended) == (200, b"", [("x-t", "1")], True)


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (("host", "public.example"), 200),
        (("grpc-timeout", "nonsense"), 200),  # it means something in gRPC only
    ],
)
def test_fields_of_requests(cells: Cells, cell: Cell, field: tuple[str, str], status: int) -> None:
    [stream], _ = cells.play(cell, lambda stage: ask(stage, [FINE], "GET", field))
    assert stream.status == status


def test_an_answer_to_head_has_no_chunks_to_wait_for(cells: Cells, cell: Cell) -> None:
    """RFC 9112 6.3: whatever its fields say, so the connection serves the next request."""
    streams, backend = cells.play(cell, lambda stage: ask(stage, [Reply([CHUNKED])] * 2, "HEAD"))
    assert [stream.status for stream in streams] == [200, 200]
    assert backend.order == [(0, 0), (0, 1)]


def test_trailers_behind_a_body_of_known_length(cells: Cells, cell: Cell) -> None:
    """HTTP/1.1 has no place for them behind a Content-Length; the body is whole without them (RFC 9110 6.5)."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            backend = Backend(stage, [FINE], lambda *_: True)
            connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
            stream = await connection.open("POST", "/", ("content-length", "5"), end=False)
            await stream.send(b"hello")
            await stream.send_trailers([("x-t", "1")])
            await stream.done()
        await backend.finish()
        return stream.status, [request.body for request in backend.requests()]

    assert cells.play(cell, play) == (200, [b"hello"])


def test_a_body_shorter_than_its_length(cells: Cells, cell: Cell) -> None:
    """Trailers end it too early: malformed (RFC 9113 8.1.1), and no backend may take it for whole."""

    async def play(stage: Stage) -> Any:
        async with AsyncExitStack() as stack:
            backend = Backend(stage, [FINE], lambda *_: True)
            connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
            stream = await connection.open("POST", "/", ("content-length", "6"), end=False)
            await stream.send(b"hello")
            await stream.send_trailers([("x-t", "1")])
            await stream.done()
            probe = await connection.ask("POST", "/", ("content-type", "application/grpc"), ("grpc-timeout", "x"))
        await backend.finish()
        return stream, [request.complete for request in backend.requests()], probe.status

    stream, complete, probe = cells.play(cell, play)
    assert stream.reset is not None
    assert complete in ([], [False])
    assert probe == 200, "the connection lives on"


# -- gRPC


async def call(stage: Stage, *steps: Any) -> tuple[Stream, Call]:
    """A call whose backend sends `steps`: fields, bytes, or GOAWAY for None. The last one ends it."""
    async with AsyncExitStack() as stack:
        backend = GrpcBackend(stage)
        connection = await connect_http2(stack, stage.tunnel.host, stage.tunnel.port)
        stream = await connection.open("POST", "/pkg.Service/Method", GRPC, ("te", "trailers"))
        call = await backend.call()
        for number, step in enumerate(steps, 1):
            if step is None:
                await call.send_goaway()
            elif isinstance(step, bytes):
                await call.send(step)
            else:
                await call.send_headers(step, end=number == len(steps))
        await stream.done()
    await backend.finish()
    return stream, call


HEAD: Fields = [(":status", "200"), GRPC]


def test_te_is_sent_once(cells: Cells, cell: Cell) -> None:
    _, at_backend = cells.play(cell, lambda stage: call(stage, [*HEAD, ("grpc-status", "0")]))
    assert [value for name, value in at_backend.fields if name == "te"] == ["trailers"]


@pytest.mark.parametrize("status", ["17", "99", "9999999999", "-1", "x"])
def test_statuses_that_gRPC_does_not_know(cells: Cells, cell: Cell, status: str) -> None:
    stream, _ = cells.play(cell, lambda stage: call(stage, HEAD, [("grpc-status", status)]))
    assert dict(stream.trailers)["grpc-status"] == "2"


def test_another_content_type_that_begins_the_same(cells: Cells, cell: Cell) -> None:
    head = [(":status", "200"), ("content-type", "application/grpcx")]
    stream, _ = cells.play(cell, lambda stage: call(stage, head, message(b"x"), [("x-end", "")]))
    assert (stream.field("grpc-status"), stream.field("content-type")) == ("2", "application/grpc")


def test_a_call_outlives_the_goaway_of_its_backend(cells: Cells, cell: Cell) -> None:
    """RFC 9113 6.8: streams up to the one that it names go on. It ends the connection with the last of them."""
    stream, at_backend = cells.play(
        cell, lambda stage: call(stage, HEAD, None, message(b"hello"), [("grpc-status", "0")])
    )
    assert (bytes(stream.body), stream.trailers) == (message(b"hello"), [("grpc-status", "0")])
    assert at_backend.connection.wire.ended
