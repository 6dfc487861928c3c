"""What an exchange of the asyncio engine lets pass, without sockets: order, credit, and what costs no credit."""

import asyncio
from typing import Any

import pytest

from fasttunnel.errors import ResetCode
from fasttunnel.reference.dispatch import Dispatcher
from fasttunnel.reference.exchange import UNPAID_BYTES, Exchange
from fasttunnel.reference.messages import RequestReset
from fasttunnel.wire import tunnel_pb2 as wire


class ServerEnd(Dispatcher):
    """A tunnel without a stream: what it sends is kept."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        super().__init__()
        self.tap = lambda tunnel, sent, encoded: self.sent.append(wire.TunnelMessage.FromString(encoded))
        self.start(1000, 1000, 65_536)

    def answer(self, exchange: Exchange, **payload: Any) -> None:
        self.handle_tunnel_message(wire.TunnelMessage(request_id=exchange.request_id, **payload))


def chunk(number: int, **values: Any) -> dict[str, Any]:
    return {"http_response": wire.HttpResponse(sequence_number=number, is_first_chunk=number == 0, **values)}


async def test_messages_without_credit_are_bounded() -> None:
    """Nobody reads them: a flood ends the request, and only it."""
    end = ServerEnd()
    flooded, other = end.open(wire.WEBSOCKET), end.open(wire.HTTP)
    end.answer(flooded, ws_response=wire.WebSocketResponse(status_code=101, accepted=True))
    count = 0
    while flooded.failure is None:
        end.answer(flooded, ws_frame=wire.WebSocketFrame(opcode=9, fin=True, payload=b"p" * 125))
        count += 1
        assert count <= UNPAID_BYTES // 125
    assert flooded.failure.code == ResetCode.OVERLOADED
    assert end.sent[-1].reset.code == wire.OVERLOADED
    end.answer(other, **chunk(0, status_code=200))
    assert (await other.receive()).status_code == 200
    assert list(end.requests) == [other.request_id]


async def test_messages_without_credit_that_are_read_may_be_many() -> None:
    end = ServerEnd()
    exchange = end.open(wire.GRPC)
    for number in range(100_000):
        body = wire.GrpcResponse(sequence_number=number, is_first_chunk=number == 0, body=b"")
        end.answer(exchange, grpc_response=body)
        await exchange.receive()
    assert exchange.failure is None
    assert exchange.messages_received == 100_000


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (chunk(0, status_code=200, body=b"x" * 1001), ResetCode.FLOW_CONTROL_ERROR),
        (chunk(1), ResetCode.PROTOCOL_ERROR),
        ({"window_update": wire.WindowUpdate(bytes=2**31)}, ResetCode.FLOW_CONTROL_ERROR),
        ({"grpc_response": wire.GrpcResponse(is_first_chunk=True)}, ResetCode.PROTOCOL_ERROR),
    ],
)
async def test_what_breaks_the_contract_ends_the_request(bad: dict[str, Any], code: ResetCode) -> None:
    end = ServerEnd()
    exchange = end.open(wire.HTTP)
    end.answer(exchange, **bad)
    with pytest.raises(RequestReset) as failure:
        await exchange.receive()
    assert failure.value.code == code
    assert end.requests == {}
    end.answer(exchange, **chunk(5))
    assert len(end.sent) == 1, "late messages are dropped"


async def test_what_came_before_the_end_is_received() -> None:
    end = ServerEnd()
    exchange = end.open(wire.HTTP)
    end.answer(exchange, **chunk(0, status_code=200))
    end.answer(exchange, **chunk(1, body=b"half"))
    end.fail_all(ResetCode.TUNNEL_LOST, "gone")
    assert [(await exchange.receive()).body for _ in range(2)] == [b"", b"half"]
    with pytest.raises(RequestReset, match="gone"):
        await exchange.receive()


async def test_credit_is_waited_for_and_granted_by_halves() -> None:
    end = ServerEnd()
    exchange = end.open(wire.HTTP)
    exchange.send(wire.HttpRequest(is_first_chunk=True, body=b"x" * 1000))
    waiting = asyncio.ensure_future(exchange.ready())
    await asyncio.sleep(0)
    assert (exchange.room, waiting.done()) == (0, False)
    end.answer(exchange, window_update=wire.WindowUpdate(bytes=7))
    await waiting
    assert exchange.room == 7
    granted = 0
    for number in range(8):
        end.answer(exchange, **chunk(number, status_code=200 * (number == 0), body=b"y" * 200))
        exchange.consumed(await exchange.receive())
        granted += end.sent[-1].window_update.bytes
        assert granted >= (number + 1) * 200 - 500
    assert exchange.failure is None


async def test_the_states_of_a_call() -> None:
    end = ServerEnd()
    exchange = end.open(wire.GRPC)
    stream = end.grpc_streams.streams[exchange.request_id]
    assert stream.state == "idle"
    exchange.send(wire.GrpcRequest(is_first_chunk=True))
    assert stream.state == "open"
    exchange.send(wire.GrpcRequest(is_last_chunk=True))
    assert (stream.state, stream.sending.next_sequence) == ("half-closed (local)", 2)
    end.answer(exchange, grpc_response=wire.GrpcResponse(is_first_chunk=True, is_last_chunk=True))
    assert stream.state == "closed"
    exchange.finish()
    assert end.grpc_streams.streams == {}
