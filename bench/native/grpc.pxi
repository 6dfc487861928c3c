"""gRPC over HTTP/2 by libnghttp2: calls of every kind, and the backend that answers them."""
from fasttunnel.engine._nghttp2 cimport *

cdef extern from *:
    """
    /* Of 1.57, and of older ones where distributions have added it. */
    void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *, uint64_t, uint64_t) __attribute__((weak));
    """
    void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *option, uint64_t burst, uint64_t rate)

DEF STREAMED = 100                      # messages of a call that streams one way
DEF WINDOW = 1 << 24


cdef struct Call:
    int32_t id
    uint64_t number                     # of the first message
    uint64_t sent, got                  # messages
    size_t out_at                       # of the message being sent, its prefix included
    size_t in_at                        # of the message being received, its prefix included
    size_t size                         # of the message being received
    uint8_t prefix[5]
    uint64_t may_send                   # messages allowed to be sent so far
    uint64_t last                       # messages to send in all; 0: no end
    bint deferred, half_closed, cut_short, trailers
    int kind
    int64_t at
    uint8_t *echo                       # the backend's: message bytes to send back
    size_t echo_pos, echo_len, echo_cap


cdef inline nghttp2_nv header(bytes name, bytes value) noexcept:
    cdef nghttp2_nv nv
    nv.name, nv.namelen = <uint8_t *><const char *>name, len(name)
    nv.value, nv.valuelen = <uint8_t *><const char *>value, len(value)
    nv.flags = 0
    return nv


cdef class Http2Peer(Peer):
    cdef nghttp2_session *session

    def __dealloc__(self):
        if self.session is not NULL:
            nghttp2_session_del(self.session)

    cdef int start(self, bint server, int streams) except -1:
        cdef nghttp2_session_callbacks *callbacks
        cdef nghttp2_option *option
        cdef nghttp2_settings_entry settings[2]
        nghttp2_option_new(&option)
        nghttp2_option_set_no_closed_streams(option, 1)
        nghttp2_option_set_peer_max_concurrent_streams(option, 1000)
        if server and <void *>nghttp2_option_set_stream_reset_rate_limit is not NULL:
            # Each load that ends leaves a relay its calls to reset, and the relay may have one connection for all loads.
            nghttp2_option_set_stream_reset_rate_limit(option, 1 << 30, 1 << 30)
        nghttp2_session_callbacks_new(&callbacks)
        nghttp2_session_callbacks_set_send_callback(callbacks, h2_send)
        nghttp2_session_callbacks_set_on_header_callback(callbacks, h2_header)
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, h2_begin)
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, h2_frame)
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, h2_data)
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, h2_close)
        (nghttp2_session_server_new2 if server else nghttp2_session_client_new2)(
            &self.session, callbacks, <void *>self, option)
        nghttp2_session_callbacks_del(callbacks)
        nghttp2_option_del(option)
        settings[0].settings_id, settings[0].value = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW
        settings[1].settings_id, settings[1].value = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams
        nghttp2_submit_settings(self.session, 0, settings, 2)
        nghttp2_session_set_local_window_size(self.session, 0, 0, WINDOW)
        return 0

    cdef ssize_t on_data(self, const uint8_t *data, size_t n) except -1:
        cdef ssize_t used = nghttp2_session_mem_recv(self.session, data, n)
        if used != <ssize_t>n:
            self.wrong(f"HTTP/2: {used}")
        self.pump()
        return n

    cdef int pump(self) except -1:
        while not self.ended and self.out_len - self.out_pos < 1 << 20 and nghttp2_session_want_write(self.session):
            if nghttp2_session_send(self.session):
                return self.wrong("HTTP/2: cannot send")
        return 0

    cdef int on_written(self) except -1:
        return self.pump()

    cdef Call *begin_call(self, int32_t stream_id) except NULL:
        raise NotImplementedError

    cdef int on_path(self, Call *call, bytes path) except -1:
        return 0

    cdef int on_chunk(self, Call *call, const uint8_t *data, size_t n) except -1:
        return 0

    cdef int on_half_close(self, Call *call) except -1:
        return 0

    cdef int on_close(self, Call *call, uint32_t code) except -1:
        return 0

    cdef int fill(self, Call *call, uint8_t *out, size_t room, uint32_t *flags) except -1:
        raise NotImplementedError


