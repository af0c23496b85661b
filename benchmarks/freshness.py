"""From a record's send to the moment at which a reader that has just come has it, at a steady rate.

The reader is not the writer: it looks at the catalog's own database through a connection of its own, and where the
table has moved, loads the table's metadata and reads the rows of what is new. A record is visible once its row has
been read. Every record counts, from the very first one on, which also creates the table.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyiceberg.table import StaticTable

from benchmarks.writer import Stream, Writer, sending

Millis = NDArray[np.float64]
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Freshness:
    """Milliseconds from send to read, over all ``records``; ``first_ms`` is the very first record's."""

    rate: int
    interval: str
    records: int
    commits: int
    first_ms: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    writer_cpu: float


def freshness(stream: Stream, rate: int, seconds: float) -> Freshness:
    """Start a writer on an empty topic, and send once it has its partitions."""
    reader = _Reader(stream)
    with Writer(stream) as writer:
        writer.until(lambda: bool(writer.events("assigned")), "the partitions")
        began, used = time.monotonic(), writer.cpu_s
        with sending(stream, rate):
            while time.monotonic() - began < seconds:
                reader.look()
                time.sleep(_LOOK_S)
        cores = (writer.cpu_s - used) / (time.monotonic() - began)
        ended = time.monotonic()
        while time.monotonic() - ended < 2.0:
            reader.look()
            time.sleep(_LOOK_S)
    waited = np.concatenate(reader.waited)
    p50, p99 = np.percentile(waited, [50, 99])
    # The first look finds the first commit: its longest wait is that of the first record.
    first = float(reader.waited[0].max())
    commits = len(reader.waited)
    return Freshness(
        rate, stream.interval, len(waited), commits, first, float(p50), float(p99), float(waited.max()), cores
    )


class _Reader:
    def __init__(self, stream: Stream) -> None:
        self._catalog = stream.catalog
        self._location: str | None = None
        self._known: set[int] = set()
        self.waited: list[Millis] = []

    def look(self) -> None:
        """Read what has come since the last look."""
        location = self._current()
        if location is None or location == self._location:
            return
        self._location = location
        table = StaticTable.from_metadata(location)
        for snapshot in table.metadata.snapshots:
            if snapshot.snapshot_id in self._known:
                continue
            self._known.add(snapshot.snapshot_id)
            sent = [*self._sent(table, snapshot.snapshot_id)]
            if sent:
                self.waited.append(time.time() * 1000 - np.concatenate(sent))

    def _current(self) -> str | None:
        if not self._catalog.exists():
            return None
        with closing(sqlite3.connect(f"file:{self._catalog}?mode=ro", uri=True, timeout=10)) as catalog:
            try:
                query = "SELECT metadata_location FROM iceberg_tables WHERE table_name = 'trades'"
                row = catalog.execute(query).fetchone()
            except sqlite3.OperationalError:  # the catalog's tables are not there yet
                return None
        return None if row is None else str(row[0])

    def _sent(self, table: StaticTable, snapshot_id: int) -> Iterator[Millis]:
        """When the rows were sent that this snapshot adds; none where it only puts files together."""
        snapshot = table.snapshot_by_id(snapshot_id)
        if snapshot is None or snapshot.summary is None or snapshot.summary.operation.value != "append":
            return
        for manifest in snapshot.manifests(table.io):
            if manifest.added_snapshot_id != snapshot_id:
                continue
            for entry in manifest.fetch_manifest_entry(table.io):
                if entry.snapshot_id == snapshot_id:
                    path = entry.data_file.file_path.removeprefix("file://")
                    times = pq.read_table(path, columns=["ingestion_timestamp"], partitioning=None)
                    yield times["ingestion_timestamp"].cast("int64").to_numpy() / 1000
