"""HTTP/1.1 towards backends, with a pool of kept-alive connections."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport BodyReader, Msg, Slice
from fasttunnel.engine._target cimport Plan, Target
from fasttunnel.engine._exchange cimport Endpoint
from fasttunnel.engine._http1 cimport BodyWriter, Head
from fasttunnel.engine._io cimport Conn, Out


cdef class BackendHttp1(Conn):
    cdef Target target
    cdef Plan plan
    cdef Head head
    cdef BodyReader reader
    cdef BodyWriter writer
    cdef bint is_head                   # the request is HEAD: its answer has no body
    cdef bint reused                    # this is not the first request on the connection
    cdef bint request_done              # the request is written to its end
    cdef bint in_answer                 # the head of the final answer has come
    cdef bint blocked                   # waiting for credit
    cdef bint keep_alive
    cdef uint64_t unconsumed
    cdef bytes replay                   # a request that may be sent again if the connection turns out to be dead

    cdef int write_request(self, const Msg *m) except -1
    cdef Py_ssize_t read_body(self, const uint8_t *data, size_t n) except -1
    cdef int send_head(self, const uint8_t *data, size_t n, size_t *used) except -1
    cdef int send_last(self, Msg *m) except -1
    cdef int answer_done(self) except -1
    cdef int fail_request(self, uint32_t code, bytes text) except -1

cdef Endpoint open_request(Plan plan)
cdef int write_request_head(Out *out, Slice method, Plan plan, const Msg *m, uint8_t tag, bint *has_length, uint64_t *length) except -1
