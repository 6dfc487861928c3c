"""Ports that two processes listen on while one takes over from the other (SO_REUSEPORT)."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

OLDEST, NEXT = 0, 1  # in the order in which the processes began to listen

_SO_ATTACH_REUSEPORT_CBPF = 51  # Linux, <asm-generic/socket.h>
_BPF_RET = 6


def steer(descriptor: int, listener: int) -> None:
    """Let one of the processes that share the port of this listening socket have all new connections.

    The kernel would deal them out at random. It does so where it cannot be told, and where there is no such process.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET, 0, 0, listener), 8)
    with contextlib.suppress(OSError), socket.socket(fileno=descriptor) as sock:
        try:
            sock.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(program))
            )
        finally:
            sock.detach()
