"""Upserts as an Iceberg table has them: which files come and go, and what readers and other tools are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import structlog
from pyiceberg.manifest import DataFile, ManifestContent, ManifestEntry, ManifestEntryStatus
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.transforms import IdentityTransform
from structlog.testing import capture_logs

from lakeward.changes import Changes, Effect
from lakeward.layout import Layout
from lakeward.outcomes import Batch, CommitReceipt
from lakeward.positions import Account, Partition, Position, Span
from lakeward.sinks.iceberg.compacting import at_once
from lakeward.sinks.iceberg.compaction import Rewritten
from lakeward.sinks.iceberg.expiry import DAY_MS, MINUTE_MS
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Held, Plan, lose, meanwhile, refuse, twice
from lakeward.testing.lake import ORDERS, Lake

KEY = ("id",)
PATH, POSITION = 2147483546, 2147483545


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": "sqlite://", "warehouse": str(tmp_path)}) as opened:
        yield opened


class Writer:
    """Sends changes, each (id, value), to a target; None for a value deletes, and an effect does what it says."""

    def __init__(self, target: IcebergTarget) -> None:
        self.target = target

    def send(self, *changes: tuple[int, Any], absent: Sequence[int] = ()) -> CommitReceipt:
        outcome = self.target.commit(self.target.stage(self.batch(*changes, absent=absent)))
        assert isinstance(outcome, CommitReceipt), outcome
        return outcome

    def batch(self, *changes: tuple[int, Any], absent: Sequence[int] = ()) -> Batch:
        entry = self.target.find().entry
        start = entry.positions[ORDERS].next if entry is not None else 0
        end = start + len(changes)
        effects = [v if isinstance(v, Effect) else Effect.DELETE if v is None else Effect.UPSERT for _, v in changes]
        rows = pa.table(
            {
                "id": pa.array([key for key, _ in changes], pa.int64()),
                "value": pa.array([v if type(v) is int else None for _, v in changes], pa.int64()),
                "part": pa.array([f"p{v % 2}" if type(v) is int else None for _, v in changes]),
                "note": pa.array([f"n{v}" if type(v) is int and key not in absent else None for key, v in changes]),
            }
        )
        left_out = {"note": np.array([key in absent for key, _ in changes])} if absent else {}
        made = Changes(KEY, np.array(effects, np.uint8), left_out)
        return Batch(
            id=f"b{start}-{self.target.find().highest}",
            parts=[rows] if changes else [],
            changes=[made] if changes else [],
            claim={ORDERS: Span(start, end)},
            upto={ORDERS: Position(end)},
            sources={ORDERS.topic: None},
            account=Account(len(changes), len(changes), 0),
        )


def values(lake: Lake) -> dict[int, Any]:
    rows = lake.table().scan().to_arrow().to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["value"] for row in rows}


def head(lake: Lake) -> Snapshot:
    found = lake.table().current_snapshot()
    assert found is not None
    return found


def told(lake: Lake) -> dict[str, str]:
    summary = head(lake).summary
    assert summary is not None
    return {"operation": summary.operation.value, **summary.additional_properties}


def entries(lake: Lake, content: ManifestContent) -> list[ManifestEntry]:
    io = lake.table().io
    manifests = [m for m in head(lake).manifests(io) if m.content == content]
    return [e for m in manifests for e in m.fetch_manifest_entry(io, discard_deleted=False)]


def live(lake: Lake, content: ManifestContent) -> list[DataFile]:
    return [e.data_file for e in entries(lake, content) if e.status != ManifestEntryStatus.DELETED]


def on_disk(lake: Lake) -> set[str]:
    folder = Path(lake.table().location().removeprefix("file://"))
    return {str(path) for path in (folder / "data").rglob("*.parquet")}


def referred(lake: Lake) -> set[str]:
    table = lake.table()
    found = set()
    for snapshot in table.metadata.snapshots:
        for manifest in snapshot.manifests(table.io):
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                found.add(entry.data_file.file_path.removeprefix("file://"))
    return found


def test_rows_that_only_come_are_an_append_without_delete_files(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send((1, 10), (2, 20))
    writer.send((3, 30), (4, None))
    assert told(lake)["operation"] == "append"
    assert live(lake, ManifestContent.DELETES) == []
    assert values(lake) == {1: 10, 2: 20, 3: 30}


def test_a_deletion_of_nothing_still_takes_the_positions_on(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send((1, 10))
    receipt = writer.send((7, None), (8, None))
    assert (receipt.rows, receipt.files, receipt.after.rows) == (0, 0, 1)
    assert receipt.entry.positions == {ORDERS: Position(3)}
    assert told(lake)["operation"] == "append"


def test_old_rows_go_by_position_and_the_summary_counts_them(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send(*((key, key) for key in range(10)))
    receipt = writer.send((3, 33), (4, None), (11, 11))
    assert values(lake) == {**{key: key for key in range(10) if key != 4}, 3: 33, 11: 11}
    counted = {key: told(lake).get(key) for key in ("operation", "added-records", "added-position-deletes")}
    assert counted == {"operation": "overwrite", "added-records": "2", "added-position-deletes": "2"}
    assert (receipt.before.rows, receipt.rows, receipt.after.rows) == (10, 2, 10)
    last = lake.target().history()[-1]
    assert (last.before.rows, last.added.rows, last.removed.rows, last.after.rows) == (10, 2, 2, 10)


def test_a_delete_file_is_as_java_readers_want_it(lake: Lake) -> None:
    writer = Writer(lake.target(layout=Layout.parse(("part",), ("id",))))
    writer.send(*((key, 2 * key) for key in range(10)))
    writer.send((3, 1))
    (data,) = [file for file in live(lake, ManifestContent.DATA) if file.record_count == 10]
    (file,) = live(lake, ManifestContent.DELETES)
    assert (file.partition, file.spec_id, file.sort_order_id) == (data.partition, data.spec_id, None)
    path = data.file_path.encode()
    assert (file.lower_bounds[PATH], file.upper_bounds[PATH]) == (path, path)
    stored = pq.read_table(file.file_path.removeprefix("file://"), partitioning=None)
    assert stored.to_pylist() == [{"file_path": data.file_path, "pos": 3}]
    ids = {one.name: (one.type, one.metadata[b"PARQUET:field_id"]) for one in stored.schema}
    assert ids == {"file_path": (pa.string(), b"%d" % PATH), "pos": (pa.int64(), b"%d" % POSITION)}


def test_a_data_file_has_one_delete_file_and_the_one_before_is_taken_away_by_its_numbers(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send(*((key, key) for key in range(10)))
    first = writer.send((3, None))
    (before,) = live(lake, ManifestContent.DELETES)
    writer.send((5, None))
    (after,) = live(lake, ManifestContent.DELETES)
    assert after.record_count == 2
    (gone,) = [e for e in entries(lake, ManifestContent.DELETES) if e.status == ManifestEntryStatus.DELETED]
    assert gone.data_file.file_path == before.file_path
    assert (gone.sequence_number, gone.file_sequence_number) == (first.sequence_number, first.sequence_number)
    assert told(lake)["total-position-deletes"] == "2"
    assert told(lake)["total-delete-files"] == "1"


def test_a_file_without_a_row_left_goes_with_its_delete_file(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send((1, 10), (2, 20))
    writer.send((3, 30))
    writer.send((1, None))
    writer.send((2, 21))
    assert values(lake) == {2: 21, 3: 30}
    assert live(lake, ManifestContent.DELETES) == []
    assert len(live(lake, ManifestContent.DATA)) == 2
    assert (told(lake)["total-records"], told(lake)["total-position-deletes"]) == ("2", "0")


def test_a_truncation_drops_all_files_and_what_comes_after_it_stays(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send(*((key, key) for key in range(10)))
    writer.send((3, None))
    writer.send((4, 44), (0, Effect.TRUNCATE), (5, 55))
    assert values(lake) == {5: 55}
    assert (told(lake)["total-records"], told(lake)["total-delete-files"]) == ("1", "0")
    writer.send((5, 56), (6, 6))
    assert values(lake) == {5: 56, 6: 6}


def test_a_row_that_moves_to_another_partition_is_deleted_where_it_was(lake: Lake) -> None:
    writer = Writer(lake.target(layout=Layout.parse(("part",), ())))
    writer.send((1, 10), (2, 20), (3, 31))
    writer.send((1, 11))
    (deleted,) = live(lake, ManifestContent.DELETES)
    assert deleted.partition[0] == "p0"
    assert values(lake) == {1: 11, 2: 20, 3: 31}


def test_rows_of_an_older_partition_spec_are_deleted_under_that_spec(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send((1, 10), (2, 20))
    with lake.table().update_spec() as update:
        update.add_field("part", IdentityTransform(), "part")
    writer.send((1, 11), (3, 30))
    (deleted,) = live(lake, ManifestContent.DELETES)
    assert (deleted.spec_id, len(deleted.partition)) == (0, 0)
    assert {file.spec_id for file in live(lake, ManifestContent.DATA)} == {0, 1}
    writer.send((3, 33), (2, 22))
    assert values(lake) == {1: 11, 2: 22, 3: 33}


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """What is logged, whatever level another test has left behind."""
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        with capture_logs() as captured:
            yield captured
    finally:
        structlog.configure(**before)


def test_values_that_a_change_leaves_out_are_read_back_or_told_about(lake: Lake, logs: list[Any]) -> None:
    writer = Writer(lake.target())
    writer.send((1, 10), (2, 20))
    writer.send((1, 11), (9, 90), absent=(1, 9))
    notes = {row["id"]: row["note"] for row in lake.table().scan().to_arrow().to_pylist()}
    assert notes == {1: "n10", 2: "n20", 9: None}
    (warned,) = [one for one in logs if one["log_level"] == "warning"]
    assert (warned["table"], warned["column"], warned["values"]) == ("shop.orders", "note", 1)


def test_a_value_is_read_back_again_where_somebody_else_changed_it_meanwhile(lake: Lake) -> None:
    writer = Writer(lake.target())
    writer.send((1, 10), (2, 20))
    staged = writer.target.stage(writer.batch((1, 11), absent=(1,)))
    table = lake.table()
    rows = table.scan().to_arrow()
    table.overwrite(rows.set_column(3, rows.schema.field("note"), [pa.array(["theirs"] * 2, rows["note"].type)]))
    assert isinstance(writer.target.commit(staged), CommitReceipt)
    assert {row["id"]: row["note"] for row in lake.table().scan().to_arrow().to_pylist()} == {1: "theirs", 2: "theirs"}


def test_a_value_is_looked_for_again_where_the_table_was_empty_when_it_was_staged(lake: Lake) -> None:
    writer, rival = Writer(lake.target()), Writer(lake.target())
    writer.target.create(writer.batch((1, 1)).parts[0].schema)
    second = Partition("orders", 1)
    batch = replace(writer.batch((1, 11), absent=(1,)), id="second", claim={second: Span(0, 1)})
    staged = writer.target.stage(replace(batch, upto={second: Position(1)}))
    rival.send((1, 10))
    assert isinstance(writer.target.commit(staged), CommitReceipt)
    assert lake.table().scan().to_arrow().to_pylist() == [{"id": 1, "value": 11, "part": "p1", "note": "n10"}]


@pytest.mark.parametrize("fault", [lose(requests.ReadTimeout("planned")), twice(), refuse()])
def test_whatever_the_catalog_answers_rows_are_there_once_and_no_file_is_left_behind(
    lake: Lake, fault: Callable[..., Any]
) -> None:
    plan = Plan()
    writer = Writer(lake.target(plan=plan))
    writer.send(*((key, key) for key in range(10)))
    plan.next("commit_table", fault)
    writer.send((3, 33), (4, None))
    writer.send((5, 55))
    assert values(lake) == {**{key: key for key in range(10) if key != 4}, 3: 33, 5: 55}
    assert lake.breaks() == []
    assert on_disk(lake) == referred(lake)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_writer_that_dies_at_any_write_leaves_the_table_as_it_was_and_the_next_one_goes_on(
    lake: Lake, number: int
) -> None:
    plan = Plan()
    writer = Writer(lake.target(plan=plan))
    before = {key: key for key in range(10)}
    writer.send(*before.items())
    writer.send((3, 33))
    plan.at("write", plan.counts["write"] + number, _dying)
    wrote = True
    try:
        writer.send((3, 34), (4, None), (11, 11))
    except _DeathError:
        wrote = False
    after = {**{key: key for key in before if key != 4}, 3: 34, 11: 11}
    assert values(lake) == (after if wrote else {**before, 3: 33})
    other = Writer(lake.target())
    other.send((3, 34), (4, None), (11, 11))
    other.send((3, 35))
    assert values(lake) == {**after, 3: 35}
    assert lake.breaks() == []


class _DeathError(BaseException):
    """Nothing handles it, as nothing handles the end of a process."""


def _dying(call: Callable[[], Any]) -> Any:
    del call
    raise _DeathError


def test_an_attempt_that_a_rival_has_overtaken_finds_the_rivals_rows_and_leaves_no_file(lake: Lake) -> None:
    plan = Plan()
    writer, table = Writer(lake.target(plan=plan)), lake
    writer.send(*((key, key) for key in range(10)))
    held = Held(requests.ReadTimeout("planned"))
    plan.next("commit_table", held.fault)
    theirs = pa.table({"id": [50], "value": [1], "part": ["p1"], "note": ["x"]})
    look = plan.counts["load_table"] + 4  # `batch` looks twice, the commit once before it sends
    plan.at("load_table", look, meanwhile(lambda: table.table().append(theirs)))
    receipt = writer.send((3, 33), (4, None))
    assert receipt.attempts == 2
    with pytest.raises(Exception):  # noqa: B017 -- each catalog has its own words for it
        held.release()
    writer.send((50, 51))
    assert values(lake) == {**{key: key for key in range(10) if key != 4}, 3: 33, 50: 51}
    assert on_disk(lake) == referred(lake)


def test_files_go_when_no_snapshot_holds_them_any_more_and_not_before(lake: Lake) -> None:
    writer = Writer(lake.target(rewriter=at_once, keep_ms=DAY_MS))
    wanted = {}
    for number in range(60):
        lake.clock.ms += 2 * MINUTE_MS
        changed = [(key % 37, number * 100 + key) for key in range(number, number + 8)]
        wanted.update(changed)
        writer.send(*changed)
        writer.target.maintain()
    assert values(lake) == wanted
    lake.clock.ms += 10 * DAY_MS
    writer.send((1, 1))
    writer.target.expire()
    lake.clock.ms += DAY_MS
    writer.target.maintain()
    for _ in range(20):
        writer.target.maintain()
    assert on_disk(lake) == referred(lake)
    assert values(lake) == {**wanted, 1: 1}
    assert any(s.summary.operation == Operation.REPLACE for s in lake.table().metadata.snapshots if s.summary)


def test_a_file_of_which_much_is_deleted_is_written_again_whatever_its_size(lake: Lake) -> None:
    writer = Writer(lake.target(properties={"write.target-file-size-bytes": "1000"}))
    writer.send(*((key, key) for key in range(100)))
    writer.send(*((key, None) for key in range(30)))
    assert writer.target.compact() == 1
    assert live(lake, ManifestContent.DELETES) == []
    assert (told(lake)["total-records"], told(lake)["operation"]) == ("70", "replace")
    assert values(lake) == {key: key for key in range(30, 100)}
    writer.send((40, 400))
    assert values(lake)[40] == 400


def test_rows_that_are_deleted_while_their_files_are_rewritten_stay_deleted(lake: Lake) -> None:
    waiting: list[tuple[Future[Rewritten], Rewritten]] = []

    def later(action: Callable[[], Rewritten]) -> Future[Rewritten]:
        future: Future[Rewritten] = Future()
        waiting.append((future, action()))
        return future

    writer = Writer(lake.target(rewriter=later, layout=Layout.parse((), ("value desc",))))
    for start in range(0, 80, 10):
        writer.send(*((key, key) for key in range(start, start + 10)))
        writer.target.maintain()
    assert len(waiting) == 1
    writer.send((5, None), (15, 1500), (79, None))
    writer.send((6, None))
    future, made = waiting.pop()
    future.set_result(made)
    writer.target.maintain()
    assert told(lake)["operation"] == "replace"
    assert told(lake)["added-position-deletes"] == "4"
    wanted = {**{key: key for key in range(80) if key not in {5, 6, 79}}, 15: 1500}
    assert values(lake) == wanted
    writer.send((15, None), (7, 700))
    assert values(lake) == {**{key: value for key, value in wanted.items() if key != 15}, 7: 700}


def test_a_rollback_brings_back_what_was_deleted_and_changes_go_on_from_there(lake: Lake) -> None:
    writer = Writer(lake.target())
    then = writer.send((1, 10), (2, 20))
    writer.send((1, None), (2, 21), (3, 30))
    writer.target.roll_back(writer.target.plan_rollback(then.snapshot_id), "undo")
    assert values(lake) == {1: 10, 2: 20}
    writer.send((1, 11), (2, None))
    assert values(lake) == {1: 11}
    assert lake.breaks() == []
