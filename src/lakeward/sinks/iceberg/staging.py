"""Batches as data files that nobody sees: conformed, partitioned, sorted, written through the table's own FileIO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from uuid import UUID

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from pyiceberg.io import FileIO, OutputFile
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionKey, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.locations import LocationProvider
from pyiceberg.table.sorting import SortOrder
from pyiceberg.typedef import Record

from lakeward.errors import LakewardError, PermissionDeniedError, StorageError
from lakeward.sinks.iceberg.failures import explained
from lakeward.sinks.iceberg.matching import Former
from lakeward.sinks.iceberg.parquet import FilePlan, Written, plan_files, write_files
from lakeward.sinks.iceberg.partitioning import PartitionRows, split
from lakeward.sinks.iceberg.schema import conform, needs_large

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_DELETE_FAILURES = 2
_WRITERS = 4
"""Files written at once: a store's answers are waited for side by side."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What staged files are bound to: a table, and how it wanted files when it was loaded (PROTOCOL C1)."""

    uuid: UUID
    schema: Schema
    spec: PartitionSpec
    sorting: SortOrder
    properties: Mapping[str, str]
    io: FileIO
    locations: LocationProvider

    @staticmethod
    def of(table: Table) -> Binding:
        """The binding to ``table`` as it was loaded."""
        return Binding(
            uuid=table.metadata.table_uuid,
            schema=table.schema(),
            spec=table.spec(),
            sorting=table.sort_order(),
            properties=table.properties,
            io=table.io,
            locations=table.location_provider(),
        )


@dataclass(frozen=True, slots=True)
class Laid:
    """A file, and ``rows`` int64[n]: which of the rows that were to be written it holds, in its order."""

    file: DataFile
    rows: NDArray[np.int64]


class Stager:
    """Writes the data files of batches for one table as it was loaded; ``former``: names that its columns had."""

    def __init__(self, table: Table, former: Former | None = None) -> None:
        self.binding = Binding.of(table)
        self.former = former or {}

    def stage(self, parts: Sequence[pa.Table], commit_id: str) -> list[DataFile]:
        """Write all rows of ``parts`` (their schemas may differ); every row is in exactly one of the files returned.

        The names of the files start with ``commit_id``. After an error no file is left behind, as far as the store
        still lets us delete.

        Raises:
            SchemaMismatchError: the rows do not fit the table. StorageError: disk full, quota, no bucket.
            UnreachableError: the store does not answer. PermissionDeniedError: it refuses us.
            ConfigurationError: a property of the table cannot be read.
        """
        return [laid.file for laid in self.lay(self.conformed(parts), commit_id)]

    def conformed(self, parts: Sequence[pa.Table]) -> pa.Table:
        """All rows of ``parts``, one after the other, in the columns of the table.

        Raises:
            SchemaMismatchError: they do not fit.
        """
        filled = [part for part in parts if len(part)] or [pa.table({})]
        large = needs_large(filled)
        return pa.concat_tables([conform(part, self.binding.schema, self.former, large=large) for part in filled])

    def lay(self, rows: pa.Table, commit_id: str) -> list[Laid]:
        """As `stage`, for rows that are conformed to the table already; says which row is where."""
        if not len(rows):
            return []
        bound = self.binding
        plan = plan_files(rows, bound.schema, bound.properties, bound.sorting)
        groups = split(rows, bound.schema, bound.spec, bound.sorting)
        return _Staging(bound, plan, commit_id).write(groups)


def discard(io: FileIO, files: Iterable[DataFile]) -> None:
    """Delete staged files of an attempt that is provably dead (PROTOCOL I6); what cannot be deleted is logged."""
    _delete(io, [file.file_path for file in files])


