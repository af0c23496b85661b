"""Ranges of the column that a table is sorted by first: cutting a partition's rows by it, and reading one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.sorting import NullOrder, SortDirection
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import FixedType, PrimitiveType, UUIDType

from lakeward.sinks.iceberg.fitting import shape_of
from lakeward.sinks.iceberg.matching import FIELD_ID
from lakeward.sinks.iceberg.reading import as_stored

_SAMPLE_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Leading:
    """The first field of a table's sort order, where it is a plain column whose values can be compared."""

    source_id: int
    name: str
    kind: PrimitiveType
    descending: bool
    nulls_first: bool

    @staticmethod
    def of(table: Table) -> Leading | None:
        """That of ``table``; None where it has no sort order, or begins with something else."""
        order = table.sort_order()
        if order.is_unsorted:
            return None
        first, schema = order.fields[0], table.schema()
        column = next((field for field in schema.fields if field.field_id == first.source_id), None)
        if column is None or not isinstance(first.transform, IdentityTransform):
            return None
        if not isinstance(column.field_type, PrimitiveType) or isinstance(column.field_type, (UUIDType, FixedType)):
            return None
        descending, nulls_first = first.direction == SortDirection.DESC, first.null_order == NullOrder.NULLS_FIRST
        return Leading(first.source_id, column.name, column.field_type, descending, nulls_first)


@dataclass(frozen=True, slots=True)
class Ranges:
    """``cuts``: ascending, distinct; range n begins with the n-th (the first has none) and ends before the next."""

    leading: Leading
    cuts: pa.Array

    @property
    def order(self) -> Sequence[int]:
        """The ranges as the table is sorted."""
        numbers = range(len(self.cuts) + 1)
        return numbers[::-1] if self.leading.descending else numbers

    def bounds(self, number: int) -> tuple[Any, Any]:
        """Where range ``number`` begins and ends, as scalars; None where it is open."""
        below = self.cuts[number - 1] if number else None
        return below, self.cuts[number] if number < len(self.cuts) else None

    def holds(self, column: pa.ChunkedArray, number: int) -> pa.ChunkedArray:
        """Which values of ``column`` are in range ``number``: each is in exactly one, nulls and NaN too."""
        start, end = self.bounds(number)
        inside = pa.chunked_array([pa.array(np.ones(len(column), np.bool_))])
        if start is not None:
            inside = pc.and_kleene(inside, pc.invert(pc.less(column, start)))
        if end is not None:
            inside = pc.and_kleene(inside, pc.less(column, end))
        at = self.order[0 if self.leading.nulls_first else -1]
        return pc.if_else(pc.is_null(column), number == at, inside)


def cut(table: Table, files: Sequence[DataFile], leading: Leading, pieces: int) -> Ranges:
    """Ranges that hold about as many rows each, ``pieces`` at most, by a sample of every file's column."""
    step = max(1, sum(file.record_count for file in files) // _SAMPLE_ROWS)
    schema, former = table.schema().select(leading.name), shape_of(table.metadata).former
    sampled = []
    for file in files:
        with table.io.new_input(file.file_path).open() as stream:
            parquet = pq.ParquetFile(stream)
            name = _name_in(parquet.schema_arrow, leading)
            if name is not None:
                column = as_stored(parquet.read([name]), schema, former)[leading.name].drop_null()
                sampled.append(column.take(pa.array(np.arange(0, len(column), step))))
    chunks = [chunk for column in sampled for chunk in column.chunks]
    values = pa.chunked_array(chunks) if chunks else pa.chunked_array([pa.array([], pa.int64())])
    if pa.types.is_floating(values.type):
        values = values.filter(pc.invert(pc.is_nan(values)))
    ordered = values.take(pc.sort_indices(values))
    places = sorted({number * len(ordered) // pieces for number in range(1, pieces)})
    chosen = ordered.take(pa.array(places, pa.int64())) if len(ordered) else ordered
    return Ranges(leading, pc.unique(chosen))


def read_range(table: Table, file: DataFile, ranges: Ranges, number: int) -> pa.Table:
    """The rows of ``file`` that are in range ``number``; only the row groups that may hold any are read."""
    with table.io.new_input(file.file_path).open() as stream:
        parquet = pq.ParquetFile(stream, pre_buffer=True)
        rows = parquet.read_row_groups(list(_groups(parquet, ranges, number)))
    stored = as_stored(rows, table.schema(), shape_of(table.metadata).former)
    return stored.filter(ranges.holds(stored[ranges.leading.name], number))


def disjoint(files: Sequence[DataFile], leading: Leading) -> bool:
    """Whether no two files share a stretch of the column, by the bounds that the table's metadata has of them."""
    spans = []
    for file in files:
        low, high = ((bounds or {}).get(leading.source_id) for bounds in (file.lower_bounds, file.upper_bounds))
        if low is None or high is None:
            return False
        spans.append((from_bytes(leading.kind, low), from_bytes(leading.kind, high)))
    spans.sort()
    return all(before[1] <= after[0] for before, after in pairwise(spans))


def _groups(parquet: pq.ParquetFile, ranges: Ranges, number: int) -> Iterator[int]:
    metadata, name = parquet.metadata, _name_in(parquet.schema_arrow, ranges.leading)
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    start, end = (None if bound is None else bound.as_py() for bound in ranges.bounds(number))
    for group in range(metadata.num_row_groups):
        if name not in paths:
            yield group
            continue
        told = metadata.row_group(group).column(paths.index(name)).statistics
        if told is None or not told.has_min_max or told.null_count != 0 or isinstance(told.min, float):
            yield group
            continue
        outside = False
        with suppress(TypeError):  # another type than the column has now: it has to be read
            outside = (start is not None and told.max < start) or (end is not None and told.min >= end)
        if not outside:
            yield group


def _name_in(schema: pa.Schema, leading: Leading) -> str | None:
    """What the column is called in a file."""
    wanted = str(leading.source_id).encode()
    named = {field.metadata[FIELD_ID]: field.name for field in schema if FIELD_ID in (field.metadata or {})}
    if named:
        return named.get(wanted)
    return leading.name if leading.name in schema.names else None
