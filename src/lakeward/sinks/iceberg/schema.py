"""Arrow types as Iceberg types, and Arrow rows made to fit a table without changing what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    PrimitiveType,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from lakeward.errors import SchemaMismatchError
from lakeward.sinks.iceberg.matching import FIELD_ID, Former, Places, by_id, by_name

_UINT64_DIGITS = 20
_MAX_PRECISION = 38
_SMALL_LIMIT = 2**31 - 1
"""More bytes than this in one column need the large string and list types (64-bit offsets)."""


def _is_uuid(arrow: pa.DataType) -> bool:
    return bool(arrow == pa.uuid())


def _is_string(arrow: pa.DataType) -> bool:
    return bool(arrow in _STRINGS)


def _is_binary(arrow: pa.DataType) -> bool:
    return bool(arrow in _BINARIES)


def is_list(arrow: pa.DataType) -> bool:
    """Whether it is a list of any layout."""
    return any(check(arrow) for check in _LISTS)


_STRINGS = (pa.string(), pa.large_string(), pa.string_view())
_BINARIES = (pa.binary(), pa.large_binary(), pa.binary_view())
_LARGE = (pa.large_string(), pa.large_binary(), pa.string_view(), pa.binary_view())
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_PRIMITIVES: Sequence[tuple[Callable[[pa.DataType], bool], PrimitiveType]] = (
    (_is_string, StringType()),
    (_is_binary, BinaryType()),
    (_is_uuid, UUIDType()),
    (pa.types.is_boolean, BooleanType()),
    (pa.types.is_uint32, LongType()),
    (pa.types.is_int64, LongType()),
    (pa.types.is_uint64, DecimalType(_UINT64_DIGITS, 0)),
    (pa.types.is_integer, IntegerType()),
    (pa.types.is_float64, DoubleType()),
    (pa.types.is_floating, FloatType()),
    (pa.types.is_date, DateType()),
    (pa.types.is_time, TimeType()),
)
_WIDENINGS: Sequence[tuple[IcebergType, IcebergType]] = ((IntegerType(), LongType()), (FloatType(), DoubleType()))
_ARROW: dict[type[IcebergType], pa.DataType] = {
    BooleanType: pa.bool_(),
    IntegerType: pa.int32(),
    LongType: pa.int64(),
    FloatType: pa.float32(),
    DoubleType: pa.float64(),
    DateType: pa.date32(),
    TimeType: pa.time64("us"),
    TimestampType: pa.timestamp("us"),
    TimestamptzType: pa.timestamp("us", "UTC"),
    UUIDType: pa.uuid(),
    StringType: pa.string(),
    BinaryType: pa.binary(),
}
_ARROW_LARGE: dict[type[IcebergType], pa.DataType] = {StringType: pa.large_string(), BinaryType: pa.large_binary()}


def primitive_of(arrow: pa.DataType) -> PrimitiveType | None:
    """The narrowest Iceberg type that holds every value of ``arrow``; None where there is none."""
    if pa.types.is_dictionary(arrow):
        return primitive_of(arrow.value_type)
    if pa.types.is_timestamp(arrow):
        return TimestamptzType() if arrow.tz else TimestampType()
    if pa.types.is_decimal(arrow):
        fits = 0 <= arrow.scale <= arrow.precision <= _MAX_PRECISION
        return DecimalType(arrow.precision, arrow.scale) if fits else None
    if pa.types.is_fixed_size_binary(arrow):
        return FixedType(arrow.byte_width)
    return next((iceberg for check, iceberg in _PRIMITIVES if check(arrow)), None)


def conform(rows: pa.Table, schema: Schema, former: Former | None = None, *, large: bool | None = None) -> pa.Table:
    """``rows`` as ``schema`` has them: its columns in its order, its types, field ids in the metadata.

    Columns are found by name, also by those that ``former`` says they had before.

    Only what loses nothing is converted: int to long, float to double, decimals to more digits of the same scale,
    time units to microseconds where every value is exact, dictionaries to their values; columns that ``rows`` lacks
    become null. Buffers are shared where the types agree. ``large`` asks for the Arrow types with 64-bit offsets;
    by default they are used where ``rows`` needs them.

    Raises:
        SchemaMismatchError: a column that the table lacks, a type that would lose something, or a null (or no
            column) where the table requires a value.
    """
    return _placed(rows, schema, by_name(former or {}), needs_large([rows]) if large is None else large)


def project(rows: pa.Table, schema: Schema) -> pa.Table:
    """``rows`` of a data file as ``schema`` has them now, by the field ids in the file; else as `conform`.

    Columns that the table does not have any more are left out.

    Raises:
        SchemaMismatchError: as `conform`.
    """
    return _placed(rows, schema, by_id, needs_large([rows]))


def _placed(rows: pa.Table, schema: Schema, places: Places, large: bool) -> pa.Table:  # noqa: FBT001 -- which of two types
    columns, fields = [], []
    for field, at in zip(schema.fields, places(list(rows.schema), schema.fields, ""), strict=True):
        source = rows.column(at) if at is not None else pa.chunked_array([pa.nulls(len(rows))])
        target = _arrow_field(field, large=large)
        if at is None and field.required and len(rows):
            raise _required(field.name, "the records do not have it")
        columns.append(_column(source, field, target, places))
        fields.append(target)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def needs_large(parts: Sequence[pa.Table]) -> bool:
    """Whether the rows of ``parts`` together need 64-bit offsets, or have them already."""
    if any(_is_large(field.type) for part in parts for field in part.schema):
        return True
    return bool(sum(part.nbytes for part in parts) > _SMALL_LIMIT)


def _is_large(arrow: pa.DataType) -> bool:
    if arrow in _LARGE or pa.types.is_dictionary(arrow):
        return True
    if pa.types.is_large_list(arrow) or pa.types.is_large_list_view(arrow):
        return True
    return any(_is_large(arrow.field(i).type) for i in range(arrow.num_fields))


def _arrow_field(field: NestedField, *, large: bool, name: str | None = None) -> pa.Field:
    arrow = _arrow_type(field.field_type, large=large)
    return pa.field(name or field.name, arrow, not field.required, {FIELD_ID: str(field.field_id).encode()})


def _arrow_type(kind: IcebergType, *, large: bool) -> pa.DataType:
    if isinstance(kind, StructType):
        return pa.struct([_arrow_field(field, large=large) for field in kind.fields])
    if isinstance(kind, ListType):
        element = _arrow_field(kind.element_field, large=large, name="element")
        return pa.large_list(element) if large else pa.list_(element)
    if isinstance(kind, MapType):
        key = _arrow_field(kind.key_field, large=large, name="key")
        return pa.map_(key, _arrow_field(kind.value_field, large=large, name="value"))
    if isinstance(kind, DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, FixedType):
        return pa.binary(len(kind))
    found = (_ARROW_LARGE if large else {}).get(type(kind)) or _ARROW.get(type(kind))
    if found is None:
        raise SchemaMismatchError(
            f"the table has a column of type {kind}, which lakeward cannot write",
            "Write to a table of format version 2, or drop that column.",
        )
    return found


def _column(source: pa.ChunkedArray, field: NestedField, target: pa.Field, places: Places) -> pa.ChunkedArray:
    if source.type == target.type and isinstance(field.field_type, PrimitiveType):
        if field.required and source.null_count:
            raise _required(field.name, f"{source.null_count} of {len(source)} records have none")
        return source
    chunks = [_Fitting(places).array(chunk, field, target, field.name) for chunk in source.chunks]
    return pa.chunked_array(chunks, target.type)


class _Fitting:
    """Arrays as a table wants them; ``places`` finds the fields of structs."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def array(self, source: pa.Array, field: NestedField, target: pa.Field, path: str) -> pa.Array:
        """One array as ``target`` wants it; ``path`` names it in errors."""
        if field.required and source.null_count:
            raise _required(path, f"{source.null_count} of {len(source)} values are missing")
        if pa.types.is_null(source.type):
            return _nulls(len(source), target.type)
        kind = field.field_type
        if isinstance(kind, StructType) and pa.types.is_struct(source.type):
            return self._struct(source, kind, target.type, path)
        if isinstance(kind, ListType) and is_list(source.type):
            return self._list(source, kind, target.type, path)
        if isinstance(kind, MapType) and pa.types.is_map(source.type):
            return self._map(source, kind, target.type, path)
        if source.type == target.type and isinstance(kind, PrimitiveType):
            return source
        if not fits(source.type, kind):
            raise SchemaMismatchError(
                f'column "{path}" holds {source.type}, the table stores {kind}: the values would change',
                "Make the records fit the table, or change the type of the column in the table.",
            )
        return _cast(source, target.type, path)

    def _struct(self, source: pa.StructArray, kind: StructType, target: pa.StructType, path: str) -> pa.Array:
        given = [source.type.field(i) for i in range(source.type.num_fields)]
        places = self._places(given, kind.fields, path)
        valid = source.is_valid() if source.null_count else None
        children = []
        for i, (field, at) in enumerate(zip(kind.fields, places, strict=True)):
            child = source.field(at) if at is not None else pa.nulls(len(source))
            # What lies under a null struct is no value: a required field may be missing there.
            present = child if valid is None else child.filter(valid)
            if field.required and present.null_count:
                raise _required(f"{path}.{field.name}", f"{present.null_count} of {len(present)} values are missing")
            optional = field.model_copy(update={"required": False})
            fitted = self.array(child, optional, target.field(i), f"{path}.{field.name}")
            children.append(_bare(fitted) if field.required and fitted.null_count else fitted)
        mask = source.is_null() if source.null_count else None
        fields = [target.field(i) for i in range(target.num_fields)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=mask)

    def _list(self, source: pa.Array, kind: ListType, target: pa.DataType, path: str) -> pa.Array:
        element = self.array(source.flatten(), kind.element_field, target.value_field, f"{path}.element")
        large = pa.types.is_large_list(target)
        build = pa.LargeListArray if large else pa.ListArray
        offsets = _offsets(pc.list_value_length(source), pa.int64() if large else pa.int32())
        return build.from_arrays(offsets, element, type=target, mask=source.is_null() if source.null_count else None)

    def _map(self, source: pa.MapArray, kind: MapType, target: pa.MapType, path: str) -> pa.Array:
        pairs = source.cast(pa.list_(pa.struct([source.type.key_field, source.type.item_field])))
        entries, lengths = pairs.flatten(), pc.list_value_length(pairs)
        keys = self.array(entries.field(0), kind.key_field, target.key_field, f"{path}.key")
        items = self.array(entries.field(1), kind.value_field, target.item_field, f"{path}.value")
        mask = source.is_null() if source.null_count else None
        return pa.MapArray.from_arrays(_offsets(lengths, pa.int32()), keys, items, type=target, mask=mask)


