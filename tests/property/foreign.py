"""A seed's history of one real Iceberg table that others change while lakeward writes to it.

Who writes: a worker (the loop itself, two partitions), a rival of the same pipeline with a partition of its own, and
another pipeline. Who interferes: plain PyIceberg, between any two of their calls to the catalog.

The oracle is kept beside the table: for each snapshot, the rows that it must hold and where each partition stands,
from what its parent held, from what was sent, and from what the foreign action was.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

import pyarrow as pa
import requests
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.transforms import BucketTransform
from pyiceberg.types import LongType

from lakeward.batching import FlushPolicy
from lakeward.errors import Directive, LakewardError, LedgerError, SchemaMismatchError, TableChangedError
from lakeward.lanes import Lane, LaneSettings
from lakeward.ledger import key_of
from lakeward.outcomes import Batch, CommitReceipt, Refused
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Account, Partition, Position, Span
from lakeward.records import Polled
from lakeward.retrying import Patience
from lakeward.sinks.iceberg.find import entry_in
from lakeward.sinks.iceberg.rollback import UNDOES
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Call, Plan
from lakeward.testing.lake import EPOCH_MS, Lake, commit
from lakeward.testing.memory import Log, MemorySource, TextDecoder

P, Q = "p", "q"
OWN = (Partition("t", 0), Partition("t", 1))
RIVALS, OTHERS = Partition("t", 2), Partition("q", 0)
PIPELINE_OF = {**dict.fromkeys((*OWN, RIVALS), P), OTHERS: Q}
MOST_POLLS = 3_000
FOREVER = 1e12
FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class State:
    """What a snapshot holds, and up to where it holds the stream: the next offset of each partition."""

    rows: Counter[str] = field(default_factory=Counter)
    ends: dict[Partition, int] = field(default_factory=dict)


class Time:
    """Goes on by a little whenever it is asked for."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = 0.0

    def now_ms(self) -> int:
        return EPOCH_MS + round(self._now * 1000)

    def monotonic(self) -> float:
        self._now += self._chance.random() * 0.05
        return self._now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._now += seconds
        return event.is_set()


