"""gRPC calls for hypothesis: what both sides say, step by step."""

from typing import NamedTuple

from hypothesis import strategies as st

from tests.support.http1_strategies import cut
from tests.support.http2 import Fields
from tests.support.http2_wires import RESETS, message

PAYLOADS = [b"", b"", b"x", b"hello", b"y" * 16_379, b"y" * 16_384, b"y" * 65_536, b"y" * 70_000, b"z" * 300_000]
payloads = st.sampled_from(PAYLOADS) | st.binary(max_size=20)
places = st.lists(st.integers(0, 20_000), max_size=4)


class Send(NamedTuple):
    """Messages in DATA frames; `end` is on the last one. The other side has read all of it before anything else."""

    public: bool
    messages: list[tuple[int, bytes]]
    at: list[int]  # where the data is cut
    end: bool

    @property
    def parts(self) -> list[bytes]:
        return cut(b"".join(message(payload, flag) for flag, payload in self.messages), self.at)


names = st.sampled_from(["x-a", "x-b", "x-bin", "y-bin", "grpc-tags-bin", "user-agent", "grpc-previous-rpc-attempts"])
texts = st.sampled_from(["", "1", "a, b", "%41%", "x" * 3000, "~!"])
binaries = st.sampled_from(["", "AA", "AA==", "AAEC/w", "AAEC/w==", "AA,AQ", "no base64!"])


@st.composite
def metadata(draw: st.DrawFn) -> Fields:
    """Names repeat; values of "-bin" are base64, with or without padding, or pretend to be."""
    chosen = draw(st.lists(names, max_size=4))
    return [(name, draw(binaries if name.endswith("-bin") else texts)) for name in chosen]


@st.composite
def heads(draw: st.DrawFn) -> tuple[str, Fields]:
    """Path and fields of a call."""
    path = draw(st.sampled_from(["/pkg.Service/Method", "/Service/Method", "/a/b/c", "//", "/s/", "/s/m?q=1"]))
    kind = draw(st.sampled_from(["application/grpc"] * 3 + ["application/grpc+proto", "application/grpc;x=y"]))
    fields = [("te", "trailers"), ("content-type", kind)]
    if draw(st.booleans()):
        fields.append(("grpc-encoding", draw(st.sampled_from(["identity", "gzip", "odd"]))))
    if draw(st.booleans()):
        fields.append(("grpc-accept-encoding", "identity,gzip"))
    if draw(st.booleans()):
        fields.append(("grpc-timeout", draw(st.sampled_from(["10S", "99999999S", "1H", "60000m", "30000000u", "1M"]))))
    return path, [*fields, *draw(metadata())]


@st.composite
def trailers(draw: st.DrawFn) -> Fields:
    """The end of a call: a status of any kind, or none."""
    fields: Fields = []
    status = draw(st.sampled_from(["0", "0", "1", "5", "16", "17", "99", "9999999999", "-1", "x", "", "00", None]))
    if status is not None:
        fields.append(("grpc-status", status))
    if draw(st.booleans()):
        texts = ["", " plain", "%20b", "%e2%82%ac", "%", "%zz", "%ff", " \u00e9", "a" * 2000]
        fields.append(("grpc-message", "by backend" + draw(st.sampled_from(texts))))
    if status is not None and draw(st.booleans()):
        fields.append(("grpc-status-details-bin", draw(binaries)))
    return [*fields, *draw(metadata())] or [("x-end", "")]


@st.composite
def conversations(draw: st.DrawFn, *, finished: bool) -> list[Send]:
    """Messages either way; with `finished` the public closes its side at some point."""
    flags = st.sampled_from([0, 0, 0, 1])
    steps = []
    for _ in range(draw(st.integers(0, 4))):
        chosen = draw(st.lists(st.tuples(flags, payloads), min_size=1, max_size=3))
        steps.append(Send(draw(st.booleans()), chosen, draw(places), False))
    own = [place for place, step in enumerate(steps) if step.public]
    if finished and own and draw(st.booleans()):
        steps[own[-1]] = steps[own[-1]]._replace(end=True)
    elif finished:
        place = draw(st.integers(own[-1] + 1 if own else 0, len(steps)))
        steps.insert(place, Send(True, [], [], True))
    return steps


resets = st.sampled_from(RESETS)
BAD_BYTES = {
    "half a prefix": b"\0\0\0",
    "half a message": message(b"hello")[:-2],
    "only a prefix": b"\0\0\0\0\5",
    "flag 2": message(b"x", 2),
    "flag 255": message(b"x", 255),
    "4 GiB": b"\0\xff\xff\xff\xff",
}
