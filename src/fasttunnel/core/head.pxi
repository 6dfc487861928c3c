# HTTP/1.1 heads (RFC 9112 2 to 6, RFC 9110 5 and 7), from the bytes that head_end has found to be complete.
#
# Strict, because whatever one parser takes and the next one reads differently is a way to smuggle. More so than RFC 9112
# asks of a recipient, in this:
#
# - 2.2, 3, 4: one space stands between the parts of a start line, and lines end in CR LF. Leniency there is allowed to a
#   server ("MAY"), and is where parsers differ.
# - 2.3 (RFC 9110 2.5): no minor version above 1 is taken for 1.1. There is none, and a peer that names one is probing.
# - 5.2: folded lines are refused in answers as well; a gateway may replace them by spaces.
# - 6.3 (RFC 9110 8.6): Content-Length stands once, and is no list, also where all of its values are the same.
# - 6.1: Transfer-Encoding stands once; nothing but chunked is understood.
#
# and less so in this:
#
# - 4: the space behind the status may be missing with the reason, as many servers have it; what the reason holds is not
#   looked at, for it never passes on.

cdef enum:
    CONNECTION_OPTIONS = 64         # of one head; every field is compared with each

# What is served, with CONNECT, which is known and refused; others are 501 (RFC 9110 9.1). The most frequent stand first.
cdef const char *METHODS = (
    "GET POST HEAD PUT DELETE OPTIONS PATCH CONNECT TRACE PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT ACL "
    "BIND UNBIND REBIND CHECKOUT MERGE MKACTIVITY MKCALENDAR LINK UNLINK PURGE QUERY SOURCE SUBSCRIBE UNSUBSCRIBE NOTIFY "
    "M-SEARCH")
cdef Slice _methods[HEAD_METHODS]


cdef struct HeadConnection:         # what the Connection fields of a head say
    Slice nominated[CONNECTION_OPTIONS]
    size_t count
    bint close
    bint keep_alive
    bint upgrade


cdef struct HeadFraming:            # what its fields say of the body, and how many name a host or other protocols
    bint has_length
    bint coded
    Slice coding
    size_t hosts
    size_t upgrades


cdef void _define_methods() noexcept nogil:
    cdef:
        const char *p = METHODS
        int n
    for n in range(HEAD_METHODS):
        _methods[n].ptr = <const uint8_t *>p
        while p[0] and p[0] != c' ':
            p += 1
            _methods[n].len += 1
        if p[0]:
            p += 1


cdef Slice head_method(int number) noexcept nogil:
    return _methods[number]


cdef int head_method_number(const uint8_t *name, size_t n) noexcept nogil:
    cdef int number
    for number in range(HEAD_METHODS):
        if _methods[number].len == n and memcmp(_methods[number].ptr, name, n) == 0:
            return number
    return -1


# -- lines ------------------------------------------------------------------------------------------------------------

