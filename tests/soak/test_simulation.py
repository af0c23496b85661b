"""Simulated histories by the ten thousand, with seeds that nobody has played before."""

from __future__ import annotations

import pytest
from tests.simulation.checking import play_all, unseen

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3_600)]

BLOCKS, HISTORIES = 10, 10_000


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_happens_each_table_holds_what_was_sent(block: int) -> None:
    del block
    play_all(unseen(HISTORIES))
