"""Partitions come and go: which lanes they feed, and where each lane continues (PROTOCOL, sections 4 and 6)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
import structlog

from lakeward.clock import Clock
from lakeward.errors import Directive, LakewardError
from lakeward.lanes import Lane
from lakeward.ledger import LedgerEntry
from lakeward.outcomes import Found
from lakeward.positions import Bounds, Partition, Position, Positions
from lakeward.records import RawBatch
from lakeward.stages import Source
from lakeward.starts import Edge, Holdings, StartPolicy, resolve
from lakeward.watching import differs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_S = 2.0
"""Seconds between two attempts to ask a catalog or broker where a partition continues."""
OTHERS_S = 10.0
"""A named topic of which nothing has been assigned to us for so many seconds is read by other workers."""
ASKED_A_TURN = 32
"""So many tables are asked between two polls: those that answer begin, and commits go on, while others wait."""
FEW, SIDE_BY_SIDE = 4, 8
"""More tables than a few are asked by so many threads: hundreds, one after the other, would take half a minute."""


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
        self._mute: set[Lane] = set()
        """Asked in vain: they are asked again, some seconds after the last of the others has been."""
        self._added: dict[tuple[Lane, Partition], Mapping[Partition, int]] = {}
        """Where the other partitions of a topic ended when one that was added to it was first seen."""
        self.lanes: list[Lane] = []
        self.waiting: set[Partition] = set()
        self.begun: set[Partition] = set()

    def look(self, topics: Iterable[str]) -> None:
        """Load the tables of ``topics`` once, so that a server that is away is an error at the start, not later."""
        _, failures = _answers([lane for topic in topics for lane in self.lanes_of(topic)])
        for failure in failures.values():
            raise failure

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
        self._mute.clear()
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
        numbers = range(int(raw.partition.max(initial=0)) + 1)
        current = np.array([Partition(raw.topic, number) in self.begun for number in numbers], np.bool_)
        mask = current[raw.partition]
        return raw if mask.all() else raw.select(np.flatnonzero(mask))

    def join(self) -> set[Partition]:
        """Begin every waiting partition whose tables have all said where it continues; return those begun."""
        if not self.waiting or self._clock.monotonic() < self._not_before:
            return set()
        asked: dict[Lane, set[Partition]] = {}
        try:
            asked = self._next_to_ask()
            self._ask(asked)
        except LakewardError as error:
            if error.directive is not Directive.RETRY:
                raise
            log.warning("trying again", what="finding positions", error=error.what, wait_s=RETRY_S)
            if self._mute.isdisjoint(asked):  # the brokers did not answer
                self._mute.update(asked)
            waits = not asked  # a lane could not be made
        else:
            waits = not asked and bool(self._mute)
        if waits:
            self._mute.clear()
            self._not_before = self._clock.monotonic() + RETRY_S
        ready = {p for p in self.waiting if self._settled(p)}
        self._begin(sorted(ready))
        return ready

    def _next_to_ask(self) -> dict[Lane, set[Partition]]:
        """The tables to ask in this turn, each with the partitions that it is to place."""
        waiting: dict[str, list[Partition]] = {}
        for partition in self.waiting:
            waiting.setdefault(partition.topic, []).append(partition)
        asked: dict[Lane, set[Partition]] = {}
        for topic in sorted(waiting):
            for lane in self.lanes_of(topic):
                of = {p for p in waiting[topic] if p not in lane.next}
                if of and not lane.engaged and lane not in self._mute:
                    asked.setdefault(lane, set()).update(of)
            if len(asked) >= ASKED_A_TURN:
                break
        return asked

    def _ask(self, asked: Mapping[Lane, set[Partition]]) -> None:
        answers, failures = _answers(list(asked))
        self._mute.update(failures)
        topics = {p.topic for lane in answers for p in asked[lane]}
        # After the tables: a table's position is never beyond an end that was told later.
        bounds = self._source.partitions(topics) if topics else {}
        identities = self._source.identities(topics) if topics else {}
        for lane, found in answers.items():
            own = {p.topic for p in asked[lane]}
            self._place(
                lane,
                found,
                {p: bounds[p] for p in self._to_place(lane, found, asked[lane], bounds)},
                {topic: identity for topic, identity in identities.items() if topic in own},
            )
        # Known to the table alone: the topic is being made, or deleted.
        self._mute.update(lane for lane in answers if not lane.engaged and not asked[lane] <= lane.next.keys())
        for failure in failures.values():
            raise failure

    def _to_place(
        self, lane: Lane, found: Found, asked: Collection[Partition], there: Mapping[Partition, Bounds]
    ) -> set[Partition]:
        """The partitions of ``asked``; of a topic that the table does not know, those of other workers too (S2)."""
        ours = {p for p in asked if p in there and not lane.recall(p)}
        known = found.entry.positions if found.entry else {}
        if lane.settings.upserting is not None:  # which partitions were there from the first is told by the first entry
            ours -= self._behind(lane, known, ours, there)
        elif self._policy.start is Edge.EARLIEST or self._adopt is not None:
            return ours  # the beginning is the same whoever looks, and whenever
        new = {p.topic for p in ours} - {p.topic for p in known} - {p.topic for p in lane.filling.claim}
        return ours | {p for p in there if p.topic in new and p not in lane.next}

    def _behind(
        self, lane: Lane, known: Positions, asked: Collection[Partition], there: Mapping[Partition, Bounds]
    ) -> set[Partition]:
        """Partitions that were added to a topic, and whose keys the table may still miss changes of (PROTOCOL R4).

        A key may have moved to them: what the others held when they were first seen is committed before them.
        """
        held = set()
        for partition in asked:
            before = {p: there[p].end for p in known if p.topic == partition.topic and p in there}
            if partition in known or not before:
                continue
            if (lane, partition) not in self._added:
                log.info("added partition waits for the others", table=lane.name, partition=str(partition))
            ends = self._added.setdefault((lane, partition), before)
            if any(p not in known or known[p].next < end for p, end in ends.items()):
                held.add(partition)
                if all(lane.next[p].next >= end for p, end in ends.items() if p in lane.next):
                    lane.filling.hurry()
        return held

    def _place(
        self, lane: Lane, found: Found, bounds: Mapping[Partition, Bounds], identities: Mapping[str, str | None]
    ) -> None:
        """Decide where ``lane`` continues in these partitions."""
        if differs(lane, found.entry):  # noticed now or never: later looks are compared with what was found now
            self.rewind(lane, found.entry)
            return
        lane.entry, lane.exists = found.entry, found.exists
        topics = {p.topic for p in bounds}
        adopted = found.others.get(self._adopt) if self._adopt is not None and found.entry is None else None
        entry = adopted or found.entry
        late = frozenset(topic for topic in topics if self._is_late(topic, entry))
        if self._policy.start is not Edge.EARLIEST:  # its partitions as they were are decided; one more is late
            late |= {partition.topic for partition in lane.filling.claim}
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
        lane.settle(starts, self._clock.monotonic(), self.waiting, anchor=found.rewound)
        if found.entry is not None and not found.at_head:
            lane.restate(found.entry.positions.keys() & starts.positions.keys(), self._clock.monotonic())
        self._goals.update({p: b.end for p, b in bounds.items()})
        for partition, at in sorted((p, at) for p, at in starts.positions.items() if p in lane.next):
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

    def _settled(self, partition: Partition) -> bool:
        lanes = self._by_topic.get(partition.topic)
        return lanes is not None and all(partition in lane.next and not lane.settling for lane in lanes)

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

    def room(self, topic: str) -> int:
        """How many records of ``topic`` the batches that fill have room for."""
        return min((lane.filling.room for lane in self.lanes_of(topic)), default=sys.maxsize)

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


def _answers(lanes: Sequence[Lane]) -> tuple[dict[Lane, Found], dict[Lane, LakewardError]]:
    """What their tables say, and the errors of those that did not answer: after the first, no other is asked."""
    if len(lanes) <= FEW:
        return _answers_in_turn(lanes)
    with ThreadPoolExecutor(SIDE_BY_SIDE, "asking") as pool:
        futures = {lane: pool.submit(lane.target.find) for lane in lanes}
        wait(futures.values(), return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    answers: dict[Lane, Found] = {}
    failures: dict[Lane, LakewardError] = {}
    for lane, future in futures.items():
        if not future.cancelled():
            try:
                answers[lane] = future.result()
            except LakewardError as error:
                failures[lane] = error
    return answers, failures


def _answers_in_turn(lanes: Sequence[Lane]) -> tuple[dict[Lane, Found], dict[Lane, LakewardError]]:
    answers: dict[Lane, Found] = {}
    for lane in lanes:
        try:
            answers[lane] = lane.target.find()
        except LakewardError as error:
            return answers, {lane: error}
    return answers, {}
