"""HTTP/2 of the public: each stream is one exchange, gRPC by its content-type and plain HTTP otherwise.

What comes in one read (head, body, end) leaves in one message where that is possible: pump() runs after the read. A stream
without credit gets no WINDOW_UPDATE, its neighbours flow on.
"""
import base64

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fasttunnel._core cimport (
    GRPC_E_TOO_LARGE, GRPC_NEED_MORE, HeaderIter, MSG_GRPC_REQUEST, MSG_HTTP_REQUEST, PROTO_GRPC, PROTO_HTTP, Slice,
    TAG_GRPC_REQUEST_METADATA, TAG_GRPC_RESPONSE_INITIAL, TAG_GRPC_RESPONSE_TRAILING, TAG_HTTP_REQUEST_HEADERS,
    TAG_HTTP_REQUEST_TRAILERS, TAG_HTTP_RESPONSE_HEADERS, TAG_HTTP_RESPONSE_TRAILERS, buf_free, grpc_at_boundary,
    hdr_append, hdr_forwarding, hdr_hop_by_hop, hdr_host_ok, hdr_is, hdr_name_ok, hdr_retag, hdr_target_ok,
    hdr_value_ok, msg_headers, msg_next_header,
)
from fasttunnel.engine._gate cimport explain, grpc_refusal, grpc_status_of, http_status_of, trace_id_of
from fasttunnel.engine._grpc cimport decode_timeout, encode_message, is_grpc_type, status_text
from fasttunnel.engine._http1 cimport has_field, has_fields
from fasttunnel.engine._http2 cimport nv_add, nv_add_lower, nv_add_number, nv_add_text, nv_start
from fasttunnel.engine._link cimport Link
from fasttunnel.engine._nghttp2 cimport NGHTTP2_NV_FLAG_NO_INDEX

from fasttunnel import limits

cdef enum:
    STREAM_WINDOW = 262144
    CONNECTION_WINDOW = 16777216
    MAX_STREAMS = 1024
    MAX_FRAME = 65536
    RESETS = 1000                       # as in the library
    RESETS_PER_S = 33

    CANCELLED = 1
    BACKEND_TIMEOUT = 4
    PROTOCOL_ERROR = 5
    TOO_LARGE = 7
    OVERLOADED = 8

    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_INTERNAL = 13

    H2_NO_ERROR = 0
    H2_INTERNAL_ERROR = 2
    H2_CANCEL = 8
    H2_ENHANCE_YOUR_CALM = 11


cdef void set_slice(Slice *slice, bytes value) noexcept:
    if value is not None:
        slice.ptr = <const uint8_t *><const char *>value
        slice.len = <size_t>len(value)


cdef Py_ssize_t last_slash(bytes path) noexcept:
    """Where the last slash of a path is, -1: it has none."""
    cdef const char *text = path
    cdef Py_ssize_t i = len(path) - 1
    while i >= 0 and text[i] != c"/":
        i -= 1
    return i


