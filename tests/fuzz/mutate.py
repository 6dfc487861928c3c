"""Changes to inputs: of any bytes, and of records (lines, frames, messages) whose lengths are put right again."""

import random
from collections.abc import Callable, Sequence

Split = Callable[[bytes], list[bytes]]
Mend = Callable[[bytes], bytes]

DICE_BYTES = 4  # before each input: they decide how it is cut, and whatever else a target has to choose
LARGEST = 20_000
INTERESTING = [0, 1, 2, 4, 5, 125, 126, 127, 128, 255, 256, 1000, 2**14, 2**15, 2**16 - 1, 2**16, 2**24 - 1, 2**24]
INTERESTING += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


class Mutator:
    """`tokens` are what means something in this language; `split` and `mend` know its records."""

    def __init__(
        self,
        chance: random.Random,
        *,
        tokens: Sequence[bytes] = (),
        split: Split | None = None,
        mend: Mend | None = None,
    ) -> None:
        self._chance = chance
        self._tokens = tokens
        self._split = split
        self._mend = mend

    def mutate(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """`data` with a few changes, some of them taken from `others`."""
        chance = self._chance
        dice, body = data[:DICE_BYTES], data[DICE_BYTES:]
        if chance.random() < 0.3:
            dice = chance.randbytes(DICE_BYTES)
        for _ in range(chance.choice((1, 1, 1, 1, 1, 2, 2, 3, 6))):
            other = chance.choice(others)[DICE_BYTES:]
            if self._split is not None and chance.random() < 0.75:
                body = self._change_records(body, other)
            else:
                body = self._change_bytes(body, other)
            body = body[:LARGEST]  # each time: a record of that size is put there twenty times, and those again
        return dice + body

    def _change_bytes(self, data: bytes, other: bytes) -> bytes:
        chance = self._chance
        out = bytearray(data)
        at = chance.randint(0, len(out))
        size = min(chance.choice((1, 1, 2, 4, 8, 30, 200)), len(out) - at)
        match chance.randrange(10):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(out):
                out[at] = chance.randrange(256)
            case 2 if at < len(out):
                out[at] = (out[at] + chance.choice((1, -1, 16, -16))) & 255
            case 3:
                del out[at : at + size]
            case 4:
                out[at:at] = chance.randbytes(chance.randint(1, 8))
            case 5:  # once more, or a thousand times
                out[at:at] = bytes(out[at : at + size]) * chance.choice((1, 1, 2, 10, 1000 // (size or 1)))
            case 6:  # an end of one input on the beginning of another, or a part of it within
                start = chance.randint(0, len(other))
                out[at : at + size] = other[start : start + chance.choice((1, 4, 16, 100, len(other)))]
            case 7:
                del out[at:]
            case 8:
                width = chance.choice((1, 2, 3, 4, 8))
                number = chance.choice(INTERESTING) & (1 << 8 * width) - 1
                out[at : at + (width if chance.random() < 0.8 else 0)] = number.to_bytes(
                    width, chance.choice(("big", "little"))
                )
            case _ if self._tokens:
                out[at : at + (size if chance.random() < 0.3 else 0)] = chance.choice(self._tokens)
        return bytes(out)

    def _change_records(self, data: bytes, other: bytes) -> bytes:
        """Records removed, doubled, moved, taken from another input, or changed inside and given a fitting length."""
        assert self._split is not None
        chance = self._chance
        records = self._split(data)
        if not records:
            return self._change_bytes(data, other)
        at = chance.randrange(len(records))
        match chance.randrange(6):
            case 0:
                del records[at]
            case 1:
                records[at:at] = [records[at]] * chance.choice((1, 1, 1, 2, 20))
            case 2:
                to = chance.randrange(len(records))
                records[at], records[to] = records[to], records[at]
            case 3:
                records.insert(at, chance.choice(self._split(other) or [b""]))
            case _:
                changed = self._change_bytes(records[at], other)
                records[at] = self._mend(changed) if self._mend and chance.random() < 0.8 else changed
        return b"".join(records)


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """`data` in parts, as a socket might deliver it: often whole, rarely in many."""
    marks = sorted(chance.randint(0, len(data)) for _ in range(chance.choice((0, 0, 1, 1, 2, 3, 8))))
    return [data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True)]


# -- records


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def websocket_frames(data: bytes) -> list[bytes]:
    """A head of HTTP in front of them is one record; so is what is left at the end."""
    found = []
    if data[:4] in (b"GET ", b"HTTP"):
        head, end, data = data.partition(b"\r\n\r\n")
        found.append(head + end)
    while len(data) >= 2:
        start, length = 2, data[1] & 127
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        end_at = start + (4 if data[1] & 128 else 0) + length
        found.append(data[:end_at])
        data = data[end_at:]
    return [*found, data] if data else found


def mend_websocket_frame(frame: bytes) -> bytes:
    """The same payload under a head with its length, the bits of the old one kept."""
    if len(frame) < 2 or frame[:4] in (b"GET ", b"HTTP"):
        return frame
    start = {126: 4, 127: 10}.get(frame[1] & 127, 2)
    mask = 4 if frame[1] & 128 else 0
    size = max(0, len(frame) - start - mask)
    if size < 126:
        head = bytes([frame[0], frame[1] & 128 | size])
    elif size < 2**16:
        head = bytes([frame[0], frame[1] & 128 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([frame[0], frame[1] & 128 | 127]) + size.to_bytes(8, "big")
    return head + frame[start:]


def grpc_messages(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 5:
        end = 5 + int.from_bytes(data[1:5], "big")
        found.append(data[:end])
        data = data[end:]
    return [*found, data] if data else found


def mend_grpc_message(message: bytes) -> bytes:
    return message[:1] + max(0, len(message) - 5).to_bytes(4, "big") + message[5:]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def http2_frames(data: bytes) -> list[bytes]:
    found = []
    if data.startswith(PREFACE):
        found, data = [PREFACE], data[len(PREFACE) :]
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:end])
        data = data[end:]
    return [*found, data] if data else found


def mend_http2_frame(frame: bytes) -> bytes:
    if frame.startswith(b"PRI "):
        return frame
    return max(0, len(frame) - 9).to_bytes(3, "big") + frame[3:]


def tls_records(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 5:
        end = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:end])
        data = data[end:]
    return [*found, data] if data else found


def mend_tls_record(record: bytes) -> bytes:
    return record[:3] + min(max(0, len(record) - 5), 2**16 - 1).to_bytes(2, "big") + record[5:]
