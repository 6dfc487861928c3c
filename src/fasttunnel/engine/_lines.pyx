"""The same lines as those of control.access_lines, which says what they mean.

Texts are taken as they are eight bytes at a time; only what needs an escape is looked at byte by byte.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen
from libc.time cimport time_t, tm

from fasttunnel._core cimport PROTO_GRPC, Slice
from fasttunnel.engine._record cimport Texts, record_texts

from fasttunnel.control.counts import PROTOCOLS, answer_to, grpc_status_of
from fasttunnel.control.terms import grpc_status, reset_code

cdef extern from "<time.h>" nogil:
    tm *gmtime_r(const time_t *when, tm *result)

cdef extern from "Python.h" nogil:
    bint Py_UNICODE_ISPRINTABLE(uint32_t character)

cdef enum:
    GRPC_CODES = 18                     # and one for what is none
    RESETS = 11
    LINE_BYTES = 1024                   # of a line without texts, and some
    LONGEST_ESCAPE = 6                  # of a byte: \u0001

cdef const char *GRPC_NAMES[GRPC_CODES]
cdef const char *RESET_NAMES[RESETS]
cdef int HTTP_OF_RESET[RESETS]
cdef int GRPC_OF_RESET[RESETS]
cdef const char *PROTOCOL_NAMES[4]
cdef list _kept = []                    # what these point into

cdef const char *name_of(str text):
    cdef bytes kept = text.encode()
    _kept.append(kept)
    return kept

cdef int _i
for _i in range(GRPC_CODES):
    GRPC_NAMES[_i] = name_of(grpc_status(_i))
for _i in range(RESETS):
    RESET_NAMES[_i] = name_of(reset_code(_i))
    HTTP_OF_RESET[_i] = answer_to(_i)
    GRPC_OF_RESET[_i] = grpc_status_of(_i)
for _i in range(4):
    PROTOCOL_NAMES[_i] = name_of(PROTOCOLS.get(_i, ""))

cdef char *HEX = b"0123456789abcdef"
cdef bytes _pairs = b"".join(b"%02d" % number for number in range(100))
cdef const char *DIGITS = _pairs        # 00 01 02 ... 99

cdef uint64_t ONES = <uint64_t>0x0101010101010101
cdef uint64_t TOPS = <uint64_t>0x8080808080808080


cdef size_t line_bound(const Record *record) noexcept nogil:
    return LINE_BYTES + 2 * LONGEST_ESCAPE * <size_t>record.size            # the path of a call is told twice


# -- parts of a line -------------------------------------------------------------------------------------------------------------

cdef inline uint8_t *put(uint8_t *at, const char *text) noexcept nogil:
    cdef size_t n = strlen(text)        # of a literal the compiler knows it
    memcpy(at, text, n)
    return at + n


cdef inline uint8_t *put_number(uint8_t *at, uint64_t n) noexcept nogil:
    cdef uint8_t digits[20]
    cdef size_t i = 20
    if n < 10:
        at[0] = <uint8_t>(48 + n)
        return at + 1
    while n >= 10:
        i -= 2
        memcpy(digits + i, DIGITS + 2 * (n % 100), 2)
        n //= 100
    if n:
        i -= 1
        digits[i] = <uint8_t>(48 + n)
    memcpy(at, digits + i, 20 - i)
    return at + 20 - i


cdef inline uint8_t *put_signed(uint8_t *at, int64_t n) noexcept nogil:
    if n < 0:
        at[0] = 45
        return put_number(at + 1, <uint64_t>-n)
    return put_number(at, <uint64_t>n)


cdef inline void two_digits(uint8_t *at, int n) noexcept nogil:
    memcpy(at, DIGITS + 2 * n, 2)


cdef void tell_second(Clock *clock, int64_t second) noexcept nogil:
    cdef time_t when = second
    cdef tm parts
    gmtime_r(&when, &parts)
    memcpy(clock.text, b"0000-00-00T00:00:00.", 20)
    two_digits(clock.text, (parts.tm_year + 1900) // 100 % 100)
    two_digits(clock.text + 2, (parts.tm_year + 1900) % 100)
    two_digits(clock.text + 5, parts.tm_mon + 1)
    two_digits(clock.text + 8, parts.tm_mday)
    two_digits(clock.text + 11, parts.tm_hour)
    two_digits(clock.text + 14, parts.tm_min)
    two_digits(clock.text + 17, parts.tm_sec)
    clock.second = second


cdef inline uint8_t *put_time(uint8_t *at, Clock *clock, int64_t us) noexcept nogil:
    cdef int ms = <int>(us // 1000 % 1000)
    if us // 1000000 != clock.second:
        tell_second(clock, us // 1000000)
    memcpy(at, clock.text, 20)
    at[20] = <uint8_t>(48 + ms // 100)
    two_digits(at + 21, ms % 100)
    at[23] = 90                         # "Z"
    return at + 24


cdef inline uint8_t *put_seconds(uint8_t *at, uint64_t us) noexcept nogil:
    cdef int rest = <int>(us % 1000000)
    at = put_number(at, us // 1000000)
    at[0] = 46                          # "."
    two_digits(at + 1, rest // 10000)
    two_digits(at + 3, rest // 100 % 100)
    two_digits(at + 5, rest % 100)
    return at + 7


cdef inline const char *reset_name(const Record *record) noexcept nogil:
    """NULL: it ended as it should."""
    return RESET_NAMES[min(record.reset, RESETS - 1)] if record.reset > 0 else NULL


cdef inline const char *grpc_name(int status) noexcept nogil:
    return GRPC_NAMES[status if 0 <= status < GRPC_CODES else GRPC_CODES - 1]


cdef inline uint8_t *put_status(uint8_t *at, const Record *record, bint quoted) noexcept nogil:
    """What the requester was told, also where it was the tunnel that told it."""
    cdef int status = record.status
    cdef int reset = min(record.reset, RESETS - 1)
    if record.protocol == PROTO_GRPC:
        if status == 0 and reset > 0:
            status = GRPC_OF_RESET[reset]
        return put_quoted(at, grpc_name(status)) if quoted else put(at, grpc_name(status))
    if status == 0 and reset > 0:
        status = HTTP_OF_RESET[reset]
    return put_signed(at, status)


cdef inline uint8_t *put_quoted(uint8_t *at, const char *name) noexcept nogil:
    at[0] = 34
    at = put(at + 1, name)
    at[0] = 34
    return at + 1


# -- texts -----------------------------------------------------------------------------------------------------------------------

cdef inline uint64_t has_less(uint64_t word, uint64_t n) noexcept nogil:
    """Not 0 if a byte is below n; sometimes also if one is not, but then it is not ASCII either."""
    return (word - ONES * n) & ~word & TOPS


cdef inline uint64_t has(uint64_t word, uint64_t byte) noexcept nogil:
    return has_less(word ^ (ONES * byte), 1)


cdef inline size_t copy_plain(uint8_t *at, const uint8_t *text, size_t n, bint json) noexcept nogil:
    """Copy up to where an escape is needed. In JSON that is for ", \\, controls and what is not ASCII; a word has no space
    and no DEL either, but takes quotes."""
    cdef size_t i = 0
    cdef uint64_t word
    cdef uint8_t c
    while i + 8 <= n:
        memcpy(&word, text + i, 8)
        if json:
            if (word & TOPS) | has_less(word, 32) | has(word, 34) | has(word, 92):
                break
        elif (word & TOPS) | has_less(word, 33) | has(word, 127):
            break
        memcpy(at + i, &word, 8)
        i += 8
    while i < n:
        c = text[i]
        if c >= 127 + json or c < 33 - json or (json and (c == 34 or c == 92)):
            break
        at[i] = c
        i += 1
    return i


cdef inline uint8_t *put_hex(uint8_t *at, uint32_t character, int digits) noexcept nogil:
    while digits:
        digits -= 1
        at[0] = HEX[character >> (4 * digits) & 15]
        at += 1
    return at


cdef inline uint8_t *put_utf8(uint8_t *at, uint8_t byte) noexcept nogil:
    """A byte of Latin-1 that is not ASCII."""
    at[0] = 0xc0 | byte >> 6
    at[1] = 0x80 | byte & 0x3f
    return at + 2


cdef inline uint8_t *put_json(uint8_t *at, const Slice *text, bint latin1) noexcept nogil:
    """In the quotes that are there."""
    cdef size_t i = copy_plain(at, text.ptr, text.len, True)
    cdef uint8_t c
    at += i
    while i < text.len:
        c = text.ptr[i]
        if c == 34 or c == 92:
            at[0] = 92
            at[1] = c
            at += 2
        elif c < 32:
            at = put_hex(put(at, b"\\u"), c, 4)
        elif c < 128 or not latin1:
            at[0] = c
            at += 1
        else:
            at = put_utf8(at, c)
        i += 1
    return at


cdef size_t next_character(const Slice *text, size_t i, bint latin1, uint32_t *character) noexcept nogil:
    """Its bytes. The engine has encoded what is UTF-8: it is right."""
    cdef const uint8_t *at = text.ptr + i
    cdef size_t left = text.len - i
    character[0] = at[0]
    if latin1 or at[0] < 0x80:
        return 1
    if at[0] < 0xe0 and left > 1:
        character[0] = (<uint32_t>at[0] & 0x1f) << 6 | (at[1] & 0x3f)
        return 2
    if at[0] < 0xf0 and left > 2:
        character[0] = (<uint32_t>at[0] & 0x0f) << 12 | (<uint32_t>at[1] & 0x3f) << 6 | (at[2] & 0x3f)
        return 3
    if left > 3:
        character[0] = ((<uint32_t>at[0] & 0x07) << 18 | (<uint32_t>at[1] & 0x3f) << 12 | (<uint32_t>at[2] & 0x3f) << 6
                        | (at[3] & 0x3f))
        return 4
    return 1


cdef uint8_t *put_escaped(uint8_t *at, const Slice *text, bint latin1) noexcept nogil:
    """As repr() does, where a character cannot be seen; as it is, where all can."""
    cdef size_t i = 0, n
    cdef uint32_t c
    cdef bint visible = True, single = False, double = False
    cdef uint8_t quote
    while i < text.len:
        i += next_character(text, i, latin1, &c)
        visible = visible and c != 32 and Py_UNICODE_ISPRINTABLE(c)
        single = single or c == 39
        double = double or c == 34
    quote = 34 if single and not double else 39
    if not visible:
        at[0] = quote
        at += 1
    i = 0
    while i < text.len:
        n = next_character(text, i, latin1, &c)
        if not visible and (c == quote or c == 92):
            at[0] = 92
            at[1] = <uint8_t>c
            at += 2
        elif visible or Py_UNICODE_ISPRINTABLE(c):
            if latin1 and c > 127:
                at = put_utf8(at, <uint8_t>c)
            else:
                memcpy(at, text.ptr + i, n)
                at += n
        elif c == 9 or c == 10 or c == 13:
            at[0] = 92
            at[1] = 116 if c == 9 else 110 if c == 10 else 114          # t, n, r
            at += 2
        elif c < 256:
            at = put_hex(put(at, b"\\x"), c, 2)
        elif c < 65536:
            at = put_hex(put(at, b"\\u"), c, 4)
        else:
            at = put_hex(put(at, b"\\U"), c, 8)
        i += n
    if not visible:
        at[0] = quote
        at += 1
    return at


cdef inline uint8_t *put_word(uint8_t *at, const Slice *text, bint latin1) noexcept nogil:
    """And the space behind it."""
    if text.len == 0:
        return put(at, b"- ")
    if copy_plain(at, text.ptr, text.len, False) == text.len:
        at += text.len
    else:
        at = put_escaped(at, text, latin1)
    at[0] = 32
    return at + 1


# -- lines -----------------------------------------------------------------------------------------------------------------------

cdef size_t line_json(const Record *record, Clock *clock, uint8_t *to) noexcept nogil:
    cdef Texts texts
    cdef const char *reset = reset_name(record)
    cdef uint8_t *at = put(to, b'{"time":"')
    record_texts(record, &texts)
    at = put_time(at, clock, record.ended_us)
    at = put_json(put(at, b'","request_id":"'), &texts.id, True)
    at = put_json(put(at, b'","trace_id":"'), &texts.trace_id, True)
    at = put(put(at, b'","protocol":"'), PROTOCOL_NAMES[record.protocol & 3])
    at = put_json(put(at, b'","route":"'), &texts.route, False)
    at = put_json(put(at, b'","method":"'), &texts.method, True)
    at = put_json(put(at, b'","host":"'), &texts.host, True)
    at = put_json(put(at, b'","path":"'), &texts.path, True)
    at = put_status(put(at, b'","status":'), record, True)
    at = put(at, b',"reset":')
    at = put(at, b"null") if reset == NULL else put_quoted(at, reset)
    at = put_number(put(at, b',"messages_in":'), record.messages_in)
    at = put_number(put(at, b',"messages_out":'), record.messages_out)
    at = put_number(put(at, b',"bytes_in":'), record.bytes_in)
    at = put_number(put(at, b',"bytes_out":'), record.bytes_out)
    at = put_seconds(put(at, b',"duration_s":'), record.duration_us)
    at = put_json(put(at, b',"client_id":"'), &texts.client_id, False)
    at = put_json(put(at, b'","peer":"'), &texts.peer, False)
    at = put(at, b'"}\n')
    return at - to


cdef size_t line_human(const Record *record, Clock *clock, uint8_t *to) noexcept nogil:
    """Words in a fixed order; what is not known is -, what may hold anything is escaped."""
    cdef Texts texts
    cdef const char *reset = reset_name(record)
    cdef uint8_t *at = put_time(to, clock, record.ended_us)
    record_texts(record, &texts)
    at = put_word(put(at, b" "), &texts.id, True)
    at = put_word(at, &texts.trace_id, True)
    at = put(put(at, PROTOCOL_NAMES[record.protocol & 3]), b" ")
    at = put_word(at, &texts.route, False)
    at = put_word(at, &texts.method, True)
    at = put_word(at, &texts.host, True)
    at = put_word(at, &texts.path, True)
    at = put(put_status(at, record, False), b" ")
    at = put(at, b"-") if reset == NULL else put(at, reset)
    at = put_number(put(at, b" messages="), record.messages_in)
    at = put_number(put(at, b"/"), record.messages_out)
    at = put_number(put(at, b" bytes="), record.bytes_in)
    at = put_number(put(at, b"/"), record.bytes_out)
    at = put_seconds(put(at, b" "), record.duration_us)
    at = put_word(put(at, b"s "), &texts.client_id, False)
    at = put_word(at, &texts.peer, False)
    (at - 1)[0] = 10                    # in place of the last space
    return at - to
