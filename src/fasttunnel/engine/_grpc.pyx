"""gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md), beside the framing of messages."""
import re
from urllib.parse import unquote_to_bytes

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

_PLAIN = re.compile(rb"[\x20-\x24\x26-\x7e]*").fullmatch


cdef bint is_grpc_type(const uint8_t *content_type, size_t n) noexcept:
    """application/grpc-web is another protocol."""
    if n < 16 or memcmp(content_type, <const char *>b"application/grpc", 16) != 0:
        return False
    return n == 16 or content_type[16] == c"+" or content_type[16] == c";"


cdef int small_number(const uint8_t *text, size_t n) noexcept:
    """A number of at most 9 digits; -1: it is none."""
    cdef int number = 0
    cdef size_t i
    if n == 0 or n > 9:
        return -1
    for i in range(n):
        if not 48 <= text[i] <= 57:
            return -1
        number = number * 10 + (text[i] - 48)
    return number


cdef double decode_timeout(const uint8_t *value, size_t n) noexcept:
    """Timeout: at most 8 digits and a unit. Returns seconds, at least a millisecond; -1: malformed."""
    cdef double seconds
    cdef uint64_t number = 0
    cdef size_t i
    if n < 2 or n > 9:
        return -1.0
    for i in range(n - 1):
        if not 48 <= value[i] <= 57:
            return -1.0
        number = number * 10 + (value[i] - 48)
    if value[n - 1] == b"H":
        seconds = number * 3600.0
    elif value[n - 1] == b"M":
        seconds = number * 60.0
    elif value[n - 1] == b"S":
        seconds = <double>number
    elif value[n - 1] == b"m":
        seconds = number / 1e3
    elif value[n - 1] == b"u":
        seconds = number / 1e6
    elif value[n - 1] == b"n":
        seconds = number / 1e9
    else:
        return -1.0
    return max(seconds, 0.001)


cdef list NUMBERS = [b"%d" % status for status in range(17)]

cdef bytes status_text(int status):
    """grpc-status; what is none of the 17 becomes UNKNOWN."""
    return NUMBERS[status if 0 <= status <= 16 else 2]


cdef bytes encode_message(bytes text):
    if not text or _PLAIN(text):
        return text
    return b"".join([bytes((c,)) if 32 <= c < 127 and c != 37 else b"%%%02X" % c for c in text])


cdef bytes decode_message(bytes text):
    text = unquote_to_bytes(text) if b"%" in text else text
    return text.decode("utf-8", "replace").encode()


cdef int status_for_http(int http_status) noexcept:
    """For an answer without grpc-status (grpc/doc/http-grpc-status-mapping.md)."""
    if http_status == 400:
        return 13
    if http_status == 401:
        return 16
    if http_status == 403:
        return 7
    if http_status == 404:
        return 12
    if http_status == 429 or 502 <= http_status <= 504:
        return 14
    return 2
