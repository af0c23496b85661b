"""PROTOCOL, sections 2 and 5, rule by rule, on a SQLite catalog behind planned faults."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from pyiceberg.exceptions import BadRequestError, ForbiddenError, ServiceUnavailableError
from pyiceberg.expressions import EqualTo
from pyiceberg.table import Table
from pyiceberg.table.update import AssertCurrentSchemaId, AssertDefaultSpecId, AssertRefSnapshotId, AssertTableUUID
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import StringType

from lakeward.errors import LedgerError, OperatorError, PermissionDeniedError, StorageError
from lakeward.ledger import key_of
from lakeward.outcomes import CommitReceipt, Refused
from lakeward.positions import Partition, Position
from lakeward.sinks.iceberg.find import entry_in, mirrored
from lakeward.testing.faults import Held, Plan, fail, lose, meanwhile, refuse
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

SECOND = Partition("orders", 1)
TIMEOUT = requests.ReadTimeout("planned")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


@pytest.fixture
def plan() -> Plan:
    return Plan()


def landed(outcome: object) -> CommitReceipt:
    assert isinstance(outcome, CommitReceipt), outcome
    return outcome


def refused(outcome: object) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def foreign(lake: Lake) -> Table:
    """Another program's append: it copies none of our summary keys."""
    table = lake.table()
    table.append(batch(1000, 1, partition=Partition("foreign", 0)).parts[0])
    return table


def landed_head(lake: Lake) -> int:
    head = lake.table().metadata.current_snapshot_id
    assert head is not None
    return head


def roll_back(lake: Lake, snapshot_id: int) -> None:
    """Another program's rollback: `main` moves back, no snapshot is made."""
    lake.table().manage_snapshots().set_current_snapshot(snapshot_id=snapshot_id).commit()


def files_under(tmp_path: Path, ending: str) -> set[str]:
    return {str(path) for path in tmp_path.rglob(f"*{ending}")}


def test_i1_each_row_is_in_the_table_once_over_many_commits_and_faults(lake: Lake, plan: Plan) -> None:
    target, rival = lake.target(plan=plan), lake.target("other")
    quotes = [batch(start, 3, partition=Partition("quotes", 0)) for start in range(0, 12, 3)]
    for turn in range(12):
        staged = target.stage(batch(turn * 3, 3))
        if turn % 3 == 0:
            landed(commit(rival, quotes[turn // 3]))
        fault = [None, lose(TIMEOUT), refuse(), fail(TIMEOUT)][turn % 4]
        if fault is not None:
            plan.next("commit_table", fault)
        landed(target.commit(staged))
    assert lake.rows() == expected(batch(0, 36), *quotes)
    assert lake.breaks() == lake.breaks("other") == []


def test_i2_a_commit_asserts_table_head_schema_and_spec(lake: Lake, plan: Plan) -> None:
    seen: list[tuple[Any, ...]] = []
    target = lake.target(plan=plan)
    commit(target, batch(0, 1))
    head = lake.table().metadata.current_snapshot_id
    inner = lake.catalog.commit_table
    lake.catalog.commit_table = lambda t, r, u: (seen.append(r), inner(t, r, u))[1]  # type: ignore[method-assign,func-returns-value]
    commit(target, batch(1, 1))
    uuid, on_head, schema, spec = seen[0]
    assert isinstance(uuid, AssertTableUUID)
    assert isinstance(on_head, AssertRefSnapshotId)
    assert (on_head.ref, on_head.snapshot_id) == ("main", head)
    assert isinstance(schema, AssertCurrentSchemaId)
    assert isinstance(spec, AssertDefaultSpecId)


def test_i2_the_first_commit_asserts_that_there_is_no_head(lake: Lake) -> None:
    one, other = lake.target(), lake.target()
    staged = [one.stage(batch(0, 2, commit="one")), other.stage(batch(0, 2, commit="other"))]
    landed(one.commit(staged[0]))
    assert refused(other.commit(staged[1])).covered
    assert lake.rows() == expected(batch(0, 2))


def test_i5_entries_are_read_again_at_the_head_that_each_attempt_asserts(lake: Lake, plan: Plan) -> None:
    target, rival = lake.target(plan=plan), lake.target("other")
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 2))
    quotes = Partition("quotes", 0)
    plan.next("commit_table", meanwhile(lambda: commit(rival, batch(0, 3, partition=quotes))))
    landed(target.commit(staged))
    head = lake.table().metadata.current_snapshot()
    assert head is not None
    carried = entry_in(head, "other")
    assert carried is not None
    assert (carried.positions, carried.claim) == ({quotes: Position(3)}, {})


def test_i5_the_property_repeats_every_entry_with_the_snapshot_that_wrote_it(lake: Lake) -> None:
    commit(lake.target("other"), batch(0, 3, partition=Partition("quotes", 0)))
    receipt = landed(commit(lake.target(), batch(0, 2)))
    metadata = lake.table().metadata
    for pipeline in ("orders", "other"):
        held = mirrored(metadata, pipeline)
        assert held is not None
        assert held.snapshot_id == receipt.snapshot_id
        assert held.entry == entry_in(metadata.snapshots[-1], pipeline)


def test_f6_a_carried_entry_does_not_hide_that_its_pipeline_was_rewound(lake: Lake) -> None:
    other = lake.target("other")
    quotes = Partition("quotes", 0)
    first = landed(commit(other, batch(0, 3, partition=quotes)))
    second = landed(commit(other, batch(3, 3, partition=quotes)))
    roll_back(lake, first.snapshot_id)
    landed(commit(lake.target(), batch(0, 2)))
    held = mirrored(lake.table().metadata, "other")
    assert held is not None
    assert held.entry.number == second.entry.number
    again = landed(commit(lake.target("other"), batch(3, 3, partition=quotes, commit="again")))
    assert again.entry.number > second.entry.number


def test_i8_an_entry_of_an_unknown_format_stops_the_commit(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 2))
    with lake.table().transaction() as change:
        change.set_properties({key_of("stranger"): "{}"})
    with pytest.raises(LedgerError, match="cannot be read"):
        lake.target().commit(lake.target().stage(batch(2, 2)))


