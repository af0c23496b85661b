"""One table's way through the loop: a batch that fills, a batch that commits, and where the table continues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from lakeward.admission import SchemaChanges
from lakeward.admitting import Admitting
from lakeward.batching import Filling, FlushPolicy, Stretch, position_after, stretches
from lakeward.dead_letters.box import Letterbox, told
from lakeward.errors import OperatorError, PositionError, RejectedRecordError
from lakeward.keying import Upserting, appended, upserted
from lakeward.ledger import LedgerEntry
from lakeward.metadata_columns import changed, type_of, with_metadata
from lakeward.observability.progress import TableProgress
from lakeward.outcomes import Batch, CommitReceipt, Found, Outcome
from lakeward.positions import Partition, Position
from lakeward.records import Decoded, RawBatch, Trace
from lakeward.sequence_watch import SequenceWatch
from lakeward.sequences import Rule
from lakeward.stages import Decoder, Target
from lakeward.starts import Starts


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """How one table is fed. ``metadata_columns`` maps a column to what it holds (see `metadata_columns`).

    ``gaps`` says which business sequences to follow. ``schema_changes``: what is done with rows that do not fit the
    table as it stands. ``upserting``: rows change those of their keys; None: every row is added.
    """

    flush: FlushPolicy
    metadata_columns: Mapping[str, str] = field(default_factory=dict)
    gaps: Rule | None = None
    schema_changes: SchemaChanges = SchemaChanges.EVOLVE
    upserting: Upserting | None = None


@dataclass(slots=True)
class Tally:
    """What a lane has done since this process started."""

    rows: int = 0
    commits: int = 0
    refusals: int = 0
    last: CommitReceipt | None = None
    last_ms: int | None = None


class Lane:
    """Owned by the loop's thread; only ``committing`` and ``looking`` run on another, one at a time."""

    def __init__(
        self, target: Target, decoder: Decoder, settings: LaneSettings, letterbox: Letterbox | None = None
    ) -> None:
        self.target = target
        self.decoder = decoder
        self.settings = settings
        self._admitting = Admitting(target, settings.schema_changes, settings.metadata_columns)
        self.letterbox = letterbox
        """Where records go that cannot become rows; without one, the first of them is an error."""
        self.sequences = SequenceWatch(settings.gaps, target) if settings.gaps is not None else None
        self.topics: set[str] = set()
        self.next: dict[Partition, Position] = {}
        """Counts what is filling and committing, not only what is committed (PROTOCOL S6)."""
        self.sources: dict[str, str | None] = {}
        """The ids of the topics as they were when this table's positions in them were resolved."""
        self.first: set[Partition] = set()
        """Partitions whose position no commit has proved yet."""
        self.entry: LedgerEntry | None = None
        self.filling = Filling(settings.flush)
        self.committing: tuple[Batch, Future[Outcome]] | None = None
        self.looking: Future[Found] | None = None
        self.exists = False
        self.columns: pa.Schema | None = None
        """What the table can be created with before its first row; looked for when only letters have come."""
        self.settling = False
        """A commit of starts or losses is under way; nothing is read before it is proved (PROTOCOL S2, S3)."""
        self.refused_in_a_row = 0
        self._sent_bytes = 0
        self.tally = Tally()

    @property
    def name(self) -> str:
        """The table's name."""
        return self.target.name

    def wanted(self, raw: RawBatch) -> RawBatch:
        """The messages of ``raw`` that this table does not hold yet (PROTOCOL S6).

        Raises:
            PositionError: the witness of this table's position is among the rest, and differs (PROTOCOL S3).
        """
        found = stretches(raw)
        if all(s.partition in self.next and raw.offset[s.first] >= self._start(s.partition) for s in found):
            return raw
        least = np.full(int(raw.partition.max()) + 1, np.iinfo(np.int64).max)
        for stretch in found:
            if stretch.partition in self.next:
                least[stretch.partition.number] = self._start(stretch.partition)
                self._hear_witness(raw, stretch.partition)
        return raw.select(np.flatnonzero(raw.offset >= least[raw.partition]))

    def _hear_witness(self, raw: RawBatch, partition: Partition) -> None:
        """The source hears the witness of the table that is furthest behind; those ahead hear theirs here."""
        witness = self.next[partition].witness
        if witness is None:
            return
        for index in np.flatnonzero((raw.partition == partition.number) & (raw.offset == witness.offset)):
            if position_after(raw, int(index)).witness != witness:
                raise PositionError(
                    f"{partition} is not the log that {self.name} was fed from: "
                    f"the record at offset {witness.offset} is not the one that was read there",
                    "It was truncated and written again. Compare the table with the topic; `lakeward rollback` or "
                    "`lakeward seek` chooses where to continue.",
                )

    def decode(self, raw: RawBatch) -> Decoded:
        """Decode; without a letterbox, stop at a record that cannot be.

        Raises:
            RejectedRecordError: names topic, partition, offset, schema id and reason of the first such record.
            SchemaMismatchError: records do not fit the table, and the policy is to stop.
        """
        how = self.settings.upserting
        decoded = self.decoder.decode(raw)
        known = self.next.keys() | (self.entry.positions.keys() if self.entry is not None else set())
        partitions = sum(1 for partition in known if partition.topic == raw.topic)
        decoded = appended(decoded) if how is None else upserted(decoded, how, partitions)
        decoded = self._admitting.admit(decoded)
        if decoded.rejects and self.letterbox is None:
            raise rejected(raw, decoded, self.name)
        return decoded

    def take(self, raw: RawBatch, decoded: Decoded, now: float, now_ms: int) -> None:
        """Add decoded messages to the filling batch and move on behind them.

        ``now`` is monotonic, in seconds; ``now_ms`` is milliseconds since the epoch.

        Raises:
            OperatorError: too many of them are dead letters (PROTOCOL D5); none is taken.
        """
        if decoded.rejects and not self._writable and self.columns is None:
            self.columns = self.schema(raw.topic)
        letters = self.letterbox.take(raw, decoded.rejects) if self.letterbox is not None else None
        parts = self.rows_of(raw, decoded, now_ms)
        spans: list[tuple[Stretch, int]] = [(s, self._start(s.partition)) for s in stretches(raw)]
        self.filling.take(raw, spans, parts, len(decoded.skipped))
        told = [changed(part, self.settings.metadata_columns) for part in decoded.parts if len(part.index)]
        self.filling.change([changes for changes in told if changes is not None])
        if letters is not None:
            self.filling.set_aside(letters)
        if self.sequences is not None:
            self.filling.trace([Trace.of(raw, part.index) for part in decoded.parts])
        self.filling.touch(now)
        for stretch, _ in spans:
            self.next[stretch.partition] = Position(int(raw.offset[stretch.last]) + 1)

    def rows_of(self, raw: RawBatch, decoded: Decoded, now_ms: int) -> list[pa.Table]:
        """The rows of each part of ``decoded``, as they are to be staged; taken at ``now_ms``."""
        columns = self.settings.metadata_columns
        return [with_metadata(part, raw, columns, now_ms) if columns else part.rows for part in decoded.parts]

    def reach(self, partition: Partition, offset: int, now: float) -> None:
        """Everything below ``offset`` has been handed over: pass what no message tells of (PROTOCOL S7)."""
        at = self.next.get(partition)
        if at is not None and at.next < offset:
            self.filling.move(partition, at.next, Position(offset))
            self.filling.touch(now)
            self.next[partition] = Position(offset)

    def settle(self, starts: Starts, now: float, ours: Collection[Partition], *, anchor: bool = False) -> None:
        """Continue partitions where ``starts`` says; what the table does not know of them is committed first.

        Those that are not among ``ours`` are only committed: other workers will read them from there (PROTOCOL S2).
        ``anchor``: so is what the table knows, because another tool has rewound it (PROTOCOL B2).
        """
        given_up = {loss.partition for loss in starts.losses}
        for partition in (starts.positions.keys() - given_up) if anchor else starts.first:
            at = starts.positions[partition]
            self.filling.move(partition, at.next, at)
        for loss in starts.losses:
            self.filling.move(loss.partition, loss.end, Position(loss.end))
            self.filling.accept(loss)
        self.next.update({p: at for p, at in starts.positions.items() if p in ours})
        self.first = (self.first - starts.positions.keys()) | starts.first
        if (starts.first or starts.losses or (anchor and starts.positions)) and self.exists:
            self.filling.touch(now)
            self.filling.hurry()
            self.settling = True

    def recall(self, partition: Partition) -> bool:
        """Continue a partition that became ours where the filling batch says; False where it says nothing."""
        if partition in self.next or partition not in self.filling:
            return False
        self.next[partition] = Position(self.filling.claim[partition].end)
        return True

    def restate(self, partitions: Iterable[Partition], now: float) -> None:
        """Say in a while where these stand: a commit of somebody else lies above the entry that does (PROTOCOL F5)."""
        for partition in partitions:
            self.filling.move(partition, self._start(partition), self.next[partition])
        self.filling.touch(now)

    def due_in(self, now: float) -> float | None:
        """Seconds until the filling batch is to be committed, below 0 if overdue; None while there is nothing to."""
        if self.engaged or not self._writable:
            return None
        return self.filling.due_in(now)

    def give_up(self) -> None:
        """See `Target.give_up`."""
        self.target.give_up()
        if self.letterbox is not None:
            self.letterbox.target.give_up()

    @property
    def engaged(self) -> bool:
        """Another thread uses the target."""
        return self.committing is not None or (self.looking is not None and not self.looking.done())

    @property
    def blocked(self) -> bool:
        """The filling batch is full and not handed over yet: nothing more is taken (DESIGN, principle 6)."""
        return self.filling.full

    @property
    def held_bytes(self) -> int:
        """Arrow memory of both batches."""
        return self.filling.bytes + (self._sent_bytes if self.committing is not None else 0)

    def flush(self, commit_id: str, send: Callable[[Batch], Future[Outcome]]) -> None:
        """Hand the filled batch over and open a new one."""
        topics = {partition.topic for partition in self.filling.claim}
        batch = self.filling.seal(commit_id, {t: i for t, i in self.sources.items() if t in topics})
        batch = replace(batch, known=frozenset(batch.claim.keys() - self.first))
        if self.letterbox is not None and self.filling.letters:
            batch = self.letterbox.seal(batch, pa.concat_tables(self.filling.letters), self.entry)
        if not batch.parts and not self.exists and self.columns is not None:
            batch = replace(batch, parts=(self.columns.empty_table(),))
        self._sent_bytes = self.filling.bytes
        self.filling = Filling(self.settings.flush)
        self.committing = (batch, send(batch))

    @property
    def drainable(self) -> bool:
        """Whether there is something to commit before leaving."""
        return not self.filling.empty and self._writable

    @property
    def _writable(self) -> bool:
        """Whether there is a table, or enough is known to create it."""
        account = self.filling.account
        return self.exists or account.rows > 0 or (account.letters > 0 and self.columns is not None)

    def refuse_columnless(self) -> None:
        """Letters alone make no table: nothing tells its columns.

        Raises:
            OperatorError: there are letters, and no table, nor a schema for it.
        """
        if self.filling.account.letters and not self._writable:
            letter = {name: self.filling.letters[0].column(name)[0].as_py() for name in ("topic", "code", "message")}
            raise OperatorError(
                f"table {self.name} is not there yet, and none of the {self.filling.account.letters:,} records that "
                f"were read can become its first row: topic {letter['topic']}: {letter['message']} [{letter['code']}]",
                "Nothing was written, and positions stay where they were. Look whether decoding and schema are those "
                "of the topic.",
            )

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of this table's rows where it is known before the first record."""
        schema = self.decoder.schema(topic)
        if schema is None:
            return None
        return pa.schema([*schema, *(pa.field(n, type_of(kind)) for n, kind in self.settings.metadata_columns.items())])

    def committed(self, receipt: CommitReceipt, now_ms: int) -> None:
        """Note a proof."""
        self.entry = receipt.entry
        self.first -= receipt.entry.positions.keys()
        self.exists = True
        self.settling = False
        self.refused_in_a_row = 0
        tally = self.tally
        tally.rows += receipt.rows
        tally.commits += 1
        tally.last, tally.last_ms = receipt, now_ms

    def progress(self, ends: Mapping[str, Mapping[Partition, int]]) -> TableProgress:
        """Where this table stands; ``ends`` are each topic's partitions' ends as last heard of."""
        known = self.entry.positions if self.entry else {}
        own = {p: end for topic in self.topics for p, end in ends.get(topic, {}).items()}
        lag = sum(max(0, end - (known[p].next if p in known else 0)) for p, end in own.items())
        tally = self.tally
        return TableProgress(
            table=self.name,
            rows=tally.last.after.rows if tally.last else 0,
            written=tally.rows,
            commits=tally.commits,
            lag=lag,
            snapshot_id=tally.last.snapshot_id if tally.last else None,
            last_commit_ms=tally.last_ms,
            refusals=tally.refusals,
            letters=self.entry.account.letters if self.entry else 0,
            gaps=self._gaps,
            breaks=[str(finding) for finding in self.sequences.recent] if self.sequences is not None else (),
        )

    @property
    def _gaps(self) -> int | None:
        if self.sequences is None:
            return None
        return self.entry.gaps.counts.gaps if self.entry is not None and self.entry.gaps is not None else 0

    def drop(self, entry: LedgerEntry | None) -> None:
        """Forget both batches; the table continues where ``entry`` says (PROTOCOL C5, B2). Never trims."""
        self.entry = entry
        self.filling = Filling(self.settings.flush)
        self._admitting.forget()
        self.committing = None
        self.settling = False
        self.next = {}
        self.first = set()

    def release(self, revoked: Collection[Partition]) -> set[Partition]:
        """Give up partitions that are no longer ours, with their rows (PROTOCOL R2); return those to read again.

        A batch that holds such rows is dropped whole and its other partitions go back to where it began: rows are
        not sorted by partition, and a revocation is rare. A commit already sent is left to its outcome.
        """
        again: set[Partition] = set()
        if any(partition in self.filling for partition in revoked):
            again = self.next.keys() & self.filling.claim.keys() - set(revoked)
            for partition in again:
                if self.filling.urgent:  # where they begin was to be committed first: the table is asked again
                    del self.next[partition]
                else:
                    self.next[partition] = Position(self.filling.claim[partition].start)
            self.filling = Filling(self.settings.flush)
            self._admitting.forget()
            self.settling = self.settling and self.committing is not None
        for partition in revoked:
            self.next.pop(partition, None)
        return again

    def _start(self, partition: Partition) -> int:
        return self.next[partition].next


def rejected(raw: RawBatch, decoded: Decoded, table: str) -> RejectedRecordError:
    """The error for the first record that was rejected."""
    more = f" ({len(decoded.rejects) - 1} more in the same fetch)" if len(decoded.rejects) > 1 else ""
    return RejectedRecordError(
        f"a record cannot be written to {table}: {told(raw, decoded.rejects)}{more}",
        "Everything before it is committed or will be read again. Correct the producer or the decoding; start again.",
    )
