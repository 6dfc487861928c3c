"""Listening sockets."""
from fasttunnel.engine._socket cimport Poller, Socket
from fasttunnel.engine._tls cimport TlsContext


cdef class Listener:
    """A listening socket: each connection it accepts becomes the socket that the factory makes."""
    cdef Poller poller
    cdef int fd
    cdef object sock                    # the Python object that owns fd
    cdef object factory
    cdef public TlsContext tls_context  # of the connections accepted from now on; None: without TLS
    cdef object resume                  # timer: accepting goes on when there are descriptors again
    cdef bint troubled
