"""Who may open a tunnel."""

import hashlib
import hmac

from fasttunnel.control.config import Secret


class Authenticator:
    """Checks the `authorization` metadata of a tunnel's call against the token; without a token everybody is let in."""

    def __init__(self, token: Secret | None = None) -> None:
        self._digest = None if token is None else _digest(token.reveal().encode())

    def check(self, authorization: bytes | None) -> str | None:
        """The identity behind `Bearer TOKEN`, or None for a refusal. Takes the same time for every wrong token."""
        if self._digest is None:
            return "anonymous"
        scheme, _, token = (authorization or b"").partition(b" ")
        # Digests, so that not even the length of the token shows in the time that the comparison takes.
        right = hmac.compare_digest(_digest(token.strip()), self._digest)
        return "token" if right and scheme.lower() == b"bearer" else None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
