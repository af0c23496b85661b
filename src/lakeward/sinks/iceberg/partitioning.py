"""Rows grouped by partition and sorted inside, with one native sort and one `take`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import NullOrder, SortDirection, SortOrder
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    VoidTransform,
    YearTransform,
)
from pyiceberg.typedef import Record
from pyiceberg.types import StructType

from lakeward.errors import SchemaMismatchError
from lakeward.sinks.iceberg.sorting import Key, column_keys, dense_key, order

_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_MANY_CODES = 2**62


@dataclass(frozen=True, slots=True)
class PartitionRows:
    """The rows of one partition, sorted if a sort order was asked for. ``partition``: one value a spec field.

    ``places`` int64[rows]: where each row was among those that were split.
    """

    partition: Record
    rows: pa.Table
    places: NDArray[np.int64]


def split(rows: pa.Table, schema: Schema, spec: PartitionSpec, sorting: SortOrder) -> list[PartitionRows]:
    """Every row of ``rows`` (conformed to ``schema``) once, in its partition, sorted by ``sorting`` inside it.

    Rows that compare equal keep their order. Buffers are shared where the rows are in order already.

    Raises:
        SchemaMismatchError: the table has a transform that is not known.
    """
    if not len(rows):
        return []
    rows = rows.combine_chunks()
    columns = [_PartitionColumn.of(rows, schema, field.source_id, field.transform) for field in spec.fields]
    codes = _combined([column for column in columns if len(column.values) > 1])
    keys = [] if codes is None else [dense_key(codes)]
    keys += _sort_keys(rows, schema, sorting)
    at = order(keys)
    if at is not None:
        rows = rows.take(pa.array(at))
        codes = None if codes is None else codes[at]
    starts = [0] if codes is None else [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist()]
    ends = [*starts[1:], len(rows)]
    places = np.arange(len(rows)) if at is None else at
    return [
        PartitionRows(
            Record(*(column.value_at(start if at is None else int(at[start])) for column in columns)),
            rows.slice(start, end - start),
            places[start:end],
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def transformed(column: pa.Array, transform: Transform[Any, Any]) -> pa.Array:
    """``transform`` of every value of ``column``, as Iceberg stores it in a partition; null where null.

    Times come back as integers: days, hours, months or years since 1970, floored also before it.

    Raises:
        SchemaMismatchError: ``transform`` is not known.
    """
    if isinstance(transform, IdentityTransform):
        return column
    if isinstance(transform, VoidTransform):
        return pa.nulls(len(column))
    if isinstance(transform, (DayTransform, HourTransform)):
        return _floored(column, _DAY_US if isinstance(transform, DayTransform) else _HOUR_US)
    if isinstance(transform, (MonthTransform, YearTransform)):
        return _calendar(column, "M" if isinstance(transform, MonthTransform) else "Y")
    if isinstance(transform, (BucketTransform, TruncateTransform)):
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if pa.types.is_large_binary(column.type) and isinstance(transform, TruncateTransform):
            column = column.cast(pa.binary())  # the native transform does not take it
        # The native transforms look at the type of the array, never at the Iceberg type that is asked for here.
        return transform.pyarrow_transform(StructType())(column)
    raise SchemaMismatchError(
        f"the table has the transform {transform}, which lakeward cannot apply",
        "Replace that field of the table's partition spec or sort order.",
    )


def column_at(rows: pa.Table, schema: Schema, field_id: int) -> pa.Array | None:
    """The values of a field, also inside structs (null under a null struct); None where ``schema`` lost it."""
    path = _path_to(schema.as_struct(), field_id)
    if path is None:
        return None
    chunked = rows.column(path[0])
    for step in path[1:]:
        chunked = pa.chunked_array([_child(chunk, step) for chunk in chunked.chunks])
    return chunked.chunk(0) if chunked.num_chunks == 1 else pa.concat_arrays(chunked.chunks)


def _path_to(struct: StructType, field_id: int) -> list[int] | None:
    for at, field in enumerate(struct.fields):
        if field.field_id == field_id:
            return [at]
        if isinstance(field.field_type, StructType):
            inner = _path_to(field.field_type, field_id)
            if inner is not None:
                return [at, *inner]
    return None


def _child(struct: pa.StructArray, at: int) -> pa.Array:
    return struct.flatten()[at]


def _sort_keys(rows: pa.Table, schema: Schema, sorting: SortOrder) -> list[Key]:
    keys = []
    for field in sorting.fields:
        column = column_at(rows, schema, field.source_id)
        if column is None or isinstance(field.transform, VoidTransform):
            continue
        keys += column_keys(
            transformed(column, field.transform),
            descending=field.direction == SortDirection.DESC,
            nulls_first=field.null_order == NullOrder.NULLS_FIRST,
        )
    return keys


@dataclass(frozen=True, slots=True)
class _PartitionColumn:
    """One spec field over all rows: ``values`` are the distinct ones, ``codes`` int[rows] say which a row has."""

    values: list[Any]
    codes: NDArray[np.int32]

    @staticmethod
    def of(rows: pa.Table, schema: Schema, field_id: int, transform: Transform[Any, Any]) -> _PartitionColumn:
        column = column_at(rows, schema, field_id)
        if column is None or isinstance(transform, VoidTransform):
            return _PartitionColumn([None], np.zeros(1, np.int32))
        encoded = _physical(transformed(column, transform)).dictionary_encode(null_encoding="encode")
        return _PartitionColumn(encoded.dictionary.to_pylist(), encoded.indices.to_numpy())

    def value_at(self, row: int) -> Any:
        return self.values[0] if len(self.values) == 1 else self.values[self.codes[row]]


def _combined(columns: Sequence[_PartitionColumn]) -> NDArray[np.int64] | None:
    """One number a row that differs exactly where the partition differs; None where all rows are in one."""
    combined: NDArray[np.int64] | None = None
    distinct = 1
    for column in columns:
        codes = column.codes.astype(np.int64)
        if combined is None:
            combined, distinct = codes, len(column.values)
            continue
        if distinct * len(column.values) >= _MANY_CODES:
            known, combined = np.unique(combined, return_inverse=True)
            distinct = len(known)
        combined, distinct = combined * len(column.values) + codes, distinct * len(column.values)
    return combined


def _physical(values: pa.Array) -> pa.Array:
    """As a manifest stores them: dates and times as integers, uuids as bytes."""
    if isinstance(values, pa.ExtensionArray):
        return values.storage
    if pa.types.is_temporal(values.type):
        return values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
    return values


def _numbers(column: pa.Array) -> NDArray[np.int64]:
    values: NDArray[np.int64] = (column.fill_null(0) if column.null_count else column).to_numpy()
    return values


def _floored(column: pa.Array, unit: int) -> pa.Array:
    if pa.types.is_date(column.type):
        return column.view(pa.int32())
    values = _numbers(column.view(pa.int64())) // unit
    return _with_nulls(values, column)


def _calendar(column: pa.Array, unit: str) -> pa.Array:
    if pa.types.is_date(column.type):
        moments = _numbers(column.view(pa.int32())).astype("datetime64[D]")
    else:
        moments = _numbers(column.view(pa.int64())).view("datetime64[us]")
    return _with_nulls(moments.astype(f"datetime64[{unit}]").astype(np.int64), column)


def _with_nulls(values: NDArray[np.int64], column: pa.Array) -> pa.Array:
    mask = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(values, mask=mask)
