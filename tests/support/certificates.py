"""An authority and certificates of tests, made once in a run."""

import atexit
import datetime
import functools
import ipaddress
import os
import shutil
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = ("localhost", "127.0.0.1", "::1")


class Authority:
    """`ca` is the path of its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.ca = self._write(f"{name}.pem", certificate.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *names: str, common_name: bool = True) -> "Issued":
        """A certificate with this common name, for the host names and addresses `names`."""
        key = ec.generate_private_key(ec.SECP256R1())
        kind = NameOID.COMMON_NAME if common_name else NameOID.ORGANIZATION_NAME
        subject = x509.Name([x509.NameAttribute(kind, name)])
        builder = _builder(subject, self._name, key)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(text) for text in names]), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._folder / f"{name}-{certificate.serial_number:x}.key"
        path.write_bytes(private)
        path.chmod(0o600)
        return Issued(self._write(f"{path.stem}.pem", certificate), str(path), certificate)

    def context(self) -> ssl.SSLContext:
        """Of a visitor that trusts it."""
        return ssl.create_default_context(cafile=self.ca)

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self._folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


class Issued:
    """Paths of a certificate and its key."""

    def __init__(self, cert: str, key: str, certificate: x509.Certificate) -> None:
        self.cert = cert
        self.key = key
        self.serial = certificate.serial_number
        digest = hashes.Hash(hashes.SHA256())
        public = certificate.public_key()
        digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
        self.digest = digest.finalize()


@functools.cache
def authority(name: str = "authority") -> Authority:
    return Authority(Path(_folder()), name)


@functools.cache
def here() -> Issued:
    """For this machine, as it is reached over loopback."""
    return authority().issue("here", *HERE)


@functools.cache
def _folder() -> str:
    """Until this process ends; a fork of it that ends first leaves it."""
    path, owner = tempfile.mkdtemp(prefix="fasttunnel-tests-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == owner else None)
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - datetime.timedelta(hours=1),
        now + datetime.timedelta(days=2),
    )


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
