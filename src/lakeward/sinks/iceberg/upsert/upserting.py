"""Batches of changes as staged files: what they leave behind, with the values that they leave out read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from lakeward.changes import Changes, Effect
from lakeward.collapse import Collapsed, collapse
from lakeward.errors import SchemaMismatchError
from lakeward.outcomes import Batch
from lakeward.sinks.iceberg.compaction import Rewritten
from lakeward.sinks.iceberg.find import head_of
from lakeward.sinks.iceberg.manifests import Manifests
from lakeward.sinks.iceberg.matching import match
from lakeward.sinks.iceberg.replacement import Replacing
from lakeward.sinks.iceberg.schema import conform, needs_large
from lakeward.sinks.iceberg.staging import Stager
from lakeward.sinks.iceberg.upsert.delta import Delta
from lakeward.sinks.iceberg.upsert.departed import Departed, search
from lakeward.sinks.iceberg.upsert.index import DEFAULT_LIMIT, Arrived, KeyIndex
from lakeward.sinks.iceberg.upsert.old_rows import OldRows

Place = tuple[DataFile, int]
"""A file, and a position in it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """``limit``: bytes of keys that are kept in memory. ``folder``: where the others go; None: the system's own."""

    limit: int = DEFAULT_LIMIT
    folder: Path | None = None


@dataclass(slots=True)
class Upserts:
    """One target's changes. Knows where the row of each key lies, from the first change on."""

    manifests: Manifests
    name: str
    settings: IndexSettings
    index: KeyIndex | None = field(default=None)
    departed: Departed = field(default_factory=Departed)

    def stage(self, batch: Batch, table: Table, stager: Stager, commit: str) -> tuple[list[DataFile], Delta]:
        """Write the files of ``batch``, whose names begin with ``commit``, for ``table`` as ``stager`` will have it.

        Raises:
            SchemaMismatchError: the rows do not fit the table. StorageError, UnreachableError: try again later.
        """
        rows, changes = _conformed(batch, stager)
        index = self._index(changes.key)
        left = collapse(rows, changes)
        if left.unknown:
            log.warning("values unknown", table=self.name, values=left.unknown, reason="left out after a deletion")
        read_at = None
        if left.absent or left.marks.any():
            index.advance(table)
            head = head_of(table.metadata)
            read_at = head.snapshot_id if head is not None else 0
            left = self._completed(left, table, stager)
        laid = stager.lay(_strict(left.rows, stager.binding.schema), commit)
        arrived = [Arrived(one.file, left.hashes[one.rows]) for one in laid]
        keys = np.concatenate((left.hashes, left.deleted_hashes))
        delta = Delta(
            index,
            self.manifests,
            keys,
            arrived,
            truncates=left.truncates,
            read_at=read_at,
            deleted=len(left.deleted_hashes),
            departed=self.departed,
        )
        return [one.file for one in laid], delta

    @property
    def key(self) -> tuple[str, ...]:
        """The columns by which the index knows rows; none before the first change."""
        return self.index.key if self.index is not None else ()

    def moved(self, table: Table, done: Rewritten, made: Replacing) -> None:
        """The head of ``table`` has these new files in the place of those that were rewritten: the index follows."""
        if self.index is None or done.hashes is None:
            return
        numbers = [self.index.number(file.file_path) for file in done.job.files]
        if None in numbers:
            return
        hashes, dead = done.hashes, {one.file.file_path: one.positions for one in made.moved}
        none = np.zeros(0, np.int64)
        arrived = [Arrived(one.file, hashes[one.rows], dead.get(one.file.file_path, none)) for one in done.laid]
        touched = [(number, kept) for number, kept in zip(numbers, done.kept, strict=True) if number is not None]
        self.index.landed(table, arrived, touched, made.change.deletes)

    def _index(self, key: tuple[str, ...]) -> KeyIndex:
        if self.index is None or self.index.key != key:
            self.index = KeyIndex(key, self.settings.limit, self.settings.folder)
        return self.index

    def _completed(self, left: Collapsed, table: Table, stager: Stager) -> Collapsed:
        """``left`` with the values that the table's own rows have; without the marks of rows that are not there."""
        assert self.index is not None  # noqa: S101 -- `stage` has made it
        wanted = left.marks.copy()
        for mask in left.absent.values():
            wanted |= mask
        at = np.flatnonzero(wanted)
        files, positions = self.index.find(left.sources[at])
        there = files >= 0
        held, numbers = np.unique(files[there], return_inverse=True)
        sources = [self.index.file(number) for number in held.tolist()]
        columns = list(left.absent)
        values = OldRows(table, stager.binding.schema, stager.former, sources).read(columns, numbers, positions[there])
        place = np.full(len(left.rows), -1, np.int64)
        place[at[there]] = np.arange(int(there.sum()))
        again = self._departed(left, at[~there], table)
        if again and (more := _departed_rows(OldRows(table, stager.binding.schema, stager.former, ()), columns, again)):
            place[[row for row, _ in again]] = np.arange(len(values), len(values) + len(again))
            values = pa.concat_tables([values, more])
        rows = left.rows
        for name, mask in left.absent.items():
            rows = _filled(rows, name, values[name], np.where(mask, place, -1))
            missing = int((mask & (place < 0) & ~left.marks).sum())
            if missing:
                log.warning("values unknown", table=self.name, column=name, values=missing, reason="no row has the key")
        stay = ~left.marks | (place >= 0)
        if stay.all():
            return replace(left, rows=rows)
        return replace(left, rows=rows.filter(pa.array(stay)), hashes=left.hashes[stay], sources=left.sources[stay])

    def _departed(self, left: Collapsed, rows: NDArray[np.int64], table: Table) -> list[tuple[int, Place]]:
        """Where the former rows lie of those of ``rows`` whose key was changed, though the table has them no more."""
        moved = rows[(left.sources[rows] != left.hashes[rows]).any(axis=1)]
        told = {row: self.departed.find(left.sources[row]) for row in moved.tolist()}
        if lost := [row for row, place in told.items() if place is None]:
            log.info("searching", table=self.name, rows=len(lost), reason="their keys were changed before this start")
            found = search(table, self.key, left.sources[lost])
            told.update({row: found.get(left.sources[row].tobytes()) for row in lost})
        return [(row, place) for row, place in told.items() if place is not None]


