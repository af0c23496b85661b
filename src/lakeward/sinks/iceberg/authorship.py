"""Who made a commit, and where it moved which positions: read from the summaries of the commit and of its parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from lakeward.errors import LedgerError
from lakeward.ledger import KEY_PREFIX, LedgerEntry, decode
from lakeward.positions import Partition
from lakeward.sinks.iceberg.history import Record
from lakeward.sinks.iceberg.rollback import UNDOES

_APPS = ("app-id", "spark.app.id")


class Kind(StrEnum):
    """What a commit came from."""

    STREAM = "stream"
    LIBRARY = "library"
    ROLLBACK = "rollback"
    SEEK = "seek"
    FOREIGN = "foreign"


class Move(NamedTuple):
    """A partition's position before and after a commit; ``start`` is None where the table did not know it."""

    partition: Partition
    start: int | None
    end: int


@dataclass(frozen=True, slots=True)
class Deed:
    """One commit. ``name``: the pipeline, or what a foreign engine calls itself; None where nothing tells."""

    record: Record
    kind: Kind
    name: str | None
    moves: tuple[Move, ...]


def deeds(records: Sequence[Record], pipeline: str) -> list[Deed]:
    """Say of each commit who made it and what it moved; ``records`` as `history` returns them."""
    by_id = {record.snapshot_id: record for record in records}
    return [_deed(record, by_id, pipeline) for record in records]


def _deed(record: Record, by_id: Mapping[int, Record], pipeline: str) -> Deed:
    entries = _entries(record)
    undone = record.summary.get(UNDOES)
    if undone is not None:
        head = by_id.get(int(undone))
        before = _entries(head).get(pipeline) if head is not None else None
        own = entries.get(pipeline)
        return Deed(record, Kind.ROLLBACK, None, _difference(before, own) if own is not None else ())
    parent = by_id.get(record.parent_id) if record.parent_id is not None else None
    known = _entries(parent) if parent is not None else {}
    for name, entry in entries.items():
        held = known.get(name)
        if entry.claim or held is None or held.commit != entry.commit:
            return Deed(record, _kind(held, entry), name, _claimed(held, entry))
    engine = " ".join(filter(None, (record.summary.get("engine-name"), record.summary.get("engine-version"))))
    app = next((record.summary[key] for key in _APPS if key in record.summary), None)
    return Deed(record, Kind.FOREIGN, engine or app, ())


def _kind(before: LedgerEntry | None, after: LedgerEntry) -> Kind:
    if not after.claim and (before.writers if before is not None else {}) != after.writers:
        return Kind.LIBRARY
    # A loss by `on_lost_positions` may come with records; one that an operator asked for comes alone.
    moved = before is not None and len(after.accepted) > len(before.accepted) and before.account == after.account
    return Kind.SEEK if moved else Kind.STREAM


def _claimed(before: LedgerEntry | None, after: LedgerEntry) -> tuple[Move, ...]:
    known = before.positions if before is not None else {}
    given_up = {loss.partition: loss for loss in after.accepted[len(before.accepted) if before is not None else 0 :]}
    moves = []
    for partition, span in sorted(after.claim.items()):
        start = given_up[partition].start if partition in given_up else span.start
        first = before is not None and partition not in known and span.start == span.end
        moves.append(Move(partition, None if first else start, span.end))
    return tuple(moves)


def _difference(before: LedgerEntry | None, after: LedgerEntry) -> tuple[Move, ...]:
    known = before.positions if before is not None else {}
    moves = ((p, known[p].next if p in known else None, at.next) for p, at in sorted(after.positions.items()))
    return tuple(Move(*move) for move in moves if move[1] != move[2])


def _entries(record: Record) -> dict[str, LedgerEntry]:
    """Every pipeline's entry in a commit; what cannot be read is left out: here it is only told about."""
    found: dict[str, LedgerEntry] = {}
    for key, text in record.summary.items():
        if key.startswith(KEY_PREFIX):
            try:
                found[key.removeprefix(KEY_PREFIX)] = decode(text, f"snapshot {record.snapshot_id}")
            except LedgerError:
                continue
    return found
