"""Which small data files become a larger one, and writing it. The replacing commit is `replacement`'s.

Files of one partition are kept in tiers by size, each `FANOUT` times as large as the one below. As soon as a tier holds
`FANOUT` of them, they are read, sorted as the table wants it and written as one, which belongs to a higher tier. So the
number of files grows with the logarithm of what was committed, and each row is written again once a tier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import Table

from lakeward.errors import StorageError
from lakeward.sinks.iceberg.manifests import Manifests, live_files
from lakeward.sinks.iceberg.reading import read_files
from lakeward.sinks.iceberg.staging import Stager

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FANOUT = 8
MOST_FILES = 256
"""Files that one rewrite reads at most."""
_SMALLEST_TIER = 128 << 10
_CACHED_MANIFESTS = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """``target``: files of half that size or more are left alone. ``input``: bytes of files that one rewrite reads."""

    target: int
    input: int


@dataclass(frozen=True, slots=True)
class Job:
    """Live files of one partition that become one file (or a few), oldest first."""

    entries: tuple[ManifestEntry, ...]

    @property
    def files(self) -> list[DataFile]:
        """The files that go."""
        return [entry.data_file for entry in self.entries]

    @property
    def rows(self) -> int:
        """How many rows they hold."""
        return sum(file.record_count for file in self.files)


@dataclass(slots=True)
class Survey:
    """Finds what is due. Remembers the small files of each manifest, which never change."""

    manifests: Manifests
    _small: OrderedDict[str, list[ManifestEntry]] = field(default_factory=OrderedDict)

    def due(self, table: Table, limits: Limits, *, least: int) -> Job | None:
        """The most crowded tier of any partition that holds ``least`` files or more; None where nothing is due.

        A table with delete files is left alone: which rows they mean depends on the files as they are.
        """
        metadata = table.metadata
        carried = self.manifests.of(metadata.current_snapshot(), table.io)
        if any(m.content == ManifestContent.DELETES and live_files(m) for m in carried):
            return None
        groups: dict[tuple[str, int], list[ManifestEntry]] = {}
        for manifest in carried:
            if manifest.partition_spec_id != metadata.default_spec_id:
                continue
            for entry in self._small_of(manifest, table.io, limits):
                file = entry.data_file
                groups.setdefault((repr(file.partition), tier_of(file.file_size_in_bytes)), []).append(entry)
        self._forget(carried)
        fitting = [_fitting(entries, limits) for entries in groups.values() if len(entries) >= least]
        crowded = max(fitting, key=len, default=[])
        return Job(tuple(crowded)) if len(crowded) >= max(2, least) else None

    def _small_of(self, manifest: ManifestFile, io: FileIO, limits: Limits) -> list[ManifestEntry]:
        held = self._small.get(manifest.manifest_path)
        if held is None:
            held = [e for e in self.manifests.entries(manifest, io) if _is_small(e.data_file, limits)]
            self._small[manifest.manifest_path] = held
        return held

    def _forget(self, carried: Sequence[ManifestFile]) -> None:
        if len(self._small) > _CACHED_MANIFESTS:
            live = {manifest.manifest_path for manifest in carried}
            for path in [path for path in self._small if path not in live]:
                del self._small[path]


def tier_of(size: int) -> int:
    """The tier of a file of ``size`` bytes."""
    tier, top = 0, _SMALLEST_TIER
    while size >= top:
        tier, top = tier + 1, top * FANOUT
    return tier


def rewrite(table: Table, job: Job, name: str) -> list[DataFile]:
    """Read the job's files and write their rows, sorted, as files whose names begin with ``name``.

    Raises:
        StorageError: fewer or more rows were read than the files are said to hold; nothing is left behind.
    """
    parts = read_files(table, job.files)
    rows = sum(len(part) for part in parts)
    if rows != job.rows:
        raise StorageError(
            f"{len(parts)} files of {'.'.join(table.name())} hold {rows} rows, and should hold {job.rows}",
            "A data file was damaged or replaced: `lakeward verify` names it. Nothing was compacted.",
        )
    return Stager(table).stage(parts, name)


def _is_small(file: DataFile, limits: Limits) -> bool:
    return (
        file.content == DataFileContent.DATA
        and file.file_format == FileFormat.PARQUET
        and file.file_size_in_bytes < limits.target // 2
    )


def _fitting(entries: Iterable[ManifestEntry], limits: Limits) -> list[ManifestEntry]:
    """The oldest of them that one rewrite may read: neighbours in time stay neighbours."""
    chosen: list[ManifestEntry] = []
    size = 0
    for entry in sorted(entries, key=lambda e: (e.sequence_number or 0, e.data_file.file_path)):
        size += entry.data_file.file_size_in_bytes
        if size > limits.input or len(chosen) == MOST_FILES:
            break
        chosen.append(entry)
    return chosen
