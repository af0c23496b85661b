"""Positions moved by hand: what is moved, what is refused, and that the ledger stays contiguous."""

from __future__ import annotations

import pytest

from lakeward.errors import ConfigurationError, PositionError
from lakeward.ledger import LedgerEntry, Loss, Standing, breaks, next_entry
from lakeward.positions import Bounds, Partition, Position, Witness
from lakeward.seeking import Shift, destinations, seek, shifts
from lakeward.starts import Edge, Holdings

P0, P1, P2 = (Partition("orders", number) for number in range(3))
ENTRY = LedgerEntry(
    table="uuid",
    commit="c",
    number=7,
    positions={P0: Position(10, None, Witness(9, 1, 2)), P1: Position(20)},
    sources={"orders": "id-1"},
)
HOLDINGS = Holdings({P0: Bounds(2, 30), P1: Bounds(5, 20), P2: Bounds(3, 9)}, {"orders": "id-1"})


class Times:
    def offsets_at(self, partitions: object, timestamp_ms: int) -> dict[Partition, int]:
        assert set(partitions) == {P0, P1}  # type: ignore[call-overload]
        return {P0: timestamp_ms, P1: timestamp_ms + 1}


@pytest.mark.parametrize(
    ("to", "found"),
    [(Edge.EARLIEST, {P0: 2, P1: 5}), (Edge.LATEST, {P0: 30, P1: 20}), (7, {P0: 7, P1: 8})],
)
def test_an_edge_and_a_time_mean_an_offset_in_each_partition_that_the_table_has_read(
    to: Edge | int, found: dict[Partition, int]
) -> None:
    assert destinations(ENTRY, to, HOLDINGS, Times()) == found


def test_what_stands_there_already_is_left_out() -> None:
    assert shifts(ENTRY, {P0: 30, P1: 20}, HOLDINGS) == [Shift(P0, 10, 30)]


@pytest.mark.parametrize("offset", [1, 31])
def test_an_offset_outside_of_what_the_topic_holds_is_refused(offset: int) -> None:
    with pytest.raises(ConfigurationError, match=r"orders/0 has no offset .*\n.*2 to 30"):
        shifts(ENTRY, {P0: offset}, HOLDINGS)


def test_a_partition_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no orders/9"):
        shifts(ENTRY, {Partition("orders", 9): 0}, HOLDINGS)


@pytest.mark.parametrize("to", [{P0: 30}, {P0: 2, P1: 5}, {P2: 5}, {P2: 3, P1: 6}])
def test_a_seek_extends_the_entry_and_leaves_the_ledger_contiguous(to: dict[Partition, int]) -> None:
    batch = seek(ENTRY, shifts(ENTRY, to, HOLDINGS), HOLDINGS, "seek")
    assert Standing.of(batch.claim, ENTRY, batch.accepted) is Standing.EXTENDS
    after = next_entry(ENTRY, table="uuid", batch=batch)
    assert breaks(ENTRY, after) == []
    assert {p: after.positions[p].next for p in to} == to
    assert after.account == ENTRY.account


def test_a_seek_names_what_it_gives_up_and_forgets_the_witness() -> None:
    batch = seek(ENTRY, shifts(ENTRY, {P0: 4, P2: 5}, HOLDINGS), HOLDINGS, "seek")
    assert batch.accepted == (Loss(P0, 10, 4, 7), Loss(P2, 3, 5, 7))
    assert next_entry(ENTRY, table="uuid", batch=batch).positions[P0] == Position(4)


def test_the_same_seek_is_possible_again_once_the_stream_has_come_back() -> None:
    first = next_entry(ENTRY, table="uuid", batch=seek(ENTRY, [Shift(P0, 10, 2)], HOLDINGS, "one"))
    back = next_entry(first, table="uuid", batch=seek(first, [Shift(P0, 2, 10)], HOLDINGS, "two"))
    again = seek(back, shifts(back, {P0: 2}, HOLDINGS), HOLDINGS, "three")
    assert Standing.of(again.claim, back, again.accepted) is Standing.EXTENDS
    assert breaks(back, next_entry(back, table="uuid", batch=again)) == []


def test_a_topic_that_was_created_again_is_taken_up_whole_or_not_at_all() -> None:
    anew = Holdings({P0: Bounds(0, 10), P1: Bounds(0, 4)}, {"orders": "id-2"})
    with pytest.raises(PositionError, match="orders/1 is not named"):
        shifts(ENTRY, {P0: 10}, anew)
    moved = shifts(ENTRY, {P0: 10, P1: 0}, anew)
    assert moved == [Shift(P0, 10, 10), Shift(P1, 20, 0)]
    after = next_entry(ENTRY, table="uuid", batch=seek(ENTRY, moved, anew, "seek"))
    assert after.sources == {"orders": "id-2"}
    assert breaks(ENTRY, after) == []
