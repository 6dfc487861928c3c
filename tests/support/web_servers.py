"""Servers of other people that say what they have understood, as backends: uvicorn, nginx and Node.js.

Each answers a request with what it saw of it, as JSON. What is none to them is noted as well.
"""

import asyncio
import contextlib
import json
import logging
import os
import pwd
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn

from tests.support import programs
from tests.support.child import start_child
from tests.support.smuggling import Seen
from tests.support.tunnel import WAIT_S

NODE = Path(__file__).parents[1] / "interop" / "node" / "server.mjs"
HEAD_BYTES = 131_072  # what each is told to take: more than the tunnel does
FOREVER_S = 100_000  # a connection is never closed between two requests


class Backend:
    """What a backend has seen since `take` was called. `url` is where it listens."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.seen: list[Seen] = []  # whole requests, in the order in which they became whole
        self.begun: list[str] = []  # "METHOD TARGET" of each head
        self.garbage: list[str] = []  # what it did not understand
        self._news = asyncio.Event()

    def note(self, *, begun: str = "", seen: Seen | None = None, garbage: str = "") -> None:
        if begun:
            self.begun.append(begun)
        if seen is not None:
            self.seen.append(seen)
        if garbage:
            self.garbage.append(garbage)
        self.news()

    def news(self) -> None:
        self._news.set()

    def has_told(self, target: str) -> bool:
        """Whether all is known of a request, and so of those before it."""
        return any(seen.target == target for seen in self.seen)

    async def until_told(self, target: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while not self.has_told(target):
                self._news.clear()
                await self._news.wait()

    def take(self) -> tuple[list[Seen], list[str], list[str]]:
        taken = self.seen, self.begun, self.garbage
        self.seen, self.begun, self.garbage = [], [], []
        return taken


def told(seen: Seen) -> bytes:
    """The body of an answer."""
    return json.dumps(seen._asdict()).encode()


def seen_of(record: dict[str, Any]) -> Seen:
    fields = [(name.lower(), value) for name, value in record["fields"]]
    return Seen(record["method"], record["target"], record["body"], fields)


def bind() -> socket.socket:
    """A free port that stays ours."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    return listener


# -- a strict reader --------------------------------------------------------------------------------------------------

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


class _Reader:
    """One connection: whatever is not exactly HTTP/1.1 (RFC 9112) is noted as garbage, and ends it."""

    def __init__(self, backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.backend = backend
        self.reader, self.writer = reader, writer

    async def run(self) -> None:
        try:
            while seen := await self._request():
                self.backend.note(seen=seen)
                body = told(seen)
                self.writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body * (seen.method != "HEAD")
                )
        except ConnectionError:
            pass
        except ValueError as error:
            self.backend.note(garbage=str(error))
        except asyncio.IncompleteReadError:  # in a body: it was broken off
            pass
        finally:
            self.writer.close()

    async def _request(self) -> Seen | None:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ValueError(f"half a head: {error.partial!r}") from None
            return None
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        if not (start := _LINE.fullmatch(first)):
            raise ValueError(f"no request line: {first!r}")
        method, target = start[1].decode(), start[2].decode()
        self.backend.note(begun=f"{method} {target}")
        fields = self._fields(lines)
        lengths = [value for name, value in fields if name == "content-length"]
        codings = [value for name, value in fields if name == "transfer-encoding"]
        if len(lengths) + len(codings) > 1 or codings not in ([], ["chunked"]):
            raise ValueError(f"no framing: {fields}")
        if ("expect", "100-continue") in fields:
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await (self._chunked() if codings else self._exactly(lengths[0] if lengths else "0"))
        return Seen(method, target, body.decode("latin-1"), fields)

    def _fields(self, lines: list[bytes]) -> list[tuple[str, str]]:
        fields = []
        for line in lines:
            if not (field := _FIELD.fullmatch(line)):
                raise ValueError(f"no field: {line!r}")
            fields.append((field[1].decode().lower(), field[2].decode("latin-1")))
        return fields

    async def _exactly(self, length: str) -> bytes:
        if not re.fullmatch("[0-9]+", length):
            raise ValueError(f"no length: {length}")
        return await self.reader.readexactly(int(length))

    async def _chunked(self) -> bytes:
        body = b""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            if not re.fullmatch(rb"[0-9a-fA-F]+\r\n", line):
                raise ValueError(f"no chunk: {line!r}")
            if not (size := int(line, 16)):
                break
            body += await self.reader.readexactly(size)
            if (end := await self.reader.readexactly(2)) != b"\r\n":
                raise ValueError(f"no end of a chunk: {end!r}")
        lines = []
        while line := (await self.reader.readuntil(b"\r\n")).removesuffix(b"\r\n"):
            lines.append(line)
        self._fields(lines)
        return body


