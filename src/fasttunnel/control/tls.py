"""TLS as it is configured: certificates, authorities, pins. The engines make their contexts from these."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Iterable, Sequence

import msgspec

from fasttunnel.errors import ConfigError

H2, HTTP11 = "h2", "http/1.1"  # protocols of ALPN (RFC 7301)
PUBLIC_PROTOCOLS = (H2, HTTP11)
TUNNEL_PROTOCOLS = (H2,)

# RFC 9325 4.2: forward secrecy and AEAD; those of TLS 1.3 are all like that.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# Where systems keep the authorities that they trust: an OpenSSL that came with a wheel, or with Python, knows nothing
# of the one that it runs on.
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS
)


class Certificate(msgspec.Struct, frozen=True):
    """PEM files: the certificate with those that signed it, and its key, which may be the same file."""

    chain: str
    key: str


def pair(chains: Sequence[str], keys: Sequence[str]) -> tuple[Certificate, ...]:
    """Certificates from the options `cert` and `key`. Raises ConfigError."""
    if keys and len(keys) != len(chains):
        raise ConfigError(
            f"{len(chains)} certificates and {len(keys)} keys do not go together",
            hint="give one --key for each --cert, in the same order, or none where each file holds both",
        )
    return tuple(Certificate(chain, key) for chain, key in zip(chains, keys or chains, strict=True))


def read_pin(text: str) -> bytes:
    """`sha256//BASE64` of a public key in DER (RFC 7469 2.4), as curl takes it. Raises ConfigError."""
    kind, slashes, encoded = text.partition("//")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        digest = b""
    if kind != "sha256" or not slashes or len(digest) != 32:
        raise ConfigError(
            f"{text!r} is not the pin of a key",
            hint="it looks like sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; see fasttunnel cert --pin FILE",
        )
    return digest


def read_pem(path: str) -> bytes:
    """Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"cannot read {path}", detail=error.strerror, file=path) from None


def check_pem(certificate: Certificate) -> None:
    """Mistakes that a TLS library has only its own words for, or a question at the terminal. Raises ConfigError."""
    if b"-----BEGIN CERTIFICATE-----" not in read_pem(certificate.chain):
        raise ConfigError(
            f"{certificate.chain} holds no certificate",
            hint="it is a PEM file: the certificate, then those that signed it",
        )
    key = read_pem(certificate.key)
    if b"PRIVATE KEY-----" not in key:
        same = certificate.key == certificate.chain
        raise ConfigError(
            f"{certificate.key} holds no private key",
            hint="name the file that does with --key" if same else "it is a PEM file with the key of the certificate",
        )
    if b"ENCRYPTED" in key:
        raise ConfigError(
            f"the key {certificate.key} has a passphrase", hint="store it without one, readable by you only"
        )


# What the other end, or OpenSSL, says of a handshake that failed, and what to do about it at the client.
_HINTS = {
    "certificate required": "the server asks for a certificate: --cert and --key",
    "alert unknown ca": "the server's --client-ca did not sign our certificate",
    "alert unsupported certificate": "our certificate is not one of a client",
    "alert certificate expired": "our certificate has expired",
    "self-signed certificate": "name its authority with --ca, or its key with --pin",
    "unable to get local issuer certificate": "name its authority with --ca, or its key with --pin",
    "hostname mismatch": "if it is the right server, say which name its certificate has with --server-name",
    "ip address mismatch": "if it is the right server, say which name its certificate has with --server-name",
}


def advise(reason: str) -> str:
    """What became of a client's tunnel, with what to do about it where that is known."""
    known = reason.replace("self signed", "self-signed").lower()
    hint = next((hint for text, hint in _HINTS.items() if text in known), None)
    return f"{reason} ({hint})" if hint else reason


# -- contexts of Python, for the asyncio engine -----------------------------------------------------------------------


class ServerContext:
    """Of a port: the certificate goes by the name that the client asks for. Raises ConfigError."""

    def __init__(self, certificates: Sequence[Certificate], protocols: Sequence[str]) -> None:
        self._certificates = certificates
        self._protocols = protocols
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # which each connection begins with
        _usual(self.context, protocols)
        _load(self.context, certificates[0])
        self.context.sni_callback = self._choose
        self.load()

    def load(self, certificates: Sequence[Certificate] | None = None) -> None:
        """New connections get what the files hold now, or these."""
        certificates = self._certificates if certificates is None else certificates
        contexts = [_server_context(one, self._protocols) for one in certificates]
        self._named = list(zip(map(_names, certificates), contexts, strict=True))
        self._certificates = certificates

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        fitting = (context for names, context in self._named if name is not None and _covers(names, name.lower()))
        connection.context = next(fitting, self._named[0][1])


def dialled_name(certificate: Certificate) -> str | None:
    """A name by which whoever dials finds this certificate right. Raises ConfigError."""
    return next((name for name in _names(certificate) if "*" not in name), None)


def covers_domain(certificates: Sequence[Certificate], domain: str) -> bool:
    """Whether one of them is for the names below a domain. Raises ConfigError."""
    return any(_covers(_names(certificate), f"any.{domain}") for certificate in certificates)


def check(certificates: Sequence[Certificate], client_ca: str) -> None:
    """Raises ConfigError for files that cannot be used."""
    for certificate in certificates:
        context = _server_context(certificate, TUNNEL_PROTOCOLS)
        if client_ca:
            _load_authorities(context, client_ca)


def client_context(
    protocols: Sequence[str], ca: str = "", certificate: Certificate | None = None, *, verify: bool = True
) -> ssl.SSLContext:
    """Towards a peer. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _usual(context, protocols)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        _load_authorities(context, ca)
    else:
        context.load_default_certs()
    if certificate is not None:
        _load(context, certificate)
    return context


def system_authorities() -> str:
    """The PEM file of those that the system trusts. Raises ConfigError."""
    paths = ssl.get_default_verify_paths()
    found = next((path for path in (paths.cafile, *AUTHORITIES) if path is not None and os.path.exists(path)), None)
    if found is None:
        raise ConfigError(
            f"this system has no authorities in {paths.openssl_cafile}",
            hint="install ca-certificates, or name a file with --ca",
        )
    return found


def _load_authorities(context: ssl.SSLContext, ca: str) -> None:
    read_pem(ca)
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use the authorities in {ca}", detail=_reason(error), hint="it is a PEM file of certificates"
        ) from None


def _server_context(certificate: Certificate, protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _usual(context, protocols)
    _load(context, certificate)
    return context


def _usual(context: ssl.SSLContext, protocols: Sequence[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(list(protocols))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    check_pem(certificate)
    try:
        context.load_cert_chain(certificate.chain, certificate.key, lambda: "")  # never ask at a terminal
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use the certificate {certificate.chain} with the key {certificate.key}",
            detail=_reason(error),
            hint="both are PEM files; the first holds the certificate, then those that signed it",
        ) from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)


def _names(certificate: Certificate) -> list[str]:
    """DNS names that a certificate is for, in lower case."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(read_pem(certificate.chain))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):  # OpenSSL takes some that are not well formed: they name nobody
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _covers(names: Iterable[str], name: str) -> bool:
    """RFC 9525 6.3: a wildcard is the whole leftmost label, and stands for exactly one."""
    label, _, parent = name.partition(".")
    return any(known == name or (label and known.startswith("*.") and known[2:] == parent) for known in names)
