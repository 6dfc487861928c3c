"""WebSocket (RFC 6455): a load that echoes, pours or drains, and the backend that answers it."""
import base64
import hashlib

DEF ACK_EVERY = 16                      # messages of a one-way transfer per message the other way

cdef uint64_t MASK = 0x9D3A71C59D3A71C5


cdef inline size_t frame_head(uint8_t *out, size_t size, bint masked) noexcept nogil:
    """Head of a binary frame that is the whole message; returns its bytes, the mask included."""
    cdef size_t n
    out[0] = 0x82
    if size < 126:
        out[1], n = <uint8_t>size, 2
    elif size < 65536:
        out[1], out[2], out[3], n = 126, <uint8_t>(size >> 8), <uint8_t>size, 4
    else:
        out[1] = 127
        for n in range(8):
            out[2 + n] = <uint8_t>(<uint64_t>size >> (56 - 8 * n))
        n = 10
    if masked:
        out[1] |= 0x80
        memcpy(out + n, &MASK, 4)
        n += 4
    return n


cdef inline void mask_copy(uint8_t *out, const uint8_t *data, size_t n, uint64_t mask) noexcept nogil:
    cdef size_t i
    cdef uint64_t word
    for i in range(n // 8):
        memcpy(&word, data + 8 * i, 8)
        word ^= mask
        memcpy(out + 8 * i, &word, 8)
    for i in range(n - n % 8, n):
        out[i] = data[i] ^ <uint8_t>(mask >> (i % 8 * 8))


cdef class WebSocketPeer(Peer):
    """Frames of either side, piece by piece as they come."""
    cdef bint open                      # the handshake is done
    cdef uint64_t left                  # payload of the frame under way that has not come
    cdef uint64_t size                  # payload of the frame under way
    cdef uint64_t mask                  # its mask, turned to the byte that comes next
    cdef uint8_t opcode
    cdef bint within                    # a frame is under way

    cdef ssize_t on_handshake(self, const uint8_t *data, size_t n) except -1:
        raise NotImplementedError

    cdef int on_frame(self) except -1:                                      # a head has come
        return 0

    cdef int on_payload(self, const uint8_t *data, size_t n) except -1:
        return 0

    cdef int on_message(self) except -1:                                    # a frame has come whole
        return 0

    cdef ssize_t on_data(self, const uint8_t *data, size_t n) except -1:
        cdef size_t at = 0, head, i, take
        if not self.open:
            at = self.on_handshake(data, n)
            if not self.open:
                return at
        while at < n and not self.ended:
            if not self.within:
                if n - at < 2:
                    break
                head = 2
                self.size = data[at + 1] & 0x7F
                if self.size == 126:
                    head = 4
                elif self.size == 127:
                    head = 10
                if data[at + 1] & 0x80:
                    head += 4
                if n - at < head:
                    break
                if self.size >= 126:
                    self.size = 0
                    for i in range(2, 4 if data[at + 1] & 0x7F == 126 else 10):
                        self.size = self.size << 8 | data[at + i]
                self.mask = 0
                if data[at + 1] & 0x80:
                    for i in range(8):
                        self.mask |= <uint64_t>data[at + head - 4 + i % 4] << (8 * i)
                self.opcode, self.left, self.within = data[at] & 0x0F, self.size, True
                if data[at] & 0xF0 != 0x80:
                    self.wrong("a fragmented message or reserved bits")
                self.on_frame()
                at += head
            take = min(n - at, self.left)
            if take:
                self.on_payload(data + at, take)
                at += take
                self.left -= take
                if self.left and take % 8:
                    self.mask = self.mask >> (take % 8 * 8) | self.mask << (64 - take % 8 * 8)
            if self.left == 0:
                self.within = False
                self.on_message()
        return at


cdef class WebSocketConnection(WebSocketPeer):
    """One connection of a load."""
    cdef WebSocketLoad load
    cdef uint64_t number                # of the connection
    cdef uint64_t sent, got             # messages
    cdef int64_t *times                 # a ring of `depth`: when each message in flight was sent
    cdef bint right

    def __dealloc__(self):
        free(self.times)

    cdef int on_ready(self) except -1:
        cdef bytes head = self.load.handshake
        return self.put(head, len(head))

    cdef ssize_t on_handshake(self, const uint8_t *data, size_t n) except -1:
        head = bytes(data[:n])
        end = head.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not head.startswith(b"HTTP/1.1 101 "):
            self.wrong(f"handshake answered {head[:end]!r}")
            return n
        self.open = True
        self.loop.opened += 1
        if self.load.setup:
            self.send_message()
        return end + 4

    cdef int send_message(self) except -1:
        cdef size_t size = self.load.size
        cdef uint8_t *out = self.grow(size + 14)
        cdef size_t head = frame_head(out, size, True)
        mask_copy(out + head, window(self.number + self.sent), size, MASK)
        self.out_len += head + size
        self.times[self.sent % self.load.depth] = self.loop.now
        self.sent += 1
        return 0

    cdef int on_frame(self) except -1:
        self.right = self.opcode == 2 and self.size == self.load.answer_size
        return 0

    cdef int on_payload(self, const uint8_t *data, size_t n) except -1:
        if self.mask or memcmp(data, window(self.number + self.got) + (self.size - self.left), n):
            self.right = False
        return 0

    cdef int on_message(self) except -1:
        cdef WebSocketLoad load = self.load
        cdef Loop loop = self.loop
        cdef uint64_t asked
        if not self.right:
            return self.wrong(
                f"connection {self.number}, message {self.got}: opcode {self.opcode}, {self.size} bytes is not the answer")
        self.got += 1
        if load.kind == 2:              # drained: an answer stands for ACK_EVERY messages
            asked = ACK_EVERY
            loop.answered += ACK_EVERY
        elif load.kind == 1:            # poured: one request for ACK_EVERY answers
            asked = self.got % ACK_EVERY == 0
            loop.answered += 1
        else:
            asked = 1
            loop.answered += 1
        if load.kind == 0:
            loop.times.add(loop.now - self.times[(self.got - 1) % load.depth])
        if load.setup:
            self.end()
            load.connect_one()
            return 0
        while asked and not load.paused:
            self.send_message()
            asked -= 1
            if not load.batched:
                self.flush()
        return 0

    cdef int on_end(self) except -1:
        return self.wrong(f"connection {self.number} ended after {self.got} messages")


cdef class WebSocketLoad:
    """`connections` connections that keep `depth` messages of `size` bytes in flight each.

    kind: "echo", "down" (the backend pours messages of `size`, asked by small ones), "up" (it drains them, and says so
    by small ones) or "setup" (each connection is made, echoes once and is closed, `connections` at a time).
    """
    cdef readonly Loop loop
    cdef int port, kind
    cdef size_t size, answer_size
    cdef uint64_t depth, made
    cdef bytes handshake
    cdef bint batched, setup
    cdef public bint paused             # nothing more is sent
    cdef list connections

    def __init__(self, int port, int connections, size_t size, int depth=1, str kind="echo", bint batched=True,
                 str host="bench"):
        self.loop, self.port, self.depth, self.batched = Loop(), port, depth, batched
        self.setup = kind == "setup"
        self.kind = {"echo": 0, "setup": 0, "down": 1, "up": 2}[kind]
        self.size = 16 if kind == "down" else size
        self.answer_size = 16 if kind == "up" else size
        path = {"echo": "/ws/echo", "setup": "/ws/echo", "down": f"/ws/down/{size}", "up": "/ws/up"}[kind]
        if kind == "up":
            self.depth = depth * ACK_EVERY
        self.handshake = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
        self.connections = []
        for start in range(0, connections, 256):        # no faster than they are accepted
            for _ in range(min(256, connections - start)):
                self.connect_one()
            if not self.setup:
                self.loop.run(20, opened=min(start + 256, connections))
        if not self.setup and self.loop.opened < <uint64_t>connections:
            raise RuntimeError(f"{self.loop.opened} of {connections} connections opened")

    cdef int connect_one(self) except -1:
        cdef WebSocketConnection connection = WebSocketConnection()
        connection.load, connection.number = self, self.made
        connection.times = <int64_t *>malloc(self.depth * sizeof(int64_t))
        self.made += 1
        if not self.setup:
            self.connections.append(connection)
        return connect(connection, self.loop, self.port)

    def begin(self) -> None:
        """Send the first messages."""
        cdef WebSocketConnection connection
        cdef uint64_t i
        self.loop.now = now_ns()
        for connection in self.connections:
            for i in range(self.depth):
                connection.send_message()
            connection.flush()

    def close(self) -> None:
        self.loop.close()


cdef class WebSocketBackend(WebSocketPeer):
    """Echo, source or sink, as the path of the handshake says."""
    cdef int kind
    cdef size_t pour
    cdef uint64_t number, got
    cdef size_t echoed

    @cython.boundscheck(True)           # a request may lack any part
    cdef int accept(self, bytes head, str path) except -1:
        key = [line.split(b":", 1)[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
        answer = base64.b64encode(hashlib.sha1(key[0] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
        )
        self.put(head, len(head))
        self.open = True
        self.kind = {"echo": 0, "down": 1, "up": 2}[path.split("/")[2]]
        if self.kind == 1:
            self.pour = int(path.split("/")[3])
        return 0

    cdef int on_frame(self) except -1:
        cdef uint8_t *out
        cdef size_t head
        if self.kind == 0 and self.opcode == 2:
            out = self.grow(self.size + 10)
            head = frame_head(out, self.size, False)
            self.out_len += head
        return 0

    cdef int on_payload(self, const uint8_t *data, size_t n) except -1:
        cdef uint8_t first[16]
        if self.opcode != 2:
            return 0
        if self.kind == 0:
            mask_copy(self.grow(n), data, n, self.mask)
            self.out_len += n
        elif self.got == 0 and self.left == self.size:      # which window the messages begin with
            mask_copy(first, data, min(n, 16), self.mask)
            while memcmp(first, window(self.number), min(n, 16)):
                self.number += 1
                if self.number > STEPS:
                    return self.wrong("not the pattern")
        return 0

    cdef int on_message(self) except -1:
        cdef size_t head, i
        if self.opcode == 8:
            return self.end()
        if self.opcode != 2 or self.kind == 0:
            return 0
        self.got += 1
        if self.kind == 1:
            for i in range(ACK_EVERY):
                head = frame_head(self.grow(self.pour + 10), self.pour, False)
                self.out_len += head
                self.put(window(self.number), self.pour)
                self.number += 1
        elif self.got % ACK_EVERY == 0:
            head = frame_head(self.grow(10), 16, False)
            self.out_len += head
            self.put(window(self.number), 16)
            self.number += 1
        return 0
