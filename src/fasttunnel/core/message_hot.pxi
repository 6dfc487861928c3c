# The messages that come a million times a second: WebSocket frames, and gRPC chunks between the first and the last. They
# are encoded and decoded without the table of message.pxi, at half of what it costs; the bytes are the same.

# -- decoding ---------------------------------------------------------------------------------------------------------

cdef enum:
    ENVELOPE_BYTES = 24                 # at least so many does a message of the usual kinds have


cdef bint _usual_envelope(const uint8_t *data, size_t n, Cursor *c, Msg *m) noexcept nogil:
    """The envelope as the encoders below write it: request_id, direction, protocol and one member, which ends the message.

    Whatever is unusual here or in the two below, or wrong, is left to the table, which begins anew.
    """
    cdef:
        const uint8_t *id = data + 2
        uint64_t id_len, member_bytes
        uint8_t protocol
    if n < ENVELOPE_BYTES or data[0] != (2 << 3 | WIRE_BYTES) or data[1] > REQUEST_ID_BYTES:
        return False
    id_len = data[1]                    # 2 + 16 + 5 bytes are looked at
    protocol = id[id_len + 3]
    if id[id_len] != (3 << 3 | WIRE_VARINT) or id[id_len + 1] > 2 or id[id_len + 2] != (4 << 3 | WIRE_VARINT):
        return False
    if protocol == PROTO_WEBSOCKET:
        if id[id_len + 4] != (MSG_WS_FRAME << 3 | WIRE_BYTES):
            return False
    elif protocol != PROTO_GRPC or (id[id_len + 4] != (MSG_GRPC_REQUEST << 3 | WIRE_BYTES)
                                    and id[id_len + 4] != (MSG_GRPC_RESPONSE << 3 | WIRE_BYTES)):
        return False
    if not _all_ascii(id, id_len):
        return False
    c[0] = cur_over(data, n)
    c.p = id + id_len + 5
    member_bytes = cur_varint(c, 5)
    if c.error or member_bytes != cur_left(c):
        return False
    m.run = id + id_len + 4
    m.request_id.ptr = id
    m.request_id.len = <size_t>id_len
    m.direction = id[id_len + 1]
    m.protocol_type = protocol
    m.kind = m.run[0] >> 3
    return True


cdef bint _usual_frame(Cursor c, Msg *m) noexcept nogil:
    """A WebSocketFrame with each field at most once, in order, and its connection_id that of the envelope."""
    cdef uint8_t tag, last = 0
    while c.p != c.end:
        tag = c.p[0]
        if tag <= last:
            return False
        last = tag
        c.p += 1
        if tag == (1 << 3 | WIRE_BYTES):
            if not cur_slice(&c, &m.connection_id) or m.connection_id.len != m.request_id.len \
                    or memcmp(m.connection_id.ptr, m.request_id.ptr, m.request_id.len) != 0:
                return False
        elif tag == (2 << 3 | WIRE_VARINT):
            m.fin = cur_varint(&c, 10) != 0
        elif tag == (3 << 3 | WIRE_VARINT):
            m.opcode = <uint32_t>cur_varint(&c, 10)
        elif tag == (4 << 3 | WIRE_VARINT):
            m.masked = cur_varint(&c, 10) != 0
        elif tag == (5 << 3 | WIRE_BYTES):
            cur_slice(&c, &m.body)
        elif tag == (6 << 3 | WIRE_VARINT):
            m.frame_direction = <int32_t>cur_varint(&c, 10)
        elif tag == (7 << 3 | WIRE_VARINT):
            m.rsv = <uint32_t>cur_varint(&c, 10)
        elif tag == (8 << 3 | WIRE_VARINT):
            m.frame_bytes = cur_varint(&c, 10)
        elif tag == (9 << 3 | WIRE_VARINT):
            m.more = cur_varint(&c, 10) != 0
        else:
            return False
    return not c.error


cdef bint _usual_chunk(Cursor c, Msg *m) noexcept nogil:
    """A gRPC chunk between the first and the last, or a last one that carries nothing but that."""
    cdef:
        uint8_t tag, last = 0
        uint8_t shift = 8 if m.kind == MSG_GRPC_REQUEST else 0      # fields 4 to 7 of the request are 3 to 6 of the response
    while c.p != c.end:
        tag = c.p[0]
        if tag <= last:
            return False
        last = tag
        c.p += 1
        if tag == (1 << 3 | WIRE_VARINT):
            m.stream_id = <uint32_t>cur_varint(&c, 10)
        elif tag == (3 << 3 | WIRE_BYTES) + shift:
            cur_slice(&c, &m.body)
        elif tag == (5 << 3 | WIRE_VARINT) + shift:
            m.last = cur_varint(&c, 10) != 0
        elif tag == (6 << 3 | WIRE_VARINT) + shift:
            m.sequence = <uint32_t>cur_varint(&c, 10)
        elif tag == (10 << 3 | WIRE_VARINT):
            m.compressed = cur_varint(&c, 10) != 0
        elif tag == (11 << 3 | WIRE_VARINT):
            m.message_bytes = <uint32_t>cur_varint(&c, 10)
        elif tag == (12 << 3 | WIRE_VARINT):
            m.more = cur_varint(&c, 10) != 0
        else:
            return False
    return not c.error


# -- encoding ---------------------------------------------------------------------------------------------------------

