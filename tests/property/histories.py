"""A seed's history: a source, tables and a worker in memory, and everything that may happen to them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.batching import FlushPolicy
from lakeward.clock import Clock
from lakeward.dead_letters.book import Book, read
from lakeward.dead_letters.box import Letterbox
from lakeward.dead_letters.replay import Replay, Selection
from lakeward.dead_letters.rows import Owner
from lakeward.errors import LakewardError, UndecidedError, UnreachableError
from lakeward.lanes import Lane, LaneSettings
from lakeward.ledger import LedgerEntry, next_entry
from lakeward.letters import Confirmed
from lakeward.outcomes import Batch, CommitReceipt, Found, Outcome, Refused, Staged
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Account, Partition, Position, Span
from lakeward.records import Decoded, DecodedPart, Polled, RawBatch
from lakeward.retrying import Patience
from lakeward.stages import Decoder
from lakeward.starts import Lost, StartPolicy
from lakeward.testing.memory import Log, MemoryLetters, MemorySource, MemoryTable, MemoryTarget, TextDecoder

FEEDS = {"t": ("a", "b"), "u": ("b", "c")}
POISON = b"!!"
"""A record that begins so cannot become a row before the decoder is mended."""
HOLE = b"!"
"""Stands for an offset that no message tells of: a control record, or a record that was compacted away."""
MOST_POLLS = 4_000
FOREVER = 1e12


class Killed(BaseException):
    """The process dies here: nothing of ours catches it."""


@dataclass(slots=True)
class Step:
    """One commit that landed: how many rows the table held after it, its entry, and the ids that it read from."""

    rows: int
    entry: LedgerEntry
    batch: Batch


class Table(MemoryTable):
    """Remembers each commit, so that it can be rolled back and audited."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Step] = []

    def landed(self, batch: Batch) -> None:
        assert self.entry is not None
        self.history.append(Step(len(self.rows), self.entry, batch))

    def roll_back(self, to: int) -> None:
        """As another tool does: what was undone leaves no trace but the highest number."""
        del self.history[to + 1 :]
        step = self.history[-1]
        self.rows, self.entry = self.rows[: step.rows], step.entry


class Steps:
    """Stands in for the committing threads: what was submitted is done when it is its turn, or never."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, work, arguments))
        return future

    def step(self, chance: random.Random) -> None:
        future, work, arguments = self.waiting.pop(chance.randrange(len(self.waiting)))
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001 -- as an executor's thread does
            future.set_exception(error)

    def shutdown(self, **_: object) -> None:
        """What has been sent may still arrive."""


class Time:
    """Goes on by a little whenever it is asked for."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._now = 0.0

    def now_ms(self) -> int:
        return round(self._now * 1000)

    def monotonic(self) -> float:
        self._history.tick()
        self._now += self._history.chance.random() * 0.02
        return self._now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._now += seconds
        return event.is_set()


class Stream(MemorySource):
    """Tells an end once a run, passes holes silently, and lets the history go on whenever it is polled."""

    def __init__(self, history: History) -> None:
        super().__init__(step=history.chance.randint(1, 12))
        self._history = history
        self._told: dict[Partition, int] = {}
        self.owned: set[Partition] = set()

    def open(self) -> None:
        self._at.clear()
        self._paused.clear()
        self._revoke.clear()
        self._assign = set(self.logs)
        self.owned = set()

    def poll(self, timeout: float) -> Polled:
        self._history.go_on()
        self.owned = (self.owned | self._assign) - (self._revoke - self._assign)
        polled = super().poll(timeout)
        ends = {p: at for p, at in polled.reached.items() if at == len(self.logs[p].values) and self._told.get(p) != at}
        self._told.update(ends)
        batches = [
            raw.select(np.flatnonzero([raw.values.get(i) != HOLE for i in range(len(raw))])) for raw in polled.batches
        ]
        batches = [raw for raw in batches if len(raw)]
        if len(batches) > 1 and self._history.chance.random() < 0.5:
            batches = mixed(batches)
        return Polled(batches, ends, polled.assigned, polled.revoked)

    def begin(self, starts: Mapping[Partition, Position]) -> None:
        self._history.tick()
        super().begin(starts)
        for partition in starts:
            self._told.pop(partition, None)

    def ack(self, positions: Mapping[Partition, Position]) -> None:
        self._history.tick()
        if not self._history.rolled_back:
            for partition, at in positions.items():
                for name in FEEDS[partition.topic]:
                    entry = self._history.tables[name].entry
                    assert entry is not None
                    assert at.next <= entry.positions[partition].next, "acked above a table's position"
        super().ack(positions)


