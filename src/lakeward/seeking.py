"""Moves positions because a person says so; pure. What is skipped, or read again, is written into the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lakeward.errors import ConfigurationError, PositionError
from lakeward.ledger import LedgerEntry, Loss
from lakeward.outcomes import Batch
from lakeward.positions import Account, Partition, Position, Span
from lakeward.starts import Clockwork, Edge, Holdings


@dataclass(frozen=True, slots=True)
class Shift:
    """One partition's position before (None: the table does not know it) and after."""

    partition: Partition
    start: int | None
    end: int


def destinations(entry: LedgerEntry, to: Edge | int, holdings: Holdings, source: Clockwork) -> Mapping[Partition, int]:
    """Where ``to`` (an edge, or milliseconds since the epoch) lies in each partition that the table has read."""
    there = {partition: holdings.bounds[partition] for partition in entry.positions if partition in holdings.bounds}
    if isinstance(to, int):
        return source.offsets_at(there, to)
    return {partition: bounds.low if to is Edge.EARLIEST else bounds.end for partition, bounds in there.items()}


def shifts(entry: LedgerEntry, to: Mapping[Partition, int], holdings: Holdings) -> list[Shift]:
    """What moving each partition to its offset in ``to`` changes; those that stand there already are left out.

    Raises:
        ConfigurationError: a partition or an offset that the source does not have.
        PositionError: a topic was created again, and not all of its partitions are named.
    """
    found = []
    for partition, offset in sorted(to.items()):
        bounds = holdings.bounds.get(partition)
        if bounds is None:
            raise ConfigurationError(f"there is no {partition} in Kafka")
        if not bounds.low <= offset <= bounds.end:
            raise ConfigurationError(
                f"{partition} has no offset {offset}", f"It holds {bounds.low} to {bounds.end}, the end included."
            )
        known = entry.positions.get(partition)
        if known is None or known.next != offset or _anew(partition.topic, entry, holdings):
            found.append(Shift(partition, known.next if known is not None else None, offset))
    _require_whole_topics(found, entry, holdings)
    anew = {shift.partition.topic for shift in found if _anew(shift.partition.topic, entry, holdings)}
    gone = [p for p in sorted(entry.positions) if p.topic in anew and p not in holdings.bounds]
    return found + [Shift(p, entry.positions[p].next, 0) for p in gone]


def seek(entry: LedgerEntry, moved: list[Shift], holdings: Holdings, commit_id: str) -> Batch:
    """The positions-only batch that makes ``moved`` true on a table at ``entry``."""
    topics = {shift.partition.topic for shift in moved}
    losses = []
    for shift in moved:
        # A new partition of a topic would begin at its beginning (PROTOCOL S2).
        start = shift.start if shift.start is not None else holdings.bounds[shift.partition].low
        if start != shift.end or _anew(shift.partition.topic, entry, holdings):
            losses.append(Loss(shift.partition, start, shift.end, entry.number))
    return Batch(
        id=commit_id,
        parts=(),
        claim={shift.partition: Span(shift.end, shift.end) for shift in moved},
        upto={shift.partition: Position(shift.end) for shift in moved},
        sources={topic: holdings.identities.get(topic) for topic in topics},
        account=Account(),
        accepted=tuple(losses),
    )


def _anew(topic: str, entry: LedgerEntry, holdings: Holdings) -> bool:
    before, now = entry.sources.get(topic), holdings.identities.get(topic)
    return before is not None and now is not None and before != now


def _require_whole_topics(found: list[Shift], entry: LedgerEntry, holdings: Holdings) -> None:
    """A topic's id stands for all of its partitions: none may keep an offset of the topic that was deleted."""
    named = {shift.partition for shift in found}
    for topic in sorted({partition.topic for partition in named}):
        left = [p for p in entry.positions if p.topic == topic and p in holdings.bounds and p not in named]
        if left and _anew(topic, entry, holdings):
            raise PositionError(
                f"topic {topic} was deleted and created again, and {left[0]} is not named",
                "Name all of its partitions, or use --to.",
            )