cdef ssize_t h2_send(nghttp2_session *s, const uint8_t *data, size_t n, int flags, void *user) noexcept:
    cdef Http2Peer peer = <Http2Peer>user
    if peer.out_len - peer.out_pos > 1 << 20:
        return NGHTTP2_ERR_WOULDBLOCK
    peer.put(data, n)
    return n


cdef int h2_begin(nghttp2_session *s, const nghttp2_frame *frame, void *user) noexcept:
    if frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        nghttp2_session_set_stream_user_data(s, frame.hd.stream_id, (<Http2Peer>user).begin_call(frame.hd.stream_id))
    return 0


cdef int h2_header(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                   const uint8_t *value, size_t value_len, uint8_t flags, void *user) noexcept:
    cdef Http2Peer peer = <Http2Peer>user
    cdef Call *call = <Call *>nghttp2_session_get_stream_user_data(s, frame.hd.stream_id)
    if call is NULL:
        return 0
    if name_len == 11 and memcmp(name, b"grpc-status", 11) == 0:
        call.trailers = value_len == 1 and value[0] == 48
        if not call.trailers:
            peer.wrong(f"grpc-status {bytes(value[:value_len])!r}")
    elif name_len == 12 and memcmp(name, b"grpc-message", 12) == 0 and not peer.loop.serving:
        peer.loop.error = RuntimeError(f"grpc-message {bytes(value[:value_len])!r}")
    elif name_len == 5 and memcmp(name, b":path", 5) == 0:
        peer.on_path(call, bytes(value[:value_len]))
    return 0


cdef int h2_frame(nghttp2_session *s, const nghttp2_frame *frame, void *user) noexcept:
    cdef Call *call
    if frame.hd.type in (NGHTTP2_DATA, NGHTTP2_HEADERS) and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        call = <Call *>nghttp2_session_get_stream_user_data(s, frame.hd.stream_id)
        if call is not NULL:
            (<Http2Peer>user).on_half_close(call)
    return 0


cdef int h2_data(nghttp2_session *s, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t n, void *user) noexcept:
    cdef Call *call = <Call *>nghttp2_session_get_stream_user_data(s, stream_id)
    if call is not NULL:
        (<Http2Peer>user).on_chunk(call, data, n)
    return 0


cdef int h2_close(nghttp2_session *s, int32_t stream_id, uint32_t code, void *user) noexcept:
    cdef Call *call = <Call *>nghttp2_session_get_stream_user_data(s, stream_id)
    if call is not NULL:
        (<Http2Peer>user).on_close(call, code)
        free(call.echo)
        free(call)
    return 0


cdef ssize_t h2_fill(nghttp2_session *s, int32_t stream_id, uint8_t *buf, size_t n, uint32_t *flags,
                     nghttp2_data_source *source, void *user) noexcept:
    cdef int filled = (<Http2Peer>user).fill(<Call *>source.ptr, buf, n, flags)
    if filled == 0 and not flags[0] & NGHTTP2_DATA_FLAG_EOF:
        (<Call *>source.ptr).deferred = True
        return NGHTTP2_ERR_DEFERRED
    return filled


