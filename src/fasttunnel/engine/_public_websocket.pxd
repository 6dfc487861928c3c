from fasttunnel.engine._websocket cimport WebSocketConn


cdef class PublicWebSocket(WebSocketConn):
    cdef bint leaving                   # leave() was called
    cdef bint dismissed                 # our own Close frame has been sent: what the backend still says is dropped
    cdef double ping_interval_s         # 0: no pings of ours
    cdef bint heard                     # something has come since the last tick
    cdef bint pinged                    # our Ping is not answered yet
    cdef int lost_close                 # code of the Close frame when the tunnel is lost; ABNORMAL: none is sent

    cdef int watch(self, double ping_interval_s) except -1
    cdef int tick(self) except -1
    cdef int dismiss(self) except -1
