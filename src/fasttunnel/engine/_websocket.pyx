"""WebSocket frames between a socket and an exchange, one to one.

A frame is never gathered: its header is written when its first fragment comes, the rest follows as it comes. Frames that
a client must mask get a fresh key each; the fragments of one frame continue it.
"""
import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fasttunnel._core cimport (
    MSG_WS_FRAME, WS_BLOCKED, WS_FRAME, WS_NEED_MORE, WsFrame, ws_build_head, ws_close_ok, ws_error_close_code,
    ws_error_text, ws_mask, ws_parse, ws_parser_init, ws_rotate,
)
from fasttunnel.engine._io cimport THROUGH_BYTES
from fasttunnel.engine._out cimport out_reserve

cdef enum:
    RANDOM_POOL = 16384
    PROTOCOL_ERROR = 5
    TOO_LARGE = 7
    OVERLOADED = 8
    UNCOUNTED_LIMIT = 1048576

cdef bytes BAD_FRAME = b"the tunnel brought a frame that may not be sent, or whose fragments do not add up"
cdef double CLOSE_ANSWER_S = 30.0       # for a peer to answer a Close frame, before it is taken for dead
cdef double CLOSE_WAIT_S = 5.0          # for the server of a connection to close the TCP connection (RFC 6455 7.1.1)

# Masking keys and nonces come from the system's random source (RFC 6455 5.3, 4.1), a page at a time.
cdef bytes random_pool = b""
cdef size_t random_next = RANDOM_POOL

cdef int fresh_random(uint8_t *into, size_t n) except -1:
    global random_pool, random_next
    if RANDOM_POOL - random_next < n:
        random_pool = os.urandom(RANDOM_POOL)
        random_next = 0
    memcpy(into, <const char *>random_pool + random_next, n)
    random_next += n
    return 0


