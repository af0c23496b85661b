"""One commit that puts rewritten files in the place of others: rows and positions stay as they are (PROTOCOL M1).

Planned at one head and committed at another: it may be, as long as every file that goes is still live. Rows that were
deleted meanwhile are deleted in the new files, by the same commit. Each attempt asserts the head that this was checked
at, and carries every pipeline's entry as it stands there (I5), so neither readers nor writers find a position missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import (
    Operation,
    Snapshot,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertCurrentSchemaId,
    AssertDefaultSpecId,
    AssertRefSnapshotId,
    AssertTableUUID,
    SetPropertiesUpdate,
    TableRequirement,
    TableUpdate,
)

from lakeward.errors import Directive
from lakeward.ledger import LedgerEntry, encode, key_of
from lakeward.sinks.iceberg.attempt import counted, set_main, time_of_next
from lakeward.sinks.iceberg.compaction import Rewritten, deleted_rows, deletes_by_file
from lakeward.sinks.iceberg.failures import explained, translated
from lakeward.sinks.iceberg.find import ancestry, find, head_of, mirror, mirrored, pipelines_of
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sinks.iceberg.manifests import Amendment, Manifests, Paper, write_list
from lakeward.sinks.iceberg.upsert.deletes import Gone, write_deletes

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

COMPACTION = "lakeward-compaction"
"""The summary key by which a compaction of ours is known; its value is how many files it replaced."""
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Replacing:
    """A snapshot that is written and not yet anybody's. ``moved``: rows of its new files that it deletes itself."""

    snapshot: Snapshot
    requirements: tuple[TableRequirement, ...]
    updates: tuple[TableUpdate, ...]
    manifests: list[ManifestFile]
    change: Amendment
    moved: Sequence[Gone]