def mixed(batches: list[RawBatch]) -> list[RawBatch]:
    """Partitions of one topic in one batch, their messages interleaved, as a real source hands them over."""
    joined: dict[str, list[RawBatch]] = {}
    for raw in batches:
        joined.setdefault(raw.topic, []).append(raw)
    whole = []
    for topic, raws in joined.items():
        rows = sorted((rank, i, at) for i, raw in enumerate(raws) for rank, at in enumerate(range(len(raw))))
        values = type(raws[0].values).of([raws[i].values.get(at) for _, i, at in rows])
        keys = type(raws[0].keys).of([None] * len(rows))
        columns = [
            np.asarray([getattr(raws[i], name)[at] for _, i, at in rows], kind)
            for name, kind in (("partition", np.int32), ("offset", np.int64), ("timestamp", np.int64))
        ]
        whole.append(RawBatch(topic, *columns, keys, values))
    return whole


class Registry(TextDecoder):
    """Away now and then."""

    def __init__(self, history: History) -> None:
        self._history = history

    def decode(self, raw: RawBatch) -> Decoded:
        self._history.tick()
        if self._history.hits(0.05, "registry away"):
            raise UnreachableError("the registry is away")
        return super().decode(raw)


class Mended:
    """Makes a row of every record, also of those that were poison."""

    def __init__(self, history: History) -> None:
        self._history = history

    def decode(self, raw: RawBatch) -> Decoded:
        self._history.tick()
        rows = pa.table({"value": [(raw.values.get(i) or b"").decode() for i in range(len(raw))]})
        return Decoded([DecodedPart(rows, np.arange(len(raw)))], (), np.arange(0))

    def schema(self, topic: str) -> None:
        del topic


class Writer(MemoryTarget):
    """One process's handle; a dead process's requests arrive all the same."""

    table: Table

    def __init__(self, name: str, table: Table, history: History) -> None:
        super().__init__(name, table)
        self._history = history

    def others(self) -> None:
        """Somebody else is faster."""
        if self._history.hits(0.05, "rival"):
            self._history.rival(self.name)

    def give_up(self) -> None:
        """What was sent is on its way."""

    def find(self) -> Found:
        self._history.tick()
        if self._history.hits(0.03, "catalog away"):
            raise UnreachableError("the catalog is away")
        return replace(super().find(), at_head=self._history.chance.random() < 0.8)

    def commit(self, staged: Staged) -> Outcome:
        self._history.tick()
        if self._history.hits(0.03, "no answer"):
            raise UndecidedError("sent, and never seen again")
        self.others()
        outcome = super().commit(staged)
        if isinstance(outcome, CommitReceipt):
            self.table.landed(staged.batch)
            self._history.happened["given up"] += bool(staged.batch.accepted)
            self._history.tick()
            if self._history.hits(0.03, "lost answer"):
                raise UndecidedError("applied, and the answer lost")
        self._history.happened["refused"] += isinstance(outcome, Refused)
        return outcome


class Post(Writer, MemoryLetters):
    """The same for the dead letters of the table ``name``."""

    def others(self) -> None:
        if self._history.replaying and self._history.hits(0.3, "rival replay"):
            self._history.replay(self.name)
        if self._history.replaying and self._history.hits(0.1, "rolled back while letters come back"):
            self._history.roll_back(self.name)


