"""Business sequences, followed by vectors, against the same followed record by record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.gaps import GapCounts
from lakeward.positions import Partition
from lakeward.records import Trace
from lakeward.sequences import DAY_MS, Checked, Rule, State, check, dump, load


class Row(NamedTuple):
    partition: int
    day: int
    symbol: str | None
    venue: int | None
    number: int | None


rows = st.builds(
    Row,
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["A", "B", None]),
    st.sampled_from([1, None]),
    st.one_of(st.none(), st.integers(0, 6), st.sampled_from([-(2**63), 2**63 - 1, -1])),
)


class Slow:
    """The definition, record by record."""

    def __init__(self, *, daily: bool) -> None:
        self.daily = daily
        self.last: dict[tuple[object, ...], int] = {}
        self.counts = GapCounts()
        self.breaks: list[tuple[str, int, int, int]] = []

    def take(self, row: Row, offset: int) -> None:
        if row.number is None:
            return
        key = (row.partition, row.day if self.daily else 0, row.symbol, row.venue)
        last = self.last.get(key)
        self.last[key] = row.number
        if last is None or row.number == last + 1:
            return
        if row.number > last:
            self.counts = self.counts.plus(GapCounts(gaps=1, missing=row.number - last - 1))
            self.breaks.append(("gap", offset, last, row.number))
        elif row.number == last:
            self.counts = self.counts.plus(GapCounts(duplicates=1))
            self.breaks.append(("duplicate", offset, last, row.number))
        else:
            self.counts = self.counts.plus(GapCounts(regressions=1))
            self.breaks.append(("regression", offset, last, row.number))


def columns(rows: Sequence[tuple[int, Row]]) -> tuple[pa.Table, Trace]:
    table = pa.table(
        {
            "symbol": pa.array([row.symbol for _, row in rows], pa.string()),
            "venue": pa.array([row.venue for _, row in rows], pa.int32()),
            "number": pa.array([row.number for _, row in rows], pa.int64()),
        }
    )
    trace = Trace(
        "t",
        np.asarray([row.partition for _, row in rows], np.int32),
        np.asarray([offset for offset, _ in rows], np.int64),
        np.asarray([row.day * DAY_MS + 5 for _, row in rows], np.int64),
    )
    return table, trace


@settings(max_examples=300, deadline=None)
@given(st.lists(rows, max_size=40), st.integers(1, 4), st.booleans(), st.booleans(), st.data())
def test_what_vectors_find_is_what_reading_record_by_record_finds(
    sent: list[Row],
    batches: int,
    daily: bool,  # noqa: FBT001 - drawn
    interleaved: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    days = sorted(row.day for row in sent)  # a late record, older than yesterday, may find nothing: not asked here
    sent = [row._replace(day=day) for row, day in zip(sent, days, strict=True)]
    slow = Slow(daily=daily)
    offsets: dict[int, int] = {}
    placed = []
    for row in sent:
        offset = offsets.get(row.partition, 0)
        offsets[row.partition] = offset + data.draw(st.integers(1, 2))
        placed.append((offset, row))
        slow.take(row, offset)
    rule = Rule(("symbol", "venue"), "number", daily)
    states: dict[Partition, State] = {}
    counts, found = GapCounts(), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(placed)), min_size=batches - 1, max_size=batches - 1)))
    for start, end in zip([0, *cuts], [*cuts, len(placed)], strict=True):
        batch = placed[start:end]
        parts = [batch[::2], batch[1::2]] if interleaved else [batch]
        made = [columns(part) for part in parts]
        checked: Checked = check(rule, [table for table, _ in made], [trace for _, trace in made], states)
        counts = counts.plus(checked.counts)
        found += [(f.kind, f.offset, f.before, f.after) for f in checked.findings]
        states.update(checked.states)
        again = load(rule, dump(rule, states))
        assert again == states
    assert counts == slow.counts
    if len(slow.breaks) <= 10:
        assert sorted(found) == sorted(slow.breaks)