def test_f3_and_f5_a_foreign_append_keeps_its_rows_and_ours_continue(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 2))
    foreign(lake)
    assert not lake.target().find().at_head
    landed(commit(target, batch(2, 2)))
    assert lake.target().find().at_head
    assert lake.rows() == expected(batch(0, 4), batch(1000, 1, partition=Partition("foreign", 0)))
    assert lake.breaks() == []


def test_f2_a_foreign_commit_and_the_expiry_of_ours_leave_the_property_as_proof(lake: Lake) -> None:
    target = lake.target()
    receipt = landed(commit(target, batch(0, 2)))
    table = foreign(lake)
    table.maintenance.expire_snapshots().by_id(receipt.snapshot_id).commit()
    assert lake.table().metadata.snapshots[0].parent_snapshot_id is None  # blanked: only the manifest list tells
    found = lake.target().find()
    assert found.entry == receipt.entry
    landed(commit(lake.target(), batch(2, 2)))
    assert lake.rows() == expected(batch(0, 4), batch(1000, 1, partition=Partition("foreign", 0)))


def test_f4_a_renamed_pipeline_is_refused_before_it_writes_anything(lake: Lake) -> None:
    commit(lake.target("old"), batch(0, 2))
    new = lake.target("new")
    with pytest.raises(LedgerError, match="'old' already feeds this table from topic orders"):
        new.commit(new.stage(batch(0, 2, commit="new")))
    assert lake.rows() == expected(batch(0, 2))


@pytest.mark.parametrize("change", ["schema", "spec"])
def test_c1_a_changed_schema_or_spec_stages_the_batch_again(lake: Lake, plan: Plan, change: str) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))

    def alter() -> None:
        if change == "schema":
            lake.table().update_schema().add_column("note", StringType()).commit()
        else:
            lake.table().update_spec().add_field("partition", IdentityTransform(), "part").commit()

    plan.next("commit_table", meanwhile(alter))
    receipt = landed(target.commit(staged))
    metadata = lake.table().metadata
    assert (receipt.rows, receipt.attempts) == (3, 2)
    assert metadata.current_snapshot().schema_id == metadata.current_schema_id  # type: ignore[union-attr]
    names = [row[:3] for row in lake.rows()]
    assert sorted(names) == sorted(expected(batch(0, 5)))
    newest = metadata.current_snapshot().manifests(lake.table().io)[0]  # type: ignore[union-attr]
    paths = [entry.data_file.file_path for entry in newest.fetch_manifest_entry(lake.table().io)]
    assert all(f"{staged.batch.id}-1-" in path for path in paths)


