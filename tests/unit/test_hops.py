"""What the tunnel says of an end names the hop that it is about."""

import re

import pytest

from fasttunnel.errors import ANSWERS, ResetCode

HOPS = re.compile(r"\b(server|tunnel|client|backend)\b")


@pytest.mark.parametrize("code", [code for code in ResetCode if code])
def test_each_code_names_its_hop(code: ResetCode) -> None:
    assert HOPS.search(ANSWERS[code].text)
