"""Situations that random histories seldom meet, as scripts of what is done to a world in which all else goes well."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import requests
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.types import StringType
from tests.simulation.history import History, Worker
from tests.simulation.lake import Catalog
from tests.simulation.oracle import WrongTableError
from tests.simulation.strands import Process
from tests.simulation.stream import HOLE, Group, Log, Notice
from tests.simulation.world import Clock

from lakeward.errors import LakewardError, LedgerError, PositionError, TableChangedError
from lakeward.outcomes import Batch, CommitReceipt
from lakeward.positions import Account, Partition
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings

T0, T1 = Partition("t", 0), Partition("t", 1)
TABLE = ("n", "a")


def begin(history: History, partitions: int = 1, count: int = 6) -> Worker:
    """A quiet world: one worker that has written ``count`` records of each partition."""
    history.world.quiet = True
    logs = history.logs
    logs.clear()
    group = history.groups["p"]
    group.owner.clear()
    for number in range(partitions):
        grow(history, Partition("t", number), count)
    worker = history.add()
    history.world.strands.sleep(0.01)
    until_written(history)
    assert group.logs is logs
    return worker


def grow(history: History, partition: Partition, count: int) -> None:
    """Records, none of them a tombstone."""
    group = history.groups["p"] if partition.topic == "t" else history.groups["q"]
    log = group.logs.setdefault(partition, Log())
    group.owner.setdefault(partition, None)
    start = len(log.values)
    log.values += [f"{partition}/{offset}".encode() for offset in range(start, start + count)]


def until_written(history: History) -> None:
    """Wait until all is in the table, and nobody does anything any more."""
    wait(history, lambda: history.oracle.complete() and not history._busy())


def wait(history: History, done: Callable[[], bool], every: float = 0.5) -> None:
    end = history.world.strands.now + 300.0
    while not done():
        if history.world.strands.now > end:
            raise WrongTableError(f"not written: {history.oracle.missing()}")
        history.world.strands.sleep(every)


def stop(history: History) -> None:
    """All workers end as they would when they are told to."""
    for worker in history.workers:
        assert worker.pipeline is not None
        worker.pipeline.stop()
    while history.workers:
        history.world.strands.sleep(0.5)


def stopped(history: History, worker: Worker, *kinds: type[LakewardError]) -> None:
    """Wait until ``worker`` has stopped by itself, and asked for an operator; if it goes on, see what becomes of it."""
    end = history.world.strands.now + 30.0
    while not worker.ended and history.world.strands.now < end:
        history.world.strands.sleep(0.5)
    if not worker.ended:
        history.oracle.check(history.lake.catalog(None).load_table(TABLE))
        raise WrongTableError("it went on, and nothing could be seen")
    assert isinstance(worker.error, kinds), worker.error


def left_to_the_operator(history: History) -> None:
    """Nothing more is promised of this table, and nothing was added to it."""
    history.lake.tables.clear()
    history.logs.clear()


def target(history: History, pipeline: str = "p", catalog: Any = None, **settings: Any) -> IcebergTarget:
    """A handle of a program of its own."""
    clock = Clock(history.world, Process("program"))
    chosen = TargetSettings(pipeline, TABLE, **settings)
    return IcebergTarget(catalog or history.lake.catalog(None), chosen, clock, random.Random(1))


def head(history: History) -> int:
    found = history.lake.tables[TABLE][0].current_snapshot_id
    assert found is not None
    return found


def move_main(history: History, snapshot_id: int) -> None:
    """As another tool rolls back, or forward."""
    history.oracle.rewound = True
    table = history.lake.catalog(None).load_table(TABLE)
    table.manage_snapshots().set_current_snapshot(snapshot_id=snapshot_id).commit()


def foreign_append(history: History, name: str) -> None:
    history.lake.catalog(None).load_table(TABLE).append(pa.table({"value": [f"foreign-{name}"]}))


def expire_all_but_the_head(history: History) -> None:
    """As `expire_snapshots(retain_last => 1)` does."""
    table = history.lake.catalog(None).load_table(TABLE)
    table.maintenance.expire_snapshots().by_ids(
        [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id != table.metadata.current_snapshot_id]
    ).commit()


class Odd(Catalog):
    """A client whose next commit goes as ``fate`` says."""

    fate: Callable[[Callable[[], Any]], Any] | None = None

    def commit_table(self, table: Any, requirements: Any, updates: Any) -> Any:
        fate, self.fate = self.fate, None
        send = super().commit_table
        return send(table, requirements, updates) if fate is None else fate(lambda: send(table, requirements, updates))


def odd(history: History) -> Odd:
    return Odd(history.lake, None)


def appended(number: int) -> Batch:
    """A library's append of one row: no claim but its handle and number."""
    rows = pa.table({"value": [f"foreign-append-{number}"]})
    return Batch(f"append-{number}", [rows], {}, {}, {}, Account(1, 1, 0), writer=("handle", number))


