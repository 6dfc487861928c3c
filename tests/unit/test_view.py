"""TunnelMessages as records: what they say, what they leave out, whose they are, and how many are remembered."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fasttunnel.admin.http import Request, Response
from fasttunnel.admin.subject import Subject
from fasttunnel.admin.tap import READERS, Tap, view_of
from fasttunnel.control.taps import ALL, Listener, Taps, UnderWay
from fasttunnel.control.view import Requests, Sight, View
from fasttunnel.wire import tunnel_pb2 as pb

UP, DOWN = pb.CLIENT_TO_SERVER, pb.SERVER_TO_CLIENT
ALL_OF_IT = View(payload=64, headers=True, query=True)


class Tunnel:
    """One that knows some requests."""

    far_end = "10.0.0.7:5000"
    tap: Listener | None = None
    tap_protocols = 0

    def __init__(self, **known: UnderWay) -> None:
        self.known = {name.replace("_", "-"): facts for name, facts in known.items()}

    def request(self, request_id: str) -> UnderWay | None:
        return self.known.get(request_id)


HTTP = UnderWay("http", "shop.example/api", "", "", "", 2.0, 0, 0)
CALL = UnderWay("grpc", "everything", "", "", "/pkg.S/M", 3.0, 4, 7)


def message(request_id: str, direction: int, protocol: int, **payload: Any) -> bytes:
    return pb.TunnelMessage(
        request_id=request_id,
        direction=direction,  # type: ignore[arg-type]
        protocol_type=protocol,  # type: ignore[arg-type]
        **payload,
    ).SerializeToString()


def frame(opcode: int = 1, payload: bytes = b"", direction: int = UP, request_id: str = "ws-1", **fields: Any) -> bytes:
    fields = {"fin": True, **fields}
    return message(
        request_id, direction, pb.WEBSOCKET, ws_frame=pb.WebSocketFrame(opcode=opcode, payload=payload, **fields)
    )


def opening(request_id: str = "h-1", url: str = "/a?token=s3cret&b=2", **fields: Any) -> bytes:
    head = {"method": "POST", "host": "shop.example", "is_first_chunk": True, **fields}
    return message(request_id, UP, pb.HTTP, http_request=pb.HttpRequest(url=url, **head))


def look(requests: Requests, encoded: bytes, tunnel: Tunnel | None = None, sent: bool = False) -> Sight:
    sight = requests.see(tunnel or Tunnel(), sent, encoded)
    assert sight is not None
    return sight


def seen(
    encoded: bytes,
    view: View = ALL_OF_IT,
    requests: Requests | None = None,
    tunnel: Tunnel | None = None,
    sent: bool = False,
) -> dict[str, Any]:
    """The record of one message; its lines are JSON."""
    requests = requests if requests is not None else Requests()
    sight = look(requests, encoded, tunnel, sent)
    return dict(msgspec.json.decode(msgspec.json.encode(view.record(sight))))


def test_an_http_exchange() -> None:
    requests, tunnel = Requests(), Tunnel(h_1=HTTP)
    headers = [pb.Header(name="Authorization", value=b"Bearer s3cret"), pb.Header(name="accept", value=b"*/*")]
    head = seen(opening(body=b"hello", headers=headers), requests=requests, tunnel=tunnel)
    assert head["time"].endswith("Z")
    assert head["age_s"] < 1
    del head["time"], head["age_s"]
    assert head == {
        "tunnel": "10.0.0.7:5000",
        "sent": False,
        "request_id": "h-1",
        "protocol": "http",
        "route": "shop.example/api",
        "direction": "to_backend",
        "kind": "http_request",
        "size": 5,
        "host": "shop.example",
        "method": "POST",
        "path": "/a",
        "query": "token=****&b=2",
        "number": 1,
        "first": True,
        "last": False,
        "headers": [["Authorization", "****"], ["accept", "*/*"]],
        "payload": "hello",
    }
    last = pb.HttpRequest(is_last_chunk=True, trailers=[pb.Header(name="x-token", value=b"s3cret")])
    end = seen(message("h-1", UP, pb.HTTP, http_request=last), requests=requests, tunnel=tunnel)
    assert (end["path"], end["number"], end["last"], end["trailers"]) == ("/a", 2, True, 1)
    assert end["trailer_fields"] == [["x-token", "****"]]
    answer = pb.HttpResponse(status_code=503, is_first_chunk=True, is_last_chunk=True)
    told = seen(message("h-1", DOWN, pb.HTTP, http_response=answer), requests=requests, tunnel=tunnel)
    assert (told["status"], told["direction"], told["number"], told["method"]) == (503, "to_public", 1, "POST")
    assert len(requests) == 0, "it has ended both ways"


def test_nothing_is_shown_that_was_not_asked_for() -> None:
    headers = [pb.Header(name="x-note", value=b"in a field")]
    record = seen(opening(body=b"in the body", headers=headers, url="/a?in=the+query"), View())
    assert not {"headers", "payload", "payload_hex", "query"} & set(record)
    assert "in" not in str([value for name, value in record.items() if name not in ("kind", "protocol")])


def test_calls_count_their_messages() -> None:
    requests, tunnel = Requests(), Tunnel(g_1=CALL._replace(to_backend=0, to_public=0))

    def call(direction: int, **fields: Any) -> dict[str, Any]:
        kind, made = ("grpc_request", pb.GrpcRequest) if direction == UP else ("grpc_response", pb.GrpcResponse)
        return seen(message("g-1", direction, pb.GRPC, **{kind: made(**fields)}), requests=requests, tunnel=tunnel)

    first = call(UP, service="pkg.S", method="M", is_first_chunk=True)
    assert first["method"] == "/pkg.S/M"
    assert "number" not in first, "it brings no message"
    assert call(UP, body=b"\x08\x01")["number"] == 1
    parts = [call(UP, body=b"x" * 10, more=more, message_length=30 if more else 0) for more in (True, True, False)]
    assert [(part["number"], part["more"]) for part in parts] == [(2, True), (2, True), (2, False)]
    assert parts[0]["message_bytes"] == 30
    assert call(UP, body=b"")["number"] == 3, "an empty message is one"
    assert "number" not in call(UP, is_last_chunk=True)
    assert call(DOWN, is_first_chunk=True, body=b"\x08\x01")["payload_hex"] == "0801"
    end = call(DOWN, status_code=5, status_message="no cart", is_last_chunk=True)
    assert (end["status"], end["status_name"], end["status_message"]) == (5, "NOT_FOUND", "no cart")


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (
            frame(1, b"h\xc3\xa9llo\x1b[2J"),
            {"opcode": "text", "fin": True, "payload": "h\u00e9llo\x1b[2J", "number": 1},
        ),
        (frame(2, b"\x00\x01", fin=False), {"opcode": "binary", "fin": False, "payload_hex": "0001"}),
        (frame(2, b'{"a": 1}'), {"opcode": "binary", "payload": '{"a": 1}'}),
        (frame(0, b"x", more=True, payload_length=900), {"opcode": "continuation", "more": True, "message_bytes": 900}),
        (frame(1, b"packed", rsv=4), {"rsv": 4, "payload_hex": b"packed".hex()}),
        (frame(8, b"\x03\xe8bye"), {"opcode": "close", "code": 1000, "payload": "bye"}),
        (frame(8), {"opcode": "close", "size": 0}),
        (frame(9, b"p"), {"opcode": "ping", "payload": "p"}),
        (frame(10), {"opcode": "pong"}),
        (frame(1, b"\xe2\x82\xac" * 30), {"payload": "\u20ac" * 21, "size": 90}),  # 64 bytes halve the 22nd
        (frame(1, b"\xff"), {"payload_hex": "ff"}),
    ],
)
def test_frames(encoded: bytes, expected: dict[str, Any]) -> None:
    record = seen(encoded)
    assert {name: record.get(name) for name in expected} == expected


def test_handshakes_and_resets() -> None:
    request = pb.WebSocketRequest(url="/chat?key=s3cret", host="h")
    told = seen(message("ws-1", UP, pb.WEBSOCKET, ws_request=request))
    assert (told["method"], told["path"], told["query"]) == ("GET", "/chat", "key=****")
    refused = pb.WebSocketResponse(status_code=403, body=b"no")
    told = seen(message("ws-1", DOWN, pb.WEBSOCKET, ws_response=refused))
    assert (told["status"], told["accepted"], told["payload"]) == (403, False, "no")
    reset = pb.Reset(code=pb.BACKEND_UNREACHABLE, message="refused")
    told = seen(message("h-9", DOWN, pb.HTTP, reset=reset))
    assert (told["reset"], told["text"], told["route"]) == ("BACKEND_UNREACHABLE", "refused", None)


def test_what_belongs_to_the_tunnel_is_asked_for_by_name() -> None:
    requests = Requests()
    for encoded, expected in (
        (pb.TunnelMessage(heartbeat=pb.Heartbeat(reply=True)).SerializeToString(), {"reply": True}),
        (message("h-1", UP, pb.HTTP, window_update=pb.WindowUpdate(bytes=9)), {"credit": 9, "request_id": "h-1"}),
        (pb.TunnelMessage(register=pb.Register(routes=[pb.Route()])).SerializeToString(), {"routes": 1}),
    ):
        sight = look(requests, encoded, sent=True)
        assert not View().wants(sight)
        assert View(protocols=frozenset(["control"])).wants(sight)
        record = ALL_OF_IT.record(sight)
        assert record["protocol"] == "control"
        assert {name: record[name] for name in expected} == expected


def test_what_cannot_be_read_is_said() -> None:
    record = seen(b"\xff\xff")
    assert (record["kind"], record["size"], record["protocol"]) == ("malformed", 2, None)
    assert View().wants(look(Requests(), b"\xff"))


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, True),
        ({"protocols": frozenset(["http", "grpc"])}, True),
        ({"protocols": frozenset(["websocket"])}, False),
        ({"routes": frozenset(["shop.example/api"])}, True),
        ({"routes": frozenset(["shop.example"])}, False),
        ({"requests": frozenset(["h-1", "h-2"])}, True),
        ({"requests": frozenset(["h-11"])}, False),
        ({"text": "needle"}, True),  # in the payload
        ({"text": "/ca"}, True),  # in the path
        ({"text": "POST"}, True),
        ({"text": "pin"}, False),  # in the query, which is not shown
        ({"text": "pin", "query": True}, True),
        ({"text": "s3cret", "query": True}, False),  # redacted
        ({"text": "nothing"}, False),
        ({"text": "needle", "protocols": frozenset(["grpc"])}, False),
    ],
)
def test_filters(filters: dict[str, Any], wanted: bool) -> None:
    view = View(**filters)
    sight = look(Requests(), opening(url="/cart?pin=s3cret", body=b"a needle in hay"), Tunnel(h_1=HTTP))
    assert (view.wants(sight) and view.wants_route(sight.request)) is wanted


@pytest.mark.parametrize("sent", [True, False])
def test_a_request_that_was_under_way_before(sent: bool) -> None:
    """Engines have counted what they send when they show it, and what comes not yet."""
    requests, tunnel = Requests(), Tunnel(g_1=CALL._replace(to_public=8 if sent else 7))
    for number in (8, 9):
        answer = message("g-1", DOWN, pb.GRPC, grpc_response=pb.GrpcResponse(body=b"x"))
        record = seen(answer, requests=requests, tunnel=tunnel, sent=sent)
        assert (record["method"], record["route"], record["number"]) == ("/pkg.S/M", "everything", number)
        assert record["age_s"] >= 3


def test_a_request_that_nobody_knows() -> None:
    record = seen(frame(1, b"late"))
    assert [record[name] for name in ("protocol", "route", "path", "method", "age_s")] == [
        "websocket",
        *[None] * 4,
    ]


def test_the_table_is_bounded_and_counts_on() -> None:
    requests, tunnel = Requests(most=2), Tunnel(**{f"h_{number}": HTTP for number in range(5)})
    for number in range(5):
        seen(opening(f"h-{number}"), requests=requests, tunnel=tunnel)
        assert len(requests) <= 2
    tunnel.known["h-0"] = HTTP._replace(to_backend=1)
    more = message("h-0", UP, pb.HTTP, http_request=pb.HttpRequest(body=b"more"))
    assert seen(more, requests=requests, tunnel=tunnel)["number"] == 2, "the tunnel has counted"
    tunnel.known["h-0"] = HTTP._replace(to_backend=7)
    requests.missed()
    assert seen(more, requests=requests, tunnel=tunnel)["number"] == 8


def test_what_is_kept_of_a_request_is_short() -> None:
    requests, tunnel, long = Requests(), Tunnel(), "x" * 100_000
    for number in range(3):
        url = f"/{long}?{'a=1&' * 3000}u=https://joe:s3cret@h/&b={long}"
        look(requests, opening(f"h-{number}", url=url, host=long, method=long), tunnel)
    look(requests, message("g-1", UP, pb.GRPC, grpc_request=pb.GrpcRequest(service=long, is_first_chunk=True)), tunnel)
    look(requests, message("ws-1", UP, pb.WEBSOCKET, ws_request=pb.WebSocketRequest(url=long, host=long)), tunnel)
    tunnel.known["h-9"] = HTTP._replace(method=long, host=long, path=long)
    look(requests, message("h-9", UP, pb.HTTP, http_request=pb.HttpRequest(body=b"x")), tunnel)
    look(requests, opening("h-" + long), tunnel)
    assert len(requests) == 6
    for request in requests._known.values():
        for text in (request.path, request.query, request.host, request.method):
            assert len(text) <= 513
            assert len(text) < 512 or text.endswith("\N{HORIZONTAL ELLIPSIS}")
    shown = look(requests, opening("h-x", url=f"/?token={'b' * 2021}&u=https://joe:s3cret@h/"), tunnel)
    assert "s3cret" not in shown.request.query


@pytest.mark.parametrize(
    "encoded",
    [
        opening(url="/" + "p" * 500 + "?" + "q" * 500, host="h" * 500, method="M" * 500),
        opening(headers=[pb.Header(name="n" * 3000, value=b"\xff" * 3000)], body=b"b" * 3000),
        message("i" * 500, UP, pb.HTTP, reset=pb.Reset(message="r" * 500)),
        message("g-1", DOWN, pb.GRPC, grpc_response=pb.GrpcResponse(status_message="s" * 60, is_last_chunk=True)),
        pb.TunnelMessage(go_away=pb.GoAway(reason="r" * 500)).SerializeToString(),
    ],
)
def test_what_a_record_costs_is_what_it_has(encoded: bytes) -> None:
    for view in (View(), ALL_OF_IT):
        sight = look(Requests(), encoded)
        assert len(msgspec.json.encode(view.record(sight))) < view.cost(sight) < 60_000


def test_others_than_those_that_are_named_are_not_looked_at() -> None:
    requests, only = Requests(), frozenset(["h-1"])
    for other in (opening("h-11"), opening("h-2", body=b"h-1"), b"\xff", pb.TunnelMessage().SerializeToString()):
        assert requests.see(Tunnel(), False, other, only) is None
    assert len(requests) == 0
    assert requests.see(Tunnel(), False, opening("h-1"), only) is not None


def test_query_of_the_page() -> None:
    assert view_of("") == View()
    view = view_of("protocol=http&protocol=control&route=a%2Fb&request=h-1&text=x+y&payload=100&headers=1&query=1")
    assert view == View(
        frozenset(["http", "control"]), frozenset(["a/b"]), frozenset(["h-1"]), "x y", 100, headers=True, query=True
    )
    assert view.bits == 1 << 1 | 1 << 4
    many = "&".join(["request=h-1"] * 16)
    assert view_of(many).requests == {"h-1"}
    for wrong in (
        many + "&request=h-2",
        "route=r&" * 17,
        "colour=1",
        "protocol=tcp",
        "payload=-1",
        "payload=65537",
        "payload=x",
        "headers=yes",
        "text=",
    ):
        with pytest.raises(ValueError, match=wrong.partition("=")[0]):
            view_of(wrong)


# -- who listens ------------------------------------------------------------------------------------------------------


def test_listeners_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    tunnels = [Tunnel()]
    heard: list[tuple[str, str, bytes]] = []
    taps = Taps(lambda: tunnels, lambda far_end, sent, encoded: heard.append(("first", far_end, encoded)))
    new = Tunnel()
    taps.attend(new)
    assert new.tap is not None
    new.tap(new, True, b"1")
    assert heard == [("first", "10.0.0.7:5000", b"1")]

    taps = Taps(lambda: tunnels)
    assert tunnels[0].tap is None

    def one(tunnel: Any, sent: bool, encoded: bytes) -> None:
        heard.append(("one", "", encoded))

    def failing(tunnel: Any, sent: bool, encoded: bytes) -> None:
        raise RuntimeError("of a listener")

    taps.add(failing, 1 << 2)
    taps.add(one, 1 << 1)
    assert tunnels[0].tap is not None
    assert tunnels[0].tap_protocols == 0b110
    tunnels[0].tap(tunnels[0], False, b"2")
    assert heard[-1] == ("one", "", b"2"), "it hears although another one fails"
    assert "of a listener" in caplog.text
    assert (len(taps), tunnels[0].tap_protocols) == (1, 0b10)
    taps.add(one, ALL)
    assert (len(taps), tunnels[0].tap_protocols) == (1, ALL)
    taps.remove(one)
    taps.remove(one)
    assert (tunnels[0].tap, tunnels[0].tap_protocols, len(taps)) == (None, 0, 0)


# -- who reads /tap ---------------------------------------------------------------------------------------------------


def tap_of(tunnel: Tunnel) -> tuple[Tap, Taps]:
    taps = Taps(lambda: [tunnel])
    end: Any = SimpleNamespace(taps=taps)
    return Tap(Subject("server", "cython", lambda: end, lambda: "", list), "payloads"), taps


async def lines_of(response: Response) -> list[dict[str, Any]]:
    """The next ones."""
    assert not isinstance(response.body, bytes)
    return [json.loads(line) for line in (await anext(aiter(response.body))).splitlines()]


async def test_readers_count_before_they_are_read() -> None:
    tap, taps = tap_of(Tunnel())
    answers = [tap.answer(Request("/tap", "", {})) for _ in range(60)]
    assert [answer.status for answer in answers] == [200] * READERS + [503] * (60 - READERS)
    for answer in answers[:READERS]:
        assert not isinstance(answer.body, bytes)
        await answer.body.aclose()
        await answer.body.aclose()
    assert len(taps) == 0
    assert tap.answer(Request("/tap", "", {})).status == 200


async def test_a_tap_that_fails_ends_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Tunnel):
        def request(self, request_id: str) -> UnderWay | None:
            raise RuntimeError("of the engine")

    tunnel = Failing()
    tap, taps = tap_of(tunnel)
    answers = [tap.answer(Request("/tap", "", {})) for _ in range(2)]
    assert tunnel.tap is not None
    tunnel.tap(tunnel, True, opening())
    for answer in answers:
        begin, end = await lines_of(answer)
        assert (begin["tap"], end["tap"]) == ("begin", "end")
        with pytest.raises(StopAsyncIteration):
            await lines_of(answer)
    assert len(taps) == 0
    assert "of the engine" in caplog.text
    assert tap.answer(Request("/tap", "", {})).status == 200


async def test_a_route_that_is_found_late_is_waited_for() -> None:
    """A client looks for it after it has shown the message; the lines may be due between the two."""
    tunnel = Tunnel()
    tap, _ = tap_of(tunnel)
    everything, by_route = (tap.answer(Request("/tap", query, {})) for query in ("", "route=shop.example/api"))
    for answer in (everything, by_route):
        await lines_of(answer)
    assert tunnel.tap is not None
    tunnel.tap(tunnel, False, opening())
    tap._flush()
    tunnel.known["h-1"] = HTTP
    tunnel.tap(tunnel, False, opening("h-2"))
    async with asyncio.timeout(20):
        assert [line["request_id"] for line in await lines_of(by_route)] == ["h-1"]
        lines: list[dict[str, Any]] = []
        while len(lines) < 2:
            lines += await lines_of(everything)
    shown = [(line["request_id"], line["route"]) for line in lines]
    assert shown == [("h-1", "shop.example/api"), ("h-2", None)], "nobody serves the other one"
