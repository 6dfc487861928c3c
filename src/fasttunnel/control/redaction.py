"""What of a request may be shown: secrets in header fields and queries are replaced, whatever is asked for.

Names decide. What an application hides in a path or a body nobody can know.
"""

import re
from typing import Final
from urllib.parse import unquote_plus

REDACTED: Final = "****"

_DEEP: Final = 4  # URLs in URLs; what is deeper is not shown

_WORDS = (
    "auth|cookie|token|secret|passw|pwd|passphrase|credential|api.?key|access.?key|private.?key|session.?(id|key)|jwt|"
    "signature|csrf|xsrf|assertion|hmac|ticket|sessid|(subscription|functions?|app|application|master|shared).?key|"
    "(^|[-_.])(otp|pin|session)$"
)
_FIELD = re.compile(rf"{_WORDS}|^(x-)?(key|sig|sid)$", re.IGNORECASE)
# Of queries also: those of OAuth 2.0 (RFC 6749), and of links that are signed (sig, X-Amz-Signature).
_PARAMETER = re.compile(rf"{_WORDS}|^(key|code|state|nonce|sig|sid|hash)$", re.IGNORECASE)
# Not every server ends a value at a semicolon: what follows one is looked at as a part of it.
_PAIR = re.compile(r"(?P<start>[?&;#]|^)(?P<name>[^=&;#?\s]+)=(?P<value>[^&#\s]*)")
_BEARER = re.compile(r"\b(bearer|basic)([ .,]+)[^\s,;\"']+", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[\w-]{8,}(\.[\w-]*)*")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def query(text: str) -> str:
    """The query of a URL."""
    return _clean(text, 0)


def path(text: str) -> str:
    """Its path, which may have parameters as well: ;jsessionid=."""
    start = text.find(";")
    return text if start < 0 else text[:start] + query(text[start:])


def _clean(text: str, depth: int) -> str:
    text = _PAIR.sub(lambda found: _pair(found, depth), text)
    return _JWT.sub(REDACTED, _USERINFO.sub(REDACTED, text))


def _pair(found: re.Match[str], depth: int) -> str:
    name, value = found["name"], found["value"]
    hidden = value and _PARAMETER.search(_plain(name))
    return f"{found['start']}{name}={REDACTED if hidden else _value(value, depth + 1)}"


def _value(value: str, depth: int) -> str:
    """It may be a URL, with a query of its own."""
    if not any(mark in value for mark in "=%@"):
        return value
    if depth > _DEEP:
        return REDACTED
    plain = _plain(value)
    if plain == value:
        return _clean(value, depth)
    return value if _value(plain, depth + 1) == plain else REDACTED


def _plain(name: str) -> str:
    """Percent-encoding would hide it, and so would a + for a space."""
    return unquote_plus(name)


def field(name: str, value: str) -> str:
    """The value of a header field, of metadata or of a trailer."""
    if _FIELD.search(name):
        return REDACTED
    value = _JWT.sub(REDACTED, _USERINFO.sub(REDACTED, _BEARER.sub(rf"\1\2{REDACTED}", value)))
    # Referer, Location and those that proxies add hold URLs.
    start = re.search("[?#;]", value)
    return value[: start.start()] + query(value[start.start() :]) if start is not None else value
