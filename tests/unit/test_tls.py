"""What is configured of TLS, and files that change. The connections are tested in tests/e2e/test_tls.py."""

import asyncio
import base64
import datetime
import io
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID
from rich.console import Console

from fasttunnel.cli.server_screen import ServerScreen
from fasttunnel.control import tls
from fasttunnel.control.sources import client_config, from_file, server_config
from fasttunnel.control.tls import (
    Certificate,
    ServerContext,
    _covers,
    advise,
    check,
    check_pem,
    client_context,
    dialled_name,
    pair,
    read_pin,
)
from fasttunnel.control.watch import FileWatch
from fasttunnel.errors import ConfigError, describe
from tests.support.certificates import authority, here

ROUTES = ["http://127.0.0.1:1"]


def test_pairs() -> None:
    assert pair(["a", "b"], ["k", "l"]) == (Certificate("a", "k"), Certificate("b", "l"))
    assert pair(["a"], []) == (Certificate("a", "a"),), "both in one file"
    for keys in (["k"], ["k", "l", "m"]):
        with pytest.raises(ConfigError, match="do not go together"):
            pair(["a", "b"], keys)


def test_pins() -> None:
    digest = bytes(range(32))
    assert read_pin("sha256//" + base64.b64encode(digest).decode()) == digest
    for wrong in (
        "",
        "sha256//",
        "sha256//AAAA",
        "sha1//" + "A" * 43 + "=",
        "sha256/" + "A" * 43 + "=",
        "sha256//" + "?" * 44,
    ):
        with pytest.raises(ConfigError, match="pin"):
            read_pin(wrong)


@pytest.mark.parametrize(
    ("names", "name", "covered"),
    [
        (["a.example"], "a.example", True),
        (["a.example"], "b.example", False),
        (["*.example"], "a.example", True),
        (["*.example"], "example", False),
        (["*.example"], "b.a.example", False),
        (["*.example"], ".example", False),
        (["*"], "a", False),
        ([], "a", False),
    ],
)
def test_names_of_certificates(names: list[str], name: str, covered: bool) -> None:
    """RFC 9525 6.3."""
    assert bool(_covers(names, name)) == covered


@pytest.mark.parametrize("ports", ["public", ["tunnel"], ["public", "tunnel"]])
def test_tls_needs_a_certificate(ports: object) -> None:
    with pytest.raises(ConfigError, match="--cert"):
        server_config({"tls": ports})
    assert not server_config({"tls": []}).secures("public")


def test_options_of_the_server() -> None:
    config = server_config({"cert": "c.pem", "key": "k.pem"})
    assert config.certificates == (Certificate("c.pem", "k.pem"),)
    assert config.secures("public")
    assert config.secures("tunnel")
    config = server_config({"cert": ["c.pem"], "tls": "public"})
    assert config.secures("public")
    assert not config.secures("tunnel")
    assert not server_config({}).secures("public")
    with pytest.raises(ConfigError, match="client-ca"):
        server_config({"client_ca": "ca.pem"})
    with pytest.raises(ConfigError, match="client-ca"):
        server_config({"cert": "c.pem", "tls": ["public"], "client_ca": "ca.pem"})
    open_to_all = {"listen": "0.0.0.0:1", "tunnel": "0.0.0.0:2", "cert": "c.pem"}
    assert server_config({**open_to_all, "client_ca": "ca.pem"}).token is None, "certificates do"
    with pytest.raises(ConfigError, match="token"):
        server_config(open_to_all)


def test_options_of_the_client() -> None:
    def secure(**options: object) -> bool:
        return client_config({"server": "a:1", "routes": ROUTES, **options}).secure

    assert not secure()
    pin = "sha256//" + "A" * 43 + "="
    for options in ({"tls": True}, {"ca": "f"}, {"pins": [pin]}, {"pins": pin}, {"server_name": "n"}, {"cert": "f"}):
        assert secure(**options), options
    for wrong in ({"pins": ["x"]}, {"key": "f"}, {"server_name": "ü..x"}, {"server_name": "x" * 64}):
        with pytest.raises(ConfigError):
            secure(**wrong)


def test_files_are_sought_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('cert = ["a.pem", "/b.pem"]\nkey = "k.pem"\nclient_ca = "ca.pem"\n')
    options = {name: given.value for name, given in from_file(tmp_path / "server.toml").items()}
    assert options["cert"] == [str(tmp_path / "a.pem"), "/b.pem"]
    assert options["key"] == str(tmp_path / "k.pem")
    assert options["client_ca"] == str(tmp_path / "ca.pem")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    good = Certificate(here().cert, here().key)
    for text in (None, "", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        if text is not None:
            wrong.write_text(text)
        for certificate in (Certificate(str(wrong), here().key), Certificate(here().cert, str(wrong))):
            with pytest.raises(ConfigError, match="wrong.pem"):
                check([certificate], "")
        with pytest.raises(ConfigError, match="wrong.pem"):
            check([good], str(wrong))
        with pytest.raises(ConfigError, match="wrong.pem"):
            client_context(["h2"], str(wrong))
    other = authority().issue("other", "other.example")
    with pytest.raises(ConfigError, match="mismatch"):
        check([Certificate(here().cert, other.key)], "")
    check([good], authority().ca)


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("missing", "good", "cannot read .*: No such file"),
        ("", "good", "holds no certificate"),
        ("good", "missing", "cannot read .*: No such file"),
        ("good", "", "holds no private key"),
        ("good", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "has a passphrase"),
        ("good", "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "has a passphrase"),
    ],
)
def test_mistakes_in_pem_files_are_told_apart(tmp_path: Path, cert: str, key: str, says: str) -> None:
    paths = []
    for name, text, good in (("cert.pem", cert, here().cert), ("key.pem", key, here().key)):
        path = tmp_path / name
        if text != "missing":
            path.write_text(text)
        paths.append(good if text == "good" else str(path))
    with pytest.raises(ConfigError, match=says):
        check_pem(Certificate(*paths))


