"""Ten thousand small commits: what a commit costs at the end against the beginning, what grows, how the table reads.

The target is driven directly, commits as fast as they go, with a clock on which one passes every flush interval:
expiry and everything else that goes by time sees a table as old as it would be. Compaction runs in place, after the
commit that makes it due; its time is told apart. After every thousandth commit the table is looked at as it is then.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import polars as pl
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from benchmarks.topics import SCHEMA
from lakeward import schema_from_avro
from lakeward.engine import Engine, quoted
from lakeward.layout import Layout, parse_partition_term, parse_sort_term
from lakeward.outcomes import Batch, CommitReceipt
from lakeward.positions import Account, Partition, Position, Span
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.compacting import at_once
from lakeward.sinks.iceberg.orphans import listed
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.testing.generators import Market, records

HOME = Partition("market.trades", 0)
SORTED = ("exchange_timestamp", "sequence_number")
INTERVAL_MS = 250
BIG = 500_000
_AT = 10
"""The early commits that are compared begin at this one."""
_POOL = 200
_LOOK = 1000


@dataclass(frozen=True, slots=True)
class Age:
    """The table after ``commits``, and what the last ones before cost, staging included, housekeeping told apart.

    Milliseconds by the clock, and of this process's CPU on average. ``stored``: files and bytes below the table's
    location by folder, whatever refers to them.
    """

    commits: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    upkeep_cpu_ms: float
    data_files: int
    snapshots: int
    manifests: int
    metadata_bytes: int
    stored: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ageing:
    """Milliseconds a commit, staging its file included: the last ones, and those from the tenth on of a new table.

    The two, ``late`` and ``early``, are made in turn, so that both meet the same machine.
    ``upkeep_ms`` is compaction, expiry and removal by the commit, on average over all. ``readers`` are seconds for all
    rows, by reader: of this table, and of one with the same rows in big files.
    """

    store: str
    commits: int
    rows_a_commit: int
    compared: int
    early_ms: float
    late_ms: float
    early_p90_ms: float
    late_p90_ms: float
    upkeep_ms: float
    data_files: int
    snapshots: int
    manifests: int
    metadata_bytes: int
    readers: Mapping[str, tuple[float, float]]
    ages: Sequence[Age]


class PacedClock:
    """Stands still between two `tick`s: each is a flush interval, or, where not ``ahead``, as long as it was."""

    def __init__(self, *, ahead: bool = True) -> None:
        self._began = self._ms = time.time_ns() // 1_000_000
        self._ahead = ahead

    def tick(self) -> None:
        """An interval has passed."""
        self._ms = self._ms + INTERVAL_MS if self._ahead else time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return self._ms

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return (self._ms - self._began) / 1000

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """See `Clock.wait`."""
        return event.wait(seconds)


def ageing(store: str, properties: Mapping[str, Any], commits: int, rows_a_commit: int) -> Ageing:
    """Commit ``commits`` times into a new table of the catalog that ``properties`` name, then read it."""
    # A REST server refuses what comes from a clock that runs ahead of its own.
    catalog, clock = open_catalog(properties), PacedClock(ahead=properties["type"] != "rest")
    target = _target(catalog, "aged", clock)
    young = _target(catalog, "young", clock)
    compared = max(1, min(100, commits - _AT))
    early: list[float] = []
    late: list[float] = []
    spent: list[_Spent] = []
    ages: list[Age] = []
    for number, rows in enumerate(_parts(commits, rows_a_commit)):
        clock.tick()
        spent.append(_spent(target, rows, number * rows_a_commit))
        if number >= commits - compared - _AT:
            again = number - (commits - compared - _AT)
            beside = _spent(young, rows, again * rows_a_commit)
            if again >= _AT:
                late.append(spent[-1].commit_ms)
                early.append(beside.commit_ms)
        if (number + 1) % _LOOK == 0 or number + 1 == commits:
            ages.append(_age(catalog, spent[-_LOOK:], number + 1))
            print(ages[-1], flush=True)
    last = ages[-1]
    return Ageing(
        store,
        commits,
        rows_a_commit,
        compared,
        statistics.median(early),
        statistics.median(late),
        _p90(early),
        _p90(late),
        statistics.fmean(one.upkeep_ms for one in spent),
        last.data_files,
        last.snapshots,
        last.manifests,
        last.metadata_bytes,
        _readers(catalog, properties, commits, rows_a_commit),
        ages,
    )


@dataclass(frozen=True, slots=True)
class _Spent:
    """Milliseconds of one commit: by the clock, and of the process's CPU."""

    commit_ms: float
    commit_cpu_ms: float
    upkeep_ms: float
    upkeep_cpu_ms: float


