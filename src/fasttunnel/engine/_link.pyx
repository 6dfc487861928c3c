"""The tunnel itself: TunnelMessages in batches over one gRPC stream, dispatched by request_id.

Out: every message is encoded straight into the batch, which leaves as one DATA frame and one write per loop iteration;
nine bytes in front of it are kept free, so that the frame header is put there and nothing is copied. In: messages are
decoded where they lie in the read buffer; only one that two reads cut is gathered.
Sharing: while the socket is above its high-water mark, exchanges wait and are served by turns, each with a share of
QUANTUM bytes (deficit round robin: M. Shreedhar, G. Varghese, 1995). Whoever has not used up its last share goes before
those who have, as in FQ-CoDel (RFC 8290 4.1): a small message does not wait for the turns of bulk transfers.
"""
import socket
import traceback
from collections import deque

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from fasttunnel._core cimport (
    GRPC_NEED_MORE, GRPC_PIECE, GrpcPiece, MSG_GRPC_REQUEST, MSG_GRPC_RESPONSE, MSG_HTTP_REQUEST, MSG_HTTP_RESPONSE,
    MSG_NONE, MSG_REGISTER, MSG_RESET, MSG_TCP_DATA, MSG_WINDOW_UPDATE, MSG_WS_FRAME, MSG_WS_OVERHEAD,
    MSG_WS_REQUEST, PROTO_CONTROL, PROTO_GRPC, PROTO_HTTP, PROTO_WEBSOCKET, TO_BACKEND, TO_PUBLIC,
    buf_append, buf_consume, grpc_prefix, grpc_split, msg_bound, msg_decode, msg_encode,
    msg_encode_around, msg_encode_ws, msg_encode_ws_around, ws_mask, tbl_find, tbl_free, tbl_init, tbl_pop, tbl_put,
)
from fasttunnel.engine._grpc cimport decode_message, encode_message
from fasttunnel.engine._http2 cimport nv_add, nv_add_text, nv_start
from fasttunnel.engine._io cimport Conn, THROUGH_BYTES
from fasttunnel.engine._out cimport out_append, out_clear, out_reserve
from fasttunnel.engine._nghttp2 cimport NGHTTP2_CANCEL, NGHTTP2_SETTINGS
from fasttunnel.engine._record cimport label_texts
from fasttunnel.engine._tally cimport RouteTally, monotonic_s
from fasttunnel.engine._tls cimport tls_identity

from fasttunnel import limits
from fasttunnel.control.counts import PROTOCOLS
from fasttunnel.control.taps import UnderWay
from fasttunnel.engine._tls import TlsError
from fasttunnel.errors import describe

cdef enum:
    HEADROOM = 9                        # an HTTP/2 frame header
    BATCH_FLUSH = 262144                # a longer batch is written without waiting for the end of the iteration
    BATCH_LIMIT = 524288                # beyond this, sources wait
    QUANTUM = 65536                     # bytes of one turn
    PIECE = 4096                        # no message is cut smaller because a turn ends
    UNSENT_BYTES = 131072               # in the kernel, beyond what is under way: what waits longer waits here, in its turn
    MESSAGE_LIMIT = 4194304             # one TunnelMessage (wire.md, "Flow control")
    LINK_WINDOW = 0x7fffffff
    LINK_FRAME = 16777215               # RFC 9113 4.2: the largest that can be announced

    GRPC_UNKNOWN = 2
    GRPC_RESOURCE_EXHAUSTED = 8
    GRPC_UNIMPLEMENTED = 12
    GRPC_INTERNAL = 13
    GRPC_UNAVAILABLE = 14

    NO_ROUTE = 2
    BACKEND_TIMEOUT = 4
    PROTOCOL_ERROR = 5
    TUNNEL_LOST = 9

cdef str NO_PLAIN_TUNNEL_PORT = "it does not speak HTTP/2 in the clear (is it the server's --tunnel port, or does it want --tls?)"
cdef str NO_TUNNEL_PORT = "it does not speak HTTP/2 (is it the server's --tunnel port?)"
cdef bytes IDLE_TEXT = b"nothing has passed through the tunnel for too long"
cdef double GOODBYE_S = 10.0            # for a client to take the end of its tunnel and close the connection
cdef bytes CONNECT_PATH = b"/fasttunnel.v1.TunnelService/Connect"
cdef object NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)
cdef uint64_t next_request = 0          # request_ids are unique in the process
cdef char *HEX = b"0123456789abcdef"


cdef class Acceptor:
    cdef Endpoint accept(self, Exchange exchange, const Msg *m):
        raise NotImplementedError


# -- the stream ----------------------------------------------------------------------------------------------------------------

