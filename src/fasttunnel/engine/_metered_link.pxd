"""A tunnel whose payload is counted against a rate."""
from fasttunnel._core cimport Msg
from fasttunnel.engine._link cimport Link


cdef class MeteredLink(Link):
    cdef object bucket                  # control.rates.Bucket of bytes, shared by all tunnels of an identity
    cdef object grants                  # deque of what WindowUpdates say that wait: request_id, direction, protocol, bytes
    cdef dict held                      # requests that the client does not know of yet, in order: request_id -> messages
    cdef object timer                   # runs while the rate is used up, or something of these waits; else None
    cdef double usual                   # bytes of payload of a request, up to a window: what the next one is taken for

    cdef int spend(self, size_t n) except -1
    cdef int stop(self, double wait_s) except -1
    cdef int hold_back(self, bytes request_id, Msg *m) except -1
    cdef int let_go(self, bytes request_id) except -1
