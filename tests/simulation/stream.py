"""A broker with one consumer group, and what a worker sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from tests.simulation.strands import Process
from tests.simulation.world import World

from lakeward.positions import Bounds, Partition, Position
from lakeward.records import Blobs, Polled, RawBatch
from lakeward.sources.kafka_runs import Runs

HOLE = b"!"
"""Stands for an offset that no message tells of: a control record, or a record that was compacted away."""


@dataclass(slots=True)
class Log:
    """One partition's values by offset; None is a tombstone."""

    values: list[bytes | None] = field(default_factory=list)


@dataclass(slots=True)
class Notice:
    """What a member is told at its first poll after ``due``."""

    due: float
    given: bool
    partition: Partition
    then: Callable[[], None] | None = None


class Group:
    """Who reads which partition. Members learn of it later, and some much later."""

    def __init__(self, world: World, logs: dict[Partition, Log]) -> None:
        self.world = world
        self.logs = logs
        self.members: list[Member] = []
        self.owner: dict[Partition, Member | None] = dict.fromkeys(logs)
        self.ids: dict[str, str | None] = {}
        self.begun = False
        """Whether anybody has begun to read."""

    def append(self, partition: Partition, count: int) -> None:
        """Records come."""
        if partition not in self.logs:
            self.logs[partition] = Log()
            self.owner[partition] = None
        log = self.logs[partition]
        for offset in range(len(log.values), len(log.values) + count):
            text = f"{partition}/{offset}".encode()
            log.values.append(self.world.chance.choices([text, None, HOLE], [8, 1, 1])[0])

    def join(self, member: Member) -> None:
        """A member comes."""
        self.members.append(member)
        self.rebalance()

    def leave(self, member: Member) -> None:
        """A member has gone, or has not been heard of for a session timeout."""
        if member in self.members:
            self.members.remove(member)
            self.rebalance()

    def rebalance(self) -> None:
        """Move some partitions."""
        chance = self.world.chance
        for partition in sorted(self.logs):
            owner = self.owner[partition]
            if not self.members:
                self.owner[partition] = None
            elif owner not in self.members or chance.random() < 0.5:
                self.move(partition, chance.choice(self.members))

    def move(self, partition: Partition, to: Member) -> None:
        """Give ``partition`` to ``to``: the one before is told first, later, or hears of it only when it wakes up."""
        world, before = self.world, self.owner[partition]
        if before is to and not world.sometimes(world.climate.given_back, "given back"):
            return
        self.owner[partition] = to
        give = Notice(world.strands.now, given=True, partition=partition)
        if before is None or before.process.dead or before not in self.members:
            to.inbox.append(give)
        elif before is to:
            to.inbox += [Notice(world.strands.now, given=False, partition=partition), give]
        elif world.sometimes(world.climate.zombie, "zombie"):
            to.inbox.append(give)
            late = world.strands.now + world.chance.choice((0.5, 2.0, 8.0))
            before.inbox.append(Notice(late, given=False, partition=partition))
        else:
            world.happened["revoked"] += 1
            notice = Notice(world.strands.now, given=False, partition=partition)
            notice.then = lambda: to.inbox.append(Notice(world.strands.now, given=True, partition=partition))
            before.inbox.append(notice)

    def settle(self, member: Member) -> None:
        """Everything is for ``member`` now, and everybody knows."""
        for other in self.members:
            if other is not member:
                other.mute = True
        self.members = [member]
        for notice in [n for n in member.inbox if not n.given]:
            notice.due = self.world.strands.now
        believed = set(member.mine) | {n.partition for n in member.inbox if n.given}
        lost = {n.partition for n in member.inbox if not n.given and not self._given_after(member, n)}
        for partition in sorted(self.logs):
            self.owner[partition] = member
            if partition not in believed - lost:
                member.inbox.append(Notice(self.world.strands.now, given=True, partition=partition))

    @staticmethod
    def _given_after(member: Member, notice: Notice) -> bool:
        later = member.inbox[member.inbox.index(notice) + 1 :]
        return any(n.given and n.partition == notice.partition for n in later)


