"""Plays every attack on both engines and prints, as docs/hostile-input.md, what it answered and cost.

`python -m tests.hostile [--only TEXT] [--write FILE]`
"""

import argparse
import asyncio
from itertools import groupby
from pathlib import Path

import uvloop

from tests.hostile.attack import ATTACKS, Attack
from tests.hostile.harness import Cost, play
from tests.hostile.sites import Sites

ENGINES = ("cython", "asyncio")
SECTIONS = ("HTTP/1.1", "HTTP/2", "WebSocket", "gRPC", "The tunnel port", "A hostile server", "The process")
INTRODUCTION = """\
# Hostile input

What a server, a client and their neighbours survive, how it is answered, and what one attacking connection costs. Each
line is a test of its own (`python -m tests.hostile --only "part of the line"`) over real sockets, on both engines.
Meanwhile HTTP, WebSocket and gRPC requests of others go through the same tunnel, and have to be answered as ever.
Afterwards both processes live, and hold as many descriptors as before.

*KiB* is by how much both processes together were larger at their peak, *ms* the time of the processor that they needed,
each for one attacking connection, compiled engine / asyncio engine; measured with `python -m tests.hostile`. Much below
10 KiB or 0.1 ms it is noise. The tests hold each line to a bound (`tests/hostile/attack.py`, 128 KiB and 5 ms unless
the attack says another one; for the asyncio engine ten times that). What is promised beyond them is in
[threat-model.md](threat-model.md).
"""


async def measure(attacks: list[Attack]) -> list[dict[str, Cost]]:
    sites = Sites()
    costs = []
    try:
        for attack in attacks:
            costs.append({engine: await play(attack, sites.get(engine, attack.options)) for engine in ENGINES})
            print(f"{attack.name}: {costs[-1]}", flush=True)
    finally:
        sites.close()
    return costs


def table(attacks: list[Attack], costs: list[dict[str, Cost]]) -> str:
    text = INTRODUCTION
    for section, rows in groupby(zip(attacks, costs, strict=True), key=lambda row: row[0].section):
        text += f"\n## {section}\n\n| attack | answer | KiB | ms |\n|---|---|---|---|\n"
        for attack, cost in rows:
            memory = " / ".join(f"{max(0, cost[engine].memory_kib):.0f}" for engine in ENGINES)
            cpu = " / ".join(f"{cost[engine].cpu_ms:.1f}" for engine in ENGINES)
            text += f"| {attack.line} | {attack.answer} | {memory} | {cpu} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="attacks whose name holds this text")
    parser.add_argument("--write", type=Path, help="where the document goes")
    options = parser.parse_args()
    attacks = [attack for attack in ATTACKS if options.only in attack.name]
    attacks.sort(key=lambda attack: SECTIONS.index(attack.section))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        text = table(attacks, runner.run(measure(attacks)))
    if options.write is None:
        print(text)
    else:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
