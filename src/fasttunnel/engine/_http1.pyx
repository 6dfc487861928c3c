"""Reading and writing of HTTP/1.1 messages.

Heads are parsed by httptools (llhttp), then checked again where RFC 9112 leaves parsers room to differ: what is written
to the other side is made from the parsed message, never from the raw bytes. Bodies do not pass through the parser; the
kernels frame them, so that a body byte is copied once.
"""
import base64
import hashlib
import re
from http import HTTPStatus

import httptools

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from fasttunnel._core cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE, HeaderIter, buf_free, hdr_append, hdr_forwarding, hdr_hop_by_hop, hdr_is,
    hdr_name_ok, hdr_target_ok, hdr_value_ok, head_end, msg_headers, msg_next_header,
)
from fasttunnel.engine._socket cimport out_append, out_reserve

cdef bytes WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"      # RFC 6455 1.3
cdef dict REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
cdef dict STATUS_LINES = {}
_HOST = re.compile(rb"[A-Za-z0-9._~-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?").fullmatch


class BadMessage(Exception):
    """A message that breaks HTTP. ``status`` is what a client is answered."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


cdef class Head:
    def __cinit__(self, bint is_request):
        self.is_request = is_request

    def __dealloc__(self):
        buf_free(&self.block)

    # -- called by httptools

    def on_url(self, bytes url):
        self.url = url

    def on_header(self, bytes name, bytes value):
        self.fields.append((name, value))

    def on_headers_complete(self):
        self.fields_complete = True

    def on_message_complete(self):
        self.message_complete = True

    # -- ours

    cdef Py_ssize_t parse(self, const uint8_t *data, size_t n, size_t limit, uint8_t tag) except -1:
        cdef Py_ssize_t size = head_end(data, n, &self.scanned)
        cdef bytes method
        cdef str version
        if size < 0:
            raise BadMessage(400, "bare CR or LF, or NUL, in the head")
        if size == 0:
            if n > limit:
                raise BadMessage(431, f"head above {limit} bytes")
            return 0
        if <size_t>size > limit:
            raise BadMessage(431, f"head above {limit} bytes")
        self.scanned = 0
        self.fields = []
        self.url = None
        self.fields_complete = self.message_complete = False
        if self.parser is None:
            self.parser = httptools.HttpRequestParser(self) if self.is_request else httptools.HttpResponseParser(self)
        try:
            self.parser.feed_data(data[:size])
        except httptools.HttpParserUpgrade:
            pass                        # whether it is one is decided below
        except httptools.HttpParserInvalidMethodError:
            method = data[:size].partition(b" ")[0]
            raise BadMessage(501 if hdr_name_ok(method, len(method)) else 400, "unknown method") from None
        except httptools.HttpParserError as error:
            raise BadMessage(400, str(error)) from None
        if not self.fields_complete:
            raise BadMessage(400, "incomplete head")
        version = self.parser.get_http_version()
        self.http10 = version == "1.0"
        if not self.http10 and version != "1.1":        # 0.9: none was named
            raise BadMessage(400 if version == "0.9" else 505, "unsupported HTTP version")
        if self.is_request:
            self.method = self.parser.get_method()
        else:
            self.status = self.parser.get_status_code()
        self._classify(tag)
        if not self.message_complete or self.upgrade or not self.keep_alive:
            self.parser = None          # it waits for a body that it will never see
        self.fields = None
        return size

    cdef int _classify(self, uint8_t tag) except -1:
        cdef bytes name, value, key, nominated = b"", encoding = None
        cdef list hosts = []
        cdef bint has_length = False, upgrade_websocket = False, connection_upgrade = False
        cdef uint64_t length
        cdef list connection
        self.content_length = 0
        self.ws_key = self.ws_version = self.ws_accept = self.ws_protocol = None
        self.ws_extensions = False
        self.traceparent = None
        buf_free(&self.block)
        for name, value in self.fields:
            if len(name) == 10 and name.lower() == b"connection":
                nominated = nominated + b"," + value.lower() if nominated else value.lower()
        connection = [token.strip() for token in nominated.split(b",")] if nominated else []
        connection_upgrade = b"upgrade" in connection
        self.keep_alive = b"close" not in connection and (not self.http10 or b"keep-alive" in connection)
        for name, value in self.fields:
            key = name.lower()
            if not hdr_name_ok(name, len(name)):
                raise BadMessage(400, "bad field name")
            value = value.strip(b" \t")
            if not hdr_value_ok(value, len(value)):
                raise BadMessage(400, "bad field value")
            if key == b"host":
                hosts.append(value)
                continue
            if key == b"content-length":
                if not value.isdigit() or len(value) > 19:
                    raise BadMessage(400, "bad Content-Length")
                length = int(value)
                if has_length and length != self.content_length:
                    raise BadMessage(400, "two different Content-Lengths")
                if has_length:
                    continue
                has_length = True
                self.content_length = length
            elif key == b"transfer-encoding":
                if encoding is not None:
                    raise BadMessage(400, "two Transfer-Encodings")
                encoding = value
                continue
            elif key == b"upgrade":
                upgrade_websocket = value.lower() == b"websocket"
                continue
            elif key.startswith(b"sec-websocket-"):
                if key == b"sec-websocket-key":
                    if self.ws_key is not None:
                        raise BadMessage(400, "two Sec-WebSocket-Keys")
                    self.ws_key = value
                elif key == b"sec-websocket-version":
                    self.ws_version = value
                elif key == b"sec-websocket-accept":
                    self.ws_accept = value
                elif key == b"sec-websocket-protocol":
                    self.ws_protocol = value if self.ws_protocol is None else self.ws_protocol + b", " + value
                elif key == b"sec-websocket-extensions":
                    self.ws_extensions = True
                if connection_upgrade and key != b"sec-websocket-extensions":
                    continue
            elif key == b"traceparent":
                self.traceparent = value
            elif self.is_request and hdr_forwarding(name, len(name)):
                continue                    # what a visitor says of itself proves nothing; the gate adds what is known
            elif hdr_hop_by_hop(name, len(name)) or connection and key in connection:
                if key == b"te" and b"trailers" in value.lower():
                    value = b"trailers"     # the one token that is useful end to end (gRPC, RFC 9110 10.1.4)
                else:
                    continue
            self.add(tag, name, value)
        if self.ws_protocol is not None and not self.ws_protocol.isascii():
            raise BadMessage(400, "bad Sec-WebSocket-Protocol")
        self.upgrade = upgrade_websocket and connection_upgrade and not self.http10
        if encoding is not None:
            if has_length:
                raise BadMessage(400, "Content-Length with Transfer-Encoding")
            if self.http10 or encoding.lower() != b"chunked":
                raise BadMessage(501 if not self.http10 and self.is_request else 400, "unsupported Transfer-Encoding")
            self.body_mode = BODY_CHUNKED
        elif has_length:
            self.body_mode = BODY_LENGTH if self.content_length else BODY_NONE
        elif self.is_request:
            self.body_mode = BODY_NONE
        else:
            self.body_mode = BODY_UNTIL_CLOSE
        if self.is_request:
            self._check_request(hosts)
        return 0

    cdef int _check_request(self, list hosts) except -1:
        cdef bytes rest, authority, separator
        if len(hosts) > 1 or not hosts and not self.http10:
            raise BadMessage(400, "one Host field is required")
        self.host = hosts[0] if hosts else b""
        self.target = self.url
        if self.method == b"CONNECT":
            raise BadMessage(405, "CONNECT is not served here")
        if self.url[:1] != b"/" and not (self.url == b"*" and self.method == b"OPTIONS"):
            if self.url[:7].lower() != b"http://" and self.url[:8].lower() != b"https://":
                raise BadMessage(400, "bad request target")
            rest = self.url.partition(b"://")[2]            # absolute-form, RFC 9112 3.2.2
            authority = rest
            for separator in (b"/", b"?"):
                authority = authority.partition(separator)[0]
            if hosts and authority.lower() != self.host.lower():
                raise BadMessage(400, "Host differs from the request target")
            self.host = authority
            self.target = rest[len(authority):] or b"/"
            if self.target[:1] == b"?":
                self.target = b"/" + self.target
        if not hdr_target_ok(self.target, len(self.target)):
            raise BadMessage(400, "bad request target")
        if not host_ok(self.host):
            raise BadMessage(400, "bad Host")
        self.websocket = self.upgrade and self.method == b"GET"
        return 0

    cdef int add(self, uint8_t tag, bytes name, bytes value) except -1:
        if hdr_append(&self.block, tag, name, len(name), value, len(value)) < 0:
            raise MemoryError
        return 0

    cdef int start_body(self, BodyReader *reader) except -1:
        memset(reader, 0, sizeof(BodyReader))
        reader.mode = self.body_mode
        reader.remaining = self.content_length if self.body_mode == BODY_LENGTH else 0
        return 0


cdef bint host_ok(bytes host):
    """A host name or address with or without a port (RFC 9110 7.2), and nothing that another field could take for syntax."""
    return _HOST(host) is not None


cdef class TrailerSink:
    cdef list fields

    def __cinit__(self):
        self.fields = []

    def on_header(self, bytes name, bytes value):
        self.fields.append((name, value))


cdef Py_ssize_t parse_trailers(const uint8_t *data, size_t n, size_t limit, uint8_t tag, Buf *block) except -1:
    """The trailer section behind a chunked body (RFC 9112 7.1.2). Returns its length, 0: incomplete; raises BadMessage."""
    cdef size_t scanned = 0
    cdef Py_ssize_t size
    cdef TrailerSink sink
    cdef bytes name, value
    if n >= 2 and data[0] == 13 and data[1] == 10:
        return 2
    size = head_end(data, n, &scanned)
    if size < 0 or n > limit and size == 0 or size > <Py_ssize_t>limit:
        raise BadMessage(400, "bad trailer section")
    if size == 0:
        return 0
    sink = TrailerSink()
    try:
        httptools.HttpRequestParser(sink).feed_data(b"GET / HTTP/1.1\r\n" + data[:size])
    except httptools.HttpParserError as error:
        raise BadMessage(400, f"bad trailer section: {error}") from None
    for name, value in sink.fields:
        value = value.strip(b" \t")
        if not hdr_name_ok(name, len(name)) or not hdr_value_ok(value, len(value)):
            raise BadMessage(400, "bad trailer field")
        # RFC 9110 6.5.1: fields for framing and routing have no meaning here, and merging them would be dangerous.
        if hdr_hop_by_hop(name, len(name)) or hdr_forwarding(name, len(name)) or name.lower() in (b"content-length", b"host", b"trailer"):
            continue
        if hdr_append(block, tag, name, len(name), value, len(value)) < 0:
            raise MemoryError
    return size


cdef bytes websocket_accept(bytes key):
    """Sec-WebSocket-Accept for a key, RFC 6455 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())


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
    cdef bytes line = STATUS_LINES.get(status)
    if line is None:
        line = b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, b""))
        if len(STATUS_LINES) < 1000:
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
