"""The server's end: its files, its ports, and what answers there."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fasttunnel.control.config import ServerConfig, is_loopback, parse_address
from fasttunnel.control.files import check_files
from fasttunnel.control.tls import PUBLIC_PROTOCOLS, TUNNEL_PROTOCOLS, client_context, covers_domain
from fasttunnel.control.tokens import read_tokens
from fasttunnel.doctor import certificates, peer
from fasttunnel.doctor.findings import Findings
from fasttunnel.errors import describe

SOON_S = 14 * 86400


async def check_server(findings: Findings, settings: ServerConfig) -> None:
    with findings.about("files"):
        check_files(settings)
        findings.ok("files", "all that the configuration names can be read")
    for text in settings.warnings():
        findings.note("secrets", text)
    for one in settings.certificates:
        with findings.about("certificate"):
            shown = certificates.from_file(one.chain)
            certificates.check_dates(
                findings, "certificate", one.chain, shown, "renew it; the server reads it again by itself"
            )
            if not certificates.names_of(shown):
                findings.problem("certificate", f"{one.chain} names no host", "have one made with the server's names")
    if settings.domain:
        with findings.about("domain"):
            await _check_domain(findings, settings)
    if settings.tokens_file:
        with findings.about("tokens"):
            _check_tokens(findings, settings.tokens_file)
    for kind, address in (("tunnel", settings.tunnel), ("public", settings.listen)):
        with findings.about(f"{kind} port"):
            await _check_port(findings, kind, address, settings)


async def _check_domain(findings: Findings, settings: ServerConfig) -> None:
    """Whether visitors of NAME.DOMAIN are led anywhere, and find a certificate for it."""
    wanted = f"*.{settings.domain}"
    if settings.secures("public") and not covers_domain(settings.certificates, settings.domain):
        findings.problem(
            "domain", f"no certificate is for {wanted}", "have one made that is (ACME: by the DNS challenge)"
        )
    if f".{settings.domain}".endswith(".localhost"):
        return findings.ok("domain", f"{wanted} is this machine to browsers, whatever the DNS says (RFC 6761 6.3)")
    name = f"{secrets.token_hex(4)}.{settings.domain}"  # that nobody has an entry for
    try:
        found = await asyncio.to_thread(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = f"add an entry {wanted} to the DNS of {settings.domain} that leads to this server"
        return findings.problem("domain", f"{name} is not found: {describe(error)}", advice)
    findings.ok("domain", f"{wanted} leads to {', '.join(dict.fromkeys(str(each[4][0]) for each in found))}")


def _check_tokens(findings: Findings, path: str) -> None:
    tokens = read_tokens(Path(path)).values()
    now = time.time()
    for token in tokens:
        left_s = None if token.expires_s is None else token.expires_s - now
        if left_s is not None and left_s <= 0:
            findings.note("tokens", f"a token of {token.name} has expired", "take it out of the file")
        elif left_s is not None and left_s < SOON_S:
            advice = f"fasttunnel token {token.name} --append {path} makes the next one; both are valid side by side"
            findings.note("tokens", f"a token of {token.name} expires in {left_s / 86400:.1f} days", advice)
    if tokens:
        findings.ok("tokens", f"{len(tokens)}, for {len({token.name for token in tokens})} names")
    else:
        findings.problem("tokens", f"{path} has none: no client gets in", f"fasttunnel token NAME --append {path}")


async def _check_port(findings: Findings, kind: str, address: str, settings: ServerConfig) -> None:
    subject = f"{kind} port"
    host, port = parse_address(address)
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return await _check_listener(findings, kind, address, settings)
        advice = {
            errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE: use the unit of systemd, or another port",
            errno.EADDRNOTAVAIL: "no interface of this machine has this address; 0.0.0.0 and [::] are for all of them",
        }.get(error.errno or 0, "")
        return findings.problem(subject, f"{address} cannot be listened on: {describe(error)}", advice)
    reach = "" if is_loopback(host) else "; whether others reach it depends on firewalls in between"
    findings.ok(subject, f"{address} is free, no server is running{reach}")


def _bind(host: str, port: int) -> None:
    """For a moment, and without listening: nobody can connect meanwhile. Raises OSError."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)


async def _check_listener(findings: Findings, kind: str, address: str, settings: ServerConfig) -> None:
    """The port is in use: by a server of this configuration?"""
    subject = f"{kind} port"
    host, port = parse_address(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    secure = settings.secures(kind)
    protocols = TUNNEL_PROTOCOLS if kind == "tunnel" else PUBLIC_PROTOCOLS
    context = client_context(protocols, verify=False) if secure else None
    other = f"another program has it? (ss -ltnp 'sport = :{port}')"
    try:
        async with peer.connected(host, port, context) as streams:
            served = certificates.from_der(streams.certificate or b"") if secure else None
            refusal = None if kind == "tunnel" and settings.client_ca else await peer.greet(streams)
    except peer.Unreachable as error:
        return findings.problem(subject, f"{address} is in use, and does not answer as it should: {error}", other)
    if refusal is not None:
        return findings.problem(subject, f"{address} is in use, and begins no HTTP/2: {refusal}", other)
    findings.ok(subject, f"{address} answers in HTTP/2{' over TLS' * secure}, in {peer.milliseconds(streams.took_s)}")
    if served is not None:
        _check_served(findings, subject, served, settings)


def _check_served(findings: Findings, subject: str, served: x509.Certificate, settings: ServerConfig) -> None:
    """Whether a renewal has reached the process."""
    digests = [certificates.from_file(one.chain).fingerprint(hashes.SHA256()) for one in settings.certificates]
    if served.fingerprint(hashes.SHA256()) in digests:
        return findings.ok(subject, "it shows the certificate of the file")
    advice = "if the file was renewed: SIGHUP (systemctl reload), then look for a warning in the server's log"
    findings.problem(subject, "it shows another certificate than the file has", advice)
