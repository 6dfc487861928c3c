# The Python face of the kernels: for tests and experiments, not for the data plane. It holds what a kernel leaves
# unconsumed and shows it again, as an engine does, and copies every input into a block of exactly its size.

class KernelError(Exception):
    """A kernel refused its input.

    `code` is the kernel's (negative) result, `text` says why, `before` holds what was given out by the same call before
    the refusal, `close_code` is the WebSocket close code that answers it and `where` the offset of the offending byte.
    """

    def __init__(self, code, text, *, before=(), close_code=None, where=None):
        super().__init__(f"{text} ({code})" if where is None else f"{text} ({code}) at byte {where}")
        self.code = code
        self.text = text
        self.before = list(before)
        self.close_code = close_code
        self.where = where


class Frame(NamedTuple):
    """One WebSocket frame, or a fragment of one; the payload is unmasked."""

    payload: bytes
    opcode: int
    fin: bool
    rsv: int
    masked: bool
    first: bool
    more: bool
    frame_bytes: int


class Piece(NamedTuple):
    """One gRPC message, or a fragment of one."""

    body: bytes
    compressed: bool
    first: bool
    more: bool
    message_bytes: int


cdef class _Block:
    """Bytes in a heap block of exactly their size."""
    cdef uint8_t *data
    cdef size_t n

    def __cinit__(self, bytes source not None):
        self.n = len(source)
        self.data = <uint8_t *>malloc(self.n)
        if self.data == NULL and self.n:
            raise MemoryError
        if self.n:
            memcpy(self.data, <const uint8_t *>source, self.n)

    def __dealloc__(self):
        free(self.data)


cdef bytes _copy(const uint8_t *data, size_t n):
    return (<const char *>data)[:n] if n else b""


# -- WebSocket --------------------------------------------------------------------------------------------------------

cdef class WebSocketParser:
    """`feed` cuts input into frames; what is unfinished waits in `rest` for the next call."""
    cdef WsParser _parser
    cdef readonly bytes rest
    cdef readonly bint blocked
    cdef public uint64_t credit

    def __init__(self, bint expect_masked, *, bint rsv_allowed=False, uint64_t max_fragment=65536,
                 uint64_t max_message_bytes=0, uint64_t credit=UINT64_MAX):
        ws_parser_init(&self._parser, expect_masked, rsv_allowed, max_fragment, max_message_bytes)
        self.rest = b""
        self.credit = credit
        self.blocked = False

    def feed(self, bytes data not None=b"", credit=None):
        """Frames and fragments that `data` completes. `credit`, in payload bytes, replaces what was left of it."""
        cdef:
            _Block block = _Block(self.rest + data)
            size_t at = 0
            size_t consumed = 0
            WsFrame f
            _Block payload
            int code
        if credit is not None:
            self.credit = credit
        frames = []
        while True:
            code = ws_parse(&self._parser, block.data + at, block.n - at, self.credit, &consumed, &f)
            at += consumed
            if code != WS_FRAME:
                break
            payload = _Block(_copy(f.payload, f.payload_len))
            if f.masked:
                ws_mask(payload.data, payload.data, payload.n, f.key)
            if f.opcode < WS_CLOSE:
                self.credit -= f.payload_len
            frames.append(Frame(_copy(payload.data, payload.n), f.opcode, bool(f.fin), f.rsv, bool(f.masked),
                                bool(f.first), bool(f.more), f.frame_bytes))
        self.rest = _copy(block.data + at, block.n - at)
        self.blocked = code == WS_BLOCKED
        if code < 0:
            raise KernelError(code, ws_error_text(code).decode(), before=frames, close_code=ws_error_close_code(code))
        return frames


def mask(bytes data not None, bytes key not None, *, bint in_place=False):
    """`data` masked (or unmasked) with the 4-byte `key`, from one block into another or within one."""
    cdef:
        _Block source = _Block(data)
        _Block target = source if in_place else _Block(bytes(len(data)))
    if len(key) != 4:
        raise ValueError("a mask has 4 bytes")
    ws_mask(target.data, source.data, source.n, <const uint8_t *>key)
    return _copy(target.data, target.n)


