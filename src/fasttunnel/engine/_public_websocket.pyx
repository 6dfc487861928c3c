"""A WebSocket connection of the public, after its handshake."""
from libc.stdint cimport uint32_t

from fasttunnel._core cimport MSG_WS_FRAME, Msg
from fasttunnel.engine._gate cimport close_code_of, explain

cdef enum:
    CANCELLED = 1
    GOING_AWAY = 1001

cdef double CLOSE_ANSWER_S = 30.0


cdef class PublicWebSocket(WebSocketConn):
    def leave(self):
        """The server or the client is going: the connection is closed in order. The public's answer closes the backend's."""
        if self.exchange is None:
            self.close()
        elif not self.close_received:
            self.leaving = True
            self.dismiss()

    cdef int dismiss(self) except -1:
        if not self.writing and not self.close_sent:
            self.dismissed = True
            self.write_close(GOING_AWAY, b"the tunnel is shutting down")
            if self.exchange.status == 0:
                self.exchange.status = GOING_AWAY
            self.arm(CLOSE_ANSWER_S)
        return 0

    cdef int on_message(self, const Msg *m) except -1:
        if not self.dismissed:
            WebSocketConn.on_message(self, m)
            return self.dismiss() if self.leaving and self.exchange is not None else 0
        if m.kind == MSG_WS_FRAME and m.opcode == 8:
            self.far_closed = True
            if self.close_received:
                return self.finish_closing()
        elif m.kind == MSG_WS_FRAME and m.opcode < 8:
            self.exchange.consumed(m.body.len)
        return 0

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
