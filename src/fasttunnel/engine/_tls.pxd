"""TLS of a socket, by OpenSSL: its records are read from the descriptor and written into memory, which is sent as any output."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from fasttunnel.engine._openssl cimport SSL, SSL_CTX
from fasttunnel.engine._out cimport Out


cdef class TlsContext:
    """What the connections of a port, or to a peer, have in common. Connections keep theirs when it is replaced."""
    cdef SSL_CTX **contexts             # of each certificate; the first one where no name fits, or there is no certificate
    cdef int count
    cdef bytes protocols                # ALPN, as on the wire (RFC 7301 3.1)
    cdef const unsigned char *protocols_at
    cdef unsigned int protocols_len
    cdef readonly bint server
    cdef readonly bint verified         # the peer shows a certificate, and it is checked
    cdef frozenset pins                 # SHA-256 of the public keys of which the peer has to have one; empty: any

    cdef int _add(self, object certificate, object ca, bint verify) except -1
    cdef int _use(self, SSL_CTX *context, object certificate) except -1
    cdef int _trust(self, SSL_CTX *context, object ca) except -1
    cdef int _expect(self, SSL *ssl, str name) except -1


cdef struct Tls:                        # of one socket
    SSL *ssl
    PyObject *context                   # TlsContext, owned: OpenSSL's callbacks use it
    int fd
    bint dry                            # nothing is left to be read before the next event
    bint unsure                         # see Socket.unsure
    bint over                           # the peer has ended, or an error stands: the next tls_read says so
    bint lost                           # nothing can be sent any more: what has been read has ended TLS
    int code                            # errno of the socket's error; 0: it had none
    uint64_t calls                      # of the system, since the last look
    Out plain                           # short parts, until they are sealed as one record
    Out sealed                          # records to be sent


cdef enum:
    TLS_AGAIN = -1                      # nothing more before the next event
    TLS_FAILED = -2                     # tls_error() says why


cdef Tls *tls_new(TlsContext context, int fd, str name) except NULL      # name: who the peer has to be, as a client
cdef void tls_free(Tls *tls) noexcept
cdef int tls_shake(Tls *tls) noexcept                            # 1: it stands; TLS_AGAIN or TLS_FAILED
cdef ssize_t tls_read(Tls *tls, uint8_t *data, size_t room) noexcept     # bytes; 0: the peer has ended in order; or the two above
cdef int tls_write(Tls *tls, const uint8_t *data, size_t n) except -1    # into `sealed`, short ones into `plain` first
cdef int tls_seal(Tls *tls) except -1                            # what is in `plain`
cdef void tls_goodbye(Tls *tls) noexcept                         # close_notify
cdef bint tls_met_http(Tls *tls) noexcept                        # it has failed, for the peer has sent HTTP in the clear
cdef object tls_error(Tls *tls)                                  # an OSError
cdef str tls_refusal(Tls *tls)                                   # as a client: why the peer that has proved itself is not wanted; or None
cdef bytes tls_protocol(Tls *tls)                                # what ALPN has chosen, b"" for nothing
cdef str tls_identity(Tls *tls)                                  # common name in the peer's certificate; None: it showed none
