"""Any ledger: written and read back, and contiguous however batches, duplicates and stale batches arrive."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.ledger import LedgerEntry, Loss, Standing, Writer, breaks, decode, encode, next_entry
from lakeward.outcomes import Batch
from lakeward.positions import Account, Partition, Position, Span, Witness

numbers = st.integers(min_value=0, max_value=2**62)
partitions = st.builds(Partition, st.text(min_size=1, max_size=8), st.integers(0, 9999))
positions = st.builds(
    Position,
    numbers,
    st.none() | st.integers(0, 2**31 - 1),
    st.none() | st.builds(Witness, numbers, st.integers(-1, 2**62), st.integers(0, 2**32 - 1)),
)
entries = st.builds(
    LedgerEntry,
    table=st.text(max_size=8),
    commit=st.text(max_size=8),
    number=numbers,
    positions=st.dictionaries(partitions, positions, max_size=5),
    sources=st.dictionaries(st.text(max_size=8), st.none() | st.text(max_size=8), max_size=3),
    claim=st.dictionaries(partitions, st.builds(Span, numbers, numbers), max_size=5),
    writers=st.dictionaries(st.text(max_size=8), st.builds(Writer, numbers, numbers), max_size=3),
    accepted=st.lists(st.builds(Loss, partitions, numbers, numbers, numbers), max_size=3).map(tuple),
    account=st.builds(Account, numbers, numbers, numbers),
)


@given(entries)
@settings(max_examples=200, deadline=None)
def test_every_entry_is_read_back_equal(entry: LedgerEntry) -> None:
    assert decode(encode(entry), "here") == entry


offers = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 6)), max_size=40)


@given(offers)
@settings(max_examples=300, deadline=None)
def test_batches_in_any_order_leave_a_contiguous_ledger_and_each_offset_at_most_once(
    offered: list[tuple[int, int, int]],
) -> None:
    entry: LedgerEntry | None = None
    taken: dict[Partition, list[int]] = {}
    for turn, (number, start, count) in enumerate(offered):
        partition = Partition("t", number)
        known = entry.positions if entry else {}
        start = start if partition in known else 0  # noqa: PLW2901 -- the starts are committed first (S2)
        claim = {partition: Span(start, start + count)}
        if Standing.of(claim, entry) is not Standing.EXTENDS:
            continue
        batch = Batch(
            f"c{turn}", [], claim, {partition: Position(start + count)}, {"t": None}, Account(count, count, 0)
        )
        after = next_entry(entry, table="u", batch=batch)
        assert breaks(entry, after) == []
        taken.setdefault(partition, []).extend(range(start, start + count))
        entry = after
    for partition, offsets in taken.items():
        assert entry is not None
        assert offsets == list(range(entry.positions[partition].next))
