"""TLS 1.2 and 1.3 (RFC 8446) of sockets, by OpenSSL.

A BIO of our own reads the descriptor itself, straight into OpenSSL's buffer and as much as comes, and puts records that
are to be sent into memory: one write sends all of a turn. An idle connection holds no buffers (SSL_MODE_RELEASE_BUFFERS).
"""
import hashlib
import ipaddress
import os

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen

from fasttunnel.engine._openssl cimport *
from fasttunnel.engine._out cimport out_append, out_clear, out_grow, out_used
from fasttunnel.engine._system cimport c_recv

from fasttunnel.control.tls import CIPHERS, Certificate, check_pem, read_pem, system_authorities
from fasttunnel.errors import ConfigError

cdef enum:
    READ_AHEAD = 65536                  # of a socket at once: four records of the largest size
    SHORT = 2048                        # parts below this are gathered: a record costs more than a copy
    GATHERED = 16384                    # and sealed when so much has come together; also the longest record
    RECORDS_EACH = 1024                 # that are to come for each message of the handshake's kind after the handshake
    FUSS = 32 * RECORDS_EACH            # but for the first ones


class TlsError(ConnectionError):
    """The peer and we do not come to terms, or it has broken TLS."""


# -- the BIO ----------------------------------------------------------------------------------------------------------------

cdef int bio_write(BIO *bio, const char *data, int n) noexcept nogil:
    cdef Tls *tls = <Tls *>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    if n <= 0 or not out_grow(&tls.sealed, <size_t>n):
        return -1
    memcpy(tls.sealed.data + tls.sealed.len, data, <size_t>n)
    tls.sealed.len += <size_t>n
    return n


cdef int bio_read(BIO *bio, char *data, int n) noexcept nogil:
    cdef Tls *tls = <Tls *>BIO_get_data(bio)
    cdef ssize_t got
    BIO_clear_retry_flags(bio)
    if n <= 0:
        return 0
    if tls.dry:
        BIO_set_retry_read(bio)
        return -1
    while True:
        tls.calls += 1
        got = c_recv(tls.fd, data, <size_t>n, 0)
        if got >= 0 or errno != EINTR:
            break
    if got > 0:
        tls.dry = got < n and not tls.unsure
        return <int>got
    if got < 0 and errno == EAGAIN:
        tls.dry = True
        BIO_set_retry_read(bio)
    elif got < 0:
        tls.code = errno
    return <int>got


cdef long bio_ctrl(BIO *bio, int command, long number, void *pointer) noexcept nogil:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef BIO_METHOD *METHOD = NULL

cdef int make_method() except -1:
    global METHOD
    METHOD = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fasttunnel")
    if METHOD == NULL:
        raise MemoryError
    BIO_meth_set_write(METHOD, bio_write)
    BIO_meth_set_read(METHOD, bio_read)
    BIO_meth_set_ctrl(METHOD, bio_ctrl)
    return 0

make_method()


# -- contexts ----------------------------------------------------------------------------------------------------------------

cdef int choose_certificate(SSL *ssl, int *alert, void *user) noexcept:
    """By the name that the client asks for (RFC 6066 3), which the certificate has to have."""
    cdef TlsContext context = <TlsContext>user
    cdef const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    cdef int i
    if name == NULL:
        return SSL_TLSEXT_ERR_NOACK
    for i in range(context.count):
        if X509_check_host(SSL_CTX_get0_certificate(context.contexts[i]), name, strlen(name),
                           X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1:
            if i:
                SSL_set_SSL_CTX(ssl, context.contexts[i])
            return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_NOACK


cdef int no_passphrase(char *buffer, int size, int writing, void *user) noexcept:
    """Asked for one, OpenSSL would ask at the terminal, and the loop would wait."""
    return 0


cdef int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *offered,
                         unsigned int n, void *user) noexcept:
    """RFC 7301 3.2: ours in our order; none in common ends the handshake."""
    cdef TlsContext context = <TlsContext>user
    if SSL_select_next_proto(<unsigned char **>out, out_len, context.protocols_at,
                             context.protocols_len, offered, n) != OPENSSL_NPN_NEGOTIATED:
        return SSL_TLSEXT_ERR_ALERT_FATAL
    return SSL_TLSEXT_ERR_OK


