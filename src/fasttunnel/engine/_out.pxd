"""Output: memory that grows until it is given to a socket."""
from libc.stdint cimport uint8_t


cdef struct Out:
    uint8_t *data                       # owned, by malloc; NULL: empty
    size_t len
    size_t cap
    size_t hint                         # what the last batches needed: the size of the next block

cdef bint out_grow(Out *out, size_t n) noexcept nogil            # room for n more; False: there is no memory
cdef uint8_t *out_reserve(Out *out, size_t n) except NULL        # the same; write there, then add to out.len
cdef int out_append(Out *out, const void *src, size_t n) except -1
cdef void out_clear(Out *out) noexcept nogil
cdef void out_used(Out *out) noexcept nogil                      # what it held has gone: the same, and it remembers its size
cdef void out_lend(Out *out) noexcept nogil                      # its memory has a new owner: it is empty, and remembers its size
cdef bytes out_copy(Out *out, size_t start)                      # what was written from `start` on
