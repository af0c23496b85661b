"""One worker over a source and tables in memory, steered poll by poll, for the tests of the protocol's loop."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.errors import LakewardError, UnreachableError
from lakeward.keying import Upserting
from lakeward.lanes import Lane, LaneSettings
from lakeward.ledger import next_entry
from lakeward.outcomes import Batch, Staged
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Account, Partition, Position, Span
from lakeward.records import Decoded, Polled, RawBatch
from lakeward.retrying import Patience
from lakeward.scheduling import Limits
from lakeward.starts import StartPolicy
from lakeward.testing.memory import MemorySource, MemoryTable, MemoryTarget, TextDecoder

T0, T1, U0 = Partition("t", 0), Partition("t", 1), Partition("u", 0)
CAUGHT_UP = Until(caught_up=True)
NEVER_FULL = FlushPolicy(3600, 1_000_000, 1 << 30)
Poll = Callable[[float], Polled]


class Rig:
    """``feeds`` maps a topic to its tables; `pipeline` is a new process with the same source and tables."""

    def __init__(self, feeds: dict[str, Sequence[str]] | None = None, flush: FlushPolicy = NEVER_FULL) -> None:
        self.feeds = feeds or {"t": ["a"]}
        self.source = MemorySource()
        self.tables = {name: MemoryTable() for names in self.feeds.values() for name in names}
        self.targets: dict[str, MemoryTarget] = {}
        self.decoder = TextDecoder()
        self.flush = flush
        self.start = StartPolicy()
        self.named: tuple[str, ...] | None = None
        self.upserting: Upserting | None = None
        self.drain_s = 30.0
        self.limits = Limits()
        self.patience = Patience(0.001, 0.002, 0.5)

    def pipeline(self) -> Pipeline:
        source = self.source
        source._at.clear()
        source._paused.clear()
        self.targets = {name: MemoryTarget(name, table) for name, table in self.tables.items()}
        lane = LaneSettings(self.flush, upserting=self.upserting)
        lanes = {n: Lane(target, self.decoder, lane) for n, target in self.targets.items()}
        named = tuple(self.feeds) if self.named is None else self.named
        settings = PipelineSettings("test", named, self.start, self.patience, drain_s=self.drain_s, limits=self.limits)

        def lanes_for(topic: str) -> list[Lane]:
            return [lanes[name] for name in self.feeds[topic]]

        return Pipeline(settings, source, lanes_for, SystemClock(), random.Random(7))

    def run(self, until: Until = CAUGHT_UP) -> Pipeline:
        pipeline = self.pipeline()
        pipeline.run(until)
        return pipeline

    def on_poll(self, number: int, action: Callable[[], object]) -> None:
        """Do ``action`` right before the source's ``number``-th poll from now, counted from 1."""
        poll, polls = self.source.poll, iter(range(1, 1_000_000))

        def watched(timeout: float) -> Polled:
            if next(polls) == number:
                action()
            return poll(timeout)

        self.source.poll = watched

    def stop_when(self, pipeline: Pipeline, condition: Callable[[], bool]) -> None:
        """Stop ``pipeline`` before the first poll at which ``condition`` holds."""
        poll = self.source.poll

        def watched(timeout: float) -> Polled:
            if condition():
                pipeline.stop()
            return poll(timeout)

        self.source.poll = watched

    def rival(self, table: str, partition: Partition, start: int, end: int) -> None:
        """Another worker of the same pipeline commits these offsets of what the source holds."""
        held = self.tables[table]
        rows = [value.decode() for value in self.source.logs[partition].values[start:end] if value is not None]
        claim, account = {partition: Span(start, end)}, Account(end - start, len(rows), end - start - len(rows))
        batch = Batch(f"rival-{start}", (), claim, {partition: Position(end)}, {partition.topic: None}, account)
        with held.lock:
            held.rows.extend(rows)
            held.entry = next_entry(held.entry, table="memory", batch=batch)
            held.exists = True

    def next_of(self, table: str, partition: Partition) -> int:
        entry = self.tables[table].entry
        assert entry is not None
        return entry.positions[partition].next


def values(first: int, last: int, prefix: str = "v") -> list[bytes | None]:
    return [f"{prefix}{i}".encode() for i in range(first, last)]


def texts(first: int, last: int, prefix: str = "v") -> list[str]:
    return [f"{prefix}{i}" for i in range(first, last)]


def bounded(pipeline: Pipeline, until: Until = CAUGHT_UP, seconds: float = 10.0) -> None:
    """Run ``pipeline``; a run that does not end by itself is stopped, and fails."""
    hung = threading.Event()
    timer = threading.Timer(seconds, lambda: (hung.set(), pipeline.stop()))
    timer.start()
    try:
        pipeline.run(until)
    finally:
        timer.cancel()
    assert not hung.is_set(), "the run did not end by itself"


def fails(*errors: LakewardError) -> Callable[[Staged], None]:
    waiting = list(errors)

    def fault(staged: Staged) -> None:
        if waiting:
            raise waiting.pop(0)

    return fault


class Flaky(TextDecoder):
    """Its registry is away for the first ``failures`` questions."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def decode(self, raw: RawBatch) -> Decoded:
        if self.failures and len(raw):
            self.failures -= 1
            raise UnreachableError("registry away")
        return super().decode(raw)


class Ends(MemorySource):
    """Tells an end once, as Kafka does, and ``beyond`` offsets further: control records or a compacted hole."""

    beyond = 2

    def poll(self, timeout: float) -> Polled:
        polled = super().poll(timeout)
        told = {}
        for partition, at in polled.reached.items():
            end = len(self.logs[partition].values)
            if at == end and self._told.get(partition) != end:
                self._told[partition] = end
                told[partition] = end + self.beyond
        return Polled(polled.batches, told, polled.assigned, polled.revoked)

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[Partition, int] = {}

    def begin(self, starts: dict[Partition, Position]) -> None:
        inside = {p: at._replace(next=min(at.next, len(self.logs[p].values))) for p, at in starts.items()}
        super().begin(inside)
        for partition in starts:
            self._told.pop(partition, None)

    def partitions(self, topics: Iterable[str]):
        return {p: replace(b, end=b.end + self.beyond) for p, b in super().partitions(topics).items()}
