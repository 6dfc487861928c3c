"""The tunnel of a token with bytes_per_second.

What passes is taken from the bucket of the token's identity, and when that is used up everything waits: towards the client
as on a tunnel that is full (requests stop reading their sockets, and get their turns later), from the client because it is
granted no more credit, and is not told of new requests: their answers have a window of their own before any grant. One timer
a tunnel ends the wait. Links without a limit are not of this class, and pay nothing for it.
"""
from collections import deque

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from fasttunnel._core cimport (
    MSG_GRPC_REQUEST, MSG_HTTP_REQUEST, MSG_RESET, MSG_WINDOW_UPDATE, MSG_WS_REQUEST, Msg, WsFrame, msg_bound, msg_encode,
    tbl_find,
)
from fasttunnel.engine._exchange cimport Exchange

from fasttunnel import limits

cdef enum:
    PIECE = 4096                        # no message is cut smaller because the rate is nearly used up

cdef double SHORT_S = 0.005             # no timer is shorter,
cdef double LONG_S = 1.0                # and none longer: the rate may be changed meanwhile


def metered(Link link not None, bucket):
    """The same link with a limit, as long as nothing has passed on it."""
    cdef MeteredLink made = MeteredLink(link.conn, link.stream, link.handler, link.acceptor)
    made.bucket = bucket
    made.info = link.info
    made.grants = deque()
    made.held = {}
    return made


cdef bint opens(const Msg *m) noexcept:
    return m.kind == MSG_WS_REQUEST or m.first and (m.kind == MSG_HTTP_REQUEST or m.kind == MSG_GRPC_REQUEST)


cdef class MeteredLink(Link):
    cdef int spend(self, size_t n) except -1:
        """n bytes of payload pass."""
        if not self.bucket.spend(n) and self.timer is None:
            self.stop(self.bucket.wait_s())
        return 0

    cdef int stop(self, double wait_s) except -1:
        if self.conn is not None:
            self.timer = self.reactor.loop.call_later(min(max(wait_s, SHORT_S), LONG_S), self.go_on)
        return 0

    def go_on(self):
        """The bucket has filled again: pass on credit and requests that are due, and give turns to those who wait for room."""
        cdef double left, due = 0
        cdef bytes request_id
        cdef Msg m
        self.timer = None
        if self.conn is None:
            return
        if not self.bucket.open:            # another tunnel of the identity was quicker
            self.stop(self.bucket.wait_s())
            return
        left = self.bucket.level
        while due < left and (self.grants or self.held) and self.conn is not None:
            if self.held:
                # How much a request will be is not known: as much as others were. What it really is counts in the end.
                self.let_go(next(iter(self.held)))
                due += max(self.usual, <double>PIECE)
            while self.grants:
                memset(&m, 0, sizeof(m))
                request_id, m.direction, m.protocol_type, m.credit = self.grants.popleft()
                m.kind = MSG_WINDOW_UPDATE
                m.request_id.ptr = <const uint8_t *><const char *>request_id
                m.request_id.len = <size_t>len(request_id)
                if tbl_find(&self.table, m.request_id.ptr, m.request_id.len) != NULL:
                    due += <double>m.credit
                    Link.send(self, &m)
                    break                   # otherwise it has ended meanwhile
        self.serve_waiting()
        if (self.grants or self.held) and self.timer is None:
            # What has been asked for is still to come, and to be counted.
            self.stop(max(self.bucket.wait_s(), due / self.bucket.rate if self.bucket.rate else 0.0))

    cdef int hold_back(self, bytes request_id, Msg *m) except -1:
        cdef bytes data
        cdef size_t n
        if m.kind == MSG_RESET:             # the client need not know that there was one
            del self.held[request_id]
        else:
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>msg_bound(m))
            n = msg_encode(m, True, <uint8_t *><char *>data)
            self.held.setdefault(request_id, []).append(data[:n])
        self.swamped = <int>len(self.held) >= limits.QUEUED_REQUESTS
        return 0

    cdef int let_go(self, bytes request_id) except -1:
        cdef bytes data
        cdef size_t n
        cdef uint8_t *room
        for data in self.held.pop(request_id):
            n = <size_t>len(data)
            room = self.reserve(n)
            memcpy(room, <const char *>data, n)
            if self.tap is not None:        # whatever it wants: of a request that waited there are few
                self.show(True, room + 5, n - 5)
            self.commit(n)
        self.swamped = False
        return 0

    cdef bint congested(self) noexcept:
        return self.timer is not None or Link.congested(self)

    cdef uint64_t room(self, Exchange exchange) except? 0xffffffffffffffff:
        cdef double level = self.bucket.level
        cdef uint64_t room
        if level <= 0 and self.timer is None:
            self.stop(self.bucket.wait_s())
        if self.timer is not None and self.turn is exchange:
            exchange.share = min(exchange.share, 0)     # its turn is over
        room = Link.room(self, exchange)
        return min(room, <uint64_t>max(level, <double>PIECE)) if level < <double>room else room

    cdef int send(self, Msg *m) except -1:
        cdef bytes request_id
        if self.held or self.timer is not None and opens(m):
            request_id = m.request_id.ptr[:m.request_id.len]
            if opens(m) or request_id in self.held:
                self.spend(m.body.len)
                return self.hold_back(request_id, m)
        if m.kind == MSG_WINDOW_UPDATE and (self.timer is not None or self.grants):
            self.grants.append((m.request_id.ptr[:m.request_id.len], m.direction, m.protocol_type, m.credit))
            return 0
        if m.body.len:
            self.spend(m.body.len)
        return Link.send(self, m)

    cdef int send_frame(self, Exchange exchange, const WsFrame *frame) except -1:
        self.spend(frame.payload_len)
        return Link.send_frame(self, exchange, frame)

    cdef int deliver(self, Exchange exchange, const Msg *m) except -1:
        if m.body.len:
            self.spend(m.body.len)
        return Link.deliver(self, exchange, m)

    cdef int retire(self, Exchange exchange, bint abnormal) except -1:
        cdef uint64_t payload = exchange.bytes_sent + exchange.bytes_received
        self.usual += (<double>min(payload, <uint64_t>self.local_window) - self.usual) / 8
        return Link.retire(self, exchange, abnormal)

    cdef int lose(self, int grpc_status, str message) except -1:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.grants.clear()
        self.held.clear()
        return Link.lose(self, grpc_status, message)
