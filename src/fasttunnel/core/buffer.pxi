# Growable bytes: doubles, frees itself when emptied (an idle connection holds no buffer).

cdef enum:
    # Of a large frame or message, what has come is passed on without waiting for the rest: to keep it until then would be
    # two copies. Less than this is not worth a message of its own.
    EARLY_BYTES = 8192


cdef enum:
    BUF_FIRST_BYTES = 256
    BUF_MAX_BYTES = 1 << 30         # nothing that is buffered on purpose comes near it


cdef int buf_reserve(Buf *buf, size_t extra) noexcept nogil:
    cdef:
        size_t cap = buf.cap
        uint8_t *data
    if extra <= cap - buf.len:
        return 0
    if extra > BUF_MAX_BYTES - buf.len:
        return -1
    if cap < BUF_FIRST_BYTES:
        cap = BUF_FIRST_BYTES
    while cap - buf.len < extra:
        cap *= 2
    data = <uint8_t *>realloc(buf.data, cap)
    if data == NULL:
        return -1
    buf.data = data
    buf.cap = cap
    return 0


cdef int buf_append(Buf *buf, const uint8_t *src, size_t n) noexcept nogil:
    if buf_reserve(buf, n) < 0:
        return -1
    if n:
        memcpy(buf.data + buf.len, src, n)
        buf.len += n
    return 0


cdef void buf_consume(Buf *buf, size_t n) noexcept nogil:
    if n >= buf.len:
        buf_free(buf)
    elif n:
        buf.len -= n
        memmove(buf.data, buf.data + n, buf.len)


cdef void buf_free(Buf *buf) noexcept nogil:
    free(buf.data)
    buf.data = NULL
    buf.len = 0
    buf.cap = 0
