"""Random histories of changes on one table, beside a dict that says what it has to hold."""

from __future__ import annotations

import random
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import requests
from pyiceberg.table.snapshots import Operation

from lakeward.changes import Changes, Effect
from lakeward.engine import Engine
from lakeward.layout import Layout
from lakeward.outcomes import Batch, CommitReceipt, Refused
from lakeward.positions import Account, Position, Span
from lakeward.sinks.iceberg.compaction import Rewritten
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.faults import Plan, lose, meanwhile, refuse, twice
from lakeward.testing.lake import ORDERS, Lake

Row = dict[str, Any]
Key = tuple[Any, ...]

VALUES = {
    "region": pa.string(),
    "at": pa.timestamp("us", "UTC"),
    "amount": pa.decimal128(12, 2),
    "note": pa.string(),
    "tags": pa.list_(pa.int64()),
    "deleted": pa.bool_(),
}
LATE = {"extra": pa.int64()}
"""A column that only some of the records' schemas have."""
DAY = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Kind:
    """What identifies rows: columns, and a key made from a number."""

    columns: Mapping[str, pa.DataType]
    make: Callable[[int], Key]


KINDS: Mapping[str, Kind] = {
    "long": Kind({"id": pa.int64()}, lambda n: (n * 7919 - 40_000,)),
    "text": Kind({"id": pa.string()}, lambda n: (f"k-{n:x}" * (n % 3 + 1),)),
    "uuid": Kind({"id": pa.uuid()}, lambda n: (uuid.UUID(int=n * 2**90 + n),)),
    "decimal": Kind({"id": pa.decimal128(20, 3)}, lambda n: (Decimal(n * 1001) / 1000,)),
    "pair": Kind({"id": pa.int32(), "site": pa.string()}, lambda n: (n // 5, f"s{n % 5}")),
}
LAYOUTS: Mapping[str, Sequence[str]] = {
    "none": (),
    "identity": ("region",),
    "bucket": ("bucket(3, id)",),
    "day": ("day(at)",),
}


@dataclass
class Mirror:
    """One table and its dict; every step changes both."""

    lake: Lake
    kind: Kind
    chance: random.Random
    layout: Layout
    rows: dict[Key, Row] = field(default_factory=dict)
    kept: dict[int, dict[Key, Row]] = field(default_factory=dict)
    """What the table held at each snapshot of ours."""
    plan: Plan = field(default_factory=Plan)
    commits: int = 0
    keys: int = 40
    done: list[str] = field(default_factory=list)
    rewriting: list[tuple[Future[Rewritten], Rewritten]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = self.open(self.plan)
        self.engine = Engine(self.lake.properties)

    def open(self, plan: Plan | None = None) -> IcebergTarget:
        target = self.lake.target(plan=plan, layout=self.layout, rewriter=self._rewrite)
        target._compactor.fanout = 3  # a file of these is small, and soon much of it is deleted
        target._compactor.chance = random.Random(self.chance.random())  # names of files must differ
        return target

    def _rewrite(self, action: Callable[[], Rewritten]) -> Future[Rewritten]:
        """Files are read now, and what became of them is handed over when some more has happened."""
        future: Future[Rewritten] = Future()
        self.rewriting.append((future, action()))
        return future

    # What changes it

    def change(self) -> None:
        """A batch of changes through the target that has been at it all the time."""
        self._land(self.target, self.batch())

    def restart(self) -> None:
        """Another process goes on: it knows nothing but the table."""
        self.target = self.open(self.plan)
        self.change()

    def rival(self) -> None:
        """Another writer of the pipeline is faster."""
        self._land(self.open(), self.batch())

    def overtaken(self) -> None:
        """A rival's commit of a foreign tool comes between staging and sending."""
        batch = self.batch()
        if not self._exists():
            return
        foreign = self._strangers()
        self.plan.next("commit_table", meanwhile(lambda: self.lake.table().append(foreign)))
        self._send(self.target, batch, self._applied(batch, self._after_append(foreign)))

    def lost(self) -> None:
        """The answer is lost, or told wrong, or the commit is refused."""
        fault = self.chance.choice([lose(requests.ReadTimeout("planned")), twice(), refuse()])
        self.plan.next("commit_table", fault)
        self.change()

    def append(self) -> None:
        """Somebody else adds rows of new keys."""
        if self._exists():
            strangers = self._strangers()
            self.lake.table().append(strangers)
            self.rows = self._after_append(strangers)

    def delete(self) -> None:
        """Somebody else deletes rows."""
        if self._exists():
            region = self.chance.choice(["eu", "us", "ap"])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Delete operation did not match any records")
                self.lake.table().delete(f"region == '{region}'")
            self.rows = {key: row for key, row in self.rows.items() if row["region"] != region}

    def rewrite(self) -> None:
        """Somebody else writes all rows again, in other files."""
        if self._exists() and self.rows:
            table = self.lake.table()
            table.overwrite(table.scan().to_arrow())

    def compact(self) -> None:
        if self._exists():
            self.target.compact()

    def maintain(self) -> None:
        """Housekeeping; what was rewritten meanwhile takes the place of what it was made of."""
        for future, made in self.rewriting:
            future.set_result(made)
        self.rewriting.clear()
        if self._exists():
            self.target.maintain()

    def expire(self) -> None:
        if self._exists():
            self.lake.clock.ms += self.chance.choice([60_000, 3_600_000])
            self.target.expire()
            self.lake.clock.ms += 400_000
            self.target.maintain()

    def roll_back(self) -> None:
        if not self._exists():
            return
        metadata = self.lake.table().metadata
        there = [s.snapshot_id for s in metadata.snapshots if s.snapshot_id in self.kept]
        there = [s for s in there if s != metadata.current_snapshot_id]
        if there:
            chosen = self.chance.choice(there)
            receipt = self.target.roll_back(self.target.plan_rollback(chosen), f"undo-{len(self.done)}")
            self.rows = self.kept[receipt.snapshot_id] = dict(self.kept[chosen])

    STEPS = (
        *["change"] * 8, "restart", "rival", "overtaken", "lost", "append", "delete", "rewrite",
        "compact", *["maintain"] * 4, "expire", "roll_back",
    )  # fmt: skip

    def step(self) -> None:
        """One of them."""
        self.play(self.chance.choice(self.STEPS))

    def play(self, name: str) -> None:
        """The step ``name``, and then the table is what the dict is."""
        self.done.append(name)
        getattr(self, name)()
        if self._exists():
            self.check()

    # What it has to be

    def check(self) -> None:
        table = self.lake.table()
        wanted = self.counted()
        told = table.scan().to_arrow().to_pylist()
        assert Counter(map(as_counted, told)) == wanted, f"PyIceberg after {self.done}"
        location = table.metadata_location.removeprefix("file://")
        names, found = self.engine.rows(f"SELECT * FROM iceberg_scan('{location}')")
        assert Counter(as_counted(dict(zip(names, row, strict=True))) for row in found) == wanted, (
            f"DuckDB: {self.done}"
        )
        summary = table.metadata.current_snapshot()
        assert self.lake.breaks() == []
        # PyIceberg leaves deletes of files behind that it has taken away, and goes on counting them.
        if summary is not None and summary.summary is not None and not {"rewrite", "delete"} & set(self.done):
            keys = summary.summary.additional_properties
            assert int(keys["total-records"]) - int(keys.get("total-position-deletes", 0)) == len(self.rows), self.done

    def counted(self) -> Counter[Any]:
        """The rows, as they can be compared."""
        return Counter(map(as_counted, self.rows.values()))

    # How

    def batch(self) -> Batch:
        entry = self.target.find().entry
        start = entry.positions[ORDERS].next if entry is not None else 0
        parts, changes = [], []
        for _ in range(self.chance.randint(1, 3)):
            part, one = self._part(self.chance.choice([0, 1, 5, 30]))
            parts.append(part)
            changes.append(one)
        count = sum(map(len, parts))
        self.commits += 1
        return Batch(
            id=f"c{self.commits}",
            parts=parts if count else [],
            changes=changes if count else [],
            claim={ORDERS: Span(start, start + count)},
            upto={ORDERS: Position(start + count)},
            sources={ORDERS.topic: None},
            account=Account(count, count, 0),
        )

    def _part(self, count: int) -> tuple[pa.Table, Changes]:
        wide = self.chance.random() < 0.7
        values = {**VALUES, **(LATE if wide else {})}
        columns = {**self.kind.columns, **values}
        effects, rows = [], []
        absent = {name: np.zeros(count, np.bool_) for name in values if self.chance.random() < 0.5}
        for at in range(count):
            effect = self.chance.choices(
                [Effect.UPSERT, Effect.DELETE, Effect.MARK, Effect.TRUNCATE], [60, 25, 10, 0.3]
            )[0]
            key = dict(zip(self.kind.columns, self.kind.make(self.chance.randrange(self.keys)), strict=True))
            row = {**key, **self._values(values)} if effect == Effect.UPSERT else dict(key)
            if effect == Effect.MARK:
                row["deleted"] = True
                for name in values:
                    if name != "deleted":
                        absent.setdefault(name, np.zeros(count, np.bool_))[at] = True
            elif effect == Effect.UPSERT:
                for name, mask in absent.items():  # whether a row is deleted, every event tells
                    if name != "deleted" and self.chance.random() < 0.2:
                        mask[at], row[name] = True, None
            elif effect == Effect.TRUNCATE:
                row = {}
            effects.append(effect)
            rows.append(row)
        part = pa.table({name: _array([row.get(name) for row in rows], kind) for name, kind in columns.items()})
        return part, Changes(tuple(self.kind.columns), np.array(effects, np.uint8), absent)

    def _values(self, values: Mapping[str, pa.DataType]) -> Row:
        chance = self.chance
        row: Row = {
            "region": chance.choice(["eu", "us", "ap", None]),
            "at": DAY + timedelta(hours=chance.randrange(96)),
            "amount": Decimal(chance.randrange(-(10**6), 10**6)) / 100,
            "note": chance.choice([None, "", "x" * chance.randrange(50)]),
            "tags": chance.choice([None, [], [1, None, 3]]),
            "deleted": chance.choice([None, False]),
            "extra": chance.randrange(10**12),
        }
        return {name: row[name] for name in values}

    def _applied(self, batch: Batch, rows: dict[Key, Row]) -> dict[Key, Row]:
        """What the changes make of ``rows``: the dict that the table is compared with."""
        after = dict(rows)
        for part, changes in zip(batch.parts, batch.changes, strict=True):
            for at, row in enumerate(part.to_pylist()):
                effect = changes.effect[at]
                key = tuple(row[name] for name in self.kind.columns)
                if effect == Effect.TRUNCATE:
                    after = {}
                elif effect == Effect.DELETE:
                    after.pop(key, None)
                elif effect == Effect.UPSERT or key in after:
                    old = after.get(key, {})
                    if effect == Effect.MARK:
                        row = {**row, **{name: old.get(name) for name in LATE}}  # noqa: PLW2901
                    out = {name for name, mask in changes.absent.items() if mask[at]}
                    after[key] = {name: old.get(name) if name in out else value for name, value in row.items()}
        return after

    def _land(self, target: IcebergTarget, batch: Batch) -> None:
        self._send(target, batch, self._applied(batch, self.rows))

    def _send(self, target: IcebergTarget, batch: Batch, after: dict[Key, Row]) -> None:
        if not batch.parts and not self._exists():
            return
        outcome = target.commit(target.stage(batch))
        assert not isinstance(outcome, Refused), outcome
        assert isinstance(outcome, CommitReceipt)
        self.rows = after
        self.kept[outcome.snapshot_id] = dict(after)
        if not {"rewrite", "delete"} & set(self.done):
            assert outcome.after.rows == len(after), self.done
        if target is self.target and self.chance.random() < 0.5:
            target.maintain()
        snapshot = self.lake.table().snapshot_by_id(outcome.snapshot_id)
        assert snapshot is not None
        assert snapshot.summary is not None
        if not batch.parts:
            assert snapshot.summary.operation == Operation.APPEND

    def _exists(self) -> bool:
        return self.lake.catalog.table_exists(self.lake.name) and bool(self.lake.table().metadata.snapshots)

    def _strangers(self) -> pa.Table:
        """Rows of keys that nobody had, as the table has its columns."""
        schema = self.lake.table().schema().as_arrow()
        self.keys += 3
        rows = [
            {**dict(zip(self.kind.columns, self.kind.make(n), strict=True)), **self._values({**VALUES, **LATE})}
            for n in range(self.keys - 3, self.keys)
        ]
        columns = {one.name: _array([row.get(one.name) for row in rows], one.type) for one in schema}
        return pa.table(columns, schema=schema)

    def _after_append(self, strangers: pa.Table) -> dict[Key, Row]:
        added = {tuple(row[name] for name in self.kind.columns): row for row in strangers.to_pylist()}
        return {**self.rows, **added}


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.uuid():
        return pa.array([None if v is None else v.bytes for v in values], pa.binary(16)).cast(kind)
    return pa.array(values, kind)


def as_counted(row: Row) -> tuple[tuple[str, str], ...]:
    """A row as something that can be counted; columns that it does not have are null."""
    return tuple((name, _told(value)) for name, value in sorted(row.items()) if value is not None)


def _told(value: Any) -> str:
    """A value as text, as no two readers have the same types."""
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value))
    return str(value.replace(tzinfo=None) if isinstance(value, datetime) else value)


def mirror(lake: Lake, kind: str, layout: str, seed: int) -> Mirror:
    return Mirror(lake, KINDS[kind], random.Random(seed), Layout.parse(LAYOUTS[layout], ()))
