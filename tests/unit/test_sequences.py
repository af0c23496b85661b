"""Gaps in business sequences: what counts, what is remembered, what is refused."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward import sequences
from lakeward.errors import ConfigurationError, OperatorError
from lakeward.gaps import GapCounts, Gaps, Kept
from lakeward.ledger import LedgerEntry, Loss, decode, encode, next_entry
from lakeward.outcomes import Batch
from lakeward.positions import Account, Partition, Position, Span
from lakeward.records import Trace
from lakeward.sequence_watch import SequenceWatch
from lakeward.sequences import DAY_MS, Rule, check, dump, load

P0, P1 = Partition("t", 0), Partition("t", 1)
RULE = Rule(("symbol",), "number")


def part(numbers: list[int | None], symbol: str = "A", **columns: Any) -> pa.Table:
    return pa.table({"symbol": [symbol] * len(numbers), "number": pa.array(numbers, pa.int64()), **columns})


def trace(first: int, count: int, partition: int = 0, day: int = 0) -> Trace:
    return Trace(
        "t",
        np.full(count, partition, np.int32),
        np.arange(first, first + count, dtype=np.int64),
        np.full(count, day * DAY_MS, np.int64),
    )


class Shelf:
    """Files in a dictionary."""

    name = "s.t"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def keep(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def kept(self, name: str) -> bytes | None:
        return self.files.get(name)


def batch(name: str, first: int, numbers: list[int | None], partition: Partition = P0) -> Batch:
    count = len(numbers)
    return Batch(
        name,
        (part(numbers),),
        {partition: Span(first, first + count)},
        {partition: Position(first + count)},
        {"t": None},
        Account(count, count),
        traces=(trace(first, count, partition.number),),
    )


def commit(entry: LedgerEntry | None, followed: Batch) -> LedgerEntry:
    return next_entry(entry, table="x", batch=followed)


def test_a_hole_a_duplicate_and_a_regression_are_told_with_their_offsets() -> None:
    found = check(RULE, [part([1, 2, 5, 5, 4, 5])], [trace(100, 6)], {})
    assert found.counts == GapCounts(gaps=1, missing=2, duplicates=1, regressions=1)
    assert [(f.kind, f.offset, f.before, f.after) for f in found.findings] == [
        ("gap", 102, 2, 5),
        ("duplicate", 103, 5, 5),
        ("regression", 104, 5, 4),
    ]
    assert found.findings[0].key == '["A"]'


def test_the_first_number_of_a_sequence_is_never_a_hole() -> None:
    assert check(RULE, [part([4_000])], [trace(0, 1)], {}).counts == GapCounts()


def test_rows_without_a_number_are_passed_over() -> None:
    assert check(RULE, [part([1, None, 2])], [trace(0, 3)], {}).counts == GapCounts()
    assert check(RULE, [part([None])], [trace(0, 1)], {}).states == {}


def test_partitions_do_not_share_a_sequence() -> None:
    found = check(RULE, [part([1, 7]), part([2, 8])], [trace(0, 2), trace(0, 2, 1)], {})
    assert found.counts.gaps == 2
    assert set(found.states) == {P0, P1}


def test_a_daily_sequence_starts_again_and_a_late_record_belongs_to_its_own_day() -> None:
    daily = Rule(("symbol",), "number", daily=True)
    parts = [part([900, 901]), part([1, 2]), part([902]), part([3])]
    traces = [trace(0, 2), trace(2, 2, day=1), trace(4, 1), trace(5, 1, day=1)]
    assert check(daily, parts, traces, {}).counts == GapCounts()
    assert check(RULE, parts, traces, {}).counts.regressions == 2


def test_a_daily_rule_forgets_days_before_yesterday() -> None:
    daily = Rule(("symbol",), "number", daily=True)
    found = check(daily, [part([1]), part([1]), part([1])], [trace(d, 1, day=d) for d in range(3)], {})
    assert sorted(found.states[P0]) == [1, 2]


def test_an_older_schema_may_lack_the_columns_or_hold_narrower_numbers() -> None:
    narrow = pa.table({"symbol": ["A"], "number": pa.array([1], pa.int32())})
    lacking = pa.table({"symbol": ["A"]})
    found = check(RULE, [narrow, lacking, part([3])], [trace(0, 1), trace(1, 1), trace(2, 1)], {})
    assert found.counts == GapCounts(gaps=1, missing=1)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(("venue",), "number"), "column venue, which the rows do not have"),
        (Rule(("symbol",), "symbol"), "which is string"),
        (Rule(("places",), "number"), "which is list<item: int64>"),
    ],
)
def test_columns_that_cannot_be_followed_are_named(rule: Rule, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check(rule, [part([1], places=[[1]])], [trace(0, 1)], {})


def test_keys_of_texts_numbers_and_decimals_are_told_apart_from_each_other() -> None:
    table = pa.table({"k": ["a,b", "a"], "l": ["c", "b,c"], "number": pa.array([1, 9], pa.int64())})
    assert check(Rule(("k", "l"), "number"), [table], [trace(0, 2)], {}).counts == GapCounts()


def test_more_sequences_than_can_be_remembered_stop_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MOST_SEQUENCES", 2)
    parts = [part([1], symbol) for symbol in "ABC"]
    with pytest.raises(OperatorError, match="more than 2 sequences by symbol"):
        check(RULE, parts, [trace(i, 1) for i in range(3)], {})


def test_a_state_of_another_rule_or_a_broken_file_is_not_read() -> None:
    content = dump(RULE, {P0: {0: {'["A"]': 7}}})
    assert load(RULE, content) == {P0: {0: {'["A"]': 7}}}
    assert load(Rule(("symbol",), "number", daily=True), content) is None
    assert load(RULE, content[:-3]) is None
    assert load(RULE, zlib.compress(b"[]")) is None


def test_a_restart_neither_forgets_nor_invents_a_gap() -> None:
    shelf = Shelf()
    first = commit(None, SequenceWatch(RULE, shelf).follow(batch("b1", 0, [1, 2, 3]), None))
    restarted = SequenceWatch(RULE, shelf)
    second = commit(first, restarted.follow(batch("b2", 3, [4, 6]), first))
    third = commit(second, SequenceWatch(RULE, shelf).follow(batch("b3", 5, [7]), decode(encode(second), "test")))
    assert third.gaps is not None
    assert third.gaps.counts == GapCounts(gaps=1, missing=1)
    assert [f.after for f in restarted.recent] == [6]


def test_a_refused_batch_leaves_nothing_behind_and_is_followed_anew() -> None:
    watch = SequenceWatch(RULE, Shelf())
    first = commit(None, watch.follow(batch("b1", 0, [1, 2]), None))
    watch.follow(batch("refused", 2, [9]), first)
    second = commit(first, watch.follow(batch("b2", 2, [3]), first))
    assert second.gaps is not None
    assert second.gaps.counts == GapCounts()


def test_a_partition_that_another_worker_fed_meanwhile_continues_from_what_that_worker_kept() -> None:
    shelf = Shelf()
    ours, theirs = SequenceWatch(RULE, shelf), SequenceWatch(RULE, shelf)
    entry = commit(None, ours.follow(batch("b1", 0, [1, 2]), None))
    entry = commit(entry, theirs.follow(batch("b2", 2, [3, 4]), entry))
    entry = commit(entry, ours.follow(batch("b3", 4, [5]), entry))
    assert entry.gaps is not None
    assert entry.gaps.counts == GapCounts()


def test_two_workers_keep_their_partitions_states_side_by_side() -> None:
    shelf = Shelf()
    ours, theirs = SequenceWatch(RULE, shelf), SequenceWatch(RULE, shelf)
    a = ours.follow(batch("b1", 0, [1, 2, 4]), None)
    b = theirs.follow(batch("b2", 0, [7, 9], P1), None)
    entry = commit(commit(None, a), b)
    assert entry.gaps == Gaps(GapCounts(gaps=2, missing=2), {**a.gaps.states, **b.gaps.states})  # type: ignore[union-attr]
    assert decode(encode(entry), "test") == entry


def test_a_lost_state_file_makes_the_sequence_unknown_before() -> None:
    shelf = Shelf()
    entry = commit(None, SequenceWatch(RULE, shelf).follow(batch("b1", 0, [1]), None))
    shelf.files = dict.fromkeys(shelf.files, b"other")
    assert SequenceWatch(RULE, shelf).follow(batch("b2", 1, [9]), entry).gaps == Gaps(
        GapCounts(), {P0: Kept("gaps-b2", zlib.crc32(shelf.files["gaps-b2"]))}
    )
    shelf.files.clear()
    assert SequenceWatch(RULE, shelf).follow(batch("b3", 1, [9]), entry).gaps is not None


def test_a_topic_that_began_anew_has_new_sequences_and_one_that_lost_records_shows_the_hole() -> None:
    shelf = Shelf()
    watch = SequenceWatch(RULE, shelf)
    entry = commit(None, watch.follow(batch("b1", 0, [1, 2]), None))
    for start, end, gaps in ((2, 0, 0), (2, 6, 1)):
        lost = Batch(
            "loss", (), {P0: Span(end, end)}, {P0: Position(end)}, {"t": None}, Account(), (Loss(P0, start, end),)
        )
        after = commit(entry, lost)
        assert after.gaps is not None
        followed = SequenceWatch(RULE, shelf).follow(batch("b2", end, [5]), after)
        assert followed.gaps is not None
        assert followed.gaps.counts.gaps == gaps