cdef inline bint _is_chunk(const Msg *m) noexcept nogil:
    """Whether _put_chunk writes all that the message has: a gRPC chunk that is neither the first nor tells a status."""
    return (m.kind == MSG_GRPC_REQUEST or m.kind == MSG_GRPC_RESPONSE) and not m.first and m.status == 0 \
        and m.headers.len == 0 and m.trailers.len == 0 and m.service.len == 0 and m.method.len == 0 and m.host.len == 0 \
        and m.status_message.len == 0 and m.status_details.len == 0


cdef size_t _chunk_size(const Msg *m) noexcept nogil:
    cdef size_t size = 2 * ((m.last != 0) + (m.compressed != 0) + (m.more != 0))
    if m.stream_id:
        size += 1 + varint_size(m.stream_id)
    if m.body.ptr != NULL:
        size += 1 + varint_size(m.body.len) + m.body.len
    if m.sequence:
        size += 1 + varint_size(m.sequence)
    if m.message_bytes:
        size += 1 + varint_size(m.message_bytes)
    return size


cdef uint8_t *_put_chunk(const Msg *m, uint8_t *out, uint8_t **gap) noexcept nogil:
    cdef int shift = 1 if m.kind == MSG_GRPC_REQUEST else 0         # as in _usual_chunk
    if m.stream_id:
        out[0] = 1 << 3 | WIRE_VARINT
        out = put_varint(out + 1, m.stream_id)
    if m.body.ptr != NULL:
        out[0] = <uint8_t>((3 + shift) << 3 | WIRE_BYTES)
        out = put_varint(out + 1, m.body.len)
        if gap != NULL:
            gap[0] = out
        else:
            out = put_bytes(out, m.body.ptr, m.body.len)
    out = _put_small(out, 5 + shift, m.last)
    if m.sequence:
        out[0] = <uint8_t>((6 + shift) << 3 | WIRE_VARINT)
        out = put_varint(out + 1, m.sequence)
    out = _put_small(out, 10, m.compressed)
    if m.message_bytes:
        out[0] = 11 << 3 | WIRE_VARINT
        out = put_varint(out + 1, m.message_bytes)
    return _put_small(out, 12, m.more)


cdef size_t msg_encode_ws(const uint8_t *id, size_t id_len, int direction, const WsFrame *f,
                          uint8_t *out) noexcept nogil:
    return _encode_ws(id, id_len, direction, f, out, NULL)


cdef size_t msg_encode_ws_around(const uint8_t *id, size_t id_len, int direction, const WsFrame *f, uint8_t *out,
                                 size_t *gap) noexcept nogil:
    return _encode_ws(id, id_len, direction, f, out, gap)


cdef inline size_t _encode_ws(const uint8_t *id, size_t id_len, int direction, const WsFrame *f, uint8_t *out,
                              size_t *gap) noexcept nogil:
    cdef:
        uint8_t *start = out
        size_t n = f.payload_len
        size_t inner = 0
    if id_len > REQUEST_ID_BYTES:
        return 0
    if id_len:
        inner += 2 + id_len
    if n:
        inner += 1 + varint_size(n) + n
    if f.first and f.more:
        inner += 1 + varint_size(f.frame_bytes)
    inner += 2 * ((f.fin != 0) + (f.opcode != 0) + (f.masked != 0) + (direction != 0) + (f.rsv != 0) + (f.more != 0))

    out += GRPC_PREFIX_BYTES
    if id_len:
        out[0] = 2 << 3 | WIRE_BYTES
        out[1] = <uint8_t>id_len
        out = put_bytes(out + 2, id, id_len)
    if direction:
        out[0] = 3 << 3 | WIRE_VARINT
        out[1] = <uint8_t>direction
        out += 2
    out[0] = 4 << 3 | WIRE_VARINT
    out[1] = PROTO_WEBSOCKET
    out[2] = MSG_WS_FRAME << 3 | WIRE_BYTES
    out = put_varint(out + 3, inner)

    if id_len:
        out[0] = 1 << 3 | WIRE_BYTES
        out[1] = <uint8_t>id_len
        out = put_bytes(out + 2, id, id_len)
    out = _put_small(out, 2, f.fin)
    out = _put_small(out, 3, f.opcode)
    out = _put_small(out, 4, f.masked)
    if n:
        out[0] = 5 << 3 | WIRE_BYTES
        out = put_varint(out + 1, n)
        if gap != NULL:
            gap[0] = <size_t>(out - start)
        elif f.masked:
            ws_mask(out, f.payload, n, f.key)
        else:
            memcpy(out, f.payload, n)
        if gap == NULL:
            out += n
    out = _put_small(out, 6, <uint8_t>direction)
    out = _put_small(out, 7, f.rsv)
    if f.first and f.more:
        out[0] = 8 << 3 | WIRE_VARINT
        out = put_varint(out + 1, f.frame_bytes)
    out = _put_small(out, 9, f.more)
    grpc_prefix(start, False, <uint32_t>(<size_t>(out - start) + (n if gap != NULL else 0) - GRPC_PREFIX_BYTES))
    return <size_t>(out - start)


cdef inline uint8_t *_put_small(uint8_t *out, int number, uint8_t value) noexcept nogil:
    """A varint field below 128."""
    if value:
        out[0] = <uint8_t>(number << 3 | WIRE_VARINT)
        out[1] = value
        out += 2
    return out
