# WebSocket frames (RFC 6455 5): parser, mask, header builder.
#
# The parser keeps no bytes. Until a header is complete it consumes nothing; then it consumes the header and gives out
# the payload in pieces of min(remaining, max_fragment, credit) bytes, each once it lies in the input whole, or
# EARLY_BYTES of it do. What
# it says of a frame therefore depends on the bytes and the credit alone, not on how the input was cut; where it cuts a
# large one depends on both.

cdef enum:
    WS_CONTINUATION = 0x0
    WS_TEXT = 0x1
    WS_BINARY = 0x2
    WS_CLOSE = 0x8
    WS_PONG = 0xA


cdef void ws_parser_init(WsParser *p, bint expect_masked, bint rsv_allowed, uint64_t max_fragment,
                         uint64_t max_message_bytes) noexcept nogil:
    memset(p, 0, sizeof(WsParser))
    p.expect_masked = 1 if expect_masked else 0
    p.rsv_allowed = 1 if rsv_allowed else 0
    p.max_fragment = max_fragment if max_fragment else UINT64_MAX
    p.max_message_bytes = max_message_bytes


cdef inline uint64_t _big_endian(const uint8_t *p, int n) noexcept nogil:
    cdef:
        uint64_t value = 0
        int i
    for i in range(n):
        value = value << 8 | p[i]
    return value


cdef int _ws_check_start(const WsParser *p, uint8_t b0, uint8_t b1) noexcept nogil:
    """What the first two bytes of a header already show; 0 or a WS_E_ code."""
    cdef uint8_t opcode = b0 & 0x0F
    if b0 & 0x70 and not p.rsv_allowed:
        return WS_E_RSV
    if opcode > WS_PONG or WS_BINARY < opcode < WS_CLOSE:
        return WS_E_OPCODE
    if opcode >= WS_CLOSE:
        if not b0 & 0x80:
            return WS_E_CONTROL_FRAGMENTED
        if b1 & 0x7F > 125:
            return WS_E_CONTROL_LENGTH
    elif opcode == WS_CONTINUATION:
        if not p.in_message:
            return WS_E_CONTINUATION
    elif p.in_message:
        return WS_E_INTERRUPTED
    if p.expect_masked and not b1 & 0x80:
        return WS_E_UNMASKED
    if b1 & 0x80 and not p.expect_masked:
        return WS_E_MASKED
    if opcode == WS_CLOSE and b1 & 0x7F == 1:
        return WS_E_CLOSE
    return 0


cdef int _ws_header(WsParser *p, const uint8_t *data, size_t n, size_t *consumed) noexcept nogil:
    """Parse a header: WS_FRAME when it is complete, WS_NEED_MORE, or a WS_E_ code."""
    cdef:
        size_t size = 2
        uint64_t length
        uint8_t opcode
        int code
    if n < 2:
        return WS_NEED_MORE
    code = _ws_check_start(p, data[0], data[1])
    if code:
        return code
    opcode = data[0] & 0x0F
    length = data[1] & 0x7F
    if length == 126:
        size = 4
    elif length == 127:
        size = 10
    if p.expect_masked:
        size += 4
    if n < size:
        return WS_NEED_MORE
    if length == 126:
        length = _big_endian(data + 2, 2)
        if length < 126:
            return WS_E_LENGTH
    elif length == 127:
        length = _big_endian(data + 2, 8)
        if length >> 63 or length < 0x10000:            # before anything looks at it as a number of bytes
            return WS_E_LENGTH
    if opcode < WS_CLOSE:
        if opcode != WS_CONTINUATION:
            p.message_bytes = 0
        if p.max_message_bytes and length > p.max_message_bytes - p.message_bytes:
            return WS_E_TOO_LARGE
        p.message_bytes += length                       # may only wrap without a limit, and then nobody asks
        p.in_message = not data[0] & 0x80
    p.fin = data[0] >> 7
    p.rsv = data[0] >> 4 & 7
    p.opcode = opcode
    if p.expect_masked:
        memcpy(p.key, data + size - 4, 4)
    p.remaining = length
    p.frame_bytes = length
    p.in_frame = 1
    p.started = 0
    consumed[0] = size
    return WS_FRAME


cdef bint ws_close_ok(const uint8_t *payload, const uint8_t *key) noexcept nogil:
    """RFC 6455 7.4.1, 7.4.2 and the IANA registry: codes that may stand in a Close frame."""
    cdef int code = (payload[0] ^ key[0]) << 8 | payload[1] ^ key[1]
    if 3000 <= code <= 4999:
        return True
    return 1000 <= code <= 1014 and code != 1004 and code != 1005 and code != 1006