class History:
    """Plays a seed: `run` is one life of a worker, `finish` one in which nothing goes wrong any more."""

    feeds = FEEDS

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.tables = {name: Table() for name in "abc"}
        self.letters = {name: Table() for name in "abc"}
        self.replaying = 0
        self.source = Stream(self)
        self.runs_left = self.chance.randint(1, 6)
        self.quiet = self.rolled_back = False
        self._logs: dict[tuple[str | None, Partition], Log] = {}
        self._calls_left = FOREVER
        self._polls = 0
        self._stop_at = FOREVER
        self._steps = Steps()
        self._late = Steps()
        self._pipeline: Pipeline | None = None
        for topic, count in (("t", self.chance.randint(1, 3)), ("u", self.chance.randint(1, 2))):
            self.source.ids[topic] = f"{topic}-0"
            for number in range(count):
                self.append(Partition(topic, number), self.chance.randint(0, 30))

    # What may happen.

    def hits(self, probability: float, what: str) -> bool:
        """Whether ``what`` happens now; it is noted."""
        hit = not self.quiet and self.chance.random() < probability
        self.happened[what] += hit
        return hit

    def tick(self) -> None:
        """A call that the worker may not survive."""
        self._calls_left -= 1
        if self._calls_left < 0:
            self._calls_left = FOREVER
            self.happened["killed"] += 1
            raise Killed

    def append(self, partition: Partition, count: int) -> None:
        identity = self.source.ids[partition.topic]
        log = self.source.logs.setdefault(partition, Log())
        self._logs[identity, partition] = log
        for offset in range(len(log.values), len(log.values) + count):
            text = f"{identity}/{partition.number}/{offset}".encode()
            log.values.append(self.chance.choices([text, POISON + text, None, HOLE], [8, 1, 1, 1])[0])
            log.times.append(offset)

    def rival(self, name: str) -> None:
        """Another worker commits what comes next in a partition, if anything does."""
        table = self.tables[name]
        known = [p for p in table.entry.positions if name in FEEDS[p.topic]] if table.entry else []
        if table.entry is None or not known:
            return
        partition = self.chance.choice(sorted(known))
        identity = self.source.ids[partition.topic]
        log, start = self.source.logs[partition], table.entry.positions[partition].next
        end = min(len(log.values), start + self.chance.randint(1, 6))
        if table.entry.sources[partition.topic] != identity or not log.low <= start < end:
            return
        held = log.values[start:end]
        if any(value is not None and value.startswith(POISON) for value in held):
            return
        rows = [value.decode() for value in held if value is not None and value != HOLE]
        records = sum(value != HOLE for value in held)
        account = Account(records, len(rows), records - len(rows))
        sources = {partition.topic: identity}
        batch = Batch("rival", (), {partition: Span(start, end)}, {partition: Position(end)}, sources, account)
        table.rows.extend(rows)
        table.entry = next_entry(table.entry, table="memory", batch=batch, highest=table.highest)
        table.highest = table.entry.number
        table.landed(batch)

    def go_on(self) -> None:
        """Between two polls: commits end, records come, partitions move."""
        self.tick()
        self._polls += 1
        assert self._polls < MOST_POLLS, "the run does not end"
        if self._pipeline is not None and self._polls >= self._stop_at:
            self._pipeline.stop()
        chance, source = self.chance, self.source
        while self._steps.waiting and (self.quiet or chance.random() < 0.5):
            self._steps.step(chance)
        if self.quiet:
            return
        if self._late.waiting and self.hits(0.1, "late"):
            self._late.step(chance)
        if self.hits(0.2, "appended"):
            self.append(chance.choice(sorted(source.logs)), chance.randint(1, 15))
        if self.hits(0.04, "rival"):
            self.rival(chance.choice("abc"))
        if source.owned and self.hits(0.05, "revoked"):
            lost = chance.sample(sorted(source.owned), chance.randint(1, len(source.owned)))
            source.revoke(*lost)
        away = sorted(source.logs.keys() - source.owned - source._assign - source._revoke)
        if (back := [p for p in away if chance.random() < 0.2]) or self._polls > MOST_POLLS / 2:
            source.assign(*(back or away))
        if chance.random() < 0.1:
            source.assign(*source._revoke)
        if self.hits(0.01, "partition added"):
            topic = chance.choice("tu")
            partition = Partition(topic, sum(p.topic == topic for p in source.logs))
            self.append(partition, chance.randint(0, 9))
            source.assign(partition)
        if self.hits(0.01, "rolled back"):
            self.roll_back(self.chance.choice("abc"))

    def roll_back(self, name: str) -> None:
        table = self.tables[name]
        if len(table.history) > 1:
            table.roll_back(self.chance.randrange(len(table.history) - 1))
            self.rolled_back = True

    def between_runs(self) -> None:
        """What only happens while no worker looks."""
        logs = self.source.logs
        if self.hits(0.2, "expired"):
            log = logs[self.chance.choice(sorted(p for p in logs if p.topic == "t"))]
            log.low = self.chance.randint(log.low, len(log.values))
        if self.hits(0.2, "created again"):
            self.source.ids["u"] = f"u-{self.happened['created again']}"
            for partition in [p for p in logs if p.topic == "u"]:
                del logs[partition]
                self.append(partition, self.chance.randint(0, 20))

    # A worker's life.

    def run(self) -> None:
        self.runs_left -= 1
        self.between_runs()
        if self.hits(0.5, "replay"):
            self._calls_left = self.chance.randint(1, 60) if self.chance.random() < 0.4 else FOREVER
            self.replay(self.chance.choice("abc"))
            self._calls_left = FOREVER
        until = self.chance.choice(
            [Until(caught_up=True), Until(messages=self.chance.randint(1, 60)), Until(messages=10_000), Until()]
        )
        self._stop_at = FOREVER if until.caught_up else self.chance.randint(5, 150)
        if self.chance.random() < 0.6:
            self._calls_left = self.chance.randint(1, 600)
        try:
            self._live(until)
        except (Killed, LakewardError):
            pass
        finally:
            self._calls_left = FOREVER

    def _lane(self, name: str, decoder: Decoder, clock: Clock) -> Lane:
        flush = FlushPolicy(self.chance.choice([0.0, 0.5, 5.0]), self.chance.randint(1, 40), 1 << 30)
        box = Letterbox(Post(name, self.letters[name], self), Owner("p", name), 1.0, clock)
        return Lane(Writer(name, self.tables[name], self), decoder, LaneSettings(flush), box)

    def replay(self, name: str) -> None:
        """Bring back the letters of a table, by a process that may not survive it."""
        clock = Time(self)
        lane = self._lane(name, Mended(self), clock)
        shelf = MemoryLetters(name, self.letters[name])
        assert lane.letterbox is not None
        again = Replay(lane, lane.letterbox, shelf, lambda _: True, clock, lambda: f"{self.chance.getrandbits(64):x}")
        self.replaying += 1
        try:
            self.happened["replayed"] += again.run(Selection(), write=True).rows > 0
        except (Killed, LakewardError):
            pass
        finally:
            self.replaying -= 1

    def finish(self) -> None:
        while self._late.waiting:
            self._late.step(self.chance)
        self.quiet, self._stop_at = True, FOREVER
        self._live(Until(caught_up=True))

    def _live(self, until: Until) -> None:
        clock, decoder = Time(self), Registry(self)
        lanes = {name: self._lane(name, decoder, clock) for name in self.tables}
        settings = PipelineSettings(
            "p", ("t", "u"), StartPolicy(on_lost=Lost.EARLIEST), Patience(0.01, 0.1, FOREVER), drain_s=FOREVER
        )
        self._steps, self._polls = Steps(), 0
        self._pipeline = pipeline = Pipeline(
            settings, self.source, lambda topic: [lanes[n] for n in FEEDS[topic]], clock, self.chance
        )
        pipeline._executor.shutdown()
        pipeline._executor = self._steps  # type: ignore[assignment]
        pipeline._watching._submit = self._steps.submit
        try:
            pipeline.run(until)
        finally:
            self._late.waiting += [one for one in self._steps.waiting if self.chance.random() < 0.5]
            self._pipeline = None

    # The oracle.

    def told(self, table: Table) -> list[str]:
        """What the stream held in the offsets that the table's entry says are in, poison too, whatever wrote it."""
        entry = table.entry
        if entry is None:
            return []
        rows: list[str] = []
        for partition, position in entry.positions.items():
            for identity, start, end in self._stretches(table, partition, position.next):
                values = self._logs[identity, partition].values[start:end]
                assert len(values) == end - start
                rows += [value.decode() for value in values if value is not None and value != HOLE]
        return rows

    def letters_of(self, name: str) -> tuple[list[str], list[str]]:
        """What the dead letters of a table say that count: those that wait, and those that are rows."""
        entry, rows = self.tables[name].entry, self.letters[name].rows
        confirmed: dict[str, list[Confirmed]] = {}
        for row in rows:
            if row["kind"] == "confirmed":
                confirmed.setdefault(row["batch"], []).append(Confirmed(row["line"], row["number"]))

        def counting(kind: str) -> list[dict[str, Any]]:
            every = [row for row in rows if row["kind"] == kind]
            here = entry and [
                r for r in every if entry.letters.count(r["batch"], entry.number, confirmed.get(r["batch"], ()))
            ]
            self.happened[f"void {kind}"] += len(here or ()) < len(every)
            return here or []

        places = {(r["topic"], r["partition"], r["offset"], r["letter"]) for r in counting("replay")}
        told: tuple[list[str], list[str]] = [], []
        for row in counting("letter"):
            place = (row["topic"], row["partition"], row["offset"], row["batch"])
            told[place in places].append(row["value"].decode())
        return told

    def book(self, name: str) -> Book:
        """The same as the product reads it."""
        return read(MemoryLetters(name, self.letters[name]), Owner("p", name), self.tables[name].entry)

    @staticmethod
    def _stretches(table: Table, partition: Partition, end: int) -> Iterable[tuple[str | None, int, int]]:
        """Which offsets are in, and of which of the topics of that name: an accepted loss ends one stretch."""
        assert table.entry is not None
        losses = [loss for loss in table.entry.accepted if loss.partition == partition]
        batches = [step.batch for step in table.history if partition in step.batch.claim]
        identity, at = batches[0].sources[partition.topic], batches[0].claim[partition].start
        for loss in losses:
            if at <= loss.start:  # else it came late, to a table that had been rolled back to before the partition
                yield identity, at, loss.start
            identity = next(b.sources[partition.topic] for b in batches if loss in b.accepted)
            at = loss.end
        yield identity, at, end
