"""Spans of requests, as a collector of OpenTelemetry gets them."""

import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fasttunnel.control.config import ServerConfig
from fasttunnel.errors import ConfigError
from tests.support.grpc_peers import Context, Note, open_channel, start_grpc
from tests.support.tunnel import Recorder, eventually, start_client, start_server
from tests.support.web import start_web

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT = 2, 3  # Span.SpanKind
ERROR = 2  # Status.StatusCode


class Collector(ThreadingHTTPServer):
    """In threads of its own: an end that stops waits for its last spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exports: list[ExportTraceServiceRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self, service: str) -> list[Any]:
        """In the order of their beginning."""
        found = []
        for export in self.exports:
            for resource in export.resource_spans:
                if attributes(resource.resource)["service.name"] == service:
                    found += [span for scope in resource.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        self.server.exports.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def attributes(told: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in told.attributes}


def traceparent(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}


async def echo(request: web.Request) -> web.StreamResponse:
    if request.path == "/websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close(code=4001)
        return socket
    return web.Response(status=503 if request.path == "/broken" else 200, text=request.headers["traceparent"])


async def test_both_ends_tell_of_requests_that_are_recorded(stack: AsyncExitStack, collector: Collector) -> None:
    async def unary(note: Note, context: Context) -> Note:
        return note

    server = await start_server(stack, otlp=collector.url)
    backend = await start_web(stack, web.get("/{path:.*}", echo))
    routes = [f"shop.example={backend}", await start_grpc(stack, Unary=unary)]
    client = await start_client(stack, server.tunnel, routes, otlp=f"{collector.url}/v1/traces", client_id="laptop")
    shop = {"Host": "shop.example"}
    async with aiohttp.ClientSession(server.public_url) as session:
        for path, flags in (("/one?secret=7", "01"), ("/never", "00"), ("/broken", "03")):
            async with session.get(path, headers={**shop, **traceparent(flags)}) as answer:
                assert await answer.text() == traceparent(flags)["traceparent"], "it is passed on as it came"
        async with session.ws_connect("/websocket", headers={**shop, **traceparent()}) as socket:
            await socket.receive()
    stub = await open_channel(stack, "{}:{}".format(*server.address))
    assert (await stub.Unary(Note(number=7), metadata=tuple(traceparent().items()))).number == 7
    await eventually(lambda: server.status()["active_requests"] == client.status()["active_requests"] == 0)
    await client.stop()
    await server.stop()

    seen = {}
    for service, kind in (("fasttunnel-server", SERVER), ("fasttunnel-client", CLIENT)):
        spans = collector.spans(service)
        assert [span.name for span in spans[:3]] == ["GET shop.example"] * 2 + ["WebSocket shop.example"]
        assert spans[3].name.endswith("/Unary")
        for span in spans:
            assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, kind)
            assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 30e9
        assert [span.status.code == ERROR for span in spans] == [False, True, False, False]
        told = [attributes(span) for span in spans]
        seen[service] = [each["fasttunnel.request_id"] for each in told]
        assert (told[0]["url.path"], told[0]["http.request.method"]) == ("/one", "GET")
        assert told[0]["http.response.status_code"] == 200
        assert told[1]["http.response.status_code"] == 503
        assert told[2]["fasttunnel.close_code"] == 4001
        assert (told[3]["rpc.system"], told[3]["rpc.method"], told[3]["rpc.grpc.status_code"]) == ("grpc", "Unary", 0)
        assert {each["fasttunnel.client_id"] for each in told} == {"laptop"}
        assert "secret" not in str(spans)
    assert seen["fasttunnel-server"] == seen["fasttunnel-client"], "spans of one request are found by its id"
    assert len({span.span_id for export in collector.exports for span in all_spans(export)}) == 8


def all_spans(export: ExportTraceServiceRequest) -> list[Any]:
    return [span for each in export.resource_spans for scope in each.scope_spans for span in scope.spans]


async def test_a_collector_that_is_away_costs_spans_and_no_request(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    events = Recorder()
    server = await start_server(stack, events, otlp="http://127.0.0.1:1")
    await start_client(stack, server.tunnel, [await start_web(stack, web.get("/", echo))])
    async with aiohttp.ClientSession(server.public_url) as session:
        for _ in range(2):
            async with session.get("/", headers=traceparent()) as answer:
                assert answer.status == 200
            await eventually(lambda: any("spans to http://127.0.0.1:1: " in text for text in events.warnings))
    assert all("Traceback" not in text for text in events.warnings)


@pytest.mark.cython_only("no engine")
@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", "http://a:99999"])
def test_what_is_no_collector(url: str) -> None:
    with pytest.raises(ConfigError, match="it is no URL of a collector"):
        ServerConfig(otlp=url)


@pytest.mark.cython_only("no engine")
def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttunnel.control.config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fasttunnel\[otel\]'"):
        ServerConfig(otlp="http://127.0.0.1:4318")
