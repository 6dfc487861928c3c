"""Load and backends of the suite: an epoll loop with WebSocket, HTTP/1.1 and gRPC, and TLS, far cheaper than what it
measures.

Every payload is a window of one pattern that moves by a step with every message, so that each byte of each answer is
compared with what it must be, and an answer that belongs to another message or connection is noticed.
"""
include "native/loop.pxi"
include "native/websocket.pxi"
include "native/http1.pxi"
include "native/bulk.pxi"
include "native/grpc.pxi"
include "native/tls.pxi"
