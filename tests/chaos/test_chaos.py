"""Moments of the chaos of tests/chaos/chaos.py, with fixed seeds; `make chaos` goes on for as long as one likes."""

from pathlib import Path

import pytest

from tests.chaos.chaos import Chaos


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("seed", "server", "client"),
    [(3, "cython", "asyncio"), (4, "asyncio", "cython")],  # each engine at each end; make chaos has all pairs
)
async def test_a_storm_leaves_nothing_wrong(seed: int, server: str, client: str, tmp_path: Path) -> None:
    chaos = Chaos(seed, tmp_path, (server, client))
    await chaos.run(seconds=6)
    assert sum(count for kind, count in chaos.public.outcomes.items() if kind.endswith(" done")) > 100
