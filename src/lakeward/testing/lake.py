"""A small Iceberg lake for tests: a catalog, targets on its tables, numbered batches, and an oracle.

The oracle is DuckDB reading the data files of the current snapshot: it shares no code with the writer.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from lakeward.clock import Clock
from lakeward.outcomes import Batch, CommitReceipt, Outcome
from lakeward.positions import Account, Partition, Position, Span
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.history import audit, history
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.testing.faults import Plan, faulty

ORDERS = Partition("orders", 0)
EPOCH_MS = 1_750_000_000_000


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until it is told, or waited on: waiting passes the time and sleeps never."""

    ms: int = EPOCH_MS
    waits: list[float] = field(default_factory=list)

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return self.ms

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return (self.ms - EPOCH_MS) / 1000

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """See `Clock.wait`."""
        self.waits.append(seconds)
        self.ms += round(seconds * 1000)
        return event.is_set()


def batch(
    start: int, count: int, *, partition: Partition = ORDERS, commit: str = "", positions_only: bool = False
) -> Batch:
    """A batch of ``count`` records from offset ``start``: rows (topic, partition, offset), none if positions only."""
    end = start + count
    rows = pa.table(
        {
            "topic": pa.array([partition.topic] * count, pa.string()),
            "partition": pa.array([partition.number] * count, pa.int32()),
            "offset": pa.array(range(start, end), pa.int64()),
        }
    )
    return Batch(
        id=commit or f"{partition}-{start}-{end}".replace("/", "-"),
        parts=[] if positions_only or not count else [rows],
        claim={partition: Span(start, end)},
        upto={partition: Position(end)},
        sources={partition.topic: None},
        account=Account(count, 0 if positions_only else count, count if positions_only else 0),
    )


class Lake:
    """One catalog and one table in it, by default ``shop.orders``. Close it, or use it as a context.

    ``reader`` is the oracle's connection, where the plain one cannot read the store.
    """

    def __init__(
        self,
        properties: Mapping[str, str],
        table: tuple[str, ...] = ("shop", "orders"),
        reader: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        self.properties = properties
        self.catalog: Catalog = open_catalog(properties)
        self.name = table
        self.reader = reader
        self.clock = ManualClock()

    def target(
        self, pipeline: str = "orders", plan: Plan | None = None, clock: Clock | None = None, **settings: Any
    ) -> IcebergTarget:
        """A worker's target, behind ``plan`` if there is one; ``settings`` are more of `TargetSettings`."""
        catalog = self.catalog if plan is None else faulty(self.catalog, plan)
        chosen = TargetSettings(pipeline, self.name, **settings)
        return IcebergTarget(catalog, chosen, clock or self.clock, random.Random(1))  # noqa: S311 -- jitter

    def table(self) -> Table:
        """The table as the catalog has it now."""
        return self.catalog.load_table(self.name)

    def rows(self) -> Counter[tuple[Any, ...]]:
        """The multiset of rows in the current snapshot, read by DuckDB."""
        return rows_of(self.table(), self.reader)

    def breaks(self, pipeline: str = "orders") -> list[str]:
        """What is wrong with the pipeline's ledger (PROTOCOL I3); nothing where it is contiguous."""
        return audit(history(self.table(), pipeline))

    def close(self) -> None:
        """Release the catalog's connections."""
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def commit(target: IcebergTarget, wanted: Batch) -> Outcome:
    """Stage and commit, as the loop does, housekeeping included."""
    outcome = target.commit(target.stage(wanted))
    if isinstance(outcome, CommitReceipt):
        target.maintain()
    return outcome


def expected(*batches: Batch) -> Counter[tuple[Any, ...]]:
    """The multiset of rows that these batches make."""
    return Counter(tuple(row.values()) for one in batches for part in one.parts for row in part.to_pylist())


def rows_of(table: Table, connection: duckdb.DuckDBPyConnection | None = None) -> Counter[tuple[Any, ...]]:
    """The multiset of rows in the table's current snapshot; ``connection`` is one that can read its store."""
    files = [task.file.file_path for task in table.scan().plan_files()]
    if not files:
        return Counter()
    source = "read_parquet($files, hive_partitioning = false, union_by_name = true)"
    with connection.cursor() if connection is not None else duckdb.connect() as reader:
        described = reader.execute(f"DESCRIBE SELECT * FROM {source}", {"files": files})  # noqa: S608 -- a constant
        held = {row[0] for row in described.fetchall()}
        names = [field.name for field in table.schema().fields]
        columns = ", ".join(f'"{name}"' if name in held else "NULL" for name in names)
        sql = f"SELECT {columns} FROM {source}"  # noqa: S608 -- the table's own names
        return Counter(reader.execute(sql, {"files": files}).fetchall())
