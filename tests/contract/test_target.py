"""What the loop asks of a target, the same for every catalog and store. Oracle: DuckDB, and the ledger's contiguity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from pyiceberg.exceptions import ForbiddenError

from lakeward.errors import PermissionDeniedError, TableChangedError, UndecidedError
from lakeward.letters import Confirmed, Lettering
from lakeward.outcomes import CommitReceipt, Refused, Totals
from lakeward.positions import Account, Partition, Position, Span
from lakeward.testing.faults import Held, Plan, fail, lose, meanwhile, refuse, twice
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

SECOND = Partition("orders", 1)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def landed(outcome: object) -> CommitReceipt:
    assert isinstance(outcome, CommitReceipt), outcome
    return outcome


def refused(outcome: object) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def test_a_table_that_is_not_there_knows_nothing(lake: Lake) -> None:
    found = lake.target().find()
    assert (found.exists, found.entry) == (False, None)


def test_the_first_rows_create_namespace_and_table_and_bring_their_positions(lake: Lake) -> None:
    target = lake.target()
    receipt = landed(commit(target, batch(0, 5)))
    found = target.find()
    assert found.exists
    assert found.at_head
    assert found.entry == receipt.entry
    assert receipt.entry.positions == {ORDERS: Position(5)}
    assert lake.rows() == expected(batch(0, 5))


def test_creating_a_table_that_exists_changes_nothing(lake: Lake) -> None:
    schema = batch(0, 1).parts[0].schema
    lake.target().create(schema)
    uuid = lake.table().metadata.table_uuid
    lake.target().create(schema)
    assert lake.table().metadata.table_uuid == uuid


def test_the_loser_of_a_race_to_create_takes_the_winners_table(lake: Lake) -> None:
    plan, schema = Plan(), batch(0, 1).parts[0].schema
    plan.at("create_namespace", 1, meanwhile(lambda: lake.catalog.create_namespace(lake.name[:-1])))
    plan.at("create_table", 1, meanwhile(lambda: lake.target().create(schema)))
    target = lake.target(plan=plan)
    target.create(schema)
    landed(commit(target, batch(0, 2)))
    assert lake.rows() == expected(batch(0, 2))


def test_a_namespace_that_may_not_be_created_is_told(lake: Lake) -> None:
    plan = Plan()
    plan.at("create_namespace", 1, fail(ForbiddenError("planned")))
    with pytest.raises(PermissionDeniedError, match="creating"):
        lake.target(plan=plan).stage(batch(0, 1))


def test_s2_the_first_worker_commits_the_starts_and_the_loser_reads_them(lake: Lake) -> None:
    one, other = lake.target(), lake.target()
    one.create(batch(0, 1).parts[0].schema)
    staged = [one.stage(batch(100, 0, commit="one")), other.stage(batch(105, 0, commit="other"))]
    first = landed(one.commit(staged[0]))
    assert first.entry.positions == {ORDERS: Position(100)}
    outcome = refused(other.commit(staged[1]))
    assert outcome.entry == first.entry
    landed(commit(other, batch(100, 7)))
    assert lake.breaks() == []


def test_the_receipt_counts_rows_files_bytes_and_totals(lake: Lake) -> None:
    target = lake.target()
    first = landed(commit(target, batch(0, 5)))
    second = landed(commit(target, batch(5, 3)))
    assert (first.before, first.rows, first.after.rows) == (Totals(0, 0, 0), 5, 5)
    assert second.before == first.after
    assert (second.rows, second.files) == (3, 1)
    assert second.after == Totals(8, 2, first.bytes + second.bytes)
    assert second.sequence_number == first.sequence_number + 1
    assert lake.table().metadata.current_snapshot_id == second.snapshot_id


def test_positions_can_be_committed_without_rows(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 5))
    receipt = landed(commit(target, batch(5, 4, positions_only=True)))
    assert receipt.entry.positions == {ORDERS: Position(9)}
    assert (receipt.rows, receipt.files) == (0, 0)
    assert lake.rows() == expected(batch(0, 5))
    landed(commit(target, batch(9, 1)))
    assert lake.breaks() == []


def test_a_restarted_worker_continues_where_the_table_says(lake: Lake) -> None:
    for start in range(0, 30, 5):
        target = lake.target()
        entry = target.find().entry
        assert (entry.positions[ORDERS].next if entry else 0) == start
        landed(commit(target, batch(start, 5)))
    assert lake.rows() == expected(batch(0, 30))
    assert lake.breaks() == []


def test_what_is_in_already_is_covered_and_what_leaves_a_gap_is_refused(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 10))
    covered = refused(commit(target, batch(0, 10, commit="again")))
    gap = refused(commit(target, batch(11, 2)))
    assert (covered.covered, gap.covered) == (True, False)
    assert gap.entry is not None
    assert gap.entry.positions == {ORDERS: Position(10)}
    assert lake.rows() == expected(batch(0, 10))


def test_r1_two_workers_with_disjoint_claims_both_succeed(lake: Lake) -> None:
    plan = Plan()
    one, other = lake.target(plan=plan), lake.target()
    commit(one, batch(0, 1))
    plan.next("commit_table", meanwhile(lambda: landed(commit(other, batch(0, 4, partition=SECOND)))))
    receipt = landed(commit(one, batch(1, 5)))
    assert receipt.attempts == 2
    assert receipt.entry.positions == {ORDERS: Position(6), SECOND: Position(4)}
    assert lake.rows() == expected(batch(0, 6), batch(0, 4, partition=SECOND))
    assert lake.breaks() == []


def test_r1_of_two_workers_with_equal_claims_exactly_one_succeeds(lake: Lake) -> None:
    one, other = lake.target(), lake.target()
    commit(one, batch(0, 1))
    other.find()
    staged = [one.stage(batch(1, 5, commit="one")), other.stage(batch(1, 5, commit="other"))]
    landed(one.commit(staged[0]))
    assert refused(other.commit(staged[1])).covered
    assert lake.rows() == expected(batch(0, 6))


def test_c3_a_lost_answer_is_looked_up(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    plan.next("commit_table", lose(requests.ReadTimeout("planned")))
    receipt = landed(commit(target, batch(2, 3)))
    assert (receipt.rows, receipt.before.rows, receipt.after.rows) == (3, 2, 5)
    landed(commit(target, batch(5, 1)))
    assert lake.rows() == expected(batch(0, 6))
    assert lake.breaks() == []


def test_c3_a_conflict_answered_after_success_is_a_success(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    plan.next("commit_table", twice())
    landed(commit(target, batch(2, 3)))
    assert lake.rows() == expected(batch(0, 5))
    assert lake.breaks() == []


def test_c4_a_request_held_while_the_head_stands_is_sent_again_and_one_of_the_two_wins(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    held = Held(requests.ReadTimeout("planned"))
    plan.next("commit_table", held.fault)
    landed(commit(target, batch(2, 3)))
    with pytest.raises(Exception):  # noqa: B017 -- each catalog has its own words for it
        held.release()
    assert lake.rows() == expected(batch(0, 5))
    assert lake.breaks() == []


def test_c4_a_request_held_past_a_rival_is_dead(lake: Lake) -> None:
    plan, rival = Plan(), lake.target()
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    held = Held(requests.ReadTimeout("planned"))
    plan.next("commit_table", held.fault)
    look = plan.counts["load_table"] + 2
    plan.at("load_table", look, meanwhile(lambda: landed(commit(rival, batch(0, 4, partition=SECOND)))))
    assert landed(target.commit(staged)).attempts == 2
    with pytest.raises(Exception):  # noqa: B017 -- each catalog has its own words for it
        held.release()
    assert lake.rows() == expected(batch(0, 5), batch(0, 4, partition=SECOND))
    assert lake.breaks() == []


def test_c6_conflicts_are_rebased_without_staging_again(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    for _ in range(5):
        plan.next("commit_table", refuse())
    staged = target.stage(batch(2, 3))
    receipt = landed(target.commit(staged))
    assert receipt.attempts == 6
    assert lake.rows() == expected(batch(0, 5))


def test_b4_a_dropped_table_stops_the_writer(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    lake.catalog.drop_table(lake.name)
    with pytest.raises(TableChangedError, match="was dropped"):
        target.commit(staged)
    with pytest.raises(TableChangedError, match="was dropped"):
        target.find()


def test_b4_a_recreated_table_stops_the_writer(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    lake.catalog.drop_table(lake.name)
    lake.target().create(batch(0, 1).parts[0].schema)
    with pytest.raises(TableChangedError, match="was replaced"):
        target.commit(staged)
    assert lake.rows() == {}


def test_c8_giving_up_while_the_outcome_is_unknown_says_so_and_the_next_start_knows(lake: Lake) -> None:
    plan = Plan()
    target = lake.target(plan=plan)
    commit(target, batch(0, 2))
    staged = target.stage(batch(2, 3))
    looks = []

    def away(_: object) -> None:
        looks.append(1)
        if len(looks) == 4:
            target.give_up()
        raise requests.ConnectionError("planned")

    def land_and_leave(call: Callable[[], object]) -> None:
        call()
        plan.always("load_table", away)
        raise requests.ConnectionError("planned")

    plan.next("commit_table", land_and_leave)
    with pytest.raises(UndecidedError, match="nothing could tell yet"):
        target.commit(staged)
    entry = lake.target().find().entry
    assert entry is not None
    assert entry.positions == {ORDERS: Position(5)}


def test_c9_a_library_append_is_written_once_whoever_committed_since(lake: Lake) -> None:
    first = replace(batch(0, 3), claim={}, upto={}, writer=("handle", 1))
    second = replace(batch(3, 2), claim={}, upto={}, writer=("handle", 2))
    target, rival = lake.target(), lake.target()
    wrote = landed(commit(target, first))
    landed(commit(rival, batch(0, 4, partition=SECOND)))
    again = landed(commit(lake.target(), replace(first, id="sent again")))
    assert again.snapshot_id == wrote.snapshot_id
    landed(commit(target, second))
    assert lake.rows() == expected(batch(0, 5), batch(0, 4, partition=SECOND))


def test_i5_two_pipelines_carry_each_others_entries(lake: Lake) -> None:
    quotes = Partition("quotes", 0)
    one, other = lake.target("orders"), lake.target("quotes")
    commit(one, batch(0, 2))
    commit(other, batch(0, 3, partition=quotes))
    commit(one, batch(2, 2))
    found = lake.target("quotes").find()
    assert found.at_head
    assert found.entry is not None
    assert (found.entry.positions, found.entry.claim) == ({quotes: Position(3)}, {})
    assert found.others["orders"].claim == {ORDERS: Span(2, 4)}
    commit(other, batch(3, 1, partition=quotes))
    assert lake.breaks("orders") == lake.breaks("quotes") == []


def test_d4_a_replay_lands_on_the_letters_that_it_was_planned_on_and_on_no_others(lake: Lake) -> None:
    target = lake.target()
    commit(target, batch(0, 5))
    lettered = landed(commit(target, replace(batch(5, 3), lettering=Lettering())))
    planned = Lettering(planned_on=lettered.entry.letters)
    rows = replace(batch(8, 2), claim={}, upto={}, account=Account(0, 2, 0, -2), lettering=planned)
    landed(commit(lake.target(), batch(8, 4)))
    first = landed(commit(target, replace(rows, id="first")))
    assert first.entry.letters.replays == 1
    assert first.entry.positions == {ORDERS: Position(12)}
    assert not refused(commit(lake.target(), replace(rows, id="second"))).covered
    assert lake.rows().total() == 14
    assert lake.breaks() == []


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "another tool's"])
def test_d2_a_rollback_takes_letters_with_it_and_refuses_a_replay_that_did_not_know(
    lake: Lake, *, foreign: bool
) -> None:
    target = lake.target()
    kept = landed(commit(target, replace(batch(0, 5), lettering=Lettering())))
    gone = landed(commit(target, replace(batch(5, 3), lettering=Lettering())))
    noted = [Confirmed(kept.entry.letters.line, gone.entry.number)]
    if foreign:
        lake.table().manage_snapshots().rollback_to_snapshot(kept.snapshot_id).commit()
    else:
        target.roll_back(target.plan_rollback(kept.snapshot_id), "undo")
    planned = Lettering(planned_on=gone.entry.letters)
    late = replace(batch(5, 1), claim={}, upto={}, account=Account(0, 1, 0, -1), lettering=planned)
    refused(commit(lake.target(), late))
    found = target.find()
    assert found.entry is not None
    state = found.entry.letters.rewound(found.entry.number, found.highest)
    again = replace(late, id="again", lettering=Lettering(planned_on=state))
    after = landed(commit(target, again)).entry
    assert after.letters.count(kept.commit, after.number, ())
    assert not after.letters.count(gone.commit, after.number, noted)
    assert lake.breaks() == []
