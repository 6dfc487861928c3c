"""Runs cases of the Autobahn test suite against an echo server, and prints a line of JSON for each.

    client.py URL COUNT CASE ...

The cases are those of the package kosoku, which has the suite's own files and a runner of its own for them. A program
by itself: to load the files kosoku changes `sys.path` and `binascii`, and its threads do not survive an orderly end of
the interpreter. `COUNT` bounds messages of a case and, for the small fragments of a long message, their number.
"""

import asyncio
import hashlib
import json
import os
import sys
from typing import Any

import kosoku
from kosoku.cases import CASES

SHOWN = 200  # characters of a payload; a longer one is told by its digest
CONCURRENCY = 6


def shorten(value: Any) -> Any:
    """Payloads as they can be compared and printed."""
    if isinstance(value, list | tuple):
        return [shorten(item) for item in value]
    if isinstance(value, bytes | str) and len(value) > SHOWN:
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        return f"{type(value).__name__} of {len(value)}, SHA-1 {hashlib.sha1(data).hexdigest()}"
    return value.decode("latin-1") if isinstance(value, bytes) else value


def bound(count: int) -> None:
    """Messages that are sent one after the other, and fragments of long ones, as few as `count` and 50 times that."""
    for case in CASES.values():
        if hasattr(case, "COUNT"):
            case.COUNT = min(case.COUNT, count)
        if case.__name__.startswith(("Case9_3_", "Case9_4_")) and "init" in vars(case):
            case.init = _short_init(case.init, 50 * count)


def _short_init(init: Any, fragments: int) -> Any:
    def short_init(self: Any) -> None:
        init(self)
        self.DATALEN = min(self.DATALEN, self.FRAGSIZE * fragments)
        self.PAYLOAD = self.PAYLOAD[: self.DATALEN]

    return short_init


def seen(result: Any) -> dict[str, Any]:
    """Of a case's result all that is not about time or about what the kernel does with the bytes."""
    head = [line.partition(": ") for line in result.http_response.split("\r\n")]
    names = {name.lower(): value for name, _, value in head[1:]}
    # Opcode, fin, RSV bits, length, beginning of the payload: in cases that keep a log. Close frames are told below.
    frames = [[*entry[2:5], *(entry[1] if entry[2] != 8 else ())] for entry in result.wirelog if entry[0] == "RF"]
    traffic = result.traffic_stats.__json__() if result.traffic_stats is not None else {}
    return {
        "case": result.case_id,
        "verdict": f"{result.behavior.value}, {result.behavior_close.value}",
        "handshake": [head[0][0], names.get("sec-websocket-extensions"), names.get("sec-websocket-protocol")],
        "received": shorten(result.received),
        "frames": shorten(frames),
        "frames by opcode": sorted(result.rx_frame_stats.items()),
        "traffic": {name: value for name, value in traffic.items() if not name.startswith("preopen")},
        "close": [result.remote_close_code, result.remote_close_reason],
        "closed by": "client" if result.closed_by_me else "server",
        "ends": [
            name
            for name in (
                "was_clean",
                "dropped_by_me",
                "failed_by_me",
                "was_open_handshake_timeout",
                "was_close_handshake_timeout",
                "was_server_connection_drop_timeout",
            )
            if getattr(result, name)
        ],
        "own close": [result.local_close_code, result.local_close_reason],
        "why": [result.result, result.result_close, result.was_not_clean_reason],
    }


async def main(url: str, count: str, *cases: str) -> None:
    bound(int(count))
    try:
        results = await kosoku.run_fuzzingclient(url, cases, concurrency=CONCURRENCY)
    except kosoku.FailureError as error:  # cases have failed
        results = error.results
    for result in results:
        print(json.dumps(seen(result)))


asyncio.run(main(*sys.argv[1:]))
sys.stdout.flush()
os._exit(0)
