"""What of a request may be shown: secrets in header fields and queries are replaced, whatever is asked for.

Names decide. What an application hides in a path or a body nobody can know.
"""

import re
from typing import Final
from urllib.parse import unquote_plus

REDACTED: Final = "****"

_WORDS = (
    "auth|cookie|token|secret|passw|pwd|passphrase|credential|api.?key|access.?key|private.?key|session.?(id|key)|jwt|"
    "signature|csrf|xsrf|assertion"
)
_FIELD = re.compile(_WORDS, re.IGNORECASE)
# Of queries also: those of OAuth 2.0 (RFC 6749), and of links that are signed (sig, X-Amz-Signature).
_PARAMETER = re.compile(rf"{_WORDS}|^(key|code|state|nonce|sig|sid|session|hash|hmac|otp|pin)$", re.IGNORECASE)
_PAIR = re.compile(r"(?P<start>[?&;#]|^)(?P<name>[^=&;#?\s\"']+)=(?P<value>[^&;#\s\"']*)")
_BEARER = re.compile(r"\b(bearer|basic)([ .,]+)[^\s,;\"']+", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[\w-]{8,}(\.[\w-]*)*")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def query(text: str) -> str:
    """The query of a URL."""
    return _JWT.sub(REDACTED, _PAIR.sub(_pair, text))


def _pair(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    return f"{found['start']}{name}={REDACTED if value and _PARAMETER.search(_plain(name)) else value}"


def _plain(name: str) -> str:
    """Percent-encoding would hide it, and so would a + for a space."""
    return unquote_plus(name)


def field(name: str, value: str) -> str:
    """The value of a header field, of metadata or of a trailer."""
    if _FIELD.search(name):
        return REDACTED
    value = _JWT.sub(REDACTED, _USERINFO.sub(REDACTED, _BEARER.sub(rf"\1\2{REDACTED}", value)))
    # Referer, Location and those that proxies add hold URLs.
    start = re.search("[?#]", value)
    return value[: start.start()] + query(value[start.start() :]) if start is not None else value
