# TunnelMessage codec: between the wire and the flat struct Msg, without an object in between.
#
# One table says where each field of each message stands in Msg; decoder and encoder both walk it. Row 0 is the
# envelope, row k the oneof member with field number k. It must agree with proto/fasttunnel/v1/tunnel.proto: the
# differential tests compare both directions with protobuf's own.

cdef enum FieldType:
    F_NONE = 0                      # unknown here: skipped
    F_STRING                        # checked to be UTF-8
    F_BYTES
    F_OPTIONAL_BYTES                # written when present, even if empty
    F_BOOL
    F_UINT32
    F_INT32                         # enums too: negative values take 10 bytes
    F_UINT64
    F_HEADERS                       # repeated Header
    F_MEMBER                        # oneof member with a row of its own
    F_OPAQUE                        # oneof member that others parse

cdef struct Field:
    uint16_t offset                 # in Msg
    uint8_t type
    uint8_t wire                    # WireType that the value must have

cdef enum:
    ROWS = MSG_TCP_DATA + 1
    FIELDS = 20                     # field numbers below this may be known

cdef Field _fields[ROWS][FIELDS]
cdef uint8_t _last_field[ROWS]


cdef Msg _layout                    # only its offsets are of interest


cdef void _field(int row, int number, int type, const void *place) noexcept nogil:
    cdef Field *field = &_fields[row][number]
    if place != NULL:
        field.offset = <uint16_t>(<const char *>place - <const char *>&_layout)
    field.type = <uint8_t>type
    field.wire = WIRE_VARINT if F_BOOL <= type <= F_UINT64 else WIRE_BYTES
    if number > _last_field[row]:
        _last_field[row] = <uint8_t>number


cdef void _define_fields() noexcept nogil:
    cdef:
        Msg *m = &_layout
        int row, number

    _field(0, 1, F_STRING, &m.client_id)
    _field(0, 2, F_STRING, &m.request_id)
    _field(0, 3, F_INT32, &m.direction)
    _field(0, 4, F_INT32, &m.protocol_type)
    for number in range(MSG_HTTP_REQUEST, MSG_TCP_DATA + 1):
        _field(0, number, F_OPAQUE, NULL)
    for number in range(MSG_HTTP_REQUEST, MSG_WS_FRAME + 1):
        _field(0, number, F_MEMBER, NULL)
    _field(0, MSG_RESET, F_MEMBER, NULL)
    _field(0, MSG_WINDOW_UPDATE, F_MEMBER, NULL)
    _field(0, 17, F_STRING, &m.trace_id)

    row = MSG_HTTP_REQUEST
    _field(row, 1, F_STRING, &m.method)
    _field(row, 2, F_STRING, &m.url)
    _field(row, 3, F_STRING, &m.host)
    _field(row, 4, F_HEADERS, &m.headers)
    _field(row, 5, F_BYTES, &m.body)
    _field(row, 6, F_BOOL, &m.first)
    _field(row, 7, F_BOOL, &m.last)
    _field(row, 8, F_UINT32, &m.sequence)
    _field(row, 9, F_HEADERS, &m.trailers)
    _field(row, 10, F_STRING, &m.scheme)

    row = MSG_HTTP_RESPONSE
    _field(row, 1, F_INT32, &m.status)
    _field(row, 2, F_HEADERS, &m.headers)
    _field(row, 3, F_BYTES, &m.body)
    _field(row, 4, F_BOOL, &m.first)
    _field(row, 5, F_BOOL, &m.last)
    _field(row, 6, F_UINT32, &m.sequence)
    _field(row, 7, F_HEADERS, &m.trailers)
    _field(row, 8, F_BOOL, &m.informational)

    row = MSG_GRPC_REQUEST
    _field(row, 1, F_UINT32, &m.stream_id)
    _field(row, 2, F_STRING, &m.service)
    _field(row, 3, F_STRING, &m.method)
    _field(row, 4, F_OPTIONAL_BYTES, &m.body)
    _field(row, 5, F_BOOL, &m.first)
    _field(row, 6, F_BOOL, &m.last)
    _field(row, 7, F_UINT32, &m.sequence)
    _field(row, 8, F_STRING, &m.host)
    _field(row, 9, F_HEADERS, &m.headers)
    _field(row, 10, F_BOOL, &m.compressed)
    _field(row, 11, F_UINT32, &m.message_bytes)
    _field(row, 12, F_BOOL, &m.more)

    row = MSG_GRPC_RESPONSE
    _field(row, 1, F_UINT32, &m.stream_id)
    _field(row, 2, F_INT32, &m.status)
    _field(row, 3, F_OPTIONAL_BYTES, &m.body)
    _field(row, 4, F_BOOL, &m.first)
    _field(row, 5, F_BOOL, &m.last)
    _field(row, 6, F_UINT32, &m.sequence)
    _field(row, 7, F_STRING, &m.status_message)
    _field(row, 8, F_HEADERS, &m.headers)
    _field(row, 9, F_HEADERS, &m.trailers)
    _field(row, 10, F_BOOL, &m.compressed)
    _field(row, 11, F_UINT32, &m.message_bytes)
    _field(row, 12, F_BOOL, &m.more)
    _field(row, 13, F_BYTES, &m.status_details)

    row = MSG_WS_REQUEST
    _field(row, 1, F_STRING, &m.url)
    _field(row, 2, F_STRING, &m.host)
    _field(row, 3, F_HEADERS, &m.headers)
    _field(row, 4, F_STRING, &m.subprotocol)

    row = MSG_WS_RESPONSE
    _field(row, 1, F_INT32, &m.status)
    _field(row, 2, F_HEADERS, &m.headers)
    _field(row, 3, F_STRING, &m.subprotocol)
    _field(row, 4, F_BOOL, &m.accepted)
    _field(row, 5, F_BYTES, &m.body)

    row = MSG_WS_FRAME
    _field(row, 1, F_STRING, &m.connection_id)
    _field(row, 2, F_BOOL, &m.fin)
    _field(row, 3, F_UINT32, &m.opcode)
    _field(row, 4, F_BOOL, &m.masked)
    _field(row, 5, F_BYTES, &m.body)
    _field(row, 6, F_INT32, &m.frame_direction)
    _field(row, 7, F_UINT32, &m.rsv)
    _field(row, 8, F_UINT64, &m.frame_bytes)
    _field(row, 9, F_BOOL, &m.more)

    _field(MSG_RESET, 1, F_INT32, &m.code)
    _field(MSG_RESET, 2, F_STRING, &m.text)
    _field(MSG_WINDOW_UPDATE, 1, F_UINT64, &m.credit)


