"""The loop side of the data plane: one read buffer, one flush and one timer wheel per engine, and the base of all connections.

Reads: every connection of a reactor reads into the same buffer, and what feed() leaves is kept in ``Conn.rest`` and put in
front of the next read. Writes: whoever has output marks its connection dirty; at the end of the turn all of them are
flushed, each with one write. Only long payloads go out at once, from where they were read.
"""
import traceback

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fasttunnel._core cimport buf_append, buf_free
from fasttunnel.engine._out cimport out_append, out_clear
from fasttunnel import limits

cdef double CLOSE_TIMEOUT_S = 10.0
cdef enum:
    LATE_BYTES = 65536                  # of one read when the turn is used up: less would cost more reads and writes than it saves time
    READ_SLACK = 16384                  # for framing, control frames and heads beside the payload that has credit


# -- timers ----------------------------------------------------------------------------------------------------------------

cdef enum:
    SLOTS = 512
    SLOT_MS = 16                        # a timer fires up to this much late


cdef class Timer:
    def __cinit__(self, Conn owner, object stream=None):
        self.owner = owner
        self.stream = stream
        self.slot = -1


cdef class Reactor:
    def __cinit__(self, loop):
        self.read_cap = READ_BYTES + 4096
        self.read_buffer = <uint8_t *>malloc(self.read_cap)
        if self.read_buffer == NULL:
            raise MemoryError
        self.dirty = []
        self.dirty_links = []
        self.conns = set()
        self.tallies = Tallies()
        self.wheel = [None] * SLOTS
        self.wheel_ms = self.now_ms() // SLOT_MS * SLOT_MS

    def __dealloc__(self):
        free(self.read_buffer)

    # -- flushing

    cdef int mark_dirty(self, Conn conn) except -1:
        if conn.dirty:
            return 0
        conn.dirty = True
        (self.dirty_links if conn.is_link else self.dirty).append(conn)
        return self.schedule()

    cdef bint end_turn(self) except -1:
        cdef Conn conn
        cdef list batch
        self.read_now = 0
        if self.dirty:
            batch = self.dirty
            self.dirty = []
            for conn in batch:
                self._flush_one(conn)
        if self.dirty_links:
            batch = self.dirty_links
            self.dirty_links = []
            for conn in batch:
                self._flush_one(conn)
        return bool(self.dirty) or bool(self.dirty_links)

    cdef int _flush_one(self, Conn conn) except -1:
        try:
            conn.flush()
        except Exception as error:
            self.contain(conn, error)
        return 0

    cdef int contain(self, Conn conn, object error) except -1:
        """An unexpected error costs the connection on which it happened, nothing else."""
        try:
            if self.on_error is not None:
                self.on_error("".join(traceback.format_exception(error)))
            conn.abort()
        except Exception:
            traceback.print_exc()           # the last resort: a report that cannot be made must not stop the others
        return 0

    @property
    def buffered(self):
        """Bytes that its connections hold: read and not used yet, or not yet handed to the system."""
        cdef Conn conn
        cdef size_t total = 0
        for conn in self.conns:
            total += conn.held()
            total += conn.queued()
        return total

    # -- timers

    cdef int64_t now_ms(self) except? -1:
        return <int64_t>(<double>self.loop.time() * 1000.0)

    cdef int start_timer(self, Timer timer, double delay_s) except -1:
        cdef int64_t due
        cdef Timer head
        self.stop_timer(timer)
        due = self.now_ms() + <int64_t>(delay_s * 1000.0) + 1
        if self.timers == 0:
            self.wheel_ms = self.now_ms() // SLOT_MS * SLOT_MS
        timer.due_ms = due
        timer.slot = <int>(due // SLOT_MS % SLOTS)
        head = self.wheel[timer.slot]
        timer.after = head
        if head is not None:
            head.before = timer
        self.wheel[timer.slot] = timer
        self.timers += 1
        self._schedule_tick(due // SLOT_MS * SLOT_MS + SLOT_MS)
        return 0

    cdef int stop_timer(self, Timer timer) except -1:
        timer.due_ms = 0
        if timer.slot < 0:
            return 0
        if timer.before is not None:
            timer.before.after = timer.after
        else:
            self.wheel[timer.slot] = timer.after
        if timer.after is not None:
            timer.after.before = timer.before
        timer.before = timer.after = None
        timer.slot = -1
        self.timers -= 1
        return 0

    cdef int _schedule_tick(self, int64_t due_ms) except -1:
        if self.tick_handle is not None:
            if self.tick_due_ms <= due_ms:
                return 0
            self.tick_handle.cancel()
        self.tick_due_ms = due_ms
        self.tick_handle = self.loop.call_at(due_ms / 1000.0, self._tick)
        return 0

    def _tick(self):
        cdef int64_t now = self.now_ms()
        cdef int64_t slots = min(now // SLOT_MS - self.wheel_ms // SLOT_MS + 1, <int64_t>SLOTS)
        cdef int64_t i, first = self.wheel_ms // SLOT_MS
        cdef Timer timer, following
        cdef list fired = []
        self.tick_handle = None
        for i in range(slots):
            timer = self.wheel[(first + i) % SLOTS]
            while timer is not None:
                following = timer.after
                if timer.due_ms <= now:
                    self.stop_timer(timer)
                    timer.due_ms = -1       # until it is called, or stopped by one that is called before it
                    fired.append(timer)
                timer = following
        self.wheel_ms = now // SLOT_MS * SLOT_MS
        for timer in fired:
            if timer.due_ms == -1:
                timer.due_ms = 0
                try:
                    timer.owner._timed_out(timer.stream)
                except Exception as error:
                    self.contain(timer.owner, error)
        if self.timers:
            # Sleep until the next slot that holds a timer, a whole turn at most.
            first = self.wheel_ms // SLOT_MS
            for i in range(SLOTS):
                if self.wheel[(first + i) % SLOTS] is not None:
                    break
            self._schedule_tick((first + max(i, 1)) * SLOT_MS + SLOT_MS)

    def close(self):
        """No more turns and ticks; connections are closed by their engine."""
        Poller.close(self)
        if self.tick_handle is not None:
            self.tick_handle.cancel()
            self.tick_handle = None


# -- connections -----------------------------------------------------------------------------------------------------------

cdef long conns_alive = 0

def alive():
    """Conn objects that exist, open or not (see _exchange.alive)."""
    return conns_alive


cdef class Conn(Socket):
    def __cinit__(self, *args, **kwargs):
        global conns_alive
        conns_alive += 1

    def __dealloc__(self):
        global conns_alive
        conns_alive -= 1
        out_clear(&self.out)
        buf_free(&self.rest)

    # -- what subclasses override

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        raise NotImplementedError

    cdef size_t held(self) noexcept:
        return self.rest.len + self.out.len

    cdef size_t read_room(self) noexcept:
        """Little more than what may be sent on: what is read beyond the credit is copied aside and back."""
        cdef int64_t wanted
        if self.exchange is None:
            return READ_BYTES
        wanted = self.exchange.send_credit + READ_SLACK - <int64_t>self.rest.len
        return <size_t>max(min(wanted, <int64_t>READ_BYTES), <int64_t>READ_SLACK)

    cdef int fill(self) except -1:
        return 0

    cdef int written(self) except -1:
        return 0

    cdef int on_connected(self) except -1:
        return 0

    cdef int on_eof(self) except -1:
        return self.close()

    cdef int on_lost(self, object exc) except -1:
        return 0

    cdef int on_timer(self, object stream) except -1:
        return self.abort()

    # -- the socket's side

    cdef int connection_made(self) except -1:
        self.reactor.conns.add(self)
        self.reactor.links += self.is_link
        try:
            if self.closing:                # given up meanwhile
                return self.disconnect(None)
            if self.reactor.addresses is not None and self.counted is None and not self.let_in():
                return self.abort()
            self.on_connected()
        except Exception as error:
            self.reactor.contain(self, error)
        return 0

    cdef int connection_lost(self, object exc) except -1:
        if not self.attached:
            return 0
        self.attached = False
        self.reactor.conns.discard(self)
        self.reactor.links -= self.is_link
        if self.counted is not None:
            self.reactor.addresses.leave(self.counted, self.port_name())
        if not self.reactor.conns and self.reactor.on_empty is not None:
            self.reactor.on_empty()
        self._drop_timer()
        out_clear(&self.out)
        buf_free(&self.rest)
        try:
            self.on_lost(exc)
        except Exception as error:
            self.reactor.contain(self, error)
        return 0

    def contain(self, error):
        self.reactor.contain(self, error)

    cdef uint8_t *read_into(self, size_t *room) except NULL:
        cdef Reactor reactor = self.reactor
        cdef size_t kept = self.rest.len
        cdef uint8_t *grown
        room[0] = self.read_room()
        if reactor.read_now >= READ_TURN:
            room[0] = min(room[0], <size_t>LATE_BYTES)
        if kept + room[0] > reactor.read_cap:
            grown = <uint8_t *>realloc(reactor.read_buffer, kept + room[0])
            if grown == NULL:
                raise MemoryError
            reactor.read_buffer = grown
            reactor.read_cap = kept + room[0]
        if kept:
            memcpy(reactor.read_buffer, self.rest.data, kept)
        return reactor.read_buffer + kept

    cdef int took(self, size_t n) except -1:
        cdef size_t kept = self.rest.len
        cdef Reactor reactor = self.reactor
        self.rest.len = 0
        reactor.read_now += n
        if self.lingers:
            return 0
        return self.take_in(reactor.read_buffer, kept + n)

    cdef int opening_begins(self) except -1:
        if self.reactor.addresses is not None and not self.let_in():
            return self.disconnect(None)
        return self.arm(limits.HANDSHAKE_TIMEOUT_S)

    cdef int opening_over(self) except -1:
        if self.counted is not None and not self.attached:
            self.reactor.addresses.leave(self.counted, self.port_name())
            self.counted = None
        return self._drop_timer()

    cdef int on_end(self) except -1:
        return self.disconnect(None) if self.lingering else self.on_eof()

    cdef int on_writable(self) except -1:
        return self.touch()

    # -- ours

    cdef int take_in(self, const uint8_t *data, size_t n) except -1:
        """Show input to feed() and keep what it leaves. `data` must not be this connection's own rest."""
        cdef size_t pos = 0
        cdef Py_ssize_t used
        self.feeding = True
        try:
            while True:
                self.again = False
                used = self.feed(data + pos, n - pos)
                pos += <size_t>used
                if not self.again:
                    break
        except Exception as error:
            self.feeding = False
            self.reactor.contain(self, error)
            return 0
        self.feeding = False
        if pos < n and self.attached:
            if buf_append(&self.rest, data + pos, n - pos) < 0:
                raise MemoryError
        elif self.rest.data != NULL and self.rest.len == 0:
            buf_free(&self.rest)
        return 0

    cdef int refeed(self) except -1:
        cdef Buf kept
        if self.feeding:
            self.again = True
            return 0
        kept = self.rest
        self.rest.data = NULL
        self.rest.len = self.rest.cap = 0
        try:
            self.take_in(kept.data, kept.len)
        finally:
            buf_free(&kept)
        return 0

    cdef int flush(self) except -1:
        self.dirty = False
        if self.fd < 0 or self.connecting:
            if not self.connecting:
                out_clear(&self.out)
            return 0
        self._write_out()
        if not self.write_paused and not self.broken and self.fd >= 0:
            self.written()
        if self.closing and self.fd >= 0 and self.out.len == 0 and not self.dirty:      # dirty: fill() has more
            if self.lingers and not self.peer_eof and not self.broken:
                return self._linger() if self.queue_len == 0 else 0
            self.pause_reading()
            if self.queue_len == 0:
                self.end()
        return 0

    cdef int _linger(self) except -1:
        if not self.lingering:
            self.lingering = True
            self.end_writing()
            self.arm(LINGER_S)
        return 0

    cdef int _write_out(self) except -1:
        # While the socket takes nothing, output gathers in `out`.
        if self.write_paused:
            return 0
        self.flushing = True
        try:
            self.fill()
        finally:
            self.flushing = False
        if self.queue_len == 0 and self.tls == NULL:
            return self.write_out(&self.out)
        self.put(&self.out)
        return self.write()

    cdef int write_through(self, const uint8_t *payload, size_t n) except -1:
        """Send `payload` behind what is in `out`. Where it is long and the socket is free, it is written at once."""
        if n < THROUGH_BYTES or self.write_paused or self.fd < 0 or self.connecting or self.flushing:
            return out_append(&self.out, payload, n)
        self.put(&self.out)
        self.put_part(NULL, payload, n)
        return self.write()

    cdef int flush_early(self) except -1:
        # Called from the midst of somebody's send: only writes, written() and all that it may set off come later.
        if self.feeding or self.flushing:
            return 0
        self.touch()
        try:
            self._write_out()
        except Exception as error:
            self.reactor.contain(self, error)       # of this connection, not of whoever sends on it
        return 0

    cdef int hold(self) except -1:
        return self.pause_reading() if self.attached else 0

    cdef int unhold(self) except -1:
        # Once it is being closed nothing more is read.
        return self.resume_reading() if self.attached and not self.closing else 0

    cdef int touch(self) except -1:
        if not self.dirty:
            self.reactor.mark_dirty(self)
        return 0

    cdef int close(self) except -1:
        if self.connecting:
            return self.abort()
        if not self.closing and self.attached:
            self.closing = True
            self.arm(CLOSE_TIMEOUT_S)   # a peer that does not read what is left is cut off
            self.touch()
        return 0

    cdef int finish(self) except -1:
        """Close, and until the peer does so as well read what it still sends, to no avail: its next write would meet an RST,
        at which some throw away what they have not read yet (RFC 9112 9.6)."""
        if not self.closing and self.attached and not self.connecting:
            self.lingers = True
            self.rest.len = 0
            self.resume_reading()
        return self.close()

    cdef int abort(self) except -1:
        if self.connecting:
            self.closing = True
            if self.fd >= 0:
                self.disconnect(None)
        elif self.attached:
            self.closing = True
            self.disconnect(None)
        return 0

    cdef int hand_over(self, Conn successor, const uint8_t *data, size_t n) except -1:
        """The next protocol of the same socket takes over, with the bytes that are not ours any more."""
        self._drop_timer()
        self.reactor.conns.discard(self)
        successor.reactor = self.reactor
        successor.counted = self.counted
        successor.unwelcome = self.unwelcome
        self.counted = None
        successor.out = self.out
        self.out.data = NULL
        self.out.len = self.out.cap = 0
        self.reactor.conns.add(successor)
        try:
            successor.inherit(self)
            successor.on_connected()
            if successor.out.len:
                successor.touch()
            if n:
                successor.take_in(data, n)
        except Exception as error:          # it is the successor's by now
            self.reactor.contain(successor, error)
        return 0

    cdef int arm(self, double delay_s) except -1:
        if self.timer is None:
            self.timer = Timer(self)
        self.reactor.start_timer(self.timer, delay_s)
        return 0

    cdef int disarm(self) except -1:
        if self.timer is not None and not self.closing:
            self.reactor.stop_timer(self.timer)
        return 0

    cdef int _drop_timer(self) except -1:
        if self.timer is not None:
            self.reactor.stop_timer(self.timer)
            self.timer = None           # it refers to us
        return 0

    def _timed_out(self, stream):
        if self.connecting and stream is None:
            self.disconnect(TimeoutError())
        elif self.closing and stream is None:
            self.abort()
        elif self.attached:
            self.on_timer(stream)

    def leave(self):
        """The engine is stopping: close as soon as nothing is under way here. Overridden where something can be."""
        self.close()

    def wind_down(self):
        """The engine will stop soon: have the peer use another connection where it can."""

    def cut(self):
        """Close at once, whatever is under way."""
        self.abort()

    cdef bint let_in(self) except -1:
        cdef int verdict
        self.counted = self.peer_address()[0]
        verdict = self.reactor.addresses.enter(self.counted, self.port_name())
        self.unwelcome = verdict != 0
        return verdict < 2

    cdef str port_name(self):
        return "tunnel" if self.is_link else "public"

    cdef str peer_text(self):
        """Address of the peer as HOST:PORT, for logs and Forwarded headers."""
        cdef tuple peer = self.peer_address()
        if peer[1] == 0:
            return "unknown"
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
