"""Bulk over HTTP/1.1: transfers that never end, of which the bytes are counted."""

DEF ENDLESS = 1_000_000_000_000


cdef class BulkConnection(Peer):
    """A GET that gets bulk, or a POST of it."""
    cdef BulkLoad load
    cdef uint64_t got
    cdef bint open                      # the head of the answer has come

    cdef int on_ready(self) except -1:
        cdef bytes head = self.load.head
        self.put(head, len(head))
        if self.load.up:
            self.bulk = ENDLESS
        self.loop.opened += 1
        return 0

    cdef ssize_t on_data(self, const uint8_t *data, size_t n) except -1:
        cdef size_t used = 0
        if not self.open:
            used = head_end(data, n)
            if used == 0:
                return 0
            if memcmp(data, b"HTTP/1.1 200", 12) or self.load.up:
                self.wrong(f"bulk answered {bytes(data[:used])!r}")
                return n
            self.open = True
        if not is_bulk(data + used, n - used, self.got):
            self.wrong(f"wrong bulk after {self.got} bytes")
        self.got += n - used
        return n

    cdef int on_end(self) except -1:
        return self.wrong(f"bulk ended after {self.got} bytes")


cdef class BulkLoad:
    """`connections` connections that download, or upload, without end."""
    cdef readonly Loop loop
    cdef bytes head
    cdef bint up
    cdef list connections

    def __init__(self, int port, int connections, bint up=False, str host="bench"):
        cdef BulkConnection connection
        self.loop, self.up = Loop(), up
        length = f"Content-Length: {ENDLESS}\r\n" if up else ""
        self.head = f"{'POST' if up else 'GET'} /bulk/{ENDLESS} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n".encode()
        self.connections = []
        for _ in range(connections):
            connection = BulkConnection()
            connection.load = self
            self.connections.append(connection)
            connect(connection, self.loop, port)

    @property
    def moved(self) -> int:
        """Bytes that came, or that were written."""
        cdef BulkConnection connection
        cdef uint64_t moved = 0
        for connection in self.connections:
            moved += connection.got + connection.poured - min(connection.poured, connection.out_len - connection.out_pos)
        return moved

    def close(self) -> None:
        self.loop.close()
