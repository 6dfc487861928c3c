"""Throw-away certificates for trying out: an authority, and what it signs for a server and its clients."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fasttunnel.control.routes import check_host
from fasttunnel.control.tls import read_pem
from fasttunnel.errors import ConfigError, describe

# cryptography is imported where it is used: it takes its time, and most commands do without.
if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from cryptography.x509.oid import ObjectIdentifier

DEFAULT_DAYS = 30
MAX_DAYS = 825  # Apple's systems take no certificate of a server that is valid for longer
AUTHORITY_DAYS = 365  # at least, so that more can be signed later

_CLOCKS_DIFFER = timedelta(hours=1)  # from one machine to the next
_ORGANIZATION = "fasttunnel cert, for trying out"
_CLIENT = re.compile(r"\w[\w.@+-]{0,63}")  # a file's name, and a common name of 64 characters at most (RFC 5280 A.1)
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class Pair(NamedTuple):
    """The files of a certificate and its key, and the last moment at which it is valid."""

    certificate: Path
    key: Path
    until: datetime


class Made(NamedTuple):
    """What `make` has written."""

    authority: Pair
    is_new: bool  # the authority; otherwise it was there
    server: Pair | None  # None: it was there, and only clients were asked for
    names: tuple[str, ...]  # of the server
    pin: str  # of its key
    clients: tuple[Pair, ...]


class _Signer(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class _File(NamedTuple):
    path: Path
    content: bytes
    mode: int


def make(
    directory: Path,
    names: Sequence[str] = (),
    clients: Sequence[str] = (),
    days: int = DEFAULT_DAYS,
    *,
    force: bool = False,
) -> Made:
    """Write ca.pem, server.pem for `names`, and NAME.pem for each client, with their keys.

    An authority that is in the directory signs again. What else is there is overwritten with `force` only; a server's
    certificate of this authority is left as it is when there are clients and no names. Raises ConfigError.
    """
    server_names = tuple(dict.fromkeys(map(_check_name, names))) or usual_names()
    clients = tuple(dict.fromkeys(map(_check_client, clients)))
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"a certificate cannot be valid for {days} days", hint=f"between 1 and {MAX_DAYS}")
    now = datetime.now(UTC).replace(microsecond=0)

    authority = Pair(directory / "ca.pem", directory / "ca.key", now)
    is_new = not (os.path.lexists(authority.certificate) or os.path.lexists(authority.key))
    signer = _new_authority(now, days) if is_new else _read_authority(authority, now)
    authority = authority._replace(until=signer.certificate.not_valid_after_utc)
    until = min(now + timedelta(days=days), authority.until)
    files = _files(authority, [signer.certificate], signer.key) if is_new else []

    def issue(name: str, subject: str, server_names: Sequence[str] = ()) -> tuple[Pair, str]:
        certificate, key = _sign(signer, subject, server_names, now, until)
        pair = Pair(directory / f"{name}.pem", directory / f"{name}.key", until)
        files.extend(_files(pair, [certificate, signer.certificate], key))
        return pair, _pin(key.public_key())

    server, pin = None, ""
    if names or not clients or is_new or not os.path.lexists(directory / "server.pem"):
        server, pin = issue("server", server_names[0], server_names)
    else:
        server_names = ()
    pairs = tuple(issue(name, name)[0] for name in clients)
    _write(directory, files, force=force)
    return Made(authority, is_new, server, server_names, pin, pairs)


def usual_names() -> tuple[str, ...]:
    """Names of this machine, as it knows itself."""
    names = ["localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(ConfigError):  # a machine may be called anything
        names.append(_check_name(socket.gethostname()))
    return tuple(dict.fromkeys(names))


def pin_of(path: str) -> str:
    """`sha256//BASE64` of the key in a PEM file, see `tls.read_pin`; a certificate comes first. Raises ConfigError."""
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(read_pem(path))]
    for kind, read in (
        (b"CERTIFICATE", lambda pem, path: _certified_key(_load_certificate(pem, path), path)),
        (b"PUBLIC KEY", _load_public_key),
        (b"PRIVATE KEY", lambda pem, path: _load_key(pem, path).public_key()),
    ):
        for label, pem in blocks:
            if label.endswith(kind):
                return _pin(read(pem, path))
    raise ConfigError(f"{path} holds neither a certificate nor a key", hint="it is a file in PEM: -----BEGIN ...")


# -- names ------------------------------------------------------------------------------------------------------------


def _check_name(text: str) -> str:
    """The normal form of a server's name or address. Raises ConfigError."""
    address = _address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    if address is not None:
        return str(address)
    try:
        name = check_host(text)
    except ConfigError as error:
        raise ConfigError(
            f"{text!r} cannot be in a certificate",
            hint="write the host alone, such as example.com, *.example.com, 127.0.0.1 or ::1",
        ) from error
    labels = name.split(".")
    if not name or len(name) > 253 or max(map(len, labels)) > 63 or labels[-1].isdigit():
        raise ConfigError(f"{text!r} is neither a name nor an address")
    if labels[0] == "*" and len(labels) < 3:
        raise ConfigError(f"OpenSSL and others accept no certificate for {text!r}", hint="it looks like *.example.com")
    return name


