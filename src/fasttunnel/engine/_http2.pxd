"""HTTP/2 (RFC 9113) over libnghttp2: the only module that links it."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fasttunnel._core cimport Buf, GrpcSplitter, HeaderIter, Msg, Slice
from fasttunnel.engine._exchange cimport Endpoint
from fasttunnel.engine._io cimport Conn
from fasttunnel.engine._nghttp2 cimport nghttp2_nv, nghttp2_session


cdef struct NvList:                     # a header list on its way to the library, reused by one connection
    nghttp2_nv *nv                      # owned
    size_t count
    size_t cap
    Buf text                            # lower-case names and numbers; never grows between nv_start and the submit call

cdef int nv_start(NvList *list, size_t text_bytes) except -1
cdef int nv_add(NvList *list, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1
cdef int nv_add_lower(NvList *list, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1
cdef int nv_add_number(NvList *list, const char *name, uint64_t number) except -1
cdef int nv_add_text(NvList *list, const char *name, const char *value) except -1


cdef class H2Stream(Endpoint):
    """One HTTP/2 stream. Subclasses say what its headers and bytes mean."""
    cdef Http2Conn conn                 # None when the stream is closed
    cdef int32_t id                     # 0: not submitted yet
    cdef Buf rest                       # body bytes received, not yet taken
    cdef Buf out                        # body bytes to send
    cdef size_t out_pos                 # sent of them
    cdef bint lent                      # parts of `out` may be in the queue of the socket
    cdef Buf trailers                   # pairs (uint32 lengths, name, value), sent when `out` is empty and ended
    cdef uint64_t writing               # bytes of the gRPC message in `out` that are still to come
    cdef GrpcSplitter splitter          # of the gRPC messages received
    cdef bint last_sent                 # the last chunk of them has gone into the tunnel
    cdef uint64_t sent                  # body bytes given to the socket since the last written()
    cdef bint deferred                  # the library waits for resume
    cdef bint out_end                   # nothing more will be added to `out`
    cdef bint receive_end               # END_STREAM has come
    cdef bint touched                   # in the connection's list for pump()
    cdef bint listed_sent
    cdef bint end_request               # when our side has ended, tell the peer that the rest of its request is not wanted

    cdef int on_header(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1
    cdef int on_headers(self) except -1                 # a header block is complete (receive_end says whether it is the last)
    cdef int on_data(self, const uint8_t *data, size_t n) except -1
    cdef int pump(self) except -1                       # after a read that touched this stream
    cdef int on_closed(self, uint32_t error_code) except -1     # the stream, or its connection, is gone
    cdef size_t out_available(self) noexcept
    cdef int emit(self, const uint8_t *frame_head, size_t length) except -1

    cdef int take(self, size_t n) except -1             # drop n bytes of `rest`, renew the stream's window
    cdef int used(self, size_t n) except -1             # the same of bytes that were never there
    cdef int write(self, const uint8_t *data, size_t n) except -1
    cdef int write_chunk(self, const Msg *m) except -1  # of gRPC
    cdef size_t send_messages(self, const uint8_t *data, size_t n, bint pumped, int *result) except? 0xffffffffffffffff
    cdef int send_message(self, Msg *m, bint last) except -1        # into the tunnel: a gRPC message, its fragment, or none
    cdef bint overfull(self) noexcept
    cdef int write_end(self) except -1
    cdef int add_trailer(self, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) except -1
    cdef int resume(self) except -1                     # there is output: have it sent
    cdef int undefer(self) except -1                    # the same from within fill(), which sends it
    cdef int rst(self, uint32_t error_code) except -1


cdef class Http2Conn(Conn):
    cdef nghttp2_session *session       # owned
    cdef NvList nv
    cdef dict streams                   # id -> H2Stream, open ones
    cdef list touched
    cdef list sent_streams
    cdef object error                   # exception raised in a callback, for after the drive call
    cdef bint out_full                  # the library was stopped because `out` is long
    cdef bint auto_window               # the library renews the windows
    cdef size_t head_bytes              # of the head that is being received (RFC 9113 6.5.2)
    cdef size_t head_limit
    cdef bint server
    cdef bint settled                   # the peer's SETTINGS have come
    cdef bint going_away                # GOAWAY has come or gone: no new streams

    cdef int start_session(self, bint server, bint auto_window, uint32_t stream_window, uint32_t connection_window,
                           uint32_t max_frame, uint32_t max_streams, uint32_t max_header_list) except -1
    cdef H2Stream new_stream(self)                      # server: a peer opens one
    cdef int on_goaway(self, int32_t last_stream_id, uint32_t error_code) except -1
    cdef int on_stream_gone(self, H2Stream stream) except -1

    cdef int pump_touched(self) except -1
    cdef int raise_error(self) except -1
    cdef int attach(self, H2Stream stream, int32_t stream_id) except -1
    cdef int detach(self, int32_t stream_id, uint32_t error_code) except -1
    cdef int touch_stream(self, H2Stream stream) except -1
    cdef int submit_trailers(self, H2Stream stream) except -1
    cdef int submit_informational(self, H2Stream stream) except -1         # headers from self.nv
    cdef int submit_response(self, H2Stream stream, bint body) except -1
    cdef int submit_request(self, H2Stream stream, bint body) except -1
    cdef int go_away(self) except -1
    cdef int terminate(self, uint32_t error_code) except -1
    cdef int announce_go_away(self) except -1
    cdef int ping(self) except -1
    cdef uint32_t peer_max_frame(self) noexcept          # the peer's MAX_FRAME_SIZE
    cdef uint32_t peer_max_streams(self) noexcept        # the peer's MAX_CONCURRENT_STREAMS
