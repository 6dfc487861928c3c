"""A WebSocket connection of the public, after its handshake."""
from libc.stdint cimport uint32_t

from fasttunnel.engine._gate cimport close_code_of, explain

cdef enum:
    CANCELLED = 1


cdef class PublicWebSocket(WebSocketConn):
    cdef int on_reset(self, uint32_t code, bytes text) except -1:
        """The far side ended abnormally: say so in a Close frame, unless a frame is half written."""
        self.write_close(close_code_of(code), explain(code, text))
        return self.close()

    cdef int on_eof(self) except -1:
        return self.close()

    cdef int on_lost(self, object exc) except -1:
        if self.exchange is not None:
            self.exchange.reset(CANCELLED, b"the public side vanished without a close handshake")
        return 0
