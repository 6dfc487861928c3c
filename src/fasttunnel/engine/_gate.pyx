"""The server's front desk: finds the tunnel of a request, and words what goes wrong."""
from libc.math cimport ceil
from libc.stdint cimport uint8_t, uint32_t

from fasttunnel._core cimport PROTO_GRPC, buf_append, hdr_append
from fasttunnel.engine._link cimport make_request_id
from fasttunnel.engine._record cimport label_of, parent_of, slice_of
from fasttunnel.control.forwarding import Networks, forwarding_fields
from fasttunnel.errors import ANSWERS, ResetCode

cdef enum:
    CODES = 10
    SHARERS_ASKED = 64                  # tunnels of one route that are asked whether they have room

cdef int HTTP_STATUS[CODES]
cdef int GRPC_STATUS[CODES]
cdef int CLOSE_CODE[CODES]
cdef list TEXTS = []

for _code in ResetCode:
    HTTP_STATUS[<int>_code] = ANSWERS[_code].http
    GRPC_STATUS[<int>_code] = ANSWERS[_code].grpc
    CLOSE_CODE[<int>_code] = ANSWERS[_code].ws_close
    TEXTS.append(ANSWERS[_code].text.encode())


cdef int http_status_of(uint32_t code) noexcept:
    """0: no answer, the connection is closed."""
    return HTTP_STATUS[code] if 0 < code < CODES else 502


cdef int grpc_status_of(uint32_t code) noexcept:
    return GRPC_STATUS[code] if 0 < code < CODES else 13


cdef int grpc_refusal(int status) noexcept:
    """Status of a call for the HTTP status of an answer of ours."""
    if status == 404:
        return 12                           # UNIMPLEMENTED
    if status == 503:
        return 14                           # UNAVAILABLE
    if status == 504:
        return 4                            # DEADLINE_EXCEEDED
    return 8 if status in (413, 414, 429, 431) else 13      # RESOURCE_EXHAUSTED, INTERNAL


cdef int close_code_of(uint32_t code) noexcept:
    return CLOSE_CODE[code] if 0 < code < CODES else 1011


cdef bytes explain(uint32_t code, bytes text):
    """What happened, for a person: the sender's words, or those of the code."""
    return text or (TEXTS[code] if 0 < code < CODES else b"the tunnel failed")


