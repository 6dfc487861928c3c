"""HTTP/1.1 connections of the public (RFC 9112).

One request at a time: what is pipelined behind it waits in the connection's rest, and the socket is not read meanwhile, so
answers are in order by construction. A body is sent on as it comes; its first bytes travel with the head if they came together.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fasttunnel._core cimport (
    BODY_CHUNKED, BODY_DONE, BODY_LENGTH, BODY_NONE, BODY_PIECE, BODY_TRAILERS, BODY_UNTIL_CLOSE, Buf, MSG_HTTP_REQUEST,
    MSG_WS_REQUEST, MSG_WS_RESPONSE, PROTO_HTTP, PROTO_WEBSOCKET, Slice, TAG_HTTP_REQUEST_HEADERS,
    TAG_HTTP_REQUEST_TRAILERS, TAG_HTTP_RESPONSE_HEADERS, TAG_HTTP_RESPONSE_TRAILERS, TAG_WS_REQUEST_HEADERS,
    TAG_WS_RESPONSE_HEADERS, body_read, buf_free, hdr_retag,
    hdr_value_ok,
)
from fasttunnel.engine._exchange cimport Exchange
from fasttunnel.engine._gate cimport explain, http_status_of, trace_id_of
from fasttunnel.engine._http1 cimport (
    has_field, has_fields, parse_trailers, websocket_accept, write_body, write_body_end, write_bytes, write_fields, write_number, write_status_line,
    write_text,
)
from fasttunnel.engine._http1 import BadMessage
from fasttunnel.engine._out cimport out_append
from fasttunnel.engine._link cimport Link
from fasttunnel.engine._public_http2 cimport PublicHttp2
from fasttunnel.engine._public_websocket cimport PublicWebSocket
from fasttunnel import limits

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef enum:
    PREFACE_BYTES = 24
    OUT_LIMIT = 65536                   # answers waiting to be written before the next request is begun
    CANCELLED = 1
    NO_ROUTE = 2
    PROTOCOL_ERROR = 5

cdef double REFUSED_S = limits.REFUSED_S
cdef double HALF_CLOSED_S = limits.HALF_CLOSED_S


cdef bint valid_key(bytes key):
    """Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 4.2.1)."""
    cdef const uint8_t *p
    cdef int i
    if key is None or len(key) != 24:
        return False
    p = key
    for i in range(22):
        if not (c"a" <= p[i] | 0x20 <= c"z" or c"0" <= p[i] <= c"9" or p[i] == c"+" or p[i] == c"/"):
            return False
    return p[22] == c"=" and p[23] == c"="


cdef void set_slice(Slice *slice, bytes value) noexcept:
    slice.ptr = <const uint8_t *><const char *>value
    slice.len = <size_t>len(value)


cdef class PublicConn(Conn):
    def __init__(self, Gate gate):
        self.gate = gate
        self.reactor = gate.reactor

    cdef int on_connected(self) except -1:
        self.refused = self.unwelcome or self.gate.crowded()
        return self.arm(REFUSED_S if self.refused else self.gate.head_timeout_s)

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        cdef Conn successor
        if n == 0:
            return 0
        if memcmp(data, PREFACE, min(n, <size_t>PREFACE_BYTES)) != 0:
            successor = PublicHttp1(self.gate)
            (<PublicHttp1>successor).refused = self.refused
        elif n < PREFACE_BYTES:
            return 0
        else:
            successor = PublicHttp2(self.gate)
            (<PublicHttp2>successor).refused = self.refused
        self.hand_over(successor, data, n)
        return <Py_ssize_t>n


cdef class PublicHttp1(Conn):
    def __init__(self, Gate gate):
        self.gate = gate
        self.head = Head(True)

    cdef int on_connected(self) except -1:
        self.visitor = Visitor(self.peer_address()[0], self.tls != NULL, self.gate.trusted_proxies)
        return self.arm(REFUSED_S if self.refused else self.gate.head_timeout_s)

    cdef int on_broken_off(self) except -1:
        return self.abort()                 # what it has pipelined would be answered to nobody

    def leave(self):
        if self.exchange is None and self.phase != PHASE_BODY:
            self.close()                    # otherwise answer_done() does, now that the gate is draining

    # -- requests

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        cdef size_t pos = 0
        cdef Py_ssize_t used
        try:
            while True:
                if self.phase == PHASE_HEAD:
                    while self.head.scanned == 0 and n - pos >= 2 and data[pos] == 13 and data[pos + 1] == 10:
                        pos += 2            # RFC 9112 2.2: empty lines before a request are ignored
                    if pos == n or self.head.scanned == 0 and n - pos == 1 and data[pos] == 13:
                        return <Py_ssize_t>pos
                    if self.write_paused or self.out.len > OUT_LIMIT:
                        self.stalled = True     # whoever does not read answers gets no more of them made
                        self.hold()
                        return <Py_ssize_t>pos
                    used = self.head.parse(data + pos, n - pos, self.gate.head_bytes, TAG_HTTP_REQUEST_HEADERS)
                    if used == 0:
                        if (self.idle or self.timer is None or self.timer.slot < 0) and not self.refused:
                            self.idle = False
                            self.arm(self.gate.head_timeout_s)
                        return <Py_ssize_t>pos
                    self.disarm()
                    self.idle = False
                    if self.visitor.trusted:
                        self.said = self.head.forwarding(data + pos, <size_t>used)
                    pos += <size_t>used
                    pos += <size_t>self.begin(data + pos, n - pos)
                elif self.phase == PHASE_BODY:
                    used = self.read_body(data + pos, n - pos)
                    pos += <size_t>used
                    if self.phase == PHASE_BODY:
                        return <Py_ssize_t>pos
                elif self.phase == PHASE_DISCARD:
                    return <Py_ssize_t>n
                else:
                    if pos < n:
                        self.hold()         # pipelined: its turn comes after this answer
                    return <Py_ssize_t>pos
        except BadMessage as error:
            if self.exchange is not None:
                if not self.answer_begun:
                    self.exchange.status = error.status
                self.exchange.reset(CANCELLED, b"the request was malformed or too large")
            elif not self.answer_begun:
                self.count_refusal(error.status)
            if self.answer_begun:
                self.abort()
            else:
                self.keep_alive = False
                self.write_error(error.status, str(error).encode())
                self.phase = PHASE_BODY     # whatever follows is read as well
                self.discard()
            return <Py_ssize_t>n

    cdef Py_ssize_t begin(self, const uint8_t *data, size_t n) except -1:
        """A head is complete: open the exchange, with as much of the body as lies there. Returns the body bytes used."""
        cdef Head head = self.head
        cdef Link link
        self.http10 = head.http10
        self.keep_alive = head.keep_alive and not self.gate.closing
        self.is_head = head.method == b"HEAD"
        self.answer_begun = False
        if self.refused:
            raise BadMessage(503, "there are as many connections from this address as there may be" if self.unwelcome
                             else "the server has as many connections as it may")
        if <size_t>len(head.target) > self.gate.target_bytes:
            raise BadMessage(414, f"request target above {self.gate.target_bytes} bytes")
        if head.websocket:
            self.begin_handshake()
            return 0
        head.start_body(&self.reader)
        self.body_bytes = 0
        if self.reader.mode == BODY_LENGTH:
            self.count_body(self.reader.remaining)
        self.phase = PHASE_ANSWER if self.reader.mode == BODY_NONE else PHASE_BODY
        link = self.gate.find(PROTO_HTTP, head.host, head.target)
        if link is None:
            self.no_link(PROTO_HTTP)
            return 0
        return self.begin_exchange(link, data, n)

    cdef Py_ssize_t begin_exchange(self, Link link, const uint8_t *data, size_t n) except -1:
        cdef Head head = self.head
        cdef Msg m
        cdef bytes trace_id = None          # held until it is encoded
        cdef Slice piece
        cdef size_t used = 0
        cdef uint64_t limit
        cdef int result
        self.visitor.add_fields(&head.block, TAG_HTTP_REQUEST_HEADERS, head.host, self.said)
        link.open(self, PROTO_HTTP)
        memset(&m, 0, sizeof(m))
        m.kind = MSG_HTTP_REQUEST
        m.first = True
        set_slice(&m.method, head.method)
        set_slice(&m.url, head.target)
        set_slice(&m.host, head.host)
        set_slice(&m.scheme, self.visitor.scheme)
        if head.traceparent is not None:
            trace_id = trace_id_of(head.traceparent)
            set_slice(&m.trace_id, trace_id)
        self.gate.began(self.exchange, head.method, head.host, head.target, trace_id, head.traceparent, self.visitor)
        self.keep_request_id()
        m.headers.ptr = head.block.data
        m.headers.len = head.block.len
        if self.phase == PHASE_BODY and n:
            limit = min(self.exchange.sendable(), link.max_fragment)
            result = body_read(&self.reader, data, n, limit, &used, &piece)
            if result < 0:
                raise BadMessage(400, "bad chunk in the body")
            if result == BODY_PIECE:
                m.body = piece
                if self.reader.mode == BODY_CHUNKED:
                    self.count_body(piece.len)
        m.last = self.phase == PHASE_ANSWER or self.reader.mode == BODY_LENGTH and self.reader.remaining == 0
        if m.last:
            self.phase = PHASE_ANSWER
        self.exchange.send(&m)
        buf_free(&head.block)
        return <Py_ssize_t>used

    cdef Py_ssize_t read_body(self, const uint8_t *data, size_t n) except -1:
        cdef size_t pos = 0, used = 0
        cdef uint64_t limit
        cdef Slice piece
        cdef Msg m
        cdef int result
        cdef Py_ssize_t size
        cdef Buf trailers
        while self.exchange is not None:
            limit = min(self.exchange.sendable(), self.exchange.carrier.max_fragment)
            result = body_read(&self.reader, data + pos, n - pos, limit, &used, &piece)
            pos += used
            memset(&m, 0, sizeof(m))
            m.kind = MSG_HTTP_REQUEST
            if result == BODY_PIECE:
                if self.reader.mode == BODY_CHUNKED:
                    self.count_body(piece.len)
                m.body = piece
                m.last = self.reader.mode == BODY_LENGTH and self.reader.remaining == 0
                if m.last:
                    self.phase = PHASE_ANSWER
                self.exchange.send(&m)
                if m.last:
                    return <Py_ssize_t>pos
            elif result == BODY_TRAILERS or result == BODY_DONE:
                memset(&trailers, 0, sizeof(trailers))
                try:
                    if result == BODY_TRAILERS:
                        size = parse_trailers(data + pos, n - pos, self.gate.head_bytes, TAG_HTTP_REQUEST_TRAILERS, &trailers)
                        if size == 0:
                            return <Py_ssize_t>pos
                        pos += <size_t>size
                    m.trailers.ptr = trailers.data
                    m.trailers.len = trailers.len
                    m.last = True
                    self.phase = PHASE_ANSWER
                    self.exchange.send(&m)
                finally:
                    buf_free(&trailers)
                return <Py_ssize_t>pos
            elif result < 0:
                raise BadMessage(400, "bad chunk in the body")
            else:
                if limit == 0 and pos < n:
                    self.blocked = True
                    self.hold()
                return <Py_ssize_t>pos
        return <Py_ssize_t>n

    cdef int count_body(self, uint64_t n) except -1:
        self.body_bytes += n
        if 0 < self.gate.body_bytes < self.body_bytes:
            raise BadMessage(413, f"request body above {self.gate.body_bytes} bytes")
        return 0

    cdef int on_credit(self) except -1:
        if self.blocked:
            self.blocked = False
            self.refeed()
            if not self.blocked and self.phase == PHASE_BODY:
                self.unhold()
        return 0

    # -- requests that nobody serves

    cdef int no_link(self, int protocol) except -1:
        """The client may be away: then wait for it, or say so."""
        cdef bytes where = self.head.host + self.head.target.partition(b"?")[0]
        if self.gate.draining:
            self.refuse(503, b"the server is shutting down")
        elif self.gate.full is not None:
            self.refuse(self.gate.full_status, self.gate.full)
        elif self.gate.away(protocol, self.head.host, self.head.target):
            if self.gate.queue(self, self):
                self.queued_phase = self.phase
                self.phase = PHASE_QUEUED
                return self.arm(self.gate.queue_timeout_s)
            self.refuse(503, b"the client that serves " + where + b" is away")
        else:
            self.refuse(404, b"no tunnel serves " + where
                        + b"\n\nA client that serves everything is started with:\n"
                        b"    fasttunnel client --server HOST:PORT http://127.0.0.1:3000")
        return self.answer_done()

    def wake(self):
        """See Gate.queue."""
        cdef int protocol = PROTO_WEBSOCKET if self.head.websocket else PROTO_HTTP
        cdef Link link = self.gate.find(protocol, self.head.host, self.head.target)
        if link is None:
            if self.gate.full is not None:
                self.give_up_waiting(self.gate.full_status, self.gate.full)
            elif self.gate.draining:
                self.give_up_waiting(503, b"the server is shutting down")
            return
        self.gate.unqueue(self)
        self.disarm()
        self.phase = self.queued_phase
        if self.head.websocket:
            self.begin_websocket(link)
            return
        self.begin_exchange(link, NULL, 0)
        self.unhold()
        self.refeed()

    cdef int give_up_waiting(self, int status, bytes text) except -1:
        self.gate.unqueue(self)
        self.phase = self.queued_phase
        self.refuse(status, text)
        return self.answer_done()

    # -- WebSocket handshake

    cdef int begin_handshake(self) except -1:
        """RFC 6455 4.2.1. The key stays here: the backend is asked with a key of its own."""
        cdef Head head = self.head
        cdef Link link
        self.phase = PHASE_ANSWER
        if head.body_mode != BODY_NONE:     # first of all: whatever else is wrong leaves the connection open
            raise BadMessage(400, "a WebSocket handshake has no body")
        if head.ws_version != b"13":
            self.refuse(426, b"only WebSocket version 13 is spoken here")
            return self.answer_done()
        if not valid_key(head.ws_key):
            self.refuse(400, b"Sec-WebSocket-Key is missing or not 16 bytes in base64")
            return self.answer_done()
        link = self.gate.find(PROTO_WEBSOCKET, head.host, head.target)
        if link is None:
            return self.no_link(PROTO_WEBSOCKET)
        return self.begin_websocket(link)

    cdef int begin_websocket(self, Link link) except -1:
        cdef Head head = self.head
        cdef Msg m
        cdef bytes trace_id = None          # held until it is encoded
        self.phase = PHASE_HANDSHAKE
        self.ws_key = head.ws_key
        self.visitor.add_fields(&head.block, TAG_HTTP_REQUEST_HEADERS, head.host, self.said)
        hdr_retag(&head.block, TAG_WS_REQUEST_HEADERS)
        link.open(self, PROTO_WEBSOCKET)
        memset(&m, 0, sizeof(m))
        m.kind = MSG_WS_REQUEST
        set_slice(&m.url, head.target)
        set_slice(&m.host, head.host)
        if head.ws_protocol is not None:
            set_slice(&m.subprotocol, head.ws_protocol)
        if head.traceparent is not None:
            trace_id = trace_id_of(head.traceparent)
            set_slice(&m.trace_id, trace_id)
        self.gate.began(self.exchange, head.method, head.host, head.target, trace_id, head.traceparent, self.visitor)
        self.keep_request_id()
        m.headers.ptr = head.block.data
        m.headers.len = head.block.len
        self.exchange.send(&m)
        buf_free(&head.block)
        return 0

    cdef int answer_handshake(self, const Msg *m) except -1:
        cdef PublicWebSocket successor
        cdef bytes accept
        cdef bint has_length = False, extensions
        cdef uint64_t length = 0
        cdef size_t mark = self.out.len
        cdef Exchange exchange = self.exchange
        exchange.status = m.status
        if not m.accepted:
            # Refused: the backend's status, fields and body, as an ordinary answer.
            if m.status < 200 or m.status > 599 or m.status == 204 or m.status == 304:
                return self.bad_answer(b"bad status of the backend for a refused handshake")
            write_status_line(&self.out, m.status)
            if write_fields(&self.out, m, TAG_WS_RESPONSE_HEADERS, &has_length, &length):
                self.out.len = mark
                return self.bad_answer(b"bad header field from the backend")
            self.write_request_id(m, TAG_WS_RESPONSE_HEADERS)
            self.keep_alive = self.keep_alive and not self.gate.closing
            write_text(&self.out, "Content-Length: ")
            write_number(&self.out, m.body.len)
            write_text(&self.out, "\r\n\r\n" if self.keep_alive else "\r\nConnection: close\r\n\r\n")
            out_append(&self.out, m.body.ptr, m.body.len)
            exchange.finish(False)
            return self.answer_done()
        accept = websocket_accept(self.ws_key)
        write_text(&self.out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: ")
        write_bytes(&self.out, accept)
        write_text(&self.out, "\r\n")
        if m.subprotocol.len:
            if not hdr_value_ok(m.subprotocol.ptr, m.subprotocol.len):
                self.out.len = mark
                return self.bad_answer(b"bad subprotocol from the backend")
            write_text(&self.out, "Sec-WebSocket-Protocol: ")
            out_append(&self.out, m.subprotocol.ptr, m.subprotocol.len)
            write_text(&self.out, "\r\n")
        if write_fields(&self.out, m, TAG_WS_RESPONSE_HEADERS, &has_length, &length):
            self.out.len = mark
            return self.bad_answer(b"bad header field from the backend")
        self.write_request_id(m, TAG_WS_RESPONSE_HEADERS)
        write_text(&self.out, "\r\n")
        extensions = has_field(m, TAG_WS_RESPONSE_HEADERS, "sec-websocket-extensions")
        successor = PublicWebSocket()
        successor.start_frames(extensions, exchange.carrier.max_fragment, self.gate.ws_message_bytes)
        self.exchange = None
        exchange.endpoint = successor
        successor.exchange = exchange
        exchange.status = 0
        self.take_over(successor)
        successor.lost_close = self.gate.ws_lost_close
        successor.watch(self.gate.ws_ping_interval_s)
        if self.gate.draining or (<Link>exchange.carrier).draining:
            successor.leave()
        return 0

    cdef int take_over(self, PublicWebSocket successor) except -1:
        cdef Buf kept = self.rest
        memset(&self.rest, 0, sizeof(Buf))
        self.hand_over(successor, kept.data, kept.len)
        buf_free(&kept)
        return successor.unhold()

    # -- answers

    cdef int on_message(self, const Msg *m) except -1:
        cdef bint has_length = False
        cdef uint64_t length = 0
        cdef size_t mark = self.out.len
        if m.kind == MSG_WS_RESPONSE:
            return self.answer_handshake(m) if self.phase == PHASE_HANDSHAKE else 0
        if self.phase == PHASE_HANDSHAKE:
            return self.bad_answer(b"the client sent a frame before the handshake was answered")
        if m.informational:
            if m.status < 100 or m.status > 199 or m.status == 101 or self.answer_begun:
                return self.bad_answer(b"bad informational answer from the backend")
            if self.http10:
                return 0                    # RFC 9110 15.2: not for HTTP/1.0
            write_status_line(&self.out, m.status)
            if write_fields(&self.out, m, TAG_HTTP_RESPONSE_HEADERS, &has_length, &length):
                self.out.len = mark
                return self.bad_answer(b"bad header field from the backend")
            write_text(&self.out, "\r\n")
            return self.touch()
        if m.first:
            self.exchange.status = m.status
            if self.write_answer_head(m):
                self.out.len = mark
                return self.bad_answer(b"bad header field from the backend")
            self.answer_begun = True
        if m.body.len and not self.no_body:
            if write_body(self, &self.writer, m.body.ptr, m.body.len):
                return self.bad_answer(b"the backend's answer is longer than its Content-Length")
        self.unconsumed += m.body.len
        self.touch()
        if m.last:
            if not self.no_body and write_body_end(&self.out, &self.writer, m, TAG_HTTP_RESPONSE_TRAILERS):
                return self.bad_answer(b"the backend's answer is shorter than its Content-Length")
            self.exchange.finish(False)
            return self.answer_done()
        return 0

    cdef int write_answer_head(self, const Msg *m) except -1:
        """Status line, fields, and the framing of the body (RFC 9112 6.3). Returns 1 when it may not be written."""
        cdef bint has_length = False
        cdef uint64_t length = 0
        if m.status < 200 or m.status > 999:
            return 1
        self.keep_alive = self.keep_alive and not self.gate.closing
        write_status_line(&self.out, m.status)
        if write_fields(&self.out, m, TAG_HTTP_RESPONSE_HEADERS, &has_length, &length):
            return 1
        self.write_request_id(m, TAG_HTTP_RESPONSE_HEADERS)
        self.no_body = self.is_head or m.status == 204 or m.status == 304
        self.writer.mode = BODY_NONE
        if self.no_body:
            if has_length and m.status != 204:
                write_text(&self.out, "Content-Length: ")
                write_number(&self.out, length)
                write_text(&self.out, "\r\n")
        elif has_length or m.last and (self.http10 or not has_fields(m, TAG_HTTP_RESPONSE_TRAILERS)):
            self.writer.mode = BODY_LENGTH
            self.writer.remaining = length if has_length else m.body.len
            write_text(&self.out, "Content-Length: ")
            write_number(&self.out, self.writer.remaining)
            write_text(&self.out, "\r\n")
        elif self.http10:
            self.writer.mode = BODY_UNTIL_CLOSE
            self.keep_alive = False
        else:
            self.writer.mode = BODY_CHUNKED
            write_text(&self.out, "Transfer-Encoding: chunked\r\n")
        if not self.keep_alive or self.phase == PHASE_BODY:
            write_text(&self.out, "Connection: close\r\n")
            self.keep_alive = False
        elif self.http10:
            write_text(&self.out, "Connection: keep-alive\r\n")
        return write_text(&self.out, "\r\n")

    cdef int answer_done(self) except -1:
        """An answer is complete: on to the next request, or towards the end of the connection."""
        self.blocked = self.answer_begun = self.is_head = False
        if self.phase == PHASE_BODY or not self.keep_alive or self.gate.draining or self.peer_eof and self.rest.len == 0 \
                and not self.feeding:
            return self.discard()
        self.phase = PHASE_HEAD
        self.idle = True
        self.arm(self.gate.keep_alive_timeout_s)
        self.unhold()
        if self.rest.len or self.feeding:
            self.refeed()
        return self.touch()

    cdef int refuse(self, int status, bytes text) except -1:
        """An answer to a request that goes into no tunnel."""
        self.count_refusal(status)
        return self.write_error(status, text)

    cdef int count_refusal(self, int status) except -1:
        cdef Head head = self.head
        if self.phase == PHASE_HEAD:        # it could not be read
            return self.gate.refused(&self.request_id, PROTO_HTTP, status, None, None, None, self.visitor)
        return self.gate.refused(&self.request_id, PROTO_WEBSOCKET if head.websocket else PROTO_HTTP, status, head.method,
                                 head.host, head.target, self.visitor)

    cdef int keep_request_id(self) noexcept:
        """For an answer that may be made when the exchange is gone."""
        memcpy(self.request_id.text, self.exchange.id, 16)
        self.request_id.length = self.exchange.id_len
        return 0

    cdef int write_request_id(self, const Msg *m, uint8_t tag) except -1:
        """The field of an answer that names its request, unless the backend's (m, NULL: none) has it."""
        cdef bytes name = self.gate.request_id_header
        if self.request_id.length == 0 or not name or m != NULL and has_field(m, tag, name):
            return 0
        write_bytes(&self.out, name)
        write_text(&self.out, ": ")
        out_append(&self.out, self.request_id.text, self.request_id.length)
        return write_text(&self.out, "\r\n")

    cdef int write_error(self, int status, bytes text) except -1:
        """An answer of our own, as plain text for a person."""
        cdef bytes body = b"%d: %s\n" % (status, text)
        self.keep_alive = self.keep_alive and not self.gate.closing
        write_status_line(&self.out, status)
        write_text(&self.out, "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n")
        self.write_request_id(NULL, 0)
        if status == 503:
            write_text(&self.out, "Retry-After: 1\r\n")
        elif status == 429:
            write_text(&self.out, "Retry-After: ")
            write_number(&self.out, self.gate.retry_after_s)
            write_text(&self.out, "\r\n")
        elif status == 426:
            write_text(&self.out, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
        elif status == 405:
            write_text(&self.out, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n")
        write_text(&self.out, "Content-Length: ")
        write_number(&self.out, len(body))
        if status == 426:
            write_text(&self.out, "\r\nConnection: Upgrade" if self.keep_alive else "\r\nConnection: Upgrade, close")
        elif not self.keep_alive or self.phase == PHASE_BODY:
            write_text(&self.out, "\r\nConnection: close")
            self.keep_alive = False
        write_text(&self.out, "\r\n\r\n")
        if not self.is_head:
            write_bytes(&self.out, body)
        return self.touch()

    cdef int bad_answer(self, bytes text) except -1:
        """The backend's side cannot be put into HTTP: end the exchange and tell both."""
        if self.exchange is not None:
            self.exchange.reset(PROTOCOL_ERROR, text)
        return self.on_reset(PROTOCOL_ERROR, text)

    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        cdef int status = http_status_of(code)
        if not self.answer_begun and status:
            self.write_error(status, explain(code, text))
            return self.answer_done()
        # The status is out, or there is none to give: all that is left is to break off, so that the body cannot be
        # taken for complete. Only a connection reset says so when the body ends with the connection.
        self.phase = PHASE_DISCARD
        if self.attached and self.answer_begun and self.writer.mode == BODY_UNTIL_CLOSE:
            self.reset_on_close()
            return self.abort()
        return self.close()

    cdef int discard(self) except -1:
        """The last answer is written. A peer that still sends would be reset before it has read it (RFC 9112 9.6): let it
        finish."""
        cdef bint unread = self.phase == PHASE_BODY or self.rest.len > 0
        self.phase = PHASE_DISCARD
        return self.finish() if unread else self.close()

    cdef int written(self) except -1:
        cdef uint64_t n = self.unconsumed
        if n:
            self.unconsumed = 0
            if self.exchange is not None:
                self.exchange.consumed(n)
                if self.peer_eof:
                    self.arm(HALF_CLOSED_S)
        if self.stalled:
            self.stalled = False
            self.unhold()
            self.refeed()
        return 0

    cdef int on_timer(self, object stream) except -1:
        if self.phase == PHASE_HEAD and not self.idle and not self.peer_eof:
            self.keep_alive = False
            self.is_head = False
            self.refuse(408, b"the request head took too long")
            self.phase = PHASE_BODY         # the rest of it may still come
            return self.discard()
        if self.phase == PHASE_QUEUED:
            return self.give_up_waiting(503, b"the client that serves this is away")
        if self.peer_eof and self.write_paused:
            return self.arm(HALF_CLOSED_S)  # not silent: it has not read all yet
        return self.close() if self.idle else self.abort()

    cdef int on_eof(self) except -1:
        if self.phase == PHASE_ANSWER and self.exchange is not None:
            # It may have closed its side only, as HTTP allows, and still wait for the answer; or it is gone, which
            # shows at the next write. So it gets its answer as long as there is some of it to write.
            self.keep_alive = False
            return self.arm(HALF_CLOSED_S)
        if self.exchange is not None:
            self.exchange.reset(CANCELLED, b"the public side closed the connection")
        self.gate.unqueue(self)
        return self.close()

    cdef int on_lost(self, object exc) except -1:
        self.gate.unqueue(self)
        if self.exchange is not None:
            self.exchange.reset(CANCELLED, b"the public side closed the connection")
        return 0
