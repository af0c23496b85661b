"""Every commit of a table, from its retained snapshots and from the archive of expired ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyiceberg.table import Table

from lakeward.ledger import LedgerEntry, breaks, decode, key_of
from lakeward.outcomes import Totals
from lakeward.sinks.iceberg import totals
from lakeward.sinks.iceberg.archive import Archived, read_all
from lakeward.sinks.iceberg.find import head_of
from lakeward.sinks.iceberg.handle import recorded_parent


@dataclass(frozen=True, slots=True)
class Record:
    """One commit. ``operation`` is Iceberg's word; times are milliseconds since the epoch.

    ``entry`` is what it says about the pipeline: with a claim where the pipeline made it, carried where another
    did, None for a foreign commit. ``retained``: it can still be read and rolled back to. ``on_ancestry``: it led to
    the head; the others were rewound, or lie beyond a link that nothing proves. ``summary`` is the snapshot's own.
    """

    snapshot_id: int
    parent_id: int | None
    sequence_number: int
    operation: str
    committed_ms: int
    entry: LedgerEntry | None
    added: Totals
    removed: Totals
    before: Totals
    after: Totals
    retained: bool
    on_ancestry: bool
    summary: Mapping[str, str]


def history(table: Table, pipeline: str) -> list[Record]:
    """Every commit that is known, oldest first by sequence number.

    Raises:
        LedgerError: an entry or the archive's pointer cannot be read (PROTOCOL I8).
    """
    metadata = table.metadata
    known = {archived.snapshot_id: archived for archived in read_all(table.io, metadata)}
    retained = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    known.update({key: Archived.of(snapshot, {}) for key, snapshot in retained.items()})
    parents = _parents(table, known)
    head = head_of(metadata)
    lineage: set[int] = set()
    at = head.snapshot_id if head is not None else None
    while at is not None and at in known and at not in lineage:
        lineage.add(at)
        at = parents.get(at)
    uuid = str(metadata.table_uuid)
    rows = sorted(known.values(), key=lambda row: (row.sequence_number, row.time_ms))
    return [
        _record(
            row,
            parents.get(row.snapshot_id),
            _entry(row, pipeline, uuid),
            retained=row.snapshot_id in retained,
            on_ancestry=row.snapshot_id in lineage,
        )
        for row in rows
    ]


def audit(records: Sequence[Record]) -> list[str]:
    """What is wrong with the pipeline's ledger along the ancestry (PROTOCOL I3); nothing where it is contiguous.

    ``records`` as `history` returns them, oldest first.
    """
    wrong: list[str] = []
    before: LedgerEntry | None = None
    for record in records:
        if not record.on_ancestry or record.entry is None:
            continue
        carried = before is not None and record.entry.commit == before.commit
        if not carried:
            wrong += [f"snapshot {record.snapshot_id}: {what}" for what in breaks(before, record.entry)]
        elif before is not None and record.entry.carried() != before.carried():
            wrong.append(f"snapshot {record.snapshot_id}: an entry that was carried along differs")
        before = record.entry
    return wrong


def _parents(table: Table, known: Mapping[int, Archived]) -> dict[int, int]:
    """Each snapshot's parent: as recorded, or as its archived parent names it, or as its manifest list does.

    Expiry may blank the parent of a snapshot in the metadata.
    """
    parents = {row.child: row.snapshot_id for row in known.values() if row.child is not None}
    parents.update({key: row.parent_id for key, row in known.items() if row.parent_id is not None})
    for snapshot in table.metadata.snapshots:
        if snapshot.snapshot_id not in parents:
            parent = recorded_parent(table, snapshot)
            if parent is not None:
                parents[snapshot.snapshot_id] = parent
    return parents


def _entry(row: Archived, pipeline: str, uuid: str) -> LedgerEntry | None:
    text = row.summary.get(key_of(pipeline))
    entry = decode(text, f"snapshot {row.snapshot_id}") if text is not None else None
    return entry if entry is not None and entry.table == uuid else None


def _record(
    row: Archived, parent: int | None, entry: LedgerEntry | None, *, retained: bool, on_ancestry: bool
) -> Record:
    return Record(
        snapshot_id=row.snapshot_id,
        parent_id=parent,
        sequence_number=row.sequence_number,
        operation=row.operation,
        committed_ms=row.time_ms,
        entry=entry,
        added=totals.added(row.summary),
        removed=totals.removed(row.summary),
        before=totals.before(row.summary),
        after=totals.after(row.summary),
        retained=retained,
        on_ancestry=on_ancestry,
        summary=row.summary,
    )
