"""Sockets without transports: reading, writing, dialling and accepting, edge-triggered.

One turn of the Poller reads each socket that is ready once, then has its owners flush what that has produced, each with
one write. A read that comes back short has emptied the socket, and nothing is asked of it until epoll speaks again; one
that fills its buffer goes on in the next turn, after everybody else. Pausing costs no system call: it is only remembered
that there may be something to read. Where there is no epoll, the loop watches each socket, level-triggered.
"""
import os
import traceback

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from fasttunnel.engine._out cimport out_lend, out_used
from fasttunnel.engine._system cimport (
    AF_INET, AF_INET6, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP,
    IPPROTO_TCP, MSG_NOSIGNAL, SHUT_WR, SO_ERROR, SO_LINGER, SOL_SOCKET, TCP_NODELAY, c_close, c_connect, c_getpeername, c_getsockopt, c_recv,
    c_send, c_sendmsg, c_setsockopt, c_shutdown, epoll_ctl, epoll_event, epoll_wait, ft_epoll_create, ft_socket, htons, inet_ntop,
    inet_pton, iovec, linger, msghdr, ntohs, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
)
from fasttunnel.engine._tls cimport (
    TLS_AGAIN, TLS_FAILED, tls_error, tls_free, tls_goodbye, tls_met_http, tls_new, tls_read, tls_refusal, tls_seal, tls_shake, tls_write,
)
from fasttunnel.engine._tls import TlsError

from fasttunnel.errors import describe

cdef enum:
    EVENTS = 512                        # taken in one turn; the epoll stays readable while there are more
    PARTS = 16                          # of one sendmsg
    RECORDS = 65536                     # bytes of TLS records that are gathered for one part

# Whether epoll is used where there is one. Tests turn it off to try what other systems use.
use_epoll = True


cdef object os_error(int code):
    return OSError(code, os.strerror(code))


# -- the poller -------------------------------------------------------------------------------------------------------------

cdef class Poller:
    def __cinit__(self, loop):
        self.loop = loop
        self.ready = []
        self.gone = []
        self.opening = set()
        self.epoll = ft_epoll_create() if use_epoll else -1
        if self.epoll >= 0:
            self.events = <epoll_event *>malloc(EVENTS * sizeof(epoll_event))
            if self.events == NULL:
                raise MemoryError
            loop.add_reader(self.epoll, self._turn)

    def __dealloc__(self):
        if self.epoll >= 0:
            c_close(self.epoll)
        free(self.events)
        free(self.slots)

    def close(self):
        """No more turns; sockets are closed by their owners before."""
        cdef int fd
        if self.epoll >= 0:
            self.loop.remove_reader(self.epoll)
            c_close(self.epoll)
            self.epoll = -1
            for fd in range(self.slot_count):
                self.hold_slot(fd, None)

    cdef int schedule(self) except -1:
        """Have a turn soon, though nothing may become ready."""
        if not self.turning and not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._short_turn)
        return 0

    def _turn(self):
        cdef int n = epoll_wait(self.epoll, self.events, EVENTS, 0) if self.epoll >= 0 else 0
        self._deliver(n)

    def _short_turn(self):
        self.scheduled = False
        self._deliver(0)

    cdef int _deliver(self, int n) except -1:
        cdef Socket sock
        cdef list batch = self.ready
        cdef bint more
        cdef int i, fd
        self.turning = True
        try:
            self.ready = []                 # what becomes ready in this turn is for the next one
            for i in range(n):
                fd = <int>(self.events[i].data.u64 & 0xffffffff)
                if fd >= self.slot_count or self.slots[fd] == NULL:
                    continue            # closed in this turn
                sock = <Socket>self.slots[fd]
                if sock.stamp != <uint32_t>(self.events[i].data.u64 >> 32):
                    continue            # and opened anew
                try:
                    sock._events(self.events[i].events)
                except Exception as error:
                    sock.contain(error)
            for sock in batch:
                sock.listed = False
                try:
                    if sock.readable and not sock.reading_paused and sock.fd >= 0:
                        sock.read()
                except Exception as error:
                    sock.contain(error)
            more = self.end_turn()
            if self.gone:
                self._part()
                more = True                 # it may have left something to write
        finally:
            self.turning = False
        if more or self.ready:
            self.schedule()
        return 0

    def _part(self):
        cdef Socket sock
        cdef list batch = self.gone
        self.gone = []
        for sock in batch:
            try:
                if sock.connecting:
                    sock.connecting = False
                    self.opening.discard(sock)
                    sock.opening_over()
                    sock._opening_failed()
                else:
                    sock.connection_lost(sock.error)
            except Exception as error:
                sock.contain(error)

    cdef bint end_turn(self) except -1:
        return False

    cdef int hold_slot(self, int fd, Socket sock) except -1:
        cdef PyObject **grown
        cdef PyObject *former
        cdef int count
        if fd < 0:
            return 0
        if fd >= self.slot_count:
            count = max(fd + 1, self.slot_count * 2, 64)
            grown = <PyObject **>realloc(self.slots, <size_t>count * sizeof(PyObject *))
            if grown == NULL:
                raise MemoryError
            memset(grown + self.slot_count, 0, <size_t>(count - self.slot_count) * sizeof(PyObject *))
            self.slots = grown
            self.slot_count = count
        former = self.slots[fd]
        if sock is None:
            self.slots[fd] = NULL
        else:
            Py_INCREF(sock)
            self.slots[fd] = <PyObject *>sock
        Py_XDECREF(former)
        return 0


