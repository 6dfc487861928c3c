"""The client's end: the way to the server, what the server says to us, and the backends."""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fasttunnel.api import Client
from fasttunnel.control.config import Backend, ClientConfig, RouteSpec, parse_address
from fasttunnel.control.files import check_files
from fasttunnel.control.log import Events
from fasttunnel.control.routes import Route
from fasttunnel.control.tls import H2, HTTP11, TUNNEL_PROTOCOLS, advise, client_context
from fasttunnel.doctor import certificates, peer
from fasttunnel.doctor.findings import Findings
from fasttunnel.doctor.machine import check_proxies
from fasttunnel.errors import AuthError, ConnectError, RegisterError
from fasttunnel.version import __version__

CLOCKS_DIFFER_S = 30.0
REGISTER_S = 15.0  # longer than either engine waits for an answer
ELSEWHERE = "is it the server's --tunnel port, and does every proxy in between pass HTTP/2 and gRPC on?"
NO_WAY = "is the server running, is it this host and port, does a firewall let them through?"


async def check_client(findings: Findings, settings: ClientConfig, engine: str | None) -> None:
    with findings.about("files"):
        check_files(settings)
        findings.ok("files", "all that the configuration names can be read")
    for text in settings.warnings():
        findings.note("secrets", text)
    check_proxies(findings, os.environ)
    if settings.certificate is not None:
        with findings.about("certificate"):
            shown = certificates.from_file(settings.certificate.chain)
            certificates.check_dates(findings, "certificate", "ours", shown, "have it renewed")
    reached = False
    with findings.about("server"):
        reached = await _check_way(findings, settings)
    if reached:
        with findings.about("tunnel"):
            await _check_tunnel(findings, settings, engine)
    for backend in dict.fromkeys(spec.backend for spec in settings.routes):
        with findings.about("backend"):
            await _check_backend(findings, backend, settings)


# -- the way to the server --------------------------------------------------------------------------------------------


async def _check_way(findings: Findings, settings: ClientConfig) -> bool:
    """Name, port, TLS, HTTP/2: whether a tunnel can be tried."""
    host, port = parse_address(settings.server)
    try:
        found = await peer.addresses(host, port)
    except peer.Unreachable as error:
        findings.problem("server", f"{host} is not found: {error}", "is the name right, and is there a DNS server?")
        return False
    try:
        async with peer.connected(host, port) as streams:
            findings.ok(
                "server", f"{settings.server} ({', '.join(found)}) answers in {peer.milliseconds(streams.took_s)}"
            )
            refusal = None if settings.secure else await peer.greet(streams)
    except peer.Unreachable as error:
        findings.problem("server", f"{settings.server} ({', '.join(found)}) cannot be reached: {error}", NO_WAY)
        return False
    if settings.secure:
        return await _check_tls(findings, settings, host, port)
    if refusal == peer.CLOSED and await peer.speaks_tls(host, port, client_context(TUNNEL_PROTOCOLS, verify=False)):
        refusal = peer.SPEAKS_TLS  # and says nothing to who does not
    return _greeted(findings, settings, refusal)


def _greeted(findings: Findings, settings: ClientConfig, refusal: str | None) -> bool:
    if refusal is None:
        findings.ok("http/2", "passes")
        return True
    advice = ELSEWHERE
    if refusal == peer.SPEAKS_TLS and not settings.secure:
        advice = "add --tls"
    elif settings.secure and settings.certificate is None and refusal == peer.CLOSED:
        advice = f"does it ask for a certificate (--cert and --key)? {ELSEWHERE}"
    findings.problem("http/2", f"{settings.server} begins no HTTP/2: {advise(refusal)}", advice)
    return False


async def _check_tls(findings: Findings, settings: ClientConfig, host: str, port: int) -> bool:
    name = settings.server_name or host
    unverified = client_context(TUNNEL_PROTOCOLS, certificate=settings.certificate, verify=False)
    try:
        async with peer.connected(host, port, unverified, name) as streams:
            shown = certificates.from_der(streams.certificate or b"")
            certificates.check_dates(
                findings, "tls", "the server's certificate", shown, "have it renewed at the server"
            )
            if settings.pins and certificates.pin(shown) not in settings.pinned:
                advice = "if the key was changed on purpose: fasttunnel cert --pin FILE at the server says the new pin"
                findings.problem("tls", "the server has another key than the pinned one", advice)
                return False
            if streams.protocol != H2:
                findings.problem("tls", f"{settings.server} does not choose h2 by ALPN", ELSEWHERE)
                return False
            refusal = await peer.greet(streams)
    except peer.Unreachable as error:
        text = f"{settings.server}: {error}"
        findings.problem("tls", text, "does that port speak TLS? Without --tls, --ca and --pin the client does not")
        return False
    if settings.ca or not settings.pins:
        if not await _check_trust(findings, settings, host, port, name):
            return False
    else:
        findings.ok("tls", "the server has the pinned key")
    return _greeted(findings, settings, refusal)


