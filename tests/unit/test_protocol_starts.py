"""PROTOCOL S2, S3 and F5: where tables begin, what they can no longer continue, and heads of others."""

from __future__ import annotations

import threading

import pytest
from tests.unit.loop_rig import T0, T1, U0, Ends, Rig, bounded, texts, values

from lakeward.batching import FlushPolicy
from lakeward.errors import PositionError
from lakeward.ledger import LedgerEntry
from lakeward.outcomes import Found, Staged
from lakeward.pipeline import Until
from lakeward.positions import Partition, Position, Span
from lakeward.records import Polled, RawBatch
from lakeward.starts import Edge, Lost, StartPolicy
from lakeward.testing.memory import Log, MemorySource


@pytest.mark.parametrize("named", [True, False])
def test_s2_a_topic_that_appears_while_running_starts_at_its_beginning_whatever_start_says(*, named: bool) -> None:
    rig = Rig({"t": ["a"], "u": ["b"]})
    rig.named = ("t", "u") if named else ()
    rig.start = StartPolicy(Edge.LATEST)
    rig.source.append("t", 0, values(0, 5))
    pipeline = rig.pipeline()

    def appear() -> None:
        rig.source.append("u", 0, values(0, 4))
        rig.source.append("t", 0, values(5, 7))
        rig.source.assign(U0)

    rig.on_poll(10, appear)
    rig.stop_when(pipeline, lambda: pipeline.taken == 6)
    bounded(pipeline, Until())
    assert rig.tables["a"].rows == texts(5, 7)
    assert rig.tables["b"].rows == texts(0, 4)


def test_s2_a_pattern_topic_that_appeared_while_its_table_was_known_starts_at_its_beginning() -> None:
    rig = Rig({"t": ["a"], "u": ["a"]})
    rig.named = ()
    rig.start = StartPolicy(Edge.LATEST)
    rig.source.append("t", 0, values(0, 5))
    rig.run()
    rig.source.append("u", 0, values(20, 24))
    rig.run()
    assert rig.tables["a"].rows == texts(20, 24)


@pytest.mark.parametrize("there", [True, False])
def test_s2_the_first_worker_decides_for_the_partitions_of_the_others_too(*, there: bool) -> None:
    rig = Rig()
    rig.tables["a"].exists = there
    if not there:
        rig.decoder.schema = lambda _topic: None  # known with the first record only
    rig.start = StartPolicy(Edge.LATEST)
    for number in range(2):
        rig.source.append("t", number, values(10 * number, 10 * number + 5))
    rig.source.revoke(T1)
    first = rig.pipeline()
    rig.on_poll(20, lambda: rig.source.append("t", 0, values(5, 7)))
    rig.stop_when(first, lambda: first.taken == 2)
    bounded(first, Until())
    assert {p: rig.next_of("a", p) for p in (T0, T1)} == {T0: 7, T1: 5}
    rig.source.append("t", 1, values(15, 18))
    rig.source.append("t", 2, values(20, 23))  # added since
    rig.source.assign(T1, Partition("t", 2))
    rig.run()
    assert sorted(rig.tables["a"].rows) == sorted([*texts(5, 7), *texts(15, 18), *texts(20, 23)])


def test_s2_a_partition_handed_over_while_the_table_has_no_schema_yet_starts_where_it_was_decided() -> None:
    rig = Rig()
    rig.decoder.schema = lambda _topic: None
    rig.start = StartPolicy(Edge.LATEST)
    rig.source.append("t", 0, values(0, 5))
    rig.source.append("t", 1, values(10, 15))
    rig.source.revoke(T1)
    pipeline = rig.pipeline()

    def hand_over() -> None:
        rig.source.append("t", 1, values(15, 18))  # after it was decided where it starts
        rig.source.append("t", 2, values(20, 22))
        rig.source.assign(T1, Partition("t", 2))

    rig.on_poll(20, hand_over)
    rig.stop_when(pipeline, lambda: pipeline.taken == 5)
    bounded(pipeline, Until())
    assert sorted(rig.tables["a"].rows) == [*texts(15, 18), *texts(20, 22)]


