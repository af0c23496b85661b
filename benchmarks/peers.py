"""Beside others: Apache Iceberg's sink for Kafka Connect, on the same topic, broker and machine, in the same run.

The worker is warm: a first connector has streamed the topic's first rows and is gone. What is measured is a second one,
all of the topic, from its creation to its last commit. Its table has neither partitions nor a sort order, which is less
work than lakeward does.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
from pyiceberg.catalog.sql import SqlCatalog
from servers.connect_sink import ConnectSink
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry

from benchmarks.measuring import Feed
from benchmarks.topics import SCHEMA
from lakeward import schema_from_avro

COMMIT_EVERY_MS = 5_000
PATIENCE_S = 300.0
_LOOK_S = 0.05
_FETCHING = {
    "consumer.override.auto.offset.reset": "earliest",
    "consumer.override.fetch.min.bytes": "65536",
    "consumer.override.fetch.max.wait.ms": "100",
    "consumer.override.max.poll.records": "5000",
    "consumer.override.max.partition.fetch.bytes": "4194304",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """All ``rows`` of a topic; rows a second of wall time, rows a second of the worker's CPU time, peak MiB."""

    name: str
    encoding: str
    rows: int
    per_second: float
    per_cpu_second: float
    peak_mib: float

    def line(self) -> str:
        """For the terminal."""
        return f"{self.per_second:,.0f} rows/s, {self.per_cpu_second:,.0f} rows/CPU-s, {self.peak_mib:,.0f} MiB"


@dataclass(frozen=True, slots=True)
class Worker:
    """A Connect worker that runs, and what its connectors need."""

    sink: ConnectSink
    kafka: Kafka
    registry: SchemaRegistry
    folder: Path

    def measure(self, feed: Feed, warm: int) -> Peer:
        """Stream all of ``feed``, after its first ``warm`` rows have been streamed uncounted."""
        self._stream(feed, f"warm-{feed.encoding}", min(warm, feed.messages))
        name = "Iceberg sink for Kafka Connect"
        seconds, cpu, peak = self._stream(feed, f"peer-{feed.encoding}", feed.messages)
        return Peer(name, feed.encoding, feed.messages, feed.messages / seconds, feed.messages / cpu, peak)

    def _stream(self, feed: Feed, name: str, rows: int) -> tuple[float, float, float]:
        """Seconds, CPU-seconds and peak MiB until so many ``rows`` are in the table."""
        home = self.folder / name
        self.kafka.create_topic(f"control-{name}")
        _create_table(home)
        process = psutil.Process(self.sink.pid)
        at, cpu = time.monotonic(), _cpu_s(process)
        self.sink.put(name, self._config(name, home, feed))
        try:
            peak = self._until(name, home, rows, process)
            return time.monotonic() - at, _cpu_s(process) - cpu, peak
        finally:
            self.sink.delete(name)

    def _until(self, name: str, home: Path, rows: int, process: psutil.Process) -> float:
        deadline, peak = time.monotonic() + PATIENCE_S, 0.0
        while True:
            peak = max(peak, process.memory_info().rss / 2**20)
            there = _rows(home)
            if there >= rows:
                return peak
            if time.monotonic() > deadline:
                sys.exit(f"{name} has {there} rows and not {rows}: {self.sink.failure(name)}; see {self.sink.log}")
            time.sleep(_LOOK_S)

    def _config(self, name: str, home: Path, feed: Feed) -> dict[str, str]:
        common = {
            "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
            "tasks.max": "2",
            "topics": feed.topic,
            "iceberg.tables": "bench.trades",
            "iceberg.catalog": "peers",
            "iceberg.catalog.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            "iceberg.catalog.uri": f"jdbc:sqlite:{home}/catalog.db",
            "iceberg.catalog.warehouse": f"file://{home}/warehouse",
            "iceberg.catalog.jdbc.schema-version": "V1",
            "iceberg.catalog.jdbc.init-catalog-tables": "false",
            "iceberg.control.topic": f"control-{name}",
            "iceberg.control.commit.interval-ms": str(COMMIT_EVERY_MS),
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            **_FETCHING,
        }
        if feed.encoding == "json":
            return {
                **common,
                "value.converter": "org.apache.kafka.connect.json.JsonConverter",
                "value.converter.schemas.enable": "false",
            }
        return {
            **common,
            "value.converter": "io.apicurio.registry.utils.converter.AvroConverter",
            "value.converter.apicurio.registry.url": f"http://127.0.0.1:{self.registry.port}/apis/registry/v2",
            "value.converter.apicurio.registry.as-confluent": "true",
            "value.converter.apicurio.registry.use-id": "contentId",
        }


def _cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def _create_table(home: Path) -> None:
    (home / "warehouse").mkdir(parents=True)
    catalog = SqlCatalog("peers", uri=f"sqlite:///{home}/catalog.db", warehouse=f"file://{home}/warehouse")
    catalog.create_namespace("bench")
    catalog.create_table("bench.trades", schema_from_avro(SCHEMA))
    catalog.close()


def _rows(home: Path) -> int:
    with closing(sqlite3.connect(f"file:{home}/catalog.db?mode=ro", uri=True, timeout=10)) as catalog:
        (location,) = catalog.execute("SELECT metadata_location FROM iceberg_tables").fetchone()
    metadata = json.loads(Path(str(location).removeprefix("file://").removeprefix("file:")).read_text())
    current = metadata.get("current-snapshot-id")
    found = [s for s in metadata.get("snapshots", ()) if s["snapshot-id"] == current]
    return int(found[0]["summary"].get("total-records", 0)) if found else 0
