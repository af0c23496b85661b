"""A SQLite catalog that another program reads for longer than we wait: what did not land is never taken for landed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lakeward.errors import LakewardError
from lakeward.outcomes import CommitReceipt
from lakeward.testing.lake import Lake, ManualClock, batch, commit, expected


@dataclass(slots=True)
class Impatient(ManualClock):
    """Gives up when it is waited on for the third time."""

    give_up: Callable[[], None] = lambda: None

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if len(self.waits) == 2:
            self.give_up()
        return ManualClock.wait(self, event, seconds)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    uri = f"sqlite:///{tmp_path}/catalog.db?timeout=0.05"
    with Lake({"type": "sql", "uri": uri, "warehouse": str(tmp_path)}) as opened:
        yield opened


def test_a_commit_that_a_reader_locks_out_is_no_receipt_and_can_be_made_once_the_reader_is_gone(
    lake: Lake, tmp_path: Path
) -> None:
    assert isinstance(commit(lake.target(), batch(0, 3)), CommitReceipt)
    clock = Impatient()
    target = lake.target(clock=clock)
    clock.give_up = target.give_up
    staged = target.stage(batch(3, 2))
    with closing(sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM iceberg_tables").fetchall()  # a shared lock, until the transaction ends
        with pytest.raises(LakewardError):
            target.commit(staged)
        reader.execute("COMMIT")
    entry = lake.target().find().entry
    assert entry is not None
    assert entry.commit != staged.batch.id
    assert isinstance(commit(lake.target(), batch(3, 2, commit="again")), CommitReceipt)
    assert lake.rows() == expected(batch(0, 5))
    assert lake.breaks() == []