class Member:
    """One worker's source. What it hands over goes through the real `Runs`."""

    def __init__(self, group: Group, process: Process, heard: Callable[[Mapping[Partition, Position]], None]) -> None:
        self._heard = heard
        self.group = group
        self.process = process
        self.inbox: list[Notice] = []
        self.mine: set[Partition] = set()
        self.mute = False
        self._runs = Runs()
        self._fetch: dict[Partition, int] = {}
        self._told: dict[Partition, int] = {}
        self._step = group.world.chance.randint(2, 12)

    def open(self) -> None:
        self.group.world.travel(self.process)
        self.group.join(self)

    def poll(self, timeout: float) -> Polled:
        world = self.group.world
        world.travel(self.process)
        revoked, assigned = self._hear()
        batches, ends = self._hand_over()
        if not (batches or ends or revoked or assigned):
            # A poll takes as long as it likes; an idle history would be long otherwise.
            world.strands.sleep(max(timeout, 0.005) * world.chance.choice((1, 4, 20)))
            revoked, assigned = self._hear()
            batches, ends = self._hand_over()
        return Polled(tuple(batches), ends, frozenset(assigned), frozenset(revoked))

    def _hear(self) -> tuple[set[Partition], set[Partition]]:
        revoked: set[Partition] = set()
        assigned: set[Partition] = set()
        while self.inbox and self.inbox[0].due <= self.group.world.strands.now and not self.mute:
            notice = self.inbox.pop(0)
            partition = notice.partition
            if notice.given:
                self.mine.add(partition)
                assigned.add(partition)
            else:
                self._runs.end({partition})
                self._fetch.pop(partition, None)
                self.mine.discard(partition)
                assigned.discard(partition)
                revoked.add(partition)
                if notice.then is not None:
                    notice.then()
        return revoked, assigned

    def _hand_over(self) -> tuple[list[RawBatch], dict[Partition, int]]:
        chance = self.group.world.chance
        batches, ends = self._runs.stashed()
        by_topic: dict[str, list[tuple[Partition, int, int]]] = {}
        for partition, at in self._fetch.items():
            log = self.group.logs[partition]
            end = min(len(log.values), at + self._step)
            if end > at and (partition not in self._runs.held or chance.random() < 0.3):
                by_topic.setdefault(partition.topic, []).append((partition, at, end))
                self._fetch[partition] = end
        for topic, spans in by_topic.items():
            raw = self._runs.pass_on(self._raw(topic, spans))
            if len(raw):
                batches.append(raw)
        reached = {p: at for p, at in self._fetch.items() if at == len(self.group.logs[p].values)}
        news = {p: at for p, at in reached.items() if self._told.get(p) != at}
        self._told.update(news)
        return batches, ends | self._runs.reached(news)

    def _raw(self, topic: str, spans: list[tuple[Partition, int, int]]) -> RawBatch:
        rows: list[tuple[int, int, bytes | None]] = []
        for partition, start, end in spans:
            values = self.group.logs[partition].values
            rows += [(partition.number, at, values[at]) for at in range(start, end) if values[at] != HOLE]
        if len(spans) > 1 and self.group.world.chance.random() < 0.5:
            rows.sort(key=lambda row: row[1])  # partitions of one topic come interleaved, each in its own order
        numbers, offsets, values = zip(*rows, strict=True) if rows else ((), (), ())
        return RawBatch(
            topic,
            np.asarray(numbers, np.int32),
            np.asarray(offsets, np.int64),
            np.asarray(offsets, np.int64),
            Blobs.of([None] * len(rows)),
            Blobs.of(values),
        )

    def begin(self, starts: Mapping[Partition, Position]) -> None:
        self.group.world.travel(self.process)
        for partition, position in starts.items():
            if partition in self.mine:
                self._fetch[partition] = self._runs.begin(partition, position).at
                self._told.pop(partition, None)
                self.group.begun = True

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._runs.hold(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._runs.release(partitions)

    def partitions(self, topics: Iterable[str]) -> Mapping[Partition, Bounds]:
        self.group.world.travel(self.process)
        wanted = set(topics)
        return {p: Bounds(0, len(log.values)) for p, log in sorted(self.group.logs.items()) if p.topic in wanted}

    def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> Mapping[Partition, int]:
        del timestamp_ms
        return dict.fromkeys(partitions, 0)

    def identities(self, topics: Iterable[str]) -> Mapping[str, str | None]:
        return {topic: self.group.ids.get(topic, f"id-{topic}") for topic in topics}

    def ends(self) -> Mapping[Partition, int]:
        return {p: len(self.group.logs[p].values) for p in self.mine}

    def ack(self, positions: Mapping[Partition, Position]) -> None:
        self._heard(positions)
        self.group.world.travel(self.process)

    def close(self) -> None:
        if not self.process.dead:
            self.group.leave(self)
