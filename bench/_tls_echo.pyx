"""Servers on the sockets of the data plane, for `python -m bench tls`: what asyncio's protocols of bench.tls_server do."""
from libc.stdint cimport uint8_t, uint64_t

from fasttunnel.engine._io cimport Conn, Reactor
from fasttunnel.engine._out cimport out_append

DEF PIECE = 65536                       # of bulk, at once


cdef class Echo(Conn):
    """Answers what comes."""

    def __init__(self, Reactor reactor):
        self.reactor = reactor

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        out_append(&self.out, data, n)
        self.touch()
        return <Py_ssize_t>n


cdef class Sink(Conn):
    """Counts what comes, and at the end of it tells how much that was."""
    cdef uint64_t taken

    def __init__(self, Reactor reactor):
        self.reactor = reactor

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        self.taken += n
        return <Py_ssize_t>n

    cdef int on_eof(self) except -1:
        out_append(&self.out, &self.taken, sizeof(self.taken))
        return self.close()


cdef class Source(Conn):
    """Sends the pattern again and again, as fast as it is taken, until anything comes."""
    cdef bytes pattern
    cdef size_t at

    def __init__(self, Reactor reactor, bytes pattern):
        self.reactor = reactor
        self.pattern = pattern

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        self.abort()
        return <Py_ssize_t>n

    cdef int on_connected(self) except -1:
        return self.touch()

    cdef int written(self) except -1:
        cdef const uint8_t *pattern = self.pattern
        while not self.write_paused and not self.broken and not self.closing and self.fd >= 0:
            self.write_through(pattern + self.at, PIECE)
            self.at = (self.at + PIECE) % <size_t>len(self.pattern)
        return 0