def test_c1_files_of_an_attempt_that_landed_after_all_are_not_staged_again(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))

    def land_and_alter(call: Any) -> None:
        call()
        lake.table().update_schema().add_column("note", StringType()).commit()
        raise TIMEOUT

    plan.next("commit_table", land_and_alter)
    assert landed(target.commit(staged)).attempts == 1
    assert sorted(row[:3] for row in lake.rows()) == sorted(expected(batch(0, 5)))


def test_c6_other_tools_may_try_their_commits_again_as_often_as_they_like(lake: Lake) -> None:
    commit(lake.target(), batch(0, 2))
    assert "commit.retry.num-retries" not in lake.table().properties


def test_c4_a_commit_to_another_branch_takes_the_sequence_number_and_the_next_attempt_has_another(
    lake: Lake, plan: Plan
) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    lake.table().manage_snapshots().create_branch(landed_head(lake), "audit").commit()
    rows = batch(1000, 1, partition=Partition("foreign", 0)).parts[0]
    plan.next("commit_table", meanwhile(lambda: lake.table().append(rows, branch="audit")))
    assert landed(target.commit(staged)).attempts == 2
    assert lake.rows() == expected(batch(0, 5))


def test_c2f_a_slow_clock_never_goes_back_behind_the_head(lake: Lake) -> None:
    target = lake.target()
    target.create(batch(0, 1).parts[0].schema)
    created, year = lake.table().metadata.last_updated_ms, 365 * 86_400_000
    for start, moved in enumerate((-600_000, year, -600_000)):
        lake.clock.ms = created + moved
        landed(commit(target, batch(start, 1)))
    stamps = [snapshot.timestamp_ms for snapshot in lake.table().metadata.snapshots]
    assert stamps == [created, created + year, created + year]


