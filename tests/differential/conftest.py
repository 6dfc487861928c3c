"""Tunnels that the tests of a module share, and how many examples they try."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support.cells import Cells

# Of each test, other ones each time; 0: few, always the same.
EXAMPLES = int(os.environ.get("FASTTUNNEL_EXAMPLES", "0"))


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    cells = Cells()
    yield cells
    cells.close()


def examples(count: int) -> Callable[[Any], Any]:
    """So many examples of a conversation, or as many as FASTTUNNEL_EXAMPLES says."""
    chosen = settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate] if os.environ.get("NOSHRINK") else list(Phase),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    def decorate(test: Any) -> Any:
        test = pytest.mark.filterwarnings("ignore:Generating overly large repr")(test)
        return pytest.mark.timeout(0)(chosen(test)) if EXAMPLES else chosen(test)

    return decorate