def _check_client(name: str) -> str:
    if not _CLIENT.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a client's name",
            hint="letters, digits and any of _ . @ + - after the first, 64 at most",
        )
    if name.casefold() in ("ca", "server"):
        raise ConfigError(f"a client cannot be called {name!r}", hint="the files of that name are for others")
    return name


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if "%" in name:  # the zone of an address means something on one machine only
        return None
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


# -- certificates -----------------------------------------------------------------------------------------------------


def _new_authority(now: datetime, days: int) -> _Signer:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = _new_key()
    # Two authorities of the same name confuse whoever has to choose between them.
    name = _name(f"fasttunnel cert CA {secrets.token_hex(4)}")
    builder = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=max(days, AUTHORITY_DAYS)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
    )
    return _Signer(builder.sign(key, hashes.SHA256()), key)


def _read_authority(pair: Pair, now: datetime) -> _Signer:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    certificate, key, _ = pair
    again = f"remove {certificate.name} and {key.name} there, or choose another directory, to begin with a new one"
    found = _load_certificate(read_pem(str(certificate)), str(certificate))
    private = _load_key(read_pem(str(key)), str(key))
    if _encoded(private.public_key()) != _encoded(_certified_key(found, str(certificate))):
        raise ConfigError(f"{key} is not the key of {certificate}", hint=again)
    try:
        # A name and extensions are parsed when they are asked for.
        is_authority = bool(found.subject) and found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, LookupError):
        is_authority = False
    if not is_authority or not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError(f"{certificate} is not an authority that can sign others", hint=again)
    if found.not_valid_after_utc <= now:
        raise ConfigError(f"{certificate} was valid until {found.not_valid_after_utc:%Y-%m-%d}", hint=again)
    return _Signer(found, private)


def _sign(
    signer: _Signer, subject: str, server_names: Sequence[str], now: datetime, until: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate with a new key, for a server if it has names and otherwise for a client."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = _new_key()
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    with contextlib.suppress(x509.ExtensionNotFound):  # the issuer may call its key by another name
        known = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)
    builder = (
        _builder(_name(subject), signer.certificate.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(issuer, critical=False)
    )
    if server_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_general_name, server_names)), critical=False)
    return builder.sign(signer.key, hashes.SHA256()), key


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    """What all certificates have."""
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    fields: list[tuple[ObjectIdentifier, str]] = [(NameOID.ORGANIZATION_NAME, _ORGANIZATION)]
    if len(common_name) <= 64:  # a longer name of a server stands among its alternative names, where clients look
        fields.append((NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in fields])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    address = _address(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,  # of RSA keys only
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


# -- files ------------------------------------------------------------------------------------------------------------


def _files(
    pair: Pair, chain: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> list[_File]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    # The key comes first: whoever sees a new certificate finds its key.
    return [
        _File(pair.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600),
        _File(pair.certificate, b"".join(one.public_bytes(Encoding.PEM) for one in chain), 0o644),
    ]


def _write(directory: Path, files: Sequence[_File], *, force: bool) -> None:
    """All of them or, as far as that can be, none."""
    existing = [file.path for file in files if os.path.lexists(file.path)]
    if existing and not force:
        raise ConfigError(f"{existing[0]} exists already", hint="--force overwrites it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {directory}", detail=describe(error)) from None
    with contextlib.ExitStack() as undo:
        replacements = []
        for path, content, mode in files:
            # Others may be reading what is replaced, such as a server that looks for new certificates.
            place = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if path in existing else path
            try:
                # A file is never readable by more than its mode allows, and neither a file nor a link is written to.
                with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    undo.callback(functools.partial(place.unlink, missing_ok=True))
                    file.write(content)
            except OSError as error:
                raise ConfigError(f"cannot write {path}", detail=describe(error)) from None
            if place != path:
                replacements.append((place, path))
        for place, path in replacements:
            try:
                place.replace(path)
            except OSError as error:
                raise ConfigError(f"cannot replace {path}", detail=describe(error)) from None
        undo.pop_all()


# -- keys -------------------------------------------------------------------------------------------------------------


def _load_certificate(pem: bytes, path: str) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"cannot read the certificate in {path}", hint="it is a file in PEM") from None


def _certified_key(certificate: x509.Certificate, path: str) -> PublicKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"the certificate in {path} is for a kind of key that is not known") from None
    # Some keys can be written in several ways (RSA-PSS, points of a curve), which have different pins.
    if _encoded(key) not in certificate.tbs_certificate_bytes:
        raise ConfigError(f"the certificate in {path} is for a kind of key that is not known")
    return key


def _load_public_key(pem: bytes, path: str) -> PublicKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"cannot read the key in {path}") from None


def _load_key(pem: bytes, path: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigError(
            f"the key in {path} has a passphrase", hint="name the certificate or the public key"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"cannot read the key in {path}", hint="it is a file in PEM") from None


def _pin(key: PublicKeyTypes) -> str:
    return "sha256//" + base64.b64encode(hashlib.sha256(_encoded(key)).digest()).decode()


def _encoded(key: PublicKeyTypes) -> bytes:
    """Its SubjectPublicKeyInfo (RFC 5280 4.1.2.7)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