def test_a_key_that_is_sought_beside_its_certificate() -> None:
    with pytest.raises(ConfigError, match="--key"):
        check_pem(Certificate(here().cert, here().cert))


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("TLS failed: tlsv13 alert certificate required", "--cert"),
        ("TLS failed: tlsv1 alert unknown ca", "--client-ca"),
        ("its certificate is not accepted: self-signed certificate in certificate chain", "--ca"),
        ("its certificate is not accepted: self signed certificate", "--ca"),
        ("its certificate is not accepted: Hostname mismatch, certificate is not valid for 'x'.", "--server-name"),
    ],
)
def test_advice(reason: str, hint: str) -> None:
    assert advise(reason).startswith(f"{reason} (")
    assert hint in advise(reason)


def test_no_advice() -> None:
    assert advise("connection refused") == "connection refused"


def test_a_context_chooses_by_name_and_keeps_what_it_had(tmp_path: Path) -> None:
    files = [Certificate(str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key")) for name in ("a", "b")]
    for one, name in zip(files, ("a.example", "*.b.example"), strict=True):
        issued = authority().issue(name[:1], name)
        Path(one.chain).write_bytes(Path(issued.cert).read_bytes())
        Path(one.key).write_bytes(Path(issued.key).read_bytes())
    context = ServerContext(files, ["h2"])

    class Connection:
        context: ssl.SSLContext

    def chosen(name: str | None) -> ssl.SSLContext:
        connection = Connection()
        context._choose(connection, name, context.context)  # type: ignore[arg-type]
        return connection.context

    first, second = (one for _, one in context._named)
    assert chosen("x.b.example") is chosen("X.B.example") is second
    assert chosen("a.example") is chosen("c.example") is chosen(None) is first
    Path(files[0].chain).write_text("")
    with pytest.raises(ConfigError):
        context.load()
    assert chosen("a.example") is first


def test_names_that_cannot_be_read_name_nobody(tmp_path: Path) -> None:
    """OpenSSL takes such a certificate, so we do."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x04\x82\x02\xff\xfe")
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    made = builder.add_extension(names, False).sign(key, hashes.SHA256())
    both = tmp_path / "both.pem"
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    both.write_bytes(made.public_bytes(pem) + plain)
    certificate = Certificate(str(both), str(both))
    assert dialled_name(certificate) is None
    ServerContext([certificate], ["h2"])


@pytest.mark.parametrize(
    ("names", "host"), [(("*.t.example", "t.example"), "t.example"), (("127.0.0.1",), "127.0.0.1"), ((), "127.0.0.1")]
)
def test_the_summary_says_how_a_client_dials(names: tuple[str, ...], host: str) -> None:
    issued = authority().issue("s", *names)
    console = Console(width=80, file=io.StringIO())
    config = server_config({"cert": issued.cert, "key": issued.key})
    ServerScreen(console).summary("https://127.0.0.1:8080", "127.0.0.1:7000", config)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert f"fasttunnel client --server {host}:7000 --tls http://127.0.0.1:3000" in shown
    assert "--ca" in shown
    gone = server_config({"cert": "/gone.pem"})  # or out of reach, for the user that the server has become
    ServerScreen(console).summary("https://127.0.0.1:8080", "127.0.0.1:7000", gone)


async def test_files_that_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttunnel.limits.RELOAD_INTERVAL_S", 0.001)
    path = tmp_path / "file"
    news: asyncio.Queue[str] = asyncio.Queue()

    def changed() -> None:
        text = path.read_text() if path.exists() else "gone"
        if text == "wrong":
            raise ConfigError("it is wrong")
        news.put_nowait(text)

    watch = FileWatch([str(path)], changed, news.put_nowait)
    watch.start()
    path.write_text("one")
    assert await news.get() == "one"
    path.write_text("wrong")
    assert await news.get() == "it is wrong; what was read before stays in use"
    (tmp_path / "new").write_text("two!!")
    (tmp_path / "new").rename(path)
    assert await news.get() == "two!!"
    path.unlink()
    assert await news.get() == "gone"
    watch.stop()
    watch.check()
    assert news.empty(), "nothing has changed"
    FileWatch([], changed, news.put_nowait).start()


def test_errors_of_tls_are_words() -> None:
    refused = ssl.SSLCertVerificationError(1, "x")
    refused.verify_message = "self-signed certificate"
    assert describe(refused) == "its certificate is not accepted: self-signed certificate"
    broken = ssl.SSLError(1, "y")
    broken.reason = "WRONG_VERSION_NUMBER"
    assert describe(broken) == "TLS failed: wrong version number"


def test_authorities_that_openssl_does_not_know_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ssl.get_default_verify_paths()._replace(cafile=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(tls, "AUTHORITIES", (str(tmp_path / "none.pem"), str(tmp_path / "some.pem")))
    with pytest.raises(ConfigError, match="this system has no authorities.*install ca-certificates"):
        tls.system_authorities()
    (tmp_path / "some.pem").touch()
    assert tls.system_authorities() == str(tmp_path / "some.pem")