def test_s2_starts_that_a_rebalance_took_back_are_committed_before_anything_is_read() -> None:
    rig = Rig()
    rig.tables["a"].exists = True
    rig.start = StartPolicy(Edge.LATEST)
    for number in range(2):
        rig.source.append("t", number, values(10 * number, 10 * number + 5))
    pipeline = rig.pipeline()
    lane = pipeline._joining.lanes_of("t")[0]
    settle = lane.settle

    def settle_and_lose(*arguments: object, **more: object) -> None:
        lane.settle = settle
        settle(*arguments, **more)
        rig.source.revoke(T1)  # before the starts are sent

    lane.settle = settle_and_lose
    flush, sent = lane.flush, []
    lane.flush = lambda *arguments: (sent.append(dict(lane.filling.claim)), flush(*arguments))
    due, lane.due_in = lane.due_in, lambda now: None if rig.source._revoke else due(now)
    rig.stop_when(pipeline, lambda: T0 in pipeline._joining.begun)
    bounded(pipeline, Until())
    assert sent[0] == {T0: Span(5, 5), T1: Span(5, 5)}
    assert {p: rig.next_of("a", p) for p in (T0, T1)} == {T0: 5, T1: 5}


@pytest.mark.parametrize("step", ["create", "stage", "commit", "committed"])
def test_s2_start_latest_killed_at_any_step_before_its_first_record_skips_nothing_it_had_resolved(step: str) -> None:
    rig = Rig()
    rig.start = StartPolicy(Edge.LATEST)
    rig.source.append("t", 0, values(0, 10))
    pipeline = rig.pipeline()
    target, polled_before = rig.targets["a"], []
    poll = rig.source.poll

    def no_record_before_the_commit(timeout: float) -> Polled:
        polled = poll(timeout)
        polled_before.extend(b for b in polled.batches if rig.tables["a"].entry is None)
        return polled

    rig.source.poll = no_record_before_the_commit

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    if step == "committed":
        commit = target.commit
        target.commit = lambda staged: (commit(staged), die())[1]
    else:
        setattr(target, step, die)
    with pytest.raises(Killed):
        pipeline.run(Until())
    resolved = rig.tables["a"].entry
    rig.source.poll = poll
    rig.source.append("t", 0, values(10, 15))
    rig.run()
    rig.source.append("t", 0, values(15, 18))
    rig.run()
    assert polled_before == []
    assert rig.tables["a"].rows == texts(10 if resolved is not None else 15, 18)


def test_s2_starts_that_are_not_proved_are_not_read_from_when_another_partition_is_revoked() -> None:
    rig = Rig({"t": ["a"], "u": ["a"]})
    rig.named = ()
    rig.source.append("t", 0, values(0, 5))
    rig.run()
    rig.source.append("t", 0, values(5, 9))
    pipeline = rig.pipeline()
    sent, go_on = threading.Event(), threading.Event()

    def hold(staged: Staged) -> None:
        sent.set()
        go_on.wait(10)

    rig.targets["a"].faults.append(hold)
    read_early: list[RawBatch] = []
    poll, polls = rig.source.poll, iter(range(1_000_000))

    def steps(timeout: float) -> Polled:
        number = next(polls)
        if number == 3:  # the start of u, and with it what came of t, is sent, and held
            rig.source.append("u", 0, values(20, 24))
            rig.source.assign(U0)
        if number == 6:
            assert sent.wait(10)
            rig.source.append("t", 0, values(9, 12))
        if number == 8:
            assert T0 in pipeline.lanes[0].filling
            rig.source.revoke(T0)
        polled = poll(timeout)
        if number < 14:
            read_early.extend(raw for raw in polled.batches if raw.topic == "u")
        if number == 14:
            go_on.set()
            rig.source.assign(T0)
        return polled

    rig.source.poll = steps
    rig.stop_when(pipeline, lambda: pipeline.taken == 14)
    bounded(pipeline, Until())
    assert read_early == []
    assert sorted(rig.tables["a"].rows) == sorted([*texts(0, 12), *texts(20, 24)])


def test_s2_partitions_added_while_running_are_read_from_their_beginning_beside_the_others() -> None:
    rig = Rig(flush=FlushPolicy(3600, 15, 1 << 30))
    rig.start = StartPolicy(Edge.LATEST)
    rig.source.append("t", 0, values(0, 5))
    pipeline = rig.pipeline()

    def add() -> None:
        rig.source.append("t", 0, values(5, 45))
        rig.source.append("t", 1, values(100, 120))
        rig.source.assign(T1)

    rig.on_poll(6, add)
    rig.stop_when(pipeline, lambda: pipeline.taken == 60)
    bounded(pipeline, Until())
    assert sorted(rig.tables["a"].rows) == sorted([*texts(5, 45), *texts(100, 120)])


