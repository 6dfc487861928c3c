"""What one address may do: connections at once, and mistakes in a while. Memory is bounded, whoever comes."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum

from fasttunnel import limits


def address_key(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits (RFC 6177: one site has no less).

    An IPv4 address that was mapped into IPv6 is the IPv4 address. Something else, such as "unknown", stays as it is.
    """
    if ":" not in address:
        return address
    try:
        six = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if six.ipv4_mapped is not None:
        return str(six.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(six) >> 64 << 64)}/64"


def host_of(peer: str) -> str:
    """The address in HOST:PORT or [HOST]:PORT."""
    return peer.rpartition(":")[0].strip("[]") or peer


class Verdict(IntEnum):
    """On a connection that has come."""

    WELCOME = 0
    REFUSE = 1  # with words: it is one too many of its address
    DROP = 2  # without: there are as many again that are being refused


class Connections:
    """Open connections of each address to each port, and how many may be; 0: any number. The limit may be changed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: dict[tuple[str, str], int] = {}  # no longer than there are connections

    def enter(self, address: str, port: str) -> Verdict:
        """One has come to a port. `leave` is to be called when it has gone, whatever the verdict."""
        key = port, address_key(address)
        count = self._open[key] = self._open.get(key, 0) + 1
        if count <= self.limit or not self.limit:
            return Verdict.WELCOME
        return Verdict.REFUSE if count <= 2 * self.limit else Verdict.DROP

    def leave(self, address: str, port: str) -> None:
        key = port, address_key(address)
        left = self._open.get(key, 0) - 1
        if left > 0:
            self._open[key] = left
        else:
            self._open.pop(key, None)


class Mistakes:
    """Counts what goes wrong by address: after `limit` times within `within_s` it is barred for as long; 0: never.

    At most limits.ADDRESSES of them are remembered; the one that was heard of least lately is forgotten first.
    """

    def __init__(self, limit: int, within_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._within_s = within_s
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when they are forgotten

    def __len__(self) -> int:
        return len(self._known)

    def barred(self, address: str) -> bool:
        """Whether it has made too many. Coming again while it is barred does not make it longer."""
        if not self.limit:
            return False
        key = address_key(address)
        count, until_s = self._known.get(key, (0, 0.0))
        if count and until_s <= self._clock():
            del self._known[key]
            return False
        return count >= self.limit

    def add(self, address: str) -> bool:
        """One more. Whether it is the one with which the address is barred."""
        if not self.limit:
            return False
        key, now = address_key(address), self._clock()
        count, until_s = self._known.get(key, (0, 0.0))
        if until_s <= now:
            count, until_s = 0, now + self._within_s
        count += 1
        if count == self.limit:
            until_s = now + self._within_s
        self._known[key] = count, until_s
        self._known.move_to_end(key)
        if len(self._known) > limits.ADDRESSES:
            self._known.popitem(last=False)
        return count == self.limit
