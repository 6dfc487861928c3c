# Splitter of gRPC's length-prefixed messages: flag (1 byte), length (4 bytes, big-endian), message.
#
# Works as ws_parse does: the prefix is consumed when complete, the message given out in pieces of min(remaining,
# max_fragment, credit) bytes, each once it lies in the input whole, or EARLY_BYTES of it do.

cdef enum:
    GRPC_PREFIX_BYTES = 5


cdef int grpc_split(GrpcSplitter *s, const uint8_t *data, size_t n, uint64_t credit, size_t *consumed,
                    GrpcPiece *out) noexcept nogil:
    cdef:
        size_t head = 0
        uint64_t take, left
    consumed[0] = 0
    if not s.in_message:
        if n and data[0] > 1:
            return GRPC_E_FLAG
        if n < GRPC_PREFIX_BYTES:
            return GRPC_NEED_MORE
        take = _big_endian(data + 1, 4)
        if s.max_message_bytes and take > s.max_message_bytes:
            return GRPC_E_TOO_LARGE
        s.compressed = data[0]
        s.message_bytes = <uint32_t>take
        s.remaining = take
        s.in_message = 1
        s.started = 0
        head = GRPC_PREFIX_BYTES
        consumed[0] = head
    take = s.remaining
    if take:
        if credit == 0:
            return GRPC_BLOCKED
        if s.max_fragment:
            left = s.max_fragment - (s.message_bytes - take) % s.max_fragment   # of this piece: a part may have gone
            if take > left:
                take = left
        if take > credit:
            take = credit
    if take > n - head:
        if s.max_fragment == 0 or n - head < EARLY_BYTES:
            return GRPC_NEED_MORE
        take = n - head
    out.body = data + head
    out.body_len = <size_t>take
    out.message_bytes = s.message_bytes
    out.compressed = s.compressed
    out.first = not s.started
    s.remaining -= take
    out.more = s.remaining != 0
    s.in_message = out.more
    s.started = 1
    consumed[0] = head + <size_t>take
    return GRPC_PIECE


cdef bint grpc_whole(const GrpcSplitter *s, const uint8_t *data, size_t n) noexcept nogil:
    if s.in_message:
        return s.remaining <= n
    if n < GRPC_PREFIX_BYTES:
        return False
    return _big_endian(data + 1, 4) <= n - GRPC_PREFIX_BYTES


cdef bint grpc_at_boundary(const GrpcSplitter *s) noexcept nogil:
    return not s.in_message


cdef void grpc_prefix(uint8_t *out, bint compressed, uint32_t message_bytes) noexcept nogil:
    out[0] = 1 if compressed else 0
    out[1] = <uint8_t>(message_bytes >> 24)
    out[2] = <uint8_t>(message_bytes >> 16 & 0xFF)
    out[3] = <uint8_t>(message_bytes >> 8 & 0xFF)
    out[4] = <uint8_t>(message_bytes & 0xFF)