cdef class GrpcConnection(Http2Peer):
    """One connection of a load."""
    cdef GrpcLoad load
    cdef uint64_t number

    cdef int on_ready(self) except -1:
        self.start(False, 100)
        self.loop.opened += 1
        return self.pump()

    cdef int call(self) except -1:
        cdef GrpcLoad load = self.load
        cdef Call *call = <Call *>malloc(sizeof(Call))
        cdef nghttp2_nv nva[7]
        cdef nghttp2_data_provider provider
        cdef list fields = load.fields
        cdef size_t i
        if call is NULL:
            raise MemoryError
        memset(call, 0, sizeof(Call))
        for i in range(len(fields)):
            nva[i] = header(fields[i][0], fields[i][1])
        call.number = self.number
        self.number += 1
        call.at = self.loop.now
        call.last, call.may_send = load.up, load.depth if load.up == 0 else load.up
        provider.source.ptr, provider.read_callback = call, h2_fill
        call.id = nghttp2_submit_request(self.session, NULL, nva, len(fields), &provider, call)
        if call.id < 0:
            self.wrong("HTTP/2: no request can be made")
        return 0

    cdef int fill(self, Call *call, uint8_t *out, size_t room, uint32_t *flags) except -1:
        cdef size_t size = self.load.size, n, at = 0
        cdef uint8_t prefix[5]
        while at < room and call.sent < call.may_send:
            if call.out_at < 5:
                prefix[0], prefix[1], prefix[2] = 0, <uint8_t>(size >> 24), <uint8_t>(size >> 16)
                prefix[3], prefix[4] = <uint8_t>(size >> 8), <uint8_t>size
                n = min(5 - call.out_at, room - at)
                memcpy(out + at, prefix + call.out_at, n)
            else:
                n = min(size + 5 - call.out_at, room - at)
                memcpy(out + at, window(call.number + call.sent) + call.out_at - 5, n)
            at += n
            call.out_at += n
            if call.out_at == size + 5:
                call.out_at = 0
                call.sent += 1
        if call.last and call.sent == call.last:
            flags[0] |= NGHTTP2_DATA_FLAG_EOF
        return <int>at

    cdef int on_chunk(self, Call *call, const uint8_t *data, size_t n) except -1:
        cdef size_t take
        cdef GrpcLoad load = self.load
        cdef uint64_t echoed
        while n:
            if call.in_at < 5:
                take = min(5 - call.in_at, n)
                memcpy(call.prefix + call.in_at, data, take)
                call.in_at += take
                if call.in_at == 5:
                    call.size = <size_t>call.prefix[1] << 24 | call.prefix[2] << 16 | call.prefix[3] << 8 | call.prefix[4]
                    if call.prefix[0] or call.size != load.size:
                        return self.wrong(f"call {call.number}: a message of {call.size} bytes")
            else:
                take = min(5 + call.size - call.in_at, n)
                # The answer is an echo; of a stream that the backend drained, of its last message.
                echoed = call.got if load.kind != 2 else STREAMED - 1
                if load.kind == 1:
                    echoed = 0
                if memcmp(data, window(call.number + echoed) + call.in_at - 5, take):
                    return self.wrong(f"call {call.number}, message {call.got}: a wrong payload")
                call.in_at += take
            if call.in_at == call.size + 5 and call.in_at >= 5:
                call.in_at = 0
                call.got += 1
                if load.kind != 2:
                    self.loop.answered += 1
                if load.up == 0:
                    self.loop.times.add(self.loop.now - call.at)    # of the oldest in flight, roughly
                    call.at = self.loop.now
                    call.may_send += 1
                    if call.deferred:
                        call.deferred = False
                        nghttp2_session_resume_data(self.session, call.id)
            data += take
            n -= take
        return 0

    cdef int on_close(self, Call *call, uint32_t code) except -1:
        if self.loop.error is not None:
            return 0
        if code or not call.trailers or call.got != self.load.down:
            return self.wrong(f"call {call.number}: closed with {code}, {call.got} messages of {self.load.down}")
        if self.load.kind == 2:
            self.loop.answered += STREAMED
        self.loop.times.add(self.loop.now - call.at)
        return self.call()

    cdef int on_end(self) except -1:
        return self.wrong("a connection ended")


cdef class GrpcLoad:
    """`connections` connections with `calls` calls under way each, of messages of `size` bytes.

    kind: "unary", "server" or "client" (100 messages a call), "bidi" (calls without end, `depth` messages in flight in
    each). What is counted is calls when unary, messages otherwise.
    """
    cdef readonly Loop loop
    cdef size_t size
    cdef int kind, calls
    cdef uint64_t up, down, depth
    cdef list fields, connections

    def __init__(self, int port, int connections, int calls, size_t size, str kind="unary", int depth=1,
                 str host="bench"):
        cdef GrpcConnection connection
        self.loop, self.size, self.calls, self.depth = Loop(), size, calls, depth
        self.kind = ["unary", "server", "client", "bidi"].index(kind)
        self.up, self.down = [(1, 1), (1, STREAMED), (STREAMED, 1), (0, 0)][self.kind]
        self.fields = [
            (b":method", b"POST"), (b":scheme", b"http"), (b":authority", host.encode()),
            (b":path", f"/bench.Echo/{kind.capitalize()}".encode()),
            (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"fasttunnel-bench"),
        ]
        self.connections = []
        for number in range(connections):
            connection = GrpcConnection()
            connection.load, connection.number = self, number * 1009
            self.connections.append(connection)
            connect(connection, self.loop, port)
            if number % 256 == 255 or number == connections - 1:
                self.loop.run(20, opened=number + 1)

    def begin(self) -> None:
        cdef GrpcConnection connection
        self.loop.now = now_ns()
        for connection in self.connections:
            for _ in range(self.calls):
                connection.call()
            connection.pump()
            connection.flush()

    def close(self) -> None:
        self.loop.close()


