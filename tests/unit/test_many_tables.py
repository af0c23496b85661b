"""One stream into many tables in one process: each exact, none held up by another, memory bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
from tests.unit.loop_rig import Ends, Rig, bounded, texts, values

from lakeward.batching import FlushPolicy
from lakeward.errors import UnreachableError
from lakeward.joining import ASKED_A_TURN, FEW
from lakeward.lanes import Lane
from lakeward.outcomes import Found, Staged
from lakeward.pipeline import Pipeline, Until
from lakeward.positions import Partition
from lakeward.records import Polled
from lakeward.scheduling import Limits
from lakeward.testing.memory import MemoryTarget

AT_ONCE = FlushPolicy(0.0, 1_000_000, 1 << 30)


def names(count: int) -> list[str]:
    return [f"t{number:03d}" for number in range(count)]


def many(topics: Iterable[str], flush: FlushPolicy = AT_ONCE, rows: int = 30) -> Rig:
    """A topic for each table, each with ``rows`` records of its own."""
    rig = Rig({topic: [topic] for topic in topics}, flush)
    for topic in topics:
        rig.source.append(topic, 0, values(0, rows, topic))
    return rig


def assert_exact(rig: Rig, rows: int = 30) -> None:
    assert {t: sorted(table.rows) for t, table in rig.tables.items()} == {
        t: sorted(texts(0, rows, t)) for t in rig.tables
    }


def test_more_tables_than_are_asked_in_one_turn_all_begin_and_are_exact() -> None:
    rig = many(names(ASKED_A_TURN * 2 + 5))
    bounded(rig.pipeline())
    assert_exact(rig)


def test_tables_are_asked_side_by_side() -> None:
    rig = many(names(FEW + 4))
    together = threading.Barrier(FEW + 4, timeout=10)
    waits = list(rig.feeds)

    class Waiting(MemoryTarget):
        def find(self) -> Found:
            if self.name in waits:
                together.wait()  # breaks unless all of them are here
                waits.remove(self.name)
            return super().find()

    pipeline = rig.pipeline()
    for topic in rig.feeds:
        pipeline._joining.lanes_of(topic)[0].target = Waiting(topic, rig.tables[topic])
    bounded(pipeline)
    assert waits == []
    assert_exact(rig)


def test_a_table_that_does_not_answer_holds_up_no_other() -> None:
    rig = many(names(ASKED_A_TURN + 10))
    mute = "t003"

    class Away(MemoryTarget):
        def find(self) -> Found:
            if pipeline._source.opened:  # it answered the first look, as at any start
                raise UnreachableError("away")
            return super().find()

    pipeline = rig.pipeline()
    pipeline._joining.lanes_of(mute)[0].target = Away(mute, rig.tables[mute])
    rig.stop_when(pipeline, lambda: all(len(t.rows) == 30 for name, t in rig.tables.items() if name != mute))
    bounded(pipeline, Until())
    assert rig.tables[mute].rows == []
    bounded(rig.pipeline())
    assert_exact(rig)


def test_a_catalog_that_is_away_when_a_topic_is_first_seen_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakeward.joining.RETRY_S", 0.01)
    rig = many(["t000"])
    rig.named = ()
    pipeline = rig.pipeline()
    make, away = pipeline._joining._lanes_for, iter((True,))

    def lanes_for(topic: str) -> list[Lane]:
        if next(away, False):
            raise UnreachableError("away")
        return make(topic)

    pipeline._joining._lanes_for = lanes_for
    bounded(pipeline)
    assert_exact(rig)


def test_all_tables_together_hold_no_more_than_they_may_while_no_commit_ends() -> None:
    rig = many(names(20), FlushPolicy(3600, 1_000_000, 1 << 30), rows=2_000)
    rig.limits = Limits(committers=1, held_bytes=20_000)
    most, polls = 0, 0
    release = threading.Event()

    def held(pipeline: Pipeline) -> int:
        return sum(lane.held_bytes for lane in pipeline.lanes)

    pipeline = rig.pipeline()
    for target in rig.targets.values():
        target.faults.append(lambda staged: _wait(release))

    def watch() -> bool:
        nonlocal most, polls
        most, polls = max(most, held(pipeline)), polls + 1
        if polls == 200:
            release.set()
        return False

    rig.stop_when(pipeline, watch)
    bounded(pipeline, seconds=60.0)
    one_poll = 20 * 10 * 20  # tables, records of each, bytes of each
    assert 10_000 < most <= 20_000 + one_poll
    assert_exact(rig, 2_000)


def _wait(event: threading.Event) -> None:
    event.wait(10)


def test_a_table_with_much_to_write_lets_every_other_commit_before_its_own_next() -> None:
    others = names(12)
    rig = Rig({topic: [topic] for topic in ["a-hot", *others]}, FlushPolicy(0.0, 10, 1 << 30))
    rig.limits = Limits(committers=1)
    rig.source.append("a-hot", 0, values(0, 500))
    for topic in others:
        rig.source.append(topic, 0, values(0, 5))
    order: list[str] = []

    def noted(name: str) -> object:
        return lambda staged: order.append(name)

    pipeline = rig.pipeline()
    for name, target in rig.targets.items():
        target.faults.extend([noted(name)] * 100)
    bounded(pipeline)
    assert order.count("a-hot") == 50
    third = [index for index, name in enumerate(order) if name == "a-hot"][2]
    assert set(others) <= set(order[:third])


def test_quiet_tables_pass_holes_in_one_commit_each_without_rows() -> None:
    rig = many(names(20), FlushPolicy(0.005, 1_000_000, 1 << 30), rows=0)
    rig.source = Ends()
    rig.source.beyond = 2
    for topic in rig.feeds:
        rig.source.append(topic, 0, values(0, 3, topic))
    bounded(rig.pipeline())
    pipeline = rig.pipeline()
    turns = iter(range(100_000))
    rig.stop_when(pipeline, lambda: next(turns) > 2_000)
    bounded(pipeline, Until())
    for topic, table in rig.tables.items():
        assert rig.next_of(topic, Partition(topic, 0)) == 5
        assert len(table.rows) == 3
        assert len(table.commits) <= 2  # rows, and what is behind them; or both at once


def test_a_batch_that_waits_for_a_thread_takes_more_rows_meanwhile() -> None:
    rig = many(names(4), rows=40)
    rig.limits = Limits(committers=1)
    release, began = threading.Event(), threading.Event()

    def hold(staged: Staged) -> None:
        began.set()
        release.wait(10)

    pipeline = rig.pipeline()
    rig.targets["t000"].faults.append(hold)
    rig.stop_when(pipeline, lambda: (release.set() if pipeline.taken == 160 else None) or False)
    bounded(pipeline)
    assert began.is_set()
    assert len(rig.tables["t003"].commits) == 1
    assert_exact(rig, 40)


def test_a_full_table_keeps_its_own_records_waiting_and_those_of_no_other() -> None:
    rig = many(["a", "b"], FlushPolicy(3600, 20, 1 << 30), rows=200)
    rig.source._step = 1000  # all at once
    done = threading.Event()
    waited = []

    def fault(_: Staged) -> None:
        waited.append(done.wait(10))

    pipeline = rig.pipeline()
    rig.targets["a"].faults.append(fault)
    poll = rig.source.poll

    def watched(timeout: float) -> Polled:
        if len(rig.tables["b"].rows) == 200:
            done.set()
        return poll(timeout)

    rig.source.poll = watched
    bounded(pipeline, seconds=30)
    assert waited == [True]
    assert_exact(rig, rows=200)
