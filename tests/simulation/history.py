"""One history: workers of one group over the real sink, and everything that may happen around them.

`play` plays a seed and compares, at its end, what the tables hold with what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.types import StringType
from tests.simulation.lake import Lake, Name
from tests.simulation.oracle import Oracle, WrongTableError
from tests.simulation.strands import Process
from tests.simulation.stream import Group, Log, Member
from tests.simulation.world import FAR, Climate, Clock, World, conditions

from lakeward.batching import FlushPolicy
from lakeward.errors import (
    ConfigurationError,
    Directive,
    LakewardError,
    OperatorError,
    UndecidedError,
    UnreachableError,
)
from lakeward.lanes import Lane, LaneSettings
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Partition
from lakeward.records import Decoded, RawBatch
from lakeward.retrying import Patience
from lakeward.sinks.iceberg.compacting import at_once
from lakeward.sinks.iceberg.compaction import Rewritten
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.starts import Edge, StartPolicy
from lakeward.testing.memory import TextDecoder

PIPELINE, OTHER = "p", "q"
PATIENCE = Patience(0.05, 1.0, FAR)
END_S = 600.0
"""How long the last worker may take, in simulated seconds, when nothing goes wrong any more."""


class Registry(TextDecoder):
    """A decoder whose schema registry is away now and then."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def decode(self, raw: RawBatch) -> Decoded:
        if len(raw):
            self._world.travel(self._process)
            if self._world.sometimes(self._world.climate.registry, "registry away"):
                raise UnreachableError("the registry is away", "Wait.")
        return super().decode(raw)


class Worker:
    """One life of a worker."""

    def __init__(self, history: History, name: str, topics: tuple[str, ...], pipeline: str) -> None:
        chance = history.world.chance
        self.process = Process(name, skew_ms=chance.choice((0, 0, -600_000, 45_000)))
        if not history.world.quiet and chance.random() < history.climate.death:
            self.process.calls_left = chance.randint(1, 150)
        self.history = history
        self.topics = topics
        self.name = pipeline
        self.member = Member(history.groups[pipeline], self.process, history.oracle.acked)
        self.pipeline: Pipeline | None = None
        self.ended = False
        self.error: LakewardError | None = None
        history.world.strands.start(self.process, self._live)

    def _live(self) -> None:
        try:
            if not self.process.dead:
                self._run()
        finally:
            self.ended = True
            self.history.ended(self)

    def _run(self) -> None:
        history, chance = self.history, self.history.world.chance
        flush = FlushPolicy(chance.choice(history.climate.flush_s), chance.choice((3, 8, 40)), 1 << 30)
        clock = Clock(history.world, self.process)
        catalog, decoder = history.lake.catalog(self.process), Registry(history.world, self.process)
        tables = {name for topic in self.topics for name in history.feeds[topic]}
        rewriter = self._rewrite if history.climate.compacts else None
        lanes = {}
        for name in sorted(tables):
            settings = TargetSettings(self.name, name, keep_ms=history.keep_ms, rewriter=rewriter)
            target = IcebergTarget(catalog, settings, clock, random.Random(chance.random()))
            target._compactor.fanout = 2
            lanes[name] = Lane(target, decoder, LaneSettings(flush))
        pipeline = PipelineSettings(
            self.name, self.topics, StartPolicy(history.start), PATIENCE, drain_s=chance.choice((1.0, FAR))
        )
        self.pipeline = Pipeline(
            pipeline,
            self.member,
            lambda topic: [lanes[name] for name in history.feeds[topic]],
            clock,
            random.Random(chance.random()),
        )
        try:
            self.pipeline.run(Until())
        except LakewardError as error:
            self.error = error
            if error.directive is Directive.RETRY:
                history.world.happened[f"ended: {type(error).__name__}"] += 1
            elif not history.scripted:
                raise

    def _rewrite(self, action: Callable[[], Rewritten]) -> Future[Rewritten]:
        self.history.world.happened["compaction"] += 1
        return at_once(action)