def rotate_key(bytes key not None, uint64_t n):
    """The key for the byte `n` further on."""
    cdef uint8_t rotated[4]
    if len(key) != 4:
        raise ValueError("a mask has 4 bytes")
    memcpy(rotated, <const uint8_t *>key, 4)
    ws_rotate(rotated, n)
    return _copy(rotated, 4)


def build_head(bint fin, int rsv, int opcode, uint64_t payload_bytes, bytes key=None):
    """Frame header; masked when there is a key."""
    cdef:
        uint8_t out[14]
        const uint8_t *mask_key = NULL
    if key is not None:
        if len(key) != 4:
            raise ValueError("a mask has 4 bytes")
        mask_key = key
    return _copy(out, ws_build_head(out, fin, rsv, opcode, payload_bytes, mask_key))


# -- gRPC -------------------------------------------------------------------------------------------------------------

cdef class GrpcMessages:
    """`feed` cuts the DATA of one stream into messages; what is unfinished waits in `rest`."""
    cdef GrpcSplitter _splitter
    cdef readonly bytes rest
    cdef readonly bint blocked
    cdef public uint64_t credit

    def __init__(self, uint64_t max_fragment=65536, *, uint64_t max_message_bytes=0, uint64_t credit=UINT64_MAX):
        memset(&self._splitter, 0, sizeof(GrpcSplitter))
        self._splitter.max_fragment = max_fragment
        self._splitter.max_message_bytes = max_message_bytes
        self.rest = b""
        self.credit = credit
        self.blocked = False

    @property
    def at_boundary(self):
        """Whether the stream may end here: no message is begun."""
        return bool(grpc_at_boundary(&self._splitter)) and not self.rest

    def whole(self, bytes data not None):
        """Whether `feed` would complete a message with no more than this, without looking at its flag and size."""
        cdef _Block block = _Block(self.rest + data)
        return bool(grpc_whole(&self._splitter, block.data, block.n))

    def feed(self, bytes data not None=b"", credit=None):
        """Messages and fragments that `data` completes. `credit`, in body bytes, replaces what was left of it."""
        cdef:
            _Block block = _Block(self.rest + data)
            size_t at = 0
            size_t consumed = 0
            GrpcPiece piece
            int code
        if credit is not None:
            self.credit = credit
        pieces = []
        while True:
            code = grpc_split(&self._splitter, block.data + at, block.n - at, self.credit, &consumed, &piece)
            at += consumed
            if code != GRPC_PIECE:
                break
            self.credit -= piece.body_len
            pieces.append(Piece(_copy(piece.body, piece.body_len), bool(piece.compressed), bool(piece.first),
                                bool(piece.more), piece.message_bytes))
        self.rest = _copy(block.data + at, block.n - at)
        self.blocked = code == GRPC_BLOCKED
        if code == GRPC_E_FLAG:
            raise KernelError(code, "compressed flag above 1", before=pieces)
        if code == GRPC_E_TOO_LARGE:
            raise KernelError(code, "message above the size limit", before=pieces)
        return pieces


def message_prefix(bint compressed, uint32_t message_bytes):
    """The 5 bytes before a gRPC message."""
    cdef uint8_t out[GRPC_PREFIX_BYTES]
    grpc_prefix(out, compressed, message_bytes)
    return _copy(out, GRPC_PREFIX_BYTES)


# -- TunnelMessage ----------------------------------------------------------------------------------------------------

