"""The lines of --trace-messages."""

import io
import re

import pytest

from fasttunnel.control.trace import Trace, describe
from fasttunnel.wire.tunnel_pb2 import (
    CLIENT_TO_SERVER,
    SERVER_TO_CLIENT,
    GrpcResponse,
    Header,
    Heartbeat,
    HttpRequest,
    Register,
    Reset,
    Route,
    TunnelMessage,
    WebSocketFrame,
)

SECRET = Header(name="authorization", value=b"Bearer secret")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            TunnelMessage(
                request_id="h-1",
                direction=CLIENT_TO_SERVER,
                http_request=HttpRequest(method="GET", url="/a?token=secret", headers=[SECRET], is_first_chunk=True),
            ),
            "h-1 to backend http_request method=GET url=/a?... headers=authorization is_first_chunk",
        ),
        (
            TunnelMessage(
                request_id="ws-2",
                direction=SERVER_TO_CLIENT,
                ws_frame=WebSocketFrame(connection_id="ws-2", fin=True, payload=b"secret", frame_direction=2),
            ),
            "ws-2 to public ws_frame continuation fin payload=6 bytes",
        ),
        (
            TunnelMessage(request_id="ws-2", ws_frame=WebSocketFrame(fin=True, opcode=11)),
            "ws-2 ws_frame opcode=11 fin",
        ),
        (
            TunnelMessage(request_id="g-3", grpc_response=GrpcResponse(body=b"", status_message="not\nhere\x1b[2J")),
            r"g-3 grpc_response body=0 bytes status_message='not\nhere\x1b[2J'",
        ),
        (TunnelMessage(request_id="g-3", reset=Reset()), "g-3 reset NO_ERROR"),
        (TunnelMessage(request_id="g-3", reset=Reset(code=77)), "g-3 reset code=77"),  # type: ignore[arg-type]
        (TunnelMessage(heartbeat=Heartbeat(nonce=4, reply=True)), "heartbeat nonce=4 reply"),
        (
            TunnelMessage(register=Register(version=1, routes=[Route(), Route()], features=["x", "y"])),
            "register version=1 routes=2 features=x,y",
        ),
        (TunnelMessage(request_id="h-1"), "h-1 empty"),
    ],
)
def test_what_a_message_is(message: TunnelMessage, words: str) -> None:
    assert describe(message) == words


def test_a_line_for_each_message() -> None:
    out = io.StringIO()
    trace = Trace(out)
    trace("10.0.0.7:5000", True, TunnelMessage(heartbeat=Heartbeat(nonce=4)).SerializeToString())
    trace("10.0.0.7:5000", False, b"\xff")
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} 10\.0\.0\.7:5000 -> heartbeat nonce=4", first)
    assert second.endswith("10.0.0.7:5000 <- malformed, 1 bytes")
