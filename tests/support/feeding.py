"""Feeds a parser one input in every way a socket may deliver it, and insists that it makes no difference.

Tests of stream parsers call `feed_every_way` instead of the parser's own `feed` (test_feeding.py sees to it).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fasttunnel._core import KernelError

RANDOM_CUTS = 4
BYTE_BY_BYTE_LIMIT = 5000  # bytes; above it single bytes are fed only around the ends of the input


@dataclass(frozen=True)
class Outcome:
    """What a parser made of an input: items given out, code of its refusal (0: none), close code, bytes left over."""

    items: Any
    error: int
    close_code: int | None
    rest: bytes


def cuts(data: bytes, *, seed: int = 0) -> Iterator[list[bytes]]:
    """`data` whole, byte by byte, and in random parts, some of them empty."""
    yield [data]
    if len(data) <= BYTE_BY_BYTE_LIMIT:
        yield [data[i : i + 1] for i in range(len(data))]
    else:
        ends = 100
        yield [
            *(data[i : i + 1] for i in range(ends)),
            data[ends:-ends],
            *(data[i : i + 1] for i in range(len(data) - ends, len(data))),
        ]
    chance = random.Random(seed)
    for _ in range(RANDOM_CUTS):
        marks = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, 8)))
        yield [data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True)]


def feed_parts(parser: Any, parts: list[bytes], *, grant: int | None = None) -> tuple[list[Any], KernelError | None]:
    """Items that `parts` make, and the refusal that ended them. A blocked parser gets `grant` bytes of credit."""
    items: list[Any] = []
    try:
        for part in parts:
            items += parser.feed(part)
            while grant is not None and parser.blocked:
                items += parser.feed(b"", grant)
    except KernelError as error:
        return items + error.before, error
    return items, None


def feed_every_way(
    make: Callable[[], Any],
    data: bytes,
    *,
    tail: bytes = b"",
    grant: int | None = None,
    view: Callable[[list[Any]], Any] = list,
) -> Outcome:
    """Feed `data` to fresh parsers whole, byte by byte, in random parts, and all of it again with `tail` behind it.

    The tail must be too short to mean anything: it may make no item. `view` is what has to be equal of the items, for
    parsers that give out whatever has arrived.
    """
    outcomes = []
    for behind in {b"", tail}:
        for parts in cuts(data + behind):
            parser = make()
            items, error = feed_parts(parser, parts, grant=grant)
            rest = b""
            if error is None:
                rest = parser.rest
                assert rest.endswith(behind)
                rest = rest[: len(rest) - len(behind)]
            code, close_code = (error.code, error.close_code) if error else (0, None)
            outcomes.append((parts, Outcome(view(items), code, close_code, rest)))
    (_, first), *others = outcomes
    for parts, other in others:
        assert other == first, f"cut as {[len(part) for part in parts]} it is {other}, whole it is {first}"
    return first
