"""Builds one attempt at a commit: files, manifests, summary and entries on one asserted head (PROTOCOL C2f, C2g)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import (
    CHANGED_PARTITION_COUNT_PROP,
    Operation,
    Snapshot,
    Summary,
    UpdateMetrics,
    update_snapshot_summaries,
)
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertCurrentSchemaId,
    AssertDefaultSpecId,
    AssertRefSnapshotId,
    AssertTableUUID,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from lakeward.errors import OperatorError
from lakeward.ledger import LedgerEntry, encode, key_of
from lakeward.outcomes import Totals
from lakeward.sinks.iceberg import totals
from lakeward.sinks.iceberg.evolution import Growth
from lakeward.sinks.iceberg.find import head_of, mirror, mirrored
from lakeward.sinks.iceberg.fitting import Evolution, evolution
from lakeward.sinks.iceberg.manifests import Amendment, Manifests, Paper, write_list

KEY = "lakeward-key"
"""The table property that names the columns by which rows are known, as a JSON list."""


@dataclass(frozen=True, slots=True)
class Entries:
    """What a commit writes into its summary: its own entry, and those of all other pipelines at the head (I5)."""

    pipeline: str
    own: LedgerEntry
    others: Mapping[str, LedgerEntry]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a commit changes: files, and columns where ``growth`` says so. ``key``: the columns that identify rows."""

    change: Amendment
    growth: Growth | None = None
    key: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A snapshot that is written and not yet anybody's: what to send, and what was written for it."""

    snapshot: Snapshot
    head: int | None
    requirements: tuple[TableRequirement, ...]
    updates: tuple[TableUpdate, ...]
    manifests: list[ManifestFile]
    written: tuple[str, ...]
    """Paths of its own manifests, manifest list and delete files."""
    entry: LedgerEntry
    schema_id: int
    spec_id: int
    grows_from: tuple[int, int] | None = None
    """The last field id and the highest schema id on which its change of columns rests; None where it changes none."""

    def stands(self, metadata: TableMetadata) -> bool:
        """Whether everything that it asserts still holds: then it may still land, and may be sent again (C4).

        A commit to another branch takes the sequence number and leaves `main` where it is: no catalog takes this then.
        """
        head = head_of(metadata)
        return (
            (head.snapshot_id if head else None) == self.head
            and metadata.current_schema_id == self.schema_id
            and metadata.default_spec_id == self.spec_id
            and metadata.next_sequence_number() <= (self.snapshot.sequence_number or 0)
            and self.grows_from in {None, _ids_given(metadata)}
        )

    def is_dead(self, metadata: TableMetadata) -> bool:
        """Whether it provably never landed and never will (PROTOCOL I6).

        Sequence numbers are given once: where a retained snapshot holds this one's, no catalog takes it any more, not
        even after a rollback to the head that it asserts. A snapshot without a parent is not checked that way.
        """
        return self.head is not None and any(
            other.sequence_number == self.snapshot.sequence_number and other.snapshot_id != self.snapshot.snapshot_id
            for other in metadata.snapshots
        )


def _ids_given(metadata: TableMetadata) -> tuple[int, int]:
    return metadata.last_column_id, max(schema.schema_id for schema in metadata.schemas)


def time_of_next(metadata: TableMetadata, now_ms: int) -> int:
    """The next snapshot's timestamp: a slow clock must not go back behind what readers have seen (C2f)."""
    head = head_of(metadata)
    return max(now_ms, head.timestamp_ms if head else 0, metadata.last_updated_ms)


def totals_of(snapshot: Snapshot | None) -> Totals:
    """What the table holds at ``snapshot``, by its summary."""
    return totals.after(totals.told_by(snapshot))


