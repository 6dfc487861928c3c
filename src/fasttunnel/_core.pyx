# cython: auto_pickle=False
"""The kernels of the data plane, sans-I/O: WebSocket frames, gRPC messages, TunnelMessages, header fields, HTTP/1.1
heads and bodies, and the request table.

`_core.pxd` is what the engine uses. The classes and functions visible from Python (core/face*.pxi) exist for tests: they
copy, and they put every input into a block of exactly its size, so that a sanitizer sees a read beyond it.
"""
from libc.stdint cimport INT32_MAX, UINT32_MAX, UINT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen

import os
from typing import NamedTuple

include "core/cursor.pxi"           # checked reader of foreign bytes, writer
include "core/buffer.pxi"           # growable bytes
include "core/websocket.pxi"        # RFC 6455 frames
include "core/grpc.pxi"             # length-prefixed messages
include "core/message.pxi"          # TunnelMessage
include "core/message_hot.pxi"      # its frames and chunks, without the table
include "core/headers.pxi"          # names, values, hop-by-hop rules
include "core/body.pxi"             # HTTP/1.1 bodies, end of a head
include "core/head.pxi"             # HTTP/1.1 heads and trailers
include "core/table.pxi"            # request_id -> entry
include "core/face.pxi"             # the Python face, for tests
include "core/face_head.pxi"        # and that of heads


_define_fields()
_define_tokens()
_define_methods()
_secret = os.urandom(sizeof(_process_secret))
memcpy(_process_secret, <const uint8_t *><bytes>_secret, sizeof(_process_secret))
del _secret