def test_s3_tables_that_stand_apart_give_up_only_what_each_has_lost() -> None:
    rig = Rig({"t": ["a", "b"]})
    rig.source.append("t", 0, values(0, 20))
    rig.source.append("t", 1, values(50, 60))
    rig.tables["a"].exists = rig.tables["b"].exists = True
    rig.rival("a", T0, 0, 3)
    rig.rival("a", T1, 0, 2)
    rig.rival("b", T0, 0, 12)
    rig.rival("b", T1, 0, 9)
    rig.source.logs[T0].low = 8
    rig.source.logs[T1].low = 5
    rig.start = StartPolicy(on_lost=Lost.EARLIEST)
    bounded(rig.pipeline())
    entries = {name: table.entry for name, table in rig.tables.items()}
    assert all(entries.values())
    assert {(str(x.partition), x.start, x.end) for x in entries["a"].accepted} == {("t/0", 3, 8), ("t/1", 2, 5)}
    assert entries["b"].accepted == ()
    assert sorted(rig.tables["a"].rows) == sorted([*texts(0, 3), *texts(8, 20), *texts(50, 52), *texts(55, 60)])
    assert sorted(rig.tables["b"].rows) == sorted([*texts(0, 20), *texts(50, 60)])


def test_s3_nothing_behind_a_loss_is_read_before_the_loss_is_in_the_table() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 5))
    rig.run()
    rig.source.append("t", 0, values(5, 20))
    rig.source.logs[T0].low = 8
    rig.start = StartPolicy(on_lost=Lost.EARLIEST)
    pipeline = rig.pipeline()
    poll, early = rig.source.poll, []

    def watch(timeout: float) -> Polled:
        polled = poll(timeout)
        entry = rig.tables["a"].entry
        assert entry is not None
        early.extend(raw for raw in polled.batches if not entry.accepted)
        return polled

    rig.source.poll = watch
    bounded(pipeline)
    assert early == []
    assert rig.tables["a"].rows == [*texts(0, 5), *texts(8, 20)]


def test_s3_a_topic_created_anew_twice_with_as_many_records_is_given_up_twice() -> None:
    rig = Rig()
    rig.start = StartPolicy(on_lost=Lost.EARLIEST)
    rows: list[str] = []
    entries: list[LedgerEntry | None] = [None]
    for turn in range(3):
        rig.source = MemorySource()
        rig.source.ids["t"] = f"id-{turn}"
        rig.source.append("t", 0, values(0, 5, prefix=f"turn{turn}-"))
        bounded(rig.pipeline())
        rows += texts(0, 5, prefix=f"turn{turn}-")
        entries.append(rig.tables["a"].entry)
        assert rig.tables["a"].rows == rows
    assert entries[-1] is not None
    assert [(loss.start, loss.end) for loss in entries[-1].accepted] == [(5, 0), (5, 0)]


def test_s3_an_identity_that_becomes_known_is_recorded_and_one_that_is_not_told_changes_nothing() -> None:
    rig = Rig()
    told: list[str | None] = []
    for offset, identity in enumerate([None, "one", None, "one"]):
        rig.source.ids = {} if identity is None else {"t": identity}
        rig.source.append("t", 0, values(offset, offset + 1))
        rig.run()
        entry = rig.tables["a"].entry
        assert entry is not None
        told.append(entry.sources["t"])
    assert told == [None, "one", "one", "one"]
    rig.source.ids = {"t": "two"}
    with pytest.raises(PositionError, match="deleted and created again"):
        rig.run()


def test_s3_a_witness_survives_commits_that_only_move_the_position() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 5))
    rig.run()
    before = rig.tables["a"].entry
    ends = Ends()
    ends.logs = rig.source.logs
    rig.source = ends
    rig.run()
    entry = rig.tables["a"].entry
    assert before is not None
    assert entry is not None
    assert entry.positions[T0].next == 7
    assert entry.positions[T0].witness == before.positions[T0].witness
    rig.source.logs[T0].values = values(0, 20, prefix="other")
    rig.source.logs[T0].times = [0] * 20
    with pytest.raises(PositionError):
        rig.run()


def test_s3_a_log_rewritten_below_one_table_but_above_another_is_noticed_by_the_one_that_is_ahead() -> None:
    rig = Rig({"t": ["a", "b"]})
    rig.source.append("t", 0, values(0, 20))
    rig.feeds = {"t": ["b"]}
    rig.run()
    rig.feeds = {"t": ["a"]}
    rig.source.logs[T0].values = values(0, 8)
    rig.run()
    assert (rig.next_of("a", T0), rig.next_of("b", T0)) == (8, 20)
    rig.feeds = {"t": ["a", "b"]}
    rig.source.logs[T0].values = [*values(0, 15), *values(15, 30, prefix="other")]
    rig.source.logs[T0].times = [0] * 30
    with pytest.raises(PositionError, match="offset 19"):
        rig.run()
    assert rig.tables["b"].rows == texts(0, 20)


