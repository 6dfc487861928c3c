"""The event loop: sockets that are ready, one write per event, latencies in a histogram."""
import socket
import sys

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport off_t
from posix.unistd cimport close, read

cdef extern from "<sys/types.h>":
    ctypedef long ssize_t

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t n, int flags)
    int MSG_NOSIGNAL

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD

DEF READ_BYTES = 1 << 18
DEF EVENTS = 512
DEF STEPS = 251                         # windows of the pattern
DEF PATTERN_BYTES = (1 << 22) + STEPS   # the largest payload, and room for the window to move
DEF BUCKETS = 64 * 32
DEF CYCLE = 1 << 22                     # bulk repeats so much of the pattern
DEF POUR_BYTES = 1 << 16                # that a peer writes at once
DEF POUR_TURN = 1 << 18                 # that it writes before others have a turn

cdef uint8_t PATTERN[PATTERN_BYTES]


cdef void fill_pattern() noexcept nogil:
    cdef uint32_t x = 2463534242
    cdef size_t i
    for i in range(PATTERN_BYTES):
        x ^= x << 13
        x ^= x >> 17
        x ^= x << 5
        PATTERN[i] = <uint8_t>(x >> 11)

fill_pattern()


cdef inline const uint8_t *window(uint64_t number) noexcept nogil:
    return PATTERN + number * 37 % STEPS


cdef bint is_bulk(const uint8_t *data, size_t n, uint64_t at) noexcept nogil:
    """Whether the data is what bulk holds from byte `at` on."""
    cdef size_t take
    while n:
        take = min(n, CYCLE - at % CYCLE)
        if memcmp(data, PATTERN + at % CYCLE, take):
            return False
        data, n, at = data + take, n - take, at + take
    return True


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec


cdef class Histogram:
    """Times in buckets of 3 %: 32 to every power of two."""
    cdef uint64_t counts[BUCKETS]
    cdef public uint64_t total

    cdef inline void add(self, int64_t ns) noexcept:
        cdef int power = 0
        cdef uint64_t value = <uint64_t>ns if ns > 0 else 1
        while value >= 64:
            value >>= 1
            power += 1
        self.counts[power * 32 + <int>value] += 1
        self.total += 1

    def clear(self):
        memset(self.counts, 0, sizeof(self.counts))
        self.total = 0

    def quantile(self, double q) -> float:
        """Microseconds below which the share `q` of all times lies; 0 when there are none."""
        cdef uint64_t seen = 0, limit = <uint64_t>(q * self.total)
        cdef int i, power
        for i in range(BUCKETS):
            seen += self.counts[i]
            if seen > limit:
                if i < 64:
                    return i / 1000
                power = i // 32 - 1
                return <double>(<uint64_t>(32 + i % 32) << power) / 1000
        return 0.0


