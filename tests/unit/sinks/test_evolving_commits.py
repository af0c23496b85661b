"""PROTOCOL C1, C2g and C5 where a commit changes the table's columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from pyiceberg.table.update import (
    AddSchemaUpdate,
    AddSnapshotUpdate,
    AssertCurrentSchemaId,
    AssertLastAssignedFieldId,
    AssertRefSnapshotId,
    AssertTableUUID,
    SetCurrentSchemaUpdate,
)
from pyiceberg.types import IntegerType, LongType, StringType

from lakeward.admission import SchemaChanges
from lakeward.errors import SchemaMismatchError
from lakeward.layout import Layout
from lakeward.outcomes import Batch, CommitReceipt, Refused
from lakeward.positions import Partition, Position
from lakeward.sinks.iceberg.naming import PROPERTY
from lakeward.testing.faults import Held, Plan, fail, lose, meanwhile, refuse, twice
from lakeward.testing.lake import ORDERS, Lake, batch, commit

SECOND = Partition("orders", 1)
TIMEOUT = requests.ReadTimeout("planned")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


@pytest.fixture
def plan() -> Plan:
    return Plan()


def rows(start: int, count: int = 2, *, partition: Partition = ORDERS, **columns: Any) -> Batch:
    """A batch whose rows have ``n`` and ``columns`` (an Arrow array of one value, repeated)."""
    part = pa.table({"n": pa.array(range(start, start + count), pa.int64())})
    for names, value in columns.items():
        name, *aliases = names.split("__was__")
        kind = value.type
        told = {b"lakeward.aliases": json.dumps(aliases).encode()} if aliases else None
        part = part.append_column(pa.field(name, kind, True, told), pa.array([value.as_py()] * count, kind))
    return replace(batch(start, count, partition=partition), parts=[part])


def text(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.string())


def long(value: int) -> pa.Scalar:
    return pa.scalar(value, pa.int64())


def short(value: int) -> pa.Scalar:
    return pa.scalar(value, pa.int32())


def landed(outcome: object) -> CommitReceipt:
    assert isinstance(outcome, CommitReceipt), outcome
    return outcome


def refused(outcome: object) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def held(lake: Lake, snapshot_id: int | None = None) -> list[dict[str, Any]]:
    """What PyIceberg reads."""
    scanned = lake.table().scan(snapshot_id=snapshot_id).to_arrow().to_pylist()
    return sorted(scanned, key=lambda row: (row["n"], str(row)))


def test_c2g_columns_and_rows_come_in_one_commit_that_asserts_what_it_was_built_on(lake: Lake) -> None:
    target = lake.target()
    first = landed(commit(target, rows(0)))
    before = lake.table().metadata
    seen: list[tuple[Any, Any]] = []
    inner = lake.catalog.commit_table
    lake.catalog.commit_table = lambda t, r, u: (seen.append((r, u)), inner(t, r, u))[1]  # type: ignore[method-assign,func-returns-value]
    receipt = landed(target.commit(target.stage(rows(2, x=text("x")))))
    assert len(seen) == 1
    requirements, updates = seen[0]
    asserted = {type(one): one for one in requirements}
    assert asserted[AssertTableUUID].uuid == before.table_uuid
    assert asserted[AssertRefSnapshotId].snapshot_id == first.snapshot_id
    assert asserted[AssertCurrentSchemaId].current_schema_id == before.current_schema_id
    assert asserted[AssertLastAssignedFieldId].last_assigned_field_id == before.last_column_id
    assert [type(one) for one in updates][:2] == [AddSchemaUpdate, SetCurrentSchemaUpdate]
    assert AddSnapshotUpdate in [type(one) for one in updates]
    metadata = lake.table().metadata
    snapshot = metadata.snapshot_by_id(receipt.snapshot_id)
    assert snapshot is not None
    assert (snapshot.schema_id, metadata.current_schema_id) == (1, 1)
    assert [snapshot.schema_id for snapshot in metadata.snapshots] == [0, 1]
    assert metadata.last_column_id == 2
    assert held(lake) == [{"n": n, "x": "x" if n > 1 else None} for n in range(4)]
    assert held(lake, first.snapshot_id) == [{"n": 0}, {"n": 1}]


def test_a_batch_that_needs_no_change_asks_for_none(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0, x=long(1)))
    commit(target, rows(2))
    commit(target, rows(4, x=short(2)))
    metadata = lake.table().metadata
    assert [schema.schema_id for schema in metadata.schemas] == [0]
    assert [row["x"] for row in held(lake)] == [1, 1, None, None, 2, 2]


def test_a_name_that_a_column_had_outlives_the_process(lake: Lake) -> None:
    commit(lake.target(), rows(0, old=short(1)))
    commit(lake.target(), rows(2, new__was__old=long(2)))
    landed(commit(lake.target(), rows(4, old=short(3))))
    assert held(lake) == [{"n": n, "new": n // 2 + 1} for n in range(6)]
    assert lake.table().schema().find_field("new").field_id == 2
    assert '"names":["old","new"]' in lake.table().properties[PROPERTY]


@pytest.mark.parametrize(
    "fault", [lose(TIMEOUT), fail(TIMEOUT), refuse(), twice()], ids=["lost", "failed", "no", "twice"]
)
def test_c3_a_commit_that_evolves_is_known_whatever_the_answer(lake: Lake, plan: Plan, fault: Any) -> None:
    target = lake.target(plan=plan)
    commit(target, rows(0))
    plan.next("commit_table", fault)
    landed(commit(target, rows(2, x=text("x"))))
    landed(commit(target, rows(4, x=text("x"))))
    assert [schema.schema_id for schema in lake.table().metadata.schemas] == [0, 1]
    assert held(lake) == [{"n": n, "x": "x" if n > 1 else None} for n in range(6)]
    assert lake.breaks() == []


def test_c4_a_held_request_that_evolves_lands_once(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, rows(0))
    waiting = Held(TIMEOUT)
    plan.next("commit_table", waiting.fault)
    landed(commit(target, rows(2, x=text("x"))))
    with pytest.raises(Exception):  # noqa: B017 -- the catalog's own words for a conflict
        waiting.release()
    assert len(held(lake)) == 4
    assert [schema.schema_id for schema in lake.table().metadata.schemas] == [0, 1]


def test_c4_a_change_of_columns_rests_on_ids_that_others_may_have_given_and_taken_back(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, rows(0, z=short(1)))

    def there_and_back() -> None:
        table = lake.table()
        with table.update_schema() as update:
            update.add_column("theirs", LongType())
        with table.update_schema() as update:
            update.delete_column("theirs")

    plan.next("commit_table", meanwhile(there_and_back))
    landed(commit(target, rows(2, x=text("x"))))
    metadata = lake.table().metadata
    assert len({schema.schema_id for schema in metadata.schemas}) == len(metadata.schemas) == 3
    assert lake.table().schema().find_field("x").field_id == 4
    assert [row["x"] for row in held(lake)] == [None, None, "x", "x"]


def test_c1_of_two_workers_that_add_a_column_each_the_loser_stages_again(lake: Lake, plan: Plan) -> None:
    one, other = lake.target(plan=plan), lake.target()
    commit(one, rows(0))
    other.find()
    rival = rows(0, partition=SECOND, y=long(7))
    plan.next("commit_table", meanwhile(lambda: landed(commit(other, rival))))
    receipt = landed(commit(one, rows(2, x=text("x"))))
    assert receipt.entry.positions == {ORDERS: Position(4), SECOND: Position(2)}
    table = lake.table()
    assert [field.name for field in table.schema().fields] == ["n", "y", "x"]
    assert [field.field_id for field in table.schema().fields] == [1, 2, 3]
    assert held(lake) == [
        {"n": 0, "y": 7, "x": None},
        {"n": 0, "y": None, "x": None},
        {"n": 1, "y": 7, "x": None},
        {"n": 1, "y": None, "x": None},
        {"n": 2, "y": None, "x": "x"},
        {"n": 3, "y": None, "x": "x"},
    ]
    landed(commit(other, rows(2, partition=SECOND, y=long(7))))
    assert lake.breaks() == []


def test_c1_two_workers_that_bring_the_same_change_make_it_once(lake: Lake, plan: Plan) -> None:
    one, other = lake.target(plan=plan), lake.target()
    commit(one, rows(0, old=short(1)))
    other.find()
    rival = rows(0, partition=SECOND, new__was__old=long(7))
    plan.next("commit_table", meanwhile(lambda: landed(commit(other, rival))))
    landed(commit(one, rows(2, new__was__old=long(8))))
    assert [(f.field_id, f.name, f.field_type) for f in lake.table().schema().fields] == [
        (1, "n", LongType()),
        (2, "new", LongType()),
    ]
    assert sorted(row["new"] for row in held(lake)) == [1, 1, 7, 7, 8, 8]


def test_c1_a_former_name_that_a_rival_brings_counts_for_what_is_staged(lake: Lake, plan: Plan) -> None:
    one, other = lake.target(plan=plan), lake.target()
    commit(one, rows(0, new=long(1)))
    other.find()
    staged = one.stage(rows(2, old=long(2)))  # a new column, as far as anybody knows
    landed(commit(other, rows(0, partition=SECOND, new__was__old=long(7))))
    landed(one.commit(staged))
    assert [field.name for field in lake.table().schema().fields] == ["n", "new"]
    assert sorted(row["new"] for row in held(lake)) == [1, 1, 2, 2, 7, 7]


def test_c5_a_batch_that_contradicts_what_a_rival_did_is_refused_and_its_files_are_gone(
    lake: Lake, plan: Plan, tmp_path: Path
) -> None:
    one, other = lake.target(plan=plan), lake.target()
    commit(one, rows(0))
    other.find()
    plan.next("commit_table", meanwhile(lambda: landed(commit(other, rows(0, partition=SECOND, x=long(7))))))
    outcome = refused(commit(one, rows(2, x=text("x"))))
    assert not outcome.covered
    assert 'column "x" holds string, the table stores long' in outcome.reason
    assert outcome.entry is not None
    assert outcome.entry.positions[ORDERS] == Position(2)
    assert one.outlook.admit(rows(2, x=text("x")).parts[0].schema, []).misfit is not None
    named = {task.file.file_path.removeprefix("file://") for task in lake.table().scan().plan_files()}
    assert {str(path) for path in tmp_path.rglob("*.parquet")} == named
    landed(commit(one, rows(2)))
    assert lake.breaks() == []


def test_c5_a_batch_that_does_not_fit_what_was_last_seen_is_decided_by_what_is_there_now(lake: Lake) -> None:
    one = lake.target()
    commit(one, rows(0, x=short(1)))
    staged = one.stage(rows(2, x=text("x")))
    assert staged.files.unfit
    assert not refused(one.commit(staged)).covered
    staged = one.stage(rows(2, x=text("x")))
    with lake.table().update_schema() as update:
        update.delete_column("x")
    landed(one.commit(staged))
    assert [row["x"] for row in held(lake)] == [None, None, "x", "x"]


def test_a_column_that_others_rename_goes_on_taking_the_rows(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0, x=long(1)))
    with lake.table().update_schema() as update:
        update.rename_column("x", "y")
    landed(commit(target, rows(2, x=long(2))))
    assert held(lake) == [{"n": n, "y": n // 2 + 1} for n in range(4)]


def test_a_column_that_others_drop_comes_back_as_another_and_without_the_old_values(lake: Lake) -> None:
    target = lake.target()
    first = landed(commit(target, rows(0, x=long(1))))
    with lake.table().update_schema() as update:
        update.delete_column("x")
    landed(commit(target, rows(2, x=long(2))))
    assert held(lake) == [{"n": n, "x": None if n < 2 else 2} for n in range(4)]
    assert held(lake, first.snapshot_id) == [{"n": 0, "x": 1}, {"n": 1, "x": 1}]
    assert lake.table().schema().find_field("x").field_id == 3


def test_columns_that_others_add_and_widen_are_kept(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0, x=short(1)))
    with lake.table().update_schema() as update:
        update.add_column("theirs", StringType())
        update.update_column("x", LongType())
    landed(commit(target, rows(2, x=short(2))))
    assert held(lake) == [{"n": n, "x": n // 2 + 1, "theirs": None} for n in range(4)]


def test_a_schema_that_was_there_before_is_taken_again(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0, x=long(1)))
    with lake.table().update_schema(allow_incompatible_changes=True) as update:
        update.make_column_optional("n")
        update._set_column_requirement("x", required=True)
    landed(commit(target, rows(2)))
    assert [schema.schema_id for schema in lake.table().metadata.schemas] == [0, 1]
    assert lake.table().metadata.current_schema_id == 0
    assert [row["x"] for row in held(lake)] == [1, 1, None, None]


def test_partitions_and_sort_order_stay_with_their_columns(lake: Lake) -> None:
    layout = Layout.parse(["day", "bucket(4, n)"], ["day desc"])
    target = lake.target(layout=layout)
    commit(target, rows(0, day=short(1)))
    landed(commit(target, rows(2, date__was__day=long(2**40), x=text("x"))))
    landed(commit(target, rows(4)))
    table = lake.table()
    assert [field.source_id for field in table.spec().fields] == [2, 1]
    assert [field.source_id for field in table.sort_order().fields] == [2]
    assert [row["date"] for row in held(lake)] == [1, 1, 2**40, 2**40, None, None]
    assert {row["n"] for row in table.scan(row_filter="date == 1").to_arrow().to_pylist()} == {0, 1}
    assert refused(commit(target, rows(6, day=long(1), n_bucket=text("x")))).reason.endswith("(bucket[4] of another)")


@pytest.mark.parametrize("policy", [SchemaChanges.DEAD_LETTER, SchemaChanges.STOP])
def test_no_other_policy_changes_the_table(lake: Lake, policy: SchemaChanges) -> None:
    commit(lake.target(), rows(0, x=long(1)))
    target = lake.target(schema_changes=policy)
    landed(commit(target, rows(2, x=short(2))))
    if policy is SchemaChanges.STOP:
        with pytest.raises(SchemaMismatchError, match='"y", which the table does not have'):
            commit(target, rows(4, y=long(1)))
    else:
        assert '"y" is added: long' in refused(commit(target, rows(4, y=long(1)))).reason
    assert [field.name for field in lake.table().schema().fields] == ["n", "x"]


def test_a_library_append_never_changes_the_table(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0))
    with pytest.raises(SchemaMismatchError, match='"y", which the table does not have'):
        commit(target, replace(rows(0, y=long(1)), claim={}, upto={}, writer=("handle", 1)))


def test_a_table_is_made_for_all_rows_of_the_first_batch(lake: Lake) -> None:
    first, second = rows(0, x=short(1)), rows(2, y__was__x=long(2))
    both = replace(batch(0, 4), parts=[*first.parts, *second.parts])
    landed(commit(lake.target(), both))
    assert [(f.name, type(f.field_type)) for f in lake.table().schema().fields] == [("n", LongType), ("y", LongType)]
    landed(commit(lake.target(), rows(4, x=short(3))))
    assert [row["y"] for row in held(lake)] == [1, 1, 2, 2, 3, 3]


def test_a_table_that_is_made_before_its_first_row_knows_what_its_columns_were_called(lake: Lake) -> None:
    lake.target().create(rows(0, new__was__old=long(1)).parts[0].schema)
    landed(commit(lake.target(), rows(0, old=short(3))))
    assert held(lake) == [{"n": 0, "new": 3}, {"n": 1, "new": 3}]


def test_rows_that_fitted_one_by_one_fit_together_whatever_their_aliases_say(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0, y=long(1)))
    older, newer = rows(2, x=text("x")), rows(4, y__was__x=long(2))
    landed(commit(target, replace(batch(2, 4), parts=[*older.parts, *newer.parts])))
    assert [(row["x"], row["y"]) for row in held(lake)] == [(None, 1)] * 2 + [("x", None)] * 2 + [(None, 2)] * 2


def test_what_was_called_how_that_cannot_be_read_is_told(lake: Lake) -> None:
    target = lake.target()
    commit(target, rows(0))
    lake.table().transaction().set_properties({PROPERTY: "not a mapping"}).commit_transaction()
    with pytest.raises(SchemaMismatchError, match=PROPERTY.replace(".", r"\.")):
        commit(target, rows(2))


def test_the_outlook_is_another_only_when_the_columns_are(lake: Lake) -> None:
    target = lake.target()
    nothing = target.outlook
    assert nothing is target.outlook
    assert nothing.admit(rows(0).parts[0].schema, []).creates
    commit(target, rows(0, x=short(1)))
    known = target.outlook
    commit(target, rows(2, x=short(1)))
    assert target.outlook is known
    commit(target, rows(4, x=long(1)))
    assert target.outlook is not known
    assert isinstance(lake.table().schemas()[0].find_type("x"), IntegerType)


def test_b1_a_rollback_takes_rows_back_and_leaves_the_columns(lake: Lake) -> None:
    target = lake.target()
    first = landed(commit(target, rows(0, old=short(1))))
    second = landed(commit(target, rows(2, new__was__old=long(2**40), x=text("x"))))
    landed(target.roll_back(target.plan_rollback(first.snapshot_id), "undo"))
    assert held(lake) == [{"n": 0, "new": 1, "x": None}, {"n": 1, "new": 1, "x": None}]
    landed(commit(target, replace(rows(2, old=short(2)), id="again")))
    assert [row["new"] for row in held(lake)] == [1, 1, 2, 2]
    assert held(lake, second.snapshot_id)[2] == {"n": 2, "new": 2**40, "x": "x"}
    assert lake.breaks() == []
