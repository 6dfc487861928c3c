"""Lines of the access log, made of records without a Python object: they are written by a thread beside the event loop."""
from libc.stdint cimport int64_t, uint8_t

from fasttunnel.engine._record cimport Record


cdef struct Clock:                      # the second that was written last: the next line has mostly the same
    int64_t second
    uint8_t text[20]                    # 2026-11-25T12:00:00.


cdef size_t line_bound(const Record *record) noexcept nogil                 # more than its line can have, of either kind
cdef size_t line_json(const Record *record, Clock *clock, uint8_t *to) noexcept nogil
cdef size_t line_human(const Record *record, Clock *clock, uint8_t *to) noexcept nogil
