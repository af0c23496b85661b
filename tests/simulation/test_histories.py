"""Whatever happens to workers, catalog and store: each table holds exactly what was sent. Half of the histories.

The other half is in `test_more_histories`: files are what test processes share among them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.checking import play_all, unseen
from tests.simulation.history import play

ROOT = Path(__file__).parents[2]
HISTORIES, BLOCKS = 5_000, 25


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_happens_each_table_holds_what_was_sent(block: int) -> None:
    size = HISTORIES // BLOCKS
    play_all(range(block * size, (block + 1) * size))


def test_histories_that_nobody_has_seen_before_hold_what_was_sent() -> None:
    play_all(unseen(100))


def test_a_history_is_the_same_each_time_it_is_played() -> None:
    for seed in range(20):
        one, other = play(seed).world, play(seed).world
        assert one.happened == other.happened
        assert one.strands.switches == other.strands.switches
        assert one.chance.random() == other.chance.random()


def test_a_history_is_the_same_in_another_process() -> None:
    """Sets are ordered by hashes, which differ from process to process: nothing may depend on it."""
    command = [sys.executable, "-m", "tests.simulation", "0-19"]
    told = [
        subprocess.run(
            command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hashes}
        ).stdout
        for hashes in ("1", "2")
    ]
    assert told[0] == told[1]
    assert b"failed: none" in told[0]
    assert b"commits" in told[0]


def test_histories_contain_what_they_are_for() -> None:
    happened = play_all(range(250))
    wanted = {
        "appended", "rebalance", "revoked", "given back", "zombie", "killed", "stalled", "worker added",
        "no answer", "lost answer", "held", "held and lost", "late", "late and refused", "twice", "refused",
        "conflict after success", "catalog away", "table not created", "table created, answer lost",
        "read failed", "write failed", "half written", "deleted", "delete failed",
        "foreign append", "foreign compaction", "foreign expiry", "foreign rollback", "rollback", "schema changed",
        "compaction", "maintained",
    }  # fmt: skip
    assert wanted - happened.keys() == set()
