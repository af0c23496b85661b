"""What is handed over of a partition, whatever comes and in whichever pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lakeward.errors import PositionError
from lakeward.positions import Partition, Position, Witness
from lakeward.records import Blobs, RawBatch
from lakeward.sources.kafka_runs import Runs

A, B = Partition("t", 0), Partition("t", 1)


def batch(*messages: tuple[int, int], values: Sequence[bytes | None] | None = None) -> RawBatch:
    """(partition, offset) pairs as a batch; times are 1000 more than offsets."""
    partitions, offsets = zip(*messages, strict=True)
    offset = np.array(offsets, np.int64)
    texts = values or [b"%d" % o for o in offsets]
    return RawBatch(
        "t", np.array(partitions, np.int32), offset, offset + 1000, Blobs.of([None] * len(texts)), Blobs.of(texts)
    )


def told(raw: RawBatch) -> list[tuple[int, int]]:
    return list(zip(raw.partition.tolist(), raw.offset.tolist(), strict=True))


@pytest.fixture
def runs() -> Runs:
    runs = Runs()
    runs.begin(A, Position(5))
    runs.begin(B, Position(0))
    return runs


def test_what_is_not_begun_is_not_handed_over(runs) -> None:
    runs.end({B})
    assert told(runs.pass_on(batch((0, 5), (1, 0), (0, 6)))) == [(0, 5), (0, 6)]


def test_what_lies_below_the_start_is_not_handed_over(runs) -> None:
    assert told(runs.pass_on(batch((0, 3), (1, 0), (0, 4), (0, 5), (1, 1)))) == [(1, 0), (0, 5), (1, 1)]


def test_messages_that_are_fetched_again_are_handed_over_once(runs) -> None:
    runs.pass_on(batch((0, 5), (0, 6), (1, 0)))
    assert told(runs.pass_on(batch((0, 5), (0, 6), (0, 9), (1, 1)))) == [(0, 9), (1, 1)]
    assert runs[A].at == 10


def test_beginning_again_hands_over_again(runs) -> None:
    runs.pass_on(batch((0, 5), (0, 6)))
    runs.begin(A, Position(5))
    assert told(runs.pass_on(batch((0, 5), (0, 6)))) == [(0, 5), (0, 6)]


def test_a_witness_is_heard_and_not_handed_over(runs) -> None:
    witness = Witness(3, 1003, Witness.checksum_of(b"3"))
    assert runs.begin(A, Position(5, None, witness)).at == 3
    assert told(runs.pass_on(batch((0, 3), (0, 4)))) == []
    assert told(runs.pass_on(batch((0, 5)))) == [(0, 5)]


def test_a_witness_that_does_not_come_first_is_gone(runs) -> None:
    runs.begin(A, Position(5, None, Witness(3, 1, 1)))
    assert told(runs.pass_on(batch((0, 4), (0, 7)))) == [(0, 7)]
    assert runs[A].witness is None


def test_a_witness_that_was_passed_by_the_end_is_gone(runs) -> None:
    runs.begin(A, Position(5, None, Witness(3, 1, 1)))
    assert runs.reached({A: 5}) == {A: 5}
    assert runs[A].witness is None


@pytest.mark.parametrize("value", [b"other", b"", None])
def test_a_witness_with_another_value_is_refused(runs, value) -> None:
    runs.begin(A, Position(4, None, Witness(3, 1003, Witness.checksum_of(b"3"))))
    with pytest.raises(PositionError, match="t/0"):
        runs.pass_on(batch((0, 3), values=[value]))


def test_a_witness_at_or_above_the_position_is_not_looked_for(runs) -> None:
    assert runs.begin(A, Position(5, None, Witness(5, 1, 1))).at == 5


def test_what_came_while_paused_comes_first_after_it(runs) -> None:
    runs.hold([A])
    assert told(runs.pass_on(batch((0, 5), (1, 0), (0, 6)))) == [(1, 0)]
    assert runs.reached({A: 7, B: 1}) == {B: 1}
    assert runs.stashed() == ([], {})
    runs.release([A])
    batches, ends = runs.stashed()
    assert [told(raw) for raw in batches] == [[(0, 5), (0, 6)]]
    assert ends == {A: 7}
    assert runs.stashed() == ([], {})


def test_of_two_paused_the_one_that_is_released_comes_and_the_other_stays(runs) -> None:
    runs.hold([A, B])
    assert runs.idle
    assert told(runs.pass_on(batch((0, 5), (1, 0)))) == []
    runs.release([B])
    assert [told(raw) for raw in runs.stashed()[0]] == [[(1, 0)]]
    runs.release([A])
    assert [told(raw) for raw in runs.stashed()[0]] == [[(0, 5)]]


def test_a_new_run_and_a_revocation_forget_what_was_kept(runs) -> None:
    runs.hold([A, B])
    runs.pass_on(batch((0, 5), (1, 0)))
    runs.reached({A: 6, B: 1})
    runs.begin(A, Position(2))
    runs.end({B})
    assert runs.stashed() == ([], {})
    assert B not in runs
