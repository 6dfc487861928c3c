"""Which backend a request of the tunnel goes to."""
from fasttunnel.engine._link cimport Acceptor


cdef class Backends(Acceptor):
    cdef object routes                  # control.routes.RouteTable of Target
