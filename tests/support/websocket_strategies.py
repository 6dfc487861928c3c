"""WebSocket frames and handshakes for hypothesis."""

from typing import NamedTuple

from hypothesis import strategies as st

from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    MASK,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    Frame,
    close_payload,
    frame,
    frame_head,
)

SIZES = [0, 0, 1, 5, 125, 126, 127, 1000, 65_535, 65_536, 65_537, 70_000, 300_000]


class Step(NamedTuple):
    """Frames that one side sends; the other side reads them all before anything else happens."""

    public: bool
    frames: list[Frame]

    @property
    def data(self) -> bytes:
        return b"".join(wire(f, public=self.public) for f in self.frames)


def wire(f: Frame, *, public: bool) -> bytes:
    """A frame as that side has to send it."""
    return frame(f.opcode, f.payload, fin=f.fin, rsv=f.rsv, mask=MASK if public else None)


def payload(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


payloads = st.sampled_from(SIZES).map(payload) | st.binary(max_size=30)
controls = st.tuples(st.sampled_from([PING, PONG]), st.sampled_from([0, 1, 124, 125]).map(payload)).map(
    lambda made: Frame(*made)
)


@st.composite
def messages(draw: st.DrawFn, extensions: bool) -> list[Frame]:
    """One message, perhaps in fragments, with control frames between them."""
    parts = draw(st.lists(payloads, min_size=1, max_size=4))
    rsv = st.integers(0, 7) if extensions else st.just(0)
    frames = []
    for number, part in enumerate(parts):
        opcode = CONTINUATION if number else draw(st.sampled_from([TEXT, BINARY]))
        frames.append(Frame(opcode, part, number == len(parts) - 1, draw(rsv)))
        if number < len(parts) - 1:
            frames += draw(st.lists(controls, max_size=2))
    return frames


@st.composite
def steps(draw: st.DrawFn, extensions: bool) -> list[Step]:
    """Both sides send in turns; messages of the two may be under way at once."""
    made = []
    waiting: dict[bool, list[Frame]] = {True: [], False: []}  # of an unfinished message
    for _ in range(draw(st.integers(0, 4))):
        public = draw(st.booleans())
        frames = waiting[public] or draw(messages(extensions) | controls.map(lambda control: [control]))
        now = draw(st.integers(1, len(frames)))
        waiting[public] = frames[now:]
        made.append(Step(public, frames[:now]))
    return made


CLOSES = [
    b"",
    *(close_payload(code, text) for code, text in [(1000, ""), (1001, "away"), (3000, "ü" * 61), (4999, "x")]),
]


def invalid(public: bool) -> dict[str, bytes]:
    """What the tunnel refuses to pass on, as that side would send it outside of a message."""
    mask = MASK if public else None

    def raw(opcode: int, body: bytes, head: bytes, *, fin: bool = True) -> bytes:
        bit = 0x80 if public else 0
        return bytes([fin << 7 | opcode, head[0] | bit]) + head[1:] + (MASK if public else b"") + body

    return {
        **{f"opcode {code}": frame(code, b"x", mask=mask) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
        "fragmented ping": frame(PING, b"x", fin=False, mask=mask),
        "fragmented close": frame(CLOSE, b"", fin=False, mask=mask),
        "long ping": frame(PING, b"x" * 126, mask=mask),
        "long close": frame(CLOSE, close_payload(1000, "x" * 124), mask=mask),
        "continuation without a start": frame(CONTINUATION, b"x", mask=mask),
        "start inside a message": frame(TEXT, b"x", fin=False, mask=mask) + frame(TEXT, b"y", mask=mask),
        "wrong mask": frame(TEXT, b"x", mask=None if public else MASK),
        "length in 16 bits": raw(BINARY, b"hello", b"\x7e\0\5"),
        "length in 64 bits": raw(BINARY, b"h" * 200, b"\x7f" + bytes(7) + b"\xc8"),
        "length with its top bit": raw(BINARY, b"", b"\x7f\x80" + bytes(7)),
        "close of one byte": frame(CLOSE, b"x", mask=mask),
        **{f"rsv {rsv}": frame(TEXT, b"x", rsv=rsv, mask=mask) for rsv in (1, 2, 4, 7)},
        **{
            f"close code {code}": frame(CLOSE, close_payload(code), mask=mask)
            for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
        },
        "half a frame": frame_head(BINARY, 1000, mask=mask) + b"x" * 500,
    }


INVALID = sorted(invalid(True))

# -- handshakes

asking_fields = st.sampled_from(
    [
        "Sec-WebSocket-Protocol: a, b",
        "sec-websocket-protocol: c",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Extensions: x",
        "Origin: http://origin.example",
        "Cookie: a=1",
        "X-A: 1",
        "Authorization: Basic eDp5",
        "Keep-Alive: 5",
        "Content-Length: 0",
    ]
)
answering_fields = st.sampled_from(
    [
        "Sec-WebSocket-Protocol: b",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "X-A: 1",
        "Server: test",
        "Date: now",
    ]
)


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """The public's side, with at most one thing wrong."""
    start = "GET /chat?x=1 HTTP/1.1"
    lines = ["Host: public.example", *UPGRADE, *draw(st.sets(asking_fields, max_size=4))]
    fault = draw(st.sampled_from(["", "", "", "line", "start", "missing"]))
    if fault == "line":
        wrong = draw(
            st.sampled_from(
                [
                    "Connection: keep-alive, UPGRADE",
                    "Connection: close, upgrade",
                    "Upgrade: WebSocket",
                    "Upgrade: h2c, websocket",
                    "Sec-WebSocket-Version: 8",
                    "Sec-WebSocket-Version: 13, 8",
                    "Sec-WebSocket-Version:",
                    "Sec-WebSocket-Key: x",
                    f"Sec-WebSocket-Key: {KEY}x",
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==",
                    f"Sec-WebSocket-Key:  \t{KEY} ",
                ]
            )
        )
        lines = [wrong if line.partition(":")[0] == wrong.partition(":")[0] else line for line in lines]
    elif fault == "missing":
        del lines[draw(st.integers(1, len(UPGRADE)))]
    elif fault == "start":
        start = draw(
            st.sampled_from(
                [
                    "POST / HTTP/1.1",
                    "GET / HTTP/1.0",
                    "OPTIONS * HTTP/1.1",
                    "GET /a b HTTP/1.1",
                    "HEAD / HTTP/1.1",
                    "GET http://public.example/absolute HTTP/1.1",
                ]
            )
        )
    return "\r\n".join([start, *draw(st.permutations(lines))]).encode() + b"\r\n\r\n"


ACCEPTED = [
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Accept: <accept>",
]


@st.composite
def refusals(draw: st.DrawFn) -> list[str]:
    """An answer that accepts nothing: start line and fields, with a broken 101 among them."""
    if draw(st.booleans()):
        lines = list(ACCEPTED)
        place = draw(st.integers(1, 3))
        wrong = ["Upgrade: h2c", "Connection: close", "Sec-WebSocket-Accept: x", "X-A: 1"]
        lines[place] = draw(st.sampled_from(wrong))
        return lines
    status = draw(st.sampled_from([200, 301, 400, 401, 403, 404, 426, 500, 503, 599]))
    return [f"HTTP/1.1 {status} x", *draw(st.sets(answering_fields.filter(lambda line: "Sec" not in line), max_size=2))]