# -- decoding ---------------------------------------------------------------------------------------------------------

cdef int _header_fields(const uint8_t *data, size_t n, int depth, Slice *name, Slice *value,
                        const uint8_t **bad) noexcept nogil:
    """The two fields of a Header, empty slices when absent; 0, or a MsgError and where it is."""
    cdef:
        Cursor c = cur_over(data, n)
        uint32_t tag
    name.ptr = value.ptr = c.p
    name.len = value.len = 0
    while c.p != c.end:
        tag = cur_tag(&c)
        if tag == (1 << 3 | WIRE_BYTES):
            if cur_slice(&c, name) and not utf8_ok(name.ptr, name.len):
                cur_fail(&c, MSG_E_UTF8, name.ptr)
        elif tag == (2 << 3 | WIRE_BYTES):
            cur_slice(&c, value)
        else:
            cur_skip(&c, tag, depth)
    if c.error:
        bad[0] = c.bad
    return c.error


cdef int _message_fields(const uint8_t *data, size_t n, int row, int depth, Msg *m,
                         const uint8_t **bad) noexcept nogil:
    """Fields of the envelope (row 0) or of a oneof member; 0, or a MsgError and where it is.

    `depth` messages or groups may still open.
    """
    cdef:
        Cursor c = cur_over(data, n)
        const uint8_t *start
        const uint8_t *inner_bad = NULL
        const Field *field
        char *place
        uint32_t tag, number
        uint64_t value
        Slice slice
        Slice name, content
        int error
    while c.p != c.end:
        start = c.p
        tag = cur_tag(&c)
        number = tag >> 3
        field = &_fields[row][number if number < FIELDS else 0]
        if field.type == F_NONE or (tag & 7) != field.wire:
            cur_skip(&c, tag, depth)
            continue
        place = <char *>m + field.offset
        if field.wire == WIRE_VARINT:
            value = cur_varint(&c, 10)
            if field.type == F_BOOL:
                (<uint8_t *>place)[0] = value != 0
            elif field.type == F_UINT64:
                (<uint64_t *>place)[0] = value
            else:
                (<uint32_t *>place)[0] = <uint32_t>value
            continue
        if not cur_slice(&c, &slice):
            break
        if field.type <= F_OPTIONAL_BYTES:
            if field.type == F_STRING and not utf8_ok(slice.ptr, slice.len):
                cur_fail(&c, MSG_E_UTF8, slice.ptr)
            (<Slice *>place).ptr = slice.ptr
            (<Slice *>place).len = slice.len
            continue
        error = 0
        if field.type == F_HEADERS:
            error = _header_fields(slice.ptr, slice.len, depth - 1, &name, &content, &inner_bad)
        else:
            if m.kind != <int>number:                   # another member replaces, the same one merges
                if m.kind != MSG_NONE:
                    memset(&m.body, 0, sizeof(Msg) - <size_t>(<char *>&m.body - <char *>m))
                m.kind = <int>number
                m.run = start
            if field.type == F_MEMBER:
                error = _message_fields(slice.ptr, slice.len, <int>number, depth - 1, m, &inner_bad)
        if error:
            cur_fail(&c, error, inner_bad)
    if c.error:
        bad[0] = c.bad
    return c.error


