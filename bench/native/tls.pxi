"""Load over TLS 1.3, or without: blocking sockets, under an epoll of their own where there are several."""
import contextlib
import os

from fasttunnel.engine._openssl cimport (
    ERR_GET_REASON, ERR_clear_error, ERR_peek_last_error, ERR_reason_error_string, SSL, SSL_CTX, SSL_CTX_free, SSL_CTX_new,
    SSL_CTX_set_default_read_buffer_len, SSL_CTX_set_min_proto_version, SSL_CTX_set_read_ahead, SSL_ERROR_ZERO_RETURN,
    SSL_free, SSL_get_error, SSL_new, SSL_read_ex, SSL_shutdown, SSL_write_ex, TLS_client_method,
)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_SESSION:
        pass
    ctypedef struct SSL_CIPHER:
        pass
    int TLS1_3_VERSION
    int SSL_CTX_set_ciphersuites(SSL_CTX *context, const char *names)
    int SSL_set_fd(SSL *ssl, int fd)
    int SSL_connect(SSL *ssl)
    SSL_SESSION *SSL_get1_session(SSL *ssl)
    int SSL_set_session(SSL *ssl, SSL_SESSION *session)
    int SSL_session_reused(SSL *ssl)
    void SSL_SESSION_free(SSL_SESSION *session)
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *ssl)
    const char *SSL_CIPHER_get_name(const SSL_CIPHER *cipher)

cdef extern from "<sys/socket.h>" nogil:
    int shutdown(int fd, int how)
    int SHUT_WR

DEF PATIENCE_S = 10                     # for an answer
DEF READ_AHEAD = 1 << 16


def pattern() -> bytes:
    """What bulk repeats."""
    return PATTERN[:CYCLE]


cdef class TlsConnection:
    """A blocking connection, which ends by itself when nothing holds it any more."""
    cdef object sock
    cdef int fd
    cdef SSL *ssl                       # NULL: without TLS
    cdef uint64_t number                # of the message under way
    cdef size_t got                     # of its answer

    def __dealloc__(self):
        if self.ssl is not NULL:
            SSL_free(self.ssl)

    cdef ssize_t take(self, uint8_t *data, size_t n) except -1:
        """Bytes that came; 0: the peer has ended, and said so where there is TLS."""
        cdef ssize_t plain
        cdef size_t got = 0
        if self.ssl is NULL:
            with nogil:
                plain = read(self.fd, data, n)
            if plain < 0:
                raise RuntimeError(os.strerror(errno))
            return plain
        ERR_clear_error()
        if SSL_read_ex(self.ssl, data, n, &got) != 1 and SSL_get_error(self.ssl, 0) != SSL_ERROR_ZERO_RETURN:
            raise tls_failed("read")
        return <ssize_t>got

    cdef int give(self, const uint8_t *data, size_t n) except -1:
        cdef ssize_t sent
        cdef size_t written = 0
        if self.ssl is not NULL:
            ERR_clear_error()
            if SSL_write_ex(self.ssl, data, n, &written) != 1:
                raise tls_failed("write")
            return 0
        while n:
            with nogil:
                sent = send(self.fd, data, n, MSG_NOSIGNAL)
            if sent < 0:
                raise RuntimeError(os.strerror(errno))
            data, n = data + sent, n - sent
        return 0

    cdef int finish(self) except -1:
        """Nothing more follows."""
        if self.ssl is not NULL:
            ERR_clear_error()
            if SSL_shutdown(self.ssl) < 0:
                raise tls_failed("close_notify")
        else:
            shutdown(self.fd, SHUT_WR)
        return 0

    cdef int to_end(self) except -1:
        """The peer ends in order too, and closes the connection."""
        cdef uint8_t byte
        if self.take(&byte, 1) != 0 or read(self.fd, &byte, 1) != 0:
            raise RuntimeError("the server did not end the connection in order")
        self.sock.close()
        return 0


cdef object tls_failed(str what):
    cdef const char *text = ERR_reason_error_string(ERR_peek_last_error())
    return RuntimeError(f"{what}: {text.decode() if text is not NULL else os.strerror(errno)}")


