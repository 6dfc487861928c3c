"""gRPC towards backends over HTTP/2 with prior knowledge: many calls on few connections."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Buf, Msg
from fasttunnel.engine._target cimport Plan, Target
from fasttunnel.engine._exchange cimport Endpoint
from fasttunnel.engine._http2 cimport H2Stream, Http2Conn


cdef class BackendHttp2(Http2Conn):
    cdef Target target
    cdef int active                     # calls on this connection

    cdef int begin(self) except -1
    cdef bint takes_calls(self) noexcept
    cdef int capacity(self) noexcept


cdef class BackendCall(H2Stream):
    cdef BackendHttp2 home              # the connection this call was given to
    cdef Plan plan
    cdef Buf block                      # initial metadata, encoded for the first chunk
    cdef Buf trailing                   # trailing metadata, for the last
    cdef size_t field_bytes
    cdef int http_status
    cdef int status                     # grpc-status; -1: none yet
    cdef bytes message
    cdef bytes details
    cdef bytes failure                  # what is wrong with the answer
    cdef bint typed                     # content-type is application/grpc
    cdef bint informational
    cdef bint headers_done
    cdef bint trailers_only
    cdef bint first_sent
    cdef bint request_done
    cdef Buf replay                     # the request so far (lengths and messages), while it may have to be sent again
    cdef bint replayable
    cdef int attempts

    cdef int remember(self, const Msg *m) except -1
    cdef int retry(self) except -1
    cdef int open(self, const Msg *m) except -1
    cdef int put_fields(self, Msg *m) except -1
    cdef int put_status(self, Msg *m) except -1
    cdef int send_chunk(self, Msg *m) except -1
    cdef int send_end(self) except -1
    cdef int fail_call(self, uint32_t code, bytes text) except -1

cdef Endpoint open_call(Plan plan)