cdef inline void forget_errors() noexcept:
    """The queue of errors is the thread's. What somebody else has left there would be taken for ours, so this comes before
    each call whose error is looked at; and Python's ssl takes what we leave for its own, so it comes behind each that fails.
    There is hardly ever one, and clearing goes through places for sixteen.
    """
    if ERR_peek_error():
        ERR_clear_error()


cdef str last_reason():
    cdef unsigned long code = ERR_peek_last_error()
    cdef const char *text = ERR_reason_error_string(code)
    forget_errors()
    if ERR_GET_LIB(code) == ERR_LIB_SYS:
        return os.strerror(ERR_GET_REASON(code)).lower()
    return text.decode("ascii", "replace") if text != NULL else "unknown error"


cdef bint knows_authorities():
    """Whether this OpenSSL finds those of the system: one that came with a wheel has no directory of its own."""
    return "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ or os.path.exists(
        X509_get_default_cert_file()) or os.path.exists(X509_get_default_cert_dir())


def openssl_version():
    return OpenSSL_version(OPENSSL_VERSION).decode()


cdef class TlsContext:
    """certificates: pairs (chain, key) of PEM files, at most one of a client. protocols: those of ALPN, the best one first.

    ca: a PEM file of those whose signature on the peer's certificate counts; None: a client takes the system's, a server asks
    for no certificate. pins: digests of keys (`fasttunnel.control.tls.read_pin`); with pins and without `ca` such a key is
    enough. verify: False for a client that takes any certificate. unsecured: what a server tells who speaks HTTP in the clear.
    Raises ConfigError.
    """

    def __cinit__(self, bint server, certificates, protocols, ca=None, pins=frozenset(), bint verify=True, bytes unsecured=b""):
        self.server = server
        self.unsecured = unsecured
        self.pins = frozenset(pins)
        self.protocols = b"".join(bytes([len(name)]) + name.encode() for name in protocols)
        self.protocols_at = <const unsigned char *><const char *>self.protocols
        self.protocols_len = <unsigned int>len(self.protocols)
        self.contexts = <SSL_CTX **>calloc(max(len(certificates), 1), sizeof(SSL_CTX *))
        if self.contexts == NULL:
            raise MemoryError
        for certificate in certificates or [None]:
            self._add(certificate, ca, verify)

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            SSL_CTX_free(self.contexts[i])
        free(self.contexts)

    cdef int _add(self, object certificate, object ca, bint verify) except -1:
        cdef SSL_CTX *context = SSL_CTX_new(TLS_server_method() if self.server else TLS_client_method())
        if context == NULL:
            raise MemoryError
        self.contexts[self.count] = context
        self.count += 1
        forget_errors()
        SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION)
        SSL_CTX_set_cipher_list(context, CIPHERS.encode())
        SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE
                            | SSL_OP_PRIORITIZE_CHACHA)
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS)
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)     # tickets need none
        SSL_CTX_set_session_id_context(context, <const unsigned char *>"fasttunnel", 10)
        SSL_CTX_set_num_tickets(context, 1)
        SSL_CTX_set_read_ahead(context, 1)
        SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD)
        if certificate is not None:
            self._use(context, certificate)
        if self.server:
            SSL_CTX_set_alpn_select_cb(context, choose_protocol, <void *>self)
            SSL_CTX_set_tlsext_servername_callback(context, choose_certificate)
            SSL_CTX_set_tlsext_servername_arg(context, <void *>self)
        else:
            SSL_CTX_set_alpn_protos(context, self.protocols_at, self.protocols_len)
        return self._trust(context, ca) if verify else 0

    cdef int _use(self, SSL_CTX *context, object certificate) except -1:
        cdef bytes chain = os.fsencode(certificate[0])
        cdef bytes key = os.fsencode(certificate[1])
        check_pem(Certificate(*certificate))
        SSL_CTX_set_default_passwd_cb(context, no_passphrase)
        if SSL_CTX_use_certificate_chain_file(context, chain) != 1:
            raise ConfigError(f"cannot use the certificate {certificate[0]}", detail=last_reason(),
                              hint="it is a PEM file: the certificate, then those that signed it")
        if SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1:
            raise ConfigError(f"cannot use the key {certificate[1]}", detail=last_reason(),
                              hint="it is a PEM file with the key of the certificate, and without a passphrase")
        return 0

    cdef int _trust(self, SSL_CTX *context, object ca) except -1:
        cdef bytes path
        cdef stack_st_X509_NAME *names
        if ca is not None:
            path = os.fsencode(ca)
            read_pem(ca)
            if SSL_CTX_load_verify_locations(context, path, NULL) != 1:
                raise ConfigError(f"cannot use the authorities in {ca}", detail=last_reason(), hint="it is a PEM file of certificates")
            if self.server:
                names = SSL_load_client_CA_file(path)
                if names != NULL:
                    SSL_CTX_set_client_CA_list(context, names)
        elif not self.server and not self.pins:
            SSL_CTX_set_default_verify_paths(context)
            if not knows_authorities():
                path = os.fsencode(system_authorities())
                SSL_CTX_load_verify_locations(context, path, NULL)
        else:
            return 0                    # nobody is asked, or the key itself is known
        self.verified = True
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if self.server else 0), NULL)
        return 0

    cdef int _expect(self, SSL *ssl, str name) except -1:
        """As a client: the name or address that the peer's certificate has to have."""
        cdef bytes text
        name = name.partition("%")[0].removesuffix(".")     # the zone of an address, the root of a name: certificates have neither
        text = name.encode("idna") if not name.isascii() else name.encode()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            SSL_set_tlsext_host_name(ssl, text)
            SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
            if self.verified and SSL_set1_host(ssl, text) != 1:
                raise MemoryError
        else:
            if self.verified and X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), text) != 1:
                raise MemoryError
        return 0