cdef class TlsLoad:
    """Connections to ports of a server (`bench.tls_server`), with one cipher of TLS 1.3; `cipher` None: without TLS."""
    cdef SSL_CTX *context
    cdef SSL_SESSION *session           # of a ticket, for handshakes that resume it
    cdef int epfd
    cdef list connections               # that echo
    cdef size_t size
    cdef uint8_t *room
    cdef readonly uint64_t done         # handshakes, messages or bytes of bulk
    cdef readonly str cipher            # of the last handshake

    def __cinit__(self, cipher):
        cdef bytes name
        self.epfd = -1
        self.connections = []
        self.room = <uint8_t *>malloc(READ_BYTES)
        if self.room is NULL:
            raise MemoryError
        if cipher is not None:
            name = cipher.encode()
            self.context = SSL_CTX_new(TLS_client_method())
            if self.context is NULL:
                raise MemoryError
            SSL_CTX_set_min_proto_version(self.context, TLS1_3_VERSION)
            if SSL_CTX_set_ciphersuites(self.context, name) != 1:
                raise ValueError(f"OpenSSL has no cipher of TLS 1.3 called {cipher}")
            SSL_CTX_set_read_ahead(self.context, 1)
            SSL_CTX_set_default_read_buffer_len(self.context, READ_AHEAD)

    def __dealloc__(self):
        if self.session is not NULL:
            SSL_SESSION_free(self.session)
        if self.context is not NULL:
            SSL_CTX_free(self.context)
        if self.epfd >= 0:
            close(self.epfd)
        free(self.room)

    cdef TlsConnection connect(self, int port):
        cdef TlsConnection connection = TlsConnection()
        connection.sock = sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        sock.setblocking(True)
        for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, side, PATIENCE_S.to_bytes(8, sys.byteorder) + bytes(8))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.fd = sock.fileno()
        if self.context is NULL:
            return connection
        connection.ssl = SSL_new(self.context)
        if connection.ssl is NULL or SSL_set_fd(connection.ssl, connection.fd) != 1:
            raise MemoryError
        if self.session is not NULL:
            SSL_set_session(connection.ssl, self.session)
        ERR_clear_error()
        if SSL_connect(connection.ssl) != 1:
            raise tls_failed("handshake")
        if SSL_session_reused(connection.ssl) != (self.session is not NULL):
            raise RuntimeError("the server did not resume the session" if self.session is not NULL else "resumed")
        self.cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(connection.ssl)).decode()
        return connection

    # -- handshakes

    def resume(self, int echo) -> None:
        """Handshakes from now on resume a session, of which the ticket comes before the first answer."""
        cdef TlsConnection connection = self.connect(echo)
        self.ask(connection, 1)
        while connection.got < 1:
            self.answer(connection, 1)
        self.session = SSL_get1_session(connection.ssl)
        connection.finish()
        connection.to_end()

    def shake(self, int port, double seconds) -> None:
        """One after the other: connect, shake hands, say goodbye, be told goodbye."""
        cdef TlsConnection connection
        cdef int64_t end = now_ns() + <int64_t>(seconds * 1e9)
        while now_ns() < end:
            connection = self.connect(port)
            connection.finish()
            connection.to_end()
            self.done += 1

    # -- echo

    def open(self, int port, int count, size_t size) -> None:
        """So many connections, each of which has had an answer of `size` bytes."""
        cdef TlsConnection connection
        cdef epoll_event event
        self.size = size
        self.epfd = epoll_create1(0)
        for _ in range(count):
            connection = self.connect(port)
            self.ask(connection, size)
            while connection.got < size:
                self.answer(connection, size)
            connection.number += 1
            self.connections.append(connection)
            event.events = EPOLLIN
            event.data.ptr = <void *>connection
            epoll_ctl(self.epfd, EPOLL_CTL_ADD, connection.fd, &event)

    cdef int ask(self, TlsConnection connection, size_t size) except -1:
        connection.got = 0
        return connection.give(window(connection.number), size)

    cdef int answer(self, TlsConnection connection, size_t size) except -1:
        cdef ssize_t n = connection.take(self.room, READ_BYTES)
        if n == 0:
            raise RuntimeError("the server ended the connection")
        if connection.got + n > size or memcmp(self.room, window(connection.number) + connection.got, n):
            raise RuntimeError(f"message {connection.number} came back wrong")
        connection.got += n
        return 0

    def echo(self, double seconds) -> None:
        """One message in flight on each connection."""
        cdef epoll_event events[EVENTS]
        cdef TlsConnection connection
        cdef int64_t end = now_ns() + <int64_t>(seconds * 1e9)
        cdef int i, n, waiting = 0
        for connection in self.connections:
            self.ask(connection, self.size)
            waiting += 1
        while waiting:
            with nogil:
                n = epoll_wait(self.epfd, events, EVENTS, PATIENCE_S * 1000)
            if n <= 0:
                raise RuntimeError("no message was answered")
            for i in range(n):
                connection = <TlsConnection>events[i].data.ptr
                self.answer(connection, self.size)
                if connection.got == self.size:
                    self.done += 1
                    connection.number += 1
                    if now_ns() < end:
                        self.ask(connection, self.size)
                    else:
                        waiting -= 1

    # -- bulk on one connection

    def begin(self, int port) -> None:
        self.connections = [self.connect(port)]

    def down(self, double seconds) -> None:
        cdef int64_t end = now_ns() + <int64_t>(seconds * 1e9)
        while now_ns() < end:
            if not self.got():
                raise RuntimeError(f"the server ended after {self.done} bytes")

    cdef bint got(self) except *:
        """Whether there was more."""
        cdef TlsConnection connection = self.connections[0]
        cdef ssize_t n = connection.take(self.room, READ_BYTES)
        if not is_bulk(self.room, n, self.done):
            raise RuntimeError(f"wrong bulk after {self.done} bytes")
        self.done += n
        return n > 0

    def enough(self) -> None:
        """The server breaks off: writing to a connection that the load has reset is not what is measured."""
        cdef TlsConnection connection = self.connections[0]
        connection.give(PATTERN, 1)
        with contextlib.suppress(RuntimeError):
            while self.got():
                pass
        self.close()

    def up(self, double seconds) -> None:
        cdef TlsConnection connection = self.connections[0]
        cdef int64_t end = now_ns() + <int64_t>(seconds * 1e9)
        while now_ns() < end:
            connection.give(PATTERN + self.done % CYCLE, POUR_BYTES)
            self.done += POUR_BYTES

    def taken(self) -> None:
        """The server answers the end of what went up with the number of bytes it has taken."""
        cdef TlsConnection connection = self.connections[0]
        cdef uint64_t count = 0
        connection.finish()
        if connection.take(<uint8_t *>&count, sizeof(count)) != sizeof(count) or count != self.done:
            raise RuntimeError(f"the server took {count} of {self.done} bytes")
        connection.to_end()

    def close(self) -> None:
        cdef TlsConnection connection
        for connection in self.connections:
            connection.sock.close()
        self.connections = []
