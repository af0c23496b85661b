"""Partitions written anew, sorted, and manifests gathered: rows, positions and readers notice nothing (PROTOCOL M1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table.snapshots import Operation

from lakeward.changes import Changes, Effect
from lakeward.errors import StorageError
from lakeward.layout import Layout
from lakeward.outcomes import CommitReceipt
from lakeward.positions import Partition, Position
from lakeward.sinks.iceberg.rewriting import ALL
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Plan, fail, lose, meanwhile
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

OTHER = Partition("orders", 1)
SMALL_FILES = {"write.target-file-size-bytes": "4000"}


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def run(lake: Lake, target: IcebergTarget, commits: int, rows: int = 1, partition: Partition = ORDERS) -> None:
    for number in range(commits):
        lake.clock.ms += 250
        assert isinstance(commit(target, batch(number * rows, rows, partition=partition)), CommitReceipt)


def interleave(target: IcebergTarget, commits: int, rows: int) -> None:
    """Each commit has rows from all over: every file covers nearly all of the others' stretch."""
    whole = batch(0, commits * rows).parts[0]
    for number in range(commits):
        part = whole.take(pa.array(range(number, len(whole), commits)))
        assert isinstance(commit(target, replace(batch(number * rows, rows), parts=[part])), CommitReceipt)


def files(lake: Lake) -> list[Any]:
    return [task.file for task in lake.table().scan().plan_files()]


def offsets(file: Any) -> list[int]:
    held = pq.read_table(file.file_path.removeprefix("file://"))
    return [int(value) for value in held["offset"].to_pylist()]


def test_a_partition_becomes_one_sorted_file_and_its_neighbour_stays(lake: Lake) -> None:
    target = lake.target(layout=Layout.parse(("partition",), ("offset desc",)))
    run(lake, target, 5)
    run(lake, target, 3, partition=OTHER)
    assert [whole.path for whole in target.rewriter.partitions(ALL)] == ["partition=0", "partition=1"]
    assert target.rewriter.rewrite("partition=0") == 5
    by_partition = {file.partition[0]: file for file in files(lake)}
    assert len(files(lake)) == 4
    assert offsets(by_partition[0]) == [4, 3, 2, 1, 0]
    assert lake.rows() == expected(*(batch(n, 1) for n in range(5)), *(batch(n, 1, partition=OTHER) for n in range(3)))


@pytest.mark.parametrize("order", ["offset", "offset desc"])
def test_a_large_partition_becomes_files_of_the_target_size_that_do_not_overlap(lake: Lake, order: str) -> None:
    target = lake.target(layout=Layout.parse((), (order,)), properties=SMALL_FILES)
    interleave(target, 20, 300)
    assert target.rewriter.rewrite("") == 20
    held = sorted((offsets(file) for file in files(lake)), key=min)
    assert [offset for file in held for offset in sorted(file)] == [*range(6000)]
    assert all(file == sorted(file, reverse="desc" in order) for file in held)
    assert 2 < len(held) < 20
    assert target.rewriter.rewrite("") == 0  # there is nothing to gain any more


def test_positions_of_every_pipeline_are_found_at_the_head_afterwards(lake: Lake) -> None:
    other = Partition("quotes", 0)
    run(lake, lake.target("quotes"), 1, partition=other)
    run(lake, lake.target(), 4)
    target = lake.target()
    assert target.rewriter.rewrite("") == 5
    assert target.rewriter.gather() == 0
    for name, partition, position in (("orders", ORDERS, 4), ("quotes", other, 1)):
        found = lake.target(name).find()
        assert found.at_head
        assert found.entry is not None
        assert found.entry.positions == {partition: Position(position)}
    assert lake.breaks() == []


VALUES: dict[str, Sequence[Any]] = {
    "double": [None, float("nan"), -0.0, 0.0, 1.5, -1.5, float("inf"), None] * 200,
    "text": [None, "", "a", "b" * 40, "ä", "z", None, "zz"] * 200,
    "number": [Decimal("1.10"), None, Decimal("-3.00"), Decimal("99.99")] * 400,
    "alike": [7] * 800 + [8] * 800,
    "nothing": pa.array([None] * 1600, pa.int64()),
}


@pytest.mark.parametrize("order", ["value", "value desc"])
@pytest.mark.parametrize("name", VALUES)
def test_every_row_is_in_exactly_one_file_whatever_the_values_are(lake: Lake, name: str, order: str) -> None:
    target = lake.target(layout=Layout.parse((), (order,)), properties=SMALL_FILES)
    values = pa.array(VALUES[name])
    for number in range(4):
        one = batch(number * 400, 400)
        rows = one.parts[0].append_column("value", values.take(pa.array(range(number, 1600, 4))))
        commit(target, replace(one, parts=[rows]))
    before = sorted(lake.table().scan().to_arrow().to_pylist(), key=lambda row: row["offset"])
    assert target.rewriter.rewrite("") == 4
    after = sorted(lake.table().scan().to_arrow().to_pylist(), key=lambda row: row["offset"])
    assert repr(after) == repr(before)  # NaN is itself here