cdef int msg_decode(const uint8_t *data, size_t n, Msg *out, size_t *where) noexcept nogil:
    cdef:
        const uint8_t *bad = data
        Cursor member
        int error
    memset(out, 0, sizeof(Msg))
    if _usual_envelope(data, n, &member, out):
        if _usual_frame(member, out) if out.kind == MSG_WS_FRAME else _usual_chunk(member, out):
            out.end = data + n
            return 0
        memset(out, 0, sizeof(Msg))
    error = _message_fields(data, n, 0, MAX_DEPTH, out, &bad)
    out.end = data + n if n else data                   # last: another member clears all that stands behind the kind
    if error:
        where[0] = <size_t>(bad - data)
    return error


cdef void msg_headers(const Msg *m, uint8_t tag, HeaderIter *it) noexcept nogil:
    it.outer = m.run
    it.outer_end = m.end if m.run != NULL else NULL
    it.inner = NULL
    it.inner_end = NULL
    it.kind = <uint32_t>m.kind
    it.tag = tag


cdef bint msg_next_header(HeaderIter *it, Slice *name, Slice *value) noexcept nogil:
    # msg_decode has seen every byte of this and found it sound; the cursor checks all the same.
    cdef:
        Cursor outer, inner
        const uint8_t *bad
        Slice slice
        uint32_t tag
    while True:
        inner = cur_over(it.inner, <size_t>(it.inner_end - it.inner))
        while inner.p != inner.end:
            tag = cur_tag(&inner)
            if tag != it.tag:
                cur_skip(&inner, tag, MAX_DEPTH)
            elif cur_slice(&inner, &slice):
                it.inner = inner.p
                _header_fields(slice.ptr, slice.len, MAX_DEPTH, name, value, &bad)
                return True
        it.inner = it.inner_end = NULL
        outer = cur_over(it.outer, <size_t>(it.outer_end - it.outer))
        while it.inner == NULL:
            if outer.p == outer.end:
                it.outer = it.outer_end
                return False
            tag = cur_tag(&outer)
            if tag != (it.kind << 3 | WIRE_BYTES):
                cur_skip(&outer, tag, MAX_DEPTH)
            elif cur_slice(&outer, &slice):
                it.inner = slice.ptr
                it.inner_end = slice.ptr + slice.len
        it.outer = outer.p


# -- encoding ---------------------------------------------------------------------------------------------------------

cdef inline bint _written(const Field *field, const char *place) noexcept nogil:
    """Whether protobuf would write this field: its value is not the default."""
    if field.type == F_BOOL:
        return (<const uint8_t *>place)[0] != 0
    if field.type == F_OPTIONAL_BYTES:
        return (<const Slice *>place).ptr != NULL
    if field.type == F_UINT64:
        return (<const uint64_t *>place)[0] != 0
    if field.wire == WIRE_VARINT:
        return (<const uint32_t *>place)[0] != 0
    return (<const Slice *>place).len != 0


cdef inline uint64_t _number_at(const Field *field, const char *place) noexcept nogil:
    if field.type == F_BOOL:
        return 1
    if field.type == F_UINT64:
        return (<const uint64_t *>place)[0]
    if field.type == F_INT32:
        return <uint64_t><int64_t>(<const int32_t *>place)[0]
    return (<const uint32_t *>place)[0]


