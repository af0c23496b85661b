"""Rewinds a table, and with it the stream, in one commit (PROTOCOL B1).

The commit is a positions-only snapshot whose parent is the snapshot to go back to: it lists that snapshot's files and
carries the entries that every pipeline had there. `main` never names an old snapshot again, so no commit that was built
on one can land late; and whoever still writes finds lower positions and reads on from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation, Snapshot, Summary, update_snapshot_summaries
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertCurrentSchemaId,
    AssertDefaultSpecId,
    AssertRefSnapshotId,
    AssertTableUUID,
    RemovePropertiesUpdate,
    SetPropertiesUpdate,
    TableUpdate,
)

from lakeward.errors import ConfigurationError, Directive, LakewardError, LedgerError, OperatorError, UndecidedError
from lakeward.ledger import LedgerEntry, encode, key_of
from lakeward.outcomes import CommitReceipt
from lakeward.sinks.iceberg.attempt import Attempt, set_main, time_of_next, totals_of
from lakeward.sinks.iceberg.commit import FIRST_WAIT_S, Desk
from lakeward.sinks.iceberg.failures import explained, translated
from lakeward.sinks.iceberg.find import ancestry, entry_in, find, head_of, mirror, mirrored, pipelines_of
from lakeward.sinks.iceberg.manifests import Paper, write_list

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

UNDOES = "lakeward-undoes"
"""The summary key of a rollback's snapshot; its value is the head that was undone."""
_LOOKS = 8
"""How often an unknown outcome is looked for before the command gives up; waits double, some 13 seconds in all."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """What a rollback of ``table`` from ``head`` to ``target`` does; nothing is changed by knowing it.

    ``entry`` is the pipeline's at the target, ``before`` its entry at the head (None where that cannot be read).
    ``others`` maps each other pipeline to its entry at the target; None: it had written nothing yet, and begins again
    where its `start` says. ``undone`` are the snapshots that lead to the head and not to the target, newest first;
    ``restored`` those that lead to the target only, where that was rewound before.
    """

    table: Table
    pipeline: str
    head: Snapshot
    target: Snapshot
    entry: LedgerEntry
    before: LedgerEntry | None
    others: Mapping[str, LedgerEntry | None]
    undone: tuple[int, ...]
    restored: tuple[int, ...]


def plan(table: Table, pipeline: str, snapshot_id: int) -> Rewind:
    """What going back to ``snapshot_id`` means.

    Raises:
        ConfigurationError: there is no such snapshot any more, or it is the head.
        LedgerError: no position of the pipeline is proved there by the snapshots alone (F1), or not readable.
    """
    metadata, name = table.metadata, ".".join(table.name())
    head, target = head_of(metadata), metadata.snapshot_by_id(snapshot_id)
    if head is None or target is None:
        raise ConfigurationError(
            f"snapshot {snapshot_id} is not among those that {name} has kept", "`lakeward history` lists them."
        )
    if target.snapshot_id == head.snapshot_id:
        raise ConfigurationError(
            f"snapshot {snapshot_id} is what {name} holds now: there is nothing to undo",
            "`lakeward history` lists those before it.",
        )
    then = _as_of(metadata, target)
    names = pipelines_of(metadata) | pipelines_of(then) | {pipeline}
    found = {name: find(then, name, lambda _: None).entry for name in sorted(names)}
    entry = found.pop(pipeline)
    if entry is None:
        raise LedgerError(
            f"nothing proves where pipeline {pipeline!r} stood at snapshot {snapshot_id} of {name}",
            "Choose one at or after the pipeline's first commit: `lakeward history` shows which carry positions.",
        )
    now, old = [s.snapshot_id for s in ancestry(metadata)], [s.snapshot_id for s in ancestry(then)]
    return Rewind(
        table=table,
        pipeline=pipeline,
        head=head,
        target=target,
        entry=entry,
        before=_readable(metadata, pipeline),
        others=found,
        undone=tuple(s for s in now if s not in set(old)),
        restored=tuple(s for s in old if s not in set(now)),
    )


def roll_back(desk: Desk, rewind: Rewind, commit_id: str) -> CommitReceipt:
    """Make ``rewind`` true in one commit that asserts its head.

    Raises:
        OperatorError: the table has moved on since; nothing was changed. UndecidedError: it was sent, and the catalog
            stays away: look again later. UnreachableError, PermissionDeniedError: nothing was sent.
    """
    began = desk.clock.monotonic()
    with translated(f"writing the manifest list of {desk.handle.name}", rewind.table.location()):
        attempt = _build(desk, rewind, commit_id)
    failure: Exception | None = None
    for number in range(1, _LOOKS + 1):
        try:
            # The same ids and asserts each time: one of them wins at most (C4).
            desk.handle.send(rewind.table, attempt.requirements, attempt.updates)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the table decides what happened (C3)
            log.info("looking", table=desk.handle.name, commit=commit_id, error=type(error).__name__)
            failure = error
            if not _landed(desk, attempt, error):
                desk.clock.wait(desk.giving_up, FIRST_WAIT_S * 2**number * desk.chance.uniform(0.5, 1.0))
                continue
        desk.manifests.landed(attempt.snapshot.snapshot_id, attempt.manifests)
        return CommitReceipt(
            table=desk.handle.name,
            commit=commit_id,
            snapshot_id=attempt.snapshot.snapshot_id,
            sequence_number=attempt.snapshot.sequence_number or 0,
            rows=0,
            files=0,
            bytes=0,
            before=totals_of(rewind.head),
            after=totals_of(attempt.snapshot),
            duration_ms=round((desk.clock.monotonic() - began) * 1000),
            attempts=number,
            entry=attempt.entry,
        )
    raise UndecidedError(
        f"the rollback of {desk.handle.name} was sent, and nothing could tell yet whether it landed",
        f"Look with `lakeward history` whether snapshot {attempt.snapshot.snapshot_id} is there; if not, try again.",
    ) from failure


def _landed(desk: Desk, attempt: Attempt, error: Exception) -> bool:
    """Whether the table shows the commit; False while that is unknown, and it may be sent again.

    Raises:
        OperatorError: it is not there and never will be, or has been undone already. LakewardError: refused for good.
    """
    try:
        table = desk.handle.look()
    except LakewardError as away:
        if away.directive is not Directive.RETRY:
            raise
        return False
    snapshot_id = attempt.snapshot.snapshot_id
    if any(snapshot.snapshot_id == snapshot_id for snapshot in ancestry(table.metadata)):
        return True
    if table.metadata.snapshot_by_id(snapshot_id) is not None:
        raise OperatorError(
            f"{desk.handle.name} was rolled back, and somebody else has moved it since", "See `lakeward history`."
        )
    if not attempt.stands(table.metadata):
        _sweep(table, attempt, desk.handle.name)
        raise OperatorError(
            f"{desk.handle.name} has moved on since it was looked at: nothing was rolled back",
            "Look at what would be undone now, and try again. A busy table stands still while its writers are stopped.",
        )
    told = explained(error, f"rolling back {desk.handle.name}", desk.handle.address)
    if not isinstance(error, CommitFailedException) and told.directive is not Directive.RETRY:
        raise told from error
    return False


def _sweep(table: Table, attempt: Attempt, name: str) -> None:
    """Delete the manifest list of an attempt that is provably dead; its manifests are the target's own (I6)."""
    if not attempt.is_dead(table.metadata):
        return
    try:
        for path in attempt.written:
            table.io.delete(path)
    except Exception as error:  # noqa: BLE001 -- litter is not worth an error: orphan removal finds it
        log.warning("left behind", table=name, error=type(error).__name__)


