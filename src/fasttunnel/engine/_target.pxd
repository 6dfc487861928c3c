"""One backend of the client: its address, its limits, its open connections."""
from libc.stdint cimport uint64_t

from fasttunnel._core cimport Slice
from fasttunnel.engine._io cimport Conn, Reactor
from fasttunnel.engine._system cimport sockaddr_storage, socklen_t
from fasttunnel.engine._tls cimport TlsContext


cdef class Target:
    cdef readonly str host
    cdef readonly int port
    cdef readonly bint grpc
    cdef bytes name                     # as the configuration has it: scheme://HOST:PORT
    cdef bytes authority                # HOST:PORT as it is sent where the request names no host
    cdef Reactor reactor
    cdef sockaddr_storage address       # where `address_bytes` is not 0
    cdef socklen_t address_bytes        # 0: the host is a name
    cdef TlsContext tls_context         # None: without TLS
    cdef object dialler                 # callable(conn, target): looks the name up and connects in the background
    cdef object on_failure              # callable(target, reason): a connection could not be made
    cdef double connect_timeout_s
    cdef double keep_alive_timeout_s
    cdef size_t head_bytes
    cdef uint64_t ws_message_bytes
    cdef uint64_t grpc_message_bytes
    cdef list idle                      # HTTP/1.1 connections between two requests, the newest last
    cdef list multiplexed               # HTTP/2 connections

    cdef int dial(self, Conn conn) except -1
    cdef bytes failed(self, str reason, bint timed_out)     # what the public is told of that


cdef class Plan:
    """What the route says about a request on its way to a backend."""
    cdef Target target
    cdef bytes url                      # path and query, without a stripped prefix
    cdef bytes host                     # empty: the backend's own address

cdef bytes text_of(const Slice *slice)
