"""A source and a table that live in memory, for tests of the loop: the seams, nothing else."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.admission import Admission
from lakeward.dead_letters.rows import SCHEMA
from lakeward.errors import PositionError, UndecidedError
from lakeward.ledger import LedgerEntry, Standing, next_entry, outdated
from lakeward.outcomes import Batch, CommitReceipt, Found, Outcome, Refused, Staged, Totals
from lakeward.positions import Bounds, Partition, Position, Witness
from lakeward.records import Blobs, Decoded, DecodedPart, Polled, RawBatch, Reject


@dataclass(slots=True)
class Log:
    """One partition's messages; ``low`` is the first offset still held. None at an offset is a hole."""

    values: list[bytes | None] = field(default_factory=list)
    low: int = 0
    times: list[int] = field(default_factory=list)


class MemorySource:
    """A topic's partitions as lists. Every poll hands over at most ``step`` messages of each begun partition."""

    def __init__(self, step: int = 10) -> None:
        self.logs: dict[Partition, Log] = {}
        self.ids: dict[str, str] = {}
        self.acked: dict[Partition, int] = {}
        self.opened = False
        self.closed = False
        self._step = step
        self._at: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._assign: set[Partition] = set()
        self._revoke: set[Partition] = set()

    def append(self, topic: str, number: int, values: Iterable[bytes | None], time_ms: int = 0) -> None:
        """Add messages to a partition, making it if need be."""
        log = self.logs.setdefault(Partition(topic, number), Log())
        for value in values:
            log.values.append(value)
            log.times.append(time_ms)

    def assign(self, *partitions: Partition) -> None:
        """Report these as assigned at the next poll."""
        self._assign.update(partitions)

    def revoke(self, *partitions: Partition) -> None:
        """Report these as revoked at the next poll."""
        self._revoke.update(partitions)

    def open(self) -> None:
        """Assign everything there is."""
        self.opened = True
        self._assign.update(self.logs)

    def poll(self, timeout: float) -> Polled:
        """See `Source.poll`; never waits."""
        del timeout
        for partition in self._revoke:
            self._at.pop(partition, None)
        batches: list[RawBatch] = []
        reached: dict[Partition, int] = {}
        for partition, at in self._at.items():
            if partition not in self._paused:
                log = self.logs[partition]
                end = min(len(log.values), at + self._step)
                if end > at:
                    batches.append(_raw(partition, log, at, end))
                self._at[partition] = end
                reached[partition] = end
        polled = Polled(batches, reached, frozenset(self._assign), frozenset(self._revoke))
        self._assign, self._revoke = set(), set()
        return polled

    def begin(self, starts: Mapping[Partition, Position]) -> None:
        """See `Source.begin`; the witness is compared at once."""
        for partition, at in starts.items():
            log = self.logs[partition]
            seen = at.witness
            if seen and log.low <= seen.offset < len(log.values):
                held = Witness(seen.offset, log.times[seen.offset], Witness.checksum_of(log.values[seen.offset]))
                if held != seen:
                    raise PositionError(f"{partition} was written anew below offset {at.next}")
            self._at[partition] = at.next
            self._paused.discard(partition)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """See `Source.pause`."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """See `Source.resume`."""
        self._paused.difference_update(partitions)

    def partitions(self, topics: Iterable[str]) -> Mapping[Partition, Bounds]:
        """See `Source.partitions`."""
        wanted = set(topics)
        return {p: Bounds(log.low, len(log.values)) for p, log in self.logs.items() if p.topic in wanted}

    def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> Mapping[Partition, int]:
        """See `Source.offsets_at`."""
        return {
            p: next((i for i, t in enumerate(self.logs[p].times) if t >= timestamp_ms), len(self.logs[p].times))
            for p in partitions
        }

    def identities(self, topics: Iterable[str]) -> Mapping[str, str | None]:
        """See `Source.identities`."""
        return {topic: self.ids.get(topic) for topic in topics}

    def ends(self) -> Mapping[Partition, int]:
        """See `Source.ends`."""
        return {p: len(log.values) for p, log in self.logs.items()}

    def ack(self, positions: Mapping[Partition, Position]) -> None:
        """See `Source.ack`."""
        self.acked.update({p: at.next for p, at in positions.items()})

    def close(self) -> None:
        """See `Source.close`."""
        self.closed = True


def _raw(partition: Partition, log: Log, start: int, end: int) -> RawBatch:
    count = end - start
    return RawBatch(
        partition.topic,
        np.full(count, partition.number, np.int32),
        np.arange(start, end, dtype=np.int64),
        np.asarray(log.times[start:end], np.int64),
        Blobs.of([None] * count),
        Blobs.of(log.values[start:end]),
    )


class TextDecoder:
    """Each value becomes a row with one column, ``value``; a value that begins with ``!`` is rejected."""

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`."""
        values = [raw.values.get(i) for i in range(len(raw))]
        index = [i for i, v in enumerate(values) if v is not None and not v.startswith(b"!")]
        rejects = [Reject(i, "poison", "it begins with !") for i, v in enumerate(values) if v and v.startswith(b"!")]
        skipped = [i for i, v in enumerate(values) if v is None]
        rows = pa.table({"value": pa.array([(values[i] or b"").decode() for i in index], pa.string())})
        return Decoded(
            [DecodedPart(rows, np.asarray(index, np.int64))] if index else [], rejects, np.asarray(skipped, np.int64)
        )

    def schema(self, topic: str) -> pa.Schema | None:
        """See `Decoder.schema`."""
        del topic
        return pa.schema([("value", pa.string())])