_KINDS = {
    MSG_NONE: None, MSG_HTTP_REQUEST: "http_request", MSG_HTTP_RESPONSE: "http_response",
    MSG_GRPC_REQUEST: "grpc_request", MSG_GRPC_RESPONSE: "grpc_response", MSG_WS_REQUEST: "ws_request",
    MSG_WS_RESPONSE: "ws_response", MSG_WS_FRAME: "ws_frame", MSG_REGISTER: "register",
    MSG_REGISTERED: "registered", MSG_HEARTBEAT: "heartbeat", MSG_RESET: "reset",
    MSG_WINDOW_UPDATE: "window_update", MSG_GO_AWAY: "go_away", MSG_TCP_DATA: "tcp_data",
}
_KIND_NUMBERS = {name: number for number, name in _KINDS.items()}
_HEADER_TAGS = {            # kind: tags of what Msg calls headers and trailers
    MSG_HTTP_REQUEST: (TAG_HTTP_REQUEST_HEADERS, TAG_HTTP_REQUEST_TRAILERS),
    MSG_HTTP_RESPONSE: (TAG_HTTP_RESPONSE_HEADERS, TAG_HTTP_RESPONSE_TRAILERS),
    MSG_GRPC_REQUEST: (TAG_GRPC_REQUEST_METADATA, 0),
    MSG_GRPC_RESPONSE: (TAG_GRPC_RESPONSE_INITIAL, TAG_GRPC_RESPONSE_TRAILING),
    MSG_WS_REQUEST: (TAG_WS_REQUEST_HEADERS, 0),
    MSG_WS_RESPONSE: (TAG_WS_RESPONSE_HEADERS, 0),
}
_MESSAGE_ERRORS = {
    MSG_E_TRUNCATED: "truncated", MSG_E_VARINT: "varint too long", MSG_E_TAG: "bad tag", MSG_E_UTF8: "not UTF-8",
}


cdef list _headers(const Msg *m, uint8_t tag):
    cdef:
        HeaderIter it
        Slice name, value
    found = []
    msg_headers(m, tag, &it)
    while msg_next_header(&it, &name, &value):
        found.append((_copy(name.ptr, name.len), _copy(value.ptr, value.len)))
    return found


cdef bytes _or_empty(const Slice *s):
    return _copy(s.ptr, s.len)


def decode_message(bytes data not None):
    """A TunnelMessage, its member flattened into one dict; `body` is None when absent, other fields have defaults."""
    cdef:
        _Block block = _Block(data)
        Msg m
        size_t where = 0
        int code = msg_decode(block.data, block.n, &m, &where)
    if code:
        raise KernelError(code, _MESSAGE_ERRORS[code], where=where)
    tags = _HEADER_TAGS.get(m.kind, (0, 0))
    return {
        "kind": _KINDS[m.kind],
        "client_id": _or_empty(&m.client_id), "request_id": _or_empty(&m.request_id),
        "trace_id": _or_empty(&m.trace_id), "direction": m.direction, "protocol_type": m.protocol_type,
        "body": None if m.body.ptr == NULL else _or_empty(&m.body),
        "first": bool(m.first), "last": bool(m.last), "more": bool(m.more), "compressed": bool(m.compressed),
        "fin": bool(m.fin), "masked": bool(m.masked), "accepted": bool(m.accepted),
        "informational": bool(m.informational), "sequence": m.sequence, "stream_id": m.stream_id, "status": m.status,
        "message_bytes": m.message_bytes, "frame_bytes": m.frame_bytes, "opcode": m.opcode, "rsv": m.rsv,
        "frame_direction": m.frame_direction, "method": _or_empty(&m.method), "url": _or_empty(&m.url),
        "host": _or_empty(&m.host), "scheme": _or_empty(&m.scheme), "service": _or_empty(&m.service),
        "subprotocol": _or_empty(&m.subprotocol), "status_message": _or_empty(&m.status_message),
        "status_details": _or_empty(&m.status_details), "connection_id": _or_empty(&m.connection_id),
        "code": <int32_t>m.code, "text": _or_empty(&m.text), "credit": m.credit,
        "headers": _headers(&m, tags[0]) if tags[0] else [], "trailers": _headers(&m, tags[1]) if tags[1] else [],
    }


cdef int _lend(Slice *s, fields, str name, list keep) except -1:
    cdef bytes value = fields.pop(name, None)
    if value is not None:
        keep.append(value)
        s.ptr = <const uint8_t *>value
        s.len = len(value)
    return 0