def test_c3_an_answer_that_cannot_be_parsed_is_looked_up(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    plan.next("commit_table", lose(ValueError("no JSON")))
    landed(commit(target, batch(2, 3)))
    assert lake.rows() == expected(batch(0, 5))


def test_c4_committed_and_then_rewound_drops_the_batch(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    first = landed(commit(target, batch(0, 2)))
    commit(target, batch(2, 2))
    staged = target.stage(batch(4, 2))

    def land_and_rewind(call: Any) -> None:
        call()
        roll_back(lake, first.snapshot_id)
        raise TIMEOUT

    plan.next("commit_table", land_and_rewind)
    outcome = refused(target.commit(staged))
    assert not outcome.covered
    assert "rewound" in outcome.reason
    assert outcome.entry is not None
    assert outcome.entry.positions == {ORDERS: Position(2)}
    landed(commit(target, batch(2, 4, commit="read again")))
    assert lake.rows() == expected(batch(0, 6))
    assert lake.breaks() == []


def test_c4_a_request_released_after_a_rollback_leaves_a_readable_contiguous_table(lake: Lake, plan: Plan) -> None:
    target, rival = lake.target(plan=plan), lake.target()
    first = landed(commit(target, batch(0, 2)))
    staged = target.stage(batch(2, 3))
    held = Held(TIMEOUT)
    plan.next("commit_table", held.fault)
    look = plan.counts["load_table"] + 2
    plan.at("load_table", look, meanwhile(lambda: commit(rival, batch(0, 4, partition=SECOND))))
    landed(target.commit(staged))
    roll_back(lake, first.snapshot_id)
    with pytest.raises(ValueError, match="older than last sequence number"):
        held.release()  # why a dead attempt's manifests may be deleted: no catalog takes it any more
    assert lake.rows() == expected(batch(0, 2))
    assert lake.breaks() == []


def test_c5_a_covered_batch_deletes_no_file(lake: Lake, tmp_path: Path) -> None:
    one, other = lake.target(), lake.target()
    commit(one, batch(0, 1))
    staged = [one.stage(batch(1, 2, commit="one")), other.stage(batch(1, 2, commit="other"))]
    landed(one.commit(staged[0]))
    before = files_under(tmp_path, ".parquet")
    assert refused(other.commit(staged[1])).covered
    assert files_under(tmp_path, ".parquet") == before


def test_i6_a_refused_batch_that_was_never_sent_takes_its_files_with_it(lake: Lake, tmp_path: Path) -> None:
    target = lake.target()
    commit(target, batch(0, 1))
    before = files_under(tmp_path, ".parquet")
    refused(commit(target, batch(5, 2)))
    assert files_under(tmp_path, ".parquet") == before


def test_i6_manifests_of_a_dead_attempt_are_deleted_and_nothing_else(lake: Lake, plan: Plan, tmp_path: Path) -> None:
    target, rival = lake.target(plan=plan), lake.target()
    commit(target, batch(0, 1))
    staged = target.stage(batch(1, 2))
    plan.next("commit_table", meanwhile(lambda: commit(rival, batch(0, 4, partition=SECOND))))
    landed(target.commit(staged))
    table = lake.table()
    listed = {snapshot.manifest_list for snapshot in table.metadata.snapshots}
    listed |= {m.manifest_path for snapshot in table.metadata.snapshots for m in snapshot.manifests(table.io)}
    assert {f"file://{path}" for path in files_under(tmp_path, ".avro")} == listed
    assert lake.rows() == expected(batch(0, 3), batch(0, 4, partition=SECOND))


def test_i6_manifests_that_may_yet_be_wanted_stay(lake: Lake, plan: Plan, tmp_path: Path) -> None:
    """Committed with its answer lost, carried on by a rival, and expired: its manifest is in the table."""
    target, rival = lake.target(plan=plan), lake.target()
    commit(target, batch(0, 1))
    staged = target.stage(batch(1, 2))

    def land_and_expire(call: Any) -> None:
        sent = call().metadata.current_snapshot_id
        commit(rival, batch(3, 2))
        lake.table().maintenance.expire_snapshots().by_id(sent).commit()
        raise TIMEOUT

    plan.next("commit_table", land_and_expire)
    assert refused(target.commit(staged)).covered
    assert lake.rows() == expected(batch(0, 5))
    assert lake.breaks() == []


def test_c6_the_first_conflict_is_rebased_at_once_and_later_ones_wait_with_jitter(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 1))
    staged = target.stage(batch(1, 1))
    plan.next("commit_table", refuse())
    landed(target.commit(staged))
    assert lake.clock.waits == []
    staged = target.stage(batch(2, 1))
    for _ in range(6):
        plan.next("commit_table", refuse())
    landed(target.commit(staged))
    assert len(lake.clock.waits) == 5
    assert len(set(lake.clock.waits)) == 5
    assert all(wait <= 0.1 / conflicts for conflicts, wait in enumerate(lake.clock.waits, 2))  # shorter and shorter


def test_c7_a_commit_with_nothing_to_add_is_a_snapshot_of_its_own(lake: Lake) -> None:
    target = lake.target()
    first = landed(commit(target, batch(0, 2)))
    foreign(lake)
    anchor = replace(batch(2, 0), claim={}, upto={})
    receipt = landed(commit(target, anchor))
    assert receipt.snapshot_id != first.snapshot_id
    assert receipt.entry.positions == first.entry.positions
    assert lake.target().find().at_head
    summary = lake.table().metadata.current_snapshot().summary  # type: ignore[union-attr]
    assert summary is not None
    assert summary.operation.value == "append"


def test_c8_an_absent_catalog_is_waited_for(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    plan.next("commit_table", lose(TIMEOUT))
    for _ in range(8):
        plan.next("load_table", fail(requests.ConnectionError("planned")))
    landed(target.commit(staged))
    assert lake.rows() == expected(batch(0, 5))
    assert len(lake.clock.waits) >= 8
    assert max(lake.clock.waits) <= 10.0


def test_c8_a_full_disk_while_manifests_are_written_is_waited_out(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    for _ in range(3):
        plan.next("write", fail(OSError(28, os.strerror(28))))
    landed(target.commit(staged))
    assert lake.rows() == expected(batch(0, 5))


def test_c8_a_manifest_that_cannot_be_read_while_manifests_are_merged_is_tried_again(lake: Lake, plan: Plan) -> None:
    target = lake.target()
    for start in range(16):
        landed(commit(target, batch(start, 1)))
    fresh = lake.target(plan=plan)
    staged = fresh.stage(batch(16, 1))
    for read in (2, 3, 4):  # the first is the manifest list
        plan.at("read", read, fail(TIMEOUT))
    landed(fresh.commit(staged))
    assert plan.counts["read"] > 16
    assert lake.rows() == expected(batch(0, 17))


def test_giving_up_before_anything_was_sent_raises_what_was_in_the_way(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))

    def full(_: object) -> None:
        target.give_up()
        raise OSError(28, os.strerror(28))

    plan.always("write", full)
    with pytest.raises(StorageError):
        target.commit(staged)


@pytest.mark.parametrize(
    ("raised", "told"),
    [(ForbiddenError("no"), PermissionDeniedError), (BadRequestError("what?"), OperatorError)],
)
def test_a_refusal_that_no_repetition_can_change_is_told_after_a_look(
    lake: Lake, plan: Plan, raised: Exception, told: type[Exception]
) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    plan.always("commit_table", fail(raised))
    before = plan.counts["load_table"]
    with pytest.raises(told):
        target.commit(staged)
    assert plan.counts["load_table"] == before + 2


def test_a_busy_catalog_is_asked_again(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    plan.next("commit_table", fail(ServiceUnavailableError("later")))
    assert landed(target.commit(staged)).attempts == 2


def test_c2a_a_commit_loads_the_table_once(lake: Lake, plan: Plan) -> None:
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    before = plan.counts["load_table"]
    landed(commit(target, batch(2, 3)))
    assert plan.counts["load_table"] == before + 1


@pytest.mark.parametrize("version", [1, 3])
def test_other_format_versions_are_refused_clearly(lake: Lake, tmp_path: Path, version: int) -> None:
    lake.target().create(batch(0, 1).parts[0].schema)
    document = json.loads(Path(lake.table().metadata_location.removeprefix("file://")).read_text())
    altered = tmp_path / f"00001-{uuid.uuid4()}.metadata.json"
    altered.write_text(
        json.dumps(
            {
                **document,
                "format-version": version,
                "next-row-id": 0,
                "schema": document["schemas"][0],
                "partition-spec": [],
            }
        )
    )
    lake.catalog.drop_table(lake.name)
    lake.catalog.register_table(lake.name, altered.as_uri())
    with pytest.raises(OperatorError, match=f"has Iceberg format version {version}"):
        lake.target().find()


def test_other_peoples_deletes_are_kept(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 6))
    lake.table().delete(EqualTo("offset", 3))
    landed(commit(target, batch(6, 2)))
    assert lake.rows() == expected(batch(0, 3), batch(4, 4))


def test_retention_settings_of_main_survive_our_commits(lake: Lake) -> None:
    target = lake.target()
    receipt = landed(commit(target, batch(0, 2)))
    with lake.table().manage_snapshots() as change:
        change.create_branch(receipt.snapshot_id, "main", max_snapshot_age_ms=5_000, min_snapshots_to_keep=3)
    landed(commit(target, batch(2, 1)))
    main = lake.table().metadata.refs["main"]
    assert (main.max_snapshot_age_ms, main.min_snapshots_to_keep) == (5_000, 3)


def test_a_namespace_that_the_catalog_does_not_keep_is_told(lake: Lake, plan: Plan) -> None:
    plan.at("create_namespace", 1, lambda _: None)
    with pytest.raises(OperatorError, match="namespace shop does not exist"):
        lake.target(plan=plan).stage(batch(0, 1))
