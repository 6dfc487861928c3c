from collections.abc import Collection, Sequence

class TlsError(ConnectionError):
    """The peer and we do not come to terms, or it has broken TLS."""

class TlsContext:
    """What the connections of a port, or to a peer, have in common. Raises ConfigError."""

    server: bool
    unsecured: bytes
    verified: bool
    def __new__(
        cls,
        server: bool,
        certificates: Sequence[tuple[str, str]],
        protocols: Sequence[str],
        ca: str | None = None,
        pins: Collection[bytes] = ...,
        verify: bool = True,
        unsecured: bytes = b"",
    ) -> TlsContext: ...

def openssl_version() -> str: ...