def test_a_table_without_a_sort_order_is_written_in_larger_files(lake: Lake) -> None:
    target = lake.target(properties={"write.target-file-size-bytes": "6000"})
    run(lake, target, 30, rows=40)
    assert target.rewriter.rewrite("") == 30
    assert 1 < len(files(lake)) < 20
    assert lake.rows() == expected(batch(0, 1200))


def test_a_rival_that_compacts_a_file_meanwhile_is_kept_and_the_partition_read_again(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan, layout=Layout.parse((), ("offset",)))
    run(lake, target, 6)
    rival = lake.target()
    plan.next("write", meanwhile(rival.compact))
    assert target.rewriter.rewrite("") in {0, 1}  # what is left to do after it
    assert len(files(lake)) == 1
    assert lake.rows() == expected(batch(0, 6))
    assert lake.breaks() == []


@pytest.mark.parametrize("fault", [lose, fail])
def test_a_lost_or_failed_answer_neither_doubles_nor_loses_a_row(lake: Lake, fault: Callable[..., Any]) -> None:
    plan = Plan()
    target = lake.target(plan=plan, layout=Layout.parse((), ("offset",)), properties=SMALL_FILES)
    interleave(target, 5, 400)
    plan.next("commit_table", fault(ConnectionError("planned")))
    target.rewriter.rewrite("")
    plan.next("commit_table", fault(ConnectionError("planned")))
    target.rewriter.gather()
    assert lake.rows() == expected(batch(0, 2000))
    assert lake.breaks() == []
    commit(target, batch(2000, 1))
    assert lake.breaks() == []


def test_a_rivals_delete_meanwhile_drops_the_rewrite(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan, layout=Layout.parse((), ("offset",)), properties=SMALL_FILES)
    interleave(target, 5, 400)
    plan.at("commit_table", plan.counts["commit_table"] + 1, meanwhile(lambda: lake.table().delete("offset = 7")))
    target.rewriter.rewrite("")
    held = sorted(row[2] for row in lake.rows())
    assert held == [offset for offset in range(2000) if offset != 7]


def changed(at: int, start: int, count: int) -> Any:
    """A batch at offset ``at`` whose rows replace those of the keys from ``start`` on."""
    changes = [Changes(("offset",), np.full(count, Effect.UPSERT, np.uint8))]
    return replace(batch(at, count), parts=batch(start, count).parts, changes=changes)


def test_rows_that_were_replaced_are_gone_from_a_rewritten_partition_also_those_replaced_meanwhile(lake: Lake) -> None:
    plan = Plan()
    target, writer = lake.target(plan=plan, layout=Layout.parse((), ("offset",))), lake.target()
    for one in (changed(0, 0, 10), changed(10, 0, 5), changed(15, 3, 10)):
        assert isinstance(commit(writer, one), CommitReceipt)
    plan.next("commit_table", meanwhile(lambda: commit(writer, changed(25, 5, 4))))
    assert target.rewriter.rewrite("") == 2
    assert sorted(row["offset"] for row in lake.table().scan().to_arrow().to_pylist()) == [*range(13)]
    assert isinstance(commit(writer, changed(29, 0, 1)), CommitReceipt)
    assert sorted(row["offset"] for row in lake.table().scan().to_arrow().to_pylist()) == [*range(13)]
    assert lake.breaks() == []


def test_a_damaged_file_is_an_error_and_nothing_is_rewritten(lake: Lake) -> None:
    target = lake.target(layout=Layout.parse((), ("offset",)), properties=SMALL_FILES)
    interleave(target, 5, 400)
    victim = Path(files(lake)[0].file_path.removeprefix("file://"))
    pq.write_table(pq.read_table(victim).slice(1), victim)
    before = len(lake.table().metadata.snapshots)
    with pytest.raises(StorageError, match="1999 rows, not 2000"):
        target.rewriter.rewrite("")
    assert len(lake.table().metadata.snapshots) == before
    assert not [*victim.parent.rglob("rewrite-*")]


def test_manifests_are_gathered_into_one_that_lists_the_same_files(lake: Lake) -> None:
    target = lake.target(layout=Layout.parse(("partition",), ()))
    run(lake, target, 9)
    before = sorted(file.file_path for file in files(lake))
    assert target.rewriter.gather() == 9
    head = lake.table().current_snapshot()
    assert head is not None
    assert head.summary is not None
    assert head.summary.operation == Operation.REPLACE
    (manifest,) = head.manifests(lake.table().io)
    assert manifest.existing_files_count == 9
    assert sorted(file.file_path for file in files(lake)) == before
    assert (head.summary["total-records"], head.summary["total-data-files"]) == ("9", "9")
    assert target.rewriter.gather() == 0
    commit(target, batch(9, 1))
    assert lake.rows() == expected(batch(0, 10))
    assert lake.breaks() == []


def test_all_but_so_many_snapshots_expire_and_what_proves_a_position_stays(lake: Lake) -> None:
    target = lake.target()
    run(lake, target, 8)
    with lake.table().manage_snapshots() as manage:
        first = lake.table().metadata.snapshots[0].snapshot_id
        manage.create_tag(first, "first")
    assert target.expirable(3) == lake.target(keep_most=3).expirable() == 4
    assert target.expire(3) == 4
    assert len(lake.table().metadata.snapshots) == 4
    assert lake.target().find().at_head
    assert lake.breaks() == []