def _departed_rows(old: OldRows, columns: Sequence[str], wanted: Sequence[tuple[int, Place]]) -> pa.Table | None:
    """The values of rows that were deleted a short while ago; None where their files are gone too."""
    files = [file for _, (file, _) in wanted]
    positions = np.array([position for _, (_, position) in wanted], np.int64)
    try:
        return replace(old, files=files).read(columns, np.arange(len(files)), positions)
    except FileNotFoundError:
        return None


def _filled(rows: pa.Table, name: str, values: pa.ChunkedArray, place: NDArray[np.int64]) -> pa.Table:
    """``rows`` with ``values`` in the column ``name``, where ``place`` tells which; -1: what is there stays."""
    at = rows.column_names.index(name)
    taken = place >= 0
    both = pa.chunked_array([*rows.column(at).chunks, *values.cast(rows.schema.field(at).type).chunks])
    source = np.where(taken, place + len(rows), np.arange(len(rows)))
    return rows.set_column(at, rows.schema.field(at), both.take(pa.array(source)))


def _conformed(batch: Batch, stager: Stager) -> tuple[pa.Table, Changes]:
    """All rows and changes of ``batch``, in columns of the table. Nothing is required yet: deletions have only keys."""
    schema = stager.binding.schema
    optional = Schema(*(one.model_copy(update={"required": False}) for one in schema.fields))
    pairs = [pair for pair in zip(batch.parts, batch.changes, strict=True) if len(pair[0])]
    large = needs_large([part for part, _ in pairs])
    rows = [conform(part, optional, stager.former, large=large) for part, _ in pairs]
    changes = [_named(part, one, schema, stager.former) for part, one in pairs]
    return pa.concat_tables(rows), Changes.joined(changes)


def _named(part: pa.Table, changes: Changes, schema: Schema, former: Mapping[int, tuple[str, ...]]) -> Changes:
    """``changes`` by the table's names. A mark leaves out what its record does not even have a column for."""
    meant = match(part.column_names, schema.fields, former)
    names = {name: schema.fields[at].name for name, at in zip(part.column_names, meant, strict=True) if at is not None}
    named = changes.renamed(names)
    marks = changes.effect == Effect.MARK
    if not marks.any():
        return named
    lacking = [one.name for one in schema.fields if one.name not in names.values()]
    return replace(named, absent={**named.absent, **dict.fromkeys(lacking, marks)})


def _strict(rows: pa.Table, schema: Schema) -> pa.Table:
    """``rows`` with what the table requires said in their schema.

    Raises:
        SchemaMismatchError: a value is missing that the table requires.
    """
    fields: Sequence[pa.Field] = list(rows.schema)
    required = {one.name for one in schema.fields if one.required}
    for at, one in enumerate(fields):
        if one.name in required and rows.column(at).null_count:
            raise SchemaMismatchError(
                f'the table requires "{one.name}", but {rows.column(at).null_count} of {len(rows)} rows have none',
                "Fill the column in where the records are made, or make it optional in the table.",
            )
    return pa.Table.from_arrays(
        rows.columns, schema=pa.schema([one.with_nullable(one.name not in required) for one in fields])
    )
