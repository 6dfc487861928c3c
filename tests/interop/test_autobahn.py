"""The cases of the Autobahn test suite, against an echo server: through the tunnel they end as they do without it.

The package kosoku runs the suite's own files against a server. What its client has seen of each case is compared field
by field: messages, frames with their RSV bits, bytes before and after decompression, how the connection was closed and
by whom. A run takes fewer messages of the long cases than the suite, which has a thousand of up to 128 KiB in each:
`FASTTUNNEL_AUTOBAHN=full` takes all of them.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import programs
from tests.support.cells import ALIKE, MIXED, Cell
from tests.support.tunnel import start_tunnel
from tests.support.websocket_echo import REFUSAL, start_echo

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kosoku") is None, reason="kosoku is not installed (python -m pip install kosoku)"
)

CLIENT = str(Path(__file__).parent / "autobahn" / "client.py")
FULL = os.environ.get("FASTTUNNEL_AUTOBAHN") == "full"
MESSAGES = 1000 if FULL else 12  # of a case that sends one after the other
TIMEOUT_S = 3600 if FULL else 100
ATTEMPTS = 3  # some cases have half a second for all they do, which a busy machine may not have

# Family, its cases, and their number at least.
FAMILIES = {
    "framing": (["1.*"], 16),
    "pings": (["2.*"], 11),
    "reserved-bits": (["3.*"], 7),
    "opcodes": (["4.*"], 10),
    "fragmentation": (["5.*"], 20),
    "utf8": (["6.*"], 145),
    "closing": (["7.*"], 37),
    "limits": (["9.*"], 54),
    "misc": (["10.*"], 1),
    "compression": (["12.*"], 90),
    "compression-parameters": (["13.*"], 126),
}
LONG = ("limits", "compression", "compression-parameters")  # these run with the same engine at both ends only

# What the suite says to the echo server itself: of its behaviour, and of how it closes. It is "OK, OK" otherwise.
VERDICTS = {
    "6.4.3": "NON-STRICT, OK",  # it looks at text when a frame is complete
    "6.4.4": "NON-STRICT, OK",
    "7.1.5": "FAILED, WRONG CODE",  # the library calls a Close frame inside a message a protocol error
    **dict.fromkeys(["7.1.6", "7.13.1", "7.13.2"], "INFORMATIONAL, INFORMATIONAL"),
}

Seen = dict[str, Any]


# -- what may differ


def refused(direct: Seen) -> Seen:
    """The server has failed the connection in place of the echo server: with the same code, in other words."""
    return {**direct, "close": [1002, "refused by the tunnel"]}


def unanswered(direct: Seen) -> Seen:
    """And the echo of what came before was still on its way."""
    return {
        **refused(direct),
        "verdict": "NON-STRICT, OK",
        "received": [],
        "frames": direct["frames"][-1:],
        "frames by opcode": [[8, 1]],
    }


class Difference(NamedTuple):
    """How some cases end through the tunnel, from how they end directly, and why."""

    cases: str
    why: str
    end: Callable[[Seen], Seen]
    or_end: Callable[[Seen], Seen] | None = None  # by chance, but not always


DIFFERENCES = [
    # docs/wire.md, "WebSocket": what is no frame at all is not carried. RFC 6455 7.1.7: an endpoint fails a connection
    # as soon as a rule says so, and the text of a Close frame is its own (7.1.6).
    Difference("2.5 7.3.6", "a control frame above 125 bytes: RFC 6455 5.5", refused),
    Difference("3.1 3.5 3.6 3.7", "RSV bits without an extension: RFC 6455 5.2", refused),
    Difference("4.1.1 4.1.2 4.2.1 4.2.2", "a reserved opcode: RFC 6455 5.2", refused),
    Difference("5.1 5.2", "a fragmented control frame: RFC 6455 5.5", refused),
    Difference("5.9 5.10 5.11 5.12 5.13 5.14 5.16 5.17", "a continuation of nothing: RFC 6455 5.4", refused),
    Difference("5.18", "a message inside a message: RFC 6455 5.4", refused),
    Difference("7.3.2", "a Close frame of one byte: RFC 6455 5.5.1", refused),
    Difference("7.9.* 7.13.*", "a code that may not be sent, or is not defined: RFC 6455 7.4", refused),
    # The same after a message whose echo is still under way: no data follows a Close frame (RFC 6455 5.5.1), and the
    # suite knows both ways ("non-strict").
    Difference("3.2 3.3 3.4", "RSV bits without an extension: RFC 6455 5.2", unanswered, refused),
    Difference("4.1.3 4.1.4 4.1.5 4.2.3 4.2.4 4.2.5", "a reserved opcode: RFC 6455 5.2", unanswered, refused),
    Difference("5.15", "a continuation of nothing: RFC 6455 5.4", unanswered, refused),
]


def difference_of(case: str) -> Difference | None:
    found = [each for each in DIFFERENCES if any(fnmatch(case, pattern) for pattern in each.cases.split())]
    assert len(found) <= 1, found
    return found[0] if found else None


def normal(seen: Seen) -> Seen:
    """Whoever refuses a connection has words of his own for it."""
    code, reason = seen["close"]
    return {**seen, "close": [code, "refused by the tunnel"]} if code == 1002 and reason != REFUSAL else seen


def complaint(case: str, direct: Seen, tunneled: Seen) -> str | None:
    """What is not as it should be in a case that was run both ways."""
    if direct["verdict"] != VERDICTS.get(case, "OK, OK"):
        return f"{case} without a tunnel: {direct}"  # or both might have in common that nothing works
    difference = difference_of(case)
    expected = direct if difference is None else difference.end(direct)
    if tunneled == expected:
        return None
    if difference is not None and tunneled in (direct, difference.or_end and difference.or_end(direct)):
        return f"{case} does not differ as it did: {difference.why}"
    fields = [name for name in expected if tunneled[name] != expected[name]]
    return "".join(
        [case, *(f"\n    {name}: {str(tunneled[name])[:500]}, not {str(expected[name])[:500]}" for name in fields)]
    )


# -- running


async def run(address: str, cases: Sequence[str]) -> dict[str, Seen]:
    """What the suite's client sees at ws://ADDRESS, case by case."""
    arguments = [CLIENT, f"ws://{address}", str(MESSAGES), *cases]
    done = await programs.run(sys.executable, *arguments, timeout_s=TIMEOUT_S)
    assert done.code == 0, done.err[-2000:]
    results = [json.loads(line) for line in done.out.splitlines()]
    return {seen.pop("case"): normal(seen) for seen in results}


