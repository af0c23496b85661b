"""What has to be true: compares the tables with the list of what was sent; shares no code with the writer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from tests.simulation.lake import Name
from tests.simulation.stream import HOLE

from lakeward.positions import Partition, Position

if TYPE_CHECKING:
    from tests.simulation.history import History


class WrongTableError(AssertionError):
    """A loss, a duplicate, or a ledger that is not contiguous."""


class Oracle:
    """Reads Parquet files as the head's manifests name them; knows the stream as it was sent."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.rewound = False
        self._acked: dict[Partition, int] = {}

    def _tables(self) -> list[Table]:
        catalog = self._history.lake.catalog(None)
        return [catalog.load_table(name) for name in sorted(self._history.lake.tables)]

    def _feeding(self, table: Name) -> dict[str, list[tuple[str, Any]]]:
        """For each pipeline: the partitions that feed ``table``, and their logs."""
        history = self._history
        return {
            pipeline: [
                (partition, log)
                for partition, log in sorted(group.logs.items())
                if table in history.feeds[partition.topic]
            ]
            for pipeline, group in history.groups.items()
        }

    def final(self) -> None:
        """Everything that was sent is in every table that it feeds, once; every position stands at the end."""
        for table in self._tables():
            self.check(table)
        if left := self.missing():
            raise WrongTableError(f"not written: {left}")

    def check(self, table: Table) -> None:
        """The table holds what the stream said up to the positions that it records, and its ledger is contiguous."""
        found = self.read(table)
        own = Counter({value: n for value, n in found.items() if not value.startswith("foreign")})
        expected: Counter[str] = Counter()
        for pipeline, logs in self._feeding(table.name()).items():
            positions = self.positions(table.metadata, pipeline)
            for partition, log in logs:
                values = log.values[: positions.get(partition, 0)]
                expected.update(value.decode() for value in values if value is not None and value != HOLE)
            self._contiguous(table.metadata, pipeline)
        missing, extra = expected - own, own - expected
        if missing or extra:
            raise WrongTableError(f"{table.name()}: missing {sorted(missing)}, extra {sorted(extra)}")
        if twice := [value for value, n in found.items() if n > 1]:
            raise WrongTableError(f"{table.name()}: twice {sorted(twice)}")
        for snapshot, parent in pairwise(lineage(table.metadata)):
            ours = any(entry_of(snapshot, pipeline) is not None for pipeline in self._history.groups)
            if ours and snapshot.timestamp_ms < parent.timestamp_ms:
                raise WrongTableError(f"{table.name()}: time goes back")

    def acked(self, positions: Mapping[Partition, Position]) -> None:
        """Nobody says that rows are safe before they are in every table that they belong to (PROTOCOL I7)."""
        history = self._history
        if self.rewound:
            return
        for partition, at in positions.items():
            self._acked[partition] = max(at.next, self._acked.get(partition, 0))
        for partition, offset in self._acked.items():
            pipeline = next(p for p, topics in history.topics.items() if partition.topic in topics)
            for name in history.feeds[partition.topic]:
                known = self.positions(history.lake.tables[name][0], pipeline) if name in history.lake.tables else {}
                if (there := known.get(partition, 0)) < offset:
                    raise WrongTableError(f"{partition} is acked up to {offset}, {name} stands at {there}")

    def read(self, table: Table) -> Counter[str]:
        """The rows at the head, by value."""
        found: Counter[str] = Counter()
        head = table.metadata.current_snapshot()
        if head is None:
            return found
        for manifest in head.manifests(table.io):
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                path = entry.data_file.file_path
                try:
                    with table.io.new_input(path).open() as stream:
                        found.update(pq.read_table(stream, columns=["value"])["value"].to_pylist())
                except FileNotFoundError:
                    raise WrongTableError(f"{table.name()}: {path} is gone") from None
        return found

    def positions(self, metadata: TableMetadata, pipeline: str) -> dict[Any, int]:
        """Where the newest entry on the ancestry says that the pipeline stands, by partition."""
        entry = next((e for s in lineage(metadata) if (e := entry_of(s, pipeline)) is not None), None)
        if entry is None and (text := metadata.properties.get(f"lakeward.{pipeline}")) is not None:
            entry = json.loads(json.loads(text)["entry"])
        if entry is None:
            return {}
        told = entry["positions"]
        partitions = self._history.groups[pipeline].logs
        return {p: told[p.topic][str(p.number)][0] for p in partitions if str(p.number) in told.get(p.topic, {})}

    @staticmethod
    def _contiguous(metadata: TableMetadata, pipeline: str) -> None:
        """Claims follow one another along what is left of the ancestry (PROTOCOL I3)."""
        later: dict[str, Any] | None = None
        for snapshot in lineage(metadata):
            entry = entry_of(snapshot, pipeline)
            if entry is None:
                continue
            if later is not None and later["commit"] != entry["commit"]:
                if later["number"] <= entry["number"]:
                    raise WrongTableError(f"number goes from {entry['number']} to {later['number']}")
                for topic, spans in later["claim"].items():
                    for number, (start, _) in spans.items():
                        at = entry["positions"].get(topic, {}).get(number)
                        if at is not None and at[0] != start:
                            raise WrongTableError(f"{topic}/{number}: a claim from {start} after {at[0]}")
            later = entry

    def complete(self) -> bool:
        """Whether every table's positions stand at the ends."""
        return not self.missing()

    def missing(self) -> list[str]:
        """What is not written yet, or written and not to be found."""
        history, left = self._history, []
        for name in sorted({name for names in history.feeds.values() for name in names}):
            metadata = history.lake.tables[name][0] if name in history.lake.tables else None
            for pipeline, logs in self._feeding(name).items():
                at = self.positions(metadata, pipeline) if metadata is not None else {}
                rows = any(v and v != HOLE for _, log in logs for v in log.values)
                if not rows and not at:  # tombstones alone make no table
                    continue
                left += [
                    f"{name} {p}: {at.get(p)} of {len(log.values)}" for p, log in logs if at.get(p, 0) < len(log.values)
                ]
        return left

    def proved(self, metadata: TableMetadata) -> list[int]:
        """Snapshots on the ancestry, newest first, at which every pipeline that the head knows has an entry."""
        names = [p for p in self._history.groups if f"lakeward.{p}" in metadata.properties]
        chain = list(lineage(metadata))
        found = []
        for at, snapshot in enumerate(chain):
            if all(any(entry_of(below, name) is not None for below in chain[at:]) for name in names):
                found.append(snapshot.snapshot_id)
        return found if names else []

    def expendable(self, metadata: TableMetadata) -> list[int]:
        """Snapshots below the lowest one that is needed to prove each pipeline's position."""
        chain = list(lineage(metadata))
        names = [p for p in self._history.groups if f"lakeward.{p}" in metadata.properties]
        lowest = 0
        for name in names:
            at = next((i for i, s in enumerate(chain) if entry_of(s, name) is not None), None)
            if at is None:
                return []
            # The property proves the parent of the last snapshot that is left: that parent itself may go.
            told = json.loads(metadata.properties[f"lakeward.{name}"])
            lowest = max(lowest, at - 1 if at and told["snapshot"] == chain[at].snapshot_id else at)
        return [snapshot.snapshot_id for snapshot in chain[lowest + 1 :]]


def lineage(metadata: TableMetadata) -> list[Snapshot]:
    """The head and its retained ancestors."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    found, at = [], metadata.current_snapshot()
    while at is not None:
        found.append(at)
        at = by_id.get(at.parent_snapshot_id or -1)
    return found


def entry_of(snapshot: Snapshot, pipeline: str) -> dict[str, Any] | None:
    """The entry in a snapshot's summary, as it is written."""
    text = snapshot.summary.additional_properties.get(f"lakeward.{pipeline}") if snapshot.summary else None
    return json.loads(text) if text is not None else None
