"""An exchange: one HTTP exchange, RPC or WebSocket connection, as one end of the tunnel holds it.

It checks order, sequence and credit of what the tunnel brings, counts what its own side sends, and is the only thing
that ends a request: ``finish`` takes it out of the carrier's table and cuts its ties. No socket, no loop: the carrier
and the endpoint are abstract, tests drive it with fakes.
"""
import time

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from fasttunnel._core cimport (
    MSG_GRPC_REQUEST, MSG_GRPC_RESPONSE, MSG_HTTP_REQUEST, MSG_HTTP_RESPONSE, MSG_RESET, MSG_WINDOW_UPDATE,
    MSG_WS_FRAME, MSG_WS_REQUEST, MSG_WS_RESPONSE, Msg, PROTO_GRPC, PROTO_HTTP, TO_BACKEND, WsFrame,
)

cdef enum:
    ENVELOPE = 32                       # bytes of a message beside its payload, about

cdef enum:                              # the two of errors.ResetCode that this layer makes itself
    PROTOCOL_ERROR = 5
    FLOW_CONTROL_ERROR = 6
    RESET_TEXT_BYTES = 512              # limits.RESET_TEXT_BYTES
    INTERIM_MAX = 100                   # informational answers (1xx) to one request: they cost no credit
    INTERIM_BYTES = 1048576             # of the fields of all of them

cdef int64_t MAX_CREDIT = 0x7fffffff
cdef double LONG_WAY_S = 0.002          # below it the first window is enough for 1 Gbit/s, and bursts mislead the tuning
cdef object monotonic = time.monotonic


cdef class Endpoint:
    cdef int on_message(self, const Msg *m) except -1:
        raise NotImplementedError

    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        raise NotImplementedError

    cdef int on_credit(self) except -1:
        return 0


cdef class WindowBudget:
    def __init__(self, int64_t max_window, int64_t budget):
        self.max_window = min(max_window, MAX_CREDIT)
        self.left = budget


cdef Passed nowhere                     # for carriers of which nobody counts anything


cdef class Carrier:
    def __cinit__(self):
        self.passed = &nowhere

    cdef int send(self, Msg *m) except -1:
        raise NotImplementedError

    cdef int send_frame(self, Exchange exchange, const WsFrame *frame) except -1:
        raise NotImplementedError

    cdef uint64_t room(self, Exchange exchange) except? 0xffffffffffffffff:
        raise NotImplementedError

    cdef int retire(self, Exchange exchange, bint abnormal) except -1:
        raise NotImplementedError


cdef long exchanges_alive = 0

def alive():
    """Exchange objects that exist. A test that leaves more of them than it found has found a leak."""
    return exchanges_alive


