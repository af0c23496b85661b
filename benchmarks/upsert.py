"""``python -m benchmarks.upsert``: what changes to a large table cost, and what they leave to whoever reads it.

A table of ten million rows follows changes, 60% updates, 20% inserts and 20% deletions, 50,000 a commit, housekeeping
and compaction included: once with keys chosen evenly, once with most changes on few keys. Afterwards every row is
compared with what the changes say, and the table is read beside one that holds the same rows freshly written. Beside
it, in the same run, `Table.upsert` of PyIceberg works on a smaller table.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from benchmarks.report import origin, save
from lakeward.changes import Changes, Effect
from lakeward.cli.output import print_table
from lakeward.clock import SystemClock
from lakeward.engine import Engine, quoted
from lakeward.outcomes import Batch, CommitReceipt
from lakeward.positions import Account, Partition, Position, Span
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings

TOPIC = Partition("changes", 0)
LOAD_ROWS = 500_000
PEER_ROWS, PEER_COMMITS = 1_000_000, 3
READS = 3
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("version", pa.int64()),
        ("region", pa.string()),
        ("status", pa.string()),
        ("amount", pa.decimal128(12, 2)),
        ("updated_at", pa.timestamp("us", "UTC")),
        ("note", pa.string()),
    ]
)
_REGIONS = pa.array(["eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-southeast-2"])
_STATES = pa.array(["new", "paid", "sent", "returned"])
_CUT = 99_991


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of what."""

    rows: int
    changes: int
    commits: int


@dataclass
class Source:
    """The database whose changes are followed: which ids are there, and at which version each row is."""

    sizes: Sizes
    skewed: bool
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def __post_init__(self) -> None:
        room = self.sizes.rows + self.sizes.changes * self.sizes.commits
        self.version: NDArray[np.int32] = np.full(room, -1, np.int32)
        self.version[: self.sizes.rows] = 0
        self.ids = self.chance.permutation(room).astype(np.int64)  # where ids come from is not in their order
        self.end = self.sizes.rows

    def load(self) -> Iterator[pa.Table]:
        """All rows that are there at the beginning."""
        for start in range(0, self.sizes.rows, LOAD_ROWS):
            yield self._rows(np.arange(start, min(start + LOAD_ROWS, self.sizes.rows)))

    def changes(self) -> tuple[pa.Table, Changes]:
        """The next commit's."""
        count = self.sizes.changes
        kinds = self.chance.choice(3, count, p=[0.6, 0.2, 0.2])  # update, insert, delete
        places = self._places(count)
        inserted = kinds == 1
        places[inserted] = np.arange(self.end, self.end + int(inserted.sum()))
        self.end += int(inserted.sum())
        deleted = kinds == 2
        last = len(places) - 1 - np.unique(places[::-1], return_index=True)[1]  # the last change of each place
        self.version[places] = np.maximum(self.version[places], 0) + 1
        rows = self._rows(places)
        self.version[places[last][deleted[last]]] = -1
        return rows, Changes(("id",), np.where(deleted, np.uint8(Effect.DELETE), np.uint8(Effect.UPSERT)))

    def _places(self, count: int) -> NDArray[np.int64]:
        """Rows that are changed: all alike, or most of them among the youngest."""
        if not self.skewed:
            return self.chance.integers(0, self.end, count)
        return (
            self.end - 1 - np.minimum(self.chance.pareto(1.0, count) * self.end / 1000, self.end - 1).astype(np.int64)
        )

    def _rows(self, places: NDArray[np.int64]) -> pa.Table:
        ids, version = self.ids[places], self.version[places].astype(np.int64)
        mixed = (ids * 2_654_435_761 + version * 97) % 2**31
        cents = pa.array(mixed % 10_000_000).cast(pa.decimal128(19, 0)).cast(pa.decimal128(21, 2))
        return pa.Table.from_arrays(
            [
                pa.array(ids),
                pa.array(version),
                _REGIONS.take(pa.array(mixed % len(_REGIONS))),
                _STATES.take(pa.array(mixed % len(_STATES))),
                cents.cast(pa.decimal128(12, 2)),
                pa.array(1_760_000_000_000_000 + mixed * 1_000, pa.timestamp("us", "UTC")),
                pa.array(mixed % _CUT).cast(pa.string()),
            ],
            schema=SCHEMA,
        )

    def living(self) -> Iterator[pa.Table]:
        """All rows that are there now."""
        there = np.flatnonzero(self.version[: self.end] >= 0)
        there = there[np.argsort(self.ids[there])]
        for start in range(0, len(there), LOAD_ROWS):
            yield self._rows(there[start : start + LOAD_ROWS])

    def sums(self) -> tuple[int, int, int]:
        """How many rows there are, and the sums of two columns of hashes over them."""
        there = np.flatnonzero(self.version[: self.end] >= 0)
        ids, versions = self.ids[there], self.version[there].astype(np.int64)
        return len(there), int(ids.sum()), int((ids % 1_000_003 * versions).sum())


