"""Which small data files become a larger one, and writing it. The replacing commit is `replacement`'s.

Files of one partition are kept in tiers by size, each `FANOUT` times as large as the one below. As soon as a tier holds
`FANOUT` of them, they are read, sorted as the table wants it and written as one, which belongs to a higher tier. So the
number of files grows with the logarithm of what was committed, and each row is written again once a tier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import Table

from lakeward.errors import StorageError
from lakeward.keys import Hashes, hashes
from lakeward.sinks.iceberg.manifests import Manifests, live_files
from lakeward.sinks.iceberg.reading import read_files
from lakeward.sinks.iceberg.staging import Laid, Stager
from lakeward.sinks.iceberg.upsert.deletes import concerns, read_positions

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FANOUT = 8
MOST_FILES = 256
"""Files that one rewrite reads at most."""
_SMALLEST_TIER = 128 << 10
_CACHED_MANIFESTS = 1024
_MUCH_DELETED = 0.2
"""A file of which so much is deleted is written again, whatever its size: readers read past all of that."""
_DIRTY = -1
"""The tier of such files."""
_READERS = 4
"""Files read at once: a store's answers are waited for side by side."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``target``: files of half that size or more are left alone. ``input``: bytes of files that one rewrite reads."""

    target: int
    input: int


@dataclass(frozen=True, slots=True)
class Job:
    """Live files that become one file a partition (or a few), oldest first, and the deletes of their rows."""

    entries: tuple[ManifestEntry, ...]
    deletes: tuple[DataFile, ...] = ()

    @property
    def files(self) -> list[DataFile]:
        """The data files that go."""
        return [entry.data_file for entry in self.entries]

    @property
    def rows(self) -> int:
        """How many rows they hold, deleted ones too."""
        return sum(file.record_count for file in self.files)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What became of a job: its new files, and where its rows went.

    ``kept``: for each of the job's files, the positions of the rows that were not deleted, ascending; the rows that
    ``laid`` numbers are these, file after file. ``name``: what the new files' names begin with. ``hashes``: those of
    the rows' keys, in the same order; None where nobody asked.
    """

    job: Job
    laid: Sequence[Laid]
    kept: Sequence[NDArray[np.int64]]
    name: str
    hashes: Hashes | None = None

    @property
    def files(self) -> list[DataFile]:
        """The new files."""
        return [one.file for one in self.laid]

    @property
    def rows(self) -> int:
        """How many rows they hold."""
        return sum(file.record_count for file in self.files)

    def moved(self, deleted: Mapping[str, NDArray[np.int64]]) -> list[tuple[DataFile, NDArray[np.int64]]]:
        """Rows of old files, by path and positions, as rows of the new ones: what was deleted since stays deleted."""
        starts = np.cumsum([0, *map(len, self.kept)])
        gone = np.zeros(starts[-1], np.bool_)
        for number, file in enumerate(self.job.files):
            if file.file_path in deleted:
                gone[starts[number] : starts[number + 1]] = np.isin(self.kept[number], deleted[file.file_path])
        found = ((one.file, np.flatnonzero(gone[one.rows])) for one in self.laid)
        return [(file, positions) for file, positions in found if len(positions)]


@dataclass(slots=True)
class Survey:
    """Finds what is due. Remembers the small files of each manifest, which never change."""

    manifests: Manifests
    _small: OrderedDict[str, list[ManifestEntry]] = field(default_factory=OrderedDict)

    def due(self, table: Table, limits: Limits, *, least: int) -> Job | None:
        """The most crowded tiers of all partitions that hold ``least`` files or more; else files with much deleted.

        None where nothing is due. A table with deletes that may concern several files is left alone.
        """
        metadata = table.metadata
        carried = self.manifests.of(metadata.current_snapshot(), table.io)
        deletes = deletes_by_file(self.manifests, carried, table.io)
        if deletes is None:
            return None
        groups: dict[tuple[str, int], list[ManifestEntry]] = {}
        for manifest in carried:
            if manifest.partition_spec_id != metadata.default_spec_id or manifest.content != ManifestContent.DATA:
                continue
            for entry in self._small_of(manifest, table.io, limits):
                file = entry.data_file
                groups.setdefault((repr(file.partition), tier_of(file.file_size_in_bytes)), []).append(entry)
            if deletes:
                for entry in self.manifests.entries(manifest, table.io):
                    if _deleted_share(entry.data_file, deletes) >= _MUCH_DELETED:
                        groups.setdefault((repr(entry.data_file.partition), _DIRTY), []).append(entry)
        self._forget(carried)
        crowded = [_fitting(entries, limits) for (_, tier), entries in groups.items() if tier != _DIRTY]
        dirty = [_fitting(entries, limits) for (_, tier), entries in groups.items() if tier == _DIRTY]
        chosen = _joined([one for one in crowded if len(one) >= max(2, least)], limits) or _joined(dirty, limits)
        if not chosen:
            return None
        return Job(tuple(chosen), tuple(one for e in chosen for one in deletes.get(e.data_file.file_path, ())))

    def _small_of(self, manifest: ManifestFile, io: FileIO, limits: Limits) -> list[ManifestEntry]:
        held = self._small.get(manifest.manifest_path)
        if held is None:
            held = [e for e in self.manifests.entries(manifest, io) if is_small(e.data_file, limits)]
            self._small[manifest.manifest_path] = held
        return held

    def _forget(self, carried: Sequence[ManifestFile]) -> None:
        if len(self._small) > _CACHED_MANIFESTS:
            live = {manifest.manifest_path for manifest in carried}
            for path in [path for path in self._small if path not in live]:
                del self._small[path]


def deletes_by_file(
    manifests: Manifests, carried: Sequence[ManifestFile], io: FileIO
) -> dict[str, list[DataFile]] | None:
    """The live delete files by the data file that they concern; None where any may concern several."""
    found: dict[str, list[DataFile]] = {}
    for manifest in carried:
        if manifest.content != ManifestContent.DELETES or not live_files(manifest):
            continue
        for entry in manifests.entries(manifest, io):
            path = concerns(entry.data_file)
            if path is None:
                return None
            found.setdefault(path, []).append(entry.data_file)
    return found


def tier_of(size: int) -> int:
    """The tier of a file of ``size`` bytes."""
    tier, top = 0, _SMALLEST_TIER
    while size >= top:
        tier, top = tier + 1, top * FANOUT
    return tier


def rewrite(table: Table, job: Job, name: str, key: tuple[str, ...] = ()) -> Rewritten:
    """Read the job's files and write their living rows, sorted, as files whose names begin with ``name``.

    ``key``: columns whose hashes are wanted.

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
    deleted = deleted_rows(table.io, job.deletes)
    kept = [_others(len(part), deleted.get(file.file_path)) for part, file in zip(parts, job.files, strict=True)]
    living = [part if len(at) == len(part) else part.take(pa.array(at)) for part, at in zip(parts, kept, strict=True)]
    stager = Stager(table)
    whole = stager.conformed(living)
    found = hashes(whole.select(list(key))) if key else None
    return Rewritten(job, stager.lay(whole, name), kept, name, found)


