"""Reading and writing of HTTP/1.1 messages.

The kernels parse heads and frame bodies. What is written to the other side is made from the parsed message, never from the
raw bytes; a body byte is copied once.
"""
import binascii
import hashlib
from http import HTTPStatus

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen

from fasttunnel._core cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, HEAD_E_BYTES, HEAD_METHODS, HeaderIter, HttpHead, buf_free, buf_reserve, hdr_hop_by_hop,
    hdr_forwarding, hdr_is, hdr_name_ok, hdr_value_ok, head_end, head_error_status, head_error_text, head_field, head_method, head_parse,
    head_parse_trailers, msg_headers, msg_next_header,
)
from fasttunnel.engine._out cimport out_append, out_reserve

cdef bytes WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"      # RFC 6455 1.3
cdef dict REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
cdef enum:
    STATUSES = 1000                     # three digits

cdef list STATUS_LINES = [None] * STATUSES
cdef list METHODS = [bytes_of(head_method(_number)) for _number in range(HEAD_METHODS)]


class BadMessage(Exception):
    """A message that breaks HTTP. ``status`` is what a client is answered."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


cdef inline bytes bytes_of(Slice slice):
    """None for an absent one."""
    return slice.ptr[:slice.len] if slice.ptr != NULL else None


cdef bytes same_or_new(bytes old, Slice slice):
    """The bytes of a slice: the same object again if they are those of the last message, as they mostly are."""
    if slice.len == 0:
        return b""
    if old is not None and <size_t>len(old) == slice.len and memcmp(<const char *>old, slice.ptr, slice.len) == 0:
        return old
    return slice.ptr[:slice.len]


cdef inline size_t first_field(const uint8_t *data) noexcept nogil:
    """Where the fields of a head that has been parsed begin: behind its first line."""
    cdef size_t pos = 0
    while data[pos] != 10:
        pos += 1
    return pos + 1


cdef class Head:
    def __cinit__(self, bint is_request):
        self.is_request = is_request

    def __dealloc__(self):
        buf_free(&self.block)

    cdef Py_ssize_t parse(self, const uint8_t *data, size_t n, size_t limit, uint8_t tag) except -1:
        cdef Py_ssize_t size = head_end(data, n, &self.scanned)
        cdef HttpHead it
        cdef int code
        if size < 0:
            raise BadMessage(400, head_error_text(HEAD_E_BYTES).decode())
        if <size_t>size > limit or size == 0 and n > limit:
            raise BadMessage(431, f"head above {limit} bytes")
        if size == 0:
            return 0
        self.scanned = 0
        self.block.len = 0
        if buf_reserve(&self.block, <size_t>size) < 0:      # about what its fields need, and in one step
            raise MemoryError
        code = head_parse(data, <size_t>size, self.is_request, tag, &it, &self.block)
        if code < 0:
            raise BadMessage(head_error_status(code), head_error_text(code).decode())
        self.http10 = it.http10
        self.keep_alive = it.keep_alive
        self.body_mode = it.body_mode
        self.content_length = it.content_length
        self.upgrade = it.upgrade
        self.websocket = it.websocket
        self.ws_extensions = it.ws_extensions
        self.ws_key = bytes_of(it.ws_key)
        self.ws_version = bytes_of(it.ws_version)
        self.ws_accept = bytes_of(it.ws_accept)
        self.ws_protocol = bytes_of(it.ws_protocol) if it.ws_protocols < 2 else self.joined_protocols(data, <size_t>size)
        self.traceparent = bytes_of(it.traceparent)
        if self.is_request:
            self.method = METHODS[it.method_number]
            self.target = same_or_new(self.target, it.target)
            if it.rootless:
                self.target = b"/" + self.target
            self.host = same_or_new(self.host, it.host)
        else:
            self.status = it.status
        return size

    cdef bytes joined_protocols(self, const uint8_t *data, size_t n):
        """A list may come in several fields (RFC 9110 5.3)."""
        cdef Slice name, value
        cdef size_t pos = first_field(data)
        cdef list found = []
        while head_field(data, n, &pos, &name, &value) > 0:
            if hdr_is(name.ptr, name.len, "sec-websocket-protocol"):
                found.append(value.ptr[:value.len])
        return b", ".join(found)

    cdef list forwarding(self, const uint8_t *data, size_t n):
        cdef Slice name, value
        cdef size_t pos = first_field(data)
        cdef list found = []
        while head_field(data, n, &pos, &name, &value) > 0:
            if hdr_forwarding(name.ptr, name.len):
                found.append((name.ptr[:name.len], value.ptr[:value.len]))
        return found

    cdef int start_body(self, BodyReader *reader) except -1:
        memset(reader, 0, sizeof(BodyReader))
        reader.mode = self.body_mode
        reader.remaining = self.content_length if self.body_mode == BODY_LENGTH else 0
        return 0


cdef Py_ssize_t parse_trailers(const uint8_t *data, size_t n, size_t limit, uint8_t tag, Buf *block) except -1:
    """The trailer section behind a chunked body (RFC 9112 7.1.2). Returns its length, 0: incomplete; raises BadMessage."""
    cdef size_t scanned = 0
    cdef Py_ssize_t size = head_end(data, n, &scanned)
    cdef int code
    if size < 0 or n > limit and size == 0 or size > <Py_ssize_t>limit:
        raise BadMessage(400, "bad trailer section")
    if size == 0:
        return 0
    code = head_parse_trailers(data, <size_t>size, tag, block)
    if code < 0:
        raise BadMessage(400, f"bad trailer section: {head_error_text(code).decode()}")
    return size


cdef bytes websocket_accept(bytes key):
    """Sec-WebSocket-Accept for a key, RFC 6455 4.2.2."""
    return binascii.b2a_base64(hashlib.sha1(key + WEBSOCKET_GUID).digest(), newline=False)


# -- writing -----------------------------------------------------------------------------------------------------------------

cdef int write_text(Out *out, const char *text) except -1:
    return out_append(out, text, strlen(text))


cdef int write_bytes(Out *out, bytes text) except -1:
    return out_append(out, <const char *>text, len(text))


cdef int write_number(Out *out, uint64_t number) except -1:
    cdef uint8_t digits[20]
    cdef int n = 20
    while True:
        n -= 1
        digits[n] = <uint8_t>(48 + number % 10)
        number //= 10
        if number == 0:
            break
    return out_append(out, digits + n, 20 - n)


cdef int write_status_line(Out *out, int status) except -1:
    cdef bytes line
    if not 0 <= status < STATUSES:
        raise ValueError(f"no status: {status}")
    line = STATUS_LINES[status]
    if line is None:
        line = b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, b""))
        STATUS_LINES[status] = line
    return write_bytes(out, line)


cdef int write_fields(Out *out, const Msg *m, uint8_t tag, bint *has_length, uint64_t *length) except -1:
    """The fields of a message, without those that belong to one connection. Content-Length is only reported."""
    cdef HeaderIter it
    cdef Slice name, value
    cdef uint8_t *p
    cdef size_t i
    cdef uint64_t number
    has_length[0] = False
    msg_headers(m, tag, &it)
    while msg_next_header(&it, &name, &value):
        if not hdr_name_ok(name.ptr, name.len) or not hdr_value_ok(value.ptr, value.len):
            return 1
        if hdr_hop_by_hop(name.ptr, name.len):
            if not (hdr_is(name.ptr, name.len, "te") and hdr_is(value.ptr, value.len, "trailers")):
                continue
        elif hdr_is(name.ptr, name.len, "host"):
            continue
        elif hdr_is(name.ptr, name.len, "content-length"):
            number = 0
            if value.len == 0 or value.len > 19:
                return 1
            for i in range(value.len):
                if not 48 <= value.ptr[i] <= 57:
                    return 1
                number = number * 10 + (value.ptr[i] - 48)
            if has_length[0] and number != length[0]:
                return 1
            has_length[0] = True
            length[0] = number
            continue
        p = out_reserve(out, name.len + value.len + 4)
        memcpy(p, name.ptr, name.len)
        p += name.len
        p[0] = 58
        p[1] = 32
        if value.len:
            memcpy(p + 2, value.ptr, value.len)
        p += value.len + 2
        p[0] = 13
        p[1] = 10
        out.len += name.len + value.len + 4
    return 0


cdef bint has_fields(const Msg *m, uint8_t tag) noexcept:
    cdef HeaderIter it
    cdef Slice name, value
    msg_headers(m, tag, &it)
    return msg_next_header(&it, &name, &value)


cdef bint has_field(const Msg *m, uint8_t tag, const char *lower) noexcept:
    cdef HeaderIter it
    cdef Slice name, value
    msg_headers(m, tag, &it)
    while msg_next_header(&it, &name, &value):
        if hdr_is(name.ptr, name.len, lower):
            return True
    return False


cdef int write_body(Conn conn, BodyWriter *writer, const uint8_t *data, size_t n) except -1:
    cdef uint8_t hexa[18]
    cdef int i = 16
    cdef size_t size = n
    if n == 0:
        return 0
    if writer.mode == BODY_NONE:
        return 1
    if writer.mode == BODY_LENGTH:
        if n > writer.remaining:
            return 1
        writer.remaining -= n
    elif writer.mode == BODY_CHUNKED:
        hexa[16] = 13
        hexa[17] = 10
        while size:
            i -= 1
            hexa[i] = b"0123456789abcdef"[size & 15]
            size >>= 4
        out_append(&conn.out, hexa + i, 18 - i)
    conn.write_through(data, n)
    if writer.mode == BODY_CHUNKED:
        out_append(&conn.out, <const char *>b"\r\n", 2)
    return 0


cdef int write_body_end(Out *out, BodyWriter *writer, const Msg *m, uint8_t trailer_tag) except -1:
    cdef bint has_length
    cdef uint64_t length
    if writer.mode == BODY_LENGTH and writer.remaining:
        return 1
    if writer.mode == BODY_CHUNKED:
        out_append(out, <const char *>b"0\r\n", 3)
        if write_fields(out, m, trailer_tag, &has_length, &length):
            return 1
        out_append(out, <const char *>b"\r\n", 2)
    return 0
