"""Throw-away certificates, in the eyes of OpenSSL: what it accepts them for, and which pins it sees."""

import base64
import contextlib
import ipaddress
import os
import re
import shutil
import ssl
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fasttunnel.control import certificates
from fasttunnel.control.certificates import make, pin_of, usual_names
from fasttunnel.control.tls import read_pin
from fasttunnel.errors import ConfigError


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    """A run that has to succeed; without the program the test is skipped."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def verify(directory: Path, name: str, *options: str) -> None:
    openssl("verify", "-x509_strict", "-CAfile", directory / "ca.pem", *options, directory / f"{name}.pem")


def refused(directory: Path, name: str, *options: str) -> None:
    with pytest.raises(AssertionError, match="verification failed"):
        verify(directory, name, *options)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Whatever a program does not keep to itself, others may read."""
    before = os.umask(0)
    yield
    os.umask(before)


# -- what is made -----------------------------------------------------------------------------------------------------


def test_openssl_accepts_them_for_what_they_are_for(tmp_path: Path) -> None:
    make(tmp_path, ["Example.com", "*.example.com", "127.0.0.1", "[::1]", "bücher.example"], ["alice"])
    verify(tmp_path, "server", "-purpose", "sslserver")
    for name in ("example.com", "www.example.com", "xn--bcher-kva.example"):
        verify(tmp_path, "server", "-verify_hostname", name)
    for address in ("127.0.0.1", "::1"):
        verify(tmp_path, "server", "-verify_ip", address)
    verify(tmp_path, "alice", "-purpose", "sslclient")
    assert read(tmp_path / "alice.pem").subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "alice"

    refused(tmp_path, "server", "-purpose", "sslclient")
    refused(tmp_path, "alice", "-purpose", "sslserver")
    refused(tmp_path, "server", "-verify_hostname", "a.b.example.com")
    refused(tmp_path, "server", "-verify_hostname", "other.example")
    refused(tmp_path, "server", "-verify_ip", "127.0.0.2")


def test_python_loads_each_with_its_key(tmp_path: Path) -> None:
    made = make(tmp_path, clients=["alice"])
    assert made.server is not None
    for pair in (made.authority, made.server, *made.clients):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)


def test_names_without_any_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box.example")
    assert make(tmp_path).names == ("localhost", "127.0.0.1", "::1", "box.example")
    names = read(tmp_path / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "box.example"]
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses


@pytest.mark.parametrize("name", ["localhost", "not a name", "", "box:1"])
def test_a_machine_whose_name_adds_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    assert usual_names() == ("localhost", "127.0.0.1", "::1")


def test_extensions(tmp_path: Path) -> None:
    make(tmp_path, ["example.com"])
    ca, server = (read(tmp_path / f"{name}.pem").extensions for name in ("ca", "server"))
    constraints = [one.get_extension_for_class(x509.BasicConstraints) for one in (ca, server)]
    assert [(one.critical, one.value.ca, one.value.path_length) for one in constraints] == [
        (True, True, 0),
        (True, False, None),
    ]
    usages = [one.get_extension_for_class(x509.KeyUsage) for one in (ca, server)]
    assert [(one.critical, one.value.key_cert_sign, one.value.digital_signature) for one in usages] == [
        (True, True, False),
        (True, False, True),
    ]
    issuer = server.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer == ca.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert server.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != issuer


def test_a_name_that_is_longer_than_a_common_name(tmp_path: Path) -> None:
    name = f"{'a' * 60}.{'b' * 60}.example.com"
    make(tmp_path, [name])
    verify(tmp_path, "server", "-verify_hostname", name)