class Steps:
    """Stands in for the committing threads: what was submitted is done at a later poll."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, work, arguments))
        return future

    def step(self) -> None:
        future, work, arguments = self.waiting.pop(0)
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001 -- as an executor's thread does
            future.set_exception(error)

    def shutdown(self, **_: object) -> None:
        """What was not begun never is."""


class Stream(MemorySource):
    """Lets the history go on whenever it is polled."""

    def __init__(self, history: History) -> None:
        super().__init__(step=history.chance.randint(1, 12))
        self._history = history

    def open(self) -> None:
        self._at.clear()
        self._paused.clear()
        self._assign = set(self.logs)

    def poll(self, timeout: float) -> Polled:
        self._history.go_on()
        return super().poll(timeout)


class Writer:
    """A worker of one partition, spoken to at the seam: commits what comes next where it believes to be."""

    def __init__(self, history: History, partition: Partition) -> None:
        self._history = history
        self._partition = partition
        self._target: IcebergTarget | None = None
        self._next: int | None = None
        self._known = False
        self.log = Log()

    def restart(self) -> None:
        self._target, self._next = None, None

    def turn(self) -> None:
        pipeline = PIPELINE_OF[self._partition]
        try:
            self._target = self._target or self._history.target(pipeline)
            if self._next is None:
                entry = self._target.find().entry
                self._known = entry is not None and self._partition in entry.positions
                self._next = entry.positions[self._partition].next if entry is not None and self._known else 0
            end = min(len(self.log.values), self._next + self._history.chance.randint(1, 9))
            if end > self._next:
                self._commit(self._target, self._next, end)
        except LakewardError as error:
            self.restart()
            self._history.judge(error)

    def _commit(self, target: IcebergTarget, start: int, end: int) -> None:
        values = [value.decode() for value in self.log.values[start:end] if value is not None]
        rows = pa.table({"value": pa.array(values, pa.string())})
        made = Batch(
            id=f"{self._partition.topic}{self._partition.number}-{next(self._history.numbers)}",
            parts=[rows] if values else [],
            claim={self._partition: Span(start, end)},
            upto={self._partition: Position(end)},
            sources={self._partition.topic: None},
            account=Account(len(values), len(values), 0),
            known=frozenset({self._partition} if self._known else ()),
        )
        outcome = commit(target, made)
        self._history.happened["refused"] += isinstance(outcome, Refused)
        if isinstance(outcome, CommitReceipt):
            self._next, self._known = end, True
        else:
            self._next = None


class History:
    """Plays a seed: `run` is one life of the worker, `finish` one in which nobody interferes any more."""

    def __init__(self, seed: int, lake: Lake) -> None:
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.numbers = count(1)
        self.lake = lake
        self.clock = Time(self.chance)
        self.states: dict[int, State] = {}
        self.source = Stream(self)
        self.rival, self.other = Writer(self, RIVALS), Writer(self, OTHERS)
        self.plan = Plan()
        self.runs_left = self.chance.randint(1, 4)
        self.quiet = True
        self.excused: set[type[LakewardError]] = set()
        self._parents: dict[int, int | None] = {}
        self._tampered: set[str] = set()
        self._seen: set[tuple[UUID, str]] = set()
        self._spoken: dict[int, set[str]] = {}
        self._retained: set[int] = set()
        self._acting = False
        self._polls, self._stop_at = 0, FOREVER
        self._steps = Steps()
        self._pipeline: Pipeline | None = None
        for partition in OWN:
            self.source.logs[partition] = Log()
            self.append(partition)
        self.logs = {**self.source.logs, RIVALS: self.rival.log, OTHERS: self.other.log}
        self.plan.always("load_table", self._meddle)
        self.plan.always("commit_table", self._meddle)

    # What is sent.

    def append(self, partition: Partition) -> None:
        log = self.source.logs.get(partition) or (self.rival.log if partition == RIVALS else self.other.log)
        for _ in range(self.chance.randint(1, 12)):
            log.values.append(f"{partition}/{len(log.values)}".encode())
            log.times.append(0)

    def target(self, pipeline: str) -> IcebergTarget:
        return self.lake.target(pipeline, self.plan, self.clock)

    # The oracle.

    def table(self) -> Table | None:
        return self.lake.table() if self.lake.catalog.table_exists(self.lake.name) else None

    def sync(self) -> Table | None:
        """Take over the snapshots that lakeward has made since: each must extend its parent, whatever else it says."""
        table = self.table()
        if table is None:
            return None
        self._retained = {snapshot.snapshot_id for snapshot in table.metadata.snapshots}
        for snapshot in sorted(table.metadata.snapshots, key=lambda s: s.sequence_number or 0):
            if snapshot.snapshot_id not in self.states:
                self._parents[snapshot.snapshot_id] = snapshot.parent_snapshot_id
                self.states[snapshot.snapshot_id] = self._extended(snapshot)
                self._seen |= {(table.metadata.table_uuid, n) for n in self._spoken[snapshot.snapshot_id]}
        return table

    def _extended(self, snapshot: Snapshot) -> State:
        parent = snapshot.parent_snapshot_id
        before = self.states[parent] if parent is not None else State()
        assert snapshot.summary is not None
        self._spoken[snapshot.snapshot_id] = {name for name in (P, Q) if entry_in(snapshot, name) is not None}
        if UNDOES in snapshot.summary.additional_properties:
            return before
        rows, ends, claims = Counter(before.rows), dict(before.ends), 0
        for pipeline in (P, Q):
            entry = entry_in(snapshot, pipeline)
            for partition, span in (entry.claim if entry else {}).items():
                claims += 1
                at = ends.get(partition, 0)
                assert span.start == at, f"{partition}: [{span.start}, {span.end}) was added where {at} comes next"
                rows.update(v.decode() for v in self.logs[partition].values[span.start : span.end] if v is not None)
                ends[partition] = span.end
        assert claims, f"snapshot {snapshot.snapshot_id} claims nothing"
        self._tampered -= {P, Q}  # it has written both properties anew, where there was an entry to write
        return State(rows, ends)

    def provable(self, metadata: TableMetadata, pipeline: str) -> bool:
        """Whether what is retained tells where ``pipeline`` stands: walked along the parents as they really were."""
        retained = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
        text = metadata.properties.get(key_of(pipeline))
        at, beside = metadata.current_snapshot_id, False
        while at is not None and at in retained:
            if entry_in(retained[at], pipeline) is not None:
                return True
            if self._picked(retained[at], pipeline):
                return False
            beside = beside or any(entry_in(retained[at], name) is not None for name in (P, Q))
            at = self._parents[at]
        if text is not None:
            return at is not None and f'"snapshot":{at}' in text
        # Never there; or there once, and its absence is proved.
        return at is None or beside or (metadata.table_uuid, pipeline) not in self._seen

    def _picked(self, snapshot: Snapshot, pipeline: str) -> bool:
        """Whether its files are those of a commit that said where ``pipeline`` stands, or may be."""
        assert snapshot.summary is not None
        source = snapshot.summary.additional_properties.get("source-snapshot-id")
        return source is not None and (pipeline in self._spoken[int(source)] or int(source) not in self._retained)

    def is_provable(self, metadata: TableMetadata) -> bool:
        """Both at once: who commits restates the other's position too (PROTOCOL I5)."""
        return all(self.provable(metadata, name) for name in (P, Q))

    def judge(self, error: LakewardError) -> None:
        """An error is right where nothing proves a position, or an operator's hand is in it; else it is one of ours."""
        table = self.sync()
        self.happened[type(error).__name__] += 1
        if type(error) in self.excused or error.directive is Directive.RETRY:
            return
        doubtful = table is not None and not self.is_provable(table.metadata)
        if not (isinstance(error, LedgerError) and doubtful):
            raise error

    def check(self) -> None:
        """The head holds what the oracle says, and the table says where each pipeline continues, or that it cannot."""
        table = self.sync()
        if table is None or table.metadata.current_snapshot_id is None:
            return
        state = self.states[table.metadata.current_snapshot_id]
        held = Counter(table.scan(selected_fields=(self._column(table),)).to_arrow().column(0).to_pylist())
        assert held == state.rows, {"lost": state.rows - held, "doubled": held - state.rows}
        provable = self.is_provable(table.metadata)
        for pipeline in (P, Q):
            target = self.lake.target(pipeline)
            if not provable:
                try:
                    target.find()
                except LedgerError:
                    continue
                raise AssertionError("a position was guessed")
            entry = target.find().entry
            told = {p: at.next for p, at in entry.positions.items()} if entry is not None else {}
            assert told == {p: end for p, end in state.ends.items() if PIPELINE_OF[p] == pipeline}, pipeline

    @staticmethod
    def _column(table: Table) -> str:
        return table.schema().fields[0].name

    # A worker's life.

    def run(self) -> None:
        self.runs_left -= 1
        self.quiet = False
        self._stop_at = self.chance.randint(5, 60)
        try:
            self._live(Until())
        except LakewardError as error:
            self.judge(error)
        finally:
            self.quiet = True
        self.repair()

    def finish(self) -> None:
        self._stop_at = FOREVER
        self.repair()
        self._live(Until(caught_up=True))
        for writer, partition in ((self.rival, RIVALS), (self.other, OTHERS)):
            writer.restart()
            for _ in range(len(self.logs[partition].values) + 2):
                writer.turn()
                self.sync()
        self._live(Until(caught_up=True))

    def _live(self, until: Until) -> None:
        flush = FlushPolicy(self.chance.choice([0.0, 0.5, 3.0]), self.chance.randint(1, 30), 1 << 30)
        self._steps, self._polls = Steps(), 0
        lane = Lane(self.target(P), TextDecoder(), LaneSettings(flush))
        settings = PipelineSettings(P, ("t",), patience=Patience(0.01, 0.1, FOREVER), drain_s=FOREVER)
        self._pipeline = pipeline = Pipeline(settings, self.source, lambda _: [lane], self.clock, self.chance)
        pipeline._executor.shutdown()
        pipeline._executor = self._steps  # type: ignore[assignment]
        pipeline._watching._submit = self._steps.submit
        try:
            pipeline.run(until)
        finally:
            self._pipeline = None

    def go_on(self) -> None:
        """Between two polls: commits end, records come, others write and interfere."""
        self._polls += 1
        assert self._polls < MOST_POLLS, "the run does not end"
        if self._pipeline is not None and self._polls >= self._stop_at:
            self._pipeline.stop()
        chance = self.chance
        while self._steps.waiting and (self.quiet or chance.random() < 0.5):
            self._steps.step()
        if self._polls % 4 == 0:
            self.sync()  # before lakeward's own expiry takes away what was not seen yet
        if self.quiet:
            return
        if chance.random() < 0.2:
            self.append(chance.choice([*OWN, RIVALS, OTHERS]))
        if chance.random() < 0.1:
            chance.choice([self.rival, self.other]).turn()
        if chance.random() < 0.02:
            chance.choice([self.rival, self.other]).restart()
        if chance.random() < 0.1:
            self.interfere()

    # What others do.

    def _meddle(self, call: Call) -> Any:
        """Stands in front of the catalog: somebody else may act before the call, and after it before its answer."""
        if self.quiet or self._acting:
            return call()
        if self.chance.random() < 0.06:
            self.interfere()
        answer = call()
        if self.chance.random() < 0.06:
            self.interfere()
        if self.chance.random() < 0.04:
            self.happened["lost answer"] += 1
            raise requests.ReadTimeout("planned")
        return answer

    def interfere(self) -> None:
        """One foreign action, drawn from those that are possible now."""
        if self._acting:
            return
        table = self.sync()
        if table is None or table.metadata.current_snapshot_id is None:
            return
        self._acting = True
        try:
            name = self.chance.choices([*ACTIONS], [weight for _, weight in ACTIONS.values()])[0]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Delete operation did not match any records")
                done = ACTIONS[name][0](self, table)
            self.happened[name] += done is not False
            after = self.table()
            if after is not None and not self.is_provable(after.metadata):
                self.excused.add(LedgerError)  # whoever looks now; the next action may set it right
        finally:
            self._acting = False

    def _head(self, table: Table) -> State:
        assert table.metadata.current_snapshot_id is not None
        return self.states[table.metadata.current_snapshot_id]

    def _note(self, table: Table, state: State) -> None:
        """Foreign snapshots: the newest holds ``state``; those on the way to it hold what their own reader says."""
        after = self.lake.table()
        new = [s for s in after.metadata.snapshots if s.snapshot_id not in self.states]
        for snapshot in sorted(new, key=lambda s: s.sequence_number or 0):
            parent = snapshot.parent_snapshot_id
            ends = self.states[parent].ends if parent is not None else {}
            rows = Counter(after.scan(snapshot_id=snapshot.snapshot_id).to_arrow().column(0).to_pylist())
            self._parents[snapshot.snapshot_id] = parent
            self._spoken[snapshot.snapshot_id] = set()
            self.states[snapshot.snapshot_id] = State(rows, ends)
        if new:
            newest = max(new, key=lambda s: s.sequence_number or 0)
            assert self.states[newest.snapshot_id] == state
        del table

    def _rows(self, table: Table, values: list[str]) -> pa.Table:
        return pa.table({self._column(table): pa.array(values, pa.string())})

    def append_rows(self, table: Table) -> bool | None:
        state = self._head(table)
        values = [f"{FOREIGN}/{next(self.numbers)}" for _ in range(self.chance.randint(1, 4))]
        table.append(self._rows(table, values))
        self._note(table, State(state.rows + Counter(values), state.ends))
        return None

    def append_to_branch(self, table: Table) -> bool | None:
        branches = [name for name in table.metadata.refs if name.startswith("b")]
        if not branches:
            branches = [f"b{next(self.numbers)}"]
            table.manage_snapshots().create_branch(table.metadata.current_snapshot_id, branches[0]).commit()
            table = self.lake.table()
        branch = self.chance.choice(branches)
        state = self.states[table.metadata.refs[branch].snapshot_id]
        value = f"{FOREIGN}/{next(self.numbers)}"
        table.append(self._rows(table, [value]), branch=branch)
        self._note(table, State(state.rows + Counter([value]), state.ends))
        return None

    def delete_rows(self, table: Table) -> bool | None:
        state = self._head(table)
        if not state.rows:
            return False
        going = self.chance.sample(sorted(state.rows), min(len(state.rows), self.chance.randint(1, 5)))
        table.delete(f"{self._column(table)} in ({', '.join(repr(value) for value in going)})")
        self._note(table, State(Counter({v: n for v, n in state.rows.items() if v not in going}), state.ends))
        return None

    def rewrite(self, table: Table) -> bool | None:
        state = self._head(table)
        table.overwrite(table.scan().to_arrow())
        self._note(table, state)
        return None

    def update_row(self, table: Table) -> bool | None:
        state = self._head(table)
        if not state.rows:
            return False
        old, new = self.chance.choice(sorted(state.rows)), f"{FOREIGN}/{next(self.numbers)}"
        table.overwrite(self._rows(table, [new]), f"{self._column(table)} == '{old}'")
        rows = Counter({value: n for value, n in state.rows.items() if value != old})
        self._note(table, State(rows + Counter([new]), state.ends))
        return None

    def expire(self, table: Table) -> bool | None:
        """Some snapshots, or all but those that refs name; what proves our positions may be among them."""
        named = {ref.snapshot_id for ref in table.metadata.refs.values()}
        going = [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id not in named]
        if self.chance.random() < 0.5:
            going = [snapshot_id for snapshot_id in going if self.chance.random() < 0.5]
        # Both of our records taken away at once: nothing is left that could tell (see the unit tests).
        if not going or self._tampered:
            return False
        table.maintenance.expire_snapshots().by_ids(going).commit()
        return None

    def roll_back(self, table: Table) -> bool | None:
        chosen = self.chance.choice(table.metadata.snapshots)
        table.manage_snapshots().set_current_snapshot(snapshot_id=chosen.snapshot_id).commit()
        return None

    def make_ref(self, table: Table) -> bool | None:
        chosen, number = self.chance.choice(table.metadata.snapshots).snapshot_id, next(self.numbers)
        if self.chance.random() < 0.5:
            table.manage_snapshots().create_tag(chosen, f"t{number}").commit()
        else:
            table.manage_snapshots().create_branch(chosen, f"b{number}").commit()
        return None

    def drop_ref(self, table: Table) -> bool | None:
        names = sorted(set(table.metadata.refs) - {"main"})
        if not names:
            return False
        name = self.chance.choice(names)
        change = table.manage_snapshots()
        (change.remove_branch if name.startswith("b") else change.remove_tag)(name).commit()
        return None

    def cherry_pick(self, table: Table) -> bool | None:
        """As Spark's procedure does it: the files that a snapshot added, appended, and its id in the summary."""
        held = {task.file.file_path for task in table.scan().plan_files()}
        spec = table.spec().spec_id
        fit: list[tuple[Snapshot, int, list[DataFile]]] = []
        for snapshot in table.metadata.snapshots:
            files, parent = added_by(snapshot, table.io), self._parents[snapshot.snapshot_id]
            beside = all(file.file_path not in held and file.spec_id == spec for file in files)
            appends = snapshot.summary is not None and snapshot.summary.operation is Operation.APPEND
            if files and beside and appends and parent is not None:
                fit.append((snapshot, parent, files))
        if not fit:
            return False
        source, parent, files = self.chance.choice(fit)
        if parent == table.metadata.current_snapshot_id:
            table.manage_snapshots().set_current_snapshot(snapshot_id=source.snapshot_id).commit()
            return None
        state = self._head(table)
        picked = self.states[source.snapshot_id].rows - self.states[parent].rows
        with (
            table.transaction() as change,
            change.update_snapshot({"source-snapshot-id": str(source.snapshot_id)}).fast_append() as append,
        ):
            for file in files:
                append.append_data_file(file)
        self._note(table, State(state.rows + picked, state.ends))
        return None

    def set_properties(self, table: Table) -> bool | None:
        with table.transaction() as change:
            change.set_properties({"owner": str(next(self.numbers)), "commit.retry.num-retries": "3"})
        return None

    def remove_our_property(self, table: Table) -> bool | None:
        pipeline = self.chance.choice([P, Q])
        if key_of(pipeline) not in table.properties:
            return False
        metadata = table.metadata
        if not any(entry_in(s, pipeline) for s in metadata.snapshots):
            return False
        with table.transaction() as change:
            change.remove_properties(key_of(pipeline))
        self._tampered.add(pipeline)
        return None

    def add_column(self, table: Table) -> bool | None:
        table.update_schema().add_column(f"c{next(self.numbers)}", LongType()).commit()
        return None

    def rename_column(self, table: Table) -> bool | None:
        """Stops us: the records have a column that the table lacks. `repair` gives it its name back."""
        if self._column(table) != "value":
            return False
        table.update_schema().rename_column("value", "text").commit()
        self.excused.add(SchemaMismatchError)
        return None

    def change_spec(self, table: Table) -> bool | None:
        spec = table.spec()
        if spec.fields:
            table.update_spec().remove_field(spec.fields[0].name).commit()
        else:
            table.update_spec().add_field(self._column(table), BucketTransform(2), f"s{next(self.numbers)}").commit()
        return None

    def rename_table(self, table: Table) -> bool | None:
        """Stops us: the table is gone under its name. `repair` gives it back."""
        if self.lake.catalog.table_exists(self._aside):
            return False
        self.lake.catalog.rename_table(self.lake.name, self._aside)
        self.excused.add(TableChangedError)
        return None

    def recreate(self, table: Table) -> bool | None:
        """Stops us; the next start writes the new table from the beginning."""
        schema = table.schema()
        self.lake.catalog.drop_table(self.lake.name)
        self.lake.catalog.create_table(self.lake.name, schema)
        self.excused.add(TableChangedError)
        self._tampered.clear()
        return None

    @property
    def _aside(self) -> tuple[str, ...]:
        return (*self.lake.name[:-1], f"{self.lake.name[-1]}_aside")

    # What an operator does about it.

    def repair(self) -> None:
        """Give names back; where nothing proves a position any more, roll back to where something does."""
        if self.lake.catalog.table_exists(self._aside):
            if self.lake.catalog.table_exists(self.lake.name):  # made anew by a start in between
                self.lake.catalog.drop_table(self.lake.name)
            self.lake.catalog.rename_table(self._aside, self.lake.name)
        table = self.sync()
        if table is not None and self._column(table) != "value":
            table.update_schema().rename_column("text", "value").commit()
        if self.excused:
            self.rival.restart()
            self.other.restart()
        self.excused.clear()
        if table is None or self.is_provable(table.metadata):
            return
        self.rival.restart()
        self.other.restart()
        for snapshot in sorted(table.metadata.snapshots, key=lambda s: -(s.sequence_number or 0)):
            target = self.lake.target(P)
            try:
                target.roll_back(target.plan_rollback(snapshot.snapshot_id), f"undo-{next(self.numbers)}")
            except LakewardError:
                continue
            self.happened["repaired"] += 1
            self.sync()
            return
        self.happened["given up"] += 1
        self.recreate(table)
        self.excused.clear()


