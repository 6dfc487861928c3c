"""Listening sockets."""
from fasttunnel.engine._socket cimport Poller, Socket


cdef class Listener:
    """A listening socket: each connection it accepts becomes the socket that the factory makes."""
    cdef Poller poller
    cdef int fd
    cdef object sock                    # the Python object that owns fd
    cdef object factory
    cdef object resume                  # timer: accepting goes on when there are descriptors again
    cdef bint troubled
