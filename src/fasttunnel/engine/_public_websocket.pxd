from fasttunnel.engine._websocket cimport WebSocketConn


cdef class PublicWebSocket(WebSocketConn):
    pass
