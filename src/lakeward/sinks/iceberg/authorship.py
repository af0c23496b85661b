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
from lakeward.sinks.iceberg.replacement import COMPACTION
from lakeward.sinks.iceberg.rollback import UNDOES

Entries = Mapping[str, LedgerEntry]
"""Each pipeline's entry, by name."""

_APPS = ("app-id", "spark.app.id")


class Kind(StrEnum):
    """What a commit came from."""

    STREAM = "stream"
    LIBRARY = "library"
    ROLLBACK = "rollback"
    SEEK = "seek"
    REPLAY = "replay"
    """Dead letters that came back as rows."""
    COMPACTION = "compaction"
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
    """Say of each commit who made it and what it moved; ``records`` as `history` returns them, oldest first."""
    stands: dict[int | None, Entries] = {}
    done = []
    for record in records:
        own = _entries(record)
        before = stands.get(record.parent_id, {})
        stands[record.snapshot_id] = {**before, **own}  # a foreign commit carries none: what was said still stands
        undone = record.summary.get(UNDOES)
        if COMPACTION in record.summary:
            done.append(Deed(record, Kind.COMPACTION, None, ()))
        elif undone is None:
            done.append(_deed(record, before, own))
        else:
            moves = _difference(stands.get(int(undone), {}).get(pipeline), own.get(pipeline))
            done.append(Deed(record, Kind.ROLLBACK, None, moves))
    return done


def _deed(record: Record, before: Entries, own: Entries) -> Deed:
    # The author's entry has a claim, or at least is new; those of the others are carried along (PROTOCOL I5).
    for name, entry in sorted(own.items(), key=lambda item: not item[1].claim):
        held = before.get(name)
        if entry.claim or held is None or held.commit != entry.commit:
            return Deed(record, _kind(held, entry), name, _claimed(held, entry))
    engine = " ".join(filter(None, (record.summary.get("engine-name"), record.summary.get("engine-version"))))
    app = next((record.summary[key] for key in _APPS if key in record.summary), None)
    return Deed(record, Kind.FOREIGN, engine or app, ())


def _kind(before: LedgerEntry | None, after: LedgerEntry) -> Kind:
    if before is not None and after.letters.replays > before.letters.replays:
        return Kind.REPLAY
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


def _difference(before: LedgerEntry | None, after: LedgerEntry | None) -> tuple[Move, ...]:
    if after is None:
        return ()
    known = before.positions if before is not None else {}
    moves = ((p, known[p].next if p in known else None, at.next) for p, at in sorted(after.positions.items()))
    return tuple(Move(*move) for move in moves if move[1] != move[2])


def _entries(record: Record) -> Entries:
    """Every pipeline's entry in a commit; what cannot be read is left out: here it is only told about."""
    found: dict[str, LedgerEntry] = {}
    for key, text in record.summary.items():
        if key.startswith(KEY_PREFIX):
            try:
                found[key.removeprefix(KEY_PREFIX)] = decode(text, f"snapshot {record.snapshot_id}")
            except LedgerError:
                continue
    return found
