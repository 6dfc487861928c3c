"""Certificates: until when they are valid, and for whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fasttunnel.control.tls import read_pem
from fasttunnel.doctor.findings import Findings
from fasttunnel.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509

SOON = timedelta(days=14)  # who renews by a program does so earlier


def from_file(path: str) -> x509.Certificate:
    """The first of a PEM file. Raises ConfigError."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(read_pem(path))
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate that can be read", detail=str(error)) from None


def from_der(data: bytes) -> x509.Certificate:
    """Raises ConfigError."""
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise ConfigError("the certificate cannot be read", detail=str(error)) from None


def check_dates(findings: Findings, subject: str, which: str, certificate: x509.Certificate, renewal: str) -> None:
    """`which` is how the certificate is called, `renewal` what to do when it has come to its end."""
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    names = f" for {', '.join(names_of(certificate))}" if names_of(certificate) else ""
    if now < begin:
        advice = "compare the clocks of the two machines (date -u); one that is kept by NTP is right"
        findings.problem(
            subject,
            f"{which} is valid from {begin:%Y-%m-%d %H:%M} UTC; the clock here says {now:%Y-%m-%d %H:%M}",
            advice,
        )
    elif now >= end:
        findings.problem(subject, f"{which} has expired on {end:%Y-%m-%d %H:%M} UTC", renewal)
    elif end - now < SOON and end - begin > 2 * SOON:
        findings.note(subject, f"{which} expires on {end:%Y-%m-%d %H:%M} UTC", renewal)
    else:
        findings.ok(subject, f"{which}{names} is valid until {end:%Y-%m-%d}")


def names_of(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def pin(certificate: x509.Certificate) -> bytes:
    """See `control.tls.read_pin`."""
    import hashlib

    from cryptography.hazmat.primitives import serialization

    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(key).digest()
