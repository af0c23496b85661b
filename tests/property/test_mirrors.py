"""Tables that follow random changes hold what a dict holds that follows the same changes, whatever comes between."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.mirroring import mirror

from lakeward.testing.lake import Lake

STEPS = 16
CASES = [
    ("long", "none", 1), ("text", "identity", 2), ("uuid", "bucket", 3), ("decimal", "day", 4), ("pair", "none", 5)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "layout", "seed"), CASES)
def test_a_table_that_follows_changes_holds_what_a_dict_would(
    tmp_path: Path, kind: str, layout: str, seed: int
) -> None:
    with Lake({"type": "sql", "uri": "sqlite://", "warehouse": str(tmp_path)}) as lake:
        history = mirror(lake, kind, layout, seed)
        for _ in range(STEPS):
            history.step()