def test_s3_without_a_witness_the_position_alone_decides() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 5))
    rig.rival("a", T0, 0, 3)
    assert rig.tables["a"].entry is not None
    assert rig.tables["a"].entry.positions[T0].witness is None
    rig.run()
    assert rig.tables["a"].rows == texts(0, 5)


def test_f5_a_foreign_head_is_anchored_even_if_nothing_comes() -> None:
    rig = Rig(flush=FlushPolicy(0.005, 1000, 1 << 30))
    rig.source.append("t", 0, values(0, 5))
    rig.run()
    commits = len(rig.tables["a"].commits)
    pipeline = rig.pipeline()
    target = rig.targets["a"]
    find = target.find
    target.find = lambda: Found(find().exists, find().entry, at_head=False)
    rig.source.ack = lambda positions: pipeline.stop()
    bounded(pipeline, Until())
    assert len(rig.tables["a"].commits) == commits + 1
    assert rig.tables["a"].commits[-1].claim == {T0: Span(5, 5)}
    assert rig.next_of("a", T0) == 5


def test_s3_a_topic_created_again_with_fewer_partitions_keeps_no_position_of_the_one_before() -> None:
    """The partition that is gone is given up with the others: added later, it is read from its beginning."""
    rig = Rig()
    rig.start = StartPolicy(on_lost=Lost.EARLIEST)
    rig.source.ids["t"] = "one"
    rig.source.append("t", 0, values(0, 9))
    rig.source.append("t", 1, values(50, 55))
    rig.run()
    rig.source = MemorySource()
    rig.source.ids["t"] = "two"
    rig.source.append("t", 0, values(100, 103))
    bounded(rig.pipeline())
    rig.source.append("t", 1, values(150, 160))
    bounded(rig.pipeline())
    rows = [*texts(0, 9), *texts(50, 55), *texts(100, 103), *texts(150, 160)]
    assert sorted(rig.tables["a"].rows) == sorted(rows)


def test_s3_a_partition_that_only_the_new_topic_has_does_not_hide_that_the_old_one_is_gone() -> None:
    rig = Rig()
    rig.source.ids["t"] = "one"
    rig.source.append("t", 0, values(0, 9))
    rig.run()
    rig.source = MemorySource()
    rig.source.ids["t"] = "two"
    rig.source.append("t", 1, values(50, 55))
    with pytest.raises(PositionError, match="deleted and created again"):
        bounded(rig.pipeline())
    assert rig.tables["a"].rows == texts(0, 9)


def test_s3_a_topic_created_again_while_it_is_read_is_noticed_by_every_table_and_nothing_is_mixed() -> None:
    """One of its partitions is given back under the new id while rows of the old topic are still held."""
    rig = Rig({"t": ["a", "b"], "u": ["b"]})
    rig.start = StartPolicy(on_lost=Lost.EARLIEST)
    rig.source.ids = {"t": "one", "u": "u"}
    rig.source.append("t", 0, values(0, 5))
    rig.source.append("t", 1, values(50, 55))
    rig.source.append("u", 0, values(80, 85))
    rig.run()
    rig.source.append("t", 0, values(5, 9))
    rig.source.append("t", 1, values(55, 58))
    pipeline = rig.pipeline()

    def create_again() -> None:
        assert all(T1 in lane.filling for lane in pipeline.lanes)
        rig.source.ids["t"] = "two"
        rig.source.logs[T0] = Log(values(100, 103), 0, [0] * 3)
        rig.source.logs[T1] = Log(values(150, 160), 0, [0] * 10)
        rig.source.revoke(T0)
        rig.source.assign(T0)

    rig.on_poll(4, create_again)
    publish, acked = rig.source.ack, []

    def ack(positions: dict[Partition, Position]) -> None:
        for partition, at in positions.items():
            if partition.topic == "t":
                stand = [rig.tables[name].entry for name in "ab"]
                assert len({entry.sources["t"] for entry in stand}) == 1
                assert all(at.next <= entry.positions[partition].next for entry in stand)
                acked.append(at.next)
        publish(positions)

    rig.source.ack = ack
    held = [*texts(0, 5), *texts(50, 55)]
    anew = [*texts(100, 103), *texts(150, 160)]
    rig.stop_when(pipeline, lambda: rig.source.acked.get(T1) == 10 or pipeline.taken == 7 + 3 + 10)
    bounded(pipeline, Until())
    assert sorted(rig.tables["a"].rows) == sorted(held + anew)
    assert sorted(rig.tables["b"].rows) == sorted([*held, *texts(80, 85), *anew])
    assert acked
