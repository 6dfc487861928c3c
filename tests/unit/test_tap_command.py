"""What `fasttunnel tap` says where there is nothing to tap."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from fasttunnel.cli import main


def run(*arguments: str, admin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr; a traceback is a failure of the test."""
    result = CliRunner().invoke(main, ["tap", *arguments], env={"FASTTUNNEL_ADMIN": admin})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@contextmanager
def site(pages: dict[str, tuple[int, str, bytes]]) -> Iterator[str]:
    """Where a web server answers with these pages, by path: status, content type, body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = pages.get(self.path.partition("?")[0], (404, "text/plain", b"not found"))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


INDEX = (200, "text/plain", b"fasttunnel server 0.0.9\n/status\n")
LINES = "application/x-ndjson"


@pytest.mark.parametrize(
    ("pages", "code", "says"),
    [
        ({}, 4, "is no admin port of fasttunnel"),
        ({"/tap": (200, "text/html", b"<html>")}, 4, "is no admin port of fasttunnel"),
        ({"/": INDEX}, 1, "has no /tap: it is fasttunnel server 0.0.9, an older one"),
        ({"/": INDEX, "/tap": (403, "text/plain", b"not \x1b[2Jyou")}, 1, "refuses: not \\x1b[2Jyou"),
        ({"/": INDEX, "/tap": (400, "text/plain", b"payload is a number")}, 2, "fasttunnel: payload is a number"),
        ({"/tap": (200, LINES, b"")}, 1, "went away"),
        ({"/tap": (200, LINES, b'{"tap":"lost","lines":7}\n')}, 1, "seen 0 messages, lost 7"),
        ({"/tap": (200, LINES, b'{"tap":"end","text":"why \\u001b"}\n')}, 1, "the tap has ended: why \\x1b"),
        ({"/tap": (200, LINES, b"what\n")}, 1, "what came is no line of a tap: what"),
    ],
)
def test_what_answers_is_something_else(pages: dict[str, tuple[int, str, bytes]], code: int, says: str) -> None:
    with site(pages) as address:
        ended, _, err = run(address)
    assert (ended, says in err) == (code, True), err


def test_nobody_listens(tmp_path: Path) -> None:
    with site({}) as address:
        pass
    for admin in (address, f"unix:{tmp_path}/none"):
        code, _, err = run(admin)
        assert (code, f"nobody listens on {admin}" in err) == (4, True), err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which end is to be tapped?"),
        (["9100"], "'9100' is not an address"),
        (["127.0.0.1:0"], "its first lines say which port it has"),
        (["127.0.0.1:1", "--payload", "many"], "--payload 'many' is not a number of bytes"),
        (["127.0.0.1:1", "--text", "\udcff"], "--text is not UTF-8"),
        (["--config", "/does/not/exist"], "cannot read /does/not/exist"),
    ],
)
def test_mistakes(arguments: list[str], says: str) -> None:
    code, _, err = run(*arguments)
    assert (code, says in err) == (2, True), err


def test_where_it_is_told_to_look(tmp_path: Path) -> None:
    """The argument wins over the variable, and that over the file."""
    file = tmp_path / "server.toml"
    file.write_text('admin = "127.0.0.1:1"\n')
    for arguments, admin, asked in (
        (["--config", str(file)], "", "127.0.0.1:1"),
        (["--config", str(file)], "unix:/x", "unix:/x"),
        (["--config", str(file), "unix:/y"], "unix:/x", "unix:/y"),
        (["--payload", "unix:/y"], "", "unix:/y"),
    ):
        _, _, err = run(*arguments, admin=admin)
        assert f"nobody listens on {asked} " in err
    file.write_text("admin = 9100\n")
    assert "is not a text" in run("--config", str(file))[2]
    file.write_text("")
    assert "has no admin" in run("--config", str(file))[2]


def test_lines_are_passed_on_as_they_are() -> None:
    told = b'{"time":"2026-11-29T12:00:00.123Z","kind":"malformed"}\n'
    with site({"/tap": (200, LINES, b'{"tap":"begin","routes":[]}\n' + told * 5)}) as address:
        code, out, err = run(address, "--json", "--limit", "3", "--route", "r")
    assert (code, out.encode()) == (0, told * 3)
    assert err.splitlines() == [
        "fasttunnel: nobody serves the route r at the moment; there are none",
        "seen 3 messages, lost 0",
    ]
