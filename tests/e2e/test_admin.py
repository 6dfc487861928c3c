"""The admin port of both ends: its numbers are those of a known traffic, with every pair of engines."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fasttunnel import limits
from tests.support.grpc_peers import Context, Note, open_channel, start_grpc
from tests.support.tunnel import Tunnel, eventually, start_server, start_tunnel

Numbers = dict[str, dict[tuple[tuple[str, str], ...], float]]
ADMIN = {"admin": "127.0.0.1:0"}


async def read(session: aiohttp.ClientSession, end: Any, page: str, **headers: str) -> tuple[int, str]:
    async with session.get(f"http://{end.admin}{page}", headers=headers) as answer:
        return answer.status, await answer.text()


async def metrics(session: aiohttp.ClientSession, end: Any) -> Numbers:
    """Samples by name and labels."""
    _, text = await read(session, end, "/metrics")
    found: Numbers = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(numbers: Numbers, name: str, **labels: str) -> float:
    return numbers.get(f"fasttunnel_{name}", {}).get(tuple(sorted(labels.items())), 0)


async def start_web(stack: AsyncExitStack) -> str:
    """POST / has its body back, /missing is 404, /ws sends each message back, /refused refuses a handshake."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def socket(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(autoping=True)
        await connection.prepare(request)
        async for message in connection:
            await (connection.send_str if message.type == aiohttp.WSMsgType.TEXT else connection.send_bytes)(
                message.data
            )
        return connection

    async def refused(request: web.Request) -> web.Response:
        return web.Response(status=403)

    app = web.Application()
    app.router.add_post("/", echo)
    app.router.add_get("/ws", socket)
    app.router.add_get("/refused", refused)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def start(stack: AsyncExitStack, *routes: str, **server: Any) -> tuple[Tunnel, aiohttp.ClientSession]:
    tunnel = await start_tunnel(stack, *routes, server={**ADMIN, **server}, client=ADMIN)
    return tunnel, await stack.enter_async_context(aiohttp.ClientSession())


