"""A WebSocket connection (RFC 6455) as the end of an exchange; the public and the backend side differ by little."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Msg, WsFrame, WsParser
from fasttunnel.engine._io cimport Conn


cdef class WebSocketConn(Conn):
    cdef WsParser parser
    cdef bint client_side               # we are the client of this connection: our frames are masked, the peer's are not
    cdef bint open                      # frames may pass
    cdef bint blocked                   # waiting for credit
    cdef bint close_sent                # a Close frame was written to this socket
    cdef bint close_received            # one has come from it
    cdef bint far_closed                # one has come from the far side
    cdef uint64_t unconsumed            # payload bytes written since the last written()
    cdef uint64_t uncounted             # bytes since then that cost no credit
    cdef uint64_t writing               # payload bytes of the frame being written that are still to come
    cdef bint in_message                # the frames written so far end inside a message
    cdef uint8_t key[4]                 # its mask, rotated to the next byte

    cdef int start_frames(self, bint extensions, uint64_t max_fragment, uint64_t max_message_bytes) except -1
    cdef Py_ssize_t feed_frames(self, const uint8_t *data, size_t n) except -1
    cdef int send_up(self, const WsFrame *frame) except -1       # a control frame, into the tunnel
    cdef bint may_begin(self, const Msg *m) noexcept    # a frame of the tunnel, on this socket
    cdef int write_frame(self, const Msg *m) except -1
    cdef int write_close(self, int code, bytes reason) except -1
    cdef int on_violation(self, uint32_t reset_code, int close_code, bytes text) except -1
    cdef int finish_closing(self) except -1             # Close frames have passed both ways

cdef int fresh_random(uint8_t *into, size_t n) except -1           # from the system's random source
