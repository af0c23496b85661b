"""Tables that follow random changes hold what a dict holds that follows the same changes, whatever comes between."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.mirroring import KINDS, LAYOUTS, mirror

from lakeward.testing.lake import Lake

STEPS = 12
CASES = [(kind, list(LAYOUTS)[(at + seed) % len(LAYOUTS)], seed) for at, kind in enumerate(KINDS) for seed in range(2)]


@pytest.mark.parametrize(("kind", "layout", "seed"), CASES)
def test_a_table_that_follows_changes_holds_what_a_dict_would(
    tmp_path: Path, kind: str, layout: str, seed: int
) -> None:
    properties = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}
    with Lake(properties) as lake:
        history = mirror(lake, kind, layout, seed)
        for _ in range(STEPS):
            history.step()
