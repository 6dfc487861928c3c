"""Forwarded and X-Forwarded-*: what a backend is told of the visitor (RFC 7239)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from fasttunnel.errors import ConfigError

Field = tuple[bytes, bytes]

CHAINS = (b"X-Forwarded-For", b"Forwarded")  # each proxy adds itself


class Networks:
    """Addresses of proxies whose word counts. Raises ConfigError."""

    def __init__(self, networks: Iterable[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}", hint="it looks like 10.0.0.0/8 or 192.0.2.7") from None

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            known = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if known.version == 6 and known.ipv4_mapped is not None:
            known = known.ipv4_mapped
        return any(known in network for network in self._networks)


def forwarding_fields(address: bytes, scheme: bytes, host: bytes, said: Iterable[Field] = ()) -> list[Field]:
    """What the server knows of a peer, added to what it has `said` as a proxy that is trusted."""
    theirs: dict[bytes, list[bytes]] = {}
    for name, value in said:
        if value and b"_" not in name:
            theirs.setdefault(name.title(), []).append(value)
    # RFC 7239 6: an IPv6 address is bracketed and quoted, a name that is not an address is hidden as "unknown".
    node = b'"[%b]"' % address if b":" in address else address
    ours = {
        b"X-Forwarded-For": address,
        b"X-Forwarded-Proto": scheme,
        b"X-Forwarded-Host": host,
        b"Forwarded": b"for=%b;proto=%b" % (node, scheme) + (b';host="%b"' % host if host else b""),
    }
    chained = any(name in theirs for name in CHAINS)
    for name, value in ours.items():
        if name not in CHAINS:
            theirs.setdefault(name, [value])
        elif name in theirs or not chained:  # beside the other chain, this one would take the proxy for the visitor
            theirs.setdefault(name, []).append(value)
    return [(name, b", ".join(values)) for name, values in theirs.items()]
