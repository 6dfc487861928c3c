"""Requests that have ended are appended to memory, in C; whoever reads them does so later, and elsewhere if it takes long."""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fasttunnel._core cimport TO_BACKEND
from fasttunnel.engine._lines cimport Clock, line_bound, line_human, line_json
from fasttunnel.engine._out cimport out_clear, out_lend, out_reserve
from fasttunnel.engine._record cimport Label, label_of, record_pack, record_read, record_size, slice_of
from fasttunnel.engine._tally cimport RouteTally, monotonic_s

from fasttunnel import limits

cdef extern from "Python.h":
    PyObject *PyBytes_FromStringAndSize(const char *text, Py_ssize_t n) except NULL
    char *PyBytes_AS_STRING(PyObject *made)
    int _PyBytes_Resize(PyObject **made, Py_ssize_t n) except -1

cdef enum:
    HALF = 65536                        # bytes, of the last ones
    LINES = 524288                      # bytes that are handed out at once: few calls, and a cache holds them

cdef double LOOK_S = 0.1
cdef size_t WAITING = limits.ACCESS_LOG_BYTES


cdef class Batch:
    def __dealloc__(self):
        out_clear(&self.packed)

    def __len__(self):
        """Records that are no lines yet."""
        return self.left

    @property
    def size(self):
        """Bytes of memory."""
        return self.packed.len

    def lines(self, bint json):
        """The next lines, up to half a MiB of them; empty: that was all. Made without the GIL."""
        cdef size_t room, n = 0
        cdef PyObject *made
        cdef uint8_t *to
        cdef Clock clock
        cdef Record *record
        if self.left == 0:
            return b""
        room = max(<size_t>LINES, line_bound(<Record *>(self.packed.data + self.at)))
        made = PyBytes_FromStringAndSize(NULL, room)
        to = <uint8_t *>PyBytes_AS_STRING(made)
        clock.second = -1
        with nogil:
            while self.left:
                record = <Record *>(self.packed.data + self.at)
                if room - n < line_bound(record):
                    break
                n += line_json(record, &clock, to + n) if json else line_human(record, &clock, to + n)
                self.at += record.size
                self.left -= 1
        _PyBytes_Resize(&made, n)           # nobody else has it yet
        found = <object>made
        Py_DECREF(found)
        return found

    def records(self):
        """The rest, as RequestRecords with the time of each end."""
        cdef list found = read_all(&self.packed, self.at)
        self.at, self.left = self.packed.len, 0
        return found


cdef size_t passed(Out *packed, Py_ssize_t n) noexcept:
    """Where the record behind the first n is."""
    cdef size_t at = 0
    while n > 0 and at < packed.len:
        at += (<Record *>(packed.data + at)).size
        n -= 1
    return at


cdef list read_all(Out *packed, size_t at):
    cdef list found = []
    cdef Record *record
    while at < packed.len:
        record = <Record *>(packed.data + at)
        found.append((record.ended_us / 1e6, record_read(record)))
        at += record.size
    return found


