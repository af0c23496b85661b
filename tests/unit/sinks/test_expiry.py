"""PROTOCOL M2: which snapshots go, what is remembered of them, and which files go with them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from pyiceberg.table import Table

from lakeward.outcomes import CommitReceipt
from lakeward.positions import Partition
from lakeward.sinks.iceberg.expiry import ALWAYS_COUNT, DAY_MS, HOUR_MS, MINUTE_MS, RECENT_COUNT, doomed
from lakeward.sinks.iceberg.history import audit, history
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Plan, fail, lose, meanwhile
from lakeward.testing.lake import Lake, batch, commit, expected

WEEK_MS = 7 * DAY_MS
QUOTES = Partition("quotes", 0)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        opened.target().create(batch(0, 1).parts[0].schema)
        # From a full day on, so that minutes, hours and days begin where the test says.
        opened.clock.ms = (opened.table().metadata.last_updated_ms // DAY_MS + 1) * DAY_MS
        yield opened


def run(lake: Lake, target: IcebergTarget, commits: int, every_ms: int, start: int = 0) -> None:
    """``commits`` commits of one row, ``every_ms`` apart, housekeeping included."""
    for offset in range(start, start + commits):
        lake.clock.ms += every_ms
        assert isinstance(commit(target, batch(offset, 1)), CommitReceipt)


def tidy(lake: Lake, target: IcebergTarget) -> None:
    """Long enough after the last commit, with nothing due: only litter is left to do."""
    lake.clock.ms += 10 * MINUTE_MS
    for _ in range(20):
        target._upkeep._purge(lake.clock.monotonic())


def ages(table: Table) -> list[int]:
    metadata = table.metadata
    newest = max(snapshot.timestamp_ms for snapshot in metadata.snapshots)
    return sorted(newest - snapshot.timestamp_ms for snapshot in metadata.snapshots)


def test_tiers_keep_all_of_the_last_minutes_then_one_a_minute_an_hour_a_day(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 3, 2 * DAY_MS)
    run(lake, target, 8, 5 * HOUR_MS, 3)
    run(lake, target, 60, 5 * MINUTE_MS, 11)
    run(lake, target, 120, 20_000, 71)
    lake.clock.ms += MINUTE_MS
    run(lake, target, 1, 0, 191)
    held = ages(lake.table())
    assert sum(age <= 3 * MINUTE_MS for age in held) in range(6, RECENT_COUNT + 1)
    assert sum(10 * MINUTE_MS < age <= 40 * MINUTE_MS for age in held) in range(28, 33)
    hours = [age for age in held if HOUR_MS < age <= DAY_MS]
    assert all(older - newer >= 20 * MINUTE_MS for newer, older in pairwise(hours))
    assert 2 <= sum(age > DAY_MS for age in held) <= 6
    assert max(held) <= WEEK_MS
    assert lake.breaks() == []


def test_the_number_of_snapshots_is_bounded_at_any_flush_interval(lake: Lake) -> None:
    target = lake.target()
    most = 0
    for offset in range(120):
        lake.clock.ms += 100
        commit(target, batch(offset, 1))
        most = max(most, len(lake.table().metadata.snapshots))
    assert most <= RECENT_COUNT + 26
    assert lake.rows() == expected(batch(0, 120))


def test_a_second_run_at_the_same_head_removes_nothing(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 80, 30_000)
    target._upkeep.expire()
    assert doomed(lake.table().metadata, WEEK_MS) == []


def test_ages_are_measured_against_the_head_not_the_local_clock(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 20, 20_000)
    target._upkeep.expire()
    before = len(lake.table().metadata.snapshots)
    lake.clock.ms += 400 * DAY_MS
    target._upkeep.expire()
    assert len(lake.table().metadata.snapshots) == before


def test_a_clock_that_ran_ahead_does_not_take_every_way_back(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 30, 1_000)
    run(lake, target, 1, 365 * DAY_MS, 30)
    target._upkeep.expire()
    assert len(lake.table().metadata.snapshots) == ALWAYS_COUNT


def test_after_expiry_every_pipeline_is_still_found_and_refs_stay(lake: Lake) -> None:
    target, other = lake.target(), lake.target("other")
    commit(other, batch(0, 3, partition=QUOTES))
    tagged = lake.table().metadata.current_snapshot_id
    assert tagged is not None
    lake.table().manage_snapshots().create_tag(tagged, "kept").commit()
    run(lake, target, 60, 1_000)
    metadata = lake.table().metadata
    assert len(metadata.snapshots) < 60
    assert metadata.snapshot_by_id(tagged) is not None
    for pipeline in ("orders", "other"):
        assert lake.target(pipeline).find().entry is not None
        assert lake.breaks(pipeline) == []


def test_the_chain_below_foreign_commits_is_kept_to_the_newest_entry(lake: Lake) -> None:
    target = lake.target()
    lake.clock.ms -= 2 * DAY_MS  # other programs take the time from the machine
    run(lake, target, 30, 1_000)
    entry = lake.target().find().entry
    for turn in range(ALWAYS_COUNT + RECENT_COUNT):
        lake.table().append(batch(turn, 1, partition=Partition("foreign", 0)).parts[0])
    fresh = lake.target()
    fresh.find()
    fresh._upkeep.keep_ms = 0
    fresh._upkeep.expire()
    assert len(lake.table().metadata.snapshots) == ALWAYS_COUNT + RECENT_COUNT + 1
    assert lake.target().find().entry == entry


def test_staged_work_of_others_is_not_thinned_out(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 5, 1_000)
    table = lake.table()
    with table.transaction() as change:
        change.append(batch(0, 1, partition=Partition("audit", 0)).parts[0], branch=None)
    staged = next(s for s in lake.table().metadata.snapshots if s.summary and s.summary["lakeward.orders"] is None)
    run(lake, lake.target(), 60, 1_000, 5)
    assert lake.table().metadata.snapshot_by_id(staged.snapshot_id) is not None


def test_history_has_every_commit_in_order_with_its_positions_and_totals(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 130, 1_000)
    records = lake.target().history()
    assert len(records) == 130
    assert [record.entry.claim for record in records if record.entry] == [batch(o, 1).claim for o in range(130)]
    assert [record.after.rows for record in records] == list(range(1, 131))
    assert all(record.before.rows + record.added.rows == record.after.rows for record in records)
    assert all(record.on_ancestry for record in records)
    assert {record.retained for record in records} == {True, False}
    assert audit(records) == []


def test_history_marks_what_was_rewound_and_what_others_did(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 2, 1_000)
    first = lake.table().metadata.snapshots[0].snapshot_id
    lake.table().append(batch(0, 4, partition=Partition("foreign", 0)).parts[0])
    lake.table().manage_snapshots().set_current_snapshot(snapshot_id=first).commit()
    run(lake, lake.target(), 1, 1_000, 1)
    records = history(lake.table(), "orders")
    assert [record.on_ancestry for record in records] == [True, False, False, True]
    assert [record.entry is None for record in records] == [False, False, True, False]
    assert audit(records) == []


def test_two_pipelines_archive_side_by_side(lake: Lake) -> None:
    target, other = lake.target(), lake.target("other")
    for offset in range(60):
        lake.clock.ms += 1_000
        commit(target, batch(offset, 1))
        commit(other, batch(offset, 1, partition=QUOTES))
    assert len(history(lake.table(), "orders")) == 120
    assert lake.breaks("orders") == lake.breaks("other") == []


def test_a_missing_history_file_costs_history_not_positions(lake: Lake, tmp_path: Path) -> None:
    target = lake.target()
    run(lake, target, 60, 1_000)
    for path in tmp_path.rglob("_lakeward/**/*.records"):
        path.unlink()
    assert len(history(lake.table(), "orders")) == len(lake.table().metadata.snapshots)
    run(lake, target, 60, 1_000, 60)
    assert lake.target().find().entry is not None


def test_the_archive_is_one_growing_file(lake: Lake, tmp_path: Path) -> None:
    target = lake.target()
    run(lake, target, 100, 1_000)
    tidy(lake, target)
    assert len(list(tmp_path.rglob("_lakeward/**/*.records"))) == 1


@pytest.mark.parametrize("fault", [fail(requests.ConnectionError("planned")), lose(requests.ReadTimeout("planned"))])
def test_an_expiry_without_an_answer_is_no_error_and_comes_round_again(lake: Lake, fault: Any) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    for offset in range(40):
        lake.clock.ms += 1_000
        target.commit(target.stage(batch(offset, 1)))
    plan.next("commit_table", fault)
    target._upkeep.expire()
    run(lake, target, 40, 1_000, 40)
    assert len(lake.table().metadata.snapshots) <= RECENT_COUNT + 26
    assert len(lake.target().history()) == 80
    assert lake.breaks() == []


def test_snapshots_that_a_rival_expired_meanwhile_are_no_error(lake: Lake) -> None:
    plan, rival = Plan(), lake.target()
    target = lake.target(plan=plan)
    for offset in range(40):
        lake.clock.ms += 1_000
        target.commit(target.stage(batch(offset, 1)))
    rival.find()
    plan.next("commit_table", meanwhile(rival._upkeep.expire))
    target._upkeep.expire()
    assert len(lake.table().metadata.snapshots) in (RECENT_COUNT, RECENT_COUNT + 1)
    assert len(lake.target().history()) == 40


def test_files_go_after_a_while_and_no_retained_snapshot_misses_one(lake: Lake, tmp_path: Path) -> None:
    target = lake.target()
    run(lake, target, 100, 1_000)
    expired_lists = len(list(tmp_path.rglob("snap-*.avro"))) - len(lake.table().metadata.snapshots)
    assert expired_lists > 50  # a reader may just have planned on them
    tidy(lake, target)
    table = lake.table()
    listed = {snapshot.manifest_list for snapshot in table.metadata.snapshots}
    listed |= {m.manifest_path for snapshot in table.metadata.snapshots for m in snapshot.manifests(table.io)}
    on_disk = {f"file://{path}" for path in tmp_path.rglob("*.avro")}
    assert on_disk == listed
    assert lake.rows() == expected(batch(0, 100))
    for snapshot in table.metadata.snapshots:
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows == snapshot.sequence_number


def test_a_manifest_that_a_rollback_brought_back_is_kept(lake: Lake, tmp_path: Path) -> None:
    """Merged away, then needed again: the neighbours in time do not tell, only all retained lists do."""
    target = lake.target()
    run(lake, target, 16, 1_000)
    before_merge = lake.table().metadata.current_snapshot_id
    assert before_merge is not None
    run(lake, target, 2, 1_000, 16)
    lake.table().manage_snapshots().set_current_snapshot(snapshot_id=before_merge).commit()
    fresh = lake.target()
    for offset in range(16, 70):
        lake.clock.ms += 1_000
        assert isinstance(commit(fresh, batch(offset, 1, commit=f"again-{offset}")), CommitReceipt)
    tidy(lake, fresh)
    assert lake.rows() == expected(batch(0, 70))
    assert lake.breaks() == []


def test_metadata_files_are_bounded(lake: Lake, tmp_path: Path) -> None:
    target = lake.target()
    for offset in range(120):
        run(lake, target, 1, 20_000, offset)
    assert len(list(tmp_path.rglob("*.metadata.json"))) < 60
    assert len(lake.table().metadata.metadata_log) <= 20
