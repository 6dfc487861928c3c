# HTTP/1.1 bodies (RFC 9112 6, 7) and the end of a head.
#
# The chunked decoder is strict where smuggling lives: hex digits only (16 at most), CR LF and nothing else ends a line,
# no control byte in an extension, and all extensions of a body together stay below 16 KiB.

cdef enum:
    CHUNK_SIZE_DIGITS = 16
    CHUNK_EXTENSION_BYTES = 16384

cdef enum ChunkState:
    CHUNK_SIZE = 0
    CHUNK_SPACE                     # white space behind the size, as some old servers send
    CHUNK_EXTENSION
    CHUNK_SIZE_LF
    CHUNK_DATA
    CHUNK_DATA_CR
    CHUNK_DATA_LF
    CHUNK_TRAILERS


cdef int _chunk_size_byte(BodyReader *b, uint8_t c) noexcept nogil:
    """One byte of a chunk's size line; 0 or BODY_E_CHUNK."""
    cdef int digit
    if b.state == CHUNK_SIZE:
        digit = _hex_digit(c)
        if digit >= 0:
            if b.digits == CHUNK_SIZE_DIGITS:
                return BODY_E_CHUNK
            b.digits += 1
            b.remaining = b.remaining << 4 | <uint64_t>digit
            return 0
        if b.digits == 0:
            return BODY_E_CHUNK
    elif b.state == CHUNK_SIZE_LF:
        if c != c'\n':
            return BODY_E_CHUNK
        b.digits = 0
        b.state = CHUNK_DATA if b.remaining else CHUNK_TRAILERS
        return 0
    if c == c'\r':
        b.state = CHUNK_SIZE_LF
        return 0
    if b.extension_bytes == CHUNK_EXTENSION_BYTES:
        return BODY_E_CHUNK
    b.extension_bytes += 1
    if b.state == CHUNK_EXTENSION:
        return BODY_E_CHUNK if _is_control(c) and c != c'\t' else 0
    if c == c';':
        b.state = CHUNK_EXTENSION
    elif _is_space(c):
        b.state = CHUNK_SPACE
    else:
        return BODY_E_CHUNK
    return 0


cdef int _chunked_read(BodyReader *b, const uint8_t *data, size_t n, uint64_t limit, size_t *consumed,
                       Slice *piece) noexcept nogil:
    cdef:
        size_t i = 0
        uint64_t take
        int result = BODY_NEED_MORE
    while result == BODY_NEED_MORE:
        if b.state == CHUNK_TRAILERS:
            result = BODY_TRAILERS
        elif i == n:
            break
        elif b.state < CHUNK_DATA:
            result = _chunk_size_byte(b, data[i])
            i += 1
        elif b.state == CHUNK_DATA:
            take = n - i
            if take > b.remaining:
                take = b.remaining
            if take > limit:
                take = limit
            if not take:
                break
            piece.ptr = data + i
            piece.len = <size_t>take
            i += <size_t>take
            b.remaining -= take
            if not b.remaining:
                b.state = CHUNK_DATA_CR
            result = BODY_PIECE
        else:
            if data[i] != (c'\r' if b.state == CHUNK_DATA_CR else c'\n'):
                result = BODY_E_CHUNK
            else:
                b.state = CHUNK_DATA_LF if b.state == CHUNK_DATA_CR else CHUNK_SIZE
                i += 1
    consumed[0] = i
    return result


cdef int body_read(BodyReader *b, const uint8_t *data, size_t n, uint64_t limit, size_t *consumed,
                   Slice *piece) noexcept nogil:
    cdef uint64_t take = n
    consumed[0] = 0
    if b.mode == BODY_CHUNKED:
        return _chunked_read(b, data, n, limit, consumed, piece)
    if b.mode == BODY_LENGTH:
        if not b.remaining:
            return BODY_DONE
        if take > b.remaining:
            take = b.remaining
    elif b.mode != BODY_UNTIL_CLOSE:
        return BODY_DONE
    if take > limit:
        take = limit
    if not take:
        return BODY_NEED_MORE
    if b.mode == BODY_LENGTH:
        b.remaining -= take
    piece.ptr = data
    piece.len = <size_t>take
    consumed[0] = <size_t>take
    return BODY_PIECE


cdef Py_ssize_t head_end(const uint8_t *data, size_t n, size_t *scanned) noexcept nogil:
    # An empty line at the very start ends an (empty) section: that is how a trailer section without fields looks.
    cdef:
        size_t i = scanned[0]
        uint64_t word
        uint8_t c
    while i < n:
        if n - i >= 8:
            memcpy(&word, data + i, 8)
            # No byte of the eight below 0x0E: the usual case, taken in one step.
            if not ((word - <uint64_t>0x0E0E0E0E0E0E0E0E) & ~word & <uint64_t>0x8080808080808080):
                i += 8
                continue
        c = data[i]
        if c == c'\r':
            if i + 1 == n:
                break
            if data[i + 1] != c'\n':
                scanned[0] = i
                return -1
            if i == 0 or data[i - 1] == c'\n':
                scanned[0] = i + 2
                return <Py_ssize_t>(i + 2)
            i += 2
        elif c == c'\n' or c == 0:
            scanned[0] = i
            return -1
        else:
            i += 1
    scanned[0] = i
    return 0
