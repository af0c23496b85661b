"""Rewrites whole partitions, sorted, and gathers manifests: on demand, beside writers, fenced as they are.

A partition larger than one file is cut into ranges of the column that the table is sorted by first. Each range is read
from all files, sorted and written as one file of the target size, so that memory holds one such file and no two files
overlap. All of a partition's files go, and all new ones come, in one commit (PROTOCOL M1).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import structlog
from pyiceberg.manifest import DataFile, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import Table

from lakeward.clock import Clock
from lakeward.errors import StorageError
from lakeward.sinks.iceberg.compacting import limits_of
from lakeward.sinks.iceberg.compaction import Job, Rewritten, deletes_by_file, is_small, rewrite, tier_of
from lakeward.sinks.iceberg.failures import translated
from lakeward.sinks.iceberg.find import head_of
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sinks.iceberg.manifests import Amendment, Manifests, Paper
from lakeward.sinks.iceberg.ranges import Leading, cut, disjoint, read_range
from lakeward.sinks.iceberg.reading import read_files
from lakeward.sinks.iceberg.replacement import Replacement
from lakeward.sinks.iceberg.staging import Laid, Stager, discard, partition_key

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ALL = "all"
"""Every partition; the only name that a table without partitions knows."""
_NO_ROWS = np.empty(0, np.int64)
_ATTEMPTS = 3
"""How often a partition is read again whose files another writer has replaced meanwhile."""
_SMALLEST_SHARE = 1 / 3
"""Files that hold less than this part of the target size, on average, are worth rewriting."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A partition with all its live files. ``path`` as in their names; empty where the table has no partitions.

    ``sound``: its files are sorted, do not overlap and are large enough, so that nothing is to be gained.
    """

    path: str
    job: Job
    sound: bool

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.file_size_in_bytes for file in self.job.files)


@dataclass(slots=True)
class Rewriter:
    """Rewrites one table when told to; used by one thread."""

    handle: Handle
    manifests: Manifests
    clock: Clock
    chance: random.Random

    def partitions(self, wanted: str) -> list[Whole]:
        """The partitions that ``wanted`` names: all, one (``day=2026-01-31/region=eu``), or the first part of several.

        Files of an earlier partition spec, and tables whose deletes may concern several files, are left alone.
        """
        table = self.handle.look()
        with translated(f"looking at the files of {self.handle.name}", table.location()):
            found = list(self._wholes(table))
        return [one for one in found if wanted in {ALL, one.path} or one.path.startswith(f"{wanted}/")]

    def rewrite(self, path: str) -> int:
        """Rewrite the partition ``path``, where that gains anything; return how many files went.

        Raises:
            StorageError: a file does not hold what it is said to. Other `LakewardError`: nothing was committed.
        """
        for _ in range(_ATTEMPTS):
            table = self.handle.look()
            with translated(f"rewriting {path or 'all'} of {self.handle.name}", table.location()):
                whole = next((one for one in self._wholes(table) if one.path == path), None)
                if whole is None or whole.sound:
                    return 0
                done = self._rewritten(table, whole)
            if done is None:
                return 0
            replacement = _Unless(self.handle, self.manifests, done, self.clock.now_ms())
            if replacement.run() is not None:
                log.info("rewritten", table=self.handle.name, files=len(whole.job.files), into=len(done.files))
                return len(whole.job.files)
            if replacement.sent:  # it may still land
                return 0
            discard(table.io, done.files)
        return 0

    def gather(self) -> int:
        """Write the manifests of data files anew, few and by partition; return how many went.

        Raises:
            LakewardError: nothing was committed.
        """
        table = self.handle.look()
        with translated(f"looking at the manifests of {self.handle.name}", table.location()):
            scattered = self.scattered(table)
        if not scattered:
            return 0
        nothing = Rewritten(Job(()), (), (), self._name("manifests"))
        gathering = _Gathering(self.handle, self.manifests, nothing, self.clock.now_ms())
        return scattered if gathering.run() is not None else 0

    def scattered(self, table: Table) -> int:
        """How many manifests would go if they were gathered; 0 where nothing is to be gained."""
        carried = self.manifests.of(head_of(table.metadata), table.io)
        own = self.manifests.gatherable(carried, table.metadata.default_spec_id)
        return len(own) if len(own) > self.manifests.needed(own) else 0

    def mergeable(self, table: Table) -> int:
        """How many small files `compact` would merge at once."""
        limits, groups = limits_of(table), dict[tuple[str, int], int]()
        for entry in self._entries(table):
            file = entry.data_file
            if is_small(file, limits):
                key = repr(file.partition), tier_of(file.file_size_in_bytes)
                groups[key] = groups.get(key, 0) + 1
        return sum(files for files in groups.values() if files > 1)

    def _entries(self, table: Table) -> Iterator[ManifestEntry]:
        for manifest in self.manifests.of(head_of(table.metadata), table.io):
            if (
                manifest.content == ManifestContent.DATA
                and manifest.partition_spec_id == table.metadata.default_spec_id
            ):
                yield from self.manifests.entries(manifest, table.io)

    def _wholes(self, table: Table) -> Iterator[Whole]:
        deletes = deletes_by_file(self.manifests, self.manifests.of(head_of(table.metadata), table.io), table.io)
        if deletes is None:
            return
        groups: dict[str, list[ManifestEntry]] = {}
        for entry in self._entries(table):
            groups.setdefault(_path(table, entry.data_file), []).append(entry)
        for path, entries in sorted(groups.items()):
            if all(entry.data_file.file_format == FileFormat.PARQUET for entry in entries):
                entries.sort(key=lambda e: (e.sequence_number or 0, e.data_file.file_path))
                concerned = (one for e in entries for one in deletes.get(e.data_file.file_path, ()))
                job = Job(tuple(entries), tuple(concerned))
                yield Whole(path, job, _is_sound(table, job))

    def _rewritten(self, table: Table, whole: Whole) -> Rewritten | None:
        target, name = limits_of(table).target, self._name("rewrite")
        if whole.size <= target:
            return rewrite(table, whole.job, name)
        if whole.job.deletes:
            log.info("left alone", table=self.handle.name, partition=whole.path, reason="rows are deleted from it")
            return None
        files: list[DataFile] = []
        try:
            for number, rows in enumerate(_sorted_parts(table, whole, target)):
                files += Stager(table).stage([rows], f"{name}-{number:04d}")
            self._check(whole, files)
        except BaseException:
            discard(table.io, files)
            raise
        return Rewritten(whole.job, [Laid(file, _NO_ROWS) for file in files], (), name)

    def _check(self, whole: Whole, files: Sequence[DataFile]) -> None:
        written = sum(file.record_count for file in files)
        if written != whole.job.rows:
            raise StorageError(
                f"{len(whole.job.files)} files of {self.handle.name} hold {written} rows, not {whole.job.rows}",
                "A data file was damaged or replaced: `lakeward verify` names it. Nothing was rewritten.",
            )

    def _name(self, what: str) -> str:
        return f"{what}-{self.chance.getrandbits(128):032x}"


class _Unless(Replacement):
    """A replacement that does not follow single rows: it is dropped where any was deleted since."""

    def _change(self, table: Table, carried: Sequence[ManifestFile]) -> Amendment | None:
        if self.rewritten.kept:
            return super()._change(table, carried)
        deletes = deletes_by_file(self.manifests, carried, table.io)
        files = self.rewritten.job.files
        if deletes is None or any(file.file_path in deletes for file in files):
            return None
        if {file.spec_id for file in self.rewritten.files} - {table.metadata.default_spec_id}:
            return None
        return Amendment(self.rewritten.files, (), files)


class _Gathering(Replacement):
    """A snapshot with the files of the one before, in other manifests."""

    def _change(self, table: Table, carried: Sequence[ManifestFile]) -> Amendment | None:
        del table, carried
        return Amendment()

    def _composed(self, paper: Paper, change: Amendment, carried: Sequence[ManifestFile]) -> list[ManifestFile] | None:
        del change
        return self.manifests.gather(paper, carried)


def _path(table: Table, file: DataFile) -> str:
    spec = table.metadata.specs()[file.spec_id]
    return partition_key(spec, table.schema(), file.partition).to_path() if spec.fields else ""


def _is_sound(table: Table, job: Job) -> bool:
    files, order = job.files, table.sort_order()
    if job.deletes or any(file.sort_order_id != order.order_id for file in files if not order.is_unsorted):
        return False
    if len(files) == 1:
        return True
    leading = Leading.of(table)
    large = sum(file.file_size_in_bytes for file in files) / len(files) >= limits_of(table).target * _SMALLEST_SHARE
    return large and (leading is None or disjoint(files, leading))


def _sorted_parts(table: Table, whole: Whole, target: int) -> Iterator[pa.Table]:
    """All rows, about ``target`` bytes of file at a time, each part to be sorted for itself."""
    leading = Leading.of(table)
    if leading is None:  # nothing to cut by: neighbours in time stay neighbours
        parts: list[DataFile] = []
        for file in whole.job.files:
            if parts and sum(one.file_size_in_bytes for one in [*parts, file]) > target:
                yield pa.concat_tables(read_files(table, parts))
                parts = []
            parts.append(file)
        yield pa.concat_tables(read_files(table, parts))
        return
    ranges = cut(table, whole.job.files, leading, -(-whole.size // target))
    for number in ranges.order:
        yield pa.concat_tables([read_range(table, file, ranges, number) for file in whole.job.files])
