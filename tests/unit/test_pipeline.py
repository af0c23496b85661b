"""The loop against a source and tables in memory: what is read, what is committed, and where it continues."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.errors import (
    ConfigurationError,
    OperatorError,
    PositionError,
    RejectedRecordError,
    StorageError,
    TableChangedError,
    UndecidedError,
    UnreachableError,
)
from lakeward.lanes import Lane, LaneSettings
from lakeward.ledger import LedgerEntry, next_entry
from lakeward.outcomes import Batch, Found, Staged
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Account, Partition, Position, Span
from lakeward.records import Decoded, RawBatch
from lakeward.retrying import Patience
from lakeward.starts import Edge, Lost, StartPolicy
from lakeward.testing.memory import MemorySource, MemoryTable, MemoryTarget, TextDecoder

P0, P1 = Partition("t", 0), Partition("t", 1)
CAUGHT_UP = Until(caught_up=True)


class World:
    """One topic ``t`` into the tables named; each run is a new process with the same source and tables."""

    def __init__(self, *tables: str, flush: FlushPolicy | None = None) -> None:
        self.source = MemorySource()
        self.tables = {name: MemoryTable() for name in tables or ("a",)}
        self.flush = flush or FlushPolicy(3600, 25, 1 << 30)
        self.decoder = TextDecoder()
        self.start = StartPolicy()
        self.targets: dict[str, MemoryTarget] = {}
        self.on_target: Callable[[MemoryTarget], None] = lambda target: None
        self.drain_s = 30.0

    @property
    def table(self) -> MemoryTable:
        return next(iter(self.tables.values()))

    def pipeline(self) -> Pipeline:
        lanes = []
        for name, table in self.tables.items():
            target = self.targets[name] = MemoryTarget(name, table)
            self.on_target(target)
            lanes.append(Lane(target, self.decoder, LaneSettings(self.flush)))
        settings = PipelineSettings("test", ("t",), self.start, Patience(0.001, 0.002, 0.5), drain_s=self.drain_s)
        self.source.opened = False
        self.source._at.clear()
        return Pipeline(settings, self.source, lambda topic: lanes, SystemClock(), random.Random(7))

    def run(self, until: Until = CAUGHT_UP) -> Pipeline:
        pipeline = self.pipeline()
        pipeline.run(until)
        return pipeline


def values(first: int, last: int, prefix: str = "v") -> list[bytes | None]:
    return [f"{prefix}{i}".encode() for i in range(first, last)]


def texts(first: int, last: int, prefix: str = "v") -> list[str]:
    return [f"{prefix}{i}" for i in range(first, last)]


def test_what_the_topic_holds_is_in_the_table_once_and_a_second_run_adds_nothing() -> None:
    world = World()
    world.source.append("t", 0, values(0, 100))
    world.source.append("t", 1, values(100, 130))
    world.run()
    world.run()
    assert sorted(world.table.rows) == sorted(texts(0, 130))
    assert world.table.entry is not None
    assert {p: at.next for p, at in world.table.entry.positions.items()} == {P0: 100, P1: 30}
    assert world.table.entry.account == Account(130, 130, 0)
    assert len(world.table.commits) > 3


def test_a_batch_is_committed_when_its_rows_reach_the_limit() -> None:
    world = World(flush=FlushPolicy(3600, 20, 1 << 30))
    world.source.append("t", 0, values(0, 60))
    world.run()
    assert [batch.account.rows for batch in world.table.commits] == [20, 20, 20]


def test_a_commit_holds_no_more_rows_than_the_limit_however_many_came_at_once() -> None:
    world = World(flush=FlushPolicy(3600, 20, 1 << 30))
    world.source = MemorySource(step=1000)
    world.source.append("t", 0, values(0, 90))
    world.source.append("t", 1, values(90, 130))
    world.run()
    assert [batch.account.rows for batch in world.table.commits] == [20, 20, 20, 20, 20, 20, 10]
    assert sorted(world.table.rows) == sorted(texts(0, 130))
    assert world.table.entry is not None
    assert {p: at.next for p, at in world.table.entry.positions.items()} == {P0: 90, P1: 40}


def test_a_batch_is_committed_when_its_bytes_reach_the_limit() -> None:
    world = World(flush=FlushPolicy(3600, 10_000, 200))
    world.source.append("t", 0, [b"x" * 100] * 30)
    world.run()
    assert len(world.table.commits) == 3


def test_a_batch_is_committed_when_the_interval_has_passed() -> None:
    world = World(flush=FlushPolicy(0.01, 10_000, 1 << 30))
    world.source.append("t", 0, values(0, 5))
    pipeline = world.pipeline()
    committed = threading.Event()
    ack = world.source.ack
    world.source.ack = lambda positions: (ack(positions), committed.set(), None)[2]
    thread = threading.Thread(target=pipeline.run, args=(Until(),), daemon=True)
    thread.start()
    assert committed.wait(20)
    pipeline.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert world.table.rows == texts(0, 5)


def test_claims_follow_one_another_without_a_hole() -> None:
    world = World()
    world.source.append("t", 0, values(0, 100))
    world.run()
    world.source.append("t", 0, values(100, 160))
    world.run()
    spans = [batch.claim[P0] for batch in world.table.commits if P0 in batch.claim]
    assert spans[0].start == 0
    assert spans[-1].end == 160
    assert all(a.end == b.start for a, b in pairwise(spans))


def test_a_tombstone_is_skipped_accounted_for_and_passed() -> None:
    world = World()
    world.source.append("t", 0, [b"a", None, b"b", None])
    world.run()
    assert world.table.rows == ["a", "b"]
    assert world.table.entry is not None
    assert world.table.entry.account == Account(4, 2, 2)
    assert world.table.entry.positions[P0].next == 4


def test_a_topic_of_tombstones_alone_creates_no_table() -> None:
    world = World()
    world.source.append("t", 0, [None, None])
    world.run()
    assert not world.table.exists


def test_positions_are_acked_only_after_the_commit_and_at_the_lowest_of_all_tables() -> None:
    world = World("a", "b")
    world.source.append("t", 0, values(0, 25))
    world.on_target = lambda target: (
        target.faults.append(_fail(UndecidedError("b is away"))) if target.name == "b" else None
    )
    with pytest.raises(UndecidedError):
        world.run()
    assert world.tables["a"].rows == texts(0, 25)
    assert world.tables["b"].rows == []
    assert P0 not in world.source.acked
    world.on_target = lambda target: None
    world.run()
    assert world.tables["a"].rows == world.tables["b"].rows == texts(0, 25)
    assert world.source.acked[P0] == 25


def test_a_seek_back_for_one_table_does_not_feed_another_twice() -> None:
    world = World("a", "b")
    world.source.append("t", 0, values(0, 200))

    def rival(staged: Staged) -> None:
        """Somebody else commits the first fifteen rows to b just before we do."""
        table = world.tables["b"]
        span = Span(0, 15)
        batch = Batch("rival", (), {P0: span}, {P0: Position(15)}, {}, Account(15, 15, 0))
        with table.lock:
            table.rows.extend(texts(0, 15))
            table.entry = next_entry(table.entry, table="memory", batch=batch)

    world.on_target = lambda target: target.faults.append(rival) if target.name == "b" else None
    pipeline = world.run()
    assert world.tables["a"].rows == texts(0, 200)
    assert world.tables["b"].rows == texts(0, 200)
    assert [lane.tally.refusals for lane in pipeline.lanes] == [0, 1]


def test_a_covered_batch_is_dropped_without_a_second_copy() -> None:
    world = World()
    world.source.append("t", 0, values(0, 20))

    def same_rows_by_a_rival(staged: Staged) -> None:
        with world.table.lock:
            world.table.rows.extend(staged.files)
            world.table.entry = next_entry(world.table.entry, table="memory", batch=staged.batch)
            world.table.exists = True

    world.on_target = lambda target: target.faults.append(same_rows_by_a_rival)
    world.run()
    assert world.table.rows == texts(0, 20)


def test_ten_refusals_in_a_row_ask_the_operator() -> None:
    world = World()
    world.source.append("t", 0, values(0, 100))

    def rival(staged: Staged) -> None:
        """A second group always commits one row more, just before we do."""
        with world.table.lock:
            at = world.table.entry.positions[P0].next if world.table.entry else 0
            batch = Batch(f"rival{at}", (), {P0: Span(at, at + 1)}, {P0: Position(at + 1)}, {}, Account(1, 1, 0))
            world.table.rows.append(f"v{at}")
            world.table.entry = next_entry(world.table.entry, table="memory", batch=batch)
            world.table.exists = True

    world.on_target = lambda target: target.faults.extend([rival] * 50)
    with pytest.raises(OperatorError, match="10 commits in a row"):
        world.run()


def test_max_messages_takes_exactly_so_many() -> None:
    world = World()
    world.source.append("t", 0, values(0, 100))
    pipeline = world.run(Until(messages=37))
    assert world.table.rows == texts(0, 37)
    assert pipeline.taken == 37
    assert world.table.entry is not None
    assert world.table.entry.positions[P0].next == 37
    world.run()
    assert world.table.rows == texts(0, 100)


def test_a_poison_record_stops_the_pipeline_and_names_its_place_but_not_its_value() -> None:
    world = World()
    world.source.append("t", 0, [*values(0, 30), b"!secret", *values(31, 40)])
    with pytest.raises(RejectedRecordError) as caught:
        world.run()
    assert "topic t, partition 0, offset 30" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert world.table.rows == texts(0, 30)


def test_start_latest_takes_only_what_comes_after_and_is_in_the_table_before_the_first_record() -> None:
    """PROTOCOL S2: killed before its first record, the next start must not skip what came in between."""
    world = World()
    world.start = StartPolicy(Edge.LATEST)
    world.source.append("t", 0, values(0, 10))
    world.run()
    assert world.table.entry is not None
    assert world.table.entry.positions[P0].next == 10
    world.source.append("t", 0, values(10, 15))
    world.run()
    assert world.table.rows == texts(10, 15)


def test_a_start_time_takes_what_is_not_older() -> None:
    world = World()
    world.start = StartPolicy(5_000)
    world.source.append("t", 0, values(0, 10), time_ms=4_999)
    world.source.append("t", 0, values(10, 12), time_ms=5_000)
    world.run()
    assert world.table.rows == texts(10, 12)


def test_a_partition_added_later_starts_at_its_beginning_whatever_start_says() -> None:
    world = World()
    world.start = StartPolicy(Edge.LATEST)
    world.source.append("t", 0, values(0, 10))
    world.run()
    world.source.append("t", 1, values(50, 55))
    world.run()
    assert world.table.rows == texts(50, 55)


def test_an_existing_table_without_positions_gets_them_before_the_first_poll() -> None:
    world = World()
    world.table.exists = True
    world.source.append("t", 0, values(0, 5))
    world.run()
    first = world.table.commits[0]
    assert first.account.records == 0
    assert first.claim == {P0: Span(0, 0)}
    assert world.table.rows == texts(0, 5)


@pytest.mark.parametrize(("low", "held", "says"), [(8, 20, "have expired"), (0, 3, "the topic ends at 3")])
def test_a_position_that_the_topic_no_longer_holds_asks_the_operator(low: int, held: int, says: str) -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    world.run()
    log = world.source.logs[P0]
    log.values[5:] = values(5, 20)
    log.values, log.low = log.values[:held], low
    log.times = [0] * held
    with pytest.raises(PositionError, match=says):
        world.run()
    assert world.table.rows == texts(0, 5)


def test_accepting_lost_positions_records_what_was_given_up_and_goes_on() -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    world.run()
    world.source.append("t", 0, values(5, 20))
    world.source.logs[P0].low = 8
    world.start = StartPolicy(on_lost=Lost.EARLIEST)
    world.run()
    assert world.table.rows == [*texts(0, 5), *texts(8, 20)]
    assert world.table.entry is not None
    assert [(loss.start, loss.end) for loss in world.table.entry.accepted] == [(5, 8)]
    spans = [batch.claim[P0] for batch in world.table.commits]
    assert next(span for span in spans if span.start == 8) == Span(8, 8)


def test_a_recreated_topic_asks_the_operator() -> None:
    world = World()
    world.source.ids["t"] = "one"
    world.source.append("t", 0, values(0, 5))
    world.run()
    world.source.ids["t"] = "two"
    with pytest.raises(PositionError, match="deleted and created again"):
        world.run()


def test_a_log_rewritten_below_the_position_is_noticed_by_its_witness() -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    world.run()
    world.source.logs[P0].values = values(0, 20, prefix="other")
    world.source.logs[P0].times = [0] * 20
    with pytest.raises(PositionError):
        world.run()


def test_a_revoked_partition_takes_its_uncommitted_rows_with_it_and_the_others_are_read_again() -> None:
    world = World(flush=FlushPolicy(3600, 1000, 1 << 30))
    world.source.append("t", 0, values(0, 40))
    world.source.append("t", 1, values(100, 140))
    pipeline = world.pipeline()
    poll, polls = world.source.poll, iter(range(1000))

    def revoke_midway(timeout: float):
        if next(polls) == 3:
            world.source.revoke(P1)
        return poll(timeout)

    world.source.poll = revoke_midway
    pipeline.run(CAUGHT_UP)
    assert world.table.rows == texts(0, 40)
    assert world.table.entry is not None
    assert world.table.entry.positions[P0].next == 40
    assert P1 not in world.table.entry.positions or world.table.entry.positions[P1].next == 0


def test_staging_is_tried_again_while_storage_is_full() -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    failures = [StorageError("disk full"), StorageError("disk full")]

    def break_staging(target: MemoryTarget) -> None:
        stage = target.stage

        def failing(batch: Batch) -> Staged:
            if failures:
                raise failures.pop()
            return stage(batch)

        target.stage = failing

    world.on_target = break_staging
    world.run()
    assert world.table.rows == texts(0, 5)
    assert not failures


def test_a_disk_that_stays_full_stops_with_that_error() -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    world.on_target = lambda target: setattr(target, "stage", _raise(StorageError("disk full")))
    with pytest.raises(StorageError, match="disk full"):
        world.run()
    assert world.table.rows == []


def test_a_registry_that_is_away_for_a_while_delays_and_loses_nothing() -> None:
    world = World()
    world.source.append("t", 0, values(0, 50))

    class Flaky(TextDecoder):
        failures = 3

        def decode(self, raw: RawBatch) -> Decoded:
            if self.failures:
                self.failures -= 1
                raise UnreachableError("registry away")
            return super().decode(raw)

    world.decoder = Flaky()
    world.run()
    assert world.table.rows == texts(0, 50)


def test_a_catalog_that_is_away_at_the_start_is_an_error_at_once() -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    world.on_target = lambda target: setattr(target, "find", _raise(UnreachableError("catalog away")))
    with pytest.raises(UnreachableError, match="catalog away"):
        world.run()
    assert not world.source.opened


def test_a_catalog_that_goes_away_while_partitions_are_joined_is_waited_for() -> None:
    world = World()
    world.source.append("t", 0, values(0, 5))
    answers: list[Exception | None] = [None, UnreachableError("catalog away"), None]

    def flaky_find(target: MemoryTarget) -> None:
        find = target.find

        def answer() -> Found:
            error = answers.pop(0) if answers else None
            if error:
                raise error
            return find()

        target.find = answer

    world.on_target = flaky_find
    world.run()
    assert world.table.rows == texts(0, 5)


def test_stopping_drains_what_was_taken() -> None:
    world = World(flush=FlushPolicy(3600, 10_000, 1 << 30))
    world.source.append("t", 0, values(0, 5))
    pipeline = world.pipeline()
    poll = world.source.poll

    def stop_after_data(timeout: float):
        polled = poll(timeout)
        if polled.batches:
            pipeline.stop()
        return polled

    world.source.poll = stop_after_data
    pipeline.run(Until())
    assert world.table.rows == texts(0, 5)
    assert world.source.closed


def test_nothing_more_is_taken_while_both_batches_are_full() -> None:
    world = World(flush=FlushPolicy(3600, 20, 1 << 30))
    world.source.append("t", 0, values(0, 400))
    hold, seen = threading.Event(), threading.Event()

    def wait(staged: Staged) -> None:
        seen.set()
        hold.wait(20)

    world.on_target = lambda target: target.faults.append(wait)
    pipeline = world.pipeline()
    thread = threading.Thread(target=pipeline.run, args=(CAUGHT_UP,), daemon=True)
    thread.start()
    assert seen.wait(20)
    polls = 0
    poll = world.source.poll
    enough = threading.Event()

    def count(timeout: float):
        nonlocal polls
        polls += 1
        if polls > 50:
            enough.set()
        return poll(timeout)

    world.source.poll = count
    assert enough.wait(20)
    taken = pipeline.taken
    assert taken <= 50
    hold.set()
    thread.join(20)
    assert world.table.rows == texts(0, 400)


def test_a_table_that_is_full_stays_paused_while_another_one_is_rewound() -> None:
    world = World("a", "b", flush=FlushPolicy(3600, 20, 1 << 30))
    world.source.append("t", 0, values(0, 1000))
    hold = threading.Event()

    def rival(staged: Staged) -> None:
        entry = world.tables["b"].entry
        assert entry is not None
        at = entry.positions[P0].next
        batch = Batch("rival", (), {P0: Span(at, at + 1)}, {P0: Position(at + 1)}, {}, Account(1, 1, 0))
        with world.tables["b"].lock:
            world.tables["b"].rows.extend(texts(at, at + 1))
            world.tables["b"].entry = next_entry(entry, table="memory", batch=batch)

    faults = {"a": [lambda staged: hold.wait(20) and None], "b": [lambda staged: None, rival]}
    world.on_target = lambda target: target.faults.extend(faults[target.name])
    pipeline = world.pipeline()
    thread = threading.Thread(target=pipeline.run, args=(CAUGHT_UP,), daemon=True)
    most, polls, enough = 0, 0, threading.Event()
    poll = world.source.poll

    def watch(timeout: float):
        nonlocal most, polls
        polls += any(lane.tally.refusals for lane in pipeline.lanes)
        most = max(most, *(lane.filling.account.rows for lane in pipeline.lanes), 0)
        if polls > 300:
            enough.set()
        return poll(timeout)

    world.source.poll = watch
    thread.start()
    assert enough.wait(20)
    assert most <= 40
    hold.set()
    thread.join(20)
    assert world.tables["a"].rows == world.tables["b"].rows == texts(0, 1000)


def test_one_table_that_fails_does_not_keep_the_others_from_being_committed() -> None:
    world = World("a", "b", "c", flush=FlushPolicy(3600, 10_000, 1 << 30))
    world.source.append("t", 0, values(0, 30))
    broken = TableChangedError("it was dropped", "Decide.")
    world.on_target = lambda target: target.faults.append(_fail(broken)) if target.name != "b" else None
    with pytest.raises(TableChangedError, match="it was dropped"):
        world.run()
    assert world.tables["b"].rows == texts(0, 30)
    assert world.tables["a"].rows == world.tables["c"].rows == []


def test_a_topic_that_does_not_exist_is_an_error_for_a_bounded_run() -> None:
    with pytest.raises(ConfigurationError, match="topic t does not exist"):
        World().run()


def test_positions_move_past_what_no_message_tells_of() -> None:
    """Control records and compacted holes at the end of a partition: a drain commits that they were passed."""
    world = World()
    world.source.append("t", 0, values(0, 5))
    poll = world.source.poll

    def with_marker(timeout: float):
        polled = poll(timeout)
        return type(polled)(
            polled.batches, {p: at + 1 for p, at in polled.reached.items()}, polled.assigned, polled.revoked
        )

    world.source.poll = with_marker
    world.run()
    assert isinstance(world.table.entry, LedgerEntry)
    assert world.table.entry.positions[P0].next == 6


def _fail(error: Exception) -> Callable[[Staged], None]:
    def fault(staged: Staged) -> None:
        raise error

    return fault


def _raise(error: Exception) -> Callable[..., None]:
    def fault(*args: object) -> None:
        raise error

    return fault
