"""PROTOCOL, section 5, I3, I7 and R2, R3, as the loop keeps them: refusals, errors, and the end of a run."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest
from tests.unit.loop_rig import CAUGHT_UP, T0, T1, Rig, bounded, fails, texts, values

from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.errors import OperatorError, UndecidedError
from lakeward.ledger import LedgerEntry, breaks
from lakeward.outcomes import Found, Staged
from lakeward.pipeline import Until
from lakeward.positions import Account, Partition, Position
from lakeward.records import Polled
from lakeward.testing.memory import MemoryTarget


def test_c5_of_two_tables_one_is_refused_while_the_other_commits_and_both_are_exact() -> None:
    rig = Rig({"t": ["a", "b"], "u": ["b"]}, flush=FlushPolicy(3600, 25, 1 << 30))
    rig.source.append("t", 0, values(0, 120))
    rig.source.append("t", 1, values(200, 260))
    rig.source.append("u", 0, values(300, 380))
    pipeline = rig.pipeline()
    release = threading.Event()
    rig.targets["a"].faults.append(lambda staged: release.wait(10) and None)
    rig.targets["b"].faults.append(lambda staged: (rig.rival("b", T0, 0, 7), release.set())[1])
    bounded(pipeline)
    assert sorted(rig.tables["a"].rows) == sorted([*texts(0, 120), *texts(200, 260)])
    assert sorted(rig.tables["b"].rows) == sorted([*texts(0, 120), *texts(200, 260), *texts(300, 380)])


def test_c5_refused_while_draining_a_run_until_caught_up_reads_on_until_its_tables_are() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 30))
    pipeline = rig.pipeline()
    rig.targets["a"].faults.append(lambda staged: rig.rival("a", T0, 0, 4))
    bounded(pipeline)
    assert pipeline.lanes[0].tally.refusals == 1
    assert rig.tables["a"].rows == texts(0, 30)


def test_c5_refused_while_stopping_leaves_the_rest_to_the_next_start() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 30))
    pipeline = rig.pipeline()
    rig.targets["a"].faults.append(lambda staged: rig.rival("a", T0, 0, 4))
    rig.on_poll(8, pipeline.stop)
    pipeline.run(Until())
    assert rig.tables["a"].rows == texts(0, 4)
    bounded(rig.pipeline())
    assert rig.tables["a"].rows == texts(0, 30)


def test_r2_revoked_while_draining_takes_its_uncommitted_rows_with_it() -> None:
    rig = Rig({"t": ["a"], "u": ["a"]}, flush=FlushPolicy(3600, 10, 1 << 30))
    rig.source.append("t", 0, values(0, 12))
    rig.source.append("u", 0, values(50, 53))
    pipeline = rig.pipeline()
    hold = threading.Event()
    rig.targets["a"].faults.append(lambda staged: hold.wait(10) and None)
    poll = rig.source.poll
    polls = iter(range(1_000_000))

    def steps(timeout: float) -> Polled:
        number = next(polls)
        if number == 6:
            pipeline.stop()
        if number == 8:
            rig.source.revoke(T0)
        if number == 10:
            hold.set()
        return poll(timeout)

    rig.source.poll = steps
    pipeline.run(Until())
    assert rig.next_of("a", T0) == 10
    bounded(rig.pipeline())
    assert sorted(rig.tables["a"].rows) == sorted([*texts(0, 12), *texts(50, 53)])


def test_an_undecided_commit_while_draining_is_left_and_the_next_start_asks_the_table() -> None:
    """Once it had landed, once it had not: the same ending, and the table knows."""
    for landed in (True, False):
        rig = Rig()
        rig.source.append("t", 0, values(0, 30))
        pipeline = rig.pipeline()
        target = rig.targets["a"]

        def unknown(staged: Staged, *, landed: bool = landed, target: MemoryTarget = target) -> None:
            if landed:
                target.commit(staged)
            raise UndecidedError("no answer")

        target.faults.append(unknown)
        with pytest.raises(UndecidedError, match="no answer"):
            pipeline.run(CAUGHT_UP)
        assert rig.tables["a"].rows == (texts(0, 30) if landed else [])
        assert rig.source.acked == {}
        bounded(rig.pipeline())
        assert rig.tables["a"].rows == texts(0, 30)


def test_stopping_takes_no_longer_than_its_bound_however_many_commits_hang() -> None:
    """What counts is how often the bound starts again: a clock that jumps shows it."""
    rig = Rig({"t": ["a", "b", "c"]})
    rig.drain_s = 5.0
    rig.source.append("t", 0, values(0, 5))
    pipeline = rig.pipeline()
    hang = threading.Event()
    for target in rig.targets.values():
        target.faults.append(lambda staged: hang.wait(10) and None)

    class Jumping(SystemClock):
        now = 0.0

        def monotonic(self) -> float:
            Jumping.now += 0.5
            return Jumping.now

    clock = Jumping()
    for part in (pipeline, pipeline._joining, pipeline._persistence):
        part._clock = clock
    drained_at: list[float] = []
    report = pipeline._report

    def note(state: str, *, now: bool = False) -> None:
        if state == "DRAINING":
            drained_at.append(clock.now)
        report(state, now=now)

    pipeline._report = note
    with pytest.raises(UndecidedError, match="open commits: a, b, c"):
        pipeline.run(CAUGHT_UP)
    hang.set()
    assert clock.now - drained_at[0] < rig.drain_s + 3.0


def test_a_commit_that_fails_while_the_loop_polls_ends_the_run_and_nothing_more_is_sent_for_its_table() -> None:
    rig = Rig(flush=FlushPolicy(3600, 10, 1 << 30))
    rig.source.append("t", 0, values(0, 200))
    pipeline = rig.pipeline()
    sent: list[str] = []

    def fault(staged: Staged) -> None:
        sent.append(staged.batch.id)
        if len(sent) == 2:
            raise OperatorError("the table is read only")

    rig.targets["a"].faults.extend([fault] * 10)
    with pytest.raises(OperatorError, match="read only"):
        pipeline.run(CAUGHT_UP)
    assert len(sent) == 2
    assert rig.tables["a"].rows == texts(0, 10)


def test_a_failure_that_is_none_of_ours_leaves_what_the_table_says() -> None:
    rig = Rig(flush=FlushPolicy(3600, 10, 1 << 30))
    rig.source.append("t", 0, values(0, 50))
    pipeline = rig.pipeline()
    rig.targets["a"].faults.extend([fails(), lambda staged: 1 // 0])  # type: ignore[list-item,func-returns-value]
    with pytest.raises(ZeroDivisionError):
        pipeline.run(CAUGHT_UP)
    assert rig.source.closed
    assert rig.tables["a"].rows == texts(0, 10)
    bounded(rig.pipeline())
    assert rig.tables["a"].rows == texts(0, 50)


def test_r3_after_ten_refusals_in_a_row_nothing_more_is_sent() -> None:
    rig = Rig(flush=FlushPolicy(3600, 10, 1 << 30))
    rig.source.append("t", 0, values(0, 200))
    pipeline = rig.pipeline()
    sent: list[Staged] = []

    def overtaken(staged: Staged) -> None:
        sent.append(staged)
        at = rig.tables["a"].entry.positions[T0].next if rig.tables["a"].entry else 0
        rig.rival("a", T0, at, at + 1)

    rig.targets["a"].faults.extend([overtaken] * 30)
    with pytest.raises(OperatorError, match="10 commits in a row"):
        pipeline.run(CAUGHT_UP)
    assert len(sent) == 10
    assert rig.tables["a"].rows == texts(0, 10)


def test_two_batches_of_one_table_are_never_in_flight_at_once() -> None:
    rig = Rig({"t": ["a", "b"]}, flush=FlushPolicy(0.0, 3, 1 << 30))
    rig.source.append("t", 0, values(0, 200))
    pipeline = rig.pipeline()
    flying = {"a": 0, "b": 0}
    most = dict(flying)
    for name, target in rig.targets.items():

        def commit(staged: Staged, name: str = name, inner=target.commit):
            flying[name] += 1
            most[name] = max(most[name], flying[name])
            try:
                return inner(staged)
            finally:
                flying[name] -= 1

        target.commit = commit
    bounded(pipeline)
    assert most == {"a": 1, "b": 1}
    assert rig.tables["a"].rows == rig.tables["b"].rows == texts(0, 200)


def test_i7_an_ack_is_never_above_any_tables_position() -> None:
    rig = Rig({"t": ["a", "b", "c"]}, flush=FlushPolicy(0.0, 7, 1 << 30))
    rig.source.append("t", 0, values(0, 150))
    rig.source.append("t", 1, values(200, 260))
    pipeline = rig.pipeline()
    ack, acked = rig.source.ack, []

    def check(positions: dict[Partition, Position]) -> None:
        for partition, at in positions.items():
            for name in rig.tables:
                assert at.next <= rig.next_of(name, partition)
            acked.append(at.next)
        ack(positions)

    rig.source.ack = check
    rig.targets["b"].faults.append(lambda staged: rig.rival("b", T0, 0, 3))
    bounded(pipeline)
    assert acked
    assert rig.source.acked == {T0: 150, T1: 60}


def test_a_batch_of_tombstones_alone_moves_the_position_of_a_table_that_exists() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 2))
    rig.run()
    rig.source.append("t", 0, [None] * 5)
    rig.run()
    assert rig.next_of("a", T0) == 7
    assert rig.tables["a"].entry is not None
    assert rig.tables["a"].entry.account == Account(7, 2, 5)
    assert rig.tables["a"].commits[-1].parts == ()


def test_memory_stays_within_two_batches_a_table_whatever_is_held_up() -> None:
    """Twenty tables, all commits held: nothing more is taken than both batches and one poll."""
    names = [f"table{i}" for i in range(20)]
    rig = Rig({"t": names}, flush=FlushPolicy(3600, 30, 1 << 30))
    rig.source.append("t", 0, values(0, 2_000))
    pipeline = rig.pipeline()
    hold = threading.Event()
    for target in rig.targets.values():
        target.faults.append(lambda staged: hold.wait(20) and None)
    poll, most, polls = rig.source.poll, [0], iter(range(1_000_000))

    def watch(timeout: float) -> Polled:
        held = [lane.filling.account.rows for lane in pipeline.lanes]
        most[0] = max([most[0], *held])
        if next(polls) == 150:
            assert pipeline.taken <= 70
            hold.set()
        return poll(timeout)

    rig.source.poll = watch
    bounded(pipeline, seconds=30.0)
    assert most[0] <= 40
    assert all(table.rows == texts(0, 2_000) for table in rig.tables.values())


def test_i3_every_entry_follows_the_one_before_through_refusals_rebalances_and_restarts() -> None:
    rig = Rig({"t": ["a"], "u": ["a"]}, flush=FlushPolicy(3600, 9, 1 << 30))
    table = rig.tables["a"]
    entries: list[LedgerEntry | None] = [None]
    note = MemoryTarget.commit

    def noted(target: MemoryTarget) -> None:
        def commit(staged: Staged):
            outcome = note(target, staged)
            if entries[-1] is not table.entry:
                entries.append(table.entry)
            return outcome

        target.commit = commit

    for turn in range(4):
        rig.source.append("t", 0, values(turn * 20, turn * 20 + 20))
        rig.source.append("u", 0, values(500 + turn * 9, 509 + turn * 9))
        pipeline = rig.pipeline()
        noted(rig.targets["a"])
        rig.on_poll(3, lambda: (rig.source.revoke(T0), rig.source.assign(T0)))
        bounded(pipeline)
    assert len(entries) > 8
    assert all(breaks(before, after) == [] for before, after in itertools.pairwise(entries) if after is not None)
    assert sorted(table.rows) == sorted([*texts(0, 80), *texts(500, 536)])


@pytest.mark.parametrize("more", [3, 200])
def test_a_look_at_a_quiet_table_that_hangs_holds_up_neither_stopping_nor_the_bounds_of_memory(more: int) -> None:
    rig = Rig(flush=FlushPolicy(0.001, 20, 1 << 30))
    rig.drain_s = 0.05
    rig.source.append("t", 0, values(0, 5))
    pipeline = rig.pipeline()
    find, looks = rig.targets["a"].find, iter(range(1_000_000))
    hang, answered = threading.Event(), threading.Event()

    def hanging() -> Found:
        if next(looks) >= 2:  # those of the start are answered
            rig.source.append("t", 0, values(5, 5 + more))
            hang.wait(5)
            answered.set()
        return find()

    rig.targets["a"].find = hanging
    polls = iter(range(1_000_000))
    rig.stop_when(pipeline, lambda: pipeline.taken > 5 and next(polls) > 50)
    with pytest.raises(UndecidedError):
        bounded(pipeline, Until())
    assert not answered.is_set()
    assert pipeline.taken <= 5 + 30
    hang.set()
    bounded(rig.pipeline())
    assert rig.tables["a"].rows == texts(0, 5 + more)


def test_b2_a_rewind_of_one_partition_is_noticed_while_another_joins() -> None:
    """The look for the one that joins is the only one that could: later looks are compared with what it found."""
    rig = Rig(flush=FlushPolicy(0.005, 1_000, 1 << 30))
    rig.source.append("t", 0, values(0, 10))
    rig.source.append("t", 1, values(10, 20))
    rig.run()
    pipeline, table = rig.pipeline(), rig.tables["a"]
    before = table.entry
    assert before is not None

    def roll_back_and_rebalance() -> None:
        table.entry = replace(before, positions={**before.positions, T0: Position(0)}, number=before.number + 1)
        table.rows[:] = texts(10, 20)
        rig.source.revoke(T1)
        rig.source.assign(T1)

    rig.on_poll(4, roll_back_and_rebalance)
    rig.stop_when(pipeline, lambda: len(table.rows) == 20 and rig.next_of("a", T0) == 10 and table.entry is not before)
    bounded(pipeline, Until())
    assert sorted(table.rows) == sorted(texts(0, 20))


def test_b2_a_rewind_is_noticed_by_a_commit_that_claims_other_partitions() -> None:
    """It succeeds, above the rewind: the entry that it leaves is the only one that tells."""
    rig = Rig(flush=FlushPolicy(0.005, 1_000, 1 << 30))
    rig.source.append("t", 0, values(0, 10))
    rig.source.append("t", 1, values(10, 20))
    rig.run()
    pipeline, table = rig.pipeline(), rig.tables["a"]
    before = table.entry
    assert before is not None

    def roll_back_and_go_on() -> None:
        table.entry = replace(before, positions={**before.positions, T0: Position(0)}, number=before.number + 1)
        table.rows[:] = texts(10, 20)
        rig.source.append("t", 1, values(20, 25))

    rig.on_poll(4, roll_back_and_go_on)
    rig.stop_when(pipeline, lambda: len(table.rows) == 25)
    bounded(pipeline, Until())
    assert sorted(table.rows) == sorted(texts(0, 25))
