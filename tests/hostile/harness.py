"""Plays an attack: first once, so that what is loaded once is loaded, then with all attackers, beside others."""

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from tests.hostile.attack import SLOWER, Attack
from tests.hostile.site import Attacker, Meeting, Site, Victim

LINES = 4  # that one attacker may have a process write to its log
SPARE_BYTES = 1024 * 1024  # what an allocator may take at once, whoever asks
CALM_ROUNDS = 10


class Cost(NamedTuple):
    """Of one attacking connection, on both ends together."""

    cpu_ms: float
    memory_kib: float


async def play(attack: Attack, site: Site) -> Cost:
    """Raises AssertionError when the answer is another one, when others are disturbed, or when it costs too much."""
    async with AsyncExitStack() as stack:
        others = site.others()
        stack.push_async_callback(others.close)
        await others.start()
        await _attack(attack, site, range(1))
        before = site.descriptors
        lines = len(site.lines)
        spent = site.resident.cpu_s
        for _ in range(CALM_ROUNDS):
            await others.round()
        per_round = (site.resident.cpu_s - spent) / CALM_ROUNDS
        site.count_peak()
        at_rest = site.resident
        others.go_on()
        await _attack(attack, site, range(attack.attackers))
        rounds = others.rounds
        peak = site.peak
        await others.stop()
        await site.is_down_to(before)
    for process in site.ends:
        assert process.alive, "\n".join(process.lines[-50:])
    news = site.lines[lines:]
    assert not [line for line in site.lines if "Traceback" in line], "\n".join(site.lines)
    assert len(news) <= LINES * attack.attackers + 2, "\n".join(news)
    cpu_s = max(0.0, peak.cpu_s - at_rest.cpu_s - rounds * per_round)
    memory = peak.memory_bytes - at_rest.memory_bytes
    cost = Cost(1000 * cpu_s / attack.attackers, memory / 1024 / attack.attackers)
    factor = SLOWER if site.engine == "asyncio" else 1
    assert memory <= SPARE_BYTES + factor * attack.memory_kib * 1024 * attack.attackers, cost
    assert cost.cpu_ms <= factor * attack.cpu_ms, cost
    return cost


async def _attack(attack: Attack, site: Site, numbers: range) -> None:
    async with AsyncExitStack() as stack:
        victim = Victim(stack)
        await victim.start(site.web)
        meeting = Meeting(len(numbers) if attack.together else 1)

        async def run(number: int) -> None:
            async with AsyncExitStack() as own:
                try:
                    await attack.run(Attacker(site, victim, own, number, meeting))
                except Exception as error:
                    error.add_note(f"attacker {number}")
                    raise

        if attack.together:
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    group.create_task(run(number))
        else:
            for number in numbers:
                await run(number)