class _Staging:
    """One call of `Stager.stage`, and what there is to clean up if it fails."""

    def __init__(self, bound: Binding, plan: FilePlan, commit_id: str) -> None:
        self._bound = bound
        self._plan = plan
        self._commit_id = commit_id
        self._opened: list[list[str]] = []

    def write(self, groups: Sequence[PartitionRows]) -> list[Laid]:
        try:
            if len(groups) == 1:
                return self._group(0, groups[0])
            return self._side_by_side(groups)
        except BaseException:
            _delete(self._bound.io, chain.from_iterable(self._opened))
            raise

    def _side_by_side(self, groups: Sequence[PartitionRows]) -> list[Laid]:
        with ThreadPoolExecutor(_WRITERS, "staging") as pool:
            futures = [pool.submit(self._group, number, group) for number, group in enumerate(groups)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(cancel_futures=True)
            failed = [future for future in futures if future.done() and not future.cancelled() and future.exception()]
            return [file for future in failed or futures for file in future.result()]

    def _group(self, number: int, group: PartitionRows) -> list[Laid]:
        opened: list[str] = []
        self._opened.append(opened)
        try:
            laid: list[Laid] = []
            start = 0
            for written in write_files(self._plan, group.rows, self._outputs(number, group.partition, opened)):
                file = self._data_file(written, group.partition)
                laid.append(Laid(file, group.places[start : start + file.record_count]))
                start += file.record_count
        except (LakewardError, MemoryError):
            raise
        except Exception as error:
            where = opened[-1] if opened else self._bound.locations.data_path
            raise _explained(error, where) from error
        return laid

    def _outputs(self, number: int, partition: Record, opened: list[str]) -> Iterator[OutputFile]:
        bound = self._bound
        key = partition_key(bound.spec, bound.schema, partition) if bound.spec.fields else None
        roll = 0
        while True:
            name = f"{self._commit_id}-{number:05d}-{roll:03d}.parquet"
            location = bound.locations.new_data_location(name, key)
            opened.append(location)
            yield bound.io.new_output(location)
            roll += 1

    def _data_file(self, written: Written, partition: Record) -> DataFile:
        bound = self._bound
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=written.location,
            file_format=FileFormat.PARQUET,
            partition=partition,
            file_size_in_bytes=written.size,
            sort_order_id=None if bound.sorting.is_unsorted else bound.sorting.order_id,
            equality_ids=None,
            key_metadata=None,
            **written.statistics,
        )
        file.spec_id = bound.spec.spec_id
        return file


def _explained(error: Exception, where: str) -> LakewardError:
    # s3fs raises these two without the error numbers that tell them apart elsewhere.
    if isinstance(error, FileNotFoundError):  # directories are made: only a bucket can be missing
        return StorageError(f"writing data files: {where}: {error}", "Create the bucket.")
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"writing data files: {where} refuses us: {error}", "Check the credentials.")
    return explained(error, "writing data files", where)


def partition_key(spec: PartitionSpec, schema: Schema, partition: Record) -> PartitionKey:
    """The partition of ``spec`` that has these values."""
    return _Key([], spec, schema, partition)


@dataclass(frozen=True)
class _Key(PartitionKey):
    """A partition whose values are known already; PyIceberg's own key refuses two fields on one column."""

    values: Record

    def to_path(self) -> str:
        try:
            return self.partition_spec.partition_to_path(self.values, self.schema)
        except (ValueError, OverflowError):  # a day that Python's calendar does not have; the path is only for people
            names = (field.name for field in self.partition_spec.fields)
            return "/".join(f"{name}={self.values[at]}" for at, name in enumerate(names))


def _delete(io: FileIO, locations: Iterable[str]) -> None:
    """Best effort: a store that has stopped answering is not asked about every file."""
    waiting = list(locations)
    failures = 0
    while waiting and failures < _DELETE_FAILURES:
        location = waiting.pop(0)
        try:
            io.delete(location)
        except FileNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001 -- whatever a store raises, the rest still wants deleting
            failures += 1
            log.warning("left behind", file=location, error=type(error).__name__)
        else:
            failures = 0
    if waiting:
        log.warning("left behind", files=len(waiting), first=waiting[0])
