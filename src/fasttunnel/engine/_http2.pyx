"""HTTP/2 connections on libnghttp2, for the tunnel, the public side and backends alike.

The library keeps HPACK, flow control and the rules of RFC 9113; it is driven from two places only: feed() (input) and
fill() (output, once per loop iteration). Its callbacks never raise: an exception is kept and raised after the drive call.
Body bytes are sent without the library's copy (NO_COPY): emit() places frame header and payload.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset, strlen

from fasttunnel._core cimport (
    Buf, GRPC_BLOCKED, GRPC_NEED_MORE, GRPC_PIECE, GrpcPiece, Msg, buf_append, buf_consume, buf_free, buf_reserve, grpc_prefix,
    grpc_split, grpc_whole, hdr_lower,
)
from fasttunnel.engine._io cimport THROUGH_BYTES
from fasttunnel.engine._out cimport out_append
from fasttunnel.engine._nghttp2 cimport *

cdef enum:
    OUT_LIMIT = 524288                  # the library is asked for no more while this much waits for the socket
    PARTS_LIMIT = 64                    # the same, of long frames that are written from where they lie
    TOO_LONG = 4                        # times the limit of a head: no more of it is looked at
    OVERFULL = 4194304                  # of one stream, beyond what its window lets come
    PER_CREDIT = 6                      # bytes that a message of one byte needs


def nghttp2_version_text():
    return nghttp2_version(0).version_str.decode()


class Http2Error(Exception):
    """The peer broke HTTP/2 beyond what the library answers by itself."""


# -- header lists ------------------------------------------------------------------------------------------------------------

cdef int nv_start(NvList *list, size_t text_bytes) except -1:
    list.count = 0
    list.text.len = 0
    if buf_reserve(&list.text, text_bytes) < 0:
        raise MemoryError
    return 0


cdef int nv_add(NvList *list, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
    cdef nghttp2_nv *nv
    if list.count == list.cap:
        nv = <nghttp2_nv *>realloc(list.nv, (list.cap * 2 + 32) * sizeof(nghttp2_nv))
        if nv == NULL:
            raise MemoryError
        list.nv = nv
        list.cap = list.cap * 2 + 32
    nv = &list.nv[list.count]
    nv.name = <uint8_t *>name
    nv.namelen = name_len
    nv.value = <uint8_t *>value
    nv.valuelen = value_len
    nv.flags = NGHTTP2_NV_FLAG_NONE
    list.count += 1
    return 0


cdef int nv_add_lower(NvList *list, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
    cdef uint8_t *lower = list.text.data + list.text.len
    if list.text.cap - list.text.len < name_len:
        raise MemoryError("header names beyond the room that was reserved")
    hdr_lower(lower, name, name_len)
    list.text.len += name_len
    return nv_add(list, lower, name_len, value, value_len)


cdef int nv_add_number(NvList *list, const char *name, uint64_t number) except -1:
    cdef uint8_t digits[20]
    cdef size_t n = 0
    cdef uint8_t *text = list.text.data + list.text.len
    if list.text.cap - list.text.len < 20:
        raise MemoryError("header names beyond the room that was reserved")
    while True:
        digits[n] = <uint8_t>(48 + number % 10)
        n += 1
        number //= 10
        if number == 0:
            break
    list.text.len += n
    nv_add(list, <const uint8_t *>name, strlen(name), text, n)
    while n:
        n -= 1
        text[0] = digits[n]
        text += 1
    return 0


cdef int nv_add_text(NvList *list, const char *name, const char *value) except -1:
    return nv_add(list, <const uint8_t *>name, strlen(name), <const uint8_t *>value, strlen(value))


# -- callbacks of the library ------------------------------------------------------------------------------------------------

cdef int fail_callback(Http2Conn conn, object error) noexcept:
    if conn.error is None:
        conn.error = error
    return NGHTTP2_ERR_CALLBACK_FAILURE


cdef ssize_t cb_send(nghttp2_session *session, const uint8_t *data, size_t length, int flags, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    try:
        if conn.out.len > OUT_LIMIT or conn.queue_len > PARTS_LIMIT:
            conn.out_full = True
            return NGHTTP2_ERR_WOULDBLOCK
        out_append(&conn.out, data, length)
        return <ssize_t>length
    except BaseException as error:
        return fail_callback(conn, error)


cdef int cb_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                      nghttp2_data_source *source, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    cdef H2Stream stream = <H2Stream>source.ptr
    try:
        if conn.out.len > OUT_LIMIT or conn.queue_len > PARTS_LIMIT:
            conn.out_full = True
            return NGHTTP2_ERR_WOULDBLOCK
        stream.emit(head, length)
        return 0
    except BaseException as error:
        return fail_callback(conn, error)


cdef ssize_t cb_read_length(nghttp2_session *session, uint8_t frame_type, int32_t stream_id, int32_t session_window,
                            int32_t stream_window, uint32_t max_frame, void *user) noexcept:
    cdef H2Stream stream
    cdef void *data = nghttp2_session_get_stream_user_data(session, stream_id)
    cdef int32_t length = min(session_window, stream_window)
    if <uint32_t>length > max_frame:
        length = <int32_t>max_frame
    if data != NULL:
        # Exactly what there is: the library makes room for as much as it is told.
        stream = <H2Stream>data
        if <size_t>length > stream.out_available():
            length = max(<int32_t>stream.out_available(), 1)
    return length


cdef ssize_t cb_read(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length, uint32_t *flags,
                     nghttp2_data_source *source, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    cdef H2Stream stream = <H2Stream>source.ptr
    cdef size_t available = stream.out_available()
    try:
        if available == 0 and not stream.out_end:
            stream.deferred = True
            return NGHTTP2_ERR_DEFERRED
        flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
        if available <= length:
            length = available
            if stream.out_end:
                flags[0] |= NGHTTP2_DATA_FLAG_EOF
                if stream.trailers.len:
                    flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
                    conn.submit_trailers(stream)
        return <ssize_t>length
    except BaseException as error:
        return fail_callback(conn, error)


cdef int cb_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user) noexcept:
    cdef void *stream
    if frame.hd.flags & NGHTTP2_FLAG_END_STREAM and (frame.hd.type == NGHTTP2_HEADERS or frame.hd.type == NGHTTP2_DATA):
        stream = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
        if stream != NULL and (<H2Stream>stream).end_request:
            # Only now: from the moment a reset is queued, the library sends nothing more on the stream.
            nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


cdef int cb_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    cdef H2Stream stream
    conn.head_bytes = 0
    if frame.hd.type != NGHTTP2_HEADERS or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    try:
        stream = conn.new_stream()
        conn.attach(stream, frame.hd.stream_id)
        nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, <void *>stream)
        return 0
    except BaseException as error:
        return fail_callback(conn, error)


cdef int cb_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                   const uint8_t *value, size_t value_len, uint8_t flags, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    cdef void *stream = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    conn.head_bytes += name_len + value_len + 32
    if conn.head_bytes > conn.head_limit:
        # A byte of HPACK may stand for 4 KiB: what follows is decoded for the table's sake, and looked at no more.
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_ENHANCE_YOUR_CALM)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    if stream == NULL:
        return 0
    try:
        (<H2Stream>stream).on_header(name, name_len, value, value_len)
        return 0
    except BaseException as error:
        return fail_callback(conn, error)


cdef int cb_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    cdef void *data
    cdef H2Stream stream
    try:
        if frame.hd.type == NGHTTP2_HEADERS or frame.hd.type == NGHTTP2_DATA:
            data = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            if data == NULL:
                return 0
            stream = <H2Stream>data
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                stream.receive_end = True
                conn.touch_stream(stream)
            if frame.hd.type == NGHTTP2_HEADERS:
                stream.on_headers()
                conn.touch_stream(stream)
        elif frame.hd.type == NGHTTP2_SETTINGS:
            if not frame.hd.flags & NGHTTP2_FLAG_ACK:
                conn.settled = True
        elif frame.hd.type == NGHTTP2_GOAWAY:
            conn.going_away = True
            conn.on_goaway(frame.goaway.last_stream_id, frame.goaway.error_code)
        return 0
    except BaseException as error:
        return fail_callback(conn, error)


cdef int cb_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t length,
                 void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    cdef void *stream
    try:
        if not conn.auto_window:
            nghttp2_session_consume_connection(session, length)
        stream = nghttp2_session_get_stream_user_data(session, stream_id)
        if stream == NULL:
            if not conn.auto_window:
                nghttp2_session_consume_stream(session, stream_id, length)
            return 0
        return (<H2Stream>stream).on_data(data, length)
    except BaseException as error:
        return fail_callback(conn, error)


cdef int cb_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user) noexcept:
    cdef Http2Conn conn = <Http2Conn>user
    try:
        conn.detach(stream_id, error_code)
        return 0
    except BaseException as error:
        return fail_callback(conn, error)


cdef nghttp2_session_callbacks *CALLBACKS = NULL

cdef int make_callbacks() except -1:
    global CALLBACKS
    if nghttp2_session_callbacks_new(&CALLBACKS) != 0:
        raise MemoryError
    nghttp2_session_callbacks_set_send_callback(CALLBACKS, cb_send)
    nghttp2_session_callbacks_set_send_data_callback(CALLBACKS, cb_send_data)
    nghttp2_session_callbacks_set_data_source_read_length_callback(CALLBACKS, cb_read_length)
    nghttp2_session_callbacks_set_on_frame_recv_callback(CALLBACKS, cb_frame_recv)
    nghttp2_session_callbacks_set_on_frame_send_callback(CALLBACKS, cb_frame_sent)
    nghttp2_session_callbacks_set_on_begin_headers_callback(CALLBACKS, cb_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(CALLBACKS, cb_header)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(CALLBACKS, cb_data)
    nghttp2_session_callbacks_set_on_stream_close_callback(CALLBACKS, cb_stream_close)
    return 0

make_callbacks()


# -- streams -------------------------------------------------------------------------------------------------------------------

cdef class H2Stream(Endpoint):
    def __dealloc__(self):
        buf_free(&self.rest)
        buf_free(&self.out)
        buf_free(&self.trailers)

    cdef int on_header(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
        return 0

    cdef int on_headers(self) except -1:
        return 0

    cdef int on_data(self, const uint8_t *data, size_t n) except -1:
        if buf_append(&self.rest, data, n) < 0:
            raise MemoryError
        return self.conn.touch_stream(self)

    cdef int pump(self) except -1:
        return 0

    cdef int on_closed(self, uint32_t error_code) except -1:
        return 0

    cdef size_t out_available(self) noexcept:
        return self.out.len - self.out_pos

    cdef int emit(self, const uint8_t *frame_head, size_t length) except -1:
        cdef Http2Conn conn = self.conn
        cdef uint8_t *data = self.out.data + self.out_pos
        cdef bint last = self.out_pos + length == self.out.len
        self.out_pos += length
        out_append(&conn.out, frame_head, 9)
        if length < THROUGH_BYTES and not (last and self.lent):
            out_append(&conn.out, data, length)
        else:
            # Written from here, before anything can be added to `out`; what the socket does not take then is copied. The
            # last part takes the memory with it, which those before it need as well.
            conn.put(&conn.out)
            conn.put_part(self.out.data if last else NULL, data, length)
            self.lent = not last
            if last:
                memset(&self.out, 0, sizeof(Buf))
        if last:
            buf_free(&self.out)
            self.out_pos = 0
        self.sent += length
        if not self.listed_sent and length:
            self.listed_sent = True
            conn.sent_streams.append(self)
        return 0

    cdef int take(self, size_t n) except -1:
        if n:
            buf_consume(&self.rest, n)
        return self.used(n)

    cdef int used(self, size_t n) except -1:
        if n and self.conn is not None:
            nghttp2_session_consume_stream(self.conn.session, self.id, n)
            self.conn.touch()
        return 0

    cdef int write(self, const uint8_t *data, size_t n) except -1:
        if n and self.conn is not None:
            if self.out_pos > 65536 and self.out_pos * 2 > self.out.len:
                buf_consume(&self.out, self.out_pos)
                self.out_pos = 0
            if buf_append(&self.out, data, n) < 0:
                raise MemoryError
            self.resume()
        return 0

    cdef int write_chunk(self, const Msg *m) except -1:
        """The gRPC message of a chunk, or its fragment. Returns 1 when fragments are not what the first one announced."""
        cdef size_t n = m.body.len
        cdef bint begins = self.writing == 0
        if m.body.ptr == NULL or self.conn is None:
            return 0
        if begins:
            if m.more and m.message_bytes <= n:
                return 1
            self.writing = m.message_bytes if m.more else n
        if n > self.writing or (n == self.writing) == m.more:
            return 1
        if begins:
            if buf_reserve(&self.out, n + 5) < 0:
                raise MemoryError
            grpc_prefix(self.out.data + self.out.len, m.compressed, <uint32_t>self.writing)
            self.out.len += 5
        self.writing -= n
        return self.write(m.body.ptr, n) if n else self.resume()

    cdef size_t send_messages(self, const uint8_t *data, size_t n, bint pumped, int *result) except? 0xffffffffffffffff:
        """Cut gRPC messages out and send each as a chunk. Returns the bytes used; `result` says what came behind them.

        Unless it is `pumped`, whole messages only.
        """
        cdef Msg m
        cdef GrpcPiece piece
        cdef size_t pos = 0, used = 0
        cdef uint64_t credit
        result[0] = GRPC_NEED_MORE
        while self.exchange is not None and not self.last_sent and (
                pumped or grpc_whole(&self.splitter, data + pos, n - pos)):
            credit = self.exchange.sendable()
            if credit == 0 and self.exchange.congested():
                result[0] = GRPC_BLOCKED
                break
            result[0] = grpc_split(&self.splitter, data + pos, n - pos, credit, &used, &piece)
            pos += used
            if result[0] != GRPC_PIECE:
                break
            memset(&m, 0, sizeof(m))
            m.body.ptr = piece.body
            m.body.len = piece.body_len
            m.compressed = piece.compressed
            m.more = piece.more
            if piece.first and piece.more:
                m.message_bytes = piece.message_bytes
            self.send_message(&m, pumped and self.receive_end and pos == n and not piece.more)
        return pos

    cdef int send_message(self, Msg *m, bint last) except -1:
        raise NotImplementedError

    cdef bint overfull(self) noexcept:
        """More waits than windows explain: empty messages, which cost no credit, faster than the peer reads."""
        cdef size_t explained = PER_CREDIT * <size_t>self.exchange.window if self.exchange is not None else 0
        return self.out.len - self.out_pos > OVERFULL + explained

    cdef int write_end(self) except -1:
        self.out_end = True
        return self.resume()

    cdef int add_trailer(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1:
        cdef uint32_t lengths[2]
        lengths[0] = <uint32_t>name_len
        lengths[1] = <uint32_t>value_len
        if (buf_append(&self.trailers, <const uint8_t *>lengths, 8) < 0
                or buf_append(&self.trailers, name, name_len) < 0
                or buf_append(&self.trailers, value, value_len) < 0):
            raise MemoryError
        return 0

    cdef int resume(self) except -1:
        if self.conn is not None:
            self.undefer()
            self.conn.touch()
        return 0

    cdef int undefer(self) except -1:
        if self.deferred:
            self.deferred = False
            nghttp2_session_resume_data(self.conn.session, self.id)
        return 0

    cdef int rst(self, uint32_t error_code) except -1:
        if self.conn is not None and self.id:
            nghttp2_submit_rst_stream(self.conn.session, NGHTTP2_FLAG_NONE, self.id, error_code)
            self.conn.touch()
        return 0


# -- connections ---------------------------------------------------------------------------------------------------------------

cdef class Http2Conn(Conn):
    def __cinit__(self, *args, **kwargs):
        self.streams = {}
        self.touched = []
        self.sent_streams = []

    def __dealloc__(self):
        if self.session != NULL:
            nghttp2_session_del(self.session)
        free(self.nv.nv)
        buf_free(&self.nv.text)

    cdef int start_session(self, bint server, bint auto_window, uint32_t stream_window, uint32_t connection_window,
                           uint32_t max_frame, uint32_t max_streams, uint32_t max_header_list) except -1:
        """Make the session and queue our SETTINGS.

        auto_window: the library renews windows as data comes; otherwise take() renews a stream's when its bytes are used.
        """
        cdef nghttp2_option *option = NULL
        cdef nghttp2_settings_entry settings[5]
        cdef size_t n = 0
        cdef int code
        if nghttp2_option_new(&option) != 0:
            raise MemoryError
        nghttp2_option_set_no_auto_window_update(option, not auto_window)
        nghttp2_option_set_no_closed_streams(option, 1)
        # Until the peer's SETTINGS have come: more streams at once might be refused.
        nghttp2_option_set_peer_max_concurrent_streams(option, 1)
        nghttp2_option_set_max_send_header_block_length(option, 4194304)
        self.server = server
        if server:
            code = nghttp2_session_server_new2(&self.session, CALLBACKS, <void *>self, option)
        else:
            code = nghttp2_session_client_new2(&self.session, CALLBACKS, <void *>self, option)
        nghttp2_option_del(option)
        if code != 0:
            raise MemoryError
        self.auto_window = auto_window
        self.head_limit = TOO_LONG * max_header_list
        if not server:
            settings[n].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
            settings[n].value = 0
            n += 1
        settings[n].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        settings[n].value = max_streams
        n += 1
        settings[n].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[n].value = stream_window
        n += 1
        settings[n].settings_id = NGHTTP2_SETTINGS_MAX_FRAME_SIZE
        settings[n].value = max_frame
        n += 1
        settings[n].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[n].value = max_header_list
        n += 1
        nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, settings, n)
        nghttp2_session_set_local_window_size(self.session, NGHTTP2_FLAG_NONE, 0, <int32_t>connection_window)
        return self.touch()

    def leave(self):
        self.go_away()
        if self.streams:
            return
        if self.is_link:
            self.finish()
        else:
            self.close()

    # -- what subclasses override

    cdef H2Stream new_stream(self):
        raise NotImplementedError

    cdef int on_goaway(self, int32_t last_stream_id, uint32_t error_code) except -1:
        return 0

    cdef int on_stream_gone(self, H2Stream stream) except -1:
        return 0

    # -- input and output

    cdef size_t held(self) noexcept:
        cdef H2Stream stream
        cdef size_t total = self.rest.len + self.out.len
        for stream in self.streams.values():
            total += stream.rest.len + stream.out_available() + stream.trailers.len
        return total

    cdef Py_ssize_t feed(self, const uint8_t *data, size_t n) except -1:
        cdef ssize_t used
        if n == 0:
            return 0
        used = nghttp2_session_mem_recv(self.session, data, n)
        self.raise_error()
        if used < 0:
            # Nothing sensible can be said to this peer any more: bad preface, flood, or no memory.
            self.abort()
            return <Py_ssize_t>n
        self.pump_touched()
        if nghttp2_session_want_write(self.session):
            self.touch()
        elif not nghttp2_session_want_read(self.session):
            self.finish()
        return <Py_ssize_t>n

    cdef int pump_touched(self) except -1:
        cdef H2Stream stream
        cdef list touched
        while self.touched:
            touched = self.touched
            self.touched = []
            for stream in touched:
                stream.touched = False
                if stream.conn is not None:
                    stream.pump()
        return 0

    cdef int fill(self) except -1:
        cdef int code
        self.out_full = False
        code = nghttp2_session_send(self.session)
        self.raise_error()
        if code < 0:
            self.abort()
        elif self.out_full:
            self.touch()
        elif not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(self.session):
            self.finish()
        return 0

    cdef int written(self) except -1:
        cdef H2Stream stream
        cdef list sent
        cdef uint64_t n
        if self.sent_streams:
            sent = self.sent_streams
            self.sent_streams = []
            for stream in sent:
                n = stream.sent
                stream.sent = 0
                stream.listed_sent = False
                if stream.exchange is not None:
                    stream.exchange.consumed(n)
        return 0

    cdef int raise_error(self) except -1:
        cdef object error = self.error
        if error is not None:
            self.error = None
            raise error
        return 0

    cdef int on_lost(self, object exc) except -1:
        cdef H2Stream stream
        cdef dict streams = self.streams
        self.streams = {}
        self.touched = []
        self.sent_streams = []
        for stream in streams.values():
            stream.conn = None
            stream.on_closed(NGHTTP2_INTERNAL_ERROR)
        return 0

    # -- streams

    cdef int attach(self, H2Stream stream, int32_t stream_id) except -1:
        stream.conn = self
        stream.id = stream_id
        self.streams[stream_id] = stream
        return 0

    cdef int detach(self, int32_t stream_id, uint32_t error_code) except -1:
        cdef H2Stream stream = self.streams.pop(stream_id, None)
        if stream is not None:
            nghttp2_session_set_stream_user_data(self.session, stream_id, NULL)
            if self.flushing and stream.lent:       # what was lent is still to be written
                self.put_part(stream.out.data, stream.out.data, 0)
                memset(&stream.out, 0, sizeof(Buf))
                stream.out_pos = 0
            if stream.touched and error_code == NGHTTP2_NO_ERROR:
                stream.pump()           # what came in the same read as the end
            stream.conn = None
            stream.on_closed(error_code)
            self.on_stream_gone(stream)
            if self.going_away and not self.streams:
                self.finish()
        return 0

    cdef int finish(self) except -1:
        """After an answer, or what explains that there is none, which the peer may not have read yet."""
        return Conn.finish(self) if self.server else self.close()

    cdef int touch_stream(self, H2Stream stream) except -1:
        if not stream.touched:
            stream.touched = True
            self.touched.append(stream)
        return 0

    cdef int submit_informational(self, H2Stream stream) except -1:
        nghttp2_submit_headers(self.session, NGHTTP2_FLAG_NONE, stream.id, NULL, self.nv.nv, self.nv.count, NULL)
        return self.touch()

    cdef int submit_response(self, H2Stream stream, bint body) except -1:
        cdef nghttp2_data_provider provider
        provider.source.ptr = <void *>stream
        provider.read_callback = cb_read
        nghttp2_submit_response(self.session, stream.id, self.nv.nv, self.nv.count, &provider if body else NULL)
        return self.touch()

    cdef int submit_request(self, H2Stream stream, bint body) except -1:
        """Open a stream with the header list in `nv`. Returns 0, or 1 when the connection takes no more streams."""
        cdef nghttp2_data_provider provider
        cdef int32_t stream_id
        provider.source.ptr = <void *>stream
        provider.read_callback = cb_read
        stream_id = nghttp2_submit_request(
            self.session, NULL, self.nv.nv, self.nv.count, &provider if body else NULL, <void *>stream)
        if stream_id < 0:
            return 1
        self.attach(stream, stream_id)
        self.touch()
        return 0

    cdef int submit_trailers(self, H2Stream stream) except -1:
        cdef const uint8_t *p = stream.trailers.data
        cdef const uint8_t *end = p + stream.trailers.len
        cdef uint32_t lengths[2]
        nv_start(&self.nv, 0)
        while p < end:
            memcpy(lengths, p, 8)
            nv_add(&self.nv, p + 8, lengths[0], p + 8 + lengths[0], lengths[1])
            p += 8 + lengths[0] + lengths[1]
        nghttp2_submit_trailer(self.session, stream.id, self.nv.nv, self.nv.count)
        return 0

    cdef int go_away(self) except -1:
        """No new streams; those under way finish (RFC 9113 6.8)."""
        if not self.going_away and self.attached:
            self.going_away = True
            nghttp2_submit_goaway(self.session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(self.session),
                                  NGHTTP2_NO_ERROR, NULL, 0)
            self.touch()
        return 0

    cdef int terminate(self, uint32_t error_code) except -1:
        """GOAWAY, and then the end (RFC 9113 5.4.1)."""
        nghttp2_session_terminate_session(self.session, error_code)
        return self.touch()

    cdef int announce_go_away(self) except -1:
        """A first GOAWAY, which turns no stream away (RFC 9113 6.8)."""
        if not self.going_away and self.attached:
            nghttp2_submit_shutdown_notice(self.session)
            self.touch()
        return 0

    cdef int ping(self) except -1:
        nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL)
        return self.touch()

    cdef uint32_t peer_max_streams(self) noexcept:
        return nghttp2_session_get_remote_settings(self.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)

    cdef uint32_t peer_max_frame(self) noexcept:
        return nghttp2_session_get_remote_settings(self.session, NGHTTP2_SETTINGS_MAX_FRAME_SIZE)