# -- sockets ----------------------------------------------------------------------------------------------------------------

cdef class Socket(Endpoint):
    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)
        self._drop_queue()
        tls_free(self.tls)

    # -- what the owner overrides

    cdef uint8_t *read_into(self, size_t *room) except NULL:
        raise NotImplementedError

    cdef int took(self, size_t n) except -1:
        raise NotImplementedError

    cdef int opening_begins(self) except -1:
        return 0

    cdef int opening_over(self) except -1:
        return 0

    cdef int on_end(self) except -1:
        raise NotImplementedError

    cdef int on_writable(self) except -1:
        raise NotImplementedError

    cdef int on_broken_off(self) except -1:
        return 0

    cdef int connection_made(self) except -1:
        return 0

    cdef int connection_lost(self, object error) except -1:
        return 0

    def connect_failed(self, str text, bint timed_out):
        """What was dialled cannot be reached, or the handshake with who has dialled failed."""

    def cut(self):
        """Close at once, whatever is under way."""
        self.disconnect(None)

    def contain(self, error):
        """An unexpected error in any of these."""
        traceback.print_exception(error)

    # -- opening

    cdef int adopt(self, int fd) except -1:
        cdef bint dialled = self.connecting
        self.fd = fd                        # closed by __dealloc__ if it cannot be watched
        self.connecting = self.tls_context is not None
        self._watch(EPOLL_CTL_ADD, 0)
        if not self.connecting:
            self.connecting = dialled
            return self._stands()
        self.tls = tls_new(self.tls_context, fd, self.tls_name)
        self.poller.opening.add(self)
        self.opening_begins()
        if self.fd < 0:
            return 0
        if self.poller.epoll < 0:
            self._watch_by_loop()
        return self._shake_hands()

    def secure(self, TlsContext context, str name):
        """Use TLS once it is connected, with a peer of this name. To be called before."""
        self.tls_context = context
        self.tls_name = name

    def adopt_descriptor(self, int fd):
        """Take a connected, non-blocking socket over from Python."""
        cdef int on = 1
        c_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        self.adopt(fd)

    cdef int dial(self, const sockaddr *address, socklen_t n) except -1:
        """Connect in the background: connection_made() or connect_failed() follows, never at once."""
        cdef int on = 1
        self.connecting = True
        self.poller.opening.add(self)
        self.fd = ft_socket(address.sa_family)
        if self.fd >= 0:
            c_setsockopt(self.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
            if c_connect(self.fd, address, n) == 0 or errno == EINPROGRESS or errno == EINTR:
                try:
                    return self._watch(EPOLL_CTL_ADD, EPOLLOUT)
                except OSError as error:
                    return self.disconnect(error)
        return self.disconnect(os_error(errno))

    cdef int _finish_dialling(self) except -1:
        cdef int code = 0
        cdef socklen_t n = sizeof(code)
        if c_getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &code, &n) < 0:
            code = errno
        if code:
            return self.disconnect(os_error(code))
        if self.tls_context is None:
            return self._stands()
        self.tls = tls_new(self.tls_context, self.fd, self.tls_name)
        return self._shake_hands()

    cdef int _shake_hands(self) except -1:
        cdef int result = tls_shake(self.tls)
        cdef object error = None
        cdef bint met_http = False
        cdef str refusal
        if result == TLS_FAILED:
            met_http = self.tls_context.server and tls_met_http(self.tls)
            error = tls_error(self.tls)
        self.poller.reads += self.tls.calls
        self.tls.calls = 0
        self._queue_records()
        if result == TLS_AGAIN:
            return self.write()
        if result == TLS_FAILED:
            self.write()                    # what tells the peer why it is not wanted
            if self.fd < 0:
                return 0
            if self.tls_context.unsecured and met_http:
                c_send(self.fd, <const char *>self.tls_context.unsecured, len(self.tls_context.unsecured), MSG_NOSIGNAL)
            return self.disconnect(error)
        if not self.tls_context.server:
            refusal = tls_refusal(self.tls)
            if refusal is not None:
                return self.disconnect(TlsError(refusal))
        self.readable = True                # its first bytes may lie in OpenSSL's buffer: no event tells of them
        self.read_soon()
        return self._stands()               # the last records leave with what is sent first, in this turn

    cdef int _stands(self) except -1:
        cdef bint dialled = self.connecting
        self.connecting = False
        self.attached = True
        self.poller.opening.discard(self)
        if dialled:
            self.opening_over()
        if self.poller.epoll < 0:
            self._watch_by_loop()
        self.connection_made()
        return self.on_writable() if dialled and self.fd >= 0 else 0

    def _opening_failed(self):
        cdef object error = self.error
        cdef bint timed_out = isinstance(error, TimeoutError)
        self.error = None
        if self.tls_context is not None and self.tls_context.server:
            self.poller.handshakes_failed += 1
        if error is None:
            self.connect_failed("the client is shutting down", False)
        else:
            self.connect_failed("" if timed_out else describe(error), timed_out)

    cdef int inherit(self, Socket former) except -1:
        """Take the descriptor of another one over, with all that is under way on it."""
        self.poller = former.poller
        self.fd = former.fd
        self.stamp = former.stamp
        self.attached = former.attached
        self.peer_eof = former.peer_eof
        self.reading_paused = former.reading_paused
        self.write_paused = former.write_paused
        self.watching_out = former.watching_out
        self.queue, self.queue_len, self.queue_cap = former.queue, former.queue_len, former.queue_cap
        former.queue = NULL
        former.queue_len = former.queue_cap = 0
        self.tls_context, self.tls, former.tls = former.tls_context, former.tls, NULL
        former.fd = -1
        former.attached = False
        self.unsure = former.unsure
        self.broken = former.broken
        self.error = former.error
        self.readable = former.readable
        if self.fd < 0:                     # lost in this very turn: whoever takes over is the one to be told
            self.poller.gone.append(self)
            return self.poller.schedule()
        if self.poller.epoll < 0:
            self._watch_by_loop()
        else:
            self.poller.hold_slot(self.fd, self)
        return self.read_soon() if self.readable and not self.reading_paused else 0

    # -- events

    cdef int _watch(self, int operation, uint32_t more) except -1:
        cdef epoll_event event
        if self.poller.epoll < 0:
            return self._watch_by_loop()
        memset(&event, 0, sizeof(event))
        event.events = <uint32_t>EPOLLIN | <uint32_t>EPOLLPRI | <uint32_t>EPOLLRDHUP | EPOLLET | more
        if more:
            self.watching_out = True
        if operation == EPOLL_CTL_ADD:
            self.poller.stamp += 1
            self.stamp = self.poller.stamp
            self.poller.hold_slot(self.fd, self)
        event.data.u64 = <uint64_t>self.stamp << 32 | <uint32_t>self.fd
        if epoll_ctl(self.poller.epoll, operation, self.fd, &event) < 0:
            operation = errno
            self.poller.hold_slot(self.fd, None)
            raise os_error(operation)
        return 0

    cdef int _watch_by_loop(self) except -1:
        cdef object loop = self.poller.loop
        if self.fd < 0:
            return 0
        if (self.attached or self.tls != NULL) and not self.reading_paused and not self.peer_eof:
            loop.add_reader(self.fd, self._loop_event, EPOLLIN)
        else:
            loop.remove_reader(self.fd)
        if self.connecting and self.tls == NULL or self.queue_len:
            loop.add_writer(self.fd, self._loop_event, EPOLLOUT)
        else:
            loop.remove_writer(self.fd)
        return 0

    def _loop_event(self, uint32_t events):
        try:
            self._events(events)
        except Exception as error:
            self.contain(error)
        self.poller.schedule()

    cdef int _events(self, uint32_t events) except -1:
        cdef Socket _held = self            # what it sets off may drop the last reference
        if self.fd < 0:
            return 0
        if events & (<uint32_t>EPOLLPRI | <uint32_t>EPOLLRDHUP | <uint32_t>EPOLLHUP | <uint32_t>EPOLLERR):
            self.unsure = True
        if self.tls != NULL:
            self.tls.dry = False
            self.tls.unsure = self.unsure
        if self.connecting:
            if self.tls != NULL:
                self._shake_hands()
            elif events & (<uint32_t>EPOLLOUT | <uint32_t>EPOLLERR | <uint32_t>EPOLLHUP):
                self._finish_dialling()
            if not self.attached:
                return 0
        if events & <uint32_t>EPOLLOUT and self.queue_len:
            self.write()
        if events & (<uint32_t>EPOLLIN | <uint32_t>EPOLLPRI | <uint32_t>EPOLLRDHUP | <uint32_t>EPOLLHUP | <uint32_t>EPOLLERR):
            self.readable = True
            if self.fd >= 0 and not self.reading_paused:
                return self.read()
            if self.fd >= 0 and events & <uint32_t>EPOLLERR:
                return self.on_broken_off()
        return 0

    # -- reading

    cdef int read(self) except -1:
        cdef size_t room = 0
        cdef uint8_t *place
        cdef ssize_t n
        cdef int code = 0
        cdef socklen_t size = sizeof(code)
        if self.peer_eof:
            # Only an error can come any more: the peer has gone altogether.
            self.readable = False
            if c_getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &code, &size) == 0 and code:
                return self.disconnect(os_error(code))
            return 0
        place = self.read_into(&room)
        n = self._receive(place, room)
        if n > 0:
            if self.readable:
                self.read_soon()
            return self.took(<size_t>n)
        if n == TLS_AGAIN:
            return 0
        if self.broken or n == TLS_FAILED:
            return self.disconnect(self.error)
        self.peer_eof = True
        if self.poller.epoll < 0:
            self._watch_by_loop()
        return self.on_end()

    cdef ssize_t _receive(self, uint8_t *place, size_t room) except -3:
        """Bytes that were read; 0: the end; TLS_AGAIN: none for now; TLS_FAILED: lost, by `error`. Sets `readable`."""
        cdef ssize_t n
        cdef object error
        if self.tls != NULL:
            n = tls_read(self.tls, place, room)
            self.poller.reads += self.tls.calls
            self.tls.calls = 0
            self.readable = n > 0 and (<size_t>n == room or self.tls.over)
            if n == TLS_FAILED:
                error = tls_error(self.tls)     # even if one is known already: it must not stay in OpenSSL's queue
                if not self.broken:
                    self.error = error
            if self.tls.sealed.len:         # it has answered something by itself
                self._queue_records()
                self.write()
            return n
        self.poller.reads += 1
        n = c_recv(self.fd, place, room, 0)
        if n > 0:
            self.readable = <size_t>n == room or self.unsure
        elif n < 0 and errno == EINTR:
            self.readable = True
            self.read_soon()
            n = TLS_AGAIN
        else:
            self.readable = False
            if n < 0:
                n = TLS_AGAIN if errno == EAGAIN and not self.broken else TLS_FAILED
                if n == TLS_FAILED and not self.broken:
                    self.error = os_error(errno)
        return n

    cdef int read_soon(self) except -1:
        if not self.listed:
            self.listed = True
            self.poller.ready.append(self)
            self.poller.schedule()
        return 0

    cdef int pause_reading(self) except -1:
        if self.broken:
            return self.disconnect(self.error)      # nobody would look at it any more
        if not self.reading_paused:
            self.reading_paused = True
            if self.poller.epoll < 0:
                self._watch_by_loop()
        return 0

    cdef int resume_reading(self) except -1:
        if self.reading_paused:
            self.reading_paused = False
            if self.poller.epoll < 0:
                self._watch_by_loop()
            if self.readable:               # OpenSSL may hold some of it
                self.read_soon()
        return 0

    # -- writing

    cdef size_t queued(self) noexcept:
        cdef size_t total = 0
        cdef int i
        for i in range(self.queue_len):
            total += self.queue[i].len
        return total

    cdef int put_part(self, uint8_t *block, const uint8_t *data, size_t n) except -1:
        if self.tls == NULL:
            return self._queue_chunk(block, data, n)
        try:
            tls_write(self.tls, data, n)
        except OSError as error:            # it has broken TLS, which is not the affair of whoever sends it something
            return self._write_failed(error)
        finally:
            free(block)
        return self._queue_records() if self.tls.sealed.len >= RECORDS else 0

    cdef int _queue_chunk(self, uint8_t *block, const uint8_t *data, size_t n) except -1:
        cdef Chunk *grown
        if self.queue_len == self.queue_cap:
            grown = <Chunk *>realloc(self.queue, <size_t>(self.queue_cap * 2 + 4) * sizeof(Chunk))
            if grown == NULL:
                raise MemoryError
            self.queue = grown
            self.queue_cap = self.queue_cap * 2 + 4
        self.queue[self.queue_len].block = block
        self.queue[self.queue_len].data = data
        self.queue[self.queue_len].len = n
        self.queue_len += 1
        return 0

    cdef int _queue_records(self) except -1:
        if self.tls.sealed.len:
            self._queue_chunk(self.tls.sealed.data, self.tls.sealed.data, self.tls.sealed.len)
            out_lend(&self.tls.sealed)
        return 0

    cdef int write_out(self, Out *out) except -1:
        cdef ssize_t n = 0
        if out.len == 0:
            return 0
        if self.queue_len == 0 and self.fd >= 0 and not self.broken and self.tls == NULL:
            self.poller.writes += 1
            n = c_send(self.fd, out.data, out.len, MSG_NOSIGNAL)
            if <size_t>n == out.len:
                out_used(out)
                return 0
            n = max(n, 0)                   # an error shows again in write()
        self.put(out, <size_t>n)
        return self.write()

    cdef int put(self, Out *out, size_t start=0) except -1:
        cdef uint8_t *data = out.data
        cdef size_t n = out.len
        if n:
            out_lend(out)
            return self.put_part(data, data + start, n - start)
        return 0

    cdef int write(self) except -1:
        cdef iovec parts[PARTS]
        cdef msghdr message
        cdef ssize_t n
        cdef size_t left
        cdef int i, taken = 0
        if self.fd < 0 or self.broken:
            self._drop_queue()
            return 0
        if self.tls != NULL and not self.connecting:
            try:
                tls_seal(self.tls)
            except OSError as error:
                return self._write_failed(error)
            self._queue_records()
        while taken < self.queue_len:
            self.poller.writes += 1
            if taken + 1 == self.queue_len:
                n = c_send(self.fd, self.queue[taken].data, self.queue[taken].len, MSG_NOSIGNAL)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                for i in range(min(self.queue_len - taken, PARTS)):
                    parts[i].iov_base = <void *>self.queue[taken + i].data
                    parts[i].iov_len = self.queue[taken + i].len
                message.msg_iovlen = <size_t>min(self.queue_len - taken, PARTS)
                n = c_sendmsg(self.fd, &message, MSG_NOSIGNAL)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    return self._write_failed(os_error(errno))
                break
            left = <size_t>n
            while taken < self.queue_len and left >= self.queue[taken].len:
                left -= self.queue[taken].len
                free(self.queue[taken].block)
                self.queue[taken].block = NULL
                taken += 1
            if left:                        # a short write: it is full
                self.queue[taken].data += left
                self.queue[taken].len -= left
        if taken < self.queue_len:
            for i in range(self.queue_len - taken):
                self.queue[i] = self.queue[taken + i]
            self.queue_len -= taken
            self.write_paused = True
            if not self._keep_borrowed():
                return self.disconnect(MemoryError("no memory for what is to be sent"))
            if self.poller.epoll < 0:
                return self._watch_by_loop()
            return 0 if self.watching_out else self._watch(EPOLL_CTL_MOD, EPOLLOUT)
        self._drop_queue()
        if self.write_paused:
            self.write_paused = False
            if self.poller.epoll < 0:
                self._watch_by_loop()
            return self.on_writable()
        return 0

    cdef int _write_failed(self, object error) except -1:
        """The peer may have said why before it closed: that is read before the socket is given up."""
        self._drop_queue()
        self.write_paused = False
        if self.peer_eof or self.reading_paused:
            return self.disconnect(error)
        self.broken = self.readable = True
        self.error = error
        if self.poller.epoll < 0:
            self._watch_by_loop()
        return self.read_soon()

    cdef bint _keep_borrowed(self) noexcept:
        cdef Chunk *chunk
        cdef int i
        for i in range(self.queue_len):
            chunk = &self.queue[i]
            if chunk.block == NULL:
                chunk.block = <uint8_t *>malloc(chunk.len)
                if chunk.block == NULL:
                    return False
                memcpy(chunk.block, chunk.data, chunk.len)
                chunk.data = chunk.block
        return True

    cdef int _drop_queue(self) noexcept:
        cdef int i
        for i in range(self.queue_len):
            free(self.queue[i].block)
        self.queue_len = 0
        if self.queue != NULL:
            free(self.queue)
            self.queue = NULL
            self.queue_cap = 0
        return 0

    cdef int end_writing(self) except -1:
        if self.fd >= 0:
            self._say_goodbye()
            c_shutdown(self.fd, SHUT_WR)
        return 0

    cdef int end(self) except -1:
        if self.fd >= 0 and self.attached:
            self._say_goodbye()
        return self.disconnect(None)

    cdef int _say_goodbye(self) except -1:
        """With TLS the end has to be told: a FIN may be anybody's (RFC 8446 6.1)."""
        if self.tls != NULL and self.queue_len == 0 and not self.broken:
            tls_goodbye(self.tls)
            self._queue_records()
            if self.queue_len:
                c_send(self.fd, self.queue[0].data, self.queue[0].len, MSG_NOSIGNAL)
                self._drop_queue()
        return 0

    # -- closing and the rest

    cdef int disconnect(self, object error) except -1:
        if self.fd >= 0:
            if self.poller.epoll < 0:
                self.poller.loop.remove_reader(self.fd)
                self.poller.loop.remove_writer(self.fd)
            else:
                self.poller.hold_slot(self.fd, None)
            c_close(self.fd)
            self.fd = -1
            tls_free(self.tls)
            self.tls = NULL
        elif not self.connecting:
            return 0
        self._drop_queue()
        self.error = error
        self.poller.gone.append(self)
        return self.poller.schedule()

    cdef int set_option(self, int level, int name, int value) except -1:
        if self.fd >= 0:
            c_setsockopt(self.fd, level, name, &value, sizeof(value))
        return 0

    cdef int reset_on_close(self) except -1:
        cdef linger at_once
        at_once.l_onoff = 1
        at_once.l_linger = 0
        if self.fd >= 0:
            c_setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
        return 0

    cdef tuple peer_address(self):
        cdef sockaddr_storage address
        cdef socklen_t n = sizeof(address)
        cdef char text[64]
        memset(&address, 0, sizeof(address))
        if self.fd >= 0 and c_getpeername(self.fd, <sockaddr *>&address, &n) == 0:
            if address.ss_family == AF_INET and inet_ntop(AF_INET, &(<sockaddr_in *>&address).sin_addr, text, 64) != NULL:
                return text.decode("ascii"), ntohs((<sockaddr_in *>&address).sin_port)
            if address.ss_family == AF_INET6 and inet_ntop(AF_INET6, &(<sockaddr_in6 *>&address).sin6_addr, text, 64) != NULL:
                return text.decode("ascii"), ntohs((<sockaddr_in6 *>&address).sin6_port)
        return "unknown", 0


cdef socklen_t literal_address(str host, int port, sockaddr_storage *out) except? 0:
    cdef bytes text = host.encode("ascii", "replace")
    cdef sockaddr_in *four = <sockaddr_in *>out
    cdef sockaddr_in6 *six = <sockaddr_in6 *>out
    memset(out, 0, sizeof(sockaddr_storage))
    if inet_pton(AF_INET, text, &four.sin_addr) == 1:
        four.sin_family = AF_INET
        four.sin_port = htons(<uint16_t>port)
        return sizeof(sockaddr_in)
    if inet_pton(AF_INET6, text, &six.sin6_addr) == 1:
        six.sin6_family = AF_INET6
        six.sin6_port = htons(<uint16_t>port)
        return sizeof(sockaddr_in6)
    return 0
