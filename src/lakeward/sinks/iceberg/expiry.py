"""Which snapshots may go (PROTOCOL M2). Pure.

Tiers, by age against the head's own time: every snapshot of the last three minutes (at most 24 of them, so that
commits stay as fast at any flush interval), then the last of each minute for an hour, of each hour for a day, of each
day up to ``keep``. A bucket's last stays the last, so the tiers nest and a second run removes nothing. The newest ten
stay at any age: one commit of a clock that ran ahead must not take every way back with it.
"""

from __future__ import annotations

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot

from lakeward.ledger import KEY_PREFIX
from lakeward.sinks.iceberg.find import ancestry, entry_in, head_of, pipelines_of

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
RECENT_MS, RECENT_COUNT = 3 * MINUTE_MS, 24
ALWAYS_COUNT = 10


def doomed(metadata: TableMetadata, keep_ms: int, most: int | None = None) -> list[Snapshot]:
    """The snapshots that no tier, no ref and no proof needs, oldest first. The same head gives the same answer.

    ``most``: at that many snapshots even those go that only a tier needs, the oldest first.
    """
    head = head_of(metadata)
    if head is None:
        return []
    safe = _referenced(metadata) | _proofs(metadata)
    own = _mainline(metadata)
    going: list[Snapshot] = []
    taken: set[tuple[int, int]] = set()
    newest_first = sorted(metadata.snapshots, key=lambda s: (s.timestamp_ms, s.sequence_number or 0), reverse=True)
    for rank, snapshot in enumerate(newest_first):
        age = head.timestamp_ms - snapshot.timestamp_ms
        if snapshot.snapshot_id not in own:
            # Somebody's staged or rewound work: nobody can say how much of it is wanted, so all of it for `keep`.
            stays = age <= keep_ms
        else:
            buckets = {(width, snapshot.timestamp_ms // width) for width in (MINUTE_MS, HOUR_MS, DAY_MS)}
            width = _width(age, rank, keep_ms)
            counted_out = most is not None and rank >= most
            stays = (
                not counted_out
                and width is not None
                and (width == 0 or (width, snapshot.timestamp_ms // width) not in taken)
            )
            taken |= buckets
        if not stays and snapshot.snapshot_id not in safe:
            going.append(snapshot)
    return going[::-1]


def _width(age: int, rank: int, keep_ms: int) -> int | None:
    """How far apart snapshots of this age are kept: 0 for all of them, None for none."""
    if rank < ALWAYS_COUNT or (age <= min(RECENT_MS, keep_ms) and rank < RECENT_COUNT):
        return 0
    if age > keep_ms:
        return None
    return MINUTE_MS if age <= HOUR_MS else HOUR_MS if age <= DAY_MS else DAY_MS


def _referenced(metadata: TableMetadata) -> set[int]:
    """What refs name, and other branches' own history: how much of that to keep is their owners' business."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    main = {snapshot.snapshot_id for snapshot in ancestry(metadata)}
    safe: set[int] = set()
    for name, ref in metadata.refs.items():
        safe.add(ref.snapshot_id)
        at = by_id.get(ref.snapshot_id)
        while name != MAIN_BRANCH and at is not None and at.snapshot_id not in main:
            safe.add(at.snapshot_id)
            at = by_id.get(at.parent_snapshot_id) if at.parent_snapshot_id is not None else None
    return safe


def _proofs(metadata: TableMetadata) -> set[int]:
    """The unbroken chain from the head to every pipeline's newest entry: `find` walks it (F1)."""
    missing, uuid = pipelines_of(metadata), str(metadata.table_uuid)
    safe: set[int] = set()
    for snapshot in ancestry(metadata):
        if not missing:
            break
        safe.add(snapshot.snapshot_id)
        found = {name for name in missing if (entry := entry_in(snapshot, name)) is not None and entry.table == uuid}
        missing -= found
    return safe


def _mainline(metadata: TableMetadata) -> set[int]:
    """Snapshots that are, or were, `main`'s own: linked to the head, once its head, or written by lakeward.

    Links alone do not tell: earlier expiry breaks them.
    """
    own = {snapshot.snapshot_id for snapshot in ancestry(metadata)}
    own |= {logged.snapshot_id for logged in metadata.snapshot_log}
    for snapshot in metadata.snapshots:
        keys = snapshot.summary.additional_properties if snapshot.summary else {}
        if any(key.startswith(KEY_PREFIX) for key in keys):
            own.add(snapshot.snapshot_id)
    return own
