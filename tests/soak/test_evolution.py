"""Many more random evolving schemas than the default run has time for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.property.test_evolution import test_whatever_the_order_of_writers_each_snapshot_says_what_was_written as tell

from lakeward.testing.lake import Lake

pytestmark = pytest.mark.soak


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(100, 400))
def test_each_snapshot_says_what_was_written(lake: Lake, seed: int) -> None:
    tell(lake, seed)
