"""A WebSocket connection to a backend, from its handshake on."""
from libc.stdint cimport uint8_t, uint32_t

from fasttunnel._core cimport Buf, BodyReader, Msg
from fasttunnel.engine._target cimport Plan, Target
from fasttunnel.engine._exchange cimport Endpoint
from fasttunnel.engine._http1 cimport Head
from fasttunnel.engine._websocket cimport WebSocketConn


cdef class BackendWebSocket(WebSocketConn):
    cdef Target target
    cdef Plan plan
    cdef Head head                      # None once the handshake is over
    cdef bytes nonce                    # our Sec-WebSocket-Key
    cdef bint refused                   # the answer was no 101: its body is being read
    cdef BodyReader reader
    cdef Buf body

    cdef int write_handshake(self, const Msg *m) except -1
    cdef Py_ssize_t read_answer(self, const uint8_t *data, size_t n) except -1
    cdef Py_ssize_t read_refusal(self, const uint8_t *data, size_t n) except -1
    cdef int accepted(self) except -1
    cdef int send_refusal(self) except -1

cdef Endpoint open_websocket(Plan plan)
