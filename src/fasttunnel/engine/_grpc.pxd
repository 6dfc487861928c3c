"""Odds of the gRPC over HTTP/2 protocol that are no framing: content types, time-outs, status messages, statuses for HTTP errors."""
from libc.stdint cimport uint8_t

cdef bint is_grpc_type(const uint8_t *content_type, size_t n) noexcept
cdef int small_number(const uint8_t *text, size_t n) noexcept            # of at most 9 digits; -1: it is none
cdef bytes status_text(int status)                                       # grpc-status
cdef double decode_timeout(const uint8_t *value, size_t n) noexcept     # seconds; -1: malformed
cdef bytes encode_message(bytes text)                                    # grpc-message, percent-encoded
cdef bytes decode_message(bytes text)                                    # UTF-8; what is not is replaced
cdef int status_for_http(int http_status) noexcept