cdef class Gate:
    def __init__(self, Reactor reactor, routes, outages, config, Journal journal):
        self.reactor = reactor
        self.routes = routes
        self.outages = outages
        self.waiting = {}
        self.journal = journal
        self.configure(config)

    def configure(self, config):
        """What connections and requests go by that begin from now on."""
        self.queue_timeout_s = config.queue_timeout_s
        self.queued_requests = config.queued_requests
        self.head_bytes = config.header_list_bytes
        self.target_bytes = config.target_bytes
        self.head_timeout_s = config.head_timeout_s
        self.keep_alive_timeout_s = config.keep_alive_timeout_s
        self.ws_ping_interval_s = config.ws_ping_interval_s
        self.ws_lost_close = self.reactor.tallies.lost_close = config.ws_lost_close
        self.max_connections = config.max_connections
        self.max_requests = config.max_requests
        self.max_requests_per_tunnel = config.max_requests_per_tunnel
        self.body_bytes = config.body_bytes
        self.ws_message_bytes = config.ws_message_bytes
        self.grpc_message_bytes = config.grpc_message_bytes
        self.trusted_proxies = Networks(config.trusted_proxies)
        self.request_id_header = config.request_id_header.lower().encode()

    cdef Link find(self, int protocol, bytes host, bytes target):
        """The tunnel for a request, or None. One look-up per request, never per message."""
        cdef object found
        cdef Link link
        cdef int _attempt
        self.full = None
        if 0 < self.max_requests <= self.reactor.requests:
            self.full = b"the server has as many requests under way as it may"
            self.full_status = 503
            return None
        for _attempt in range(SHARERS_ASKED):
            found = self.routes.match_any(protocol)
            if found is None:
                found = self.routes.match(protocol, host.decode("latin-1"), target.partition(b"?")[0].decode("latin-1"))
            if found is None:
                return None
            link = found[1]
            if not link.up or link.draining:
                return None
            # Those who share a route take turns: the next one may have room.
            if 0 < self.max_requests_per_tunnel <= link.table.count:
                self.full = b"the tunnel has as many requests under way as it may"
                self.full_status = 503
            elif link.pace is None or self.paced(link):
                self.full = None
                self.found = link.tallies.get(id(found[0]))
                return link
        return None

    cdef bint paced(self, Link link) except -1:
        if not link.swamped and link.pace.take():
            return True
        self.full = b"the requests come faster than the token of this tunnel permits"
        self.full_status = 429
        self.retry_after_s = max(1, <long>ceil(<double>link.pace.wait_s(1.0)))
        return False

    cdef bint crowded(self) noexcept:
        return 0 < self.max_connections < len(self.reactor.conns) + len(self.reactor.opening) - self.reactor.links

    cdef bint away(self, int protocol, bytes host, bytes target) except -1:
        """Of a request for which find() has nothing: whether its client is only away."""
        return self.outages.covers(protocol, host.decode("latin-1"), target.partition(b"?")[0].decode("latin-1"))

    cdef bint queue(self, Endpoint waiter, Conn conn) except -1:
        """Have `waiter.wake()` called when a client comes, if there is room. The waiter keeps the time."""
        if self.draining or self.queue_timeout_s <= 0 or <size_t>len(self.waiting) >= self.queued_requests:
            return False
        self.waiting[waiter] = conn
        return True

    cdef int unqueue(self, Endpoint waiter) except -1:
        self.waiting.pop(waiter, None)
        return 0

    @property
    def queued(self):
        """Requests that wait for a client to come back."""
        return len(self.waiting)

    def wake(self):
        """A client has come, or there is nothing to wait for any more: each waiter looks again."""
        for waiter, conn in list(self.waiting.items()):
            try:
                waiter.wake()
            except Exception as error:
                self.unqueue(waiter)
                self.reactor.contain(conn, error)

    def close(self):
        """Each public connection is to end with its next answer."""
        self.closing = True

    def drain(self):
        """And nothing new is taken."""
        self.closing = self.draining = True
        self.wake()

    cdef int began(self, Exchange exchange, bytes method, bytes host, bytes target, bytes trace_id, bytes traceparent,
                   Visitor visitor) except -1:
        cdef bytes parent_id                # held until it is copied
        self.reactor.tallies.began(exchange, self.found)
        if exchange.protocol == PROTO_GRPC:
            exchange.method = target
        if self.journal is not None:
            parent_id = parent_of(traceparent) if self.journal.spans is not None else None
            exchange.label = label_of(slice_of(method), slice_of(host), slice_of(target), slice_of(trace_id),
                                      slice_of(parent_id), slice_of(visitor.address))
        return 0

    cdef int refused(self, RequestId *request_id, int protocol, int status, bytes method, bytes host, bytes target,
                     Visitor visitor) except -1:
        request_id.length = make_request_id(request_id.text, protocol)
        self.reactor.tallies.refused(protocol, status)
        if self.journal is not None:
            self.journal.refused(request_id.text, request_id.length, protocol,
                                 grpc_refusal(status) if protocol == PROTO_GRPC else status,
                                 label_of(slice_of(method), slice_of(host), slice_of(target), slice_of(None),
                                          slice_of(None), slice_of(visitor.address)))
        return 0


cdef bytes trace_id_of(bytes traceparent):
    """The trace id of a traceparent field (W3C Trace Context 3.2.2); empty when it is malformed."""
    cdef list parts = traceparent.split(b"-")
    if len(parts) < 4 or len(parts[1]) != 32 or not parts[1].isalnum() or parts[1] == b"0" * 32:
        return b""
    return parts[1]


cdef class Visitor:
    def __init__(self, str address not None, bint secure, trusted):
        self.address = address.encode()
        self.scheme = b"https" if secure else b"http"
        self.trusted = address in trusted

    cdef int add_fields(self, Buf *block, uint8_t tag, bytes host, list said) except -1:
        """X-Forwarded-* and Forwarded: what a visitor said of these has been dropped, it proves nothing."""
        cdef bytes name, value
        cdef size_t mark = block.len
        if self.fields is not None and self.fields_tag == tag and self.fields_host == host and not said:
            if buf_append(block, <const uint8_t *>self.fields, len(self.fields)) < 0:
                raise MemoryError
            return 0
        for name, value in forwarding_fields(self.address, self.scheme, host, said or ()):
            if hdr_append(block, tag, <const uint8_t *>name, len(name), <const uint8_t *>value, len(value)) < 0:
                raise MemoryError
        if not said:
            self.fields = (<const char *>block.data + mark)[:block.len - mark]
            self.fields_host = host
            self.fields_tag = tag
        return 0
