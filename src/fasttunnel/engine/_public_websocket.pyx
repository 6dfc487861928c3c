"""A WebSocket connection of the public, after its handshake."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from fasttunnel._core cimport MSG_WS_FRAME, Msg, WsFrame, ws_build_head, ws_mask
from fasttunnel.engine._gate cimport close_code_of, explain
from fasttunnel.engine._out cimport out_append, out_reserve

cdef enum:
    CANCELLED = 1
    TUNNEL_LOST = 9
    ABNORMAL = 1006
    SERVICE_RESTART = 1012              # 1001 would tell many a page not to connect again

cdef double CLOSE_ANSWER_S = 30.0


cdef bytes PING = b"fasttunnel"         # payload of our Pings, by which their Pongs are known


cdef class PublicWebSocket(WebSocketConn):
    cdef int watch(self, double ping_interval_s) except -1:
        """Ask the public by a Ping whether it lives when it has been silent for so long (RFC 6455 5.5.2)."""
        self.ping_interval_s = ping_interval_s
        if ping_interval_s > 0 and not self.closing:
            self.arm(ping_interval_s)
        return 0

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        self.heard = True
        return self.feed_frames(data, n)

    cdef int send_up(self, const WsFrame *frame) except -1:
        """The answer to a Ping of ours is nobody else's."""
        cdef uint8_t payload[10]
        if frame.opcode == 10 and self.pinged and frame.payload_len == 10:
            ws_mask(payload, frame.payload, 10, frame.key)
            if memcmp(payload, <const char *>PING, 10) == 0:
                self.pinged = False
                return 0
        return self.exchange.send_frame(frame)

    cdef int tick(self) except -1:
        cdef uint8_t *p
        if self.reading_paused or self.writing:
            pass                        # it may wait for us; or no Ping can be sent now
        elif self.heard:
            self.pinged = False
        elif self.pinged:
            self.exchange.reset(CANCELLED, b"the public side does not answer pings")
            return self.abort()
        else:
            self.pinged = True
            p = out_reserve(&self.out, 24)
            self.out.len += ws_build_head(p, True, 0, 9, 10, NULL)
            out_append(&self.out, <const char *>PING, 10)
            self.touch()
        self.heard = False
        return self.arm(self.ping_interval_s)

    cdef int on_timer(self, object stream) except -1:
        if self.ping_interval_s > 0 and self.exchange is not None and not self.close_sent and not self.close_received:
            return self.tick()
        return WebSocketConn.on_timer(self, stream)

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
            self.write_close(SERVICE_RESTART, b"the tunnel is shutting down")
            if self.exchange.status == 0:
                self.exchange.status = SERVICE_RESTART
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
        cdef int close_code = close_code_of(code) if code != TUNNEL_LOST else self.lost_close
        if close_code != ABNORMAL:
            self.write_close(close_code, explain(code, text))
        return self.close()

    cdef int on_eof(self) except -1:
        return self.close()

    cdef int on_lost(self, object exc) except -1:
        if self.exchange is not None:
            self.exchange.reset(CANCELLED, b"the public side vanished without a close handshake")
        return 0
