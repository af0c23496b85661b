"""B1 and B2 on one table: a rollback is one commit, everybody who writes notices, and nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from pyiceberg.exceptions import ForbiddenError, ServerError
from pyiceberg.table.refs import MAIN_BRANCH

from lakeward.clock import SystemClock
from lakeward.errors import ConfigurationError, LedgerError, OperatorError, PermissionDeniedError, UndecidedError
from lakeward.ledger import key_of
from lakeward.outcomes import CommitReceipt, Refused
from lakeward.positions import Account, Partition, Position
from lakeward.sinks.iceberg.find import mirrored
from lakeward.sinks.iceberg.rollback import UNDOES
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Held, Plan, fail, lose, meanwhile, refuse, twice
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

QUOTES = Partition("quotes", 0)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def landed(outcome: object) -> CommitReceipt:
    assert isinstance(outcome, CommitReceipt), outcome
    return outcome


def fill(target: IcebergTarget, *starts: int) -> list[int]:
    """Commits of five records each; their snapshots."""
    return [landed(commit(target, batch(start, 5))).snapshot_id for start in starts]


def foreign_rewind(lake: Lake, snapshot_id: int) -> None:
    """As `CALL rollback_to_snapshot` does: `main` names an old snapshot, and nothing else changes."""
    lake.table().manage_snapshots().rollback_to_snapshot(snapshot_id).commit()


def test_b1_table_and_positions_go_back_together_in_one_commit(lake: Lake) -> None:
    target = lake.target()
    first, second, third = fill(target, 0, 5, 10)
    planned = target.plan_rollback(first)
    assert planned.undone == (third, second)
    assert planned.restored == ()
    assert (planned.before and planned.before.positions) == {ORDERS: Position(15)}
    assert planned.entry.positions == {ORDERS: Position(5)}
    receipt = target.roll_back(planned, "undo")
    assert (receipt.before.rows, receipt.after.rows) == (15, 5)
    assert lake.rows() == expected(batch(0, 5))
    found = lake.target().find()
    assert found.at_head
    assert found.entry == receipt.entry
    assert found.entry.positions == {ORDERS: Position(5)}
    assert found.entry.account == Account(5, 5, 0)
    assert found.entry.number == 4
    held = mirrored(lake.table().metadata, "orders")
    assert held is not None
    assert (held.entry, held.snapshot_id) == (receipt.entry, receipt.snapshot_id)


def test_b1_time_does_not_go_back_below_the_target_where_a_slow_clock_made_the_head(lake: Lake) -> None:
    target = lake.target()
    ahead = SystemClock().now_ms() + 40_000  # a REST server takes no more than a minute
    now, lake.clock.ms = lake.clock.ms, ahead
    first, _ = fill(target, 0, 5)
    lake.clock.ms = now
    lake.table().append(batch(1000, 1, partition=Partition("foreign", 0)).parts[0])
    receipt = target.roll_back(target.plan_rollback(first), "undo")
    made = lake.table().metadata.snapshot_by_id(receipt.snapshot_id)
    assert made is not None
    assert made.timestamp_ms == ahead


def test_b1_the_snapshot_is_a_child_of_the_target_with_its_totals_and_names_what_it_undoes(lake: Lake) -> None:
    target = lake.target()
    first, second = fill(target, 0, 5)
    receipt = target.roll_back(target.plan_rollback(first), "undo")
    metadata = lake.table().metadata
    made, goal = metadata.snapshot_by_id(receipt.snapshot_id), metadata.snapshot_by_id(first)
    assert made is not None
    assert made.summary is not None
    assert goal is not None
    assert goal.summary is not None
    assert metadata.current_snapshot_id == made.snapshot_id
    assert made.parent_snapshot_id == first
    assert made.sequence_number == 3
    assert made.summary[UNDOES] == str(second)
    for total in ("total-records", "total-data-files", "total-files-size", "total-delete-files"):
        assert made.summary[total] == goal.summary[total]
    assert "added-records" not in made.summary.additional_properties
    assert [m.manifest_path for m in made.manifests(lake.table().io)] == [
        m.manifest_path for m in goal.manifests(lake.table().io)
    ]


def test_looking_at_a_rollback_changes_nothing(lake: Lake) -> None:
    target = lake.target()
    first, _ = fill(target, 0, 5)
    before = lake.table().metadata_location
    target.plan_rollback(first)
    assert lake.table().metadata_location == before


def test_b2_a_running_writer_is_refused_and_continues_at_the_old_position(lake: Lake) -> None:
    writer, operator = lake.target(), lake.target()
    first, _ = fill(writer, 0, 5)
    operator.roll_back(operator.plan_rollback(first), "undo")
    outcome = commit(writer, batch(10, 5))
    assert isinstance(outcome, Refused)
    assert not outcome.covered
    assert outcome.entry is not None
    assert outcome.entry.positions == {ORDERS: Position(5)}
    landed(commit(writer, batch(5, 7, commit="again")))
    assert lake.rows() == expected(batch(0, 12))
    assert lake.breaks() == []


def test_b2_a_rewind_by_another_tool_is_noticed_by_a_fresh_start_and_a_running_writer(lake: Lake) -> None:
    writer = lake.target()
    first, second = fill(writer, 0, 5)
    assert not lake.target().find().rewound
    foreign_rewind(lake, first)
    found = lake.target().find()
    assert found.rewound
    assert found.entry is not None
    assert found.entry.positions == {ORDERS: Position(5)}
    assert isinstance(commit(writer, batch(10, 5)), Refused)
    anchor = landed(commit(writer, batch(5, 0, commit="anchor")))
    assert anchor.entry.number == 3
    assert not lake.target().find().rewound
    landed(commit(writer, batch(5, 7, commit="again")))
    assert lake.rows() == expected(batch(0, 12))
    assert lake.breaks() == []
    assert lake.table().metadata.snapshot_by_id(second) is not None


def test_a_rollback_is_undone_by_rolling_to_what_it_undid(lake: Lake) -> None:
    target = lake.target()
    first, second = fill(target, 0, 5)
    undone = target.roll_back(target.plan_rollback(first), "undo")
    back = target.plan_rollback(second)
    assert (back.undone, back.restored) == ((undone.snapshot_id,), (second,))
    target.roll_back(back, "redo")
    assert lake.rows() == expected(batch(0, 10))
    assert lake.target().find().entry == target.find().entry
    landed(commit(target, batch(10, 5)))
    assert lake.rows() == expected(batch(0, 15))
    assert lake.breaks() == []


def test_a_rollback_below_a_foreign_commit_takes_it_away_too(lake: Lake) -> None:
    target = lake.target()
    first, _ = fill(target, 0, 5)
    lake.table().append(batch(1000, 1, partition=Partition("foreign", 0)).parts[0])
    target.roll_back(target.plan_rollback(first), "undo")
    assert lake.rows() == expected(batch(0, 5))


def test_a_rollback_to_a_foreign_commit_takes_the_positions_below_it(lake: Lake) -> None:
    target, stranger = lake.target(), batch(1000, 1, partition=Partition("foreign", 0))
    fill(target, 0)
    lake.table().append(stranger.parts[0])
    foreign = lake.table().metadata.current_snapshot_id
    assert foreign is not None
    fill(target, 5)
    receipt = target.roll_back(target.plan_rollback(foreign), "undo")
    assert receipt.entry.positions == {ORDERS: Position(5)}
    assert lake.rows() == expected(batch(0, 5), stranger)
    assert lake.breaks() == []


def test_f1_a_snapshot_from_before_the_first_position_is_refused(lake: Lake) -> None:
    target = lake.target()
    target.create(batch(0, 1).parts[0].schema)
    lake.table().append(batch(1000, 1, partition=Partition("foreign", 0)).parts[0])
    foreign = lake.table().metadata.current_snapshot_id
    assert foreign is not None
    fill(target, 0)
    with pytest.raises(LedgerError, match="nothing proves where pipeline 'orders' stood"):
        target.plan_rollback(foreign)


def test_the_head_and_a_snapshot_that_is_not_there_cannot_be_rolled_back_to(lake: Lake) -> None:
    target = lake.target()
    (head,) = fill(target, 0)
    with pytest.raises(ConfigurationError, match="nothing to undo"):
        target.plan_rollback(head)
    with pytest.raises(ConfigurationError, match="is not among those"):
        target.plan_rollback(42)


def test_b4_all_pipelines_of_the_table_are_rewound_together(lake: Lake) -> None:
    ours, theirs = lake.target(), lake.target("quotes")
    fill(ours, 0)
    landed(commit(theirs, batch(0, 3, partition=QUOTES)))
    both = lake.table().metadata.current_snapshot_id
    assert both is not None
    landed(commit(theirs, batch(3, 3, partition=QUOTES)))
    fill(ours, 5)
    planned = ours.plan_rollback(both)
    assert {name: entry and entry.positions for name, entry in planned.others.items()} == {
        "quotes": {QUOTES: Position(3)}
    }
    ours.roll_back(planned, "undo")
    assert isinstance(commit(theirs, batch(6, 3, partition=QUOTES)), Refused)
    landed(commit(theirs, batch(3, 9, partition=QUOTES, commit="quotes-again")))
    landed(commit(ours, batch(5, 9, commit="again")))
    assert lake.rows() == expected(batch(0, 14), batch(0, 12, partition=QUOTES))
    assert (lake.breaks(), lake.breaks("quotes")) == ([], [])


def test_a_pipeline_that_had_written_nothing_yet_begins_anew(lake: Lake) -> None:
    ours, theirs = lake.target(), lake.target("quotes")
    first, _ = fill(ours, 0, 5)
    landed(commit(theirs, batch(0, 3, partition=QUOTES)))
    planned = ours.plan_rollback(first)
    assert planned.others == {"quotes": None}
    ours.roll_back(planned, "undo")
    assert key_of("quotes") not in lake.table().metadata.properties
    assert lake.target("quotes").find().entry is None
    landed(commit(lake.target("quotes"), batch(0, 3, partition=QUOTES, commit="anew")))
    assert lake.rows() == expected(batch(0, 5), batch(0, 3, partition=QUOTES))


def test_b2_a_running_writer_whose_first_commit_was_rolled_back_leaves_no_hole(lake: Lake) -> None:
    ours, theirs = lake.target(), lake.target("quotes")
    first, _ = fill(ours, 0, 5)
    landed(commit(theirs, batch(0, 3, partition=QUOTES)))
    ours.roll_back(ours.plan_rollback(first), "undo")
    outcome = commit(theirs, replace(batch(3, 3, partition=QUOTES), known=frozenset({QUOTES})))
    assert isinstance(outcome, Refused)
    assert (outcome.entry, outcome.covered) == (None, False)
    second = Partition("orders", 1)
    outcome = commit(ours, replace(batch(7, 3, partition=second), known=frozenset({second})))
    assert isinstance(outcome, Refused)
    assert outcome.entry is not None
    assert second not in outcome.entry.positions
    assert lake.rows() == expected(batch(0, 5))


def test_a_commit_between_the_look_and_the_rollback_wins(lake: Lake) -> None:
    target = lake.target()
    first, _ = fill(target, 0, 5)
    planned = target.plan_rollback(first)
    fill(lake.target(), 10)
    with pytest.raises(OperatorError, match="has moved on since"):
        target.roll_back(planned, "undo")
    assert lake.rows() == expected(batch(0, 15))
    assert not [path for path in metadata_files(lake) if "undo" in path]


def metadata_files(lake: Lake) -> list[str]:
    warehouse = Path(lake.properties["warehouse"])
    return [str(path) for path in warehouse.rglob("*")] if warehouse.is_dir() else []


@pytest.mark.parametrize(
    "fault",
    [lose(requests.ReadTimeout()), lose(ServerError("502")), twice(), fail(ServerError("503")), refuse()],
    ids=["answer lost", "gateway", "delivered twice", "not delivered", "a conflict that was none"],
)
def test_a_rollback_whose_answer_proves_nothing_is_looked_for(lake: Lake, fault: object) -> None:
    fill(lake.target(), 0, 5)
    plan = Plan()
    target = lake.target(plan=plan)
    first = target.history()[0].snapshot_id
    plan.next("commit_table", fault)  # type: ignore[arg-type]
    receipt = target.roll_back(target.plan_rollback(first), "undo")
    assert lake.table().metadata.current_snapshot_id == receipt.snapshot_id
    assert lake.rows() == expected(batch(0, 5))
    assert [record.snapshot_id for record in target.history()].count(receipt.snapshot_id) == 1


def test_a_rollback_that_is_delivered_after_a_rival_is_dead(lake: Lake) -> None:
    fill(lake.target(), 0, 5)
    plan, held = Plan(), Held(requests.ReadTimeout())
    target = lake.target(plan=plan)
    first = target.history()[0].snapshot_id
    plan.next("commit_table", held.fault)
    plan.next("load_table", meanwhile(lambda: None))
    planned = target.plan_rollback(first)
    plan.next("load_table", meanwhile(lambda: fill(lake.target(), 10)))
    with pytest.raises(OperatorError, match="has moved on since"):
        target.roll_back(planned, "undo")
    with pytest.raises(Exception, match=r".+"):
        held.release()
    assert lake.rows() == expected(batch(0, 15))


def test_a_catalog_that_stays_away_leaves_the_rollback_undecided(lake: Lake) -> None:
    fill(lake.target(), 0, 5)
    plan = Plan()
    target = lake.target(plan=plan)
    planned = target.plan_rollback(target.history()[0].snapshot_id)
    plan.always("commit_table", fail(requests.ConnectionError()))
    plan.always("load_table", fail(requests.ConnectionError()))
    with pytest.raises(UndecidedError, match="could tell yet whether it landed"):
        target.roll_back(planned, "undo")
    assert lake.rows() == expected(batch(0, 10))


def test_a_catalog_that_refuses_us_is_told(lake: Lake) -> None:
    fill(lake.target(), 0, 5)
    plan = Plan()
    target = lake.target(plan=plan)
    planned = target.plan_rollback(target.history()[0].snapshot_id)
    plan.next("commit_table", fail(ForbiddenError("no")))
    with pytest.raises(PermissionDeniedError):
        target.roll_back(planned, "undo")


def test_a_batch_that_was_committed_and_rolled_back_is_not_taken_for_committed(lake: Lake) -> None:
    fill(lake.target(), 0)
    plan = Plan()
    writer = lake.target(plan=plan)

    def undo() -> None:
        operator = lake.target()
        operator.roll_back(operator.plan_rollback(operator.history()[0].snapshot_id), "undo")

    plan.next("commit_table", lose(requests.ReadTimeout()))
    plan.at("load_table", plan.counts["load_table"] + 3, meanwhile(undo))
    outcome = writer.commit(writer.stage(batch(5, 5)))
    assert isinstance(outcome, Refused)
    assert "rewound" in outcome.reason
    assert lake.rows() == expected(batch(0, 5))


def test_expiry_after_a_rollback_keeps_the_table_readable(lake: Lake) -> None:
    target = lake.target()
    first, *_ = fill(target, 0, 5, 10)
    target.roll_back(target.plan_rollback(first), "undo")
    for start in range(5, 200, 5):
        lake.clock.ms += 60_000
        landed(commit(target, batch(start, 5, commit=f"again-{start}")))
    assert lake.table().metadata.snapshot_by_id(first) is None
    assert lake.rows() == expected(batch(0, 200))
    assert lake.breaks() == []
    assert len([r for r in target.history() if not r.on_ancestry]) == 2


def test_a_rollback_keeps_what_somebody_set_on_main(lake: Lake) -> None:
    target = lake.target()
    first, second = fill(target, 0, 5)
    lake.table().manage_snapshots().create_branch(second, MAIN_BRANCH, min_snapshots_to_keep=7).commit()
    target.roll_back(target.plan_rollback(first), "undo")
    assert lake.table().metadata.refs[MAIN_BRANCH].min_snapshots_to_keep == 7


def test_i8_an_entry_and_a_property_that_cannot_be_read_are_rolled_back_over(lake: Lake) -> None:
    target = lake.target()
    first, _ = fill(target, 0, 5)
    garbage = {key_of("orders"): "{}"}
    lake.table().append(batch(9, 1, partition=Partition("foreign", 0)).parts[0], snapshot_properties=garbage)
    with lake.table().transaction() as change:
        change.set_properties(garbage)
    with pytest.raises(LedgerError, match="cannot be read"):
        lake.target().find()
    planned = lake.target().plan_rollback(first)
    assert planned.before is None
    receipt = lake.target().roll_back(planned, "undo")
    assert receipt.entry.number == 3
    landed(commit(lake.target(), batch(5, 7, commit="again")))
    assert lake.rows() == expected(batch(0, 12))