def rival(history: History) -> None:
    """Another program of the same pipeline appends a row of its own."""
    program = target(history)
    program.find()
    rows = pa.table({"value": ["foreign-rival"]})
    batch = Batch("rival", [rows], {}, {}, {}, Account(1, 1, 0), writer=("rival", 1))
    assert isinstance(program.commit(program.stage(batch)), CommitReceipt)


def _append(history: History, fate: Callable[[Callable[[], Any]], Any]) -> None:
    begin(history)
    stop(history)
    client = odd(history)
    program = target(history, catalog=client)
    program.find()
    staged = program.stage(appended(1))
    client.fate = fate
    assert isinstance(program.commit(staged), CommitReceipt)


def append_that_landed(history: History) -> None:
    errors = (requests.ReadTimeout("lost"), CommitFailedException("a proxy delivered it twice"))

    def landed(send: Callable[[], Any]) -> Any:
        send()
        rival(history)
        raise history.world.chance.choice(errors)

    _append(history, landed)


def given_back_while_filling(history: History) -> None:
    worker = begin(history)
    grow(history, T0, 2)
    assert worker.pipeline is not None
    lane = worker.pipeline.lanes[0]
    wait(history, lambda: not (lane.engaged or lane.filling.empty), every=0.01)
    now = history.world.strands.now
    worker.member.inbox += [Notice(now, given=False, partition=T0), Notice(now, given=True, partition=T0)]
    until_written(history)
    stop(history)


def rolled_back_before_a_rebalance(history: History) -> None:
    worker = begin(history, partitions=2)
    early = head(history)
    grow(history, T0, 5)
    until_written(history)
    move_main(history, early)
    now = history.world.strands.now
    worker.member.inbox += [Notice(now, given=False, partition=T1), Notice(now, given=True, partition=T1)]
    until_written(history)
    stop(history)


def rolled_back_before_a_commit_of_others(history: History) -> None:
    begin(history, partitions=2)
    early = head(history)
    grow(history, T0, 5)
    until_written(history)
    move_main(history, early)
    grow(history, T1, 3)
    until_written(history)
    stop(history)


def rolled_back_and_expired(history: History) -> None:
    begin(history)
    early = head(history)
    grow(history, T0, 5)
    until_written(history)
    stop(history)
    move_main(history, early)
    foreign_append(history, "after")
    expire_all_but_the_head(history)
    worker = history.add()
    stopped(history, worker, LedgerError)
    left_to_the_operator(history)


def expired_under_two_pipelines(history: History) -> None:
    begin(history)
    history.feeds["u"] = (TABLE,)
    history.topics["q"] = ("u",)
    history.groups["q"] = Group(history.world, {})
    grow(history, Partition("u", 0), 4)
    history.add("q")
    until_written(history)
    for _ in range(2):
        grow(history, T0, 3)
        until_written(history)
    expire_all_but_the_head(history)
    grow(history, Partition("u", 0), 4)
    until_written(history)
    stop(history)