cdef class WebSocketConn(Conn):
    cdef int start_frames(self, bint extensions, uint64_t max_fragment, uint64_t max_message_bytes) except -1:
        ws_parser_init(&self.parser, not self.client_side, extensions, max_fragment, max_message_bytes)
        self.open = True
        return 0

    def leave(self):
        if self.exchange is None:
            self.close()

    # -- socket to tunnel

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        return self.feed_frames(data, n)

    cdef Py_ssize_t feed_frames(self, const uint8_t *data, size_t n) except -1:
        cdef size_t pos = 0, used = 0
        cdef WsFrame frame
        cdef uint64_t credit
        cdef uint8_t reason[2]
        cdef int code
        while True:
            if self.close_received or self.exchange is None:
                return <Py_ssize_t>n            # RFC 6455 5.5.1: nothing is processed behind a Close frame
            credit = self.exchange.sendable()
            if credit == 0 and self.exchange.congested():
                code = WS_BLOCKED
            else:
                code = ws_parse(&self.parser, data + pos, n - pos, credit, &used, &frame)
                pos += used
            if code == WS_FRAME:
                if frame.opcode == 8 and frame.payload_len >= 2 and self.exchange.status == 0:
                    # The first Close frame, whoever sent it, says why the connection ended.
                    ws_mask(reason, frame.payload, 2, frame.key)
                    self.exchange.status = reason[0] << 8 | reason[1]
                if frame.opcode < 8:
                    self.exchange.send_frame(&frame)
                else:
                    self.send_up(&frame)
                if frame.opcode == 8:
                    self.close_received = True
                    if self.far_closed:
                        self.finish_closing()
            elif code == WS_NEED_MORE:
                return <Py_ssize_t>pos
            elif code == WS_BLOCKED:
                self.blocked = True
                self.hold()
                return <Py_ssize_t>pos
            else:
                self.on_violation(TOO_LARGE if ws_error_close_code(code) == 1009 else PROTOCOL_ERROR,
                                  ws_error_close_code(code), ws_error_text(code))
                return <Py_ssize_t>n

    cdef int send_up(self, const WsFrame *frame) except -1:
        return self.exchange.send_frame(frame)

    cdef int on_credit(self) except -1:
        if self.blocked:
            self.blocked = False
            self.refeed()
            if not self.blocked:
                self.unhold()
                if self.peer_eof and self.exchange is not None:
                    return self.on_eof()
        return 0

    cdef int on_violation(self, uint32_t reset_code, int close_code, bytes text) except -1:
        """The peer of this socket broke the protocol: it gets the close code, the far side a reset."""
        if self.exchange is not None:
            self.exchange.status = close_code
            self.exchange.reset(reset_code, text)
        if not self.close_sent:
            self.write_close(close_code, text)
        return self.close()

    # -- tunnel to socket

    cdef int on_message(self, const Msg *m) except -1:
        if m.kind != MSG_WS_FRAME or not self.open:
            return 0
        if self.write_frame(m):
            self.exchange.reset(PROTOCOL_ERROR, BAD_FRAME)
            return self.on_reset(PROTOCOL_ERROR, BAD_FRAME)
        if m.opcode < 8 and m.body.len:
            self.unconsumed += m.body.len
        else:
            # Costs no credit, so no window bounds it (wire.md, "Flow control"): what is not read is bounded here.
            self.uncounted += m.body.len + 14
            if self.uncounted > UNCOUNTED_LIMIT:
                self.exchange.reset(OVERLOADED, b"control frames come faster than they are read")
                return self.on_reset(OVERLOADED, b"control frames come faster than they are read")
        self.touch()
        if m.opcode == 8:
            self.close_sent = self.far_closed = True
            if m.body.len >= 2 and self.exchange.status == 0:
                self.exchange.status = m.body.ptr[0] << 8 | m.body.ptr[1]
            if self.close_received:
                self.finish_closing()
            else:
                self.arm(CLOSE_ANSWER_S)
        return 0

    cdef bint may_begin(self, const Msg *m) noexcept:
        """RFC 6455 5.2, 5.4 and 5.5: what the peer of the tunnel says may be anything, and is no frame of ours then."""
        cdef uint8_t no_mask[4]
        if m.opcode > 10 or 2 < m.opcode < 8 or m.rsv > (7 if self.parser.rsv_allowed else 0):
            return False
        if m.more and (m.frame_bytes <= m.body.len or m.frame_bytes >> 63):
            return False
        if m.opcode < 8:
            if (m.opcode == 0) != self.in_message:
                return False
            self.in_message = not m.fin
            return True
        if m.body.len > 125 or m.more or not m.fin:
            return False
        memset(no_mask, 0, 4)
        return m.opcode != 8 or m.body.len == 0 or m.body.len >= 2 and ws_close_ok(m.body.ptr, no_mask)

    cdef int write_frame(self, const Msg *m) except -1:
        """Returns 1 for a frame that may not be sent, or when its fragments do not add up to what the first one announced."""
        cdef uint8_t *p
        cdef size_t n = m.body.len
        cdef size_t head = 0
        if (self.writing == 0 or m.opcode >= 8) and not self.may_begin(m):
            return 1
        p = out_reserve(&self.out, 14 if n >= THROUGH_BYTES else n + 14)
        if self.writing == 0 or m.opcode >= 8:
            if m.opcode < 8:
                self.writing = m.frame_bytes if m.more else n
            if self.client_side:
                fresh_random(self.key, 4)
            head = ws_build_head(p, m.fin, <int>m.rsv, <int>m.opcode, self.writing if m.opcode < 8 else n,
                                 self.key if self.client_side else NULL)
        if m.opcode < 8:
            if n > self.writing or (n == self.writing) == m.more:
                return 1
            self.writing -= n
        if n >= THROUGH_BYTES:
            self.out.len += head
            if self.client_side:            # in place: it lies in a buffer of ours, and nobody reads it again
                ws_mask(<uint8_t *>m.body.ptr, m.body.ptr, n, self.key)
                ws_rotate(self.key, n)
            return self.write_through(m.body.ptr, n)
        if self.client_side:
            ws_mask(p + head, m.body.ptr, n, self.key)
            ws_rotate(self.key, n)
        elif n:
            memcpy(p + head, m.body.ptr, n)
        self.out.len += head + n
        return 0

    cdef int write_close(self, int code, bytes reason) except -1:
        """A Close frame of our own; not inside a frame that is being written, where none can be sent any more."""
        cdef uint8_t payload[125]
        cdef uint8_t *p
        cdef size_t n = min(<size_t>len(reason), <size_t>123), head
        if self.writing or self.close_sent:
            return 0
        while n < <size_t>len(reason) and n and (<const uint8_t *>reason)[n] & 0xc0 == 0x80:
            n -= 1                      # not in the midst of a character (RFC 6455 5.5.1)
        payload[0] = <uint8_t>(code >> 8)
        payload[1] = <uint8_t>(code & 255)
        memcpy(payload + 2, <const char *>reason, n)
        p = out_reserve(&self.out, 14 + 125)
        if self.client_side:
            fresh_random(self.key, 4)
        head = ws_build_head(p, True, 0, 8, n + 2, self.key if self.client_side else NULL)
        if self.client_side:
            ws_mask(p + head, payload, n + 2, self.key)
        else:
            memcpy(p + head, payload, n + 2)
        self.out.len += head + n + 2
        self.close_sent = True
        return self.touch()

    cdef int written(self) except -1:
        cdef uint64_t n = self.unconsumed
        self.uncounted = 0
        if n:
            self.unconsumed = 0
            if self.exchange is not None:
                self.exchange.consumed(n)
        return 0

    cdef int finish_closing(self) except -1:
        if self.exchange is not None:
            self.exchange.finish(False)
        if self.client_side:
            self.arm(CLOSE_WAIT_S)
            return 0
        return self.close()

    cdef int on_timer(self, object stream) except -1:
        return self.close() if self.close_sent and self.close_received else self.abort()
