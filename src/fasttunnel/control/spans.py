"""Spans of finished requests for OpenTelemetry, sent by OTLP over HTTP (extra `otel`).

A request is told of if its visitor's traceparent says that the trace is recorded: whoever began the trace has decided.
The SDK gathers spans and sends them in a thread of its own; what it cannot send is lost, and requests go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from fasttunnel.control.counts import answer_to, grpc_status_of
from fasttunnel.control.log import RequestRecord, Sparing, one_line
from fasttunnel.control.terms import reset_code
from fasttunnel.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

PATH: Final = "/v1/traces"
LAST_SPANS_S: Final = 2.0
# Of the statuses of gRPC those that are errors of who answers (semantic conventions of RPC).
_SERVER_ERRORS: Final = frozenset((2, 4, 12, 13, 14, 15))


def endpoint(url: str) -> str:
    """Where spans are posted to."""
    return url if urlsplit(url).path not in ("", "/") else url.rstrip("/") + PATH


class Spans:
    """`end` is whose spans these are."""

    def __init__(self, url: str, end: Literal["server", "client"], warn: Callable[[str], None]) -> None:
        self._server = end == "server"
        self._url = url
        self._warn = warn
        self._sparing = Sparing()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._provider = _provider(endpoint(url), end)
        self._tracer = self._provider.get_tracer("fasttunnel", __version__)
        self._complaints = _Complaints(self._complain)
        logging.getLogger("opentelemetry").addHandler(self._complaints)

    def __call__(self, record: RequestRecord, ended_s: float | None = None) -> None:
        """A request has ended, now or at `ended_s` (time.time())."""
        if not record.parent_id:
            return
        from opentelemetry import trace

        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        asked = trace.SpanContext(
            int(record.trace_id, 16), int(record.parent_id, 16), is_remote=True, trace_flags=flags
        )
        ended_ns = int((time.time() if ended_s is None else ended_s) * 1e9)
        span = self._tracer.start_span(
            _name(record),
            trace.set_span_in_context(trace.NonRecordingSpan(asked)),
            trace.SpanKind.SERVER if self._server else trace.SpanKind.CLIENT,
            _attributes(record, "client.address" if self._server else "fasttunnel.backend"),
            start_time=ended_ns - int(record.duration_s * 1e9),
        )
        if reason := _error(record, self._server):
            span.set_status(trace.StatusCode.ERROR, reason)
        span.end(ended_ns)

    def close(self) -> None:
        """Send what there is, for LAST_SPANS_S at the most."""
        last = threading.Thread(target=self._provider.shutdown, name="fasttunnel spans", daemon=True)
        last.start()
        last.join(LAST_SPANS_S)
        logging.getLogger("opentelemetry").removeHandler(self._complaints)

    def _complain(self, text: str) -> None:
        """From the thread of the SDK."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, text)

    def _tell(self, text: str) -> None:
        if self._sparing.permits(text):
            self._warn(f"spans to {self._url}: {one_line(text)}; those are lost, requests go on")


class _Complaints(logging.Handler):
    """What the SDK logs about itself."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


def _provider(url: str, end: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    name = os.environ.get("OTEL_SERVICE_NAME") or f"fasttunnel-{end}"
    resource = Resource.create({"service.name": name, "service.version": __version__})
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url)))
    return provider


def _name(record: RequestRecord) -> str:
    """Few different ones: paths are not in it."""
    if record.protocol == "grpc":
        return record.path.lstrip("/")
    method = "WebSocket" if record.protocol == "websocket" else record.method
    return f"{method} {record.route}".rstrip()


def _attributes(record: RequestRecord, peer: str) -> dict[str, AttributeValue]:
    """After the semantic conventions of OpenTelemetry where they have a name."""
    found: dict[str, Any] = {
        "server.address": record.host,
        "fasttunnel.request_id": record.request_id,
        "fasttunnel.route": record.route,
        "fasttunnel.client_id": record.client_id,
        "fasttunnel.messages_in": record.messages_in,
        "fasttunnel.messages_out": record.messages_out,
        "fasttunnel.bytes_in": record.bytes_in,
        "fasttunnel.bytes_out": record.bytes_out,
        peer: record.peer,
    }
    if record.reset:
        found["fasttunnel.reset"] = reset_code(record.reset)
    if record.protocol == "grpc":
        service = record.path.rpartition("/")[0].lstrip("/")
        found |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": record.method}
        found["rpc.grpc.status_code"] = _grpc_status(record)
        return found
    found |= {"http.request.method": record.method or "GET", "url.path": record.path}
    if record.protocol == "websocket":
        found["fasttunnel.close_code"] = record.status
    else:
        found["http.response.status_code"] = _http_status(record)
    return found


def _grpc_status(record: RequestRecord) -> int:
    return record.status or (grpc_status_of(record.reset) if record.reset else 0)


def _http_status(record: RequestRecord) -> int:
    return record.status or (answer_to(record.reset) if record.reset else 0)


def _error(record: RequestRecord, server: bool) -> str:
    """Why the span is one of an error; empty: it is none. Mistakes of who asks are errors to them alone."""
    if record.reset:
        return reset_code(record.reset)
    if record.protocol == "grpc":
        status = _grpc_status(record)
        return f"gRPC status {status}" if (status in _SERVER_ERRORS if server else status) else ""
    if record.protocol == "http" and record.status >= (500 if server else 400):
        return f"HTTP status {record.status}"
    return ""