cdef inline bint _is_digit(uint8_t c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef inline bint _line_ends(const uint8_t *data, size_t n, size_t pos) noexcept nogil:
    return n - pos >= 2 and data[pos] == c'\r' and data[pos + 1] == c'\n'


cdef int _version(const uint8_t *data, size_t n, size_t *pos, HttpHead *head) noexcept nogil:
    """HTTP-version at `pos`, which moves behind it (RFC 9112 2.3)."""
    cdef const uint8_t *p = data + pos[0]
    if n - pos[0] < 8 or memcmp(p, "HTTP/", 5) != 0 or not _is_digit(p[5]) or p[6] != c'.' or not _is_digit(p[7]):
        return HEAD_E_LINE
    head.major = p[5] - c'0'
    head.minor = p[7] - c'0'
    pos[0] += 8
    return 0


cdef int _supported(HttpHead *head) noexcept nogil:
    head.http10 = head.minor == 0
    if head.major == 0:
        return HEAD_E_OLD
    return 0 if head.major == 1 and head.minor <= 1 else HEAD_E_VERSION


cdef int _request_line(const uint8_t *data, size_t n, size_t *pos, HttpHead *head) noexcept nogil:
    """method SP request-target SP HTTP-version CRLF (RFC 9112 3)."""
    cdef:
        size_t i = 0
        size_t start
        int code
    while i < n and _token_bytes[data[i]]:
        i += 1
    if i == 0 or i == n or data[i] != c' ':
        return HEAD_E_LINE
    head.method.ptr = data
    head.method.len = i
    i += 1
    start = i
    while i < n and c'!' <= data[i] <= c'~' and data[i] != c'#':    # RFC 9112 3.2: no fragment, and RFC 3986: no other bytes
        i += 1
    if i == n or data[i] != c' ':
        return HEAD_E_LINE if i == n or data[i] == c'\r' else HEAD_E_TARGET
    if i == start:
        return HEAD_E_LINE
    head.target.ptr = data + start
    head.target.len = i - start
    i += 1
    code = _version(data, n, &i, head)
    if code < 0:
        return code
    if not _line_ends(data, n, i):
        return HEAD_E_LINE
    pos[0] = i + 2
    code = _supported(head)
    if code < 0:
        return code
    head.method_number = head_method_number(data, head.method.len)
    return 0 if head.method_number >= 0 else HEAD_E_METHOD


cdef int _status_line(const uint8_t *data, size_t n, size_t *pos, HttpHead *head) noexcept nogil:
    """HTTP-version SP status-code SP [ reason-phrase ] CRLF (RFC 9112 4)."""
    cdef:
        size_t i = 0
        int digit
        int code = _version(data, n, &i, head)
    if code < 0:
        return code
    if n - i < 4 or data[i] != c' ':
        return HEAD_E_LINE
    for digit in range(1, 4):
        if not _is_digit(data[i + <size_t>digit]):
            return HEAD_E_LINE
        head.status = head.status * 10 + data[i + <size_t>digit] - c'0'
    i += 4
    if i < n and data[i] == c' ':
        while i < n and data[i] != c'\r':
            i += 1
    if not _line_ends(data, n, i) or head.status < 100:     # RFC 9110 15: what is above 599 passes, for a client to judge
        return HEAD_E_LINE
    pos[0] = i + 2
    return _supported(head)


cdef inline bint _plain(uint64_t word) noexcept nogil:
    """No byte of the eight is a control: below 0x20, or DEL."""
    cdef uint64_t delete = word ^ <uint64_t>0x7F7F7F7F7F7F7F7F
    return not (((word - <uint64_t>0x2020202020202020) & ~word | (delete - <uint64_t>0x0101010101010101) & ~delete)
                & <uint64_t>0x8080808080808080)


cdef int head_field(const uint8_t *data, size_t n, size_t *pos, Slice *name, Slice *value) noexcept nogil:
    cdef:
        size_t i = pos[0]
        size_t start = i
        uint64_t word
    while i < n and _token_bytes[data[i]]:
        i += 1
    if i == start and _line_ends(data, n, i):
        pos[0] = i + 2
        return 0
    if i == start and i < n and _is_space(data[i]):
        return HEAD_E_FOLD
    if i == start or i == n or data[i] != c':':     # RFC 9112 5.1: nothing stands between the name and the colon
        return HEAD_E_NAME
    name.ptr = data + start
    name.len = i - start
    i += 1
    while i < n and _is_space(data[i]):
        i += 1
    start = i
    while True:
        if n - i >= 8:
            memcpy(&word, data + i, 8)
            if _plain(word):
                i += 8
                continue
        if i == n or _is_control(data[i]) and data[i] != c'\t':
            break
        i += 1
    if not _line_ends(data, n, i):
        return HEAD_E_VALUE
    pos[0] = i + 2
    while i > start and _is_space(data[i - 1]):
        i -= 1
    value.ptr = data + start
    value.len = i - start
    return 1


cdef bint _next_member(Slice *rest, Slice *member) noexcept nogil:
    """Takes a member off a comma separated list, without white space around it. Empty ones count; False: none is left."""
    cdef:
        size_t end = 0
        size_t start = 0
    if rest.ptr == NULL:
        return False
    while end < rest.len and rest.ptr[end] != c',':
        end += 1
    member.ptr = rest.ptr
    member.len = end
    if end == rest.len:
        rest.ptr = NULL
    else:
        rest.ptr += end + 1
        rest.len -= end + 1
    while start < member.len and _is_space(member.ptr[start]):
        start += 1
    member.ptr += start
    member.len -= start
    while member.len and _is_space(member.ptr[member.len - 1]):
        member.len -= 1
    return True


# -- what the fields say ----------------------------------------------------------------------------------------------

cdef int _read_connection(const uint8_t *data, size_t n, size_t pos, HeadConnection *options) noexcept nogil:
    """The Connection fields, wherever they stand: the fields before them are judged by what they name (RFC 9110 7.6.1)."""
    cdef:
        const uint8_t *end
        Slice rest, member
    options.count = 0
    options.close = options.keep_alive = options.upgrade = False
    while pos < n:
        end = <const uint8_t *>memchr(data + pos, c'\n', n - pos)
        if end == NULL:
            break
        if n - pos > 11 and data[pos + 10] == c':' and hdr_is(data + pos, 10, "connection"):
            rest.ptr = data + pos + 11
            rest.len = <size_t>(end - rest.ptr)
            if rest.len and rest.ptr[rest.len - 1] == c'\r':
                rest.len -= 1
            while _next_member(&rest, &member):
                if hdr_is(member.ptr, member.len, "close"):
                    options.close = True
                elif hdr_is(member.ptr, member.len, "keep-alive"):
                    options.keep_alive = True
                elif hdr_is(member.ptr, member.len, "upgrade"):
                    options.upgrade = True
                elif member.len:
                    if options.count == CONNECTION_OPTIONS:
                        return HEAD_E_CONNECTION
                    options.nominated[options.count] = member
                    options.count += 1
        pos = <size_t>(end - data) + 1
    return 0


cdef bint _nominated(const HeadConnection *options, const Slice *name) noexcept nogil:
    cdef size_t i
    for i in range(options.count):
        if hdr_same(options.nominated[i].ptr, options.nominated[i].len, name.ptr, name.len):
            return True
    return options.close and hdr_is(name.ptr, name.len, "close")


cdef bint _has_text(const Slice *value, const char *lower) noexcept nogil:
    """Whether the value holds the text anywhere."""
    cdef:
        size_t n = strlen(lower)
        size_t i
    for i in range(value.len - n + 1 if value.len >= n else 0):
        if hdr_is(value.ptr + i, n, lower):
            return True
    return False


cdef int _content_length(const Slice *value, HttpHead *head, HeadFraming *framing) noexcept nogil:
    cdef size_t i
    if value.len == 0 or value.len > 19:            # 19 digits fit into 64 bits
        return HEAD_E_LENGTH
    if framing.has_length:
        return HEAD_E_LENGTHS
    framing.has_length = True
    for i in range(value.len):
        if not _is_digit(value.ptr[i]):
            return HEAD_E_LENGTH
        head.content_length = head.content_length * 10 + (value.ptr[i] - c'0')
    return 1


cdef inline void _take_once(Slice *into, const Slice *value) noexcept nogil:
    """A field that a handshake has once (RFC 6455 11.3): the value of two is empty, which is none that is accepted."""
    if into.ptr == NULL:
        into[0] = value[0]
    else:
        into.len = 0


cdef int _websocket_field(const Slice *name, const Slice *value, HttpHead *head, bint upgrade) noexcept nogil:
    """Sec-WebSocket-*: in a handshake all but the extensions stay here."""
    cdef size_t i
    if name.len == 17 and hdr_is(name.ptr, name.len, "sec-websocket-key"):
        _take_once(&head.ws_key, value)
    elif name.len == 20 and hdr_is(name.ptr, name.len, "sec-websocket-accept"):
        _take_once(&head.ws_accept, value)
    elif name.len == 21 and hdr_is(name.ptr, name.len, "sec-websocket-version"):
        _take_once(&head.ws_version, value)
    elif name.len == 22 and hdr_is(name.ptr, name.len, "sec-websocket-protocol"):
        for i in range(value.len):
            if value.ptr[i] >= 0x80:                # it travels as text
                return HEAD_E_PROTOCOL
        if head.ws_protocols == 0:
            head.ws_protocol = value[0]
        head.ws_protocols += 1
    elif name.len == 24 and hdr_is(name.ptr, name.len, "sec-websocket-extensions"):
        head.ws_extensions = True
        return 1
    return not upgrade


cdef int _take_field(const Slice *name, Slice *value, bint is_request, const HeadConnection *options, HttpHead *head,
                     HeadFraming *framing) noexcept nogil:
    """Notes what a field says. 1: it passes on to the other side; 0: it stays here; or a HeadError."""
    cdef:
        const uint8_t *p = name.ptr
        size_t n = name.len
    if n == 4 and hdr_is(p, n, "host"):
        framing.hosts += 1
        head.host = value[0]
        return 0
    if n == 14 and hdr_is(p, n, "content-length"):
        return _content_length(value, head, framing)
    if n == 17 and hdr_is(p, n, "transfer-encoding"):
        if framing.coded:
            return HEAD_E_CODINGS
        framing.coded = True
        framing.coding = value[0]
        return 0
    if n == 7 and hdr_is(p, n, "upgrade"):
        framing.upgrades += 1           # two are a list (RFC 9110 5.3), which is no handshake in one field either
        head.upgrade = framing.upgrades == 1 and hdr_is(value.ptr, value.len, "websocket")
        return 0
    if n > 14 and hdr_is(p, 14, "sec-websocket-"):
        return _websocket_field(name, value, head, options.upgrade)
    if n == 11 and hdr_is(p, n, "traceparent"):
        head.traceparent = value[0]
    elif is_request and hdr_forwarding(p, n):
        return 0                        # what a visitor says of itself proves nothing; what is known is added later
    if hdr_hop_by_hop(p, n) or options.count + options.close and _nominated(options, name):
        if n != 2 or not hdr_is(p, n, "te") or not _has_text(value, "trailers"):
            return 0
        value.ptr = <const uint8_t *>"trailers"     # the one token that is useful end to end (gRPC, RFC 9110 10.1.4)
        value.len = 8
    return 1


cdef int _choose_body(bint is_request, const HeadFraming *framing, HttpHead *head) noexcept nogil:
    """RFC 9112 6.3."""
    cdef:
        Slice rest = framing.coding
        Slice member
        size_t members = 0
        size_t chunked = 0
        bint last = False
    if framing.coded:
        if framing.has_length:
            return HEAD_E_BOTH
        while _next_member(&rest, &member):
            last = hdr_is(member.ptr, member.len, "chunked")
            members += 1
            chunked += last
        if head.http10 or not last or chunked > 1:  # 6.1, 6.3: the end of the message cannot be found
            return HEAD_E_CODING
        if members > 1:
            return HEAD_E_CODING_UNKNOWN
        head.body_mode = BODY_CHUNKED
    elif framing.has_length:
        head.body_mode = BODY_LENGTH if head.content_length else BODY_NONE
    else:
        head.body_mode = BODY_NONE if is_request else BODY_UNTIL_CLOSE
    return 0


cdef int _choose_target(HttpHead *head, size_t hosts) noexcept nogil:
    """Where the request goes: origin-form, asterisk-form or absolute-form (RFC 9112 3.2)."""
    cdef:
        Slice rest = head.target
        size_t n
    if hosts > 1 or hosts == 0 and not head.http10:
        return HEAD_E_HOSTS
    if head.method_number == HEAD_CONNECT:
        return HEAD_E_CONNECT
    if rest.ptr[0] != c'/' and not (rest.len == 1 and rest.ptr[0] == c'*' and head.method_number == HEAD_OPTIONS):
        if rest.len >= 7 and hdr_is(rest.ptr, 7, "http://"):
            n = 7
        elif rest.len >= 8 and hdr_is(rest.ptr, 8, "https://"):
            n = 8
        else:
            return HEAD_E_TARGET
        rest.ptr += n
        rest.len -= n
        n = 0
        while n < rest.len and rest.ptr[n] != c'/' and rest.ptr[n] != c'?':
            n += 1
        if n == 0:                                  # RFC 9110 4.2.1
            return HEAD_E_TARGET
        if hosts and not hdr_same(rest.ptr, n, head.host.ptr, head.host.len):
            return HEAD_E_AUTHORITY
        head.host.ptr = rest.ptr
        head.host.len = n
        head.target.ptr = rest.ptr + n
        head.target.len = rest.len - n
        head.rootless = head.target.len == 0 or head.target.ptr[0] == c'?'
    return 0 if hdr_host_ok(head.host.ptr, head.host.len) else HEAD_E_HOST


cdef int head_parse(const uint8_t *data, size_t n, bint is_request, uint8_t tag, HttpHead *head, Buf *block) noexcept nogil:
    cdef:
        HeadConnection options
        HeadFraming framing
        Slice name, value
        size_t pos = 0
        int code
    memset(head, 0, sizeof(HttpHead))
    memset(&framing, 0, sizeof(HeadFraming))
    code = _request_line(data, n, &pos, head) if is_request else _status_line(data, n, &pos, head)
    if code < 0:
        return code
    code = _read_connection(data, n, pos, &options)
    if code < 0:
        return code
    head.keep_alive = not options.close and (not head.http10 or options.keep_alive)
    while True:
        code = head_field(data, n, &pos, &name, &value)
        if code <= 0:
            break
        code = _take_field(&name, &value, is_request, &options, head, &framing)
        if code < 0:
            break
        if code and hdr_append(block, tag, name.ptr, name.len, value.ptr, value.len) < 0:
            return HEAD_E_MEMORY
    if code < 0:
        return code
    head.upgrade = head.upgrade and options.upgrade and not head.http10
    code = _choose_body(is_request, &framing, head)
    if code < 0 or not is_request:
        return code
    head.websocket = head.upgrade and head.method_number == HEAD_GET
    return _choose_target(head, framing.hosts)


cdef int head_parse_trailers(const uint8_t *data, size_t n, uint8_t tag, Buf *block) noexcept nogil:
    cdef:
        Slice name, value
        size_t pos = 0
        int code
    while True:
        code = head_field(data, n, &pos, &name, &value)
        if code <= 0:
            return code
        # RFC 9110 6.5.1: fields for framing and routing have no meaning here, and merging them would be dangerous.
        if (hdr_hop_by_hop(name.ptr, name.len) or hdr_forwarding(name.ptr, name.len) or hdr_is(name.ptr, name.len, "host")
                or hdr_is(name.ptr, name.len, "trailer") or hdr_is(name.ptr, name.len, "content-length")):
            continue
        if hdr_append(block, tag, name.ptr, name.len, value.ptr, value.len) < 0:
            return HEAD_E_MEMORY


# -- what is told of a refusal ----------------------------------------------------------------------------------------

cdef int head_error_status(int code) noexcept nogil:
    if code == HEAD_E_METHOD or code == HEAD_E_CODING_UNKNOWN:
        return 501
    if code == HEAD_E_VERSION:
        return 505
    return 405 if code == HEAD_E_CONNECT else 400


cdef const char *head_error_text(int code) noexcept nogil:
    if code == HEAD_E_BYTES:
        return "bare CR or LF, or NUL, in the head"
    if code == HEAD_E_LINE:
        return "bad start line"
    if code == HEAD_E_OLD or code == HEAD_E_VERSION:
        return "unsupported HTTP version"
    if code == HEAD_E_METHOD:
        return "unknown method"
    if code == HEAD_E_NAME:
        return "bad field name"
    if code == HEAD_E_VALUE:
        return "bad field value"
    if code == HEAD_E_FOLD:
        return "folded field line"
    if code == HEAD_E_CONNECTION:
        return "too many options in Connection"
    if code == HEAD_E_LENGTH:
        return "bad Content-Length"
    if code == HEAD_E_LENGTHS:
        return "two Content-Lengths"
    if code == HEAD_E_CODINGS:
        return "two Transfer-Encodings"
    if code == HEAD_E_BOTH:
        return "Content-Length with Transfer-Encoding"
    if code == HEAD_E_CODING or code == HEAD_E_CODING_UNKNOWN:
        return "unsupported Transfer-Encoding"
    if code == HEAD_E_PROTOCOL:
        return "bad Sec-WebSocket-Protocol"
    if code == HEAD_E_HOSTS:
        return "one Host field is required"
    if code == HEAD_E_CONNECT:
        return "CONNECT is not served here"
    if code == HEAD_E_TARGET:
        return "bad request target"
    if code == HEAD_E_AUTHORITY:
        return "Host differs from the request target"
    return "bad Host" if code == HEAD_E_HOST else "no memory"
