"""PROTOCOL M1: small files become large ones, and neither rows, positions nor readers notice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table.snapshots import Operation
from pyiceberg.types import StringType

from lakeward.errors import StorageError
from lakeward.layout import Layout
from lakeward.outcomes import CommitReceipt
from lakeward.positions import Partition, Position
from lakeward.sinks.iceberg.compacting import at_once
from lakeward.sinks.iceberg.compaction import FANOUT, Rewritten, tier_of
from lakeward.sinks.iceberg.expiry import MINUTE_MS
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Plan, fail, lose, meanwhile
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

OTHER = Partition("orders", 1)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def run(lake: Lake, target: IcebergTarget, commits: int, start: int = 0, partition: Partition = ORDERS) -> None:
    for offset in range(start, start + commits):
        lake.clock.ms += 250
        assert isinstance(commit(target, batch(offset, 1, partition=partition)), CommitReceipt)


def files(lake: Lake) -> list[Any]:
    return [task.file for task in lake.table().scan().plan_files()]


def operations(lake: Lake) -> list[Operation]:
    return [s.summary.operation for s in lake.table().metadata.snapshots if s.summary is not None]


def test_the_number_of_files_stays_small_while_commits_go_on(lake: Lake) -> None:
    run(lake, lake.target(rewriter=at_once), 200)
    assert len(files(lake)) <= 2 * FANOUT
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(200)))
    assert lake.breaks() == []


def test_a_compaction_is_a_replace_that_adds_no_rows_and_says_how_many_files_went(lake: Lake) -> None:
    run(lake, lake.target(rewriter=at_once), FANOUT)
    record = next(r for r in lake.target().history() if r.operation == "replace")
    assert record.after.rows == FANOUT
    assert record.after.files == 1
    assert record.summary["lakeward-compaction"] == str(FANOUT)
    assert record.summary["deleted-records"] == record.summary["added-records"]


def test_positions_are_found_at_the_head_after_a_compaction(lake: Lake) -> None:
    run(lake, lake.target(rewriter=at_once), FANOUT)
    found = lake.target().find()
    assert found.at_head
    assert found.entry is not None
    assert found.entry.positions == {ORDERS: Position(FANOUT)}
    assert found.entry.claim == {}


def test_every_pipelines_entry_is_carried_along(lake: Lake) -> None:
    other = Partition("quotes", 0)
    assert isinstance(commit(lake.target("quotes"), batch(0, 1, partition=other)), CommitReceipt)
    run(lake, lake.target(rewriter=at_once), FANOUT)
    head = lake.table().current_snapshot()
    assert head is not None
    assert head.summary is not None
    assert head.summary.operation == Operation.REPLACE
    found = lake.target("quotes").find()
    assert found.at_head
    assert found.entry is not None
    assert found.entry.positions == {other: Position(1)}


def test_partitions_are_compacted_each_for_itself_and_sorted(lake: Lake) -> None:
    target = lake.target(rewriter=at_once, layout=Layout.parse(("partition",), ("offset desc",)))
    for offset in range(FANOUT):
        run(lake, target, 1, offset)
        run(lake, target, 1, offset, OTHER)
    live = files(lake)
    assert len(live) < 2 * FANOUT
    merged = max(live, key=lambda file: file.record_count)
    assert merged.record_count == FANOUT
    held = pa.parquet.read_table(merged.file_path.removeprefix("file://"))
    assert held["offset"].to_pylist() == sorted(held["offset"].to_pylist(), reverse=True)
    assert len(set(held["partition"].to_pylist())) == 1
    assert lake.rows() == expected(
        *(batch(offset, 1, partition=p) for offset in range(FANOUT) for p in (ORDERS, OTHER))
    )


def test_large_files_are_left_alone(lake: Lake) -> None:
    properties = {"write.target-file-size-bytes": "1000"}
    run(lake, lake.target(rewriter=at_once, properties=properties), 2 * FANOUT)
    assert len(files(lake)) == 2 * FANOUT


def test_tiers_are_a_fanout_apart() -> None:
    assert [tier_of(size) for size in (0, 131_071, 131_072, 1 << 20, 8 << 20, 64 << 20)] == [0, 0, 1, 2, 3, 4]


class Later:
    """Runs what it is given when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Rewritten], Future[Rewritten]]] = []

    def __call__(self, action: Callable[[], Rewritten]) -> Future[Rewritten]:
        future: Future[Rewritten] = Future()
        self.waiting.append((action, future))
        return future

    def work(self) -> None:
        for action, future in self.waiting:
            future.set_result(action())
        self.waiting.clear()


def test_commits_go_on_while_files_are_rewritten_and_nothing_of_either_is_lost(lake: Lake) -> None:
    later = Later()
    target = lake.target(rewriter=later)
    run(lake, target, FANOUT)
    assert later.waiting
    run(lake, target, 3, FANOUT)
    later.work()
    run(lake, target, 1, FANOUT + 3)
    assert len(files(lake)) == 1 + 4
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(FANOUT + 4)))
    assert lake.breaks() == []


def test_a_compaction_whose_files_somebody_else_has_replaced_is_dropped_and_leaves_nothing(lake: Lake) -> None:
    later = Later()
    target = lake.target(rewriter=later)
    run(lake, target, FANOUT)
    quicker = lake.target(rewriter=at_once)
    quicker._compactor.chance = random.Random(2)
    run(lake, quicker, FANOUT, FANOUT)
    before = {file.file_path for file in files(lake)}
    later.work()
    target.maintain()
    assert {file.file_path for file in files(lake)} == before
    folder = Path(lake.table().location().removeprefix("file://")) / "data"
    assert not [p for p in folder.rglob("compaction-*") if not any(f.endswith(p.name) for f in before)]
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(2 * FANOUT)))