def test_they_are_valid_for_a_while(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    made = make(tmp_path, days=3)
    server, authority = read(tmp_path / "server.pem"), read(tmp_path / "ca.pem")
    assert made.server is not None
    assert timedelta(minutes=30) < now - server.not_valid_before_utc < timedelta(hours=2), "clocks may differ"
    assert abs(server.not_valid_after_utc - now - timedelta(days=3)) < timedelta(minutes=5)
    assert made.server.until == server.not_valid_after_utc
    assert authority.not_valid_after_utc > server.not_valid_after_utc + timedelta(days=300)
    # What is signed later does not outlive the authority.
    make(tmp_path, ["example.com"], days=825, force=True)
    assert read(tmp_path / "server.pem").not_valid_after_utc == authority.not_valid_after_utc


def test_two_of_them_have_nothing_in_common(tmp_path: Path) -> None:
    make(tmp_path / "one"), make(tmp_path / "two")
    one, two = (read(tmp_path / name / "ca.pem") for name in ("one", "two"))
    assert one.serial_number != two.serial_number
    assert one.subject != two.subject
    assert one.public_key() != two.public_key()


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("force", [False, True])
def test_keys_are_for_their_owner_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    directory = tmp_path / "new" / "certs"
    if force:
        make(directory, clients=["alice"])
        for path in directory.iterdir():
            path.chmod(0o666)
    created: dict[str, int] = {}
    original = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = original(path, flags, mode)
        assert os.fstat(descriptor).st_size == 0
        created[Path(path).name] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    made = make(directory, ["localhost"], ["alice"], force=force)
    monkeypatch.undo()
    assert {mode for name, mode in created.items() if ".key" in name} == {0o600}
    assert made.server is not None
    pairs = [made.server, *made.clients, *([] if force else [made.authority])]
    assert len(created) == 2 * len(pairs)
    assert {stat.S_IMODE(pair.key.stat().st_mode) for pair in pairs} == {0o600}
    assert {stat.S_IMODE(pair.certificate.stat().st_mode) for pair in pairs} == {0o644}
    assert len(list(directory.iterdir())) == 6


def test_the_authority_signs_again(tmp_path: Path) -> None:
    assert make(tmp_path, ["example.com"], ["alice"]).is_new
    before = snapshot(tmp_path)
    made = make(tmp_path, clients=["bob", "carol", "bob"])
    assert (made.is_new, made.server, made.names, made.pin) == (False, None, (), "")
    assert [pair.certificate.name for pair in made.clients] == ["bob.pem", "carol.pem"]
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"bob.pem", "bob.key", "carol.pem", "carol.key"}
    for name in ("alice", "bob", "carol"):
        verify(tmp_path, name, "-purpose", "sslclient")


@pytest.mark.parametrize(
    ("names", "clients"), [([], []), (["example.com"], []), (["a.example"], ["bob"]), ([], ["alice"])]
)
def test_nothing_is_overwritten(tmp_path: Path, names: list[str], clients: list[str]) -> None:
    make(tmp_path, clients=["alice"])
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=r"(server|alice)\.key exists already \(--force overwrites it\)"):
        make(tmp_path, names, clients)
    assert snapshot(tmp_path) == before


def test_a_certificate_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_text("mine")
    with pytest.raises(ConfigError, match=r"server\.pem exists already"):
        make(tmp_path, clients=["alice"])
    assert snapshot(tmp_path) == {"server.pem": b"mine"}


@pytest.mark.parametrize("force", [False, True])
def test_links_are_not_followed(tmp_path: Path, force: bool) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "server.key").symlink_to(tmp_path / "elsewhere")
    if force:
        make(tmp_path / "certs", force=True)
        assert not (tmp_path / "certs" / "server.key").is_symlink()
    else:
        with pytest.raises(ConfigError, match="exists already"):
            make(tmp_path / "certs")
    assert not (tmp_path / "elsewhere").exists()


