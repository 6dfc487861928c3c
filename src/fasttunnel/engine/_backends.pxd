"""Which backend a request of the tunnel goes to."""
from fasttunnel.engine._link cimport Acceptor
from fasttunnel.engine._tally cimport Tallies


cdef class Backends(Acceptor):
    cdef object routes                  # control.routes.RouteTable of Target
    cdef Tallies tallies
    cdef bint recording                 # requests carry a label for the record
    cdef bint tracing                   # and in it the span that asked
    cdef dict counted                   # id of a route -> what its requests are counted under

    cdef object tally(self, object route)