# -- connections ---------------------------------------------------------------------------------------------------------------

cdef Tls *tls_new(TlsContext context, int fd, str name) except NULL:
    cdef Tls *tls = <Tls *>calloc(1, sizeof(Tls))
    cdef BIO *bio
    if tls == NULL:
        raise MemoryError
    tls.fd = fd
    tls.ssl = SSL_new(context.contexts[0])
    bio = BIO_new(METHOD)
    if tls.ssl == NULL or bio == NULL:
        tls_free(tls)
        raise MemoryError
    Py_INCREF(context)
    tls.context = <PyObject *>context
    BIO_set_data(bio, tls)
    BIO_set_init(bio, 1)
    SSL_set_bio(tls.ssl, bio, bio)
    if context.server:
        SSL_set_accept_state(tls.ssl)
    else:
        SSL_set_connect_state(tls.ssl)
        try:
            context._expect(tls.ssl, name)
        except BaseException:
            tls_free(tls)
            raise
    return tls


cdef void tls_free(Tls *tls) noexcept:
    if tls != NULL:
        SSL_free(tls.ssl)
        Py_XDECREF(tls.context)
        out_clear(&tls.plain)
        out_clear(&tls.sealed)
        free(tls)


cdef void note_record(int sent, int version, int kind, const void *data, size_t n, SSL *ssl, void *user) noexcept nogil:
    """After the handshake: who changes its keys over and over, or asks for another handshake, costs us far more than itself.
    Each such message counts as many records. Beyond the bound the connection is at its end as far as reading goes."""
    cdef Tls *tls = <Tls *>user
    if sent:
        return
    if kind == SSL3_RT_HANDSHAKE:
        tls.fuss += RECORDS_EACH
        if tls.fuss > FUSS:
            SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN)
    elif kind == SSL3_RT_HEADER and tls.fuss:
        tls.fuss -= 1


cdef int tls_shake(Tls *tls) noexcept:
    cdef int result
    forget_errors()
    result = SSL_do_handshake(tls.ssl)
    if result != 1 and SSL_get_error(tls.ssl, result) != SSL_ERROR_WANT_READ:
        return TLS_FAILED
    forget_errors()                     # of what was tried and made no difference
    if result != 1:
        return TLS_AGAIN
    SSL_set_msg_callback_arg(tls.ssl, tls)
    SSL_set_msg_callback(tls.ssl, note_record)
    return 1


