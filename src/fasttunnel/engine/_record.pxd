"""A finished request as packed bytes: what the hot path leaves. Nothing of it is decoded before somebody reads it."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Slice


cdef struct Label:                      # bytes of the texts behind it, in this order
    uint32_t method                     # as they came, to be read as Latin-1
    uint32_t host
    uint32_t path
    uint32_t trace_id
    uint32_t parent_id
    uint32_t peer                       # UTF-8


cdef struct Record:
    int64_t ended_us                    # of CLOCK_REALTIME
    uint64_t duration_us
    uint64_t messages_in                # "in" is towards the backend
    uint64_t messages_out
    uint64_t bytes_in
    uint64_t bytes_out
    int32_t status
    int32_t reset                       # -1: none
    uint32_t size                       # of it all, texts and padding included: the next one is there
    uint32_t route                      # bytes of these two, behind the texts of the label
    uint32_t client_id
    uint8_t protocol
    uint8_t id_len
    uint8_t id[16]
    Label label                         # what is here is the bytes of label_of()


cdef struct Texts:                      # where they lie in a record
    Slice id
    Slice method
    Slice host
    Slice path
    Slice trace_id
    Slice parent_id
    Slice peer
    Slice route
    Slice client_id


cdef bytes label_of(Slice method, Slice host, Slice target, Slice trace_id, Slice parent_id, Slice peer)
cdef bytes parent_of(bytes traceparent)
cdef tuple label_texts(bytes label)     # method, host and path
# Lay it at `at`, where there is room for `head.size`, which is record_size(); `head` has all but the texts and their sizes.
cdef int record_pack(const Record *head, bytes label, bytes route, bytes client_id, uint8_t *at) except -1
cdef void record_texts(const Record *record, Texts *texts) noexcept nogil
cdef object record_read(const Record *record)               # as control.log.RequestRecord


cdef inline size_t record_size(bytes label, bytes route, bytes client_id) noexcept:
    cdef size_t n = sizeof(Record) - sizeof(Label) + len(route) + len(client_id)
    n += <size_t>len(label) if label is not None else sizeof(Label)
    return max(n, sizeof(Record)) + 7 & ~<size_t>7          # the next one is aligned


cdef inline Slice slice_of(bytes text) noexcept:
    cdef Slice found
    found.ptr = <const uint8_t *><const char *>text if text is not None else NULL
    found.len = len(text) if text is not None else 0
    return found