def build(table: Table, entries: Entries, contents: Contents, manifests: Manifests, time_ms: int) -> Attempt:
    """Write the manifests and the manifest list of a snapshot that changes the head of ``table`` by ``contents``.

    Raises:
        OperatorError: a file that is to go is not in the table.
    """
    base, change, head = table.metadata, contents.change, head_of(table.metadata)
    evolved = Evolution(base) if contents.growth is None else evolution(base, contents.growth)
    metadata = evolved.metadata
    snapshot_id, sequence_number = metadata.new_snapshot_id(), metadata.next_sequence_number()
    places, commit = table.location_provider(), entries.own.commit
    stem = places.new_metadata_location(f"{commit}-{snapshot_id}")
    paper = Paper(table.io, metadata, snapshot_id, sequence_number, stem)
    composed = manifests.amend(paper, change, manifests.of(head, table.io))
    if composed is None:
        raise OperatorError(
            f"files of {'.'.join(table.name())} that were found there are not in its manifests",
            "Nothing was committed. `lakeward verify` tells what the table holds. Please report this.",
        )
    parent = head.snapshot_id if head else None
    list_path = places.new_metadata_location(f"snap-{snapshot_id}-0-{commit}.avro")
    write_list(paper, composed, parent, list_path)
    snapshot = Snapshot.model_validate(
        {
            "snapshot-id": snapshot_id,
            "parent-snapshot-id": parent,
            "sequence-number": sequence_number,
            "timestamp-ms": time_ms,
            "manifest-list": list_path,
            "summary": _summary(head, change, entries),
            "schema-id": metadata.current_schema_id,
        }
    )
    return Attempt(
        snapshot=snapshot,
        head=parent,
        requirements=(
            AssertTableUUID(uuid=metadata.table_uuid),
            AssertRefSnapshotId.model_validate({"ref": MAIN_BRANCH, "snapshot-id": parent}),
            AssertCurrentSchemaId.model_validate({"current-schema-id": base.current_schema_id}),
            AssertDefaultSpecId.model_validate({"default-spec-id": metadata.default_spec_id}),
            *evolved.requirements,
        ),
        updates=(
            *evolved.updates,
            AddSnapshotUpdate(snapshot=snapshot),
            set_main(metadata, snapshot_id),
            SetPropertiesUpdate(updates=_mirrors(metadata, entries, snapshot_id) | key_property(contents.key)),
        ),
        manifests=composed,
        written=(*paper.written, *(file.file_path for file in change.deletes)),
        entry=entries.own,
        schema_id=base.current_schema_id,
        spec_id=metadata.default_spec_id,
        grows_from=_ids_given(base) if evolved.requirements else None,
    )


def counted(change: Amendment) -> dict[str, str]:
    """What a snapshot's summary says of ``change``."""
    metrics = UpdateMetrics()
    for file in (*change.files, *change.deletes):
        metrics.add_file(file)
    for file in change.gone:
        metrics.remove_file(file)
    told = metrics.to_dict()
    every = (*change.files, *change.deletes, *change.gone)
    partitions = {(file.spec_id, repr(file.partition)) for file in every if len(file.partition)}
    return {**told, CHANGED_PARTITION_COUNT_PROP: str(len(partitions))} if partitions else told


def _summary(head: Snapshot | None, change: Amendment, entries: Entries) -> Summary:
    ledger = {key_of(name): encode(entry.carried()) for name, entry in entries.others.items()}
    ledger[key_of(entries.pipeline)] = encode(entries.own)
    # Insert-only commits must be "append": incremental readers skip anything else.
    operation = Operation.APPEND if change.appends else Operation.OVERWRITE
    summary = Summary(operation, **counted(change), **ledger)
    return update_snapshot_summaries(summary, previous_summary=head.summary if head else None)


def set_main(metadata: TableMetadata, snapshot_id: int) -> SetSnapshotRefUpdate:
    """Moves `main` and keeps the retention settings that somebody may have given it."""
    main = metadata.refs.get(MAIN_BRANCH)
    return SetSnapshotRefUpdate.model_validate(
        {
            "ref-name": MAIN_BRANCH,
            "type": SnapshotRefType.BRANCH,
            "snapshot-id": snapshot_id,
            "max-ref-age-ms": main.max_ref_age_ms if main else None,
            "max-snapshot-age-ms": main.max_snapshot_age_ms if main else None,
            "min-snapshots-to-keep": main.min_snapshots_to_keep if main else None,
        }
    )


def key_property(key: Sequence[str]) -> dict[str, str]:
    """The table property that tells which columns identify rows; none where rows are only added."""
    return {KEY: json.dumps(list(key))} if key else {}


def key_told(properties: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that identify rows, by `key_property`."""
    return tuple(json.loads(properties.get(KEY, "[]")))


def _mirrors(metadata: TableMetadata, entries: Entries, snapshot_id: int) -> dict[str, str]:
    """The properties that repeat the entries; another pipeline's only where it does not show a rewind (F6)."""
    mirrors = {key_of(entries.pipeline): mirror(entries.own, snapshot_id)}
    for name, entry in entries.others.items():
        held = mirrored(metadata, name)
        if held is None or held.entry.number <= entry.number:
            mirrors[key_of(name)] = mirror(entry.carried(), snapshot_id)
    return mirrors