cdef size_t _fields_size(const Msg *m, int row) noexcept nogil:
    cdef:
        const Field *field
        const char *place
        size_t size = 0
        size_t n
        int number
    for number in range(1, _last_field[row] + 1):
        field = &_fields[row][number]
        place = <const char *>m + field.offset
        if not _written(field, place):
            continue
        if field.type != F_HEADERS:
            size += 1                                   # every known number is below 16: one byte of tag
        if field.wire == WIRE_VARINT:
            size += varint_size(_number_at(field, place))
        else:
            n = (<const Slice *>place).len
            size += n if field.type == F_HEADERS else n + varint_size(n)
    return size


cdef uint8_t *_put_fields(const Msg *m, int row, uint8_t *out, uint8_t **gap) noexcept nogil:
    cdef:
        const Field *field
        const char *place
        const Slice *slice
        int number
    for number in range(1, _last_field[row] + 1):
        field = &_fields[row][number]
        place = <const char *>m + field.offset
        if not _written(field, place):
            continue
        if field.type != F_HEADERS:
            out[0] = <uint8_t>(number << 3 | field.wire)
            out += 1
        if field.wire == WIRE_VARINT:
            out = put_varint(out, _number_at(field, place))
            continue
        slice = <const Slice *>place
        if field.type != F_HEADERS:
            out = put_varint(out, slice.len)
        if gap != NULL and slice == &m.body:
            gap[0] = out
        else:
            out = put_bytes(out, slice.ptr, slice.len)
    return out


cdef inline size_t _string_size(const Slice *s, size_t tag_bytes) noexcept nogil:
    return tag_bytes + varint_size(s.len) + s.len if s.len else 0


cdef size_t msg_bound(const Msg *m) noexcept nogil:
    # 13 fields of a member, 6 of the envelope and the prefix take at most 11 bytes each beside their content.
    return (256 + m.client_id.len + m.request_id.len + m.trace_id.len + m.body.len + m.method.len + m.url.len
            + m.host.len + m.scheme.len + m.service.len + m.subprotocol.len + m.status_message.len
            + m.status_details.len + m.connection_id.len + m.text.len + m.headers.len + m.trailers.len)


cdef uint8_t *_put_string(uint8_t *out, uint32_t number, const Slice *s) noexcept nogil:
    if not s.len:
        return out
    out = put_varint(out, number << 3 | WIRE_BYTES)
    out = put_varint(out, s.len)
    return put_bytes(out, s.ptr, s.len)


cdef size_t msg_encode(const Msg *m, bint prefixed, uint8_t *out) noexcept nogil:
    return _encode(m, prefixed, out, NULL)


cdef size_t msg_encode_around(const Msg *m, uint8_t *out, size_t *gap) noexcept nogil:
    cdef:
        uint8_t *place = out
        size_t n = _encode(m, True, out, &place)
    gap[0] = <size_t>(place - out)
    return n


cdef size_t _encode(const Msg *m, bint prefixed, uint8_t *out, uint8_t **gap) noexcept nogil:
    cdef:
        uint8_t *start = out
        size_t left_out = m.body.len if gap != NULL else 0
        bint has_member = 0 < m.kind < ROWS and _last_field[m.kind] != 0
    if prefixed:
        out += GRPC_PREFIX_BYTES
    out = _put_string(out, 1, &m.client_id)
    out = _put_string(out, 2, &m.request_id)
    if m.direction:
        out[0] = 3 << 3 | WIRE_VARINT
        out = put_varint(out + 1, <uint64_t><int64_t>m.direction)
    if m.protocol_type:
        out[0] = 4 << 3 | WIRE_VARINT
        out = put_varint(out + 1, <uint64_t><int64_t>m.protocol_type)
    if _is_chunk(m):
        out[0] = <uint8_t>(m.kind << 3 | WIRE_BYTES)
        out = _put_chunk(m, put_varint(out + 1, _chunk_size(m)), gap)
    elif has_member:
        out = put_varint(out, <uint64_t>m.kind << 3 | WIRE_BYTES)
        out = put_varint(out, _fields_size(m, m.kind))
        out = _put_fields(m, m.kind, out, gap)
    out = _put_string(out, 17, &m.trace_id)
    if prefixed:
        grpc_prefix(start, False, <uint32_t>(<size_t>(out - start) + left_out - GRPC_PREFIX_BYTES))
    return <size_t>(out - start)
