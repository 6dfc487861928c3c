"""HTTP/2 with prior knowledge towards the public: ordinary requests and gRPC calls, one stream each."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Buf, Msg
from fasttunnel.engine._gate cimport Gate, RequestId, Visitor
from fasttunnel.engine._http2 cimport H2Stream, Http2Conn
from fasttunnel.engine._io cimport Timer
from fasttunnel.engine._link cimport Link


cdef class PublicHttp2(Http2Conn):
    cdef Gate gate
    cdef Visitor visitor
    cdef bint refused                   # there are too many connections: what comes on this one is answered 503
    cdef bint idle                      # between two requests; the timer is that of keep-alive
    cdef double resets                  # of streams without an answer, less what time has forgiven
    cdef int64_t resets_ms              # the last of them

    cdef int count_reset(self) except -1


cdef class PublicStream(H2Stream):
    cdef bytes method
    cdef bytes path
    cdef bytes authority
    cdef bint grpc_type                 # its content-type is that of gRPC
    cdef bytes traceparent              # None: the request is not traced
    cdef bytes trace_id
    cdef bytes cookie                   # crumbs, joined (RFC 9113 8.2.3)
    cdef double timeout_s               # grpc-timeout; 0: none
    cdef Timer deadline
    cdef Buf block                      # fields, encoded for the first message
    cdef list said                      # forwarding fields of a trusted proxy; or None
    cdef Buf trailing                   # trailer fields of the request
    cdef size_t field_bytes
    cdef int64_t body_bytes             # of the request, still to come by its Content-Length; below 0: it has none
    cdef int64_t announced              # that length
    cdef bint is_grpc
    cdef bint is_head
    cdef bint too_large
    cdef bint odd_head                  # it contradicts itself, or its scheme is not ours
    cdef bint headers_done
    cdef bint begun                     # the request was routed
    cdef bint queued                    # it waits for a client that is away; `deadline` is for how long
    cdef int64_t queued_ms              # since when
    cdef bint first_sent
    cdef bint answer_begun
    cdef bint answer_done
    cdef RequestId request_id

    cdef int begin(self) except -1
    cdef int body_too_large(self) except -1
    cdef int no_link(self, int protocol) except -1
    cdef int leave_queue(self) except -1
    cdef int begin_exchange(self, Link link, double timeout_s) except -1
    cdef int pump_grpc(self) except -1
    cdef int pump_http(self) except -1
    cdef int fill_first(self, Msg *m) except -1
    cdef int answer_grpc(self, const Msg *m) except -1
    cdef int answer_http(self, const Msg *m) except -1
    cdef int add_fields(self, const Msg *m, uint8_t tag) except -1
    cdef int answer_status(self, int status, bytes message, bytes details, const Msg *m) except -1
    cdef int add_request_id(self, const Msg *m, uint8_t tag) except -1
    cdef int refuse(self, int status, bytes text) except -1
    cdef int count_refusal(self, int status) except -1
    cdef int answer_error(self, int status, bytes text) except -1
    cdef int bad_answer(self, bytes text) except -1
    cdef int finish_answer(self) except -1
    cdef int expire(self) except -1
    cdef bint _typed(self, const Msg *m) noexcept
    cdef int _add_trailers(self, const Msg *m, uint8_t tag) except -1
