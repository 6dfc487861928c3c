from fasttunnel.engine._websocket cimport WebSocketConn


cdef class PublicWebSocket(WebSocketConn):
    cdef bint leaving                   # leave() was called
    cdef bint dismissed                 # our own Close frame has been sent: what the backend still says is dropped

    cdef int dismiss(self) except -1
