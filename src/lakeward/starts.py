"""Where each partition of a table continues (PROTOCOL, section 4): pure decisions over what table and source say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lakeward.errors import PositionError
from lakeward.ledger import LedgerEntry, Loss
from lakeward.positions import Bounds, Partition, Position


class Edge(StrEnum):
    """One end of what a topic holds."""

    EARLIEST = "earliest"
    LATEST = "latest"


class Lost(StrEnum):
    """What to do where the topic no longer holds what comes next."""

    STOP = "stop"
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class StartPolicy:
    """``start``: an edge, or milliseconds since the epoch; only where the table knows no position."""

    start: Edge | int = Edge.EARLIEST
    on_lost: Lost = Lost.STOP


class Clockwork(Protocol):
    """The part of a source that knows which offset belongs to a time."""

    def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> Mapping[Partition, int]:
        """See `lakeward.stages.Source.offsets_at`."""


@dataclass(frozen=True, slots=True)
class Starts:
    """``positions``: where to continue. ``first``: partitions that the table did not know. ``losses``: given up.

    Losses may name partitions of a topic that was created again beyond those in ``positions``.
    """

    positions: Mapping[Partition, Position]
    first: frozenset[Partition]
    losses: tuple[Loss, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the source holds: each partition's bounds, and each topic's id where the broker tells one.

    ``late`` are topics that appeared after the pipeline had started: nothing of them is skipped (PROTOCOL S2).
    """

    bounds: Mapping[Partition, Bounds]
    identities: Mapping[str, str | None]
    late: frozenset[str] = frozenset()


def resolve(entry: LedgerEntry | None, holdings: Holdings, policy: StartPolicy, source: Clockwork) -> Starts:
    """Decide for every partition in ``holdings``.

    Raises:
        PositionError: a position cannot be continued and the policy says stop (PROTOCOL S3).
    """
    known = entry.positions if entry else {}
    known_topics = {partition.topic for partition in known}
    positions: dict[Partition, Position] = {}
    losses: list[Loss] = []
    new = [p for p in holdings.bounds if p not in known]
    # A partition that appears in a topic that the table knows starts at its beginning, whatever `start` says (S2).
    first_topics = [p for p in new if p.topic not in known_topics | holdings.late]
    for partition in new:
        positions[partition] = Position(holdings.bounds[partition].low)
    if policy.start is Edge.LATEST:
        positions.update({p: Position(holdings.bounds[p].end) for p in first_topics})
    elif isinstance(policy.start, int) and first_topics:
        positions.update({p: Position(o) for p, o in source.offsets_at(first_topics, policy.start).items()})
    for partition, at in known.items():
        bounds = holdings.bounds.get(partition)
        why = unusable(partition, at, bounds, entry, holdings.identities)
        if why is not None and policy.on_lost is Lost.STOP:
            raise PositionError(*why)
        if why is not None:
            # Of a topic that was created again, also those partitions that are not asked for: one id, one topic.
            new_start = 0 if bounds is None else bounds.low if policy.on_lost is Lost.EARLIEST else bounds.end
            losses.append(Loss(partition, at.next, new_start, entry.number if entry else 0))
        if bounds is not None:
            positions[partition] = at if why is None else Position(losses[-1].end)
    return Starts(positions, frozenset(new), tuple(losses))


def unusable(
    partition: Partition,
    at: Position,
    bounds: Bounds | None,
    entry: LedgerEntry | None,
    identities: Mapping[str, str | None],
) -> tuple[str, str] | None:
    """Why ``at`` cannot be continued (PROTOCOL S3), and the way out; None where it can."""
    before = entry.sources.get(partition.topic) if entry else None
    now = identities.get(partition.topic)
    choice = (
        "Set `on_lost_positions: earliest` (or latest) under source.kafka and start once more to continue there; "
        "the ledger then records which offsets were given up."
    )
    if before is not None and now is not None and before != now:
        what = (
            f"topic {partition.topic} is not the topic that the table was fed from: it was deleted and created again "
            f"(topic id {now}, the table recorded {before}), so offset {at.next} of partition {partition.number} "
            "means something else now"
        )
        return what, choice
    if bounds is None:
        return None
    if at.next < bounds.low:
        what = (
            f"{partition} continues at offset {at.next} but the topic now begins at {bounds.low}: "
            f"{bounds.low - at.next} offsets have expired before they were written"
        )
        return what, choice
    if at.next > bounds.end:
        what = (
            f"{partition} continues at offset {at.next} but the topic ends at {bounds.end}: "
            "it was truncated, deleted and created again, or this is another cluster"
        )
        return what, f"Check bootstrap_servers first. {choice}"
    return None


def refuse_recreated(recorded: Mapping[str, str | None], now: Mapping[str, str | None]) -> None:
    """Ids are never given twice: what was read before ``now`` was told came from the topics in ``recorded`` (S3).

    A topic that is gone proves nothing; one with another id does.

    Raises:
        PositionError: a topic was deleted and created again while it was read.
    """
    for topic, identity in recorded.items():
        other = now.get(topic)
        if identity is not None and other is not None and other != identity:
            raise PositionError(
                f"topic {topic} was deleted and created again while it was read (topic id {other}, it was {identity}); "
                "what was read last may come from either, and was not written",
                "Set `on_lost_positions: earliest` (or latest) under source.kafka and start once more to continue "
                "there; the ledger then records which offsets were given up.",
            )
