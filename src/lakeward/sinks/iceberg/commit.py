"""The commit of one batch: attempt, and look whenever the answer is not a parsed success (PROTOCOL, section 5).

::

    load ─► judge ─► fit ─► build ─► send ──parsed success──────────────► receipt
      ▲       │covered, refused        ▲ │anything else
      │       ▼                        │ ▼
      │    Refused        still stands │look ── on the ancestry ────────► receipt
      └────────────── head moved ──────┴────── retained beside it ──────► Refused (rewound)
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from lakeward.clock import Clock
from lakeward.errors import Directive, LakewardError, LedgerError, UndecidedError, UnfitRowsError
from lakeward.ledger import LedgerEntry, Standing, next_entry, outdated, refuse_other_owner
from lakeward.outcomes import Batch, CommitReceipt, Outcome, Refused, Staged, Totals
from lakeward.sinks.iceberg import totals
from lakeward.sinks.iceberg.attempt import Attempt, Contents, Entries, build, time_of_next, totals_of
from lakeward.sinks.iceberg.evolution import Growth, Shape
from lakeward.sinks.iceberg.failures import explained, translated
from lakeward.sinks.iceberg.find import (
    Finding,
    ancestry,
    entry_in,
    find,
    head_of,
    pipelines_of,
)
from lakeward.sinks.iceberg.fitting import shape_of
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sinks.iceberg.manifests import Amendment, Manifests
from lakeward.sinks.iceberg.upkeep import Upkeep
from lakeward.sinks.iceberg.upsert.delta import Delta

T = TypeVar("T")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 10.0
LONGEST_CONFLICT_S = 1.0


@dataclass(frozen=True, slots=True)
class StagedFiles:
    """What `Staged.files` holds here: data files and what they are bound to (C1). ``began``: monotonic seconds."""

    files: list[DataFile]
    uuid: str
    schema_id: int
    spec_id: int
    began: float
    shape: Shape = field(default_factory=Shape)
    """The columns as they were, names included: by them the rows have found theirs."""
    growth: Growth | None = None
    """What the table becomes in the same commit."""
    unfit: bool = False
    """The rows did not fit the table as it was last seen: there are no files."""
    delta: Delta | None = None
    """What becomes of the rows that the keys of an upsert held until now; None where rows are only added."""

    def fit(self, table: Table) -> bool:
        """Whether the files can be committed to ``table`` as it is now."""
        if self.unfit or (self.delta is not None and not self.delta.stands(table)):
            return False
        if not self.files:
            return True
        metadata = table.metadata
        same = (self.schema_id, self.spec_id) == (metadata.current_schema_id, metadata.default_spec_id)
        return same and shape_of(metadata) == self.shape


@dataclass(frozen=True, slots=True)
class Desk:
    """What every commit of one target works with. ``giving_up`` ends all waiting."""

    pipeline: str
    handle: Handle
    manifests: Manifests
    clock: Clock
    chance: random.Random
    giving_up: threading.Event
    upkeep: Upkeep


@dataclass(slots=True)
class Commit:
    """One batch's way into the table; used once.

    ``restage`` writes the batch's files again for a table whose schema or spec changed; ``discard`` deletes data
    files that provably nothing refers to.
    """

    desk: Desk
    staged: Staged
    restage: Callable[[Batch, Table, int], Staged]
    discard: Callable[[Table, list[DataFile]], None]
    _sent: list[tuple[Attempt, Staged]] = field(default_factory=list)
    _generations: list[Staged] = field(default_factory=list)
    _sends: int = 0
    _conflicts: int = 0
    _attempt_s: float = FIRST_WAIT_S
    _away_s: float = FIRST_WAIT_S
    """How long the store is waited for, should it not serve us again."""

    @property
    def batch(self) -> Batch:
        """What is to be committed."""
        return self.staged.batch

    def run(self) -> Outcome:
        """Attempt, look and attempt again until the outcome is known.

        Raises:
            UndecidedError: given up while unknown. Other `LakewardError`: nothing was committed, or only a person can
                tell; the next start asks the table.
        """
        desk = self.desk
        # Fresh, although the asserts would make a stale head harmless: what somebody has set on `main` since is kept.
        table = self._patiently(desk.handle.look, "loading")
        while True:
            try:
                seen = self._read(table)
            except LakewardError as error:
                table = self._loaded_again(error, "reading the ledger")
                continue
            settled = self._judge(table, seen)
            if settled is not None:
                self._sweep(table, settled)
                return settled
            settled = self._fit(table, seen[desk.pipeline].entry)
            if settled is not None:
                self._sweep(table, settled)
                return settled
            began = desk.clock.monotonic()
            try:
                attempt = self._build(table, seen)
            except LakewardError as error:
                table = self._loaded_again(error, "writing manifests")
                continue
            self._away_s = FIRST_WAIT_S
            answer = self._send(table, attempt)
            self._attempt_s = max(desk.clock.monotonic() - began, FIRST_WAIT_S)
            while not isinstance(answer, Table):
                table = self._patiently(desk.handle.look, "looking for the commit")
                if self._trace(table, None) is not None or not attempt.stands(table.metadata):
                    self._wait(answer, moved=True)
                    break
                self._stop_if_final(answer)
                # It may still land: the same ids and asserts again, so that one of the two wins (C4).
                self._wait(answer, moved=False)
                answer = self._send(table, attempt)
            else:
                desk.manifests.landed(attempt.snapshot.snapshot_id, attempt.manifests)
                desk.upkeep.committed(attempt.snapshot.snapshot_id, attempt.manifests)
                desk.handle.fed = True
                if self.staged.files.delta is not None:
                    self.staged.files.delta.landed(answer)
                receipt = self._receipt(attempt.snapshot, attempt.entry, totals_of(head_of(table.metadata)))
                self._sweep(answer, receipt)
                if self.staged.files.growth is not None and self.staged.files.growth.changes:
                    log.info("evolved", table=desk.handle.name, changes=list(self.staged.files.growth.changes))
                return receipt

    def _read(self, table: Table) -> Mapping[str, Finding]:
        """Every pipeline's entry at this head, ours included (I5)."""
        metadata, parent_of = table.metadata, self.desk.handle.parent_of(table)
        names = pipelines_of(metadata) | {self.desk.pipeline}
        return {
            name: find(metadata, name, parent_of, fed=self.desk.handle.fed and name == self.desk.pipeline)
            for name in sorted(names)
        }

    def _judge(self, table: Table, seen: Mapping[str, Finding]) -> Outcome | None:
        """The outcome that the table already decides; None where an attempt is to be made."""
        batch, entry = self.batch, seen[self.desk.pipeline].entry
        there = self._trace(table, entry)
        if isinstance(there, Refused):
            return Refused(entry, there.covered, there.reason)
        if there is not None:
            return self._receipt(there, entry_in(there, self.desk.pipeline) or entry, None)
        if entry is not None and entry.commit == batch.id:  # only the property still shows it (F2)
            head = head_of(table.metadata)
            if head is not None:
                return self._receipt(head, entry, None)
        if entry is None:
            others = {name: found.entry for name, found in seen.items() if found.entry is not None}
            refuse_other_owner(others, batch, self.desk.pipeline)
        if outdated(entry, batch, seen[self.desk.pipeline].highest):
            return Refused(entry, covered=False, reason="letters were brought back, or rows rolled back, meanwhile")
        standing = Standing.of(batch.claim, entry, batch.accepted, batch.sources, batch.known)
        if standing is Standing.EXTENDS:
            return None
        covered = standing is Standing.COVERED
        return Refused(entry, covered, "already in the table" if covered else "the table's positions have moved")

    def _trace(self, table: Table, entry: LedgerEntry | None) -> Snapshot | Refused | None:
        """Where this batch is in ``table``: the oldest snapshot on the ancestry that has it; beside it; nowhere."""
        if not self._sent and not (entry is not None and self._appended(entry)):
            return None
        found: Snapshot | None = None
        for snapshot in ancestry(table.metadata):
            held = entry_in(snapshot, self.desk.pipeline)
            if held is None or held.table != str(table.metadata.table_uuid):
                continue
            if held.commit == self.batch.id or self._appended(held):
                found = snapshot
        if found is not None:
            return found
        retained = {snapshot.snapshot_id for snapshot in table.metadata.snapshots}
        if any(attempt.snapshot.snapshot_id in retained for attempt, _ in self._sent):
            return Refused(None, covered=False, reason="committed, and then the table was rewound")
        return None

    def _appended(self, entry: LedgerEntry) -> bool:
        """Whether ``entry`` knows this library append, whoever wrote it (C9)."""
        if self.batch.writer is None:
            return False
        handle, number = self.batch.writer
        return handle in entry.writers and entry.writers[handle].number >= number

    def _fit(self, table: Table, entry: LedgerEntry | None) -> Refused | None:
        """Stage again where the files are bound to another schema or spec (C1).

        Refused where the rows do not fit the table any more: they were admitted to it as it was before.
        """
        while not self.staged.files.fit(table):
            log.info("staging again", table=self.desk.handle.name, reason="the table has changed")
            self._generations.append(self.staged)
            restage = partial(self.restage, self.batch, table, len(self._generations))
            try:
                self.staged = self._patiently(restage, "staging again")
            except UnfitRowsError as error:
                return Refused(entry, covered=False, reason=f"the table has other columns now: {error.what}")
        return None

    def _build(self, table: Table, seen: Mapping[str, Finding]) -> Attempt:
        own = seen[self.desk.pipeline]
        time_ms = time_of_next(table.metadata, self.desk.clock.now_ms())
        entry = next_entry(
            own.entry,
            table=str(table.metadata.table_uuid),
            batch=self.batch,
            highest=own.highest,
            time_ms=time_ms,
        )
        others = {n: f.entry for n, f in seen.items() if f.entry is not None and n != self.desk.pipeline}
        with translated(f"writing manifests of {self.desk.handle.name}", table.location()):
            files, delta = self.staged.files, self.staged.files.delta
            change = Amendment(files.files) if delta is None else delta.against(table, self.batch.id)
            contents = Contents(change, files.growth, delta.index.key if delta is not None else ())
            return build(table, Entries(self.desk.pipeline, entry, others), contents, self.desk.manifests, time_ms)

    def _send(self, table: Table, attempt: Attempt) -> Table | Exception:
        """The table after a parsed success; otherwise what was raised, which proves nothing (C3)."""
        if self.desk.giving_up.is_set():
            raise self._undecided(None)
        if all(attempt is not sent for sent, _ in self._sent):
            self._sent.append((attempt, self.staged))
        self._sends += 1
        try:
            return self.desk.handle.send(table, attempt.requirements, attempt.updates)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the table decides what happened
            log.info("looking", table=self.desk.handle.name, commit=self.batch.id, error=type(error).__name__)
            return error

    def _stop_if_final(self, error: Exception) -> None:
        """Sending again cannot help where the catalog refuses us or the request; exit is safe (C8)."""
        if isinstance(error, CommitFailedException):
            return
        told = explained(error, f"committing to {self.desk.handle.name}", self.desk.handle.address)
        if told.directive is not Directive.RETRY:
            raise told from error

    def _wait(self, error: Exception, *, moved: bool) -> None:
        """A first conflict is rebased at once; later ones wait with jitter, shorter for older batches (C6).

        Never longer than an attempt takes, and less with each conflict: a writer that wins has its next batch to stage
        first, so one that keeps trying comes in between, and one that waits longer and longer would starve.
        """
        if isinstance(error, CommitFailedException):
            self._conflicts += 1
            longest = min(self._attempt_s, LONGEST_CONFLICT_S) * 2 / self._conflicts
            wait = 0.0 if self._conflicts == 1 else longest * self.desk.chance.random()
        else:
            longest = 0.0 if moved else min(FIRST_WAIT_S * 2 ** min(self._sends, 10), LONGEST_WAIT_S)
            wait = longest * self.desk.chance.uniform(0.5, 1.0)
        if wait:
            self.desk.clock.wait(self.desk.giving_up, wait)

    def _patiently(self, action: Callable[[], T], what: str) -> T:
        """Go on trying while servers are away: a batch whose outcome is unknown is kept, never guessed (C8)."""
        wait = FIRST_WAIT_S
        failure: LakewardError | None = None
        while True:
            if self.desk.giving_up.is_set():
                raise self._undecided(failure)
            try:
                return action()
            except LakewardError as error:
                if error.directive is not Directive.RETRY:
                    raise
                failure = error
            log.warning("trying again", what=what, table=self.desk.handle.name, error=failure.what)
            self.desk.clock.wait(self.desk.giving_up, wait * self.desk.chance.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST_WAIT_S)

    def _loaded_again(self, failure: LakewardError, what: str) -> Table:
        """Wait for the store, and load the table: what it was loaded as may have been expired since, files and all."""
        if failure.directive is not Directive.RETRY:
            raise failure
        if self.desk.giving_up.is_set():
            raise self._undecided(failure)
        log.warning("trying again", what=what, table=self.desk.handle.name, error=failure.what)
        self.desk.clock.wait(self.desk.giving_up, self._away_s * self.desk.chance.uniform(0.5, 1.0))
        self._away_s = min(self._away_s * 2, LONGEST_WAIT_S)
        if self.desk.giving_up.is_set():
            raise self._undecided(failure)
        return self._patiently(self.desk.handle.look, "loading")

    def _undecided(self, failure: LakewardError | None) -> LakewardError:
        if not self._sent and failure is not None:
            return failure
        state = "was sent, and nothing could tell yet whether it landed" if self._sent else "was not sent"
        return UndecidedError(
            f"the commit {self.batch.id} to {self.desk.handle.name} {state}",
            "Nothing is lost: the next start asks the table what it holds and continues there.",
        )

    def _receipt(self, snapshot: Snapshot, entry: LedgerEntry | None, before: Totals | None) -> CommitReceipt:
        """The receipt for the commit at ``snapshot``; it counts the files of the attempt that won."""
        won = (staged for attempt, staged in self._sent if attempt.snapshot.snapshot_id == snapshot.snapshot_id)
        staged = next(won, self.staged)
        after, files = totals_of(snapshot), len(staged.files.files)
        if entry is None:
            raise LedgerError(f"snapshot {snapshot.snapshot_id} carries no entry of {self.desk.pipeline!r}")
        return CommitReceipt(
            table=self.desk.handle.name,
            commit=self.batch.id,
            snapshot_id=snapshot.snapshot_id,
            sequence_number=snapshot.sequence_number or 0,
            rows=staged.rows,
            files=files,
            bytes=staged.bytes,
            before=before or totals.before(totals.told_by(snapshot)),
            after=after,
            duration_ms=round((self.desk.clock.monotonic() - staged.files.began) * 1000),
            attempts=max(self._sends, 1),
            entry=entry,
        )

    def _sweep(self, table: Table, outcome: Outcome) -> None:
        """Delete what provably nothing refers to; what cannot be proved is left to orphan removal (I6, C5)."""
        won = outcome.snapshot_id if isinstance(outcome, CommitReceipt) else None
        dead = [attempt for attempt, _ in self._sent if attempt.is_dead(table.metadata)]
        alive = [(a, staged) for a, staged in self._sent if not any(a is d for d in dead)]
        every = [*self._generations, self.staged]
        refused = isinstance(outcome, Refused) and not outcome.covered
        named = any(attempt.snapshot.snapshot_id == won for attempt, _ in alive)
        # Covered, or found by its id alone: which attempt it was cannot be told, so all files stay.
        keep = [staged for _, staged in alive] if refused or named else every
        try:
            for attempt in dead:
                for path in attempt.written:
                    table.io.delete(path)
            for staged in every:
                if all(staged is not kept for kept in keep):
                    self.discard(table, staged.files.files)
        except Exception as error:  # noqa: BLE001 -- the outcome is known; litter is not worth an error
            log.warning("left behind", table=self.desk.handle.name, error=type(error).__name__)
