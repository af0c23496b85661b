"""B2 and F5 in the loop, on an Iceberg table: a writer whose table somebody else has moved."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.errors import LakewardError, TableChangedError, UnreachableError
from lakeward.lanes import Lane, LaneSettings
from lakeward.ledger import LedgerEntry
from lakeward.outcomes import Found
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Partition, Position
from lakeward.retrying import Patience
from lakeward.sinks.iceberg.history import Record
from lakeward.testing.lake import Lake
from lakeward.testing.memory import MemorySource, MemoryTable, MemoryTarget, TextDecoder

P0 = Partition("t", 0)
PATIENCE_S = 30.0


class World:
    """Topic ``t`` into the table shop.values, by a pipeline that flushes every 20 ms and looks every 200."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.source = MemorySource()
        self.failures: list[BaseException] = []

    def pipeline(self) -> Pipeline:
        target = self.lake.target("test", clock=SystemClock())
        lanes = [Lane(target, TextDecoder(), LaneSettings(FlushPolicy(0.02, 1_000, 1 << 30)))]
        settings = PipelineSettings("test", ("t",), patience=Patience(0.001, 0.01, 5.0))
        self.source._at.clear()
        return Pipeline(settings, self.source, lambda _: lanes, SystemClock(), random.Random())

    def send(self, first: int, last: int) -> None:
        self.source.append("t", 0, [f"v{number}".encode() for number in range(first, last)])

    def catch_up(self) -> int:
        """Run until caught up; the snapshot that this leaves."""
        self.pipeline().run(Until(caught_up=True))
        head = self.lake.table().metadata.current_snapshot_id
        assert head is not None
        return head

    @contextmanager
    def running(self) -> Iterator[None]:
        pipeline = self.pipeline()

        def run() -> None:
            try:
                pipeline.run(Until())
            except BaseException as failure:  # noqa: BLE001 -- for the test to look at
                self.failures.append(failure)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            pipeline.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def until_held(self, first: int, last: int) -> None:
        wanted = sorted((f"v{number}",) for number in range(first, last))
        until(lambda: bool(self.failures) or sorted(self.lake.rows().elements()) == wanted)
        assert not self.failures

    def history(self) -> list[Record]:
        return self.lake.target("test").history()

    def roll_back(self, snapshot_id: int) -> None:
        operator = self.lake.target("test")
        operator.roll_back(operator.plan_rollback(snapshot_id), "undo")

    def foreign_rewind(self, snapshot_id: int) -> None:
        self.lake.table().manage_snapshots().rollback_to_snapshot(snapshot_id).commit()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    properties = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}
    with Lake(properties, ("shop", "values")) as lake:
        yield World(lake)


@pytest.mark.parametrize("by", ["us", "another tool"])
def test_b2_a_writer_whose_stream_is_silent_notices_a_rollback_and_writes_the_undone_again(
    world: World, by: str
) -> None:
    world.send(0, 10)
    first = world.catch_up()
    with world.running():
        world.send(10, 20)
        world.until_held(0, 20)
        world.roll_back(first) if by == "us" else world.foreign_rewind(first)
        world.until_held(0, 20)
    assert world.lake.breaks("test") == []


@pytest.mark.parametrize("by", ["us", "another tool"])
def test_b2_a_start_after_a_rollback_continues_at_the_old_position(world: World, by: str) -> None:
    world.send(0, 10)
    first = world.catch_up()
    world.send(10, 20)
    world.catch_up()
    world.roll_back(first) if by == "us" else world.foreign_rewind(first)
    world.send(20, 30)
    world.catch_up()
    world.until_held(0, 30)
    assert world.lake.breaks("test") == []


def test_b2_a_rewind_by_another_tool_is_anchored_before_new_data(world: World) -> None:
    world.send(0, 10)
    first = world.catch_up()
    world.send(10, 20)
    world.catch_up()
    world.foreign_rewind(first)
    world.catch_up()
    line = [record for record in world.history() if record.on_ancestry]
    after = line[[record.snapshot_id for record in line].index(first) + 1 :]
    assert after[0].added.rows == 0
    assert after[0].entry is not None
    assert {p: at.next for p, at in after[0].entry.positions.items()} == {P0: 10}
    assert sum(record.added.rows for record in after[1:]) == 10


def test_b2_a_rollback_under_a_busy_writer_loses_and_doubles_nothing(world: World) -> None:
    world.send(0, 10)
    first = world.catch_up()
    with world.running():
        for start in range(10, 300, 10):
            world.send(start, start + 10)
            if start in (50, 150, 250):
                until(lambda: world.lake.table().metadata.current_snapshot_id != first)
                try_until_done(lambda: world.roll_back(first))
        world.until_held(0, 300)
    assert world.lake.breaks("test") == []
    assert sum(1 for record in world.history() if "lakeward-undoes" in record.summary) == 3


def try_until_done(action: Callable[[], None]) -> None:
    """A commit that is faster wins over a rollback; then it is tried again."""
    for _ in range(50):
        try:
            action()
        except LakewardError:
            continue
        return
    raise AssertionError("never done")


def test_b2_two_workers_each_go_back_with_their_own_partitions(world: World) -> None:
    rival = World(world.lake)
    world.send(0, 10)
    first = world.catch_up()
    with world.running(), rival.running():
        world.send(10, 20)
        rival.source.append("t", 1, [f"v{number}".encode() for number in range(20, 40)])
        rival.source.assign(Partition("t", 1))
        world.until_held(0, 40)
        try_until_done(lambda: world.roll_back(first))
        world.until_held(0, 40)
    assert not rival.failures
    assert world.lake.breaks("test") == []


def test_f5_a_silent_writer_states_its_positions_above_a_commit_of_somebody_else(world: World) -> None:
    world.send(0, 10)
    world.catch_up()
    with world.running():
        world.lake.table().append(pa.table({"value": ["v10"]}))
        until(lambda: world.lake.target("test").find().at_head)
        world.until_held(0, 11)
    assert world.lake.breaks("test") == []


def test_b4_a_silent_writer_notices_that_its_table_was_dropped(world: World) -> None:
    world.send(0, 10)
    with world.running():
        until(lambda: world.lake.catalog.table_exists(world.lake.name))
        world.until_held(0, 10)
        world.lake.catalog.drop_table(("shop", "values"))
        until(lambda: bool(world.failures))
    assert isinstance(world.failures[0], TableChangedError)


def test_a_look_that_no_server_answers_is_tried_again(world: World) -> None:
    """The table's own target, but its first looks fail; then somebody moves it."""
    table, source = MemoryTable(), MemorySource()
    source.append("t", 0, [b"v0", b"v1"])
    looks = {"asked": 0}

    class Absent(MemoryTarget):
        def find(self) -> Found:
            looks["asked"] += 1
            if looks["asked"] in (3, 4):
                raise UnreachableError("catalog away")
            return super().find()

    lanes = [Lane(Absent("a", table), TextDecoder(), LaneSettings(FlushPolicy(0.01, 1_000, 1 << 30)))]
    pipeline = Pipeline(PipelineSettings("test", ("t",)), source, lambda _: lanes, SystemClock(), random.Random())
    thread = threading.Thread(target=pipeline.run, args=(Until(),), daemon=True)
    thread.start()
    until(lambda: table.rows == ["v0", "v1"])
    with table.lock:
        table.rows.clear()
        table.entry = LedgerEntry("memory", "undo", 9, {P0: Position(0)})
    until(lambda: table.rows == ["v0", "v1"])
    assert looks["asked"] > 4
    pipeline.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
