"""The kernels of fasttunnel._core driven from C, as the engine drives them: no Python object on the way.

A driver is made with its input and runs so many items of it, again from the start when it has come to the end. Inputs
and keys are the same in every process, so that instructions can be counted. run() returns how many items came out
right, which is all of them.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from fasttunnel._core cimport (
    GRPC_PIECE, GrpcPiece, GrpcSplitter, MSG_WS_FRAME, MSG_WS_OVERHEAD, Msg, TO_BACKEND, Table, WS_FRAME, WsFrame,
    WsParser, grpc_prefix, grpc_split, msg_bound, msg_decode, msg_encode, msg_encode_ws, tbl_find, tbl_free, tbl_init,
    tbl_put, ws_build_head, ws_mask, ws_parse, ws_parser_init,
)

DEF BATCH = 50                          # frames or messages of one input, as of one read
DEF MAX_FRAGMENT = 65536
DEF ID_BYTES = 8
DEF ROOM = 512                          # of a result, beside the payload
DEF ASKED = 1000                        # look-ups before they repeat

cdef const uint8_t *KEY = b"\x9d\x3a\x71\xc5"
cdef const uint8_t *ID = b"01234567"


def fasttunnel_bench_mark() -> None:
    """Does nothing: valgrind writes down its counts whenever this function is entered."""


cdef inline uint64_t scattered(uint64_t n) noexcept nogil:
    """A number that looks random (splitmix64), the same for the same n."""
    n += 0x9E3779B97F4A7C15ULL
    n = (n ^ n >> 30) * 0xBF58476D1CE4E5B9ULL
    n = (n ^ n >> 27) * 0x94D049BB133111EBULL
    return n ^ n >> 31


cdef class _Input:
    """BATCH items of `size` bytes of payload with `overhead` bytes at most around each, and room for one result."""
    cdef uint8_t *data
    cdef uint8_t *out
    cdef size_t size, length, each

    cdef int reserve(self, size_t size, size_t overhead) except -1:
        cdef size_t i
        self.size = size
        self.data = <uint8_t *>malloc(BATCH * (size + overhead))
        self.out = <uint8_t *>malloc(size + ROOM)
        if self.data is NULL or self.out is NULL:
            raise MemoryError
        for i in range(size):           # the payload, which the subclass takes from `out`
            self.out[i] = <uint8_t>scattered(i)
        return 0

    def __dealloc__(self):
        free(self.data)
        free(self.out)


cdef class Frames(_Input):
    """Parses masked WebSocket frames and encodes each as a TunnelMessage, unmasking it."""

    def __init__(self, size_t size):
        cdef size_t i
        self.reserve(size, 14)
        for i in range(BATCH):
            self.length += ws_build_head(self.data + self.length, True, 0, 2, size, KEY)
            ws_mask(self.data + self.length, self.out, size, KEY)
            self.length += size

    def run(self, uint64_t count) -> int:
        cdef WsParser parser
        cdef WsFrame frame
        cdef size_t at = 0, used = 0
        cdef uint64_t right = 0, i
        memset(&parser, 0, sizeof(parser))
        ws_parser_init(&parser, True, False, MAX_FRAGMENT, 0)
        for i in range(count):
            if at == self.length:
                at = 0
            if ws_parse(&parser, self.data + at, self.length - at, 1 << 40, &used, &frame) == WS_FRAME:
                right += msg_encode_ws(ID, ID_BYTES, TO_BACKEND, &frame, self.out) > self.size
            at += used
        return right


cdef class Builder(_Input):
    """Builds masked WebSocket frames from payloads."""

    def __init__(self, size_t size):
        self.reserve(size, 0)
        memcpy(self.data, self.out, size)

    def run(self, uint64_t count) -> int:
        cdef uint64_t right = 0, i
        cdef size_t head
        for i in range(count):
            head = ws_build_head(self.out, True, 0, 2, self.size, KEY)
            ws_mask(self.out + head, self.data, self.size, KEY)
            right += head > 0
        return right


cdef class GrpcMessages(_Input):
    """Splits the DATA of a stream into messages."""

    def __init__(self, size_t size):
        cdef size_t i
        self.reserve(size, 5)
        for i in range(BATCH):
            grpc_prefix(self.data + self.length, False, <unsigned int>size)
            memcpy(self.data + self.length + 5, self.out, size)
            self.length += size + 5

    def run(self, uint64_t count) -> int:
        cdef GrpcSplitter splitter
        cdef GrpcPiece piece
        cdef size_t at = 0, used = 0
        cdef uint64_t right = 0, i
        memset(&splitter, 0, sizeof(splitter))
        for i in range(count):
            if at == self.length:
                at = 0
            if grpc_split(&splitter, self.data + at, self.length - at, 1 << 40, &used, &piece) == GRPC_PIECE:
                right += piece.body_len == self.size
            at += used
        return right


cdef class TunnelMessages(_Input):
    """Decodes TunnelMessages that carry a WebSocket frame, and encodes them again with the prefix of gRPC."""

    def __init__(self, size_t size):
        cdef WsFrame frame
        self.reserve(size, MSG_WS_OVERHEAD)
        memset(&frame, 0, sizeof(frame))
        frame.payload, frame.payload_len, frame.frame_bytes = self.out, size, size
        frame.opcode, frame.fin, frame.first = 2, 1, 1
        self.length = msg_encode_ws(ID, ID_BYTES, TO_BACKEND, &frame, self.data)

    def run(self, uint64_t count) -> int:
        cdef Msg message
        cdef size_t where = 0, n
        cdef uint64_t right = 0, i
        for i in range(count):
            if msg_decode(self.data + 5, self.length - 5, &message, &where) == 0 and message.kind == MSG_WS_FRAME:
                if msg_bound(&message) <= self.size + ROOM:
                    n = msg_encode(&message, True, self.out)
                    right += n == self.length and memcmp(self.out, self.data, 5) == 0
        return right


cdef class LookUps:
    """Finds requests among `entries` in the table."""
    cdef Table table
    cdef uint64_t ids[ASKED]
    cdef void *values[ASKED]

    def __cinit__(self, uint64_t entries):
        cdef uint64_t i, id_
        memset(&self.table, 0, sizeof(self.table))
        if tbl_init(&self.table):
            raise MemoryError
        self.table.secret[0], self.table.secret[1] = 0x0706050403020100, 0x0F0E0D0C0B0A0908
        for i in range(entries):
            id_ = scattered(i)
            if tbl_put(&self.table, <const uint8_t *>&id_, ID_BYTES, <void *>(i + 1)):
                raise MemoryError
        for i in range(ASKED):
            self.ids[i], self.values[i] = scattered(i * 7919 % entries), <void *>(i * 7919 % entries + 1)

    def __dealloc__(self):
        tbl_free(&self.table)

    def run(self, uint64_t count) -> int:
        cdef uint64_t right = 0, i
        cdef size_t which = 0
        for i in range(count):
            right += tbl_find(&self.table, <const uint8_t *>&self.ids[which], ID_BYTES) == self.values[which]
            which = which + 1 if which < ASKED - 1 else 0
        return right
