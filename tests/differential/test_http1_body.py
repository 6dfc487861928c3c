"""The chunked decoder against h11."""

import re
from collections.abc import Iterator

import h11
import h11._readers
import pytest
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttunnel._core import Body
from tests.support.feeding import Outcome, feed_every_way

CHUNKS = st.lists(st.binary(min_size=1, max_size=60), max_size=5)
EXTENSION = st.sampled_from([b"", b"", b";a", b" ;a=b", b';a="b c"', b"  "])
PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"0", b"1", b"5", b"a", b"F", b";", b" ", b"\t", b"x", b"0\r\n", b"5\r\nhello\r\n", b"\x00"]
)


@pytest.fixture(scope="module", autouse=True)
def _white_space_before_extensions() -> Iterator[None]:
    """RFC 9112 7.1.1 has a recipient take bad white space before the semicolon; h11 does not."""
    with pytest.MonkeyPatch.context() as patch:
        pattern = re.compile(rb"(?P<chunk_size>[0-9A-Fa-f]{1,20})(?P<chunk_ext>[ \t]*;.*)?[ \t]*\r\n")
        patch.setattr(h11._readers, "chunk_header_re", pattern)
        yield


def ours(data: bytes) -> Outcome:
    return feed_every_way(lambda: Body("chunked"), data, view=b"".join)


def theirs(data: bytes) -> tuple[bytes, str, bytes]:
    """Body, "more", "trailers" or "refused", and what is left; trailers are left to others as ours are."""
    reader = ChunkedReader()
    buffer = ReceiveBuffer()
    buffer += data
    body = b""
    while True:
        try:
            event = reader(buffer)
        except h11.ProtocolError:
            # Trailers were reached, and are bad: they are none of the decoder's business.
            return (body, "trailers", b"") if reader._reading_trailer else (body, "refused", b"")
        if reader._reading_trailer:
            return body, "trailers", bytes(buffer)
        if event is None:
            return body, "more", bytes(buffer)
        body += event.data


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=60), EXTENSION), max_size=5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_sound_bodies(chunks: list[tuple[bytes, bytes]], upper: bool) -> None:
    size = b"%X" if upper else b"%x"
    data = b"".join(size % len(chunk) + extension + b"\r\n" + chunk + b"\r\n" for chunk, extension in chunks)
    data += b"0\r\n"
    outcome = ours(data)
    assert (outcome.items, outcome.error, outcome.rest) == (b"".join(chunk for chunk, _ in chunks), 0, b"")
    assert theirs(data)[:2] == (outcome.items, "trailers")


@given(st.lists(PIECES, max_size=14).map(b"".join) | st.binary(max_size=30))
@settings(max_examples=1000, deadline=None)
def test_what_ours_accepts_h11_reads_alike(data: bytes) -> None:
    """Ours may be stricter, never laxer, and never reads another body."""
    outcome = ours(data)
    body, end, _ = theirs(data)
    if end == "refused":
        assert outcome.error
        assert body.startswith(outcome.items)
    elif not outcome.error:
        assert outcome.items == body
    else:
        assert body.startswith(outcome.items)


@given(CHUNKS, st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_bodies(chunks: list[bytes], data: st.DataObject) -> None:
    wire = bytearray(b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n")
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(
        st.sampled_from(b"\r\n0123;\x00 \xffaA-") | st.integers(0, 255)
    )
    outcome = ours(bytes(wire))
    body, end, _ = theirs(bytes(wire))
    if end == "refused":
        assert outcome.error
    if not outcome.error:
        assert outcome.items == body
