"""The seams: what the loop asks of a source, a decoder and a sink. One contract suite tests each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import pyarrow as pa

from lakeward.admission import Outlook
from lakeward.outcomes import Batch, Found, Outcome, Staged
from lakeward.positions import Bounds, Partition, Position
from lakeward.records import Decoded, Polled, RawBatch


class Source(Protocol):
    """Where records come from. Used by one thread, except `identities`."""

    def open(self) -> None:
        """Connect and subscribe.

        Raises:
            UnreachableError: no broker answers within the source's bound.
            PermissionDeniedError: the broker refuses us.
        """

    def poll(self, timeout: float) -> Polled:
        """Hand over what is there, or wait ``timeout`` seconds (0: only look).

        Messages of a partition come only after `begin`, from exactly the position asked for, in order; never from
        a run that `begin` or a revocation has ended (PROTOCOL S5). Keeps the group membership alive, so it must be
        called often, also while every partition is paused. Servers that go away are waited for and logged.

        Raises:
            OperatorError: the source cannot serve a position any more (PROTOCOL S3).
            PermissionDeniedError: reading is refused.
        """

    def begin(self, starts: Mapping[Partition, Position]) -> None:
        """Open a new run of each partition at ``Position.next``; it also resumes them.

        With a witness that can still be read back, the source compares it before anything is handed over.

        Raises:
            PositionError: the witness differs (through `poll`, once the record was read back).
        """

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Hand over nothing of these until `resume`; what was fetched is not lost."""

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""

    def partitions(self, topics: Iterable[str]) -> Mapping[Partition, Bounds]:
        """All partitions of ``topics`` and what they hold now; a topic that does not exist has none."""

    def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> Mapping[Partition, int]:
        """The first offset of each partition whose record is not older; its end where there is none."""

    def identities(self, topics: Iterable[str]) -> Mapping[str, str | None]:
        """Each existing topic's id, or None where the broker tells none (PROTOCOL section 1).

        Once it has told an id, any thread may ask again.
        """

    def ends(self) -> Mapping[Partition, int]:
        """Each assigned partition's end as last heard of, without asking again; for display only."""

    def ack(self, positions: Mapping[Partition, Position]) -> None:
        """Publish positions that are in every table they feed, for lag tools. Best effort; never read back."""

    def close(self) -> None:
        """Leave. Nothing is acked."""


class Decoder(Protocol):
    """Bytes to Arrow columns, no Python per record."""

    def decode(self, raw: RawBatch) -> Decoded:
        """Every message ends up a row, a reject or skipped.

        Raises:
            UnreachableError: a schema is needed and its registry does not answer.
        """

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema that ``topic``'s rows will have, where it can be known before the first record."""


class Target(Protocol):
    """One table as the loop sees it. `stage` and `commit` are called by one thread at a time."""

    name: str

    @property
    def outlook(self) -> Outlook:
        """The table's columns as last seen, without asking: another object as soon as they are others. Any thread."""

    def find(self) -> Found:
        """Load the table fresh and say what it knows of this pipeline (PROTOCOL F1-F7).

        Raises:
            LedgerError: UNPROVEN or unreadable. UnreachableError: catalog or store do not answer.
        """

    def create(self, schema: pa.Schema) -> None:
        """Create the table (and its namespace) for rows of ``schema`` unless it exists."""

    def stage(self, batch: Batch) -> Staged:
        """Write the batch's files; nobody sees them. Creates the table if need be.

        Raises:
            SchemaMismatchError: the rows do not fit the table. StorageError, UnreachableError: try again later.
        """

    def commit(self, staged: Staged) -> Outcome:
        """Make the batch and its positions one snapshot, or learn why not (PROTOCOL, section 5).

        Retries, rebases and looks until the outcome is known or `give_up` was called.

        Raises:
            UndecidedError: given up while unknown. TableChangedError, LedgerError, PermissionDeniedError: stop.
        """

    def keep(self, name: str, content: bytes) -> None:
        """Write a small file beside the table, which must exist; readers of the table never see it.

        Raises:
            StorageError, UnreachableError: try again. PermissionDeniedError: the store refuses us.
        """

    def kept(self, name: str) -> bytes | None:
        """The content that `keep` wrote; None where the file is gone."""

    def give_up(self) -> None:
        """From another thread: do not start another attempt or look; raise `UndecidedError` where unknown."""

    def maintain(self, *, leads: bool = True) -> None:
        """Housekeeping between commits: expire snapshots by tiers (PROTOCOL M2). Cheap when nothing is due.

        ``leads``: of all workers it is this one that compacts small files (PROTOCOL M1).
        """
