# Checked reader over foreign bytes, and writer into reserved room.
#
# Whatever a peer wrote in protobuf's wire format is read through a Cursor and nowhere else: each step compares what it
# wants with what is left before it moves, never a sum that could overflow. The first failure sticks (error, place), and
# from then on the cursor is at its end, so loops stop by themselves and the caller looks at `error` once.

# A function makes its own cursor over (pointer, length) and hands it to inlined helpers by address, to the others by
# value: an address that never escapes leaves the cursor in registers, which halves the cost of a message.

cdef struct Cursor:
    const uint8_t *p
    const uint8_t *end
    const uint8_t *bad              # the byte at which reading failed
    uint64_t value                  # what was read last
    int error                       # 0 or a MsgError


cdef enum WireType:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_GROUP = 3
    WIRE_END_GROUP = 4
    WIRE_FIXED32 = 5


cdef enum:
    MAX_DEPTH = 100                 # nested messages and groups; protobuf's own default


cdef inline Cursor cur_over(const uint8_t *data, size_t n) noexcept nogil:
    cdef Cursor c
    c.p = data
    c.end = data + n if n else data
    c.bad = NULL
    c.value = 0
    c.error = 0
    return c


cdef inline void cur_fail(Cursor *c, int error, const uint8_t *at) noexcept nogil:
    if not c.error:
        c.error = error
        c.bad = at
    c.p = c.end


cdef inline size_t cur_left(const Cursor *c) noexcept nogil:
    return <size_t>(c.end - c.p)


cdef Cursor _cur_long_varint(Cursor c, int max_bytes) noexcept nogil:
    cdef:
        const uint8_t *p = c.p
        int i
    c.value = 0
    for i in range(max_bytes):
        if p == c.end:
            cur_fail(&c, MSG_E_TRUNCATED, c.p)
            return c
        c.value |= <uint64_t>(p[0] & 0x7F) << (7 * i)   # bits beyond the 64th fall off, as in protobuf
        if p[0] < 0x80:
            c.p = p + 1
            return c
        p += 1
    cur_fail(&c, MSG_E_VARINT, c.p)
    return c


cdef inline uint64_t cur_varint(Cursor *c, int max_bytes) noexcept nogil:
    """A varint of at most `max_bytes`; it need not be the shortest form."""
    cdef const uint8_t *p = c.p
    if p != c.end and p[0] < 0x80:
        c.p = p + 1
        return p[0]
    c[0] = _cur_long_varint(c[0], max_bytes)
    return c.value


cdef inline uint32_t _cur_any_tag(Cursor *c) noexcept nogil:
    """Field number << 3 | wire type, in at most 5 bytes."""
    cdef:
        const uint8_t *start = c.p
        uint64_t tag = cur_varint(c, 5)
    if tag > UINT32_MAX or (tag & 7) > WIRE_FIXED32:
        cur_fail(c, MSG_E_TAG, start)
        return 0
    return <uint32_t>tag


cdef inline uint32_t cur_tag(Cursor *c) noexcept nogil:
    """Tag of a field of a message, where number 0 is an error; 0 on failure."""
    cdef:
        const uint8_t *start = c.p
        uint32_t tag = _cur_any_tag(c)
    if tag < 8:
        cur_fail(c, MSG_E_TAG, start)
        return 0
    return tag


cdef inline const uint8_t *cur_take(Cursor *c, uint64_t n) noexcept nogil:
    """The next n bytes; NULL on failure."""
    cdef const uint8_t *p = c.p
    if n > cur_left(c):
        cur_fail(c, MSG_E_TRUNCATED, p)
        return NULL
    c.p += n
    return p


cdef inline bint cur_slice(Cursor *c, Slice *out) noexcept nogil:
    """A length (at most 5 bytes, as in protobuf) and that many bytes."""
    cdef:
        uint64_t n = cur_varint(c, 5)
        const uint8_t *p
    if c.error:
        return False
    p = cur_take(c, n)
    if c.error:
        return False
    out.ptr = p
    out.len = <size_t>n
    return True


cdef Cursor _skip_group(Cursor c, uint32_t group, int depth) noexcept nogil:
    cdef uint32_t tag
    if depth == 0:
        cur_fail(&c, MSG_E_TAG, c.p)
    while not c.error:                                  # a group that never ends runs into the end of the input
        tag = _cur_any_tag(&c)                          # protobuf skips number 0 inside an unknown group, so we do
        if tag == group + 1:                            # same number, WIRE_END_GROUP
            break
        cur_skip(&c, tag, depth - 1)
    return c


cdef inline void cur_skip(Cursor *c, uint32_t tag, int depth) noexcept nogil:
    """Skip the value of an unknown field; `depth` groups may still open."""
    cdef:
        uint32_t wire = tag & 7
        Slice ignored
    if c.error:
        return
    if wire == WIRE_VARINT:
        cur_varint(c, 10)
    elif wire == WIRE_FIXED64:
        cur_take(c, 8)
    elif wire == WIRE_BYTES:
        cur_slice(c, &ignored)
    elif wire == WIRE_FIXED32:
        cur_take(c, 4)
    elif wire == WIRE_GROUP:
        c[0] = _skip_group(c[0], tag, depth)
    else:
        cur_fail(c, MSG_E_TAG, c.p)


cdef inline bint _all_ascii(const uint8_t *p, size_t n) noexcept nogil:
    cdef:
        uint64_t word
        uint64_t seen = 0
        size_t i
    if n >= 8:
        for i in range(0, n - 8, 8):
            memcpy(&word, p + i, 8)
            seen |= word
        memcpy(&word, p + n - 8, 8)
        seen |= word
    else:
        for i in range(n):
            seen |= p[i]
    return not seen & <uint64_t>0x8080808080808080


cdef inline bint utf8_ok(const uint8_t *p, size_t n) noexcept nogil:
    """RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF."""
    return _all_ascii(p, n) or _utf8_scan(p, n)


cdef bint _utf8_scan(const uint8_t *p, size_t n) noexcept nogil:
    cdef:
        const uint8_t *end = p + n if n else p
        uint8_t lead, low, high
        int rest
    while p != end:
        lead = p[0]
        p += 1
        if lead < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if lead < 0xC2:
            return False
        elif lead < 0xE0:
            rest = 1
        elif lead < 0xF0:
            rest = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif lead < 0xF5:
            rest = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if end - p < rest or p[0] < low or p[0] > high:
            return False
        if rest > 1 and (p[1] & 0xC0) != 0x80 or rest > 2 and (p[2] & 0xC0) != 0x80:
            return False
        p += rest
    return True


# -- writing: the caller has reserved the room (msg_bound, MSG_WS_OVERHEAD, hdr_append) --------------------------------

cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    cdef size_t n = 1
    while value >= 0x80:
        value >>= 7
        n += 1
    return n


cdef inline uint8_t *put_varint(uint8_t *out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t>(value & 0x7F) | 0x80
        value >>= 7
        out += 1
    out[0] = <uint8_t>value
    return out + 1


cdef inline uint8_t *put_bytes(uint8_t *out, const uint8_t *src, size_t n) noexcept nogil:
    if n:                                               # memcpy from NULL is undefined even for nothing
        memcpy(out, src, n)
    return out + n
