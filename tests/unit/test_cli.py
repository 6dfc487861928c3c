"""The command line: its forms, its help, and one clear line for every mistake. No engine is started here."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fasttunnel import __version__
from fasttunnel.cli import main
from fasttunnel.control.certificates import DEFAULT_DAYS
from fasttunnel.control.permission import Permission
from fasttunnel.control.tokens import digest_of, parse_tokens, read_tokens


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; a traceback is a failure of the test."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        result = CliRunner().invoke(
            main, list(arguments), prog_name="fasttunnel", env={"FASTTUNNEL_TOKEN": "", **environment}
        )
    finally:  # commands hold signals until their loop runs; programs of other tests would inherit that
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_version() -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert __version__ in out


@pytest.mark.parametrize(
    "command", ["server", "client", "http", "grpc", "login", "logout", "token", "cert", "demo", "tap"]
)
def test_help_teaches_by_example(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"fasttunnel {command}" in out.split("Usage:")[1].split("\n", 1)[1], "an example beside the usage line"


def test_help_of_the_program_shows_the_whole_way() -> None:
    _, out, _ = run("--help")
    for line in (
        "fasttunnel demo",
        "fasttunnel server",
        "fasttunnel client --server 127.0.0.1:7000 http://127.0.0.1:3000",
    ):
        assert line in out


FORMS = {
    "server": {
        "--listen": "HOST:PORT",
        "--tunnel": "HOST:PORT",
        "--domain": "NAME",
        "--public-url": "URL",
        "--cert": "F",
        "--key": "F",
        "--client-ca": "F",
        "--reuse-port": None,
        "--queue-timeout": "S",
        "--admin": "HOST:PORT",
        "--access-log": "F",
        "--log-format": None,
        "--log-level": None,
        "--user": "NAME",
        "--token-file": "F",
        "--no-token": None,
        "--tokens": "F",
        "--config": "F",
        "--set": "NAME=VALUE",
        "--engine": None,
        "--plain": None,
        "--trace-messages": None,
    },
    "client": {
        "--server": "HOST:PORT",
        "--tls": None,
        "--ca": "F",
        "--pin": "sha256//...",
        "--server-name": "NAME",
        "--cert": "F",
        "--key": "F",
        "--name": "NAME",
        "--connections": "N",
        "--admin": "HOST:PORT",
        "--access-log": "F",
        "--log-format": None,
        "--log-level": None,
        "--no-check": None,
        "--qr": None,
        "--open": None,
        "--plain": None,
        "--token-file": "F",
        "--config": "F",
        "--set": "NAME=VALUE",
        "--engine": None,
        "--trace-messages": None,
    },
    "cert": {"--name": "NAME", "--client": "NAME", "--days": "N", "--force": None, "--pin": "F"},
    "token": {
        "--host": "HOST",
        "--path": "PREFIX",
        "--service": "S",
        "--client-id": "ID",
        "--expires": "WHEN",
        "--requests-per-second": "N",
        "--bytes-per-second": "N",
        "--no-exclusive": None,
        "--shared": None,
        "--append": "F",
        "--hash": None,
    },
    "login": {
        **dict.fromkeys(("--ca", "--cert", "--key", "--token-file"), "F"),
        **{"--tls": None, "--pin": "sha256//...", "--server-name": "NAME", "--engine": None},
    },
    "logout": {},
    "demo": {"--keep": None, "--engine": None},
    "version": {"--json": None},
    "tap": {
        **{"--config": "F", "--protocol": None, "--route": "R", "--request": "ID", "--text": "S", "--payload": "[N]"},
        **{"--headers": None, "--query": None, "--json": None, "--limit": "N", "--for": "S"},
    },
    "doctor": {"--set": "NAME=VALUE", "--engine": None, "--json": None},
    "completion": {},
}


FORMS["http"] = FORMS["grpc"] = FORMS["client"]


@pytest.mark.parametrize("command", FORMS)
def test_forms(command: str) -> None:
    shown = [
        option
        for option in main.commands[command].params
        if isinstance(option, click.Option) and not option.hidden and option.name != "help"
    ]
    assert {option.opts[0]: option.metavar for option in shown} == FORMS[command]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["server", "--no-token", "--listen", "0.0.0.0:8080"],
            "--listen 0.0.0.0:8080 is open to the network, so a token is needed",
        ),
        (
            ["server", "--no-token", "--tunnel", "[::]:7000"],
            "--tunnel [::]:7000 is open to the network, so a token is needed",
        ),
        (["server", "--listen", "8080"], "write HOST:PORT"),
        (["server", "--config", "/does/not/exist"], "cannot read /does/not/exist"),
        (["server", "--token-file", "/does/not/exist"], "cannot read the token file"),
        (["server", "--set", "head_timeout_s"], "'head_timeout_s' is not NAME=VALUE"),
        (["server", "--set", "head_timeout_s=soon"], "--set head_timeout_s cannot be 'soon': it is a number above 0"),
        (["server", "--set", "no_such=1"], "there is no option 'no_such'"),
        (["server", "--set", "token=s3cret"], "use --token-file"),
        (["cert", "--name", "a b"], "'a b' cannot be in a certificate"),
        (["cert", "--client", "ca"], "a client cannot be called 'ca'"),
        (["cert", "--days", "1000"], "between 1 and 825"),
        (["cert", "/dev/null"], "cannot make the directory /dev/null: file exists"),
        (["cert", "--pin", "/does/not/exist"], "cannot read /does/not/exist"),
        (["cert", "--pin", "/dev/null"], "/dev/null holds neither a certificate nor a key"),
        (["cert", "--pin", "/dev/null", "--force"], "--pin only reads"),
        (["cert", "--pin", "/dev/null", "--days", "30"], "--pin only reads"),
        (["cert", "--pin", "/dev/null", "."], "--pin only reads"),
        (["client", "http://127.0.0.1:3000"], "--server HOST:PORT"),
        (["client", "--server", "127.0.0.1:7000"], "nothing to serve"),
        (["http", "3000"], "once with `fasttunnel login`"),
        (["http", "3000", "a b", "--server", "a:1"], "host 'a b' cannot be used"),
        (["http", "localhost", "--server", "a:1"], "backend 'http://localhost' is not http://HOST:PORT"),
        (["http", "localhost:3000/x", "--server", "a:1"], "it has no path"),
        (["http", "grpc://a:1", "--server", "a:1"], "'grpc://a:1' is not for `fasttunnel http`"),
        (["grpc", "x:y", "--server", "a:1"], "backend 'grpc://x:y' is not grpc://HOST:PORT"),
        (["login", "nowhere"], "'nowhere' is not an address"),
        (["client", "--server", "127.0.0.1:7000", "3000"], "write http://127.0.0.1:3000"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_a_bad_token_in_the_environment_is_not_shown() -> None:
    code, _, err = run("server", FASTTUNNEL_TOKEN="s3cret token")
    assert code == 2
    assert "visible ASCII" in err
    assert "s3cret" not in err


def test_an_unknown_server_is_one_line_and_exit_code_4() -> None:
    # A process of its own: uvloop.run belongs to the main thread of a program.
    command = [
        sys.executable,
        "-m",
        "fasttunnel",
        "client",
        "--server",
        "no.such.host.invalid:7000",
        "http://127.0.0.1:1",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "FASTTUNNEL_TOKEN": ""}
    )
    if "Temporary failure" in done.stderr:  # a machine without any resolver cannot know
        pytest.skip("no name resolution here")
    assert done.returncode == 4
    assert "cannot find the server no.such.host.invalid:7000" in done.stderr
    assert done.stderr.count("\n") == 1


def test_cert_says_what_it_wrote_and_what_uses_it(tmp_path: Path) -> None:
    place = tmp_path / "my certs"
    code, out, err = run("cert", str(place), "--name", "*.example.com", "--name", "::1", "--client", "alice")
    assert (code, err) == (0, "")
    assert {path.stem for path in place.iterdir()} == {"ca", "server", "alice"}
    lines = [line.strip() for line in out.splitlines()]
    assert any(
        re.fullmatch(r"server +.*server\.key  until \d{4}-\d\d-\d\d, for \*\.example\.com, ::1", line) for line in lines
    )
    (line,) = (line for line in lines if line.startswith("pin"))
    assert run("cert", "--pin", str(place / "server.pem")) == (0, f"{line.split()[1]}\n", "")
    assert "for trying out" in lines[-1]
    # Each command is one that a shell and the command line take.
    start = next(index for index, line in enumerate(lines) if line.startswith("use "))
    server, client, curl = (shlex.split(line.removeprefix("use ")) for line in lines[start : start + 3])
    ca, own = str(place / "ca.pem"), ["--cert", str(place / "alice.pem"), "--key", str(place / "alice.key")]
    pair = ["--cert", str(place / "server.pem"), "--key", str(place / "server.key")]
    assert server == ["fasttunnel", "server", *pair, "--client-ca", ca]
    assert client == ["fasttunnel", "client", "--server", "[::1]:7000", "--ca", ca, *own, "http://127.0.0.1:3000"]
    assert curl == ["curl", "--cacert", ca, "https://[::1]:8080/"]

    code, out, _ = run("cert", str(place), "--client", "bob")
    assert code == 0
    assert "used again" in out
    assert "fasttunnel client --server HOST:7000" in out
    assert "fasttunnel server" not in out
    code, out, err = run("cert", str(place), "--client", "bob")
    assert (code, out) == (2, "")
    assert "bob.key exists already (--force overwrites it)" in err


def test_cert_writes_where_it_is_for_thirty_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("cert")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem", "server.key", "server.pem"]
    assert "curl --cacert ca.pem https://localhost:8080/" in out
    assert f"Default: {DEFAULT_DAYS}" in run("cert", "--help")[1]


def test_help_loads_no_engine_and_no_grpc() -> None:
    program = (
        "import sys\n"
        "from fasttunnel.cli import main\n"
        "try:\n    main(['server', '--help'], prog_name='fasttunnel')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'grpc', 'google.protobuf', 'uvloop', 'rich', 'cryptography', 'fasttunnel._core'}\n"
        "heavy |= {'fasttunnel.engine', 'fasttunnel.control.certificates'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- fasttunnel token


def test_a_new_token_and_its_lines() -> None:
    code, out, err = run(
        "token", "shop", "--host", "shop.example", "--host", "*.shop.example", "--path", "/api",
        "--expires", "2030-01-01", "--service", "shop.Cart",
        "--requests-per-second", "2.5", "--no-exclusive", "--shared",
    )  # fmt: skip
    assert code == 0
    (token,) = parse_tokens(err).values()
    assert digest_of(out.strip().encode()) == token.digest
    assert out.strip() not in err
    assert token.permission == Permission(
        hosts=("shop.example", "*.shop.example"), paths=("/api",), services=("shop.Cart",), exclusive=False, shared=True
    )
    assert (token.expires_s, token.requests_per_second) == (1893456000, 2.5)


def test_tokens_are_appended_to_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    tokens = []
    for _ in range(2):
        code, out, err = run("token", "shop", "--append", str(file))
        assert (code, err) == (0, "")
        tokens.append(out.strip())
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(read_tokens(file)) == [digest_of(token.encode()) for token in tokens]
    assert not any(token in file.read_text() for token in tokens)
    file.write_text("# mine")
    file.chmod(0o640)
    run("token", "blog", "--append", str(file))
    assert file.read_text().startswith("# mine\n\n[[tokens]]\n")
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("kept", "says"), [("garbage", "not TOML"), ("tokens = []\n", "take `tokens = []` out"), ("other = 1\n", "other")]
)
def test_nothing_is_appended_to_what_would_not_be_a_file_of_tokens(tmp_path: Path, kept: str, says: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(kept)
    code, out, err = run("token", "shop", "--append", str(file))
    assert (code, out) == (2, "")
    assert "nothing was appended" in err
    assert says in err
    assert file.read_text() == kept


@pytest.mark.parametrize(("token", "warns"), [("s3cret", True), ("0123456789abcdef" * 2, False)])
def test_a_token_is_hashed(token: str, warns: bool) -> None:
    result = CliRunner().invoke(main, ["token", "shop", "--hash"], input=f"{token}\n")
    assert result.exit_code == 0
    assert list(parse_tokens(result.stdout)) == [digest_of(token.encode())]
    assert token not in result.output
    assert ("may be guessed" in result.stderr) is warns


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["two words"], "name"),
        (["token"], "the name is taken"),
        (["shop", "--host", "a:80"], "leave the port away"),
        (["shop", "--path", "api"], "path prefix"),
        (["shop", "--expires", "soon"], "'soon' is not a date"),
        (["shop", "--requests-per-second", "0"], "requests_per_second"),
        (["shop", "--requests-per-second", "inf"], "requests_per_second"),
        (["shop", "--bytes-per-second", "nan"], "bytes_per_second"),
        (["shop", "--append", "/does/not/exist"], "cannot append to /does/not/exist: No such file"),
        (["shop", "--hash"], "visible ASCII"),
    ],
)
def test_a_token_that_cannot_be(arguments: list[str], says: str) -> None:
    code, out, err = run("token", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("command", ["server", "client"])
def test_a_token_on_the_command_line_is_refused_and_not_repeated(command: str) -> None:
    code, out, err = run(command, "--token=s3cret")
    assert code == 2
    assert "s3cret" not in out + err


def test_a_broken_tokens_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text('[[tokens]]\nname = "shop"\nhash = "s3cret"\n')
    code, out, err = run("server", "--tokens", str(tmp_path / "tokens.toml"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "tokens[0], shop" in err
    assert "s3cret" not in err