def deleted_rows(io: FileIO, deletes: Sequence[DataFile]) -> dict[str, NDArray[np.int64]]:
    """The positions that position-delete files delete, by data file; in no order, and perhaps twice."""
    found: dict[str, list[NDArray[np.int64]]] = {}
    if deletes:
        with ThreadPoolExecutor(_READERS, "deletes") as pool:
            for told in pool.map(lambda file: read_positions(io, file), deletes):
                for path, positions in told.items():
                    found.setdefault(path, []).append(positions)
    return {path: np.concatenate(several) for path, several in found.items()}


def _others(rows: int, deleted: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The positions below ``rows`` that are not deleted."""
    if deleted is None:
        return np.arange(rows)
    living = np.ones(rows, np.bool_)
    living[deleted] = False
    return np.flatnonzero(living)


def _deleted_share(file: DataFile, deletes: Mapping[str, Sequence[DataFile]]) -> float:
    """How much of a file is deleted."""
    return sum(one.record_count for one in deletes.get(file.file_path, ())) / max(1, file.record_count)


def is_small(file: DataFile, limits: Limits) -> bool:
    """Whether compaction may merge ``file`` with others."""
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
        if (size > limits.input and chosen) or len(chosen) == MOST_FILES:
            break
        chosen.append(entry)
    return chosen


def _joined(groups: Sequence[list[ManifestEntry]], limits: Limits) -> list[ManifestEntry]:
    """The largest of them, and as many others as one rewrite may read beside: each takes a commit."""
    chosen: list[ManifestEntry] = []
    size = 0
    for group in sorted(groups, key=len, reverse=True):
        more = sum(entry.data_file.file_size_in_bytes for entry in group)
        if not chosen or (size + more <= limits.input and len(chosen) + len(group) <= MOST_FILES):
            chosen += group
            size += more
    return chosen