def renamed(history: History) -> None:
    begin(history)
    stop(history)
    history.topics["q"] = ("t",)
    history.groups["q"] = Group(history.world, history.logs)
    worker = history.add("q")
    end = history.world.strands.now + 30.0
    while not worker.ended and history.world.strands.now < end:
        history.world.strands.sleep(0.5)
    del history.groups["q"]
    history.oracle.check(history.lake.catalog(None).load_table(TABLE))
    assert isinstance(worker.error, LedgerError)


def dropped_and_created_again(history: History) -> None:
    worker = begin(history)
    metadata, _ = history.lake.tables[TABLE]
    empty = metadata.model_copy(
        update={
            "table_uuid": uuid.UUID(int=7),
            "snapshots": [],
            "refs": {},
            "current_snapshot_id": None,
            "snapshot_log": [],
            "properties": {},
        }
    )
    history.lake.put(TABLE, empty)
    grow(history, T0, 4)
    stopped(history, worker, TableChangedError)
    assert history.oracle.positions(history.lake.tables[TABLE][0], "p") == {}
    left_to_the_operator(history)


def topic_created_again(history: History) -> None:
    begin(history)
    stop(history)
    before = list(history.logs[T0].values)
    history.groups["p"].ids["t"] = "another"
    history.logs[T0].values[:] = [f"t/0/new-{offset}".encode() for offset in range(9)]
    history.logs[T0].values[5] = HOLE  # where the last record read was: nothing to compare it with
    _stops_and_asks(history, before)


def log_written_again(history: History) -> None:
    begin(history)
    stop(history)
    before = list(history.logs[T0].values)
    history.logs[T0].values[3:] = [f"t/0/new-{offset}".encode() for offset in range(3, 9)]
    _stops_and_asks(history, before)


def _stops_and_asks(history: History, before: list[bytes | None]) -> None:
    worker = history.add()
    stopped(history, worker, PositionError)
    history.logs[T0].values[:] = before  # what the table holds is what its own topic said


def rolled_back_and_forward(history: History) -> None:
    begin(history)
    early = head(history)
    stop(history)
    client = odd(history)
    program = target(history, catalog=client)
    program.find()
    staged = program.stage(appended(1))
    made: list[int] = []

    def landed_and_rolled_back(send: Callable[[], Any]) -> Any:
        send()
        made.append(head(history))
        move_main(history, early)
        raise requests.ReadTimeout("lost")

    client.fate = landed_and_rolled_back
    program.commit(staged)
    move_main(history, made[0])


def column_replaced_while_staged(history: History) -> None:
    begin(history)
    stop(history)
    program = target(history)
    program.find()
    staged = program.stage(appended(1))
    table = history.lake.catalog(None).load_table(TABLE)
    with table.update_schema() as change:
        change.rename_column("value", "old")
    with table.update_schema() as change:
        change.add_column("value", StringType())
    program.commit(staged)
    held = history.lake.catalog(None).load_table(TABLE).scan().to_arrow()
    if held["value"].to_pylist().count("foreign-append-1") != 1:
        raise WrongTableError("the row is not in the column that it was written for")
    left_to_the_operator(history)  # the column that the oracle reads has another name now


def rolled_back_while_expiring(history: History) -> None:
    begin(history)
    for _ in range(6):
        grow(history, T0, 2)
        until_written(history)
    stop(history)
    client = odd(history)
    program = target(history, catalog=client, keep_ms=0)
    program.find()

    def overtaken(send: Callable[[], Any]) -> Any:
        move_main(history, history.lake.tables[TABLE][0].snapshots[0].snapshot_id)
        return send()

    client.fate = overtaken
    program.expire()
    if history.lake.tables[TABLE][0].current_snapshot() is None:
        raise WrongTableError("the table is empty")
    history.add()
    history.world.strands.sleep(0.01)
    until_written(history)
    stop(history)


def expired_below_others(history: History) -> None:
    begin(history)
    stop(history)
    for number in range(6):
        foreign_append(history, str(number))
        history.world.strands.sleep(1.0)
    target(history, keep_ms=0).expire()
    grow(history, T0, 3)
    history.add()
    history.world.strands.sleep(0.01)
    until_written(history)
    stop(history)
