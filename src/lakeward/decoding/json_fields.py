"""The fields of a JSON record: their types by name, and the Arrow types that hold them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa

from lakeward.errors import ConfigurationError, SchemaMismatchError


class Kind(IntEnum):
    """What a value is. The compiled reader branches on these numbers."""

    STRING = 0
    INT = 1
    LONG = 2
    FLOAT = 3
    DOUBLE = 4
    BOOLEAN = 5
    DATE = 6
    TIMESTAMP = 7
    TIMESTAMPTZ = 8
    DECIMAL = 9
    TEXT = 10
    """A string as it is; any other value as compact JSON text."""
    STRUCT = 11
    LIST = 12


PLAIN = {
    "string": Kind.STRING,
    "int": Kind.INT,
    "long": Kind.LONG,
    "float": Kind.FLOAT,
    "double": Kind.DOUBLE,
    "boolean": Kind.BOOLEAN,
    "date": Kind.DATE,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
}
ARROW: Mapping[Kind, pa.DataType] = {
    Kind.STRING: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.INT: pa.int32(),
    Kind.LONG: pa.int64(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.DATE: pa.date32(),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
}
DECIMAL = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
MAX_PRECISION = 38


@dataclass(frozen=True, slots=True)
class FieldType:
    """One value's type: a decimal's ``precision`` and ``scale``, a struct's ``members``, a list's ``element``."""

    kind: Kind
    precision: int = 0
    scale: int = 0
    members: tuple[Field, ...] = ()
    element: FieldType | None = None

    @property
    def nested(self) -> bool:
        """Whether a value holds other values."""
        return self.kind in {Kind.STRUCT, Kind.LIST}

    def arrow(self) -> pa.DataType:
        """The Arrow type that holds such values, all nullable."""
        if self.kind is Kind.DECIMAL:
            return pa.decimal128(self.precision, self.scale)
        if self.kind is Kind.STRUCT:
            return pa.struct([pa.field(member.name, member.type.arrow()) for member in self.members])
        if self.element is not None:
            return pa.list_(self.element.arrow())
        return ARROW[self.kind]


@dataclass(frozen=True, slots=True)
class Field:
    """A name and the type of its values."""

    name: str
    type: FieldType


def declared(fields: Mapping[str, str]) -> tuple[Field, ...]:
    """Read a declaration: name to type text (``string``, ``long``, ``decimal(18,6)``, ...).

    Raises:
        ConfigurationError: there is no field, a type is unknown, or a decimal's precision or scale is impossible.
    """
    if not fields:
        raise ConfigurationError("JSON is declared to have no field", "Name one, or declare none to have all inferred.")
    return tuple(Field(name, _read_type(name, text)) for name, text in fields.items())


def of_schema(schema: pa.Schema) -> tuple[Field, ...]:
    """Return the fields that fill a table whose columns are ``schema``; its strings take any JSON value as text.

    Raises:
        SchemaMismatchError: a column has a type that no JSON value is read into.
    """
    return tuple(Field(column.name, _of_arrow(column.name, column.type)) for column in schema)


def arrow_schema(fields: Iterable[Field]) -> pa.Schema:
    """The Arrow schema of rows made of ``fields``: the same order, every column nullable."""
    return pa.schema([pa.field(field.name, field.type.arrow()) for field in fields])


def _read_type(name: str, text: str) -> FieldType:
    plain = PLAIN.get(text.strip())
    if plain is not None:
        return FieldType(plain)
    match = DECIMAL.fullmatch(text.strip())
    if match is None:
        near = difflib.get_close_matches(text, [*PLAIN, "decimal(18,6)"], 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = ", ".join(PLAIN)
        raise ConfigurationError(
            f"JSON field {name!r} has the unknown type {text!r}", f"{hint}Types are: {known}, decimal(precision,scale)."
        )
    precision, scale = int(match[1]), int(match[2])
    if not 1 <= precision <= MAX_PRECISION or scale > precision:
        raise ConfigurationError(
            f"JSON field {name!r} has the impossible type {text!r}",
            f"A decimal has a precision of 1 to {MAX_PRECISION} digits, of which its scale is a part.",
        )
    return FieldType(Kind.DECIMAL, precision, scale)


def _of_arrow(name: str, arrow: pa.DataType) -> FieldType:
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return FieldType(Kind.TEXT)
    if pa.types.is_decimal128(arrow) and 0 <= arrow.scale <= arrow.precision:
        return FieldType(Kind.DECIMAL, arrow.precision, arrow.scale)
    if pa.types.is_struct(arrow) and arrow.num_fields:
        members = (arrow.field(i) for i in range(arrow.num_fields))
        return FieldType(
            Kind.STRUCT, members=tuple(Field(m.name, _of_arrow(f"{name}.{m.name}", m.type)) for m in members)
        )
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return FieldType(Kind.LIST, element=_of_arrow(f"{name}[]", arrow.value_type))
    for kind, known in ARROW.items():
        if arrow.equals(known):
            return FieldType(kind)
    raise SchemaMismatchError(
        f"Column {name!r} has the type {arrow}, which is not read from JSON",
        "Declare the topic's JSON fields, or write into a table of types that JSON fields have.",
    )
