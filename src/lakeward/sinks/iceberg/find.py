"""What a table's metadata proves about each pipeline's positions (PROTOCOL, section 3). Nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot

from lakeward.errors import LedgerError
from lakeward.ledger import KEY_PREFIX, LedgerEntry, decode, encode, key_of

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ARCHIVE_PREFIX = "lakeward-history."
"""Before a pipeline's name: the table property that tells where the entries of expired snapshots are kept."""
CHERRY_PICKED_FROM = "source-snapshot-id"
_REMEDY = (
    "Look at `lakeward history`, then roll the table back to a snapshot that carries an entry, "
    "or give the pipeline a new name to start anew."
)

ParentOf = Callable[[Snapshot], int | None]
"""Says which parent a snapshot's manifest list records: expiry may blank it in the metadata."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """An entry as a table property repeats it, and the snapshot whose commit wrote that property."""

    entry: LedgerEntry
    snapshot_id: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a table knows of one pipeline. ``depth``: snapshots above the one that speaks (0: the head; None: NONE).

    ``highest`` is the highest entry number seen anywhere: above ``entry.number`` the table was rewound (F6).
    """

    entry: LedgerEntry | None
    depth: int | None
    highest: int


def mirror(entry: LedgerEntry, snapshot_id: int) -> str:
    """The table property's text."""
    return json.dumps({"snapshot": snapshot_id, "entry": encode(entry)}, sort_keys=True, separators=(",", ":"))


def mirrored(metadata: TableMetadata, pipeline: str) -> Mirror | None:
    """The table property of ``pipeline``, read back.

    Raises:
        LedgerError: it does not parse (PROTOCOL I8).
    """
    text = metadata.properties.get(key_of(pipeline))
    if text is None:
        return None
    where = f"the property {key_of(pipeline)} of {metadata.location}"
    try:
        document = json.loads(text)
        snapshot_id, inner = int(document["snapshot"]), document["entry"]
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{where} cannot be read ({type(error).__name__})", "Something else wrote it. Remove the property by hand."
        ) from error
    return Mirror(decode(inner, where), snapshot_id)


def head_of(metadata: TableMetadata) -> Snapshot | None:
    """`main`'s snapshot; None where the table has none yet."""
    return metadata.snapshot_by_name(MAIN_BRANCH)


def ancestry(metadata: TableMetadata) -> Iterator[Snapshot]:
    """From the head along the parent links, never over a missing one (F1)."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    snapshot = head_of(metadata)
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = by_id.get(parent) if parent is not None else None


def pipelines_of(metadata: TableMetadata) -> set[str]:
    """Every pipeline that the head's ancestry or the properties name."""
    keys = {key for key in metadata.properties if key.startswith(KEY_PREFIX)}
    for snapshot in ancestry(metadata):
        if snapshot.summary is not None:
            own = {key for key in snapshot.summary.additional_properties if key.startswith(KEY_PREFIX)}
            keys |= own
            if own:  # our commits carry the entries of all pipelines (I5): nothing new is further down
                break
    return {key.removeprefix(KEY_PREFIX) for key in keys}


def entry_in(snapshot: Snapshot, pipeline: str) -> LedgerEntry | None:
    """The entry of ``pipeline`` that ``snapshot`` carries.

    Raises:
        LedgerError: it does not parse (PROTOCOL I8).
    """
    if snapshot.summary is None:
        return None
    text = snapshot.summary.additional_properties.get(key_of(pipeline))
    return decode(text, f"snapshot {snapshot.snapshot_id}") if text is not None else None


def find(metadata: TableMetadata, pipeline: str, parent_of: ParentOf, *, fed: bool = False) -> Finding:
    """What the table knows of ``pipeline``, by rules F1 to F3 and F6.

    ``parent_of`` is asked only where the walk ends without an entry. ``fed``: the caller has seen an entry of it in
    this table before.

    Raises:
        LedgerError: UNPROVEN, cherry-picked (F3), or an entry that cannot be read (I8).
    """
    uuid = str(metadata.table_uuid)
    held = mirrored(metadata, pipeline)
    fed = fed or _has_fed(metadata, pipeline)
    last: Snapshot | None = None
    strangers = 0
    for depth, snapshot in enumerate(ancestry(metadata)):
        last = snapshot
        entry = entry_in(snapshot, pipeline)
        if entry is not None and entry.table == uuid:
            return _found(entry, depth, held)
        strangers += entry is not None
        _refuse_cherry_pick(snapshot, metadata, pipeline)
    if held is None and not strangers and (not fed or _proves_none(metadata, parent_of)):
        return Finding(None, None, 0)
    if held is not None and held.entry.table == uuid and last is not None:
        parent = last.parent_snapshot_id if last.parent_snapshot_id is not None else parent_of(last)
        if parent == held.snapshot_id:
            return Finding(held.entry, sum(1 for _ in ancestry(metadata)), held.entry.number)
    raise LedgerError(
        f"{metadata.location} was fed by pipeline {pipeline!r}, but no snapshot proves what it holds now: "
        "it was replaced, copied, or rolled back and expired by something else",
        _REMEDY,
    )


def _has_fed(metadata: TableMetadata, pipeline: str) -> bool:
    """Whether anything beside the ancestry and the property tells that ``pipeline`` has written to this table."""
    if ARCHIVE_PREFIX + pipeline in metadata.properties:
        return True
    keys = (snapshot.summary.additional_properties for snapshot in metadata.snapshots if snapshot.summary)
    return any(key_of(pipeline) in key for key in keys)


def _proves_none(metadata: TableMetadata, parent_of: ParentOf) -> bool:
    """Whether the ancestry without an entry of ours is complete: to the first commit, or to one of another pipeline.

    That one would carry our entry, had there been one (I5).
    """
    last: Snapshot | None = None
    for last in ancestry(metadata):
        keys = last.summary.additional_properties if last.summary else {}
        if any(key.startswith(KEY_PREFIX) for key in keys):
            return True
    return last is None or (last.parent_snapshot_id is None and parent_of(last) is None)


def _found(entry: LedgerEntry, depth: int, held: Mirror | None) -> Finding:
    highest = max(entry.number, held.entry.number) if held is not None else entry.number
    if highest > entry.number:
        log.warning("rewound", table=entry.table, number=entry.number, was=highest)
    return Finding(entry, depth, highest)


def _refuse_cherry_pick(snapshot: Snapshot, metadata: TableMetadata, pipeline: str) -> None:
    """F3: its rows came from a commit of ours, but no position says so."""
    source_id = snapshot.summary.additional_properties.get(CHERRY_PICKED_FROM) if snapshot.summary else None
    if source_id is None:
        return
    source = metadata.snapshot_by_id(int(source_id))
    if source is not None and entry_in(source, pipeline) is None:
        return
    raise LedgerError(
        f"snapshot {snapshot.snapshot_id} of {metadata.location} was cherry-picked from snapshot {source_id}, "
        f"{'which has expired' if source is None else f'a commit of pipeline {pipeline!r}'}: "
        "its rows have no position, so they could be written twice",
        _REMEDY,
    )
