"""Every line of docs/hostile-input.md against both engines, over real sockets, beside traffic that must not notice."""

import pytest

from tests.hostile.attack import ATTACKS, Attack
from tests.hostile.harness import play
from tests.hostile.sites import Sites


@pytest.fixture(scope="module")
def sites() -> Sites:
    sites = Sites()
    yield sites
    sites.close()


@pytest.mark.parametrize("engine", ["cython", "asyncio"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_hostile(sites: Sites, attack: Attack, engine: str) -> None:
    await play(attack, sites.get(engine, attack.options))
