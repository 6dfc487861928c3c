"""Listening sockets of the data plane."""
import os
import socket

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno

from fasttunnel.engine._system cimport c_close, ft_accept

cdef enum:
    ACCEPTS = 64                        # connections accepted before others have their turn

cdef double NO_DESCRIPTORS_S = 0.5      # pause of accepting when the process has no descriptors left


cdef class Listener:
    """`factory()` makes the Socket for each connection; `sock` is a listening, non-blocking socket object, ours from now on."""

    def __init__(self, Poller poller, sock, factory, TlsContext tls_context=None):
        self.tls_context = tls_context
        self.poller = poller
        self.sock = sock
        self.fd = sock.fileno()
        self.factory = factory
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)     # each accepted socket inherits it
        poller.loop.add_reader(self.fd, self._accept)

    def _accept(self):
        cdef Socket made
        cdef int fd, code, _i
        for _i in range(ACCEPTS):
            fd = ft_accept(self.fd)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno == EAGAIN:
                    self.troubled = False
                else:
                    # No descriptors, or no memory: those who wait stay in the backlog, and what is open goes on.
                    code = errno
                    self.poller.loop.remove_reader(self.fd)
                    self.resume = self.poller.loop.call_later(NO_DESCRIPTORS_S, self._resume)
                    if not self.troubled and self.poller.on_trouble is not None:
                        self.poller.on_trouble(f"no connection can be accepted for now: {os.strerror(code)}")
                    self.troubled = True
                return
            try:
                made = self.factory()
            except BaseException:
                c_close(fd)
                raise
            made.poller = self.poller
            made.tls_context = self.tls_context
            made.adopt(fd)

    def _resume(self):
        self.resume = None
        self.poller.loop.add_reader(self.fd, self._accept)

    @property
    def address(self):
        """(host, port)"""
        return self.sock.getsockname()[:2]

    def fileno(self):
        return self.fd

    def close(self):
        """Connections that wait to be accepted are reset."""
        if self.fd >= 0:
            if self.resume is not None:
                self.resume.cancel()
                self.resume = None
            self.poller.loop.remove_reader(self.fd)
            self.fd = -1
            self.sock.close()
            self.factory = None