RUNS = [(family, cell) for family in FAMILIES for cell in (ALIKE if family in LONG else [*ALIKE, *MIXED])]


@pytest.fixture(scope="module")
def direct() -> dict[str, dict[str, Seen]]:
    """Results without a tunnel, of each family: run once, and compared with every pair of engines."""
    return {family: {} for family in FAMILIES}


@pytest.mark.timeout(3 * TIMEOUT_S)
@pytest.mark.parametrize(("family", "cell"), RUNS, ids=["-".join([family, *cell]) for family, cell in RUNS])
async def test_cases(stack: AsyncExitStack, direct: dict[str, dict[str, Seen]], family: str, cell: Cell) -> None:
    cases, number = FAMILIES[family]
    results = direct[family]
    echo = await start_echo(stack)
    server, client = ({"engine": engine} for engine in cell)
    tunnel = await start_tunnel(stack, f"http://{echo}", server=server, client=client, records=False)
    complaints: dict[str, str] = {}
    for attempt in range(ATTEMPTS):
        if attempt or not results:
            results.update(await run(echo, cases))
        tunneled = await run(tunnel.authority, cases)
        found = ((case, complaint(case, results[case], seen)) for case, seen in tunneled.items())
        complaints = {case: text for case, text in found if text is not None}
        if not attempt:
            assert len(results) == len(tunneled) >= number
        if not complaints:
            return
        cases = list(complaints)
    raise AssertionError("\n".join(complaints.values()))
