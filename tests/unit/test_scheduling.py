"""Which batches are handed over, and when nothing more is taken: threads and memory shared by many tables."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.batching import FlushPolicy
from lakeward.lanes import Lane, LaneSettings
from lakeward.outcomes import Outcome
from lakeward.positions import Partition, Position
from lakeward.records import Blobs, RawBatch
from lakeward.scheduling import IN_HAND, Limits, Scheduling
from lakeward.testing.memory import MemoryTable, MemoryTarget, TextDecoder

MANY = Limits(committers=100, held_bytes=1 << 30)
ONE_PLACE = Limits(committers=1, held_bytes=1 << 30)


def lane(name: str, *, at: float, size: int = 10, interval: float = 5.0, rows: int = 1000) -> Lane:
    """A lane whose filling batch got one row of ``size`` bytes at the time ``at``."""
    made = Lane(MemoryTarget(name, MemoryTable()), TextDecoder(), LaneSettings(FlushPolicy(interval, rows, 1 << 30)))
    made.next[Partition(name, 0)] = Position(0)
    fill(made, at=at, size=size)
    return made


def fill(lane: Lane, *, at: float, size: int) -> None:
    offset = lane.next[Partition(lane.name, 0)].next
    zero = np.zeros(1, np.int64)
    raw = RawBatch(
        lane.name, np.zeros(1, np.int32), zero + offset, zero, Blobs.of([None]), Blobs.of([b"x" * max(size - 8, 1)])
    )
    lane.take(raw, lane.decode(raw), at, 0)


def send(lane: Lane) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    lane.flush(f"commit-{lane.name}", lambda _: future)
    return future


def names(lanes: list[Lane]) -> list[str]:
    return [one.name for one in lanes]


def test_nothing_is_handed_over_before_it_is_due() -> None:
    assert Scheduling(MANY).next([lane("a", at=0.0), lane("b", at=2.0)], now=4.9) == []


def test_the_batch_that_is_overdue_the_longest_goes_first_whatever_its_size_and_place() -> None:
    lanes = [lane("late", at=3.0, size=100_000), lane("early", at=1.0), lane("first", at=0.0), lane("not yet", at=9.0)]
    assert names(Scheduling(MANY).next(lanes, now=9.0)) == ["first", "early", "late"]


def test_a_batch_is_overdue_by_its_own_interval() -> None:
    lanes = [lane("slow", at=0.0, interval=60.0), lane("fast", at=58.0, interval=1.0)]
    assert names(Scheduling(MANY).next(lanes, now=61.0)) == ["fast", "slow"]


def test_a_full_batch_is_due_from_the_moment_that_it_was_full() -> None:
    hot = lane("hot", at=7.0, rows=2)
    fill(hot, at=7.5, size=10)
    lanes = [hot, lane("slow", at=1.0), lane("slower", at=3.0)]
    assert names(Scheduling(MANY).next(lanes, now=8.0)) == ["slow", "hot", "slower"]


def test_no_more_is_handed_over_than_the_threads_can_have_in_hand() -> None:
    lanes = [lane(str(number), at=number) for number in range(5)]
    scheduling = Scheduling(ONE_PLACE)
    first = scheduling.next(lanes, now=20.0)
    assert names(first) == ["0", "1"] == [str(n) for n in range(IN_HAND)]
    futures = [send(one) for one in first]
    assert scheduling.next(lanes, now=20.0) == []
    futures[0].cancel()
    lanes[0].committing = None
    assert names(scheduling.next(lanes, now=20.0)) == ["2"]


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 3), st.integers(20, 60))
def test_a_table_that_is_always_full_does_not_starve_the_others(tables: int, committers: int, turns: int) -> None:
    slow = [lane(f"slow {number}", at=0.0, interval=0.0) for number in range(tables)]
    hot = lane("hot", at=0.0, rows=1)
    scheduling, order = Scheduling(Limits(committers, 1 << 30)), list[str]()
    for turn in range(turns):
        now = 100.0 + turn
        for one in [hot, *slow]:
            one.committing = None  # what was handed over in the last turn is done
            if one.filling.empty:
                fill(one, at=now, size=10)
        for one in scheduling.next([hot, *slow], now):
            order.append(one.name)
            send(one)
    share = min(turns, committers * IN_HAND * turns // (tables + 1))
    assert all(order.count(one.name) >= share // 2 for one in slow)


def test_while_more_than_half_of_the_memory_is_filling_every_second_batch_is_the_largest() -> None:
    large = [lane(f"large {size}", at=99.0, size=size) for size in (3_000, 5_000, 4_000)]
    due = [lane(f"due {number}", at=number) for number in range(4)]
    scheduling = Scheduling(Limits(2, held_bytes=8_000))
    assert names(scheduling.next([*large, *due], now=100.0)) == ["large 5000", "due 0", "large 4000", "due 1"]


def test_of_batches_that_are_not_due_only_as_many_are_handed_over_as_make_room() -> None:
    lanes = [lane(str(size), at=99.0, size=size) for size in (1_000, 5_000, 4_000, 2_000)]
    assert names(Scheduling(Limits(8, held_bytes=16_000)).next(lanes, now=100.0)) == ["5000"]
    assert Scheduling(Limits(8, held_bytes=32_000)).next(lanes, now=100.0) == []


def test_the_memory_is_exhausted_by_what_fills_and_what_commits_together() -> None:
    scheduling = Scheduling(Limits(8, held_bytes=10_000))
    lanes = [lane("a", at=0.0, size=6_000), lane("b", at=0.0, size=100)]
    assert not scheduling.exhausted(lanes)
    send(lanes[0])
    fill(lanes[0], at=1.0, size=6_000)
    assert scheduling.exhausted(lanes)
    lanes[0].committing = None
    assert not scheduling.exhausted(lanes)


def test_a_table_that_cannot_be_committed_yet_is_not_handed_over_to_make_room() -> None:
    busy, other = lane("busy", at=0.0, size=9_000), lane("other", at=99.0, size=100)
    send(busy)
    fill(busy, at=1.0, size=9_000)
    assert names(Scheduling(Limits(8, held_bytes=10_000)).next([busy, other], now=100.0)) == ["other"]
