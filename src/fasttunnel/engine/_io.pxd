"""What every connection of the data plane shares: Reactor (read buffer, flushing, timers) and Conn."""
from libc.stdint cimport int64_t, uint8_t

from fasttunnel._core cimport Buf
from fasttunnel.engine._out cimport Out
from fasttunnel.engine._socket cimport Poller, Socket
from fasttunnel.engine._tally cimport Tallies


cdef enum:
    READ_BYTES = 131072                 # one read of a socket takes at most this much
    READ_TURN = 131072                  # bulk that is read in one loop iteration, of all sockets together
    LINGER_S = 2                        # to read what a peer still sends before its connection is closed
    THROUGH_BYTES = 16384               # payload that is written from where it was read: a copy costs more than a system call


# -- timers: one wheel per reactor -------------------------------------------------------------------------------------

cdef class Timer:
    """A deadline; `on_timer` of its owner is called once when it has passed."""
    cdef Conn owner
    cdef object stream                  # what the deadline is about, when it is not the connection itself
    cdef Timer before
    cdef Timer after
    cdef int64_t due_ms                 # 0: not running
    cdef int slot


cdef class Reactor(Poller):
    """What the connections of one engine share on one event loop."""
    cdef uint8_t *read_buffer           # READ_BYTES + room in front of it for the rest of the last read
    cdef size_t read_cap
    cdef size_t read_now                # bytes read in this turn
    cdef list dirty                     # connections with something to write
    cdef list dirty_links               # the same for tunnels: flushed after the others, whose credit they carry
    cdef public object on_empty         # callable(): the last connection is gone; or None
    cdef public object on_error         # callable(text): an unexpected error, already contained
    cdef list wheel
    cdef int64_t wheel_ms               # everything before this has fired
    cdef readonly int timers            # that run
    cdef object tick_handle
    cdef int64_t tick_due_ms
    cdef public object addresses        # control.addresses.Connections that counts those which come; None: they are not
    cdef readonly set conns             # every open connection
    cdef readonly long links            # those of tunnels among them
    cdef long requests                  # under way on all of these
    cdef readonly Tallies tallies

    cdef int mark_dirty(self, Conn conn) except -1
    cdef int contain(self, Conn conn, object error) except -1
    cdef int64_t now_ms(self) except? -1
    cdef int start_timer(self, Timer timer, double delay_s) except -1
    cdef int stop_timer(self, Timer timer) except -1
    cdef int _flush_one(self, Conn conn) except -1
    cdef int _schedule_tick(self, int64_t due_ms) except -1


cdef class Conn(Socket):
    """A connection: bytes in by feed(), bytes out through `out`, one write per turn."""
    cdef Reactor reactor
    cdef Out out
    cdef Buf rest                       # input not yet used: half a frame, or bytes beyond the credit
    cdef bint dirty
    cdef bint is_link                   # flushed after the connections that feed it
    cdef bint feeding                   # feed() is on the stack
    cdef bint flushing                  # fill() is on the stack
    cdef bint again                     # refeed() was asked for while it was
    cdef bint closing                   # close() was asked for: when everything is written, the socket is closed
    cdef bint lingers                   # finish() was: what comes is dropped
    cdef bint lingering                 # our side is closed, the peer's is waited for
    cdef str counted                    # the address that it is counted under; None: it is not
    cdef bint unwelcome                 # one too many of its address
    cdef Timer timer                    # the one deadline of this connection, made on first use

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1     # returns the bytes used
    cdef size_t read_room(self) noexcept                                     # how much the next read may take
    cdef size_t held(self) noexcept                                          # bytes in buffers of ours
    cdef int fill(self) except -1                                            # last chance to add output before the write
    cdef int written(self) except -1                                         # after a write that the socket took whole
    cdef int on_connected(self) except -1
    cdef int on_eof(self) except -1                                          # the peer has ended its side
    cdef int on_lost(self, object exc) except -1
    cdef int on_timer(self, object stream) except -1

    cdef int refeed(self) except -1                                          # show the rest to feed() again
    cdef int hold(self) except -1                                            # stop reading the socket
    cdef int unhold(self) except -1
    cdef int touch(self) except -1                                           # there is something to write
    cdef int write_through(self, const uint8_t *payload, size_t n) except -1 # behind `out`, without a copy if it pays
    cdef int close(self) except -1                                           # after what is queued has been written
    cdef int finish(self) except -1                                          # the same for a peer that may still send
    cdef int abort(self) except -1
    cdef int take_in(self, const uint8_t *data, size_t n) except -1
    cdef int flush(self) except -1
    cdef int _linger(self) except -1
    cdef int _write_out(self) except -1
    cdef int flush_early(self) except -1                                     # now, though the iteration is not over
    cdef int hand_over(self, Conn successor, const uint8_t *data, size_t n) except -1
    cdef int arm(self, double delay_s) except -1
    cdef int disarm(self) except -1
    cdef int _drop_timer(self) except -1
    cdef bint let_in(self) except -1                                         # by the count of its address
    cdef str port_name(self)
    cdef str peer_text(self)
