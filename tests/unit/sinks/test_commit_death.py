"""A writer that dies between any two steps of a commit and is started again: nothing lost, nothing doubled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lakeward.testing.faults import Plan
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

WRITER = """
import sys
from lakeward.testing.faults import Plan
from lakeward.testing.lake import ORDERS, Lake, batch, commit
folder, plan = sys.argv[1], Plan.parse(sys.argv[2])
lake = Lake({"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": folder})
target = lake.target(plan=plan)
entry = target.find().entry
start = entry.positions[ORDERS].next if entry else 0
for offset in range(start, 12, 3):
    commit(target, batch(offset, 3, commit=f"{start}-{offset}"))
"""


def write(folder: Path, plan: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(folder), plan], check=False, capture_output=True
    ).returncode


# A commit writes a data file, a manifest and a manifest list, and loads the table once; the first creates the table.
@pytest.mark.parametrize(
    "step",
    [
        "create_table:1:die-after",
        "write:4:die-after",
        "write:5:die-after",
        "write:6:die-after",
        "load_table:5:die-after",
        "commit_table:1:die",
        "commit_table:1:die-after",
        "commit_table:3:die",
        "commit_table:3:die-after",
    ],
)
def test_death_at_any_step_loses_and_doubles_nothing(tmp_path: Path, step: str) -> None:
    Plan.parse(step)
    assert write(tmp_path, step) == 137
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as lake:
        target = lake.target()
        entry = target.find().entry
        start = entry.positions[ORDERS].next if entry else 0
        if entry is not None:
            assert lake.rows() == expected(batch(0, start))
        for offset in range(start, 12, 3):
            commit(target, batch(offset, 3, commit=f"again-{offset}"))
        assert lake.rows() == expected(batch(0, 12))
        assert lake.breaks() == []