cdef class GrpcBackend(Http2Peer):
    """Echoes each message (unary, bidi); answers the first one a hundred times; or a hundred of them by the last."""
    cdef int on_ready(self) except -1:
        self.start(True, 1000)
        self.pump()
        return self.flush()

    cdef Call *begin_call(self, int32_t stream_id) except NULL:
        cdef Call *call = <Call *>malloc(sizeof(Call))
        if call is NULL:
            raise MemoryError
        memset(call, 0, sizeof(Call))
        call.id = stream_id
        return call

    cdef int on_path(self, Call *call, bytes path) except -1:
        cdef nghttp2_nv nva[2]
        cdef nghttp2_data_provider provider
        call.kind = [b"Unary", b"Server", b"Client", b"Bidi"].index(path.rpartition(b"/")[2])
        nva[0] = header(b":status", b"200")
        nva[1] = header(b"content-type", b"application/grpc")
        provider.source.ptr, provider.read_callback = call, h2_fill
        nghttp2_submit_response(self.session, call.id, nva, 2, &provider)
        return 0

    cdef int add(self, Call *call, const uint8_t *data, size_t n) except -1:
        if call.echo_pos == call.echo_len:
            call.echo_pos = call.echo_len = 0
        if call.echo_len + n > call.echo_cap:
            call.echo_cap = max(2 * call.echo_cap, call.echo_len + n)
            call.echo = <uint8_t *>realloc(call.echo, call.echo_cap)
            if call.echo is NULL:
                raise MemoryError
        memcpy(call.echo + call.echo_len, data, n)
        call.echo_len += n
        return 0

    cdef int wake(self, Call *call) except -1:
        if call.deferred:
            call.deferred = False
            nghttp2_session_resume_data(self.session, call.id)
        return 0

    cdef int on_chunk(self, Call *call, const uint8_t *data, size_t n) except -1:
        cdef size_t take
        if call.kind != 2:
            self.add(call, data, n)
            if call.kind != 1:
                self.wake(call)
            return 0
        while n:
            if call.in_at < 5:
                if call.in_at == 0:
                    call.echo_len = 0           # only the last one is kept
                take = min(5 - call.in_at, n)
                memcpy(call.prefix + call.in_at, data, take)
                call.size = <size_t>call.prefix[1] << 24 | call.prefix[2] << 16 | call.prefix[3] << 8 | call.prefix[4]
            else:
                take = min(5 + call.size - call.in_at, n)
            self.add(call, data, take)
            call.in_at += take
            if call.in_at >= 5 and call.in_at == call.size + 5:
                call.in_at = 0
                call.got += 1
            data += take
            n -= take
        return 0

    cdef int on_half_close(self, Call *call) except -1:
        call.half_closed = True
        call.may_send = STREAMED if call.kind == 1 else 1
        # Some relays end a call like this whose client has gone in the middle of it.
        call.cut_short = call.kind == 2 and call.got != STREAMED
        return self.wake(call)

    cdef int fill(self, Call *call, uint8_t *out, size_t room, uint32_t *flags) except -1:
        cdef nghttp2_nv nva[2]
        cdef size_t n, at = 0
        if call.kind in (1, 2) and not call.half_closed:
            return 0
        if call.cut_short:
            flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
            message = b"%d messages of %d" % (call.got, STREAMED)
            nva[0], nva[1] = header(b"grpc-status", b"13"), header(b"grpc-message", message)
            nghttp2_submit_trailer(self.session, call.id, nva, 2)
            return 0
        while at < room and call.echo_pos < call.echo_len:
            n = min(call.echo_len - call.echo_pos, room - at)
            memcpy(out + at, call.echo + call.echo_pos, n)
            at += n
            call.echo_pos += n
            if call.kind == 1 and call.echo_pos == call.echo_len and call.may_send > 1:
                call.may_send -= 1
                call.echo_pos = 0
        if call.half_closed and call.echo_pos == call.echo_len:
            flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
            nva[0] = header(b"grpc-status", b"0")
            nghttp2_submit_trailer(self.session, call.id, nva, 1)
        return <int>at


cdef class GrpcListener(Listener):
    cdef Peer accepted(self):
        return GrpcBackend()