cdef ssize_t tls_read(Tls *tls, uint8_t *data, size_t room) noexcept:
    cdef size_t total = 0
    cdef size_t got = 0
    cdef int kind
    forget_errors()
    while total < room:
        if SSL_read_ex(tls.ssl, data + total, room - total, &got) == 1:
            total += got
            if tls.dry and not SSL_has_pending(tls.ssl):
                break               # being told so would cost a quarter of what the record did
            continue
        kind = SSL_get_error(tls.ssl, 0)
        if kind == SSL_ERROR_WANT_READ:
            return <ssize_t>total if total else TLS_AGAIN
        if total:
            tls.over = True
            forget_errors()             # the next call finds one again
            break
        return 0 if kind == SSL_ERROR_ZERO_RETURN and tls.fuss <= FUSS else TLS_FAILED
    return <ssize_t>total


cdef int tls_write(Tls *tls, const uint8_t *data, size_t n) except -1:
    if n < SHORT:
        out_append(&tls.plain, data, n)
        return tls_seal(tls) if tls.plain.len >= GATHERED else 0
    tls_seal(tls)
    return _seal(tls, data, n)


cdef int tls_seal(Tls *tls) except -1:
    if tls.plain.len:
        _seal(tls, tls.plain.data, tls.plain.len)
        out_used(&tls.plain)            # an idle connection holds no buffers
    return 0


cdef int _seal(Tls *tls, const uint8_t *data, size_t n) except -1:
    cdef size_t written = 0
    forget_errors()
    if SSL_write_ex(tls.ssl, data, n, &written) != 1 or written != n:
        raise tls_error(tls)
    return 0


cdef void tls_goodbye(Tls *tls) noexcept:
    forget_errors()
    SSL_shutdown(tls.ssl)
    forget_errors()


cdef bint tls_met_http(Tls *tls) noexcept:
    cdef int reason = ERR_GET_REASON(ERR_peek_last_error())
    return tls.code == 0 and (reason == SSL_R_HTTP_REQUEST or reason == SSL_R_WRONG_VERSION_NUMBER)     # of HTTP/1.1; of HTTP/2


cdef object tls_error(Tls *tls):
    cdef object error = why(tls)
    forget_errors()
    return error


cdef object why(Tls *tls):
    cdef long verdict = SSL_get_verify_result(tls.ssl)
    if tls.code:
        return OSError(tls.code, os.strerror(tls.code))
    if tls.fuss > FUSS:
        return TlsError("it keeps changing its keys or asking for another handshake")
    if verdict != X509_V_OK and (<TlsContext>tls.context).verified:
        return TlsError("its certificate is not accepted: " + X509_verify_cert_error_string(verdict).decode("ascii", "replace"))
    if ERR_peek_last_error() == 0 or ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return TlsError("it closed the connection in the middle of TLS")
    return TlsError(f"TLS failed: {last_reason()}")


cdef str tls_refusal(Tls *tls):
    cdef TlsContext context = <TlsContext>tls.context
    cdef X509 *certificate
    cdef unsigned char *key = NULL
    cdef int n
    if context.protocols.startswith(b"\2h2") and tls_protocol(tls) != b"h2":
        return "it does not speak HTTP/2 there (no h2 by ALPN)"
    if not context.pins:
        return None
    certificate = SSL_get1_peer_certificate(tls.ssl)
    if certificate == NULL:
        return "it showed no certificate"
    n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &key)
    X509_free(certificate)
    if n <= 0:
        raise MemoryError
    digest = hashlib.sha256((<char *>key)[:n]).digest()
    OPENSSL_free(key)
    return None if digest in context.pins else "its key is not one of those that are pinned"


cdef bytes tls_protocol(Tls *tls):
    cdef const unsigned char *name = NULL
    cdef unsigned int n = 0
    SSL_get0_alpn_selected(tls.ssl, &name, &n)
    return (<const char *>name)[:n] if n else b""


cdef str tls_identity(Tls *tls):
    cdef X509 *certificate = SSL_get1_peer_certificate(tls.ssl)
    cdef char text[257]
    cdef int n
    if certificate == NULL:
        return None
    n = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, text, sizeof(text))
    X509_free(certificate)
    return text[:n].decode("utf-8", "replace") if n > 0 else ""