class History:
    """What exists in one seed's world, and what is done to it."""

    def __init__(self, seed: int, climate: Climate, *, tell: bool = False) -> None:
        self.world = world = World(seed, climate, tell=tell)
        self.climate = climate
        chance = world.chance
        self.lake = Lake(world)
        self.start = Edge.LATEST if chance.random() < climate.latest else Edge.EARLIEST
        self.keep_ms = chance.choice((0, 5_000, 3_600_000))
        names: list[Name] = [("n", name) for name in "ab"][: chance.randint(*climate.tables)]
        self.feeds: dict[str, tuple[Name, ...]] = {"t": tuple(names)}
        self.logs = {Partition("t", number): Log() for number in range(chance.randint(1, 3))}
        self.groups = {PIPELINE: Group(world, self.logs)}
        self.topics = {PIPELINE: ("t",)}
        if chance.random() < climate.pipelines:
            self.feeds["u"] = (names[0],)
            self.topics[OTHER] = ("u",)
            self.groups[OTHER] = Group(world, {Partition("u", 0): Log()})
        self.oracle = Oracle(self)
        self.workers: list[Worker] = []
        self.scripted = False
        """A script looks after workers that stop and ask for an operator."""
        self._count = 0
        self._operators = 0

    def live(self) -> None:
        """The director's strand: what happens, and when."""
        chance, world = self.world.chance, self.world
        self._produce()
        for _ in range(chance.randint(*self.climate.workers)):
            self.add()
        if OTHER in self.groups:
            self.add(OTHER)
        kinds, weights = list(self.climate.happens), list(self.climate.happens.values())
        for _ in range(chance.randint(*self.climate.events)):
            world.strands.sleep(chance.choice((0.05, 0.2, 1.0, 3.0)))
            world.deliver()
            what = chance.choices(kinds, weights)[0]
            self.happens(what)
        self.finish()

    def happens(self, what: str) -> None:
        """One event of the list."""
        self.world.say(f"! {what}")
        happened = getattr(self, "_" + what.replace(" ", "_"))()
        self.world.happened[what] += happened is not False

    def add(self, pipeline: str = PIPELINE) -> Worker:
        """Start a worker."""
        self._count += 1
        worker = Worker(self, f"{pipeline}{self._count}", self.topics[pipeline], pipeline)
        self.workers.append(worker)
        return worker

    def ended(self, worker: Worker) -> None:
        """A worker has died or stopped: the group notices after a while, and another is started."""
        self.workers.remove(worker)
        world = self.world
        if world.quiet or world.strands.failure is not None:
            return

        def replace() -> None:
            world.strands.sleep(world.chance.choice((0.0, 1.0, 5.0)))
            if not world.quiet:
                worker.member.group.leave(worker.member)
                if not any(w.name == worker.name for w in self.workers) or world.chance.random() < 0.5:
                    self.add(worker.name)

        world.strands.start(None, replace)

    # What may happen.

    def _produce(self) -> bool:
        for pipeline, group in sorted(self.groups.items()):
            if self.start is Edge.EARLIEST or group.begun:
                for partition in sorted(group.logs):
                    group.append(partition, self.world.chance.randint(*self.climate.records))
            del pipeline
        return True

    def _appended(self) -> bool:
        group = self.groups[self.world.chance.choice(sorted(self.groups))]
        if self.start is Edge.LATEST and not group.begun:
            return False
        group.append(self.world.chance.choice(sorted(group.logs)), self.world.chance.randint(*self.climate.records))
        return True

    def _rebalance(self) -> None:
        self.groups[PIPELINE].rebalance()

    def _alive(self) -> Worker | None:
        alive = [worker for worker in self.workers if not worker.process.dead]
        return self.world.chance.choice(alive) if alive else None

    def _killed(self) -> bool:
        worker = self._alive()
        if worker is not None:
            self.world.kill(worker.process)
        return False  # noted where it is done

    def _stalled(self) -> bool:
        """Its machine stands still for longer than a session; its partitions go to others meanwhile."""
        worker = self._alive()
        if worker is None:
            return False
        self.world.strands.freeze(worker.process, self.world.chance.choice((0.5, 5.0, 20.0)))
        group = worker.member.group
        others = [m for m in group.members if m is not worker.member and not m.process.dead]
        for partition in sorted(group.logs):
            if others and group.owner[partition] is worker.member:
                group.move(partition, self.world.chance.choice(others))
        return True

    def _worker_added(self) -> None:
        self.add()

    def _table(self) -> Any:
        name = self.world.chance.choice(sorted(self.lake.tables)) if self.lake.tables else None
        table = self.lake.catalog(None).load_table(name) if name is not None else None
        return table if table is not None and table.metadata.current_snapshot() is not None else None

    def _foreign_append(self) -> bool:
        table = self._table()
        if table is None:
            return False
        self._count += 1
        rows = {"value": [f"foreign-{self._count}"], **({"note": [None]} if len(table.schema().fields) > 1 else {})}
        table.append(pa.table(rows, table.schema().as_arrow()))
        return True

    def _foreign_compaction(self) -> bool:
        table = self._table()
        if table is None:
            return False
        files = [task.file for task in table.scan().plan_files()]
        if not files:
            return False
        rows = table.scan().to_arrow()
        with table.transaction() as change, change.update_snapshot().overwrite() as snapshot:
            for file in files:
                snapshot.delete_data_file(file)
            for file in _dataframe_to_data_files(change.table_metadata, rows, table.io):
                snapshot.append_data_file(file)
        return True

    def _foreign_expiry(self) -> bool:
        """Somebody expires all that no proof needs; of a foreign head's parents the property alone still tells."""
        table = self._table()
        if table is None:
            return False
        going = self.oracle.expendable(table.metadata)
        if not going:
            return False
        table.maintenance.expire_snapshots().by_ids(going).commit()
        return True

    def _foreign_rollback(self) -> bool:
        table = self._table()
        to = self._earlier(table) if table is not None else None
        if table is None or to is None:
            return False
        self.oracle.check(table)
        self.oracle.rewound = True
        table.manage_snapshots().set_current_snapshot(snapshot_id=to).commit()
        return True

    def _earlier(self, table: Any) -> int | None:
        """A snapshot on the ancestry at which every pipeline that the head knows has an entry."""
        return self.world.chance.choice(found) if (found := self.oracle.proved(table.metadata)[1:]) else None

    def _rollback(self) -> bool:
        """`lakeward rollback`, from a process of its own, with servers as they are."""
        table = self._table()
        to = self._earlier(table) if table is not None else None
        if table is None or to is None:
            return False
        world = self.world
        self.oracle.check(table)
        self.oracle.rewound = True

        def roll_back(target: IcebergTarget) -> None:
            try:
                target.roll_back(target.plan_rollback(to), f"{world.chance.getrandbits(128):032x}")
            except (OperatorError, ConfigurationError):  # it has moved on, or the snapshot has expired meanwhile
                world.happened["rollback refused"] += 1

        self._operate(table, roll_back)
        return True

    def _maintained(self) -> bool:
        """`lakeward maintain`, with all that it can do, from a process of its own."""
        table, world = self._table(), self.world
        if table is None:
            return False

        def maintain(target: IcebergTarget) -> None:
            if world.chance.random() < 0.5:
                world.happened["rewritten"] += target.rewriter.rewrite("") > 0
                target.compact()
            world.happened["gathered"] += target.rewriter.gather() > 0
            target.expire(world.chance.choice((None, 2, 12)))

        self._operate(table, maintain)
        return True

    def _operate(self, table: Any, deed: Callable[[IcebergTarget], None]) -> None:
        """A command on ``table``, with servers as they are."""
        process, world = Process("operator"), self.world
        target = IcebergTarget(
            self.lake.catalog(process),
            TargetSettings(PIPELINE, table.name(), keep_ms=self.keep_ms),
            Clock(world, process),
            random.Random(world.chance.random()),
        )
        self._operators += 1

        def go() -> None:
            try:
                deed(target)
            except LakewardError as error:
                if error.directive is not Directive.RETRY and not isinstance(error, UndecidedError):
                    raise
            finally:
                self._operators -= 1

        world.strands.start(process, go)

    def _schema_changed(self) -> bool:
        table = self._table()
        if table is None or len(table.schema().fields) > 1:
            return False
        with table.update_schema() as change:
            change.add_column("note", StringType())
        return True

    # The end.

    def finish(self) -> None:
        """Nothing goes wrong any more: one worker catches up, and everything must be there."""
        world = self.world
        fresh = world.chance.random() < self.climate.fresh
        world.quiet = True
        if fresh and world.chance.random() < 0.5:
            for worker in list(self.workers):
                world.kill(worker.process)
            world.strands.sleep(0)
        world.deliver(everything=world.chance.random() < 0.5)
        last: list[Worker] = []
        for name in sorted(self.groups):
            left = [
                w for w in self.workers if w.name == name and not w.process.dead and w.member in w.member.group.members
            ]
            worker = left[0] if left and not fresh else self.add(name)
            worker.process.calls_left = 1 << 60
            world.strands.sleep(0.01)
            last.append(worker)
        deadline = world.strands.now + END_S
        while True:
            for worker in last:
                if worker.member in worker.member.group.members:
                    worker.member.group.settle(worker.member)
            world.deliver()
            if not world.held and self.oracle.complete() and not self._busy():
                break
            if world.strands.now > deadline:
                raise WrongTableError(f"not written: {self.oracle.missing()}")
            assert all(not worker.ended for worker in last), "a worker has ended"
            world.strands.sleep(1.0)
        for worker in list(self.workers):
            if worker.pipeline is not None:
                worker.pipeline.stop()
            else:
                world.kill(worker.process)
        while self.workers:
            world.strands.sleep(1.0)

    def _busy(self) -> bool:
        """Whether somebody still has something under way that could change a table."""
        pipelines = [worker.pipeline for worker in self.workers if worker.pipeline is not None]
        return self._operators > 0 or any(lane.committing for pipeline in pipelines for lane in pipeline.lanes)


def climate_of(seed: int) -> Climate:
    """Workers compact in every fourth history; in every eighth, operators maintain tables as well."""
    usual = Climate(compacts=seed % 4 == 3)
    return replace(usual, happens=usual.happens | {"maintained": 4.0}) if seed % 8 == 7 else usual


def play(
    seed: int,
    climate: Climate | None = None,
    script: Callable[[History], None] = History.live,
    *,
    tell: bool = False,
) -> History:
    """Play one history; raise where a table is not what it has to be. ``script``: what is done to the world."""
    history = History(seed, climate or climate_of(seed), tell=tell)
    history.scripted = script is not History.live
    with conditions(history.world):
        try:
            history.world.strands.run(lambda: script(history))
            history.oracle.final()
        except BaseException as error:
            error.add_note(f"again: python -m tests.simulation {seed}")
            raise
    return history