cdef int _lend_headers(Slice *s, Buf *block, int tag, headers) except -1:
    for name, value in headers:
        if hdr_append(block, <uint8_t>tag, <const uint8_t *><bytes>name, len(name),
                      <const uint8_t *><bytes>value, len(value)) < 0:
            raise MemoryError
    s.ptr = block.data
    s.len = block.len
    return 0


cdef bytes _put_in(const uint8_t *around, size_t n, size_t gap, const uint8_t *middle, size_t middle_bytes):
    return _copy(around, gap) + _copy(middle, middle_bytes) + _copy(around + gap, n - gap)


def encode_message(kind=None, *, bint prefixed=False, bint around=False, **fields):
    """The bytes of a TunnelMessage; `fields` are named as `decode_message` names them.

    around: prefixed, and the body is put in afterwards, as where it is sent without a copy.
    """
    cdef:
        Msg m
        Buf headers, trailers
        size_t n, bound, gap = 0
        uint8_t *out = NULL
        list keep = []
    memset(&m, 0, sizeof(Msg))
    memset(&headers, 0, sizeof(Buf))
    memset(&trailers, 0, sizeof(Buf))
    m.kind = _KIND_NUMBERS[kind]
    tags = _HEADER_TAGS.get(m.kind, (0, 0))
    try:
        _lend_headers(&m.headers, &headers, tags[0], fields.pop("headers", ()))
        _lend_headers(&m.trailers, &trailers, tags[1], fields.pop("trailers", ()))
        _lend(&m.client_id, fields, "client_id", keep)
        _lend(&m.request_id, fields, "request_id", keep)
        _lend(&m.trace_id, fields, "trace_id", keep)
        _lend(&m.body, fields, "body", keep)
        _lend(&m.method, fields, "method", keep)
        _lend(&m.url, fields, "url", keep)
        _lend(&m.host, fields, "host", keep)
        _lend(&m.scheme, fields, "scheme", keep)
        _lend(&m.service, fields, "service", keep)
        _lend(&m.subprotocol, fields, "subprotocol", keep)
        _lend(&m.status_message, fields, "status_message", keep)
        _lend(&m.status_details, fields, "status_details", keep)
        _lend(&m.connection_id, fields, "connection_id", keep)
        _lend(&m.text, fields, "text", keep)
        m.direction = fields.pop("direction", 0)
        m.protocol_type = fields.pop("protocol_type", 0)
        m.first = fields.pop("first", False)
        m.last = fields.pop("last", False)
        m.more = fields.pop("more", False)
        m.compressed = fields.pop("compressed", False)
        m.fin = fields.pop("fin", False)
        m.masked = fields.pop("masked", False)
        m.accepted = fields.pop("accepted", False)
        m.informational = fields.pop("informational", False)
        m.sequence = fields.pop("sequence", 0)
        m.stream_id = fields.pop("stream_id", 0)
        m.status = fields.pop("status", 0)
        m.message_bytes = fields.pop("message_bytes", 0)
        m.frame_bytes = fields.pop("frame_bytes", 0)
        m.opcode = fields.pop("opcode", 0)
        m.rsv = fields.pop("rsv", 0)
        m.frame_direction = fields.pop("frame_direction", 0)
        m.code = <uint32_t><int32_t>fields.pop("code", 0)
        m.credit = fields.pop("credit", 0)
        if fields:
            raise TypeError(f"unknown fields: {', '.join(fields)}")
        bound = msg_bound(&m)
        out = <uint8_t *>malloc(bound)
        if out == NULL:
            raise MemoryError
        if around:
            n = msg_encode_around(&m, out, &gap)
            return _put_in(out, n, gap, m.body.ptr, m.body.len)
        n = msg_encode(&m, prefixed, out)
        if n > bound:
            raise AssertionError(f"msg_bound says {bound}, msg_encode wrote {n}")
        return _copy(out, n)
    finally:
        free(out)
        buf_free(&headers)
        buf_free(&trailers)