def _build(desk: Desk, rewind: Rewind, commit_id: str) -> Attempt:
    table, target = rewind.table, rewind.target
    metadata, places = table.metadata, table.location_provider()
    snapshot_id, sequence_number = metadata.new_snapshot_id(), metadata.next_sequence_number()
    stem = places.new_metadata_location(f"{commit_id}-{snapshot_id}")
    paper = Paper(table.io, metadata, snapshot_id, sequence_number, stem)
    manifests = desk.manifests.of(target, table.io)
    list_path = places.new_metadata_location(f"snap-{snapshot_id}-0-{commit_id}.avro")
    write_list(paper, manifests, target.snapshot_id, list_path)
    entries = {
        name: entry.rolled_back(commit_id, _highest(metadata, name))
        for name, entry in {**rewind.others, rewind.pipeline: rewind.entry}.items()
        if entry is not None
    }
    ledger = {key_of(name): encode(entry) for name, entry in entries.items()}
    # "append" without a file: the one operation that every reader, also an incremental one, can pass over.
    summary = Summary(Operation.APPEND, **{UNDOES: str(rewind.head.snapshot_id)}, **ledger)
    snapshot = Snapshot.model_validate(
        {
            "snapshot-id": snapshot_id,
            "parent-snapshot-id": target.snapshot_id,
            "sequence-number": sequence_number,
            # Where somebody's slow clock made the head, what is gone back to is younger than that.
            "timestamp-ms": max(time_of_next(metadata, desk.clock.now_ms()), target.timestamp_ms),
            "manifest-list": list_path,
            "summary": update_snapshot_summaries(summary, previous_summary=target.summary),
            "schema-id": metadata.current_schema_id,
        }
    )
    updates: list[TableUpdate] = [AddSnapshotUpdate(snapshot=snapshot), set_main(metadata, snapshot_id)]
    updates.append(SetPropertiesUpdate(updates={key_of(n): mirror(e, snapshot_id) for n, e in entries.items()}))
    # The property of a pipeline that had written nothing would tell of rows that are gone (F2).
    gone = [key for name in rewind.others if (key := key_of(name)) in metadata.properties and name not in entries]
    if gone:
        updates.append(RemovePropertiesUpdate(removals=gone))
    return Attempt(
        snapshot=snapshot,
        head=rewind.head.snapshot_id,
        requirements=(
            AssertTableUUID(uuid=metadata.table_uuid),
            AssertRefSnapshotId.model_validate({"ref": MAIN_BRANCH, "snapshot-id": rewind.head.snapshot_id}),
            AssertCurrentSchemaId.model_validate({"current-schema-id": metadata.current_schema_id}),
            AssertDefaultSpecId.model_validate({"default-spec-id": metadata.default_spec_id}),
        ),
        updates=tuple(updates),
        manifests=manifests,
        written=tuple(paper.written),
        entry=entries[rewind.pipeline],
        schema_id=metadata.current_schema_id,
        spec_id=metadata.default_spec_id,
    )


def _as_of(metadata: TableMetadata, target: Snapshot) -> TableMetadata:
    """``metadata`` as if ``target`` were the head, without the properties: they speak of another head."""
    main = metadata.refs[MAIN_BRANCH].model_copy(update={"snapshot_id": target.snapshot_id})
    return metadata.model_copy(update={"refs": {**metadata.refs, MAIN_BRANCH: main}, "properties": {}})


def _readable(metadata: TableMetadata, pipeline: str) -> LedgerEntry | None:
    """The entry at the head; a rollback is the way out of one that cannot be read or proved."""
    try:
        return find(metadata, pipeline, lambda _: None).entry
    except LedgerError:
        return None


def _highest(metadata: TableMetadata, pipeline: str) -> int:
    """The highest number that the table shows of ``pipeline`` anywhere (F6)."""
    numbers = [0]
    with suppress(LedgerError):  # what cannot be read may be the reason for rolling back
        held = mirrored(metadata, pipeline)
        numbers.append(held.entry.number if held is not None else 0)
    for snapshot in metadata.snapshots:
        with suppress(LedgerError):
            entry = entry_in(snapshot, pipeline)
            numbers.append(entry.number if entry is not None else 0)
    return max(numbers)
