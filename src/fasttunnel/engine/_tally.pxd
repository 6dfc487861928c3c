"""What the requests of one engine have been, in C integers: counted as they begin and end, read when somebody asks."""
from libc.stdint cimport uint64_t

from fasttunnel.engine._exchange cimport Exchange, Passed

cdef enum:
    PROTOCOLS = 4                       # by PROTO_*, from 1 on
    RESETS = 11                         # by errors.ResetCode, and one for what is none
    STATUSES = 1000                     # of HTTP
    GRPC_STATUSES = 18                  # and one for what is none
    BUCKETS = 18                        # of control.counts.DURATIONS_S, and one beyond


cdef struct Flow:
    uint64_t requests                   # begun
    uint64_t messages[2]                # of those that have ended, by Direction - 1
    uint64_t payload_bytes[2]


cdef class RouteTally:
    cdef readonly str name
    cdef bytes text                     # the same
    cdef Flow flows[PROTOCOLS]


cdef class MethodTally:
    cdef uint64_t messages[2]
    cdef uint64_t statuses[GRPC_STATUSES]
    cdef uint64_t unanswered[RESETS]


cdef class Tallies:
    cdef Passed passed                  # what is counted message by message
    cdef dict routes                    # name -> RouteTally
    cdef RouteTally other_route
    cdef dict methods                   # path of a call -> MethodTally
    cdef MethodTally other_method
    cdef dict closes                    # close code -> connections
    cdef int lost_close                 # code by which those of a lost tunnel are closed; 0: the usual one
    cdef uint64_t statuses[PROTOCOLS][STATUSES]
    cdef uint64_t unanswered[PROTOCOLS][RESETS]     # resets of requests that had no status
    cdef uint64_t broken[RESETS]                    # and of open WebSockets without a Close frame
    cdef uint64_t resets[PROTOCOLS][RESETS]
    cdef uint64_t refusals[PROTOCOLS][STATUSES]
    cdef uint64_t durations[PROTOCOLS][BUCKETS]
    cdef double duration_s[PROTOCOLS]

    cdef int began(self, Exchange exchange, object route) except -1
    cdef int ended(self, Exchange exchange, double duration_s) except -1
    cdef int refused(self, int protocol, int status) noexcept
    cdef int count_close(self, int code) except -1


cdef double monotonic_s() noexcept nogil
