"""The other half of the histories: see `test_histories`."""

from __future__ import annotations

import pytest
from tests.simulation.checking import play_all

FIRST, HISTORIES, BLOCKS = 5_000, 5_000, 25


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_happens_each_table_holds_what_was_sent(block: int) -> None:
    size = HISTORIES // BLOCKS
    play_all(range(FIRST + block * size, FIRST + (block + 1) * size))