cdef class PublicHttp2(Http2Conn):
    def __init__(self, Gate gate):
        self.gate = gate

    cdef int on_connected(self) except -1:
        self.visitor = Visitor(self.peer_address()[0], self.tls != NULL, self.gate.trusted_proxies)
        self.arm(limits.REFUSED_S if self.refused else self.gate.head_timeout_s)
        return self.start_session(True, False, STREAM_WINDOW, CONNECTION_WINDOW, MAX_FRAME, MAX_STREAMS,
                                  <uint32_t>self.gate.head_bytes)

    def wind_down(self):
        self.announce_go_away()

    cdef H2Stream new_stream(self):
        if not self.refused:
            self.arm(self.gate.head_timeout_s)          # until its head is complete
        self.idle = False
        return PublicStream.__new__(PublicStream)

    cdef int detach(self, int32_t stream_id, uint32_t error_code) except -1:
        cdef PublicStream stream
        if error_code != H2_NO_ERROR:
            stream = self.streams.get(stream_id)
            if stream is not None and not stream.answer_done:
                self.count_reset()
        return Http2Conn.detach(self, stream_id, error_code)

    cdef int count_reset(self) except -1:
        """The library counts what the peer resets (CVE-2023-44487), and not what it makes us reset (CVE-2025-8671)."""
        cdef int64_t now_ms = self.reactor.now_ms()
        self.resets = max(0.0, self.resets - <double>(now_ms - self.resets_ms) * RESETS_PER_S / 1000.0) + 1
        self.resets_ms = now_ms
        if self.resets > RESETS:
            return self.terminate(H2_ENHANCE_YOUR_CALM)
        return 0

    cdef int on_stream_gone(self, H2Stream stream) except -1:
        if not (<PublicStream>stream).headers_done:
            self.disarm()
        if self.refused:
            self.go_away()
        elif not self.streams:
            self.idle = True
            self.arm(self.gate.keep_alive_timeout_s)
        return 0

    cdef int on_timer(self, object stream) except -1:
        if stream is not None:
            return (<PublicStream>stream).expire()
        if not self.idle:
            return self.abort()
        self.go_away()
        return self.close()