def added_by(snapshot: Snapshot, io: FileIO) -> list[DataFile]:
    """The data files that ``snapshot`` itself added."""
    return [
        entry.data_file
        for manifest in snapshot.manifests(io)
        if manifest.added_snapshot_id == snapshot.snapshot_id
        for entry in manifest.fetch_manifest_entry(io)
        if entry.status == ManifestEntryStatus.ADDED
    ]


ACTIONS: dict[str, tuple[Callable[[History, Table], bool | None], int]] = {
    "append": (History.append_rows, 4),
    "append to a branch": (History.append_to_branch, 2),
    "delete": (History.delete_rows, 4),
    "rewrite": (History.rewrite, 4),
    "update": (History.update_row, 2),
    "expire": (History.expire, 6),
    "roll back": (History.roll_back, 4),
    "make a ref": (History.make_ref, 3),
    "drop a ref": (History.drop_ref, 2),
    "cherry-pick": (History.cherry_pick, 4),
    "set properties": (History.set_properties, 2),
    "remove our property": (History.remove_our_property, 2),
    "add a column": (History.add_column, 1),
    "rename our column": (History.rename_column, 1),
    "change the spec": (History.change_spec, 2),
    "rename the table": (History.rename_table, 1),
    "recreate the table": (History.recreate, 1),
}
