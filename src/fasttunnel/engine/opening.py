"""How sockets come to be: listening ones, and connections to hosts that are named."""

from __future__ import annotations

import asyncio
import errno
import socket

from fasttunnel.engine._socket import Socket

Address = tuple[object, ...]

# A host may have addresses of a family, or of an interface, that this machine does not have.
NOT_HERE = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)


async def listening_sockets(host: str, port: int, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """One for each address of the host that this machine has. Raises OSError."""
    found = await _look_up(host, port, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in dict.fromkeys(found):
            try:
                sockets.append(_listening_socket(family, address, backlog, reuse_port))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listening_socket(family: int, address: Address, backlog: int, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


async def _look_up(host: str, port: int, flags: int = 0) -> list[tuple[int, Address]]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:  # such as a..b, which IDNA does not take
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return [(family, address) for family, _, _, _, address in found]


async def connect(conn: Socket, host: str, port: int) -> None:
    """Connect to the first address of the host that takes it. Raises the OSError of the last one."""
    found = await _look_up(host, port)
    for number, (family, address) in enumerate(found, 1):
        try:
            sock = await _connected(family, address)
        except OSError:
            if number == len(found):
                raise
        else:
            conn.adopt_descriptor(sock.detach())
            return


async def _connected(family: int, address: Address) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
