# The Python face of the kernel for heads; see face.pxi.

class Head(NamedTuple):
    """One head; `fields` are those that go on to the other side. What a head does not have is None, 0 or False."""

    method: bytes
    target: bytes
    host: bytes
    status: int
    http10: bool
    keep_alive: bool
    body: str
    content_length: int
    upgrade: bool
    websocket: bool
    ws_extensions: bool
    ws_protocols: int
    ws_protocol: bytes
    ws_key: bytes
    ws_version: bytes
    ws_accept: bytes
    traceparent: bytes
    fields: list


_BODY_MODES = {BODY_NONE: "none", BODY_LENGTH: "length", BODY_CHUNKED: "chunked", BODY_UNTIL_CLOSE: "until_close"}


cdef object _or_none(const Slice *s):
    return _copy(s.ptr, s.len) if s.ptr != NULL else None


cdef list _block_fields(Buf *block, uint8_t tag):
    """What hdr_append has put into a block, by way of the message that it would be part of."""
    cdef:
        Msg m
        _Block outer
        size_t where = 0
        size_t n
    memset(&m, 0, sizeof(Msg))
    m.kind = MSG_HTTP_REQUEST
    m.headers.ptr = block.data
    m.headers.len = block.len
    outer = _Block(bytes(msg_bound(&m)))
    n = msg_encode(&m, False, outer.data)
    if msg_decode(outer.data, n, &m, &where) < 0:
        raise AssertionError("the block is no part of a message")
    return _headers(&m, tag)


cdef object _head(const HttpHead *h, Buf *block, uint8_t tag):
    target = _or_none(&h.target)
    return Head(
        _or_none(&h.method), b"/" + target if h.rootless else target, _or_none(&h.host), h.status, bool(h.http10),
        bool(h.keep_alive), _BODY_MODES[h.body_mode], h.content_length, bool(h.upgrade), bool(h.websocket),
        bool(h.ws_extensions), h.ws_protocols, _or_none(&h.ws_protocol), _or_none(&h.ws_key), _or_none(&h.ws_version),
        _or_none(&h.ws_accept), _or_none(&h.traceparent), _block_fields(block, tag),
    )


cdef class HeadParser:
    """`feed` gives the heads that `data` completes, one behind the other; what is unfinished waits in `rest`."""
    cdef bint _is_request
    cdef size_t _scanned
    cdef readonly bytes rest

    def __init__(self, bint is_request=True):
        self._is_request = is_request
        self._scanned = 0
        self.rest = b""

    def feed(self, bytes data not None=b""):
        cdef:
            _Block block
            HttpHead h
            Buf fields
            Py_ssize_t size
            int code
        heads = []
        self.rest += data
        while True:
            block = _Block(self.rest)
            size = head_end(block.data, block.n, &self._scanned)
            if size == 0:
                return heads
            code = <int>size
            if size > 0:
                self._scanned = 0
                block = _Block(self.rest[:size])
                self.rest = self.rest[size:]
                memset(&fields, 0, sizeof(Buf))
                try:
                    code = head_parse(block.data, block.n, self._is_request, TAG_HTTP_REQUEST_HEADERS, &h, &fields)
                    if code == 0:
                        heads.append(_head(&h, &fields, TAG_HTTP_REQUEST_HEADERS))
                finally:
                    buf_free(&fields)
            if code < 0:
                raise KernelError(code, head_error_text(code).decode(), before=heads)


def head_status(int code):
    """The status that answers a refusal of HeadParser."""
    return head_error_status(code)


def parse_fields(bytes section not None):
    """The field lines of a section that is complete, as they stand there."""
    cdef:
        _Block block = _Block(section)
        Slice name, value
        size_t pos = 0
        int code
    fields = []
    while True:
        code = head_field(block.data, block.n, &pos, &name, &value)
        if code < 0:
            raise KernelError(code, head_error_text(code).decode(), before=fields)
        if code == 0:
            return fields
        fields.append((_copy(name.ptr, name.len), _copy(value.ptr, value.len)))


def parse_trailers(bytes section not None):
    """The fields of a trailer section that go on."""
    cdef:
        _Block block = _Block(section)
        Buf fields
        int code
    memset(&fields, 0, sizeof(Buf))
    try:
        code = head_parse_trailers(block.data, block.n, TAG_HTTP_REQUEST_HEADERS, &fields)
        if code < 0:
            raise KernelError(code, head_error_text(code).decode())
        return _block_fields(&fields, TAG_HTTP_REQUEST_HEADERS)
    finally:
        buf_free(&fields)


def known_methods():
    """The methods that are served, and CONNECT, which is known and refused."""
    cdef Slice name
    found = []
    for number in range(HEAD_METHODS):
        name = head_method(number)
        found.append(_copy(name.ptr, name.len))
    return found
