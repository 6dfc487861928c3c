from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    OUT_MIN = 480                       # smallest block; the allocator keeps such small ones at hand


cdef bint out_grow(Out *out, size_t n) noexcept nogil:
    cdef size_t cap
    cdef uint8_t *data
    if out.cap - out.len >= n:
        return True
    cap = out.len + n
    cap = max(cap, out.hint, <size_t>OUT_MIN) if out.data == NULL else max(cap, out.cap * 2)
    data = <uint8_t *>realloc(out.data, cap)
    if data == NULL:
        return False
    out.data = data
    out.cap = cap
    return True


cdef uint8_t *out_reserve(Out *out, size_t n) except NULL:
    if not out_grow(out, n):
        raise MemoryError
    return out.data + out.len


cdef int out_append(Out *out, const void *src, size_t n) except -1:
    if n:
        memcpy(out_reserve(out, n), src, n)
        out.len += n
    return 0


cdef void out_clear(Out *out) noexcept nogil:
    free(out.data)
    out.data = NULL
    out.len = out.cap = 0


cdef void out_used(Out *out) noexcept nogil:
    free(out.data)
    out_lend(out)


cdef void out_lend(Out *out) noexcept nogil:
    out.hint = max(out.len, out.hint - out.hint / 8)
    out.data = NULL
    out.len = out.cap = 0


cdef bytes out_copy(Out *out, size_t start):
    return (<char *>out.data)[start:out.len] if out.data != NULL else b""
