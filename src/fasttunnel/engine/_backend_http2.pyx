"""gRPC calls on HTTP/2 connections to backends.

A call is submitted at once; the library queues what the backend's MAX_CONCURRENT_STREAMS does not allow yet, and another
connection is dialled before that happens.
"""
import base64
import binascii

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from fasttunnel._core cimport (
    GRPC_E_TOO_LARGE, GRPC_NEED_MORE, HeaderIter, MSG_GRPC_REQUEST, MSG_GRPC_RESPONSE, Slice,
    TAG_GRPC_REQUEST_METADATA, TAG_GRPC_RESPONSE_INITIAL, TAG_GRPC_RESPONSE_TRAILING, buf_append, buf_free,
    grpc_at_boundary, hdr_append, hdr_hop_by_hop, hdr_is, hdr_name_ok, hdr_retag, hdr_target_ok, hdr_value_ok,
    msg_headers, msg_decode, msg_next_header,
)
from fasttunnel.engine._exchange cimport Exchange
from fasttunnel.engine._grpc cimport decode_message, is_grpc_type, small_number, status_for_http
from fasttunnel.engine._http2 cimport nv_add, nv_add_lower, nv_add_text, nv_start

cdef enum:
    STREAM_WINDOW = 262144
    CONNECTION_WINDOW = 16777216
    MAX_FRAME = 65536
    CONNECTIONS_MAX = 8                 # to one backend
    REPLAY_BYTES = 65536                # of a request that are kept in case its stream is refused
    ATTEMPTS_MAX = 5
    CALLS_PER_CONNECTION = 100          # before another connection is dialled, where the backend allows more

    NO_ERROR = 0
    CANCELLED = 1
    BACKEND_UNREACHABLE = 3
    BACKEND_TIMEOUT = 4
    PROTOCOL_ERROR = 5
    TOO_LARGE = 7
    OVERLOADED = 8

    H2_NO_ERROR = 0
    H2_PROTOCOL_ERROR = 1
    H2_REFUSED_STREAM = 7
    H2_CANCEL = 8
    H2_ENHANCE_YOUR_CALM = 11
    H2_INADEQUATE_SECURITY = 12

    GRPC_UNKNOWN = 2
    GRPC_INTERNAL = 13


cdef Endpoint open_call(Plan plan):
    """A call on the connection with the fewest, or on a new one when all are full."""
    cdef BackendCall call = BackendCall.__new__(BackendCall)
    cdef BackendHttp2 conn, best = None
    cdef Target target = plan.target
    for conn in target.multiplexed:
        if conn.takes_calls() and (best is None or conn.active < best.active):
            best = conn
    if best is None or best.active >= best.capacity() and len(target.multiplexed) < CONNECTIONS_MAX:
        best = BackendHttp2(target)
        target.multiplexed.append(best)
        target.dial(best)
        best.begin()
    call.home = best
    call.plan = plan
    best.active += 1
    return call


cdef class BackendHttp2(Http2Conn):
    def __init__(self, Target target):
        self.target = target

    cdef int begin(self) except -1:
        return self.start_session(False, False, STREAM_WINDOW, CONNECTION_WINDOW, MAX_FRAME, 0,
                                  <uint32_t>self.target.head_bytes)

    cdef bint takes_calls(self) noexcept:
        if self.closing or self.going_away or self.peer_eof or self.broken:
            return False
        return self.connecting or self.attached and self.fd >= 0

    cdef int capacity(self) noexcept:
        if not self.settled:
            return CALLS_PER_CONNECTION
        return <int>min(self.peer_max_streams(), <uint32_t>CALLS_PER_CONNECTION)

    cdef int on_goaway(self, int32_t last_stream_id, uint32_t error_code) except -1:
        self.forget()
        return 0

    cdef int on_stream_gone(self, H2Stream stream) except -1:
        self.active -= 1
        return 0

    def forget(self):
        if self in self.target.multiplexed:
            self.target.multiplexed.remove(self)

    def connect_failed(self, str text, bint timed_out):
        cdef BackendCall call
        cdef dict streams = self.streams
        cdef bytes told = self.target.failed(text, timed_out)
        self.connecting = False
        self.forget()
        self.streams = {}
        for call in streams.values():
            call.conn = None
            call.fail_call(BACKEND_TIMEOUT if timed_out else BACKEND_UNREACHABLE, told)

    cdef int on_eof(self) except -1:
        self.forget()
        return self.close() if self.active == 0 else self.abort()

    cdef int on_lost(self, object exc) except -1:
        self.forget()
        return Http2Conn.on_lost(self, exc)