def encode_ws_frame(bytes request_id not None, int direction, frame, bytes key=None, *, bint around=False):
    """Prefix and TunnelMessage of a `Frame`. With a key the payload is what stood on the wire, still masked."""
    cdef:
        WsFrame f
        _Block payload = _Block(frame.payload)
        size_t bound = MSG_WS_OVERHEAD + payload.n
        uint8_t *out = <uint8_t *>malloc(bound)
        size_t n, gap = 0
    if out == NULL:
        raise MemoryError
    memset(&f, 0, sizeof(WsFrame))
    f.payload = payload.data
    f.payload_len = payload.n
    f.frame_bytes = frame.frame_bytes
    f.opcode = frame.opcode
    f.fin = frame.fin
    f.rsv = frame.rsv
    f.masked = frame.masked
    f.first = frame.first
    f.more = frame.more
    if key is not None:
        memcpy(f.key, <const uint8_t *>key, 4)
    try:
        if around:
            n = msg_encode_ws_around(<const uint8_t *>request_id, len(request_id), direction, &f, out, &gap)
            if f.masked:
                ws_mask(payload.data, payload.data, payload.n, f.key)
            return _put_in(out, n, gap, payload.data, payload.n)
        n = msg_encode_ws(<const uint8_t *>request_id, len(request_id), direction, &f, out)
        if n > bound:
            raise AssertionError(f"MSG_WS_OVERHEAD is too small: {n - payload.n}")
        return _copy(out, n)
    finally:
        free(out)


def is_utf8(bytes data not None):
    """Whether protobuf would take this as a string."""
    cdef _Block block = _Block(data)
    return bool(utf8_ok(block.data, block.n))


# -- header fields ----------------------------------------------------------------------------------------------------

def header_name_ok(bytes name not None):
    cdef _Block block = _Block(name)
    return bool(hdr_name_ok(block.data, block.n))


def header_value_ok(bytes value not None):
    cdef _Block block = _Block(value)
    return bool(hdr_value_ok(block.data, block.n))


def target_ok(bytes target not None):
    cdef _Block block = _Block(target)
    return bool(hdr_target_ok(block.data, block.n))


def host_ok(bytes host not None):
    cdef _Block block = _Block(host)
    return bool(hdr_host_ok(block.data, block.n))


def header_same(bytes name not None, bytes other not None):
    cdef:
        _Block block = _Block(name)
        _Block beside = _Block(other)
    return bool(hdr_same(block.data, block.n, beside.data, beside.n))


def header_is(bytes name not None, bytes lower not None):
    cdef _Block block = _Block(name)
    return bool(hdr_is(block.data, block.n, lower))


def is_hop_by_hop(bytes name not None):
    cdef _Block block = _Block(name)
    return bool(hdr_hop_by_hop(block.data, block.n))


def is_forwarding(bytes name not None):
    cdef _Block block = _Block(name)
    return bool(hdr_forwarding(block.data, block.n))


def header_block(headers, uint8_t tag, retag=None):
    """Encoded Header fields with `tag`, all given the tag `retag` afterwards unless it is None."""
    cdef:
        Buf block
        Slice fields
    memset(&block, 0, sizeof(Buf))
    try:
        _lend_headers(&fields, &block, tag, headers)
        if retag is not None:
            hdr_retag(&block, retag)
        return _copy(block.data, block.len)
    finally:
        buf_free(&block)


def header_lower(bytes name not None):
    cdef _Block block = _Block(name)
    hdr_lower(block.data, block.data, block.n)
    return _copy(block.data, block.n)


# -- HTTP/1.1 bodies --------------------------------------------------------------------------------------------------