async def _check_trust(findings: Findings, settings: ClientConfig, host: str, port: int, name: str) -> bool:
    context = client_context(TUNNEL_PROTOCOLS, settings.ca, settings.certificate)
    try:
        async with peer.connected(host, port, context, name):
            findings.ok("tls", f"the server's certificate is trusted, and for {name}")
            return True
    except peer.Unreachable as error:
        findings.problem("tls", advise(str(error)), "")
        return False


# -- the tunnel -------------------------------------------------------------------------------------------------------


class _Ear(Events):
    """The first thing that becomes of a dial."""

    def __init__(self) -> None:
        super().__init__(lambda line: None)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def disconnected(self, server: str, reason: str, retry_in_s: float | None) -> None:
        if retry_in_s is not None and not self.lost.done():  # without a retry start() raises it
            self.lost.set_result(reason)


def out_of_the_way(specs: Sequence[RouteSpec], nonce: str) -> tuple[RouteSpec, ...]:
    """A route within each of these that nobody asks for: it needs the same permission, and takes no request."""
    found = []
    for spec in specs:
        inside = f"/{spec.route.grpc_service}" if spec.route.grpc_service else spec.route.path_prefix
        route = Route(
            host=spec.route.host,
            path_prefix=f"{inside}/fasttunnel-doctor-{nonce}",
            grpc_service=spec.route.grpc_service,
            protocols=spec.route.protocols,
        )
        found.append(RouteSpec(route, spec.backend))
    return tuple(dict.fromkeys(found))


async def _check_tunnel(findings: Findings, settings: ClientConfig, engine: str | None) -> None:
    """Register as a client of its own for a moment: under no name, for routes that nobody asks for."""
    trial = msgspec.structs.replace(
        settings,
        routes=out_of_the_way(settings.routes, secrets.token_hex(8)),
        client_id="",
        name="",
        any_name=False,
        admin="",
        access_log="",
        otlp="",
        connections=1,
        connect_timeout_s=min(settings.connect_timeout_s, peer.TIMEOUT_S),
    )
    ear = _Ear()
    client = Client.from_config(trial, events=ear, engine=engine)  # type: ignore[arg-type]
    starting = asyncio.create_task(client.start())
    try:
        endings: list[asyncio.Future[Any]] = [starting, ear.lost]
        await asyncio.wait(endings, timeout=REGISTER_S, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _told(findings, client.status())
        else:
            text = ear.lost.result() if ear.lost.done() else f"no answer within {REGISTER_S:g} s"
            findings.problem("tunnel", f"it does not come up: {text}", ELSEWHERE)
    except AuthError as error:
        advice = "is it the token of this client (--token-file, FASTTUNNEL_TOKEN), and is it in the server's file?"
        if "permit" in (error.detail or ""):
            advice = "have the server's file of --tokens permit the route, or serve another one"
        findings.problem("token", error.detail or error.message, advice)
    except RegisterError as error:
        findings.problem("tunnel", error.detail or error.message, "do both ends have the same version of fasttunnel?")
    except ConnectError as error:
        findings.problem("tunnel", error.detail or error.message, ELSEWHERE)
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await client.stop(0)


def _told(findings: Findings, status: Mapping[str, Any]) -> None:
    """What the server says of itself."""
    findings.ok("tunnel", "the server takes the token, and permits the routes")
    theirs = status.get("server_version")
    if theirs == __version__:
        findings.ok("versions", f"{__version__} at both ends")
    else:
        findings.note("versions", f"the server has {theirs or 'none that it tells'}, the client {__version__}")
    ahead_s = status.get("clock_ahead_s")
    if ahead_s is None:
        findings.note("clocks", "the server does not tell its time")
    elif abs(ahead_s) < CLOCKS_DIFFER_S:
        findings.ok("clocks", f"both say the same, to {max(abs(ahead_s), 0.1):.1f} s")
    else:
        text = f"the server's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the one here"
        findings.problem("clocks", f"{text}: certificates and tokens expire early or late", "have NTP keep both clocks")


# -- backends ---------------------------------------------------------------------------------------------------------


async def _check_backend(findings: Findings, backend: Backend, settings: ClientConfig) -> None:
    context: ssl.SSLContext | None = None
    if backend.secure:
        protocols = [H2 if backend.grpc else HTTP11]
        context = client_context(protocols, settings.backend_ca, verify=settings.backend_verify)
    try:
        async with peer.connected(backend.host, backend.port, context) as streams:
            refusal = await peer.greet(streams) if backend.grpc else None
    except peer.Unreachable as error:
        findings.problem("backend", f"{backend}: {error}", _of_backend(str(error)))
        return
    if refusal is not None:
        kind = "https" if backend.secure else "http"
        findings.problem("backend", f"{backend} begins no HTTP/2: {refusal}", f"is it {kind}://, or grpcs://?")
    else:
        findings.ok("backend", f"{backend} answers in {peer.milliseconds(streams.took_s)}")


def _of_backend(reason: str) -> str:
    if "certificate" in reason:
        return "name its authority with backend_ca; backend_verify = false takes any certificate"
    if "TLS" in reason:
        return "does it speak TLS? Without it it is http:// or grpc://"
    return "start it, or name the address that it listens on; in a container 127.0.0.1 is the container itself"