cdef class PublicStream(H2Stream):
    def __cinit__(self):
        self.body_bytes = -1

    def __dealloc__(self):
        buf_free(&self.block)
        buf_free(&self.trailing)

    # -- request

    cdef int on_header(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
        self.field_bytes += name_len + value_len + 32      # RFC 9113 6.5.2
        if self.field_bytes > (<PublicHttp2>self.conn).gate.head_bytes:
            self.too_large = True
            return 0
        if self.headers_done:               # a gRPC request has no trailers
            if not self.is_grpc and not hdr_forwarding(name, name_len) and hdr_append(&self.trailing, TAG_HTTP_REQUEST_TRAILERS, name, name_len, value, value_len) < 0:
                raise MemoryError
            return 0
        if name_len and name[0] == 58:      # a pseudo-header field; the library has checked which, and how often
            if hdr_is(name, name_len, ":method"):
                self.method = value[:value_len]
            elif hdr_is(name, name_len, ":path"):
                self.path = value[:value_len]
            elif hdr_is(name, name_len, ":scheme"):
                # With another scheme the library does not look at :path.
                self.odd_head = not (hdr_is(value, value_len, "http") or hdr_is(value, value_len, "https"))
            elif hdr_is(name, name_len, ":authority"):
                self.authority = value[:value_len]
            return 0
        if name_len == 4 and hdr_is(name, name_len, "host"):
            if self.authority is None:
                self.authority = value[:value_len]
            elif self.authority.lower() != value[:value_len].lower():
                self.odd_head = True        # RFC 9113 8.3.1: it says where the request goes, and so does :authority
            return 0
        if name_len == 6 and hdr_is(name, name_len, "cookie"):
            self.cookie = value[:value_len] if self.cookie is None else self.cookie + b"; " + value[:value_len]
            return 0
        if name_len == 14 and hdr_is(name, name_len, "content-length"):
            self.body_bytes = self.announced = int(value[:value_len])   # the library has checked that it is a number
        if name_len == 11 and hdr_is(name, name_len, "traceparent"):
            self.traceparent = value[:value_len]
            self.trace_id = trace_id_of(self.traceparent)
        if name_len == 12:
            if hdr_is(name, name_len, "content-type"):
                self.grpc_type = is_grpc_type(value, value_len)
            elif hdr_is(name, name_len, "grpc-timeout"):
                self.timeout_s = decode_timeout(value, value_len)
        if hdr_forwarding(name, name_len):
            if (<PublicHttp2>self.conn).visitor.trusted:
                self.said = self.said or []
                self.said.append((name[:name_len], value[:value_len]))
            return 0
        if hdr_append(&self.block, TAG_HTTP_REQUEST_HEADERS, name, name_len, value, value_len) < 0:
            raise MemoryError
        return 0

    cdef int on_data(self, const uint8_t *data, size_t n) except -1:
        cdef int result
        cdef size_t used
        if self.body_bytes > 0:
            self.body_bytes -= <int64_t>n
        if self.is_grpc and self.first_sent and self.rest.len == 0 and self.exchange is not None:
            # A stream that goes on: whole messages are sent from here. What pump() gets are beginnings and ends, which travel
            # together when they come in one read, and large messages.
            used = self.send_messages(data, n, False, &result)
            self.used(used)
            if used == n:
                return 0
            data += used
            n -= used
        return H2Stream.on_data(self, data, n)

    cdef int on_headers(self) except -1:
        if self.headers_done:
            return 0                        # trailers: pump() sends them with the last chunk
        self.headers_done = True
        self.conn.disarm()
        self.is_head = self.method == b"HEAD"
        self.is_grpc = self.grpc_type and self.method == b"POST"
        return 0

    cdef int begin(self) except -1:
        cdef Gate gate = (<PublicHttp2>self.conn).gate
        cdef Link link
        cdef int protocol = PROTO_GRPC if self.is_grpc else PROTO_HTTP
        if (<PublicHttp2>self.conn).refused:
            return self.refuse(503, b"there are as many connections from this address as there may be"
                                     if self.conn.unwelcome else b"the server has as many connections as it may")
        if self.too_large:
            return self.refuse(431, b"header list above the limit")
        if self.path is None:
            return self.refuse(405, b"CONNECT is not served here")
        if <size_t>len(self.path) > gate.target_bytes:
            return self.refuse(414, b"request target above the limit")
        self.authority = self.authority or b""
        if (self.odd_head or not self.path.startswith(b"/") and not (self.path == b"*" and self.method == b"OPTIONS")
                or not hdr_target_ok(self.path, len(self.path)) or not hdr_host_ok(self.authority, len(self.authority))
                or not hdr_name_ok(self.method, len(self.method))):
            return self.refuse(400, b"bad scheme, path, host or method")
        if self.is_grpc and self.timeout_s < 0:
            return self.refuse(400, b"bad grpc-timeout")
        if self.is_grpc and last_slash(self.path) == 0:
            return self.refuse(404, b"a call has the path /SERVICE/METHOD")
        if not self.is_grpc and 0 < gate.body_bytes < <uint64_t>max(self.announced, 0):
            return self.body_too_large()
        link = gate.find(protocol, self.authority, self.path)
        if link is None:
            return self.no_link(protocol)
        return self.begin_exchange(link, self.timeout_s)

    cdef int body_too_large(self) except -1:
        cdef bint opened = self.exchange is not None
        if opened:
            if not self.answer_begun:
                self.exchange.status = 413
            self.exchange.reset(CANCELLED, b"the request was too large")
        if self.answer_begun:
            return self.on_reset(TOO_LARGE, b"request body above the limit")
        if not opened:
            self.count_refusal(413)
        return self.answer_error(413, b"request body above %d bytes" % (<PublicHttp2>self.conn).gate.body_bytes)

    cdef int no_link(self, int protocol) except -1:
        """Nobody serves the request: the client may be away, then wait for it, or say so."""
        cdef Gate gate = (<PublicHttp2>self.conn).gate
        cdef bytes where = self.authority + self.path.partition(b"?")[0]
        cdef double wait_s = gate.queue_timeout_s
        if gate.draining:
            return self.refuse(503, b"the server is shutting down")
        if gate.full is not None:
            return self.refuse(gate.full_status, gate.full)
        if not gate.away(protocol, self.authority, self.path):
            return self.refuse(404, b"no tunnel serves " + where)
        if not gate.queue(self, self.conn):
            return self.refuse(503, b"the client that serves " + where + b" is away")
        self.queued = True
        self.queued_ms = self.conn.reactor.now_ms()
        if self.is_grpc and self.timeout_s > 0:
            wait_s = min(wait_s, self.timeout_s)
        self.deadline = Timer(self.conn, self)
        return self.conn.reactor.start_timer(self.deadline, wait_s)

    def wake(self):
        """See Gate.queue."""
        cdef Gate gate = (<PublicHttp2>self.conn).gate
        cdef Link link = gate.find(PROTO_GRPC if self.is_grpc else PROTO_HTTP, self.authority, self.path)
        cdef double waited_s
        if link is None and not gate.draining and gate.full is None:
            return
        self.leave_queue()
        if link is None:
            if gate.full is not None:
                self.refuse(gate.full_status, gate.full)
            else:
                self.refuse(503, b"the server is shutting down")
            return
        waited_s = <double>(self.conn.reactor.now_ms() - self.queued_ms) / 1000.0
        self.begin_exchange(link, max(self.timeout_s - waited_s, 0.001) if self.timeout_s > 0 else 0.0)
        self.pump()

    cdef int leave_queue(self) except -1:
        cdef Timer timer = self.deadline
        if self.queued:
            self.queued = False
            self.deadline = None
            (<PublicHttp2>timer.owner).gate.unqueue(self)
            timer.owner.reactor.stop_timer(timer)
        return 0

    cdef int begin_exchange(self, Link link, double timeout_s) except -1:
        cdef Gate gate = (<PublicHttp2>self.conn).gate
        cdef int protocol = PROTO_GRPC if self.is_grpc else PROTO_HTTP
        if self.cookie is not None:
            if hdr_append(&self.block, TAG_HTTP_REQUEST_HEADERS, <const uint8_t *>b"cookie", 6, self.cookie,
                          len(self.cookie)) < 0:
                raise MemoryError
        (<PublicHttp2>self.conn).visitor.add_fields(&self.block, TAG_HTTP_REQUEST_HEADERS, self.authority, self.said)
        link.open(self, protocol)
        self.exchange.grpc_stream_id = <uint32_t>self.id
        gate.began(self.exchange, self.method, self.authority, self.path, self.trace_id, self.traceparent,
                   (<PublicHttp2>self.conn).visitor)
        memcpy(self.request_id.text, self.exchange.id, 16)      # an answer may be made when the exchange is gone
        self.request_id.length = self.exchange.id_len
        if self.is_grpc:
            self.splitter.max_fragment = link.max_fragment
            self.splitter.max_message_bytes = gate.grpc_message_bytes
            hdr_retag(&self.block, TAG_GRPC_REQUEST_METADATA)
            if timeout_s > 0:
                self.deadline = Timer(self.conn, self)
                self.conn.reactor.start_timer(self.deadline, timeout_s)
        return 0

    cdef int pump(self) except -1:
        if not self.begun:
            if not self.headers_done:
                return 0
            self.begun = True
            self.begin()
        if self.queued:
            return 0
        if self.exchange is None:
            return self.take(self.rest.len)
        return self.pump_grpc() if self.is_grpc else self.pump_http()

    cdef int on_credit(self) except -1:
        return self.pump()

    cdef int fill_first(self, Msg *m) except -1:
        """The fields that only the first message of a request carries."""
        cdef Py_ssize_t slash
        m.first = True
        self.first_sent = True
        m.headers.ptr = self.block.data
        m.headers.len = self.block.len
        set_slice(&m.host, self.authority)
        set_slice(&m.trace_id, self.trace_id)
        if self.is_grpc:
            slash = last_slash(self.path)
            m.service.ptr = <const uint8_t *><const char *>self.path + 1
            m.service.len = <size_t>max(slash - 1, 0)
            m.method.ptr = <const uint8_t *><const char *>self.path + slash + 1
            m.method.len = <size_t>(len(self.path) - slash - 1)
        else:
            set_slice(&m.method, self.method)
            set_slice(&m.url, self.path)
            set_slice(&m.scheme, (<PublicHttp2>self.conn).visitor.scheme)
        return 0

    cdef int send_message(self, Msg *m, bint last) except -1:
        cdef bint first = not self.first_sent
        m.kind = MSG_GRPC_REQUEST
        if first:
            self.fill_first(m)
        m.last = self.last_sent = last
        self.exchange.send(m)
        if first:
            buf_free(&self.block)
        return 0

    cdef int pump_grpc(self) except -1:
        cdef Msg m
        cdef int result = GRPC_NEED_MORE
        cdef size_t pos = self.send_messages(self.rest.data, self.rest.len, True, &result)
        if self.exchange is not None and result < 0:
            if result == GRPC_E_TOO_LARGE:
                self.exchange.reset(TOO_LARGE, b"message above the limit of the tunnel")
                self.on_reset(TOO_LARGE, b"message above the limit of the tunnel")
            else:
                self.exchange.reset(PROTOCOL_ERROR, b"bad gRPC message flags from the public side")
                self.on_reset(PROTOCOL_ERROR, b"bad gRPC message flags")
        if self.exchange is not None and not self.last_sent:
            if self.receive_end and result == GRPC_NEED_MORE:
                if pos < self.rest.len or not grpc_at_boundary(&self.splitter):
                    self.exchange.status = GRPC_INTERNAL
                    self.exchange.reset(PROTOCOL_ERROR, b"the request ended inside a message")
                    self.answer_status(GRPC_INTERNAL, b"the request ended inside a message", None, NULL)
                else:
                    self.last_sent = True
            if self.exchange is not None and (self.last_sent or not self.first_sent):
                memset(&m, 0, sizeof(m))
                self.send_message(&m, self.last_sent)
        return self.take(pos if self.exchange is not None else self.rest.len)

    cdef int pump_http(self) except -1:
        cdef Msg m
        cdef size_t pos = 0, n
        cdef uint64_t limit = (<PublicHttp2>self.conn).gate.body_bytes
        while self.exchange is not None and not self.last_sent:
            if 0 < limit < self.exchange.bytes_sent + (self.rest.len - pos):
                self.body_too_large()
                break
            n = min(self.rest.len - pos, self.exchange.carrier.max_fragment)
            if n:
                n = min(n, self.exchange.sendable())
                if n == 0 and self.first_sent:
                    break
            memset(&m, 0, sizeof(m))
            m.kind = MSG_HTTP_REQUEST
            m.last = self.receive_end and pos + n == self.rest.len
            if not self.first_sent:
                self.fill_first(&m)
            elif n == 0 and not m.last:
                break
            if m.last:
                m.trailers.ptr = self.trailing.data
                m.trailers.len = self.trailing.len
            if n:
                m.body.ptr = self.rest.data + pos
                m.body.len = n
            self.last_sent = m.last
            pos += n
            self.exchange.send(&m)
            if m.first:
                buf_free(&self.block)
        return self.take(pos if self.exchange is not None else self.rest.len)

    cdef int expire(self) except -1:
        cdef bint overdue
        if self.queued:
            overdue = self.is_grpc and 0 < self.timeout_s <= (<PublicHttp2>self.conn).gate.queue_timeout_s
            self.leave_queue()
            if overdue:
                self.count_refusal(504)
                return self.answer_status(GRPC_DEADLINE_EXCEEDED, b"the deadline passed while no client serves this", None, NULL)
            return self.refuse(503, b"the client that serves this is away")
        if self.exchange is not None:
            self.exchange.status = GRPC_DEADLINE_EXCEEDED
            self.exchange.reset(CANCELLED, b"the deadline passed before the backend had answered")
            self.on_reset(BACKEND_TIMEOUT, b"the deadline passed before the backend had answered")
        return 0

    # -- answer

    cdef int on_message(self, const Msg *m) except -1:
        if self.conn is None or self.answer_done:
            return 0
        return self.answer_grpc(m) if self.is_grpc else self.answer_http(m)

    cdef int add_fields(self, const Msg *m, uint8_t tag) except -1:
        """The fields of a message into the connection's header list. Returns 1 when one of them may not be sent."""
        cdef HeaderIter it
        cdef Slice name, value
        msg_headers(m, tag, &it)
        while msg_next_header(&it, &name, &value):
            if not hdr_name_ok(name.ptr, name.len) or not hdr_value_ok(value.ptr, value.len):
                return 1
            if hdr_hop_by_hop(name.ptr, name.len) or self.is_grpc and (
                    hdr_is(name.ptr, name.len, "grpc-status") or hdr_is(name.ptr, name.len, "grpc-message")
                    or hdr_is(name.ptr, name.len, "grpc-status-details-bin")):
                continue
            nv_add_lower(&self.conn.nv, name.ptr, name.len, value.ptr, value.len)
        return 0

    cdef int add_request_id(self, const Msg *m, uint8_t tag) except -1:
        """The field of an answer that names its request, unless the backend's (m, NULL: none) has it."""
        cdef bytes name = (<PublicHttp2>self.conn).gate.request_id_header
        if self.request_id.length and name and (m == NULL or not has_field(m, tag, name)):
            nv_add(&self.conn.nv, <const uint8_t *><const char *>name, <size_t>len(name), self.request_id.text,
                   self.request_id.length)
            # It never comes again: in the peer's table (HPACK) it would only take the place of what does.
            self.conn.nv.nv[self.conn.nv.count - 1].flags = NGHTTP2_NV_FLAG_NO_INDEX
        return 0

    cdef int answer_grpc(self, const Msg *m) except -1:
        cdef bint typed = False
        cdef HeaderIter it
        cdef Slice name, value
        if m.first and not (m.last and m.body.ptr == NULL and not has_fields(m, TAG_GRPC_RESPONSE_INITIAL)):
            nv_start(&self.conn.nv, <size_t>(m.end - m.run) + 32)
            nv_add_text(&self.conn.nv, ":status", "200")
            msg_headers(m, TAG_GRPC_RESPONSE_INITIAL, &it)
            while msg_next_header(&it, &name, &value):
                typed = typed or hdr_is(name.ptr, name.len, "content-type")
            if not typed:
                nv_add_text(&self.conn.nv, "content-type", "application/grpc")
            if self.add_fields(m, TAG_GRPC_RESPONSE_INITIAL):
                return self.bad_answer(b"bad metadata from the backend")
            self.add_request_id(m, TAG_GRPC_RESPONSE_INITIAL)
            self.answer_begun = True
            self.conn.submit_response(self, True)
        if m.body.ptr != NULL:
            if self.write_chunk(m):
                return self.bad_answer(b"the tunnel brought fragments of a message that do not add up")
            if self.overfull():
                self.exchange.reset(OVERLOADED, b"messages come faster than the public side reads")
                return self.on_reset(OVERLOADED, b"messages come faster than they are read")
        if m.last:
            if self.writing:
                return self.bad_answer(b"the answer ended inside a message")
            self.exchange.status = m.status
            self.exchange.finish(False)
            return self.answer_status(m.status, m.status_message.ptr[:m.status_message.len] if m.status_message.len else b"",
                                      m.status_details.ptr[:m.status_details.len] if m.status_details.len else None, m)
        return 0

    cdef int answer_status(self, int status, bytes message, bytes details, const Msg *m) except -1:
        """The end of a call: trailers, or the whole answer when nothing was sent before (Trailers-Only)."""
        cdef bytes number = status_text(status)
        cdef bytes text
        if self.conn is None or self.answer_done:
            return 0
        if not self.answer_begun:
            nv_start(&self.conn.nv, (<size_t>(m.end - m.run) if m != NULL else 0) + 32)
            nv_add_text(&self.conn.nv, ":status", "200")
            if m == NULL or not self._typed(m):
                nv_add_text(&self.conn.nv, "content-type", "application/grpc")
            nv_add(&self.conn.nv, <const uint8_t *>b"grpc-status", 11, number, len(number))
            text = encode_message(message)
            if text:
                nv_add(&self.conn.nv, <const uint8_t *>b"grpc-message", 12, text, len(text))
            if details is not None:
                details = base64.b64encode(details).rstrip(b"=")
                nv_add(&self.conn.nv, <const uint8_t *>b"grpc-status-details-bin", 23, details, len(details))
            if m != NULL and (self.add_fields(m, TAG_GRPC_RESPONSE_INITIAL) or self.add_fields(m, TAG_GRPC_RESPONSE_TRAILING)):
                return self.bad_answer(b"bad metadata from the backend")
            if m == NULL or not has_field(m, TAG_GRPC_RESPONSE_TRAILING, (<PublicHttp2>self.conn).gate.request_id_header):
                self.add_request_id(m, TAG_GRPC_RESPONSE_INITIAL)
            self.answer_begun = True
            self.conn.submit_response(self, False)
            return self.finish_answer()
        self.add_trailer(<const uint8_t *>b"grpc-status", 11, number, len(number))
        text = encode_message(message)
        if text:
            self.add_trailer(<const uint8_t *>b"grpc-message", 12, text, len(text))
        if details is not None:
            details = base64.b64encode(details).rstrip(b"=")
            self.add_trailer(<const uint8_t *>b"grpc-status-details-bin", 23, details, len(details))
        if m != NULL:
            self._add_trailers(m, TAG_GRPC_RESPONSE_TRAILING)
        self.write_end()
        return self.finish_answer()

    cdef bint _typed(self, const Msg *m) noexcept:
        cdef HeaderIter it
        cdef Slice name, value
        cdef uint8_t tag
        for tag in (<uint8_t>TAG_GRPC_RESPONSE_INITIAL, <uint8_t>TAG_GRPC_RESPONSE_TRAILING):
            msg_headers(m, tag, &it)
            while msg_next_header(&it, &name, &value):
                if hdr_is(name.ptr, name.len, "content-type"):
                    return True
        return False

    cdef int _add_trailers(self, const Msg *m, uint8_t tag) except -1:
        cdef HeaderIter it
        cdef Slice name, value
        cdef bytes lower
        msg_headers(m, tag, &it)
        while msg_next_header(&it, &name, &value):
            if not hdr_name_ok(name.ptr, name.len) or not hdr_value_ok(value.ptr, value.len) \
                    or hdr_hop_by_hop(name.ptr, name.len) or hdr_is(name.ptr, name.len, "content-type"):
                continue
            lower = name.ptr[:name.len].lower()
            if self.is_grpc and lower in (b"grpc-status", b"grpc-message", b"grpc-status-details-bin"):
                continue
            self.add_trailer(lower, len(lower), value.ptr, value.len)
        return 0

    cdef int answer_http(self, const Msg *m) except -1:
        cdef bint empty
        if m.informational:
            if m.status < 100 or m.status > 199 or m.status == 101 or self.answer_begun:
                return self.bad_answer(b"bad informational answer from the backend")
            nv_start(&self.conn.nv, <size_t>(m.end - m.run) + 32)
            nv_add_number(&self.conn.nv, ":status", <uint64_t>m.status)
            if self.add_fields(m, TAG_HTTP_RESPONSE_HEADERS):
                return self.bad_answer(b"bad header field from the backend")
            return self.conn.submit_informational(self)
        if m.first:
            self.exchange.status = m.status
            if m.status < 200 or m.status > 999:
                return self.bad_answer(b"bad status from the backend")
            nv_start(&self.conn.nv, <size_t>(m.end - m.run) + 32)
            nv_add_number(&self.conn.nv, ":status", <uint64_t>m.status)
            if self.add_fields(m, TAG_HTTP_RESPONSE_HEADERS):
                return self.bad_answer(b"bad header field from the backend")
            self.add_request_id(m, TAG_HTTP_RESPONSE_HEADERS)
            self.answer_begun = True
            empty = self.is_head or m.status == 204 or m.status == 304 or (
                m.last and m.body.len == 0 and not has_fields(m, TAG_HTTP_RESPONSE_TRAILERS))
            self.conn.submit_response(self, not empty)
            self.out_end = empty
        if m.body.len:
            if self.out_end:
                self.exchange.consumed(m.body.len)      # the body of an answer that has none: dropped
            else:
                self.write(m.body.ptr, m.body.len)
        if m.last:
            self.exchange.finish(False)
            if not self.out_end:
                self._add_trailers(m, TAG_HTTP_RESPONSE_TRAILERS)
                self.write_end()
            return self.finish_answer()
        return 0

    cdef int finish_answer(self) except -1:
        self.answer_done = True
        if self.deadline is not None:
            self.conn.reactor.stop_timer(self.deadline)
            self.deadline = None
        if not self.receive_end and self.body_bytes != 0:
            self.end_request = True         # RFC 9113 8.1: an early answer; the rest of the request is not wanted
        return self.take(self.rest.len)

    cdef int refuse(self, int status, bytes text) except -1:
        """An answer to a request that goes into no tunnel."""
        self.count_refusal(status)
        return self.answer_error(status, text)

    cdef int count_refusal(self, int status) except -1:
        cdef PublicHttp2 conn = self.conn
        return conn.gate.refused(&self.request_id, PROTO_GRPC if self.is_grpc else PROTO_HTTP, status, self.method, self.authority,
                                 self.path, conn.visitor)

    cdef int answer_error(self, int status, bytes text) except -1:
        """An answer of our own."""
        cdef bytes body
        if self.is_grpc:
            return self.answer_status(grpc_refusal(status), text, None, NULL)
        body = b"%d: %s\n" % (status, text)
        nv_start(&self.conn.nv, 64)
        nv_add_number(&self.conn.nv, ":status", <uint64_t>status)
        nv_add_text(&self.conn.nv, "content-type", "text/plain; charset=utf-8")
        nv_add_text(&self.conn.nv, "x-content-type-options", "nosniff")
        self.add_request_id(NULL, 0)
        nv_add_number(&self.conn.nv, "content-length", <uint64_t>len(body))
        if status == 503:
            nv_add_text(&self.conn.nv, "retry-after", "1")
        elif status == 429:
            nv_add_number(&self.conn.nv, "retry-after", <uint64_t>(<PublicHttp2>self.conn).gate.retry_after_s)
        self.answer_begun = True
        self.conn.submit_response(self, not self.is_head)
        if not self.is_head:
            self.write(body, <size_t>len(body))
            self.write_end()
        return self.finish_answer()

    cdef int bad_answer(self, bytes text) except -1:
        if self.exchange is not None:
            self.exchange.reset(PROTOCOL_ERROR, text)
        return self.on_reset(PROTOCOL_ERROR, text)

    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        cdef int status = http_status_of(code)
        if self.conn is None or self.answer_done:
            return 0
        text = explain(code, text)
        if self.is_grpc and self.writing == 0:
            return self.answer_status(grpc_status_of(code), text, None, NULL)
        if not self.answer_begun and status:
            return self.answer_error(status, text)
        self.finish_answer()
        self.end_request = False
        return self.rst(H2_CANCEL if code == CANCELLED else H2_INTERNAL_ERROR)

    cdef int on_closed(self, uint32_t error_code) except -1:
        self.leave_queue()
        if self.deadline is not None:
            self.deadline.owner.reactor.stop_timer(self.deadline)
            self.deadline = None
        if self.exchange is not None:
            self.exchange.reset(CANCELLED, b"the public side cancelled the request")
        return 0
