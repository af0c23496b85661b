"""Small files beside a table: written, read back, hidden, and gone when no snapshot names them any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lakeward.gaps import GapCounts, Gaps, Kept
from lakeward.outcomes import CommitReceipt
from lakeward.sinks.iceberg.expiry import MINUTE_MS
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.lake import ORDERS, Lake, batch, commit


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        opened.target().create(batch(0, 1).parts[0].schema)
        yield opened


def test_what_is_kept_is_read_back_by_another_worker_and_what_was_never_kept_is_none(lake: Lake) -> None:
    lake.target().keep("gaps-1", b"content")
    lake.target().keep("gaps-1", b"content")
    other = lake.target()
    other.find()
    assert other.kept("gaps-1") == b"content"
    assert other.kept("gaps-2") is None


def test_pipelines_do_not_see_each_others_files(lake: Lake) -> None:
    lake.target("a").keep("gaps-1", b"a")
    assert lake.target("b").kept("gaps-1") is None


def test_a_reader_of_the_table_does_not_see_them(lake: Lake) -> None:
    commit(lake.target(), batch(0, 3))
    lake.target().keep("gaps-1", b"content")
    assert sum(lake.rows().values()) == 3


def follow(lake: Lake, target: IcebergTarget, offset: int) -> None:
    """A commit of one row whose entry names a state of its own."""
    name = f"gaps-{offset}"
    target.keep(name, name.encode())
    step = Gaps(GapCounts(), {ORDERS: Kept(name, 0)})
    lake.clock.ms += 1_000
    assert isinstance(commit(target, replace(batch(offset, 1), gaps=step)), CommitReceipt)


def test_states_go_with_the_snapshots_that_name_them_and_a_rollback_target_keeps_its_own(lake: Lake) -> None:
    target = lake.target()
    for offset in range(120):
        follow(lake, target, offset)
    lake.clock.ms += 10 * MINUTE_MS
    for _ in range(20):
        target.maintain()
    metadata = lake.table().metadata
    folder = Path(metadata.location.removeprefix("file://")) / "_lakeward" / "orders"
    held = {path.name for path in folder.glob("gaps-*")}
    named = set()
    for record in target.history():
        if record.snapshot_id in {snapshot.snapshot_id for snapshot in metadata.snapshots} and record.entry:
            assert record.entry.gaps is not None
            named |= {kept.name for kept in record.entry.gaps.states.values()}
    assert named <= held
    assert len(held) <= len(named) + 25
    assert len(held) < 80
