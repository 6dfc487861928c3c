"""What an engine leaves of finished requests, for those who asked: the access log, a status, a callback."""
from libc.stdint cimport int64_t, uint8_t

from fasttunnel.engine._exchange cimport Exchange
from fasttunnel.engine._out cimport Out
from fasttunnel.engine._record cimport Record


cdef class Batch:
    """Records of the access log, the oldest first."""
    cdef Out packed
    cdef size_t at                      # of the next one that is to be a line
    cdef Py_ssize_t left                # from there on
    cdef readonly Py_ssize_t lost       # that there was no room for


cdef class Journal:
    # for the access log
    cdef object ready                   # callable(self): there is something to take(); or None
    cdef Out waiting
    cdef Py_ssize_t count
    cdef Py_ssize_t lost
    # the last ones: halves that take turns, the one that is full is kept until the other one is
    cdef Py_ssize_t keeps               # so many at least; 0: none
    cdef Out fresh
    cdef Out full
    cdef Py_ssize_t full_count
    cdef Py_ssize_t fresh_count
    # for a callback
    cdef object tell                    # callable(RequestRecord), or None
    cdef object spans                   # the same, for requests whose span is recorded
    cdef Out one
    cdef double looked_s                # at the clock of the day, by the monotonic one
    cdef double ahead_s                 # what it was ahead of that

    cdef int ended(self, Exchange exchange, bytes client_id, double now_s) except -1
    cdef int refused(self, const uint8_t *request_id, size_t id_len, int protocol, int status, bytes label) except -1
    cdef int add(self, Record *head, bytes label, bytes route, bytes client_id, double now_s) except -1
    cdef object read(self, const Record *head, bytes label, bytes route, bytes client_id, size_t size)
    cdef int64_t time_us(self, double now_s) noexcept