class MemoryTable:
    """What a catalog would keep: rows and entry, changed together under a lock."""

    def __init__(self) -> None:
        self.exists = False
        self.rows: list[Any] = []
        self.entry: LedgerEntry | None = None
        self.highest = 0
        """The highest number that an entry ever had here, whatever was rolled back since."""
        self.commits: list[Batch] = []
        self.shelf: dict[str, bytes] = {}
        self.lock = threading.Lock()


class Anything:
    """An outlook that takes every schema."""

    def admit(self, schema: pa.Schema, pending: Sequence[pa.Schema]) -> Admission:
        """See `Outlook.admit`."""
        del schema, pending
        return Admission()


ANYTHING = Anything()


class MemoryTarget:
    """One handle to a `MemoryTable`; ``faults`` are called one after the other at the start of each commit attempt."""

    def __init__(self, name: str, table: MemoryTable) -> None:
        self.name = name
        self.table = table
        self.faults: deque[Callable[[Staged], None]] = deque()
        self._given_up = threading.Event()

    @property
    def outlook(self) -> Anything:
        """See `Target.outlook`."""
        return ANYTHING

    def find(self) -> Found:
        """See `Target.find`."""
        return Found(self.table.exists, self.table.entry, highest=self.table.highest)

    def create(self, schema: pa.Schema) -> None:
        """See `Target.create`."""
        del schema
        self.table.exists = True

    def stage(self, batch: Batch) -> Staged:
        """See `Target.stage`."""
        rows = [value for part in batch.parts for value in part.column("value").to_pylist()]
        return Staged(batch, rows, len(rows), 0)

    def commit(self, staged: Staged) -> Outcome:
        """See `Target.commit`."""
        if self._given_up.is_set():
            raise UndecidedError(f"{self.name}: given up")
        if self.faults:
            self.faults.popleft()(staged)
        with self.table.lock:
            before, table = self.table.entry, self.table
            batch = staged.batch
            standing = Standing.of(batch.claim, before, batch.accepted, batch.sources, batch.known)
            if outdated(before, batch, table.highest):
                return Refused(before, covered=False, reason="the plan is outdated")
            if standing != Standing.EXTENDS:
                return Refused(before, standing == Standing.COVERED, "positions differ")
            held = len(table.rows)
            table.rows.extend(staged.files)
            table.entry = next_entry(before, table="memory", batch=staged.batch, highest=table.highest)
            table.highest = table.entry.number
            table.exists = True
            table.commits.append(staged.batch)
            number = table.entry.number
            totals = Totals(held, 0, 0), Totals(len(table.rows), 0, 0)
            return CommitReceipt(
                self.name, staged.batch.id, number, number, staged.rows, 0, 0, *totals, 0, 1, table.entry
            )

    def keep(self, name: str, content: bytes) -> None:
        """See `Target.keep`."""
        self.table.shelf[name] = content

    def kept(self, name: str) -> bytes | None:
        """See `Target.kept`."""
        return self.table.shelf.get(name)

    def give_up(self) -> None:
        """See `Target.give_up`."""
        self._given_up.set()

    def maintain(self, *, leads: bool = True) -> None:
        """See `Target.maintain`; there is no house to keep."""
        del leads


class MemoryLetters(MemoryTarget):
    """One handle to a dead-letter table in memory; its rows are mappings."""

    def stage(self, batch: Batch) -> Staged:
        """See `Target.stage`."""
        rows = [row for part in batch.parts for row in part.to_pylist()]
        return Staged(batch, rows, len(rows), 0)

    def rows(self, columns: Sequence[str], only: tuple[str, Collection[str]] | None = None) -> pa.Table | None:
        """See `lakeward.dead_letters.book.Shelf`."""
        if not self.table.exists:
            return None
        found = [row for row in self.table.rows if only is None or row[only[0]] in only[1]]
        return pa.Table.from_pylist(found, SCHEMA).select(list(columns))