cdef class Body:
    """`feed` gives body bytes; `state` is "more", "done" or "trailers", `rest` what was not consumed."""
    cdef BodyReader _reader
    cdef readonly bytes rest
    cdef readonly str state

    def __init__(self, str mode not None, uint64_t length=0):
        memset(&self._reader, 0, sizeof(BodyReader))
        modes = {"none": BODY_NONE, "length": BODY_LENGTH, "chunked": BODY_CHUNKED, "until_close": BODY_UNTIL_CLOSE}
        self._reader.mode = modes[mode]
        self._reader.remaining = length
        self.rest = b""
        self.state = "more"

    def feed(self, bytes data not None=b"", uint64_t limit=UINT64_MAX):
        """Pieces of the body, each of at most `limit` bytes (0: only framing is consumed)."""
        cdef:
            _Block block = _Block(self.rest + data)
            size_t at = 0
            size_t consumed = 0
            Slice piece
            int code
        pieces = []
        while True:
            code = body_read(&self._reader, block.data + at, block.n - at, limit, &consumed, &piece)
            at += consumed
            if code != BODY_PIECE:
                break
            pieces.append(_copy(piece.ptr, piece.len))
        self.rest = _copy(block.data + at, block.n - at)
        if code < 0:
            raise KernelError(code, "malformed chunk", before=pieces)
        self.state = "done" if code == BODY_DONE else "trailers" if code == BODY_TRAILERS else "more"
        return pieces


cdef class HeadEnd:
    """`feed` gives the offset behind the empty line that ends a head, from the first byte fed; None: not yet."""
    cdef bytes _data
    cdef size_t _scanned

    def __cinit__(self):
        self._data = b""
        self._scanned = 0

    @property
    def scanned(self):
        return self._scanned

    def feed(self, bytes data not None):
        cdef:
            _Block block
            Py_ssize_t end
        self._data += data
        block = _Block(self._data)
        end = head_end(block.data, block.n, &self._scanned)
        if end < 0:
            raise KernelError(end, "bare CR, bare LF or NUL in a head", where=self._scanned)
        return end or None


# -- request table and buffer -----------------------------------------------------------------------------------------

cdef class RequestTable:
    """id -> positive number. `secret` (16 bytes) replaces the process's own."""
    cdef Table _table

    def __cinit__(self):
        if tbl_init(&self._table) < 0:
            raise MemoryError

    def __init__(self, bytes secret=None):
        if secret is not None:
            if len(secret) != sizeof(_process_secret):
                raise ValueError("the secret has 16 bytes")
            memcpy(self._table.secret, <const uint8_t *>secret, sizeof(_process_secret))

    def __dealloc__(self):
        tbl_free(&self._table)

    def __len__(self):
        return <Py_ssize_t>self._table.count

    @property
    def capacity(self):
        return self._table.capacity

    def put(self, bytes id not None, size_t value):
        """True: stored; False: the id exists and keeps its value."""
        cdef int code = tbl_put(&self._table, <const uint8_t *>id, len(id), <void *>value)
        if code < 0:
            raise KernelError(code, "bad id, bad value or no memory")
        return code == 0

    def find(self, bytes id not None):
        return <size_t>tbl_find(&self._table, <const uint8_t *>id, len(id)) or None

    def pop(self, bytes id not None):
        return <size_t>tbl_pop(&self._table, <const uint8_t *>id, len(id)) or None

    def hash(self, bytes id not None):
        """SipHash-1-3 of the id under the secret."""
        cdef uint64_t key[2]
        if not _id_key(<const uint8_t *>id, len(id), key):
            raise ValueError("an id has 1 to 16 bytes")
        return _sip13(self._table.secret, key, len(id))


cdef class Buffer:
    """A Buf."""
    cdef Buf _buf

    def __cinit__(self):
        memset(&self._buf, 0, sizeof(Buf))

    def __dealloc__(self):
        buf_free(&self._buf)

    def __len__(self):
        return <Py_ssize_t>self._buf.len

    def __bytes__(self):
        return _copy(self._buf.data, self._buf.len)

    @property
    def capacity(self):
        return self._buf.cap

    def reserve(self, size_t extra):
        if buf_reserve(&self._buf, extra) < 0:
            raise MemoryError

    def append(self, bytes data not None):
        if buf_append(&self._buf, <const uint8_t *>data, len(data)) < 0:
            raise MemoryError

    def consume(self, size_t n):
        buf_consume(&self._buf, n)
