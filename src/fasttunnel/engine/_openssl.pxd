"""What the data plane calls of OpenSSL 3 (libssl, libcrypto). Declarations only."""
from libc.stdint cimport uint64_t


cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    enum:
        BIO_TYPE_SOURCE_SINK
        BIO_CTRL_FLUSH
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int type, const char *name)
    int BIO_meth_set_write(BIO_METHOD *method, int (*write)(BIO *, const char *, int) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD *method, int (*read)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept nogil)
    BIO *BIO_new(const BIO_METHOD *method)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int init)
    void BIO_clear_retry_flags(BIO *bio)
    void BIO_set_retry_read(BIO *bio)


cdef extern from "<openssl/crypto.h>" nogil:
    enum:
        OPENSSL_VERSION
    const char *OpenSSL_version(int type)


cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()
    unsigned long ERR_peek_error()
    unsigned long ERR_peek_last_error()
    const char *ERR_reason_error_string(unsigned long code)
    int ERR_GET_LIB(unsigned long code)
    int ERR_GET_REASON(unsigned long code)
    enum:
        ERR_LIB_SYS


cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_NAME:
        pass
    ctypedef struct X509_PUBKEY:
        pass
    void X509_free(X509 *certificate)
    X509_NAME *X509_get_subject_name(const X509 *certificate)
    X509_PUBKEY *X509_get_X509_PUBKEY(const X509 *certificate)
    int i2d_X509_PUBKEY(const X509_PUBKEY *key, unsigned char **out)
    int X509_NAME_get_text_by_NID(X509_NAME *name, int nid, char *text, int n)
    const char *X509_verify_cert_error_string(long code)
    const char *X509_get_default_cert_file()
    const char *X509_get_default_cert_dir()


cdef extern from "<openssl/obj_mac.h>" nogil:
    enum:
        NID_commonName


cdef extern from "<openssl/x509v3.h>" nogil:
    enum:
        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
    int X509_check_host(X509 *certificate, const char *name, size_t n, unsigned int flags, char **peer_name)


cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_free(void *block)


cdef extern from "<openssl/ssl.h>":
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    enum:
        TLS1_2_VERSION
        SSL_ERROR_WANT_READ
        SSL_ERROR_ZERO_RETURN
        SSL_FILETYPE_PEM
        SSL_VERIFY_PEER
        SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_MODE_RELEASE_BUFFERS
        SSL_SESS_CACHE_OFF
        SSL_TLSEXT_ERR_OK
        SSL_TLSEXT_ERR_NOACK
        SSL_TLSEXT_ERR_ALERT_FATAL
        OPENSSL_NPN_NEGOTIATED
        X509_V_OK
        SSL_R_UNEXPECTED_EOF_WHILE_READING
        SSL_R_HTTP_REQUEST
        SSL_R_WRONG_VERSION_NUMBER
        SSL_RECEIVED_SHUTDOWN
        SSL3_RT_HANDSHAKE
        SSL3_RT_HEADER
    uint64_t SSL_OP_NO_RENEGOTIATION
    uint64_t SSL_OP_NO_COMPRESSION
    uint64_t SSL_OP_CIPHER_SERVER_PREFERENCE
    uint64_t SSL_OP_PRIORITIZE_CHACHA

    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *context)
    int SSL_CTX_set_min_proto_version(SSL_CTX *context, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX *context, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_cipher_list(SSL_CTX *context, const char *names)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *context, int mode)
    int SSL_CTX_set_session_id_context(SSL_CTX *context, const unsigned char *text, unsigned int n)
    int SSL_CTX_set_num_tickets(SSL_CTX *context, size_t count)
    void SSL_CTX_set_read_ahead(SSL_CTX *context, int yes)
    void SSL_CTX_set_default_read_buffer_len(SSL_CTX *context, size_t n)
    int SSL_CTX_use_certificate_chain_file(SSL_CTX *context, const char *path)
    int SSL_CTX_use_PrivateKey_file(SSL_CTX *context, const char *path, int kind)
    X509 *SSL_CTX_get0_certificate(const SSL_CTX *context)
    void SSL_CTX_set_default_passwd_cb(SSL_CTX *context, int (*ask)(char *, int, int, void *) noexcept)
    int SSL_CTX_load_verify_locations(SSL_CTX *context, const char *file, const char *folder)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *context)
    cdef struct stack_st_X509_NAME:
        pass
    stack_st_X509_NAME *SSL_load_client_CA_file(const char *path)
    void SSL_CTX_set_client_CA_list(SSL_CTX *context, stack_st_X509_NAME *names)
    void SSL_CTX_set_verify(SSL_CTX *context, int mode, int (*callback)(int, X509_STORE_CTX *) noexcept nogil)
    int SSL_CTX_set_alpn_protos(SSL_CTX *context, const unsigned char *protocols, unsigned int n)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *context,
        int (*choose)(SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *) noexcept,
        void *user)
    int SSL_select_next_proto(unsigned char **out, unsigned char *out_len, const unsigned char *server, unsigned int server_len,
                              const unsigned char *client, unsigned int client_len)
    long SSL_CTX_set_tlsext_servername_callback(SSL_CTX *context, int (*choose)(SSL *, int *, void *) noexcept)
    long SSL_CTX_set_tlsext_servername_arg(SSL_CTX *context, void *user)

    SSL *SSL_new(SSL_CTX *context)
    void SSL_free(SSL *ssl)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *context)
    void SSL_set_bio(SSL *ssl, BIO *reading, BIO *writing)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    const char *SSL_get_servername(const SSL *ssl, int kind)
    long SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    int SSL_set1_host(SSL *ssl, const char *name)
    void SSL_set_hostflags(SSL *ssl, unsigned int flags)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM *param, const char *address)
    int SSL_do_handshake(SSL *ssl)
    int SSL_has_pending(const SSL *ssl)
    int SSL_read_ex(SSL *ssl, void *data, size_t n, size_t *got)
    int SSL_write_ex(SSL *ssl, const void *data, size_t n, size_t *written)
    int SSL_shutdown(SSL *ssl)
    void SSL_set_shutdown(SSL *ssl, int mode) nogil
    void SSL_set_msg_callback(
        SSL *ssl, void (*tell)(int, int, int, const void *, size_t, SSL *, void *) noexcept nogil)
    long SSL_set_msg_callback_arg(SSL *ssl, void *user)
    int SSL_get_error(const SSL *ssl, int result)
    long SSL_get_verify_result(const SSL *ssl)
    X509 *SSL_get1_peer_certificate(const SSL *ssl)
    void SSL_get0_alpn_selected(const SSL *ssl, const unsigned char **protocol, unsigned int *n)
    enum:
        TLSEXT_NAMETYPE_host_name
