"""HTTP/1.1 (RFC 9112) with h11, on both sides of the tunnel: a connection is one HttpStream after another.

What is pipelined behind a request waits in h11's buffer until its turn comes, so answers are in order by construction.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

import h11

from fasttunnel import limits
from fasttunnel.errors import ResetCode
from fasttunnel.reference import fields
from fasttunnel.reference.messages import (
    BadMessage,
    Field,
    Head,
    HttpStream,
    Part,
    RequestReset,
    Unprocessed,
    forever,
)
from fasttunnel.reference.strict import check_head, chunk_has_come

READ_BYTES = 65_536
CONNECTION_OPTIONS = 64  # of one head
EXTENSION_BYTES = 16_384  # of one chunked body
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
BODY_EXPECTED = frozenset((b"POST", b"PUT", b"PATCH"))
# Methods of the IANA registry; others are 501 (RFC 9110 9.1).
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH ACL BIND CHECKOUT COPY LINK LOCK MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE NOTIFY M-SEARCH".split()
)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]+)(.*)")  # absolute-form, RFC 9112 3.2.2
_EMPTY_LINES = re.compile(rb"(\r\n)*")


class Http1Stream(HttpStream):
    """h11 on a connection. `closing()` says whether the connection is to end with the answer that is being written."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head_bytes: int,
        *,
        public: bool,
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.reader, self.writer = reader, writer
        self.public = public
        self.reused = False  # it has served a request before
        self.http10 = False  # the peer's version
        self._half_line = b""  # of the empty ones before a request
        self._h11 = h11.Connection(
            h11.SERVER if public else h11.CLIENT, max_incomplete_event_size=head_bytes + READ_BYTES
        )
        self._head_bytes = head_bytes
        self._closing = closing
        self._heard = self._half_closed = False
        self._writing = False  # stays True when a write is given up
        self._has_body = self._chunked = True  # what we send
        self._before_chunk = False  # of the body that is read, when it is chunked
        self._first_chunk = True
        self._extension_bytes = 0  # of all chunks so far
        self._checked = 0  # of the bytes that wait
        self._bad: BadMessage | None = None  # what comes behind the body that could be read
        self._silence: asyncio.Timeout | None = None

    def next_cycle(self) -> bool:
        """Whether another request may follow; then everything is as in the beginning."""
        states = self._h11.states
        over = states[h11.CLIENT] is not h11.DONE or states[h11.SERVER] is not h11.DONE or self._is_last
        if over or (not self.public and self._h11.trailing_data != (b"", False)):
            return False
        self._h11.start_next_cycle()
        self.begun = self._complete = self._heard = False
        self.trailers, self.reused, self.answer_to = [], True, b""
        return True

    @property
    def _is_last(self) -> bool:
        """Whether the peer sends nothing more, and has sent nothing behind this message."""
        return self._half_closed and not self.waiting_bytes

    # -- reading

    @property
    def waiting_bytes(self) -> bytes:
        """What has come and was not parsed: the beginning of a head, or what follows an upgrade."""
        return self._h11.trailing_data[0]

    def feed(self, data: bytes) -> None:
        """More bytes have come; none: the end of the connection."""
        self._heard = self._heard or bool(data)
        if data and self.public and self._h11.their_state is h11.IDLE and not self.waiting_bytes:
            data = self._half_line + data
            data = data[_EMPTY_LINES.match(data).end() :]  # type: ignore[union-attr]  # RFC 9112 2.2: before a request
            self._half_line = data if data == b"\r" else b""
            if not data or self._half_line:
                return
        self._h11.receive_data(data)

    def ready_head(self) -> Head | None:
        """The next head, if all of it is there; its body is read then as far as it is there. Raises BadMessage."""
        check_head(self.waiting_bytes, self._head_bytes, self._checked)
        event = self._next_event()
        self._checked = len(self.waiting_bytes) if event is None else 0
        if event is None or isinstance(event, h11.ConnectionClosed):
            return None
        self.http10 = event.http_version == b"1.0"
        if event.http_version not in (b"1.0", b"1.1"):  # RFC 9110 2.5, 15.6.6; there is no other 1.x
            raise BadMessage("bad HTTP version", status=505 if event.http_version > b"1.1" else 400)
        of_message = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
        fields.check(of_message, status=400)
        if len(fields.nominated(of_message)) > CONNECTION_OPTIONS:
            raise BadMessage("too many options in Connection", status=400)
        coded = fields.get(of_message, b"transfer-encoding") is not None
        if coded and self.http10:
            raise BadMessage("Transfer-Encoding in HTTP/1.0", status=400)
        if self.public:
            head = self._request(event, of_message)
        else:
            head = Head(of_message, status=event.status_code)
        if not isinstance(event, h11.InformationalResponse):
            self._before_chunk = coded and (self.public or self.has_body(head))
            self._first_chunk, self._extension_bytes = True, 0
            self._read_body()
        return head

    def _request(self, event: h11.Request, of_message: list[Field]) -> Head:
        """The target and the host it is for (RFC 9112 3.2). Others check what HTTP/2 has in common with it."""
        method, target, host = bytes(event.method), bytes(event.target), fields.get(of_message, b"host")
        self.answer_to = method
        if method not in METHODS:
            raise BadMessage("unknown method", status=501)
        if absolute := _ABSOLUTE.fullmatch(target):
            if host is not None and absolute[1].lower() != host.lower():
                raise BadMessage("Host differs from the request target", status=400)
            target, host = b"/" + absolute[2].removeprefix(b"/"), absolute[1]
        return Head(of_message, method, target, host or b"")

    def _next_event(self) -> Any:
        """What h11 makes of the bytes that are there, or None. Raises BadMessage."""
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            doubled = "multiple" in str(error)  # of a field that may stand once only
            raise BadMessage(str(error), status=400 if doubled else error.error_status_hint) from None
        return None if event in (h11.NEED_DATA, h11.PAUSED) else event

    def _read_body(self) -> None:
        try:
            while True:
                if self._before_chunk:
                    waiting = self.waiting_bytes
                    extension = chunk_has_come(waiting, self._head_bytes, self._checked, first=self._first_chunk)
                    if extension is None:
                        self._checked = len(waiting)
                        return
                    self._extension_bytes += extension
                    if self._extension_bytes > EXTENSION_BYTES:
                        raise BadMessage("too many chunk extensions", status=400)
                self._checked = 0
                event = self._next_event()
                if not isinstance(event, h11.Data):
                    break
                self._body += event.data
                self._before_chunk, self._first_chunk = event.chunk_end, False
            if isinstance(event, h11.EndOfMessage):
                self.trailers = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
                fields.check(self.trailers, status=400)
                self._complete = True
        except BadMessage as error:
            self._bad = error  # raised when what came before it has been taken

    async def next_head(self) -> Head:
        """Of a backend: the next head of its answer, interim or final. Raises RequestReset."""
        try:
            while (head := self.ready_head()) is None:
                await self._read()
        except BadMessage as error:
            raise self._blamed(error) from None
        return head

    def _blamed(self, error: BadMessage) -> BadMessage:
        """What is wrong with a message is the fault of the public, which is told so, or of the backend."""
        return error if self.public else BadMessage(f"bad answer from the backend: {error.text}")

    async def more(self) -> None:
        if self._bad is not None:
            raise self._blamed(self._bad)
        await self._read()
        self._read_body()

    async def _read(self) -> None:
        """Raises RequestReset, unless the end of the connection is that of the body (RFC 9112 6.3)."""
        try:
            data = await self.reader.read(READ_BYTES)
        except ConnectionError:
            raise self._lost() from None
        self.feed(data)
        if not data:
            self._read_body()
            if not self._complete:
                raise self._lost()

    def _lost(self) -> RequestReset:
        if self.public:
            return RequestReset(ResetCode.CANCELLED, "the public side closed the connection")
        if self.reused and not self._heard:  # the race of every pool: it closed just as it was used again
            return Unprocessed(ResetCode.BACKEND_UNREACHABLE, "the backend closed the connection without an answer")
        where = "in the middle of its answer" if self._heard else "without an answer"
        return RequestReset(ResetCode.BACKEND_UNREACHABLE, f"the backend closed the connection {where}")

    async def gone(self) -> None:
        """A peer that closes its side may still wait for the answer, as HTTP allows; but not if nothing comes."""
        try:
            data = await self.reader.read(READ_BYTES)
        except ConnectionError:
            raise self._lost() from None
        if data:
            self._h11.receive_data(data)  # pipelined, or the first frames of a WebSocket
            await forever()
        self._half_closed = True
        while True:
            try:
                async with asyncio.timeout(limits.HALF_CLOSED_S) as self._silence:
                    await forever()
            except TimeoutError:
                if not self._writing:
                    self.writer.transport.abort()
                    raise self._lost() from None
            finally:
                self._silence = None

    # -- writing

    async def send(self, part: Part) -> None:
        if part.interim and self.http10:
            return  # RFC 9110 15.2
        await self._write(self._events(part))
        self.begun = self.begun or not part.interim

    def _events(self, part: Part) -> Iterator[Any]:
        if part.head is not None:
            self.answer_to = self.answer_to if self.public else part.head.method
            yield self._answer_event(part) if self.public else self._request_event(part)
            self._has_body = not self.public or self.has_body(part.head)
            self._chunked = self._has_body and fields.get(part.head.fields, b"content-length") is None
        if part.data and self._has_body:
            yield h11.Data(data=part.data)
        if part.last:
            # RFC 9110 6.5.1: trailers are dropped where the framing has no place for them.
            place = self._chunked and not (self.public and self.http10)
            yield h11.EndOfMessage(headers=part.trailers if place else [])

    async def upgrade(self, head: Head) -> None:
        """Write a head behind which there is no HTTP any more."""
        if self.public:
            answer = h11.InformationalResponse(status_code=101, headers=head.fields, reason=REASONS[101])
            return await self._write([answer])
        request = h11.Request(method=head.method, target=head.target, headers=head.fields)
        await self._write([request, h11.EndOfMessage()])

    async def _write(self, events: Iterable[Any]) -> None:
        """Returns when the socket has taken them. Raises RequestReset."""
        try:
            data = b"".join(self._h11.send(event) or b"" for event in events)
        except h11.LocalProtocolError as error:
            raise BadMessage(f"cannot be written as HTTP/1.1: {error}") from None
        if self.writer.is_closing():  # of a transport that is, uvloop says so with a RuntimeError
            raise self._lost()
        self._writing = True
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            raise self._lost() from None
        self._writing = False
        if self._silence is not None:
            self._silence.reschedule(asyncio.get_running_loop().time() + limits.HALF_CLOSED_S)

    def _request_event(self, part: Part) -> h11.Request:
        head = part.head
        assert head is not None
        framed = [(b"Host", head.authority), *head.fields]
        if fields.get(head.fields, b"content-length") is None:  # RFC 9112 6.3, RFC 9110 8.6
            if not part.last or part.trailers:
                framed.append((b"Transfer-Encoding", b"chunked"))
            elif part.data or head.method in BODY_EXPECTED:
                framed.append((b"Content-Length", b"%d" % len(part.data)))
        return h11.Request(method=head.method, target=head.target, headers=framed)

    def _answer_event(self, part: Part) -> h11.Response | h11.InformationalResponse:
        """h11 adds `chunked` where there is no length."""
        head = part.head
        assert head is not None
        reason = REASONS.get(head.status, b"")
        if part.interim:
            return h11.InformationalResponse(status_code=head.status, headers=head.fields, reason=reason)
        framed = [field for field in head.fields if head.status != 204 or field[0].lower() != b"content-length"]
        whole = part.last and (self.http10 or not part.trailers)
        if whole and self.has_body(head) and fields.get(framed, b"content-length") is None:
            framed.append((b"Content-Length", b"%d" % len(part.data)))
        if not self.ended or self.final or self._is_last or self._closing():
            framed.append((b"Connection", b"close"))
        return h11.Response(status_code=head.status, headers=framed, reason=reason)

    # -- the end

    def abort(self, code: ResetCode) -> None:
        if self.public and self.begun and self.http10:
            # Its body may end with the connection, so a clean end would say that it is complete.
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if not self.public or self._writing or (self.begun and self.http10):
            self.writer.transport.abort()
        self.writer.close()
