"""Sockets of the data plane, by themselves: an edge-triggered epoll under the event loop, and no transports.

What a transport of asyncio does per read and per write costs more than parsing a frame; here it is a C call. The event
loop watches one descriptor, the epoll's, and calls the Poller once for all sockets that are ready.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fasttunnel.engine._exchange cimport Endpoint
from fasttunnel.engine._out cimport Out
from fasttunnel.engine._system cimport epoll_event, sockaddr, sockaddr_storage, socklen_t
from fasttunnel.engine._tls cimport Tls, TlsContext


cdef struct Chunk:                      # of a socket's queue
    uint8_t *block                      # owned, by malloc; NULL: borrowed until the write returns
    const uint8_t *data                 # what is left of it
    size_t len


cdef class Poller:
    cdef readonly object loop
    cdef int epoll                      # -1: there is none, the loop watches each socket
    cdef epoll_event *events
    cdef bint turning                   # _deliver() is on the stack
    cdef bint scheduled                 # the loop will call _short_turn()
    cdef readonly uint64_t reads        # system calls made for its sockets
    cdef readonly uint64_t writes
    cdef readonly uint64_t handshakes_failed    # of TLS, of accepted sockets
    cdef public object on_trouble       # callable(text): something that the operator should know; or None
    cdef list ready                     # sockets that may have more to read, though no event will say so
    cdef list gone                      # sockets whose connection_lost() or connect_failed() is due
    cdef readonly set opening           # sockets that are being connected, or shake hands
    cdef PyObject **slots               # the Socket of each descriptor in the epoll, owned; NULL: none
    cdef int slot_count
    cdef uint32_t stamp                 # of the socket that was put in last

    cdef int schedule(self) except -1
    cdef bint end_turn(self) except -1  # everything that is ready has been read: flush; True: there is more to do
    cdef int _deliver(self, int n) except -1
    cdef int hold_slot(self, int fd, Socket sock) except -1              # its events go to this one; None: to nobody


cdef class Socket(Endpoint):
    """A descriptor with what waits to be written to it. The life of one: dial() or adopt(), connection_made(), and, however
    it ends, connection_lost() once, never from within a call of its owner."""
    cdef Poller poller                  # None until it is known where it runs
    cdef int fd                         # -1: not open
    cdef uint32_t stamp                 # tells its events from those of an earlier socket with its descriptor
    cdef readonly bint attached         # from connection_made() until connection_lost()
    cdef bint connecting                # and the TLS handshake: output is kept until the connection stands
    cdef bint readable                  # there may be something to read: a read has not come back short since the last event
    cdef bint listed                    # in the poller's list of those
    cdef bint unsure                    # a short read does not say that all is read: the peer has ended its side, or sent urgent data
    cdef bint peer_eof                  # all has been read
    cdef bint broken                    # writing has failed: what came before is read, then it is lost
    cdef bint reading_paused
    cdef bint write_paused              # the socket has not taken all it was given
    cdef bint watching_out              # epoll tells when it takes more
    cdef Chunk *queue                   # given to the socket, not yet taken by it
    cdef int queue_len
    cdef int queue_cap
    cdef object error                   # why it was lost; what connection_lost() is told
    cdef TlsContext tls_context         # None: no TLS. Set before the socket is opened
    cdef str tls_name                   # of a dialled one: whom its certificate has to name
    cdef Tls *tls                       # NULL: no TLS, or not yet

    # What the owner overrides.
    cdef int connection_made(self) except -1
    cdef int connection_lost(self, object error) except -1           # None: it was closed by us
    cdef uint8_t *read_into(self, size_t *room) except NULL
    cdef int took(self, size_t n) except -1                          # n bytes were read there
    cdef int opening_begins(self) except -1                          # of an accepted one: its handshake
    cdef int opening_over(self) except -1                            # it stands or has failed: what is told next
    cdef int on_end(self) except -1                                  # the peer has ended its side
    cdef int on_broken_off(self) except -1                           # by the peer, while reading is paused
    cdef int on_writable(self) except -1                             # all that was given has been taken, or a dialled one stands

    cdef int adopt(self, int fd) except -1                           # a connected socket, ours from now on
    cdef int dial(self, const sockaddr *address, socklen_t n) except -1
    cdef int inherit(self, Socket former) except -1
    cdef int read(self) except -1
    cdef int read_soon(self) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef size_t queued(self) noexcept
    cdef int write_out(self, Out *out) except -1                     # all of it; what the socket does not take is queued
    cdef int put(self, Out *out, size_t start=*) except -1           # queue all of it, from `start`; it is empty afterwards
    cdef int put_part(self, uint8_t *block, const uint8_t *data, size_t n) except -1     # a Chunk, or with TLS records of it
    cdef int write(self) except -1                                   # what is queued, as far as the socket takes it
    cdef int end_writing(self) except -1                             # a FIN
    cdef int end(self) except -1                                     # in order: all that was to be sent has been taken
    cdef int set_option(self, int level, int name, int value) except -1
    cdef int reset_on_close(self) except -1                          # closing it is to be an RST
    cdef int disconnect(self, object error) except -1                # close the descriptor now; connection_lost() follows
    cdef tuple peer_address(self)                                    # (host, port), ("unknown", 0) where there is none

    cdef int _events(self, uint32_t events) except -1
    cdef int _watch(self, int operation, uint32_t more) except -1
    cdef int _watch_by_loop(self) except -1
    cdef int _finish_dialling(self) except -1
    cdef int _shake_hands(self) except -1
    cdef int _stands(self) except -1
    cdef ssize_t _receive(self, uint8_t *place, size_t room) except -3
    cdef int _queue_chunk(self, uint8_t *block, const uint8_t *data, size_t n) except -1
    cdef int _queue_records(self) except -1
    cdef bint _keep_borrowed(self) noexcept
    cdef int _write_failed(self, object error) except -1
    cdef int _say_goodbye(self) except -1
    cdef int _drop_queue(self) noexcept


cdef socklen_t literal_address(str host, int port, sockaddr_storage *out) except? 0    # 0: it is a name
