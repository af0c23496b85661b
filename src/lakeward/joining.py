"""Partitions come and go: which lanes they feed, and where each lane continues (PROTOCOL, sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import structlog

from lakeward.clock import Clock
from lakeward.errors import Directive, LakewardError
from lakeward.lanes import Lane
from lakeward.ledger import LedgerEntry
from lakeward.positions import Partition, Position, Positions
from lakeward.records import RawBatch
from lakeward.stages import Source
from lakeward.starts import Edge, Holdings, StartPolicy, resolve

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_S = 2.0
"""Seconds between two attempts to ask a catalog or broker where a partition continues."""
OTHERS_S = 10.0
"""A named topic of which nothing has been assigned to us for so many seconds is read by other workers."""


class Joining:
    """Used by the loop's thread alone. A partition waits until each table it feeds has a position; then it is begun."""

    def __init__(
        self,
        source: Source,
        lanes_for: Callable[[str], list[Lane]],
        policy: StartPolicy,
        clock: Clock,
        adopt: str | None = None,
    ) -> None:
        self._adopt = adopt
        self._source = source
        self._lanes_for = lanes_for
        self._policy = policy
        self._clock = clock
        self._by_topic: dict[str, list[Lane]] = {}
        self._not_before = 0.0
        self._named: frozenset[str] = frozenset()
        self._early: frozenset[str] | None = None
        self._assigned_at = 0.0
        self._goals: dict[Partition, int] = {}
        self.lanes: list[Lane] = []
        self.waiting: set[Partition] = set()
        self.begun: set[Partition] = set()

    def look(self, topics: Iterable[str]) -> None:
        """Load the tables of ``topics`` once, so that a server that is away is an error at the start, not later."""
        for topic in topics:
            for lane in self.lanes_of(topic):
                lane.target.find()

    def expect(self, topics: Iterable[str]) -> None:
        """These are named, and were there at the start: `start` is meant for them, whenever they are assigned."""
        self._named = frozenset(topics)

    def lanes_of(self, topic: str) -> list[Lane]:
        """The lanes that ``topic`` feeds, made when it is first seen."""
        if topic not in self._by_topic:
            self._by_topic[topic] = self._lanes_for(topic)
            for lane in self._by_topic[topic]:
                lane.topics.add(topic)
                if lane not in self.lanes:
                    self.lanes.append(lane)
        return self._by_topic[topic]

    def assign(self, partitions: Collection[Partition]) -> None:
        """These are ours now; they wait for their positions (PROTOCOL S1)."""
        log.info("assigned", partitions=sorted(str(p) for p in partitions))
        self.waiting.update(partitions)
        self._not_before = 0.0
        self._assigned_at = self._clock.monotonic()
        if self._early is None:
            self._early = frozenset(p.topic for p in partitions)

    def revoke(self, partitions: Collection[Partition]) -> None:
        """These are no longer ours (PROTOCOL R2)."""
        log.info("revoked", partitions=sorted(str(p) for p in partitions))
        self.waiting.difference_update(partitions)
        self.begun.difference_update(partitions)
        again: set[Partition] = set()
        for lane in self.lanes:
            again |= lane.release(partitions)
        self._wait_again(again & self.begun)

    def rewind(self, lane: Lane, entry: LedgerEntry | None) -> None:
        """Drop both batches of ``lane`` and ask its table again where it continues (PROTOCOL C5)."""
        affected = {p for p in self.begun | self.waiting if p.topic in lane.topics}
        lane.drop(entry)
        self._wait_again(affected)

    def _wait_again(self, partitions: set[Partition]) -> None:
        """End the run of these partitions; the next turn begins another (PROTOCOL S5)."""
        self.begun -= partitions
        self.waiting |= partitions
        self._source.pause(partitions)

    def current(self, raw: RawBatch) -> RawBatch:
        """The messages whose partition is begun: those of an ended run are discarded (PROTOCOL S5)."""
        current = np.zeros(int(raw.partition.max(initial=0)) + 1, np.bool_)
        for partition in self.begun:
            if partition.topic == raw.topic and partition.number < len(current):
                current[partition.number] = True
        mask = current[raw.partition]
        return raw if mask.all() else raw.select(np.flatnonzero(mask))

    def join(self) -> set[Partition]:
        """Begin every waiting partition whose tables have all said where it continues; return those begun."""
        ready: set[Partition] = set()
        if not self.waiting or self._clock.monotonic() < self._not_before:
            return ready
        try:
            for lane in {id(lane): lane for p in sorted(self.waiting) for lane in self.lanes_of(p.topic)}.values():
                self._ask(lane)
            ready = {p for p in self.waiting if all(self._settled(lane, p) for lane in self.lanes_of(p.topic))}
            self._begin(sorted(ready))
            if any(self._unknown(lane, p) for p in self.waiting for lane in self.lanes_of(p.topic)):
                self._not_before = self._clock.monotonic() + RETRY_S
        except LakewardError as error:
            if error.directive is not Directive.RETRY:
                raise
            log.warning("trying again", what="finding positions", error=error.what, wait_s=RETRY_S)
            self._not_before = self._clock.monotonic() + RETRY_S
            return set()
        return ready

    def _ask(self, lane: Lane) -> None:
        missing = {p for p in self.waiting if p.topic in lane.topics and p not in lane.next}
        if not missing or lane.engaged:
            return
        found = lane.target.find()
        lane.entry, lane.exists = found.entry, found.exists
        topics = {p.topic for p in missing}
        bounds = {p: b for p, b in self._source.partitions(topics).items() if p in missing}
        identities = self._source.identities(topics)
        adopted = found.others.get(self._adopt) if self._adopt is not None and found.entry is None else None
        entry = adopted or found.entry
        late = frozenset(topic for topic in topics if self._is_late(topic, entry))
        starts = resolve(entry, Holdings(bounds, identities, late), self._policy, self._source)
        if any(loss.partition in lane.next for loss in starts.losses):
            # The topic was created again while we read it: what is held is of the one before.
            self.rewind(lane, found.entry)
            return
        lane.sources.update(identities)
        if adopted is not None and self._adopt is not None:
            lane.filling.adopt(self._adopt)
            starts = replace(starts, first=frozenset(starts.positions))
        if starts.first and not found.exists and self._policy.start is not Edge.EARLIEST:
            lane.exists = self._create(lane, topics)
        lane.settle(starts, self._clock.monotonic(), anchor=found.rewound)
        if found.entry is not None and not found.at_head:
            lane.restate(found.entry.positions.keys() & starts.positions.keys(), self._clock.monotonic())
        self._goals.update({p: b.end for p, b in bounds.items()})
        for partition, at in sorted(starts.positions.items()):
            log.info(
                "continues", table=lane.name, partition=str(partition), offset=at.next, new=partition in starts.first
            )

    def _is_late(self, topic: str, entry: LedgerEntry | None) -> bool:
        """Whether ``topic`` appeared after the pipeline had started, in this process or an earlier one."""
        started = entry is not None and bool(entry.positions)
        return topic not in self._named and (started or topic not in (self._early or ()))

    def _create(self, lane: Lane, topics: set[str]) -> bool:
        """`start: latest` must be in the table before the first poll (PROTOCOL S2): created if its schema is known."""
        for topic in topics:
            schema = lane.schema(topic)
            if schema is not None:
                lane.target.create(schema)
                return True
        return False

    @staticmethod
    def _unknown(lane: Lane, partition: Partition) -> bool:
        """The source was asked about it and does not know it: its topic is being made, or deleted."""
        return partition not in lane.next and not lane.engaged

    @staticmethod
    def _settled(lane: Lane, partition: Partition) -> bool:
        return partition in lane.next and not lane.settling

    def _begin(self, partitions: Iterable[Partition]) -> None:
        starts = {p: min((lane.next[p] for lane in self.lanes_of(p.topic)), key=lambda at: at.next) for p in partitions}
        if starts:
            self._source.begin(starts)
            self.begun |= starts.keys()
            self.waiting -= starts.keys()

    def blocked(self) -> set[Partition]:
        """The partitions that feed a table whose two batches are full."""
        topics = {topic for lane in self.lanes if lane.blocked for topic in lane.topics}
        return {p for p in self.begun if p.topic in topics} if topics else set()

    def reach(self, reached: Mapping[Partition, int], now: float) -> None:
        """Everything below these offsets has been taken (PROTOCOL S7)."""
        for partition, offset in reached.items():
            if partition in self.begun:
                for lane in self.lanes_of(partition.topic):
                    lane.reach(partition, offset, now)

    def caught_up(self) -> bool:
        """Whether every partition has been read to the end that it had when it was joined."""
        if self.waiting or not self.begun:
            return False
        elsewhere = self._named - {partition.topic for partition in self.begun}
        if elsewhere and self._clock.monotonic() - self._assigned_at < OTHERS_S:
            return False
        return all(
            lane.next[p].next >= self._goals[p] for p in self.begun for lane in self.lanes_of(p.topic) if p in lane.next
        )

    def proved(self, partitions: Iterable[Partition]) -> Positions:
        """The lowest committed position over all tables that each partition feeds, of those begun (PROTOCOL I7)."""
        proved: dict[Partition, Position] = {}
        for partition in self.begun.intersection(partitions):
            entries = [lane.entry for lane in self.lanes_of(partition.topic)]
            known = [entry.positions[partition] for entry in entries if entry and partition in entry.positions]
            told = {entry.sources.get(partition.topic) for entry in entries if entry} - {None}
            # While tables stand in two topics of one name, their offsets cannot be compared.
            if known and len(known) == len(entries) and len(told) <= 1:
                proved[partition] = min(known, key=lambda at: at.next)
        return proved
