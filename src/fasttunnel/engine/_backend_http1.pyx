"""HTTP/1.1 connections to backends (RFC 9112): one request at a time, then kept for the next.

A connection is an endpoint from the moment it is dialled: what is to be sent waits in its output.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fasttunnel._core cimport (
    BODY_CHUNKED, BODY_DONE, BODY_LENGTH, BODY_NONE, BODY_PIECE, BODY_TRAILERS, BODY_UNTIL_CLOSE, Buf, HEAD_CONNECT, HEAD_GET,
    HEAD_HEAD, HEAD_OPTIONS, HEAD_PATCH, HEAD_POST, HEAD_PUT, HEAD_TRACE, MSG_HTTP_REQUEST, MSG_HTTP_RESPONSE, Slice,
    TAG_HTTP_REQUEST_HEADERS, TAG_HTTP_REQUEST_TRAILERS, TAG_HTTP_RESPONSE_HEADERS, TAG_HTTP_RESPONSE_TRAILERS, body_read,
    buf_free, hdr_name_ok, hdr_target_ok, hdr_value_ok, head_method_number,
)
from fasttunnel.engine._http1 cimport (
    has_fields, parse_trailers, write_body, write_body_end, write_bytes, write_fields, write_number, write_text,
)
from fasttunnel.engine._exchange cimport Exchange
from fasttunnel.engine._http1 import BadMessage
from fasttunnel.engine._out cimport out_append, out_copy

cdef enum:
    NO_ERROR = 0
    BACKEND_UNREACHABLE = 3
    BACKEND_TIMEOUT = 4
    PROTOCOL_ERROR = 5
    IDLE_MAX = 64                       # kept connections to one backend


cdef inline bint repeatable(int method) noexcept:
    """Safe methods, RFC 9110 9.2.1."""
    return method == HEAD_GET or method == HEAD_HEAD or method == HEAD_OPTIONS or method == HEAD_TRACE


cdef inline bint body_expected(int method) noexcept:
    return method == HEAD_POST or method == HEAD_PUT or method == HEAD_PATCH


cdef Endpoint open_request(Plan plan):
    """A kept connection, or a new one that is being dialled."""
    cdef Target target = plan.target
    cdef BackendHttp1 conn
    while target.idle:
        conn = target.idle.pop()
        if conn.attached and conn.fd >= 0 and not conn.closing and not conn.peer_eof and not conn.broken:
            conn.disarm()
            conn.plan = plan
            conn.reused = True
            return conn
    conn = BackendHttp1(plan)
    target.dial(conn)
    return conn


cdef int write_request_head(Out *out, Slice method, Plan plan, const Msg *m, uint8_t tag, bint *has_length,
                            uint64_t *length) except -1:
    """Request line, Host and fields, without the empty line. Returns 1 when something in it may not be written."""
    cdef bytes host = plan.host or plan.target.authority
    if (not hdr_name_ok(method.ptr, method.len) or not hdr_target_ok(plan.url, len(plan.url))
            or plan.url[0] != c"/" and plan.url != b"*"
            or not hdr_value_ok(host, len(host))):
        return 1
    out_append(out, method.ptr, method.len)
    write_text(out, " ")
    write_bytes(out, plan.url)
    write_text(out, " HTTP/1.1\r\nHost: ")
    write_bytes(out, host)
    write_text(out, "\r\n")
    return write_fields(out, m, tag, has_length, length)


cdef class BackendHttp1(Conn):
    def __init__(self, Plan plan):
        self.plan = plan
        self.target = plan.target
        self.head = Head(False)

    def leave(self):
        if self.exchange is None:
            self.close()

    # -- request

    cdef int on_message(self, const Msg *m) except -1:
        cdef size_t mark = self.out.len
        if m.kind != MSG_HTTP_REQUEST:
            return 0
        if m.first and self.write_request(m):
            self.out.len = mark
            return self.fail_request(PROTOCOL_ERROR, b"the request cannot be written as HTTP/1.1")
        if m.body.len:
            if write_body(self, &self.writer, m.body.ptr, m.body.len):
                return self.fail_request(PROTOCOL_ERROR, b"the tunnel brought a body longer than its Content-Length")
            self.unconsumed += m.body.len
        if m.last:
            if write_body_end(&self.out, &self.writer, m, TAG_HTTP_REQUEST_TRAILERS):
                return self.fail_request(PROTOCOL_ERROR, b"the tunnel brought a body shorter than its Content-Length")
            self.request_done = True
        return self.touch()

    cdef int write_request(self, const Msg *m) except -1:
        cdef int method = head_method_number(m.method.ptr, m.method.len)
        cdef bint has_length = False
        cdef uint64_t length = 0
        cdef size_t mark = self.out.len
        self.is_head = method == HEAD_HEAD
        self.request_done = self.in_answer = self.blocked = False
        self.replay = None
        if method == HEAD_CONNECT or write_request_head(&self.out, m.method, self.plan, m, TAG_HTTP_REQUEST_HEADERS, &has_length,
                                                        &length):
            return 1
        self.writer.mode = BODY_NONE
        if has_length or m.last and (m.body.len or body_expected(method)) and not has_fields(m, TAG_HTTP_REQUEST_TRAILERS):
            self.writer.mode = BODY_LENGTH
            self.writer.remaining = length if has_length else m.body.len
            write_text(&self.out, "Content-Length: ")
            write_number(&self.out, self.writer.remaining)
            write_text(&self.out, "\r\n")
        elif not m.last or has_fields(m, TAG_HTTP_REQUEST_TRAILERS):
            self.writer.mode = BODY_CHUNKED
            write_text(&self.out, "Transfer-Encoding: chunked\r\n")
        write_text(&self.out, "\r\n")
        if self.reused and m.last and m.body.len == 0 and repeatable(method):
            self.replay = out_copy(&self.out, mark)
        return 0

    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        # A request that is broken off leaves a connection in the middle of a message.
        return self.abort()

    cdef int written(self) except -1:
        cdef uint64_t n = self.unconsumed
        if n:
            self.unconsumed = 0
            if self.exchange is not None:
                self.exchange.consumed(n)
        return 0

    # -- answer

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        cdef size_t pos = 0, used = 0
        cdef Py_ssize_t size
        if n and self.exchange is None:
            self.abort()                    # an answer to nothing
            return <Py_ssize_t>n
        self.replay = None
        try:
            while pos < n and self.exchange is not None:
                if self.in_answer:
                    pos += <size_t>self.read_body(data + pos, n - pos)
                    if self.in_answer:
                        return <Py_ssize_t>pos
                    break
                size = self.head.parse(data + pos, n - pos, self.target.head_bytes, TAG_HTTP_RESPONSE_HEADERS)
                if size == 0:
                    return <Py_ssize_t>pos
                pos += <size_t>size
                self.send_head(data + pos, n - pos, &used)
                pos += used
        except BadMessage as error:
            self.fail_request(PROTOCOL_ERROR, b"bad answer from the backend: " + str(error).encode())
            return <Py_ssize_t>n
        if pos < n:
            self.abort()                    # more than one answer to a request
        return <Py_ssize_t>n

    cdef int send_head(self, const uint8_t *data, size_t n, size_t *used) except -1:
        cdef Head head = self.head
        cdef Msg m
        cdef Slice piece
        cdef uint64_t limit
        cdef int result
        used[0] = 0
        memset(&m, 0, sizeof(m))
        m.kind = MSG_HTTP_RESPONSE
        m.status = head.status
        m.headers.ptr = head.block.data
        m.headers.len = head.block.len
        if head.status == 101:
            raise BadMessage(502, "101 without an upgrade")
        if head.status < 200:
            if self.exchange.one_interim_too_many(head.block.len):
                raise BadMessage(502, "too many informational answers")
            m.informational = True
            self.exchange.send(&m)
            return 0
        m.first = True
        if self.is_head or head.status == 204 or head.status == 304:
            head.body_mode = BODY_NONE
        head.start_body(&self.reader)
        self.keep_alive = head.keep_alive and self.reader.mode != BODY_UNTIL_CLOSE
        self.in_answer = True
        if self.reader.mode != BODY_NONE and n:
            limit = min(self.exchange.sendable(), self.exchange.carrier.max_fragment)
            result = body_read(&self.reader, data, n, limit, used, &piece)
            if result < 0:
                raise BadMessage(502, "bad chunk in the body")
            if result == BODY_PIECE:
                m.body = piece
        m.last = self.reader.mode == BODY_NONE or self.reader.mode == BODY_LENGTH and self.reader.remaining == 0
        if m.last:
            return self.send_last(&m)
        self.exchange.send(&m)
        return 0

    cdef int send_last(self, Msg *m) except -1:
        """The last chunk of the answer; a request that is still coming is not wanted any more."""
        m.last = True
        self.exchange.send(m)
        if not self.request_done:
            self.keep_alive = False
            if self.exchange is not None:
                self.exchange.reset(NO_ERROR, b"")
        elif self.exchange is not None:
            self.exchange.finish(False)
        return self.answer_done()

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
            m.kind = MSG_HTTP_RESPONSE
            if result == BODY_PIECE:
                m.body = piece
                if self.reader.mode == BODY_LENGTH and self.reader.remaining == 0:
                    self.send_last(&m)
                    return <Py_ssize_t>pos
                self.exchange.send(&m)
            elif result == BODY_DONE or result == BODY_TRAILERS:
                memset(&trailers, 0, sizeof(trailers))
                try:
                    if result == BODY_TRAILERS:
                        size = parse_trailers(data + pos, n - pos, self.target.head_bytes,
                                              TAG_HTTP_RESPONSE_TRAILERS, &trailers)
                        if size == 0:
                            return <Py_ssize_t>pos
                        pos += <size_t>size
                    m.trailers.ptr = trailers.data
                    m.trailers.len = trailers.len
                    self.send_last(&m)
                finally:
                    buf_free(&trailers)
                return <Py_ssize_t>pos
            elif result < 0:
                raise BadMessage(502, "bad chunk in the body")
            else:
                if limit == 0 and pos < n:
                    self.blocked = True
                    self.hold()
                return <Py_ssize_t>pos
        return <Py_ssize_t>n

    cdef int on_credit(self) except -1:
        if self.blocked:
            self.blocked = False
            self.refeed()
            if not self.blocked:
                self.unhold()
                if self.peer_eof and self.exchange is not None:
                    return self.on_eof()
        return 0

    cdef int answer_done(self) except -1:
        self.in_answer = False
        self.plan = None
        if not self.keep_alive or self.peer_eof or self.broken or self.closing or len(self.target.idle) >= IDLE_MAX:
            return self.close()
        self.target.idle.append(self)
        return self.arm(self.target.keep_alive_timeout_s)

    cdef int fail_request(self, uint32_t code, bytes text) except -1:
        if self.exchange is not None:
            self.exchange.reset(code, text)
        return self.abort()

    # -- connection

    def connect_failed(self, str text, bint timed_out):
        cdef bytes told = self.target.failed(text, timed_out)
        self.connecting = False
        if self.exchange is not None:
            self.exchange.reset(BACKEND_TIMEOUT if timed_out else BACKEND_UNREACHABLE, told)

    cdef int on_eof(self) except -1:
        cdef Msg m
        if self.exchange is not None and self.in_answer and self.reader.mode == BODY_UNTIL_CLOSE:
            if self.blocked or self.rest.len:
                return 0                    # once the rest has gone, on_credit() comes here again
            memset(&m, 0, sizeof(m))
            m.kind = MSG_HTTP_RESPONSE
            return self.send_last(&m)
        if self.exchange is not None and self.blocked:
            return 0
        return self.close() if self.exchange is None else self.abort()

    cdef int on_timer(self, object stream) except -1:
        if self in self.target.idle:
            self.target.idle.remove(self)
        return self.close()

    cdef int on_lost(self, object exc) except -1:
        cdef BackendHttp1 fresh
        cdef Exchange exchange = self.exchange
        if exchange is None:
            if self in self.target.idle:
                self.target.idle.remove(self)
            return 0
        if self.replay is not None:
            # The backend closed a kept connection just as it was used; nothing has come back, and a safe method may be
            # sent again (RFC 9110 9.2.2).
            fresh = BackendHttp1(self.plan)
            fresh.is_head = self.is_head
            fresh.request_done = True
            out_append(&fresh.out, <const char *>self.replay, len(self.replay))
            self.exchange = None
            exchange.endpoint = fresh
            fresh.exchange = exchange
            return self.target.dial(fresh)
        exchange.reset(BACKEND_UNREACHABLE, b"the backend closed the connection"
                       + (b" in the middle of its answer" if self.in_answer else b" without an answer"))
        return 0
