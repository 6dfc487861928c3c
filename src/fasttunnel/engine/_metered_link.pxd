"""A tunnel whose payload is counted against a rate."""
from fasttunnel.engine._link cimport Link


cdef class MeteredLink(Link):
    cdef object bucket                  # control.rates.Bucket of bytes, shared by all tunnels of an identity
    cdef object grants                  # deque of what WindowUpdates say that wait: request_id, direction, protocol, bytes
    cdef object timer                   # runs while the rate is used up; else None

    cdef int spend(self, size_t n) except -1
    cdef int stop(self, double wait_s) except -1
