"""What is handed over of a partition: its current run only, from its start, after its witness was heard."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakeward.errors import PositionError
from lakeward.positions import Partition, Position, Witness
from lakeward.records import RawBatch

STASH_BYTES = 32 << 20
"""How much of partitions that are paused is kept before librdkafka is asked to stop fetching them."""


@dataclass(slots=True)
class Run:
    """One run of a partition (PROTOCOL S5): read from ``at`` on, handed over from ``next`` on."""

    at: int
    next: int
    witness: Witness | None

    @staticmethod
    def of(position: Position) -> Run:
        """The run that begins at ``position``: at its witness, where it has one below."""
        witness = position.witness
        if witness is None or witness.offset >= position.next:
            return Run(position.next, position.next, None)
        return Run(witness.offset, position.next, witness)


class Runs:
    """The runs that are open, and what came for partitions that are paused."""

    def __init__(self) -> None:
        self._open: dict[Partition, Run] = {}
        self._held: set[Partition] = set()
        self._stash: list[RawBatch] = []
        self._stashed_ends: dict[Partition, int] = {}

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._open

    def __getitem__(self, partition: Partition) -> Run:
        return self._open[partition]

    @property
    def idle(self) -> bool:
        """Whether nothing can be handed over now: no run is open, or all are paused."""
        return self._open.keys() <= self._held

    @property
    def crowded(self) -> bool:
        """Whether more is kept for paused partitions than should be."""
        return sum(raw.values.data.nbytes + raw.keys.data.nbytes for raw in self._stash) > STASH_BYTES

    def begin(self, partition: Partition, position: Position) -> Run:
        """Open a new run; what was kept of an earlier one is forgotten."""
        self.end({partition})
        self._open[partition] = Run.of(position)
        return self._open[partition]

    def end(self, partitions: Collection[Partition]) -> None:
        """Close runs, and forget what was kept of them."""
        for partition in partitions:
            self._open.pop(partition, None)
            self._held.discard(partition)
            self._stashed_ends.pop(partition, None)
        self._stash = [raw for old in self._stash if len(raw := _without(old, partitions))]

    def hold(self, partitions: Iterable[Partition]) -> None:
        """Keep what comes for these instead of handing it over."""
        self._held.update(self._open.keys() & set(partitions))

    def release(self, partitions: Iterable[Partition]) -> None:
        """Undo `hold`."""
        self._held.difference_update(partitions)

    @property
    def held(self) -> frozenset[Partition]:
        """Those that are paused."""
        return frozenset(self._held)

    def stashed(self) -> tuple[list[RawBatch], dict[Partition, int]]:
        """What was kept for partitions that are paused no more: messages, and ends that they reached after them."""
        free = self._open.keys() - self._held
        ends = {partition: self._stashed_ends.pop(partition) for partition in free & self._stashed_ends.keys()}
        if not self._stash or all(free.isdisjoint(_partitions(raw)) for raw in self._stash):
            return [], ends
        kept, self._stash = self._stash, []
        return [raw for old in kept if len(raw := self._set_aside(old))], ends

    def reached(self, ends: Mapping[Partition, int]) -> dict[Partition, int]:
        """Those of ``ends`` that may be told now."""
        told = {}
        for partition, offset in ends.items():
            if partition not in self._open:
                continue
            run = self._open[partition]
            run.at, run.witness = max(run.at, offset), None
            if partition in self._held:
                self._stashed_ends[partition] = offset
            else:
                told[partition] = offset
        return told

    def pass_on(self, raw: RawBatch) -> RawBatch:
        """What of ``raw`` is to be handed over now; moves the runs on.

        Raises:
            PositionError: a witness differs (PROTOCOL S3).
        """
        spans = _spans(raw)
        for partition, (first, _) in spans.items():
            run = self._open.get(partition)
            if run is not None and first < max(run.at, run.next):
                raw = _checked(raw, partition, run)
            elif run is not None:
                run.witness = None
        if unwanted := spans.keys() - self._open.keys():
            raw = _without(raw, unwanted)
        for partition, (_, end) in spans.items():
            if partition in self._open:
                self._open[partition].at = max(self._open[partition].at, end)
        return self._set_aside(raw)

    def _set_aside(self, raw: RawBatch) -> RawBatch:
        held = self._held & _partitions(raw) if self._held else set()
        if not held:
            return raw
        rows = _rows_of(raw, held)
        self._stash.append(raw.select(np.flatnonzero(rows)))
        return raw.select(np.flatnonzero(~rows))


def _checked(raw: RawBatch, partition: Partition, run: Run) -> RawBatch:
    """``raw`` without what ``run`` does not hand over (any more); hears its witness on the way.

    Any more: a rebalance that pauses a partition at the moment in which its messages are taken can make librdkafka
    fetch the same ones again.
    """
    mine = raw.partition == partition.number
    witness = run.witness
    if witness is not None:
        # The first message that comes is the witness, or the witness is gone: compacted away, which proves nothing.
        first = int(np.flatnonzero(mine)[0])
        if raw.offset[first] == witness.offset:
            found = Witness(witness.offset, int(raw.timestamp[first]), Witness.checksum_of(raw.values.get(first)))
            if found != witness:
                raise PositionError(
                    f"{partition} is not the log that the table was fed from: the record at offset {witness.offset} "
                    f"is not the one that was read there (timestamp {found.timestamp}, then {witness.timestamp})",
                    "It was truncated and written again, or this is another cluster. Check bootstrap_servers, then "
                    "compare the table with the topic; `lakeward rollback` or `lakeward seek` says where to continue.",
                )
        run.witness = None
    return raw.select(np.flatnonzero(~mine | (raw.offset >= max(run.at, run.next))))


def _spans(raw: RawBatch) -> dict[Partition, tuple[int, int]]:
    """The partitions in ``raw``: the first offset of each, and the one behind its last."""
    if not len(raw):
        return {}
    size = int(raw.partition.max()) + 1
    first, end = np.zeros(size, np.int64), np.zeros(size, np.int64)
    end[raw.partition] = raw.offset + 1  # where a partition is named again, the later one stays
    first[raw.partition[::-1]] = raw.offset[::-1]
    return {Partition(raw.topic, int(n)): (int(first[n]), int(end[n])) for n in np.flatnonzero(end)}


def _partitions(raw: RawBatch) -> set[Partition]:
    return {Partition(raw.topic, int(n)) for n in np.flatnonzero(np.bincount(raw.partition))} if len(raw) else set()


def _rows_of(raw: RawBatch, partitions: Collection[Partition]) -> NDArray[np.bool_]:
    return np.isin(raw.partition, [p.number for p in partitions if p.topic == raw.topic])


def _without(raw: RawBatch, partitions: Collection[Partition]) -> RawBatch:
    rows = _rows_of(raw, partitions)
    return raw.select(np.flatnonzero(~rows)) if rows.any() else raw
