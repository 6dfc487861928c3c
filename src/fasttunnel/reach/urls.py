"""Whether a public URL leads to this client: one request through it, which has to come back."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from fasttunnel.control.config import ClientConfig, RouteSpec
from fasttunnel.control.routes import format_address
from fasttunnel.control.tls import H2, HTTP11, client_context
from fasttunnel.errors import ConfigError, describe
from fasttunnel.reach import http2
from fasttunnel.reach.marker import Marker

PATIENCE_S = 5.0
_ATTEMPTS = 4  # where clients share the route, the request may come to another one
_ANSWER_BYTES = 65_536

# Serves a route that is not registered, until what it returns is called.
AddRoute = Callable[[RouteSpec], Callable[[], None]]


async def problem_of(url: str, spec: RouteSpec, add_route: AddRoute, config: ClientConfig) -> str | None:
    """Why the public does not reach the route at this URL, as far as can be seen from here; None: it does."""
    text = ""
    async with Marker(spec) as marker:
        remove = add_route(marker.spec())
        try:
            for _ in range(_ATTEMPTS):
                async with asyncio.timeout(PATIENCE_S):
                    text = await _ask(url, marker, config)
                if not text:
                    return None
        except TimeoutError:
            return "it does not answer"
        except ConfigError as error:
            return str(error)
        except OSError as error:
            return describe(error)
        except (EOFError, ValueError, LookupError, asyncio.LimitOverrunError):
            return "what answers there is no server of this kind"
        finally:
            remove()
    return text


async def _ask(url: str, marker: Marker, config: ClientConfig) -> str:
    """What is wrong with the answer; empty: nothing."""
    parts = urlsplit(url)
    secure, grpc = parts.scheme in ("https", "grpcs"), parts.scheme.startswith("grpc")
    host = (parts.hostname or "").replace("*", f"reach-{secrets.token_hex(4)}")  # any name below it will do
    port = parts.port or (443 if secure else 80)
    authority = parts.netloc.replace("*", host.partition(".")[0])
    context = _context(H2 if grpc else HTTP11, config) if secure else None
    # RFC 6761 6.3: names below localhost are this machine, as browsers have it and not every resolver.
    dialled = "localhost" if host.endswith(".localhost") else host
    reader, writer = await asyncio.open_connection(
        dialled, port, ssl=context, server_hostname=host if secure else None, limit=_ANSWER_BYTES
    )
    try:
        if grpc:
            over = await http2.call(reader, writer, authority, marker.path, secure)
            return "" if over and marker.answered else f"{format_address(host, port)} answers, but not by this tunnel"
        writer.write(f"GET {marker.path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(_ANSWER_BYTES)
        if body == marker.reply.encode() and marker.answered:
            return ""
        status = int(head.split(b" ", 2)[1])
        return f"{format_address(host, port)} answers {status}, but not by this tunnel"
    finally:
        writer.transport.abort()


def _context(protocol: str, config: ClientConfig) -> ssl.SSLContext:
    """Of a visitor who also trusts whom the tunnel trusts."""
    context = client_context([protocol])
    if config.ca:
        context.load_verify_locations(config.ca)
    return context
