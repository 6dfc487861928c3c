"""A tunnel: one gRPC stream of TunnelMessages over HTTP/2, with the exchanges that it carries."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport GrpcPiece, GrpcSplitter, Msg, Table, WsFrame
from fasttunnel.engine._exchange cimport Carrier, Endpoint, Exchange, WindowBudget
from fasttunnel.engine._http2 cimport H2Stream, Http2Conn
from fasttunnel.engine._io cimport Reactor
from fasttunnel.engine._journal cimport Journal
from fasttunnel.engine._out cimport Out


cdef enum:
    RECENT = 1024                       # ids of ended requests that are remembered, to answer late messages once


cdef class Acceptor:
    """Client end: finds the backend of a request that the tunnel brings, and makes its endpoint."""
    # The endpoint keeps `exchange`; None: no route, the request is reset.
    cdef Endpoint accept(self, Exchange exchange, const Msg *m)


cdef class LinkStream(H2Stream):
    """The HTTP/2 stream that carries a tunnel; its output is the link's batch."""
    cdef Link link
    cdef bint server
    cdef bytes path                     # server: what the peer asked for
    cdef bytes method
    cdef bytes content_type
    cdef bytes authorization
    cdef int http_status                # client: of the answer
    cdef int grpc_status                # client: from the trailers; -1: none yet
    cdef bytes grpc_message
    cdef bint refused
    cdef str lost_by                    # client: why, when the connection went

    cdef int refuse(self, int grpc_status, str message) except -1


cdef class LinkConn(Http2Conn):
    """A connection of the tunnel port, or the client's connection to it."""
    cdef object handler                 # the engine's side, see Link.handler
    cdef Acceptor acceptor
    cdef readonly bytes authority
    cdef bytes token
    cdef int open_call(self) except -1
    cdef int accept_stream(self, LinkStream stream) except -1
    cdef int await_close(self) except -1
    cdef readonly uint64_t reads        # reads so far: the peer is alive while this moves


cdef class Link(Carrier):
    # handler, a Python object with: authorize(link, authorization: bytes | None) -> None, or (grpc_status, message) that
    # refuses it, or another Link to take instead;
    # opened(link); control(link, kind: int, message: bytes); lost(link, grpc_status: int, message: str);
    # idle(link): draining and no request left; warning(text)
    cdef object handler
    cdef Acceptor acceptor              # None at the server
    cdef readonly LinkConn conn         # None when lost
    cdef LinkStream stream
    cdef Reactor reactor
    cdef readonly bint up               # registered, requests may be carried
    cdef readonly bint draining
    cdef bint watched                   # handler.idle() is wanted
    cdef public object info             # the engine's notes on this link
    cdef public object pace             # control.rates.Bucket of requests, or None where nothing is limited
    cdef public dict tallies            # id of a route -> engine._tally.RouteTally; empty at the client
    cdef bint swamped                   # too many requests wait already, see MeteredLink
    # requests
    cdef Table table
    cdef PyObject *last                 # the Exchange of the last message, for another often follows; borrowed, or NULL
    cdef object light                   # deques of exchanges that wait for room: those that have sent little,
    cdef object ring                    # and those that have used their share up
    cdef Py_ssize_t waiting             # exchanges in the two
    cdef Exchange turn                  # whose turn it is
    cdef int64_t light_left             # bytes before the ring has a turn again, though light ones are waiting
    cdef uint64_t recent[RECENT]        # hashes of ids that ended abnormally
    cdef public Journal journal         # of each finished request; None: nobody asks for records
    cdef public bytes client_id         # for it, in UTF-8
    cdef public object tap              # callable for each message, or None (control.taps.Listener)
    cdef public uint8_t tap_protocols   # bits: ProtocolTypes of the messages that it wants
    cdef public str far_end             # address of the other end, in messages and for taps
    # output
    cdef Out batch                      # prefixed messages behind 9 bytes of headroom for the DATA frame's header
    cdef size_t batch_pos               # sent of it
    cdef const uint8_t *part            # a payload that is sent from where it lies, during one call of pass_on()
    cdef size_t part_bytes
    cdef size_t part_at                 # its place in the batch
    cdef size_t backlog_bytes           # more than this is not kept for a peer that does not read
    # input
    cdef GrpcSplitter splitter
    # counters
    cdef readonly uint64_t messages_sent
    cdef readonly uint64_t messages_received
    cdef readonly uint64_t requests

    cdef list exchanges(self)
    cdef Exchange open(self, Endpoint endpoint, int protocol)
    cdef uint8_t *reserve(self, size_t n) except NULL
    cdef int commit(self, size_t n) except -1
    cdef bint passes(self, size_t n, int kind, int protocol) noexcept
    cdef int pass_on(self, size_t n, size_t gap, const uint8_t *payload, size_t payload_bytes) except -1
    cdef int gather(self) except -1
    cdef bint shows(self, int kind, int protocol) noexcept
    cdef int show(self, bint sent, const uint8_t *data, size_t n) except -1
    cdef bint congested(self) noexcept
    cdef int serve_waiting(self) except -1
    cdef int dispatch_piece(self, const GrpcPiece *piece) except -1
    cdef int dispatch(self, const uint8_t *data, size_t n) except -1
    cdef int deliver(self, Exchange exchange, const Msg *m) except -1
    cdef int give_up(self, Exchange exchange, object error) except -1
    cdef int unknown(self, const Msg *m) except -1
    cdef int malformed(self, str text) except -1
    cdef int break_off(self, int grpc_status, str text) except -1
    cdef Exchange new_exchange(self, Endpoint endpoint, int protocol, int direction)
    cdef int lose(self, int grpc_status, str message) except -1


cdef uint8_t make_request_id(uint8_t *id, int protocol) noexcept
