"""The batch that fills: what is claimed, and when it is due."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakeward.batching import SMALL_BYTES, SMALL_PARTS, Filling, FlushPolicy, Stretch, position_after, stretches
from lakeward.changes import Changes
from lakeward.ledger import Loss
from lakeward.positions import Account, Partition, Position, Span, Witness
from lakeward.records import Blobs, RawBatch

POLICY = FlushPolicy(interval=5.0, rows=100, bytes=10_000)
P0, P1 = Partition("t", 0), Partition("t", 1)


def raw(numbers: list[int], offsets: list[int], values: list[bytes | None] | None = None) -> RawBatch:
    n = len(numbers)
    return RawBatch(
        "t",
        np.array(numbers, np.int32),
        np.array(offsets, np.int64),
        np.arange(1000, 1000 + n, dtype=np.int64),
        Blobs.of([None] * n),
        Blobs.of(values or [b"x"] * n),
    )


def rows(n: int) -> pa.Table:
    return pa.table({"a": np.arange(n)})


def take(filling: Filling, batch: RawBatch, starts: dict[Partition, int], n: int) -> None:
    filling.take(batch, [(s, starts[s.partition]) for s in stretches(batch)], [rows(n)] if n else [], len(batch) - n)


@given(st.lists(st.integers(0, 40), max_size=60))
def test_stretches_name_the_first_and_last_message_of_each_partition(numbers: list[int]) -> None:
    found = {s.partition.number: (s.first, s.last) for s in stretches(raw(numbers, list(range(len(numbers)))))}
    expected = {n: (numbers.index(n), len(numbers) - 1 - numbers[::-1].index(n)) for n in set(numbers)}
    assert found == expected


def test_a_claim_goes_from_where_the_table_continued_to_behind_the_last_message() -> None:
    filling = Filling(POLICY)
    take(filling, raw([0, 1, 0], [7, 3, 9]), {P0: 5, P1: 3}, 3)
    take(filling, raw([0], [12]), {P0: 10}, 1)
    batch = filling.seal("id", {"t": "x"})
    assert batch.claim == {P0: Span(5, 13), P1: Span(3, 4)}
    assert batch.upto[P0].next == 13
    assert batch.account == Account(4, 4, 0)
    assert batch.oldest_ms == 1000


def test_the_witness_is_the_last_message_of_its_partition() -> None:
    batch = raw([0, 1, 0], [7, 3, 9], [b"a", None, b"c"])
    assert position_after(batch, 2) == Position(10, None, Witness(9, 1002, Witness.checksum_of(b"c")))
    assert position_after(batch, 1) == Position(4, None, Witness(3, 1001, 0))


def test_moving_past_holes_keeps_the_witness_of_the_last_message() -> None:
    filling = Filling(POLICY)
    take(filling, raw([0], [4], [b"v"]), {P0: 4}, 1)
    filling.move(P0, 5, Position(9))
    batch = filling.seal("id", {})
    assert batch.claim == {P0: Span(4, 9)}
    assert batch.upto[P0] == Position(9, None, Witness(4, 1000, Witness.checksum_of(b"v")))


def test_a_batch_is_due_by_rows_by_bytes_and_by_age() -> None:
    filling = Filling(POLICY)
    assert filling.due_in(0.0) is None
    take(filling, raw([0], [0]), {P0: 0}, 1)
    filling.touch(10.0)
    assert filling.due_in(12.0) == pytest.approx(3.0)
    assert filling.due_in(15.0) == 0.0
    filling.take(raw([0], [1]), [(s, 1) for s in stretches(raw([0], [1]))], [rows(99)], 0)
    assert filling.full
    assert filling.due_in(10.0) == 0.0


def test_positions_alone_wait_ten_intervals_and_what_was_given_up_does_not_wait() -> None:
    filling = Filling(POLICY)
    filling.move(P0, 0, Position(3))
    filling.touch(0.0)
    assert filling.due_in(0.0) == pytest.approx(50.0)
    filling.accept(Loss(P0, 0, 3))
    assert filling.due_in(0.0) == 0.0
    assert filling.seal("id", {}).accepted == (Loss(P0, 0, 3),)


def test_tombstones_alone_make_a_batch_without_rows_that_is_due_like_any_other() -> None:
    filling = Filling(POLICY)
    take(filling, raw([0], [0], [None]), {P0: 0}, 0)
    filling.touch(0.0)
    assert filling.due_in(5.0) == 0.0
    batch = filling.seal("id", {})
    assert batch.parts == ()
    assert batch.account == Account(1, 0, 1)


def test_rows_that_come_one_by_one_do_not_pile_up_as_parts_and_keep_their_order() -> None:
    filling = Filling(FlushPolicy(3600, 1_000_000, 1 << 30))
    for offset in range(5_000):
        one = pa.table({"a": [offset], "s": [f"row {offset}"]})
        filling.take(raw([0], [offset]), [(Stretch(P0, 0, 0), offset)], [one], 0)
        if offset == 2_000:  # one that is not small stays as it is
            large = pa.table({"a": np.full(SMALL_BYTES, -1), "s": pa.nulls(SMALL_BYTES, pa.string())})
            filling.take(raw([1], [0]), [(Stretch(P1, 0, 0), 0)], [large], 0)
    batch = filling.seal("id", {})
    assert len(batch.parts) <= 2 * SMALL_PARTS + 5_000 * one.nbytes // SMALL_BYTES
    values = [value for part in batch.parts for value in part.column("a").to_pylist() if value >= 0]
    assert values == list(range(5_000))
    assert batch.parts[-1].schema == one.schema


def test_small_parts_of_different_columns_stay_apart() -> None:
    filling = Filling(POLICY)
    for offset in range(60):
        name = "ab"[offset // 30]
        filling.take(raw([0], [offset]), [(Stretch(P0, 0, 0), offset)], [pa.table({name: [offset]})], 0)
    values = [value for part in filling.seal("id", {}).parts for value in part.column(0).to_pylist()]
    assert values == list(range(60))


def test_changes_stand_in_the_order_of_the_stream_however_large_one_fetch_is_and_small_the_next() -> None:
    filling = Filling(POLICY)
    for first, count in ((0, 5), (5, 1), (6, 2)):
        take(filling, raw([0] * count, list(range(first, first + count))), {P0: first}, count)
        filling.change([replace(Changes.upserts(("a",), count), order=np.arange(count))])
    joined = Changes.joined(filling.seal("id", {}).changes)
    assert joined.order is not None
    assert joined.order.tolist() == list(range(8))


def test_small_parts_of_changes_are_joined_with_what_they_change() -> None:
    filling = Filling(FlushPolicy(3600, 1_000_000, 1 << 30))
    for offset in range(40):
        take(filling, raw([0], [offset]), {P0: offset}, 1)
        filling.change([replace(Changes.upserts(("a",), 1), order=np.arange(1))])
    batch = filling.seal("id", {})
    assert len(batch.parts) < 20
    assert [len(part) for part in batch.parts] == [len(changes) for changes in batch.changes]
    order = Changes.joined(batch.changes).order
    assert order is not None
    assert order.tolist() == list(range(40))
