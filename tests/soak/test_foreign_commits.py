"""Thousands of histories of a table that others change while lakeward writes to it (see tests/property)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.test_foreign_commits import play_all

HISTORIES, BLOCKS = 3_000, 30

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_others_do_the_table_holds_the_stream_up_to_its_positions(block: int, tmp_path: Path) -> None:
    play_all(range(10_000 + block, 10_000 + HISTORIES, BLOCKS), tmp_path)
