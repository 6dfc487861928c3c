"""HTTP/1.1 towards the public: requests become exchanges, answers are written in order."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport BodyReader, Msg
from fasttunnel.engine._gate cimport Gate, RequestId, Visitor
from fasttunnel.engine._http1 cimport BodyWriter, Head
from fasttunnel.engine._io cimport Conn
from fasttunnel.engine._link cimport Link
from fasttunnel.engine._public_websocket cimport PublicWebSocket


cdef class PublicConn(Conn):
    """A new public connection: the first bytes tell HTTP/2 with prior knowledge from HTTP/1.1."""
    cdef Gate gate
    cdef bint refused                   # there are too many: its first request is answered 503


cdef enum Phase:
    PHASE_HEAD = 0                      # waiting for a request
    PHASE_BODY = 1                      # its body is coming
    PHASE_ANSWER = 2                    # it has come, the answer is awaited
    PHASE_HANDSHAKE = 3                 # a WebSocket handshake is with the backend
    PHASE_DISCARD = 4                   # nothing more is wanted of this peer
    PHASE_QUEUED = 5                    # the request waits for a client that is away


cdef class PublicHttp1(Conn):
    cdef Gate gate
    cdef Visitor visitor
    cdef Head head
    cdef list said                      # forwarding fields of a trusted proxy; or None
    cdef uint8_t phase                  # Phase
    cdef uint8_t queued_phase           # which one follows PHASE_QUEUED
    cdef BodyReader reader
    cdef BodyWriter writer
    cdef bint blocked                   # waiting for credit
    cdef bint stalled                   # a pipelined request waits until earlier answers have been written
    cdef bint keep_alive
    cdef bint idle                      # between two requests; the timer is that of keep-alive
    cdef bint http10
    cdef bint is_head                   # the request is HEAD: its answer has no body
    cdef bint answer_begun
    cdef bint no_body                   # the answer has none (HEAD, 204, 304)
    cdef uint64_t unconsumed            # body bytes written since the last written()
    cdef uint64_t body_bytes            # of the request so far, or by its Content-Length
    cdef bytes ws_key
    cdef RequestId request_id
    cdef bint refused                   # see PublicConn

    cdef int count_body(self, uint64_t n) except -1
    cdef int no_link(self, int protocol) except -1
    cdef int give_up_waiting(self, int status, bytes text) except -1
    cdef Py_ssize_t begin_exchange(self, Link link, const uint8_t *data, size_t n) except -1
    cdef int begin_websocket(self, Link link) except -1
    cdef int take_over(self, PublicWebSocket successor) except -1
    cdef Py_ssize_t begin(self, const uint8_t *data, size_t n) except -1
    cdef Py_ssize_t read_body(self, const uint8_t *data, size_t n) except -1
    cdef int begin_handshake(self) except -1
    cdef int write_answer_head(self, const Msg *m) except -1
    cdef int answer_done(self) except -1
    cdef int answer_handshake(self, const Msg *m) except -1
    cdef int keep_request_id(self) noexcept
    cdef int write_request_id(self, const Msg *m, uint8_t tag) except -1
    cdef int refuse(self, int status, bytes text) except -1
    cdef int count_refusal(self, int status) except -1
    cdef int write_error(self, int status, bytes text) except -1
    cdef int bad_answer(self, bytes text) except -1
    cdef int discard(self) except -1
