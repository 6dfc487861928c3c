"""WebSocket towards backends: the handshake is ours, with a key of our own; what it negotiates belongs to the two ends."""
import binascii

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fasttunnel._core cimport (
    BODY_DONE, BODY_LENGTH, BODY_NONE, BODY_PIECE, BODY_TRAILERS, HEAD_GET, MSG_WS_REQUEST, MSG_WS_RESPONSE, Slice,
    TAG_WS_REQUEST_HEADERS, TAG_WS_RESPONSE_HEADERS, body_read, buf_append, buf_free, hdr_value_ok, head_method,
)
from fasttunnel.engine._backend_http1 cimport write_request_head
from fasttunnel.engine._http1 cimport websocket_accept, write_bytes, write_text
from fasttunnel.engine._http1 import BadMessage
from fasttunnel.engine._out cimport out_append
from fasttunnel.engine._websocket cimport fresh_random

cdef enum:
    BACKEND_UNREACHABLE = 3
    BACKEND_TIMEOUT = 4
    PROTOCOL_ERROR = 5
    REFUSAL_BODY_BYTES = 65536          # limits.WS_REFUSAL_BODY_BYTES

cdef double HANDSHAKE_S = 30.0


cdef Endpoint open_websocket(Plan plan):
    cdef BackendWebSocket conn = BackendWebSocket(plan)
    plan.target.dial(conn)
    return conn


