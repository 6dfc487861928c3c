"""Backends by address. A connection is dialled in the background; it is an endpoint at once and keeps its output until then."""
from fasttunnel._core cimport Slice
from fasttunnel.engine._socket cimport literal_address
from fasttunnel.engine._system cimport sockaddr


cdef bytes text_of(const Slice *slice):
    return slice.ptr[:slice.len] if slice.ptr != NULL else b""


cdef class Target:
    def __init__(self, Reactor reactor, str host, int port, bint grpc, TlsContext tls_context, dialler, on_failure, config):
        self.reactor = reactor
        self.tls_context = tls_context
        self.host = host
        self.port = port
        self.grpc = grpc
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.name = (b"grpc" if grpc else b"http") + (b"s" if tls_context is not None else b"") + b"://" + self.authority
        self.address_bytes = literal_address(host, port, &self.address)
        self.dialler = dialler
        self.on_failure = on_failure
        self.connect_timeout_s = config.connect_timeout_s
        self.keep_alive_timeout_s = config.keep_alive_timeout_s
        self.head_bytes = config.header_list_bytes
        self.ws_message_bytes = config.ws_message_bytes
        self.grpc_message_bytes = config.grpc_message_bytes
        self.idle = []
        self.multiplexed = []

    def __str__(self):
        return self.name.decode()

    cdef int dial(self, Conn conn) except -1:
        conn.reactor = self.reactor
        conn.poller = self.reactor
        conn.tls_context = self.tls_context
        conn.tls_name = self.host
        if self.address_bytes:
            conn.dial(<const sockaddr *>&self.address, self.address_bytes)
            return conn.arm(self.connect_timeout_s)
        conn.connecting = True
        self.dialler(conn, self)
        return 0

    cdef bytes failed(self, str reason, bint timed_out):
        """Addresses are our own affair, and what is wrong there."""
        self.on_failure(self, "it did not take the connection in time" if timed_out else reason)
        return b"the backend did not take the connection in time" if timed_out else b"the backend cannot be reached"


cdef class Plan:
    pass
