"""HTTP/1.1 (RFC 9112): requests on connections that are kept, and the backend that answers them and takes WebSockets."""


cdef ssize_t head_end(const uint8_t *data, size_t n) noexcept nogil:
    """Where the body begins; 0 when the head is not whole."""
    cdef const uint8_t *at = data
    cdef const uint8_t *end = data + n
    while end - at >= 4:
        at = <const uint8_t *>memchr(at, 13, end - at - 3)
        if at is NULL:
            return 0
        if memcmp(at, b"\r\n\r\n", 4) == 0:
            return at - data + 4
        at += 1
    return 0


cdef int64_t content_length(const uint8_t *data, size_t n) noexcept nogil:
    """-1 when the head has none."""
    cdef const uint8_t *at = data
    cdef const uint8_t *end = data + n
    cdef int64_t value = 0
    cdef size_t i
    while end - at > 18:
        at = <const uint8_t *>memchr(at, 10, end - at - 17)
        if at is NULL:
            return -1
        at += 1
        for i in range(15):
            if (at[i] | 0x20) != (<const uint8_t *>b"content-length:")[i] and at[i] != 0x2D and at[i] != 0x3A:
                break
        else:
            at += 15
            while at < end and at[0] == 32:
                at += 1
            while at < end and 48 <= at[0] <= 57:
                value = value * 10 + at[0] - 48
                at += 1
            return value
    return -1


cdef class HttpConnection(Peer):
    """One connection of a load: a request at a time."""
    cdef HttpLoad load
    cdef uint64_t number, got
    cdef int64_t at, left
    cdef bint within

    cdef int on_ready(self) except -1:
        self.loop.opened += 1
        return 0

    cdef int ask(self) except -1:
        cdef bytes head = self.load.heads[self.number % STEPS]
        self.put(head, len(head))
        if self.load.post:
            self.put(window(self.number), self.load.size)
        self.at = self.loop.now
        return 0

    cdef ssize_t on_data(self, const uint8_t *data, size_t n) except -1:
        cdef size_t used = 0, take
        cdef int64_t size = 0 if self.load.post else self.load.size
        if not self.within:
            used = head_end(data, n)
            if used == 0:
                return 0
            self.left = content_length(data, used)
            if memcmp(data, b"HTTP/1.1 200", 12) or self.left != size:
                self.wrong(f"request {self.got} answered {bytes(data[:used])!r}")
                return n
            self.within = True
        take = min(<size_t>self.left, n - used)
        if memcmp(data + used, window(self.number) + (size - self.left), take):
            self.wrong(f"connection {self.number}, request {self.got}: a wrong body")
        self.left -= take
        if self.left == 0:
            self.within = False
            self.got += 1
            self.loop.answered += 1
            self.loop.times.add(self.loop.now - self.at)
            self.ask()
        return used + take

    cdef int on_end(self) except -1:
        return self.wrong(f"connection {self.number} ended after {self.got} requests")


cdef class HttpLoad:
    """`connections` connections with a request each under way: GET answered by `size` bytes, or POST of them."""
    cdef readonly Loop loop
    cdef size_t size
    cdef bint post
    cdef list heads, connections

    def __init__(self, int port, int connections, size_t size, bint post=False, str host="bench"):
        cdef HttpConnection connection
        self.loop, self.size, self.post = Loop(), size, post
        length = f"Content-Length: {size}\r\n" if post else ""
        self.heads = [
            f"{'POST' if post else 'GET'} /{size}/{number} HTTP/1.1\r\nHost: {host}\r\n{length}Accept: */*\r\n"
            f"User-Agent: fasttunnel-bench\r\n\r\n".encode()
            for number in range(STEPS)
        ]
        self.connections = []
        for number in range(connections):
            connection = HttpConnection()
            connection.load, connection.number = self, number
            self.connections.append(connection)
            connect(connection, self.loop, port)
            if number % 256 == 255 or number == connections - 1:
                self.loop.run(20, opened=number + 1)

    def begin(self) -> None:
        cdef HttpConnection connection
        self.loop.now = now_ns()
        for connection in self.connections:
            connection.ask()
            connection.flush()

    def close(self) -> None:
        self.loop.close()


cdef class HttpBackend(WebSocketBackend):
    """Answers GET /SIZE/NUMBER with that part of the pattern, POST by nothing when the body is right.

    GET /bulk/SIZE gets bulk, which is made while it goes; what is posted to /bulk/SIZE is drained.
    """
    cdef int64_t left, body
    cdef uint64_t drained
    cdef bint draining
    cdef uint64_t which
    cdef bint wrong_body

    @cython.boundscheck(True)           # a request may lack any part
    cdef ssize_t on_handshake(self, const uint8_t *data, size_t n) except -1:
        cdef size_t used = 0, head, take
        if self.draining:
            if not is_bulk(data, n, self.drained):
                self.wrong(f"wrong bulk after {self.drained} bytes")
            self.drained += n
            return n
        while used < n:
            if self.left == 0:
                head = head_end(data + used, n - used)
                if head == 0:
                    return used
                line, _, _ = bytes(data[used:used + head]).partition(b"\r\n")
                method, target, _ = line.decode("latin-1").split(" ", 2)
                path = "/" + target.split("/", 3)[3] if target.startswith("http") else target
                if path.startswith("/ws/"):
                    self.accept(bytes(data[used:used + head]), path)
                    return used + head
                if path.startswith("/bulk/"):
                    return used + self.on_bulk(data + used, n - used, head, method == "POST", int(path[6:]))
                size, number = (path.strip("/").split("/") + ["0"])[:2] if path != "/" else ("0", "0")
                self.body, self.which, self.wrong_body = int(size), int(number), False
                if method == "POST":
                    self.left = content_length(data + used, head)
                    if self.left != self.body:
                        self.wrong(f"a body of {self.left} bytes")
                        return n
                else:
                    self.answer(self.body)
                used += head
            take = min(<size_t>self.left, n - used)
            if take:
                if memcmp(data + used, window(self.which) + (self.body - self.left), take):
                    self.wrong_body = True
                self.left -= take
                used += take
                if self.left == 0:
                    self.answer(0)
        return used

    cdef ssize_t on_bulk(self, const uint8_t *data, size_t n, size_t head, bint post, uint64_t size) except -1:
        if self.loop.hand_over is not None:
            sock, request = self.sock.dup(), bytes(data[:n])
            self.end()
            self.loop.hand_over(sock, request)
            return n
        self.draining = post
        if post:
            return head + self.on_handshake(data + head, n - head)
        line = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        self.put(line, len(line))
        self.bulk = size
        return head

    cdef int answer(self, size_t size) except -1:
        head = b"HTTP/1.1 %d OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % (
            500 if self.wrong_body else 200, size)
        self.put(head, len(head))
        return self.put(window(self.which), size)


cdef class HttpListener(Listener):
    cdef Peer accepted(self):
        return HttpBackend()


def serve_http(Loop loop, object sock, bytes request) -> None:
    """Serve a connection that was handed over, with what has been read of it."""
    cdef HttpBackend peer = HttpBackend()
    peer.begin(loop, sock, False)
    peer.on_data(request, len(request))
    peer.flush()