def _spent(target: IcebergTarget, rows: pa.Table, start: int) -> _Spent:
    began, cpu = time.perf_counter(), time.process_time()
    _commit(target, rows, start)
    landed, landed_cpu = time.perf_counter(), time.process_time()
    target.maintain()
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return _Spent(
        (landed - began) * 1000, (landed_cpu - cpu) * 1000, (ended - landed) * 1000, (ended_cpu - landed_cpu) * 1000
    )


def _age(catalog: Catalog, spent: Sequence[_Spent], commits: int) -> Age:
    table = catalog.load_table(("bench", "aged"))
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    with table.io.new_input(table.metadata_location).open() as stream:
        metadata = len(stream.read())
    stored: Counter[str] = Counter()
    for folder in ("data", "metadata", "_lakeward"):
        for file in listed(table.io, f"{table.location().rstrip('/')}/{folder}"):
            stored[f"{folder}_files"] += 1
            stored[f"{folder}_bytes"] += file.size
    percentiles = statistics.quantiles((one.commit_ms for one in spent), n=100)
    return Age(
        commits,
        percentiles[49],
        percentiles[98],
        statistics.fmean(one.commit_cpu_ms for one in spent),
        statistics.fmean(one.upkeep_cpu_ms for one in spent),
        int(snapshot.summary["total-data-files"] or 0),
        len(table.metadata.snapshots),
        len(snapshot.manifests(table.io)),
        metadata,
        dict(stored),
    )


def _target(catalog: Catalog, name: str, clock: PacedClock) -> IcebergTarget:
    layout = Layout((parse_partition_term("day(exchange_timestamp)"),), tuple(map(parse_sort_term, SORTED)))
    settings = TargetSettings("bench", ("bench", name), layout, rewriter=at_once)
    return IcebergTarget(catalog, settings, clock, random.Random(1))


def _parts(commits: int, rows: int) -> Iterator[pa.Table]:
    """The rows of each commit: so many different ones, over and over."""
    pool = min(commits, _POOL)
    trades = list(records(Market(seed=1).trades(pool * rows)))
    table = pa.Table.from_pylist(trades, schema=schema_from_avro(SCHEMA))
    for number in range(commits):
        yield table.slice(number % pool * rows, rows)


def _commit(target: IcebergTarget, rows: pa.Table, start: int) -> None:
    count = len(rows)
    end = start + count
    batch = Batch(
        id=f"bench-{start}",
        parts=[rows],
        claim={HOME: Span(start, end)},
        upto={HOME: Position(end)},
        sources={HOME.topic: None},
        account=Account(count, count),
    )
    outcome = target.commit(target.stage(batch))
    if not isinstance(outcome, CommitReceipt):
        raise SystemExit(f"the commit at {start} was refused: {outcome.reason}")


def _readers(
    catalog: Catalog, properties: Mapping[str, Any], commits: int, rows: int
) -> Mapping[str, tuple[float, float]]:
    big, aged = _target(catalog, "big", PacedClock(ahead=False)), catalog.load_table(("bench", "aged"))
    parts = _parts(commits, rows)
    at = 0
    while same := list(islice(parts, BIG // rows)):
        _commit(big, pa.concat_tables(same), at)
        at += rows * len(same)
    tables = {"aged": aged, "big": catalog.load_table(("bench", "big"))}
    engine = Engine(properties)
    for table in tables.values():
        engine.add(table)
    columns = ", ".join(f"max({column.name})" for column in aged.schema().fields)
    os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")  # its own planner is another package
    store = _store_for_polars(properties)
    readers: dict[str, Callable[[Table], object]] = {
        "DuckDB": lambda table: engine.rows(f"SELECT count(*), {columns} FROM {quoted(table)}"),
        "PyIceberg": lambda table: table.scan().to_arrow(),
        "polars": lambda table: pl.scan_iceberg(table, storage_options=store).collect(),
    }
    found = {}
    for reader, read in readers.items():
        seconds = dict[str, list[float]](aged=[], big=[])
        for _ in range(7):
            for name, table in tables.items():
                seconds[name].append(_timed(lambda read=read, table=table: read(table)))  # type: ignore[misc]
        found[reader] = statistics.median(seconds["aged"]), statistics.median(seconds["big"])
    return found


def _store_for_polars(properties: Mapping[str, Any]) -> dict[str, str]:
    """It does not take from PyIceberg where the store is."""
    names = {
        "aws_endpoint_url": "s3.endpoint",
        "aws_access_key_id": "s3.access-key-id",
        "aws_secret_access_key": "s3.secret-access-key",
        "aws_region": "s3.region",
    }
    told = {theirs: str(properties[ours]) for theirs, ours in names.items() if ours in properties}
    return {**told, "aws_virtual_hosted_style_request": "false", "aws_allow_http": "true"} if told else {}


def _p90(milliseconds: Sequence[float]) -> float:
    return statistics.quantiles(milliseconds, n=10)[-1] if len(milliseconds) > 1 else milliseconds[0]


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