cdef class Loop:
    """Sockets and what to do when they are ready. Ends by itself after the time given to run()."""
    cdef int epfd
    cdef uint8_t *room                  # what is read, before anybody has looked at it
    cdef set peers
    cdef readonly Histogram times
    cdef public uint64_t answered       # messages (or requests, calls, set-ups) that came back right
    cdef public uint64_t opened         # connections ready for traffic
    cdef public uint64_t ended          # connections that closed, or were never made
    cdef public object error            # the first thing that was wrong
    cdef public bint serving            # a backend's: what is wrong with one connection must not cost the others theirs
    cdef public object hand_over        # called with socket and request when bulk is asked for, to serve it elsewhere
    cdef int64_t now                    # when the events under way came
    cdef bint keep_going

    def __cinit__(self):
        self.epfd = epoll_create1(0)
        self.room = <uint8_t *>malloc(READ_BYTES)
        if self.epfd < 0 or self.room is NULL:
            raise MemoryError
        self.peers = set()
        self.times = Histogram()

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)
        free(self.room)

    cdef int watch(self, Peer peer, uint32_t events, int op) except -1:
        cdef epoll_event event
        event.events = events
        event.data.ptr = <void *>peer
        if epoll_ctl(self.epfd, op, peer.fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    def run(self, double seconds, uint64_t opened=0, uint64_t answered=0) -> float:
        """Serve until the time is over, or until so many connections are open or messages answered in all (when given).

        Returns the seconds that passed. Raises what was wrong first.
        """
        cdef epoll_event events[EVENTS]
        cdef int64_t start = now_ns(), end = start + <int64_t>(seconds * 1e9)
        cdef int i, n, left
        cdef Peer peer
        self.now = start
        while self.error is None:
            PyErr_CheckSignals()                # Ctrl-C: no Python is run here that would look
            left = <int>((end - self.now + 999_999) // 1_000_000)
            if left <= 0 or (opened and self.opened >= opened) or (answered and self.answered >= answered):
                break
            with nogil:
                n = epoll_wait(self.epfd, events, EVENTS, left)
            self.now = now_ns()
            if n < 0:
                if errno != EINTR:
                    raise OSError(errno, "epoll_wait")
                continue
            for i in range(n):
                peer = <Peer>events[i].data.ptr     # held: it may end here
                if self.serving:
                    self.serve(peer, events[i].events)
                else:
                    peer.on_event(events[i].events)
        if self.error is not None:
            raise self.error
        return (self.now - start) / 1e9

    cdef int serve(self, Peer peer, uint32_t events) except -1:
        try:
            peer.on_event(events)
        except Exception as error:      # what a client sends may make no sense at all
            if isinstance(peer, Listener):
                raise
            peer.wrong(repr(error))
        return 0

    cdef int wrong(self, str what) except -1:
        if self.error is None:
            self.error = RuntimeError(what)
        return 0

    def close(self):
        for peer in list(self.peers):
            (<Peer>peer).end()


cdef class Peer:
    """One socket. Input is consumed by on_data; output is collected and written once per event."""
    cdef Loop loop
    cdef object sock                    # owns the descriptor
    cdef int fd
    cdef uint8_t *rest                  # input that on_data could not use yet
    cdef size_t rest_len
    cdef uint8_t *out
    cdef size_t out_pos, out_len, out_cap
    cdef uint64_t bulk, poured          # bytes that are to be poured, and those that have been given to `out`
    cdef bint connecting, waiting, ended

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        free(self.rest)
        free(self.out)

    cdef int on_ready(self) except -1:                              # connected
        return 0

    cdef ssize_t on_data(self, const uint8_t *data, size_t n) except -1:     # how much of it is used up
        raise NotImplementedError

    cdef int on_written(self) except -1:                            # all of `out` has gone
        return self.pour() if self.bulk else 0

    cdef int on_end(self) except -1:                                # the connection is gone, not by end()
        return 0

    cdef int begin(self, Loop loop, object sock, bint connecting) except -1:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop, self.sock, self.fd, self.connecting = loop, sock, sock.fileno(), connecting
        loop.peers.add(self)
        return loop.watch(self, EPOLLIN | (EPOLLOUT if connecting else 0), EPOLL_CTL_ADD)

    cdef int end(self) except -1:
        if not self.ended:
            self.ended = True
            if self.loop.hand_over is not None:     # processes that were forked may hold it open, so that epoll would
                epoll_ctl(self.loop.epfd, EPOLL_CTL_DEL, self.fd, NULL)
            self.fd = -1
            self.sock.close()
            self.loop.peers.discard(self)
        return 0

    cdef int lost(self, str why) except -1:
        if not self.ended:
            self.loop.ended += 1
            self.end()
            self.on_end()
        return 0

    cdef int wrong(self, str what) except -1:
        """The other side did what it may not: the end of a load, but of nothing more than this connection to a backend."""
        if not self.loop.serving:
            return self.loop.wrong(what)
        if self.ended:
            return 0
        print(f"backend: {what}", file=sys.stderr, flush=True)
        return self.lost(what)

    cdef uint8_t *grow(self, size_t n) except NULL:
        """Room for n more bytes of output; the caller adds what it wrote to `out_len`."""
        cdef uint8_t *bigger
        cdef size_t cap
        if self.out_pos == self.out_len:
            self.out_pos = self.out_len = 0
        if self.out_len + n > self.out_cap:
            cap = max(self.out_cap * 2, self.out_len + n, 512)
            bigger = <uint8_t *>realloc(self.out, cap)
            if bigger is NULL:
                raise MemoryError
            self.out, self.out_cap = bigger, cap
        return self.out + self.out_len

    cdef int put(self, const uint8_t *data, size_t n) except -1:
        memcpy(self.grow(n), data, n)
        self.out_len += n
        return 0

    cdef int pour(self) except -1:
        """The next piece of bulk, of which there may be no end: others have a turn in between."""
        cdef size_t n = min(min(self.bulk - self.poured, POUR_BYTES), CYCLE - self.poured % CYCLE)
        if n == 0:
            self.bulk = self.poured = 0
            return 0
        self.put(PATTERN + self.poured % CYCLE, n)
        self.poured += n
        if self.poured % POUR_TURN == 0:
            self.waiting = True         # epoll says at once that the socket can be written
            return self.loop.watch(self, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD)
        return 0

    cdef int flush(self) except -1:
        cdef ssize_t sent
        if self.waiting or self.ended or self.connecting:
            return 0
        while self.out_pos < self.out_len and not self.waiting:
            sent = send(self.fd, self.out + self.out_pos, self.out_len - self.out_pos, MSG_NOSIGNAL)
            if sent < 0:
                if errno == EAGAIN:
                    self.waiting = True
                    return self.loop.watch(self, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD)
                return self.lost("write failed")
            self.out_pos += sent
            if self.out_pos == self.out_len:
                self.out_pos = self.out_len = 0
                self.on_written()
        return 0

    cdef int on_event(self, uint32_t events) except -1:
        cdef ssize_t got
        cdef size_t used
        cdef uint8_t *data = self.loop.room
        cdef size_t n
        if self.ended:
            return 0
        if events & EPOLLOUT:
            if self.connecting:
                failed = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failed:
                    return self.lost(f"connect failed: {failed}")
                self.connecting = False
                self.loop.watch(self, EPOLLIN, EPOLL_CTL_MOD)
                self.on_ready()
            elif self.waiting:
                self.waiting = False
                self.loop.watch(self, EPOLLIN, EPOLL_CTL_MOD)
            self.flush()
            if not events & EPOLLIN:
                return 0
        if self.ended:
            return 0
        if self.rest_len:
            memcpy(data, self.rest, self.rest_len)
        n = self.rest_len
        got = read(self.fd, data + n, READ_BYTES - n)
        if got < 0 and errno == EAGAIN:
            return 0
        if got <= 0:
            return self.lost("closed by the peer")
        n += got
        used = self.on_data(data, n)
        if self.ended:
            return 0
        if n - used:
            if n - used > READ_BYTES // 2:
                return self.wrong(f"{n - used} bytes of input that make no sense: {bytes(data[:60])!r}")
            self.rest = <uint8_t *>realloc(self.rest, n - used)
            memcpy(self.rest, data + used, n - used)
        elif self.rest_len:
            free(self.rest)
            self.rest = NULL
        self.rest_len = n - used
        return self.flush()


cdef class Listener(Peer):
    """Accepts; a subclass makes the peers."""
    cdef Peer accepted(self):
        raise NotImplementedError

    def __init__(self, Loop loop):
        sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.begin(loop, sock, False)

    @property
    def port(self) -> int:
        return self.sock.getsockname()[1]

    cdef int on_event(self, uint32_t events) except -1:
        cdef Peer peer
        for _ in range(64):
            try:
                sock, _ = self.sock.accept()
            except OSError:             # nobody is left, or there is no descriptor for him now
                return 0
            peer = self.accepted()
            peer.begin(self.loop, sock, False)
            peer.on_ready()
        return 0


cdef int connect(Peer peer, Loop loop, int port) except -1:
    sock = socket.socket()
    sock.setblocking(False)
    failed = sock.connect_ex(("127.0.0.1", port))
    if failed and failed != EINPROGRESS:
        loop.ended += 1
        sock.close()
        return loop.wrong(f"connect to port {port}: error {failed}")
    return peer.begin(loop, sock, True)
