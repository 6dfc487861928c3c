"""What RFC 9112 leaves parsers room to differ in, and h11 takes: refused, for two that differ can be played off.

All look at the bytes that h11 is about to parse, and raise BadMessage. `checked` of them were looked at before.
"""

import re

from fasttunnel.reference.messages import BadMessage

# Lines ended by a bare LF, a bare CR, NUL, folded lines (RFC 9112 2.2, 5.2).
_SLOPPY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00|\r\n[ \t]")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;[^\x00-\x08\x0a-\x1f\x7f]{0,16384})?")
_CODING = re.compile(rb"(?i:\r\ntransfer-encoding):(.*?)(?=\r\n)")
_LENGTH = re.compile(rb"(?i:\r\ncontent-length):[ \t]*(.*?)[ \t]*(?=\r\n)")


def check_head(data: bytes, limit: int, checked: int = 0) -> None:
    """The head of a message, as far as it has come."""
    end = b"\r\n\r\n"
    head = _lines(data, end, limit, 431, checked)
    if not head.endswith(end):
        return
    codings, lengths = _CODING.findall(head), _LENGTH.findall(head)
    if lengths and (codings or len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,19}", lengths[0])):  # RFC 9110 8.6
        raise BadMessage("bad Content-Length, two, or one with Transfer-Encoding", status=400)
    if codings:  # 6.3: the last has to be chunked; 6.1: and only that
        names = [name.strip().lower() for name in codings[0].split(b",")]
        if len(codings) > 1 or names[-1] != b"chunked" or names.count(b"chunked") > 1:
            raise BadMessage("bad Transfer-Encoding", status=400)


def chunk_has_come(data: bytes, limit: int, checked: int = 0, *, first: bool) -> int | None:
    """The length of a chunk's extension once it and a byte of the chunk are there, or behind the last one all trailers.

    None: that has not come. RFC 9112 7.1.
    """
    data = data if first else data.removeprefix(b"\r\n")  # of the chunk before
    line, ended, rest = data.partition(b"\r\n")
    match = _CHUNK.fullmatch(line)
    if ended and not match:
        raise BadMessage("bad chunk", status=400)
    last = bool(ended and match and not match[1].strip(b"0"))
    end = b"\r\n\r\n" if last else b"\r\n"
    come = end in _lines(data, end, limit, 400, checked - 2) and rest
    return len(line) - len(match[1]) if come and match else None


def _lines(data: bytes, end: bytes, limit: int, status: int, checked: int) -> bytes:
    """The data up to `end`, all of it if that has not come."""
    at = data.find(end)
    lines = data[: at + len(end)] if at >= 0 else data
    if len(lines) > limit:
        raise BadMessage(f"head above {limit} bytes", status=status)
    if _SLOPPY.search(lines, max(0, checked - 2)):  # what has come byte by byte is not looked at again and again
        raise BadMessage("bare CR or LF, NUL or a folded line", status=400)
    return lines