cdef class BackendCall(H2Stream):
    def __cinit__(self):
        self.status = -1
        self.replayable = True

    def __dealloc__(self):
        buf_free(&self.block)
        buf_free(&self.trailing)
        buf_free(&self.replay)

    # -- request

    cdef int on_message(self, const Msg *m) except -1:
        if m.kind != MSG_GRPC_REQUEST:
            return 0
        if m.first and self.open(m):
            return self.fail_call(PROTOCOL_ERROR, b"the call cannot be sent as HTTP/2")
        if self.conn is None:
            return 0
        if self.replayable:
            self.remember(m)
        if m.body.ptr != NULL:
            if self.write_chunk(m):
                return self.fail_call(PROTOCOL_ERROR, b"the tunnel brought fragments of a message that do not add up")
            if self.overfull():
                return self.fail_call(OVERLOADED, b"messages come faster than the backend reads")
        if m.last:
            if self.writing:
                return self.fail_call(PROTOCOL_ERROR, b"the request ended inside a message")
            self.request_done = True
            self.write_end()
        return 0

    cdef int remember(self, const Msg *m) except -1:
        """Keep the request while it is short and unanswered: a refused stream may be sent again (RFC 9113 8.7)."""
        cdef uint32_t n = <uint32_t>(m.end - m.run)
        if self.replay.len + n > REPLAY_BYTES:
            self.replayable = False
            buf_free(&self.replay)
        elif buf_append(&self.replay, <const uint8_t *>&n, 4) < 0 or buf_append(&self.replay, m.run, n) < 0:
            raise MemoryError
        return 0

    cdef int retry(self) except -1:
        """Send the call once more, on whatever connection there is now. Returns 1 when that is not possible."""
        cdef BackendCall fresh
        cdef Exchange exchange = self.exchange
        cdef Msg m
        cdef size_t pos = 0, where = 0
        cdef uint32_t n
        if not self.replayable or self.headers_done or self.attempts + 1 == ATTEMPTS_MAX:
            return 1
        fresh = open_call(self.plan)
        fresh.attempts = self.attempts + 1
        self.exchange = None
        exchange.endpoint = fresh
        fresh.exchange = exchange
        while pos < self.replay.len and fresh.exchange is not None:
            memcpy(&n, self.replay.data + pos, 4)
            msg_decode(self.replay.data + pos + 4, n, &m, &where)
            fresh.on_message(&m)
            pos += n + 4
        return 0

    cdef int open(self, const Msg *m) except -1:
        """Submit the call. Returns 1 when its head may not be sent."""
        cdef BackendHttp2 conn = self.home
        cdef bytes authority = self.plan.host or self.plan.target.authority
        cdef bytes path = self.plan.url
        cdef HeaderIter it
        cdef Slice name, value
        cdef bint typed = False
        self.splitter.max_fragment = self.exchange.carrier.max_fragment
        self.splitter.max_message_bytes = self.plan.target.grpc_message_bytes
        if not hdr_target_ok(path, len(path)) or not hdr_value_ok(authority, len(authority)):
            return 1
        nv_start(&conn.nv, <size_t>(m.end - m.run))
        nv_add_text(&conn.nv, ":method", "POST")
        nv_add_text(&conn.nv, ":scheme", "https" if self.plan.target.tls_context is not None else "http")
        nv_add(&conn.nv, <const uint8_t *>b":path", 5, path, len(path))
        nv_add(&conn.nv, <const uint8_t *>b":authority", 10, authority, len(authority))
        nv_add_text(&conn.nv, "te", "trailers")
        msg_headers(m, TAG_GRPC_REQUEST_METADATA, &it)
        while msg_next_header(&it, &name, &value):
            if not hdr_name_ok(name.ptr, name.len) or not hdr_value_ok(value.ptr, value.len):
                return 1
            if hdr_hop_by_hop(name.ptr, name.len) or hdr_is(name.ptr, name.len, "host"):
                continue
            # Calls need none; one that is wrong would cost the other calls of this connection too with some backends.
            if hdr_is(name.ptr, name.len, "content-length"):
                continue
            typed = typed or hdr_is(name.ptr, name.len, "content-type")
            nv_add_lower(&conn.nv, name.ptr, name.len, value.ptr, value.len)
        if not typed:
            nv_add_text(&conn.nv, "content-type", "application/grpc")
        if conn.submit_request(self, True):
            return 1
        self.exchange.grpc_stream_id = <uint32_t>self.id
        return 0

    cdef int on_credit(self) except -1:
        return self.pump()

    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        if self.conn is None:
            if self.id == 0:
                self.home.active -= 1
            return 0
        return self.rst(H2_NO_ERROR if code == NO_ERROR else H2_CANCEL)

    # -- answer

    cdef int on_header(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
        self.field_bytes += name_len + value_len + 32
        if self.field_bytes > self.home.target.head_bytes:
            self.failure = b"header list of the backend's answer above the limit"
            return 0
        if name_len and name[0] == 58:
            self.http_status = small_number(value, value_len)
            self.informational = self.http_status < 200
            return 0
        if self.informational:
            return 0
        if name_len == 11 and hdr_is(name, name_len, "grpc-status"):
            self.status = small_number(value, value_len)
            if self.status < 0:
                self.status = GRPC_UNKNOWN
            return 0
        if name_len == 12:
            if hdr_is(name, name_len, "grpc-message"):
                self.message = decode_message(value[:value_len])
                return 0
            if hdr_is(name, name_len, "content-type"):
                self.typed = is_grpc_type(value, value_len)
        elif name_len == 23 and hdr_is(name, name_len, "grpc-status-details-bin"):
            self.details = decode_details(value[:value_len])
            return 0
        if self.headers_done:
            if hdr_append(&self.trailing, TAG_GRPC_RESPONSE_TRAILING, name, name_len, value, value_len) < 0:
                raise MemoryError
        elif hdr_append(&self.block, TAG_GRPC_RESPONSE_INITIAL, name, name_len, value, value_len) < 0:
            raise MemoryError
        return 0

    cdef int on_headers(self) except -1:
        if self.informational:
            self.informational = False
            return 0
        if not self.headers_done:
            self.headers_done = True
            self.trailers_only = self.receive_end
            self.replayable = False
            buf_free(&self.replay)
        return 0

    cdef int on_data(self, const uint8_t *data, size_t n) except -1:
        cdef int result
        cdef size_t used
        if self.first_sent and self.rest.len == 0 and self.exchange is not None and self.failure is None:
            # A stream that goes on: whole messages are sent from here. What pump() gets are beginnings and ends, which travel
            # together when they come in one read, and large messages.
            used = self.send_messages(data, n, False, &result)
            self.used(used)
            if used == n:
                return 0
            data += used
            n -= used
        return H2Stream.on_data(self, data, n)

    cdef int send_message(self, Msg *m, bint last) except -1:
        m.kind = MSG_GRPC_RESPONSE
        self.put_fields(m)
        if last:
            self.put_status(m)
        return self.send_chunk(m)

    cdef int pump(self) except -1:
        cdef Msg m
        cdef size_t pos
        cdef int result = GRPC_NEED_MORE
        if self.exchange is None:
            return self.take(self.rest.len)
        if self.failure is not None:
            return self.fail_call(PROTOCOL_ERROR, self.failure)
        if not self.headers_done:
            return 0
        if self.http_status != 200 or not self.typed:
            if self.status < 0:
                # Not gRPC: a proxy or a web server answers. Its body says nothing that a gRPC client could read.
                self.status = status_for_http(self.http_status) if self.http_status != 200 else GRPC_UNKNOWN
                self.message = b"the backend answered with HTTP status %d%s" % (
                    self.http_status, b"" if self.typed else b" and no gRPC content-type")
            buf_free(&self.block)
            self.send_end()
            return self.rst(H2_CANCEL)
        if self.trailers_only:
            # Its one header block is both; the end of the call is what it is about.
            hdr_retag(&self.block, TAG_GRPC_RESPONSE_TRAILING)
            self.trailing = self.block
            memset(&self.block, 0, sizeof(Buf))
            return self.send_end()
        pos = self.send_messages(self.rest.data, self.rest.len, True, &result)
        if self.exchange is not None:
            if result < 0:
                if result == GRPC_E_TOO_LARGE:
                    return self.fail_call(TOO_LARGE, b"message above the limit of the tunnel")
                return self.fail_call(PROTOCOL_ERROR, b"bad gRPC message flags from the backend")
            if self.receive_end and result == GRPC_NEED_MORE:
                if pos < self.rest.len or not grpc_at_boundary(&self.splitter):
                    self.status = GRPC_INTERNAL
                    return self.fail_call(PROTOCOL_ERROR, b"the backend's answer ended inside a message")
                self.send_end()
            elif not self.first_sent:
                memset(&m, 0, sizeof(m))
                self.send_message(&m, False)
        return self.take(pos if self.exchange is not None else self.rest.len)

    cdef int put_fields(self, Msg *m) except -1:
        """What only the first chunk carries."""
        if not self.first_sent:
            m.first = True
            self.first_sent = True
            m.headers.ptr = self.block.data
            m.headers.len = self.block.len
        return 0

    cdef int put_status(self, Msg *m) except -1:
        m.last = True
        m.trailers.ptr = self.trailing.data
        m.trailers.len = self.trailing.len
        if self.status < 0:
            self.status = GRPC_UNKNOWN
            self.message = b"the backend sent no grpc-status"
        m.status = self.status
        if self.message is not None:
            m.status_message.ptr = <const uint8_t *><const char *>self.message
            m.status_message.len = <size_t>len(self.message)
        if self.details is not None:
            m.status_details.ptr = <const uint8_t *><const char *>self.details
            m.status_details.len = <size_t>len(self.details)
        return 0

    cdef int send_chunk(self, Msg *m) except -1:
        self.exchange.send(m)
        if m.first:
            buf_free(&self.block)
        if m.last and self.exchange is not None:
            if not self.request_done:
                self.exchange.reset(NO_ERROR, b"")
                if self.conn is not None:
                    self.rst(H2_NO_ERROR)
            else:
                self.exchange.finish(False)
        return 0

    cdef int send_end(self) except -1:
        """Status and trailing metadata, without a message."""
        cdef Msg m
        memset(&m, 0, sizeof(m))
        m.kind = MSG_GRPC_RESPONSE
        self.put_fields(&m)
        self.put_status(&m)
        return self.send_chunk(&m)

    cdef int fail_call(self, uint32_t code, bytes text) except -1:
        if self.exchange is not None:
            self.exchange.reset(code, text)
        if self.conn is not None:
            return self.rst(H2_CANCEL)
        if self.id == 0:
            self.home.active -= 1
        return 0

    cdef int on_closed(self, uint32_t error_code) except -1:
        cdef uint32_t code
        if self.exchange is not None and self.receive_end and error_code != H2_NO_ERROR:
            self.pump()                     # the answer was complete before the stream was reset
        if self.exchange is None or self.receive_end:
            return 0                        # complete, or what is left waits for credit
        if self.failure is not None:
            return self.fail_call(PROTOCOL_ERROR, self.failure)
        if not self.home.attached:
            return self.fail_call(BACKEND_UNREACHABLE, b"the backend closed the connection")
        # How gRPC maps the error codes of HTTP/2 (PROTOCOL-HTTP2.md, "Errors").
        if error_code == H2_CANCEL:
            code = CANCELLED
        elif error_code == H2_REFUSED_STREAM:
            if self.retry() == 0:
                return 0
            code = BACKEND_UNREACHABLE
        elif error_code == H2_ENHANCE_YOUR_CALM:
            code = OVERLOADED
        else:
            code = PROTOCOL_ERROR
        return self.fail_call(code, b"the backend reset the stream with HTTP/2 error %d" % error_code)


cdef bytes decode_details(bytes text):
    """grpc-status-details-bin: base64, with or without padding. None when it is neither."""
    try:
        return base64.b64decode(text + b"=" * ((4 - len(text) % 4) % 4), validate=True)
    except binascii.Error:
        return None