def test_a_rival_that_commits_between_our_look_and_our_send_is_kept(lake: Lake) -> None:
    plan = Plan()
    rival = lake.target()
    target = lake.target(plan=plan, rewriter=at_once)
    run(lake, target, FANOUT - 1)
    plan.at("commit_table", plan.counts["commit_table"] + 2, meanwhile(lambda: run(lake, rival, 2, 0, OTHER)))
    run(lake, target, 1, FANOUT - 1)
    assert Operation.REPLACE in operations(lake)
    assert lake.rows() == expected(
        *(batch(offset, 1) for offset in range(FANOUT)), *(batch(offset, 1, partition=OTHER) for offset in range(2))
    )
    assert lake.breaks() == []


@pytest.mark.parametrize("fault", [lose, fail])
def test_a_lost_or_failed_answer_neither_doubles_nor_loses_a_row(lake: Lake, fault: Callable[..., Any]) -> None:
    plan = Plan()
    target = lake.target(plan=plan, rewriter=at_once)
    run(lake, target, FANOUT - 1)
    plan.at("commit_table", plan.counts["commit_table"] + 2, fault(ConnectionError("planned")))
    run(lake, target, 5, FANOUT - 1)
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(FANOUT + 4)))
    assert lake.breaks() == []


def test_a_damaged_file_stops_the_compaction_not_the_stream(lake: Lake) -> None:
    later = Later()
    target = lake.target(rewriter=later)
    run(lake, target, FANOUT)
    (action, future), *_ = later.waiting
    victim = Path(files(lake)[0].file_path.removeprefix("file://"))
    pa.parquet.write_table(pa.parquet.read_table(victim).slice(1), victim)
    with pytest.raises(StorageError, match="should hold"):
        action()
    future.set_exception(StorageError("planned"))
    with pytest.raises(StorageError):
        target.maintain()
    run(lake, lake.target(), 1, FANOUT)


def test_a_table_with_delete_files_is_left_alone(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    target = lake.target(rewriter=at_once)
    manifests = target._desk.manifests
    real = manifests.of

    def with_deletes(*arguments: Any) -> Any:
        listed = real(*arguments)
        for manifest in listed[:1]:
            manifest._data[3] = 1
        return listed

    monkeypatch.setattr(type(manifests), "of", lambda self, *a: with_deletes(*a))
    run(lake, lake.target(), FANOUT)
    assert target.compact() == 0
    assert len(files(lake)) == FANOUT


def test_replaced_files_go_when_no_snapshot_holds_them_any_more(lake: Lake) -> None:
    target = lake.target(rewriter=at_once)
    run(lake, target, 150)
    lake.clock.ms += 10 * MINUTE_MS
    for _ in range(40):
        target._upkeep._purge(lake.clock.monotonic())
    folder = Path(lake.table().location().removeprefix("file://")) / "data"
    held = {path.name for path in folder.rglob("*.parquet")}
    named = set()
    for snapshot in lake.table().metadata.snapshots:
        named |= {
            f.file.file_path.rsplit("/", 1)[1] for f in lake.table().scan(snapshot_id=snapshot.snapshot_id).plan_files()
        }
    assert named <= held
    assert len(held) < 100
    for snapshot in lake.table().metadata.snapshots:
        assert len(lake.table().scan(snapshot_id=snapshot.snapshot_id).to_arrow()) > 0


def test_nothing_is_deleted_where_the_table_says_that_others_use_its_files(lake: Lake) -> None:
    target = lake.target(rewriter=at_once, properties={"gc.enabled": "false"})
    run(lake, target, 100)
    lake.clock.ms += 10 * MINUTE_MS
    for _ in range(40):
        target._upkeep._purge(lake.clock.monotonic())
    folder = Path(lake.table().location().removeprefix("file://")) / "data"
    assert len(list(folder.rglob("orders-0-*.parquet"))) == 100


def test_a_rollback_to_before_a_compaction_brings_back_the_small_files(lake: Lake) -> None:
    target = lake.target(rewriter=at_once)
    run(lake, target, FANOUT - 1)
    at = lake.table().metadata.current_snapshot_id
    run(lake, target, 10, FANOUT - 1)
    assert at is not None
    target.roll_back(target.plan_rollback(at), "back")
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(FANOUT - 1)))
    again = lake.target(rewriter=at_once)
    run(lake, again, 12, FANOUT - 1)
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(FANOUT + 11)))


def test_files_of_an_older_schema_are_compacted_into_the_new_one(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, FANOUT - 1)
    with lake.table().update_schema() as update:
        update.add_column("note", StringType())
    newer = lake.target()
    last = batch(FANOUT - 1, 1)
    wide = last.parts[0].append_column("note", pa.array(["x"]))
    assert isinstance(commit(newer, replace(last, parts=[wide])), CommitReceipt)
    assert newer.compact() == FANOUT
    assert len(files(lake)) == 1
    assert sorted(lake.table().scan().to_arrow()["note"].to_pylist(), key=str) == [None] * (FANOUT - 1) + ["x"]


def test_a_rivals_commit_that_was_rolled_back_since_is_no_reason_to_stop(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    run(lake, lake.target(), FANOUT)

    def come_and_go() -> None:
        head = lake.table().metadata.current_snapshot_id
        run(lake, lake.target(), 1, FANOUT)
        lake.table().manage_snapshots().rollback_to_snapshot(head).commit()

    plan.next("commit_table", meanwhile(come_and_go))
    assert target.compact() == FANOUT
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(FANOUT)))
