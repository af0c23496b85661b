"""The fields of a JSON record: from a declaration or a table, and the Arrow types that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from lakeward.decoding.json_types import Field, FieldType, Kind, parse_type
from lakeward.errors import ConfigurationError, SchemaMismatchError

ARROW: Mapping[Kind, pa.DataType] = {
    Kind.STRING: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.INT: pa.int32(),
    Kind.LONG: pa.int64(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.time64("us"),
    Kind.UUID: pa.string(),
    Kind.BINARY: pa.binary(),
    Kind.JSON: pa.string(),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
}


LARGE: Mapping[pa.DataType, Kind] = {
    pa.string(): Kind.TEXT,
    pa.large_string(): Kind.TEXT,
    pa.large_binary(): Kind.BINARY,
}


def arrow_type(wanted: FieldType) -> pa.DataType:
    """The Arrow type that holds values of this type, all nullable."""
    if wanted.kind is Kind.DECIMAL:
        return pa.decimal128(wanted.precision, wanted.scale)
    if wanted.kind is Kind.STRUCT:
        return pa.struct(list(arrow_schema(wanted.members)))
    if wanted.element is not None:
        element = arrow_type(wanted.element)
        return pa.map_(pa.string(), element) if wanted.kind is Kind.MAP else pa.list_(element)
    return ARROW[wanted.kind]


def declared(fields: Mapping[str, str]) -> tuple[Field, ...]:
    """Read a declaration: name to type text, see `json_types.parse_type`.

    Raises:
        ConfigurationError: there is no field, a type is unknown, or a decimal's precision or scale is impossible.
    """
    if not fields:
        raise ConfigurationError("JSON is declared to have no field", "Name one, or declare none to have all inferred.")
    return tuple(Field(name, _declared(name, text)) for name, text in fields.items())


def of_schema(schema: pa.Schema) -> tuple[Field, ...]:
    """Return the fields that fill a table whose columns are ``schema``; its strings take any JSON value as text.

    Raises:
        SchemaMismatchError: a column has a type that no JSON value is read into.
    """
    return tuple(Field(column.name, _of_arrow(column.name, column.type)) for column in schema)


def arrow_schema(fields: Iterable[Field]) -> pa.Schema:
    """The Arrow schema of rows made of ``fields``: the same order, columns nullable; what is only null has none."""
    return pa.schema([pa.field(field.name, arrow_type(field.type)) for field in columns_of(fields)])


def columns_of(fields: Iterable[Field]) -> list[Field]:
    """Those of ``fields`` that have a column."""
    return [field for field in fields if field.type.kind is not Kind.NULL]


def _declared(name: str, text: str) -> FieldType:
    try:
        return parse_type(text)
    except ValueError as error:
        raise ConfigurationError(f"JSON field {name!r}: {error}", "Types are listed in docs/json.md.") from error


def _of_arrow(name: str, arrow: pa.DataType) -> FieldType:
    if arrow in LARGE:
        return FieldType(LARGE[arrow])
    if pa.types.is_decimal128(arrow) and 0 <= arrow.scale <= arrow.precision:
        return FieldType(Kind.DECIMAL, arrow.precision, arrow.scale)
    if pa.types.is_struct(arrow) and arrow.num_fields:
        members = (arrow.field(i) for i in range(arrow.num_fields))
        return FieldType(
            Kind.STRUCT, members=tuple(Field(m.name, _of_arrow(f"{name}.{m.name}", m.type)) for m in members)
        )
    if pa.types.is_map(arrow) and LARGE.get(arrow.key_type) is Kind.TEXT:
        return FieldType(Kind.MAP, element=_of_arrow(f"{name}{{}}", arrow.item_type))
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return FieldType(Kind.LIST, element=_of_arrow(f"{name}[]", arrow.value_type))
    for kind, known in ARROW.items():
        if arrow.equals(known):
            return FieldType(kind)
    raise SchemaMismatchError(
        f"Column {name!r} has the type {arrow}, which is not read from JSON",
        "Declare the topic's JSON fields, or write into a table of types that JSON fields have.",
    )