cdef class Exchange:
    def __cinit__(self):
        global exchanges_alive
        exchanges_alive += 1

    def __dealloc__(self):
        global exchanges_alive
        exchanges_alive -= 1

    cdef bytes request_id(self):
        return self.id[:self.id_len]

    cdef uint64_t sendable(self) except? 0xffffffffffffffff:
        """Payload bytes that may be sent now. At 0 the endpoint stops reading its source until on_credit()."""
        cdef uint64_t room
        if self.send_credit <= 0 or self.carrier is None:
            return 0
        room = self.carrier.room(self)
        return min(room, <uint64_t>self.send_credit)

    cdef bint congested(self) except -1:
        """At sendable() == 0: whether the tunnel is full, so that what costs no credit has to wait for on_credit() too."""
        return self.carrier is not None and self.carrier.room(self) == 0

    cdef int send(self, Msg *m) except -1:
        """Send one message of this request; the envelope and the sequence number are filled in here.

        The caller has kept its payload within sendable().
        """
        if self.carrier is None:
            return 0
        m.request_id.ptr = self.id
        m.request_id.len = self.id_len
        m.direction = self.direction
        m.protocol_type = self.protocol
        self.share -= ENVELOPE + <int64_t>m.body.len
        if self.protocol == PROTO_HTTP or self.protocol == PROTO_GRPC:
            m.sequence = self.send_sequence
            self.send_sequence += 1
            if self.protocol == PROTO_GRPC:
                m.stream_id = self.grpc_stream_id
            if m.last:
                self.sending = FLOW_CLOSED
            elif self.sending == FLOW_IDLE:
                self.sending = FLOW_OPEN
            if m.status:
                self.status = m.status
            if m.body.ptr != NULL:
                self.send_credit -= <int64_t>m.body.len
                if self.send_credit <= 0 and m.body.len:
                    self.carrier.passed.exhausted[self.direction - 1] += 1
                self.bytes_sent += m.body.len
                if self.protocol == PROTO_GRPC and not m.more:
                    self.messages_sent += 1
            if self.protocol == PROTO_HTTP:
                self.messages_sent += 1
        elif self.sending == FLOW_IDLE:
            self.sending = FLOW_OPEN
            if m.kind == MSG_WS_RESPONSE and not m.accepted:
                self.status = m.status
        return self.carrier.send(m)

    cdef int send_frame(self, const WsFrame *frame) except -1:
        """Send one WebSocket frame or fragment; after a Close frame nothing more may follow."""
        if self.carrier is None:
            return 0
        if frame.opcode < 8:
            self.send_credit -= <int64_t>frame.payload_len
            if self.send_credit <= 0 and frame.payload_len:
                self.carrier.passed.exhausted[self.direction - 1] += 1
        self.share -= ENVELOPE + <int64_t>frame.payload_len
        self.bytes_sent += frame.payload_len
        self.messages_sent += not frame.more
        self.carrier.passed.frames[self.direction - 1][frame.opcode & 15] += not frame.more
        if frame.opcode == 8:
            self.sending = FLOW_CLOSED
        return self.carrier.send_frame(self, frame)

    cdef int receive(self, const Msg *m) except -1:
        """A message of this request has come from the tunnel."""
        cdef uint64_t payload = m.body.len
        cdef bint is_frame = m.kind == MSG_WS_FRAME
        cdef Endpoint endpoint = self.endpoint      # held: finishing may drop the last reference to it
        if m.kind == MSG_RESET:
            return self.fail(m.code, m.text.ptr[:min(m.text.len, <size_t>RESET_TEXT_BYTES)] if m.text.ptr != NULL else b"")
        if m.kind == MSG_WINDOW_UPDATE:
            return self.granted(m.credit)
        if endpoint is None:
            return 0
        if self.receiving == FLOW_CLOSED:
            if is_frame:
                return 0                # RFC 6455 5.5.1: what follows a Close frame is not processed
            return self._violation(PROTOCOL_ERROR, b"message after the last chunk")
        if is_frame:
            if self.receiving == FLOW_IDLE:
                return self._violation(PROTOCOL_ERROR, b"WebSocket frame before the handshake")
            if m.opcode >= 8:
                payload = 0             # control frames cost no credit
                if self.received_more:
                    return self._violation(PROTOCOL_ERROR, b"control frame between the fragments of a frame")
        elif m.kind == MSG_HTTP_REQUEST or m.kind == MSG_HTTP_RESPONSE \
                or m.kind == MSG_GRPC_REQUEST or m.kind == MSG_GRPC_RESPONSE:
            if m.sequence != self.receive_sequence:
                return self._violation(PROTOCOL_ERROR, b"gap in the sequence numbers")
            if m.first != (self.receiving == FLOW_IDLE) and not m.informational:
                return self._violation(PROTOCOL_ERROR, b"is_first_chunk in the wrong place")
            if m.informational and (m.last or m.body.len):
                return self._violation(PROTOCOL_ERROR, b"informational answer with a body or an end")
            if m.informational and self.one_interim_too_many(m.headers.len):
                return self._violation(PROTOCOL_ERROR, b"too many informational answers")
            self.receive_sequence += 1
        elif m.kind == MSG_WS_RESPONSE:
            payload = 0                 # nor do handshakes; the body of a refusal is short
        if not self._expects(m.kind):
            return self._violation(PROTOCOL_ERROR, b"message of another kind than the request")
        if <int64_t>payload > self.receive_credit:
            return self._violation(FLOW_CONTROL_ERROR, b"payload beyond the window")
        if (self.protocol == PROTO_GRPC or is_frame and m.opcode < 8) and self.received_more and m.kind != MSG_WS_REQUEST:
            if is_frame and m.frame_bytes or not is_frame and m.message_bytes:
                return self._violation(PROTOCOL_ERROR, b"new message inside an unfinished one")
        self.receive_credit -= <int64_t>payload
        self.held += <int64_t>payload
        self.bytes_received += m.body.len
        if self.protocol == PROTO_HTTP or not m.more and (is_frame or self.protocol == PROTO_GRPC and m.body.ptr != NULL):
            self.messages_received += 1
            if is_frame:
                self.carrier.passed.frames[2 - self.direction][m.opcode & 15] += 1
        if not is_frame or m.opcode < 8:
            self.received_more = m.more
        if m.last or is_frame and m.opcode == 8:
            self.receiving = FLOW_CLOSED
        elif self.receiving == FLOW_IDLE and not m.informational:
            self.receiving = FLOW_OPEN
        return endpoint.on_message(m)

    cdef bint one_interim_too_many(self, uint64_t n) noexcept:
        """An informational answer with so many bytes of fields has come, from the tunnel or from a backend."""
        self.interim += 1
        self.interim_bytes += n
        return self.interim > INTERIM_MAX or self.interim_bytes > INTERIM_BYTES

    cdef bint _expects(self, int kind) noexcept:
        if self.direction == TO_BACKEND:        # we are the server: answers come
            if self.protocol == PROTO_HTTP:
                return kind == MSG_HTTP_RESPONSE
            if self.protocol == PROTO_GRPC:
                return kind == MSG_GRPC_RESPONSE
            return kind == MSG_WS_FRAME or kind == MSG_WS_RESPONSE and self.receiving == FLOW_IDLE
        if self.protocol == PROTO_HTTP:
            return kind == MSG_HTTP_REQUEST
        if self.protocol == PROTO_GRPC:
            return kind == MSG_GRPC_REQUEST
        return kind == MSG_WS_FRAME or kind == MSG_WS_REQUEST and self.receiving == FLOW_IDLE

    cdef int _violation(self, uint32_t code, bytes text) except -1:
        cdef Endpoint endpoint = self.endpoint
        text = (b"the client" if self.direction == TO_BACKEND else b"the server") + b" broke the contract of the tunnel: " + text
        self.reset(code, text)
        return endpoint.on_reset(code, text)

    cdef int granted(self, uint64_t n) except -1:
        """The peer grants `n` more payload bytes."""
        cdef bint was_blocked = self.send_credit <= 0
        cdef Endpoint endpoint = self.endpoint
        if n > <uint64_t>MAX_CREDIT or self.send_credit + <int64_t>n > MAX_CREDIT:
            return self._violation(FLOW_CONTROL_ERROR, b"window above 2^31-1")
        self.send_credit += <int64_t>n
        if was_blocked and endpoint is not None:
            return endpoint.on_credit()
        return 0

    cdef int consumed(self, uint64_t n) except -1:
        """`n` payload bytes have left for the endpoint's socket: grant them again, half a window at a time."""
        cdef Msg m
        if self.carrier is None or self.receiving == FLOW_CLOSED:
            return 0
        # Framing of the socket's protocol may be counted in `n`: no more is granted than has come.
        n = min(n, <uint64_t>self.held)
        self.held -= <int64_t>n
        self.ungranted += <int64_t>n
        if self.ungranted * 2 < self.window:
            return 0
        if self.carrier.round_trip_s > LONG_WAY_S and self.carrier.budget is not None:
            self.ungranted += self._tuned()
            if self.ungranted == 0:
                return 0
        memset(&m, 0, sizeof(m))
        m.request_id.ptr = self.id
        m.request_id.len = self.id_len
        m.direction = self.direction
        m.protocol_type = self.protocol
        m.kind = MSG_WINDOW_UPDATE
        m.credit = <uint64_t>self.ungranted
        self.receive_credit += self.ungranted
        self.ungranted = 0
        return self.carrier.send(&m)

    cdef int64_t _tuned(self) except? -1:
        """Bytes by which the window is to change with this grant.

        A window that is used up within three round trips may have kept the sender waiting, whatever the link could
        carry: it is doubled. (As credit comes back by halves, a sender that waits takes two for it.) One that lasts for
        many is given back, for others may need it.
        """
        cdef Carrier carrier = self.carrier
        cdef double now = monotonic()
        cdef double lasts = (now - self.granted_s) * <double>self.window / <double>self.ungranted
        cdef int64_t change = 0
        self.granted_s = now
        if lasts < 3 * carrier.round_trip_s:
            change = min(self.window, carrier.budget.max_window - self.window, carrier.budget.left)
            change = max(change, 0)
        elif lasts > 32 * carrier.round_trip_s and self.window > carrier.local_window:
            change = max(-self.window / 2, carrier.local_window - self.window)
        self.window += change
        carrier.budget.left -= change
        return change

    cdef int reset(self, uint32_t code, bytes text) except -1:
        """The endpoint gives up (or, with NO_ERROR, its answer is complete): tell the peer, and finish."""
        cdef Msg m
        cdef Exchange _held = self      # sending may lose the tunnel, and with it the last reference
        if self.carrier is None:
            return 0
        memset(&m, 0, sizeof(m))
        m.request_id.ptr = self.id
        m.request_id.len = self.id_len
        m.direction = self.direction
        m.protocol_type = self.protocol
        m.kind = MSG_RESET
        m.code = code
        m.text.ptr = <const unsigned char *>text
        m.text.len = len(text)
        self.reset_code = <int>code
        self.carrier.send(&m)
        return self.finish(code != 0)

    cdef int fail(self, uint32_t code, bytes text) except -1:
        """The peer, or the loss of the tunnel, ends the request."""
        cdef Endpoint endpoint = self.endpoint
        if endpoint is None:
            return 0
        self.reset_code = <int>code
        self.finish(True)
        return endpoint.on_reset(code, text)

    cdef int finish(self, bint abnormal) except -1:
        """The one way out: leaves the carrier's table and cuts the ties to both sides. Calling it again does nothing."""
        cdef Carrier carrier = self.carrier
        if carrier is None:
            return 0
        self.carrier = None
        if carrier.budget is not None:
            carrier.budget.left += self.window - carrier.local_window
        if self.endpoint is not None:
            self.endpoint.exchange = None
            self.endpoint = None
        return carrier.retire(self, abnormal)
