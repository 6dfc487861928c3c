"""HTTP/1.1 messages (RFC 9112): heads and bodies are read by the kernels, and written here."""
from libc.stdint cimport uint8_t, uint64_t

from fasttunnel._core cimport Buf, BodyReader, Msg, Slice
from fasttunnel.engine._io cimport Conn
from fasttunnel.engine._out cimport Out


cdef class Head:
    """One parsed head and what follows from it. Reused for the messages of one connection, one after the other."""
    cdef bint is_request
    cdef size_t scanned                 # how far the empty line has been looked for
    # what it says
    cdef bytes method
    cdef bytes target                   # path and query
    cdef bytes host
    cdef int status
    cdef bint http10
    cdef bint keep_alive
    cdef uint8_t body_mode              # BodyMode
    cdef uint64_t content_length
    cdef bint websocket                 # a request for an upgrade to WebSocket
    cdef bint upgrade                   # Upgrade names websocket and Connection names Upgrade
    cdef bytes ws_key
    cdef bytes ws_version
    cdef bytes ws_accept
    cdef bytes ws_protocol              # all Sec-WebSocket-Protocol values, joined
    cdef bint ws_extensions
    cdef bytes traceparent              # None: the request is not traced
    cdef Buf block                      # end-to-end fields, encoded for a TunnelMessage with the tag given to parse()

    # Take one head from the front of data. Returns its length, 0: incomplete; raises BadMessage.
    cdef Py_ssize_t parse(self, const uint8_t *data, size_t n, size_t limit, uint8_t tag) except -1
    cdef int start_body(self, BodyReader *reader) except -1
    cdef list forwarding(self, const uint8_t *data, size_t n)     # fields of that head that parse() has dropped
    cdef bytes joined_protocols(self, const uint8_t *data, size_t n)

cdef Py_ssize_t parse_trailers(const uint8_t *data, size_t n, size_t limit, uint8_t tag, Buf *block) except -1
cdef bytes websocket_accept(bytes key)


cdef struct BodyWriter:                 # what is still owed of the body being written
    uint8_t mode                        # BodyMode
    uint64_t remaining                  # BODY_LENGTH

# Each returns 0, or 1 when the message may not be written (injection, wrong length): the peer is at fault.
cdef int write_fields(Out *out, const Msg *m, uint8_t tag, bint *has_length, uint64_t *length) except -1
cdef int write_body(Conn conn, BodyWriter *writer, const uint8_t *data, size_t n) except -1
cdef int write_body_end(Out *out, BodyWriter *writer, const Msg *m, uint8_t trailer_tag) except -1
cdef int write_text(Out *out, const char *text) except -1
cdef int write_bytes(Out *out, bytes text) except -1
cdef int write_number(Out *out, uint64_t number) except -1
cdef int write_status_line(Out *out, int status) except -1
cdef bint has_fields(const Msg *m, uint8_t tag) noexcept                         # any at all
cdef bint has_field(const Msg *m, uint8_t tag, const char *lower) noexcept
