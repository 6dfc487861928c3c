"""Reading a page of an admin port that goes on and on, and saying what is wrong where there is none."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from fasttunnel.control.config import parse_admin
from fasttunnel.control.log import one_line
from fasttunnel.errors import ConfigError, ConnectError, FasttunnelError, describe

ANSWER_S: Final = 10.0  # for an end to take a connection, and to begin its answer
PIECE_BYTES: Final = 65_536
_HINT: Final = "name what --admin of a running server or client is"
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class _Connection(http.client.HTTPConnection):
    """To a TCP address or a Unix socket. Its Host is one that an admin port on loopback answers to."""

    def __init__(self, where: tuple[str, int] | Path) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._where = where
        self.reads_from: socket.socket | None = None  # when http.client has let go of it as well

    def connect(self) -> None:
        if isinstance(self._where, Path):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # close() closes it, connected or not
            self.sock.settimeout(ANSWER_S)
            self.sock.connect(os.fspath(self._where))
        else:
            self.sock = socket.create_connection(self._where, ANSWER_S)
        self.reads_from = self.sock


class AdminStream:
    """`admin` is as the option, or the URL that an end shows of it. Raises ConfigError."""

    def __init__(self, admin: str) -> None:
        self.admin = admin
        where = parse_admin(admin.removeprefix("http://").removesuffix("/"))
        if not isinstance(where, Path):
            host, port = where
            if port == 0:
                raise ConfigError(f"{admin} is not where it listens", hint="its first lines say which port it has")
            where = _EVERYWHERE.get(host, host), port
        self._where = where
        self._connection = _Connection(where)
        self._response: http.client.HTTPResponse | None = None

    def open(self, target: str) -> None:
        """Ask for a page that goes on. Raises ConnectError where there is no end, FasttunnelError where it refuses."""
        response = self._response = self._ask(self._connection, target)
        if response.status == 200 and response.headers.get_content_type() == "application/x-ndjson":
            return
        text = one_line(_start(response).decode("utf-8", "replace").strip())
        with closing(_Connection(self._where)) as connection, self._ask(connection, "/") as index:
            first = _start(index)
        if not first.startswith(b"fasttunnel "):
            raise ConnectError(f"what listens on {self.admin} is no admin port of fasttunnel", hint=_HINT)
        if response.status == 404:
            version = one_line(first.split(b"\n")[0].decode("utf-8", "replace"))
            raise FasttunnelError(
                f"{self.admin} has no {target.partition('?')[0]}", detail=f"it is {version}, an older one"
            )
        if response.status == 400:
            raise ConfigError(text)
        raise FasttunnelError(f"{self.admin} refuses", detail=text)

    def _ask(self, connection: _Connection, target: str) -> http.client.HTTPResponse:
        try:
            connection.request("GET", target)
            return connection.getresponse()
        except TimeoutError:
            raise ConnectError(f"{self.admin} does not answer", hint=_HINT) from None
        except (ConnectionRefusedError, FileNotFoundError):
            raise ConnectError(f"nobody listens on {self.admin}", hint=_HINT) from None
        except (http.client.HTTPException, ConnectionError):
            raise ConnectError(f"what listens on {self.admin} is no admin port of fasttunnel", hint=_HINT) from None
        except OSError as error:
            raise ConnectError(f"cannot connect to {self.admin}", detail=describe(error)) from None

    def lines(self, for_s: float | None = None) -> Iterator[list[bytes]]:
        """Lines as they come, as many as there are at once, until that time is over.

        Raises FasttunnelError when the other end goes away.
        """
        assert self._response is not None
        sock, rest = self._connection.reads_from, b""
        end_s = time.monotonic() + for_s if for_s is not None else None
        while True:
            if end_s is not None and (left_s := end_s - time.monotonic()) <= 0:
                return
            if sock is not None:
                sock.settimeout(left_s if end_s is not None else None)
            try:
                piece = self._response.read1(PIECE_BYTES)
            except TimeoutError:
                return
            except (http.client.HTTPException, OSError):
                piece = b""
            if not piece:
                raise FasttunnelError(f"{self.admin} went away")
            *lines, rest = (rest + piece).split(b"\n")
            if lines:
                yield lines

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()


def _start(response: http.client.HTTPResponse) -> bytes:
    """Of an answer that may be anybody's."""
    try:
        return response.read1(4096)
    except (http.client.HTTPException, OSError):
        return b""


def decoded(line: bytes) -> dict[str, object]:
    """A line. Raises FasttunnelError."""
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise FasttunnelError("what came is no line of a tap", detail=one_line(line[:100].decode("utf-8", "replace")))
    return found
