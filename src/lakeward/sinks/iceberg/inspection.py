"""One table looked at for an audit: its ledger, its commits and its live files, all from the same metadata."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table

from lakeward.errors import LakewardError, StorageError
from lakeward.ledger import LedgerEntry
from lakeward.sinks.iceberg.attempt import key_told
from lakeward.sinks.iceberg.authorship import Deed, deeds
from lakeward.sinks.iceberg.failures import explained, translated
from lakeward.sinks.iceberg.find import find, head_of
from lakeward.sinks.iceberg.handle import recorded_parent
from lakeward.sinks.iceberg.history import Record, history
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.sinks.iceberg.upsert.deletes import concerns

READERS = 16
"""Files looked at side by side: a store's answers are waited for."""
MOST_FILES = 2_000
"""More live files than this are sampled: the look at one costs two requests to the store."""

_DELETE_FILES = ("total-delete-files", "added-delete-files")


@dataclass(frozen=True, slots=True)
class Inspection:
    """A table, loaded once. ``deeds`` are the commits on its ancestry, oldest first; ``pipeline`` is who asks."""

    table: Table
    pipeline: str
    entry: LedgerEntry | None
    deeds: Sequence[Deed]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that identify rows, where the last change of each wins; none where rows are only added."""
        return key_told(self.table.properties)

    @property
    def has_delete_files(self) -> bool:
        """Whether rows are deleted by delete files, so that totals do not tell how many rows there are."""
        return bool(self.deeds) and any(
            int(deed.record.summary.get(key, 0)) for deed in self.deeds for key in _DELETE_FILES
        )


def tells_rows(record: Record) -> bool:
    """Whether its summary tells how a commit changed the number of rows.

    Not where rows had been deleted by position: files that were rewritten held those as well, and the delete files may
    stay behind, though they concern no file any more.
    """
    counts = ("total-position-deletes", "added-position-deletes", "removed-position-deletes")
    return not any(int(record.summary.get(key, 0)) for key in counts)


def left_behind(table: Table) -> int | None:
    """How many rows delete files of the head delete of files that are not there any more; None: they do not tell."""
    files = [*_listed(table)]
    data = {file.file_path for file in files if file.content == DataFileContent.DATA}
    deletes = [(concerns(file), file.record_count) for file in files if file.content != DataFileContent.DATA]
    if any(path is None for path, _ in deletes):
        return None
    return sum(rows for path, rows in deletes if path not in data)


def deleted_by_files(record: Record) -> int:
    """How many rows the equality deletes of a commit are said to take away; position deletes count as removed rows."""
    keys = ((1, "added-equality-deletes"), (-1, "removed-equality-deletes"))
    return sum(sign * int(record.summary.get(key, 0)) for sign, key in keys)


def inspect(target: IcebergTarget) -> Inspection | None:
    """Load the table of ``target``; None where there is none.

    Raises:
        LedgerError: the ledger cannot be proved or read. UnreachableError: catalog or store do not answer.
    """
    table = target.load()
    if table is None:
        return None
    pipeline = target.settings.pipeline
    with translated(f"reading the history of {target.name}", table.location()):
        found = find(table.metadata, pipeline, partial(recorded_parent, table))
        done = [deed for deed in deeds(history(table, pipeline), pipeline) if deed.record.on_ancestry]
    return Inspection(table, pipeline, found.entry, done)


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A file that the head names, and what its manifest says of it. ``size`` is in bytes."""

    path: str
    rows: int
    size: int
    parquet: bool
    deletes: bool


@dataclass(frozen=True, slots=True)
class FilesFound:
    """What became of the look at the live files: how many there are, how many were opened, what is wrong with them."""

    data: int
    deletes: int
    opened: int
    problems: Sequence[str]


def examine_files(table: Table, chance: random.Random, most: int = MOST_FILES) -> FilesFound:
    """Compare each live file (of more than ``most``, a sample) with its manifest: there, that size, that many rows.

    Raises:
        UnreachableError, PermissionDeniedError: the store does not serve us.
    """
    try:
        with translated("reading the manifests", table.location()):
            files = list(_live(table))
    except LakewardError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        return FilesFound(0, 0, 0, [f"a manifest is gone: {error.what}"])
    chosen = files if len(files) <= most else chance.sample(files, most)
    with ThreadPoolExecutor(READERS, "examining") as pool:
        told = list(pool.map(partial(_examine, table.io), chosen))
    deletes = sum(file.deletes for file in files)
    return FilesFound(len(files) - deletes, deletes, len(chosen), [problem for problem in told if problem])


def _live(table: Table) -> Iterator[LiveFile]:
    for file in _listed(table):
        yield LiveFile(
            file.file_path,
            file.record_count,
            file.file_size_in_bytes,
            file.file_format == FileFormat.PARQUET,
            file.content != DataFileContent.DATA,
        )


def _listed(table: Table) -> Iterator[DataFile]:
    """The files that the head names, deletes too."""
    head = head_of(table.metadata)
    for manifest in head.manifests(table.io) if head is not None else ():
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            yield entry.data_file


def _examine(io: FileIO, file: LiveFile) -> str | None:
    """What is wrong with ``file``; None where it is as its manifest says."""
    kind = "delete file" if file.deletes else "data file"
    try:
        given = io.new_input(file.path)
        size = len(given)
        if size != file.size:
            return f"{kind} {file.path} has {size:,} bytes, its manifest says {file.size:,}"
        if not file.parquet:
            return None
        with given.open() as stream:
            rows = pq.read_metadata(stream).num_rows
    except FileNotFoundError:
        return f"{kind} {file.path} is gone"
    except (pa.ArrowInvalid, EOFError) as error:
        return f"{kind} {file.path} is no readable Parquet file ({type(error).__name__})"
    except Exception as error:
        failure = explained(error, f"reading {kind} {file.path}", "the store")
        if isinstance(failure, StorageError):
            return f"{kind} {file.path} cannot be read: {failure.what}"
        raise failure from error
    return None if rows == file.rows else f"{kind} {file.path} has {rows:,} rows, its manifest says {file.rows:,}"
