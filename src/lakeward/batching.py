"""The batch that is being filled: rows, and the positions that they take the table to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lakeward.changes import Changes
from lakeward.ledger import Loss
from lakeward.outcomes import Batch
from lakeward.positions import Account, Partition, Position, Span, Witness
from lakeward.records import NULL, RawBatch, Trace

QUIET_INTERVALS = 10
"""A batch that only moves positions, without a record, waits this many flush intervals (PROTOCOL F5, S7)."""


SMALL_PARTS, SMALL_BYTES = 16, 64 << 10
"""So many parts in a row, each of fewer bytes, are joined."""


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """When a batch is committed: whichever comes first. Seconds, rows, and bytes of Arrow memory."""

    interval: float
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """The messages of one partition within a raw batch: indices of the first and the last."""

    partition: Partition
    first: int
    last: int


def stretches(raw: RawBatch) -> list[Stretch]:
    """The partitions in ``raw`` and where each begins and ends."""
    numbers = raw.partition
    if not len(numbers):
        return []
    if (numbers[0] == numbers).all():
        return [Stretch(Partition(raw.topic, int(numbers[0])), 0, len(numbers) - 1)]
    order = np.argsort(numbers, kind="stable")
    sorted_numbers = numbers[order]
    edges = np.flatnonzero(np.diff(sorted_numbers)) + 1
    firsts = order[np.concatenate([[0], edges])]
    lasts = order[np.concatenate([edges - 1, [len(order) - 1]])]
    return [
        Stretch(Partition(raw.topic, int(numbers[first])), int(first), int(last))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def position_after(raw: RawBatch, index: int) -> Position:
    """The position behind the message at ``index``, with that message as its witness."""
    start, length = int(raw.values.start[index]), int(raw.values.length[index])
    value = None if length == NULL else raw.values.data[start : start + length].data
    offset = int(raw.offset[index])
    return Position(offset + 1, None, Witness(offset, int(raw.timestamp[index]), Witness.checksum_of(value)))


class Filling:
    """Collects rows and claims until it is due; used by the loop's thread alone."""

    def __init__(self, policy: FlushPolicy) -> None:
        self._policy = policy
        self._parts: list[pa.Table] = []
        self._small = 0
        """So many parts at the end are small."""
        self._traces: list[Trace] = []
        self._changes: list[Changes] = []
        self._taken = 0
        """So many messages came before the last `take`."""
        self.letters: list[pa.Table] = []
        self._claim: dict[Partition, Span] = {}
        self._upto: dict[Partition, Position] = {}
        self._accepted: list[Loss] = []
        self._bytes = 0
        self._opened: float | None = None
        self._full_since: float | None = None
        self._oldest_ms: int | None = None
        self._urgent = False
        self._adopts: str | None = None
        self.account = Account()

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._claim

    @property
    def claim(self) -> Mapping[Partition, Span]:
        """What has been claimed so far."""
        return self._claim

    @property
    def empty(self) -> bool:
        """Whether there is nothing at all to commit."""
        return not self._claim

    def take(
        self, raw: RawBatch, spans: Sequence[tuple[Stretch, int]], parts: Sequence[pa.Table], skipped: int
    ) -> None:
        """Add the rows of ``raw``; ``spans`` gives each stretch with the offset at which this table continued.

        What they change, and where they came from, is told after it.
        """
        for stretch, start in spans:
            before = self._claim.get(stretch.partition)
            after = position_after(raw, stretch.last)
            self._claim[stretch.partition] = Span(before.start if before else start, after.next)
            self._upto[stretch.partition] = after
        rows = sum(part.num_rows for part in parts)
        self._taken = self.account.records
        self._join_small_parts()
        for part in parts:
            if part.num_rows:
                self._parts.append(part)
                self._small = self._small + 1 if part.nbytes < SMALL_BYTES else 0
        self._bytes += sum(part.nbytes for part in parts)
        self.account = self.account.plus(Account(len(raw), rows, skipped))
        times = raw.timestamp[raw.timestamp >= 0]
        if len(times):
            oldest = int(times.min())
            self._oldest_ms = oldest if self._oldest_ms is None else min(self._oldest_ms, oldest)

    def set_aside(self, letters: pa.Table) -> None:
        """Add the dead letters among the messages of the last `take` (PROTOCOL D1)."""
        self.letters.append(letters)
        self._bytes += letters.nbytes
        self.account = self.account.plus(Account(letters=len(letters)))

    def trace(self, traces: Sequence[Trace]) -> None:
        """Remember where the rows of the last `take` came from, one trace for each of its parts (PROTOCOL M4)."""
        self._traces.extend(trace for trace in traces if len(trace.offset))
        self._bytes += sum(t.partition.nbytes + t.offset.nbytes + t.timestamp.nbytes for t in traces)

    def change(self, changes: Sequence[Changes]) -> None:
        """Remember what the rows of the last `take` change, one for each of its parts that has rows.

        Their ``order`` is that within the messages of the `take`.
        """
        before = self._taken
        for one in changes:
            order = None if one.order is None else one.order + before
            self._changes.append(replace(one, order=order))
            self._bytes += one.nbytes

    def _join_small_parts(self) -> None:
        """Make one part of the small ones at the end, where they are many and alike.

        A table that gets a row now and then would soon hold more in buffers and objects than in rows. What a trace
        tells of stays as it is.
        """
        count = self._small
        if count < SMALL_PARTS or self._traces:
            return
        small, changes = self._parts[-count:], self._changes[-count:]
        self._small = 0
        alike = all(part.schema.equals(small[0].schema, check_metadata=True) for part in small)
        if alike and len({one.key for one in changes}) <= 1:
            joined = pa.concat_tables(small).combine_chunks()
            self._parts[-count:] = [joined]
            if changes:
                self._changes[-count:] = [Changes.joined(changes)]
            self._small = 1 if joined.nbytes < SMALL_BYTES else 0

    def move(self, partition: Partition, start: int, to: Position) -> None:
        """Move a position without a record: control records, compacted holes, a first start (PROTOCOL S2, S7)."""
        before = self._claim.get(partition)
        kept = to.witness or (self._upto[partition].witness if partition in self._upto else None)
        self._claim[partition] = Span(before.start if before else start, to.next)
        self._upto[partition] = to._replace(witness=kept)

    def accept(self, loss: Loss) -> None:
        """Record offsets that an operator's setting gave up; committed without delay (PROTOCOL S3)."""
        self._accepted.append(loss)
        self._urgent = True

    def adopt(self, pipeline: str) -> None:
        """Take over the positions of another pipeline (PROTOCOL F4)."""
        self._adopts = pipeline

    def hurry(self) -> None:
        """Commit at the next occasion, rows or not."""
        self._urgent = True

    @property
    def urgent(self) -> bool:
        """Whether it is committed at the next occasion, rows or not."""
        return self._urgent

    def touch(self, now: float) -> None:
        """Start the clock of the flush interval, if it does not run yet; note since when the batch is full."""
        if self._opened is None:
            self._opened = now
        if self._full_since is None and self.full:
            self._full_since = now

    @property
    def bytes(self) -> int:
        """Arrow memory of what has been taken."""
        return self._bytes

    @property
    def full(self) -> bool:
        """Whether nothing more may be added (DESIGN, principle 6)."""
        return self.account.rows + self.account.letters >= self._policy.rows or self._bytes >= self._policy.bytes

    @property
    def room(self) -> int:
        """How many records more may be added."""
        return 0 if self.full else self._policy.rows - self.account.rows - self.account.letters

    def due_in(self, now: float) -> float | None:
        """Seconds until it is to be committed, below 0 once it is overdue; None when there is nothing to commit."""
        if self.empty:
            return None
        opened = self._opened if self._opened is not None else now
        if self._urgent:
            return opened - now
        quiet = self.account.records == 0
        due = opened + self._policy.interval * (QUIET_INTERVALS if quiet else 1)
        if self.full:
            due = min(due, self._full_since if self._full_since is not None else now)
        return due - now

    def seal(self, commit_id: str, sources: Mapping[str, str | None]) -> Batch:
        """The batch, ready to be staged. Nothing may be added afterwards."""
        return Batch(
            id=commit_id,
            parts=tuple(self._parts),
            claim=dict(self._claim),
            upto=dict(self._upto),
            sources=dict(sources),
            account=self.account,
            accepted=tuple(self._accepted),
            oldest_ms=self._oldest_ms,
            adopts=self._adopts,
            traces=tuple(self._traces),
            changes=tuple(self._changes),
        )