async def start_strict(stack: AsyncExitStack, name: str = "strict") -> Backend:
    """A server of ours that takes nothing but what is exactly right: it sees the very bytes."""
    listener = bind()
    backend = Backend(name, listener.getsockname()[1])
    running: set[asyncio.Task[Any]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        await _Reader(backend, reader, writer).run()
        running.discard(task)

    server = await asyncio.start_server(take, sock=listener, limit=HEAD_BYTES)

    async def stop() -> None:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    stack.push_async_callback(stop)
    return backend


# -- uvicorn ----------------------------------------------------------------------------------------------------------


class _InvalidRequests(logging.Handler):
    """uvicorn says in its log that it could not read something."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(logging.WARNING)
        self._backend = backend

    def emit(self, record: logging.LogRecord) -> None:
        if "Invalid HTTP request" in record.getMessage() or record.levelno >= logging.ERROR:
            self._backend.note(garbage=self.format(record))


class _Uvicorn(uvicorn.Server):
    """Without the signals of the process, which are the tests'."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def start_uvicorn(stack: AsyncExitStack, parser: str) -> Backend:
    """With the parser "h11" or "httptools" (llhttp, as in Node.js)."""
    listener = bind()
    backend = Backend(f"uvicorn-{parser}", listener.getsockname()[1])

    async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        query = b"?" * bool(scope["query_string"]) + scope["query_string"]
        target = (scope["raw_path"] + query).decode("latin-1")
        backend.note(begun=f"{scope['method']} {target}")
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        seen = Seen(scope["method"], target, body.decode("latin-1"), fields)
        backend.note(seen=seen)
        content = told(seen)
        length = (b"content-length", b"%d" % len(content))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": content})

    config = uvicorn.Config(
        app,
        http=parser,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=FOREVER_S,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Uvicorn(config)
    handler = _InvalidRequests(backend)
    logging.getLogger("uvicorn.error").addHandler(handler)
    running = asyncio.ensure_future(server.serve(sockets=[listener]))

    async def stop() -> None:
        server.should_exit = server.force_exit = True
        await running
        logging.getLogger("uvicorn.error").removeHandler(handler)

    stack.push_async_callback(stop)
    return backend


# -- programs of their own --------------------------------------------------------------------------------------------


async def _read_lines(stack: AsyncExitStack, take: Callable[[bytes], None], *command: str, **options: Any) -> None:
    """Start a program whose every line is taken; it is ended, with its own children, when the stack is left."""
    child = await start_child(command, stdout=subprocess.PIPE, **options)

    async def read() -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            take(line)

    reading = asyncio.ensure_future(read())

    async def stop() -> None:
        child.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(WAIT_S):
                await reading
        finally:
            await child.kill()

    stack.push_async_callback(stop)


async def start_node(stack: AsyncExitStack) -> Backend:
    ports: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    backend = Backend("node", 0)

    def take(line: bytes) -> None:
        match json.loads(line):
            case {"port": port}:
                ports.set_result(port)
            case {"seen": record}:
                backend.note(seen=seen_of(record))
            case {"begun": text}:
                backend.note(begun=text)
            case {"garbage": text}:
                backend.note(garbage=text)

    await _read_lines(stack, take, programs.need("node", "nodejs"), str(NODE), str(HEAD_BYTES))
    async with asyncio.timeout(WAIT_S):
        backend.url = f"http://127.0.0.1:{await ports}"
    return backend


_NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/errors info;
events {{ worker_connections 256; }}
http {{
    log_format seen escape=json '{{"line": "$request", "status": $status}}';
    access_log /dev/stdout seen;
    client_body_temp_path {folder}/client; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    keepalive_timeout {forever}; keepalive_requests 1000000;
    client_max_body_size 0; large_client_header_buffers 8 {head_bytes};
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Host $http_host;
            proxy_read_timeout {forever};
        }}
    }}
}}
"""


class _Nginx(Backend):
    """What nginx has understood is what it passes on to `behind`; its own log has a line for whatever came."""

    def __init__(self, port: int, behind: Backend) -> None:
        super().__init__("nginx", port)
        self.behind = behind
        self.lines: list[dict[str, Any]] = []

    def take_line(self, line: bytes) -> None:
        self.lines.append(json.loads(line.decode("latin-1")))
        self.news()

    def has_told(self, target: str) -> bool:
        return any(f" {target} " in line["line"] for line in self.lines)

    def take(self) -> tuple[list[Seen], list[str], list[str]]:
        """A request that was broken off has the line of one, and the status of garbage (400)."""
        seen, begun, garbage = self.behind.take()
        served = [f"{each.method} {each.target} HTTP/1.1" for each in seen]
        for line in self.lines:
            if line["line"] in served:
                served.remove(line["line"])
            elif match := _LINE.fullmatch(line["line"].encode()):
                begun.append(f"{match[1].decode()} {match[2].decode()}")
            else:
                garbage.append(str(line))
        garbage += [f"not in the log of nginx: {line}" for line in served]
        self.lines = []
        return seen, begun, garbage


async def start_nginx(stack: AsyncExitStack, folder: Path) -> Backend:
    program = programs.need("nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx")
    behind = await start_strict(stack, "nginx")
    listener = bind()
    backend = _Nginx(listener.getsockname()[1], behind)
    (folder / "conf").write_text(
        _NGINX.format(
            # Its workers are of nobody otherwise, who may not write into the folder.
            user=f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
            folder=folder,
            forever=FOREVER_S,
            head_bytes=HEAD_BYTES,
            port=listener.getsockname()[1],
            upstream=behind.url,
        )
    )
    listener.set_inheritable(True)
    await _read_lines(
        stack,
        backend.take_line,
        *(program, "-p", str(folder), "-c", str(folder / "conf")),
        pass_fds=(listener.fileno(),),
        env={**os.environ, "NGINX": f"{listener.fileno()};"},  # as it hands its sockets to its next version
        stderr=subprocess.DEVNULL,
    )
    listener.close()
    return backend
