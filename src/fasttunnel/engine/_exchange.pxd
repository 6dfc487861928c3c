"""One request at one end of a tunnel (Exchange) and its two abstract sides: Endpoint (a socket) and Carrier (the tunnel)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Msg, WsFrame


cdef enum Flow:                         # state of one direction
    FLOW_IDLE = 0                       # nothing has passed yet
    FLOW_OPEN = 1
    FLOW_CLOSED = 2                     # the last chunk, or a Close frame, has passed


cdef class Endpoint:
    """The side of an exchange that faces a socket: a public or a backend connection, or a stream of one."""
    cdef Exchange exchange              # None: nothing under way

    # From the tunnel. Pointers in `m` are valid until the call returns.
    cdef int on_message(self, const Msg *m) except -1
    # The exchange ended abnormally; it is detached already.
    cdef int on_reset(self, uint32_t code, bytes text) except -1
    # Payload may be sent again after Exchange.sendable() was 0.
    cdef int on_credit(self) except -1


cdef class WindowBudget:
    """Payload bytes by which the windows of all requests of an engine may grow together beyond their first size."""
    cdef readonly int64_t left
    cdef int64_t max_window             # of one request


cdef struct Passed:                     # by Direction - 1
    uint64_t frames[2][16]              # of WebSocket, by opcode
    uint64_t exhausted[2]               # windows that were used up


cdef class Carrier:
    """The side of an exchange that faces the tunnel."""
    cdef Passed *passed                 # where it is counted; whoever owns that outlives the carrier
    cdef uint64_t max_fragment          # payload bytes of one message towards this peer
    cdef int64_t peer_window            # credit of a new exchange towards the peer
    cdef int64_t local_window           # credit that the peer has towards us at first
    cdef WindowBudget budget            # what windows may grow by; None: they do not grow
    cdef double round_trip_s            # to the peer and back; 0: not known yet

    cdef int send(self, Msg *m) except -1
    cdef int send_frame(self, Exchange exchange, const WsFrame *frame) except -1
    # Payload bytes that may be handed over now; 0: congested, and on_credit() will be called in turn.
    cdef uint64_t room(self, Exchange exchange) except? 0xffffffffffffffff
    # Called once by Exchange.finish: forget it.
    cdef int retire(self, Exchange exchange, bint abnormal) except -1


cdef class Exchange:
    # identity
    cdef uint8_t id[16]
    cdef uint8_t id_len
    cdef uint8_t protocol               # PROTO_HTTP, PROTO_GRPC, PROTO_WEBSOCKET
    cdef uint8_t direction              # of what this end sends: TO_BACKEND at the server, TO_PUBLIC at the client
    # the two sides; both None when finished
    cdef Carrier carrier
    cdef Endpoint endpoint
    # state of the two directions
    cdef uint8_t sending                # Flow
    cdef uint8_t receiving
    cdef uint8_t received_more          # the last chunk received was a fragment, its message goes on
    cdef uint8_t waiting                # for its turn in the carrier
    cdef int64_t share                  # bytes that it may still send before its turns come after those of others
    cdef uint32_t send_sequence         # next to send
    cdef uint32_t receive_sequence      # next expected
    cdef uint32_t grpc_stream_id        # HTTP/2 stream of our own socket
    # windows, payload bytes
    cdef int64_t send_credit
    cdef int64_t receive_credit
    cdef int64_t held                   # received, not yet handed on
    cdef int64_t ungranted              # received and handed on, not yet granted again
    cdef int64_t window                 # what the peer may have under way: local_window, and what it has grown by
    cdef double granted_s               # time of the last grant
    cdef uint64_t passed                # messages and bytes, both ways, when Link.end_idle() looked last
    cdef int idle                       # its looks since anything has passed
    # for the record; messages are chunks of HTTP, messages of gRPC, frames of WebSocket
    cdef uint64_t messages_sent
    cdef uint64_t messages_received
    cdef uint64_t bytes_sent
    cdef uint64_t bytes_received
    cdef double started_s
    cdef object tally                   # engine._tally.RouteTally that it is counted under, or None
    cdef bytes method                   # gRPC: /SERVICE/METHOD
    cdef int status
    cdef int interim                    # informational answers so far
    cdef uint64_t interim_bytes
    cdef int reset_code                 # -1: none
    cdef bytes label                    # see engine._record.label_of(); None where nobody asks

    cdef uint64_t sendable(self) except? 0xffffffffffffffff
    cdef bint congested(self) except -1
    cdef int send(self, Msg *m) except -1
    cdef int send_frame(self, const WsFrame *frame) except -1
    cdef int receive(self, const Msg *m) except -1
    cdef int granted(self, uint64_t n) except -1
    cdef int consumed(self, uint64_t n) except -1
    cdef int64_t _tuned(self) except? -1
    cdef int reset(self, uint32_t code, bytes text) except -1
    cdef int fail(self, uint32_t code, bytes text) except -1
    cdef int finish(self, bint abnormal) except -1
    cdef bytes request_id(self)
    cdef bint one_interim_too_many(self, uint64_t n) noexcept
    cdef bint _expects(self, int kind) noexcept
    cdef int _violation(self, uint32_t code, bytes text) except -1