@dataclass(slots=True)
class Replacement:
    """Puts new files in the place of those that were rewritten; used once. ``sent``: an attempt may have landed."""

    handle: Handle
    manifests: Manifests
    rewritten: Rewritten
    now_ms: int
    sent: bool = False
    _dead: Sequence[Gone] = ()

    def run(self) -> Replacing | None:
        """Commit it; None where the table has changed so that it cannot be, or the outcome stays unknown.

        Files are never deleted here: those of an attempt that may still land belong to orphan removal (I6).

        Raises:
            UnreachableError, PermissionDeniedError, LedgerError: it comes round again.
        """
        for _ in range(_ATTEMPTS):
            table = self.handle.look()
            with translated(f"writing manifests of {self.handle.name}", table.location()):
                made = self._build(table)
            if made is None:
                log.info("compaction dropped", table=self.handle.name, reason="its files changed meanwhile")
                return None
            if self._send(table, made):
                self.manifests.landed(made.snapshot.snapshot_id, made.manifests)
                return made
        log.info("compaction dropped", table=self.handle.name, reason="others commit all the time")
        return None

    def _send(self, table: Table, made: Replacing) -> bool:
        self.sent = True
        try:
            self.handle.send(table, made.requirements, made.updates)
        except Exception as error:
            after = self.handle.look()
            if any(snapshot.snapshot_id == made.snapshot.snapshot_id for snapshot in ancestry(after.metadata)):
                return True
            told = explained(error, f"compacting {self.handle.name}", self.handle.address)
            # A rival's commit that was rolled back since has taken the sequence number, though the head is the same.
            overtaken = after.metadata.next_sequence_number() > (made.snapshot.sequence_number or 0)
            if overtaken or isinstance(error, CommitFailedException) or told.directive is Directive.RETRY:
                return False
            raise told from error
        return True

    def _build(self, table: Table) -> Replacing | None:
        metadata, head = table.metadata, head_of(table.metadata)
        if head is None:
            return None
        carried = self.manifests.of(head, table.io)
        change = self._change(table, carried)
        if change is None:
            return None
        snapshot_id, sequence_number = metadata.new_snapshot_id(), metadata.next_sequence_number()
        places = table.location_provider()
        paper = Paper(
            table.io,
            metadata,
            snapshot_id,
            sequence_number,
            places.new_metadata_location(f"{self.rewritten.name}-{snapshot_id}"),
        )
        composed = self._composed(paper, change, carried)
        if composed is None:
            return None
        list_path = places.new_metadata_location(f"snap-{snapshot_id}-0-{self.rewritten.name}.avro")
        write_list(paper, composed, head.snapshot_id, list_path)
        entries = self._entries(table)
        snapshot = Snapshot.model_validate(
            {
                "snapshot-id": snapshot_id,
                "parent-snapshot-id": head.snapshot_id,
                "sequence-number": sequence_number,
                "timestamp-ms": time_of_next(metadata, self.now_ms),
                "manifest-list": list_path,
                "summary": self._summary(head, change, entries),
                "schema-id": metadata.current_schema_id,
            }
        )
        updates: list[TableUpdate] = [AddSnapshotUpdate(snapshot=snapshot), set_main(metadata, snapshot_id)]
        mirrors = {key_of(n): mirror(e, snapshot_id) for n, e in entries.items() if not _shows_rewind(metadata, n, e)}
        if mirrors:
            updates.append(SetPropertiesUpdate(updates=mirrors))
        return Replacing(
            snapshot,
            (
                AssertTableUUID(uuid=metadata.table_uuid),
                AssertRefSnapshotId.model_validate({"ref": MAIN_BRANCH, "snapshot-id": head.snapshot_id}),
                AssertCurrentSchemaId.model_validate({"current-schema-id": metadata.current_schema_id}),
                AssertDefaultSpecId.model_validate({"default-spec-id": metadata.default_spec_id}),
            ),
            tuple(updates),
            composed,
            change,
            self._dead,
        )

    def _change(self, table: Table, carried: Sequence[ManifestFile]) -> Amendment | None:
        """What comes and goes at this head; None where delete files have come that may concern several files.

        Rows that were deleted meanwhile are deleted where they went.
        """
        job, metadata = self.rewritten.job, table.metadata
        deletes = deletes_by_file(self.manifests, carried, table.io)
        if deletes is None or {file.spec_id for file in self.rewritten.files} - {metadata.default_spec_id}:
            return None
        known = {file.file_path for file in job.deletes}
        standing = [one for file in job.files for one in deletes.get(file.file_path, ())]
        since = [file for file in standing if file.file_path not in known]
        moved = self.rewritten.moved(deleted_rows(table.io, since)) if since else []
        self._dead = [Gone(file, positions) for file, positions in moved]
        written = write_deletes(table, self._dead, f"{self.rewritten.name}-{metadata.new_snapshot_id()}")
        return Amendment(self.rewritten.files, written, [*job.files, *standing])

    def _composed(self, paper: Paper, change: Amendment, carried: Sequence[ManifestFile]) -> list[ManifestFile] | None:
        """The new snapshot's manifests; None where they cannot be."""
        return self.manifests.amend(paper, change, carried)

    def _entries(self, table: Table) -> dict[str, LedgerEntry]:
        """Every pipeline's entry at this head, carried along (I5)."""
        parent_of = self.handle.parent_of(table)
        found = {name: find(table.metadata, name, parent_of).entry for name in sorted(pipelines_of(table.metadata))}
        return {name: entry.carried() for name, entry in found.items() if entry is not None}

    def _summary(self, head: Snapshot, change: Amendment, entries: dict[str, LedgerEntry]) -> Summary:
        ledger = {key_of(name): encode(entry) for name, entry in entries.items()}
        told = {COMPACTION: str(len(self.rewritten.job.files))}
        # PyIceberg counts totals for an overwrite only; what the commit is, readers must be told truly.
        summed = update_snapshot_summaries(
            Summary(Operation.OVERWRITE, **counted(change), **told, **ledger), previous_summary=head.summary
        )
        return Summary(Operation.REPLACE, **summed.additional_properties)


def _shows_rewind(metadata: TableMetadata, pipeline: str, entry: LedgerEntry) -> bool:
    """The property tells of a higher number: whoever owns it has to learn that the table was rewound (F6)."""
    held = mirrored(metadata, pipeline)
    return held is not None and held.entry.number > entry.number
