"""More histories of changes than the default run has time for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.mirroring import KINDS, LAYOUTS, mirror

from lakeward.testing.lake import Lake

STEPS = 30

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seed", range(100, 160))
def test_a_table_that_follows_changes_for_longer_holds_what_a_dict_would(tmp_path: Path, seed: int) -> None:
    kind, layout = list(KINDS)[seed % len(KINDS)], list(LAYOUTS)[seed % len(LAYOUTS)]
    with Lake({"type": "sql", "uri": "sqlite://", "warehouse": str(tmp_path)}) as lake:
        history = mirror(lake, kind, layout, seed)
        for _ in range(STEPS):
            history.step()