cdef int ws_parse(WsParser *p, const uint8_t *data, size_t n, uint64_t credit, size_t *consumed,
                  WsFrame *out) noexcept nogil:
    cdef:
        size_t head = 0
        uint64_t take, left
        int code
    consumed[0] = 0
    if not p.in_frame:
        code = _ws_header(p, data, n, &head)
        if code != WS_FRAME:
            return code
        consumed[0] = head
    take = p.remaining
    if p.opcode < WS_CLOSE and take:
        if credit == 0:
            return WS_BLOCKED
        left = p.max_fragment - (p.frame_bytes - p.remaining) % p.max_fragment  # of this fragment: a part may have gone
        if take > left:
            take = left
        if take > credit:
            take = credit
    if take > n - head:
        if p.opcode >= WS_CLOSE or n - head < EARLY_BYTES:
            return WS_NEED_MORE
        take = n - head
    out.payload = data + head
    memcpy(out.key, p.key, 4)                           # zero when the frame is not masked
    if p.opcode == WS_CLOSE and take and not ws_close_ok(out.payload, out.key):
        return WS_E_CLOSE
    out.payload_len = <size_t>take
    out.frame_bytes = p.frame_bytes
    out.opcode = p.opcode
    out.fin = p.fin
    out.rsv = p.rsv
    out.masked = p.expect_masked
    out.first = not p.started
    p.remaining -= take
    out.more = p.remaining != 0
    p.in_frame = out.more
    p.started = 1
    if out.more:
        ws_rotate(p.key, take)
    consumed[0] = head + <size_t>take
    return WS_FRAME


cdef void ws_rotate(uint8_t *key, uint64_t n) noexcept nogil:
    cdef:
        uint8_t old[4]
        int i
    memcpy(old, key, 4)
    for i in range(4):
        key[i] = old[(n + <uint64_t>i) & 3]


cdef void ws_mask(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *key) noexcept nogil:
    # A plain loop of words, loaded and stored with memcpy (the bytes are not aligned): gcc -O3 makes vectors of it.
    cdef:
        uint64_t mask, word
        size_t words = n >> 3
        size_t i
    memcpy(&mask, key, 4)
    memcpy((<uint8_t *>&mask) + 4, key, 4)
    for i in range(words):
        memcpy(&word, src + 8 * i, 8)
        word ^= mask
        memcpy(dst + 8 * i, &word, 8)
    for i in range(words << 3, n):
        dst[i] = src[i] ^ key[i & 3]


cdef size_t ws_build_head(uint8_t *out, bint fin, int rsv, int opcode, uint64_t payload_bytes,
                          const uint8_t *key) noexcept nogil:
    cdef:
        uint8_t mask_bit = 0x80 if key != NULL else 0
        size_t size = 2
        int i
    out[0] = <uint8_t>((0x80 if fin else 0) | (rsv & 7) << 4 | opcode & 0x0F)
    if payload_bytes < 126:
        out[1] = mask_bit | <uint8_t>payload_bytes
    elif payload_bytes < 0x10000:
        out[1] = mask_bit | 126
        out[2] = <uint8_t>(payload_bytes >> 8)
        out[3] = <uint8_t>(payload_bytes & 0xFF)
        size = 4
    else:
        out[1] = mask_bit | 127
        for i in range(8):
            out[2 + i] = <uint8_t>(payload_bytes >> (56 - 8 * i) & 0xFF)
        size = 10
    if key != NULL:
        memcpy(out + size, key, 4)
        size += 4
    return size


cdef const char *ws_error_text(int code) noexcept nogil:
    if code == WS_E_UNMASKED:
        return "frame without mask from a client"
    if code == WS_E_MASKED:
        return "masked frame from a server"
    if code == WS_E_OPCODE:
        return "reserved opcode"
    if code == WS_E_RSV:
        return "RSV bit without a negotiated extension"
    if code == WS_E_CONTROL_FRAGMENTED:
        return "fragmented control frame"
    if code == WS_E_CONTROL_LENGTH:
        return "control frame above 125 bytes"
    if code == WS_E_CONTINUATION:
        return "continuation frame without a message"
    if code == WS_E_INTERRUPTED:
        return "new message inside an unfinished one"
    if code == WS_E_LENGTH:
        return "payload length with its top bit set or not in its shortest form"
    if code == WS_E_TOO_LARGE:
        return "message above the size limit"
    if code == WS_E_CLOSE:
        return "invalid close code or payload"
    return "no error"


cdef int ws_error_close_code(int code) noexcept nogil:
    return 1009 if code == WS_E_TOO_LARGE else 1002