async def test_sums_are_those_of_the_traffic(stack: AsyncExitStack) -> None:
    async def unary(request: Any, context: Context) -> Any:
        if request.number == 7:
            await context.abort(grpc.StatusCode.NOT_FOUND, "seven")
        return request

    backend = await start_web(stack)
    tunnel, session = await start(
        stack, f"known.example={backend}", f"known.example/ws={backend}", await start_grpc(stack, Unary=unary)
    )
    known = {"Host": "known.example"}
    for size in (10, 1000, 300_000):
        async with session.post(tunnel.url, data=b"x" * size, headers=known) as answer:
            assert len(await answer.read()) == size
    for path in ("/missing", "/missing?token=secret"):
        async with session.get(tunnel.url + path, headers=known) as answer:
            assert answer.status == 404
    for host in ("stranger.example", "other.example"):
        async with session.post(tunnel.url, data=b"x", headers={"Host": host}) as answer:
            assert answer.status == 404
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(tunnel.url + "/refused", headers=known)
    async with session.ws_connect(tunnel.url + "/ws", headers=known) as socket:
        await socket.send_str("text")
        await socket.receive()
        for _ in range(3):
            await socket.send_bytes(b"binary")
            await socket.receive()
        await socket.ping()
        for end in (tunnel.server, tunnel.client):  # it lives on, and counts already
            numbers = await metrics(session, end)
            route = "known.example/ws"
            assert value(numbers, "active_requests", protocol="websocket", route=route) == 1
            flow = {"protocol": "websocket", "route": route, "direction": "to_public"}
            assert value(numbers, "payload_bytes_total", **flow) == 4 + 3 * 6
        await socket.close(code=4001)
    stub = await open_channel(stack, tunnel.authority)
    for number in (1, 2, 3):
        await stub.Unary(Note(number=number, data=b"abc"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Unary(Note(number=7))
    assert [note.number async for note in stub.Down(Note(number=5))] == list(range(5))
    with pytest.raises(grpc.aio.AioRpcError):
        await (await stack.enter_async_context(grpc.aio.insecure_channel(tunnel.authority))).unary_unary(
            "/no.Such/Method"
        )(b"")
    await tunnel.until_idle()

    for end in (tunnel.server, tunnel.client):
        numbers = await metrics(session, end)
        web_route, calls = {"protocol": "http", "route": "known.example"}, {"protocol": "grpc", "route": "everything"}
        assert value(numbers, "requests_total", **web_route) == 5
        assert value(numbers, "requests_total", protocol="websocket", route="known.example") == 1  # the refused one
        assert value(numbers, "requests_total", **calls) == 6
        assert value(numbers, "active_requests", **calls) == 0
        for direction in ("to_backend", "to_public"):
            payload = value(numbers, "payload_bytes_total", direction=direction, **web_route)
            assert payload == 301_010 + (direction == "to_public") * 2 * len("404: Not Found")
        assert value(numbers, "responses_total", protocol="http", code="200") == 3
        assert value(numbers, "responses_total", protocol="http", code="404") == 2
        assert value(numbers, "responses_total", protocol="websocket", code="403") == 1
        assert value(numbers, "responses_total", protocol="websocket", code="101") == 1
        echo = {"service": "tests.Echo", "method": "Unary"}
        services = {dict(labels)["service"] for labels in numbers["fasttunnel_grpc_calls_total"]}
        echo["service"] = next(name for name in services if name != "other")
        assert value(numbers, "grpc_calls_total", status="OK", **echo) == 3
        assert value(numbers, "grpc_calls_total", status="NOT_FOUND", **echo) == 1
        assert value(numbers, "grpc_calls_total", status="UNIMPLEMENTED", service="other", method="other") == 1
        down = {"service": echo["service"], "method": "Down"}
        assert value(numbers, "grpc_messages_total", direction="to_public", **down) == 5
        assert value(numbers, "grpc_messages_total", direction="to_backend", **down) == 1
        for direction in ("to_backend", "to_public"):
            frames = {"text": 1, "binary": 3, "close": 1}
            for opcode, count in frames.items():
                assert value(numbers, "websocket_frames_total", direction=direction, opcode=opcode) == count
        assert value(numbers, "websocket_frames_total", direction="to_backend", opcode="ping") == 1
        assert value(numbers, "websocket_closes_total", code="4001") == 1
        for protocol, count in (("http", 5), ("websocket", 2), ("grpc", 6)):
            assert value(numbers, "request_duration_seconds_count", protocol=protocol) == count
            assert value(numbers, "request_duration_seconds_bucket", protocol=protocol, le="+Inf") == count
        assert value(numbers, "tunnels") == value(numbers, "tunnel_registrations_total") == 1
        assert len(numbers["fasttunnel_tunnel_round_trip_seconds"]) == 1
        hosts = [labels for samples in numbers.values() for labels in samples if "stranger.example" in str(labels)]
        assert hosts == []
        counted = json.loads((await read(session, end, "/status"))[1])["counters"]
        assert counted["requests"]["known.example"]["http"]["requests"] == 5
        assert counted["websocket"]["closes"] == {"4001": 1}
    numbers = await metrics(session, tunnel.server)
    assert value(numbers, "refusals_total", protocol="http", code="404") == 2
    # More than a window went each way at once: the sending end knows that it was used up.
    assert value(numbers, "windows_exhausted_total", direction="to_backend") >= 1
    numbers = await metrics(session, tunnel.client)
    assert value(numbers, "refusals_total", protocol="http", code="404") == 0


async def test_both_engines_have_the_same_names(stack: AsyncExitStack) -> None:
    backend = await start_web(stack)
    tunnel, session = await start(stack, backend)
    names = []
    for end in (tunnel.server, tunnel.client):
        async with session.post(tunnel.url, data=b"x") as answer:
            await answer.read()
        _, text = await read(session, end, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")
        families = {family.name for family in openmetrics.text_string_to_metric_families(text)}
        names.append({name for name in families if name.startswith("fasttunnel_")})
    of_one_engine = {"timers", "tasks", "socket_reads", "socket_writes", "tls_handshakes_failed", "queued_requests"}
    common = [found - {f"fasttunnel_{name}" for name in of_one_engine} for found in names]
    assert common[0] == common[1]
    assert len(common[0]) > 20


async def test_resets_and_refusals(stack: AsyncExitStack) -> None:
    """A backend that is not there, and what never gets as far as a tunnel."""
    tunnel, session = await start(stack, "known.example=http://127.0.0.1:1", max_requests=1, body_bytes=100)
    async with session.get(tunnel.url, headers={"Host": "known.example"}) as answer:
        assert answer.status == 502
    async with session.post(tunnel.url, data=b"x" * 101, headers={"Host": "known.example"}) as answer:
        assert answer.status == 413
    async with session.get(tunnel.url, headers={"Upgrade": "websocket", "Connection": "Upgrade"}) as answer:
        assert answer.status == 426
    await tunnel.until_idle()
    for end in (tunnel.server, tunnel.client):
        numbers = await metrics(session, end)
        assert value(numbers, "resets_total", protocol="http", code="BACKEND_UNREACHABLE") == 1
        assert value(numbers, "responses_total", protocol="http", code="502") == 1
    numbers = await metrics(session, tunnel.server)
    assert value(numbers, "refusals_total", protocol="http", code="413") == 1
    assert value(numbers, "refusals_total", protocol="websocket", code="426") == 1


async def test_labels_are_bounded(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COUNTED_ROUTES", 3)
    monkeypatch.setattr(limits, "COUNTED_METHODS", 1)
    monkeypatch.setattr(limits, "COUNTED_CLOSE_CODES", 2)
    backend = await start_web(stack)
    names = [f"h{number}.example" for number in range(6)]
    tunnel, session = await start(stack, *(f"{name}={backend}" for name in names), await start_grpc(stack))
    for name in names:
        async with session.post(tunnel.url, data=b"12345", headers={"Host": name}) as answer:
            await answer.read()
    for code in (4001, 4002, 4003, 4004):
        async with session.ws_connect(tunnel.url + "/ws", headers={"Host": names[0]}) as socket:
            await socket.close(code=code)
    stub = await open_channel(stack, tunnel.authority)
    await stub.Unary(Note())
    await stub.Empty(Note())
    await tunnel.until_idle()
    for end in (tunnel.server, tunnel.client):
        numbers = await metrics(session, end)
        routes = {dict(labels)["route"] for labels in numbers["fasttunnel_requests_total"]}
        assert len(routes) <= 4
        assert "other" in routes
        assert sum(
            count for labels, count in numbers["fasttunnel_requests_total"].items() if ("protocol", "http") in labels
        ) == len(names)
        methods = {dict(labels)["method"]: count for labels, count in numbers["fasttunnel_grpc_calls_total"].items()}
        assert methods == {"Unary": 1, "other": 1}
        assert sum(numbers["fasttunnel_websocket_closes_total"].values()) == 4
        assert len(numbers["fasttunnel_websocket_closes_total"]) == 3


async def test_ready_is_red_before_a_port_closes(stack: AsyncExitStack) -> None:
    backend = await start_web(stack)
    tunnel, session = await start(stack, backend)
    assert await read(session, tunnel.server, "/readyz") == (200, "ready\n")
    assert await read(session, tunnel.client, "/readyz") == (200, "ready\n")
    socket = await session.ws_connect(tunnel.url + "/ws", autoclose=False)
    stopping = asyncio.create_task(tunnel.server.stop(20))
    await asyncio.sleep(0)
    assert tunnel.server.unready
    status, text = await read(session, tunnel.server, "/readyz")
    assert (status, text) == (503, "not ready: it is draining\n")
    assert await read(session, tunnel.server, "/healthz") == (200, "alive\n")
    assert json.loads((await read(session, tunnel.server, "/status"))[1])["ready"] is False
    await socket.close()
    await stopping
    await eventually(lambda: bool(tunnel.client.unready))
    status, text = await read(session, tunnel.client, "/readyz")
    assert status == 503
    assert text.startswith("not ready: it is not registered with 127.0.0.1:")
    with pytest.raises(aiohttp.ClientConnectorError):
        await read(session, tunnel.server, "/healthz")


async def test_status_has_no_secrets(stack: AsyncExitStack) -> None:
    secret = "s3cret-" * 8
    server = await start_server(stack, admin="127.0.0.1:0", token=secret)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    for page in ("/", "/status", "/metrics", "/readyz"):
        assert secret not in (await read(session, server, page))[1]
