# Header fields: what may pass from one protocol into another (RFC 9110 5, RFC 9113 8.2.1).

cdef uint8_t _token_bytes[256]      # 1: may stand in a token (RFC 9110 5.6.2)


cdef void _define_tokens() noexcept nogil:
    cdef:
        const char *others = "!#$%&'*+-.^_`|~"
        int c
    for c in range(256):
        _token_bytes[c] = c'0' <= c <= c'9' or c'A' <= c <= c'Z' or c'a' <= c <= c'z'
    while others[0]:
        _token_bytes[<uint8_t>others[0]] = 1
        others += 1


cdef int hdr_append(Buf *block, uint8_t tag, const uint8_t *name, size_t name_len, const uint8_t *value,
                    size_t value_len) noexcept nogil:
    cdef:
        size_t inner = 0
        uint8_t *out
    if name_len > INT32_MAX or value_len > INT32_MAX:   # beyond what protobuf can carry; the sums below stay small
        return -1
    if name_len:
        inner += 1 + varint_size(name_len) + name_len
    if value_len:
        inner += 1 + varint_size(value_len) + value_len
    if buf_reserve(block, inner + 11) < 0:
        return -1
    out = block.data + block.len
    out[0] = tag
    out = put_varint(out + 1, inner)
    if name_len:
        out[0] = 1 << 3 | WIRE_BYTES
        out = put_bytes(put_varint(out + 1, name_len), name, name_len)
    if value_len:
        out[0] = 2 << 3 | WIRE_BYTES
        out = put_bytes(put_varint(out + 1, value_len), value, value_len)
    block.len = <size_t>(out - block.data)
    return 0


cdef bint hdr_name_ok(const uint8_t *name, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not _token_bytes[name[i]]:
            return False
    return n != 0


cdef inline int _hex_digit(uint8_t c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 0x20
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    return -1


cdef inline bint _is_space(uint8_t c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef inline bint _is_control(uint8_t c) noexcept nogil:
    return c < 0x20 or c == 0x7F


cdef bint hdr_value_ok(const uint8_t *value, size_t n) noexcept nogil:
    cdef size_t i
    if n == 0:
        return True
    if _is_space(value[0]) or _is_space(value[n - 1]):
        return False
    for i in range(n):
        if _is_control(value[i]) and value[i] != c'\t':
            return False
    return True


cdef bint hdr_target_ok(const uint8_t *target, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not c'!' <= target[i] <= c'~' or target[i] == c'#':
            return False
    return n != 0


cdef inline bint _is_host_byte(uint8_t c) noexcept nogil:
    return (c'a' <= c | 0x20 <= c'z' or c'0' <= c <= c'9' or c == c'.' or c == c'-' or c == c'_' or c == c'~')


cdef bint hdr_host_ok(const uint8_t *host, size_t n) noexcept nogil:
    cdef size_t i = 0
    if n and host[0] == c'[':
        i = 1
        while i < n and (_hex_digit(host[i]) >= 0 or host[i] == c':' or host[i] == c'.'):
            i += 1
        if i == 1 or i == n or host[i] != c']':
            return False
        i += 1
    else:
        while i < n and _is_host_byte(host[i]):
            i += 1
    if i < n and host[i] == c':':
        i += 1
        while i < n and c'0' <= host[i] <= c'9':
            i += 1
    return i == n


cdef inline uint8_t _lower(uint8_t c) noexcept nogil:
    return c | 0x20 if c'A' <= c <= c'Z' else c


cdef bint hdr_is(const uint8_t *name, size_t n, const char *lower) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if lower[i] == 0 or _lower(name[i]) != <uint8_t>lower[i]:
            return False
    return lower[n] == 0


cdef bint hdr_same(const uint8_t *a, size_t n, const uint8_t *b, size_t m) noexcept nogil:
    cdef size_t i
    if n != m:
        return False
    for i in range(n):
        if _lower(a[i]) != _lower(b[i]):
            return False
    return True


cdef bint hdr_hop_by_hop(const uint8_t *name, size_t n) noexcept nogil:
    if n == 2:
        return hdr_is(name, n, "te")
    if n == 7:
        return hdr_is(name, n, "upgrade")
    if n == 10:
        return hdr_is(name, n, "connection") or hdr_is(name, n, "keep-alive")
    if n == 16:
        return hdr_is(name, n, "proxy-connection")
    if n == 17:
        return hdr_is(name, n, "transfer-encoding")
    return False


cdef void hdr_lower(uint8_t *dst, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        dst[i] = _lower(src[i])


cdef void hdr_retag(Buf *block, uint8_t tag) noexcept nogil:
    """The block is one that hdr_append made: tag, length as a varint, field."""
    cdef size_t pos = 0
    cdef uint64_t length
    cdef int shift
    while pos < block.len:
        block.data[pos] = tag
        pos += 1
        length = 0
        shift = 0
        while pos < block.len and shift < 64:
            length |= <uint64_t>(block.data[pos] & 0x7f) << shift
            shift += 7
            pos += 1
            if block.data[pos - 1] < 0x80:
                break
        if length > block.len - pos:
            return
        pos += length


cdef bint hdr_forwarding(const uint8_t *name, size_t n) noexcept nogil:
    """Also with underscores: what reads fields as CGI does (RFC 3875 4.1.18) sees no difference."""
    cdef:
        uint8_t dashed[16]
        size_t i
    if n == 9:
        return hdr_is(name, n, "forwarded")
    if not 15 <= n <= 17 or _lower(name[0]) != c'x':
        return False
    for i in range(n - 1):
        dashed[i] = c'-' if name[i + 1] == c'_' else name[i + 1]
    return (hdr_is(dashed, n - 1, "-forwarded-for") or hdr_is(dashed, n - 1, "-forwarded-host")
            or hdr_is(dashed, n - 1, "-forwarded-port") or hdr_is(dashed, n - 1, "-forwarded-proto"))
