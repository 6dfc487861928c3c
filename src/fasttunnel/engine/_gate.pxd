"""What all public connections of a server share: routing, limits, forwarding fields, and what the public is told of an error."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Buf
from fasttunnel.engine._exchange cimport Endpoint, Exchange
from fasttunnel.engine._io cimport Conn, Reactor
from fasttunnel.engine._journal cimport Journal
from fasttunnel.engine._link cimport Link


cdef struct RequestId:                  # of an answer that is being made; an Exchange may be gone by then
    uint8_t text[16]
    uint8_t length                      # 0: none


cdef class Gate:
    cdef readonly Reactor reactor
    cdef object routes                  # control.routes.RouteTable of Link
    cdef object outages                 # control.outage.Outages
    cdef dict waiting                   # requests that wait for a client to come back, in order -> their connections
    cdef readonly double queue_timeout_s
    cdef size_t queued_requests
    cdef size_t head_bytes
    cdef size_t target_bytes
    cdef double head_timeout_s
    cdef double keep_alive_timeout_s
    cdef double ws_ping_interval_s
    cdef int ws_lost_close
    cdef long max_connections           # of each of these 0: no limit
    cdef long max_requests
    cdef size_t max_requests_per_tunnel
    cdef uint64_t body_bytes
    cdef uint64_t ws_message_bytes
    cdef uint64_t grpc_message_bytes
    cdef object trusted_proxies         # control.forwarding.Networks
    cdef bytes request_id_header        # field of answers that has the request_id, in lower case; empty: none
    cdef Journal journal                # of requests that go into no tunnel as well; None: nobody asks for records
    cdef readonly bint closing          # each public connection ends with its next answer
    cdef readonly bint draining         # and nothing new is taken

    cdef object found                   # under what a request is counted for which find() has a tunnel, see Link.tallies
    cdef bytes full                     # why the last find() had nothing although there is a tunnel; or None
    cdef int full_status                # of HTTP, for that: 503, or 429 where the rate is what is full
    cdef long retry_after_s             # and what to say with it

    cdef Link find(self, int protocol, bytes host, bytes target)
    cdef bint paced(self, Link link) except -1              # whether its rate permits another request; else `full`
    cdef bint crowded(self) noexcept                        # more connections of the public than there may be
    cdef bint away(self, int protocol, bytes host, bytes target) except -1
    cdef bint queue(self, Endpoint waiter, Conn conn) except -1
    cdef int unqueue(self, Endpoint waiter) except -1
    # A request goes into the tunnel that find() has found.
    cdef int began(self, Exchange exchange, bytes method, bytes host, bytes target, bytes trace_id, bytes traceparent,
                   Visitor visitor) except -1
    # An answer of ours to one that goes into none; what is not known of it is None.
    cdef int refused(self, RequestId *request_id, int protocol, int status, bytes method, bytes host, bytes target,
                     Visitor visitor) except -1


cdef class Visitor:
    """Who is at the other end of a public connection, as the forwarding fields name it."""
    cdef bytes address
    cdef bytes scheme                   # of its requests
    cdef bint trusted                   # a proxy whose own X-Forwarded-* and Forwarded count
    cdef bytes fields                   # what add_fields() has added for this host and tag: the next request has mostly the same
    cdef bytes fields_host
    cdef uint8_t fields_tag

    # `said`: those fields of a trusted proxy, (name, value) each; or None
    cdef int add_fields(self, Buf *block, uint8_t tag, bytes host, list said) except -1


cdef bytes trace_id_of(bytes traceparent)
cdef int http_status_of(uint32_t code) noexcept
cdef int grpc_status_of(uint32_t code) noexcept
cdef int grpc_refusal(int status) noexcept
cdef int close_code_of(uint32_t code) noexcept
cdef bytes explain(uint32_t code, bytes text)