cdef class LinkStream(H2Stream):
    def __cinit__(self):
        self.grpc_status = -1
        self.lost_by = "connection lost"

    cdef int on_header(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
        cdef bytes key = name[:name_len]
        if self.server:
            if key == b":path":
                self.path = value[:value_len]
            elif key == b":method":
                self.method = value[:value_len]
            elif key == b"content-type":
                self.content_type = value[:value_len]
            elif key == b"authorization":
                self.authorization = value[:value_len]
        elif key == b":status":
            self.http_status = int(value[:value_len])
        elif key == b"grpc-status":
            self.grpc_status = int(value[:value_len]) if value[:value_len].isdigit() and value_len < 3 else GRPC_UNKNOWN
        elif key == b"grpc-message":
            self.grpc_message = decode_message(value[:value_len])
        return 0

    cdef int on_headers(self) except -1:
        if self.link is not None or not self.server:
            return 0
        if self.method != b"POST" or self.content_type is None or not self.content_type.startswith(b"application/grpc"):
            nv_start(&self.conn.nv, 20)
            nv_add_text(&self.conn.nv, ":status", "415" if self.method == b"POST" else "405")
            self.end_request = True
            return self.conn.submit_response(self, False)
        if self.path != CONNECT_PATH:
            return self.refuse(GRPC_UNIMPLEMENTED, "this port serves /fasttunnel.v1.TunnelService/Connect only")
        return (<LinkConn>self.conn).accept_stream(self)

    cdef int refuse(self, int grpc_status, str message) except -1:
        """Server: end the call with a status, in trailers or, where nothing was sent yet, as the only answer."""
        cdef bytes text = encode_message(message.encode())
        cdef bytes number = str(grpc_status).encode()
        self.refused = True
        if self.conn is None:
            return 0
        self.end_request = not self.receive_end     # RFC 9113 8.1: the answer is complete, the request need not go on
        if self.link is not None and self.link.conn is not None:
            self.add_trailer(b"grpc-status", 11, number, len(number))
            self.add_trailer(b"grpc-message", 12, text, len(text))
            self.write_end()
        else:
            nv_start(&self.conn.nv, 20)
            nv_add_text(&self.conn.nv, ":status", "200")
            nv_add_text(&self.conn.nv, "content-type", "application/grpc")
            nv_add(&self.conn.nv, b"grpc-status", 11, number, len(number))
            nv_add(&self.conn.nv, b"grpc-message", 12, text, len(text))
            self.conn.submit_response(self, False)
        return 0

    cdef int on_data(self, const uint8_t *data, size_t n) except -1:
        cdef Link link = self.link
        cdef GrpcPiece piece
        cdef size_t used = 0, need, part
        cdef int result
        if link is None or self.refused or link.conn is None:
            return 0
        while n:
            if self.rest.len:
                # A message that the last read cut: complete it, and no more than it.
                need = <size_t>link.splitter.remaining if link.splitter.in_message else 5
                part = min(n, need - self.rest.len)
                if buf_append(&self.rest, data, part) < 0:
                    raise MemoryError
                data += part
                n -= part
                result = grpc_split(&link.splitter, self.rest.data, self.rest.len, LINK_WINDOW, &used, &piece)
                if result == GRPC_PIECE:
                    link.dispatch_piece(&piece)
                if used:
                    buf_consume(&self.rest, used)
            else:
                result = grpc_split(&link.splitter, data, n, LINK_WINDOW, &used, &piece)
                if result == GRPC_PIECE:
                    link.dispatch_piece(&piece)
                data += used
                n -= used
                if result == GRPC_NEED_MORE:
                    if buf_append(&self.rest, data, n) < 0:
                        raise MemoryError
                    return 0
            if result < 0:
                return link.malformed("gRPC message with a bad prefix, or above 4 MiB")
            if self.refused or link.conn is None:
                return 0
        return 0

    cdef int pump(self) except -1:
        if self.receive_end and self.link is not None and self.server:
            # The client has closed its side: it is leaving.
            self.refuse(0, "")
            self.link.lose(0, "the client closed the tunnel")
        elif self.receive_end and self.link is not None and self.id in self.conn.streams:
            # The server has ended the call, and need not reset its stream as well: our side would stay open.
            self.rst(NGHTTP2_CANCEL)
        return 0

    cdef int on_closed(self, uint32_t error_code) except -1:
        cdef str text
        cdef int status = self.grpc_status
        cdef Link link = self.link
        if link is None:
            return 0
        if status >= 0:
            text = (self.grpc_message or b"").decode("utf-8", "replace")
        else:
            status = GRPC_UNAVAILABLE
            text = self.lost_by if self.http_status in (0, 200) else f"HTTP status {self.http_status}"
        link.lose(status, text)
        self.link = None                # each refers to the other
        link.stream = None
        return 0

    cdef size_t out_available(self) noexcept:
        return self.link.batch.len - self.link.batch_pos + self.link.part_bytes if self.link is not None else 0

    cdef int emit(self, const uint8_t *frame_head, size_t length) except -1:
        cdef Link link = self.link
        cdef Http2Conn conn = self.conn
        cdef uint8_t *data
        cdef uint8_t *room
        if link is None or link.batch.data == NULL:
            out_append(&conn.out, frame_head, 9)
            return 0
        data = link.batch.data
        if link.batch_pos == HEADROOM and length == link.batch.len - HEADROOM + link.part_bytes:
            memcpy(data, frame_head, 9)
            conn.put(&conn.out)
            if link.part_bytes:
                conn.put_part(NULL, data, link.part_at)
                conn.put_part(NULL, link.part, link.part_bytes)
                conn.put(&link.batch, link.part_at)
                link.part_bytes = 0
            else:
                conn.put(&link.batch)
            link.batch_pos = 0
            return 0
        if link.part_bytes:
            link.gather()
            data = link.batch.data
        room = out_reserve(&conn.out, length + 9)
        memcpy(room, frame_head, 9)
        memcpy(room + 9, data + link.batch_pos, length)
        conn.out.len += length + 9
        link.batch_pos += length
        if link.batch_pos == link.batch.len:
            out_clear(&link.batch)
            link.batch_pos = 0
        return 0


# -- the connection ------------------------------------------------------------------------------------------------------------

cdef class LinkConn(Http2Conn):
    """handler: see Link.handler. acceptor: None at the server; at the client this connection opens the call itself."""

    def __init__(self, Reactor reactor, handler, Acceptor acceptor=None, bytes authority=b"", bytes token=None):
        self.reactor = reactor
        self.poller = reactor
        self.handler = handler
        self.acceptor = acceptor
        self.authority = authority
        self.token = token
        self.is_link = True

    cdef int on_connected(self) except -1:
        cdef bint server = self.acceptor is None
        if NOTSENT_LOWAT is not None:
            self.set_option(socket.IPPROTO_TCP, NOTSENT_LOWAT, UNSENT_BYTES)
        self.start_session(server, True, LINK_WINDOW, LINK_WINDOW, LINK_FRAME, 16, 65536)
        if server:
            return self.arm(limits.REFUSED_S if self.unwelcome else limits.HEAD_TIMEOUT_S)
        return self.open_call()

    cdef int open_call(self) except -1:
        """Client: open the call. Headers as the gRPC over HTTP/2 protocol has them."""
        cdef LinkStream stream = LinkStream()
        cdef Link link = Link(self, stream, self.handler, self.acceptor)
        cdef bytes bearer
        stream.link = link
        nv_start(&self.nv, 0)
        nv_add_text(&self.nv, ":method", "POST")
        nv_add_text(&self.nv, ":scheme", "https" if self.tls != NULL else "http")
        nv_add_text(&self.nv, ":path", CONNECT_PATH)
        nv_add(&self.nv, <const uint8_t *><char *>b":authority", 10, self.authority, len(self.authority))
        nv_add_text(&self.nv, "te", "trailers")
        nv_add_text(&self.nv, "content-type", "application/grpc")
        nv_add_text(&self.nv, "user-agent", "fasttunnel")
        if self.token is not None:
            bearer = b"Bearer " + self.token
            nv_add(&self.nv, <const uint8_t *><char *>b"authorization", 13, bearer, len(bearer))
        if self.submit_request(stream, True):
            raise ConnectionError("the server takes no stream")
        self.handler.opened(link)
        return 0

    def connect_failed(self, str text, bint timed_out):
        """The TLS handshake failed; the TCP connection is the engine's affair."""
        self.connecting = False
        if self.acceptor is not None:
            self.handler.refused(self, "it did not finish the TLS handshake in time" if timed_out else text)

    cdef H2Stream new_stream(self):
        cdef LinkStream stream = LinkStream()
        stream.server = True
        return stream

    cdef int accept_stream(self, LinkStream stream) except -1:
        cdef Link link
        cdef object verdict
        if self.unwelcome:
            return stream.refuse(GRPC_RESOURCE_EXHAUSTED, "there are as many connections from this address as there may be")
        link = Link(self, stream, self.handler, None)
        verdict = self.handler.authorize(link, stream.authorization)
        if isinstance(verdict, tuple):
            link.conn = None
            return stream.refuse(verdict[0], verdict[1])
        if verdict is not None:
            link.conn = None
            link = verdict
        stream.link = link
        nv_start(&self.nv, 0)
        nv_add_text(&self.nv, ":status", "200")
        nv_add_text(&self.nv, "content-type", "application/grpc")
        self.submit_response(stream, True)
        self.disarm()
        self.handler.opened(link)
        return 0

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        cdef H2Stream stream
        self.reads += 1
        # RFC 9113 3.4: a server speaks first with a SETTINGS frame.
        if self.reads == 1 and self.acceptor is not None and n > 3 and data[3] != NGHTTP2_SETTINGS:
            for stream in list(self.streams.values()):
                (<LinkStream>stream).link.lose(GRPC_UNAVAILABLE, NO_TUNNEL_PORT if self.tls != NULL else NO_PLAIN_TUNNEL_PORT)
            self.abort()
            return <Py_ssize_t>n
        return Http2Conn.feed(self, data, n)

    cdef int fill(self) except -1:
        cdef H2Stream stream
        for stream in self.streams.values():
            if stream.deferred and stream.out_available():
                stream.undefer()
        return Http2Conn.fill(self)

    cdef int written(self) except -1:
        cdef H2Stream stream
        for stream in list(self.streams.values()):
            if (<LinkStream>stream).link is not None:
                (<LinkStream>stream).link.serve_waiting()
        return 0

    cdef int on_lost(self, object exc) except -1:
        cdef H2Stream stream
        if isinstance(exc, TlsError):       # such as that it asks for a certificate
            for stream in self.streams.values():
                (<LinkStream>stream).lost_by = describe(exc)
        return Http2Conn.on_lost(self, exc)

    cdef int on_timer(self, object stream) except -1:
        return self.abort()

    cdef int await_close(self) except -1:
        """Server: a link of this connection has ended. The client closes it; but one that is a ghost never will."""
        cdef LinkStream stream
        for stream in self.streams.values():
            if stream.link is not None and stream.link.conn is not None:
                return 0
        return self.arm(GOODBYE_S) if self.attached else 0

    def keep_alive(self):
        """An HTTP/2 PING: any peer answers it, so that `reads` moves while the peer lives."""
        self.ping()

    def hang_up(self):
        """Close once everything is written: the link has ended."""
        self.close()


# -- the tunnel ----------------------------------------------------------------------------------------------------------------

cdef long links_alive = 0

def alive():
    """Link objects that exist (see _exchange.alive)."""
    return links_alive


cdef class Link(Carrier):
    def __cinit__(self, LinkConn conn, LinkStream stream, handler, Acceptor acceptor):
        global links_alive
        links_alive += 1
        if tbl_init(&self.table) < 0:
            raise MemoryError
        self.conn = conn
        self.stream = stream
        self.reactor = conn.reactor
        self.passed = &conn.reactor.tallies.passed
        self.tallies = {}
        self.handler = handler
        self.acceptor = acceptor
        self.light = deque()
        self.ring = deque()
        self.splitter.max_message_bytes = MESSAGE_LIMIT
        self.backlog_bytes = limits.BACKLOG_BYTES

    def __dealloc__(self):
        global links_alive
        links_alive -= 1
        tbl_free(&self.table)
        out_clear(&self.batch)

    # -- the engine's side

    def send_control(self, bytes message):
        """Send a TunnelMessage that protobuf has encoded."""
        cdef uint8_t *room
        cdef size_t n = len(message)
        if self.conn is None:
            return
        room = self.reserve(n + 5)
        grpc_prefix(room, False, <uint32_t>n)
        memcpy(room + 5, <const char *>message, n)
        if self.shows(MSG_REGISTER, PROTO_CONTROL):
            self.show(True, room + 5, n)
        self.commit(n + 5)

    def request(self, str request_id):
        """What is known of a request under way, for a tap (control.taps.UnderWay)."""
        cdef bytes key = request_id.encode()
        cdef void *entry = tbl_find(&self.table, <const uint8_t *><const char *>key, <size_t>min(len(key), 16))
        cdef Exchange exchange
        cdef bint up
        if entry == NULL or len(key) > 16:
            return None
        exchange = <Exchange>entry
        up = exchange.direction == TO_BACKEND
        method, host, path = label_texts(exchange.label)
        return UnderWay(
            PROTOCOLS[exchange.protocol], (<RouteTally>exchange.tally).name if exchange.tally is not None else "",
            method, host, path or (exchange.method or b"").decode("latin-1"), monotonic_s() - exchange.started_s,
            exchange.messages_sent if up else exchange.messages_received,
            exchange.messages_received if up else exchange.messages_sent)

    def start(self, int64_t peer_window, int64_t local_window, uint64_t max_fragment, WindowBudget budget not None):
        """The two ends have agreed (Register, Registered): requests may be carried. All in bytes."""
        self.budget = budget
        self.peer_window = min(peer_window, <int64_t>0x7fffffff)
        self.local_window = local_window
        self.max_fragment = max_fragment
        self.up = True

    def measured(self, double round_trip_s):
        """How long the way to the peer and back takes: windows grow where it is long."""
        self.round_trip_s = round_trip_s

    def drain(self, bint unhurried=False):
        """No new requests on this link; those under way go on, but WebSockets, which might for ever, are closed in order.
        `unhurried`: they may as well."""
        cdef Exchange exchange
        self.draining = True
        if unhurried:
            return
        for exchange in self.exchanges():
            if exchange.protocol == PROTO_WEBSOCKET and isinstance(exchange.endpoint, Conn):
                (<Conn>exchange.endpoint).leave()

    def report_idle(self):
        """Have handler.idle() called when no request is left, while new ones are still taken."""
        self.watched = True
        if self.table.count == 0:
            self.handler.idle(self)

    def end_idle(self):
        """End the requests on which nothing has passed since the last call but one."""
        cdef Exchange exchange
        cdef Endpoint endpoint
        cdef uint64_t passed
        for exchange in self.exchanges():
            passed = (exchange.messages_sent + exchange.messages_received + exchange.bytes_sent
                      + exchange.bytes_received)
            if passed != exchange.passed:
                exchange.passed = passed
                exchange.idle = 0
                continue
            exchange.idle += 1
            if exchange.idle < 2:
                continue
            endpoint = exchange.endpoint
            exchange.reset(BACKEND_TIMEOUT, IDLE_TEXT)
            if endpoint is not None:
                endpoint.on_reset(BACKEND_TIMEOUT, IDLE_TEXT)

    def end(self, int grpc_status, str message):
        """End the tunnel in order: a server gives its status, a client closes its side."""
        cdef LinkStream stream = self.stream
        if self.conn is None:
            return
        if stream.server:
            stream.refuse(grpc_status, message)
        else:
            stream.write_end()
        self.lose(grpc_status, message)

    def under_way(self):
        """Its requests."""
        return self.exchanges()

    cdef list exchanges(self):
        cdef size_t i
        cdef list found = []
        for i in range(self.table.capacity):
            if self.table.entries[i].value != NULL:
                found.append(<Exchange>self.table.entries[i].value)
        return found

    @property
    def active(self):
        """Requests under way."""
        return self.table.count

    @property
    def active_by_protocol(self):
        """The same: HTTP, gRPC, WebSocket."""
        cdef size_t i
        cdef size_t[4] counts = [0, 0, 0, 0]
        for i in range(self.table.capacity):
            if self.table.entries[i].value != NULL:
                counts[(<Exchange>self.table.entries[i].value).protocol & 3] += 1
        return counts[1], counts[2], counts[3]

    @property
    def peer(self):
        return self.conn.peer_text() if self.conn is not None else "unknown"

    @property
    def certificate(self):
        """Common name in the certificate that the peer has shown; None: it has shown none."""
        return tls_identity(self.conn.tls) if self.conn is not None and self.conn.tls != NULL else None

    # -- requests

    cdef Exchange new_exchange(self, Endpoint endpoint, int protocol, int direction):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.protocol = <uint8_t>protocol
        exchange.direction = <uint8_t>direction
        exchange.carrier = self
        exchange.endpoint = endpoint
        exchange.send_credit = self.peer_window
        exchange.receive_credit = exchange.window = self.local_window
        exchange.share = QUANTUM
        exchange.reset_code = -1
        exchange.started_s = monotonic_s()
        if endpoint is not None:
            endpoint.exchange = exchange
        self.requests += 1
        self.reactor.requests += 1
        return exchange

    cdef Exchange open(self, Endpoint endpoint, int protocol):
        """Server: a new request begins; its id is made here."""
        cdef Exchange exchange = self.new_exchange(endpoint, protocol, TO_BACKEND)
        exchange.id_len = make_request_id(exchange.id, protocol)
        if tbl_put(&self.table, exchange.id, exchange.id_len, <void *>exchange) != 0:
            raise MemoryError
        Py_INCREF(exchange)
        return exchange

    cdef int retire(self, Exchange exchange, bint abnormal) except -1:
        cdef double now_s
        if self.last == <PyObject *>exchange:
            self.last = NULL
        if tbl_pop(&self.table, exchange.id, exchange.id_len) == NULL:
            return 0
        self.reactor.requests -= 1
        if abnormal:
            self.recent[id_hash(exchange.id, exchange.id_len) % RECENT] = id_hash(exchange.id, exchange.id_len)
        if self.turn is exchange:
            self.turn = None
        now_s = monotonic_s()
        self.reactor.tallies.ended(exchange, now_s - exchange.started_s)
        if self.journal is not None:
            self.journal.ended(exchange, self.client_id, now_s)
        Py_DECREF(exchange)
        if (self.draining or self.watched) and self.table.count == 0:
            self.handler.idle(self)
        return 0

    # -- output

    cdef uint8_t *reserve(self, size_t n) except NULL:
        cdef uint8_t *data
        if self.batch_pos > BATCH_FLUSH and self.batch_pos * 2 > self.batch.len:
            # A peer with small windows takes the batch piece by piece, and it may never be empty: make room in front.
            data = self.batch.data
            memmove(data + HEADROOM, data + self.batch_pos, self.batch.len - self.batch_pos)
            self.batch.len -= self.batch_pos - HEADROOM
            self.batch_pos = HEADROOM
        if self.batch.data == NULL:
            out_reserve(&self.batch, n + HEADROOM)
            self.batch.len = HEADROOM
            self.batch_pos = HEADROOM
        return out_reserve(&self.batch, n)

    cdef int commit(self, size_t n) except -1:
        cdef Link _held = self
        self.batch.len += n
        self.messages_sent += 1
        if self.conn is None:
            out_clear(&self.batch)
            self.batch_pos = 0
            return 0
        self.conn.touch()
        if self.batch.len > BATCH_FLUSH and not self.conn.feeding and not self.conn.write_paused \
                and self.batch_pos == HEADROOM:
            self.conn.flush_early()
        return 0

    cdef bint passes(self, size_t n, int kind, int protocol) noexcept:
        """Whether a payload of n bytes is sent from where it lies: it is long, and the socket and the peer take it now."""
        cdef LinkConn conn = self.conn
        return (n >= THROUGH_BYTES and conn is not None and not conn.write_paused and not conn.feeding
                and not conn.flushing and conn.fd >= 0 and not self.shows(kind, protocol)
                and (self.batch_pos == HEADROOM or self.batch.len == 0)
                and conn.peer_max_frame() >= n + BATCH_FLUSH)

    cdef int pass_on(self, size_t n, size_t gap, const uint8_t *payload, size_t payload_bytes) except -1:
        """Send the batch with a last message of n bytes around a payload that is not copied."""
        cdef Link _held = self              # the flush may lose the tunnel, and with it the last reference
        self.part = payload
        self.part_bytes = payload_bytes
        self.part_at = self.batch.len + gap
        self.batch.len += n
        self.messages_sent += 1
        self.conn.flush_early()
        if self.conn is None:
            self.part_bytes = 0
            out_clear(&self.batch)
            self.batch_pos = 0
            return 0
        return self.gather() if self.part_bytes else 0

    cdef int gather(self) except -1:
        """The payload was not taken after all: it is copied into the batch."""
        cdef size_t n = self.part_bytes
        cdef uint8_t *place
        self.part_bytes = 0
        if self.batch.data != NULL:
            out_reserve(&self.batch, n)
            place = self.batch.data + self.part_at
            memmove(place + n, place, self.batch.len - self.part_at)
            memcpy(place, self.part, n)
            self.batch.len += n
        return 0

    cdef int send(self, Msg *m) except -1:
        cdef uint8_t *room
        cdef size_t n, gap = 0
        if self.passes(m.body.len, m.kind, m.protocol_type):
            room = self.reserve(msg_bound(m) - m.body.len)
            n = msg_encode_around(m, room, &gap)
            return self.pass_on(n, gap, m.body.ptr, m.body.len)
        room = self.reserve(msg_bound(m))
        n = msg_encode(m, True, room)
        if self.shows(m.kind, m.protocol_type):
            self.show(True, room + 5, n - 5)
        return self.commit(n)

    cdef int send_frame(self, Exchange exchange, const WsFrame *frame) except -1:
        cdef uint8_t *room
        cdef size_t n, gap = 0
        if self.passes(frame.payload_len, MSG_WS_FRAME, PROTO_WEBSOCKET):
            room = self.reserve(MSG_WS_OVERHEAD)
            n = msg_encode_ws_around(exchange.id, exchange.id_len, exchange.direction, frame, room, &gap)
            if frame.masked:                # in place: it lies in a buffer of ours, and nobody reads it again
                ws_mask(<uint8_t *>frame.payload, frame.payload, frame.payload_len, frame.key)
            return self.pass_on(n, gap, frame.payload, frame.payload_len)
        room = self.reserve(frame.payload_len + MSG_WS_OVERHEAD)
        n = msg_encode_ws(exchange.id, exchange.id_len, exchange.direction, frame, room)
        if self.shows(MSG_WS_FRAME, PROTO_WEBSOCKET):
            self.show(True, room + 5, n - 5)
        return self.commit(n)

    cdef bint shows(self, int kind, int protocol) noexcept:
        """Whether a tap wants to see such a message."""
        if self.tap is None:
            return False
        if MSG_HTTP_REQUEST <= kind <= MSG_WS_FRAME:        # in the order of protocols, whatever a peer says
            protocol = PROTO_HTTP if kind <= MSG_HTTP_RESPONSE else PROTO_GRPC if kind <= MSG_GRPC_RESPONSE else PROTO_WEBSOCKET
        elif kind != MSG_RESET and kind != MSG_NONE:
            protocol = PROTO_CONTROL
        return protocol == 0 or self.tap_protocols >> (protocol & 7) & 1

    cdef int show(self, bint sent, const uint8_t *data, size_t n) except -1:
        """Hand a message to the taps."""
        self.tap(self, bool(sent), data[:n])
        return 0

    cdef bint congested(self) noexcept:
        return self.conn is None or self.conn.write_paused or self.batch.len - self.batch_pos > BATCH_LIMIT

    cdef uint64_t room(self, Exchange exchange) except? 0xffffffffffffffff:
        if self.turn is exchange:
            if exchange.share > 0:
                return <uint64_t>max(exchange.share, <int64_t>PIECE)
        elif self.waiting == 0 and not self.congested():
            return LINK_WINDOW
        if not exchange.waiting:
            exchange.waiting = True
            self.waiting += 1
            (self.light if exchange.share > 0 else self.ring).append(exchange)
            if self.conn is not None:
                self.conn.touch()
        return 0

    cdef int serve_waiting(self) except -1:
        """The socket takes more: give each waiting exchange its turn until it is full again."""
        cdef Exchange exchange
        cdef Endpoint endpoint
        cdef int64_t before
        cdef Link _held = self
        while self.waiting and not self.congested():
            if self.light and (self.light_left > 0 or not self.ring):
                exchange = self.light.popleft()
            else:
                exchange = self.ring.popleft()
                exchange.share = QUANTUM
                self.light_left = QUANTUM
            exchange.waiting = False
            self.waiting -= 1
            endpoint = exchange.endpoint
            if endpoint is None:
                continue
            self.turn = exchange
            before = exchange.share
            try:
                endpoint.on_credit()
            except Exception as error:
                self.give_up(exchange, error)
            self.light_left -= before - exchange.share
            self.turn = None
        return 0

    # -- input

    cdef int dispatch_piece(self, const GrpcPiece *piece) except -1:
        if piece.compressed:
            return self.malformed("compressed message although no compression was offered")
        return self.dispatch(piece.body, piece.body_len)

    cdef int dispatch(self, const uint8_t *data, size_t n) except -1:
        cdef Msg m
        cdef size_t where = 0
        cdef int code = msg_decode(data, n, &m, &where)
        cdef void *entry
        cdef Exchange exchange
        self.messages_received += 1
        if self.tap is not None and (code < 0 or self.shows(m.kind, m.protocol_type)):
            self.show(False, data, n)
        if self.batch.len - self.batch_pos > self.backlog_bytes:
            return self.break_off(GRPC_RESOURCE_EXHAUSTED, "it sends, and does not read what it is answered")
        if code < 0:
            return self.malformed(f"malformed TunnelMessage ({decode_error(code)}) at byte {where} of {n}")
        if m.kind == MSG_NONE or m.kind == MSG_TCP_DATA:
            return 0
        if m.kind >= MSG_HTTP_REQUEST and m.kind <= MSG_WS_FRAME or m.kind == MSG_RESET or m.kind == MSG_WINDOW_UPDATE:
            if not self.up and self.acceptor is None:
                self.handler.control(self, m.kind, data[:n])    # which has to be Register
                return 0
            if m.request_id.len > 16:
                return self.malformed(f"request_id of {m.request_id.len} bytes, at most 16 are allowed")
            if self.last != NULL:
                exchange = <Exchange>self.last
                if exchange.id_len == m.request_id.len and memcmp(exchange.id, m.request_id.ptr, exchange.id_len) == 0:
                    return self.deliver(exchange, &m)
            entry = tbl_find(&self.table, m.request_id.ptr, m.request_id.len)
            if entry == NULL:
                return self.unknown(&m)
            self.last = <PyObject *>entry
            exchange = <Exchange>entry
            return self.deliver(exchange, &m)
        self.handler.control(self, m.kind, data[:n])
        return 0

    cdef int deliver(self, Exchange exchange, const Msg *m) except -1:
        try:
            return exchange.receive(m)
        except Exception as error:
            return self.give_up(exchange, error)

    cdef int give_up(self, Exchange exchange, object error) except -1:
        """An unexpected error in one request costs that request, not the tunnel."""
        cdef Endpoint endpoint = exchange.endpoint
        cdef bytes text = (b"the server" if self.acceptor is None else b"the client") + b" has failed on this request"
        self.handler.warning("".join(traceback.format_exception(error)))
        exchange.reset(PROTOCOL_ERROR, text)
        if endpoint is not None:
            endpoint.on_reset(PROTOCOL_ERROR, text)
        return 0

    cdef int unknown(self, const Msg *m) except -1:
        """A request that is not in the table: the client opens it when it begins here; late messages are dropped."""
        cdef Exchange exchange
        cdef Endpoint endpoint
        cdef Msg reset
        cdef bytes text
        cdef uint64_t mark
        cdef int protocol
        if m.kind == MSG_RESET or m.kind == MSG_WINDOW_UPDATE:
            return 0
        if self.acceptor is not None and self.up and m.request_id.len and not self.draining and (
                m.kind == MSG_WS_REQUEST or m.first and (m.kind == MSG_HTTP_REQUEST or m.kind == MSG_GRPC_REQUEST)):
            protocol = (PROTO_WEBSOCKET if m.kind == MSG_WS_REQUEST else
                        PROTO_HTTP if m.kind == MSG_HTTP_REQUEST else PROTO_GRPC)
            exchange = self.new_exchange(None, protocol, TO_PUBLIC)
            memcpy(exchange.id, m.request_id.ptr, m.request_id.len)
            exchange.id_len = <uint8_t>m.request_id.len
            if tbl_put(&self.table, exchange.id, exchange.id_len, <void *>exchange) != 0:
                raise MemoryError
            Py_INCREF(exchange)
            endpoint = self.acceptor.accept(exchange, m)
            if endpoint is None:
                exchange.reset(NO_ROUTE, b"this client has no backend for the request")
                return 0
            exchange.endpoint = endpoint
            endpoint.exchange = exchange
            return self.deliver(exchange, m)
        mark = id_hash(m.request_id.ptr, m.request_id.len)
        if self.recent[mark % RECENT] == mark:
            return 0
        self.recent[mark % RECENT] = mark
        memset(&reset, 0, sizeof(reset))
        reset.request_id = m.request_id
        reset.direction = TO_BACKEND if self.acceptor is None else TO_PUBLIC
        reset.protocol_type = m.protocol_type
        reset.kind = MSG_RESET
        reset.code = 8 if self.draining else PROTOCOL_ERROR
        text = b"the server does not know this request" if self.acceptor is None else b"the client does not know this request"
        reset.text.ptr = <const uint8_t *><const char *>text
        reset.text.len = <size_t>len(text)
        return self.send(&reset)

    cdef int malformed(self, str text) except -1:
        """The peer does not speak the protocol."""
        return self.break_off(GRPC_INTERNAL, text)

    cdef int break_off(self, int grpc_status, str text) except -1:
        """By the peer's fault the tunnel ends, with a warning; other tunnels live on."""
        if self.conn is None:
            return 0
        self.handler.warning(f"tunnel with {self.far_end or self.peer} ended: {text}")
        if self.stream.server:
            self.stream.refuse(grpc_status, text)
        else:
            self.stream.rst(2)
        return self.lose(grpc_status, text)

    cdef int lose(self, int grpc_status, str message) except -1:
        """The tunnel is gone: every request on it fails, once."""
        cdef Exchange exchange
        cdef LinkConn conn = self.conn
        if conn is None:
            return 0
        self.conn = None
        self.up = False
        for exchange in self.exchanges():
            exchange.fail(TUNNEL_LOST, b"the tunnel was lost")
        self.ring.clear()
        self.light.clear()
        self.waiting = 0
        if self.acceptor is None:
            conn.await_close()
        self.handler.lost(self, grpc_status, message)
        return 0


cdef uint8_t make_request_id(uint8_t *id, int protocol) noexcept:
    """The next one, of at most 16 bytes. Returns its length."""
    global next_request
    cdef uint64_t number
    cdef uint8_t *p = id
    cdef uint8_t length
    cdef int digits = 1
    next_request += 1
    number = next_request
    if protocol == PROTO_WEBSOCKET:
        memcpy(p, b"ws-", 3)
        p += 3
    else:
        memcpy(p, b"g-" if protocol == PROTO_GRPC else b"h-", 2)
        p += 2
    while digits < 13 and number >> (4 * digits):
        digits += 1
    length = <uint8_t>(p - id) + digits
    while digits:
        digits -= 1
        p[digits] = <uint8_t>HEX[number & 15]
        number >>= 4
    return length


cdef uint64_t id_hash(const uint8_t *id, size_t n) noexcept nogil:
    """FNV-1a: only remembers late messages, a collision costs one answer. Never 0."""
    cdef uint64_t h = 0xcbf29ce484222325
    cdef size_t i
    for i in range(n):
        h = (h ^ id[i]) * <uint64_t>0x100000001b3
    return h | 1


cdef str decode_error(int code):
    return {-1: "truncated", -2: "varint above 10 bytes", -3: "bad tag", -4: "string is not UTF-8"}.get(code, "unknown")
