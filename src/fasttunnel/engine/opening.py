"""How sockets come to be: listening ones, and connections to hosts that are named."""

from __future__ import annotations

import asyncio
import socket

from fasttunnel.engine._socket import Socket


async def listening_sockets(host: str, port: int, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """One for each address of the host. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(backlog)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def connect(conn: Socket, host: str, port: int) -> None:
    """Connect to the first address of the host that takes it. Raises the OSError of the last one."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for candidate in found:
        family, kind, protocol, _, address = candidate
        with socket.socket(family, kind, protocol) as sock:
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except OSError:
                if candidate is found[-1]:
                    raise
            else:
                conn.adopt_descriptor(sock.detach())
                return
