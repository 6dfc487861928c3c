"""The table of resets: every row of the wire contract."""

import pytest

from fasttunnel.errors import ANSWERS, GrpcStatus, ResetCode
from fasttunnel.wire import tunnel_pb2


def test_codes_are_those_of_the_contract() -> None:
    assert {code.name: code.value for code in ResetCode} == dict(tunnel_pb2.ResetCode.items())


@pytest.mark.parametrize(
    ("code", "http", "grpc", "ws_close"),
    [
        (ResetCode.NO_ERROR, 0, GrpcStatus.OK, 0),
        (ResetCode.CANCELLED, 0, GrpcStatus.CANCELLED, 1001),
        (ResetCode.NO_ROUTE, 404, GrpcStatus.UNIMPLEMENTED, 1011),
        (ResetCode.BACKEND_UNREACHABLE, 502, GrpcStatus.UNAVAILABLE, 1011),
        (ResetCode.BACKEND_TIMEOUT, 504, GrpcStatus.DEADLINE_EXCEEDED, 1011),
        (ResetCode.PROTOCOL_ERROR, 502, GrpcStatus.INTERNAL, 1002),
        (ResetCode.FLOW_CONTROL_ERROR, 502, GrpcStatus.INTERNAL, 1011),
        (ResetCode.TOO_LARGE, 413, GrpcStatus.RESOURCE_EXHAUSTED, 1009),
        (ResetCode.OVERLOADED, 503, GrpcStatus.UNAVAILABLE, 1013),
        (ResetCode.TUNNEL_LOST, 502, GrpcStatus.UNAVAILABLE, 1001),
    ],
)
def test_answer(code: ResetCode, http: int, grpc: GrpcStatus, ws_close: int) -> None:
    assert ANSWERS[code][:3] == (http, grpc, ws_close)
    assert ANSWERS[code].text


def test_every_code_has_an_answer() -> None:
    assert set(ANSWERS) == set(ResetCode)
