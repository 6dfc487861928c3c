"""C face of the kernels: sans-I/O, no event loop, no socket, no Python object on the way.

Conventions: kernels are ``noexcept nogil`` leaf functions named by family (``buf_``, ``ws_``, ``grpc_``, ``msg_``,
``hdr_``, ``body_``, ``head_``, ``tbl_``); they return a code and write results last; a ``Slice`` borrows memory, and each struct
says until when it is valid. Lengths from a peer stay in ``uint64_t`` until they have been compared with what is left.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef struct Slice:
    const uint8_t *ptr          # NULL: absent; borrowed
    size_t len


# -- buffers ----------------------------------------------------------------------------------------------------------

cdef struct Buf:                # growable bytes; {NULL, 0, 0} is a valid empty one
    uint8_t *data               # owned
    size_t len
    size_t cap

cdef int buf_reserve(Buf *buf, size_t extra) noexcept nogil  # room for `extra` more; 0, -1: no memory or above 1 GiB
cdef int buf_append(Buf *buf, const uint8_t *src, size_t n) noexcept nogil           # 0, -1: no memory
cdef void buf_consume(Buf *buf, size_t n) noexcept nogil  # drop the first n bytes; frees when empty
cdef void buf_free(Buf *buf) noexcept nogil


# -- WebSocket (RFC 6455 5) -------------------------------------------------------------------------------------------

cdef enum WsResult:
    WS_NEED_MORE = 0            # not enough bytes for the next frame or fragment
    WS_FRAME = 1                # `out` holds a frame or a fragment of one
    WS_BLOCKED = 2              # a data frame with payload comes next and `credit` is 0
    WS_E_UNMASKED = -1          # 1002: frame from a client without mask (5.1)
    WS_E_MASKED = -2            # 1002: frame from a server with mask (5.1)
    WS_E_OPCODE = -3            # 1002: reserved opcode (5.2)
    WS_E_RSV = -4               # 1002: RSV bit without a negotiated extension (5.2)
    WS_E_CONTROL_FRAGMENTED = -5    # 1002: control frame without FIN (5.5)
    WS_E_CONTROL_LENGTH = -6    # 1002: control frame above 125 bytes (5.5)
    WS_E_CONTINUATION = -7      # 1002: continuation without a start (5.4)
    WS_E_INTERRUPTED = -8       # 1002: new data frame while a message is unfinished (5.4)
    WS_E_LENGTH = -9            # 1002: top bit set, or not the shortest form (5.2)
    WS_E_TOO_LARGE = -10        # 1009: frame or message above the configured limit
    WS_E_CLOSE = -11            # 1002: close payload of 1 byte, or a close code that may not be sent (7.4)

cdef struct WsParser:           # state between two calls; zero it, then ws_parser_init
    uint64_t remaining          # payload bytes of the current frame not yet given out
    uint64_t frame_bytes        # payload bytes of the current frame in all
    uint64_t message_bytes      # payload bytes of the current message, frames begun so far
    uint64_t max_message_bytes  # 0: no limit
    uint64_t max_fragment       # largest piece of a frame given out at once
    uint8_t key[4]              # mask of the current frame, rotated to the next byte to give out
    uint8_t opcode
    uint8_t fin
    uint8_t rsv
    uint8_t in_frame            # the header of the current frame is parsed
    uint8_t started             # a piece of the current frame has been given out
    uint8_t in_message          # a data message is open, continuation frames must follow
    uint8_t expect_masked       # 1: frames come from a client, 0: from a server
    uint8_t rsv_allowed         # an extension was negotiated

cdef struct WsFrame:            # one frame, or one fragment of it; payload is valid as long as the input of ws_parse
    const uint8_t *payload      # as on the wire: still masked when `masked`
    size_t payload_len
    uint64_t frame_bytes        # payload length of the whole frame
    uint8_t key[4]              # phase of the first payload byte
    uint8_t opcode
    uint8_t fin
    uint8_t rsv
    uint8_t masked
    uint8_t first               # first (or only) fragment of the frame
    uint8_t more                # further fragments of the frame follow

cdef void ws_parser_init(WsParser *p, bint expect_masked, bint rsv_allowed, uint64_t max_fragment,
                         uint64_t max_message_bytes) noexcept nogil
# One frame or fragment per call. A fragment is min(remaining, max_fragment, credit) bytes of a data frame, and is
# given out once it, or EARLY_BYTES of it, lies in the input; control frames cost no credit. `consumed` says how far
# the input is used, also for WS_NEED_MORE (a header alone may have been consumed); the caller keeps the rest and shows
# it again with more behind it.
cdef int ws_parse(WsParser *p, const uint8_t *data, size_t n, uint64_t credit, size_t *consumed,
                  WsFrame *out) noexcept nogil
cdef void ws_mask(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *key) noexcept nogil    # dst may be src
cdef size_t ws_build_head(uint8_t *out, bint fin, int rsv, int opcode, uint64_t payload_bytes,
                          const uint8_t *key) noexcept nogil                      # at most 14 bytes; key NULL: no mask
cdef void ws_rotate(uint8_t *key, uint64_t n) noexcept nogil                      # key for the byte n further on
cdef bint ws_close_ok(const uint8_t *payload, const uint8_t *key) noexcept nogil  # of a Close frame: two bytes at least
cdef const char *ws_error_text(int code) noexcept nogil
cdef int ws_error_close_code(int code) noexcept nogil                             # 1002 or 1009


# -- gRPC length-prefixed messages (gRPC over HTTP/2, "Length-Prefixed-Message") --------------------------------------

cdef enum GrpcResult:
    GRPC_NEED_MORE = 0
    GRPC_PIECE = 1
    GRPC_BLOCKED = 2            # payload comes next and `credit` is 0
    GRPC_E_FLAG = -1            # compressed flag above 1
    GRPC_E_TOO_LARGE = -2       # above max_message_bytes

cdef struct GrpcSplitter:       # zero it, then set the two limits
    uint64_t max_fragment       # largest piece given out at once; 0: whole messages only
    uint64_t max_message_bytes  # 0: no limit but 2^32-1
    uint64_t remaining
    uint32_t message_bytes
    uint8_t compressed
    uint8_t in_message          # the prefix is parsed
    uint8_t started

cdef struct GrpcPiece:          # one message, or one fragment; body is valid as long as the input of grpc_split
    const uint8_t *body
    size_t body_len
    uint32_t message_bytes
    uint8_t compressed
    uint8_t first
    uint8_t more

# Same rules as ws_parse: a piece is min(remaining, max_fragment, credit) bytes, given out once it, or EARLY_BYTES of
# it, lies there.
cdef int grpc_split(GrpcSplitter *s, const uint8_t *data, size_t n, uint64_t credit, size_t *consumed,
                    GrpcPiece *out) noexcept nogil
# Whether what grpc_split would give out next is the rest of a message, all of it.
cdef bint grpc_whole(const GrpcSplitter *s, const uint8_t *data, size_t n) noexcept nogil
cdef bint grpc_at_boundary(const GrpcSplitter *s) noexcept nogil                  # no message begun
cdef void grpc_prefix(uint8_t *out, bint compressed, uint32_t message_bytes) noexcept nogil    # 5 bytes


# -- TunnelMessage codec (proto/fasttunnel/v1/tunnel.proto) -----------------------------------------------------------

cdef enum MsgKind:              # field number of the oneof member
    MSG_NONE = 0
    MSG_HTTP_REQUEST = 5
    MSG_HTTP_RESPONSE = 6
    MSG_GRPC_REQUEST = 7
    MSG_GRPC_RESPONSE = 8
    MSG_WS_REQUEST = 9
    MSG_WS_RESPONSE = 10
    MSG_WS_FRAME = 11
    MSG_REGISTER = 12
    MSG_REGISTERED = 13
    MSG_HEARTBEAT = 14
    MSG_RESET = 15
    MSG_WINDOW_UPDATE = 16
    MSG_GO_AWAY = 18
    MSG_TCP_DATA = 19

cdef enum Direction:
    TO_BACKEND = 1              # CLIENT_TO_SERVER
    TO_PUBLIC = 2               # SERVER_TO_CLIENT

cdef enum Protocol:
    PROTO_HTTP = 1
    PROTO_GRPC = 2
    PROTO_WEBSOCKET = 3
    PROTO_CONTROL = 4

cdef enum HeaderTag:            # tag byte of the repeated Header field in each message (number << 3 | 2)
    TAG_HTTP_REQUEST_HEADERS = 0x22
    TAG_HTTP_REQUEST_TRAILERS = 0x4a
    TAG_HTTP_RESPONSE_HEADERS = 0x12
    TAG_HTTP_RESPONSE_TRAILERS = 0x3a
    TAG_GRPC_REQUEST_METADATA = 0x4a
    TAG_GRPC_RESPONSE_INITIAL = 0x42
    TAG_GRPC_RESPONSE_TRAILING = 0x4a
    TAG_WS_REQUEST_HEADERS = 0x1a
    TAG_WS_RESPONSE_HEADERS = 0x12

cdef struct Msg:                # one TunnelMessage, its payload flattened; slices are valid as long as the input
    # envelope
    Slice client_id
    Slice request_id
    Slice trace_id
    int32_t direction
    int32_t protocol_type
    int32_t kind                # MsgKind: which member of the oneof is set
    # http, grpc, websocket
    Slice body                  # body or payload; ptr NULL: absent (its length 0 and ptr set: present and empty)
    uint8_t first               # is_first_chunk
    uint8_t last                # is_last_chunk
    uint8_t more
    uint8_t compressed
    uint8_t fin
    uint8_t masked
    uint8_t accepted
    uint8_t informational
    uint32_t sequence
    uint32_t stream_id          # grpc_stream_id
    int32_t status              # status_code of any response
    uint32_t message_bytes      # GrpcRequest/Response.message_length
    uint64_t frame_bytes        # WebSocketFrame.payload_length
    uint32_t opcode
    uint32_t rsv
    int32_t frame_direction
    Slice method
    Slice url
    Slice host                  # host; authority for gRPC
    Slice scheme
    Slice service
    Slice subprotocol
    Slice status_message
    Slice status_details
    Slice connection_id
    # control
    uint32_t code               # Reset.code
    Slice text                  # Reset.message
    uint64_t credit             # WindowUpdate.bytes
    # encoding only: header fields already encoded by hdr_append with the tag of their place
    Slice headers
    Slice trailers
    # decoding only, for msg_headers
    const uint8_t *run          # outer bytes from the first field of the present oneof member on
    const uint8_t *end

cdef enum MsgError:             # msg_decode returns 0 or one of these
    MSG_E_TRUNCATED = -1        # a varint or a length runs past the end
    MSG_E_VARINT = -2           # longer than 10 bytes
    MSG_E_TAG = -3              # field number 0, wire type 6 or 7, stray end-group, too deep
    MSG_E_UTF8 = -4             # a string field is not UTF-8

cdef struct HeaderIter:
    const uint8_t *outer
    const uint8_t *inner
    const uint8_t *outer_end
    const uint8_t *inner_end
    uint32_t kind
    uint8_t tag

# Decode as protobuf does: fields in any order, the last one wins, a repeated sub-message merges, another member of
# the oneof replaces, unknown fields and wrong wire types are skipped. Sub-messages of rare control kinds are only
# checked to lie there and skipped. `where` gets the offset of the offending byte on error.
cdef int msg_decode(const uint8_t *data, size_t n, Msg *out, size_t *where) noexcept nogil
cdef void msg_headers(const Msg *m, uint8_t tag, HeaderIter *it) noexcept nogil       # the Header list with this tag
cdef bint msg_next_header(HeaderIter *it, Slice *name, Slice *value) noexcept nogil
# Encode exactly the bytes protobuf would, fields in order, preceded by the 5-byte gRPC prefix when `prefixed`.
cdef size_t msg_bound(const Msg *m) noexcept nogil  # bytes that msg_encode needs at most
cdef size_t msg_encode(const Msg *m, bint prefixed, uint8_t *out) noexcept nogil      # bytes written

cdef enum:
    MSG_WS_OVERHEAD = 128       # room for everything but the payload
# The hot one: prefix and WebSocketFrame, unmasking the payload while copying. `id` is the request_id, at most 16 bytes.
cdef size_t msg_encode_ws(const uint8_t *id, size_t id_len, int direction, const WsFrame *f,
                          uint8_t *out) noexcept nogil
# The same two, prefixed, but without the bytes of a body or payload that is not empty: they belong at `gap`, unmasked,
# and are counted in every length. For those that are sent from where they lie.
cdef size_t msg_encode_around(const Msg *m, uint8_t *out, size_t *gap) noexcept nogil
cdef size_t msg_encode_ws_around(const uint8_t *id, size_t id_len, int direction, const WsFrame *f, uint8_t *out,
                                 size_t *gap) noexcept nogil


# -- header fields ----------------------------------------------------------------------------------------------------

cdef int hdr_append(Buf *block, uint8_t tag, const uint8_t *name, size_t name_len, const uint8_t *value,
                    size_t value_len) noexcept nogil                                   # 0, -1: no memory
cdef void hdr_retag(Buf *block, uint8_t tag) noexcept nogil  # give all fields of a block another tag
cdef bint hdr_name_ok(const uint8_t *name, size_t n) noexcept nogil                   # token, RFC 9110 5.6.2
# field-value, RFC 9110 5.5: no CR LF NUL or other control but HTAB, no space at the ends
cdef bint hdr_value_ok(const uint8_t *value, size_t n) noexcept nogil
cdef bint hdr_target_ok(const uint8_t *target, size_t n) noexcept nogil  # visible ASCII, no fragment; not empty
cdef bint hdr_is(const uint8_t *name, size_t n, const char *lower) noexcept nogil     # equal without regard to case
cdef bint hdr_same(const uint8_t *a, size_t n, const uint8_t *b, size_t m) noexcept nogil   # the same, of two names
# A name or address with or without a port (RFC 9110 7.2), and nothing that another field could take for syntax; may be empty
cdef bint hdr_host_ok(const uint8_t *host, size_t n) noexcept nogil
# RFC 9110 7.6.1: connection, keep-alive, proxy-connection, te, transfer-encoding, upgrade
cdef bint hdr_hop_by_hop(const uint8_t *name, size_t n) noexcept nogil
# Forwarded, X-Forwarded-*, the latter with underscores too
cdef bint hdr_forwarding(const uint8_t *name, size_t n) noexcept nogil
cdef void hdr_lower(uint8_t *dst, const uint8_t *src, size_t n) noexcept nogil


# -- HTTP/1.1 bodies (RFC 9112 6, 7) ----------------------------------------------------------------------------------

cdef enum BodyMode:
    BODY_NONE = 0
    BODY_LENGTH = 1
    BODY_CHUNKED = 2
    BODY_UNTIL_CLOSE = 3

cdef enum BodyResult:
    BODY_NEED_MORE = 0
    BODY_PIECE = 1              # `piece` holds body bytes
    BODY_DONE = 2               # the body is complete; nothing behind it was consumed
    BODY_TRAILERS = 3           # chunked: the last chunk is consumed; the trailer section follows (field lines up to an
                                # empty line), which the caller parses as it parses a head
    BODY_E_CHUNK = -1           # bad chunk size, extension over the limit, missing CRLF

cdef struct BodyReader:         # zero it and set the mode (and remaining for BODY_LENGTH)
    uint64_t remaining          # of the length, or of the current chunk
    uint32_t extension_bytes    # chunk extension bytes of the whole body, bounded (16 KiB)
    uint8_t mode
    uint8_t state
    uint8_t digits              # of the chunk size being read

# `limit` bounds a piece (credit, fragment size): at 0 only framing is consumed.
cdef int body_read(BodyReader *b, const uint8_t *data, size_t n, uint64_t limit, size_t *consumed,
                   Slice *piece) noexcept nogil
# Offset behind the empty line that ends a head or trailer section (an empty line at the start ends an empty one); 0:
# not yet; -1: a bare LF, bare CR or NUL. `*scanned` remembers how far it has looked, so that input that comes byte by
# byte stays linear.
cdef Py_ssize_t head_end(const uint8_t *data, size_t n, size_t *scanned) noexcept nogil


# -- HTTP/1.1 heads (RFC 9112 2 to 6) -----------------------------------------------------------------------------------

cdef enum HeadError:
    HEAD_E_BYTES = -1           # what head_end refuses: bare CR or LF, NUL
    HEAD_E_LINE = -2            # request line or status line
    HEAD_E_TARGET = -3          # request target, its bytes or its form
    HEAD_E_OLD = -4             # HTTP/0.x
    HEAD_E_VERSION = -5         # 505
    HEAD_E_METHOD = -6          # 501
    HEAD_E_NAME = -7            # field name, or no colon behind it
    HEAD_E_VALUE = -8           # control byte in a field value
    HEAD_E_FOLD = -9            # folded line (RFC 9112 5.2)
    HEAD_E_CONNECTION = -10     # Connection names too many
    HEAD_E_LENGTH = -11
    HEAD_E_LENGTHS = -12        # Content-Length twice
    HEAD_E_CODINGS = -13        # Transfer-Encoding twice
    HEAD_E_BOTH = -14           # one and the other
    HEAD_E_CODING = -15         # the last coding is not chunked, or not the only chunked; HTTP/1.0 has none
    HEAD_E_CODING_UNKNOWN = -16     # 501: other codings below chunked
    HEAD_E_PROTOCOL = -17       # Sec-WebSocket-Protocol that is no ASCII
    HEAD_E_HOSTS = -18          # none, or more than one
    HEAD_E_HOST = -19
    HEAD_E_AUTHORITY = -20      # Host is not that of an absolute target
    HEAD_E_CONNECT = -21        # 405
    HEAD_E_MEMORY = -22

cdef enum HeadMethod:           # numbers of some methods; head_method() has the names of all
    HEAD_GET = 0
    HEAD_POST = 1
    HEAD_HEAD = 2
    HEAD_PUT = 3
    HEAD_OPTIONS = 5
    HEAD_PATCH = 6
    HEAD_CONNECT = 7
    HEAD_TRACE = 8

cdef enum:
    HEAD_METHODS = 35           # how many there are

cdef struct HttpHead:           # what a head says; slices are valid as long as the input of head_parse
    # start line
    Slice method
    Slice target                # of a request: path and query
    int method_number
    int status
    uint8_t major
    uint8_t minor
    bint http10
    bint rootless               # the target was absolute and had no path: a "/" belongs in front of `target`
    # fields
    Slice host                  # of a request: from the target if that names one, else from Host
    bint keep_alive             # the connection may be used for another message
    uint8_t body_mode           # BodyMode, but for what the method or the status make of it
    uint64_t content_length     # BODY_LENGTH
    bint upgrade                # Upgrade names websocket and Connection names Upgrade
    bint websocket              # and this is a GET: a handshake
    bint ws_extensions          # there is a Sec-WebSocket-Extensions
    uint32_t ws_protocols       # so many Sec-WebSocket-Protocol, of which
    Slice ws_protocol           # this is the first
    Slice ws_key
    Slice ws_version
    Slice ws_accept
    Slice traceparent

# Input is what head_end has found: a whole head, its empty line included. Fields that go on to the other side are added
# to `block`: not those of the connection, of framing (but Content-Length), and of the handshake if it is one. Returns 0
# or a HeadError, after which `head` and what was added mean nothing.
cdef int head_parse(const uint8_t *data, size_t n, bint is_request, uint8_t tag, HttpHead *head, Buf *block) noexcept nogil
# The same for the trailer section behind a chunked body (7.1.2).
cdef int head_parse_trailers(const uint8_t *data, size_t n, uint8_t tag, Buf *block) noexcept nogil
# The field line at `pos`, which moves on. 1: name and value; 0: it was the empty line; or a HeadError.
cdef int head_field(const uint8_t *data, size_t n, size_t *pos, Slice *name, Slice *value) noexcept nogil
cdef Slice head_method(int number) noexcept nogil
cdef int head_method_number(const uint8_t *name, size_t n) noexcept nogil       # -1: not known
cdef const char *head_error_text(int code) noexcept nogil
cdef int head_error_status(int code) noexcept nogil      # what a client is answered


# -- request table ----------------------------------------------------------------------------------------------------

cdef struct TableEntry:
    uint64_t key[2]             # request_id, padded with zeros
    void *value                 # NULL: free
    uint64_t key_len

cdef struct Table:              # zero it, then tbl_init
    TableEntry *entries
    size_t capacity             # power of two
    size_t count
    uint64_t secret[2]          # SipHash key of this process

cdef int tbl_init(Table *t) noexcept nogil                                            # 0, -1: no memory
cdef void tbl_free(Table *t) noexcept nogil
cdef void *tbl_find(const Table *t, const uint8_t *id, size_t n) noexcept nogil  # NULL: unknown, or n is 0 or above 16
# 0; 1: replaced nothing, id exists; -1: no memory or bad id
cdef int tbl_put(Table *t, const uint8_t *id, size_t n, void *value) noexcept nogil
cdef void *tbl_pop(Table *t, const uint8_t *id, size_t n) noexcept nogil