def test_force_leaves_the_authority(tmp_path: Path) -> None:
    make(tmp_path, clients=["alice"])
    before = snapshot(tmp_path)
    make(tmp_path, ["example.com"], ["alice"], force=True)
    after = snapshot(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] == before[name]} == {"ca.pem", "ca.key"}
    verify(tmp_path, "server", "-verify_hostname", "example.com")


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "server.pem").mkdir()
    with pytest.raises(ConfigError, match=r"cannot replace .*server\.pem: is a directory"):
        make(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["server.pem"]


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*",
        "*.localhost",
        "a.*.example.com",
        "https://example.com",
        "example.com:8443",
        "not a name",
        "a..b",
        "ä..b",
        "example.com\n",
        "1.2.3",
        "300.1.1.1",
        "fe80::1%eth0",
        "::1]",
        f"{'a' * 64}.example",
        ".".join(["a" * 60] * 5),
        "\udcff",
    ],
)
def test_names_that_cannot_be_in_a_certificate(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tmp_path / "certs", ["localhost", name])
    str(caught.value).encode()  # it can be shown
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize(
    "name", ["", "ca", "Server", "../alice", "a/b", ".hidden", "-x", "a b", "a\n", "a" * 65, "\udcff"]
)
def test_names_that_no_client_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        make(tmp_path / "certs", clients=[name])
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("days", [-1, 0, 826, 10**9])
def test_days(tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigError, match=r"between 1 and 825"):
        make(tmp_path, days=days)


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "certs", tmp_path / ("a" * 300)):
        with pytest.raises(ConfigError):
            make(directory)
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.geteuid():  # root writes everywhere
        with pytest.raises(ConfigError, match="permission denied"):
            make(tmp_path / "closed")


def _other_key(directory: Path) -> None:
    make(directory / "other")
    shutil.copy(directory / "other" / "ca.key", directory / "ca.key")


def _not_an_authority(directory: Path) -> None:
    for suffix in ("pem", "key"):
        shutil.copy(directory / f"server.{suffix}", directory / f"ca.{suffix}")


def _expired(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    then = datetime.now(UTC) - timedelta(days=400)
    signer = certificates._Signer(certificates._new_authority(then, 1).certificate, key)
    authority = certificates._builder(
        signer.certificate.subject, signer.certificate.subject, key.public_key(), then, then
    )
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pair = certificates.Pair(directory / "ca.pem", directory / "ca.key", then)
    for path, content, _ in certificates._files(pair, [authority.sign(key, hashes.SHA256())], key):
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda directory: (directory / "ca.key").unlink(), r"cannot read .*ca\.key"),
        (lambda directory: (directory / "ca.pem").unlink(), r"cannot read .*ca\.pem"),
        (lambda directory: (directory / "ca.key").write_text("no key"), r"cannot read the key in .*ca\.key"),
        (lambda directory: (directory / "ca.pem").write_text("none"), r"cannot read the certificate in .*ca\.pem"),
        (_other_key, "is not the key of"),
        (_not_an_authority, "is not an authority"),
        (_expired, r"was valid until \d{4}-\d\d-\d\d .*to begin with a new one"),
    ],
)
def test_an_authority_that_cannot_sign(tmp_path: Path, spoil: object, says: str) -> None:
    make(tmp_path)
    assert callable(spoil)
    spoil(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=says):
        make(tmp_path, clients=["alice"], force=True)
    assert snapshot(tmp_path) == before


def test_an_authority_that_openssl_made(tmp_path: Path) -> None:
    strict = ["-addext", "keyUsage=critical,keyCertSign"]  # which OpenSSL asks for when it is strict
    for kind in (["rsa:2048"], ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]):
        directory = tmp_path / kind[0][:2]
        directory.mkdir()
        files = ["-keyout", directory / "ca.key", "-out", directory / "ca.pem"]
        openssl("req", "-x509", "-newkey", *kind, "-nodes", "-days", "9", "-subj", "/CN=mine", *strict, *files)
        make(directory, ["localhost"], ["alice"])
        verify(directory, "server", "-verify_hostname", "localhost")
        verify(directory, "alice", "-purpose", "sslclient")


# -- pins -------------------------------------------------------------------------------------------------------------


