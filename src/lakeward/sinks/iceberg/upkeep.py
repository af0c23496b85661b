"""Housekeeping between commits: expires snapshots in tiers, and deletes files that nothing refers to (PROTOCOL M2)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import structlog
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotsUpdate,
    SetPropertiesUpdate,
    TableUpdate,
)

from lakeward.clock import Clock
from lakeward.sinks.iceberg.archive import Archived, Pointer, append, pointer_in, property_of
from lakeward.sinks.iceberg.expiry import doomed
from lakeward.sinks.iceberg.failures import translated
from lakeward.sinks.iceberg.find import ancestry, head_of
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sinks.iceberg.manifests import Manifests
from lakeward.sinks.iceberg.references import References
from lakeward.sinks.iceberg.shelf import unreferenced
from lakeward.sinks.iceberg.store import delete_files

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DUE_COMMITS, DUE_S = 25, 60.0
GRACE_S = 300.0
"""How long a reader that has just planned on an expired snapshot may still open its manifests."""
_DELETES_A_CALL = 64


@dataclass(slots=True)
class Upkeep:
    """One target's housekeeping; runs on its committing thread. ``keep_ms`` is the rollback window."""

    pipeline: str
    handle: Handle
    clock: Clock
    keep_ms: int
    manifests: Manifests = field(default_factory=Manifests)
    """What the target knows of the manifests that it wrote."""
    keep_most: int | None = None
    """How many snapshots are left at most, besides those that something needs; None for as many as there are."""
    _references: References = field(default_factory=References)
    _litter: deque[tuple[float, str]] = field(default_factory=deque)
    _commits: int = 0
    _last: float | None = None
    _suspect: str | None = None

    def committed(self, snapshot_id: int, manifests: list[ManifestFile]) -> None:
        """A commit of ours has landed."""
        self._commits += 1
        self._references.note(snapshot_id, manifests, self.manifests.remembered)

    def run(self) -> None:
        """Do what is due; cheap when nothing is.

        Raises:
            UnreachableError, PermissionDeniedError, LedgerError: it comes round again.
        """
        now = self.clock.monotonic()
        if self._last is None:
            self._last = now
        if self._commits >= DUE_COMMITS or (self._commits and now - self._last >= DUE_S):
            self._commits, self._last = 0, now
            self.expire()
        self._purge(now)

    def expire(self, most: int | None = None) -> None:
        """Archive what is to go, then let it go in one commit that asserts the head; a rival's commit wins over it.

        ``most``: how many snapshots are to be left, this time.
        """
        table = self.handle.known()
        going = self.expirable(table, most)
        if not going:
            return
        pointer = self._archive(table, going)
        before = pointer_in(table.metadata, self.pipeline)
        try:
            after = self.handle.send(table, _asserts(table), _removal(going, self.pipeline, pointer))
        except Exception as error:  # noqa: BLE001 -- conflict, or unknown: the table says what to do next time
            log.info("not expired", table=self.handle.name, error=type(error).__name__)
            self._suspect = pointer.file
            self.handle.forget()
            return
        log.info("expired", table=self.handle.name, snapshots=len(going), left=len(after.metadata.snapshots))
        if self._suspect not in (None, pointer.file, before.file if before else None):
            self._discard(self._suspect)
        self._suspect = None
        if before is not None and before.file != pointer.file and pointer.records > len(going):
            self._discard(before.file)
        with translated(f"reading the manifest lists of {self.handle.name}", table.location()):
            for path in self._references.garbage(going, after.metadata, table.io):
                self._discard(path)
        for path in unreferenced(after.metadata, going, after.metadata.snapshots):
            self._discard(path)

    def expirable(self, table: Table, most: int | None = None) -> list[Snapshot]:
        """What `expire` would let go."""
        return doomed(table.metadata, self.keep_ms, self.keep_most if most is None else most)

    def _archive(self, table: Table, going: list[Snapshot]) -> Pointer:
        children = {s.parent_snapshot_id: s.snapshot_id for s in ancestry(table.metadata) if s.parent_snapshot_id}
        records = [Archived.of(snapshot, children) for snapshot in going]
        with translated(f"archiving the history of {self.handle.name}", table.location()):
            return append(table.io, table.metadata, self.pipeline, records)

    def _discard(self, path: str | None) -> None:
        if path is not None:
            self._litter.append((self.clock.monotonic() + GRACE_S, path))

    def _purge(self, now: float) -> None:
        """Delete what has been litter for long enough, a bounded number of files a call."""
        for path in self.handle.superseded:
            self._discard(path)
        self.handle.superseded.clear()
        if not self._litter or self._litter[0][0] > now:
            return
        going: list[str] = []
        while self._litter and self._litter[0][0] <= now and len(going) < _DELETES_A_CALL:
            going.append(self._litter.popleft()[1])
        # Litter is not worth an error: orphan removal finds what stays.
        for path, error in delete_files(self.handle.known().io, going).items():
            log.warning("left behind", table=self.handle.name, file=path, error=type(error).__name__)


def _asserts(table: Table) -> tuple[AssertTableUUID, AssertRefSnapshotId]:
    head = head_of(table.metadata)
    on_head = AssertRefSnapshotId.model_validate(
        {"ref": MAIN_BRANCH, "snapshot-id": head.snapshot_id if head is not None else None}
    )
    return AssertTableUUID(uuid=table.metadata.table_uuid), on_head


def _removal(going: list[Snapshot], pipeline: str, pointer: Pointer) -> tuple[TableUpdate, ...]:
    # One update a snapshot: older REST servers take no more than one id in each.
    removals = [RemoveSnapshotsUpdate.model_validate({"snapshot-ids": [s.snapshot_id]}) for s in going]
    return (*removals, SetPropertiesUpdate(updates={property_of(pipeline): pointer.text()}))