def _nulls(length: int, kind: pa.DataType) -> pa.Array:
    """Nulls that have no nulls below them: Parquet takes none for a required field, not even under a null struct."""
    if not pa.types.is_struct(kind):
        return pa.nulls(length, kind)
    children = [_bare(_nulls(length, one.type)) for one in (kind.field(i) for i in range(kind.num_fields))]
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=pa.array(np.ones(length, np.bool_)))


def _bare(values: pa.Array) -> pa.Array:
    """``values`` with anything where they are null: it lies under a null struct, so nobody reads or writes it."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(kind, _bare(values.storage))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays([values.field(i) for i in range(kind.num_fields)], fields=fields)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(values.offsets, values.keys, values.items, type=kind)
    if is_list(kind):
        return type(values).from_arrays(values.offsets, values.values, type=kind)
    return pa.Array.from_buffers(kind, len(values), [None, *values.buffers()[1:]], offset=values.offset)


def _cast(source: pa.Array, target: pa.DataType, path: str) -> pa.Array:
    if pa.types.is_dictionary(source.type):
        source = source.dictionary_decode()
    if target == pa.uuid() and pa.types.is_fixed_size_binary(source.type):
        return pa.ExtensionArray.from_storage(target, source)
    try:
        return source.cast(target)
    except pa.ArrowInvalid:  # its text holds the value, which must not get into an error
        raise SchemaMismatchError(
            f'column "{path}" has values of type {source.type} that {target} cannot hold exactly',
            "Make the records fit: round them to whole microseconds (or days) where they come from.",
        ) from None


def _offsets(lengths: pa.Array, kind: pa.DataType) -> pa.Array:
    sums = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64()))
    return pa.concat_arrays([pa.array([0], pa.int64()), sums]).cast(kind)


def fits(source: pa.DataType, kind: IcebergType) -> bool:
    """Whether every value of ``source`` (time units aside) is a value of ``kind`` that means the same."""
    natural = primitive_of(source)
    if natural is None:
        return False
    if isinstance(natural, DecimalType) and isinstance(kind, DecimalType):
        return natural.scale == kind.scale and natural.precision <= kind.precision
    if isinstance(kind, UUIDType):
        return natural in (UUIDType(), FixedType(16))
    return kind == natural or (natural, kind) in _WIDENINGS


def promoted(kind: PrimitiveType, arrow: pa.DataType) -> PrimitiveType | None:
    """The type that Iceberg lets ``kind`` become so that it holds ``arrow`` too; None where there is none."""
    natural = primitive_of(arrow)
    if natural is None or not ((kind, natural) in _WIDENINGS or _more_digits(kind, natural)):
        return None
    return natural


def _more_digits(kind: PrimitiveType, wider: PrimitiveType) -> bool:
    if not isinstance(kind, DecimalType) or not isinstance(wider, DecimalType):
        return False
    return kind.scale == wider.scale and kind.precision < wider.precision


def _required(path: str, why: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f'the table requires "{path}", but {why}',
        "Fill the column in where the records are made, or make it optional in the table.",
    )