def pin_by_openssl(public_key: bytes) -> str:
    der = openssl("pkey", "-pubin", "-outform", "der", stdin=public_key)
    return "sha256//" + base64.b64encode(openssl("dgst", "-sha256", "-binary", stdin=der)).decode()


def test_the_pin_is_that_of_openssl(tmp_path: Path) -> None:
    made = make(tmp_path)
    pin = pin_by_openssl(openssl("x509", "-in", tmp_path / "server.pem", "-pubkey", "-noout"))
    assert made.pin == pin_of(str(tmp_path / "server.pem")) == pin_of(str(tmp_path / "server.key")) == pin
    assert pin_of(str(tmp_path / "ca.pem")) != pin
    assert len(read_pin(pin)) == 32


@pytest.mark.parametrize(
    "kind",
    [
        ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ["genpkey", "-algorithm", "ED25519"],
        ["ecparam", "-genkey", "-name", "secp384r1"],
        ["ecparam", "-genkey", "-name", "prime256v1", "-noout"],
    ],
    ids=["rsa", "ed25519", "sec1 with parameters", "sec1"],
)
def test_pins_of_other_keys(tmp_path: Path, kind: list[str]) -> None:
    key, public, certificate = tmp_path / "key", tmp_path / "public", tmp_path / "certificate"
    key.write_bytes(openssl(*kind))
    public.write_bytes(openssl("pkey", "-in", key, "-pubout"))
    certificate.write_bytes(openssl("req", "-x509", "-key", key, "-subj", "/CN=x"))
    pin = pin_by_openssl(public.read_bytes())
    assert [pin_of(str(path)) for path in (key, public, certificate)] == [pin] * 3
    both = tmp_path / "both"
    both.write_bytes(b"a remark\n" + key.read_bytes() + certificate.read_bytes())
    assert pin_of(str(both)) == pin


@pytest.mark.parametrize("kind", ["compressed", "RSA-PSS"])
def test_a_certificate_has_the_right_pin_or_none(tmp_path: Path, kind: str) -> None:
    """Keys that can be written in several ways: what counts is the one in the certificate, which we may not know."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    if kind == "compressed":
        made = openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout")
        key.write_bytes(openssl("ec", "-conv_form", "compressed", stdin=made))
    else:
        key.write_bytes(openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"))
    certificate.write_bytes(openssl("req", "-x509", "-key", key, "-subj", "/CN=x"))
    with pytest.raises(ConfigError, match="a kind of key that is not known"):
        pin_of(str(certificate))


def test_a_key_with_a_passphrase_has_no_pin_for_us(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(openssl("genpkey", "-algorithm", "ED25519", "-aes128", "-pass", "pass:secret"))
    with pytest.raises(ConfigError, match="has a passphrase"):
        pin_of(str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "neither a certificate nor a key"),
        (b"\x30\x82\x01\x00", "neither a certificate nor a key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot read the certificate"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "cannot read the certificate"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot read the key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot read the key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "cannot read the key"),
        (b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n", "neither a certificate nor a key"),
    ],
)
def test_files_without_a_key(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(says)):
        pin_of(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="cannot read"):
            pin_of(str(path))


def damaged(path: Path) -> Iterator[None]:
    """A PEM file of one block with one byte changed, for each byte in turn."""
    good = path.read_bytes()
    first, *lines = good[: good.index(b"-----END")].splitlines(keepends=True)
    der = base64.b64decode(b"".join(lines))
    for at in range(len(der)):
        spoilt = base64.encodebytes(der[:at] + bytes([der[at] ^ 0xFF]) + der[at + 1 :])
        path.write_bytes(first + spoilt + first.replace(b"BEGIN", b"END"))
        yield
    path.write_bytes(good)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_damaged_files_are_mistakes_as_well(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    refused = 0
    for _ in damaged(tmp_path / name):
        with contextlib.suppress(ConfigError):
            read_pin(pin_of(str(tmp_path / name)))
        try:
            make(tmp_path, clients=["alice"], force=True)
        except ConfigError:
            refused += 1
    assert refused > 100