cdef class BackendWebSocket(WebSocketConn):
    def __init__(self, Plan plan):
        self.plan = plan
        self.target = plan.target
        self.head = Head(False)
        self.client_side = True

    def __dealloc__(self):
        buf_free(&self.body)

    cdef int on_connected(self) except -1:
        return self.arm(HANDSHAKE_S)

    cdef int on_message(self, const Msg *m) except -1:
        if m.kind == MSG_WS_REQUEST:
            if self.write_handshake(m):
                self.exchange.reset(PROTOCOL_ERROR, b"the handshake cannot be written as HTTP/1.1")
                return self.abort()
            return self.touch()
        return WebSocketConn.on_message(self, m)

    cdef int write_handshake(self, const Msg *m) except -1:
        cdef uint8_t nonce[16]
        cdef bint has_length = False
        cdef uint64_t length = 0
        if write_request_head(&self.out, head_method(HEAD_GET), self.plan, m, TAG_WS_REQUEST_HEADERS, &has_length, &length):
            return 1
        fresh_random(nonce, sizeof(nonce))
        self.nonce = binascii.b2a_base64((<char *>nonce)[:sizeof(nonce)], newline=False)
        write_text(&self.out, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ")
        write_bytes(&self.out, self.nonce)
        if m.subprotocol.len:
            if not hdr_value_ok(m.subprotocol.ptr, m.subprotocol.len):
                return 1
            write_text(&self.out, "\r\nSec-WebSocket-Protocol: ")
            out_append(&self.out, m.subprotocol.ptr, m.subprotocol.len)
        write_text(&self.out, "\r\n\r\n")
        return 0

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        cdef Py_ssize_t used
        if self.open:
            return self.feed_frames(data, n)
        if self.exchange is None:
            return <Py_ssize_t>n
        try:
            used = self.read_refusal(data, n) if self.refused else self.read_answer(data, n)
        except BadMessage as error:
            self.exchange.reset(PROTOCOL_ERROR, b"bad answer of the backend to the handshake: " + str(error).encode())
            self.abort()
            return <Py_ssize_t>n
        if self.open:
            used += self.feed_frames(data + used, n - <size_t>used)
        return used

    cdef Py_ssize_t read_answer(self, const uint8_t *data, size_t n) except -1:
        cdef Py_ssize_t size = 0, used
        cdef Head head = self.head
        while True:
            used = head.parse(data + size, n - <size_t>size, self.target.head_bytes, TAG_WS_RESPONSE_HEADERS)
            if used == 0:
                return size
            size += used
            if head.status == 101:
                self.accepted()
                return size
            if head.status >= 200:
                break                       # behind 1xx other than 101 the answer proper follows
            if self.exchange.one_interim_too_many(head.block.len):
                raise BadMessage(502, "too many informational answers")
        if head.status == 204 or head.status == 304:
            head.body_mode = BODY_NONE
        head.start_body(&self.reader)
        self.refused = True
        return size + self.read_refusal(data + size, n - <size_t>size)

    cdef int accepted(self) except -1:
        """RFC 6455 4.1: the answer must prove that it answers our handshake."""
        cdef Head head = self.head
        cdef Msg m
        if not head.upgrade or head.ws_accept != websocket_accept(self.nonce):
            raise BadMessage(502, "101 without the right Upgrade, Connection or Sec-WebSocket-Accept")
        self.disarm()
        memset(&m, 0, sizeof(m))
        m.kind = MSG_WS_RESPONSE
        m.status = 101
        m.accepted = True
        m.headers.ptr = head.block.data
        m.headers.len = head.block.len
        if head.ws_protocol is not None:
            m.subprotocol.ptr = <const uint8_t *><const char *>head.ws_protocol
            m.subprotocol.len = <size_t>len(head.ws_protocol)
        self.start_frames(head.ws_extensions, self.exchange.carrier.max_fragment, self.target.ws_message_bytes)
        self.exchange.send(&m)
        self.head = None
        self.plan = None
        return 0

    cdef Py_ssize_t read_refusal(self, const uint8_t *data, size_t n) except -1:
        cdef size_t pos = 0, used = 0
        cdef Slice piece
        cdef int result
        if self.reader.mode == BODY_NONE:
            self.send_refusal()
            return <Py_ssize_t>n
        while True:
            result = body_read(&self.reader, data + pos, n - pos, REFUSAL_BODY_BYTES, &used, &piece)
            pos += used
            if result == BODY_PIECE:
                if buf_append(&self.body, piece.ptr, min(piece.len, REFUSAL_BODY_BYTES - self.body.len)) < 0:
                    raise MemoryError
                if self.body.len < REFUSAL_BODY_BYTES and not (self.reader.mode == BODY_LENGTH and self.reader.remaining == 0):
                    continue
            elif result < 0:
                raise BadMessage(502, "bad chunk in the body")
            elif result != BODY_DONE and result != BODY_TRAILERS:
                return <Py_ssize_t>pos
            self.send_refusal()
            return <Py_ssize_t>n

    cdef int send_refusal(self) except -1:
        cdef Msg m
        memset(&m, 0, sizeof(m))
        m.kind = MSG_WS_RESPONSE
        m.status = self.head.status
        m.headers.ptr = self.head.block.data
        m.headers.len = self.head.block.len
        m.body.ptr = self.body.data
        m.body.len = self.body.len
        if self.exchange is not None:
            self.exchange.send(&m)
            if self.exchange is not None:
                self.exchange.finish(False)
        return self.close()

    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        # The public side ended without a close handshake: the backend sees that too, behind all that came before.
        return self.close()

    def connect_failed(self, str text, bint timed_out):
        cdef bytes told = self.target.failed(text, timed_out)
        self.connecting = False
        if self.exchange is not None:
            self.exchange.reset(BACKEND_TIMEOUT if timed_out else BACKEND_UNREACHABLE, told)

    cdef int on_timer(self, object stream) except -1:
        if self.exchange is not None and not self.open:
            self.exchange.reset(BACKEND_TIMEOUT, b"the backend did not answer the handshake in time")
        return self.abort()

    cdef int on_eof(self) except -1:
        if self.refused and self.exchange is not None:
            return self.send_refusal()
        return self.close() if self.exchange is None or not self.blocked else 0

    cdef int on_lost(self, object exc) except -1:
        if self.exchange is not None:
            self.exchange.reset(BACKEND_UNREACHABLE, b"the backend closed the connection without a close handshake"
                                if self.open else b"the backend closed the connection during the handshake")
        return 0