def followed(folder: Path, sizes: Sizes, *, skewed: bool) -> dict[str, Any]:
    """Figures of one table that follows changes."""
    catalog = open_catalog({"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder)})
    source = Source(sizes, skewed)
    with ThreadPoolExecutor(1, "rewriting") as pool:
        settings = TargetSettings("bench", ("bench", "mirror"), rewriter=pool.submit)
        target = IcebergTarget(catalog, settings, SystemClock(), random.Random(1))
        began, at = time.monotonic(), 0
        for rows in source.load():
            at = _commit(target, rows, Changes.upserts(("id",), len(rows)), at)
        load_s, spent, cpu = time.monotonic() - began, [], 0.0
        for _ in range(sizes.commits):
            rows, changes = source.changes()
            gc.collect()
            before, began = time.process_time(), time.monotonic()
            at = _commit(target, rows, changes, at)
            spent.append(time.monotonic() - began)
            cpu += time.process_time() - before
        before = time.process_time()
    cpu += time.process_time() - before
    peak = _peak_mib()
    table = target.load()
    assert table is not None
    fresh = _fresh(catalog, source)
    edge = max(1, sizes.commits // 10)
    figures = {
        "changes_per_cpu_second": sizes.changes * sizes.commits / cpu,
        "load_rows_per_second": sizes.rows / load_s,
        "first_commits_s": statistics.median(spent[:edge]),
        "last_commits_s": statistics.median(spent[-edge:]),
        "slowest_commit_s": max(spent),
        "peak_mib": peak,
        "rows": source.sums()[0],
        "exact": _sums(table) == source.sums() == _sums(fresh),
        "data_files": len(table.inspect.data_files()),
        "delete_files": len(table.inspect.delete_files()),
    }
    for reader, read in (("duckdb", _sums), ("pyiceberg", _scan)):
        mirror, compacted = (_timed(read, one) for one in (table, fresh))
        figures[f"{reader}_s"], figures[f"{reader}_fresh_s"] = mirror[0], compacted[0]
        figures[f"{reader}_cpu_s"], figures[f"{reader}_fresh_cpu_s"] = mirror[1], compacted[1]
        figures[f"{reader}_ratio"] = mirror[1] / compacted[1]
    figures["last_to_first"] = figures["last_commits_s"] / figures["first_commits_s"]
    catalog.close()
    return figures


def peer(folder: Path, changes: int) -> dict[str, Any]:
    """`Table.upsert` of PyIceberg on a table of a tenth of the rows: updates and inserts alone, it deletes nothing."""
    catalog = open_catalog({"type": "sql", "uri": f"sqlite:///{folder}/peer.db", "warehouse": str(folder)})
    source = Source(Sizes(PEER_ROWS, changes, PEER_COMMITS), skewed=False)
    catalog.create_namespace("peer")
    table = catalog.create_table("peer.mirror", SCHEMA)
    for rows in source.load():
        table.append(rows)
    cpu = 0.0
    for _ in range(PEER_COMMITS):
        rows, made = source.changes()
        kept = rows.take(pa.array(np.flatnonzero(made.effect == Effect.UPSERT)))
        last = len(kept) - 1 - np.unique(kept["id"].to_numpy()[::-1], return_index=True)[1]
        before = time.process_time()
        table.upsert(kept.take(pa.array(last)), join_cols=["id"])
        cpu += time.process_time() - before
    catalog.close()
    return {"rows": PEER_ROWS, "changes_per_cpu_second": changes * PEER_COMMITS * 0.8 / cpu}


def _commit(target: IcebergTarget, rows: pa.Table, changes: Changes, at: int) -> int:
    end = at + len(rows)
    batch = Batch(
        id=f"b{at}",
        parts=[rows],
        changes=[changes],
        claim={TOPIC: Span(at, end)},
        upto={TOPIC: Position(end)},
        sources={TOPIC.topic: None},
        account=Account(len(rows), len(rows), 0),
    )
    outcome = target.commit(target.stage(batch))
    if not isinstance(outcome, CommitReceipt):
        raise TypeError(f"not committed: {outcome}")
    target.maintain()
    return end


def _fresh(catalog: Catalog, source: Source) -> Table:
    """The same rows, written at once."""
    settings = TargetSettings("fresh", ("bench", "fresh"))
    target = IcebergTarget(catalog, settings, SystemClock(), random.Random(1))
    rows = pa.concat_tables(source.living())
    batch = Batch("all", [rows], {TOPIC: Span(0, 1)}, {TOPIC: Position(1)}, {TOPIC.topic: None}, Account(1, 1, 0))
    target.commit(target.stage(batch))
    table = target.load()
    assert table is not None
    return table


def _sums(table: Table) -> tuple[int, ...]:
    engine = Engine({})
    engine.add(table)
    sql = (
        "SELECT count(*), sum(id), sum(id % 1000003 * version), min(region), max(status), sum(amount), "
        f"max(updated_at), max(note) FROM {quoted(table)}"
    )
    (row,) = engine.rows(sql)[1]
    return tuple(row[:3])


def _scan(table: Table) -> int:
    return sum(batch.num_rows for batch in table.scan().to_arrow_batch_reader())


def _timed(read: Callable[[Table], object], table: Table) -> tuple[float, float]:
    """Seconds, and CPU seconds, of the fastest of a few readings; ratios are of the latter: the machine has others."""
    spent = []
    for _ in range(READS):
        began, cpu = time.monotonic(), time.process_time()
        read(table)
        spent.append((time.monotonic() - began, time.process_time() - cpu))
    return min(wall for wall, _ in spent), min(cpu for _, cpu in spent)


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description="What changes to a large table cost.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--changes", type=int, default=50_000, help="in each commit")
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--only", choices=("uniform", "skewed", "peer"), help="one part (default: all)")
    parser.add_argument("--out", type=Path, help="where the result goes (default: benchmarks/results)")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("pyiceberg").setLevel(logging.ERROR)
    sizes = Sizes(chosen.rows, chosen.changes, chosen.commits)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as name:
        for part in [chosen.only] if chosen.only else ["uniform", "skewed", "peer"]:
            folder = Path(name) / part
            folder.mkdir()
            figures[part] = (
                peer(folder, sizes.changes) if part == "peer" else followed(folder, sizes, skewed=part == "skewed")
            )
            print_table((part.upper(), ""), [(key, f"{value:,.3f}") for key, value in figures[part].items()])
    result = {**origin(), "sizes": vars_of(sizes), "figures": figures}
    print(f"\nsaved: {save(result, chosen.out)}")


def vars_of(sizes: Sizes) -> dict[str, int]:
    """For the result."""
    return {"rows": sizes.rows, "changes": sizes.changes, "commits": sizes.commits}


if __name__ == "__main__":
    main()