cdef class Journal:
    def __init__(self, ready, tell, Py_ssize_t keeps, spans=None):
        self.ready = ready
        self.tell = tell
        self.keeps = keeps
        self.spans = spans
        self.looked_s = -LOOK_S

    def __dealloc__(self):
        out_clear(&self.waiting)
        out_clear(&self.fresh)
        out_clear(&self.full)
        out_clear(&self.one)

    def take(self):
        """What has come for the access log since the last time, as a Batch."""
        cdef Batch batch = Batch.__new__(Batch)
        batch.packed = self.waiting
        batch.left = self.count
        batch.lost = self.lost
        out_lend(&self.waiting)
        self.count = self.lost = 0
        return batch

    def last(self, Py_ssize_t n):
        """The last n requests, if so many are kept, the newest last: when each has ended, and its record."""
        cdef Py_ssize_t skipped = max(self.full_count + self.fresh_count - min(n, self.keeps), 0)
        cdef list found = []
        if skipped < self.full_count:
            found = read_all(&self.full, passed(&self.full, skipped))
        return found + read_all(&self.fresh, passed(&self.fresh, max(skipped - self.full_count, 0)))

    def enter(self, bytes request_id not None, int protocol, int status, int reset, tuple texts, bytes route not None,
              bytes client_id not None, tuple counts, uint64_t duration_us):
        """A record of one's own, for tests: `texts` are method, host, target, trace_id and peer."""
        cdef Record head
        head.protocol = <uint8_t>protocol
        head.status = status
        head.reset = reset
        head.duration_us = duration_us
        head.messages_in, head.messages_out, head.bytes_in, head.bytes_out = counts
        head.id_len = <uint8_t>min(len(request_id), 16)
        memcpy(head.id, <const char *>request_id, head.id_len)
        self.add(&head, label_of(slice_of(texts[0]), slice_of(texts[1]), slice_of(texts[2]), slice_of(texts[3]),
                                 slice_of(None), slice_of(texts[4])), route, client_id, monotonic_s())

    cdef int ended(self, Exchange exchange, bytes client_id, double now_s) except -1:
        cdef Record head
        cdef bint up = exchange.direction == TO_BACKEND
        head.protocol = exchange.protocol
        head.status = exchange.status
        head.reset = exchange.reset_code
        head.duration_us = <uint64_t>(max(now_s - exchange.started_s, 0.0) * 1e6 + 0.5)
        head.messages_in = exchange.messages_sent if up else exchange.messages_received
        head.messages_out = exchange.messages_received if up else exchange.messages_sent
        head.bytes_in = exchange.bytes_sent if up else exchange.bytes_received
        head.bytes_out = exchange.bytes_received if up else exchange.bytes_sent
        head.id_len = exchange.id_len
        memcpy(head.id, exchange.id, 16)
        return self.add(&head, exchange.label, (<RouteTally>exchange.tally).text if exchange.tally is not None else b"",
                        client_id, now_s)

    cdef int refused(self, const uint8_t *request_id, size_t id_len, int protocol, int status, bytes label) except -1:
        """A request that went into no tunnel."""
        cdef Record head
        memset(&head, 0, sizeof(head))
        head.protocol = <uint8_t>protocol
        head.status = status
        head.reset = -1
        head.id_len = <uint8_t>id_len
        memcpy(head.id, request_id, head.id_len)
        return self.add(&head, label, b"", b"", monotonic_s())

    cdef int64_t time_us(self, double now_s) noexcept:
        """What the clock of the day says. It is looked at now and then: to do so costs as much as all else of a record."""
        cdef timespec now
        if now_s - self.looked_s > LOOK_S:
            clock_gettime(CLOCK_REALTIME, &now)
            self.looked_s = monotonic_s()
            self.ahead_s = <double>now.tv_sec + <double>now.tv_nsec * 1e-9 - self.looked_s
        return <int64_t>((now_s + self.ahead_s) * 1e6)

    cdef int add(self, Record *head, bytes label, bytes route, bytes client_id, double now_s) except -1:
        cdef size_t size = record_size(label, route, client_id)
        head.size = <uint32_t>size
        head.ended_us = self.time_us(now_s)
        if self.keeps:
            if self.fresh.len + size > HALF and self.fresh_count >= self.keeps:
                self.full, self.fresh = self.fresh, self.full
                self.full_count = self.fresh_count
                self.fresh.len = 0
                self.fresh_count = 0
            record_pack(head, label, route, client_id, out_reserve(&self.fresh, size))
            self.fresh.len += size
            self.fresh_count += 1
        if self.tell is not None:
            self.tell(self.read(head, label, route, client_id, size))
        if self.spans is not None and label is not None and (<const Label *><const char *>label).parent_id:
            self.spans(self.read(head, label, route, client_id, size))
        if self.ready is not None:
            if self.waiting.len + size > WAITING:
                self.lost += 1
                return 0
            record_pack(head, label, route, client_id, out_reserve(&self.waiting, size))
            self.waiting.len += size
            self.count += 1
            if self.count == 1:
                self.ready(self)
        return 0

    cdef object read(self, const Record *head, bytes label, bytes route, bytes client_id, size_t size):
        self.one.len = 0
        record_pack(head, label, route, client_id, out_reserve(&self.one, size))
        return record_read(<Record *>self.one.data)

    @property
    def traces(self):
        """Whether it is to know the span that asked."""
        return self.spans is not None


def journal_of(events):
    """Of the events of an engine; None where nobody wants records: it then makes none."""
    ready = events.access.ready if events.access is not None else None
    if ready is None and events.request_done is None and events.spans is None and not events.keeps_last:
        return None
    return Journal(ready, events.request_done, events.keeps_last, events.spans)
